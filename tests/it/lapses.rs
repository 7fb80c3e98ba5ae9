//! What relies on a credential ends with it, or is renewed in place, or goes on where that is meant.

use std::time::Duration;

use adit::{
    client::{self, Token, Transport},
    forward::PortKind,
    protocol::{Close, Code, Control, EndpointId, Kind, Role, Secret},
    transport::Lost,
};
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest, protocol::frame::coding::CloseCode},
};

use crate::support::{
    Fabric,
    client::{Body, Client, request},
    cluster::Nodes,
    fabric::{forwarder_of, linked_over},
    log::Log,
    ok,
    raw::{Raw, hello, listen},
    service, soon,
    streams::breaking,
    tokens::{Issuer, bearer, in_seconds},
    websocket,
};

/// For how long tokens are good, in seconds.
const LIFE: f64 = 3.0;

/// When nothing that relies on them is left in any case: seldom is a machine so slow.
const LATER: Duration = Duration::from_secs(10);

fn with_token(mut request: Request<Body>, token: &str) -> Request<Body> {
    request.headers_mut().insert(header::AUTHORIZATION, bearer(token));
    request
}

async fn socket(edge: std::net::SocketAddr, path: &str, token: &str) -> WebSocketStream<TcpStream> {
    let mut request = ok(format!("ws://127.0.0.1{path}").into_client_request());
    let headers = request.headers_mut();
    headers.insert("x-adit-endpoint", ok("socket".parse()));
    headers.insert(header::AUTHORIZATION, bearer(token));
    let stream = ok(TcpStream::connect(edge).await);
    ok(soon(tokio_tungstenite::client_async(request, stream)).await).0
}

async fn echoes(socket: &mut WebSocketStream<TcpStream>) -> bool {
    if socket.send(Message::binary(b"there?".to_vec())).await.is_err() {
        return false;
    }
    matches!(soon(socket.next()).await, Some(Ok(Message::Binary(_))))
}

/// An agent with a socket, bytes and half a response on one node, and the edge of another.
async fn path(issuer: &Issuer, ends: bool) -> (Nodes, Vec<adit::agent::Agent>, std::net::SocketAddr) {
    let nodes = Nodes::with(2, |config| {
        config.auth.edge = issuer.port();
        config.auth.edge.keep_expired = !ends;
    })
    .await;
    let (echo, bytes) = (websocket::echo().await, service::echo().await);
    let (half, _never) = breaking().await;
    let (socket, entry) = nodes.agent_elsewhere("socket", Kind::Http, echo.address).await;
    let last =
        nodes.all.iter().position(|node| node.addresses.edge != nodes.edge(entry)).expect("there are two");
    let mut agents = vec![socket];
    for (endpoint, kind, service) in [("bytes", Kind::Tcp, bytes.address), ("half", Kind::Http, half.address)]
    {
        let client = client::Config { links: 1, ..nodes.all[last].client() };
        let agent = nodes.all[last].start_agent(client, &[(endpoint, kind, service.to_string())]);
        ok(soon(agent.serve()).await);
        agents.push(agent);
        nodes.knows(entry, endpoint).await;
    }
    // The services run for as long as the test.
    std::mem::forget((echo, bytes, half, _never));
    let edge = nodes.edge(entry);
    (nodes, agents, edge)
}

