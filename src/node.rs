//! A node: assembles edge, links, relay and admin port, and takes them apart in the order in which nothing is lost.

mod advertise;
mod certificates;
mod exposure;
mod glue;
mod links;
mod reload;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch, time::Instant};

use crate::{
    access_log::{self, AccessLog},
    admin::{self, Admin},
    auth::{self, Guard},
    cluster::{self, Cluster},
    drain::{Aborted, Tasks},
    edge::{self, Edge, udp},
    net::HostPort,
    otlp::{self, Exporter, Resource},
    protocol::{Close, GoAway, GoAwayReason, HostPattern, NodeAddress, NodeId, Phase},
    relay::Relay,
    telemetry::{Drains, Log, Metrics, Queue, Reloads, Traffic, What},
    tls::{self, ServerTls},
    transport::{self, quic},
    upstream::{Name, Upstreams},
};
use advertise::Ways;
use certificates::Certificates;
pub use exposure::{Exposed, Exposure};
use glue::Glue;
use links::{Links, Welcomer};
pub use reload::check;

/// How long a leaving node waits for its agents to link elsewhere.
const AGENTS_MOVE: Duration = Duration::from_secs(10);

/// What a node is, where it listens, and its limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name, unique in its cluster.
    pub node: NodeId,
    /// Its cluster's name.
    pub cluster: String,
    /// The clients' port.
    pub edge: edge::Config,
    /// Plain UDP ports for clients.
    pub udp: udp::Config,
    /// The agents' and forwarders' port.
    pub link: LinkConfig,
    /// The other nodes; a node without is alone. Bound to any address, it is told to them by the one that leads there.
    pub cluster_links: Option<cluster::Config>,
    /// When to ask agents to move to nodes with fewer links.
    pub rebalance: Rebalance,
    /// Hosts that stand for an endpoint each, whatever their first label.
    pub hosts: Vec<(HostPattern, Name)>,
    /// What the ports ask of their callers.
    pub auth: Auth,
    /// Whether whoever reaches a port may be let in without credentials where that gives more than was meant: see [`Exposed`].
    pub allow_anonymous: bool,
    /// What each caller may have, whichever port it comes by.
    pub limits: Vec<auth::Limit>,
    /// How long a request waits at most for an agent of an endpoint that had one a moment ago.
    pub upstream_wait: Duration,
    /// What is logged of each request and flow, if anything.
    pub access_log: Option<access_log::Config>,
    /// Where spans go, if anywhere.
    pub traces: Option<otlp::Config>,
    /// The operators' port.
    pub admin: admin::Config,
    /// How long everything under way may take to end when the node leaves.
    pub grace_period: Duration,
    /// How long a leaving node goes on accepting clients, so that a balancer sees it is not ready.
    pub drain_delay: Duration,
}

/// What the ports ask of their callers. Nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Auth {
    /// Of clients.
    pub edge: auth::PortConfig,
    /// Of agents and forwarders.
    pub link: auth::PortConfig,
    /// Of operators.
    pub admin: auth::PortConfig,
}

/// The guards of the ports.
#[derive(Debug)]
struct Guards {
    edge: Guard,
    link: Guard,
    admin: Guard,
}

impl Guards {
    fn new(auth: &Auth, metrics: &Metrics, tasks: &Tasks) -> Self {
        let guards = auth::Guards::new(metrics, tasks.clone());
        Self {
            edge: guards.guard("edge", &auth.edge),
            link: guards.guard("link", &auth.link),
            admin: guards.guard("admin", &auth.admin),
        }
    }
}

/// The link port.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Where it listens, over UDP and TCP.
    pub bind: SocketAddr,
    /// Where others reach it; the bound address when absent, or the host's when it is bound to any.
    pub advertise: Option<HostPort>,
    /// Its certificate.
    pub identity: tls::Identity,
    /// What it asks of agents and forwarders in the TLS handshake.
    pub clients: tls::ClientAuth,
    /// Timing and sizes.
    pub settings: transport::Settings,
}

/// When a node asks agents to move to nodes with fewer links.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rebalance {
    /// By which share its links must exceed the average; zero for never.
    pub threshold: f64,
    /// How many links it must have.
    pub minimum: usize,
    /// Which share of the average it sheds a second at most.
    pub rate: f64,
}

impl Default for Rebalance {
    fn default() -> Self {
        Self { threshold: 0.2, minimum: 50, rate: 0.01 }
    }
}

