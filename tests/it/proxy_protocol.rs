//! The PROXY protocol: balancers tell the edge whose a connection is, and agents tell their services.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use adit::{
    agent::{self, Agent, HealthCheck, Probe, ProxyVersion},
    node,
    protocol::Kind,
};
use http::{Request, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{
    Fabric,
    client::{Http1, Http2, body, raw, request},
    cluster::Nodes,
    eventually,
    fabric::{Web, identity},
    http2, ok,
    program::{Server, output, tool},
    service::{self, Running, drain, read_head, read_request},
    soon,
};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 with these bytes behind its signature.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    [V2, &[command, family], &ok(u16::try_from(rest.len())).to_be_bytes(), rest].concat()
}

const ADDRESSES: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0, 80];

/// Trusts balancers on loopback, and has a port for each kind of door.
fn balanced(config: &mut node::Config) {
    config.edge.balancers = vec![ok("127.0.0.0/8".parse())];
    doors(config);
}

fn doors(config: &mut node::Config) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    config.edge.sni = Some(any);
    config.edge.tcp = vec![adit::edge::Port { bind: any, endpoint: ok("tcp".parse()) }];
}

/// What the edge answers to a request behind these bytes.
async fn answer_behind(edge: SocketAddr, header: &[u8]) -> String {
    let request = b"GET / HTTP/1.1\r\nhost: web.example.com\r\nconnection: close\r\n\r\n";
    raw(edge, &[header, request].concat()).await
}

#[tokio::test]
async fn a_listed_balancer_says_whose_a_request_is() {
    let service = service::mirror().await;
    let web = Web::through(Fabric::with(balanced).await, service.address).await;
    let with_more = [ADDRESSES, &[0x20, 0, 3, 1, 2, 3], &[0xee, 3, 0], &[7; 0x300]].concat();
    let of_ipv6 = [[0x20; 16], [0x30; 16]].concat();
    for (header, client) in [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 80\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 80\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:192.0.2.8 ::1 40000 80\r\n".to_vec(), "192.0.2.8"),
        (v2(0x21, 0x11, ADDRESSES), "192.0.2.7"),
        (v2(0x21, 0x21, &[&of_ipv6[..], &[0, 1, 0, 2]].concat()), "2020:2020:2020:2020:2020:2020:2020:2020"),
        (v2(0x21, 0x11, &with_more), "192.0.2.7"),
        // The balancer's own: a health check.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x20, 0, &[]), "127.0.0.1"),
        (v2(0x20, 0x11, ADDRESSES), "127.0.0.1"),
        // Of a family that is not of the internet.
        (v2(0x21, 0x31, &[0; 216]), "127.0.0.1"),
    ] {
        let answer = answer_behind(web.edge, &header).await;
        assert!(answer.contains(&format!("\nx-forwarded-for: {client}\n")), "{client}: {answer}");
    }
    assert_eq!(web.fabric.refused("proxy_header").await, 0);
}

