//! Services for agents to serve.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use adit::drain::Tasks;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub(crate) use super::body::{Body, full};
use super::{ok, random, reset};

/// A running service. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    /// How many connections it has accepted.
    pub(crate) connections: Arc<AtomicUsize>,
    tasks: Tasks,
}

impl Running {
    pub(crate) fn accepted(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

/// A service that does the same with each connection.
pub(crate) async fn tcp<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> Running {
    tcp_at("127.0.0.1:0", serve).await
}

/// The same at an address of its own.
pub(crate) async fn tcp_at<F: Future<Output = ()> + Send + 'static>(
    address: &str,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> Running {
    tcp_on(ok(TcpListener::bind(address).await), serve)
}

/// The same on a port that listens already.
pub(crate) fn tcp_on<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> Running {
    let running =
        Running { address: ok(listener.local_addr()), connections: Arc::default(), tasks: Tasks::new() };
    let (connections, tasks) = (Arc::clone(&running.connections), running.tasks.clone());
    running.tasks.spawn(async move {
        loop {
            let (stream, _) = ok(listener.accept().await);
            connections.fetch_add(1, Relaxed);
            tasks.spawn(serve(stream));
        }
    });
    running
}

/// A service with TLS that does the same with each connection whose handshake succeeds.
pub(crate) async fn tls<F: Future<Output = ()> + Send + 'static>(
    config: Arc<rustls::ServerConfig>,
    serve: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + Sync + 'static,
) -> Running {
    let acceptor = TlsAcceptor::from(config);
    tcp(move |stream| {
        let (acceptor, serve) = (acceptor.clone(), serve.clone());
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream).await;
            }
        }
    })
    .await
}

/// Sends back what it gets, and ends when its client has.
pub(crate) async fn echo() -> Running {
    tcp(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            drop(write.shutdown().await);
        }
    })
    .await
}

/// Sends as much as it is told to (32 bits in network order), and resets the connection.
pub(crate) async fn resetting() -> Running {
    tcp(|mut stream| async move {
        let wanted = ok(stream.read_u32().await);
        ok(stream.write_all(&random(wanted as usize)).await);
        reset(stream);
    })
    .await
}

/// Reads to the end, then says how much it was.
pub(crate) async fn count() -> Running {
    tcp(tell_count).await
}

/// The same on one connection.
pub(crate) async fn tell_count(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let (count, end) = drain(&mut stream).await;
    if end.is_ok() {
        ok(stream.write_all(count.to_string().as_bytes()).await);
        ok(stream.shutdown().await);
    }
}

/// Reads to the end of each connection, and reports how much came and how that ended.
pub(crate) async fn report() -> (Running, mpsc::Receiver<(usize, io::Result<()>)>) {
    let (reports, received) = mpsc::channel(64);
    let running = tcp(move |mut stream| {
        let reports = reports.clone();
        async move { drop(reports.send(drain(&mut stream).await).await) }
    });
    (running.await, received)
}

/// Reads to the end: how much came, and how it ended.
pub(crate) async fn drain(stream: &mut (impl AsyncRead + Unpin)) -> (usize, io::Result<()>) {
    let (mut count, mut chunk) = (0, vec![0; 64 * 1024]);
    loop {
        match stream.read(&mut chunk).await {
            Ok(0) => return (count, Ok(())),
            Ok(len) => count += len,
            Err(error) => return (count, Err(error)),
        }
    }
}

/// An address at which connections are refused, and that nobody else is given meanwhile.
pub(crate) fn refusing() -> SocketAddr {
    // Bound but not listening; what holds it lives as long as the test's process.
    let socket = ok(TcpSocket::new_v4());
    ok(socket.bind(([127, 0, 0, 1], 0).into()));
    let address = ok(socket.local_addr());
    std::mem::forget(socket);
    address
}

/// An HTTP/1.1 service.
pub(crate) async fn http<F: Future<Output = Response<Body>> + Send + 'static>(
    serve: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> Running {
    tcp(move |stream| connection(stream, serve.clone())).await
}

/// One of its connections, until it ends.
pub(crate) async fn connection<S, F>(stream: S, serve: impl Fn(Request<Incoming>) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Response<Body>>,
{
    let service = service_fn(move |request| {
        let response = serve(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    drop(
        hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await,
    );
}

/// An HTTP service that answers with the request's line, fields and body.
pub(crate) async fn mirror() -> Running {
    http(reflect).await
}

/// A line for each field, in order.
pub(crate) fn fields(headers: &HeaderMap) -> String {
    let mut fields: Vec<_> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    fields.sort();
    fields.join("\n")
}

/// The request's line, fields and body.
pub(crate) async fn reflect(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut text = format!("{} {} {:?}\n", head.method, head.uri, head.version);
    text += &fields(&head.headers);
    text += "\n\n";
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut all = text.into_bytes();
    all.extend_from_slice(&body);
    Response::new(full(all))
}

/// A message's line and fields, and not a byte of what follows. Nothing when the connection ends.
pub(crate) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(ok(String::from_utf8(head)))
}

/// The head of the next request of a connection, whose body is read too, for services that do what no HTTP library would.
/// Nothing when the connection ends.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let head = read_head(stream).await?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| ok(length.parse()))];
    stream.read_exact(&mut body).await.ok()?;
    Some(head)
}

/// A response that leaves the connection open.
pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
