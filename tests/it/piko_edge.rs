//! Piko's clients at the edge: TCP over WebSocket, errors in Piko's words, and the operators' paths that its tools read.

use std::{
    io::ErrorKind::ConnectionReset,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use adit::{
    agent::Agent,
    drain::Tasks,
    node,
    protocol::Kind,
    tls::{self, Trust},
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode, header::HOST};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::sleep,
};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::{
    support::{
        Fabric,
        client::{Answer, Client, Http1, Http2, body, get, raw, request, whole},
        cluster::Nodes,
        eventually, kind,
        log::Log,
        ok,
        piko::{Piko, frame, write},
        random, reset,
        service::{self, Running, drain},
        soon,
        streams::standing,
        websocket,
    },
    timeouts::{TIMEOUT, short},
};

/// A TCP service behind the edge of a node that its agent is not linked to, unless there is but one.
struct Path {
    entry: usize,
    _agent: Agent,
    fabrics: Vec<Fabric>,
}

impl Path {
    async fn over(nodes: usize, service: &Running) -> Self {
        Self::over_with(nodes, |_| {}, service).await
    }

    async fn over_with(nodes: usize, change: impl Fn(&mut node::Config), service: &Running) -> Self {
        if nodes == 1 {
            let fabric = Fabric::with(change).await;
            let agent = fabric.agent("tcp", Kind::Tcp, service.address).await;
            return Self { entry: 0, _agent: agent, fabrics: vec![fabric] };
        }
        let nodes = Nodes::with(nodes, change).await;
        let (agent, entry) = nodes.agent_elsewhere("tcp", Kind::Tcp, service.address).await;
        Self { entry, _agent: agent, fabrics: nodes.all }
    }

    fn fabric(&self) -> &Fabric {
        &self.fabrics[self.entry]
    }

    async fn connect(&self) -> Piko<TcpStream> {
        Piko::connect(self.fabric().addresses.edge, "tcp").await
    }
}

#[tokio::test]
async fn megabytes_pass_both_ways_at_once() {
    megabytes_pass(1).await;
}

pub(crate) async fn megabytes_pass(nodes: usize) {
    let service = service::echo().await;
    let path = Path::over(nodes, &service).await;
    for size in [100, 4096, 32 << 10, 1 << 20] {
        let all = random(if size < 1000 { 100_000 } else { 4 << 20 });
        let (mut to, mut from) = path.connect().await.0.split();
        let sending = async {
            let mut rest = all.clone();
            while !rest.is_empty() {
                ok(to.send(Message::binary(rest.split_to(size.min(rest.len())))).await);
            }
        };
        let getting = async {
            let mut got = Vec::new();
            while got.len() < all.len() {
                got.extend_from_slice(&ok(from.next().await.expect("it goes on")).into_data());
            }
            got
        };
        let ((), got) = soon(async { tokio::join!(sending, getting) }).await;
        assert!(got == all, "in messages of {size}");
    }
}

#[tokio::test]
async fn a_closing_handshake_ends_one_direction_and_the_answer_still_comes() {
    either_side_may_close_first(1).await;
}

pub(crate) async fn either_side_may_close_first(nodes: usize) {
    let service = service::count().await;
    let path = Path::over(nodes, &service).await;
    for (code, size) in [(1000, 0), (1001, 1), (1000, 3 << 20)] {
        let mut client = path.connect().await;
        client.send(&random(size), 32 << 10).await;
        client.close(code).await;
        let (answer, end) = client.all().await;
        assert_eq!((String::from_utf8_lossy(&answer).as_ref(), end.code()), (&*size.to_string(), 1000));
    }
    // The service first: what was sent before its end was known arrives.
    let (counts, mut counted) = mpsc::channel(1);
    let service = service::tcp(move |mut stream| {
        let counts = counts.clone();
        async move {
            ok(stream.write_all(b"no more from here").await);
            ok(stream.shutdown().await);
            drop(counts.send(drain(&mut stream).await).await);
        }
    })
    .await;
    let path = Path::over(nodes, &service).await;
    let mut client = path.connect().await;
    client.send(&random(1 << 20), 32 << 10).await;
    let (greeting, end) = client.all().await;
    assert_eq!((&*greeting, end.code()), (&b"no more from here"[..], 1000));
    // The library answers the closing frame when it is asked for more.
    drop(client.0.flush().await);
    let (count, end) = soon(counted.recv()).await.expect("the service reports");
    ok(end);
    assert_eq!(count, 1 << 20);
}

