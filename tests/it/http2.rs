//! Services that speak HTTP/2: requests share connections, and each keeps to itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use adit::protocol::Kind;
use bytes::Bytes;
use futures_util::{future::join_all, stream};
use h2::Reason;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Barrier, Notify, Semaphore, mpsc},
    time::timeout,
};

use crate::support::{
    Fabric,
    body::{self, Body, channel},
    client::{Answer, Client, Http1, Http2, get, raw, request, sentence},
    eventually,
    fabric::Web,
    http2::{self, answer, content},
    ok, random,
    service::{self, Running, full},
    soon,
    streams::standing,
};

fn assert_ok(answer: &Answer) {
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "ok"));
}

#[tokio::test]
async fn a_request_arrives_as_http2_has_it() {
    let service = http2::http(service::reflect).await;
    let web = Web::to_http2(service.address).await;
    let mut client = Http1::connect(web.edge).await;
    let answer = client.ask(request("POST", "web", "/a/b?c=d", "hello")).await;
    assert_eq!(
        answer.text(),
        "POST http://127.0.0.1/a/b?c=d HTTP/2.0\ncontent-length: 5\nforwarded: for=127.0.0.1;proto=http;host=127.0.0.1\n\
         x-forwarded-for: 127.0.0.1\nx-forwarded-host: 127.0.0.1\nx-forwarded-proto: http\n\nhello"
    );
    let fields = "te: trailers, deflate\r\nconnection: close, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n\
                  transfer-encoding: chunked\r\nproxy-connection: x\r\nupgrade: h2c\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let seen = raw(web.edge, format!("PUT /|\" HTTP/1.1\r\nhost: Web.test:80\r\n{fields}").as_bytes()).await;
    assert!(seen.contains("PUT http://Web.test:80/|\" HTTP/2.0\n") && seen.ends_with("\n\nhi"), "{seen}");
    assert!(seen.contains("\nte: trailers\n"), "{seen}");
    let (_, seen) = seen.split_once("\r\n\r\n").expect("a response with a body");
    for hop in
        ["x-hop", "keep-alive", "transfer-encoding", "proxy-connection", "upgrade", "connection", "host:"]
    {
        assert!(!seen.contains(&format!("\n{hop}")), "{hop}: {seen}");
    }
    let seen = raw(web.edge, b"OPTIONS * HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\n\r\n").await;
    assert!(seen.contains("OPTIONS http://web.test* HTTP/2.0\n"), "{seen}");
    // One that names no host is for the endpoint.
    let seen = raw(web.edge, b"GET / HTTP/1.0\r\nx-adit-endpoint: web\r\n\r\n").await;
    assert!(seen.contains("GET http://web/ HTTP/2.0\n"), "{seen}");
    let refused =
        raw(web.edge, b"GET / HTTP/1.1\r\nhost: a b\r\nx-adit-endpoint: web\r\nconnection: close\r\n\r\n");
    let refused = refused.await;
    assert!(refused.starts_with("HTTP/1.1 400 ") && refused.contains("invalid_host"), "{refused}");
}

/// A service that answers when so many requests have come.
async fn gathering(count: usize, most: u32) -> Running {
    let all = Arc::new(Barrier::new(count));
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(most);
    http2::raw(builder, move |mut connection| {
        let all = Arc::clone(&all);
        async move {
            let tasks = adit::drain::Tasks::new();
            while let Some(Ok((_, respond))) = connection.accept().await {
                let all = Arc::clone(&all);
                tasks.spawn(async move {
                    all.wait().await;
                    answer(respond);
                });
            }
        }
    })
    .await
}

#[tokio::test]
async fn requests_at_once_share_connections() {
    let service = gathering(100, 1000).await;
    let web = Web::to_http2(service.address).await;
    let client = Http2::connect(web.edge).await;
    let asked = (0..100).map(|_| client.ask(ok(Request::get("http://web.test/").body(full("")))));
    soon(join_all(asked)).await.iter().for_each(assert_ok);
    assert_eq!(service.accepted(), 4, "with 32 requests at most on each");
}

