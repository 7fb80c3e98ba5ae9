//! The operators' port: health, readiness, metrics and status, over HTTP/1.1.
//!
//! Reads snapshots that it owns; it never holds a lock of the data path while it answers.

mod piko;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    auth::{Action, Caller, Guard, Refused, Shown, Tenants},
    cluster::{Cluster, PeerStatus},
    drain::{Aborted, Tasks},
    protocol::{NodeId, Phase, TenantId},
    telemetry::Metrics,
    upstream::{EndpointStatus, LinkStatus, Upstreams},
};

/// What the port shows.
#[derive(Debug, Clone)]
pub struct Source {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: String,
    /// Where it is in its life.
    pub phase: watch::Receiver<Phase>,
    /// Its agents.
    pub upstreams: Upstreams,
    /// Where its edge speaks HTTP in the clear, once it does.
    pub edge: Arc<OnceLock<SocketAddr>>,
    /// The other nodes, once this one is part of a cluster.
    pub peers: Arc<OnceLock<Arc<Cluster>>>,
    /// What is asked of operators.
    pub guard: Guard,
    /// What it counts.
    pub metrics: Metrics,
}

/// A node's status, as `GET /api/v1/status` answers it.
#[derive(Debug, Clone, serde::Serialize)]
struct Status {
    node: String,
    cluster: String,
    phase: &'static str,
    version: &'static str,
    peers: Vec<PeerStatus>,
    links: Vec<LinkStatus>,
    endpoints: Vec<EndpointStatus>,
}

/// A running admin port.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    tasks: Tasks,
}

/// A port that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on TCP {address} for operators (--admin-bind)")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

impl Admin {
    /// Binds the port and serves.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn start(bind: SocketAddr, source: Source) -> Result<Self, BindError> {
        let failed = |source| BindError { address: bind, source };
        let listener = TcpListener::bind(bind).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let source = Arc::new(source);
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/api/v1/status", get(status))
            .with_state(Arc::clone(&source))
            .merge(piko::router(Arc::clone(&source), address))
            .route_layer(middleware::from_fn_with_state(source.guard.clone(), permit))
            // Balancers and orchestrators have no credentials.
            .route("/health", get(|| async { "ok\n" }))
            .route("/ready", get(ready).with_state(source));
        let tasks = Tasks::new();
        let signal = tasks.clone();
        tasks.spawn(async move {
            let service = router.into_make_service_with_connect_info::<SocketAddr>();
            let serve = axum::serve(listener, service)
                .with_graceful_shutdown(async move { signal.signalled().await });
            if let Err(error) = serve.await {
                tracing::error!(%error, "the admin port has failed");
            }
        });
        Ok(Self { address, tasks })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting and finishes what is under way, at most until the deadline.
    ///
    /// # Errors
    /// When something was left.
    pub async fn drain(&self, deadline: Duration) -> Result<(), Aborted> {
        self.tasks.finish(deadline).await
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

/// Who asks, which the port's guard has let in.
#[derive(Debug, Clone)]
struct Operator {
    tenants: Tenants,
}

impl Operator {
    /// Whether what is of a tenant is for them.
    fn sees(&self, tenant: &TenantId) -> bool {
        self.tenants.contain(tenant)
    }
}

/// Lets in who may do what operators do.
async fn permit(
    State(guard): State<Guard>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    match operator(&guard, request.headers()).await {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        Err(refused) => {
            let (path, status, code) = (request.uri().path(), refused.status().as_u16(), refused.code());
            tracing::info!(target: "adit::access", %client, path, status, code, %refused, "an operator was refused");
            refuse(&refused)
        }
    }
}

async fn operator(guard: &Guard, headers: &HeaderMap) -> Result<Operator, Refused> {
    let token = guard.bearer(headers, |_| false)?.map(|bearer| bearer.token);
    let Caller { grant, .. } = guard.caller(Shown { token, certificate: None }, None).await?;
    guard.may(&grant, Action::Admin)?;
    Ok(Operator { tenants: grant.tenants })
}

fn refuse(refused: &Refused) -> Response {
    let json = Json(serde_json::json!({ "error": refused.to_string(), "code": refused.code() }));
    let mut response = (refused.status(), json).into_response();
    if let Some(challenge) = refused.challenge() {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

async fn ready(State(source): State<Arc<Source>>) -> impl IntoResponse {
    let phase = *source.phase.borrow();
    let status = if phase == Phase::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{}\n", phase.name()))
}

async fn metrics(State(source): State<Arc<Source>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], source.metrics.encode())
}

async fn status(
    State(source): State<Arc<Source>>,
    Extension(operator): Extension<Operator>,
) -> impl IntoResponse {
    let phase = *source.phase.borrow();
    Json(Status {
        node: source.node.to_string(),
        cluster: source.cluster.clone(),
        phase: phase.name(),
        version: env!("CARGO_PKG_VERSION"),
        peers: source
            .peers
            .get()
            .map_or_else(Vec::new, |cluster| cluster.peers().iter().map(|peer| peer.status()).collect()),
        links: source
            .upstreams
            .link_status()
            .into_iter()
            .filter(|link| operator.sees(&link.tenant))
            .collect(),
        endpoints: source
            .upstreams
            .endpoint_status()
            .into_iter()
            .filter(|endpoint| operator.sees(&endpoint.tenant))
            .collect(),
    })
}
