//! An endpoint's door holds at its agent, whichever node a client came in by and however: logins, header fields, addresses.

use std::{fs, net::SocketAddr};

use adit::{
    agent::{self, Agent, HttpOptions, Rewrite},
    auth::Access,
    client::{Client, DialError},
    protocol::{Code, EndpointId, Kind, Refusal},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode, header};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};

use crate::support::{
    Fabric,
    client::{Answer, Body, Http1, request},
    cluster::Nodes,
    eventually,
    fabric::forwarder_of,
    log::Log,
    ok,
    process::Process,
    random,
    service::{self, Running},
    soon,
    udp::{Client as UdpClient, Echo, UDP},
    websocket,
};

fn logins() -> Access {
    Access {
        logins: vec![ok("ann:hunter2".parse()), ok("bob:swordfish".parse())],
        headers: vec![ok("x-door=open sesame".parse())],
        ..Access::default()
    }
}

/// Lets in who comes from 127.0.0.1, and nobody else of this machine.
fn first_address() -> Access {
    Access { allow: vec![ok("127.0.0.1/32".parse())], ..Access::default() }
}

/// Keeps out who comes from 127.0.0.2.
fn not_the_second() -> Access {
    Access { deny: vec![ok("127.0.0.2/32".parse())], ..Access::default() }
}

/// An endpoint with a door behind nodes; clients come in at the first, the agent is at the last.
struct Web {
    edge: SocketAddr,
    _agent: Agent,
    nodes: Nodes,
}

impl Web {
    async fn to(service: SocketAddr, door: Access, http: Option<HttpOptions>, nodes: usize) -> Self {
        let nodes = Nodes::start(nodes).await;
        let fabric = nodes.all.last().expect("there is a node");
        let mut endpoint = fabric.endpoint("web", Kind::Http, service);
        (endpoint.door, endpoint.http) = (door, http);
        let mut client = fabric.client();
        client.links = 1;
        let agent = ok(Agent::start(agent::Config::new(client, vec![endpoint])));
        ok(soon(agent.serve()).await);
        nodes.knows(0, "web").await;
        Self { edge: nodes.edge(0), _agent: agent, nodes }
    }
}

fn basic(login: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(login))
}

