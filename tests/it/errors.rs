//! What clients are told when something fails: a status, a stable code in a header and in JSON, and a sentence that names
//! the thing. Serving goes on after each.

use std::{net::TcpListener, time::Duration};

use adit::{agent::Agent, protocol::Kind};
use bytes::Bytes;
use http::{Request, Response, header::HOST};
use tokio::io::AsyncWriteExt;

use crate::support::{
    Fabric,
    body::{channel, trickle},
    client::{Body, Http1, Http2, body, get, raw, request, request_of, sentence},
    fabric::Web,
    ok,
    service::{self, read_request},
};

#[tokio::test]
async fn requests_that_nobody_can_take_are_refused_and_the_connection_goes_on() {
    let service = service::mirror().await;
    let web = Web::through(
        Fabric::with(|config| {
            config.edge.limits.max_body_bytes = Some(1000);
            config.edge.limits.max_header_bytes = 10_000;
        })
        .await,
        service.address,
    )
    .await;
    let to = |host: &str| Request::get("/").header(HOST, host);
    let cases: [(u16, &str, &str, Request<Body>); 8] = [
        (400, "missing_endpoint", "x-adit-endpoint", ok(to("127.0.0.1:8000").body(body("")))),
        (400, "missing_endpoint", "x-adit-endpoint", ok(to("localhost").body(body("")))),
        (400, "invalid_endpoint", "' '", request("GET", "a b", "/", "")),
        (400, "invalid_endpoint", "'$'", ok(to("a$b.example.com").body(body("")))),
        (502, "no_upstream", "\"nobody\"", request("GET", "nobody", "/", "")),
        (502, "no_upstream", "\"nobody\"", request("POST", "nobody", "/", "content")),
        (431, "headers_too_large", "10000", {
            let mut request = request("GET", "web", "/", "");
            request.headers_mut().insert("x-large", ok("x".repeat(10_000).parse()));
            request
        }),
        (413, "body_too_large", "1000", request("POST", "web", "/", vec![0; 1001])),
    ];
    let mut client = Http1::connect(web.edge).await;
    for (status, code, named, request) in cases {
        let answer = client.ask(request).await;
        let sentence = sentence(&answer, status, code);
        assert!(sentence.contains(named), "{named} is not in: {sentence}");
        if client.is_closed() {
            // What is left of a body that nobody reads is in the way.
            assert_eq!(code, "body_too_large");
            client = Http1::connect(web.edge).await;
        }
    }
    assert_eq!(client.ask(request("POST", "web", "/", vec![0; 1000])).await.status, 200);
}

#[tokio::test]
async fn connect_is_not_allowed() {
    let fabric = Fabric::start().await;
    let head = "CONNECT 127.0.0.1:80 HTTP/1.1\r\nhost: 127.0.0.1:80\r\nconnection: close\r\n\r\n";
    let answer = raw(fabric.addresses.edge, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("x-adit-error: method_not_allowed\r\n"), "{answer}");
    assert!(answer.contains("CONNECT"), "{answer}");
}

#[tokio::test]
async fn a_body_without_a_length_is_cut_at_the_limit() {
    let service = service::mirror().await;
    let fabric = Fabric::with(|config| config.edge.limits.max_body_bytes = Some(1000)).await;
    let web = Web::through(fabric, service.address).await;
    let chunked =
        |size: u32| request_of("POST", "web", "/", trickle(size / 10, Duration::from_millis(1), vec![0; 10]));
    let mut client = Http1::connect(web.edge).await;
    assert_eq!(client.ask(chunked(1000)).await.status, 200);
    assert!(sentence(&client.ask(chunked(1010)).await, 413, "body_too_large").contains("1000"));
    let client = Http2::connect(web.edge).await;
    let over_http2 = |size: u32| {
        let body = trickle(size / 10, Duration::from_millis(1), vec![0; 10]);
        ok(Request::post("http://web.example.com/").body(body))
    };
    sentence(&client.ask(over_http2(1010)).await, 413, "body_too_large");
    assert_eq!(client.ask(over_http2(1000)).await.status, 200);
}

/// A client that has more to send than anybody reads must still get to read why.
#[tokio::test]
async fn the_answer_to_a_body_over_the_limit_arrives_though_the_client_sends_on() {
    let service = service::mirror().await;
    let fabric = Fabric::with(|config| config.edge.limits.max_body_bytes = Some(1000)).await;
    let web = Web::through(fabric, service.address).await;
    for _ in 0..20 {
        let with_length = request("POST", "web", "/", vec![0; 8 << 20]);
        sentence(&Http1::connect(web.edge).await.ask(with_length).await, 413, "body_too_large");
        let (sender, endless) = channel();
        let sending = async {
            let piece = Bytes::from(vec![0; 64 * 1024]);
            while sender.try_data(piece.clone()).await {}
        };
        let asking = async {
            let mut client = Http1::connect(web.edge).await;
            sentence(&client.ask(request_of("POST", "web", "/", endless)).await, 413, "body_too_large");
        };
        tokio::join!(sending, asking);
    }
}

