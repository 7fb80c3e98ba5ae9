//! Trace context: what a client says of its trace reaches the service; and with the feature `otlp` what each hop has to add
//! reaches a receiver, and nothing waits for that.

use adit::{
    client::Client as Sdk,
    protocol::{EndpointId, Flow, Kind, Role},
    transport,
};
use http::HeaderValue;

use crate::support::{
    client::{Answer, Client, request, whole},
    cluster::Nodes,
    fabric::Web,
    ok,
    raw::{Raw, hello, opening},
    service, soon,
};

const CONTEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What others have to say beside it.
const STATE: [&str; 2] = ["congo=t61rcWkgMzE", "rojo=hunter2"];

/// A request within a trace, for the endpoint `web`, and its answer.
async fn ask(client: &mut Client, context: &str) -> Answer {
    let mut request = request("GET", "web", "/hook?token=hunter2", "");
    let fields = request.headers_mut();
    fields.insert("traceparent", ok(context.parse()));
    for state in STATE {
        fields.append("tracestate", HeaderValue::from_static(state));
    }
    whole(ok(client.send(request).await)).await
}

/// What a request that the service has mirrored said in a field.
fn said<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let fields = answer.text().lines().filter_map(|line| line.split_once(": "));
    fields.filter(|(field, _)| *field == name).map(|(_, value)| value).collect()
}

#[tokio::test]
async fn a_clients_context_reaches_the_service_as_it_is() {
    let service = service::mirror().await;
    for nodes in [1, 2] {
        let web = Web::over(nodes, service.address).await;
        for mut client in Client::both(web.edge).await {
            // One that is no good is a field like any other where nobody makes spans.
            for context in [CONTEXT, "no good"] {
                let answer = ask(&mut client, context).await;
                assert_eq!(said(&answer, "traceparent"), [context], "{nodes} {client:?}");
                assert_eq!(said(&answer, "tracestate"), STATE);
            }
        }
    }
}

#[tokio::test]
async fn the_context_of_a_flow_reaches_the_agent_over_one_node_and_two() {
    for nodes in [1, 2] {
        let nodes = Nodes::start(nodes).await;
        let (first, last) = (&nodes.all[0], &nodes.all[nodes.all.len() - 1]);
        let agent = ok(Sdk::new(last.client()));
        let mut listener = ok(soon(agent.listen(ok(EndpointId::new("tcp")), Kind::Tcp)).await);
        nodes.knows(0, "tcp").await;
        let forwarder = Raw::welcomed(first, hello(Role::Forwarder, 7, &[])).await;
        let mut stream = ok(soon(forwarder.link.open(crate::support::SOON)).await);
        let open = adit::protocol::Open { trace: Some(CONTEXT.into()), ..opening(Kind::Tcp, "tcp") };
        ok(transport::write_flow(&mut stream, &Flow::Open(open)).await);
        let incoming = soon(listener.accept()).await.expect("a flow comes");
        assert_eq!(incoming.open().trace.as_deref(), Some(CONTEXT));
    }
}

