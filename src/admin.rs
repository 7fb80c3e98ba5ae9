//! The operators' port: health, readiness, metrics, the API by which a node tells what it sees and is told what to do, and the
//! dashboard that shows it, over HTTP/1.1, in the clear or with TLS.
//!
//! Reads snapshots that it owns; it never holds a lock of the data path while it answers. What it is told to do, others do:
//! whoever runs the node drains it. [`Answers`] is the same API for the operators of other nodes, who come by their node's
//! link. docs/admin.md and docs/openapi.json describe all of it.

mod actions;
mod answers;
mod dashboard;
mod door;
mod elsewhere;
mod error;
mod figures;
mod live;
mod operator;
mod pages;
mod piko;
mod tables;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use serde::Serialize;
use tokio::{net::TcpListener, sync::watch, time::Instant};

use crate::{
    auth::Guard,
    cluster::Cluster,
    drain::{Aborted, Tasks},
    protocol::{NodeId, Phase},
    telemetry::{Log, Metrics},
    tls::{self, ServerTls},
    upstream::Upstreams,
};
pub use answers::Answers;
use live::Live;
use operator::Operator;

/// How the port listens.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where.
    pub bind: SocketAddr,
    /// With what certificate; in the clear without one.
    pub tls: Option<TlsConfig>,
}

/// The port with TLS.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Its certificate.
    pub identity: tls::Identity,
    /// What it asks of operators in the handshake.
    pub clients: tls::ClientAuth,
}

/// What the port makes handshakes with, which has been found to be fit for them; nothing where it speaks in the clear.
#[derive(Debug)]
pub struct Handshakes(Option<rustls::ServerConfig>);

impl Handshakes {
    /// Those of a configuration.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn new(config: &Config) -> Result<Self, BindError> {
        let server = |tls: &TlsConfig| {
            tls::server_config(std::slice::from_ref(&tls.identity), tls.clients.clone(), &[b"http/1.1"])
        };
        Ok(Self(config.tls.as_ref().map(server).transpose()?))
    }
}

/// What the port shows, and what it passes orders on to.
#[derive(Debug, Clone)]
pub struct Source {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: String,
    /// When it was started.
    pub started: Instant,
    /// Where it is in its life.
    pub phase: watch::Receiver<Phase>,
    /// Its agents.
    pub upstreams: Upstreams,
    /// Where its edge speaks HTTP in the clear, once it does.
    pub edge: Arc<OnceLock<SocketAddr>>,
    /// The other nodes, once this one is part of a cluster.
    pub peers: Arc<OnceLock<Arc<Cluster>>>,
    /// What it shows of itself in TLS.
    pub certificates: watch::Receiver<Vec<Certificate>>,
    /// What is asked of operators.
    pub guard: Guard,
    /// What it counts.
    pub metrics: Metrics,
    /// Whether that has names of tenants and endpoints in it.
    pub metrics_name_tenants: bool,
    /// Its log, if whoever runs it lets operators change that.
    pub log: Arc<OnceLock<Log>>,
    /// Told that the node is to leave; whoever runs it listens, or nobody does.
    pub leave: watch::Sender<bool>,
    /// How long what is under way may take then.
    pub grace_period: Duration,
    /// How long clients are served on then.
    pub drain_delay: Duration,
    /// What operators have begun and do not wait for.
    pub tasks: Tasks,
}

/// A certificate of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// `admin`, `edge`, `link` or `peer`.
    pub port: &'static str,
    /// Whom it is for.
    pub names: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
}

/// A running admin port.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    tls: Option<ServerTls>,
    /// The API without the port's guards.
    api: Arc<Router>,
    tasks: Tasks,
}

/// Why the port does not open, or does not go on with another certificate.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It cannot be bound.
    #[error("cannot listen on TCP {address} for operators (--admin-bind)")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Its certificate cannot be used.
    #[error("the admin port's certificate cannot be used")]
    Tls(#[from] tls::ConfigError),
    /// It speaks in the clear and would have to speak TLS, or the other way round.
    #[error(
        "the admin port speaks {now} since the node's start, and --admin-cert cannot {change} while it runs: restart the node"
    )]
    Switched {
        /// How it speaks.
        now: &'static str,
        /// What the certificate would have to do.
        change: &'static str,
    },
}