#[tokio::test]
async fn a_service_gets_no_more_requests_at_once_than_it_allows() {
    let service = gathering(20, 5).await;
    let web = Web::to_http2(service.address).await;
    let asked = (0..20).map(async |_| get(web.edge, "web", "/").await);
    soon(join_all(asked)).await.iter().for_each(assert_ok);
    // Nothing is known of the service at first, so a few are opened in vain at most.
    assert!((4..=8).contains(&service.accepted()), "{}", service.accepted());
}

#[tokio::test]
async fn a_request_that_is_given_up_ends_alone() {
    let (ends, mut ended) = mpsc::channel(8);
    let service = http2::raw(h2::server::Builder::new(), move |mut connection| {
        let ends = ends.clone();
        async move {
            let tasks = adit::drain::Tasks::new();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let ends = ends.clone();
                tasks.spawn(async move {
                    let mut body = ok(respond.send_response(Response::new(()), false));
                    ok(body.send_data(Bytes::from_static(b"first"), false));
                    let reset = std::future::poll_fn(|cx| body.poll_reset(cx)).await;
                    drop(ends.send(reset.map_err(|error| error.to_string())).await);
                });
            }
        }
    })
    .await;
    let web = Web::to_http2(service.address).await;
    let [mut http1, mut http2] = Client::both(web.edge).await;
    let mut other = Http1::connect(web.edge).await;
    let mut stays = ok(other.send(request("GET", "web", "/", "")).await).into_body();
    assert_eq!(ok(body::next(&mut stays).await.expect("it has begun")), "first");
    let mut given_up = ok(http1.send(request("GET", "web", "/", "")).await).into_body();
    assert_eq!(ok(body::next(&mut given_up).await.expect("it has begun")), "first");
    drop((given_up, http1));
    assert_eq!(soon(ended.recv()).await, Some(Ok(Reason::CANCEL)));
    let mut given_up = ok(http2.send(request("GET", "web", "/", "")).await).into_body();
    assert_eq!(ok(body::next(&mut given_up).await.expect("it has begun")), "first");
    drop(given_up);
    assert_eq!(soon(ended.recv()).await, Some(Ok(Reason::CANCEL)));
    assert_eq!(service.accepted(), 1);
    assert!(timeout(Duration::from_millis(100), ended.recv()).await.is_err(), "the other goes on");
}

/// A service that closes each connection after so many requests, and says so as it should; counts what it was asked.
async fn leaving(after: usize) -> (Running, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let service = http2::raw(h2::server::Builder::new(), move |mut connection| {
        let asked = Arc::clone(&counted);
        async move {
            let (mut left, tasks) = (after, adit::drain::Tasks::new());
            while let Some(Ok((request, respond))) = connection.accept().await {
                asked.fetch_add(1, Relaxed);
                left = left.saturating_sub(1);
                if left == 0 {
                    connection.graceful_shutdown();
                }
                tasks.spawn(async move {
                    if content(request.into_body()).await.is_ok() {
                        answer(respond);
                    }
                });
            }
        }
    });
    (service.await, asked)
}

#[tokio::test]
async fn a_service_that_says_goodbye_costs_no_request_of_any_method() {
    let (service, asked) = leaving(7).await;
    let web = Web::to_http2(service.address).await;
    let clients = (0..8).map(async |_| {
        let mut client = Http1::connect(web.edge).await;
        for _ in 0..25 {
            assert_ok(&client.ask(request("POST", "web", "/", "order")).await);
        }
    });
    soon(join_all(clients)).await;
    assert_eq!(asked.load(Relaxed), 200);
    assert!(service.accepted() >= 20, "{}", service.accepted());
}