/// The addresses that were bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// HTTP in the clear.
    pub edge: SocketAddr,
    /// HTTP over TLS.
    pub edge_tls: Option<SocketAddr>,
    /// TLS that is passed on unopened.
    pub edge_sni: Option<SocketAddr>,
    /// Plain ports and their endpoints.
    pub tcp: Vec<edge::Port>,
    /// Links.
    pub link: SocketAddr,
    /// Operators.
    pub admin: SocketAddr,
    /// Whether these speak TLS.
    pub admin_tls: bool,
    /// Other nodes.
    pub peer: Option<SocketAddr>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port would let in whom it should not.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// The edge does not.
    #[error(transparent)]
    Edge(#[from] edge::BindError),
    /// A UDP port does not.
    #[error(transparent)]
    Udp(#[from] udp::BindError),
    /// The link port does not.
    #[error("the link port does not open (--link-bind)")]
    Link(#[from] quic::BindError),
    /// Its TCP side does not.
    #[error("cannot listen on TCP {address} for links over WebSocket (--link-bind)")]
    LinkHttp {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The link port's certificate cannot be used.
    #[error("the link port's certificate cannot be used")]
    Tls(#[from] tls::ConfigError),
    /// The peer port does not.
    #[error(transparent)]
    Cluster(#[from] cluster::StartError),
    /// The admin port does not.
    #[error(transparent)]
    Admin(#[from] admin::BindError),
}

/// A running node. Dropping it cuts everything; see [`Node::drain`].
#[derive(Debug)]
pub struct Node {
    addresses: Addresses,
    phase: watch::Sender<Phase>,
    upstreams: Upstreams,
    relay: Relay,
    edge: Edge,
    udp: udp::Ports,
    links: Links,
    cluster: Option<Arc<Cluster>>,
    _alone: watch::Sender<Arc<[NodeAddress]>>,
    admin: Admin,
    guards: Guards,
    limits: auth::Limits,
    reloads: Reloads,
    drains: Drains,
    certificates: Certificates,
    log: Arc<OnceLock<Log>>,
    exporter: Exporter,
    leave: watch::Sender<bool>,
    tasks: Tasks,
    grace_period: Duration,
    drain_delay: Duration,
}

impl Node {
    /// Binds every port and serves: when this returns, the node is ready.
    ///
    /// # Errors
    /// When a port is taken, a certificate cannot be used, or whoever reaches a port would be let in and that is not allowed.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        // Boxed, as what is done once and has much at hand meanwhile: whoever waits for it would have room for all of that.
        Box::pin(Self::started(config)).await
    }

    async fn started(config: Config) -> Result<Self, StartError> {
        let metrics = Metrics::default();
        let certificates = Certificates::new(&config, &metrics);
        let Config {
            node,
            cluster,
            edge,
            udp,
            link,
            cluster_links,
            rebalance,
            hosts,
            auth,
            allow_anonymous,
            limits,
            upstream_wait,
            access_log,
            traces,
            admin,
            grace_period,
            drain_delay,
        } = config;
        Exposure { link: link.bind, sni: edge.sni.is_some(), admin: admin.bind }
            .check(&auth, allow_anonymous)?;
        let (link_tls, link_https) = links::tls_of(&link)?;
        let secret = link.identity.derive_key(b"adit link");
        let LinkConfig { bind, advertise, identity: _, clients: _, settings } = link;
        let phase = watch::Sender::new(Phase::Starting);
        let tasks = Tasks::new();
        let guards = Guards::new(&auth, &metrics, &tasks);
        let limits = auth::Limits::new(&limits, &metrics);
        let upstreams = Upstreams::new(&metrics, upstream_wait, hosts, limits.clone());
        let resource = Resource { service: "adit-node", instance: node.to_string() };
        let (tracer, exporter) = Exporter::start(traces, resource, Some(&metrics));
        let access_log = AccessLog::new(node.clone(), access_log, tracer);
        let traffic = Traffic::new(&metrics);
        let relay = Relay::new(upstreams.clone(), limits.clone(), access_log.clone(), traffic.clone());
        let peers = Arc::new(OnceLock::new());
        let edge_address = Arc::new(OnceLock::new());
        let (log, leave) = (Arc::new(OnceLock::new()), watch::Sender::new(false));
        let admin = Admin::start(
            &admin,
            admin::Source {
                node: node.clone(),
                cluster: cluster.clone(),
                started: Instant::now(),
                phase: phase.subscribe(),
                upstreams: upstreams.clone(),
                edge: Arc::clone(&edge_address),
                peers: Arc::clone(&peers),
                certificates: certificates.subscribe(),
                guard: guards.admin.clone(),
                metrics: metrics.clone(),
                metrics_name_tenants: edge.metrics_endpoints > 0,
                log: Arc::clone(&log),
                leave: leave.clone(),
                grace_period,
                drain_delay,
                tasks: tasks.clone(),
            },
        )
        .await?;
        let edge = Edge::start(
            edge,
            upstreams.clone(),
            guards.edge.clone(),
            limits.clone(),
            access_log.clone(),
            traffic.clone(),
            &metrics,
        )
        .await?;
        edge_address.get_or_init(|| edge.address());
        let udp = udp::Ports::start(udp, &upstreams, &guards.edge, &limits, &access_log, &traffic)?;
        let (listener, http, address) = bind_link(bind, &link_tls, &secret, &settings).await?;
        metrics.queue_full(Queue::Handshakes, listener.turned_away());
        let ways = match &cluster_links {
            Some(config) if config.advertise.is_none() && config.bind.ip().is_unspecified() => {
                Ways::to(&config.join).await
            }
            _ => Ways::default(),
        };
        let link_address = advertise.unwrap_or_else(|| ways.link(address)).to_string();
        let cluster_view = match cluster_links {
            None => {
                upstreams.settle();
                None
            }
            Some(mut config) => {
                config.advertise = Some(config.advertise.unwrap_or_else(|| ways.peer(config.bind)));
                let own = cluster::Own {
                    node: node.clone(),
                    cluster: cluster.clone(),
                    incarnation: glue::unix_millis(),
                    link_address: link_address.clone(),
                    phase: phase.subscribe(),
                };
                let handler = Arc::new(Glue {
                    upstreams: upstreams.clone(),
                    relay: relay.clone(),
                    answers: admin.answers(),
                });
                let announcements = upstreams.announcements();
                let carried = upstreams.link_counters().clone();
                let cluster =
                    Cluster::start(config, own, &settings, announcements, handler, &metrics, carried)?;
                Some(Arc::clone(peers.get_or_init(|| Arc::new(cluster))))
            }
        };
        let peer_address = cluster_view.as_ref().map(|cluster| cluster.advertised());
        tracing::info!(link = link_address, peer = peer_address, "where others are told to reach this node");
        let alone =
            watch::Sender::new(Arc::from([NodeAddress { node: node.clone(), address: link_address }]));
        let welcomer = Welcomer {
            node,
            cluster,
            nodes: cluster_view.as_ref().map_or_else(|| alone.subscribe(), |cluster| cluster.members()),
            settings,
            upstreams: upstreams.clone(),
            relay: relay.clone(),
            guard: guards.link.clone(),
            callers: limits.clone(),
        };
        let links = Links::start(listener, (http, ServerTls::new(link_https)), welcomer, &metrics);
        if let Some(cluster) = &cluster_view {
            tasks.spawn(glue::rebalance(
                rebalance,
                Arc::clone(cluster),
                upstreams.clone(),
                phase.subscribe(),
            ));
        }
        let addresses = Addresses {
            edge: edge.address(),
            edge_tls: edge.tls_address(),
            edge_sni: edge.sni_address(),
            tcp: edge.ports().to_vec(),
            link: address,
            admin: admin.address(),
            admin_tls: admin.is_tls(),
            peer: cluster_view.as_ref().map(|cluster| cluster.address()),
        };
        phase.send_replace(Phase::Ready);
        Ok(Self {
            addresses,
            phase,
            upstreams,
            relay,
            edge,
            udp,
            links,
            cluster: cluster_view,
            _alone: alone,
            admin,
            guards,
            limits,
            reloads: Reloads::new(&metrics),
            drains: Drains::new(&metrics),
            certificates,
            log,
            exporter,
            leave,
            tasks,
            grace_period,
            drain_delay,
        })
    }

    /// The addresses that were bound.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The plain UDP ports, as they were bound.
    pub fn udp_ports(&self) -> &[udp::Port] {
        self.udp.bound()
    }

    /// Whether an agent serves an endpoint of this name, here or at a peer.
    pub fn serves(&self, endpoint: &str) -> bool {
        self.upstreams.serves(endpoint)
    }

    /// Lets operators change what is logged, by the admin port.
    pub fn logs_to(&self, log: Log) {
        self.log.get_or_init(|| log);
    }

    /// Waits until an operator has asked the node to leave, by the admin port, which is refused while nobody waits. Whoever
    /// runs the node is to [drain](Self::drain) it then.
    pub fn asked_to_leave(&self) -> impl Future<Output = ()> + use<> {
        let mut leave = self.leave.subscribe();
        async move {
            if leave.wait_for(|asked| *asked).await.is_err() {
                // The node is gone, and nobody can ask any more.
                std::future::pending().await
            }
        }
    }

    /// Leaves, in the order in which nothing is lost: not ready; agents are told to link elsewhere; new flows of forwarders
    /// are refused with a code that sends them elsewhere; the edge accepts a while longer, then finishes; links close when
    /// they are idle; the admin port goes last.
    ///
    /// # Errors
    /// When something had not ended within the grace period, which is then cut.
    pub async fn drain(self) -> Result<(), Aborted> {
        let end = Instant::now() + self.grace_period;
        let left = || end.saturating_duration_since(Instant::now());
        self.phase.send_replace(Phase::Draining);
        self.drains.begin();
        self.links.refuse_new();
        let sessions = self.upstreams.sessions();
        tracing::info!(links = sessions.len(), grace_period = ?self.grace_period, "leaving");
        let why = format!("{:?} at most", self.grace_period);
        self.upstreams.recent().note(What::Draining, None, "this node", why);
        self.upstreams
            .go_away(GoAway {
                reason: GoAwayReason::Stopping,
                deadline: self.grace_period,
                // A thousand agents a second: as many as another node can welcome.
                smear: Duration::from_millis(sessions.len() as u64).min(self.grace_period / 4),
            })
            .await;
        if self.cluster.as_ref().is_some_and(|cluster| !cluster.peers().is_empty()) {
            // Until an agent has linked elsewhere, this node is its way in, for peers as well.
            let patience = (self.grace_period / 4).min(AGENTS_MOVE);
            let moved = glue::until_agents_have_moved(&self.upstreams);
            let (moved, ()) =
                tokio::join!(tokio::time::timeout(patience, moved), self.upstreams.part_with_bare(patience));
            if moved.is_err() {
                tracing::info!("some agents have not linked to another node");
            }
        }
        self.relay.refuse_new();
        self.edge.closing();
        tokio::time::sleep(self.drain_delay.min(left())).await;
        let (edge, udp) = tokio::join!(self.edge.drain(left()), self.udp.drain(left()));
        let sessions = self.upstreams.sessions();
        let finished = sessions.iter().map(|session| session.finish(left()));
        let links: Vec<_> = futures_util::future::join_all(finished).await;
        let peers = match &self.cluster {
            Some(cluster) => cluster.leave(left()).await,
            None => Ok(()),
        };
        let cut: usize = links
            .into_iter()
            .chain([edge, udp, peers])
            .filter_map(Result::err)
            .map(|aborted| aborted.left)
            .sum();
        self.drains.end(cut);
        self.links.close(Close::Done, "the node has left").await;
        self.tasks.abort();
        self.exporter.finish().await;
        let admin = self.admin.drain(Duration::from_secs(1)).await;
        if let Err(aborted) = admin {
            tracing::debug!(%aborted, "operators' connections were cut");
        }
        if cut == 0 { Ok(()) } else { Err(Aborted { left: cut, after: self.grace_period }) }
    }
}

/// Binds the link port, over UDP and TCP alike. Where any port will do, one that is free for both is looked for.
async fn bind_link(
    bind: SocketAddr,
    tls: &rustls::ServerConfig,
    secret: &[u8; 32],
    settings: &transport::Settings,
) -> Result<(quic::Listener, TcpListener, SocketAddr), StartError> {
    let mut tries = if bind.port() == 0 { 16 } else { 1 };
    loop {
        let quic = quic::Listener::bind(bind, tls.clone(), Some(secret), settings)?;
        let address =
            quic.local_address().map_err(|source| quic::BindError::Bind { address: bind, source })?;
        tries -= 1;
        match TcpListener::bind(address).await {
            Ok(http) => return Ok((quic, http, address)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(source) => return Err(StartError::LinkHttp { address, source }),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}
