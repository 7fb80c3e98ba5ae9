//! Links over QUIC (RFC 9000): one stack for agents, forwarders and nodes.
//!
//! A [`Listener`] accepts links on a UDP port, a [`Dialer`] opens them; both share the tuning in `tuning`.

mod dialer;
mod held;
#[cfg(feature = "server")]
mod http3;
mod listener;
mod outgoing;
mod runtime;
mod tuning;

use std::{net::SocketAddr, time::Duration};

pub use dialer::{ClientCrypto, DialError, Dialer};
pub(super) use held::Ingoing;
use held::{Held, Keeper};
pub use listener::{BindError, HandshakeError, Incoming, Listener, ServerCrypto};
use outgoing::Line;
pub(super) use outgoing::Outgoing;

use super::{DatagramError, Lost, OpenError, Stats, Stream};
use crate::protocol::Close;

/// A QUIC connection.
#[derive(Debug, Clone)]
pub struct QuicLink {
    connection: quinn::Connection,
    line: Line,
    held: Held,
}

/// The certificates that the peer has shown, its own first.
pub(crate) fn peer_certificates(
    connection: &quinn::Connection,
) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    let shown = connection.peer_identity().and_then(|identity| identity.downcast().ok());
    shown.map_or_else(Vec::new, |certificates: Box<Vec<_>>| *certificates)
}

impl QuicLink {
    fn new(connection: quinn::Connection, held: Held) -> Self {
        Self { connection, line: Line::new(), held }
    }

    fn stream(&self, (send, recv): (quinn::SendStream, quinn::RecvStream)) -> Stream {
        Stream::quic(Outgoing::new(send, self.line.clone()), self.held.stream(recv))
    }

    pub(super) async fn open(&self, patience: Duration) -> Result<Stream, OpenError> {
        match tokio::time::timeout(patience, self.connection.open_bi()).await {
            Ok(Ok(stream)) => Ok(self.stream(stream)),
            Ok(Err(error)) => Err(OpenError::Lost(error.into())),
            Err(_) => Err(OpenError::Busy),
        }
    }

    pub(super) async fn accept(&self) -> Result<Stream, Lost> {
        Ok(self.stream(self.connection.accept_bi().await?))
    }

    pub(super) fn send_datagram(&self, data: bytes::Bytes) -> Result<(), DatagramError> {
        // quinn would make room by dropping the oldest in silence.
        if self.connection.datagram_send_buffer_space() < data.len() {
            let fits = self.connection.max_datagram_size().is_some_and(|max| data.len() <= max);
            return Err(if fits { DatagramError::Full } else { DatagramError::TooLarge });
        }
        self.connection.send_datagram(data).map_err(|error| match error {
            quinn::SendDatagramError::ConnectionLost(_) => DatagramError::Lost,
            quinn::SendDatagramError::TooLarge
            | quinn::SendDatagramError::UnsupportedByPeer
            | quinn::SendDatagramError::Disabled => DatagramError::TooLarge,
        })
    }

    pub(super) async fn datagram(&self) -> Result<bytes::Bytes, Lost> {
        Ok(self.connection.read_datagram().await?)
    }

    pub(super) fn peer_certificates(&self) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        peer_certificates(&self.connection)
    }

    pub(super) fn set_max_flows(&self, flows: u32) {
        self.connection.set_max_concurrent_bi_streams(tuning::streams(flows));
    }

    pub(super) fn close(&self, code: Close, reason: &str) {
        self.connection.close((code as u32).into(), reason.as_bytes());
    }

    pub(super) async fn closed(&self) -> Lost {
        self.connection.closed().await.into()
    }

    pub(super) fn lost(&self) -> Option<Lost> {
        self.connection.close_reason().map(Lost::from)
    }

    pub(super) fn remote_address(&self) -> SocketAddr {
        let address = self.connection.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    pub(super) fn stats(&self) -> Stats {
        let stats = self.connection.stats();
        Stats {
            rtt: stats.path.rtt,
            received_packets: stats.udp_rx.datagrams,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            received_bytes: stats.udp_rx.bytes,
            sent_bytes: stats.udp_tx.bytes,
            received_datagrams: stats.frame_rx.datagram,
            congestion_window: Some(stats.path.cwnd),
            cut_flows: self.held.cut(),
        }
    }
}

