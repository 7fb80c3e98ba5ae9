//! Links: long-lived connections that carry a control stream and flows.
//!
//! Owns sockets, streams, framing on them, and the judgement whether a link still answers ([`Vitals`]). Driven by `client`
//! on one side and `upstream` on the other. It never knows what a frame means.

mod association;
mod datagrams;
mod framed;
mod meter;
mod pulse;
pub mod quic;
mod stream;
mod vitals;
pub mod websocket;
mod yamux;

use std::{net::SocketAddr, time::Duration};

pub use association::{Association, PacketReceiver, PacketSender};
pub use datagrams::{Datagrams, Inbox};
pub use framed::{
    AskError, ControlReader, ControlWriter, FlowError, FrameError, FrameReader, FrameWriter, ask, read_flow,
    refuse, write_flow,
};
pub use meter::{Meter, Meters};
pub use pulse::{PING_AFTER, SUSPECT_AFTER};
pub use stream::{RecvStream, SendStream, Stream};
pub use vitals::{Monitor, Vitals, Waiting};

pub use crate::splice::packets::{Activity, Counters as PacketCounters};

use crate::{protocol::Close, telemetry::Metrics};

/// Timing and sizes of links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How often the opener of a link speaks when nothing else does, so that NATs keep its address.
    pub keep_alive: Duration,
    /// After how long without a packet a link is lost. Both sides say theirs and the smaller holds (RFC 9000 §10.1).
    pub idle_timeout: Duration,
    /// How many flows the peer may have open at once.
    pub max_flows: u32,
    /// How much of all flows together may have come over QUIC and not be read, in bytes. A single one may have 4 MiB.
    pub window: u32,
    /// How what this side sends over QUIC is fitted to the path.
    pub congestion: Congestion,
}

/// Congestion control (RFC 9002 §7). Over WebSocket, it is the system's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438. It takes each lost packet for a sign of a full queue.
    #[default]
    Cubic,
    /// BBR, which goes by the rate that arrives: many times faster on a path that loses packets for other reasons, such as
    /// radio. It takes more than its share from others on a path whose queue is full.
    Bbr,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(20),
            max_flows: 4096,
            window: 256 << 20,
            congestion: Congestion::Cubic,
        }
    }
}

/// A long-lived connection to a peer. Clones are handles to the same one; it closes when the last is dropped.
#[derive(Debug, Clone)]
pub enum Link {
    /// Over QUIC.
    Quic(quic::QuicLink),
    /// Over WebSocket: no datagrams.
    WebSocket(websocket::WebSocketLink),
}

/// Why a link has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// This side closed it.
    #[error("closed by this side")]
    Local,
    /// The peer closed it.
    #[error("closed by the peer: {reason}")]
    Peer {
        /// The peer's code; see [`Close`].
        code: u64,
        /// The peer's sentence.
        reason: String,
    },
    /// Nothing came for the idle time-out.
    #[error("no packet for the idle time-out")]
    Idle,
    /// The peer's process has restarted and does not know the link.
    #[error("reset: the peer does not know this link any more")]
    Reset,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Why no flow could be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer permits no further flow for now.
    #[error("the link carries as many flows as its peer permits")]
    Busy,
    /// The link has ended.
    #[error("the link is lost: {0}")]
    Lost(#[from] Lost),
}

/// Why a datagram was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// The path or the peer does not take one of this size now.
    #[error("the datagram is larger than the path takes")]
    TooLarge,
    /// There is no room for it behind those that wait.
    #[error("the link has as many datagrams under way as it takes")]
    Full,
    /// The link has ended.
    #[error("the link is lost")]
    Lost,
}

/// Figures of a link.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Packets received.
    pub received_packets: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets held to be lost.
    pub lost_packets: u64,
    /// Bytes received, headers and retransmissions included.
    pub received_bytes: u64,
    /// Bytes sent, headers and retransmissions included.
    pub sent_bytes: u64,
    /// How many bytes may be under way (RFC 9002 §7); none over WebSocket, where TCP keeps it to itself.
    pub congestion_window: Option<u64>,
    /// Flows cut because their readers took too little while others had no room. Always 0 over WebSocket.
    pub cut_flows: u64,
}

