//! Connections that switch protocols, WebSocket above all, become byte streams between client and service.

use std::io::ErrorKind::ConnectionReset;

use adit::protocol::Kind;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::support::{
    Fabric,
    client::{Http1, Http2, assert_counted, body, get, raw, request, sentence, whole},
    fabric::{Web, impatient},
    http2, kind, ok, random, reset,
    service::{self, drain, read_request},
    soon,
    switch::{SWITCH, switched, switching},
    websocket,
};

#[tokio::test]
async fn websocket_messages_of_any_kind_pass_both_ways_and_so_does_the_closing_handshake() {
    websocket_messages_pass(1).await;
}

pub(crate) async fn websocket_messages_pass(nodes: usize) {
    let service = websocket::echo().await;
    let web = Web::over(nodes, service.address).await;
    let (socket, response) = ok(websocket::connect(web.edge, "web").await);
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    talk(socket).await;
}

#[tokio::test]
async fn websockets_pass_over_streams_of_http2_beside_each_other_and_beside_requests() {
    websockets_pass_over_http2(1).await;
}

pub(crate) async fn websockets_pass_over_http2(nodes: usize) {
    let service = websocket::echo().await;
    let web = Web::over(nodes, service.address).await;
    let client = Http2::connect(web.edge).await;
    let sockets = [websocket::connect_http2(&client).await, websocket::connect_http2(&client).await];
    let mut idle = websocket::connect_http2(&client).await;
    futures_util::future::join_all(sockets.map(talk)).await;
    ok(idle.send(Message::text("still here")).await);
    assert_eq!(ok(soon(idle.next()).await.expect("it is open")), Message::text("still here"));
}

/// Sends messages of any kind to a service that sends them back, and closes.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>) {
    for message in
        [Message::text("hello"), Message::binary(random(1 << 20)), Message::text(""), Message::binary("")]
    {
        ok(socket.send(message.clone()).await);
        assert!(ok(soon(socket.next()).await.expect("it is open")) == message);
    }
    let frame = CloseFrame { code: CloseCode::Away, reason: "enough".into() };
    ok(socket.close(Some(frame.clone())).await);
    assert_eq!(
        ok(soon(socket.next()).await.expect("the answer to the closing")),
        Message::Close(Some(frame))
    );
    assert!(soon(socket.next()).await.is_none(), "and then the connection ends");
}

#[tokio::test]
async fn what_a_websocket_over_http2_asks_arrives_as_http1_has_it() {
    let service = service::http(async |request: Request<Incoming>| {
        let mut response = service::reflect(request).await;
        *response.status_mut() = StatusCode::FORBIDDEN;
        response
    })
    .await;
    let web = Web::to(service.address).await;
    let client = Http2::connect(web.edge).await;
    let refused = whole(websocket::ask_http2(&client, "websocket").await).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let asked = refused.text();
    assert!(asked.starts_with("GET /socket HTTP/1.1\nconnection: upgrade\n"), "{asked}");
    for line in
        ["host: web.test", "upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-protocol: chat"]
    {
        assert!(asked.contains(&format!("\n{line}\n")), "{line}: {asked}");
    }
    let key = |asked: &str| {
        asked.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ").map(str::to_owned))
    };
    let again = whole(websocket::ask_http2(&client, "websocket").await).await;
    assert_ne!(key(asked).expect("a key"), key(again.text()).expect("a key"));
}

#[tokio::test]
async fn a_websocket_over_http2_that_the_service_did_not_agree_to_is_a_bad_gateway() {
    let service = service::tcp(|mut stream| async move {
        while let Some(request) = read_request(&mut stream).await {
            let answer: &[u8] = match request.contains("upgrade: websocket") {
                // The key of the RFC's example, not the request's.
                true => {
                    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                          sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                }
                false => service::OK,
            };
            ok(stream.write_all(answer).await);
        }
    })
    .await;
    let web = Web::to(service.address).await;
    let client = Http2::connect(web.edge).await;
    let answer = whole(websocket::ask_http2(&client, "websocket").await).await;
    assert!(sentence(&answer, 502, "upstream_broken").contains("WebSocket"));
    // Nor is a response that says nothing of it, which would look like one that agrees.
    let service = service::http(|_| async { Response::new(service::full("no")) }).await;
    let web = Web::to(service.address).await;
    let client = Http2::connect(web.edge).await;
    let answer = whole(websocket::ask_http2(&client, "websocket").await).await;
    assert!(sentence(&answer, 502, "upstream_broken").contains("WebSocket"));
    // Other protocols, and connections to nowhere in particular, are not for an edge.
    let answer = whole(websocket::ask_http2(&client, "connect-udp").await).await;
    sentence(&answer, 501, "unsupported");
}