#[tokio::test]
async fn a_connection_that_ends_between_messages_ends_the_stream_as_pikos_clients_do() {
    let (service, mut reports) = service::report().await;
    let path = Path::over(1, &service).await;
    for size in [0, 1, 3 << 20] {
        let mut client = path.connect().await;
        client.send(&random(size), 32 << 10).await;
        drop(client);
        let (count, end) = soon(reports.recv()).await.expect("the service reports");
        ok(end);
        assert_eq!(count, size);
    }
    // And what the service has still to say comes, as far as somebody takes it.
    let service = service::count().await;
    let path = Path::over(1, &service).await;
    let mut client = path.connect().await;
    client.send(&random(1000), 1000).await;
    let mut stream = client.into_inner();
    ok(stream.shutdown().await);
    let mut answer = Vec::new();
    ok(soon(stream.read_to_end(&mut answer)).await);
    assert_eq!(answer, [&[0x82, 4][..], b"1000", &[0x88, 2, 0x03, 0xe8]].concat());
}

#[tokio::test]
async fn a_connection_that_breaks_is_a_reset_at_the_service() {
    broken_clients_are_resets(1).await;
}

pub(crate) async fn broken_clients_are_resets(nodes: usize) {
    let (service, mut reports) = service::report().await;
    let path = Path::over(nodes, &service).await;
    let fragment = frame(0x02, b"first of two");
    let mut half = frame(0x82, b"half of it");
    half.truncate(10);
    let cases: [(&str, &[u8], bool); 4] = [
        ("a reset", &[], true),
        ("half a header", &[0x82], false),
        ("half a frame", &half, false),
        ("half a message", &fragment, false),
    ];
    for (number, (what, last, resets)) in cases.into_iter().enumerate() {
        let mut client = path.connect().await;
        client.send(&random(10), 10).await;
        eventually("the service has the connection", async || service.accepted() == number + 1).await;
        let mut stream = client.into_inner();
        write(&mut stream, last).await;
        if resets {
            reset(stream);
        } else {
            drop(stream);
        }
        let (_, end) = soon(reports.recv()).await.expect("the service reports");
        assert_eq!(kind(end), ConnectionReset, "{what}");
    }
    // So is a client that says that it has failed, and it is answered.
    let mut client = path.connect().await;
    client.close(1011).await;
    assert_eq!(client.all().await.1.code(), 1011);
    let (_, end) = soon(reports.recv()).await.expect("the service reports");
    assert_eq!(kind(end), ConnectionReset);
}

#[tokio::test]
async fn a_reset_by_the_service_never_looks_like_an_end() {
    broken_services_are_resets(1).await;
}

pub(crate) async fn broken_services_are_resets(nodes: usize) {
    let service = service::resetting().await;
    let path = Path::over(nodes, &service).await;
    for sent_before in [0_u32, 2 << 20] {
        let mut client = path.connect().await;
        client.send(&Bytes::copy_from_slice(&sent_before.to_be_bytes()), 4).await;
        let (_, end) = client.all().await;
        assert!(end.is_reset(), "after {sent_before} bytes: {end:?}");
    }
}

