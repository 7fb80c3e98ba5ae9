//! Clients that are slow to ask, that ask for nothing, and exchanges that stand still: what is cut, when, and what never is.
//!
//! Silence is the subject here, so these tests take as long as their time-outs.

use std::time::Duration;

use adit::{edge::Limits, protocol::Kind};
use futures_util::{SinkExt, StreamExt, future::join_all};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Fabric,
    body::{self, channel, trickle},
    client::{Http1, Http2, get, request, request_of, sentence},
    eventually,
    fabric::Web,
    frames::{self, CONTINUATION, HEADERS, PREFACE, frame},
    ok, reset,
    service::{self, read_request},
    soon, websocket,
};

const MS: Duration = Duration::from_millis(1);

async fn fabric(change: impl FnOnce(&mut Limits)) -> Fabric {
    Fabric::with(|config| change(&mut config.edge.limits)).await
}

/// Waits `/MILLISECONDS`, and then answers.
async fn waits() -> service::Running {
    service::http(|request: Request<Incoming>| async move {
        sleep(request.uri().path()[1..].parse().unwrap_or(0) * MS).await;
        Response::new(service::full("done"))
    })
    .await
}

/// How long a connection lives on which these bytes are sent, and then one piece after the other.
async fn lives(edge: std::net::SocketAddr, first: &[u8], piece: &[u8], every: Duration) -> Duration {
    // No later than the edge's own clock.
    let began = Instant::now();
    let mut stream = ok(TcpStream::connect(edge).await);
    ok(stream.write_all(first).await);
    let (mut read, mut write) = stream.split();
    let ended = async {
        let mut all = Vec::new();
        // It may end with a reset, which is an end too.
        drop(read.read_to_end(&mut all).await);
    };
    let dribble = async {
        loop {
            sleep(every).await;
            if write.write_all(piece).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    soon(async {
        tokio::select! {
            () = ended => {}
            () = dribble => {}
        }
    })
    .await;
    began.elapsed()
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_cut_in_time() {
    const LIMIT: Duration = Duration::from_millis(600);
    let service = waits().await;
    let web = Web::through(fabric(|limits| limits.head_timeout = LIMIT).await, service.address).await;
    let edge = web.edge;
    let opening = [PREFACE, &frame(frames::SETTINGS, 0, 0, b"")].concat();
    let open_head = [&opening[..], &frame(HEADERS, 0, 1, b"")].concat();
    let second = [&opening[..], &frame(HEADERS, frames::END_HEADERS, 1, &[0; 100])[..20]].concat();
    let answered = b"GET /0 HTTP/1.1\r\nhost: web.test\r\n\r\n";
    let cases: [(&str, &[u8], &[u8]); 7] = [
        ("a byte a time", b"", b"G"),
        ("one byte", b"G", b""),
        ("field after field", b"GET / HTTP/1.1\r\nhost: web.test\r\n", b"x: y\r\n"),
        ("a second head", answered, b"GET"),
        ("half of HTTP/2's preface", &PREFACE[..20], b""),
        ("CONTINUATION after CONTINUATION", &open_head, &frame(CONTINUATION, 0, 1, b"")),
        ("a HEADERS frame, byte by byte", &second, b"\0"),
    ];
    let cut = cases.map(async |(what, first, piece)| {
        let lived = lives(edge, first, piece, 50 * MS).await;
        assert!(lived >= LIMIT && lived < 4 * LIMIT, "{what}: {lived:?}");
    });
    let others = async {
        // Meanwhile others are served, and heads that come slowly but in time.
        let mut stream = ok(TcpStream::connect(edge).await);
        for piece in [&b"GET /0 HT"[..], b"TP/1.1\r\nhost: web", b".test\r\nconnection: close\r\n\r\n"] {
            ok(stream.write_all(piece).await);
            assert_eq!(get(edge, "web", "/100").await.text(), "done");
        }
        let mut answer = String::new();
        ok(soon(stream.read_to_string(&mut answer)).await);
        assert!(answer.ends_with("done"), "{answer}");
    };
    tokio::join!(join_all(cut), others);
    assert_eq!(web.fabric.refused("head_timeout").await, 7);
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_closed_in_time_and_no_other_is() {
    const LIMIT: Duration = Duration::from_millis(600);
    let (service, sockets) = (waits().await, websocket::echo().await);
    let web = Web::through(fabric(|limits| limits.idle_timeout = LIMIT).await, service.address).await;
    let _sockets = web.fabric.agent("socket", Kind::Http, sockets.address).await;
    let (edge, never) = (web.edge, 10 * LIMIT);
    let in_time = |what: &str, lived: Duration| {
        assert!(lived >= LIMIT && lived < 4 * LIMIT, "{what}: {lived:?}");
    };
    // From when a request was sent for which the service takes 1.5 s: when the edge was done with the response, its client
    // cannot tell.
    let idle_since = |asked: Instant| asked.elapsed().saturating_sub(1500 * MS);
    let silent = async { in_time("silent", lives(edge, b"", b"", never).await) };
    let silent_http2 = async {
        let began = Instant::now();
        let mut client = frames::Client::connect(edge).await;
        client.next_of(frames::GOAWAY).await.expect("a goodbye comes before the end");
        in_time("silent in HTTP/2", began.elapsed());
    };
    let after_http1 = async {
        let mut client = Http1::connect(edge).await;
        let began = Instant::now();
        // A request takes as long as it does.
        assert_eq!(client.ask(request("GET", "web", "/1500", "")).await.text(), "done");
        eventually("the connection is closed", async || client.is_closed()).await;
        in_time("after a response", idle_since(began));
    };
    let after_http2 = async {
        // Whatever is said meanwhile, if nothing is asked: a client's pings are no requests.
        let mut client = frames::Client::connect(edge).await;
        let ask = |stream| {
            let block = frames::block(&frames::request("GET", "/1500", &[]));
            frame(HEADERS, frames::END_HEADERS | frames::END_STREAM, stream, &block)
        };
        let began = Instant::now();
        client.send(&ask(1)).await;
        loop {
            let answer = client.next_of(frames::DATA).await.expect("there is an answer");
            if answer.flags & frames::END_STREAM != 0 {
                break;
            }
        }
        let ping = frame(frames::PING, 0, 0, &[0; 8]);
        client.send(&ping).await;
        let goodbye = loop {
            let next = client.next().await.expect("a goodbye comes before the end");
            match next.kind {
                frames::GOAWAY => break next,
                frames::PING => {
                    sleep(50 * MS).await;
                    client.send(&ping).await;
                }
                _ => {}
            }
        };
        assert_eq!(goodbye.payload[4..8], [0; 4], "there was no error");
        in_time("after a response of HTTP/2", idle_since(began));
    };
    let switched = async {
        let (mut socket, _) = ok(websocket::connect(edge, "socket").await);
        for _ in 0..2 {
            sleep(3 * LIMIT).await;
            ok(socket.send(Message::text("hello")).await);
            assert_eq!(ok(soon(socket.next()).await.expect("it is open")), Message::text("hello"));
        }
    };
    tokio::join!(silent, silent_http2, after_http1, after_http2, switched);
    assert_eq!(web.fabric.refused("idle_timeout").await, 0, "nobody was refused anything");
}

/// How long an exchange may stand still in what follows.
const STALL: Duration = Duration::from_secs(1);

async fn stalling() -> Fabric {
    fabric(|limits| limits.stall_timeout = Some(STALL)).await
}

#[tokio::test]
async fn an_upload_that_stands_still_is_answered_and_reset() {
    let (service, mut ends) = service::report().await;
    let web = Web::through(stalling().await, service.address).await;
    let mut http1 = Http1::connect(web.edge).await;
    let http2 = Http2::connect(web.edge).await;
    for version in 1..=2 {
        let (sender, upload) = channel();
        let request = request_of("POST", "web", "/", upload);
        sender.data("some of it").await;
        let began = Instant::now();
        let answer = match version {
            1 => soon(http1.ask(request)).await,
            _ => soon(http2.ask(over_http2(request))).await,
        };
        let took = began.elapsed();
        sentence(&answer, 408, "request_stalled");
        assert!(took >= STALL && took < 4 * STALL, "{took:?}");
        let (_, end) = soon(ends.recv()).await.expect("the service reports");
        assert_eq!(end.expect_err("it is no clean end").kind(), std::io::ErrorKind::ConnectionReset);
        drop(sender);
    }
    assert_eq!(web.fabric.refused("request_stalled").await, 2);
}

/// HTTP/2 names the host in the target.
fn over_http2(mut request: Request<body::Body>) -> Request<body::Body> {
    let target = format!("http://127.0.0.1{}", request.uri().path());
    *request.uri_mut() = ok(target.parse());
    request.headers_mut().remove(http::header::HOST);
    request
}

/// Begins a response, is silent or sends without end, and tells how its connection ended.
async fn half_a_response() -> (service::Running, mpsc::Receiver<std::io::Error>) {
    let (ends, ended) = mpsc::channel(8);
    let running = service::tcp(move |mut stream| {
        let ends = ends.clone();
        async move {
            let Some(head) = read_request(&mut stream).await else { return };
            ok(stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf").await);
            let error = if head.starts_with("GET /silent") {
                stream.read_u8().await.expect_err("nothing more comes")
            } else {
                loop {
                    if let Err(error) = stream.write_all(&[7; 16 * 1024]).await {
                        break error;
                    }
                }
            };
            drop(ends.send(error).await);
        }
    });
    (running.await, ended)
}

#[tokio::test]
async fn a_response_that_stands_still_ends_in_an_error_at_both_ends() {
    let (service, mut ended) = half_a_response().await;
    let web = Web::through(stalling().await, service.address).await;
    let mut http1 = Http1::connect(web.edge).await;
    let http2 = Http2::connect(web.edge).await;
    let silent = || request("GET", "web", "/silent", "");
    for response in [ok(http1.send(silent()).await), ok(http2.send(over_http2(silent())).await)] {
        let mut response = response.into_body();
        assert_eq!(ok(body::next(&mut response).await.expect("half a response")), "half");
        let began = Instant::now();
        assert!(body::next(&mut response).await.is_some_and(|end| end.is_err()), "it seems complete");
        assert!(began.elapsed() < 4 * STALL);
        assert_eq!(soon(ended.recv()).await.expect("it ends").kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_eq!(web.fabric.refused("stalled").await, 2);
}

#[tokio::test]
async fn a_client_that_takes_nothing_loses_its_response_and_no_other() {
    let (service, mut ended) = half_a_response().await;
    let waits = waits().await;
    let web = Web::through(stalling().await, service.address).await;
    let _other = web.fabric.agent("other", Kind::Http, waits.address).await;
    let endless = || request("GET", "web", "/endless", "");

    let mut http1 = Http1::connect(web.edge).await;
    let response = ok(http1.send(endless()).await);
    soon(ended.recv()).await.expect("the service is stopped");
    drop(response);

    let http2 = Http2::connect(web.edge).await;
    let response = ok(http2.send(over_http2(endless())).await);
    soon(ended.recv()).await.expect("the service is stopped");
    // Its stream alone has ended.
    let answer = http2.ask(over_http2(request("GET", "other", "/0", ""))).await;
    assert_eq!(answer.text(), "done");
    drop(response);
    eventually("both are counted", async || web.fabric.refused("stalled").await == 2).await;
}

/// Each of these is silent for longer than the time-out, in one way or another, and none stands still.
#[tokio::test]
async fn what_moves_or_waits_is_not_cut() {
    // Longer than elsewhere, for what moves every now and then must do so in time on a machine that is busy too.
    const LIMIT: Duration = Duration::from_secs(2);
    let (waits, sockets) = (waits().await, websocket::echo().await);
    let slow = service::http(|request: Request<Incoming>| async move {
        let body = http_body_util::BodyExt::collect(request.into_body()).await;
        assert_eq!(ok(body).to_bytes().len(), 10);
        Response::new(trickle(10, LIMIT / 5, "x"))
    })
    .await;
    let fabric = fabric(|limits| limits.stall_timeout = Some(LIMIT)).await;
    let web = Web::through(fabric, waits.address).await;
    let _slow = web.fabric.agent("slow", Kind::Http, slow.address).await;
    let _sockets = web.fabric.agent("socket", Kind::Http, sockets.address).await;
    let headers = async {
        // That time has a limit of its own.
        let wait = request("POST", "web", "/5000", "all of it");
        assert_eq!(Http1::connect(web.edge).await.ask(wait).await.text(), "done");
    };
    let both_ways = async {
        let upload = request_of("POST", "slow", "/", trickle(10, LIMIT / 5, "x"));
        assert_eq!(Http2::connect(web.edge).await.ask(over_http2(upload)).await.text().len(), 10);
    };
    let one_way = async {
        let upload = request_of("POST", "slow", "/", trickle(10, LIMIT / 5, "x"));
        assert_eq!(Http1::connect(web.edge).await.ask(upload).await.text().len(), 10);
    };
    let switched = async {
        let (mut socket, _) = ok(websocket::connect(web.edge, "socket").await);
        sleep(3 * LIMIT).await;
        ok(socket.send(Message::text("hello")).await);
        assert_eq!(ok(soon(socket.next()).await.expect("it is open")), Message::text("hello"));
    };
    tokio::join!(headers, both_ways, one_way, switched);
}

/// Such a response has no other sign of its end than that of its connection.
#[tokio::test]
async fn a_response_of_http10_that_breaks_off_does_not_end_cleanly() {
    let service = service::tcp(|mut stream| async move {
        if read_request(&mut stream).await.is_some() {
            ok(stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await);
            // Until it has been read.
            sleep(300 * MS).await;
            reset(stream);
        }
    })
    .await;
    let web = Web::to(service.address).await;
    let mut stream = ok(TcpStream::connect(web.edge).await);
    ok(stream.write_all(b"GET / HTTP/1.0\r\nhost: web.test\r\n\r\n").await);
    let mut all = Vec::new();
    let end = ok(timeout(crate::support::SOON, stream.read_to_end(&mut all)).await);
    let text = String::from_utf8_lossy(&all);
    assert!(text.starts_with("HTTP/1.0 200") && text.ends_with("half"), "{text}");
    assert_eq!(end.expect_err("it is no clean end").kind(), std::io::ErrorKind::ConnectionReset);
}
