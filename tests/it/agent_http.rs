//! An agent that looks at requests changes what it was asked to change, and nothing else: bodies, ends and breaks pass as
//! they do where it only joins bytes.

use std::{
    io::ErrorKind::ConnectionReset,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use adit::{
    agent::{self, Agent, HttpOptions, Rewrite},
    drain::Tasks,
    protocol::Kind,
};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, mpsc},
    time::{Instant, sleep},
};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    body::{self, channel, trickle},
    client::{Http1, assert_counted, get, raw, request, request_of, sentence},
    cluster::Nodes,
    eventually, kind, ok,
    process::Process,
    random, reset,
    service::{self, drain, read_head, read_request},
    soon,
    streams::{breaking, endless, mirror_bodies, standing},
    switch::{SWITCH, switched, switching},
    websocket,
};

const MS: Duration = Duration::from_millis(1);

/// Nothing that changes a request or a response.
fn looking() -> HttpOptions {
    HttpOptions { access_log: true, ..HttpOptions::default() }
}

/// A service as the endpoint `web`, behind an agent with options, and as `plain`, behind one without. Clients come in at
/// another node than the agents' when there are two.
struct Web {
    edge: SocketAddr,
    agent: Agent,
    _plain: Agent,
    _nodes: Nodes,
}

impl Web {
    async fn to(service: impl ToString, options: &HttpOptions, nodes: usize) -> Self {
        let nodes = Nodes::start(nodes).await;
        let fabric = nodes.all.last().expect("there is a node");
        let agent = async |name, http| {
            let mut client = fabric.client();
            client.links = 1;
            let mut endpoint = fabric.endpoint(name, Kind::Http, service.to_string());
            endpoint.http = http;
            let agent = ok(Agent::start(agent::Config::new(client, vec![endpoint])));
            ok(soon(agent.serve()).await);
            agent
        };
        let (agent, plain) = (agent("web", Some(options.clone())).await, agent("plain", None).await);
        let first = nodes.all[0].node.as_ref().expect("it runs");
        eventually("the first node knows both endpoints", async || {
            first.serves("web") && first.serves("plain")
        })
        .await;
        Self { edge: nodes.edge(0), agent, _plain: plain, _nodes: nodes }
    }

    /// Through one node, and across two.
    async fn both(service: SocketAddr, options: &HttpOptions) -> [Self; 2] {
        [Self::to(service, options, 1).await, Self::to(service, options, 2).await]
    }
}

#[tokio::test]
async fn headers_are_removed_then_set_and_the_host_is_replaced() {
    let service = service::mirror().await;
    let rewrite = Rewrite {
        strip: vec![ok("cookie".parse()), ok("x-gone".parse())],
        set: vec![ok("X-Tenant=7".parse()), ok("x-gone=back".parse())],
        host: Some(HeaderValue::from_static("app.internal:3000")),
    };
    for web in Web::both(service.address, &HttpOptions { rewrite, ..HttpOptions::default() }).await {
        let mut client = Http1::connect(web.edge).await;
        for _ in 0..2 {
            let mut request = request("POST", "web", "/path?a=b", "content");
            for (name, value) in
                [("cookie", "a"), ("cookie", "b"), ("x-tenant", "1"), ("x-gone", "1"), ("accept", "*/*")]
            {
                request.headers_mut().append(name, HeaderValue::from_static(value));
            }
            let answer = client.ask(request).await;
            assert_eq!(
                answer.text(),
                "POST /path?a=b HTTP/1.1\naccept: */*\ncontent-length: 7\n\
                 forwarded: for=127.0.0.1;proto=http;host=127.0.0.1\nhost: app.internal:3000\n\
                 x-forwarded-for: 127.0.0.1\nx-forwarded-host: 127.0.0.1\n\
                 x-forwarded-proto: http\nx-gone: back\nx-tenant: 7\n\ncontent"
            );
        }
    }
}

/// What a client gets, without the date.
fn dateless(answer: &str) -> String {
    let line = |line: &&str| !line.to_ascii_lowercase().starts_with("date:");
    answer.split("\r\n").filter(line).collect::<Vec<_>>().join("\r\n")
}