#[tokio::test]
async fn what_a_client_has_open_ends_with_its_token_and_not_before() {
    let log = Log::of_this_thread();
    let issuer = Issuer::new();
    let (nodes, _agents, edge) = path(&issuer, true).await;
    let entry = nodes.all.iter().find(|node| node.addresses.edge == edge).expect("it is one of them");
    let (began, token) = (Instant::now(), issuer.token(&json!({ "exp": in_seconds(LIFE) })));
    let mut upgraded = socket(edge, "/socket", &token).await;
    let mut tcp = socket(edge, "/_piko/v1/tcp/bytes", &token).await;
    let mut halves = Vec::new();
    for mut client in Client::both(edge).await {
        let response = ok(soon(client.send(with_token(request("GET", "half", "/length", ""), &token))).await);
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        assert_eq!(ok(soon(body.frame()).await.expect("there is half")).into_data().unwrap(), "half");
        halves.push((client, body));
    }
    assert!(echoes(&mut upgraded).await && echoes(&mut tcp).await);
    assert!(began.elapsed() < Duration::from_secs_f64(LIFE), "the machine is too slow for this test");

    let end = began + LATER;
    let ended = async |socket: &mut WebSocketStream<TcpStream>| {
        let mut told = None;
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(frame) = message {
                told = frame;
            }
        }
        told.map(|frame| (frame.code, frame.reason.to_string()))
    };
    assert!(timeout_at(end, ended(&mut upgraded)).await.is_ok(), "a WebSocket has outlived its token");
    assert!(began.elapsed().as_secs_f64() > LIFE * 0.9, "it ended before its token");
    let told = timeout_at(end, ended(&mut tcp)).await.expect("a flow of TCP has outlived its token");
    assert_eq!(
        told,
        Some((CloseCode::Policy, "expired".to_owned())),
        "the edge speaks WebSocket there itself"
    );
    for (_client, body) in &mut halves {
        let frame = timeout_at(end, body.frame()).await;
        assert!(matches!(frame, Ok(Some(Err(_)))), "a response has not broken off: {frame:?}");
    }
    // Nobody else may have been told why.
    for (what, count) in [("a switched connection", 1), ("a flow by WebSocket", 1), ("a response", 2)] {
        let lines = log.lines(&format!("what=\"{what}\""));
        let says = ["INFO", "adit::access", "client=127.0.0.1:", "code=\"expired_token\""];
        let all = lines.iter().all(|line| says.iter().all(|says| line.contains(says)));
        assert!(lines.len() == count && all, "{lines:?}");
    }
    assert_eq!((entry.refused("expired_token").await, log.lines(&token)), (4, vec![]));
    let late =
        soon(Client::both(edge)).await[0].send(with_token(request("GET", "half", "/", ""), &token)).await;
    assert_eq!(ok(late).status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn where_it_is_meant_what_is_open_outlives_its_token() {
    let issuer = Issuer::new();
    let (_nodes, _agents, edge) = path(&issuer, false).await;
    let (began, token) = (Instant::now(), issuer.token(&json!({ "exp": in_seconds(LIFE) })));
    let mut upgraded = socket(edge, "/socket", &token).await;
    let mut tcp = socket(edge, "/_piko/v1/tcp/bytes", &token).await;
    sleep(Duration::from_secs_f64(LIFE + 1.0)).await;
    assert!(began.elapsed().as_secs_f64() > LIFE);
    assert!(echoes(&mut upgraded).await && echoes(&mut tcp).await);
}

#[tokio::test]
async fn where_a_link_outlives_its_token_nothing_new_is_opened_on_it() {
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| {
        config.auth.link = issuer.port();
        config.auth.link.keep_expired = true;
    })
    .await;
    let echo = service::echo().await;
    let token = |claims| Some(Token::fixed(Secret::new(issuer.token(&claims))));
    let config = client::Config { token: token(json!({})), ..fabric.client() };
    let agent = fabric.start_agent(config, &[("tcp", Kind::Tcp, echo.address.to_string())]);
    ok(soon(agent.serve()).await);
    let config = client::Config { token: token(json!({ "exp": in_seconds(LIFE) })), ..fabric.client() };
    let (client, endpoint) = (ok(client::Client::new(config)), ok(EndpointId::new("tcp")));
    let mut flow = ok(soon(client.dial(&endpoint)).await);
    sleep(Duration::from_secs_f64(LIFE + 1.0)).await;
    match soon(client.dial(&endpoint)).await {
        Err(client::DialError::Refused(refusal)) => {
            assert_eq!(refusal.code, Code::Unauthenticated, "{refusal}")
        }
        other => panic!("{other:?}"),
    }
    ok(flow.write_all(b"there?").await);
    ok(soon(flow.read_exact(&mut [0; 6])).await);
}

