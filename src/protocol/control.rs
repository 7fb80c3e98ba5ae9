//! The frames of a link's control stream. `Hello` comes first, answered by `Welcome` or `Refused`; the rest may follow at
//! any time from either side that has a use for it.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::{AgentId, Code, Frame, Listen, NodeId, Refusal, Secret, TenantId};

/// What the opener of a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// It serves endpoints: the node opens flows on the link.
    Agent,
    /// It reaches endpoints: it opens flows on the link.
    Forwarder,
}

/// The first frame of a link, from whoever opened it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The newest version that the opener speaks.
    pub version: u32,
    /// The oldest version that the opener speaks.
    pub oldest: u32,
    /// What the opener is.
    pub role: Role,
    /// Which process it is, the same over all its links.
    pub agent: AgentId,
    /// A label for people, at most [`Hello::MAX_NAME`] bytes.
    pub name: Option<String>,
    /// The tenant that it asks for.
    pub tenant: Option<TenantId>,
    /// Its credentials, at most [`Hello::MAX_TOKEN`] bytes.
    pub token: Option<Secret>,
    /// What it serves from the start, by [`Listen::weight`] at most [`Hello::MAX_LISTENS`]; each is acknowledged as if it had
    /// come in `Listen`.
    pub listens: Vec<Listen>,
    /// Nodes that it has links to already, at most [`Hello::MAX_AVOID`]: one of them refuses with [`Code::Elsewhere`].
    pub avoid: Vec<NodeId>,
}

impl Hello {
    /// The longest label, in bytes.
    pub const MAX_NAME: usize = 64;
    /// The longest token, in bytes.
    pub const MAX_TOKEN: usize = 16 * 1024;
    /// The most listens, with their hosts, in one `Hello`; more follow as `Listen` frames.
    pub const MAX_LISTENS: usize = 256;
    /// The most nodes in `avoid`.
    pub const MAX_AVOID: usize = 16;
}

/// A node's "yes" to `Hello`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version that the link speaks: the newest that both sides know.
    pub version: u32,
    /// Which node answered.
    pub node: NodeId,
    /// The cluster that it belongs to, at most 64 bytes.
    pub cluster: String,
    /// Nodes to link to, the answering one among them; at most [`NodeAddress::MAX_NODES`].
    pub nodes: Vec<NodeAddress>,
    /// How many endpoints one link may serve.
    pub max_listens: u32,
}

/// Where a node accepts links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    /// The node.
    pub node: NodeId,
    /// `host:port`, at most 261 bytes.
    pub address: String,
}

impl NodeAddress {
    /// The most nodes in one list.
    pub const MAX_NODES: usize = 256;
    pub(super) const MAX_ADDRESS: usize = 261;
}

/// Flows, by stream number, on which no further request may be put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retire {
    /// The numbers, at most [`Retire::MAX_FLOWS`].
    pub flows: Vec<u64>,
}

impl Retire {
    /// The most flows that one frame names; more go into further frames.
    pub const MAX_FLOWS: usize = 1024;
}

/// Why a side is leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoAwayReason {
    /// It stops.
    Stopping,
    /// It has more links than its share.
    Rebalance,
}

/// "No new flow here": what is open may finish until the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoAway {
    /// Why.
    pub reason: GoAwayReason,
    /// How long flows may go on. Milliseconds on the wire.
    pub deadline: Duration,
    /// Over how long the receiver should spread its move to another node. Milliseconds on the wire.
    pub smear: Duration,
}

