//! Bodies stream, both ways at once, at the pace of whoever reads them, and their ends are told apart from their breaks.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use adit::drain::Tasks;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{Notify, mpsc},
};

use crate::support::{
    body::{self, Body, channel},
    client::{Client, Http1, request, request_of},
    fabric::{Web, impatient},
    http2, ok, random,
    service::{self, Running, read_request},
    soon,
    streams::{breaking, endless, mirror_bodies, mirror_http2_bodies, standing},
};

const MIB: u64 = 1 << 20;

fn get(path: &str) -> Request<Body> {
    request("GET", "web", path, "")
}

/// A service that sends bodies back and a way to it by each version of HTTP, for services of each version.
async fn mirrors(nodes: usize) -> Vec<(Running, Web, Client)> {
    let mut all = Vec::new();
    for http2 in [false, true] {
        for number in 0..2 {
            let service = if http2 { mirror_http2_bodies().await } else { mirror_bodies().await };
            let web = Web::of(nodes, http2, service.address).await;
            let client = Client::both(web.edge).await.into_iter().nth(number).expect("there are two");
            all.push((service, web, client));
        }
    }
    all
}

#[tokio::test]
async fn both_bodies_stream_at_once_piece_by_piece() {
    both_bodies_stream(1).await;
}

pub(crate) async fn both_bodies_stream(nodes: usize) {
    for (_service, _web, mut client) in mirrors(nodes).await {
        let (sender, upload) = channel();
        let mut download = ok(client.send(request_of("POST", "web", "/", upload)).await).into_body();
        for size in [1, 100, 10_000, 1, 100_000] {
            let piece = random(size);
            sender.data(piece.clone()).await;
            let mut got = Vec::new();
            while got.len() < size {
                got.extend_from_slice(&ok(body::next(&mut download).await.expect("the body goes on")));
            }
            assert!(got == piece);
        }
        drop(sender);
        assert!(body::next(&mut download).await.is_none());
    }
}

#[tokio::test]
async fn server_sent_events_arrive_one_by_one() {
    events_arrive_one_by_one(1).await;
}

pub(crate) async fn events_arrive_one_by_one(nodes: usize) {
    for http2 in [false, true] {
        for number in 0..2 {
            let (sender, events) = channel();
            let events = Arc::new(Mutex::new(Some(events)));
            let serve = move |_| {
                let events = ok(events.lock()).take().expect("it is asked once");
                let response = Response::builder().header(header::CONTENT_TYPE, "text/event-stream");
                async move { ok(response.body(events)) }
            };
            let service = if http2 { http2::http(serve).await } else { service::http(serve).await };
            let web = Web::of(nodes, http2, service.address).await;
            let mut client = Client::both(web.edge).await.into_iter().nth(number).expect("there are two");
            let response = ok(client.send(get("/events")).await);
            assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
            let mut got = response.into_body();
            for event in ["data: 1\n\n", ": nothing new\n\n", "event: two\ndata: 2\n\n"] {
                sender.data(event).await;
                // The next is sent when this one is there.
                assert_eq!(ok(body::next(&mut got).await.expect("the stream goes on")), event);
            }
        }
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    trailers_pass(1).await;
}

pub(crate) async fn trailers_pass(nodes: usize) {
    for (_service, _web, mut client) in mirrors(nodes).await {
        let (sender, upload) = channel();
        let mut request = request_of("POST", "web", "/", upload);
        request.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-sum"));
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        let response = ok(client.send(request).await);
        sender.data("content").await;
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("42"))]);
        sender.trailers(trailers.clone()).await;
        let all = ok(soon(response.into_body().collect()).await);
        assert_eq!(all.trailers(), Some(&trailers));
        assert_eq!(all.to_bytes(), "content");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_service() {
    an_unread_response_stops_the_service(1).await;
}

