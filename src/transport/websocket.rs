//! Links over WebSocket, for those who have nothing better: the same streams as over QUIC, on one TCP connection.
//!
//! A [`Dialer`] opens them, through HTTP load balancers and proxies; a node accepts the connection as HTTP and hands it to
//! [`accepted`]; the dialer hands it to [`opened`]. Both get a [`Link`] and a [`Driver`], the task that moves its messages. There are no datagrams: packets ride
//! on their stream.

mod dialer;
mod driver;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustls::pki_types::CertificateDer;
use tokio::{io, sync::watch};
use tokio_tungstenite::WebSocketStream;

pub use dialer::{DialError, Dialer, Target};
pub use driver::Driver;

use super::{DatagramError, Link, Lost, OpenError, Settings, Stats, Stream, yamux};
use crate::protocol::Close;

/// Where a node answers, behind whatever the address that it is reached at ends with.
pub const PATH: &str = "/adit/v1/link";

/// The subprotocol (RFC 6455 §1.9): adit's links, multiplexed by yamux.
pub const SUBPROTOCOL: &str = "adit.v1";

/// A code of [`Close`] is this much higher as a code of WebSocket (RFC 6455 §7.4.2 leaves 4000 to 4999 to applications).
const CLOSE_CODES: u16 = 4000;

/// How many streams a peer may open before its `Hello` is read: the control stream.
const STREAMS_BEFORE_HELLO: u32 = 1;

/// A link on a WebSocket.
#[derive(Debug, Clone)]
pub struct WebSocketLink {
    session: yamux::Shared,
    common: Arc<Common>,
}

/// What a link and its driver share beside the session.
#[derive(Debug)]
struct Common {
    lost: watch::Sender<Option<Lost>>,
    /// The goodbye that this side says.
    goodbye: Mutex<Option<(Close, String)>>,
    remote: SocketAddr,
    certificates: Vec<CertificateDer<'static>>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    rtt_us: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

/// The link that somebody has opened to this node, and what drives it. Until it is told otherwise, the peer may open one
/// stream.
pub fn accepted<S>(
    socket: WebSocketStream<S>,
    remote: SocketAddr,
    certificates: Vec<CertificateDer<'static>>,
    settings: &Settings,
) -> (Link, Driver<S>)
where
    S: io::AsyncRead + io::AsyncWrite + Unpin,
{
    let limits = yamux::Limits { peer: STREAMS_BEFORE_HELLO, own: settings.max_flows };
    link(socket, yamux::Side::Server, limits, remote, certificates, settings)
}

/// The same at the other end of the connection: the link that was opened by it.
pub fn opened<S>(
    socket: WebSocketStream<S>,
    remote: SocketAddr,
    certificates: Vec<CertificateDer<'static>>,
    settings: &Settings,
) -> (Link, Driver<S>)
where
    S: io::AsyncRead + io::AsyncWrite + Unpin,
{
    let limits = yamux::Limits { peer: settings.max_flows, own: settings.max_flows };
    link(socket, yamux::Side::Client, limits, remote, certificates, settings)
}

fn link<S>(
    socket: WebSocketStream<S>,
    side: yamux::Side,
    limits: yamux::Limits,
    remote: SocketAddr,
    certificates: Vec<CertificateDer<'static>>,
    settings: &Settings,
) -> (Link, Driver<S>) {
    let session = Arc::new(Mutex::new(yamux::Session::new(side, limits)));
    let common = Arc::new(Common {
        lost: watch::Sender::new(None),
        goodbye: Mutex::default(),
        remote,
        certificates,
        counts: Counts::default(),
    });
    let link =
        WebSocketLink { session: yamux::Shared::new(Arc::clone(&session)), common: Arc::clone(&common) };
    (Link::WebSocket(link), Driver::new(socket, session, common, settings))
}

impl WebSocketLink {
    pub(super) async fn open(&self, patience: Duration) -> Result<Stream, OpenError> {
        match tokio::time::timeout(patience, self.session.open()).await {
            Ok(Ok((sender, receiver))) => Ok(Stream::yamux(sender, receiver)),
            Ok(Err(yamux::NoStream::Ended)) => Err(OpenError::Lost(self.lost().unwrap_or(Lost::Local))),
            Ok(Err(error)) => Err(OpenError::Lost(Lost::Other(error.to_string()))),
            Err(_) => Err(OpenError::Busy),
        }
    }

    pub(super) async fn accept(&self) -> Result<Stream, Lost> {
        match self.session.accept().await {
            Ok((sender, receiver)) => Ok(Stream::yamux(sender, receiver)),
            Err(_) => Err(self.closed().await),
        }
    }

    /// Waits until the peer takes no new streams, or the link has ended. Cancel safe.
    pub(super) async fn away(&self) {
        self.session.away().await;
    }

    pub(super) fn ping(&self, number: u64) {
        self.session.lock().ping(number);
    }

    pub(super) fn send_datagram(&self) -> Result<(), DatagramError> {
        if self.lost().is_some() { Err(DatagramError::Lost) } else { Err(DatagramError::TooLarge) }
    }

    pub(super) async fn datagram(&self) -> Result<bytes::Bytes, Lost> {
        Err(self.closed().await)
    }

    pub(super) fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        self.common.certificates.clone()
    }

    pub(super) fn set_max_flows(&self, flows: u32) {
        self.session.lock().set_peer_limit(flows);
    }

    pub(super) fn close(&self, code: Close, reason: &str) {
        self.common.goodbye().get_or_insert_with(|| (code, reason.into()));
        self.common.lose(Lost::Local);
        self.session.lock().close();
    }

    pub(super) async fn closed(&self) -> Lost {
        match self.common.lost.subscribe().wait_for(Option::is_some).await.as_deref() {
            Ok(Some(lost)) => lost.clone(),
            // The sender is borrowed for as long as the wait.
            Ok(None) | Err(_) => Lost::Local,
        }
    }

    pub(super) fn lost(&self) -> Option<Lost> {
        self.common.lost.borrow().clone()
    }

    pub(super) fn remote_address(&self) -> SocketAddr {
        self.common.remote
    }

    pub(super) fn stats(&self) -> Stats {
        let counts = &self.common.counts;
        Stats {
            rtt: Duration::from_micros(counts.rtt_us.load(Relaxed)),
            received_packets: counts.received.load(Relaxed),
            sent_packets: counts.sent.load(Relaxed),
            lost_packets: 0,
            received_bytes: counts.received_bytes.load(Relaxed),
            sent_bytes: counts.sent_bytes.load(Relaxed),
            congestion_window: None,
            cut_flows: 0,
        }
    }
}

impl Common {
    /// Notes why the link has ended; the first reason holds.
    fn lose(&self, lost: Lost) {
        self.lost.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(lost);
            first
        });
    }

    fn goodbye(&self) -> std::sync::MutexGuard<'_, Option<(Close, String)>> {
        self.goodbye.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
