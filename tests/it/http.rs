//! HTTP through one node: both versions, what a proxy changes and what it leaves.

use std::{sync::Arc, time::Duration};

use adit::protocol::Kind;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, mpsc},
};

use crate::support::{
    Fabric,
    client::{Http1, Http2, body, get, raw, request},
    fabric::Web,
    http2, ok,
    service::{self, Running, read_head, read_request},
    soon,
};

#[tokio::test]
async fn a_request_reaches_the_service_and_its_response_comes_back() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let mut client = Http1::connect(fabric.addresses.edge).await;
    let answer = client.ask(request("POST", "web", "/a/b?c=d", "hello")).await;
    assert_eq!(answer.status, StatusCode::OK);
    let client_ip = "127.0.0.1";
    assert_eq!(
        answer.text(),
        format!(
            "POST /a/b?c=d HTTP/1.1\ncontent-length: 5\nforwarded: for={client_ip};proto=http;host=127.0.0.1\n\
             host: 127.0.0.1\nx-forwarded-for: {client_ip}\nx-forwarded-host: 127.0.0.1\n\
             x-forwarded-proto: http\n\nhello"
        )
    );
}

#[tokio::test]
async fn the_host_names_the_endpoint() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let mut client = Http1::connect(fabric.addresses.edge).await;
    let by_host = ok(Request::get("/").header(header::HOST, "Web.example.com:80").body(body("")));
    let answer = client.ask(by_host).await;
    assert!(answer.text().contains("host: Web.example.com:80"), "Host is kept: {}", answer.text());
    // An absolute target's host rules over the Host field (RFC 9112 §3.2.2).
    let absolute = ok(Request::get("http://web.test/x").header(header::HOST, "other.test").body(body("")));
    let answer = client.ask(absolute).await;
    assert!(answer.text().starts_with("GET /x HTTP/1.1\n"), "{}", answer.text());
    assert!(answer.text().contains("host: web.test"), "{}", answer.text());
}

#[tokio::test]
async fn http2_by_prior_knowledge_is_understood_on_the_plain_port() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let client = Http2::connect(fabric.addresses.edge).await;
    let by_host = ok(Request::post("http://web.example.com/x").body(body("hello")));
    let answer = client.ask(by_host).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.text().starts_with("POST /x HTTP/1.1\n"), "{}", answer.text());
    assert!(answer.text().contains("host: web.example.com\n"), "{}", answer.text());
    assert!(answer.text().ends_with("\n\nhello"), "{}", answer.text());
    let unknown = client.ask(ok(Request::get("http://nobody.example.com/").body(body("")))).await;
    assert_eq!((unknown.status, unknown.error().0.as_str()), (StatusCode::BAD_GATEWAY, "no_upstream"));
}

#[tokio::test]
async fn ipv6_endpoints_and_services_work_like_ipv4() {
    let fabric = Fabric::with(|config| {
        let any = ([0u16, 0, 0, 0, 0, 0, 0, 1], 0).into();
        (config.edge.bind, config.link.bind, config.admin.bind) = (any, any, any);
    })
    .await;
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let answer = get(fabric.addresses.edge, "web", "/").await;
    assert!(answer.text().contains("forwarded: for=\"[::1]\""), "{}", answer.text());
}

/// A service that answers each request with the same bytes, and in them, for `{head}`, the request's own head.
async fn verbatim(answer: &'static str) -> Running {
    service::tcp(move |mut stream| async move {
        while let Some(request) = read_request(&mut stream).await {
            let answer = match answer.split_once("{head}") {
                None => answer.to_owned(),
                Some((fields, _)) => format!("{fields}content-length: {}\r\n\r\n{}", request.len(), request),
            };
            ok(stream.write_all(answer.as_bytes()).await);
        }
    })
    .await
}

/// The fields of a head with this name, in their order.
fn fields<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

const CLOSE: &str = "host: web.example.com\r\nconnection: close\r\n";

#[tokio::test]
async fn fields_for_one_hop_end_there() {
    let service = verbatim(
        "HTTP/1.1 200 OK\r\nConnection: X-From-Service, keep-alive\r\nX-From-Service: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Authenticate: Basic\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nX-Kept-Back: 1\r\n{head}",
    )
    .await;
    let web = Web::to(service.address).await;
    let answer = raw(
        web.edge,
        b"GET / HTTP/1.1\r\nHost: web.example.com\r\nConnection: close, X-From-Client\r\nX-From-Client: 1\r\n\
          Keep-Alive: timeout=5\r\nProxy-Authorization: Basic eDp5\r\nProxy-Connection: close\r\nTE: gzip\r\n\
          Upgrade: h2c\r\nX-Kept: 1\r\nTrailer: x-sum\r\n\r\n",
    )
    .await;
    let (to_client, to_service) = answer.split_once("\r\n\r\n").expect("a response with a body");
    for name in [
        "x-from-client",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "upgrade",
        "connection",
    ] {
        assert_eq!(fields(to_service, name), [""; 0], "{name}: {to_service}");
    }
    assert_eq!(fields(to_service, "x-kept"), ["1"]);
    for name in ["x-from-service", "keep-alive", "proxy-authenticate", "proxy-connection", "upgrade"] {
        assert_eq!(fields(to_client, name), [""; 0], "{name}: {to_client}");
    }
    assert_eq!(fields(to_client, "x-kept-back"), ["1"]);
}