/// What is counted of links. Clones count together.
#[derive(Debug, Clone)]
pub struct LinkCounters {
    /// The links themselves.
    pub meters: Meters,
    /// Packets of UDP that went by them.
    pub packets: PacketCounters,
}

impl LinkCounters {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let packets = PacketCounters::default();
        metrics.register(|registry| packets.register(registry));
        Self { meters: Meters::new(metrics), packets }
    }
}

impl Link {
    /// Opens a stream. The peer learns of it with the first byte.
    ///
    /// # Errors
    /// [`OpenError::Busy`] when the peer's limit leaves no room within `patience`. Cancel safe.
    pub async fn open(&self, patience: Duration) -> Result<Stream, OpenError> {
        match self {
            Self::Quic(link) => link.open(patience).await,
            Self::WebSocket(link) => link.open(patience).await,
        }
    }

    /// The next stream that the peer opens. Cancel safe.
    ///
    /// # Errors
    /// When the link has ended.
    pub async fn accept(&self) -> Result<Stream, Lost> {
        match self {
            Self::Quic(link) => link.accept().await,
            Self::WebSocket(link) => link.accept().await,
        }
    }

    /// Sends a datagram (RFC 9221), which may be lost. [`Datagrams`] says whose it is.
    ///
    /// # Errors
    /// See [`DatagramError`].
    pub fn send_datagram(&self, data: bytes::Bytes) -> Result<(), DatagramError> {
        match self {
            Self::Quic(link) => link.send_datagram(data),
            Self::WebSocket(link) => link.send_datagram(),
        }
    }

    /// The next datagram that the peer sends. Cancel safe.
    ///
    /// # Errors
    /// When the link has ended.
    pub async fn datagram(&self) -> Result<bytes::Bytes, Lost> {
        match self {
            Self::Quic(link) => link.datagram().await,
            Self::WebSocket(link) => link.datagram().await,
        }
    }

    /// The peer's certificates, its own first; empty when it has shown none.
    pub fn peer_certificates(&self) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        match self {
            Self::Quic(link) => link.peer_certificates(),
            Self::WebSocket(link) => link.peer_certificates(),
        }
    }

    /// Lets the peer have this many streams open at once, from now on.
    pub fn set_max_flows(&self, flows: u32) {
        match self {
            Self::Quic(link) => link.set_max_flows(flows),
            Self::WebSocket(link) => link.set_max_flows(flows),
        }
    }

    /// Closes the link at once: what has not arrived is lost.
    pub fn close(&self, code: Close, reason: &str) {
        match self {
            Self::Quic(link) => link.close(code, reason),
            Self::WebSocket(link) => link.close(code, reason),
        }
    }

    /// Waits until the link has ended. Cancel safe.
    pub async fn closed(&self) -> Lost {
        match self {
            Self::Quic(link) => link.closed().await,
            Self::WebSocket(link) => link.closed().await,
        }
    }

    /// Why the link has ended, once it has.
    pub fn lost(&self) -> Option<Lost> {
        match self {
            Self::Quic(link) => link.lost(),
            Self::WebSocket(link) => link.lost(),
        }
    }

    /// The peer's address; it changes when the peer's does (RFC 9000 §9).
    pub fn remote_address(&self) -> SocketAddr {
        match self {
            Self::Quic(link) => link.remote_address(),
            Self::WebSocket(link) => link.remote_address(),
        }
    }

    /// Waits until the peer takes no new streams, which only a session of yamux can say, or the link has ended. Cancel safe.
    pub async fn away(&self) {
        match self {
            Self::Quic(link) => drop(link.closed().await),
            Self::WebSocket(link) => link.away().await,
        }
    }

    /// Asks a peer without a control stream whether it is there; its answer is a packet, and nothing else. Only a session of
    /// yamux can.
    pub fn ping(&self, number: u64) {
        match self {
            Self::Quic(_) => {}
            Self::WebSocket(link) => link.ping(number),
        }
    }

    /// Figures, as of now.
    pub fn stats(&self) -> Stats {
        match self {
            Self::Quic(link) => link.stats(),
            Self::WebSocket(link) => link.stats(),
        }
    }

    /// The transport's name, for logs and status.
    pub fn transport(&self) -> &'static str {
        match self {
            Self::Quic(_) => "quic",
            Self::WebSocket(_) => "websocket",
        }
    }
}