#[tokio::test]
async fn a_header_that_comes_byte_by_byte_is_read_and_nothing_behind_it() {
    let service = service::mirror().await;
    let web = Web::through(Fabric::with(balanced).await, service.address).await;
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 80\r\n".to_vec();
    for header in [line, v2(0x21, 0x11, ADDRESSES)] {
        let mut stream = ok(TcpStream::connect(web.edge).await);
        ok(stream.set_nodelay(true));
        let request = b"GET / HTTP/1.1\r\nhost: web.example.com\r\nconnection: close\r\n\r\n";
        for byte in header.iter().chain(request) {
            ok(stream.write_u8(*byte).await);
            tokio::task::yield_now().await;
        }
        let mut answer = String::new();
        ok(soon(stream.read_to_string(&mut answer)).await);
        assert!(answer.contains("\nx-forwarded-for: 192.0.2.7\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_listed_balancer_without_a_good_header_is_refused() {
    let service = service::mirror().await;
    let web = Web::through(Fabric::with(balanced).await, service.address).await;
    let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
    let bad = [
        b"".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 40000\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.999 198.51.100.1 40000 80\r\n".to_vec(),
        b"PROXY TCP6 192.0.2.7 198.51.100.1 40000 80\r\n".to_vec(),
        b"PROXY UDP4 192.0.2.7 198.51.100.1 40000 80\r\n".to_vec(),
        long,
        v2(0x31, 0x11, ADDRESSES),
        v2(0x21, 0x11, &ADDRESSES[..11]),
        v2(0x21, 0x11, &[ADDRESSES, &[0; 5000]].concat()),
    ];
    for (number, header) in (1..).zip(&bad) {
        let mut stream = ok(TcpStream::connect(web.edge).await);
        let request = b"GET / HTTP/1.1\r\nhost: web.example.com\r\n\r\n";
        ok(stream.write_all(&[header, &request[..]].concat()).await);
        // A reset, where what was sent is not read to its end.
        assert_eq!(soon(drain(&mut stream)).await.0, 0, "{header:?}");
        eventually("it is counted", async || web.fabric.refused("proxy_header").await == number).await;
    }
    assert_eq!(service.accepted(), 0);
}

#[tokio::test]
async fn a_listed_balancer_that_says_nothing_is_let_go_after_ten_seconds() {
    let fabric = Fabric::with(balanced).await;
    let mut silent = ok(TcpStream::connect(fabric.addresses.edge).await);
    let mut halfway = ok(TcpStream::connect(fabric.addresses.tcp[0].bind).await);
    ok(halfway.write_all(b"PROXY TCP4 ").await);
    let (one, two) = soon(async { tokio::join!(drain(&mut silent), drain(&mut halfway)) }).await;
    assert_eq!((one.0, two.0), (0, 0));
    eventually("both are counted", async || fabric.refused("proxy_header").await == 2).await;
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let service = service::mirror().await;
    let others = |config: &mut node::Config| config.edge.balancers = vec![ok("10.0.0.0/8".parse())];
    for fabric in [Fabric::with(others).await, Fabric::start().await] {
        let web = Web::through(fabric, service.address).await;
        let answer = answer_behind(web.edge, b"").await;
        assert!(answer.contains("\nx-forwarded-for: 127.0.0.1\n"), "{answer}");
        let answer = answer_behind(web.edge, b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 80\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && !answer.contains("192.0.2.7"), "{answer}");
    }
}

#[tokio::test]
async fn curl_is_a_balancer_too() {
    let Some(curl) = tool("curl") else { return };
    let service = service::mirror().await;
    let web = Web::through(Fabric::with(balanced).await, service.address).await;
    let mut command = std::process::Command::new(curl);
    command.args([
        "-sS",
        "--haproxy-protocol",
        "-H",
        "x-adit-endpoint: web",
        &format!("http://{}/", web.edge),
    ]);
    let printed = output(command).await;
    let (told, error) = (String::from_utf8_lossy(&printed.stdout), String::from_utf8_lossy(&printed.stderr));
    assert!(told.contains("\nx-forwarded-for: 127.0.0.1\n"), "{told}{error}");
    assert_eq!(web.fabric.refused("proxy_header").await, 0);
}

/// Has an endpoint's service told whose each connection is.
fn told(version: ProxyVersion) -> impl FnOnce(&mut agent::Endpoint) {
    move |endpoint| endpoint.service = endpoint.service.clone().with_proxy_protocol(Some(version))
}

/// The line that version 1 begins with.
async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(ok(stream.read_u8().await));
    }
    ok(String::from_utf8(line)).trim_end().to_owned()
}

/// A service that sends back the header of each connection, and then all else.
async fn parrot() -> Running {
    service::tcp(|mut stream| async move {
        let line = read_line(&mut stream).await;
        ok(stream.write_all(format!("{line}\n").as_bytes()).await);
        let (mut read, mut write) = stream.split();
        ok(tokio::io::copy(&mut read, &mut write).await);
    })
    .await
}

/// What a service says that sends back all: `hello` behind the header of version 1.
async fn talk(mut stream: TcpStream) -> String {
    ok(stream.write_all(b"hello").await);
    ok(stream.shutdown().await);
    let mut all = String::new();
    ok(soon(stream.read_to_string(&mut all)).await);
    all
}

fn line(client: SocketAddr, server: SocketAddr) -> String {
    let (client_ip, client, server_ip, server) = (client.ip(), client.port(), server.ip(), server.port());
    format!("PROXY TCP4 {client_ip} {server_ip} {client} {server}")
}

#[tokio::test]
async fn a_tcp_service_learns_both_ends_of_each_connection_over_one_node_and_two() {
    let service = parrot().await;
    let one = Fabric::with(doors).await;
    let _agent = ok(one.agent_with("tcp", Kind::Tcp, service.address, told(ProxyVersion::V1)).await);
    let two = Nodes::with(2, doors).await;
    let (_other, entry) =
        two.agent_elsewhere_with("tcp", Kind::Tcp, service.address, told(ProxyVersion::V1)).await;
    for fabric in [&one, &two.all[entry]] {
        let port = fabric.addresses.tcp[0].bind;
        for _ in 0..2 {
            let stream = ok(TcpStream::connect(port).await);
            let client = ok(stream.local_addr());
            assert_eq!(talk(stream).await, format!("{}\nhello", line(client, port)));
        }
        // A forwarder says who its client is, and not where that came to.
        let (_forwarder, port) = fabric.forwarder("tcp").await;
        let stream = ok(TcpStream::connect(port).await);
        let client = ok(stream.local_addr());
        let none = SocketAddr::from(([0, 0, 0, 0], 0));
        assert_eq!(talk(stream).await, format!("{}\nhello", line(client, none)));
    }
}

#[tokio::test]
async fn version_2_is_sent_as_its_specification_has_it() {
    let service = service::echo().await;
    let fabric = Fabric::with(doors).await;
    let _agent = ok(fabric.agent_with("tcp", Kind::Tcp, service.address, told(ProxyVersion::V2)).await);
    let port = fabric.addresses.tcp[0].bind;
    let mut stream = ok(TcpStream::connect(port).await);
    let client = ok(stream.local_addr());
    ok(stream.write_all(b"hello").await);
    ok(stream.shutdown().await);
    let mut all = Vec::new();
    ok(soon(stream.read_to_end(&mut all)).await);
    let ports = [client.port().to_be_bytes(), port.port().to_be_bytes()].concat();
    let addresses = [&[127, 0, 0, 1, 127, 0, 0, 1], &ports[..]].concat();
    assert_eq!(all, [v2(0x21, 0x11, &addresses), b"hello".to_vec()].concat());
}

#[tokio::test]
async fn what_a_balancer_says_reaches_the_service_through_every_door() {
    let service = parrot().await;
    let fabric = Fabric::with(|config| {
        balanced(config);
        // As far as this one.
        config.edge.balancers = vec![ok("127.0.0.1/32".parse())];
    })
    .await;
    let _agent = ok(fabric.agent_with("tcp", Kind::Tcp, service.address, told(ProxyVersion::V1)).await);
    let header = "PROXY TCP4 192.0.2.7 198.51.100.1 40000 80";
    let mut stream = ok(TcpStream::connect(fabric.addresses.tcp[0].bind).await);
    ok(stream.write_all(format!("{header}\r\n").as_bytes()).await);
    assert_eq!(talk(stream).await, format!("{header}\nhello"));

    // A ClientHello for tcp.example.com that is enough for the node; the service sends it back.
    let name = b"\0\0\0\x14\0\x12\0\0\x0ftcp.example.com";
    let rest = [&b"\0\0\x02\xc0\x2b\x01\0\0\x20\0\x0d\0\x04\0\x02\x04\x03"[..], name].concat();
    let hello = [&b"\x16\x03\x01\0\x4f\x01\0\0\x4b\x03\x03"[..], &[7; 32], &rest].concat();
    let mut stream = ok(TcpStream::connect(fabric.addresses.edge_sni.expect("it has one")).await);
    ok(stream.write_all(&[format!("{header}\r\n").as_bytes(), &hello].concat()).await);
    ok(stream.shutdown().await);
    let mut all = Vec::new();
    ok(soon(stream.read_to_end(&mut all)).await);
    assert_eq!(all, [format!("{header}\n").as_bytes(), &hello].concat());
}

#[tokio::test]
async fn https_behind_a_balancer_is_the_clients() {
    let service = service::mirror().await;
    let fabric = Fabric::with(|config| {
        balanced(config);
        let authority = ok(adit::tls::Authority::generate("another authority"));
        config.edge.tls = Some(adit::edge::TlsConfig {
            bind: ([127, 0, 0, 1], 0).into(),
            identities: vec![identity(&authority, &["web.example.com"])],
            clients: adit::tls::ClientAuth::None,
            http3: adit::edge::Http3::Off,
        });
    })
    .await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let mut stream = ok(TcpStream::connect(fabric.addresses.edge_tls.expect("it has one")).await);
    ok(stream.write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 80\r\n").await);
    let config = ok(adit::tls::client_config(&adit::tls::Trust::Insecure, None, &[b"http/1.1"]));
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = ok(rustls::pki_types::ServerName::try_from("web.example.com"));
    let stream = ok(soon(connector.connect(name, stream)).await);
    let answer = Http1::over(stream).await.ask(request("GET", "web", "/", "")).await;
    assert!(answer.text().contains("\nx-forwarded-for: 192.0.2.7\n"), "{}", answer.text());
}

/// A service of HTTP/1.1 that answers each request with the header of its connection.
async fn telling() -> Running {
    service::tcp(|mut stream| async move {
        let line = read_line(&mut stream).await;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
        while read_request(&mut stream).await.is_some() {
            ok(stream.write_all(answer.as_bytes()).await);
        }
    })
    .await
}

/// The edges of one node, and of a node to which the agent is not linked, with what they need.
async fn one_node_and_two(kind: Kind, service: SocketAddr) -> (Fabric, Nodes, [Agent; 2], [SocketAddr; 2]) {
    let (one, two) = (Fabric::start().await, Nodes::start(2).await);
    let near = ok(one.agent_with("web", kind, service, told(ProxyVersion::V1)).await);
    let (far, entry) = two.agent_elsewhere_with("web", kind, service, told(ProxyVersion::V1)).await;
    let edges = [one.addresses.edge, two.edge(entry)];
    (one, two, [near, far], edges)
}

/// Asks such a service, which must have been told this.
async fn is_told(client: &mut Http1, method: &str, told: &str) {
    let answer = client.ask(request(method, "web", "/", "")).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, told));
}