pub(crate) async fn an_unread_response_stops_the_service(nodes: usize) {
    for number in 0..2 {
        let (service, taken, _ended) = endless().await;
        let web = Web::over(nodes, service.address).await;
        let [http1, http2] = Client::both(web.edge).await;
        let mut client = [http1, http2].into_iter().nth(number).expect("there are two");
        let mut response = ok(client.send(get("/")).await).into_body();
        let stood = standing(&taken).await;
        assert!(stood < 40 * MIB, "{stood} bytes were taken from the service");
        // And it goes on when the client does.
        let mut read = 0;
        while read < stood + MIB {
            read += ok(body::next(&mut response).await.expect("it is endless")).len() as u64;
        }
        assert!(taken.load(Relaxed) > stood);
    }
}

#[tokio::test]
async fn a_service_that_does_not_read_stops_the_client() {
    an_unread_request_stops_the_client(1).await;
}

pub(crate) async fn an_unread_request_stops_the_client(nodes: usize) {
    let service = service::tcp(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let web = Web::over(nodes, service.address).await;
    for mut client in Client::both(web.edge).await {
        let sent = Arc::new(AtomicU64::new(0));
        let (sender, upload) = channel();
        let (count, tasks) = (Arc::clone(&sent), Tasks::new());
        tasks.spawn(async move {
            let piece = random(16 * 1024);
            while sender.try_data(piece.clone()).await {
                count.fetch_add(piece.len() as u64, Relaxed);
            }
        });
        tokio::select! {
            stood = standing(&sent) => assert!(stood < 40 * MIB, "{stood} bytes were taken from the client"),
            _ = client.send(request_of("POST", "web", "/", upload)) => panic!("nobody has answered"),
        }
        tasks.abort();
    }
}

#[tokio::test]
async fn a_response_that_breaks_in_the_middle_ends_in_an_error() {
    a_broken_response_is_an_error(1).await;
}

pub(crate) async fn a_broken_response_is_an_error(nodes: usize) {
    let (service, now) = breaking().await;
    let web = Web::over(nodes, service.address).await;
    for path in ["/length", "/chunked", "/until-close"] {
        for mut client in Client::both(web.edge).await {
            let mut response = ok(client.send(get(path)).await).into_body();
            assert_eq!(ok(body::next(&mut response).await.expect("half a response")), "half");
            now.notify_one();
            let end = body::next(&mut response).await;
            assert!(matches!(end, Some(Err(_))), "{path} seems complete: {end:?}");
        }
    }
}

#[tokio::test]
async fn a_response_whose_agent_is_lost_ends_in_an_error() {
    a_response_of_a_lost_agent_is_an_error(1).await;
}

pub(crate) async fn a_response_of_a_lost_agent_is_an_error(nodes: usize) {
    let (service, _never) = breaking().await;
    for number in 0..2 {
        let web = Web::over_with(nodes, impatient, service.address).await;
        let mut client = Client::both(web.edge).await.into_iter().nth(number).expect("there are two");
        let mut response = ok(client.send(get("/until-close")).await).into_body();
        assert_eq!(ok(body::next(&mut response).await.expect("half a response")), "half");
        let Web { agent, .. } = web;
        drop(agent);
        let end = body::next(&mut response).await;
        assert!(matches!(end, Some(Err(_))), "it seems complete: {end:?}");
    }
}

#[tokio::test]
async fn a_service_sees_that_its_client_has_gone_in_mid_response() {
    a_client_that_has_gone_is_noticed(1).await;
}

pub(crate) async fn a_client_that_has_gone_is_noticed(nodes: usize) {
    let (service, _taken, mut ended) = endless().await;
    let web = Web::over(nodes, service.address).await;
    let [mut http1, mut http2] = Client::both(web.edge).await;
    let mut response = ok(http1.send(get("/")).await).into_body();
    ok(body::next(&mut response).await.expect("it is endless"));
    drop((response, http1));
    soon(ended.recv()).await.expect("the service's writes fail");
    // Over HTTP/2 a request can be given up alone.
    let mut response = ok(http2.send(get("/")).await).into_body();
    ok(body::next(&mut response).await.expect("it is endless"));
    drop(response);
    soon(ended.recv()).await.expect("the service's writes fail");
    ok(http2.send(get("/")).await);
}

/// How the bodies of requests go on at a service.
struct Reports {
    /// Told when the first piece is there.
    begun: Arc<Notify>,
    /// What comes after it.
    ended: mpsc::Receiver<Option<Result<Bytes, hyper::Error>>>,
}

/// What a service does that reports on each request.
fn reporting()
-> (impl Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Clone + Send + Sync + 'static, Reports)
{
    let (ends, ended) = mpsc::channel(8);
    let begun = Arc::new(Notify::new());
    let arrived = Arc::clone(&begun);
    let serve = move |request: Request<Incoming>| {
        let (ends, begun) = (ends.clone(), Arc::clone(&arrived));
        let response = async move {
            let mut body = request.into_body();
            assert_eq!(ok(body::next(&mut body).await.expect("half a request")), "half");
            begun.notify_one();
            ok(ends.send(body::next(&mut body).await).await);
            Response::new(service::full(""))
        };
        response.boxed()
    };
    (serve, Reports { begun, ended })
}

#[tokio::test]
async fn a_request_that_breaks_in_the_middle_ends_in_an_error_at_the_service() {
    a_broken_request_is_an_error(1).await;
}

pub(crate) async fn a_broken_request_is_an_error(nodes: usize) {
    for http2 in [false, true] {
        let (serve, mut reports) = reporting();
        let service = if http2 { http2::http(serve).await } else { service::http(serve).await };
        let web = Web::of(nodes, http2, service.address).await;
        for with_length in [false, true] {
            for mut client in Client::both(web.edge).await {
                let (sender, upload) = channel();
                let mut request = request_of("POST", "web", "/", upload);
                if with_length {
                    request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("100"));
                }
                let sending = async {
                    sender.data("half").await;
                    soon(reports.begun.notified()).await;
                    sender.fail().await;
                };
                let (response, ()) = tokio::join!(client.send(request), sending);
                assert!(response.is_err());
                drop(client);
                let end = soon(reports.ended.recv()).await.expect("the service reports");
                assert!(matches!(end, Some(Err(_))), "the request seems complete: {end:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_stream_is_reset_is_never_complete_whatever_the_reason() {
    for http2 in [false, true] {
        let (serve, mut reports) = reporting();
        let service = if http2 { http2::http(serve).await } else { service::http(serve).await };
        let web = Web::of(1, http2, service.address).await;
        let tasks = Tasks::new();
        let connect = async || {
            let (client, connection) =
                ok(h2::client::handshake(ok(TcpStream::connect(web.edge).await)).await);
            tasks.spawn(async move { drop(connection.await) });
            client
        };
        let mut client = connect().await;
        // What ends the request and what ends its body race each other.
        let none = std::iter::repeat_n(Reason::NO_ERROR, 300);
        let reasons = [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::STREAM_CLOSED].into_iter().chain(none);
        for (index, reason) in reasons.enumerate() {
            if index % 100 == 99 {
                // A connection whose client gives up most of its requests is cut in the end.
                client = connect().await;
            }
            let request = ok(Request::post("http://web.test/").body(()));
            let mut ready = ok(client.clone().ready().await);
            let (_response, mut upload) = ok(ready.send_request(request, false));
            ok(upload.send_data(Bytes::from_static(b"half"), false));
            soon(reports.begun.notified()).await;
            upload.send_reset(reason);
            let end = soon(reports.ended.recv()).await.expect("the service reports");
            assert!(matches!(end, Some(Err(_))), "the request seems complete after {reason}: {end:?}");
        }
        tasks.abort();
    }
}

#[tokio::test]
async fn responses_without_a_body_keep_their_flow() {
    bodiless_responses_keep_their_flow(1).await;
}

pub(crate) async fn bodiless_responses_keep_their_flow(nodes: usize) {
    let service = service::tcp(|mut stream| async move {
        while let Some(request) = read_request(&mut stream).await {
            let response: &[u8] = match request.split(' ').nth(1) {
                Some("/204") => b"HTTP/1.1 204 No Content\r\n\r\n",
                Some("/304") => b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\netag: \"x\"\r\n\r\n",
                _ if request.starts_with("HEAD ") => b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
                _ => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            };
            ok(stream.write_all(response).await);
        }
    })
    .await;
    let web = Web::over(nodes, service.address).await;
    for mut client in Client::both(web.edge).await {
        for (method, path, status) in [
            ("HEAD", "/", StatusCode::OK),
            ("GET", "/204", StatusCode::NO_CONTENT),
            ("GET", "/304", StatusCode::NOT_MODIFIED),
            ("GET", "/", StatusCode::OK),
            ("DELETE", "/204", StatusCode::NO_CONTENT),
        ] {
            let response = ok(client.send(request(method, "web", path, "")).await);
            assert_eq!(response.status(), status, "{method} {path}");
            if method == "HEAD" {
                assert_eq!(response.headers()[header::CONTENT_LENGTH], "1000");
            }
            assert_eq!(ok(soon(response.into_body().collect()).await).to_bytes(), "", "{method} {path}");
        }
    }
    // One flow for each way to the agent: with three nodes there are two.
    assert!(service.accepted() < nodes.max(2), "{}", service.accepted());
}

/// Answers `GET /SIZE` with so many bytes, and an upload with how many it had.
#[cfg(target_os = "linux")]
async fn bulk() -> Running {
    service::http(|request: Request<Incoming>| async move {
        if request.method() == "POST" {
            let size = drained(request.into_body()).await;
            return Response::new(service::full(size.to_string()));
        }
        let size = ok(request.uri().path()[1..].parse());
        Response::new(zeros(size))
    })
    .await
}

#[cfg(target_os = "linux")]
fn zeros(size: u64) -> Body {
    const PIECE: &[u8] = &[0; 64 * 1024];
    let pieces = futures_util::stream::iter(0..size / PIECE.len() as u64)
        .map(|_| Ok(hyper::body::Frame::data(Bytes::from_static(PIECE))));
    Body::new(http_body_util::StreamBody::new(pieces))
}

#[cfg(target_os = "linux")]
async fn drained(mut body: Incoming) -> u64 {
    let mut size = 0;
    while let Some(piece) = body::next(&mut body).await {
        size += ok(piece).len() as u64;
    }
    size
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_gibibyte_each_way_leaves_memory_where_it_was() {
    use crate::support::process::Process;

    let service = bulk().await;
    let folder = ok(tempfile::tempdir());
    let any = "127.0.0.1:0";
    let words = ["node", "--edge-bind", any, "--link-bind", any, "--admin-bind", any, "--peer-bind", any];
    let node = Process::start(folder.path(), &words);
    let (edge, link) = (node.address("edge"), node.address("link").to_string());
    let words = ["agent", "http", "web", &service.address.to_string(), "--connect", &link];
    let agent = Process::start(folder.path(), &words);
    agent.line_with("serving web");
    let download = async |size: u64| {
        let mut client = Http1::connect(edge).await;
        let response = ok(client.send(get(&format!("/{size}"))).await);
        assert_eq!(drained(response.into_body()).await, size);
    };
    let upload = async |size: u64| {
        let mut client = Http1::connect(edge).await;
        let answer = client.ask(request_of("POST", "web", "/", zeros(size))).await;
        assert_eq!(answer.text(), size.to_string());
    };
    tokio::join!(download(64 * MIB), upload(64 * MIB));
    let before = [node.memory(), agent.memory()];
    tokio::join!(download(1024 * MIB), upload(1024 * MIB));
    let after = [node.memory(), agent.memory()];
    for (name, before, after) in [("node", before[0], after[0]), ("agent", before[1], after[1])] {
        let (before, after) = (before / MIB, after / MIB);
        assert!(after <= before + 32, "the {name} had {before} MiB before and has {after} MiB after");
    }
}
