//! HTTP/3 at the edge. What an independent client sees is looked at in `tests/interop/http3.py`.

use std::{
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use adit::{
    drain::Tasks,
    edge::{Http3, TlsConfig},
    node,
    protocol::Kind,
    tls::{self, Authority, Trust},
};
use bytes::{Buf, Bytes};
use h3::client::SendRequest;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::{io::AsyncWriteExt, sync::mpsc};

use crate::support::{
    Fabric, body::Body, client, client::Answer, cluster::Nodes, eventually, fabric::identity, kind, log::Log,
    ok, random, service, soon,
};

const HOST: &str = "web.example.com";

/// Gives a node an edge with TLS.
fn with_tls(config: &mut node::Config, authority: &Authority, http3: Http3) {
    let bind = ([127, 0, 0, 1], 0).into();
    config.edge.tls = Some(TlsConfig {
        bind,
        identities: vec![identity(authority, &[HOST])],
        clients: tls::ClientAuth::None,
        http3,
    });
}

/// One connection of a client.
struct Client {
    sender: SendRequest<h3_quinn::OpenStreams, Bytes>,
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
    tasks: Tasks,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

impl Client {
    async fn connect(edge: SocketAddr, authority: &Authority) -> Self {
        let trust = Trust::Roots(vec![authority.certificate().clone()]);
        let tls = ok(tls::client_config(&trust, None, &[b"h3"]));
        let crypto = ok(quinn::crypto::rustls::QuicClientConfig::try_from(tls));
        let mut endpoint = ok(quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()));
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
        let connection = ok(soon(ok(endpoint.connect(edge, HOST))).await);
        let (mut driver, sender) = ok(h3::client::new(h3_quinn::Connection::new(connection.clone())).await);
        let tasks = Tasks::new();
        tasks.spawn(async move { drop(poll_fn(|cx| driver.poll_close(cx)).await) });
        Self { sender, connection, _endpoint: endpoint, tasks }
    }

    async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: Bytes,
        trailers: HeaderMap,
    ) -> (Answer, HeaderMap) {
        let uri = format!("https://{HOST}{path}");
        let request = Request::builder().method(method).uri(uri).header("te", "trailers");
        // HTTP/1.1 has those trailers alone that it has announced.
        let request = ok(request.header("trailer", "x-end").body(()));
        let asked = async {
            let mut stream = ok(self.sender.send_request(request).await);
            if !body.is_empty() {
                ok(stream.send_data(body).await);
            }
            if !trailers.is_empty() {
                ok(stream.send_trailers(trailers).await);
            }
            ok(stream.finish().await);
            let (head, ()) = ok(stream.recv_response().await).into_parts();
            let mut received = Vec::new();
            while let Some(mut data) = ok(stream.recv_data().await) {
                received.extend_from_slice(&data.copy_to_bytes(data.remaining()));
            }
            let trailers = ok(stream.recv_trailers().await).unwrap_or_default();
            (Answer { status: head.status, headers: head.headers, body: received.into() }, trailers)
        };
        soon(asked).await
    }
}

/// Sends a request's body and trailers back as they come; `/none` has neither.
async fn echo() -> service::Running {
    service::http(|request| async move {
        let (head, body) = request.into_parts();
        let mut response = Response::new(Body::new(body.map_err(io::Error::other)));
        if head.uri.path() == "/none" {
            *response.body_mut() = Body::default();
            *response.status_mut() = StatusCode::NO_CONTENT;
        }
        if head.uri.path() == "/head" {
            *response.body_mut() = Body::default();
            response.headers_mut().insert("content-length", HeaderValue::from_static("1234"));
        }
        response.headers_mut().insert("trailer", HeaderValue::from_static("x-end"));
        response
    })
    .await
}

async fn everything_arrives(client: &mut Client) {
    let trailers = HeaderMap::from_iter([(ok("x-end".parse()), HeaderValue::from_static("yes"))]);
    let sent = random(2_000_000);
    let (answer, back) = client.ask("POST", "/", sent.clone(), trailers.clone()).await;
    assert_eq!((answer.status, answer.body == sent), (StatusCode::OK, true));
    assert_eq!(back, trailers);
    let (answer, _) = client.ask("GET", "/none", Bytes::new(), HeaderMap::new()).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::NO_CONTENT, 0));
    let (answer, _) = client.ask("HEAD", "/head", Bytes::new(), HeaderMap::new()).await;
    assert_eq!(answer.headers["content-length"], "1234");
    assert!(answer.body.is_empty());
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways_through_one_node_and_across_two() {
    let authority = ok(Authority::generate("edge authority"));
    let nodes = Nodes::with(2, |config| with_tls(config, &authority, Http3::Bound)).await;
    let service = echo().await;
    let _agent = nodes.all[1].agent("web", Kind::Http, service.address).await;
    nodes.serves(0, "web").await;
    for fabric in &nodes.all {
        let edge = fabric.addresses.edge_tls.expect("it has one");
        everything_arrives(&mut Client::connect(edge, &authority).await).await;
    }
    let metrics = client::get(nodes.all[0].addresses.admin, "", "/metrics").await;
    assert!(metrics.text().contains("adit_requests_total{protocol=\"h3\",status=\"2xx\"} 3"));
}

