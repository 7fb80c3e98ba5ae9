//! One agent's service for one endpoint, and the way to it: what the registry keeps, and what is chosen from.
//!
//! It knows its own flows and how good it is; the registry decides which one a request goes to.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use super::{
    choice::Rank,
    client::Client,
    idle::Idle,
    open::Entered,
    registry::Name,
    routes::Route,
    session::{Session, State},
    shared::Shared,
};
use crate::{
    auth::Served,
    cluster,
    drain::Tasks,
    protocol::{AgentId, HostPattern, Kind, ListenOptions, PeerRoute},
    transport::{Datagrams, Link, Vitals},
};

/// One agent's service for one endpoint, and the way to it.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) name: Name,
    pub(super) agent: AgentId,
    pub(super) kind: Kind,
    pub(super) options: ListenOptions,
    pub(super) via: Via,
    /// Its flows of HTTP/1.1 that wait for a request.
    pub(super) idle: Idle,
    /// Its connections of HTTP/2.
    pub(super) shared: Shared,
    in_flight: AtomicUsize,
    /// Requests and flows that it was ever given.
    opened: AtomicU64,
    /// Until when it is passed over, in milliseconds of the registry's clock.
    pub(super) shunned_until: AtomicU64,
}

/// What one request or flow has been offered to in vain.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// Ways: the agent may be reached by another.
    ways: Vec<Arc<Upstream>>,
    /// Agents that have failed it themselves, whatever the way.
    agents: Vec<AgentId>,
    /// Agents that did not answer on one way, and may do so on another.
    doubted: Vec<AgentId>,
}

impl Tried {
    pub(super) fn way(&mut self, upstream: &Arc<Upstream>) {
        self.ways.push(Arc::clone(upstream));
    }

    /// Takes note that the way was in vain, and whether the agent itself has failed.
    pub(super) fn failed(&mut self, upstream: &Upstream, is_of_agent: bool) {
        if is_of_agent {
            self.agents.push(upstream.agent);
        } else if upstream.is_silent() {
            self.doubted.push(upstream.agent);
        }
    }

    /// Forgets the last way: it may be used once more.
    pub(super) fn again(&mut self) {
        self.ways.pop();
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How good an upstream is that would be of this rank.
    pub(super) fn rank(&self, upstream: &Arc<Upstream>, rank: Rank) -> Rank {
        if self.agents.contains(&upstream.agent) || self.ways.iter().any(|way| Arc::ptr_eq(way, upstream)) {
            Rank::Never
        } else if self.doubted.contains(&upstream.agent) {
            rank.max(Rank::Suspect)
        } else {
            rank
        }
    }
}

/// The way to an agent.
#[derive(Debug, Clone)]
pub(super) enum Via {
    /// Its own link.
    Agent(Arc<Session>),
    /// The node that it is linked to, one hop and no more.
    Node(Arc<cluster::Node>),
}

impl Via {
    pub(super) fn link(&self) -> &Link {
        match self {
            Self::Agent(session) => &session.link,
            Self::Node(node) => &node.link,
        }
    }

    pub(super) fn datagrams(&self) -> &Datagrams {
        match self {
            Self::Agent(session) => &session.datagrams,
            Self::Node(node) => &node.datagrams,
        }
    }

    pub(super) fn vitals(&self) -> &Arc<Vitals> {
        match self {
            Self::Agent(session) => &session.vitals,
            Self::Node(node) => &node.vitals,
        }
    }

    pub(super) fn flows(&self) -> &Tasks {
        match self {
            Self::Agent(session) => &session.flows,
            Self::Node(node) => &node.flows,
        }
    }

    /// Whether streams carry bytes alone.
    pub(super) fn is_bare(&self) -> bool {
        matches!(self, Self::Agent(session) if session.bare)
    }

    pub(super) fn is_node(&self, node: &Arc<cluster::Node>) -> bool {
        matches!(self, Self::Node(via) if Arc::ptr_eq(via, node))
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(session) => write!(f, "link {}", session.id),
            Self::Node(node) => write!(f, "node {}", node.member.node),
        }
    }
}

