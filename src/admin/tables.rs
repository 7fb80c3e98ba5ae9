//! What a node tells of itself and of what it sees of others, as JSON.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{Certificate, Source, error, operator::Operator};
use crate::{
    cluster::{Cluster, PeerStatus},
    telemetry::Event,
    upstream::{AgentStatus, EndpointStatus, LinkStatus, OpenStatus},
};

/// How many flows are shown when nobody says how many, and at most.
const FLOWS: usize = 100;
const MAX_FLOWS: usize = 10_000;

/// How much of each kind of what has happened of late is shown with all else, so that none hides the others.
const RECENT: usize = 2;

/// A node's status, as `GET /api/v1/status` answers it.
#[derive(Debug, Clone, Serialize)]
struct Status {
    node: String,
    cluster: String,
    phase: &'static str,
    version: &'static str,
    certificates: Vec<Certificate>,
    /// What has happened of late that may need a look, the newest first, a few.
    recent: Vec<EventStatus>,
    peers: Vec<PeerStatus>,
    links: Vec<LinkStatus>,
    endpoints: Vec<EndpointStatus>,
}

/// A node in full.
#[derive(Debug, Clone, Serialize)]
struct Page {
    #[serde(flatten)]
    status: Status,
    /// Where peers reach it.
    address: Option<String>,
    /// Where its edge speaks HTTP in the clear.
    edge: Option<String>,
    uptime_s: u64,
    agents: Vec<AgentStatus>,
    /// How many requests and flows are open.
    flows: usize,
}

/// A node as another sees it, or as it sees itself.
#[derive(Debug, Clone, Serialize)]
struct NodeStatus {
    node: String,
    /// Where peers reach it.
    address: Option<String>,
    phase: &'static str,
    /// Whether it is the one that answers. Of that there is no way to measure, and no link.
    this: bool,
    rtt_ms: Option<f64>,
    flows: Option<usize>,
    agent_links: usize,
    suspect: bool,
}

impl From<PeerStatus> for NodeStatus {
    fn from(peer: PeerStatus) -> Self {
        Self {
            node: peer.node,
            address: Some(peer.address),
            phase: peer.phase,
            this: false,
            rtt_ms: Some(peer.rtt_ms),
            flows: Some(peer.flows),
            agent_links: peer.agent_links,
            suspect: peer.suspect,
        }
    }
}

#[derive(Debug, Serialize)]
struct Nodes {
    node: String,
    nodes: Vec<NodeStatus>,
}

#[derive(Debug, Serialize)]
struct Endpoints {
    node: String,
    endpoints: Vec<EndpointStatus>,
}

#[derive(Debug, Serialize)]
struct Agents {
    node: String,
    agents: Vec<AgentStatus>,
}

#[derive(Debug, Serialize)]
struct Links {
    node: String,
    links: Vec<LinkStatus>,
}

#[derive(Debug, Serialize)]
struct Flows {
    node: String,
    /// How many there are.
    total: usize,
    /// The oldest of them.
    flows: Vec<OpenStatus>,
}

/// Something that has happened.
#[derive(Debug, Clone, Serialize)]
struct EventStatus {
    what: &'static str,
    /// Whose it is, if it is one tenant's.
    tenant: Option<String>,
    who: String,
    why: String,
    /// How often.
    times: u64,
    /// Seconds since the last time.
    age_s: u64,
}

impl From<Event> for EventStatus {
    fn from(event: Event) -> Self {
        Self {
            what: event.what.name(),
            age_s: event.age().as_secs(),
            tenant: event.tenant.as_deref().map(str::to_owned),
            who: event.who,
            why: event.why,
            times: event.times,
        }
    }
}

#[derive(Debug, Serialize)]
struct Happened {
    node: String,
    events: Vec<EventStatus>,
}

impl Source {
    /// What is no tenant's is for those who may see all.
    fn recent(&self, operator: &Operator) -> Vec<Event> {
        let sees = |tenant: Option<&str>| match tenant.map(str::parse) {
            Some(Ok(tenant)) => operator.sees(&tenant),
            Some(Err(_)) | None => operator.is_of_all(),
        };
        self.upstreams.recent().events(sees)
    }

    /// The names of edge certificates are hosts of tenants.
    fn certificates(&self, operator: &Operator) -> Vec<Certificate> {
        let mut all = self.certificates.borrow().clone();
        if !operator.is_of_all() {
            all.iter_mut().for_each(|certificate| certificate.names.clear());
        }
        all
    }

    fn cluster(&self) -> Option<&Cluster> {
        self.peers.get().map(AsRef::as_ref)
    }

    fn peers(&self) -> Vec<PeerStatus> {
        self.cluster()
            .map_or_else(Vec::new, |cluster| cluster.peers().iter().map(|peer| peer.status()).collect())
    }

    fn links(&self, operator: &Operator) -> Vec<LinkStatus> {
        let mut links = self.upstreams.link_status();
        links.retain(|link| operator.sees(&link.tenant));
        links
    }