#[tokio::test]
async fn the_access_log_has_one_line_for_each_request() {
    let log = Log::of_this_thread();
    let authority = ok(Authority::generate("edge authority"));
    let fabric = Fabric::with(|config| {
        with_tls(config, &authority, Http3::Bound);
        config.access_log = Some(adit::access_log::Config::default());
    })
    .await;
    let service = echo().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let mut client = Client::connect(fabric.addresses.edge_tls.expect("it has one"), &authority).await;
    for (requests, size) in [(1, 0), (2, 100_000)] {
        client.ask("POST", "/a?secret", random(size), HeaderMap::new()).await;
        eventually("its line is there", async || log.lines("a request has ended").len() == requests).await;
        let line = log.lines("a request has ended").remove(requests - 1);
        let bytes = [format!("sent_bytes={size} "), format!("received_bytes={size} ")];
        let says =
            ["path=\"/a\"", "protocol=\"HTTP/3\"", "status=200", "ended=\"complete\"", &bytes[0], &bytes[1]];
        assert!(says.iter().all(|says| line.contains(says)) && !line.contains("secret"), "{line}");
    }
}

#[tokio::test]
async fn errors_are_told_as_in_other_versions() {
    let authority = ok(Authority::generate("edge authority"));
    let fabric = Fabric::with(|config| with_tls(config, &authority, Http3::Bound)).await;
    let mut client = Client::connect(fabric.addresses.edge_tls.expect("it has one"), &authority).await;
    let (answer, _) = client.ask("GET", "/", Bytes::new(), HeaderMap::new()).await;
    client::sentence(&answer, 502, "no_upstream");
}

#[tokio::test]
async fn a_client_that_gives_up_stops_the_service_before_and_after_its_response_begins() {
    let authority = ok(Authority::generate("edge authority"));
    let fabric = Fabric::with(|config| with_tls(config, &authority, Http3::Bound)).await;
    let (begun, mut asked) = mpsc::channel(8);
    let (gone, mut stopped) = mpsc::channel(8);
    let service = service::tcp(move |mut stream| {
        let (begun, gone) = (begun.clone(), gone.clone());
        async move {
            let head = service::read_head(&mut stream).await.expect("it is asked");
            ok(begun.send(()).await);
            if head.starts_with("GET /begun") {
                ok(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nx").await);
            }
            let (_, end) = service::drain(&mut stream).await;
            ok(gone.send(kind(end)).await);
        }
    });
    let service = service.await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let mut client = Client::connect(fabric.addresses.edge_tls.expect("it has one"), &authority).await;
    for path in ["/silent", "/begun"] {
        let request = ok(Request::get(format!("https://{HOST}{path}")).body(()));
        let mut stream = ok(client.sender.send_request(request).await);
        ok(stream.finish().await);
        assert_eq!(soon(asked.recv()).await, Some(()));
        if path == "/begun" {
            ok(soon(stream.recv_response()).await);
            ok(soon(stream.recv_data()).await);
        }
        // By quinn, that asks the edge to stop; h3-quinn's own way panics while something is read.
        drop(stream);
        assert_eq!(soon(stopped.recv()).await, Some(io::ErrorKind::ConnectionReset), "{path}");
    }
    assert!(client.connection.close_reason().is_none());
}

/// A node whose TLS has a port that is free for UDP too, where HTTP/3 is off, or is that of HTTP/3. Any that is free for TCP
/// will do, so another test may have it for UDP, and then there is another node.
async fn beside_udp(authority: &Authority, http3: Http3) -> Fabric {
    let mut told = String::new();
    for _ in 0..3 {
        let of_links = Arc::new(ok(Authority::generate("test authority")));
        match Fabric::try_of(of_links, |config| with_tls(config, authority, http3)).await {
            Ok(fabric) => {
                let edge = fabric.addresses.edge_tls.expect("it has one");
                if http3 != Http3::Off || std::net::UdpSocket::bind(edge).is_ok() {
                    return fabric;
                }
                told = format!("UDP {edge} is not free");
            }
            Err(error) => told = format!("{error:?}"),
        }
    }
    panic!("{told}");
}

#[tokio::test]
async fn clients_of_tls_are_told_of_the_port_unless_there_is_none() {
    let authority = ok(Authority::generate("edge authority"));
    let service = service::mirror().await;
    for (http3, expected) in [(Http3::Off, None), (Http3::Port(443), Some("h3=\":443\"; ma=86400"))] {
        // Where there is no HTTP/3, the UDP port is free.
        let fabric = beside_udp(&authority, http3).await;
        let _agent = fabric.agent("web", Kind::Http, service.address).await;
        let edge = fabric.addresses.edge_tls.expect("it has one");
        let trust = Trust::Roots(vec![authority.certificate().clone()]);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(ok(tls::client_config(&trust, None, &[]))));
        let stream = ok(tokio::net::TcpStream::connect(edge).await);
        let stream = ok(connector.connect(ok(HOST.try_into()), stream).await);
        let answer = client::Http1::over(stream).await.ask(client::request("GET", "web", "/", "")).await;
        assert_eq!(answer.headers.get("alt-svc").map(|value| ok(value.to_str())), expected);
        let clear = client::get(fabric.addresses.edge, "web", "/").await;
        assert_eq!(clear.headers.get("alt-svc"), None);
        assert!(expected.is_none() || std::net::UdpSocket::bind(edge).is_err(), "it has a port");
    }
}
