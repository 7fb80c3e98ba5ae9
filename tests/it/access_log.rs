//! The access log of a node: one line for each request and each flow once it has ended, true to the byte, and no secret in it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use adit::{
    access_log,
    agent::Agent,
    auth::{Access, Door},
    edge::{self, udp},
    node,
    protocol::{Kind, TenantId},
};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Response};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::support::{
    Fabric, body,
    client::{Client, Http1, Http2, get, request, whole},
    cluster::Nodes,
    eventually,
    log::Log,
    ok,
    piko::Piko,
    process::Process,
    random, service, soon,
    tokens::{Issuer, bearer, in_seconds},
    udp::{Client as Packets, Echo, UDP},
    websocket,
};

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What no line may have in it.
const SECRET: &str = "hunter2";

fn on(config: &mut node::Config) {
    config.access_log = Some(access_log::Config::default());
}

async fn node() -> Fabric {
    Fabric::with(on).await
}

/// The access log of all nodes of a test, line by line.
struct Lines {
    log: Log,
    seen: usize,
}

impl Lines {
    fn new() -> Self {
        Self { log: Log::json_of_this_thread(), seen: 0 }
    }

    fn all(&self) -> Vec<String> {
        self.log.lines("\"target\":\"adit::access\"")
    }

    /// The next line, once it is there, which is the only new one.
    async fn raw(&mut self) -> Value {
        eventually("there is a line", async || self.all().len() > self.seen).await;
        let lines = self.all();
        assert_eq!(lines.len(), self.seen + 1, "{lines:?}");
        let line = &lines[self.seen];
        self.seen += 1;
        assert!(!line.contains(SECRET), "{line}");
        ok(serde_json::from_str(line))
    }

    /// The same of what was served. What differs each time is looked at and left out.
    async fn next(&mut self) -> Value {
        let mut line = self.raw().await;
        let fields = line.as_object_mut().expect("an object");
        let take =
            |fields: &mut serde_json::Map<String, Value>, name: &str| fields.remove(name).unwrap_or_default();
        assert_eq!((take(fields, "level"), take(fields, "target")), (json!("INFO"), json!("adit::access")));
        assert!(take(fields, "timestamp").is_string());
        assert!(
            take(fields, "client").as_str().is_some_and(|client| client.starts_with("127.0.0.1:")),
            "{fields:?}"
        );
        let (duration, until_headers) = (take(fields, "duration_ms"), take(fields, "headers_ms"));
        assert!(until_headers.as_f64().unwrap_or(0.0) <= duration.as_f64().expect("a number"), "{fields:?}");
        assert_eq!(until_headers.is_number(), fields.contains_key("status"), "{fields:?}");
        line
    }

    /// Nothing has been written that was not looked at.
    fn are_all(&self) {
        assert_eq!(self.all().len(), self.seen, "{:?}", self.all());
    }
}

/// The line of a request for `web` that an agent has served: sent and received are bytes.
fn answered(agent: &Agent, method: &str, path: &str, status: u16, (sent, received): (usize, usize)) -> Value {
    json!({
        "message": "a request has ended", "kind": "http", "method": method, "host": "127.0.0.1", "path": path,
        "protocol": "HTTP/1.1", "status": status, "endpoint": "web", "tenant": "default", "edge": "n1",
        "agent": agent.client().id().to_string(), "retries": 0, "sent_bytes": sent, "received_bytes": received,
        "ended": "complete",
    })
}

/// The line of a flow.
fn flowed(agent: &Agent, kind: &str, endpoint: &str, (sent, received): (usize, usize)) -> Value {
    json!({
        "message": "a flow has ended", "kind": kind, "endpoint": endpoint, "tenant": "default", "edge": "n1",
        "agent": agent.client().id().to_string(), "retries": 0, "sent_bytes": sent, "received_bytes": received,
        "ended": "complete",
    })
}

/// The same but for these fields; null is for one that is not there.
fn but(mut line: Value, others: Value) -> Value {
    let fields = line.as_object_mut().expect("an object");
    for (name, value) in others.as_object().expect("an object") {
        match value {
            Value::Null => fields.remove(name),
            value => fields.insert(name.clone(), value.clone()),
        };
    }
    line
}