#[tokio::test]
async fn requests_of_two_clients_never_share_a_connection_of_a_service_that_is_told_whose_it_is() {
    let service = telling().await;
    let (_one, _two, _agents, edges) = one_node_and_two(Kind::Http, service.address).await;
    for edge in edges {
        let before = service.accepted();
        let mut clients = Vec::new();
        for _ in 0..3 {
            let stream = ok(TcpStream::connect(edge).await);
            let told = line(ok(stream.local_addr()), edge);
            clients.push((Http1::over(stream).await, told));
        }
        for _ in 0..10 {
            for (client, told) in &mut clients {
                is_told(client, "GET", told).await;
            }
        }
        assert_eq!(service.accepted() - before, 3, "and each client's share one");
        for _ in 0..10 {
            for (client, told) in &mut clients {
                let began = Instant::now();
                is_told(client, "GET", told).await;
                let before = service.accepted();
                is_told(client, "POST", told).await;
                // One that was used longer ago is not for a POST.
                let fresh = began.elapsed() < Duration::from_secs(1);
                assert!(!fresh || service.accepted() == before, "a POST shares it too");
            }
        }

        let stream = ok(TcpStream::connect(edge).await);
        let told = line(ok(stream.local_addr()), edge);
        let client = Http2::over(stream).await;
        let asked = (0..20).map(|_| client.ask(ok(Request::get("http://web.example.com/").body(body("")))));
        for answer in soon(futures_util::future::join_all(asked)).await {
            assert_eq!(answer.text(), told);
        }
    }
}

