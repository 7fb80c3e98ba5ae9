//! Agents as `adit status` shows them: what this node's links and its peers' routes say of each, put together when somebody
//! asks.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    registry::Upstreams,
    service::Via,
    session::{Session, State},
    status::shown,
};
use crate::{
    cluster,
    protocol::{AgentId, NodeId, Role, TenantId},
};

/// An agent, as `adit status` shows it. What only its own links tell is known where it has one to this node.
#[derive(Debug, Clone, serde::Serialize)]
pub struct AgentStatus {
    /// Its tenant.
    #[serde(serialize_with = "shown")]
    pub tenant: TenantId,
    /// Its id.
    pub agent: String,
    /// Its label.
    pub name: Option<String>,
    /// Where its links to this node come from.
    pub addresses: Vec<String>,
    /// The nodes that it is linked to: this one, and those that say that it serves something there.
    pub nodes: BTreeSet<String>,
    /// The numbers of its links to this node.
    pub links: Vec<u64>,
    /// What it serves.
    pub endpoints: BTreeSet<String>,
    /// Requests and flows in use, as its nodes count them.
    pub flows: usize,
    /// The smallest round-trip time of its links to this node, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Seconds since the oldest of them was welcomed.
    pub age_s: Option<u64>,
    /// Whether it does not answer on one of its links.
    pub suspect: bool,
    /// `up`, `leaving` or `superseded`: the best of its links to this node.
    pub state: Option<&'static str>,
}

impl AgentStatus {
    fn new(tenant: &TenantId, agent: AgentId) -> Self {
        Self {
            tenant: tenant.clone(),
            agent: agent.to_string(),
            name: None,
            addresses: Vec::new(),
            nodes: BTreeSet::new(),
            links: Vec::new(),
            endpoints: BTreeSet::new(),
            flows: 0,
            rtt_ms: None,
            age_s: None,
            suspect: false,
            state: None,
        }
    }

    /// Takes in what a link to this node says.
    fn linked(&mut self, session: &Session, own: &NodeId) {
        let link = session.status();
        self.name = self.name.take().or(link.name);
        if !self.addresses.contains(&link.address) {
            self.addresses.push(link.address);
        }
        self.nodes.insert(own.to_string());
        self.links.push(link.id);
        self.flows += link.flows;
        self.rtt_ms = Some(self.rtt_ms.map_or(link.rtt_ms, |rtt| rtt.min(link.rtt_ms)));
        self.age_s = self.age_s.max(Some(link.age_s));
        self.suspect |= link.suspect;
        if self.state.is_none() || session.state() == State::Up {
            self.state = Some(link.state);
        }
    }

    /// Takes in what another node says, once for all that it serves there.
    fn known_to(&mut self, node: &cluster::Node, agent: AgentId) {
        if self.nodes.insert(node.member.node.to_string()) {
            self.flows += node.in_flight(agent);
            self.suspect |= node.vitals.is_suspect() || node.suspects(agent);
        }
    }
}

impl Upstreams {
    /// All agents that are linked to this node, whose name is `own`, or serve something at another; by tenant and id.
    pub fn agent_status(&self, own: &NodeId) -> Vec<AgentStatus> {
        let mut agents = BTreeMap::<(TenantId, AgentId), AgentStatus>::new();
        for session in self.sessions() {
            let identity = &session.identity;
            if identity.role == Role::Agent {
                let key = (identity.tenant.clone(), identity.agent);
                let status = agents.entry(key);
                let status = status.or_insert_with(|| AgentStatus::new(&identity.tenant, identity.agent));
                status.linked(&session, own);
            }
        }
        let routes = self.inner.routes.load_full();
        for (name, upstreams) in routes.iter() {
            for upstream in upstreams {
                let (tenant, agent) = (&name.tenant, upstream.agent);
                let status = agents.entry((tenant.clone(), agent));
                let status = status.or_insert_with(|| AgentStatus::new(tenant, agent));
                status.endpoints.insert(name.endpoint.to_string());
                if let Via::Node(node) = &upstream.via {
                    status.known_to(node, agent);
                }
            }
        }
        agents.into_values().collect()
    }
}
