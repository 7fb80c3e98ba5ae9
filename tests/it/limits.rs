//! What is too large, too many or too often is refused, with a status where there can be one, and counted; everybody else is
//! served meanwhile.

use adit::edge::Limits;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Fabric,
    body::Body,
    client::{Http1, Http2, body, get, raw, request, sentence},
    eventually,
    fabric::Web,
    frames::{
        self, CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, frame,
    },
    ok, service, soon, websocket,
};

/// REFUSED_STREAM and ENHANCE_YOUR_CALM (RFC 9113 §7).
const REFUSED: [u8; 4] = [0, 0, 0, 7];
const CALM: u32 = 11;

async fn web(service: &service::Running, change: impl FnOnce(&mut Limits)) -> Web {
    Web::through(Fabric::with(|config| change(&mut config.edge.limits)).await, service.address).await
}

#[tokio::test]
async fn heads_over_a_limit_are_refused_with_the_limit_and_counted() {
    let service = service::mirror().await;
    let web = web(&service, |limits| {
        limits.max_uri_bytes = 1000;
        limits.max_headers = 10;
        limits.max_header_bytes = 10_000;
    })
    .await;
    let of = |path: usize, fields: usize, bytes: usize| {
        // With the path's slash, the endpoint and, in HTTP/1.1, the host.
        let mut request = request("GET", "web", &format!("/{}", "p".repeat(path - 1)), "");
        for number in 2..fields {
            request.headers_mut().append("x-field", ok(format!("{number}").parse()));
        }
        request.headers_mut().append("x-large", ok("x".repeat(bytes).parse()));
        request
    };
    let cases: [(u16, &str, &str, Request<Body>); 3] = [
        (414, "uri_too_long", "1000", of(1001, 3, 1)),
        (431, "too_many_headers", "10", of(1, 11, 1)),
        (431, "headers_too_large", "10000", of(1, 3, 10_000)),
    ];
    let mut http1 = Http1::connect(web.edge).await;
    let http2 = Http2::connect(web.edge).await;
    for (status, code, named, request) in cases {
        let mut over_http2 = Request::new(body(""));
        *over_http2.headers_mut() = request.headers().clone();
        over_http2.headers_mut().append("x-instead", ok("of host".parse()));
        over_http2.headers_mut().remove("host");
        *over_http2.uri_mut() = ok(format!("http://a{}", request.uri()).parse());
        for answer in [http1.ask(request).await, http2.ask(over_http2).await] {
            let sentence = sentence(&answer, status, code);
            assert!(sentence.contains(named), "{named} is not in: {sentence}");
        }
        assert_eq!(web.fabric.refused(code).await, 2);
        assert_eq!(http1.ask(of(1000, 9, 9000)).await.status, 200, "what is just below is not");
    }
}