#[tokio::test]
async fn whoever_breaks_the_protocol_is_told_why_and_counted_and_the_service_gets_a_reset() {
    let (service, mut reports) = service::report().await;
    let path = Path::over(1, &service).await;
    let oversized = [0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1, 0, 0, 0, 0];
    let fragments: Vec<u8> = std::iter::once([0x02, 0xff, 0, 0, 0, 0, 0, 0x08, 0, 0, 0, 0, 0, 0])
        .chain([[0x00, 0xff, 0, 0, 0, 0, 0, 0x08, 0, 1, 0, 0, 0, 0]])
        .enumerate()
        .flat_map(|(number, header)| [&header[..], &vec![7; (512 << 10) + number]].concat())
        .collect();
    let cases: [(u16, &str, &str, &[u8]); 9] = [
        (1003, "text", "a text", &frame(0x81, b"hello")),
        (1003, "text", "a text in pieces", &[frame(0x01, b"hel"), frame(0x80, b"lo")].concat()),
        (1003, "text", "no text either", &frame(0x81, &[0xff])),
        (1009, "oversized", "a large frame", &oversized),
        (1009, "oversized", "a large message", &fragments),
        (1002, "unmasked", "an unmasked frame", &[0x82, 1, b'x']),
        (1002, "protocol", "an unknown frame", &frame(0x83, b"x")),
        (1002, "protocol", "a compressed frame", &frame(0xc2, b"x")),
        (1002, "protocol", "a piece of nothing", &frame(0x80, b"x")),
    ];
    for (code, reason, what, bytes) in cases {
        let metric = format!("websocket_{reason}");
        let before = path.fabric().refused(&metric).await;
        let client = path.connect().await;
        let mut stream = client.into_inner();
        write(&mut stream, &frame(0x82, b"good")).await;
        write(&mut stream, bytes).await;
        // What it still sends does not keep the goodbye from it.
        write(&mut stream, &vec![0; 100_000]).await;
        let mut answer = vec![0; 4];
        ok(soon(stream.read_exact(&mut answer)).await);
        assert_eq!((answer[0], u16::from_be_bytes([answer[2], answer[3]])), (0x88, code), "{what}");
        let (_, end) = soon(reports.recv()).await.expect("the service reports");
        assert_eq!(kind(end), ConnectionReset, "{what}");
        drop(stream);
        eventually(what, async || path.fabric().refused(&metric).await == before + 1).await;
    }
}

#[tokio::test]
async fn pings_are_answered_while_nothing_else_passes() {
    let service = service::echo().await;
    let path = Path::over(1, &service).await;
    let mut stream = path.connect().await.into_inner();
    for payload in [&b"are you there?"[..], b""] {
        write(&mut stream, &frame(0x89, payload)).await;
        let mut answer = vec![0; 2 + payload.len()];
        ok(soon(stream.read_exact(&mut answer)).await);
        assert_eq!(answer, [&[0x8a, payload.len() as u8], payload].concat());
    }
}

#[tokio::test]
async fn a_flow_outlives_the_request_time_out_silent_or_not() {
    flows_live_on(1).await;
}

/// The fault that this project exists to end was one of just these flows.
pub(crate) async fn flows_live_on(nodes: usize) {
    let service = service::echo().await;
    let path = Path::over_with(nodes, short, &service).await;
    let held = async |pieces: u32| {
        let mut client = path.connect().await;
        for _ in 0..pieces {
            client.send(&Bytes::from_static(b"hello"), 5).await;
            assert_eq!(client.exactly(5).await, b"hello");
            sleep(TIMEOUT * 4 / pieces).await;
        }
        client.send(&Bytes::from_static(b"bye"), 3).await;
        client.close(1000).await;
        let (last, end) = client.all().await;
        assert_eq!((&*last, end.code()), (&b"bye"[..], 1000));
    };
    tokio::join!(held(1), held(40));
}

#[tokio::test]
async fn a_side_that_does_not_read_stops_the_other() {
    let written = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&written);
    let service = service::tcp(move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            let chunk = random(16 << 10);
            while let Ok(len) = stream.write(&chunk).await {
                counted.fetch_add(len as u64, Relaxed);
            }
        }
    })
    .await;
    let path = Path::over(1, &service).await;
    let client = path.connect().await;
    let stood_at = standing(&written).await;
    assert!(stood_at < 64 << 20, "{stood_at} bytes were taken of a service that nobody reads");
    drop(client);

    let service = service::tcp(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let path = Path::over(1, &service).await;
    let mut client = path.connect().await;
    let sent = AtomicU64::new(0);
    let message = random(64 << 10);
    let sending = async {
        loop {
            ok(client.0.send(Message::binary(message.clone())).await);
            sent.fetch_add(message.len() as u64, Relaxed);
        }
    };
    tokio::select! {
        () = sending => {}
        stood_at = standing(&sent) => assert!(stood_at < 64 << 20, "{stood_at} bytes were taken of a client"),
    }
}