/// Without the feature there is nobody to send to, which `config::traces` holds.
#[cfg(feature = "otlp")]
mod exported {
    use std::{
        sync::{
            Arc, Mutex,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        time::Duration,
    };

    use adit::{
        agent::{self, Agent},
        client, node, otlp,
        telemetry::trace::Settings,
        tls::{self, Authority, ClientAuth},
    };
    use http::{Request, Response, StatusCode};
    use http_body_util::BodyExt;
    use hyper::body::Incoming;
    use opentelemetry_proto::tonic::{
        collector::trace::v1::ExportTraceServiceRequest,
        common::v1::{KeyValue, any_value::Value},
        trace::v1::{Span, span::SpanKind, status::StatusCode as Status},
    };
    use prost::Message;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::{Answer, CONTEXT, Client, Kind, Nodes, STATE, ask, ok, said, service, soon};
    use crate::support::{
        Fabric,
        client::{body, get, metric},
        eventually,
        fabric::identity,
        process::Process,
        service::{Body, Running},
        udp::{self, Echo, UDP},
    };

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    /// A span as a receiver has got it.
    #[derive(Debug, Clone)]
    struct Got {
        /// Who has told of it: `adit-node n1`.
        by: String,
        span: Span,
    }

    /// A receiver of OTLP.
    struct Receiver {
        running: Running,
        got: Arc<Mutex<Vec<Got>>>,
        /// How many requests it has yet to answer with 503.
        busy: Arc<AtomicUsize>,
    }

    impl Receiver {
        async fn start() -> Self {
            Self::with_tls(None).await
        }

        async fn with_tls(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
            let (got, busy) = (Arc::<Mutex<Vec<Got>>>::default(), Arc::<AtomicUsize>::default());
            let (gets, is_busy) = (Arc::clone(&got), Arc::clone(&busy));
            let take = move |request| take(request, Arc::clone(&gets), Arc::clone(&is_busy));
            let running = match tls {
                None => service::http(take).await,
                Some(tls) => service::tls(tls, move |stream| service::connection(stream, take.clone())).await,
            };
            Self { running, got, busy }
        }

        fn config(&self) -> otlp::Config {
            to(self.running.address)
        }

        fn all(&self) -> Vec<Got> {
            self.got.lock().expect("nobody panics with it").clone()
        }

        /// So many spans of a trace, once they are there, each the parent of the next.
        async fn chain(&self, trace: &str, spans: usize) -> Vec<Got> {
            let of = || -> Vec<Got> {
                self.all().into_iter().filter(|got| hex(&got.span.trace_id) == trace).collect()
            };
            eventually(&format!("there are {spans} spans of {trace}"), async || of().len() >= spans).await;
            let mut left = of();
            assert_eq!(left.len(), spans, "{left:#?}");
            let ids: Vec<_> = left.iter().map(|got| got.span.span_id.clone()).collect();
            let mut chain: Vec<Got> = Vec::new();
            while !left.is_empty() {
                let next = left.iter().position(|got| match chain.last() {
                    None => !ids.contains(&got.span.parent_span_id),
                    Some(last) => got.span.parent_span_id == last.span.span_id,
                });
                chain.push(left.remove(next.unwrap_or_else(|| panic!("no chain: {chain:#?} {left:#?}"))));
            }
            chain
        }
    }

    async fn take(
        request: Request<Incoming>,
        got: Arc<Mutex<Vec<Got>>>,
        busy: Arc<AtomicUsize>,
    ) -> Response<Body> {
        let (head, content) = request.into_parts();
        assert_eq!((head.method.as_str(), head.uri.path()), ("POST", "/v1/traces"));
        assert_eq!(head.headers["content-type"], "application/x-protobuf");
        let content = ok(content.collect().await).to_bytes();
        if busy.fetch_update(Relaxed, Relaxed, |busy| busy.checked_sub(1)).is_ok() {
            let mut response = Response::new(body(""));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return response;
        }
        for resource in ok(ExportTraceServiceRequest::decode(content)).resource_spans {
            let whose = resource.resource.expect("it says whose they are").attributes;
            let by = format!("{} {}", text(&whose, "service.name"), text(&whose, "service.instance.id"));
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let spans = spans.map(|span| Got { by: by.clone(), span });
            got.lock().expect("nobody panics with it").extend(spans);
        }
        Response::new(body(""))
    }

    fn to(address: std::net::SocketAddr) -> otlp::Config {
        let settings = Settings { sample: 1.0, trusts_clients: true };
        otlp::Config { receiver: ok(format!("http://{address}").parse()), settings }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn text(attributes: &[KeyValue], name: &str) -> String {
        let found = attributes.iter().find(|attribute| attribute.key == name);
        match found.and_then(|attribute| attribute.value.clone()?.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            None => String::new(),
            other => panic!("{name}: {other:?}"),
        }
    }

    /// What spans say, one after the other.
    fn each<const N: usize>(chain: &[Got], name: &str) -> [String; N] {
        let all: Vec<_> = chain.iter().map(|got| text(&got.span.attributes, name)).collect();
        all.try_into().expect("as many as there are spans")
    }

    fn agent_of(config: client::Config, endpoint: agent::Endpoint, traces: otlp::Config) -> Agent {
        let endpoints = vec![endpoint];
        ok(Agent::start(agent::Config { traces: Some(traces), ..agent::Config::new(config, endpoints) }))
    }

    /// Nodes with an agent at the last, all of which make spans.
    struct Traced {
        nodes: Nodes,
        agent: Agent,
    }

    impl Traced {
        async fn start(nodes: usize, kind: Kind, service: &Running, receiver: &Receiver) -> Self {
            Self::with(nodes, kind, service, receiver.config(), |_| {}).await
        }

        async fn with(
            nodes: usize,
            kind: Kind,
            service: &Running,
            traces: otlp::Config,
            change: impl Fn(&mut node::Config),
        ) -> Self {
            let nodes = Nodes::with(nodes, |config| {
                config.traces = Some(traces.clone());
                change(config);
            })
            .await;
            let last = nodes.all.last().expect("there are nodes");
            let client = client::Config { links: 1, ..last.client() };
            let agent = agent_of(client, last.endpoint("web", kind, service.address), traces);
            ok(soon(agent.serve()).await);
            nodes.knows(0, "web").await;
            Self { nodes, agent }
        }

        fn edge(&self) -> std::net::SocketAddr {
            self.nodes.edge(0)
        }

        fn by_agent(&self) -> String {
            format!("adit-agent {}", self.agent.client().id())
        }
    }

    #[tokio::test]
    async fn a_request_over_two_nodes_is_one_trace_of_three_spans() {
        let (service, receiver) = (service::mirror().await, Receiver::start().await);
        let traced = Traced::start(2, Kind::Http, &service, &receiver).await;
        let agent = traced.agent.client().id().to_string();
        for (client, version) in Client::both(traced.edge()).await.into_iter().zip(["1.1", "2"]) {
            let mut client = client;
            // Flows are used again, and each request has its own trace all the same.
            for number in 0..2 {
                let trace = format!("{TRACE:.30}{version:.1}{number}");
                let context = format!("00-{trace}-00f067aa0ba902b7-01");
                let answer = ask(&mut client, &context).await;
                let chain = receiver.chain(&trace, 3).await;
                let spans: Vec<_> = chain.iter().map(|got| &got.span).collect();
                assert_eq!(hex(&spans[0].parent_span_id), "00f067aa0ba902b7", "the client's is the parent");
                let last = format!("00-{trace}-{}-01", hex(&spans[2].span_id));
                assert_eq!(said(&answer, "traceparent"), [last], "the service's parent is the agent's");
                assert_eq!(said(&answer, "tracestate"), STATE);

                let by: Vec<_> = chain.iter().map(|got| got.by.as_str()).collect();
                // The second node passes bytes on, and the first tells how long they took there.
                assert_eq!(by, ["adit-node n1", "adit-node n1", &traced.by_agent()]);
                let flags: Vec<_> = spans.iter().map(|span| span.flags).collect();
                assert_eq!(flags, [0x301, 0x101, 0x301], "recorded, and whose parent is another process's");
                let kinds: Vec<_> = spans.iter().map(|span| span.kind()).collect();
                assert_eq!(kinds, [SpanKind::Server, SpanKind::Internal, SpanKind::Client]);
                assert!(spans.iter().all(|span| span.name == "GET"), "{spans:#?}");
                assert_eq!(each(&chain, "adit.hop"), ["edge", "peer", "agent"]);
                assert_eq!(each(&chain, "adit.node"), ["n1", "n2", ""]);
                assert_eq!(each(&chain, "adit.agent"), [agent.as_str(), &agent, ""]);
                assert_eq!(each(&chain, "adit.endpoint"), ["web"; 3]);
                assert_eq!(each(&chain, "adit.tenant"), ["default", "default", ""]);
                assert_eq!(each(&chain, "http.request.method"), ["GET"; 3]);
                assert_eq!(each(&chain, "http.response.status_code"), ["200"; 3]);
                assert_eq!(each(&chain, "network.protocol.version"), [version, "", "1.1"]);
                assert_eq!(each(&chain, "url.scheme"), ["http", "", ""]);
                let port = service.address.port().to_string();
                assert_eq!(each(&chain, "server.address"), ["127.0.0.1", "", "127.0.0.1"]);
                assert_eq!(each(&chain, "server.port"), ["", "", &port]);
                for span in spans {
                    assert_eq!(span.status.as_ref().map(|status| status.code()), Some(Status::Unset));
                    assert!(
                        span.start_time_unix_nano > 0 && span.end_time_unix_nano >= span.start_time_unix_nano
                    );
                    assert!(!format!("{span:?}").contains("hunter2"), "{span:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_flow_over_two_nodes_is_one_trace_of_three_spans_as_long_as_it() {
        let (service, receiver) = (service::echo().await, Receiver::start().await);
        let traced = Traced::start(2, Kind::Tcp, &service, &receiver).await;
        let (_forwarder, port) = traced.nodes.all[0].forwarder("web").await;
        let mut flow = ok(TcpStream::connect(port).await);
        ok(flow.write_all(b"ping").await);
        ok(soon(flow.read_exact(&mut [0; 4])).await);
        let lasts = Duration::from_millis(100);
        tokio::time::sleep(lasts).await;
        ok(flow.shutdown().await);
        ok(soon(flow.read_to_end(&mut Vec::new())).await);
        eventually("a span is there", async || !receiver.all().is_empty()).await;
        let trace = hex(&receiver.all()[0].span.trace_id);
        let chain = receiver.chain(&trace, 3).await;
        assert!(chain[0].span.parent_span_id.is_empty(), "the trace begins here");
        let by: Vec<_> = chain.iter().map(|got| got.by.as_str()).collect();
        assert_eq!(by, ["adit-node n1", "adit-node n2", &traced.by_agent()]);
        assert_eq!(each(&chain, "adit.hop"), ["edge", "peer", "agent"]);
        assert_eq!(each(&chain, "adit.node"), ["n1", "n2", ""]);
        assert_eq!(each(&chain, "adit.received_bytes"), ["4"; 3]);
        assert_eq!(each(&chain, "adit.sent_bytes"), ["4"; 3]);
        assert_eq!(each(&chain, "network.transport"), ["tcp"; 3]);
        assert!(chain.iter().all(|got| got.span.name == "tcp"), "{chain:#?}");
        for Got { span, .. } in &chain {
            let took = span.end_time_unix_nano - span.start_time_unix_nano;
            assert!(u128::from(took) >= lasts.as_nanos(), "{span:#?}");
        }
    }

    #[tokio::test]
    async fn an_association_is_a_trace_too() {
        let (service, receiver) = (Echo::start().await, Receiver::start().await);
        let traces = receiver.config();
        let fabric = Fabric::with(|config| config.traces = Some(traces.clone())).await;
        let agent = agent_of(fabric.client(), fabric.endpoint("web", Kind::Udp, service.address), traces);
        ok(soon(agent.serve()).await);
        let (forwarder, port) = fabric.forwarder_of("web", UDP).await;
        udp::Client::of(port).await.ask(b"hello").await;
        drop(forwarder);
        eventually("the spans are there", async || receiver.all().len() == 2).await;
        let trace = hex(&receiver.all()[0].span.trace_id);
        let chain = receiver.chain(&trace, 2).await;
        assert_eq!(each(&chain, "adit.hop"), ["edge", "agent"]);
        assert_eq!(each(&chain, "network.transport"), ["udp"; 2]);
        assert_eq!(each(&chain, "adit.received_bytes"), ["5"; 2]);
        assert_eq!(each(&chain, "adit.sent_bytes"), ["5"; 2]);
        assert!(chain.iter().all(|got| got.span.name == "udp"), "{chain:#?}");
    }

    #[tokio::test]
    async fn a_flow_that_is_cut_when_its_agent_leaves_has_a_span_all_the_same() {
        let receiver = Receiver::start().await;
        // It says nothing when it is to make a TLS handshake, so the flow does not even begin.
        let service = service::tcp(|stream| async move {
            std::future::pending::<()>().await;
            drop(stream);
        })
        .await;
        let fabric = Fabric::start().await;
        let endpoint = fabric.endpoint("db", Kind::Tcp, format!("tls://{}", service.address));
        let agent = agent_of(fabric.client(), endpoint, receiver.config());
        ok(soon(agent.serve()).await);
        let (_forwarder, port) = fabric.forwarder("db").await;
        let _flow = ok(TcpStream::connect(port).await);
        eventually("the agent asks its service", async || service.accepted() == 1).await;
        let left = soon(agent.drain(Duration::ZERO)).await;
        let got = receiver.all();
        assert_eq!(each(&got, "adit.received_bytes"), ["0"], "{left:?} {got:#?}");
        let status = got[0].span.status.clone().unwrap_or_default();
        assert_eq!((status.code(), status.message.as_str()), (Status::Error, "flow was cut"));
    }

    #[tokio::test]
    async fn a_receiver_that_has_tls_is_believed_by_the_systems_authorities() {
        let authority = ok(Authority::generate("receivers' authority"));
        let folder = ok(tempfile::tempdir());
        let ca = folder.path().join("receivers.pem");
        ok(authority.pem().write(&ca, &folder.path().join("receivers.key")));
        let server = [identity(&authority, &["127.0.0.1"])];
        let server = Arc::new(ok(tls::server_config(&server, ClientAuth::None, &[])));
        let receiver = Receiver::with_tls(Some(server)).await;
        let url = format!("https://{}", receiver.running.address);
        let binds =
            ["--edge-bind", "--link-bind", "--peer-bind", "--admin-bind"].map(|bind| [bind, "127.0.0.1:0"]);
        let words = [&["node", "--otlp-endpoint", &url], binds.as_flattened()].concat();
        let asks = async |environment: &[(&str, &str)]| {
            let node = Process::start_in(folder.path(), &words, environment);
            assert_eq!(get(node.address("edge"), "nobody", "/").await.status, StatusCode::BAD_GATEWAY);
            node
        };
        let stranger = asks(&[]).await;
        stranger.logs("UnknownIssuer").await;
        assert!(receiver.all().is_empty());
        let ca = ca.to_str().expect("it is a text");
        let _node = asks(&[("SSL_CERT_FILE", ca)]).await;
        eventually("a span is there", async || receiver.all().len() == 1).await;
    }

    #[tokio::test]
    async fn what_the_parent_does_not_record_nobody_does_and_it_is_passed_on_so() {
        let (service, receiver) = (service::mirror().await, Receiver::start().await);
        let traced = Traced::start(2, Kind::Http, &service, &receiver).await;
        let [mut client, _] = Client::both(traced.edge()).await;
        let answer = ask(&mut client, UNSAMPLED).await;
        let said = said(&answer, "traceparent");
        assert!(said[0].starts_with(&UNSAMPLED[..36]) && said[0].ends_with("-00"), "{said:?}");
        assert_ne!(said, [UNSAMPLED], "the agent's span is the parent all the same");
        // What came later is there, so what came before would be.
        ask(&mut client, &CONTEXT.replace("4736", "4737")).await;
        receiver.chain(&TRACE.replace("4736", "4737"), 3).await;
        drain(traced).await;
        assert_eq!(receiver.all().len(), 3, "{:#?}", receiver.all());
    }

    #[tokio::test]
    async fn what_is_no_context_is_not_passed_on_and_a_trace_begins() {
        let (service, receiver) = (service::mirror().await, Receiver::start().await);
        let traced = Traced::start(1, Kind::Http, &service, &receiver).await;
        for mut client in Client::both(traced.edge()).await {
            let answer = ask(&mut client, "00-hunter2").await;
            assert!(!answer.text().contains("rojo=hunter2"), "{}", answer.text());
            let [said] = said(&answer, "traceparent")[..] else { panic!("{}", answer.text()) };
            let chain = receiver.chain(&said[3..35], 2).await;
            assert!(chain[0].span.parent_span_id.is_empty());
            assert_eq!(each(&chain, "adit.hop"), ["edge", "agent"]);
        }
    }

    #[tokio::test]
    async fn a_client_that_is_not_to_be_believed_has_nothing_recorded() {
        let (service, receiver) = (service::mirror().await, Receiver::start().await);
        let settings = Settings { sample: 0.0, trusts_clients: false };
        let traces = otlp::Config { settings, ..receiver.config() };
        let traced = Traced::with(1, Kind::Http, &service, traces, |_| {}).await;
        let [mut client, _] = Client::both(traced.edge()).await;
        let answer = ask(&mut client, CONTEXT).await;
        let said = said(&answer, "traceparent");
        assert!(said.len() == 1 && said[0].ends_with("-00") && !said[0].contains(TRACE), "{said:?}");
        drain(traced).await;
        assert_eq!(receiver.all().len(), 0);
    }

    #[tokio::test]
    async fn what_fails_says_so() {
        let (service, receiver) = (
            service::http(|_| async {
                let mut response = Response::new(body("no"));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            })
            .await,
            Receiver::start().await,
        );
        let traced = Traced::with(1, Kind::Http, &service, receiver.config(), |config| {
            config.upstream_wait = Duration::ZERO;
        })
        .await;
        assert_eq!(get(traced.edge(), "nobody", "/").await.status, StatusCode::BAD_GATEWAY);
        assert_eq!(get(traced.edge(), "web", "/").await.status, StatusCode::INTERNAL_SERVER_ERROR);
        let code = |got: &Got| text(&got.span.attributes, "http.response.status_code");
        eventually("all spans are there", async || receiver.all().len() == 3).await;
        for got in receiver.all() {
            let status = got.span.status.clone().unwrap_or_default();
            assert_eq!(status.code(), Status::Error, "{got:#?}");
            assert!(!status.message.is_empty());
            if code(&got) == "502" {
                assert_eq!(text(&got.span.attributes, "error.type"), "no_upstream");
            } else {
                assert_eq!(code(&got), "500");
            }
        }
    }

    /// Ends all of it as whoever stops it does.
    async fn drain(traced: Traced) {
        let Traced { nodes, agent } = traced;
        ok(soon(agent.drain(Duration::from_secs(5))).await);
        for mut fabric in nodes.all {
            ok(soon(fabric.node.take().expect("it runs").drain()).await);
        }
    }

    #[tokio::test]
    async fn what_is_left_when_a_process_leaves_is_sent() {
        let (service, receiver) = (service::mirror().await, Receiver::start().await);
        let traced = Traced::start(1, Kind::Http, &service, &receiver).await;
        let [mut client, _] = Client::both(traced.edge()).await;
        for _ in 0..20 {
            ask(&mut client, CONTEXT).await;
        }
        drop(client);
        drain(traced).await;
        assert_eq!(receiver.all().len(), 40, "each request has a span of the edge and one of the agent");
    }

    #[tokio::test]
    async fn a_receiver_that_is_busy_is_sent_the_same_again() {
        let (service, receiver) = (service::mirror().await, Receiver::start().await);
        receiver.busy.store(1, Relaxed);
        let fabric = Fabric::with(|config| config.traces = Some(receiver.config())).await;
        let _agent = fabric.agent("web", Kind::Http, service.address).await;
        let [mut client, _] = Client::both(fabric.addresses.edge).await;
        ask(&mut client, CONTEXT).await;
        receiver.chain(TRACE, 1).await;
        fabric.tells("adit_trace_spans_exported_total 1").await;
        assert_eq!(metric(fabric.addresses.admin, "adit_trace_spans_dropped_total").await, 0);
    }

    /// Whatever the receiver does.
    async fn nothing_waits(traces: otlp::Config, requests: usize) -> Fabric {
        let service = service::mirror().await;
        let fabric = Fabric::with(|config| config.traces = Some(traces.clone())).await;
        let agent = agent_of(fabric.client(), fabric.endpoint("web", Kind::Http, service.address), traces);
        ok(soon(agent.serve()).await);
        let all = async {
            for mut client in Client::both(fabric.addresses.edge).await {
                for _ in 0..requests {
                    let answer: Answer = ask(&mut client, CONTEXT).await;
                    assert_eq!(answer.status, StatusCode::OK);
                }
            }
        };
        soon(all).await;
        ok(soon(agent.drain(Duration::from_secs(5))).await);
        fabric
    }

    #[tokio::test]
    async fn a_receiver_that_is_gone_costs_spans_which_are_counted_and_nothing_else() {
        let fabric = nothing_waits(to(service::refusing()), 5).await;
        fabric.tells("adit_trace_spans_dropped_total 10").await;
        assert_eq!(metric(fabric.addresses.admin, "adit_trace_spans_exported_total").await, 0);
    }

    #[tokio::test]
    async fn a_receiver_that_hangs_holds_nothing_up_and_the_node_leaves_in_time() {
        let hanging = service::tcp(|mut stream| async move {
            service::drain(&mut stream).await.1.ok();
        })
        .await;
        let mut fabric = nothing_waits(to(hanging.address), 200).await;
        assert!(hanging.accepted() > 0, "it was asked");
        ok(soon(fabric.node.take().expect("it runs").drain()).await);
    }
}
