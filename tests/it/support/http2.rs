//! Services that speak HTTP/2 in the clear.

use std::{convert::Infallible, future::Future};

use adit::drain::Tasks;
use bytes::Bytes;
use http::{Request, Response};
use hyper::{body::Incoming, rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::{
    body::Body,
    ok,
    service::{self, Running},
};

/// Runs the streams of a connection as tasks that end with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owned(pub(crate) Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Owned {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// A service of HTTP/2.
pub(crate) async fn http<F: Future<Output = Response<Body>> + Send + 'static>(
    serve: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> Running {
    service::tcp(move |stream| connection(stream, serve.clone())).await
}

/// One of its connections, until it ends.
pub(crate) async fn connection<S, F>(
    stream: S,
    serve: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let response = serve(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let served = http2::Builder::new(Owned::default())
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(stream), service);
    drop(served.await);
}

/// A service that does with each connection what no HTTP library would.
pub(crate) async fn raw<F: Future<Output = ()> + Send + 'static>(
    builder: h2::server::Builder,
    serve: impl Fn(h2::server::Connection<TcpStream, Bytes>) -> F + Clone + Send + Sync + 'static,
) -> Running {
    service::tcp(move |stream| {
        let (builder, serve) = (builder.clone(), serve.clone());
        async move {
            if let Ok(connection) = builder.handshake(stream).await {
                serve(connection).await;
            }
        }
    })
    .await
}

/// All of a request's body, or how it broke.
pub(crate) async fn content(mut body: h2::RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all)
}

/// Answers `ok`.
pub(crate) fn answer(mut respond: h2::server::SendResponse<Bytes>) {
    let mut body = ok(respond.send_response(Response::new(()), false));
    ok(body.send_data(Bytes::from_static(b"ok"), true));
}
