//! Who believes whom: agents their node, clients the edge, agents their service.

use std::{net::SocketAddr, sync::Arc};

use adit::{
    client::{self, State, Transport},
    edge::{Http3, TlsConfig},
    protocol::{ALPN_LINK, Kind},
    tls::{self, Authority, Fingerprint, Identity, Trust},
};
use futures_util::{SinkExt, StreamExt};
use http::Request;
use rustls::pki_types::ServerName;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Fabric,
    client::{Http1, Http2, assert_counted, body, get, request, sentence},
    fabric::{TcpPath, Web, identity, linked_over},
    ok,
    service::{self, read_request},
    soon, websocket,
};

fn other_authority() -> Authority {
    ok(Authority::generate("another authority"))
}

fn with_trust(fabric: &Fabric, trust: &Trust) -> client::Config {
    let mut config = fabric.client();
    config.tls = ok(tls::client_config(trust, None, &[ALPN_LINK]));
    config
}

/// Why an agent with this configuration does not link.
async fn why_not(fabric: &Fabric, config: client::Config) -> String {
    let agent = fabric.start_agent(config, &[("web", Kind::Http, "1".into())]);
    let mut state = agent.client().agent_state();
    let failed = async {
        tokio::select! {
            served = agent.serve() => panic!("it linked: {served:?}"),
            state = state.wait_for(|state| matches!(state, State::Connecting { error: Some(_) })) => ok(state).clone(),
        }
    };
    let State::Connecting { error: Some(why) } = soon(failed).await else {
        unreachable!("it was waited for")
    };
    why
}

/// Runs a check with links over QUIC, and over WebSocket.
async fn over_either(check: impl AsyncFn()) {
    check().await;
    linked_over(Transport::WebSocket, check()).await;
}

#[tokio::test]
async fn an_agent_does_not_link_to_a_node_that_it_does_not_trust_and_says_why() {
    over_either(a_node_that_is_not_trusted_is_not_linked_to).await;
}

async fn a_node_that_is_not_trusted_is_not_linked_to() {
    let fabric = Fabric::start().await;
    let wrong_authority = with_trust(&fabric, &Trust::Roots(vec![other_authority().certificate().clone()]));
    let mut wrong_name = fabric.client();
    wrong_name.server_name = Some("other.example.com".into());
    let other = identity(&other_authority(), &["localhost"]);
    let wrong_pin = with_trust(&fabric, &Trust::Pins(vec![other.fingerprint()]));
    let pin = fabric.config.link.identity.fingerprint().to_string();
    let not_pinned = format!("the server's certificate is {pin}, which is not pinned: if this");
    for (config, cause) in
        [(wrong_authority, "UnknownIssuer"), (wrong_name, "other.example.com"), (wrong_pin, &not_pinned)]
    {
        let why = why_not(&fabric, config).await;
        assert!(why.contains(cause), "{cause} is not in: {why}");
        assert!(why.contains(&fabric.addresses.link.to_string()), "the address is not in: {why}");
        assert!(why.contains("--pin") || cause == "other.example.com", "the way out is not in: {why}");
        assert!(!why.contains("OtherError"), "text for programmers is in: {why}");
    }
    assert_eq!(get(fabric.addresses.edge, "web", "/").await.error().0, "no_upstream");
}

#[tokio::test]
async fn an_agent_links_by_the_right_pin_by_a_given_name_and_without_any_check() {
    over_either(a_node_that_is_trusted_is_linked_to).await;
}

async fn a_node_that_is_trusted_is_linked_to() {
    let fabric = Fabric::with(|config| {
        config.link.identity = identity(&other_authority(), &["node.example.com"]);
    })
    .await;
    let service = service::mirror().await;
    let pins = Trust::Pins(vec![
        identity(&other_authority(), &["x.example.com"]).fingerprint(),
        fabric.config.link.identity.fingerprint(),
    ]);
    for trust in [pins, Trust::Insecure] {
        let address = service.address.to_string();
        let agent = fabric.start_agent(with_trust(&fabric, &trust), &[("web", Kind::Http, address)]);
        ok(soon(agent.serve()).await);
        assert_eq!(get(fabric.addresses.edge, "web", "/").await.status, 200);
    }

    let authority = other_authority();
    let fabric =
        Fabric::with(|config| config.link.identity = identity(&authority, &["node.example.com"])).await;
    let mut by_name = with_trust(&fabric, &Trust::Roots(vec![authority.certificate().clone()]));
    by_name.server_name = Some("node.example.com".into());
    let agent = fabric.start_agent(by_name, &[("web", Kind::Http, service.address.to_string())]);
    ok(soon(agent.serve()).await);
}