#[tokio::test]
async fn requests_and_responses_of_any_kind_pass_as_they_do_unread() {
    // The last four end their connection.
    const RESPONSES: [&str; 13] = [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 Fine By Me\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 299 \r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 3\r\nx-adit-error: forged\r\n\r\nsad",
        "HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nx-other: 1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        "HTTP/1.1 200 OK\r\n\r\nuntil the end",
        "HTTP/1.0 200 OK\r\n\r\nuntil the end",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ];
    let service = service::tcp(|mut stream| async move {
        while let Some(head) = read_request(&mut stream).await {
            let number: usize = ok(head.split(['/', ' ']).nth(2).expect("a path").parse());
            let response = RESPONSES[number];
            let body_at = response.find("\r\n\r\n").expect("a head") + 4;
            let sent = if head.starts_with("HEAD ") { &response[..body_at] } else { response };
            ok(stream.write_all(sent.as_bytes()).await);
            if head.starts_with("HEAD ") || number >= 9 {
                return;
            }
        }
    })
    .await;
    for web in Web::both(service.address, &looking()).await {
        for (number, response) in RESPONSES.into_iter().enumerate() {
            for method in ["GET", "HEAD", "POST"] {
                let ask = async |endpoint| {
                    let request = format!(
                        "{method} /{number} HTTP/1.1\r\nhost: a\r\nx-adit-endpoint: {endpoint}\r\nte: trailers\r\n\
                         connection: close\r\n\r\n"
                    );
                    dateless(&raw(web.edge, request.as_bytes()).await)
                };
                assert_eq!(ask("web").await, ask("plain").await, "{method} of {response:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_compressed_body_is_left_alone_both_ways() {
    // What `gzip` makes of "hello, gzip".
    const GZIP: &[u8] =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\xd7\x51\x48\xaf\xca\x2c\x00\x00\x4a\
        \x9b\xb1\x5c\x0b\x00\x00\x00";
    let service = service::http(|request| async move {
        let accepted = request.headers()[header::ACCEPT_ENCODING].clone();
        assert_eq!(request.headers()[header::CONTENT_ENCODING], "gzip");
        let body = ok(request.into_body().collect().await).to_bytes();
        let mut response = http::Response::new(service::full(body));
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response.headers_mut().insert("x-accepted", accepted);
        response
    })
    .await;
    for web in Web::both(service.address, &looking()).await {
        let mut request = request("POST", "web", "/", GZIP);
        request.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("br;q=0.5, gzip"));
        let answer = Http1::connect(web.edge).await.ask(request).await;
        assert_eq!(answer.body, GZIP);
        assert_eq!(answer.headers[header::CONTENT_ENCODING], "gzip");
        assert_eq!(answer.headers[header::CONTENT_LENGTH], GZIP.len().to_string());
        assert_eq!(answer.headers["x-accepted"], "br;q=0.5, gzip");
    }
}

#[tokio::test]
async fn both_bodies_stream_at_once_with_their_trailers() {
    let service = mirror_bodies().await;
    for web in Web::both(service.address, &looking()).await {
        let mut client = Http1::connect(web.edge).await;
        let (sender, upload) = channel();
        let mut request = request_of("POST", "web", "/", upload);
        request.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-sum"));
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        let mut download = ok(soon(client.send(request)).await).into_body();
        for size in [1, 100, 10_000, 1, 100_000] {
            let piece = random(size);
            sender.data(piece.clone()).await;
            let mut got = Vec::new();
            while got.len() < size {
                got.extend_from_slice(&ok(body::next(&mut download).await.expect("the body goes on")));
            }
            assert!(got == piece);
        }
        let trailers = HeaderMap::from_iter([(ok("x-sum".parse()), HeaderValue::from_static("42"))]);
        sender.trailers(trailers.clone()).await;
        assert_eq!(ok(soon(download.collect()).await).trailers(), Some(&trailers));
    }
}

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn who_does_not_read_stops_who_writes() {
    let (service, taken, _ended) = endless().await;
    let web = Web::to(service.address, &looking(), 1).await;
    let mut client = Http1::connect(web.edge).await;
    let mut response = ok(client.send(request("GET", "web", "/", "")).await).into_body();
    let stood = standing(&taken).await;
    assert!(stood < 40 * MIB, "{stood} bytes were taken from the service");
    let mut read = 0;
    while read < stood + MIB {
        read += ok(body::next(&mut response).await.expect("it is endless")).len() as u64;
    }

    let service = service::tcp(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let web = Web::to(service.address, &looking(), 1).await;
    let sent = Arc::new(AtomicU64::new(0));
    let (sender, upload) = channel();
    let (count, tasks) = (Arc::clone(&sent), Tasks::new());
    tasks.spawn(async move {
        let piece = random(16 * 1024);
        while sender.try_data(piece.clone()).await {
            count.fetch_add(piece.len() as u64, Relaxed);
        }
    });
    let mut client = Http1::connect(web.edge).await;
    tokio::select! {
        stood = standing(&sent) => assert!(stood < 40 * MIB, "{stood} bytes were taken from the client"),
        _ = client.send(request_of("POST", "web", "/", upload)) => panic!("nobody has answered"),
    }
    tasks.abort();
}

#[tokio::test]
async fn a_response_that_breaks_in_the_middle_ends_in_an_error() {
    let (service, now) = breaking().await;
    for web in Web::both(service.address, &looking()).await {
        for path in ["/length", "/chunked", "/until-close"] {
            let mut client = Http1::connect(web.edge).await;
            let mut response = ok(soon(client.send(request("GET", "web", path, ""))).await).into_body();
            assert_eq!(ok(body::next(&mut response).await.expect("half a response")), "half");
            now.notify_one();
            let end = body::next(&mut response).await;
            assert!(matches!(end, Some(Err(_))), "{path} seems complete: {end:?}");
        }
    }
}

#[tokio::test]
async fn a_request_that_is_given_up_resets_the_services_connection() {
    let (begun, (ends, mut ended)) = (Arc::new(Notify::new()), mpsc::channel(8));
    let arrived = Arc::clone(&begun);
    let service = service::tcp(move |mut stream| {
        let (ends, begun) = (ends.clone(), Arc::clone(&arrived));
        async move {
            let head = read_head(&mut stream).await.expect("there is a request");
            if head.contains(" /half ") {
                ok(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await);
            }
            begun.notify_one();
            drop(ends.send(drain(&mut stream).await.1).await);
        }
    })
    .await;
    for web in Web::both(service.address, &looking()).await {
        // Before the response has begun, in the middle of it, and in the middle of the request.
        let mut client = Http1::connect(web.edge).await;
        tokio::select! {
            _ = client.send(request("GET", "web", "/never", "")) => panic!("there is no response"),
            () = soon(begun.notified()) => {}
        }
        drop(client);
        assert_eq!(kind(soon(ended.recv()).await.expect("the service reports")), ConnectionReset);

        let mut client = Http1::connect(web.edge).await;
        let mut response = ok(soon(client.send(request("GET", "web", "/half", ""))).await).into_body();
        assert_eq!(ok(body::next(&mut response).await.expect("half a response")), "half");
        soon(begun.notified()).await;
        drop((client, response));
        assert_eq!(kind(soon(ended.recv()).await.expect("the service reports")), ConnectionReset);

        let (sender, upload) = channel();
        let mut client = Http1::connect(web.edge).await;
        let breaking = async {
            sender.data("half").await;
            soon(begun.notified()).await;
            sender.fail().await;
        };
        let (response, ()) = tokio::join!(client.send(request_of("POST", "web", "/never", upload)), breaking);
        assert!(response.is_err());
        assert_eq!(kind(soon(ended.recv()).await.expect("the service reports")), ConnectionReset);
    }
}

#[tokio::test]
async fn what_reaches_no_service_is_told_as_ever() {
    let refusing = service::refusing();
    let closing = service::tcp(|mut stream| async move {
        read_request(&mut stream).await;
    })
    .await;
    let switching = service::tcp(|mut stream| async move {
        if read_request(&mut stream).await.is_some() {
            ok(stream.write_all(SWITCH.as_bytes()).await);
            drain(&mut stream).await.1.ok();
        }
    })
    .await;
    for (service, code) in [
        (refusing, "upstream_refused"),
        (closing.address, "upstream_broken"),
        (switching.address, "upstream_broken"),
    ] {
        for web in Web::both(service, &looking()).await {
            for method in ["GET", "POST"] {
                let answer = Http1::connect(web.edge).await.ask(request(method, "web", "/", "")).await;
                sentence(&answer, 502, code);
            }
        }
    }
}

#[tokio::test]
async fn a_connection_of_the_service_carries_one_request_after_the_other_and_no_more_than_it_permits() {
    let service = service::tcp(|mut stream| async move {
        while let Some(head) = read_request(&mut stream).await {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let response: &[u8] = match path {
                "/close" => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
                "/old" => b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
                "/unframed" => b"HTTP/1.1 200 OK\r\n\r\nok",
                "/hints" => b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n",
                _ => b"",
            };
            ok(stream.write_all(response).await);
            match path {
                "/" | "/hints" => ok(stream.write_all(service::OK).await),
                _ => return,
            }
        }
    })
    .await;
    for web in Web::both(service.address, &looking()).await {
        let mut client = Http1::connect(web.edge).await;
        for (path, connections) in [("/", 1), ("/hints", 1), ("/close", 20), ("/old", 20), ("/unframed", 20)]
        {
            let before = service.accepted();
            for _ in 0..20 {
                // One that must not be sent twice, so that nothing hides a flow that is used once too often.
                let answer = client.ask(request("POST", "web", path, "hello")).await;
                assert_eq!((answer.status, answer.text()), (StatusCode::OK, "ok"), "{path}");
            }
            let more = service.accepted() - before;
            assert!(more.abs_diff(connections) <= 1, "{path} took {more} connections");
        }
    }
}

#[tokio::test]
async fn a_flow_ends_when_the_service_closes_its_idle_connection() {
    let (closed, mut told) = mpsc::channel(8);
    let service = service::tcp(move |mut stream| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await;
            ok(stream.write_all(service::OK).await);
            ok(stream.shutdown().await);
            // A clean end, not a reset: nothing was under way.
            ok(closed.send(drain(&mut stream).await.1).await);
        }
    })
    .await;
    for web in Web::both(service.address, &looking()).await {
        let mut client = Http1::connect(web.edge).await;
        for _ in 0..3 {
            // One that must not be sent twice, while the node would still use a flow that it holds to be open.
            let answer = client.ask(request("POST", "web", "/", "hello")).await;
            assert_eq!((answer.status, answer.text()), (StatusCode::OK, "ok"));
            ok(soon(told.recv()).await.expect("the service reports"));
            sleep(500 * MS).await;
        }
    }
}

#[tokio::test]
async fn a_flow_that_ends_between_requests_ends_the_services_connection_cleanly() {
    let (closed, mut told) = mpsc::channel(8);
    let service = service::tcp(move |mut stream| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await;
            ok(stream.write_all(service::OK).await);
            ok(drain(&mut stream).await.1);
            // A reset could only come now.
            sleep(100 * MS).await;
            ok(closed.send(ok(stream.take_error())).await);
        }
    })
    .await;
    for web in Web::both(service.address, &looking()).await {
        assert_eq!(get(web.edge, "web", "/").await.text(), "ok");
        // The node keeps an idle flow for 4 s.
        let error = soon(told.recv()).await.expect("the service reports");
        assert!(error.is_none(), "{error:?}");
    }
}