#[tokio::test]
async fn a_websocket_over_http2_ends_with_its_client_and_with_its_service() {
    let (ends, mut ended) = mpsc::channel(1);
    let service = service::tcp(move |stream| {
        let ends = ends.clone();
        async move {
            let mut socket = ok(tokio_tungstenite::accept_async(stream).await);
            match socket.next().await {
                Some(Ok(Message::Text(_))) => drop(socket),
                other => ok(ends.send(other.is_none_or(|other| other.is_err())).await),
            }
        }
    })
    .await;
    let web = Web::to(service.address).await;
    let client = Http2::connect(web.edge).await;
    let mut socket = websocket::connect_http2(&client).await;
    ok(socket.send(Message::text("leave")).await);
    assert!(soon(socket.next()).await.is_none_or(|end| end.is_err()), "without a closing frame");
    drop(websocket::connect_http2(&client).await);
    assert_eq!(soon(ended.recv()).await, Some(true));
    let socket = websocket::connect_http2(&client).await;
    drop((client, socket));
    assert_eq!(soon(ended.recv()).await, Some(true));
}

#[tokio::test]
async fn websockets_are_http1_to_a_service_that_chooses_http2_for_the_rest() {
    let fabric = Fabric::start().await;
    let config = fabric.service_tls(&["127.0.0.1"], &[b"h2", b"http/1.1"]);
    let service = service::tls(config, |stream| async move {
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            http2::connection(stream, service::reflect).await;
        } else {
            websocket::echo_over(stream).await;
        }
    })
    .await;
    let _agent = fabric.agent("web", Kind::Http, format!("https://{}", service.address)).await;
    let edge = fabric.addresses.edge;
    assert!(get(edge, "web", "/").await.text().contains("HTTP/2.0"));
    talk(ok(websocket::connect(edge, "web").await).0).await;
    talk(websocket::connect_http2(&Http2::connect(edge).await).await).await;
}

#[tokio::test]
async fn a_websocket_to_a_service_that_speaks_http2_alone_is_refused_with_the_reason() {
    let service = http2::http(service::reflect).await;
    let web = Web::to_http2(service.address).await;
    let mut client = Http1::connect(web.edge).await;
    let mut upgrade = request("GET", "web", "/", "");
    upgrade.headers_mut().insert("connection", ok("upgrade".parse()));
    upgrade.headers_mut().insert("upgrade", ok("websocket".parse()));
    let over_http1 = client.ask(upgrade).await;
    let client = Http2::connect(web.edge).await;
    let over_http2 = whole(websocket::ask_http2(&client, "websocket").await).await;
    for answer in [over_http1, over_http2] {
        let why = sentence(&answer, 502, "upstream_broken");
        // What follows is how the connection broke, for which the library has more than one sentence.
        assert!(why.contains("HTTP/2, and not HTTP/1.1 as a switch of protocols"), "{why}");
    }
}

#[tokio::test]
async fn bytes_in_the_same_packet_as_the_switch_arrive() {
    bytes_right_behind_the_switch_arrive(1).await;
}

pub(crate) async fn bytes_right_behind_the_switch_arrive(nodes: usize) {
    let service = switching("from service;", |mut stream| async move {
        let (mut read, mut write) = stream.split();
        drop(tokio::io::copy(&mut read, &mut write).await);
    })
    .await;
    let web = Web::over(nodes, service.address).await;
    for _ in 0..20 {
        let mut client = switched(web.edge, "from client").await;
        let mut got = [0; 24];
        ok(soon(client.read_exact(&mut got)).await);
        assert_eq!(&got, b"from service;from client");
    }
}

#[tokio::test]
async fn each_direction_of_a_switched_connection_ends_by_itself() {
    each_direction_ends_by_itself(1).await;
}

pub(crate) async fn each_direction_ends_by_itself(nodes: usize) {
    let service = switching("", service::tell_count).await;
    let web = Web::over(nodes, service.address).await;
    assert_counted(switched(web.edge, "").await, 100_000).await;
}

#[tokio::test]
async fn a_reset_of_a_switched_connection_is_passed_on() {
    a_reset_is_passed_on(1).await;
}