/// A frame of the control stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Opens a link.
    Hello(Hello),
    /// Accepts it.
    Welcome(Welcome),
    /// Refuses it.
    Refused(Refusal),
    /// Asks for a `Pong` of the same number.
    Ping(u64),
    /// Answers a `Ping`.
    Pong(u64),
    /// Serves one endpoint more.
    Listen(Listen),
    /// The listen of that number takes flows from now on.
    Listening(u64),
    /// The listen of that number is refused.
    ListenRefused(u64, Refusal),
    /// Serves it no more.
    Unlisten(u64),
    /// The listen of that number has ended. A flow that was on its way may still arrive, and is refused as not listening.
    Unlistened(u64),
    /// `Welcome`'s list, brought up to date.
    Nodes(Vec<NodeAddress>),
    /// New credentials, before the old ones end.
    Token(Secret),
    /// No further request on these flows.
    Retire(Retire),
    /// No new flow on this link.
    GoAway(GoAway),
    /// The peer sent a frame of this type, which is not known here.
    Unsupported(u8),
}

mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const WELCOME: u8 = 0x02;
    pub(super) const REFUSED: u8 = 0x03;
    pub(super) const PING: u8 = 0x04;
    pub(super) const PONG: u8 = 0x05;
    pub(super) const LISTEN: u8 = 0x06;
    pub(super) const LISTENING: u8 = 0x07;
    pub(super) const LISTEN_REFUSED: u8 = 0x08;
    pub(super) const UNLISTEN: u8 = 0x09;
    pub(super) const UNLISTENED: u8 = 0x0a;
    pub(super) const NODES: u8 = 0x0b;
    pub(super) const TOKEN: u8 = 0x0c;
    pub(super) const RETIRE: u8 = 0x0d;
    pub(super) const GO_AWAY: u8 = 0x0e;
    pub(super) const UNSUPPORTED: u8 = 0x0f;
}

impl Frame for Control {
    const MAX_BODY: usize = 128 * 1024;

    fn to_parts(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Hello(hello) => (kind::HELLO, wire::Hello::from(hello).encode_to_vec()),
            Self::Welcome(welcome) => (kind::WELCOME, wire::Welcome::from(welcome).encode_to_vec()),
            Self::Refused(refusal) => (kind::REFUSED, super::flow::wire_refusal(refusal).encode_to_vec()),
            Self::Ping(id) => (kind::PING, wire::Number { id: *id }.encode_to_vec()),
            Self::Pong(id) => (kind::PONG, wire::Number { id: *id }.encode_to_vec()),
            Self::Listen(listen) => (kind::LISTEN, wire::Listen::from(listen).encode_to_vec()),
            Self::Listening(id) => (kind::LISTENING, wire::Number { id: *id }.encode_to_vec()),
            Self::ListenRefused(id, refusal) => (
                kind::LISTEN_REFUSED,
                wire::ListenRefused {
                    id: *id,
                    code: refusal.code.number(),
                    message: refusal.message.clone(),
                }
                .encode_to_vec(),
            ),
            Self::Unlisten(id) => (kind::UNLISTEN, wire::Number { id: *id }.encode_to_vec()),
            Self::Unlistened(id) => (kind::UNLISTENED, wire::Number { id: *id }.encode_to_vec()),
            Self::Nodes(nodes) => (kind::NODES, wire::Nodes { nodes: wire::nodes(nodes) }.encode_to_vec()),
            Self::Token(token) => (kind::TOKEN, wire::Token { token: token.expose().into() }.encode_to_vec()),
            Self::Retire(retire) => {
                (kind::RETIRE, wire::Retire { flows: retire.flows.clone() }.encode_to_vec())
            }
            Self::GoAway(away) => (kind::GO_AWAY, wire::GoAway::from(away).encode_to_vec()),
            Self::Unsupported(frame) => {
                (kind::UNSUPPORTED, wire::Number { id: u64::from(*frame) }.encode_to_vec())
            }
        }
    }

    fn from_parts(kind: u8, body: Bytes) -> Option<Result<Self, String>> {
        fn read<W: Message + Default>(
            body: Bytes,
            parse: impl FnOnce(W) -> Result<Control, String>,
        ) -> Option<Result<Control, String>> {
            Some(W::decode(body).map_err(|error| error.to_string()).and_then(parse))
        }
        let number = |make: fn(u64) -> Self, body| read(body, |wire: wire::Number| Ok(make(wire.id)));
        match kind {
            kind::HELLO => read(body, |w: wire::Hello| w.parse().map(Self::Hello)),
            kind::WELCOME => read(body, |w: wire::Welcome| w.parse().map(Self::Welcome)),
            kind::REFUSED => read(body, |w| super::flow::parse_refusal(w).map(Self::Refused)),
            kind::PING => number(Self::Ping, body),
            kind::PONG => number(Self::Pong, body),
            kind::LISTEN => read(body, |w: wire::Listen| w.parse().map(Self::Listen)),
            kind::LISTENING => number(Self::Listening, body),
            kind::LISTEN_REFUSED => read(body, |w: wire::ListenRefused| {
                let message = wire::text("message", w.message, Refusal::MAX_MESSAGE)?;
                Ok(Self::ListenRefused(w.id, Refusal { code: Code::from_number(w.code), message }))
            }),
            kind::UNLISTEN => number(Self::Unlisten, body),
            kind::UNLISTENED => number(Self::Unlistened, body),
            kind::NODES => read(body, |w: wire::Nodes| wire::parse_nodes(w.nodes).map(Self::Nodes)),
            kind::TOKEN => read(body, |w: wire::Token| {
                wire::text("token", w.token, Hello::MAX_TOKEN).map(|token| Self::Token(Secret::new(token)))
            }),
            kind::RETIRE => read(body, |w: wire::Retire| {
                wire::at_most("flows", w.flows, Retire::MAX_FLOWS).map(|flows| Self::Retire(Retire { flows }))
            }),
            kind::GO_AWAY => read(body, |w: wire::GoAway| w.parse().map(Self::GoAway)),
            kind::UNSUPPORTED => read(body, |w: wire::Number| {
                u8::try_from(w.id).map(Self::Unsupported).map_err(|_| "a frame type is one byte".into())
            }),
            _ => None,
        }
    }
}