/// A service that refuses all requests of its first connection when it has read them, as if it had not.
async fn refusing() -> Running {
    let first = Arc::new(AtomicBool::new(true));
    http2::raw(h2::server::Builder::new(), move |mut connection| {
        let first = first.swap(false, Relaxed);
        async move {
            let tasks = adit::drain::Tasks::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                tasks.spawn(async move {
                    let mut body = request.into_body();
                    let mut all = Vec::new();
                    while let Some(Ok(data)) = body.data().await {
                        ok(body.flow_control().release_capacity(data.len()));
                        all.extend_from_slice(&data);
                    }
                    if first {
                        return respond.send_reset(Reason::REFUSED_STREAM);
                    }
                    let trailers = ok(body.trailers().await).unwrap_or_default();
                    let mut stream = ok(respond.send_response(Response::new(()), false));
                    stream.reserve_capacity(all.len());
                    ok(stream.send_data(all.into(), false));
                    ok(stream.send_trailers(trailers));
                });
            }
        }
    })
    .await
}

#[tokio::test]
async fn what_a_service_refuses_unprocessed_is_sent_again_whole() {
    let trailers = http::HeaderMap::from_iter([(ok("x-sum".parse()), ok("42".parse()))]);
    for pieces in [vec![], vec![5], vec![10_000, 1, 0, 20_000], vec![60_000]] {
        let service = refusing().await;
        let web = Web::to_http2(service.address).await;
        let client = Http2::connect(web.edge).await;
        let (sender, upload) = channel();
        let pieces: Vec<_> = pieces.into_iter().map(random).collect();
        let sending = async {
            for piece in &pieces {
                sender.data(piece.clone()).await;
            }
            sender.trailers(trailers.clone()).await;
        };
        let post = ok(Request::post("http://web.test/").body(upload));
        let (response, ()) = tokio::join!(soon(client.send(post)), sending);
        let response = ok(soon(ok(response).into_body().collect()).await);
        assert_eq!(response.trailers(), Some(&trailers));
        assert_eq!(response.to_bytes(), pieces.concat());
    }
    // What is too long to be kept is gone.
    let service = refusing().await;
    let web = Web::to_http2(service.address).await;
    let mut client = Http1::connect(web.edge).await;
    let answer = client.ask(request("POST", "web", "/", random(200_000))).await;
    sentence(&answer, 502, "upstream_broken");
    let again = client.ask(request("POST", "web", "/", random(200_000))).await;
    assert_eq!((again.status, again.body.len()), (StatusCode::OK, 200_000));
}