#[tokio::test]
async fn a_request_has_one_line_with_its_bytes_both_ways_and_no_query() {
    let mut lines = Lines::new();
    let fabric = node().await;
    let service = service::mirror().await;
    let agent = fabric.agent("web", Kind::Http, service.address).await;
    let versions = ["HTTP/1.1", "HTTP/2"];
    for (mut client, protocol) in Client::both(fabric.addresses.edge).await.into_iter().zip(versions) {
        let query = format!("/a/b?token={SECRET}");
        for (method, content) in [("GET", 0), ("POST", 1), ("PUT", 300_000), ("HEAD", 0)] {
            let mut request = request(method, "web", &query, random(content));
            request.headers_mut().insert("authorization", ok(SECRET.parse()));
            let answer = whole(ok(client.send(request).await)).await;
            let expected = answered(&agent, method, "/a/b", 200, (answer.body.len(), content));
            assert_eq!(lines.next().await, but(expected, json!({ "protocol": protocol })));
        }
    }
    lines.are_all();
}

#[tokio::test]
async fn what_is_sent_again_is_one_line_that_counts_it() {
    let mut lines = Lines::new();
    let fabric = node().await;
    // Its first connection is closed as soon as it is used a second time.
    let service = service::tcp(|mut stream| async move {
        for _ in 0..1 {
            service::read_request(&mut stream).await.expect("it is asked");
            ok(stream.write_all(service::OK).await);
        }
        service::read_request(&mut stream).await;
    })
    .await;
    let agent = fabric.agent("web", Kind::Http, service.address).await;
    let mut client = Http1::connect(fabric.addresses.edge).await;
    for retries in [0, 1] {
        client.ask(request("GET", "web", "/", "")).await;
        let expected = answered(&agent, "GET", "/", 200, (2, 0));
        assert_eq!(lines.next().await, but(expected, json!({ "retries": retries })));
    }
    lines.are_all();
}

#[tokio::test]
async fn a_request_that_is_forwarded_has_one_line_and_that_names_both_nodes() {
    let mut lines = Lines::new();
    let nodes = Nodes::with(2, on).await;
    let service = service::mirror().await;
    let (agent, entry) = nodes.agent_elsewhere("web", Kind::Http, service.address).await;
    let name = |number: usize| nodes.all[number].config.node.to_string();
    for _ in 0..2 {
        let answer = Http1::connect(nodes.edge(entry)).await.ask(request("POST", "web", "/", "hello")).await;
        let expected = answered(&agent, "POST", "/", 200, (answer.body.len(), 5));
        let path = json!({ "edge": name(entry), "node": name(1 - entry) });
        assert_eq!(lines.next().await, but(expected, path));
    }
    lines.are_all();
}

/// A service that begins to answer `/half`, and breaks off at `/breaks`; it leaves all else unanswered.
async fn half() -> service::Running {
    half_and_tell(&Arc::default()).await
}