#[tokio::test]
async fn a_node_that_leaves_waits_for_it() {
    let service = service::echo().await;
    let mut path = Path::over(1, &service).await;
    let mut client = path.connect().await;
    client.send(&Bytes::from_static(b"1"), 1).await;
    client.exactly(1).await;
    let edge = path.fabric().addresses.edge;
    let node = path.fabrics[0].node.take().expect("it runs");
    let (tasks, drained) = (Tasks::new(), Arc::new(AtomicBool::new(false)));
    let done = Arc::clone(&drained);
    tasks.spawn(async move {
        ok(node.drain().await);
        done.store(true, Relaxed);
    });
    eventually("new connections are refused", async || TcpStream::connect(edge).await.is_err()).await;
    client.send(&Bytes::from_static(b"2"), 1).await;
    assert_eq!(client.exactly(1).await, b"2");
    assert!(!drained.load(Relaxed));
    client.close(1000).await;
    assert_eq!(client.all().await.1.code(), 1000);
    eventually("the node has left", async || drained.load(Relaxed)).await;
}

#[tokio::test]
async fn it_comes_over_tls_and_over_streams_of_http2_too() {
    let service = service::count().await;
    let fabric = Fabric::with(|config| {
        config.edge.tls = Some(adit::edge::TlsConfig {
            bind: ([127, 0, 0, 1], 0).into(),
            identities: vec![config.link.identity.clone()],
            clients: tls::ClientAuth::None,
            http3: adit::edge::Http3::Off,
        });
    })
    .await;
    let _agent = fabric.agent("tcp", Kind::Tcp, service.address).await;
    let trust = Trust::Roots(vec![fabric.authority.certificate().clone()]);
    let tls = tokio_rustls::TlsConnector::from(Arc::new(ok(tls::client_config(&trust, None, &[]))));
    let stream = ok(TcpStream::connect(fabric.addresses.edge_tls.expect("it has one")).await);
    let stream = ok(tls.connect(ok("localhost".try_into()), stream).await);
    let mut client = ok(Piko::over(stream, "tcp").await);
    client.send(&random(1 << 20), 32 << 10).await;
    client.close(1000).await;
    let (answer, end) = client.all().await;
    assert_eq!((&*answer, end.code()), (&b"1048576"[..], 1000));

    let http2 = Http2::connect(fabric.addresses.edge).await;
    let mut client = Piko(websocket::connect_http2_at(&http2, "/_piko/v1/tcp/tcp").await);
    client.send(&random(1 << 20), 32 << 10).await;
    client.close(1000).await;
    let (answer, end) = client.all().await;
    assert_eq!((&*answer, end.code()), (&b"1048576"[..], 1000));
}

/// What a client of Piko is told: the status, Piko's text, and more.
#[track_caller]
fn told(answer: &Answer) -> (u16, String, String, String) {
    let json: serde_json::Value = ok(serde_json::from_slice(&answer.body));
    let field = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(answer.headers["x-adit-error"], field("code"));
    (answer.status.as_u16(), field("error"), field("code"), field("detail"))
}