#[tokio::test]
async fn http2_of_two_clients_is_kept_apart_too() {
    let service = service::tcp(|mut stream| async move {
        let line = read_line(&mut stream).await;
        http2::connection(stream, move |_| {
            let line = line.clone();
            async move { http::Response::new(service::full(line)) }
        })
        .await;
    })
    .await;
    let (_one, _two, _agents, edges) = one_node_and_two(Kind::Http2, service.address).await;
    for edge in edges {
        let before = service.accepted();
        let mut clients = Vec::new();
        for _ in 0..3 {
            let stream = ok(TcpStream::connect(edge).await);
            let told = line(ok(stream.local_addr()), edge);
            clients.push((Http2::over(stream).await, told));
        }
        let asked = clients.iter().flat_map(|(client, told)| {
            (0..10).map(move |_| async move {
                let request = ok(Request::get("http://web.example.com/").body(body("")));
                assert_eq!(client.ask(request).await.text(), told);
            })
        });
        soon(futures_util::future::join_all(asked)).await;
        assert_eq!(service.accepted() - before, 3, "and each client's share one");
    }
}

#[tokio::test]
async fn a_service_with_tls_is_told_before_its_handshake_and_a_health_check_is_nobodys() {
    let fabric = Fabric::with(doors).await;
    let acceptor = TlsAcceptor::from(fabric.service_tls(&["127.0.0.1"], &[]));
    let (lines, mut told_lines) = mpsc::channel(64);
    let service = service::tcp(move |mut stream| {
        let (acceptor, lines) = (acceptor.clone(), lines.clone());
        async move {
            ok(lines.send(read_line(&mut stream).await).await);
            if let Ok(mut stream) = acceptor.accept(stream).await {
                drop(stream.write_all(b"ready").await);
                drop(stream.shutdown().await);
            }
        }
    })
    .await;
    let change = |endpoint: &mut agent::Endpoint| {
        told(ProxyVersion::V1)(endpoint);
        endpoint.health = Some(HealthCheck { probe: Probe::Connect, interval: Duration::from_secs(60) });
    };
    let address = format!("tls://{}", service.address);
    let _agent = ok(fabric.agent_with("tcp", Kind::Tcp, address, change).await);
    assert_eq!(soon(told_lines.recv()).await.as_deref(), Some("PROXY UNKNOWN"));
    let port = fabric.addresses.tcp[0].bind;
    let mut stream = ok(TcpStream::connect(port).await);
    let client = ok(stream.local_addr());
    let mut greeting = String::new();
    ok(soon(stream.read_to_string(&mut greeting)).await);
    assert_eq!((greeting.as_str(), soon(told_lines.recv()).await), ("ready", Some(line(client, port))));
}