/// The same, and it tells when it has all of a request for `/never`.
async fn half_and_tell(asked: &Arc<Notify>) -> service::Running {
    let asked = Arc::clone(asked);
    service::tcp(move |mut stream| {
        let asked = Arc::clone(&asked);
        async move {
            let head = service::read_request(&mut stream).await.unwrap_or_default();
            if head.contains(" /half ") || head.contains(" /breaks ") {
                ok(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await);
            }
            if head.contains(" /never ") {
                asked.notify_one();
            }
            if !head.contains(" /breaks ") {
                drop(service::drain(&mut stream).await);
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_goes_away_and_a_service_that_breaks_off_are_told_apart() {
    let mut lines = Lines::new();
    let fabric = node().await;
    let asked = Arc::new(Notify::new());
    let service = half_and_tell(&asked).await;
    let agent = fabric.agent("web", Kind::Http, service.address).await;
    for (version, protocol) in ["HTTP/1.1", "HTTP/2"].into_iter().enumerate() {
        let client =
            async || Client::both(fabric.addresses.edge).await.into_iter().nth(version).expect("both");
        for (path, ended) in [("/half", "client went away"), ("/breaks", "service broke off")] {
            let mut client = client().await;
            let mut response = ok(client.send(request("GET", "web", path, "")).await).into_body();
            assert_eq!(ok(body::next(&mut response).await.expect("half of it")), "half");
            if path == "/breaks" {
                assert!(body::next(&mut response).await.expect("a break").is_err());
            }
            drop((response, client));
            let expected = answered(&agent, "GET", path, 200, (4, 0));
            let expected = but(expected, json!({ "protocol": protocol, "ended": ended }));
            assert_eq!(lines.next().await, expected);
        }
        // Before there is a response.
        let mut client = client().await;
        tokio::select! {
            _ = client.send(request("POST", "web", "/never", "four")) => panic!("it is not answered"),
            () = soon(asked.notified()) => {}
        }
        drop(client);
        let expected = answered(&agent, "POST", "/never", 200, (0, 4));
        let gone = json!({ "protocol": protocol, "ended": "client went away", "status": null });
        assert_eq!(lines.next().await, but(expected, gone));
    }
    lines.are_all();
}

#[tokio::test]
async fn what_a_node_answers_itself_has_its_code() {
    let mut lines = Lines::new();
    let fabric = Fabric::with(|config| {
        on(config);
        config.edge.limits.request_timeout = Duration::from_secs(2);
        config.edge.limits.stall_timeout = Some(Duration::from_secs(3));
        config.edge.limits.max_body_bytes = Some(10);
        config.upstream_wait = Duration::ZERO;
    })
    .await;
    let service = half().await;
    let agent = fabric.agent("web", Kind::Http, service.address).await;
    let edge = fabric.addresses.edge;

    let late = get(edge, "web", "/late").await;
    let expected = answered(&agent, "GET", "/late", 504, (late.body.len(), 0));
    let code = json!({ "code": "response_timeout", "ended": "time-out" });
    assert_eq!(lines.next().await, but(expected, code));

    let nobody = get(edge, "nobody", "/").await;
    let expected = answered(&agent, "GET", "/", 502, (nobody.body.len(), 0));
    let code =
        json!({ "code": "no_upstream", "ended": "service not reached", "endpoint": "nobody", "agent": null });
    assert_eq!(lines.next().await, but(expected, code));

    let large = Http1::connect(edge).await.ask(request("POST", "web", "/", "far too much")).await;
    let expected = answered(&agent, "POST", "/", 413, (large.body.len(), 0));
    let code = json!({ "code": "body_too_large", "ended": "refused", "endpoint": null, "tenant": null, "agent": null });
    assert_eq!(lines.next().await, but(expected, code));

    for mut client in Client::both(edge).await {
        let protocol = if matches!(client, Client::Http1(_)) { "HTTP/1.1" } else { "HTTP/2" };
        let mut response = ok(client.send(request("GET", "web", "/half", "")).await).into_body();
        assert_eq!(ok(body::next(&mut response).await.expect("half of it")), "half");
        assert!(body::next(&mut response).await.expect("a break").is_err());
        let expected = answered(&agent, "GET", "/half", 200, (4, 0));
        let stalled = json!({ "protocol": protocol, "code": "stalled", "ended": "stalled" });
        assert_eq!(lines.next().await, but(expected, stalled));
    }
    lines.are_all();
}

#[tokio::test]
async fn a_connection_that_switches_protocols_has_its_line_when_it_ends() {
    let mut lines = Lines::new();
    let fabric = node().await;
    let service = websocket::echo().await;
    let agent = fabric.agent("web", Kind::Http, service.address).await;
    let edge = fabric.addresses.edge;
    // A message of 100 bytes has a header of 2, and from a client a mask of 4; a closing frame has a status of 2.
    let (sent, received) = (2 + 100 + 4, 6 + 100 + 8);

    let (mut socket, _) = ok(websocket::connect(edge, "web").await);
    ok(socket.send(Message::binary(random(100))).await);
    assert!(soon(socket.next()).await.is_some_and(|message| message.is_ok()));
    lines.are_all();
    ok(socket.close(Some(goodbye())).await);
    while let Some(Ok(_)) = soon(socket.next()).await {}
    drop(socket);
    let expected = answered(&agent, "GET", "/socket", 101, (sent, received));
    assert_eq!(lines.next().await, expected);

    let client = Http2::connect(edge).await;
    let mut socket = websocket::connect_http2(&client).await;
    // What asks for SETTINGS before.
    lines.next().await;
    ok(socket.send(Message::binary(random(100))).await);
    assert!(soon(socket.next()).await.is_some_and(|message| message.is_ok()));
    lines.are_all();
    ok(socket.close(Some(goodbye())).await);
    while let Some(Ok(_)) = soon(socket.next()).await {}
    drop(socket);
    let expected = answered(&agent, "CONNECT", "/socket", 200, (sent, received));
    assert_eq!(lines.next().await, but(expected, json!({ "protocol": "HTTP/2", "host": "web.test" })));
    lines.are_all();
}

fn goodbye() -> CloseFrame {
    CloseFrame { code: CloseCode::Normal, reason: "".into() }
}

#[tokio::test]
async fn a_flow_of_bytes_has_one_line_by_whichever_door_it_comes() {
    let mut lines = Lines::new();
    let fabric = Fabric::with(|config| {
        on(config);
        config.edge.tcp = vec![edge::Port { bind: ANY, endpoint: ok("tcp".parse()) }];
    })
    .await;
    let service = service::echo().await;
    let agent = fabric.agent("tcp", Kind::Tcp, service.address).await;
    let (forwarder, forwarded) = fabric.forwarder("tcp").await;
    let all = random(200_000);
    let talk = async |port: SocketAddr, end: bool| {
        let mut stream = ok(TcpStream::connect(port).await);
        let (mut read, mut write) = stream.split();
        let (written, back) = tokio::join!(write.write_all(&all), async {
            let mut back = vec![0; all.len()];
            ok(soon(read.read_exact(&mut back)).await);
            back
        });
        ok(written);
        assert!(back == all);
        if end {
            ok(stream.shutdown().await);
            assert_eq!(ok(soon(stream.read(&mut [0])).await), 0);
        } else {
            crate::support::reset(stream);
        }
    };
    let expected = || flowed(&agent, "tcp", "tcp", (all.len(), all.len()));
    let port = fabric.addresses.tcp[0].bind;
    talk(port, true).await;
    assert_eq!(lines.next().await, expected());
    talk(port, false).await;
    assert_eq!(lines.next().await, but(expected(), json!({ "ended": "client went away" })));
    talk(forwarded, true).await;
    let by = json!({ "forwarder": forwarder.client().id().to_string() });
    assert_eq!(lines.next().await, but(expected(), by));

    let mut piko = Piko::connect(fabric.addresses.edge, "tcp").await;
    piko.send(&all, 10_000).await;
    assert!(piko.exactly(all.len()).await == all);
    piko.close(1000).await;
    piko.all().await;
    let request = json!({
        "method": "GET", "host": "127.0.0.1", "path": "/_piko/v1/tcp/tcp", "protocol": "HTTP/1.1", "status": 101,
    });
    assert_eq!(lines.next().await, but(expected(), request));

    // Nobody serves it any more.
    drop(agent);
    let node = fabric.node.as_ref().expect("it runs");
    eventually("the agent is gone", async || !node.serves("tcp")).await;
    let mut stream = ok(TcpStream::connect(port).await);
    assert!(soon(stream.read(&mut [0])).await.is_err());
    let line = lines.next().await;
    assert_eq!(
        (&line["code"], &line["ended"], &line["sent_bytes"]),
        (&json!("no_upstream"), &json!("service not reached"), &json!(0))
    );
    lines.are_all();
}

#[tokio::test]
async fn an_association_has_one_line_with_its_packets() {
    let mut lines = Lines::new();
    let fabric = Fabric::with(|config| {
        on(config);
        config.udp.idle = Duration::from_secs(2);
        config.udp.ports = vec![udp::Port { listen: ANY, endpoint: ok("udp".parse()) }];
    })
    .await;
    let service = Echo::start().await;
    let agent = fabric.agent("udp", Kind::Udp, service.address).await;
    let expected = but(
        flowed(&agent, "udp", "udp", (1207, 1207)),
        json!({ "sent_packets": 2, "received_packets": 2, "ended": "idle" }),
    );
    let talk = async |port: SocketAddr| {
        let client = Packets::of(port).await;
        for len in [7, 1200] {
            let packet = random(len);
            assert_eq!(client.ask(&packet).await, packet);
        }
    };
    let node = fabric.node.as_ref().expect("it runs");
    talk(node.udp_ports()[0].listen).await;
    assert_eq!(lines.next().await, expected);
    let (forwarder, port) = fabric.forwarder_of("udp", UDP).await;
    talk(port).await;
    let id = forwarder.client().id().to_string();
    ok(soon(forwarder.drain(Duration::from_secs(20))).await);
    assert_eq!(lines.next().await, but(expected, json!({ "forwarder": id, "ended": "complete" })));
    lines.are_all();
}

#[tokio::test]
async fn what_is_refused_or_lapses_has_no_second_line() {
    let mut lines = Lines::new();
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| {
        on(config);
        config.auth.edge = issuer.port();
        let far = Access { allow: vec![ok("10.0.0.0/8".parse())], ..Access::default() };
        let tenant = TenantId::default();
        config.auth.edge.doors = vec![Door { tenant, endpoints: ok("tcp".parse()), access: far }].into();
        config.edge.tcp = vec![edge::Port { bind: ANY, endpoint: ok("tcp".parse()) }];
    })
    .await;
    let service = half().await;
    let agent = fabric.agent("web", Kind::Http, service.address).await;

    let refused = get(fabric.addresses.edge, "web", "/a?b").await;
    assert_eq!(refused.status, 401);
    let line = lines.raw().await;
    let told =
        ["message", "method", "host", "path", "protocol", "status", "code"].map(|name| line[name].clone());
    let expected =
        json!(["a request was refused", "GET", "127.0.0.1", "/a", "HTTP/1.1", 401, "missing_token"]);
    assert_eq!(json!(told), expected);

    let mut stream = ok(TcpStream::connect(fabric.addresses.tcp[0].bind).await);
    assert!(soon(stream.read(&mut [0])).await.is_err());
    let line = lines.raw().await;
    let told = ["message", "endpoint", "tenant", "code"].map(|name| line[name].clone());
    assert_eq!(json!(told), json!(["a client was refused", "tcp", "default", "address_denied"]));

    let mut client = Http1::connect(fabric.addresses.edge).await;
    let mut request = request("GET", "web", "/half", "");
    request.headers_mut().insert("authorization", bearer(&issuer.token(&json!({ "exp": in_seconds(3.0) }))));
    let mut response = ok(client.send(request).await).into_body();
    assert_eq!(ok(body::next(&mut response).await.expect("half of it")), "half");
    assert!(body::next(&mut response).await.expect("a break").is_err());
    let expected = answered(&agent, "GET", "/half", 200, (4, 0));
    let lapsed = json!({ "code": "expired_token", "ended": "credentials ended" });
    assert_eq!(lines.next().await, but(expected, lapsed));
    lines.are_all();
}

#[tokio::test]
async fn what_a_leaving_node_cuts_is_not_blamed_on_its_client() {
    let mut lines = Lines::new();
    let mut fabric = Fabric::with(|config| {
        on(config);
        config.grace_period = Duration::ZERO;
    })
    .await;
    let service = half().await;
    let agent = fabric.agent("web", Kind::Http, service.address).await;
    let mut client = Http1::connect(fabric.addresses.edge).await;
    let mut response = ok(client.send(request("GET", "web", "/half", "")).await).into_body();
    assert_eq!(ok(body::next(&mut response).await.expect("half of it")), "half");
    assert!(soon(fabric.node.take().expect("it runs").drain()).await.is_err());
    let expected = answered(&agent, "GET", "/half", 200, (4, 0));
    assert_eq!(lines.next().await, but(expected, json!({ "ended": "cut" })));
}

#[tokio::test]
async fn nothing_is_logged_where_it_is_not_asked_for() {
    let lines = Lines::new();
    let fabric = Fabric::with(|config| {
        config.edge.tcp = vec![edge::Port { bind: ANY, endpoint: ok("web".parse()) }];
    })
    .await;
    let service = service::http(|_| async { Response::new(service::full("ok")) }).await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    for address in [fabric.addresses.edge, fabric.addresses.tcp[0].bind] {
        assert_eq!(get(address, "web", "/").await.text(), "ok");
    }
    fabric.tells("adit_tcp_connections_total{door=\"tcp\",outcome=\"joined\"} 1").await;
    lines.are_all();
}

/// A node as users start it, and an agent of the service.
fn processes(service: SocketAddr, flags: &[&str]) -> (tempfile::TempDir, Process, Process, SocketAddr) {
    let folder = ok(tempfile::tempdir());
    let any = "127.0.0.1:0";
    let words = ["node", "--edge-bind", any, "--link-bind", any, "--admin-bind", any, "--peer-bind", any];
    let node = Process::start(folder.path(), &[&words[..], flags].concat());
    let (edge, link) = (node.address("edge"), node.address("link").to_string());
    let service = service.to_string();
    let agent = Process::start(folder.path(), &["agent", "http", "web", &service, "--connect", &link]);
    agent.line_with("serving web");
    (folder, node, agent, edge)
}

#[tokio::test]
async fn headers_that_are_asked_for_are_an_object_of_their_own_and_reach_no_terminal_raw() {
    let service = service::mirror().await;
    let flags = ["--access-log", "--access-log-header", "user-agent", "--access-log-header", "Referer"];
    for format in ["json", "text"] {
        let format_flags = [&flags[..], &["--log-format", format]].concat();
        let (_folder, node, _agent, edge) = processes(service.address, &format_flags);
        let mut request = request("GET", "web", &format!("/?{SECRET}"), "");
        let headers = request.headers_mut();
        let value = |text: &str| ok(HeaderValue::from_bytes(text.as_bytes()));
        headers.insert("user-agent", value("a \"b\" \u{9b}31m"));
        headers.insert("referer", value(&format!("https://ann:{SECRET}@a.test/b?{SECRET}")));
        for secret in ["cookie", "authorization", "x-other"] {
            headers.insert(secret, value(SECRET));
        }
        Http1::connect(edge).await.ask(request).await;
        let line = node.logs("a request has ended").await;
        if format == "json" {
            let line: Value = ok(serde_json::from_str(&line));
            let expected = json!({ "user-agent": "a \"b\" \u{9b}31m", "referer": "https://a.test/b" });
            assert_eq!(line["headers"], expected, "{line}");
        } else {
            let expected = r#"headers={"user-agent":"a \"b\" \u009b31m","referer":"https://a.test/b"}"#;
            assert!(line.contains(expected) && line.is_ascii(), "{line}");
        }
        assert_eq!(node.logged(SECRET), Vec::<String>::new());
        assert_eq!(node.logged("adit::access").len(), 1);
    }
}

#[test]
fn a_header_that_holds_secrets_is_refused_at_the_start() {
    let folder = ok(tempfile::tempdir());
    let words = ["node", "--access-log", "--access-log-header", "Set-Cookie"];
    let mut node = Process::start(folder.path(), &words);
    assert!(node.log_with("hold secrets").contains("--access-log-header"));
    assert_eq!(node.wait(), Some(2));
}

#[tokio::test]
async fn a_line_names_the_trace_that_its_request_says_it_is_part_of() {
    let mut lines = Lines::new();
    let fabric = node().await;
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    for (context, named) in
        [(format!("00-{trace}-00f067aa0ba902b7-00"), json!(trace)), (format!("00-{SECRET}"), Value::Null)]
    {
        let mut request = request("GET", "web", "/", "");
        request.headers_mut().insert("traceparent", ok(context.parse()));
        Http1::connect(fabric.addresses.edge).await.ask(request).await;
        assert_eq!(lines.next().await["trace_id"], named);
    }
    lines.are_all();
}
