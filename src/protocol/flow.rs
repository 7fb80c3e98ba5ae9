//! The frames that begin a stream that is no control stream: `Open` from the opener of a flow, `Opened` or `Refused` from its
//! acceptor. Data follows. Between nodes also `Ask` and `Answer`, which are no flow.

use std::net::SocketAddr;

use bytes::Bytes;
use prost::Message;

use super::{
    AgentId, Ask, Code, EndpointId, Frame, Refusal, TenantId,
    ask::{WireAnswer, WireAsk},
};

/// What a flow carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// HTTP/1.1, request after request.
    Http,
    /// Bytes.
    Tcp,
    /// Packets: an association, whose packets are its stream's datagrams, or stand on the stream.
    Udp,
    /// HTTP/2, many requests at a time, of a service in the clear.
    Http2,
    /// The same of a service with TLS, whose requests are for `https`.
    Http2Tls,
    /// A kind of a newer version: refused by name, so that what else the peer asked for stands.
    Other(u32),
}

impl Kind {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Http => 1,
            Self::Tcp => 2,
            Self::Udp => 3,
            Self::Http2 => 4,
            Self::Http2Tls => 5,
            Self::Other(number) => number,
        }
    }

    pub(super) fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Http,
            2 => Self::Tcp,
            3 => Self::Udp,
            4 => Self::Http2,
            5 => Self::Http2Tls,
            other => Self::Other(other),
        }
    }

    /// Whether it is HTTP, of whichever version.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Http2Tls)
    }

    /// The name that logs and metrics use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            // As in ALPN (RFC 9113 §3.1).
            Self::Http2 => "h2c",
            Self::Http2Tls => "h2",
            Self::Other(_) => "other",
        }
    }
}

/// Whether a flow may still be passed to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hop {
    /// From a client or a forwarder: the receiving node chooses.
    First,
    /// The receiver serves it or refuses it, and never forwards it.
    Final,
}

/// Opens a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The endpoint asked for.
    pub endpoint: EndpointId,
    /// Its tenant; absent where the link's own is meant.
    pub tenant: Option<TenantId>,
    /// What the flow carries.
    pub kind: Kind,
    /// Whether it may be passed on.
    pub hop: Hop,
    /// Which of the endpoint's agents is meant, where one node asks another for it.
    pub agent: Option<AgentId>,
    /// The client's address. Absent for HTTP flows that carry the requests of many clients.
    pub client: Option<SocketAddr>,
    /// The address that the client connected to, where that is known.
    pub server: Option<SocketAddr>,
    /// W3C `traceparent`, at most [`Open::MAX_TRACE`] bytes. Absent for HTTP flows.
    pub trace: Option<String>,
}

impl Open {
    /// The longest trace context, in bytes.
    pub const MAX_TRACE: usize = 128;
}

/// A frame at the beginning of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    /// From the opener, before its data.
    Open(Open),
    /// From the acceptor, before its data: the flow is joined to the service.
    Opened,
    /// From the acceptor, instead: no byte of the flow was passed on.
    Refused(Refusal),
    /// From one node to another, instead of `Open`: no flow, but a question.
    Ask(Ask),
    /// The status of the answer to that, before its body.
    Answer(u16),
}

mod kind {
    pub(super) const REFUSED: u8 = 0x03;
    pub(super) const OPEN: u8 = 0x20;
    pub(super) const OPENED: u8 = 0x21;
    pub(super) const ASK: u8 = 0x22;
    pub(super) const ANSWER: u8 = 0x23;
}

impl Frame for Flow {
    const MAX_BODY: usize = 4 * 1024;

