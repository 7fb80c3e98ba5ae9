//! Links and endpoints as `adit status` shows them: copies, made when somebody asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    registry::{Name, Upstreams},
    routes::Route,
    service::{Upstream, Via},
};
use crate::protocol::{AgentId, NodeId, TenantId};

/// A link, as `adit status` shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct LinkStatus {
    /// Its number on this node.
    pub id: u64,
    /// `agent` or `forwarder`.
    pub role: &'static str,
    /// Its opener's id.
    pub agent: String,
    /// Its opener's label.
    pub name: Option<String>,
    /// Its opener's address.
    pub address: String,
    /// What it runs over.
    pub transport: &'static str,
    /// Its tenant.
    #[serde(serialize_with = "shown")]
    pub tenant: TenantId,
    /// Smoothed round-trip time in milliseconds.
    pub rtt_ms: f64,
    /// Flows in use.
    pub flows: usize,
    /// Endpoints served over it.
    pub endpoints: usize,
    /// Seconds since it was welcomed.
    pub age_s: u64,
    /// Whether it does not answer.
    pub suspect: bool,
    /// `up`, `leaving` or `superseded`.
    pub state: &'static str,
}

/// An endpoint, as `adit status` shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct EndpointStatus {
    /// Its tenant.
    #[serde(serialize_with = "shown")]
    pub tenant: TenantId,
    /// Its name.
    pub endpoint: String,
    /// What its services speak.
    pub kind: &'static str,
    /// Hosts that its agents have mapped to it.
    pub hosts: Vec<String>,
    /// How many agents serve it.
    pub agents: usize,
    /// How many of them do not answer on any way that this node knows.
    pub suspects: usize,
    /// The nodes that these agents are linked to.
    pub nodes: BTreeSet<String>,
    /// Flows in use.
    pub flows: usize,
    /// Requests and flows that its present agents were ever given: fewer than before once one of them has gone.
    #[serde(skip)]
    pub opened: u64,
}

impl EndpointStatus {
    /// That of an endpoint whose agents are reached by these, at the node `own`.
    fn new(name: &Name, upstreams: &[Arc<Upstream>], own: &NodeId) -> Self {
        // One agent may be linked to several nodes.
        let mut answers = BTreeMap::<AgentId, bool>::new();
        for upstream in upstreams {
            *answers.entry(upstream.agent).or_default() |= !upstream.is_suspect();
        }
        let node = |via: &Via| match via {
            Via::Agent(_) => own.to_string(),
            Via::Node(node) => node.member.node.to_string(),
        };
        let hosts = upstreams.iter().flat_map(|upstream| upstream.hosts()).collect::<BTreeSet<_>>();
        Self {
            tenant: name.tenant.clone(),
            endpoint: name.endpoint.to_string(),
            kind: upstreams.first().map_or("", |upstream| upstream.kind.name()),
            hosts: hosts.into_iter().map(ToString::to_string).collect(),
            agents: answers.len(),
            suspects: answers.values().filter(|answers| !**answers).count(),
            nodes: upstreams.iter().map(|upstream| node(&upstream.via)).collect(),
            flows: upstreams.iter().map(|upstream| upstream.in_flight()).sum(),
            opened: upstreams.iter().map(|upstream| upstream.opened()).sum(),
        }
    }
}

pub(super) fn shown<S: serde::Serializer>(tenant: &TenantId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(tenant)
}

impl Upstreams {
    /// All links, oldest first.
    pub fn link_status(&self) -> Vec<LinkStatus> {
        self.sessions().iter().map(|session| session.status()).collect()
    }

    /// All endpoints, by name, as the node `own` knows them.
    pub fn endpoint_status(&self, own: &NodeId) -> Vec<EndpointStatus> {
        let routes = self.inner.routes.load_full();
        let status = |(name, upstreams): (&Name, &[Arc<Upstream>])| EndpointStatus::new(name, upstreams, own);
        let mut all: Vec<_> = routes.iter().map(status).collect();
        all.sort_by(|a, b| (&a.tenant, &a.endpoint).cmp(&(&b.tenant, &b.endpoint)));
        all
    }

    /// Whether any agent serves an endpoint of this name, of whichever tenant, here or at a peer.
    pub fn serves(&self, endpoint: &str) -> bool {
        self.inner.routes.load_full().iter().any(|(name, _)| name.endpoint.as_str() == endpoint)
    }

    /// How many agents serve each endpoint of the default tenant, by the name of the peer that they are linked to; none for
    /// those of this node.
    pub fn served_by_node(&self) -> BTreeMap<Option<String>, BTreeMap<String, usize>> {
        let default = TenantId::default();
        let mut served = BTreeMap::<_, BTreeMap<_, _>>::new();
        let routes = self.inner.routes.load_full();
        for (name, upstreams) in routes.iter().filter(|(name, _)| name.tenant == default) {
            for upstream in upstreams {
                let node = match &upstream.via {
                    Via::Agent(_) => None,
                    Via::Node(node) => Some(node.member.node.to_string()),
                };
                *served.entry(node).or_default().entry(name.endpoint.to_string()).or_default() += 1;
            }
        }
        served
    }
}