fn with(mut request: Request<Body>, fields: &[(&'static str, &str)]) -> Request<Body> {
    for (name, value) in fields {
        request.headers_mut().append(*name, ok(value.parse()));
    }
    request
}

/// The status and the code of a refusal by an agent.
fn refusal(answer: &Answer) -> (u16, String) {
    let json: serde_json::Value = ok(serde_json::from_slice(&answer.body));
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    assert!(json["error"].as_str().is_some_and(|sentence| sentence.contains(' ')), "{json}");
    (answer.status.as_u16(), json["code"].as_str().unwrap_or_default().to_owned())
}

fn denied(status: u16, code: &str) -> (u16, String) {
    (status, code.into())
}

/// A connection to an address from one of this machine's.
async fn from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = ok(TcpSocket::new_v4());
    ok(socket.bind(ok(format!("{source}:0").parse())));
    ok(soon(socket.connect(to)).await)
}

#[tokio::test]
async fn a_request_comes_in_with_a_login_and_the_header_and_the_service_sees_neither() {
    let service = service::mirror().await;
    let rewrite =
        Rewrite { set: vec![ok("authorization=Bearer of-the-agent".parse())], ..Rewrite::default() };
    let own = HttpOptions { rewrite, ..HttpOptions::default() };
    for (nodes, http) in [(1, None), (2, Some(own))] {
        let web = Web::to(service.address, logins(), http.clone(), nodes).await;
        let mut client = Http1::connect(web.edge).await;
        let mut ask = async |login: Option<&str>, door: Option<&str>| {
            let login = login.map(basic);
            let fields = [("authorization", login.as_deref()), ("x-door", door)];
            let given: Vec<_> =
                fields.iter().filter_map(|(name, value)| value.map(|value| (*name, value))).collect();
            client.ask(with(request("GET", "web", "/", ""), &given)).await
        };
        for _ in 0..2 {
            let (good, door) = (Some("ann:hunter2"), Some("open sesame"));
            for bad in [None, Some("ann:swordfish"), Some("ann"), Some("")] {
                let answer = ask(bad, door).await;
                assert_eq!(refusal(&answer), denied(401, "login_required"), "{bad:?}");
                assert_eq!(answer.headers[header::WWW_AUTHENTICATE], r#"Basic realm="web", charset="UTF-8""#);
            }
            for bad in [None, Some("open"), Some("")] {
                let answer = ask(good, bad).await;
                assert_eq!(refusal(&answer), denied(403, "header_required"), "{bad:?}");
                assert!(!answer.headers.contains_key(header::WWW_AUTHENTICATE));
            }
            for login in ["ann:hunter2", "bob:swordfish"] {
                let answer = ask(Some(login), door).await;
                assert_eq!(answer.status, StatusCode::OK);
                let seen = answer.text();
                assert!(!seen.contains("Basic ") && !seen.contains("x-door"), "{seen}");
                assert_eq!(seen.contains("authorization: Bearer of-the-agent"), http.is_some(), "{seen}");
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_leaves_the_connection_as_it_was_and_one_of_an_upload_is_told_too() {
    let service = service::mirror().await;
    let web = Web::to(service.address, logins(), None, 1).await;
    let mut client = Http1::connect(web.edge).await;
    let (login, door) = (basic("ann:hunter2"), ("x-door", "open sesame"));
    let good: [(&str, &str); 2] = [("authorization", &login), door];
    for method in ["GET", "HEAD", "OPTIONS"] {
        assert_eq!(
            client.ask(request(method, "web", "/", "")).await.status,
            StatusCode::FORBIDDEN,
            "{method}"
        );
        assert_eq!(
            client.ask(with(request(method, "web", "/", ""), &good)).await.status,
            StatusCode::OK,
            "{method}"
        );
    }
    assert_eq!(service.accepted(), 1, "the flow goes on, and with it the service's connection");
    for size in [10, 100_000, 3_000_000] {
        let content: Bytes = random(size);
        let answer =
            soon(Http1::connect(web.edge).await.ask(with(request("POST", "web", "/", content), &[door])))
                .await;
        assert_eq!(refusal(&answer), denied(401, "login_required"), "{size}");
        let content: Bytes = vec![b'a'; size].into();
        let answer =
            soon(Http1::connect(web.edge).await.ask(with(request("POST", "web", "/", content), &good))).await;
        assert_eq!(answer.status, StatusCode::OK, "{size}");
    }
}

#[tokio::test]
async fn an_upgrade_passes_the_door_too() {
    let service = websocket::echo().await;
    for nodes in [1, 2] {
        let web = Web::to(service.address, logins(), None, nodes).await;
        let open = async |fields: &[(&'static str, &str)]| {
            let mut request = ok("ws://127.0.0.1/socket".into_client_request());
            for (name, value) in [("x-adit-endpoint", "web")].iter().chain(fields) {
                request.headers_mut().insert(*name, ok(value.parse()));
            }
            tokio_tungstenite::client_async(request, ok(TcpStream::connect(web.edge).await)).await
        };
        let door = ("x-door", "open sesame");
        match soon(open(&[door])).await {
            Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 401),
            other => panic!("{other:?}"),
        }
        let (mut socket, _) = ok(soon(open(&[door, ("authorization", &basic("bob:swordfish"))])).await);
        ok(socket.send(Message::text("hello")).await);
        assert_eq!(ok(soon(socket.next()).await.expect("it answers")), Message::text("hello"));
    }
    assert_eq!(service.accepted(), 2, "the flow of a refused one is good for the next");
}

/// What a client may say to be taken for somebody else.
const FORGED: [(&str, &str); 6] = [
    ("x-forwarded-for", "127.0.0.1"),
    ("x-forwarded-for", "127.0.0.1, 127.0.0.1"),
    ("forwarded", "for=127.0.0.1"),
    ("x-real-ip", "127.0.0.1"),
    ("x-adit-client", "127.0.0.1"),
    ("connection", "x-forwarded-for"),
];

#[tokio::test]
async fn only_the_address_that_a_node_has_seen_counts_and_never_what_a_client_says() {
    let service = service::mirror().await;
    for (door, nodes) in [(first_address(), 1), (not_the_second(), 2)] {
        let web = Web::to(service.address, door, None, nodes).await;
        let ask = async |source: &str, fields: &[(&'static str, &str)]| {
            let mut client = Http1::over(from(source, web.edge).await).await;
            client.ask(with(request("GET", "web", "/", ""), fields)).await
        };
        assert_eq!(ask("127.0.0.1", &[]).await.status, StatusCode::OK);
        assert_eq!(ask("127.0.0.1", &[("x-forwarded-for", "127.0.0.2")]).await.status, StatusCode::OK);
        for forged in FORGED {
            let answer = ask("127.0.0.2", &[forged]).await;
            assert_eq!(refusal(&answer), denied(403, "address_denied"), "{forged:?}");
        }
        let answer = ask("127.0.0.2", &FORGED).await;
        assert_eq!(refusal(&answer), denied(403, "address_denied"));
    }
}

/// A request as a forwarder carries it: bytes.
async fn ask_port(mut stream: TcpStream, fields: &[(&str, &str)]) -> String {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    ok(stream
        .write_all(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}connection: close\r\n\r\n").as_bytes())
        .await);
    let mut answer = String::new();
    ok(soon(stream.read_to_string(&mut answer)).await);
    answer
}

#[tokio::test]
async fn requests_that_come_as_bytes_pass_the_same_door_and_their_address_is_the_flows() {
    let service = service::mirror().await;
    let web = Web::to(service.address, Access { allow: first_address().allow, ..logins() }, None, 2).await;
    let (_forwarder, port) = web.nodes.all[0].forwarder("web").await;
    let login = basic("ann:hunter2");
    let good = [("authorization", login.as_str()), ("x-door", "open sesame")];
    assert!(ask_port(from("127.0.0.1", port).await, &good).await.starts_with("HTTP/1.1 200 "));
    let answer = ask_port(from("127.0.0.1", port).await, &good[1..]).await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains(r#"realm="web""#), "{answer}");
    for forged in FORGED.iter().filter(|(name, _)| *name != "connection") {
        let answer = ask_port(from("127.0.0.2", port).await, &[&good[..], &[*forged]].concat()).await;
        assert!(
            answer.starts_with("HTTP/1.1 403 ") && answer.contains("address_denied"),
            "{forged:?}: {answer}"
        );
    }

    let client = ok(Client::new(web.nodes.all[0].client()));
    let mut flow = ok(client.dial(&ok(EndpointId::new("web"))).await);
    ok(flow
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 127.0.0.1\r\nconnection: close\r\n\r\n")
        .await);
    let mut answer = String::new();
    ok(soon(flow.read_to_string(&mut answer)).await);
    assert!(answer.starts_with("HTTP/1.1 403 "), "nobody says whose it is: {answer}");
}

/// The code of a refused flow.
fn code<T>(dialled: Result<T, DialError>) -> Option<Code> {
    match dialled {
        Err(DialError::Refused(Refusal { code, .. })) => Some(code),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    }
}

#[tokio::test]
async fn flows_of_bytes_and_of_packets_come_in_by_their_clients_address() {
    let (echo, packets) = (service::echo().await, Echo::start().await);
    let fabric = Fabric::start().await;
    let serve = async |endpoint: &str, kind, service: SocketAddr, door: Access| {
        ok(fabric.agent_with(endpoint, kind, service, |endpoint| endpoint.door = door).await)
    };
    let _agents = (
        serve("allow", Kind::Tcp, echo.address, first_address()).await,
        serve("deny", Kind::Tcp, echo.address, not_the_second()).await,
        serve("allow-udp", Kind::Udp, packets.address, first_address()).await,
        serve("deny-udp", Kind::Udp, packets.address, not_the_second()).await,
    );
    let client = ok(Client::new(fabric.client()));
    let (first, second) = ("127.0.0.1:7".parse().ok(), "127.0.0.2:7".parse().ok());
    let mapped = "[::ffff:127.0.0.2]:7".parse().ok();
    for endpoint in ["allow", "deny"] {
        let (bytes, packets) =
            (ok(EndpointId::new(endpoint)), ok(EndpointId::new(&format!("{endpoint}-udp"))));
        for (address, expected) in [
            (first, None),
            (second, Some(Code::Forbidden)),
            (mapped, Some(Code::Forbidden)),
            // Who it is is not known, so it may be anybody.
            (None, Some(Code::Forbidden)),
        ] {
            assert_eq!(code(client.dial_for(&bytes, address).await), expected, "{endpoint} {address:?}");
            assert_eq!(
                code(client.associate_for(&packets, address).await),
                expected,
                "{endpoint} {address:?}"
            );
        }
    }
    let before = echo.accepted();
    let (_forwarder, port) = fabric.forwarder("allow").await;
    let mut stream = from("127.0.0.2", port).await;
    assert!(matches!(soon(stream.read(&mut [0; 1])).await, Err(_) | Ok(0)), "it is ended");
    assert_eq!(echo.accepted(), before, "the service was not asked");
    let mut stream = from("127.0.0.1", port).await;
    ok(stream.write_all(b"x").await);
    assert_eq!(ok(soon(stream.read_u8()).await), b'x');
    let (_udp, port) = forwarder_of(fabric.client(), "allow-udp", UDP).await;
    assert_eq!(UdpClient::of(port).await.ask(b"hello").await, b"hello");
}

#[tokio::test]
async fn an_agent_that_keeps_one_client_out_is_not_passed_over_for_others() {
    let (guarded, open) = (service::echo().await, service::echo().await);
    let fabric = Fabric::start().await;
    let serve = async |service: &Running, door: Access| {
        ok(fabric.agent_with("tcp", Kind::Tcp, service.address, |endpoint| endpoint.door = door).await)
    };
    let _agents = (serve(&guarded, not_the_second()).await, serve(&open, Access::default()).await);
    let client = ok(Client::new(fabric.client()));
    let dial =
        async |address: &str| ok(client.dial_for(&ok(EndpointId::new("tcp")), address.parse().ok()).await);
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(dial("127.0.0.2:7").await);
    }
    assert_eq!((guarded.accepted(), open.accepted()), (0, 3), "who is kept out by one comes in by the other");
    // It has less to do than the other.
    kept.push(dial("127.0.0.1:7").await);
    assert_eq!((guarded.accepted(), open.accepted()), (1, 3));
}

#[tokio::test]
async fn a_door_for_requests_stays_shut_where_requests_are_not_read() {
    let service = service::echo().await;
    let fabric = Fabric::start().await;
    for kind in [Kind::Tcp, Kind::Http2] {
        let agent =
            fabric.agent_with("shut", kind, service.address, |endpoint| endpoint.door = logins()).await;
        let agent = ok(agent);
        let client = ok(Client::new(fabric.client()));
        let dialled = client.dial_for(&ok(EndpointId::new("shut")), "127.0.0.1:7".parse().ok()).await;
        assert_eq!(code(dialled), Some(Code::Forbidden), "{kind:?}");
        ok(soon(agent.drain(std::time::Duration::from_secs(5))).await);
    }
    assert_eq!(service.accepted(), 0);
}

#[tokio::test]
async fn who_is_refused_is_in_the_access_log_and_what_was_shown_is_not() {
    let log = Log::of_this_thread();
    let service = service::mirror().await;
    let http = HttpOptions { access_log: true, ..HttpOptions::default() };
    let door = Access { allow: first_address().allow, ..logins() };
    let web = Web::to(service.address, door, Some(http), 1).await;
    for (source, login, status) in [
        ("127.0.0.1", "ann:wrong-word", 401),
        ("127.0.0.2", "ann:hunter2", 403),
        ("127.0.0.1", "ann:hunter2", 200),
    ] {
        let fields: [(&str, &str); 2] = [("authorization", &basic(login)), ("x-door", "open sesame")];
        let mut client = Http1::over(from(source, web.edge).await).await;
        client.ask(with(request("GET", "web", "/", ""), &fields)).await;
        eventually("it is logged", async || log.lines(&format!("status={status} ")).len() == 1).await;
        let line = log.lines(&format!("status={status} ")).remove(0);
        assert!(line.contains("adit::access") && line.contains(&format!("client={source} ")), "{line}");
        let code = match status {
            401 => "code=\"login_required\"",
            403 => "code=\"address_denied\"",
            _ => "",
        };
        assert!(line.contains(code) && (line.contains("code=") == (status != 200)), "{line}");
    }
    for secret in ["wrong-word", "hunter2", "sesame", &BASE64_STANDARD.encode("ann:hunter2")] {
        assert_eq!(log.lines(secret), [""; 0]);
    }
}

#[tokio::test]
async fn who_is_refused_is_logged_once_also_where_no_access_log_was_asked_for() {
    let log = Log::of_this_thread();
    let service = service::mirror().await;
    let web = Web::to(service.address, logins(), None, 1).await;
    let door = not_the_second();
    let tcp = web.nodes.all[0].agent_with("tcp", Kind::Tcp, service.address, |endpoint| endpoint.door = door);
    let _tcp = ok(tcp.await);
    let mut client = Http1::connect(web.edge).await;
    for (login, lines) in [("ann:wrong-word", 1), ("ann:hunter2", 1), ("ann:other-word", 2)] {
        let fields: [(&str, &str); 2] = [("authorization", &basic(login)), ("x-door", "open sesame")];
        client.ask(with(request("GET", "web", "/path?query", ""), &fields)).await;
        eventually("it is logged", async || log.lines("adit::access").len() >= lines).await;
        let all = log.lines("adit::access");
        assert_eq!(all.len(), lines, "{all:?}");
        let line = all.last().expect("there is one");
        for says in [
            "INFO",
            "endpoint=web",
            "client=127.0.0.1 ",
            "path=\"/path\"",
            "status=401",
            "code=\"login_required\"",
        ] {
            assert!(line.contains(says), "{says}: {line}");
        }
    }
    let dialled = ok(Client::new(web.nodes.all[0].client()));
    let dialled = dialled.dial_for(&ok(EndpointId::new("tcp")), "127.0.0.2:7".parse().ok()).await;
    assert_eq!(code(dialled), Some(Code::Forbidden));
    let lines = log.lines("a flow was refused");
    let says = ["adit::access", "INFO", "endpoint=tcp", "client=127.0.0.2:7", "code=\"address_denied\""];
    assert!(lines.len() == 1 && says.iter().all(|says| lines[0].contains(says)), "{lines:?}");
    for secret in ["wrong-word", "other-word", "hunter2", "sesame"] {
        assert_eq!(log.lines(secret), [""; 0]);
    }
}

/// Asks through a node with and without the credentials until the endpoint is served.
async fn is_behind_a_door(edge: SocketAddr, endpoint: &str, fields: &[(&'static str, &str)]) {
    let ask = async |fields: &[(&'static str, &str)]| {
        Http1::connect(edge).await.ask(with(request("GET", endpoint, "/", ""), fields)).await.status
    };
    eventually("it is served", async || ask(fields).await == StatusCode::OK).await;
    assert!(matches!(ask(&[]).await, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), "{endpoint}");
}

#[tokio::test]
async fn doors_are_set_by_flags_by_the_environment_and_by_the_file_and_never_shown() {
    let folder = ok(tempfile::tempdir());
    let any = "127.0.0.1:0";
    let binds = ["--edge-bind", any, "--link-bind", any, "--admin-bind", any, "--peer-bind", any];
    let node = Process::start(folder.path(), &[&["node"], &binds[..]].concat());
    let (edge, link) = (node.address("edge"), node.address("link").to_string());
    let Running { address, .. } = &service::mirror().await;
    let service = address.to_string();
    let login = basic("ann:hunter2");
    let login: [(&str, &str); 1] = [("authorization", &login)];

    let flags =
        ["agent", "http", "flags", &service, "--connect", &link, "--require-header", "x-door=hunter2"];
    let environment = ["agent", "http", "environment", &service, "--connect", &link, "--log-level", "debug"];
    let file = folder.path().join("agent.toml");
    ok(fs::write(
        &file,
        format!(
            "connect = '{link}'\n[[endpoint]]\nname = 'file'\naddress = '{service}'\nbasic-auth = ['ann:hunter2', 'b:c']\n\
             [[endpoint]]\nname = 'elsewhere'\naddress = '{service}'\ndeny = '127.0.0.0/8'\n"
        ),
    ));
    let run = ["agent", "run", "--config", &ok(file.into_os_string().into_string())];
    let by_environment = [("ADIT_BASIC_AUTH", "ann:hunter2,b:c")];
    let agents = [
        Process::start(folder.path(), &flags),
        Process::start_in(folder.path(), &environment, &by_environment),
        Process::start(folder.path(), &run),
    ];
    is_behind_a_door(edge, "flags", &[("x-door", "hunter2")]).await;
    is_behind_a_door(edge, "environment", &login).await;
    is_behind_a_door(edge, "file", &login).await;
    let elsewhere = Http1::connect(edge).await.ask(with(request("GET", "elsewhere", "/", ""), &login)).await;
    assert_eq!(refusal(&elsewhere), denied(403, "address_denied"));
    for agent in &agents {
        assert_eq!(agent.logged("hunter2"), [""; 0]);
    }
    let mut help = Process::start_in(folder.path(), &["agent", "http", "--help"], &by_environment);
    assert_eq!(help.wait_in_time().await, Some(0));
    assert!(help.line_with("USER:PASSWORD").contains("--basic-auth"));
    let mut wrong = Process::start_in(folder.path(), &environment, &[("ADIT_BASIC_AUTH", "hunter2")]);
    assert_eq!(wrong.wait_in_time().await, Some(2));
    assert!(!wrong.logged("--basic-auth of environment cannot be used: expected NAME:PASSWORD").is_empty());
    assert_eq!(wrong.logged("hunter2"), [""; 0]);
}