#[tokio::test]
async fn repeated_fields_keep_their_number_and_order_both_ways() {
    let service = verbatim(
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nX-Other: 1\r\nSet-Cookie: b=2, 3\r\nset-cookie: a=4\r\n{head}",
    )
    .await;
    let web = Web::to(service.address).await;
    let head = format!(
        "GET / HTTP/1.1\r\n{CLOSE}X-Many: 1\r\nCookie: a=1\r\nX-Many: 2, 3\r\ncookie: b=2\r\nx-many:\r\n\r\n"
    );
    let answer = raw(web.edge, head.as_bytes()).await;
    let (to_client, to_service) = answer.split_once("\r\n\r\n").expect("a response with a body");
    assert_eq!(fields(to_service, "x-many"), ["1", "2, 3", ""]);
    assert_eq!(fields(to_service, "cookie"), ["a=1", "b=2"]);
    assert_eq!(fields(to_client, "set-cookie"), ["a=1; Path=/", "b=2, 3", "a=4"]);
}

#[tokio::test]
async fn cookies_that_http2_has_taken_apart_are_one_field_again() {
    let service = verbatim("HTTP/1.1 200 OK\r\n{head}").await;
    let web = Web::to(service.address).await;
    let request = Request::get("http://web.example.com/");
    let request = request.header("cookie", "a=1").header("x-other", "1").header("cookie", "b=2; c=3");
    let answer = Http2::connect(web.edge).await.ask(ok(request.body(body("")))).await;
    assert_eq!(fields(answer.text(), "cookie"), ["a=1; b=2; c=3"]);
}

const EXPECTING: &str = "expect: 100-continue\r\ncontent-length: 5\r\n\r\n";

/// A client that has sent a request which waits with its body.
async fn expecting(web: &Web) -> TcpStream {
    let mut client = ok(TcpStream::connect(web.edge).await);
    ok(client.write_all(format!("POST / HTTP/1.1\r\n{CLOSE}{EXPECTING}").as_bytes()).await);
    client
}

/// It goes on when it is told to, and gets its response.
async fn goes_on(mut client: TcpStream) {
    let interim = soon(read_head(&mut client)).await.expect("an interim response");
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    ok(client.write_all(b"hello").await);
    let mut answer = String::new();
    ok(soon(client.read_to_string(&mut answer)).await);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("hello"), "{answer}");
}

#[tokio::test]
async fn a_body_that_waits_for_100_continue_is_sent_when_the_service_asks_for_it() {
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (arrived, told) = (Arc::clone(&asked), Arc::clone(&go_on));
    let old = service::tcp(move |mut stream| {
        let (asked, go_on) = (Arc::clone(&arrived), Arc::clone(&told));
        async move {
            let head = read_head(&mut stream).await.expect("a request");
            assert!(head.contains("expect: 100-continue\r\n"), "{head}");
            asked.notify_one();
            go_on.notified().await;
            ok(stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await);
            let mut body = [0; 5];
            ok(stream.read_exact(&mut body).await);
            ok(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await);
        }
    })
    .await;
    let (arrived, told) = (Arc::clone(&asked), Arc::clone(&go_on));
    let new = http2::raw(h2::server::Builder::new(), move |mut connection| {
        let (asked, go_on) = (Arc::clone(&arrived), Arc::clone(&told));
        async move {
            let tasks = adit::drain::Tasks::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let (asked, go_on) = (Arc::clone(&asked), Arc::clone(&go_on));
                tasks.spawn(async move {
                    assert_eq!(request.headers()["expect"], "100-continue");
                    asked.notify_one();
                    go_on.notified().await;
                    let interim = http::Response::builder().status(StatusCode::CONTINUE).body(());
                    ok(respond.send_informational(ok(interim)));
                    let body = ok(http2::content(request.into_body()).await);
                    let mut response = ok(respond.send_response(http::Response::new(()), false));
                    ok(response.send_data(body.into(), true));
                });
            }
        }
    })
    .await;
    for web in [Web::to(old.address).await, Web::to_http2(new.address).await] {
        let mut client = expecting(&web).await;
        soon(asked.notified()).await;
        let early = tokio::time::timeout(Duration::from_millis(300), client.read_u8()).await;
        assert!(early.is_err(), "nobody has asked for the body");
        go_on.notify_one();
        goes_on(client).await;
    }
}

