//! The wire: what nodes, agents and forwarders say to each other, as bytes.
//!
//! Owns identifiers, frames, refusal codes and their bounds; `docs/protocol.md` is its normative description. Driven by
//! `transport` (which reads and writes the bytes) and by everything that gives frames a meaning. It is pure: no I/O, no
//! clock, no tasks, and decoding never panics whatever the bytes.

mod ask;
mod code;
mod control;
mod flow;
mod frame;
mod host;
mod id;
mod listen;
mod packet;
mod peer;
#[cfg(test)]
mod tests;

pub use ask::Ask;
pub use code::{Close, Code, Phase, Refusal, Reset};
pub use control::{Control, GoAway, GoAwayReason, Hello, NodeAddress, Retire, Role, Welcome};
pub use flow::{Flow, Hop, Kind, Open};
pub use frame::{DecodeError, Frame, HEADER_LEN, decode, encode};
pub use host::{HostPattern, InvalidHost};
pub use id::{AgentId, EndpointId, InvalidId, LinkId, NodeId, Secret, TenantId};
pub use listen::{Listen, ListenOptions};
pub use packet::{MAX_PACKET, encode_datagram, encode_packet, split_datagram, split_packet};
pub use peer::{Load, Peer, PeerHello, PeerRoute, RouteUpdate};

/// The version of the protocol that this crate speaks.
pub const VERSION: u32 = 1;

/// The oldest version that this crate still understands.
pub const OLDEST_VERSION: u32 = 1;

/// The ALPN protocol (RFC 7301) of links from agents and forwarders.
pub const ALPN_LINK: &[u8] = b"adit/1";

/// The ALPN protocol of links between nodes.
pub const ALPN_PEER: &[u8] = b"adit-peer/1";
