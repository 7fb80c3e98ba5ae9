//! Which version of HTTP is spoken with a service: what it chooses by ALPN where it has TLS, what it is said to speak where
//! it has none.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use adit::{
    agent::{self, Agent, HealthCheck},
    protocol::Kind,
};
use http::StatusCode;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::support::{
    Fabric,
    client::{get, sentence},
    eventually, http2, ok,
    service::{self, Running, reflect},
    soon,
};

/// Serves a connection in the version that was agreed on.
async fn agreed(stream: TlsStream<TcpStream>) {
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2::connection(stream, reflect).await;
    } else {
        service::connection(stream, reflect).await;
    }
}

/// What a service saw of a request: its first line.
async fn seen(fabric: &Fabric) -> Option<String> {
    let answer = get(fabric.addresses.edge, "web", "/").await;
    (answer.status == StatusCode::OK).then(|| answer.text().lines().next().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_service_with_tls_is_spoken_to_in_the_version_that_it_chooses() {
    let names = &["127.0.0.1"];
    for (alpn, expected) in [
        (&[&b"h2"[..], b"http/1.1"][..], "GET https://127.0.0.1/ HTTP/2.0"),
        (&[b"h2"], "GET https://127.0.0.1/ HTTP/2.0"),
        (&[b"http/1.1", b"h2"], "GET / HTTP/1.1"),
        (&[b"http/1.1"], "GET / HTTP/1.1"),
        (&[], "GET / HTTP/1.1"),
    ] {
        let fabric = Fabric::start().await;
        let service = service::tls(fabric.service_tls(names, alpn), agreed).await;
        let _agent = fabric.agent("web", Kind::Http, format!("https://{}", service.address)).await;
        assert_eq!(seen(&fabric).await.as_deref(), Some(expected));
    }
}

/// A service with TLS that offers what it is told to, from the next connection on.
fn changeable(fabric: &Fabric, listener: TcpListener, alpn: &[&[u8]]) -> (Running, Arc<Mutex<TlsAcceptor>>) {
    let offer = Arc::new(Mutex::new(acceptor(fabric, alpn)));
    let current = Arc::clone(&offer);
    let service = service::tcp_on(listener, move |stream| {
        let acceptor = ok(current.lock()).clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                // Not for long, so that changes show soon.
                drop(tokio::time::timeout(Duration::from_millis(300), agreed(stream)).await);
            }
        }
    });
    (service, offer)
}

fn acceptor(fabric: &Fabric, alpn: &[&[u8]]) -> TlsAcceptor {
    fabric.service_tls(&["127.0.0.1"], alpn).into()
}

/// A port that refuses connections until it is made to listen.
fn port() -> TcpSocket {
    let socket = ok(TcpSocket::new_v4());
    ok(socket.bind(([127, 0, 0, 1], 0).into()));
    socket
}

#[tokio::test]
async fn a_service_that_changes_its_version_is_followed() {
    let fabric = Fabric::start().await;
    let (service, offer) = changeable(&fabric, ok(port().listen(64)), &[b"h2"]);
    let _agent = fabric.agent("web", Kind::Http, format!("https://{}", service.address)).await;
    assert_eq!(seen(&fabric).await.as_deref(), Some("GET https://127.0.0.1/ HTTP/2.0"));
    for (alpn, expected) in [(&b"http/1.1"[..], "GET / HTTP/1.1"), (b"h2", "GET https://127.0.0.1/ HTTP/2.0")]
    {
        *ok(offer.lock()) = acceptor(&fabric, &[alpn]);
        eventually(expected, async || seen(&fabric).await.as_deref() == Some(expected)).await;
    }
}

#[tokio::test]
async fn a_service_that_is_down_at_first_is_asked_when_it_is_up() {
    let fabric = Fabric::start().await;
    let port = port();
    let address = ok(port.local_addr());
    let _agent = fabric.agent("web", Kind::Http, format!("https://{address}")).await;
    sentence(&get(fabric.addresses.edge, "web", "/").await, 502, "upstream_refused");
    let _service = changeable(&fabric, ok(port.listen(64)), &[b"h2", b"http/1.1"]);
    let expected = Some("GET https://127.0.0.1/ HTTP/2.0");
    eventually("it is asked", async || seen(&fabric).await.as_deref() == expected).await;
}

fn checked(fabric: &Fabric, kind: Kind, address: &str) -> Agent {
    let mut endpoint = fabric.endpoint("web", kind, address);
    endpoint.health = Some(HealthCheck { probe: ok("/health".parse()), interval: Duration::from_millis(50) });
    ok(Agent::start(agent::Config::new(fabric.client(), vec![endpoint])))
}

#[tokio::test]
async fn health_is_asked_in_the_version_of_the_service() {
    let fabric = Fabric::start().await;
    let (service, _) = changeable(&fabric, ok(port().listen(64)), &[b"h2"]);
    let agent = checked(&fabric, Kind::Http, &format!("https://{}", service.address));
    ok(soon(agent.serve()).await);
    eventually("it is healthy", async || seen(&fabric).await.is_some()).await;

    let fabric = Fabric::start().await;
    let service = http2::http(reflect).await;
    let agent = checked(&fabric, Kind::Http2, &service.address.to_string());
    ok(soon(agent.serve()).await);
    eventually("it is healthy", async || seen(&fabric).await.is_some()).await;
}