#[tokio::test]
async fn a_service_that_wants_no_body_is_heard_before_it_is_sent() {
    let (ends, mut ended) = mpsc::channel(2);
    let tell = ends.clone();
    let old = service::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            read_head(&mut stream).await.expect("a request");
            ok(stream.write_all(b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno").await);
            let (rest, end) = service::drain(&mut stream).await;
            ok(tell.send((rest, end.is_ok())).await);
        }
    })
    .await;
    let new = http2::raw(h2::server::Builder::new(), move |mut connection| {
        let tell = ends.clone();
        async move {
            let tasks = adit::drain::Tasks::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let response = http::Response::builder().status(StatusCode::EXPECTATION_FAILED).body(());
                let mut body = ok(respond.send_response(ok(response), false));
                ok(body.send_data("no".into(), true));
                let tell = tell.clone();
                tasks.spawn(async move {
                    let end = http2::content(request.into_body()).await;
                    ok(tell.send((end.as_ref().map_or(0, Vec::len), end.is_ok())).await);
                });
            }
        }
    })
    .await;
    for web in [Web::to(old.address).await, Web::to_http2(new.address).await] {
        let mut answer = String::new();
        ok(soon(expecting(&web).await.read_to_string(&mut answer)).await);
        assert!(answer.starts_with("HTTP/1.1 417 ") && answer.contains("no"), "{answer}");
        assert_eq!(soon(ended.recv()).await, Some((0, false)), "half a request has no clean end");
    }
}

#[tokio::test]
async fn a_service_that_does_not_know_100_continue_has_the_body_all_the_same() {
    let service = service::tcp(|mut stream| async move {
        read_head(&mut stream).await.expect("a request");
        let mut body = [0; 5];
        ok(stream.read_exact(&mut body).await);
        ok(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await);
    })
    .await;
    let web = Web::to(service.address).await;
    goes_on(expecting(&web).await).await;
}

#[tokio::test]
async fn interim_responses_of_a_service_are_not_taken_for_its_response() {
    let old = verbatim(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let new = http2::raw(h2::server::Builder::new(), async |mut connection| {
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            for status in [StatusCode::CONTINUE, StatusCode::EARLY_HINTS] {
                ok(respond.send_informational(ok(http::Response::builder().status(status).body(()))));
            }
            http2::answer(respond);
        }
    })
    .await;
    for web in [Web::to(old.address).await, Web::to_http2(new.address).await] {
        let mut client = Http1::connect(web.edge).await;
        for method in ["GET", "POST"] {
            let answer = client.ask(request(method, "web", "/", "")).await;
            assert_eq!((answer.status, answer.text()), (StatusCode::OK, "ok"));
        }
    }
    assert_eq!((old.accepted(), new.accepted()), (1, 1));
}

#[tokio::test]
async fn targets_are_passed_on_as_they_are() {
    let service = verbatim("HTTP/1.1 200 OK\r\n{head}").await;
    let web = Web::to(service.address).await;
    for (sent, seen) in [
        ("/", "/"),
        ("/?", "/?"),
        ("/a?", "/a?"),
        ("//a//b/", "//a//b/"),
        ("/a/../b/./c", "/a/../b/./c"),
        ("/%2F%2e%2E/%00", "/%2F%2e%2E/%00"),
        ("/a;b=c,d", "/a;b=c,d"),
        ("/?a=b?c/d&e&&=", "/?a=b?c/d&e&&="),
        ("/a+b%20c", "/a+b%20c"),
        ("/|{}\"", "/|{}\""),
        ("http://web.example.com", "/"),
        ("http://web.example.com?x=1", "/?x=1"),
        ("http://web.example.com/?x=1", "/?x=1"),
        ("http://user:password@web.example.com/a", "/a"),
    ] {
        let answer = raw(web.edge, format!("GET {sent} HTTP/1.1\r\n{CLOSE}\r\n").as_bytes()).await;
        let (_, to_service) = answer.split_once("\r\n\r\n").expect("a response with a body");
        assert_eq!(to_service.lines().next(), Some(&*format!("GET {seen} HTTP/1.1")), "{sent}: {answer}");
        assert!(!answer.contains("password"), "{answer}");
        assert_eq!(fields(to_service, "host"), ["web.example.com"], "{sent}");
    }
    let answer = raw(web.edge, format!("OPTIONS * HTTP/1.1\r\n{CLOSE}\r\n").as_bytes()).await;
    assert!(answer.contains("\r\n\r\nOPTIONS * HTTP/1.1\r\n"), "{answer}");
}

