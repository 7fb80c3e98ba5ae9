//! Doors that a node puts before endpoints, by every way in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use adit::{
    auth::{Access, Door},
    edge::{self, udp},
    protocol::{Kind, TenantId},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderName, Request, StatusCode, header};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    time::Instant,
};

use crate::support::{
    Fabric,
    client::{Http1, Http2, body, metric, over_http2, request},
    eventually,
    log::Log,
    ok, service, soon,
    udp::Echo,
};

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Which addresses of loopback are denied.
const DENIED: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 9);

fn door(endpoints: &str, access: Access) -> Door {
    Door { tenant: TenantId::default(), endpoints: ok(endpoints.parse()), access }
}

async fn node() -> Fabric {
    let far = Access { deny: vec![ok("127.0.9.0/24".parse())], ..Access::default() };
    let login = Access {
        logins: vec![ok("ann:hunter2".parse())],
        headers: vec![ok("x-door=sesame".parse())],
        ..Access::default()
    };
    Fabric::with(|config| {
        config.auth.edge.doors = vec![door("*", far), door("web-*", login)].into();
        let port = |endpoint: &str| edge::Port { bind: ANY, endpoint: ok(endpoint.parse()) };
        config.edge.tcp = vec![port("tcp"), port("web-1")];
        config.udp.ports = vec![udp::Port { listen: ANY, endpoint: ok("udp".parse()) }];
    })
    .await
}

#[tokio::test]
async fn a_request_must_meet_every_demand_and_its_service_sees_none_of_them() {
    let fabric = node().await;
    let service = service::http(async |request: Request<Incoming>| {
        let seen = ["authorization", "x-door", "x-other"];
        let seen = seen.map(|name| request.headers().get(name).map_or("-", |value| ok(value.to_str())));
        http::Response::new(body(seen.join(" ")))
    })
    .await;
    let _agents = [
        fabric.agent("web-1", Kind::Http, service.address).await,
        fabric.agent("open", Kind::Http, service.address).await,
    ];
    let basic = |login: &str| format!("Basic {}", BASE64_STANDARD.encode(login));
    let (good, bad) = (basic("ann:hunter2"), basic("ann:hunter3"));
    let (login, sesame) = (header::AUTHORIZATION, HeaderName::from_static("x-door"));
    for (endpoint, fields, status, code) in [
        ("open", vec![], 200, ""),
        ("web-1", vec![(&login, good.as_str()), (&sesame, "sesame")], 200, ""),
        ("web-1", vec![(&login, good.as_str())], 403, "header_required"),
        ("web-1", vec![(&login, good.as_str()), (&sesame, "other")], 403, "header_required"),
        ("web-1", vec![(&sesame, "sesame")], 401, "login_required"),
        ("web-1", vec![(&login, bad.as_str()), (&sesame, "sesame")], 401, "login_required"),
    ] {
        let ask = || {
            let mut request = request("GET", endpoint, "/", "");
            request.headers_mut().insert("x-other", ok("yes".parse()));
            for (name, value) in &fields {
                request.headers_mut().insert(*name, ok(value.parse()));
            }
            request
        };
        let edge = fabric.addresses.edge;
        for answer in [
            soon(Http1::connect(edge).await.ask(ask())).await,
            soon(Http2::connect(edge).await.ask(over_http2(ask()))).await,
        ] {
            assert_eq!(answer.status.as_u16(), status, "{endpoint} {fields:?}");
            if status == 200 {
                assert_eq!(answer.text(), "- - yes", "{endpoint} {fields:?}");
                continue;
            }
            assert_eq!(answer.error().0, code);
            assert_eq!(answer.headers.contains_key(header::WWW_AUTHENTICATE), status == 401);
        }
    }
    let admin = fabric.addresses.admin;
    assert_eq!(metric(admin, "adit_auth_refused_total{port=\"edge\",reason=\"login_required\"}").await, 4);
}

#[tokio::test]
async fn an_address_that_is_denied_reaches_an_endpoint_by_no_port() {
    let fabric = node().await;
    let (echo, datagrams) = (service::echo().await, Echo::start().await);
    let _agents = [
        fabric.agent("tcp", Kind::Tcp, echo.address).await,
        fabric.agent("web-1", Kind::Tcp, echo.address).await,
        fabric.agent("udp", Kind::Udp, datagrams.address).await,
        fabric.agent("open", Kind::Http, service::refusing()).await,
    ];
    let connect = async |from: Ipv4Addr, to: SocketAddr| {
        let socket = ok(TcpSocket::new_v4());
        ok(socket.bind((from, 0).into()));
        ok(soon(socket.connect(to)).await)
    };
    let echoes = async |from: Ipv4Addr, to: SocketAddr| {
        let mut stream = connect(from, to).await;
        stream.write_all(b"there?").await.is_ok() && soon(stream.read_exact(&mut [0; 6])).await.is_ok()
    };
    let [tcp, web] = [0, 1].map(|index: usize| fabric.addresses.tcp[index].bind);
    assert!(echoes(Ipv4Addr::LOCALHOST, tcp).await && !echoes(DENIED, tcp).await);
    // A door that asks for more than TCP can show is shut.
    assert!(!echoes(Ipv4Addr::LOCALHOST, web).await);
    let stream = connect(DENIED, fabric.addresses.edge).await;
    let answer = soon(Http1::over(stream).await.ask(request("GET", "open", "/", ""))).await;
    assert_eq!((answer.status, answer.error().0.as_str()), (StatusCode::FORBIDDEN, "address_denied"));

    let port = fabric.node.as_ref().expect("it runs").udp_ports()[0].listen;
    let denied = ok(tokio::net::UdpSocket::bind((DENIED, 0)).await);
    ok(denied.send_to(b"there?", port).await);
    let counted = "adit_auth_refused_total{port=\"edge\",reason=\"address_denied\"}";
    eventually("it is refused", async || metric(fabric.addresses.admin, counted).await == 3).await;
    assert_eq!(datagrams.clients(), 0);
    let allowed = ok(tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await);
    ok(allowed.send_to(b"there?", port).await);
    assert_eq!(ok(soon(allowed.recv(&mut [0; 6])).await), 6);
}

#[tokio::test]
async fn a_flood_of_packets_is_counted_in_full_and_floods_no_log() {
    let log = Log::of_this_thread();
    let fabric = node().await;
    let port = fabric.node.as_ref().expect("it runs").udp_ports()[0].listen;
    let began = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..200 {
        let client = ok(tokio::net::UdpSocket::bind((DENIED, 0)).await);
        ok(client.send_to(b"there?", port).await);
        clients.push(client);
    }
    let counted = "adit_auth_refused_total{port=\"edge\",reason=\"address_denied\"}";
    let count = async || metric(fabric.addresses.admin, counted).await;
    eventually("each is counted", async || count().await == 200).await;
    let lines = log.lines("adit::access");
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap_or(usize::MAX);
    assert!((1..=seconds + 1).contains(&lines.len()), "{} lines in {seconds} s", lines.len());
    let says = ["client=127.0.9.9:", "endpoint=udp", "code=\"address_denied\""];
    assert!(says.iter().all(|says| lines[0].contains(says)), "{}", lines[0]);
    let others = log.lines("others=").len();
    assert_eq!(others, lines.len() - 1, "each but the first says how many were left out");
}
