//! The TCP side of the link port: what becomes no WebSocket is answered, what carries something else is closed with the code
//! for it, and both are counted. With TLS and without.

use std::sync::Arc;

use adit::{
    drain::Tasks,
    net::websocket::MAX_MESSAGE,
    protocol::Kind,
    tls::{self, Trust},
};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest, protocol::CloseFrame},
};

use crate::support::{
    Fabric,
    client::{flow_to_echo, get, metric},
    eventually, ok,
    piko_agent::Peer,
    service, soon,
};

const LINK: &str = "/adit/v1/link";
const PIKO: &str = "/piko/v1/upstream/web";

/// A WebSocket to the link port, with the subprotocol of links where one is named.
async fn open(
    fabric: &Fabric,
    path: &str,
    fields: &[(&'static str, &'static str)],
) -> Result<WebSocketStream<TcpStream>, tungstenite::Error> {
    let mut request = ok(format!("ws://{}{path}", fabric.addresses.link).into_client_request());
    for (name, value) in fields {
        request.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    let stream = ok(TcpStream::connect(fabric.addresses.link).await);
    tokio_tungstenite::client_async(request, stream).await.map(|(socket, _)| socket)
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get("content-type").is_some_and(|kind| kind == "application/json")
}

/// The status and the code of a refusal, which has a sentence.
async fn refused(fabric: &Fabric, path: &str, fields: &[(&'static str, &'static str)]) -> (u16, String) {
    let Err(tungstenite::Error::Http(response)) = open(fabric, path, fields).await else {
        panic!("{path} was not refused")
    };
    assert!(is_json(response.headers()), "{path}");
    let body = response.body().as_deref().unwrap_or_default();
    let json: serde_json::Value = ok(serde_json::from_slice(body));
    assert!(json["error"].as_str().is_some_and(|sentence| sentence.contains(' ')), "{json}");
    (response.status().as_u16(), json["code"].as_str().unwrap_or_default().to_owned())
}

async fn count(fabric: &Fabric, reason: &str) -> u64 {
    metric(fabric.addresses.admin, &format!("adit_link_upgrades_refused_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test]
async fn what_is_no_upgrade_is_answered_and_counted() {
    let fabric = Fabric::start().await;
    for path in [LINK, PIKO] {
        let answer = get(fabric.addresses.link, "", path).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(is_json(&answer.headers) && answer.text().contains("upgrade_required"), "{}", answer.text());
    }
    assert_eq!(count(&fabric, "upgrade_required").await, 2);
    for path in ["/", "/piko/v1/upstream", "/piko/v1/proxy/web", "/adit/v1/link/web"] {
        assert_eq!(refused(&fabric, path, &[]).await, (404, "not_found".into()), "{path}");
    }
    assert_eq!(count(&fabric, "not_found").await, 4);
    let long = format!("/piko/v1/upstream/{}", "a".repeat(300));
    let invalid = ["/piko/v1/upstream/", "/piko/v1/upstream/a%20b", "/piko/v1/upstream/a/b", &long];
    for path in invalid {
        assert_eq!(refused(&fabric, path, &[]).await, (400, "invalid_endpoint".into()), "{path}");
    }
    let tenant = [("x-piko-tenant-id", "a b")];
    assert_eq!(refused(&fabric, PIKO, &tenant).await, (400, "invalid_endpoint".into()));
    assert_eq!(count(&fabric, "invalid_endpoint").await, 5);
    let protocol = |name| [("sec-websocket-protocol", name)];
    assert_eq!(refused(&fabric, LINK, &[]).await, (400, "invalid_subprotocol".into()));
    assert_eq!(refused(&fabric, LINK, &protocol("adit.v0")).await, (400, "invalid_subprotocol".into()));
    assert_eq!(refused(&fabric, LINK, &protocol("adit.v11")).await, (400, "invalid_subprotocol".into()));
    assert_eq!(count(&fabric, "invalid_subprotocol").await, 3);
    // Among others, and behind what a balancer has left before the path.
    ok(open(&fabric, "/base/adit/v1/link", &protocol("other, adit.v1")).await);
    ok(open(&fabric, "/base/piko/v1/upstream/w%65b", &[]).await);
}

#[tokio::test]
async fn bytes_that_are_no_http_harm_nobody() {
    let fabric = Fabric::start().await;
    for bytes in [&b"\x16\x03\x01\xff\xff garbage"[..], b"\0\0\0\0", b"GET\r\n\r\n", b""] {
        let mut stream = ok(TcpStream::connect(fabric.addresses.link).await);
        ok(stream.write_all(bytes).await);
        ok(stream.shutdown().await);
        let mut rest = Vec::new();
        // Whether by an end or by a reset: it is closed.
        drop(soon(stream.read_to_end(&mut rest)).await);
    }
    ok(open(&fabric, PIKO, &[]).await);
}

#[tokio::test]
async fn a_node_that_leaves_refuses_pikos_agents_so_that_they_try_again() {
    let mut fabric = Fabric::start().await;
    let echo = service::echo().await;
    let _agent = fabric.agent("echo", Kind::Tcp, echo.address).await;
    let (_forwarder, port) = fabric.forwarder("echo").await;
    let _flow = flow_to_echo(port).await;
    let node = fabric.node.take().expect("it runs");
    let draining = Tasks::new();
    draining.spawn(async move { ok(node.drain().await) });
    eventually("new connections are refused", async || {
        TcpStream::connect(fabric.addresses.edge).await.is_err()
    })
    .await;
    assert_eq!(refused(&fabric, PIKO, &[]).await, (503, "draining".into()));
    assert_eq!(count(&fabric, "draining").await, 1);
}

/// The goodbye that a peer gets.
async fn goodbye(socket: &mut WebSocketStream<TcpStream>) -> CloseFrame {
    loop {
        let message = ok(soon(socket.next()).await.expect("a goodbye comes first"));
        if let Message::Close(frame) = message {
            return frame.expect("it has a code");
        }
    }
}

#[tokio::test]
async fn what_is_no_link_is_closed_with_its_code_and_counted() {
    let fabric = Fabric::start().await;
    let large = vec![0; MAX_MESSAGE + 1];
    let garbage: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    let doors = [(LINK, &[("sec-websocket-protocol", "adit.v1")][..]), (PIKO, &[])];
    for (number, (path, fields)) in (1..).zip(doors) {
        let bad = [
            (Message::text("hello"), 1003, "text"),
            (Message::binary(large.clone()), 1009, "oversized"),
            (Message::binary(garbage), 1002, "multiplexing"),
        ];
        for (message, code, reason) in bad {
            let mut socket = ok(open(&fabric, path, fields).await);
            ok(socket.send(message).await);
            let frame = goodbye(&mut socket).await;
            assert_eq!(u16::from(frame.code), code, "{path} {reason}: {frame}");
            assert!(!frame.reason.is_empty(), "{path} {reason}");
            violations(&fabric, reason, number).await;
        }
        // A frame of a client is masked (RFC 6455 §5.1).
        let mut socket = ok(open(&fabric, path, fields).await);
        ok(socket.get_mut().write_all(b"\x82\x01\0").await);
        assert_eq!(u16::from(goodbye(&mut socket).await.code), 1002, "{path}");
        violations(&fabric, "unmasked", number).await;
    }
}

async fn violations(fabric: &Fabric, reason: &str, expected: u64) {
    let name = format!("adit_link_websocket_violations_total{{reason=\"{reason}\"}}");
    eventually(&name, async || metric(fabric.addresses.admin, &name).await == expected).await;
}

/// Garbage in the middle of a session that has served.
#[tokio::test]
async fn an_agent_that_breaks_its_session_is_gone() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let agent = ok(Peer::of("web", service.address).link(fabric.addresses.link).await);
    eventually("it is served", async || get(fabric.addresses.edge, "web", "/").await.status == 200).await;
    agent.say(b"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00").await;
    let ended = format!("{:?}", agent.ended().await);
    assert!(ended.contains("Protocol") && ended.contains("version 1"), "{ended}");
    violations(&fabric, "multiplexing", 1).await;
    assert_eq!(get(fabric.addresses.edge, "web", "/").await.error().0, "no_upstream");
}

#[tokio::test]
async fn tls_and_no_tls_are_told_apart_on_one_port() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let trust = Trust::Roots(vec![fabric.authority.certificate().clone()]);
    let tls = Some(Arc::new(ok(tls::client_config(&trust, None, &[]))));
    for tls in [None, tls] {
        let peer = Peer { tls, ..Peer::of("web", service.address) };
        let agent = ok(soon(peer.link(fabric.addresses.link)).await);
        eventually("it is served", async || get(fabric.addresses.edge, "web", "/").await.status == 200).await;
        agent.ping().await;
        drop(agent);
        let node = fabric.node.as_ref().expect("it runs");
        eventually("it is gone", async || !node.serves("web")).await;
    }
}