#[tokio::test]
async fn what_does_not_begin_is_answered_by_a_status() {
    let log = Log::of_this_thread();
    let fabric = Fabric::start().await;
    let _agent = fabric.agent("refusing", Kind::Tcp, service::refusing()).await;
    let edge = fabric.addresses.edge;
    let asked = |method: &str, path: &str, more: &[(&'static str, &str)]| {
        let mut asked = Request::builder().method(method).uri(path).header(HOST, "a.test:80");
        let usual = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in usual {
            let changed = more.iter().find(|(other, _)| *other == name);
            let value = changed.map_or(value, |(_, value)| *value);
            if !value.is_empty() {
                asked = asked.header(name, value);
            }
        }
        for (name, value) in more.iter().filter(|(name, _)| *name == "origin") {
            asked = asked.header(*name, *value);
        }
        ok(asked.body(body("")))
    };
    let path = "/_piko/v1/tcp/nobody";
    let none = ("no available upstreams", "no_upstream");
    let cases = [
        (404, ("", "not_found"), asked("GET", "/_piko/v1/tcp/", &[])),
        (404, ("", "not_found"), asked("GET", "/_piko/v1/tcp/a/b", &[])),
        (405, ("", "method_not_allowed"), asked("POST", path, &[])),
        (400, ("", "upgrade_required"), asked("GET", path, &[("connection", "")])),
        (400, ("", "upgrade_required"), asked("GET", path, &[("upgrade", "x-test")])),
        (400, ("", "upgrade_required"), asked("GET", path, &[("sec-websocket-version", "8")])),
        (400, ("", "upgrade_required"), asked("GET", path, &[("sec-websocket-key", "short")])),
        (403, ("", "foreign_origin"), asked("GET", path, &[("origin", "http://evil.test")])),
        (403, ("", "foreign_origin"), asked("GET", path, &[("origin", "null")])),
        (400, ("", "invalid_endpoint"), asked("GET", "/_piko/v1/tcp/a$b", &[])),
        (502, none, asked("GET", path, &[])),
        (502, none, asked("GET", path, &[("origin", "https://A.test:80")])),
        (502, none, asked("GET", "/_piko/v1/tcp/no%62ody?query", &[])),
        (502, ("upstream unreachable", "upstream_refused"), asked("GET", "/_piko/v1/tcp/refusing", &[])),
    ];
    let mut client = Http1::connect(edge).await;
    for (status, (error, code), request) in cases {
        let what = format!("{request:?}");
        let answer = client.ask(request).await;
        let (found, text, found_code, detail) = told(&answer);
        assert_eq!((found, &*found_code), (status, code), "{what}: {text}");
        if error.is_empty() {
            assert!(text.contains(' ') && detail.is_empty(), "{what}: {text}");
        } else {
            assert_eq!(text, error, "{what}");
            assert!(detail.len() > 20, "{what}: {detail}");
        }
        match status {
            405 => assert_eq!(answer.headers["allow"], "GET"),
            400 if code == "upgrade_required" => assert_eq!(answer.headers["sec-websocket-version"], "13"),
            _ => {}
        }
    }
    let foreign = log.lines("code=\"foreign_origin\"");
    assert!(foreign.len() == 2 && foreign.iter().all(|line| line.contains("adit::access")), "{foreign:?}");
    assert_eq!((log.lines("adit::access").len(), fabric.refused("foreign_origin").await), (2, 2));
    let refused = Piko::try_connect(edge, "nobody").await;
    assert!(matches!(refused, Err(tungstenite::Error::Http(response)) if response.status() == 502));
    fabric.tells("adit_tcp_connections_total{door=\"websocket\",outcome=\"no_upstream\"} 4").await;
    fabric.tells("adit_tcp_connections_total{door=\"websocket\",outcome=\"upstream_refused\"} 1").await;
    // With a body it might be taken for another request.
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade, close\r\nupgrade: websocket\r\ncontent-length: 1\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nx"
    );
    let answer = raw(edge, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let http2 = Http2::connect(edge).await;
    let answer = whole(websocket::ask_http2_at(&http2, "websocket", path).await).await;
    assert_eq!(told(&answer).1, "no available upstreams");
}

#[tokio::test]
async fn other_paths_are_the_services_and_what_is_pikos_alone_does_not_reach_it() {
    let service = service::mirror().await;
    let fabric = Fabric::start().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    for mut client in Client::both(fabric.addresses.edge).await {
        for path in ["/_piko", "/_piko/", "/_piko/v1/tcp", "/_piko/v2/tcp/x", "/piko/v1/upstream/x"] {
            let mut request = request("GET", "web", path, "");
            let headers = request.headers_mut();
            headers.remove("x-adit-endpoint");
            headers.insert("x-piko-endpoint", ok("web".parse()));
            headers.insert("x-piko-forward", ok("true".parse()));
            headers.insert("x-piko-authorization", ok("Bearer secret".parse()));
            headers.insert("authorization", ok("Bearer mine".parse()));
            let answer = whole(ok(client.send(request).await)).await;
            assert!(answer.text().starts_with(&format!("GET {path} HTTP/1.1\n")), "{}", answer.text());
            assert!(answer.text().contains("\nx-piko-endpoint: web\n"), "{}", answer.text());
            assert!(answer.text().contains("\nauthorization: Bearer mine\n"), "{}", answer.text());
            assert!(!answer.text().contains("forward: true") && !answer.text().contains("secret"));
        }
    }
}

#[tokio::test]
async fn whoever_speaks_piko_is_told_of_errors_in_its_words_and_nobody_else() {
    let late = service::tcp(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let fabric = Fabric::with(short).await;
    let _refusing = fabric.agent("refusing", Kind::Http, service::refusing()).await;
    let _late = fabric.agent("late", Kind::Http, late.address).await;
    let edge = fabric.addresses.edge;
    let cases = [
        ("nobody", 502, "no available upstreams", "no_upstream"),
        ("refusing", 502, "upstream unreachable", "upstream_refused"),
        ("late", 504, "upstream timeout", "response_timeout"),
    ];
    let asks = cases.map(async |(endpoint, status, text, code)| {
        let plain = told(&get(edge, endpoint, "/").await);
        assert_eq!((plain.0, &*plain.2, &*plain.3), (status, code, ""));
        assert_ne!(plain.1, text);
        let asked =
            ok(Request::get("/").header(HOST, "a").header("x-piko-endpoint", endpoint).body(body("")));
        let piko = told(&Http1::connect(edge).await.ask(asked).await);
        assert_eq!((piko.0, &*piko.1, &*piko.2), (status, text, code));
        assert_eq!(piko.3, plain.1, "the sentence is there too");
    });
    futures_util::future::join_all(asks).await;
    for path in ["/", "/_piko/other"] {
        let asked = ok(Request::get(path).header(HOST, "localhost").body(body("")));
        let missing = told(&Http1::connect(edge).await.ask(asked).await);
        assert_eq!((missing.0, &*missing.2), (400, "missing_endpoint"));
        if path == "/" {
            assert!(missing.1.starts_with("missing endpoint id: name it in"), "{}", missing.1);
        } else {
            assert_eq!(missing.1, "missing endpoint id");
        }
    }
    let call = Request::get("/").header(HOST, "a").header("x-piko-endpoint", "nobody");
    let call = ok(call.header("content-type", "application/grpc").body(body("")));
    let answer = Http1::connect(edge).await.ask(call).await;
    assert_eq!((answer.status, &answer.headers["grpc-status"]), (StatusCode::OK, &ok("14".parse())));
}

#[tokio::test]
async fn operators_are_shown_endpoints_and_nodes_in_pikos_shapes() {
    let nodes = Nodes::start(2).await;
    let (admin, edge) = (nodes.all[0].addresses.admin, nodes.edge(0));
    let service = service::echo().await;
    let mut client = nodes.all[0].client();
    client.links = 1;
    let two =
        [("one", Kind::Tcp, service.address.to_string()), ("two", Kind::Http, service.address.to_string())];
    let first = nodes.all[0].start_agent(client.clone(), &two);
    ok(soon(first.serve()).await);
    let second = nodes.all[0].start_agent(client, &two[..1]);
    ok(soon(second.serve()).await);
    nodes.knows(1, "one").await;
    let shown = async |number: usize, path: &str| -> serde_json::Value {
        let answer = get(nodes.all[number].addresses.admin, "", path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert_eq!(answer.headers["content-type"], "application/json");
        ok(serde_json::from_slice(&answer.body))
    };
    let endpoints = serde_json::json!({ "one": 2, "two": 1 });
    assert_eq!(shown(0, "/status/upstream/endpoints").await, endpoints);
    assert_eq!(shown(1, "/status/upstream/endpoints").await, serde_json::json!({}));
    let here = serde_json::json!({
        "id": "n1", "status": "active", "proxy_addr": edge.to_string(), "admin_addr": admin.to_string(),
        "endpoints": endpoints,
    });
    for path in ["local", "n1"] {
        assert_eq!(shown(0, &format!("/status/cluster/nodes/{path}")).await, here);
    }
    let there = serde_json::json!({
        "id": "n1", "status": "active", "proxy_addr": "", "admin_addr": "", "endpoints": endpoints,
    });
    eventually("the peer is told of both agents", async || {
        shown(1, "/status/cluster/nodes/n1").await == there
    })
    .await;
    assert_eq!(
        shown(0, "/status/cluster/nodes").await,
        serde_json::json!([
            {
                "id": "n1", "status": "active", "proxy_addr": edge.to_string(), "admin_addr": admin.to_string(),
                "endpoints": 2, "upstreams": 3,
            },
            { "id": "n2", "status": "active", "proxy_addr": "", "admin_addr": "", "endpoints": 0, "upstreams": 0 },
        ])
    );
    assert_eq!(get(admin, "", "/status/cluster/nodes/n3").await.status, StatusCode::NOT_FOUND);
}
