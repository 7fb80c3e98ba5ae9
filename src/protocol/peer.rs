//! The frames of a peer link's control stream, between the nodes of a cluster.

use bytes::Bytes;
use prost::Message;

use super::{
    AgentId, EndpointId, Frame, Kind, ListenOptions, NodeId, Phase, Refusal, Retire, TenantId,
    control::wire::{at_most, bound, hosts, text},
};

/// The first frame of a peer link, from both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHello {
    /// The newest version that the node speaks.
    pub version: u32,
    /// The oldest version that the node speaks.
    pub oldest: u32,
    /// The node's name; its certificate must be for it.
    pub node: NodeId,
    /// Its cluster, at most 64 bytes; both sides' must be the same.
    pub cluster: String,
    /// Which of the lives of that name this is: higher is later.
    pub incarnation: u64,
    /// Where peers reach it, `host:port`, 1 to 261 bytes.
    pub peer_address: String,
    /// Where agents and forwarders reach it, `host:port`, 1 to 261 bytes.
    pub link_address: String,
    /// Where it is in its life.
    pub phase: Phase,
}

/// One agent that serves one endpoint at the sending node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerRoute {
    /// The endpoint's tenant.
    pub tenant: TenantId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The agent.
    pub agent: AgentId,
    /// What the service behind it speaks.
    pub kind: Kind,
    /// What else the agent says of it.
    pub options: ListenOptions,
}

impl PeerRoute {
    /// How much of the room in a frame it takes: itself, and each of its hosts.
    pub fn weight(&self) -> usize {
        self.options.weight()
    }
}

/// Changes of the sender's routes, numbered so that none is missed or applied twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteUpdate {
    /// Forget what came before: this begins a snapshot.
    pub snapshot: bool,
    /// More frames follow before the number holds.
    pub more: bool,
    /// The number of the last change that this update brings the receiver to.
    pub sequence: u64,
    /// Routes that there are now.
    pub added: Vec<PeerRoute>,
    /// Routes that there are no more.
    pub removed: Vec<PeerRoute>,
}

impl RouteUpdate {
    /// The most routes, with their hosts, in one frame, added and removed together.
    pub const MAX_ROUTES: usize = 512;
}

/// How busy a node is. Each frame replaces the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Its agents' links.
    pub agent_links: u32,
    /// Flows in use by agent, those that have none left out; at most [`Load::MAX_AGENTS`], the busiest.
    pub agents: Vec<(AgentId, u32)>,
    /// Agents that do not answer, at most [`Load::MAX_AGENTS`].
    pub suspects: Vec<AgentId>,
}

impl Load {
    /// The most agents in either list.
    pub const MAX_AGENTS: usize = 1024;
}

/// A frame of a peer link's control stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Opens a peer link.
    Hello(PeerHello),
    /// Accepts it, and says the same of the accepting node.
    Welcome(PeerHello),
    /// Refuses it.
    Refused(Refusal),
    /// Asks for a `Pong` of the same number.
    Ping(u64),
    /// Answers a `Ping`.
    Pong(u64),
    /// The sender's routes, or how they have changed.
    Routes(RouteUpdate),
    /// Where the sender is in its life now.
    Phase(Phase),
    /// How busy the sender is.
    Load(Load),
    /// No further request on these flows.
    Retire(Retire),
    /// The peer sent a frame of this type, which is not known here.
    Unsupported(u8),
}

mod kind {
    pub(super) const REFUSED: u8 = 0x03;
    pub(super) const PING: u8 = 0x04;
    pub(super) const PONG: u8 = 0x05;
    pub(super) const RETIRE: u8 = 0x0d;
    pub(super) const UNSUPPORTED: u8 = 0x0f;
    pub(super) const HELLO: u8 = 0x30;
    pub(super) const WELCOME: u8 = 0x31;
    pub(super) const ROUTES: u8 = 0x32;
    pub(super) const PHASE: u8 = 0x33;
    pub(super) const LOAD: u8 = 0x34;
}

impl Frame for Peer {
    const MAX_BODY: usize = 192 * 1024;

