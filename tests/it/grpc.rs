//! gRPC from end to end, through one node and across two: the four kinds of calls, trailers, deadlines, cancellation, and
//! errors that are adit's own.
//!
//! Spoken by hand over HTTP/2; `tests/interop/grpc_calls.py` does the same with a real implementation.

use std::{net::SocketAddr, time::Duration};

use adit::{agent::Agent, protocol::Kind};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::support::{
    Fabric,
    body::{self, Body, Sender, channel},
    client::{Http1, Http2, get, request},
    cluster::Nodes,
    http2, ok, random,
    service::{self, Running},
    soon,
};

/// A message on the wire: not compressed, its length, itself (gRPC over HTTP/2, "Length-Prefixed-Message").
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(ok(u32::try_from(message.len())));
    frame.put_slice(message);
    frame.into()
}

/// The messages of a body, one after the other, and its trailers.
struct Messages<B> {
    body: B,
    read: BytesMut,
    trailers: Option<HeaderMap>,
}

impl<B: hyper::body::Body<Data = Bytes, Error: std::fmt::Debug> + Unpin> Messages<B> {
    fn of(body: B) -> Self {
        Self { body, read: BytesMut::new(), trailers: None }
    }

    /// The next message; nothing at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, B::Error> {
        loop {
            if let Some(mut head) = self.read.get(1..5) {
                let length = head.get_u32() as usize;
                if self.read.len() >= 5 + length {
                    self.read.advance(5);
                    return Ok(Some(self.read.split_to(length).freeze()));
                }
            }
            match soon(self.body.frame()).await.transpose()? {
                None => return Ok(None),
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.read.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            }
        }
    }

    /// The status that the call has ended with.
    fn status(&self) -> Option<&[u8]> {
        Some(self.trailers.as_ref()?.get("grpc-status")?.as_bytes())
    }
}

fn status(code: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers.insert("x-bin", HeaderValue::from_static("AAEC/w=="));
    trailers
}

fn response(body: Body) -> Response<Body> {
    ok(Response::builder().header(header::CONTENT_TYPE, "application/grpc+test").body(body))
}

/// Told of a call by what is dropped with it.
struct Gone(mpsc::Sender<String>, String);

impl Drop for Gone {
    fn drop(&mut self) {
        ok(self.0.try_send(std::mem::take(&mut self.1)));
    }
}