/// A service where `/login` answers 401 and begins a login of its connection, and all else says which connection it is.
async fn with_logins(scheme: &'static str) -> Running {
    let connections = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    service::tcp(move |mut stream| {
        let number = connections.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move {
            while let Some(head) = read_head(&mut stream).await {
                let (status, field) = match head.starts_with("GET /login ") {
                    true => ("401 Unauthorized", format!("www-authenticate: {scheme}\r\n")),
                    false => ("200 OK", String::new()),
                };
                let body = number.to_string();
                let length = body.len();
                let answer = format!("HTTP/1.1 {status}\r\n{field}content-length: {length}\r\n\r\n{body}");
                ok(stream.write_all(answer.as_bytes()).await);
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_on_which_a_client_has_begun_to_log_in_is_not_shared() {
    for (scheme, shared) in [("NTLM", false), ("Negotiate TlRM", false), ("Basic realm=\"a\"", true)] {
        let service = with_logins(scheme).await;
        let two = Nodes::start(2).await;
        let (_agent, entry) = two.agent_elsewhere("web", Kind::Http, service.address).await;
        let edge = two.edge(entry);
        let get = async |client: &mut Http1, path: &str| {
            client.ask(request("GET", "web", path, "")).await.text().to_owned()
        };
        let (mut one, mut two) = (Http1::connect(edge).await, Http1::connect(edge).await);
        let before = get(&mut two, "/").await;
        assert_eq!(get(&mut one, "/").await, before, "at first they share");
        let login = get(&mut one, "/login").await;
        assert_eq!(login, before);
        for _ in 0..5 {
            assert_eq!(get(&mut two, "/").await == login, shared, "{scheme}: the other client");
            assert_eq!(get(&mut one, "/").await, login, "{scheme}: the client itself");
        }
        assert_eq!(service.accepted(), if shared { 1 } else { 2 });
    }
}

#[tokio::test]
async fn a_client_that_begins_with_its_credentials_is_alone_as_well() {
    let service = with_logins("Basic realm=\"a\"").await;
    let web = Web::to(service.address).await;
    let (mut one, mut two) = (Http1::connect(web.edge).await, Http1::connect(web.edge).await);
    let mut login = request("GET", "web", "/", "");
    login.headers_mut().insert("authorization", http::HeaderValue::from_static("Negotiate YIIK"));
    let own = one.ask(login).await.text().to_owned();
    assert_ne!(two.ask(request("GET", "web", "/", "")).await.text(), own);
    assert_eq!(one.ask(request("GET", "web", "/", "")).await.text(), own);
}

/// nginx where it is installed, as a service that takes the protocol and answers with what it has understood.
async fn nginx() -> Option<Server> {
    let told =
        "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port";
    let http =
        |address, _: &Path| format!("server {{ listen {address} proxy_protocol; return 200 \"{told}\"; }}");
    Server::nginx(http).await
}

#[tokio::test]
async fn nginx_understands_both_versions() {
    let Some(nginx) = nginx().await else { return };
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let fabric = Fabric::start().await;
        let _agent = ok(fabric.agent_with("web", Kind::Http, nginx.address, told(version)).await);
        let edge = fabric.addresses.edge;
        let stream = ok(TcpStream::connect(edge).await);
        let told = format!("127.0.0.1 {} 127.0.0.1 {}", ok(stream.local_addr()).port(), edge.port());
        let answer = Http1::over(stream).await.ask(request("GET", "web", "/", "")).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, told.as_str()), "{version:?}");
    }
}