    fn to_parts(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Open(open) => (kind::OPEN, WireOpen::from(open).encode_to_vec()),
            Self::Opened => (kind::OPENED, Vec::new()),
            Self::Refused(refusal) => (kind::REFUSED, wire_refusal(refusal).encode_to_vec()),
            Self::Ask(ask) => (kind::ASK, WireAsk::from(ask).encode_to_vec()),
            Self::Answer(status) => (kind::ANSWER, WireAnswer { status: u32::from(*status) }.encode_to_vec()),
        }
    }

    fn from_parts(kind: u8, body: Bytes) -> Option<Result<Self, String>> {
        fn read<W: Message + Default>(
            body: Bytes,
            parse: impl FnOnce(W) -> Result<Flow, String>,
        ) -> Option<Result<Flow, String>> {
            Some(W::decode(body).map_err(|error| error.to_string()).and_then(parse))
        }
        match kind {
            kind::OPEN => read(body, |w: WireOpen| w.parse().map(Self::Open)),
            kind::OPENED => Some(Ok(Self::Opened)),
            kind::REFUSED => read(body, |w| parse_refusal(w).map(Self::Refused)),
            kind::ASK => read(body, |w: WireAsk| w.parse().map(Self::Ask)),
            kind::ANSWER => read(body, |w: WireAnswer| w.parse().map(Self::Answer)),
            _ => None,
        }
    }
}

#[derive(Message)]
struct WireOpen {
    #[prost(string, tag = "1")]
    endpoint: String,
    #[prost(string, tag = "2")]
    tenant: String,
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(bool, tag = "4")]
    last_hop: bool,
    #[prost(string, tag = "5")]
    client: String,
    #[prost(string, tag = "6")]
    trace: String,
    #[prost(bytes = "vec", tag = "7")]
    agent: Vec<u8>,
    #[prost(string, tag = "8")]
    server: String,
}

impl From<&Open> for WireOpen {
    fn from(open: &Open) -> Self {
        Self {
            endpoint: open.endpoint.to_string(),
            tenant: open.tenant.as_ref().map(TenantId::to_string).unwrap_or_default(),
            kind: open.kind.number(),
            last_hop: open.hop == Hop::Final,
            client: open.client.map(|client| client.to_string()).unwrap_or_default(),
            server: open.server.map(|server| server.to_string()).unwrap_or_default(),
            trace: open.trace.clone().unwrap_or_default(),
            agent: open.agent.map(|agent| agent.0.to_vec()).unwrap_or_default(),
        }
    }
}

impl WireOpen {
    fn parse(self) -> Result<Open, String> {
        Ok(Open {
            endpoint: EndpointId::new(&self.endpoint).map_err(|error| error.to_string())?,
            tenant: match self.tenant.as_str() {
                "" => None,
                tenant => Some(TenantId::new(tenant).map_err(|error| error.to_string())?),
            },
            kind: Kind::from_number(self.kind),
            hop: if self.last_hop { Hop::Final } else { Hop::First },
            agent: match self.agent.len() {
                0 => None,
                _ => Some(AgentId(self.agent.try_into().map_err(|_| "agent id is not 16 bytes")?)),
            },
            client: address("client", &self.client)?,
            server: address("server", &self.server)?,
            trace: match self.trace.len() {
                0 => None,
                1..=Open::MAX_TRACE => Some(self.trace),
                len => {
                    return Err(format!("trace has {len} bytes, at most {} are allowed", Open::MAX_TRACE));
                }
            },
        })
    }
}

fn address(what: &str, text: &str) -> Result<Option<SocketAddr>, String> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("{what} is not an address and a port")),
    }
}

#[derive(Message)]
pub(super) struct WireRefusal {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    message: String,
}

pub(super) fn wire_refusal(refusal: &Refusal) -> WireRefusal {
    WireRefusal { code: refusal.code.number(), message: refusal.message.clone() }
}

pub(super) fn parse_refusal(wire: WireRefusal) -> Result<Refusal, String> {
    if wire.message.len() > Refusal::MAX_MESSAGE {
        return Err(format!(
            "message has {} bytes, at most {} are allowed",
            wire.message.len(),
            Refusal::MAX_MESSAGE
        ));
    }
    Ok(Refusal { code: Code::from_number(wire.code), message: wire.message })
}
