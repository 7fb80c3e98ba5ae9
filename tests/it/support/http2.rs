//! Services that speak HTTP/2 in the clear.

use std::{convert::Infallible, future::Future};

use adit::drain::Tasks;
use http::{Request, Response};
use hyper::{body::Incoming, rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{
    body::Body,
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