/// The protobuf messages, as `docs/adit.proto` has them, and their way to and from the types above.
pub(super) mod wire {
    use prost::Message;

    use super::{
        super::{EndpointId, HostPattern, Kind, ListenOptions},
        AgentId, Duration, GoAwayReason, NodeId, Role, Secret, TenantId,
    };

    #[derive(Message)]
    pub(in crate::protocol) struct Number {
        #[prost(uint64, tag = "1")]
        pub(in crate::protocol) id: u64,
    }

    #[derive(Message)]
    pub(super) struct Hello {
        #[prost(uint32, tag = "1")]
        version: u32,
        #[prost(uint32, tag = "2")]
        oldest: u32,
        #[prost(uint32, tag = "3")]
        role: u32,
        #[prost(bytes = "vec", tag = "4")]
        agent: Vec<u8>,
        #[prost(string, tag = "5")]
        name: String,
        #[prost(string, tag = "6")]
        tenant: String,
        #[prost(string, tag = "7")]
        token: String,
        #[prost(message, repeated, tag = "8")]
        listens: Vec<Listen>,
        #[prost(string, repeated, tag = "9")]
        avoid: Vec<String>,
    }

    #[derive(Message)]
    pub(super) struct Listen {
        #[prost(uint64, tag = "1")]
        id: u64,
        #[prost(string, tag = "2")]
        endpoint: String,
        #[prost(uint32, tag = "3")]
        kind: u32,
        #[prost(string, repeated, tag = "4")]
        hosts: Vec<String>,
        #[prost(bool, tag = "5")]
        proxy_protocol: bool,
    }