#[tokio::test]
async fn links_and_flows_of_forwarders_end_with_their_token() {
    for transport in [Transport::Quic, Transport::WebSocket] {
        linked_over(transport, async {
            let issuer = Issuer::new();
            let fabric = Fabric::with(|config| config.auth.link = issuer.port()).await;
            let echo = service::echo().await;
            let token = |claims| Some(Token::fixed(Secret::new(issuer.token(&claims))));
            let config = client::Config { token: token(json!({})), ..fabric.client() };
            let agent = fabric.start_agent(config, &[("tcp", Kind::Tcp, echo.address.to_string())]);
            ok(soon(agent.serve()).await);
            let short = json!({ "exp": in_seconds(LIFE) });
            let config = client::Config { token: token(short), ..fabric.client() };
            let (_forwarder, port) = forwarder_of(config, "tcp", PortKind::Tcp).await;
            let began = Instant::now();
            let mut flow = ok(soon(TcpStream::connect(port)).await);
            ok(flow.write_all(b"there?").await);
            ok(soon(flow.read_exact(&mut [0; 6])).await);
            let ended = timeout_at(began + LATER, flow.read(&mut [0; 6])).await;
            let ended = ended.unwrap_or_else(|_| panic!("a flow over {transport:?} has outlived its token"));
            assert!(!matches!(ended, Ok(1..)), "{ended:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_link_whose_token_is_renewed_goes_on_with_what_the_new_one_permits() {
    let log = Log::of_this_thread();
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| config.auth.link = issuer.port()).await;
    let began = Instant::now();
    let mut first = hello(Role::Agent, 1, &["web", "db"]);
    first.token = Some(Secret::new(issuer.token(&json!({ "exp": in_seconds(LIFE) }))));
    let mut raw = Raw::welcomed(&fabric, first).await;

    // A bad one changes nothing, and is answered.
    raw.say(Control::Token(Secret::new("hunter2"))).await;
    match raw.hear().await {
        Ok(Control::Refused(refusal)) => assert_eq!(refusal.code, Code::Unauthenticated),
        other => panic!("{other:?}"),
    }
    let narrower = json!({ "exp": in_seconds(LIFE * 3.0), "adit": { "endpoints": ["web", "new"] } });
    raw.say(Control::Token(Secret::new(issuer.token(&narrower)))).await;
    match raw.hear().await {
        Ok(Control::ListenRefused(2, refusal)) => assert_eq!(refusal.code, Code::Forbidden, "{refusal}"),
        other => panic!("{other:?}"),
    }
    for (id, endpoint, permitted) in [(3, "db", false), (4, "new", true)] {
        raw.say(Control::Listen(listen(id, endpoint))).await;
        match raw.hear().await {
            Ok(Control::Listening(heard)) => assert!(permitted && heard == id),
            Ok(Control::ListenRefused(heard, refusal)) => {
                assert!(!permitted && heard == id && refusal.code == Code::Forbidden, "{refusal}");
            }
            other => panic!("{other:?}"),
        }
    }
    for (what, code) in [
        ("a link's new token is refused", "code=\"malformed_token\""),
        ("an endpoint is withdrawn", "code=\"endpoint_not_permitted\""),
        ("an endpoint is refused", "code=\"forbidden\""),
    ] {
        let lines = log.lines(what);
        let says = ["WARN", "adit::access", code];
        assert!(lines.len() == 1 && says.iter().all(|says| lines[0].contains(says)), "{what}: {lines:?}");
    }
    let lost = tokio::time::timeout(LATER * 2, raw.link.closed()).await;
    let lost = lost.expect("the link has outlived its token");
    assert!(began.elapsed().as_secs_f64() > LIFE * 2.0, "it ended with its first token: {lost}");
    assert!(matches!(lost, Lost::Peer { code, .. } if code == Close::Expired as u64), "{lost:?}");
}

#[tokio::test]
async fn what_is_listened_for_behind_a_token_is_judged_by_that_token() {
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| config.auth.link = issuer.port()).await;
    let token = |endpoint: &str| Secret::new(issuer.token(&json!({ "adit": { "endpoints": [endpoint] } })));
    let mut first = hello(Role::Agent, 1, &[]);
    first.token = Some(token("none"));
    let mut raw = Raw::welcomed(&fabric, first).await;
    // Each at once behind the other, and often, since either may be ready first.
    for id in 1..=20 {
        let endpoint = format!("web{id}");
        raw.say(Control::Token(token(&endpoint))).await;
        raw.say(Control::Listen(listen(id, &endpoint))).await;
        loop {
            match raw.hear().await {
                Ok(Control::Listening(heard)) => break assert_eq!(heard, id),
                // The one before is not permitted any more.
                Ok(Control::ListenRefused(heard, _)) if heard < id => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_piko_agent_ends_with_its_token_and_is_told_in_pikos_words() {
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| config.auth.link = issuer.port()).await;
    let web = service::mirror().await;
    let peer = crate::support::piko_agent::Peer::of("web", web.address);
    let Err(Error::Http(response)) = peer.link(fabric.addresses.link).await else {
        panic!("it has no token, and is not refused");
    };
    let json: serde_json::Value = ok(serde_json::from_slice(response.body().as_deref().unwrap_or_default()));
    assert_eq!((response.status().as_u16(), &json["error"]), (401, &json!("missing authorization")));

    let began = Instant::now();
    let claims = json!({ "exp": in_seconds(LIFE), "piko": { "endpoints": ["web"] } });
    let peer = crate::support::piko_agent::Peer { token: Some(issuer.token(&claims)), ..peer };
    let session = ok(peer.link(fabric.addresses.link).await);
    let other = crate::support::piko_agent::Peer { endpoint: "db".into(), ..peer };
    assert!(other.link(fabric.addresses.link).await.is_err(), "it is not for this endpoint");
    let answer = crate::support::client::get(fabric.addresses.edge, "web", "/").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(timeout_at(began + LATER, session.ended()).await.is_ok(), "it has outlived its token");
    assert!(began.elapsed().as_secs_f64() > LIFE * 0.9);
}