#[tokio::test]
async fn a_hundred_requests_at_once_over_one_connection_are_kept_apart() {
    let service = service::mirror().await;
    let web = Web::to(service.address).await;
    let client = Http2::connect(web.edge).await;
    let asked = (0..100).map(async |number| {
        let post =
            Request::post(format!("http://web.example.com/{number}")).body(body(format!("content {number}")));
        let answer = client.ask(ok(post)).await;
        assert!(answer.text().starts_with(&format!("POST /{number} HTTP/1.1\n")), "{}", answer.text());
        assert!(answer.text().ends_with(&format!("\n\ncontent {number}")), "{}", answer.text());
    });
    soon(futures_util::future::join_all(asked)).await;
}

#[tokio::test]
async fn fields_pass_up_to_the_limit_however_many_they_are() {
    let service = service::http(async |request| {
        let size: usize =
            request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let mut response = http::Response::new(service::full(size.to_string()));
        for (name, value) in request.headers() {
            if name.as_str().starts_with("x-test") {
                response.headers_mut().append(name.clone(), value.clone());
            }
        }
        response
    })
    .await;
    let web = Web::to(service.address).await;
    let max = web.fabric.config.edge.limits.max_header_bytes;
    let with = |count: usize, size: usize| {
        let mut request = request("GET", "web", "/", "");
        for number in 0..count {
            let name: HeaderName = ok(format!("x-test-{number:04}").parse());
            request.headers_mut().insert(name, ok(HeaderValue::from_bytes(&vec![b'x'; size])));
        }
        request
    };
    let own = request("GET", "web", "/", "")
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum::<usize>();
    let mut client = Http1::connect(web.edge).await;
    let answer = client.ask(with(1, max - own - "x-test-0000".len())).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let answer = client.ask(with(1, max - own - "x-test-0000".len() + 1)).await;
    assert_eq!(answer.error().0, "headers_too_large");
    let answer = client.ask(with(90, 100)).await;
    assert_eq!(answer.headers.keys().filter(|name| name.as_str().starts_with("x-test")).count(), 90);
}

#[tokio::test]
async fn more_than_a_hundred_fields_pass_both_ways() {
    let many: String = (0..150).map(|number| format!("x-test-{number}: {number}\r\n")).collect();
    let answer: &'static str = format!("HTTP/1.1 200 OK\r\n{many}{{head}}").leak();
    let service = verbatim(answer).await;
    let web = Web::to(service.address).await;
    let answer = raw(web.edge, format!("GET / HTTP/1.1\r\n{CLOSE}{many}\r\n").as_bytes()).await;
    let (to_client, to_service) = answer.split_once("\r\n\r\n").expect("a response with a body");
    for head in [to_client, to_service] {
        assert_eq!(head.matches("x-test-").count(), 150, "{answer}");
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_arrives_whatever_the_method() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    for method in ["GET", "DELETE", "POST"] {
        let head = format!(
            "{method} / HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let answer = raw(fabric.addresses.edge, (head + "5\r\nhello\r\n0\r\n\r\n").as_bytes()).await;
        assert!(answer.ends_with("\n\nhello"), "{method}: {answer}");
    }
}

#[tokio::test]
async fn a_length_beside_a_transfer_encoding_is_not_passed_on() {
    let fabric = Fabric::start().await;
    let service = service::tcp(|mut stream| async move {
        if read_request(&mut stream).await.is_some() {
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n";
            ok(stream.write_all(format!("{head}a\r\n0123456789\r\n0\r\n\r\n").as_bytes()).await);
        }
    })
    .await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let answer = get(fabric.addresses.edge, "web", "/").await;
    assert_eq!(answer.text(), "0123456789");
}

#[tokio::test]
async fn cleartext_http2_is_not_asked_of_a_service() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let asked = "GET / HTTP/1.1\r\nhost: web.test\r\nconnection: upgrade, http2-settings, close\r\n\
                 upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n";
    let answer = raw(fabric.addresses.edge, asked.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && !answer.contains("h2c") && !answer.contains("settings"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_request_has_one_host() {
    let fabric = Fabric::start().await;
    for hosts in [
        "",
        "host: web.test\r\nhost: other.test\r\n",
        "host: a b\r\n",
        "host: a@web.test\r\n",
        "host: web/\r\n",
    ] {
        let asked = format!("GET / HTTP/1.1\r\n{hosts}connection: close\r\nx-adit-endpoint: web\r\n\r\n");
        let answer = raw(fabric.addresses.edge, asked.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("invalid_host"), "{answer}");
    }
}