/// A node whose edge has TLS too, with certificates of these names, and what its clients need.
struct TlsEdge {
    web: Web,
    address: SocketAddr,
    authority: Authority,
    identities: Vec<Identity>,
}

impl TlsEdge {
    async fn to(service: SocketAddr, names: &[&str]) -> Self {
        let authority = other_authority();
        let identities: Vec<_> = names.iter().map(|name| identity(&authority, &[name])).collect();
        let edge = TlsConfig {
            bind: ([127, 0, 0, 1], 0).into(),
            identities: identities.clone(),
            clients: tls::ClientAuth::None,
            http3: Http3::Bound,
        };
        let web = Web::through(Fabric::with(|config| config.edge.tls = Some(edge)).await, service).await;
        let address = web.fabric.addresses.edge_tls.expect("it was asked for");
        Self { web, address, authority, identities }
    }

    async fn connect(&self, name: &str, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let trust = Trust::Roots(vec![self.authority.certificate().clone()]);
        let connector = TlsConnector::from(Arc::new(ok(tls::client_config(&trust, None, alpn))));
        let name = ok(ServerName::try_from(name.to_owned()));
        soon(connector.connect(name, ok(TcpStream::connect(self.address).await))).await
    }
}

#[tokio::test]
async fn the_edge_speaks_the_version_that_tls_agrees_on() {
    let service = service::mirror().await;
    let edge = TlsEdge::to(service.address, &["web.example.com"]).await;
    let protocol = |stream: &TlsStream<TcpStream>| stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);

    let stream = ok(edge.connect("web.example.com", &[b"h2", b"http/1.1"]).await);
    assert_eq!(protocol(&stream).as_deref(), Some(&b"h2"[..]));
    let over_http2 = ok(Request::get("https://web.example.com/a").body(body("")));
    let answer = Http2::over(stream).await.ask(over_http2).await;
    assert!(answer.text().contains("x-forwarded-proto: https\n"), "{}", answer.text());
    assert!(answer.text().contains("proto=https"), "{}", answer.text());

    for alpn in [&[&b"http/1.1"[..]][..], &[]] {
        let stream = ok(edge.connect("web.example.com", alpn).await);
        assert_eq!(protocol(&stream), alpn.first().map(|protocol| protocol.to_vec()));
        let answer = Http1::over(stream).await.ask(request("GET", "web", "/", "")).await;
        assert!(answer.text().contains("x-forwarded-proto: https\n"), "{}", answer.text());
    }
    // The port in the clear stays beside it.
    assert!(get(edge.web.edge, "web", "/").await.text().contains("x-forwarded-proto: http\n"));
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let service = service::mirror().await;
    let edge = TlsEdge::to(service.address, &["web.example.com", "*.example.org", "a.example.org"]).await;
    let shown = async |name: &str| {
        let stream = ok(edge.connect(name, &[]).await);
        Fingerprint::of(&stream.get_ref().1.peer_certificates().expect("it is verified")[0])
    };
    for (name, number) in [("web.example.com", 0), ("b.example.org", 1), ("a.example.org", 2)] {
        assert_eq!(shown(name).await, edge.identities[number].fingerprint(), "{name}");
    }
    // For any other name the first is shown, which is not for it.
    let refused = edge.connect("other.example.net", &[]).await.expect_err("it is for another name");
    assert!(refused.to_string().contains("other.example.net"), "{refused}");
}

#[tokio::test]
async fn websockets_pass_over_tls_on_both_sides() {
    let socket = websocket::echo().await;
    let edge = TlsEdge::to(socket.address, &["web.example.com"]).await;
    let stream = ok(edge.connect("web.example.com", &[b"http/1.1"]).await);
    let (mut socket, _) = ok(websocket::connect_over(stream, "web").await);
    for size in [5, 1 << 20] {
        let message = Message::binary(crate::support::random(size));
        ok(socket.send(message.clone()).await);
        assert!(ok(soon(socket.next()).await.expect("it is open")) == message);
    }
    ok(socket.close(None).await);
    assert!(ok(soon(socket.next()).await.expect("the answer to the closing")).is_close());
}