#[tokio::test]
async fn heads_that_are_far_over_the_limit_are_refused_too() {
    let fabric = Fabric::with(|config| config.edge.limits.max_header_bytes = 10_000).await;
    let head = format!("GET / HTTP/1.1\r\nhost: web.example.com\r\nx-large: {}\r\n\r\n", "x".repeat(200_000));
    let answer = raw(fabric.addresses.edge, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_is_malformed_is_the_clients_mistake() {
    let service = service::mirror().await;
    let web = Web::to(service.address).await;
    let head = "POST / HTTP/1.1\r\nhost: web.example.com\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = raw(web.edge, format!("{head}zz\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("x-adit-error: request_broken\r\n"), "{answer}");
    assert_eq!(get(web.edge, "web", "/").await.status, 200);
}

/// Asks for endpoints behind services that cannot be reached, all at once; after each, a healthy one still answers.
async fn unreachable(fabric: &Fabric, cases: &[(&str, &str, &str, &str)]) {
    let healthy = service::mirror().await;
    let _healthy = fabric.agent("healthy", Kind::Http, healthy.address).await;
    let asked = cases.iter().enumerate().map(async |(number, (code, named, service, why))| {
        let endpoint = format!("e{number}");
        let _agent: Agent = fabric.agent(&endpoint, Kind::Http, service).await;
        let ask = async |method| {
            let mut client = Http1::connect(fabric.addresses.edge).await;
            let answer = client.ask(request(method, &endpoint, "/", "")).await;
            let sentence = sentence(&answer, 502, code);
            assert!(sentence.contains(named) && sentence.contains(why), "{named}, {why}: {sentence}");
            assert_eq!(client.ask(request("GET", "healthy", "/", "")).await.status, 200);
        };
        tokio::join!(ask("GET"), ask("POST"));
    });
    futures_util::future::join_all(asked).await;
}

#[tokio::test]
async fn a_service_that_cannot_be_reached_is_named_with_the_reason() {
    let fabric = Fabric::start().await;
    let refusing = service::refusing().to_string();
    let plain_service = service::mirror().await;
    let plain = plain_service.address.to_string();
    // A label of more than 63 characters is in no DNS, and is not asked for either.
    let no_name = format!("{}.invalid:80", "x".repeat(64));
    let not_tls = format!("https://{plain}");
    let cases = [
        ("upstream_refused", &*refusing, &*refusing, "refused"),
        ("upstream_tls", &*plain, &*not_tls, "TLS"),
        ("upstream_unreachable", ".invalid", &*no_name, "resolve"),
    ];
    unreachable(&fabric, &cases).await;
}

/// A port whose queue of connections is full, so that nobody answers there; and what keeps it so.
fn silent_port() -> (String, Vec<socket2::Socket>) {
    use socket2::{Domain, Socket, Type};
    let socket = || ok(Socket::new(Domain::IPV4, Type::STREAM, None));
    let listener = socket();
    ok(listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()));
    ok(listener.listen(0));
    let address = ok(listener.local_addr());
    let mut held = vec![listener];
    loop {
        let filler = socket();
        let connected = filler.connect_timeout(&address, Duration::from_millis(300));
        held.push(filler);
        if connected.is_err() {
            let address = address.as_socket().expect("it is an IP address");
            return (address.to_string(), held);
        }
        assert!(held.len() < 100, "the queue never fills");
    }
}

#[tokio::test]
async fn a_service_that_does_not_accept_in_time_is_named_with_the_reason() {
    let fabric = Fabric::start().await;
    let (silent, _held) = silent_port();
    // It accepts, but its TLS handshake never begins.
    let listener = ok(TcpListener::bind("127.0.0.1:0"));
    let mute = ok(listener.local_addr()).to_string();
    let mute_tls = format!("https://{mute}");
    let cases = [
        ("upstream_timeout", &*silent, &*silent, "within 5s"),
        ("upstream_timeout", &*mute, &*mute_tls, "within 5s"),
    ];
    unreachable(&fabric, &cases).await;
}

#[tokio::test]
async fn a_service_that_breaks_off_before_its_response_is_a_bad_gateway() {
    let service = service::tcp(|mut stream| async move {
        while let Some(request) = read_request(&mut stream).await {
            let answer: &[u8] = match request.split(' ').nth(1) {
                Some("/good") => service::OK,
                Some("/nonsense") => b"SSH-2.0-OpenSSH_9.9\r\n",
                Some("/half") => b"HTTP/1.1 200 OK\r\ncontent-le",
                _ => b"",
            };
            ok(stream.write_all(answer).await);
            if answer != service::OK {
                return;
            }
        }
    })
    .await;
    let web = Web::to(service.address).await;
    let mut client = Http1::connect(web.edge).await;
    for path in ["/nothing", "/nonsense", "/half"] {
        let answer = client.ask(request("POST", "web", path, "content")).await;
        assert!(sentence(&answer, 502, "upstream_broken").contains("before it responded"));
        assert_eq!(client.ask(request("GET", "web", "/good", "")).await.text(), "ok");
    }
}

#[tokio::test]
async fn a_services_own_errors_are_passed_on_but_not_its_claim_to_be_adit() {
    let service = service::http(|_| async {
        let response =
            Response::builder().status(502).header("x-adit-error", "no_upstream").header("x-other", "kept");
        ok(response.body(service::full("my own")))
    })
    .await;
    let web = Web::to(service.address).await;
    let answer = get(web.edge, "web", "/").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (502, "my own"));
    assert_eq!(answer.headers.get("x-adit-error"), None);
    assert_eq!(answer.headers["x-other"], "kept");
}

#[tokio::test]
async fn a_request_that_waits_when_its_agent_is_lost_is_told_so() {
    let service = service::tcp(|mut stream| async move {
        drop(read_request(&mut stream).await);
        std::future::pending::<()>().await;
    })
    .await;
    let Web { edge, agent, fabric: _fabric, .. } = Web::to(service.address).await;
    let waiting = get(edge, "web", "/");
    let lose = async {
        crate::support::eventually("the request is at the service", async || service.accepted() > 0).await;
        drop(agent);
    };
    let (answer, ()) = tokio::join!(waiting, lose);
    sentence(&answer, 502, "upstream_unreachable");
}
