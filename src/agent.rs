//! An agent process: serves endpoints from local services.
//!
//! Owns one listener an endpoint; each flow that arrives becomes a connection to the service, joined byte for byte, or for
//! UDP a socket, joined packet for packet. Built on `client`, which keeps the links. It parses what it carries only where an
//! endpoint's options ask for that, or an inspector does.

mod access;
mod connection;
mod door;
mod health;
mod http;
mod inspect;
mod metrics;
mod proxied;
mod rewrite;
mod server;
mod service;
mod span;
mod udp;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

pub use self::http::HttpOptions;
pub use health::{HealthCheck, InvalidProbe, Probe};
pub use inspect::InspectError;
pub use proxied::{InvalidVersion, ProxyVersion};
pub use rewrite::{Field, FieldName, InvalidField, Rewrite};
pub use service::{InvalidService, Service, ServiceAddress, ServiceTls};

use inspect::Inspecting;
use metrics::Counters;
use server::{Seen, Server, Wanted};

use crate::{
    auth::Access,
    client::{self, Client, FlowsCut, ListenError, State},
    drain::Tasks,
    otlp::{self, Exporter, Resource},
    probes::{self, Probes},
    protocol::{EndpointId, HostPattern, Kind},
    telemetry::{Outcome, trace::Tracer},
};

/// How long flows that are cut have to be dropped.
const DROPPED: Duration = Duration::from_secs(1);

/// What an agent serves, and where.
#[derive(Debug, Clone)]
pub struct Config {
    /// How it reaches its cluster.
    pub client: client::Config,
    /// The endpoints and the services behind them.
    pub endpoints: Vec<Endpoint>,
    /// Where requests are shown to whoever reaches that. Without, they are not.
    pub inspect: Option<SocketAddr>,
    /// Where spans go, if anywhere.
    pub traces: Option<otlp::Config>,
    /// Where health, readiness and metrics are told to whoever reaches that. Without, they are not.
    pub admin: Option<SocketAddr>,
}

impl Config {
    /// An agent of these endpoints that nobody else looks at.
    pub fn new(client: client::Config, endpoints: Vec<Endpoint>) -> Self {
        Self { client, endpoints, inspect: None, traces: None, admin: None }
    }
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Its name.
    pub name: EndpointId,
    /// What the service speaks. Of HTTP, one that has TLS chooses the version itself.
    pub kind: Kind,
    /// Hosts that stand for it, whatever their first label.
    pub hosts: Vec<HostPattern>,
    /// Where the service is.
    pub service: Service,
    /// What is demanded of clients. Of requests it can be only where the kind is HTTP; any others are refused then.
    pub door: Access,
    /// How to know that the service is up. Without, it is taken to be.
    pub health: Option<HealthCheck>,
    /// After how long without a packet an association ends, where the kind is UDP.
    pub udp_idle: Duration,
    /// What is done with requests, where the kind is HTTP. Without, flows are passed on unread.
    pub http: Option<HttpOptions>,
}

impl Endpoint {
    /// Whether requests are looked at. What has to be done with them is done in HTTP/1.1.
    fn reads_requests(&self, inspected: bool) -> bool {
        self.kind == Kind::Http && (inspected || self.http.is_some() || !self.door.is_open())
    }
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The links cannot be set up.
    #[error(transparent)]
    Client(#[from] client::StartError),
    /// The inspector's port is not to be had.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The operators' port is not to be had.
    #[error(transparent)]
    Admin(#[from] probes::BindError),
}

/// What a reload has changed of the endpoints, beside how those are served that stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// They are served from now on.
    pub added: Vec<EndpointId>,
    /// They are served no more. Their flows finish.
    pub removed: Vec<EndpointId>,
}

/// How each endpoint is to be served; those that are no more are kept, for if they come back.
type Orders = Arc<Mutex<BTreeMap<EndpointId, watch::Sender<Wanted>>>>;

/// A running agent. Dropping it cuts everything; see [`Agent::drain`].
#[derive(Debug)]
pub struct Agent {
    client: Client,
    wanted: Orders,
    inspecting: Option<Inspecting>,
    tracer: Tracer,
    exporter: Exporter,
    probes: Option<Probes>,
    counters: Counters,
    /// The nodes' first answers.
    first: Mutex<Vec<oneshot::Receiver<Result<(), ListenError>>>>,
    tasks: Tasks,
}

impl Agent {
    /// Starts to connect and to serve. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let wanted = Orders::default();
        let inspecting = config.inspect.map(|address| Inspecting::start(address, Arc::clone(&wanted)));
        let (client, tasks) = (Client::new(config.client)?, Tasks::new());
        let counters = Counters::new(client.metrics());
        let probes = config.admin.map(|address| {
            let (metrics, ready) = (client.metrics().clone(), readiness(&client, tasks.clone()));
            Probes::start(address, metrics, ready)
        });
        let (inspecting, probes) = (inspecting.transpose()?, probes.transpose()?);
        let resource = Resource { service: "adit-agent", instance: client.id().to_string() };
        let (tracer, exporter) = Exporter::start(config.traces, resource, Some(client.metrics()));
        let agent = Self {
            client,
            inspecting,
            tracer,
            exporter,
            probes,
            counters,
            wanted,
            first: Mutex::default(),
            tasks,
        };
        for endpoint in config.endpoints {
            let (answer, first) = oneshot::channel();
            agent.first.lock().unwrap_or_else(PoisonError::into_inner).push(first);
            agent.add(&mut agent.wanted(), endpoint, Some(answer));
        }
        Ok(agent)
    }