    fn endpoints(&self, operator: &Operator) -> Vec<EndpointStatus> {
        let mut endpoints = self.upstreams.endpoint_status(&self.node);
        endpoints.retain(|endpoint| operator.sees(&endpoint.tenant));
        endpoints
    }

    fn agents(&self, operator: &Operator) -> Vec<AgentStatus> {
        let mut agents = self.upstreams.agent_status(&self.node);
        agents.retain(|agent| operator.sees(&agent.tenant));
        agents
    }

    fn status(&self, operator: &Operator) -> Status {
        Status {
            node: self.node.to_string(),
            cluster: self.cluster.clone(),
            phase: self.phase.borrow().name(),
            version: env!("CARGO_PKG_VERSION"),
            certificates: self.certificates(operator),
            recent: {
                let mut count = BTreeMap::<_, usize>::new();
                let mut events = self.recent(operator);
                events.retain(|event| {
                    let count = count.entry(event.what).or_default();
                    *count += 1;
                    event.what.is_of_note() && *count <= RECENT
                });
                events.into_iter().map(EventStatus::from).collect()
            },
            peers: self.peers(),
            links: self.links(operator),
            endpoints: self.endpoints(operator),
        }
    }
}

pub(super) async fn status(
    State(source): State<Arc<Source>>,
    Extension(operator): Extension<Operator>,
) -> impl IntoResponse {
    Json(source.status(&operator))
}

pub(super) async fn nodes(State(source): State<Arc<Source>>) -> impl IntoResponse {
    let own = NodeStatus {
        node: source.node.to_string(),
        address: source.cluster().map(Cluster::advertised),
        phase: source.phase.borrow().name(),
        this: true,
        rtt_ms: None,
        flows: None,
        agent_links: usize::try_from(source.upstreams.load().agent_links).unwrap_or(usize::MAX),
        suspect: false,
    };
    let mut nodes: Vec<_> = source.peers().into_iter().map(NodeStatus::from).chain([own]).collect();
    nodes.sort_by(|a, b| a.node.cmp(&b.node));
    Json(Nodes { node: source.node.to_string(), nodes })
}

/// This node in full. Of another, that one is asked before it comes to this.
pub(super) async fn node(
    State(source): State<Arc<Source>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
) -> Response {
    let own = source.node.as_str();
    if id != own {
        let error = format!("this is the node {own}, and not {id:?}");
        return error::answer(StatusCode::NOT_FOUND, "unknown_node", error);
    }
    let mut status = source.status(&operator);
    status.endpoints.retain(|endpoint| endpoint.nodes.contains(own));
    let mut agents = source.agents(&operator);
    agents.retain(|agent| !agent.links.is_empty());
    let page = Page {
        status,
        address: source.cluster().map(Cluster::advertised),
        edge: source.edge.get().map(ToString::to_string),
        uptime_s: source.started.elapsed().as_secs(),
        agents,
        flows: match operator.is_of_all() {
            true => source.upstreams.open_count(),
            false => source.upstreams.open_of(|tenant| operator.sees(tenant)),
        },
    };
    Json(page).into_response()
}

pub(super) async fn endpoints(
    State(source): State<Arc<Source>>,
    Extension(operator): Extension<Operator>,
) -> impl IntoResponse {
    Json(Endpoints { node: source.node.to_string(), endpoints: source.endpoints(&operator) })
}

pub(super) async fn agents(
    State(source): State<Arc<Source>>,
    Extension(operator): Extension<Operator>,
) -> impl IntoResponse {
    Json(Agents { node: source.node.to_string(), agents: source.agents(&operator) })
}

pub(super) async fn links(
    State(source): State<Arc<Source>>,
    Extension(operator): Extension<Operator>,
) -> impl IntoResponse {
    Json(Links { node: source.node.to_string(), links: source.links(&operator) })
}

pub(super) async fn recent(
    State(source): State<Arc<Source>>,
    Extension(operator): Extension<Operator>,
) -> impl IntoResponse {
    let events = source.recent(&operator).into_iter().map(EventStatus::from).collect();
    Json(Happened { node: source.node.to_string(), events })
}

pub(super) async fn flows(
    State(source): State<Arc<Source>>,
    Extension(operator): Extension<Operator>,
    uri: Uri,
) -> Response {
    let asked = uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("limit="));
    let most = match asked.map(str::parse::<usize>) {
        None => FLOWS,
        Some(Ok(most @ 0..=MAX_FLOWS)) => most,
        Some(_) => {
            let error = format!("limit is a number from 0 to {MAX_FLOWS}");
            return error::answer(StatusCode::BAD_REQUEST, "invalid_limit", error);
        }
    };
    let (total, flows) = source.upstreams.open_status(most, |tenant| operator.sees(tenant));
    Json(Flows { node: source.node.to_string(), total, flows }).into_response()
}