impl From<quinn::ConnectionError> for Lost {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::LocallyClosed => Self::Local,
            quinn::ConnectionError::ApplicationClosed(close) => Self::Peer {
                code: close.error_code.into(),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            quinn::ConnectionError::TimedOut => Self::Idle,
            quinn::ConnectionError::Reset => Self::Reset,
            other => Self::Other(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use quinn::congestion::{Bbr, Cubic};

    use super::*;
    use crate::{
        splice::packets::Dropped,
        tls::{
            self, ClientAuth, Trust,
            tests::{authority, issue, roots},
        },
        transport::{Congestion, Datagrams, Link, PacketCounters, Settings},
    };

    pub(super) const SOON: Duration = Duration::from_secs(30);

    /// One who dials, and one who listens with a certificate for `node.example` that the first believes.
    pub(super) fn ends(opener: &Settings, other: &Settings) -> (Dialer, Listener) {
        let authority = authority();
        let identity = issue(&authority, &["node.example"]);
        let server = tls::server_config(&[identity], ClientAuth::None, &[b"test"]).unwrap();
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), server, None, other).unwrap();
        let trust = Trust::Roots(roots(&authority));
        (Dialer::new(tls::client_config(&trust, None, &[b"test"]).unwrap(), opener).unwrap(), listener)
    }

    /// A link between two who are set up like this: of the one who has opened it, and of the other.
    pub(super) async fn pair(opener: &Settings, other: &Settings) -> (Link, Link, Dialer, Listener) {
        let (dialer, listener) = ends(opener, other);
        let dial = dialer.dial(listener.local_address().unwrap(), "node.example");
        let accept = async { listener.accept().await.unwrap().handshake(SOON).await.unwrap() };
        let (opened, accepted) = tokio::join!(dial, accept);
        (opened.unwrap(), accepted, dialer, listener)
    }

    #[tokio::test]
    async fn datagrams_that_nobody_takes_in_time_are_counted() {
        let settings = Settings::default();
        let (opened, accepted, ..) = pair(&settings, &settings).await;
        let (Link::Quic(sender), packet) = (&opened, bytes::Bytes::from(vec![7; 1000])) else {
            panic!("it is a link over QUIC");
        };
        // More than the other side keeps, which takes none of them yet.
        for _ in 0..3000 {
            tokio::time::timeout(SOON, sender.connection.send_datagram_wait(packet.clone()))
                .await
                .unwrap()
                .unwrap();
        }
        let settled = async {
            while sender.connection.datagram_send_buffer_space() < 1_000_000 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, settled).await.unwrap();
        opened.close(Close::Done, "all is said");
        accepted.closed().await;
        let received = accepted.stats().received_datagrams;
        let counters = PacketCounters::default();
        let datagrams = Datagrams::new(accepted, counters.of_link("agent"));
        tokio::time::timeout(SOON, datagrams.run()).await.unwrap();
        let missed = counters.dropped(Dropped::QueueFull);
        assert!(missed > 1000 && missed < received, "{missed} of {received}");
    }

    #[tokio::test]
    async fn each_side_fits_what_it_sends_to_the_path_as_it_was_told() {
        let bbr = Settings { congestion: Congestion::Bbr, ..Settings::default() };
        let (Link::Quic(opened), Link::Quic(accepted), ..) = pair(&Settings::default(), &bbr).await else {
            panic!("they are links over QUIC");
        };
        let control = |link: &QuicLink| link.connection.congestion_state().into_any();
        assert!(control(&opened).is::<Cubic>() && control(&accepted).is::<Bbr>());
    }
}