#[tokio::test]
async fn a_request_beyond_the_last_that_a_goodbye_is_for_is_sent_again() {
    let first = AtomicBool::new(true);
    let service = service::tcp(move |mut stream| {
        let first = first.swap(false, Relaxed);
        async move {
            if !first {
                return http2::connection(stream, async |_| Response::new(full("ok"))).await;
            }
            let (settings, goodbye) =
                ([0, 0, 0, 4, 0, 0, 0, 0, 0], [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            ok(stream.write_all(&settings).await);
            let mut preface = [0; 24];
            ok(stream.read_exact(&mut preface).await);
            // Until the request's HEADERS are there.
            loop {
                let mut head = [0; 9];
                ok(stream.read_exact(&mut head).await);
                let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                ok(stream.read_exact(&mut payload).await);
                if head[3] == 1 {
                    break;
                }
            }
            ok(stream.write_all(&goodbye).await);
            ok(stream.shutdown().await);
            drop(service::drain(&mut stream).await);
        }
    })
    .await;
    let web = Web::to_http2(service.address).await;
    assert_ok(&Http1::connect(web.edge).await.ask(request("POST", "web", "/", "order")).await);
    assert_eq!(service.accepted(), 2);
}

/// A service that ends its connection without a word when it has read a request for `/die`; counts the requests.
async fn dying() -> (Running, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let service = http2::raw(h2::server::Builder::new(), move |mut connection| {
        let asked = Arc::clone(&counted);
        async move {
            let (tasks, die) = (adit::drain::Tasks::new(), Arc::new(Notify::new()));
            loop {
                let next = tokio::select! {
                    next = connection.accept() => next,
                    () = die.notified() => return,
                };
                let Some(Ok((request, respond))) = next else { return };
                asked.fetch_add(1, Relaxed);
                let die = Arc::clone(&die);
                tasks.spawn(async move {
                    let dies = request.uri().path() == "/die";
                    drop(content(request.into_body()).await);
                    if dies { die.notify_one() } else { answer(respond) }
                });
            }
        }
    });
    (service.await, asked)
}

#[tokio::test]
async fn what_may_have_been_delivered_is_sent_again_only_where_that_is_safe() {
    for (method, content, times) in [
        ("POST", "order", 1),
        ("POST", "", 1),
        ("PATCH", "", 1),
        // Idempotent, but its body is gone.
        ("PUT", "content", 1),
        ("PUT", "", 2),
        ("GET", "", 2),
    ] {
        let (service, asked) = dying().await;
        let web = Web::to_http2(service.address).await;
        let mut client = Http1::connect(web.edge).await;
        assert_ok(&client.ask(request("GET", "web", "/", "")).await);
        let answer = client.ask(request(method, "web", "/die", content)).await;
        sentence(&answer, 502, "upstream_broken");
        assert_eq!(asked.load(Relaxed) - 1, times, "{method} {content}");
        assert_ok(&client.ask(request("POST", "web", "/", "order")).await);
    }
}

#[tokio::test]
async fn a_response_that_breaks_in_the_middle_ends_in_an_error() {
    let now = Arc::new(Notify::new());
    let told = Arc::clone(&now);
    let service = http2::raw(h2::server::Builder::new(), move |mut connection| {
        let now = Arc::clone(&told);
        async move {
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let mut response = Response::new(());
                let short = request.uri().path() == "/short";
                if short {
                    response.headers_mut().insert(header::CONTENT_LENGTH, ok("100".parse()));
                }
                let mut body = ok(respond.send_response(response, false));
                ok(body.send_data(Bytes::from_static(b"half"), short));
                // It has ended already.
                if short {
                    continue;
                }
                // What has been written goes out as the connection is asked for the next request.
                tokio::select! {
                    _ = connection.accept() => panic!("there is one request"),
                    () = now.notified() => {}
                }
                match request.uri().path() {
                    "/error" => body.send_reset(Reason::INTERNAL_ERROR),
                    "/cancel" => body.send_reset(Reason::CANCEL),
                    // Nor is this an end: END_STREAM is missing.
                    "/none" => body.send_reset(Reason::NO_ERROR),
                    "/close" => return,
                    other => panic!("{other}"),
                }
            }
        }
    })
    .await;
    let web = Web::to_http2(service.address).await;
    for path in ["/error", "/cancel", "/none", "/close", "/short"] {
        for mut client in Client::both(web.edge).await {
            let mut response = match client.send(request("GET", "web", path, "")).await {
                Ok(response) => response.into_body(),
                // What is malformed shows as soon as the rest.
                Err(_) if path == "/short" => continue,
                Err(error) => panic!("{path}: {error}"),
            };
            if path != "/short" {
                assert_eq!(ok(body::next(&mut response).await.expect("half a response")), "half");
                now.notify_one();
            }
            let end = body::next(&mut response).await;
            assert!(matches!(end, Some(Err(_))), "{path} seems complete: {end:?}");
        }
    }
}

#[tokio::test]
async fn clients_that_do_not_read_hold_up_nobody_else() {
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&taken);
    let service = http2::http(move |request: Request<Incoming>| {
        let taken = Arc::clone(&counted);
        async move {
            if request.uri().path() == "/" {
                return Response::new(full("ok"));
            }
            let pieces = stream::repeat_with(move || {
                taken.fetch_add(1, Relaxed);
                Ok(Frame::data(Bytes::from_static(&[7; 16_384])))
            });
            Response::new(Body::new(StreamBody::new(pieces)))
        }
    })
    .await;
    let web = Web::to_http2(service.address).await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut client = Http1::connect(web.edge).await;
        let response = ok(client.send(request("GET", "web", "/endless", "")).await);
        stalled.push((client, response));
    }
    standing(&taken).await;
    assert_ok(&soon(get(web.edge, "web", "/")).await);
    assert_eq!(service.accepted(), 1);
}