#[tokio::test]
async fn heads_far_over_a_limit_are_refused_before_they_are_read() {
    let service = service::mirror().await;
    let web = web(&service, |limits| limits.max_header_bytes = 10_000).await;
    let field = |name: &str, count: usize| format!("{name}: x\r\n").repeat(count);
    let long = "x".repeat(100_000);
    for (status, head) in [
        (431, format!("GET / HTTP/1.1\r\nhost: web.test\r\nx-large: {long}\r\n\r\n")),
        (431, format!("GET / HTTP/1.1\r\nhost: web.test\r\n{}\r\n", field("a", 1000))),
        (431, format!("GET /{long} HTTP/1.1\r\nhost: web.test\r\n\r\n")),
    ] {
        let answer = raw(web.edge, head.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    assert_eq!(web.fabric.refused("head_too_large").await, 3);
    let answer = raw(web.edge, b"\x16\x03\x01 this is TLS, or nonsense\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(web.fabric.refused("malformed").await, 1);
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_at_once_and_one_that_ends_makes_room() {
    let sockets = websocket::echo().await;
    let web = web(&sockets, |limits| limits.max_connections = Some(2)).await;
    let refused = async || {
        let mut stream = ok(TcpStream::connect(web.edge).await);
        let mut all = Vec::new();
        ok(soon(stream.read_to_end(&mut all)).await);
        assert!(all.is_empty());
    };
    // One that has switched protocols is still one.
    let socket = ok(websocket::connect(web.edge, "web").await);
    let mut second = Http1::connect(web.edge).await;
    assert_eq!(second.ask(request("GET", "nobody", "/", "")).await.status, 502);
    refused().await;
    refused().await;
    assert_eq!(second.ask(request("GET", "nobody", "/", "")).await.status, 502, "who is in stays in");
    assert_eq!(web.fabric.refused("too_many_connections").await, 2);
    drop(socket);
    eventually("there is room again", async || {
        let stream = ok(TcpStream::connect(web.edge).await);
        let mut byte = [0];
        // One that is refused ends; one that is not waits for a request.
        tokio::time::timeout(std::time::Duration::from_millis(100), stream.peek(&mut byte)).await.is_err()
    })
    .await;
}

fn ask(stream: u32, path: &str) -> Vec<u8> {
    let block = frames::block(&frames::request("GET", path, &[]));
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
}

/// Waits until a connection's other side has read all that was sent.
async fn heard(client: &mut Client) {
    client.send(&frame(PING, 0, 0, &[0; 8])).await;
    client.next_of(PING).await.expect("it is answered");
}

#[tokio::test]
async fn streams_over_the_limit_are_refused_and_one_that_ends_makes_room() {
    let (service, answer) = waits_for_a_word().await;
    let web = web(&service, |limits| limits.max_streams = 2).await;
    let mut client = Client::connect(web.edge).await;
    let settings = client.next_of(SETTINGS).await.expect("the edge says what it allows");
    assert!(
        settings.payload.chunks(6).any(|one| one == [0, 3, 0, 0, 0, 2]),
        "MAX_CONCURRENT_STREAMS is told"
    );
    client.send(&[ask(1, "/"), ask(3, "/"), ask(5, "/")].concat()).await;
    let refused = client.next_of(RST_STREAM).await.expect("the third is refused");
    assert_eq!((refused.stream, &refused.payload[..]), (5, &REFUSED[..]));
    answer.notify_one();
    let answered = client.next_of(HEADERS).await.expect("one of the others is answered");
    assert!(answered.stream < 5);
    while client.next_of(DATA).await.expect("it ends").flags & END_STREAM == 0 {}
    client.send(&ask(7, "/")).await;
    answer.notify_waiters();
    answer.notify_one();
    eventually("the next is answered", async || {
        answer.notify_waiters();
        client.next_of(HEADERS).await.expect("it is answered").stream == 7
    })
    .await;
}

/// A service that answers nothing before it is told to.
async fn waits_for_a_word() -> (service::Running, std::sync::Arc<tokio::sync::Notify>) {
    let word = std::sync::Arc::new(tokio::sync::Notify::new());
    let told = std::sync::Arc::clone(&word);
    let running = service::http(move |_| {
        let word = std::sync::Arc::clone(&told);
        async move {
            word.notified().await;
            http::Response::new(service::full("done"))
        }
    });
    (running.await, word)
}

/// Requests that are reset in the same packet: so many of them that only an attack has.
fn burst(first: u32) -> Vec<u8> {
    let pair = |number: u32| {
        let stream = 2 * number + 1;
        [ask(stream, "/"), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
    };
    (first..first + 100).flat_map(pair).collect()
}

#[tokio::test]
async fn a_burst_of_requests_that_are_reset_ends_its_connection_and_no_other() {
    let service = service::mirror().await;
    let web = web(&service, |_| {}).await;
    for number in 1..=3 {
        let mut client = Client::connect(web.edge).await;
        client.send(&burst(0)).await;
        assert_eq!(client.end().await, Some(CALM));
        assert_eq!(get(web.edge, "web", "/").await.status, 200);
        assert_eq!(web.fabric.refused("flood").await, number);
    }
}

#[tokio::test]
async fn a_client_that_gives_up_most_of_its_requests_is_cut_and_one_that_gives_up_some_is_not() {
    let (silent, _never) = waits_for_a_word().await;
    let service = service::mirror().await;
    let web = web(&silent, |_| {}).await;
    let _other = web.fabric.agent("other", adit::protocol::Kind::Http, service.address).await;

    let mut most = Client::connect(web.edge).await;
    let mut given_up = 0u32;
    while given_up < 10_000 {
        let stream = 2 * given_up + 1;
        // Each is at the service before it is given up, so that no limit of bursts has a say.
        let pair = [ask(stream, "/"), frame(PING, 0, 0, &[0; 8])].concat();
        if most.stream.write_all(&pair).await.is_err() || most.next_of(PING).await.is_none() {
            break;
        }
        drop(most.stream.write_all(&frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())).await);
        given_up += 1;
    }
    assert!((250..500).contains(&given_up), "{given_up} were given up before the connection was cut");
    assert_eq!(web.fabric.refused("rapid_reset").await, 1);
    // What was given up was given up all the way.
    eventually("nothing waits at the service", async || {
        let metrics = get(web.fabric.addresses.admin, "", "/metrics").await;
        metrics.text().contains("\nadit_requests_in_flight 0\n")
    })
    .await;

    let mut some = Client::connect(web.edge).await;
    for number in 0..600 {
        let stream = 4 * number + 1;
        let block = frames::block(&[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "other.test"),
            (":path", "/"),
        ]);
        let answered = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        some.send(&[answered, ask(stream + 2, "/")].concat()).await;
        while some.next_of(DATA).await.expect("it is answered").flags & END_STREAM == 0 {}
        some.send(&frame(RST_STREAM, 0, stream + 2, &8u32.to_be_bytes())).await;
    }
    heard(&mut some).await;
}

/// The first frame of a head, and one of those without end that follow it.
fn endless_heads() -> [(&'static str, Vec<u8>, Vec<u8>); 3] {
    let begun = frames::block(&frames::request("GET", "/", &[]));
    let large = frames::block(&[("x-large", &"x".repeat(16_000))]);
    let small = frames::block(&[("x", "y")]);
    [
        ("empty", frame(HEADERS, END_STREAM, 1, &begun), frame(CONTINUATION, 0, 1, b"")),
        ("small", frame(HEADERS, END_STREAM, 1, &begun), frame(CONTINUATION, 0, 1, &small)),
        ("large", frame(HEADERS, END_STREAM, 1, &begun), frame(CONTINUATION, 0, 1, &large)),
    ]
}

#[tokio::test]
async fn a_head_without_end_ends_its_connection_and_no_other() {
    let service = service::mirror().await;
    let web = web(&service, |_| {}).await;
    for (number, (what, head, more)) in (1..).zip(endless_heads()) {
        let mut client = Client::connect(web.edge).await;
        // The edge may have had enough before all is written.
        drop(client.stream.write_all(&[&head[..], &more.repeat(40)].concat()).await);
        assert_eq!(client.end().await, Some(CALM), "{what}");
        assert_eq!(get(web.edge, "web", "/").await.status, 200);
        assert_eq!(web.fabric.refused("flood").await, number, "{what}");
    }
}

/// Attacks without pause from many connections, and others that are served meanwhile.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn floods_leave_memory_where_it_was() {
    use crate::support::process::Process;

    let service = service::mirror().await;
    let folder = ok(tempfile::tempdir());
    let any = "127.0.0.1:0";
    let words = ["node", "--edge-bind", any, "--link-bind", any, "--admin-bind", any, "--peer-bind", any];
    let node = Process::start(folder.path(), &words);
    let (edge, link) = (node.address("edge"), node.address("link").to_string());
    let words = ["agent", "http", "web", &service.address.to_string(), "--connect", &link];
    let agent = Process::start(folder.path(), &words);
    agent.line_with("serving web");

    let mut attacks = endless_heads().map(|(_, head, more)| (head, more.repeat(40))).to_vec();
    attacks.push((Vec::new(), burst(0)));
    let attack = async |rounds: usize| {
        let attackers = (0..16).map(async |number| {
            let (first, more) = &attacks[number % attacks.len()];
            for _ in 0..rounds {
                let mut client = Client::connect(edge).await;
                // Until the edge has had enough.
                if client.stream.write_all(first).await.is_ok() {
                    while client.stream.write_all(more).await.is_ok() {}
                }
            }
        });
        futures_util::future::join_all(attackers).await;
    };
    let served = async {
        loop {
            assert_eq!(get(edge, "web", "/").await.status, 200);
        }
    };
    let before = tokio::select! {
        () = async { attack(10).await } => node.memory(),
        () = served => unreachable!("it goes on"),
    };
    attack(40).await;
    let (before, after) = (before >> 20, node.memory() >> 20);
    assert!(after <= before + 32, "the node had {before} MiB before and has {after} MiB after");
}
