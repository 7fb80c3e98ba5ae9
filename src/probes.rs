//! The port of an agent or a forwarder for those who watch over it: whether it runs, whether it is ready, and what it counts.
//!
//! It tells counts and no names, asks nobody who they are, and takes no orders. Driven by the process that it tells of, which
//! says what ready means.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{net::TcpListener, time::timeout};

use crate::{
    drain::Tasks,
    net::{self, Crowd},
    telemetry::Metrics,
};

/// How long those who ask have to be answered when the process has left.
const GOODBYE: Duration = Duration::from_secs(1);

/// How many may ask at once: more wait to be accepted, so that they never take what flows need.
const CONNECTIONS: usize = 32;

/// How long one has for its request and its answer; and how long while others wait, which is less than they do.
const PATIENCE: Duration = Duration::from_secs(10);
const FAIR: Duration = Duration::from_millis(500);

/// A port that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on TCP {address} for operators (--admin-bind)")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// A running port. Dropping it ends it.
#[derive(Debug)]
pub struct Probes {
    address: SocketAddr,
    tasks: Tasks,
}

impl Probes {
    /// Binds the port and answers; `ready` says what is missing, if something is. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(
        address: SocketAddr,
        metrics: Metrics,
        ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Result<Self, BindError> {
        let (listener, address) = net::listen(address).map_err(|source| BindError { address, source })?;
        let (router, tasks) = (router(Source { metrics, ready: Box::new(ready) }), Tasks::new());
        tasks.spawn(accept(listener, router, tasks.clone()));
        tracing::info!("health, readiness and metrics are at http://{address}/ for whoever reaches that");
        Ok(Self { address, tasks })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting and finishes what is under way, for a moment at most.
    pub async fn close(&self) {
        if let Err(aborted) = self.tasks.finish(GOODBYE).await {
            tracing::debug!(%aborted, "operators' connections were cut");
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

async fn accept(listener: TcpListener, router: Router, tasks: Tasks) {
    let places = Crowd::new(CONNECTIONS, FAIR);
    loop {
        let (stream, _, place) = tokio::select! {
            accepted = places.accept(&listener) => accepted,
            () = tasks.signalled() => return,
        };
        let router = TowerToHyperService::new(router.clone());
        tasks.spawn(async move {
            // One request each: nobody who keeps a connection for later takes a place.
            let serve = http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), router);
            match place.hold(timeout(PATIENCE, serve)).await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => tracing::debug!(%error, "somebody who asked was not answered"),
                Some(Err(_)) => tracing::debug!("somebody who asked took longer than {PATIENCE:?}"),
                None => tracing::debug!("somebody who asked took longer than {FAIR:?}, and others wait"),
            }
        });
    }
}

/// What the port tells of.
struct Source {
    metrics: Metrics,
    ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

fn router(source: Source) -> Router {
    Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(source))
}

async fn ready(State(source): State<Arc<Source>>) -> (StatusCode, String) {
    match (source.ready)() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing + "\n"),
    }
}

async fn metrics(State(source): State<Arc<Source>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], source.metrics.encode())
}
