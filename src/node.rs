//! A node: assembles edge, links, relay and admin port, and takes them apart in the order in which nothing is lost.

mod links;

use std::{net::SocketAddr, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::{
    admin::{self, Admin},
    drain::Aborted,
    edge::{self, Edge},
    net::HostPort,
    protocol::{ALPN_LINK, Close, GoAway, GoAwayReason, NodeId, Phase},
    relay::Relay,
    telemetry::Metrics,
    tls,
    transport::{self, quic},
    upstream::Upstreams,
};
use links::{Links, Welcomer};

/// What a node is, where it listens, and its limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name, unique in its cluster.
    pub node: NodeId,
    /// Its cluster's name.
    pub cluster: String,
    /// The clients' port.
    pub edge: edge::Config,
    /// The agents' and forwarders' port.
    pub link: LinkConfig,
    /// The operators' port.
    pub admin: SocketAddr,
    /// How long everything under way may take to end when the node leaves.
    pub grace_period: Duration,
    /// How long a leaving node goes on accepting clients, so that a balancer sees it is not ready.
    pub drain_delay: Duration,
}

/// The link port.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Where it listens, over UDP.
    pub bind: SocketAddr,
    /// Where others reach it; the bound address when absent.
    pub advertise: Option<HostPort>,
    /// Its certificate.
    pub identity: tls::Identity,
    /// Timing and sizes.
    pub settings: transport::Settings,
}

/// The addresses that were bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// HTTP in the clear.
    pub edge: SocketAddr,
    /// HTTP over TLS.
    pub edge_tls: Option<SocketAddr>,
    /// Links.
    pub link: SocketAddr,
    /// Operators.
    pub admin: SocketAddr,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The edge does not.
    #[error(transparent)]
    Edge(#[from] edge::BindError),
    /// The link port does not.
    #[error("the link port does not open (--link-bind)")]
    Link(#[from] quic::BindError),
    /// The link port's certificate cannot be used.
    #[error("the link port's certificate cannot be used")]
    Tls(#[from] tls::ConfigError),
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
    links: Links,
    admin: Admin,
    grace_period: Duration,
    drain_delay: Duration,
}

impl Node {
    /// Binds every port and serves: when this returns, the node is ready.
    ///
    /// # Errors
    /// When a port is taken, or a certificate cannot be used.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let Config { node, cluster, edge, link, admin, grace_period, drain_delay } = config;
        let LinkConfig { bind, advertise, identity, settings } = link;
        let metrics = Metrics::default();
        let phase = watch::Sender::new(Phase::Starting);
        let upstreams = Upstreams::new(&metrics);
        let relay = Relay::new(upstreams.clone());
        let admin = Admin::start(
            admin,
            admin::Source {
                node: node.clone(),
                cluster: cluster.clone(),
                phase: phase.subscribe(),
                upstreams: upstreams.clone(),
                metrics: metrics.clone(),
            },
        )
        .await?;
        let edge = Edge::start(edge, upstreams.clone(), &metrics).await?;
        let tls = tls::server_config(std::slice::from_ref(&identity), tls::ClientAuth::None, &[ALPN_LINK])?;
        let secret = identity.derive_key(b"adit link");
        let listener = quic::Listener::bind(bind, tls, Some(&secret), &settings)?;
        let welcomer = Welcomer {
            node,
            cluster,
            advertise,
            settings,
            upstreams: upstreams.clone(),
            relay: relay.clone(),
        };
        let links = Links::start(listener, welcomer)?;
        let addresses = Addresses {
            edge: edge.address(),
            edge_tls: edge.tls_address(),
            link: links.address(),
            admin: admin.address(),
        };
        phase.send_replace(Phase::Ready);
        Ok(Self { addresses, phase, upstreams, relay, edge, links, admin, grace_period, drain_delay })
    }

    /// The addresses that were bound.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
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
        self.links.refuse_new();
        let sessions = self.upstreams.sessions();
        tracing::info!(links = sessions.len(), grace_period = ?self.grace_period, "leaving");
        self.upstreams
            .go_away(GoAway {
                reason: GoAwayReason::Stopping,
                deadline: self.grace_period,
                // A thousand agents a second: as many as another node can welcome.
                smear: Duration::from_millis(sessions.len() as u64).min(self.grace_period / 4),
            })
            .await;
        self.relay.refuse_new();
        self.edge.closing();
        tokio::time::sleep(self.drain_delay.min(left())).await;
        let edge = self.edge.drain(left()).await;
        let sessions = self.upstreams.sessions();
        let finished = sessions.iter().map(|session| session.finish(left()));
        let links: Vec<_> = futures_util::future::join_all(finished).await;
        self.links.close(Close::Done, "the node has left").await;
        let admin = self.admin.drain(Duration::from_secs(1)).await;
        if let Err(aborted) = admin {
            tracing::debug!(%aborted, "operators' connections were cut");
        }
        let cut: usize =
            links.into_iter().chain([edge]).filter_map(Result::err).map(|aborted| aborted.left).sum();
        if cut == 0 { Ok(()) } else { Err(Aborted { left: cut, after: self.grace_period }) }
    }
}
