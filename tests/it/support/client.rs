//! Clients of the edge.

use std::net::SocketAddr;

use adit::drain::Tasks;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub(crate) use super::body::{Body, full as body};
use super::{http2::Owned, ok, random, soon};

/// What came back, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        ok(std::str::from_utf8(&self.body))
    }

    /// The code and the sentence of an error that adit made.
    pub(crate) fn error(&self) -> (String, String) {
        let json: serde_json::Value = ok(serde_json::from_slice(&self.body));
        let field = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            self.headers.get("x-adit-error").map(|code| code.as_bytes()),
            Some(field("code").as_bytes())
        );
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/json");
        (field("code"), field("error"))
    }
}

/// The sentence of an error with this status and code.
#[track_caller]
pub(crate) fn sentence(answer: &Answer, status: u16, code: &str) -> String {
    let (found, sentence) = answer.error();
    assert_eq!((answer.status.as_u16(), found.as_str()), (status, code), "{sentence}");
    assert!(sentence.len() > 20 && sentence.contains(' '), "no sentence: {sentence}");
    sentence
}

/// One HTTP/1.1 connection.
#[derive(Debug)]
pub(crate) struct Http1 {
    sender: http1::SendRequest<Body>,
    tasks: Tasks,
}

impl Drop for Http1 {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

impl Http1 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(ok(TcpStream::connect(address).await)).await
    }

    pub(crate) async fn over<S>(stream: S) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = ok(http1::handshake(TokioIo::new(stream)).await);
        let tasks = Tasks::new();
        tasks.spawn(async move { drop(connection.with_upgrades().await) });
        Self { sender, tasks }
    }

    /// Sends a request and waits for the head of the response.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Sends a request and waits for all of the response.
    pub(crate) async fn ask(&mut self, request: Request<Body>) -> Answer {
        whole(ok(self.send(request).await)).await
    }

    /// Whether the edge has ended the connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

pub(crate) async fn whole(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = ok(body.collect().await).to_bytes();
    Answer { status: head.status, headers: head.headers, body }
}

/// A request for an endpoint.
pub(crate) fn request(method: &str, endpoint: &str, path: &str, content: impl Into<Bytes>) -> Request<Body> {
    request_of(method, endpoint, path, body(content))
}

/// The same with any body.
pub(crate) fn request_of(method: &str, endpoint: &str, path: &str, body: Body) -> Request<Body> {
    ok(Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "127.0.0.1")
        .header("x-adit-endpoint", endpoint)
        .body(body))
}

/// The same over HTTP/2, which names the host in the target.
pub(crate) fn over_http2(mut request: Request<Body>) -> Request<Body> {
    let path = request.uri().path_and_query().expect("there is a path");
    *request.uri_mut() = ok(format!("http://127.0.0.1{path}").parse());
    request.headers_mut().remove(header::HOST);
    request
}

/// A GET over a connection of its own.
pub(crate) async fn get(edge: SocketAddr, endpoint: &str, path: &str) -> Answer {
    Http1::connect(edge).await.ask(request("GET", endpoint, path, "")).await
}

/// What a node's admin port counts under this name; zero when it does not have it.
pub(crate) async fn metric(admin: SocketAddr, name: &str) -> u64 {
    let metrics = get(admin, "", "/metrics").await;
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| ok(value.parse()))
}

/// One HTTP/2 connection, by prior knowledge.
#[derive(Debug)]
pub(crate) struct Http2 {
    sender: http2::SendRequest<Body>,
    tasks: Tasks,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

impl Http2 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(ok(TcpStream::connect(address).await)).await
    }

    pub(crate) async fn over<S>(stream: S) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let tasks = Tasks::new();
        let (sender, connection) = ok(http2::Builder::new(Owned(tasks.clone()))
            .timer(TokioTimer::new())
            .handshake(TokioIo::new(stream))
            .await);
        tasks.spawn(async move { drop(connection.await) });
        Self { sender, tasks }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        let mut sender = self.sender.clone();
        sender.ready().await?;
        sender.send_request(request).await
    }

    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        whole(ok(self.send(request).await)).await
    }
}

/// Either version of HTTP towards the edge.
#[derive(Debug)]
pub(crate) enum Client {
    Http1(Http1),
    Http2(Http2),
}

impl Client {
    pub(crate) async fn both(edge: SocketAddr) -> [Self; 2] {
        [Self::Http1(Http1::connect(edge).await), Self::Http2(Http2::connect(edge).await)]
    }

    /// Sends a request that is written for HTTP/1.1.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Self::Http1(client) => soon(client.send(request)).await,
            Self::Http2(client) => {
                let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
                *request.uri_mut() = ok(format!("http://127.0.0.1{target}").parse());
                request.headers_mut().remove(header::HOST);
                soon(client.send(request)).await
            }
        }
    }
}

/// A flow to a service that sends back what it gets, which has done so.
pub(crate) async fn flow_to_echo(port: SocketAddr) -> TcpStream {
    let mut flow = ok(TcpStream::connect(port).await);
    ok(flow.write_all(b"1").await);
    ok(soon(flow.read_exact(&mut [0])).await);
    flow
}

/// Sends bytes to a service that counts them, ends first, and still gets its answer.
pub(crate) async fn assert_counted(mut stream: TcpStream, size: usize) {
    ok(stream.write_all(&random(size)).await);
    ok(stream.shutdown().await);
    let mut answer = String::new();
    ok(soon(stream.read_to_string(&mut answer)).await);
    assert_eq!(answer, size.to_string());
}

/// Writes bytes to the edge as they are, and reads until it closes the connection, which they must ask for.
pub(crate) async fn raw(edge: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = ok(TcpStream::connect(edge).await);
    ok(stream.write_all(bytes).await);
    let mut all = Vec::new();
    ok(soon(stream.read_to_end(&mut all)).await);
    String::from_utf8_lossy(&all).into_owned()
}