/// One method for each kind of call. Reports those that are never answered when they come, and all that are given up.
async fn serve(request: Request<Incoming>, gone: mpsc::Sender<String>) -> Response<Body> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/" {
        return Response::new(service::full("here"));
    }
    assert_eq!(head.headers[header::TE], "trailers");
    assert_eq!(head.headers[header::CONTENT_TYPE], "application/grpc+test");
    let mut messages = Messages::of(body);
    let (sender, answer) = channel();
    match head.uri.path() {
        "/test.Echo/Unary" => {
            let message = ok(messages.next().await).expect("a message");
            let whole = Full::new(framed(&message)).map_err(|never| match never {});
            return response(Body::new(whole.with_trailers(async { Some(Ok(status("0"))) })));
        }
        "/test.Echo/Fail" => {
            let mut failed = response(service::full(""));
            failed.headers_mut().extend(status("5"));
            failed.headers_mut().insert("grpc-message", HeaderValue::from_static("no such thing: 100%25"));
            return failed;
        }
        "/test.Echo/Timeout" => {
            ok(gone.send("asked".into()).await);
            let _gone = Gone(gone.clone(), ok(head.headers["grpc-timeout"].to_str()).into());
            std::future::pending::<()>().await;
        }
        "/test.Echo/Hang" => {
            ok(gone.send("asked".into()).await);
            let _gone = Gone(gone.clone(), "hang".into());
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    let tasks = adit::drain::Tasks::new();
    tasks.spawn(async move {
        match head.uri.path() {
            "/test.Echo/Many" => {
                let count = ok(messages.next().await).expect("a message").len();
                for number in 0..count {
                    sender.data(framed(number.to_string().as_bytes())).await;
                }
            }
            "/test.Echo/Sum" => {
                let mut sum = 0;
                while let Some(message) = ok(messages.next().await) {
                    sum += message.len();
                }
                sender.data(framed(sum.to_string().as_bytes())).await;
            }
            "/test.Echo/Chat" => loop {
                match messages.next().await {
                    Ok(Some(message)) => sender.data(framed(&message)).await,
                    Ok(None) => break,
                    Err(error) => return drop(gone.send(error.to_string()).await),
                }
            },
            other => panic!("{other}"),
        }
        sender.trailers(status("0")).await;
    });
    response(answer)
}

/// A gRPC service behind a node, and through which edge it is called.
struct Path {
    edge: SocketAddr,
    gone: mpsc::Receiver<String>,
    _service: Running,
    _agent: Agent,
    _nodes: Nodes,
}

impl Path {
    /// Through one node, and across two.
    async fn both() -> [Self; 2] {
        [Self::over(1).await, Self::over(2).await]
    }

    async fn over(count: usize) -> Self {
        let (tell, gone) = mpsc::channel(64);
        let service = http2::http(move |request| serve(request, tell.clone())).await;
        let nodes = Nodes::start(count).await;
        let agent = nodes.all[count - 1].agent("grpc", Kind::Http2, service.address).await;
        nodes.serves(0, "grpc").await;
        Self { edge: nodes.edge(0), gone, _service: service, _agent: agent, _nodes: nodes }
    }
}

fn call(method: &str, body: Body) -> Request<Body> {
    ok(Request::post(format!("http://grpc.test/test.Echo/{method}"))
        .header(header::CONTENT_TYPE, "application/grpc+test")
        .header(header::TE, "trailers")
        .body(body))
}

/// Begins a call whose messages are yet to come.
async fn begin(client: &Http2, method: &str) -> (Sender, Messages<Incoming>) {
    let (sender, upload) = channel();
    let response = ok(soon(client.send(call(method, upload))).await);
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc+test");
    (sender, Messages::of(response.into_body()))
}

#[tokio::test]
async fn unary_calls_have_their_trailers() {
    for path in Path::both().await {
        let client = Http2::connect(path.edge).await;
        for size in [0, 5, 1 << 20] {
            let message = random(size);
            let response = ok(soon(client.send(call("Unary", body::full(framed(&message))))).await);
            let mut messages = Messages::of(response.into_body());
            assert_eq!(ok(messages.next().await), Some(message));
            assert_eq!(ok(messages.next().await), None);
            assert_eq!(messages.trailers, Some(status("0")));
        }
        let failed = ok(soon(client.send(call("Fail", body::full(framed(b""))))).await);
        assert_eq!(
            (failed.status(), &failed.headers()["grpc-status"]),
            (StatusCode::OK, &"5".parse().unwrap())
        );
        assert_eq!(failed.headers()["grpc-message"], "no such thing: 100%25");
        assert_eq!(failed.headers()["x-bin"], "AAEC/w==");
        assert!(hyper::body::Body::is_end_stream(failed.body()), "trailers alone");
    }
}

#[tokio::test]
async fn messages_stream_from_the_service_to_the_service_and_both_ways_at_once() {
    for path in Path::both().await {
        let client = Http2::connect(path.edge).await;
        let (sender, mut many) = begin(&client, "Many").await;
        sender.data(framed(&[0; 500])).await;
        drop(sender);
        for number in 0..500 {
            assert_eq!(ok(many.next().await).expect("a message"), number.to_string());
        }
        assert_eq!((ok(many.next().await), many.status()), (None, Some(&b"0"[..])));

        let (sender, mut sum) = begin(&client, "Sum").await;
        for _ in 0..500 {
            sender.data(framed(&[0; 1000])).await;
        }
        drop(sender);
        assert_eq!(ok(sum.next().await).expect("a message"), "500000");
        assert_eq!((ok(sum.next().await), sum.status()), (None, Some(&b"0"[..])));

        let (sender, mut chat) = begin(&client, "Chat").await;
        for size in [1, 0, 100_000, 7] {
            let message = random(size);
            sender.data(framed(&message)).await;
            assert_eq!(ok(chat.next().await), Some(message), "each answer comes before the next message");
        }
        drop(sender);
        assert_eq!((ok(chat.next().await), chat.status()), (None, Some(&b"0"[..])));
    }
}

#[tokio::test]
async fn a_deadline_is_told_to_the_service_and_kept_by_the_client() {
    for mut path in Path::both().await {
        let client = Http2::connect(path.edge).await;
        let mut request = call("Timeout", body::full(framed(b"")));
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("300m"));
        // The client gives up once the service has the call, which may be past the deadline on a machine with much to do.
        tokio::select! {
            _ = client.send(request) => panic!("it has no answer"),
            told = soon(path.gone.recv()) => assert_eq!(told.as_deref(), Some("asked")),
        }
        assert_eq!(soon(path.gone.recv()).await.as_deref(), Some("300m"), "and the service knows both");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_calls_at_the_service_and_no_others() {
    for mut path in Path::both().await {
        let other = Http2::connect(path.edge).await;
        let (sender, mut stays) = begin(&other, "Chat").await;
        // In the middle of a stream, and before any response.
        let client = Http2::connect(path.edge).await;
        let (still, mut chat) = begin(&client, "Chat").await;
        still.data(framed(b"hello")).await;
        assert_eq!(ok(chat.next().await).expect("a message"), "hello");
        drop((chat, client));
        soon(path.gone.recv()).await.expect("the service is told");
        let client = Http2::connect(path.edge).await;
        tokio::select! {
            _ = client.send(call("Hang", body::full(framed(b"")))) => panic!("it has no answer"),
            told = soon(path.gone.recv()) => assert_eq!(told.as_deref(), Some("asked")),
        }
        drop(client);
        assert_eq!(soon(path.gone.recv()).await.as_deref(), Some("hang"));
        sender.data(framed(b"still here")).await;
        assert_eq!(ok(stays.next().await).expect("a message"), "still here");
    }
}

#[tokio::test]
async fn a_call_may_wait_for_its_first_message_as_long_as_it_likes() {
    let (tell, _gone) = mpsc::channel(1);
    let service = http2::http(move |request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            if request.uri().path() != "/" {
                tokio::time::sleep(Duration::from_millis(1500)).await;
            }
            serve(request, tell).await
        }
    })
    .await;
    let fabric = Fabric::with(|config| config.edge.limits.request_timeout = Duration::from_millis(500)).await;
    let _agent = fabric.agent("grpc", Kind::Http2, service.address).await;
    let client = Http2::connect(fabric.addresses.edge).await;
    let response = ok(soon(client.send(call("Unary", body::full(framed(b"hello"))))).await);
    assert_eq!(ok(Messages::of(response.into_body()).next().await).expect("a message"), "hello");
    // What is not gRPC has no deadline of its own.
    for late in [
        Request::post("http://grpc.test/late").body(body::full("hello")),
        Request::get("http://grpc.test/late").body(body::full("")),
    ] {
        assert_eq!(client.ask(ok(late)).await.status, StatusCode::GATEWAY_TIMEOUT);
    }
}