    fn to_parts(&self) -> (u8, Vec<u8>) {
        use super::{control::wire as shared, flow::wire_refusal};
        let number = |id: u64| shared::Number { id }.encode_to_vec();
        match self {
            Self::Hello(hello) => (kind::HELLO, WireHello::from(hello).encode_to_vec()),
            Self::Welcome(hello) => (kind::WELCOME, WireHello::from(hello).encode_to_vec()),
            Self::Refused(refusal) => (kind::REFUSED, wire_refusal(refusal).encode_to_vec()),
            Self::Ping(id) => (kind::PING, number(*id)),
            Self::Pong(id) => (kind::PONG, number(*id)),
            Self::Routes(update) => (kind::ROUTES, WireRoutes::from(update).encode_to_vec()),
            Self::Phase(phase) => (kind::PHASE, number(phase.number().into())),
            Self::Load(load) => (kind::LOAD, WireLoad::from(load).encode_to_vec()),
            Self::Retire(retire) => {
                (kind::RETIRE, shared::Retire { flows: retire.flows.clone() }.encode_to_vec())
            }
            Self::Unsupported(frame) => (kind::UNSUPPORTED, number((*frame).into())),
        }
    }

    fn from_parts(kind: u8, body: Bytes) -> Option<Result<Self, String>> {
        use super::{control::wire as shared, flow::parse_refusal};
        fn read<W: Message + Default>(
            body: Bytes,
            parse: impl FnOnce(W) -> Result<Peer, String>,
        ) -> Option<Result<Peer, String>> {
            Some(W::decode(body).map_err(|error| error.to_string()).and_then(parse))
        }
        match kind {
            kind::HELLO => read(body, |w: WireHello| w.parse().map(Self::Hello)),
            kind::WELCOME => read(body, |w: WireHello| w.parse().map(Self::Welcome)),
            kind::REFUSED => read(body, |w| parse_refusal(w).map(Self::Refused)),
            kind::PING => read(body, |w: shared::Number| Ok(Self::Ping(w.id))),
            kind::PONG => read(body, |w: shared::Number| Ok(Self::Pong(w.id))),
            kind::ROUTES => read(body, |w: WireRoutes| w.parse().map(Self::Routes)),
            kind::PHASE => read(body, |w: shared::Number| {
                u32::try_from(w.id).map_err(|_| "phase".to_owned()).and_then(phase).map(Self::Phase)
            }),
            kind::LOAD => read(body, |w: WireLoad| w.parse().map(Self::Load)),
            kind::RETIRE => read(body, |w: shared::Retire| {
                at_most("flows", w.flows, Retire::MAX_FLOWS).map(|flows| Self::Retire(Retire { flows }))
            }),
            kind::UNSUPPORTED => read(body, |w: shared::Number| {
                u8::try_from(w.id).map(Self::Unsupported).map_err(|_| "a frame type is one byte".into())
            }),
            _ => None,
        }
    }
}

fn phase(number: u32) -> Result<Phase, String> {
    Phase::from_number(number).ok_or_else(|| format!("phase {number} is not known"))
}

/// Who is nowhere cannot be linked to.
fn address(what: &str, address: String) -> Result<String, String> {
    if address.is_empty() {
        return Err(format!("{what} is empty"));
    }
    text(what, address, super::NodeAddress::MAX_ADDRESS)
}

#[derive(Message)]
struct WireHello {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint32, tag = "2")]
    oldest: u32,
    #[prost(string, tag = "3")]
    node: String,
    #[prost(string, tag = "4")]
    cluster: String,
    #[prost(uint64, tag = "5")]
    incarnation: u64,
    #[prost(string, tag = "6")]
    peer_address: String,
    #[prost(string, tag = "7")]
    link_address: String,
    #[prost(uint32, tag = "8")]
    phase: u32,
}

impl From<&PeerHello> for WireHello {
    fn from(hello: &PeerHello) -> Self {
        Self {
            version: hello.version,
            oldest: hello.oldest,
            node: hello.node.to_string(),
            cluster: hello.cluster.clone(),
            incarnation: hello.incarnation,
            peer_address: hello.peer_address.clone(),
            link_address: hello.link_address.clone(),
            phase: hello.phase.number(),
        }
    }
}

impl WireHello {
    fn parse(self) -> Result<PeerHello, String> {
        Ok(PeerHello {
            version: self.version,
            oldest: self.oldest,
            node: NodeId::new(&self.node).map_err(|error| error.to_string())?,
            cluster: text("cluster name", self.cluster, NodeId::MAX_LEN)?,
            incarnation: self.incarnation,
            peer_address: address("peer address", self.peer_address)?,
            link_address: address("link address", self.link_address)?,
            phase: phase(self.phase)?,
        })
    }
}