impl Upstream {
    pub(super) fn new(route: PeerRoute, via: Via) -> Arc<Self> {
        let PeerRoute { tenant, endpoint, agent, kind, options } = route;
        Arc::new(Self {
            name: Name { tenant, endpoint },
            agent,
            kind,
            options,
            via,
            idle: Idle::default(),
            shared: Shared::default(),
            in_flight: AtomicUsize::new(0),
            opened: AtomicU64::new(0),
            shunned_until: AtomicU64::new(0),
        })
    }

    /// Whether its service is sent HTTP/2.
    pub(super) fn speaks_http2(&self) -> bool {
        matches!(self.kind, Kind::Http2 | Kind::Http2Tls)
    }

    /// The client's connection that a new flow for its requests is for alone, where the service is told whose each is.
    pub(super) fn owner(&self, client: Client) -> Option<u64> {
        self.options.proxy_protocol.then_some(client.number)
    }

    /// Whether it is the agent itself that does not answer, as far as this node knows, and not the node before it.
    pub(super) fn is_silent(&self) -> bool {
        match &self.via {
            Via::Agent(session) => session.vitals.is_suspect(),
            Via::Node(node) => node.suspects(self.agent),
        }
    }

    /// Whether the agent or the node before it does not answer.
    pub(super) fn is_suspect(&self) -> bool {
        self.via.vitals().is_suspect() || self.is_silent()
    }

    /// Waits until one of them does not. Cancel safe.
    pub(super) async fn suspected(&self) {
        match &self.via {
            Via::Agent(session) => session.vitals.suspected().await,
            Via::Node(node) => tokio::select! {
                () = node.vitals.suspected() => {}
                () = node.suspected(self.agent) => {}
            },
        }
    }

    /// Puts no further request on these flows: they end when they carry none.
    pub(super) fn retire(&self, flows: &[u64]) {
        self.idle.retire(flows);
        self.shared.retire(flows);
    }

    /// The same for all flows, present and future.
    pub(super) fn retire_all(&self) {
        self.idle.retire_all();
        self.shared.retire_all();
    }

    /// As peers are told of it.
    pub(super) fn route(&self) -> PeerRoute {
        PeerRoute {
            tenant: self.name.tenant.clone(),
            endpoint: self.name.endpoint.clone(),
            agent: self.agent,
            kind: self.kind,
            options: self.options.clone(),
        }
    }

    /// Flows on the agent, as far as this node knows: what it has there itself is part of what the agent's node counts.
    pub(super) fn load(&self) -> usize {
        match &self.via {
            Via::Agent(_) => self.in_flight(),
            Via::Node(node) => self.in_flight().max(node.in_flight(self.agent)),
        }
    }

    pub(super) fn rank(&self, now: u64) -> Rank {
        let suspect = self.is_suspect() || self.shunned_until.load(Relaxed) > now;
        match &self.via {
            Via::Agent(session) if session.state() == State::Leaving => Rank::Never,
            _ if suspect => Rank::Suspect,
            Via::Agent(_) => Rank::Local,
            Via::Node(node) if node.is_draining() => Rank::Draining,
            Via::Node(_) => Rank::Remote,
        }
    }

    /// Requests and flows in use.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Requests and flows that it was ever given.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Counts one more, until the answer is dropped, which its agent serves so long.
    pub(super) fn begin(self: &Arc<Self>, served: Served, entered: Entered) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        self.opened.fetch_add(1, Relaxed);
        InFlight { upstream: Arc::clone(self), _served: served, _entered: entered }
    }
}

impl Route for Upstream {
    fn name(&self) -> &Name {
        &self.name
    }

    fn hosts(&self) -> &[HostPattern] {
        &self.options.hosts
    }

    fn is_local(&self) -> bool {
        matches!(self.via, Via::Agent(_))
    }
}

/// A request or flow in use.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) upstream: Arc<Upstream>,
    _served: Served,
    _entered: Entered,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.upstream.in_flight.fetch_sub(1, Relaxed);
    }
}