    #[derive(Message)]
    pub(super) struct ListenRefused {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(uint32, tag = "2")]
        pub(super) code: u32,
        #[prost(string, tag = "3")]
        pub(super) message: String,
    }

    #[derive(Message)]
    pub(super) struct Welcome {
        #[prost(uint32, tag = "1")]
        version: u32,
        #[prost(string, tag = "2")]
        node: String,
        #[prost(string, tag = "3")]
        cluster: String,
        #[prost(message, repeated, tag = "4")]
        nodes: Vec<NodeAddress>,
        #[prost(uint32, tag = "5")]
        max_listens: u32,
    }

    #[derive(Message)]
    pub(super) struct NodeAddress {
        #[prost(string, tag = "1")]
        node: String,
        #[prost(string, tag = "2")]
        address: String,
    }

    #[derive(Message)]
    pub(super) struct Nodes {
        #[prost(message, repeated, tag = "1")]
        pub(super) nodes: Vec<NodeAddress>,
    }

    #[derive(Message)]
    pub(super) struct Token {
        #[prost(string, tag = "1")]
        pub(super) token: String,
    }

    #[derive(Message)]
    pub(in crate::protocol) struct Retire {
        #[prost(uint64, repeated, tag = "1")]
        pub(in crate::protocol) flows: Vec<u64>,
    }

    #[derive(Message)]
    pub(super) struct GoAway {
        #[prost(uint32, tag = "1")]
        reason: u32,
        #[prost(uint32, tag = "2")]
        deadline_ms: u32,
        #[prost(uint32, tag = "3")]
        smear_ms: u32,
    }

    pub(in crate::protocol) fn text(what: &str, text: String, max: usize) -> Result<String, String> {
        if text.len() > max {
            return Err(format!("{what} has {} bytes, at most {max} are allowed", text.len()));
        }
        Ok(text)
    }

    pub(in crate::protocol) fn at_most<T>(what: &str, list: Vec<T>, max: usize) -> Result<Vec<T>, String> {
        bound(what, list.len(), max).map(|()| list)
    }

    pub(in crate::protocol) fn bound(what: &str, count: usize, max: usize) -> Result<(), String> {
        if count > max {
            return Err(format!("{count} {what}, at most {max} are allowed"));
        }
        Ok(())
    }

    /// Proto3 has no absent text: an empty one stands for it.
    fn given<T>(text: String, parse: impl FnOnce(String) -> Result<T, String>) -> Result<Option<T>, String> {
        if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
    }

    fn sentence(error: super::super::InvalidId) -> String {
        error.to_string()
    }

    impl From<&super::Hello> for Hello {
        fn from(hello: &super::Hello) -> Self {
            Self {
                version: hello.version,
                oldest: hello.oldest,
                role: match hello.role {
                    Role::Agent => 1,
                    Role::Forwarder => 2,
                },
                agent: hello.agent.0.to_vec(),
                name: hello.name.clone().unwrap_or_default(),
                tenant: hello.tenant.as_ref().map(TenantId::to_string).unwrap_or_default(),
                token: hello.token.as_ref().map(|token| token.expose().into()).unwrap_or_default(),
                listens: hello.listens.iter().map(Listen::from).collect(),
                avoid: hello.avoid.iter().map(NodeId::to_string).collect(),
            }
        }
    }

    impl Hello {
        pub(super) fn parse(self) -> Result<super::Hello, String> {
            Ok(super::Hello {
                version: self.version,
                oldest: self.oldest,
                role: match self.role {
                    1 => Role::Agent,
                    2 => Role::Forwarder,
                    other => return Err(format!("role {other} is not known")),
                },
                agent: AgentId(self.agent.try_into().map_err(|_| "agent id is not 16 bytes")?),
                name: given(self.name, |name| text("name", name, super::Hello::MAX_NAME))?,
                tenant: given(self.tenant, |tenant| TenantId::new(&tenant).map_err(sentence))?,
                token: given(self.token, |token| {
                    text("token", token, super::Hello::MAX_TOKEN).map(Secret::new)
                })?,
                listens: listens(self.listens)?,
                avoid: at_most("nodes to avoid", self.avoid, super::Hello::MAX_AVOID)?
                    .into_iter()
                    .map(|node| NodeId::new(&node).map_err(sentence))
                    .collect::<Result<_, _>>()?,
            })
        }
    }

    fn listens(listens: Vec<Listen>) -> Result<Vec<super::Listen>, String> {
        let weight = listens.iter().map(|listen| 1 + listen.hosts.len()).sum();
        bound("listens and hosts", weight, super::Hello::MAX_LISTENS)?;
        listens.into_iter().map(Listen::parse).collect()
    }

    pub(in crate::protocol) fn hosts(hosts: Vec<String>) -> Result<Vec<HostPattern>, String> {
        let hosts = at_most("hosts", hosts, ListenOptions::MAX_HOSTS)?;
        hosts.iter().map(|host| HostPattern::new(host).map_err(|error| error.to_string())).collect()
    }

    impl From<&super::Listen> for Listen {
        fn from(listen: &super::Listen) -> Self {
            Self {
                id: listen.id,
                endpoint: listen.endpoint.to_string(),
                kind: listen.kind.number(),
                hosts: listen.options.hosts.iter().map(ToString::to_string).collect(),
                proxy_protocol: listen.options.proxy_protocol,
            }
        }
    }

    impl Listen {
        pub(super) fn parse(self) -> Result<super::Listen, String> {
            Ok(super::Listen {
                id: self.id,
                endpoint: EndpointId::new(&self.endpoint).map_err(sentence)?,
                kind: Kind::from_number(self.kind),
                options: ListenOptions { hosts: hosts(self.hosts)?, proxy_protocol: self.proxy_protocol },
            })
        }
    }

    impl From<&super::Welcome> for Welcome {
        fn from(welcome: &super::Welcome) -> Self {
            Self {
                version: welcome.version,
                node: welcome.node.to_string(),
                cluster: welcome.cluster.clone(),
                nodes: nodes(&welcome.nodes),
                max_listens: welcome.max_listens,
            }
        }
    }

    impl Welcome {
        pub(super) fn parse(self) -> Result<super::Welcome, String> {
            Ok(super::Welcome {
                version: self.version,
                node: NodeId::new(&self.node).map_err(sentence)?,
                cluster: text("cluster name", self.cluster, NodeId::MAX_LEN)?,
                nodes: parse_nodes(self.nodes)?,
                max_listens: self.max_listens,
            })
        }
    }

    pub(super) fn nodes(nodes: &[super::NodeAddress]) -> Vec<NodeAddress> {
        nodes
            .iter()
            .map(|node| NodeAddress { node: node.node.to_string(), address: node.address.clone() })
            .collect()
    }

    pub(super) fn parse_nodes(nodes: Vec<NodeAddress>) -> Result<Vec<super::NodeAddress>, String> {
        at_most("nodes", nodes, super::NodeAddress::MAX_NODES)?
            .into_iter()
            .map(|node| {
                Ok(super::NodeAddress {
                    node: NodeId::new(&node.node).map_err(sentence)?,
                    address: text("address", node.address, super::NodeAddress::MAX_ADDRESS)?,
                })
            })
            .collect()
    }

    impl From<&super::GoAway> for GoAway {
        fn from(away: &super::GoAway) -> Self {
            let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
            Self {
                reason: match away.reason {
                    GoAwayReason::Stopping => 1,
                    GoAwayReason::Rebalance => 2,
                },
                deadline_ms: ms(away.deadline),
                smear_ms: ms(away.smear),
            }
        }
    }

    impl GoAway {
        pub(super) fn parse(self) -> Result<super::GoAway, String> {
            Ok(super::GoAway {
                // A reason that is not known is still a goodbye.
                reason: if self.reason == 2 { GoAwayReason::Rebalance } else { GoAwayReason::Stopping },
                deadline: Duration::from_millis(self.deadline_ms.into()),
                smear: Duration::from_millis(self.smear_ms.into()),
            })
        }
    }
}