    fn wanted(&self) -> MutexGuard<'_, BTreeMap<EndpointId, watch::Sender<Wanted>>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(
        &self,
        wanted: &mut BTreeMap<EndpointId, watch::Sender<Wanted>>,
        endpoint: Endpoint,
        first: Option<oneshot::Sender<Result<(), ListenError>>>,
    ) {
        let name = endpoint.name.clone();
        let (sender, orders) = watch::channel(Some(Arc::new(endpoint)));
        let inspector = self.inspecting.as_ref().map(|inspecting| inspecting.inspector.clone());
        let seen = Seen { inspector, tracer: self.tracer.clone(), counters: self.counters.clone() };
        let server = Server::new(orders, self.client.clone(), self.tasks.clone(), seen, first);
        self.tasks.spawn(server.run());
        wanted.insert(name, sender);
    }

    /// The client that keeps the links.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where requests are shown, if they are.
    pub fn inspector(&self) -> Option<SocketAddr> {
        self.inspecting.as_ref().map(|inspecting| inspecting.address)
    }

    /// Where health, readiness and metrics are told, if they are.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.probes.as_ref().map(Probes::address)
    }

    /// Counts a configuration that was read again.
    pub fn count_reload(&self, outcome: Outcome) {
        self.counters.reloads().count(outcome);
    }

    /// Waits until a node sends flows for each endpoint, however long that takes. One whose service is down by its health
    /// check is not waited for; it is served as soon as that passes.
    ///
    /// # Errors
    /// When a node refuses one; others may be served.
    pub async fn serve(&self) -> Result<(), ListenError> {
        let first = std::mem::take(&mut *self.first.lock().unwrap_or_else(PoisonError::into_inner));
        // Nobody answers for what has ended with the agent.
        let answers = first.into_iter().map(|answer| async { answer.await.unwrap_or(Ok(())) });
        futures_util::future::try_join_all(answers).await.map(drop)
    }

    /// Serves these endpoints from now on, and opens links with these certificates and this trust. What is under way goes on;
    /// an endpoint that stays is served without a gap, unless nodes are to be told something else of it: then requests wait
    /// at them for a moment. How the cluster is reached stays as it was.
    ///
    /// # Errors
    /// When TLS cannot be used; then nothing changes.
    pub fn reload(&self, config: Config) -> Result<Reloaded, StartError> {
        self.client.replace_tls(config.client.tls)?;
        let mut reloaded = Reloaded::default();
        let mut wanted = self.wanted();
        for (name, sender) in wanted.iter() {
            let gone = sender.borrow().is_some() && config.endpoints.iter().all(|new| new.name != *name);
            if gone {
                sender.send_replace(None);
                reloaded.removed.push(name.clone());
            }
        }
        for endpoint in config.endpoints {
            let name = endpoint.name.clone();
            let was = match wanted.get(&name) {
                Some(sender) => {
                    let was = sender.borrow().is_some();
                    sender.send_if_modified(|wanted| {
                        let same = wanted.as_deref() == Some(&endpoint);
                        if !same {
                            *wanted = Some(Arc::new(endpoint));
                        }
                        !same
                    });
                    was
                }
                None => {
                    self.add(&mut wanted, endpoint, None);
                    false
                }
            };
            if !was {
                reloaded.added.push(name);
            }
        }
        Ok(reloaded)
    }

    /// Leaves: serves nothing new, lets open flows finish at most `grace` long, closes the links.
    ///
    /// # Errors
    /// How many flows had not ended by then.
    pub async fn drain(self, grace: Duration) -> Result<(), FlowsCut> {
        let started = Instant::now();
        self.counters.drains().begin();
        // Nothing is to be served again from here on.
        self.tasks.signal();
        let closed = self.client.close(grace).await;
        if let Err(aborted) = self.tasks.finish(grace.saturating_sub(started.elapsed())).await {
            tracing::debug!(%aborted, "flows were left");
            // Each ends its span as it is dropped, which takes no longer than others take to be polled.
            drop(tokio::time::timeout(DROPPED, self.tasks.wait_empty()).await);
        }
        if let Some(inspecting) = &self.inspecting {
            inspecting.close().await;
        }
        self.exporter.finish().await;
        self.counters.drains().end(closed.map_or_else(|FlowsCut(cut)| cut, |()| 0));
        if let Some(probes) = &self.probes {
            probes.close().await;
        }
        closed
    }
}

/// Says what is missing before an agent is ready: a link, and that nodes send flows for all that is listened for.
fn readiness(client: &Client, tasks: Tasks) -> impl Fn() -> Result<(), String> + Send + Sync + use<> {
    let (state, listens) = (client.agent_state(), client.listens());
    move || {
        if tasks.is_signalled() {
            return Err("leaving".into());
        }
        if !matches!(*state.borrow(), State::Connected { .. }) {
            return Err("not linked to a node".into());
        }
        match listens() {
            (0, _) => Err("no endpoint is served".into()),
            (_, 0) => Ok(()),
            (all, waiting) => Err(format!("no node sends flows for {waiting} of {all} endpoints")),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}