#[tokio::test]
async fn a_service_that_speaks_no_http2_is_named() {
    let old = service::http(async |_| Response::new(full("ok"))).await;
    let silent = service::tcp(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let fabric = Fabric::start().await;
    let _old = fabric.agent("old", Kind::Http2, old.address).await;
    let _silent = fabric.agent("silent", Kind::Http2, silent.address).await;
    let why = sentence(&get(fabric.addresses.edge, "old", "/").await, 502, "upstream_unreachable");
    assert!(why.contains("does not speak HTTP/2"), "{why}");
    let why = sentence(&get(fabric.addresses.edge, "silent", "/").await, 502, "upstream_timeout");
    assert!(why.contains("does not speak HTTP/2: it has said nothing for 5s"), "{why}");
}

#[tokio::test]
async fn a_node_that_leaves_finishes_streams_and_closes_idle_connections() {
    let go = Arc::new(Semaphore::new(0));
    let service = http2::http({
        let go = Arc::clone(&go);
        move |_| {
            let go = Arc::clone(&go);
            async move {
                ok(go.acquire().await).forget();
                Response::new(full("ok"))
            }
        }
    })
    .await;
    let mut web = Web::to_http2(service.address).await;
    let client = Http2::connect(web.edge).await;
    let asked = client.ask(ok(Request::get("http://web.test/").body(full(""))));
    let leaving = async {
        eventually("the request has arrived", async || service.accepted() == 1).await;
        let node = web.fabric.node.take().expect("it runs");
        let drained = node.drain();
        tokio::pin!(drained);
        assert!(timeout(Duration::from_millis(300), &mut drained).await.is_err(), "a stream is open");
        go.add_permits(1);
        soon(drained).await
    };
    let (answer, left) = tokio::join!(asked, leaving);
    assert_ok(&answer);
    ok(left);
}

#[tokio::test]
async fn a_connection_that_has_fallen_silent_is_used_no_more() {
    let first = Arc::new(AtomicBool::new(true));
    let service = http2::raw(h2::server::Builder::new(), move |mut connection| {
        let first = first.fetch_and(false, Relaxed);
        async move {
            let (_request, respond) = ok(connection.accept().await.expect("a request"));
            answer(respond);
            let mut unanswered = Vec::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                if first { unanswered.push((request, respond)) } else { answer(respond) }
            }
        }
    })
    .await;
    let fabric =
        Fabric::with(|config| config.edge.limits.request_timeout = Duration::from_millis(1500)).await;
    let _agent = fabric.agent("web", Kind::Http2, service.address).await;
    let edge = fabric.addresses.edge;
    assert_ok(&get(edge, "web", "/").await);
    sentence(&get(edge, "web", "/").await, 504, "response_timeout");
    for _ in 0..2 {
        assert_ok(&get(edge, "web", "/").await);
    }
    assert_eq!(service.accepted(), 2);
}

#[tokio::test]
async fn a_request_goes_on_after_an_early_response() {
    let (wholes, mut whole) = mpsc::channel(1);
    let service = http2::raw(h2::server::Builder::new(), move |mut connection| {
        let wholes = wholes.clone();
        async move {
            let tasks = adit::drain::Tasks::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                let wholes = wholes.clone();
                answer(respond);
                tasks.spawn(async move {
                    ok(wholes
                        .send(content(request.into_body()).await.map_err(|error| error.to_string()))
                        .await);
                });
            }
        }
    })
    .await;
    let web = Web::to_http2(service.address).await;
    let client = Http2::connect(web.edge).await;
    let (sender, upload) = channel();
    let post = ok(Request::post("http://web.test/").body(upload));
    let response = ok(soon(client.send(post)).await);
    assert_eq!(ok(soon(response.into_body().collect()).await).to_bytes(), "ok");
    let pieces: Vec<_> = (0..10).map(|_| random(10_000)).collect();
    for piece in &pieces {
        sender.data(piece.clone()).await;
    }
    drop(sender);
    assert!(soon(whole.recv()).await == Some(Ok(pieces.concat())));
}