/// Paths, and what answers to them.
type Routes<const N: usize, S = Arc<Source>> = [(&'static str, MethodRouter<S>); N];

/// What the API tells.
fn reads() -> Routes<9> {
    [
        ("/api/v1/status", get(tables::status)),
        ("/api/v1/nodes", get(tables::nodes)),
        ("/api/v1/nodes/{id}", get(tables::node)),
        ("/api/v1/endpoints", get(tables::endpoints)),
        ("/api/v1/agents", get(tables::agents)),
        ("/api/v1/links", get(tables::links)),
        ("/api/v1/flows", get(tables::flows)),
        ("/api/v1/recent", get(tables::recent)),
        ("/api/v1/figures", get(figures::figures)),
    ]
}

/// What it does.
fn acts() -> Routes<3> {
    [
        ("/api/v1/drain", post(actions::drain)),
        ("/api/v1/agents/{id}/disconnect", post(actions::disconnect)),
        ("/api/v1/log-level", post(actions::log_level)),
    ]
}

/// What balancers and orchestrators ask, who have no credentials.
fn open() -> Routes<2> {
    [("/health", get(|| async { "ok\n" })), ("/ready", get(ready))]
}

/// What it goes on telling. Not for other nodes, whom it would have no end for.
fn streams() -> Routes<1, Arc<Live>> {
    [("/api/v1/events", get(live::events))]
}

/// What is asked of this node alone, in text.
fn metrics_route() -> Routes<1> {
    [("/metrics", get(metrics))]
}

fn routed<const N: usize, S: Clone + Send + Sync + 'static>(routes: Routes<N, S>) -> Router<S> {
    routes.into_iter().fold(Router::new(), |router, (path, route)| router.route(path, route))
}

fn router(source: &Arc<Source>, live: &Arc<Live>, address: SocketAddr) -> Router {
    let api = routed(reads()).merge(routed(acts()));
    let api = api
        .route_layer(middleware::from_fn_with_state(Arc::clone(source), elsewhere::answer))
        .route_layer(middleware::from_fn_with_state(source.guard.clone(), pages::refuse));
    routed(metrics_route())
        .merge(api)
        .with_state(Arc::clone(source))
        .merge(routed(streams()).with_state(Arc::clone(live)))
        .merge(piko::router(Arc::clone(source), address))
        .route_layer(middleware::from_fn_with_state(source.guard.clone(), operator::permit))
        .merge(routed(open()).with_state(Arc::clone(source)))
        .merge(routed(dashboard::files()))
}

impl Admin {
    /// Binds the port and serves.
    ///
    /// # Errors
    /// When the port is taken, or its certificate cannot be used.
    pub async fn start(config: &Config, source: Source) -> Result<Self, BindError> {
        let tls = Handshakes::new(config)?.0.map(ServerTls::new);
        let failed = |source| BindError::Bind { address: config.bind, source };
        let listener = TcpListener::bind(config.bind).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let source = Arc::new(source);
        let tasks = Tasks::new();
        let live = Live::start(Arc::clone(&source), &tasks);
        let router = router(&source, &live, address);
        let api = Arc::new(routed(reads()).merge(routed(acts())).with_state(source));
        tasks.spawn(door::accept(listener, tls.clone(), router, tasks.clone()));
        Ok(Self { address, tls, api, tasks })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether it can go on with these.
    ///
    /// # Errors
    /// When they are not for a port that speaks as this one does.
    pub fn check(&self, handshakes: &Handshakes) -> Result<(), BindError> {
        match (self.is_tls(), handshakes.0.is_some()) {
            (true, false) => Err(BindError::Switched { now: "TLS", change: "go" }),
            (false, true) => Err(BindError::Switched { now: "in the clear", change: "come" }),
            _ => Ok(()),
        }
    }

    /// Makes handshakes with these from now on. Connections that stand are not touched.
    pub fn replace(&self, handshakes: Handshakes) {
        if let (Some(tls), Some(server)) = (&self.tls, handshakes.0) {
            tls.replace(server);
        }
    }

    /// What other nodes are told for their operators.
    pub fn answers(&self) -> Answers {
        Answers::of(&self.api)
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

async fn ready(State(source): State<Arc<Source>>) -> impl IntoResponse {
    let phase = *source.phase.borrow();
    let status = if phase == Phase::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{}\n", phase.name()))
}

async fn metrics(State(source): State<Arc<Source>>, Extension(operator): Extension<Operator>) -> Response {
    if source.metrics_name_tenants
        && let Some(refused) = actions::of_all(&operator, "metrics that name endpoints are shown")
    {
        return refused;
    }
    ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], source.metrics.encode()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const OPENAPI: &str = include_str!("../docs/openapi.json");
    const PAGE: &str = include_str!("../docs/admin.md");

    /// Every path that is answered, with its method.
    fn answered() -> BTreeSet<(&'static str, &'static str)> {
        fn all<const N: usize, S>(
            method: &'static str,
            routes: Routes<N, S>,
        ) -> impl Iterator<Item = (&'static str, &'static str)> {
            routes.map(|(path, _)| (method, path)).into_iter()
        }
        let gets = all("get", reads()).chain(all("get", open())).chain(all("get", metrics_route()));
        let piko = piko::PATHS.map(|path| ("get", path));
        let dashboard = all("get", streams()).chain(all("get", dashboard::files::<()>()));
        gets.chain(dashboard).chain(piko).chain(all("post", acts())).collect()
    }

    #[test]
    fn the_description_has_every_path_that_is_answered_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let described: BTreeSet<_> = paths
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(|method| (method.as_str(), path.as_str()))
            })
            .filter(|(method, _)| *method != "parameters")
            .collect();
        assert_eq!(described, answered());
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn the_page_has_every_path_that_is_answered() {
        for (method, path) in answered() {
            let title = format!("`{} {path}`", method.to_uppercase());
            assert!(PAGE.contains(&title), "{title}");
        }
    }
}