#[tokio::test]
async fn a_service_with_tls_is_verified_by_authority_and_name() {
    let fabric = Fabric::start().await;
    let serve = |mut stream: tokio_rustls::server::TlsStream<TcpStream>| async move {
        while read_request(&mut stream).await.is_some() {
            ok(stream.write_all(service::OK).await);
        }
    };
    let unknown = identity(&other_authority(), &["localhost"]);
    let unknown = Arc::new(ok(tls::server_config(&[unknown], tls::ClientAuth::None, &[])));
    let good = service::tls(fabric.service_tls(&["localhost", "127.0.0.1"], &[]), serve).await;
    let unknown = service::tls(unknown, serve).await;
    let other_name = service::tls(fabric.service_tls(&["other.example.com"], &[]), serve).await;
    let _agents = [
        fabric.agent("good", Kind::Http, format!("https://localhost:{}", good.address.port())).await,
        fabric.agent("by-address", Kind::Http, format!("https://{}", good.address)).await,
        fabric.agent("unknown", Kind::Http, format!("https://localhost:{}", unknown.address.port())).await,
        fabric
            .agent("other-name", Kind::Http, format!("https://localhost:{}", other_name.address.port()))
            .await,
    ];
    let mut client = Http1::connect(fabric.addresses.edge).await;
    assert_eq!(client.ask(request("GET", "good", "/", "")).await.text(), "ok");
    assert_eq!(client.ask(request("GET", "by-address", "/", "")).await.text(), "ok");
    let answer = client.ask(request("GET", "unknown", "/", "")).await;
    assert!(sentence(&answer, 502, "upstream_tls").contains("UnknownIssuer"), "{}", answer.text());
    let answer = client.ask(request("GET", "other-name", "/", "")).await;
    assert!(sentence(&answer, 502, "upstream_tls").contains("not valid for name"), "{}", answer.text());
}

#[tokio::test]
async fn half_close_passes_through_tls_to_a_service() {
    let fabric = Fabric::start().await;
    let service = service::tls(fabric.service_tls(&["127.0.0.1"], &[]), service::tell_count).await;
    let path = TcpPath::through(fabric, format!("tls://{}", service.address)).await;
    assert_counted(path.connect().await, 100_000).await;
}

#[tokio::test]
async fn the_next_address_of_a_services_name_is_tried_when_one_fails() {
    let fabric = Fabric::start().await;
    let localhost: Vec<_> =
        ok(tokio::net::lookup_host("localhost:0").await).map(|address| address.ip()).collect();
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let address: SocketAddr = ok(bind.parse());
        if !localhost.contains(&address.ip()) {
            // This host's localhost has one family alone.
            continue;
        }
        let service = service::tcp_at(bind, |mut stream| async move {
            while read_request(&mut stream).await.is_some() {
                ok(stream.write_all(service::OK).await);
            }
        })
        .await;
        let _agent = fabric.agent("web", Kind::Http, format!("localhost:{}", service.address.port())).await;
        assert_eq!(get(fabric.addresses.edge, "web", "/").await.text(), "ok", "{bind}");
    }
}

#[tokio::test]
async fn a_service_that_closes_without_tlss_goodbye_loses_nothing() {
    let fabric = Fabric::start().await;
    let service = service::tls(fabric.service_tls(&["127.0.0.1"], &[]), |mut stream| async move {
        if read_request(&mut stream).await.is_some() {
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3000000\r\n\r\n";
            ok(stream.write_all(head.as_bytes()).await);
            ok(stream.write_all(&vec![7; 3_000_000]).await);
            ok(stream.flush().await);
            ok(stream.get_mut().0.shutdown().await);
        }
    })
    .await;
    let _agent = fabric.agent("web", Kind::Http, format!("https://{}", service.address)).await;
    for _ in 0..5 {
        assert_eq!(get(fabric.addresses.edge, "web", "/").await.body.len(), 3_000_000);
    }
}