pub(crate) async fn a_reset_is_passed_on(nodes: usize) {
    let (ends, mut ended) = mpsc::channel(1);
    let service = switching("", move |mut stream| {
        let ends = ends.clone();
        async move {
            match stream.read_u8().await {
                Ok(b'r') => reset(stream),
                Ok(_) => ok(ends.send(drain(&mut stream).await.1).await),
                // The reset has overtaken the byte.
                Err(error) => ok(ends.send(Err(error)).await),
            }
        }
    })
    .await;
    let web = Web::over_with(nodes, impatient, service.address).await;
    let mut client = switched(web.edge, "").await;
    ok(client.write_all(b"r").await);
    assert_eq!(kind(soon(client.read(&mut [0])).await), ConnectionReset);

    let mut client = switched(web.edge, "").await;
    ok(client.write_all(b"x").await);
    reset(client);
    assert_eq!(kind(soon(ended.recv()).await.expect("the service reports")), ConnectionReset);

    let mut client = switched(web.edge, "").await;
    drop(web.agent);
    assert_eq!(kind(soon(client.read(&mut [0])).await), ConnectionReset);
}

#[tokio::test]
async fn a_service_that_does_not_switch_answers_as_ever() {
    let service = service::http(|_| async { Response::new(service::full("no")) }).await;
    let web = Web::to(service.address).await;
    let refused = websocket::connect(web.edge, "web").await;
    let Err(tungstenite::Error::Http(response)) = refused else { panic!("{refused:?}") };
    assert_eq!(response.status(), StatusCode::OK);
    // The connection goes on as before.
    let mut client = Http1::connect(web.edge).await;
    for _ in 0..2 {
        let mut upgrade = request("GET", "web", "/", "");
        upgrade.headers_mut().insert("connection", ok("upgrade".parse()));
        upgrade.headers_mut().insert("upgrade", ok("x-test".parse()));
        assert_eq!(client.ask(upgrade).await.text(), "no");
    }
    assert_eq!(service.accepted(), 1);
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_a_bad_gateway() {
    let service = service::tcp(|mut stream| async move {
        if read_request(&mut stream).await.is_some() {
            ok(stream.write_all(SWITCH.as_bytes()).await);
            drain(&mut stream).await.1.ok();
        }
    })
    .await;
    let web = Web::to(service.address).await;
    let mut client = Http1::connect(web.edge).await;
    for method in ["GET", "POST"] {
        let answer = client.ask(request(method, "web", "/", "")).await;
        sentence(&answer, 502, "upstream_broken");
    }
    let client = Http2::connect(web.edge).await;
    let answer = client.ask(ok(Request::get("http://web.example.com/").body(body("")))).await;
    sentence(&answer, 502, "upstream_broken");
}

#[tokio::test]
async fn versions_of_http_that_cannot_switch_pass_no_upgrade_on() {
    let service = service::mirror().await;
    let web = Web::to(service.address).await;
    let old = b"GET / HTTP/1.0\r\nhost: web.example.com\r\nconnection: upgrade\r\nupgrade: x-test\r\n\r\n";
    let answer = raw(web.edge, old).await;
    assert!(answer.starts_with("HTTP/1.0 200 ") && answer.contains("host: web"), "{answer}");
    assert!(!answer.contains("x-test"), "{answer}");

    let mut stream = ok(TcpStream::connect(web.edge).await);
    ok(stream.write_all(&http2_request(&[("upgrade", "x-test")])).await);
    let (kind, answer) = soon(http2_answer(&mut stream)).await;
    // RFC 9113 §8.2.2: such a request is malformed, and the stream is reset.
    assert_eq!((kind, answer), (RST_STREAM, vec![0, 0, 0, 1]));
    // And it is that field which is refused.
    let mut stream = ok(TcpStream::connect(web.edge).await);
    ok(stream.write_all(&http2_request(&[("x-upgrade", "x-test")])).await);
    assert_eq!(soon(http2_answer(&mut stream)).await.0, HEADERS);
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

/// The first bytes of an HTTP/2 connection (RFC 9113 §3.4) with a request that no library would make.
fn http2_request(fields: &[(&str, &str)]) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut frame = ok(u32::try_from(payload.len())).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    };
    let usual = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "web.example.com")];
    let mut block = Vec::new();
    for (name, value) in usual.iter().chain(fields) {
        // Literal, never indexed, not compressed (RFC 7541 §6.2.3).
        block.push(0x10);
        for text in [name, value] {
            block.push(ok(u8::try_from(text.len())));
            block.extend(text.as_bytes());
        }
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    // END_HEADERS and END_STREAM.
    bytes.extend(frame(HEADERS, 0x5, 1, &block));
    bytes
}

/// The first frame that is about a stream: its kind and its content.
async fn http2_answer(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    loop {
        let mut head = [0; 9];
        ok(stream.read_exact(&mut head).await);
        let [a, b, c, kind, _, number @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        ok(stream.read_exact(&mut payload).await);
        if u32::from_be_bytes(number) != 0 {
            return (kind, payload);
        }
    }
}