#[tokio::test]
async fn adits_own_errors_are_those_of_a_grpc_server() {
    let fabric = Fabric::with(|config| config.edge.limits.max_body_bytes = Some(100)).await;
    let _agent = fabric.agent("down", Kind::Http2, service::refusing()).await;
    let edge = fabric.addresses.edge;
    let client = Http2::connect(edge).await;
    for (endpoint, size, status, code) in [
        ("nobody", 5, "14", "no_upstream"),
        ("down", 5, "14", "upstream_refused"),
        ("down", 200, "8", "body_too_large"),
        ("%20", 5, "13", "invalid_endpoint"),
    ] {
        let mut request = call("Unary", body::full(framed(&vec![0; size])));
        request.headers_mut().insert("x-adit-endpoint", ok(endpoint.parse()));
        let response = ok(soon(client.send(request)).await);
        assert!(hyper::body::Body::is_end_stream(response.body()), "trailers alone");
        let field = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!((field("grpc-status"), field("x-adit-error")), (status.into(), code.into()));
        assert_eq!(field("content-type"), "application/grpc+test");
        assert!(field("grpc-message").len() > 20, "{}", field("grpc-message"));
    }
    // Whatever the version of HTTP, and nobody else.
    let mut over_http1 = request("POST", "nobody", "/test.Echo/Unary", "");
    over_http1.headers_mut().insert(header::CONTENT_TYPE, ok("application/grpc-web+proto".parse()));
    let answer = Http1::connect(edge).await.ask(over_http1).await;
    assert_eq!(
        (answer.status, &answer.headers["grpc-status"]),
        (StatusCode::OK, &ok("14".parse::<HeaderValue>()))
    );
    assert_eq!(get(edge, "nobody", "/").await.error().0, "no_upstream");
    // Each counts as what it would be otherwise.
    let metrics = get(fabric.addresses.admin, "", "/metrics").await;
    assert!(
        metrics.text().contains("adit_requests_total{protocol=\"h2\",status=\"5xx\"} 2"),
        "{}",
        metrics.text()
    );
}
