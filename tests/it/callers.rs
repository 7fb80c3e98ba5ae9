//! What each caller may have: it is refused at its limit by every door, before anybody looks at who it is, and let in again
//! after; nobody else notices. A rate of bytes slows down, and cuts nothing.

use std::{
    net::SocketAddr,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use adit::{
    agent::Agent,
    auth::Limit,
    client, edge, node,
    protocol::{Close, Code, Control, Kind, Refusal, Role, TenantId},
    transport::{self, AskError, Stream},
};
use futures_util::{SinkExt, StreamExt};
use http::{Request, header};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::support::{
    Fabric, SOON,
    body::{self, Sender},
    client::{Answer, Body, Http1, Http2, metric, over_http2, request, request_of, sentence},
    cluster::Nodes,
    eventually, kind,
    log::Log,
    ok,
    piko_agent::Peer,
    random,
    raw::{Raw, hello, listen, opening},
    service, soon,
    streams::{endless, mirror_bodies, mirror_http2_bodies},
    tokens::Issuer,
    udp, websocket,
};

/// Whom a balancer names.
const ONE: &str = "192.0.2.1";
const ANOTHER: &str = "192.0.2.2";

fn limits(limits: &[(&str, u64)]) -> Vec<Limit> {
    let limit = |(name, most): &(&str, u64)| ok(Limit::new(name, NonZeroU64::new(*most).expect("some")));
    limits.iter().map(limit).collect()
}

/// A node with limits, behind a balancer.
async fn limited(all: &[(&str, u64)], change: impl FnOnce(&mut node::Config)) -> Fabric {
    Fabric::with(|config| {
        config.limits = limits(all);
        config.edge.balancers = vec![ok("127.0.0.1/32".parse())];
        config.auth.edge.asked.headers = vec![http::HeaderName::from_static("x-adit-tenant")];
        change(config);
    })
    .await
}

/// A connection of a client with this address.
async fn tcp_of(edge: SocketAddr, client: &str) -> TcpStream {
    let mut stream = ok(TcpStream::connect(edge).await);
    ok(stream.write_all(format!("PROXY TCP4 {client} 198.51.100.1 40000 80\r\n").as_bytes()).await);
    stream
}

async fn http1_of(fabric: &Fabric, client: &str) -> Http1 {
    Http1::over(tcp_of(fabric.addresses.edge, client).await).await
}

async fn ask_of(fabric: &Fabric, client: &str, request: Request<Body>) -> Answer {
    soon(async { http1_of(fabric, client).await.ask(request).await }).await
}

async fn get_of(fabric: &Fabric, client: &str, endpoint: &str) -> Answer {
    ask_of(fabric, client, request("GET", endpoint, "/", "")).await
}

/// How often a limit was reached.
async fn reached(fabric: &Fabric, scope: &str, what: &str) -> u64 {
    metric(fabric.addresses.admin, &format!("adit_limited_total{{scope=\"{scope}\",what=\"{what}\"}}")).await
}

/// That an answer says who has too many of what.
#[track_caller]
fn assert_limited(answer: &Answer, scope: &str, what: &str) {
    let sentence = sentence(answer, 429, &format!("too_many_{what}"));
    assert!(sentence.starts_with(&format!("{scope}.{what} is limited to ")), "{sentence}");
    let seconds: u64 = ok(ok(answer.headers[header::RETRY_AFTER].to_str()).parse());
    assert!((1..=60).contains(&seconds), "{seconds}");
}

/// The agents of `one` and `three`, of `two`, and of another tenant's `one`, which all send back what they get.
async fn agents(fabric: &Fabric, service: SocketAddr) -> Vec<Agent> {
    let serve = |tenant: Option<&str>, endpoints: &[&str]| {
        let tenant = tenant.map(|tenant| ok(TenantId::new(tenant)));
        let endpoints: Vec<_> =
            endpoints.iter().map(|name| (*name, Kind::Http, service.to_string())).collect();
        fabric.start_agent(client::Config { tenant, ..fabric.client() }, &endpoints)
    };
    let agents = vec![serve(None, &["one", "three"]), serve(None, &["two"]), serve(Some("acme"), &["one"])];
    for agent in &agents {
        ok(soon(agent.serve()).await);
    }
    agents
}

/// A request that goes on until the sender is dropped, of a connection of its own.
async fn held(
    fabric: &Fabric,
    client: &str,
    endpoint: &str,
) -> (Http1, Sender, http::Response<hyper::body::Incoming>) {
    let (sender, body) = body::channel();
    let mut client = http1_of(fabric, client).await;
    let response = ok(soon(client.send(request_of("POST", endpoint, "/", body))).await);
    assert_eq!(response.status(), 200);
    (client, sender, response)
}

#[tokio::test]
async fn whoever_has_as_many_requests_in_flight_as_it_may_gets_no_more_until_one_has_ended() {
    let service = mirror_bodies().await;
    for (scope, same, other, tenant) in [
        ("client", (ONE, "two"), (ANOTHER, "one"), None),
        ("agent", (ANOTHER, "three"), (ONE, "two"), None),
        ("endpoint", (ANOTHER, "one"), (ONE, "three"), None),
        ("tenant", (ANOTHER, "two"), (ONE, "one"), Some("acme")),
    ] {
        let fabric = limited(&[(&format!("{scope}.flows"), 1)], |_| {}).await;
        let _agents = agents(&fabric, service.address).await;
        let (client, sender, response) = held(&fabric, ONE, "one").await;
        for _ in 0..2 {
            assert_limited(&get_of(&fabric, same.0, same.1).await, scope, "flows");
        }
        assert_eq!(reached(&fabric, scope, "flows").await, 2);
        assert_eq!(fabric.refused("too_many_flows").await, 2);
        let mut others = request("GET", other.1, "/", "");
        if let Some(tenant) = tenant {
            others.headers_mut().insert("x-adit-tenant", ok(tenant.parse()));
        }
        assert_eq!(ask_of(&fabric, other.0, others).await.status, 200, "{scope}: others have their own");
        drop(sender);
        ok(soon(response.collect()).await);
        eventually("there is room again", async || get_of(&fabric, same.0, same.1).await.status == 200).await;
        // One that is given up makes room as well as one that has ended.
        drop(client);
        let (client, sender, _response) = held(&fabric, ONE, "one").await;
        drop(client);
        eventually("there is room again", async || get_of(&fabric, same.0, same.1).await.status == 200).await;
        drop(sender);
    }
}

#[tokio::test]
async fn an_agent_that_has_as_many_as_it_may_is_passed_over_for_another() {
    let service = mirror_bodies().await;
    let fabric = limited(&[("agent.flows", 1)], |_| {}).await;
    let _first = agents(&fabric, service.address).await;
    let _second = agents(&fabric, service.address).await;
    let _held = (held(&fabric, ONE, "one").await, held(&fabric, ONE, "one").await);
    assert_limited(&get_of(&fabric, ONE, "one").await, "agent", "flows");
}

#[tokio::test]
async fn limits_are_kept_where_a_client_comes_in_also_for_agents_of_other_nodes() {
    let service = mirror_bodies().await;
    for scope in ["client", "agent", "endpoint", "tenant"] {
        let nodes = Nodes::with(2, |config| config.limits = limits(&[(&format!("{scope}.flows"), 1)])).await;
        let (_agent, entry) = nodes.agent_elsewhere("web", Kind::Http, service.address).await;
        let (sender, body) = body::channel();
        let mut client = Http1::connect(nodes.edge(entry)).await;
        let response = ok(soon(client.send(request_of("POST", "web", "/", body))).await);
        assert_eq!(response.status(), 200);
        let refused = Http1::connect(nodes.edge(entry)).await.ask(request("GET", "web", "/", "")).await;
        assert_limited(&refused, scope, "flows");
        // Each node counts for itself.
        let other = (0..2).map(|node| nodes.edge(node)).find(|edge| *edge != nodes.edge(entry)).expect("two");
        assert_eq!(Http1::connect(other).await.ask(request("GET", "web", "/", "")).await.status, 200);
        drop(sender);
    }
}

#[tokio::test]
async fn whoever_asks_too_often_is_refused_for_a_while() {
    let service = service::mirror().await;
    for (scope, same, other) in [
        ("client", (ONE, "two"), (ANOTHER, "one")),
        ("agent", (ANOTHER, "three"), (ONE, "two")),
        ("endpoint", (ANOTHER, "one"), (ONE, "three")),
    ] {
        let fabric = limited(&[], |_| {}).await;
        let _agents = agents(&fabric, service.address).await;
        // The links of agents are something new of their address as well.
        fabric.node.as_ref().expect("it runs").replace_limits(&limits(&[(&format!("{scope}.requests"), 1)]));
        let mut client = http1_of(&fabric, ONE).await;
        let began = Instant::now();
        let (mut passed, mut refused) = (0, 0);
        while began.elapsed() < Duration::from_millis(1500) {
            let answer = soon(client.ask(request("GET", "one", "/", ""))).await;
            match answer.status.as_u16() {
                200 => passed += 1,
                _ => {
                    assert_limited(&answer, scope, "requests");
                    refused += 1;
                }
            }
        }
        let most = 1 + began.elapsed().as_secs() + 1;
        assert!((1..=most).contains(&passed), "{scope}: {passed} of {most}");
        assert_eq!(reached(&fabric, scope, "requests").await, refused);
        assert!(refused > 0);
        assert_eq!(get_of(&fabric, other.0, other.1).await.status, 200, "{scope}: others have their own");
        eventually("it may again", async || get_of(&fabric, same.0, same.1).await.status == 200).await;
    }
}

#[tokio::test]
async fn limits_come_before_credentials_and_are_in_the_access_log() {
    let log = Log::of_this_thread();
    let issuer = Issuer::new();
    let fabric = limited(&[("client.requests", 5)], |config| config.auth.edge = issuer.port()).await;
    let mut client = http1_of(&fabric, ONE).await;
    let mut guess = request("GET", "web", "/", "");
    guess.headers_mut().insert(header::AUTHORIZATION, ok("Bearer a-guess".parse()));
    let mut guesses = 0;
    eventually("a flood of guesses is refused as a flood", async || {
        let mut request = request("GET", "web", "/", "");
        *request.headers_mut() = guess.headers().clone();
        let answer = soon(client.ask(request)).await;
        match answer.status.as_u16() {
            401 => guesses += 1,
            _ => assert_limited(&answer, "client", "requests"),
        }
        answer.status == 429
    })
    .await;
    let name = "adit_auth_refused_total{port=\"edge\",reason=\"malformed_token\"}";
    assert_eq!(metric(fabric.addresses.admin, name).await, guesses, "nobody looked at the others");
    let lines = log.lines("too_many_requests");
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    assert!(line.contains("adit::access") && line.contains(ONE) && !line.contains("a-guess"), "{line}");
    let stranger = ask_of(&fabric, ANOTHER, request("GET", "web", "/", "")).await;
    assert_eq!(stranger.status, 401);
}

/// A port for TCP, and one for UDP.
fn ports(config: &mut node::Config) {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    config.edge.tcp = vec![edge::Port { bind: any, endpoint: ok("tcp".parse()) }];
    config.udp.ports = vec![edge::udp::Port { listen: any, endpoint: ok("udp".parse()) }];
}

#[tokio::test]
async fn connections_to_plain_ports_are_reset_and_packets_dropped_while_there_are_too_many() {
    for scope in ["client", "agent", "endpoint", "tenant"] {
        let log = Log::of_this_thread();
        let fabric = limited(&[(&format!("{scope}.flows"), 1)], ports).await;
        let (service, packets) = (service::echo().await, udp::Echo::start().await);
        let _tcp = fabric.agent("tcp", Kind::Tcp, service.address).await;
        let _udp = fabric.agent("udp", Kind::Udp, packets.address).await;
        let connect = async || {
            let mut stream = tcp_of(fabric.addresses.tcp[0].bind, ONE).await;
            ok(stream.write_all(b"x").await);
            stream
        };
        let mut first = connect().await;
        assert_eq!(ok(soon(first.read_u8()).await), b'x');
        assert_eq!(kind(soon(connect().await.read_u8()).await), std::io::ErrorKind::ConnectionReset);
        let line = "adit_tcp_connections_total{door=\"tcp\",outcome=\"too_many_flows\"} 1";
        fabric.tells(line).await;
        assert_eq!(log.lines("a client was refused").len(), 1);
        drop(first);
        eventually("there is room again", async || soon(connect().await.read_u8()).await.is_ok()).await;

        let port = fabric.node.as_ref().expect("it runs").udp_ports()[0].listen;
        let (one, two) = (udp::Client::of(port).await, udp::Client::of(port).await);
        // Another client of TCP may just have gone.
        eventually("an association", async || {
            one.send(b"x").await;
            tokio::time::timeout(Duration::from_millis(200), one.recv()).await.is_ok()
        })
        .await;
        let before = reached(&fabric, scope, "flows").await;
        eventually("the second is refused", async || {
            two.send(b"x").await;
            reached(&fabric, scope, "flows").await > before
        })
        .await;
        assert_eq!(packets.clients(), 1);
    }
}

#[tokio::test]
async fn a_flow_of_a_forwarder_is_refused_as_busy_with_the_limit() {
    let service = service::echo().await;
    for (name, most) in [
        ("client.flows", 1),
        ("agent.flows", 1),
        ("endpoint.flows", 1),
        ("tenant.flows", 1),
        ("client.requests", 3),
        ("agent.requests", 1),
        ("endpoint.requests", 1),
        ("tenant.requests", 1),
    ] {
        let log = Log::of_this_thread();
        let fabric = limited(&[(name, most)], |_| {}).await;
        let _agent = fabric.agent("tcp", Kind::Tcp, service.address).await;
        let forwarder = Raw::welcomed(&fabric, hello(Role::Forwarder, 1, &[])).await;
        let mut flows = Vec::new();
        let mut refusal = None;
        eventually("one is refused", async || {
            match open(&forwarder, "tcp").await {
                Ok(flow) => flows.push(flow),
                Err(refused) => refusal = Some(refused),
            }
            refusal.is_some()
        })
        .await;
        let Refusal { code, message } = refusal.expect("it is there");
        assert_eq!(code, Code::Busy);
        assert!(message.starts_with(&format!("{name} is limited to {most} ")), "{message}");
        let lines = log.lines("a flow was refused");
        assert!(!lines.is_empty() || name.starts_with("agent"), "{name}");
        let says = ["adit::access", "client=127.0.0.1:", "code=\"busy\""];
        assert!(lines.iter().all(|line| says.iter().all(|says| line.contains(says))), "{lines:?}");
        if name.ends_with("flows") {
            assert_eq!(flows.len(), 1);
        }
        flows.clear();
        eventually("one is let in again", async || open(&forwarder, "tcp").await.is_ok()).await;
    }
}

async fn open(forwarder: &Raw, endpoint: &str) -> Result<Stream, Refusal> {
    let mut stream = ok(forwarder.link.open(SOON).await);
    match soon(transport::ask(&mut stream, opening(Kind::Tcp, endpoint))).await {
        Ok(()) => Ok(stream),
        Err(AskError::Refused(refusal)) => Err(refusal),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn links_over_the_limit_are_refused_until_one_has_ended() {
    for (scope, tenant) in [("client", "acme"), ("tenant", "default")] {
        let log = Log::of_this_thread();
        let fabric = limited(&[(&format!("{scope}.links"), 1)], |_| {}).await;
        let link = async |agent, tenant: &str| {
            let mut raw = Raw::open(&fabric).await;
            let mut hello = hello(Role::Forwarder, agent, &[]);
            hello.tenant = Some(ok(TenantId::new(tenant)));
            raw.say(Control::Hello(hello)).await;
            match raw.hear().await {
                Ok(Control::Welcome(_)) => Ok(raw),
                Ok(Control::Refused(refusal)) => Err(refusal),
                other => panic!("{other:?}"),
            }
        };
        let first = ok(link(1, "default").await);
        let refusal = link(2, tenant).await.expect_err("it is one too many");
        assert_eq!(refusal.code, Code::Busy);
        assert!(refusal.message.starts_with(&format!("{scope}.links is limited to 1 at once")), "{refusal}");
        assert_eq!((reached(&fabric, scope, "links").await, log.lines("a link was refused").len()), (1, 1));
        let mut agent = Peer::of("web", ([127, 0, 0, 1], 9).into());
        agent.tenant = (scope == "client").then_some("acme");
        match agent.link(fabric.addresses.link).await {
            Err(tungstenite::Error::Http(response)) => {
                assert_eq!(response.status(), 429);
                assert!(response.headers().contains_key(header::RETRY_AFTER));
                let body =
                    String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned();
                assert!(body.contains("\"too_many_links\""), "{body}");
            }
            other => panic!("{:?}", other.map(drop)),
        }
        if scope == "tenant" {
            drop(ok(link(3, "acme").await));
        }
        first.link.close(Close::Done, "it has been long enough");
        eventually("there is room again", async || link(4, "default").await.is_ok()).await;
    }
}

#[tokio::test]
async fn endpoints_over_the_limit_are_refused_until_one_is_served_no_more() {
    for (scope, second) in [("agent", 1), ("tenant", 2)] {
        let fabric = limited(&[(&format!("{scope}.endpoints"), 1)], |_| {}).await;
        let mut first = Raw::welcomed(&fabric, hello(Role::Agent, 1, &["a"])).await;
        let mut other = match second {
            1 => None,
            agent => Some(Raw::welcomed(&fabric, hello(Role::Agent, agent, &["a"])).await),
        };
        let by = other.as_mut().unwrap_or(&mut first);
        by.say(Control::Listen(listen(2, "b"))).await;
        match by.hear().await {
            Ok(Control::ListenRefused(2, refusal)) => {
                assert_eq!(refusal.code, Code::Busy);
                let told = format!("{scope}.endpoints is limited to 1 at once");
                assert!(refusal.message.starts_with(&told), "{refusal}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(reached(&fabric, scope, "endpoints").await, 1);
        // A newer link of the same agent serves the same endpoint, while the older one still does.
        let mut newer = Raw::welcomed(&fabric, hello(Role::Agent, 1, &["a"])).await;
        first.say(Control::Unlisten(1)).await;
        assert!(matches!(first.hear().await, Ok(Control::Unlistened(1))));
        if let Some(other) = &mut other {
            other.say(Control::Unlisten(1)).await;
            assert!(matches!(other.hear().await, Ok(Control::Unlistened(1))));
        }
        newer.say(Control::Unlisten(1)).await;
        assert!(matches!(newer.hear().await, Ok(Control::Unlistened(1))));
        newer.say(Control::Listen(listen(2, "b"))).await;
        assert!(matches!(newer.hear().await, Ok(Control::Listening(2))));
    }
}

/// The rate that transfers are slowed down to, in bytes a second, and how much they carry: two seconds' worth more than what
/// passes at once.
const RATE: u64 = 256 * 1024;
const SIZE: usize = 3 * RATE as usize;

/// How long a transfer takes at least, with what may be on its way when it is over.
const LEAST: Duration = Duration::from_millis(1500);

/// That something took about as long as its rate says; how long at most, the machine says.
async fn assert_slow(what: &str, transfer: impl Future<Output = ()>) {
    let began = Instant::now();
    soon(transfer).await;
    assert!(began.elapsed() >= LEAST, "{what}: {:?}", began.elapsed());
}

#[tokio::test]
async fn bytes_of_http_keep_to_the_rate_and_nothing_is_cut() {
    let (http1, http2) = (mirror_bodies().await, mirror_http2_bodies().await);
    let rows = ["client", "agent", "endpoint", "tenant"].into_iter().enumerate();
    let checks = rows.map(async |(row, scope)| {
        let fabric = Fabric::with(|config| {
            config.limits = limits(&[(&format!("{scope}.bytes"), RATE)]);
            // What is held back has not stalled.
            config.edge.limits.stall_timeout = Some(Duration::from_millis(100));
        })
        .await;
        let (kind, service) = if row % 2 == 0 { (Kind::Http, &http1) } else { (Kind::Http2, &http2) };
        let _agent = fabric.agent("web", kind, service.address).await;
        let content = random(SIZE / 2);
        // Up and down count together.
        let request = request("POST", "web", "/", content.clone());
        assert_slow(scope, async {
            let answer = match row < 2 {
                true => Http1::connect(fabric.addresses.edge).await.ask(request).await,
                false => Http2::connect(fabric.addresses.edge).await.ask(over_http2(request)).await,
            };
            assert!(answer.status == 200 && answer.body == content, "{scope}: {}", answer.status);
        })
        .await;
    });
    futures_util::future::join_all(checks).await;
}

#[tokio::test]
async fn many_small_answers_keep_to_the_rate_of_their_client() {
    let service = service::http(async |_| http::Response::new(service::full(random(64 * 1024)))).await;
    let fabric = Fabric::with(|config| config.limits = limits(&[("client.bytes", RATE)])).await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    assert_slow("answers", async {
        for _ in 0..SIZE / (64 * 1024) {
            let answer =
                Http1::connect(fabric.addresses.edge).await.ask(request("GET", "web", "/", "")).await;
            assert_eq!(answer.body.len(), 64 * 1024);
        }
    })
    .await;
}

#[tokio::test]
async fn a_service_is_not_read_faster_than_the_rate() {
    let (service, taken, _ended) = endless().await;
    let fabric = Fabric::with(|config| config.limits = limits(&[("endpoint.bytes", RATE)])).await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let mut client = Http1::connect(fabric.addresses.edge).await;
    let mut response = ok(soon(client.send(request("GET", "web", "/", ""))).await).into_body();
    let (began, mut read) = (Instant::now(), 0);
    while read < SIZE {
        read +=
            ok(soon(response.frame()).await.expect("it is endless")).into_data().map_or(0, |data| data.len());
    }
    assert!(began.elapsed() >= LEAST, "{:?}", began.elapsed());
    // What is under way has its bounds, which have nothing to do with how much there is.
    let ahead = taken.load(std::sync::atomic::Ordering::Relaxed) - read as u64;
    assert!(ahead < 32 << 20, "{ahead}");
}

#[tokio::test]
async fn bytes_of_connections_and_flows_keep_to_the_rate() {
    let (echo, sockets) = (service::echo().await, websocket::echo().await);
    let rows = ["client", "agent", "endpoint", "tenant"];
    let checks = rows.map(async |scope| {
        let fabric = Fabric::with(|config| {
            config.limits = limits(&[(&format!("{scope}.bytes"), RATE)]);
            ports(config);
        })
        .await;
        let _tcp = fabric.agent("tcp", Kind::Tcp, echo.address).await;
        let _web = fabric.agent("web", Kind::Http, sockets.address).await;
        let (_forwarder, forwarder) = fabric.forwarder("tcp").await;
        let content = random(SIZE / 2);
        let send = async |to: SocketAddr| {
            let mut stream = ok(TcpStream::connect(to).await);
            let (mut from, mut to) = stream.split();
            let sent = async {
                ok(to.write_all(&content).await);
                ok(to.shutdown().await);
            };
            let mut answer = Vec::new();
            let (_, ()) = tokio::join!(from.read_to_end(&mut answer), sent);
            assert!(answer == content, "{scope}: {} bytes", answer.len());
        };
        assert_slow(scope, send(fabric.addresses.tcp[0].bind)).await;
        assert_slow(scope, send(forwarder)).await;
        // Those of Piko's clients, and those of services.
        for (path, endpoint) in [("/_piko/v1/tcp/tcp", "tcp"), ("/", "web")] {
            assert_slow(scope, async {
                let mut url = ok(tungstenite::client::IntoClientRequest::into_client_request(format!(
                    "ws://127.0.0.1{path}"
                )));
                url.headers_mut().insert("x-adit-endpoint", ok(endpoint.parse()));
                let stream = ok(TcpStream::connect(fabric.addresses.edge).await);
                let (mut socket, _) = ok(tokio_tungstenite::client_async(url, stream).await);
                let mut answered = 0;
                for piece in content.chunks(64 * 1024) {
                    ok(socket.send(Message::binary(piece.to_vec())).await);
                    let all = answered + piece.len();
                    while answered < all {
                        answered += ok(socket.next().await.expect("it goes on")).into_data().len();
                    }
                }
            })
            .await;
        }
    });
    futures_util::future::join_all(checks).await;
}

#[tokio::test]
async fn packets_keep_to_the_rate_and_those_that_find_no_room_are_dropped() {
    let packets = udp::Echo::start().await;
    let fabric = Fabric::with(|config| {
        config.limits = limits(&[("client.bytes", RATE)]);
        ports(config);
    })
    .await;
    let _agent = fabric.agent("udp", Kind::Udp, packets.address).await;
    let port = fabric.node.as_ref().expect("it runs").udp_ports()[0].listen;
    let client = udp::Client::of(port).await;
    let packet = random(1024);
    assert_slow("packets", async {
        // One at a time, so that none has to be dropped.
        for _ in 0..SIZE / 2 / packet.len() {
            assert!(client.ask(&packet).await == packet);
        }
    })
    .await;
}

#[tokio::test]
async fn limits_are_replaced_under_way() {
    let service = mirror_bodies().await;
    let fabric = limited(&[("client.flows", 1)], |_| {}).await;
    let _agents = agents(&fabric, service.address).await;
    let (_client, sender, response) = held(&fabric, ONE, "one").await;
    assert_limited(&get_of(&fabric, ONE, "one").await, "client", "flows");
    let node = fabric.node.as_ref().expect("it runs");
    node.replace_limits(&[]);
    assert_eq!(get_of(&fabric, ONE, "one").await.status, 200);
    node.replace_limits(&limits(&[("endpoint.flows", 1)]));
    let _other = held(&fabric, ONE, "one").await;
    assert_limited(&get_of(&fabric, ANOTHER, "one").await, "endpoint", "flows");
    drop(sender);
    ok(soon(response.collect()).await);
}