#[derive(Message)]
struct WireRoute {
    #[prost(string, tag = "1")]
    tenant: String,
    #[prost(string, tag = "2")]
    endpoint: String,
    #[prost(bytes = "vec", tag = "3")]
    agent: Vec<u8>,
    #[prost(uint32, tag = "4")]
    kind: u32,
    #[prost(string, repeated, tag = "5")]
    hosts: Vec<String>,
    #[prost(bool, tag = "6")]
    proxy_protocol: bool,
}

impl From<&PeerRoute> for WireRoute {
    fn from(route: &PeerRoute) -> Self {
        Self {
            tenant: route.tenant.to_string(),
            endpoint: route.endpoint.to_string(),
            agent: route.agent.0.to_vec(),
            kind: route.kind.number(),
            hosts: route.options.hosts.iter().map(ToString::to_string).collect(),
            proxy_protocol: route.options.proxy_protocol,
        }
    }
}

impl WireRoute {
    fn parse(self) -> Result<PeerRoute, String> {
        Ok(PeerRoute {
            tenant: TenantId::new(&self.tenant).map_err(|error| error.to_string())?,
            endpoint: EndpointId::new(&self.endpoint).map_err(|error| error.to_string())?,
            agent: agent(self.agent)?,
            kind: Kind::from_number(self.kind),
            options: ListenOptions { hosts: hosts(self.hosts)?, proxy_protocol: self.proxy_protocol },
        })
    }
}

fn agent(bytes: Vec<u8>) -> Result<AgentId, String> {
    bytes.try_into().map(AgentId).map_err(|_| "agent id is not 16 bytes".into())
}

#[derive(Message)]
struct WireRoutes {
    #[prost(bool, tag = "1")]
    snapshot: bool,
    #[prost(bool, tag = "2")]
    more: bool,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(message, repeated, tag = "4")]
    added: Vec<WireRoute>,
    #[prost(message, repeated, tag = "5")]
    removed: Vec<WireRoute>,
}

impl From<&RouteUpdate> for WireRoutes {
    fn from(update: &RouteUpdate) -> Self {
        Self {
            snapshot: update.snapshot,
            more: update.more,
            sequence: update.sequence,
            added: update.added.iter().map(WireRoute::from).collect(),
            removed: update.removed.iter().map(WireRoute::from).collect(),
        }
    }
}

impl WireRoutes {
    fn parse(self) -> Result<RouteUpdate, String> {
        let weight = self.added.iter().chain(&self.removed).map(|route| 1 + route.hosts.len()).sum();
        bound("routes and hosts", weight, RouteUpdate::MAX_ROUTES)?;
        let parse = |routes: Vec<WireRoute>| routes.into_iter().map(WireRoute::parse).collect();
        Ok(RouteUpdate {
            snapshot: self.snapshot,
            more: self.more,
            sequence: self.sequence,
            added: Result::<_, String>::and_then(parse(self.added), Ok)?,
            removed: Result::<_, String>::and_then(parse(self.removed), Ok)?,
        })
    }
}

#[derive(Message)]
struct WireLoad {
    #[prost(uint32, tag = "1")]
    agent_links: u32,
    #[prost(message, repeated, tag = "2")]
    agents: Vec<WireAgentLoad>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    suspects: Vec<Vec<u8>>,
}

#[derive(Message)]
struct WireAgentLoad {
    #[prost(bytes = "vec", tag = "1")]
    agent: Vec<u8>,
    #[prost(uint32, tag = "2")]
    flows: u32,
}

impl From<&Load> for WireLoad {
    fn from(load: &Load) -> Self {
        let agents = load.agents.iter();
        Self {
            agent_links: load.agent_links,
            agents: agents
                .map(|(agent, flows)| WireAgentLoad { agent: agent.0.to_vec(), flows: *flows })
                .collect(),
            suspects: load.suspects.iter().map(|agent| agent.0.to_vec()).collect(),
        }
    }
}

impl WireLoad {
    fn parse(self) -> Result<Load, String> {
        let agents = at_most("agents", self.agents, Load::MAX_AGENTS)?;
        Ok(Load {
            agent_links: self.agent_links,
            agents: agents
                .into_iter()
                .map(|load| Ok((agent(load.agent)?, load.flows)))
                .collect::<Result<_, String>>()?,
            suspects: at_most("suspects", self.suspects, Load::MAX_AGENTS)?
                .into_iter()
                .map(agent)
                .collect::<Result<_, String>>()?,
        })
    }
}
