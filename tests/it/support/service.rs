//! Services for agents to serve.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use adit::drain::Tasks;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::ok;

pub(crate) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

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
    let listener = ok(TcpListener::bind("127.0.0.1:0").await);
    let running = Running { address: ok(listener.local_addr()), connections: Arc::default(), tasks: Tasks::new() };
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

/// Reads to the end, then says how much it was.
pub(crate) async fn count() -> Running {
    tcp(|mut stream| async move {
        let mut all = Vec::new();
        if stream.read_to_end(&mut all).await.is_ok() {
            drop(stream.write_all(all.len().to_string().as_bytes()).await);
        }
    })
    .await
}

/// An HTTP/1.1 service.
pub(crate) async fn http<F: Future<Output = Response<Body>> + Send + 'static>(
    serve: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> Running {
    tcp(move |stream| {
        let serve = serve.clone();
        async move {
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
    })
    .await
}

/// A whole body.
pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Body::new(Full::new(text.into()).map_err(|never| match never {}))
}

/// An HTTP service that answers with the request's line, fields and body.
pub(crate) async fn mirror() -> Running {
    http(|request| async move {
        let (head, body) = request.into_parts();
        let mut text = format!("{} {} {:?}\n", head.method, head.uri, head.version);
        let mut fields: Vec<_> =
            head.headers.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))).collect();
        fields.sort();
        text += &fields.join("\n");
        text += "\n\n";
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let mut all = text.into_bytes();
        all.extend_from_slice(&body);
        Response::new(full(all))
    })
    .await
}