#[tokio::test]
async fn a_service_with_tls_gets_and_answers_requests_as_others_do() {
    let nodes = Nodes::start(1).await;
    let fabric = &nodes.all[0];
    let service = service::tls(fabric.service_tls(&["127.0.0.1"], &[]), |mut stream| async move {
        while let Some(head) = read_request(&mut stream).await {
            let host = head.lines().find(|line| line.starts_with("host: ")).unwrap_or_default();
            let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{host}", host.len());
            ok(stream.write_all(response.as_bytes()).await);
        }
    })
    .await;
    let mut endpoint = fabric.endpoint("web", Kind::Http, format!("https://{}", service.address));
    let host = Some(ok(endpoint.service.host_header()));
    endpoint.http =
        Some(HttpOptions { rewrite: Rewrite { host, ..Rewrite::default() }, ..HttpOptions::default() });
    let agent = ok(Agent::start(agent::Config::new(fabric.client(), vec![endpoint])));
    ok(soon(agent.serve()).await);
    let mut client = Http1::connect(nodes.edge(0)).await;
    // A flow that has been idle for a while is used again for what may be sent twice alone.
    for (method, content) in [("POST", "hello"), ("GET", ""), ("GET", "")] {
        let answer = client.ask(request(method, "web", "/", content)).await;
        assert_eq!(answer.text(), format!("host: {}", service.address));
    }
    assert_eq!(service.accepted(), 1);
}

#[tokio::test]
async fn messages_have_as_many_fields_as_the_node_permits() {
    let service = service::tcp(|mut stream| async move {
        while let Some(head) = read_request(&mut stream).await {
            let fields = (0..240).map(|number| format!("x-{number}: {number}\r\n")).collect::<String>();
            let count = head.lines().filter(|line| line.starts_with("x-n")).count().to_string();
            let response =
                format!("HTTP/1.1 200 OK\r\n{fields}content-length: {}\r\n\r\n{count}", count.len());
            ok(stream.write_all(response.as_bytes()).await);
        }
    })
    .await;
    let web = Web::to(service.address, &looking(), 1).await;
    let fields = (0..240).map(|number| format!("x-n{number}: 1\r\n")).collect::<String>();
    let request = format!("GET / HTTP/1.1\r\nhost: web.localhost\r\nconnection: close\r\n{fields}\r\n");
    let answer = raw(web.edge, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n240"), "{answer}");
    assert_eq!(answer.lines().filter(|line| line.starts_with("x-")).count(), 240);
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_may_go_on() {
    let service = service::mirror().await;
    for web in Web::both(service.address, &looking()).await {
        let mut client = ok(TcpStream::connect(web.edge).await);
        let head =
            "POST / HTTP/1.1\r\nhost: web.localhost\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
        ok(client.write_all(head.as_bytes()).await);
        let interim = soon(read_head(&mut client)).await.expect("an interim response");
        assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
        ok(client.write_all(b"hello").await);
        let head = soon(read_head(&mut client)).await.expect("a response");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_has_ended_passes_and_the_next_request_too() {
    let service = service::tcp(|mut stream| async move {
        while read_head(&mut stream).await.is_some() {
            ok(stream.write_all(service::OK).await);
            let mut body = vec![0; 10];
            ok(stream.read_exact(&mut body).await);
        }
    })
    .await;
    for web in Web::both(service.address, &looking()).await {
        let mut client = ok(TcpStream::connect(web.edge).await);
        for _ in 0..3 {
            let head = "POST / HTTP/1.1\r\nhost: web.localhost\r\ncontent-length: 10\r\n\r\nhello";
            ok(client.write_all(head.as_bytes()).await);
            let head = soon(read_head(&mut client)).await.expect("a response");
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            ok(soon(client.read_exact(&mut [0; 2])).await);
            ok(client.write_all(b"world").await);
        }
    }
}

#[tokio::test]
async fn websockets_pass() {
    let service = websocket::echo().await;
    for web in Web::both(service.address, &looking()).await {
        let (mut socket, _) = ok(websocket::connect(web.edge, "web").await);
        for message in [Message::text("hello"), Message::binary(random(1 << 20)), Message::text("")] {
            ok(socket.send(message.clone()).await);
            assert!(ok(soon(socket.next()).await.expect("it is open")) == message);
        }
        ok(socket.close(None).await);
        assert!(ok(soon(socket.next()).await.expect("the answer to the closing")).is_close());
        assert!(soon(socket.next()).await.is_none());
    }
}

#[tokio::test]
async fn a_switched_connection_loses_no_byte_and_keeps_its_ends_apart() {
    let service = switching("from service;", |mut stream| async move {
        let (mut read, mut write) = stream.split();
        drop(tokio::io::copy(&mut read, &mut write).await);
    })
    .await;
    for web in Web::both(service.address, &looking()).await {
        for _ in 0..10 {
            let mut client = switched(web.edge, "from client").await;
            let mut got = [0; 24];
            ok(soon(client.read_exact(&mut got)).await);
            assert_eq!(&got, b"from service;from client");
        }
    }

    let service = switching("", service::tell_count).await;
    for web in Web::both(service.address, &looking()).await {
        assert_counted(switched(web.edge, "").await, 100_000).await;
    }

    let (ends, mut ended) = mpsc::channel(1);
    let service = switching("", move |mut stream| {
        let ends = ends.clone();
        async move {
            match stream.read_u8().await {
                Ok(b'r') => reset(stream),
                Ok(_) => ok(ends.send(drain(&mut stream).await.1).await),
                // The reset has overtaken the byte.
                Err(error) => ok(ends.send(Err(error)).await),
            }
        }
    })
    .await;
    for web in Web::both(service.address, &looking()).await {
        let mut client = switched(web.edge, "").await;
        ok(client.write_all(b"r").await);
        assert_eq!(kind(soon(client.read(&mut [0])).await), ConnectionReset);
        let mut client = switched(web.edge, "").await;
        ok(client.write_all(b"x").await);
        reset(client);
        assert_eq!(kind(soon(ended.recv()).await.expect("the service reports")), ConnectionReset);
    }
}

#[tokio::test]
async fn a_request_under_way_finishes_when_the_agent_leaves() {
    let service = service::http(|_| async { http::Response::new(trickle(10, 50 * MS, "piece")) }).await;
    for web in Web::both(service.address, &looking()).await {
        let mut client = Http1::connect(web.edge).await;
        let mut response = ok(soon(client.send(request("GET", "web", "/", ""))).await).into_body();
        let first = ok(body::next(&mut response).await.expect("it has begun"));
        let (drained, rest) = tokio::join!(web.agent.drain(10_000 * MS), response.collect());
        ok(drained);
        assert_eq!(first.len() + ok(rest).to_bytes().len(), 50);
    }
}

const TIMEOUT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_response_that_begins_too_late_is_a_504_counted_from_the_requests_last_byte() {
    let (ends, mut ended) = mpsc::channel(8);
    let service = service::tcp(move |mut stream| {
        let ends = ends.clone();
        async move {
            while let Some(head) = read_head(&mut stream).await {
                if head.contains("transfer-encoding: chunked") {
                    let mut body = Vec::new();
                    while !body.ends_with(b"0\r\n\r\n") {
                        body.push(ok(stream.read_u8().await));
                    }
                }
                if head.contains(" /late ") {
                    ok(ends.send(drain(&mut stream).await.1).await);
                    return;
                }
                sleep(TIMEOUT / 4).await;
                // What comes after the header has no limit.
                ok(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await);
                sleep(TIMEOUT * 3 / 2).await;
                ok(stream.write_all(b"ok").await);
            }
        }
    })
    .await;
    let options = HttpOptions { response_timeout: Some(TIMEOUT), ..HttpOptions::default() };
    let both = Web::both(service.address, &options).await;
    let slow = || trickle(15, TIMEOUT / 10, "0123456789");
    let in_time = async |web: &Web, request| {
        let answer = Http1::connect(web.edge).await.ask(request).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "ok"));
    };
    let late = async |web: &Web, request, upload: Duration| {
        let started = Instant::now();
        let mut client = Http1::connect(web.edge).await;
        let answer = client.ask(request).await;
        let took = started.elapsed();
        assert!(took >= upload + TIMEOUT && took < upload + 4 * TIMEOUT, "{took:?}");
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
        let told: serde_json::Value = ok(serde_json::from_slice(&answer.body));
        assert_eq!(told["code"], "response_timeout");
        assert!(told["error"].as_str().is_some_and(|error| error.contains("within 2s")), "{told}");
        // The edge vouches for its own word alone.
        assert!(!answer.headers.contains_key("x-adit-error"));
        // The client's connection goes on.
        assert_eq!(client.ask(request_of("GET", "web", "/", body::full(""))).await.text(), "ok");
    };
    for web in &both {
        tokio::join!(
            in_time(web, request("GET", "web", "/", "")),
            in_time(web, request_of("POST", "web", "/", slow())),
            late(web, request("GET", "web", "/late", ""), Duration::ZERO),
            late(web, request_of("POST", "web", "/late", slow()), TIMEOUT * 3 / 2),
        );
        for _ in 0..2 {
            assert_eq!(kind(soon(ended.recv()).await.expect("the service reports")), ConnectionReset);
        }
    }
}

/// A node and an agent, each as users start it.
fn processes(service: SocketAddr, flags: &[&str]) -> (tempfile::TempDir, Process, Process, SocketAddr) {
    let folder = ok(tempfile::tempdir());
    let any = "127.0.0.1:0";
    let words = ["node", "--edge-bind", any, "--link-bind", any, "--admin-bind", any, "--peer-bind", any];
    let node = Process::start(folder.path(), &words);
    let (edge, link) = (node.address("edge"), node.address("link").to_string());
    let service = service.to_string();
    let words = ["agent", "http", "web", &service, "--connect", &link, "--log-format", "json"];
    let agent = Process::start(folder.path(), &[&words[..], flags].concat());
    agent.line_with("serving web");
    (folder, node, agent, edge)
}

#[tokio::test]
async fn the_flags_reach_the_request() {
    let service = service::mirror().await;
    let flags = ["--host-header=service", "--header=x-b=1", "--header=x-c=2", "--strip-header=user-agent"];
    let (_folder, _node, _agent, edge) = processes(service.address, &flags);
    let mut request = request("GET", "web", "/", "");
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("test"));
    let answer = Http1::connect(edge).await.ask(request).await;
    assert!(answer.text().contains(&format!("\nhost: {}\n", service.address)), "{}", answer.text());
    assert!(answer.text().contains("\nx-b: 1\nx-c: 2\n"), "{}", answer.text());
    assert!(!answer.text().contains("user-agent"), "{}", answer.text());
}

/// Answers as the path says.
async fn telling(mut stream: TcpStream, broken: Arc<Notify>) {
    while let Some(head) = read_request(&mut stream).await {
        match head.split(' ').nth(1).and_then(|path| path.split('?').next()) {
            Some("/missing") => {
                let response =
                    b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
                ok(stream.write_all(response).await);
            }
            Some("/breaks") => {
                ok(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await);
                return broken.notified().await;
            }
            Some("/closes") => return,
            Some("/late") => assert!(drain(&mut stream).await.1.is_err()),
            Some("/switch") => {
                let response =
                    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x-test\r\n\r\n";
                ok(stream.write_all(response).await);
                service::tell_count(&mut stream).await;
                return;
            }
            _ => ok(stream.write_all(service::OK).await),
        }
    }
}

#[tokio::test]
async fn the_access_log_has_one_line_for_each_request_once_that_has_ended() {
    let now = Arc::new(Notify::new());
    let broken = Arc::clone(&now);
    let service = service::tcp(move |stream| telling(stream, Arc::clone(&broken))).await;
    let flags = ["--access-log", "--response-header-timeout", "2s"];
    let (_folder, _node, agent, edge) = processes(service.address, &flags);
    let next = || -> serde_json::Value {
        let mut line: serde_json::Value = ok(serde_json::from_str(&agent.log_with("adit::access")));
        let fields = line.as_object_mut().expect("an object");
        assert!(fields.remove("timestamp").is_some());
        assert!(fields.remove("duration_ms").expect("there is a duration").is_number());
        line
    };
    let line = |method: &str, path: &str, status: Option<u16>, bytes: u64, complete: bool| {
        let mut line = serde_json::json!({
            "level": "INFO", "target": "adit::access", "message": "request", "endpoint": "web", "client": "127.0.0.1",
            "method": method, "path": path, "bytes": bytes, "complete": complete,
        });
        if let Some(status) = status {
            line["status"] = status.into();
        }
        line
    };
    let mut client = Http1::connect(edge).await;
    client.ask(request("GET", "web", "/a?token=secret", "")).await;
    assert_eq!(next(), line("GET", "/a", Some(200), 2, true));
    client.ask(request("POST", "web", "/missing", "hello")).await;
    assert_eq!(next(), line("POST", "/missing", Some(404), 5, true));
    client.ask(request("GET", "web", "/late", "")).await;
    let late = next();
    assert_eq!(
        (&late["path"], &late["status"], &late["complete"]),
        (&"/late".into(), &504.into(), &true.into())
    );
    client.ask(request("POST", "web", "/closes", "")).await;
    assert_eq!(next(), line("POST", "/closes", None, 0, false));
    let mut response = ok(soon(client.send(request("GET", "web", "/breaks", ""))).await).into_body();
    assert_eq!(ok(body::next(&mut response).await.expect("half a response")), "half");
    now.notify_one();
    assert!(body::next(&mut response).await.expect("a break").is_err());
    assert_eq!(next(), line("GET", "/breaks", Some(200), 4, false));

    let mut socket = ok(TcpStream::connect(edge).await);
    let head =
        "GET /switch HTTP/1.1\r\nhost: web.localhost\r\nconnection: upgrade\r\nupgrade: x-test\r\n\r\n";
    ok(socket.write_all(head.as_bytes()).await);
    soon(read_head(&mut socket)).await.expect("a response");
    assert_counted(socket, 1000).await;
    assert_eq!(next(), line("GET", "/switch", Some(101), 4, true));
}
