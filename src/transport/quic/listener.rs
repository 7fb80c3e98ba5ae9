//! Accepts links on a UDP port.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use prometheus_client::metrics::counter::Counter;
use quinn::crypto::rustls::QuicServerConfig;

use super::{Keeper, QuicLink, runtime::Batching, tuning};
use crate::{
    net::{self, Crowd, Place},
    protocol::Close,
    transport::{Link, Lost, Settings},
};

/// How many handshakes may be under way at once; more are turned away, unless the oldest has had its time. From half of it on, a
/// client must prove its address first (RFC 9000 §8.1.2), so that a flood from forged addresses costs a packet each, not a
/// handshake.
const HANDSHAKES: usize = 256;

/// How long a handshake may take when there are so many. It takes two round trips, and its turn on a busy machine.
const FAIR: Duration = Duration::from_secs(4);

/// How many streams a peer may open before its `Hello` is read: the control stream.
const STREAMS_BEFORE_HELLO: u32 = 1;

/// Why a UDP port cannot accept links.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The port cannot be bound.
    #[error("cannot listen on UDP {address}")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// QUIC needs TLS 1.3 with one of its cipher suites.
    #[error("the TLS configuration cannot be used for QUIC")]
    Tls(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// Accepts links.
#[derive(Debug)]
pub struct Listener {
    endpoint: quinn::Endpoint,
    server: quinn::ServerConfig,
    handshakes: Crowd,
    keeper: Arc<Keeper>,
    turned_away: Counter,
}

/// TLS that is fit for the accepting side of QUIC.
#[derive(Clone)]
pub struct ServerCrypto(Arc<QuicServerConfig>);

impl TryFrom<rustls::ServerConfig> for ServerCrypto {
    type Error = quinn::crypto::rustls::NoInitialCipherSuite;

    fn try_from(tls: rustls::ServerConfig) -> Result<Self, Self::Error> {
        QuicServerConfig::try_from(tls).map(|tls| Self(Arc::new(tls)))
    }
}

impl fmt::Debug for ServerCrypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCrypto").finish_non_exhaustive()
    }
}

impl Listener {
    /// Binds a UDP port. A process that restarts with the same `secret` resets the links of its former life.
    ///
    /// # Errors
    /// When the port is taken, or TLS is not fit for QUIC.
    pub fn bind(
        address: SocketAddr,
        tls: rustls::ServerConfig,
        secret: Option<&[u8; 32]>,
        settings: &Settings,
    ) -> Result<Self, BindError> {
        let transport = tuning::transport(settings, STREAMS_BEFORE_HELLO, false);
        Self::bind_with(address, tls, tuning::endpoint(secret), transport, settings.window)
    }

    /// Binds a UDP port for HTTP/3 clients, each of which may have so many requests open at once.
    ///
    /// # Errors
    /// When the port is taken, or TLS is not fit for QUIC.
    #[cfg(feature = "server")]
    pub(crate) fn bind_http3(
        address: SocketAddr,
        tls: rustls::ServerConfig,
        secret: &[u8; 32],
        requests: u32,
    ) -> Result<Self, BindError> {
        let transport = super::http3::transport(requests);
        Self::bind_with(address, tls, tuning::endpoint(Some(secret)), transport, super::http3::WINDOW)
    }

    fn bind_with(
        address: SocketAddr,
        tls: rustls::ServerConfig,
        endpoint: quinn::EndpointConfig,
        transport: quinn::TransportConfig,
        window: u32,
    ) -> Result<Self, BindError> {
        let bind = |source| BindError::Bind { address, source };
        let mut server = quinn::ServerConfig::with_crypto(ServerCrypto::try_from(tls)?.0);
        server.transport_config(Arc::new(transport));
        let socket = net::bind_udp(address).map_err(bind)?;
        let runtime = Arc::new(Batching);
        let endpoint = quinn::Endpoint::new(endpoint, Some(server.clone()), socket, runtime).map_err(bind)?;
        Ok(Self {
            endpoint,
            server,
            handshakes: Crowd::new(HANDSHAKES, FAIR),
            turned_away: Counter::default(),
            keeper: Arc::new(Keeper::start(window)),
        })
    }

    /// Makes handshakes with this from now on. Links that stand are not touched, and what clients have been given to prove
    /// their address is still good. The secret of resets stays: it is known to the links that stand.
    pub fn replace(&self, tls: ServerCrypto) {
        let mut server = self.server.clone();
        server.crypto = tls.0;
        self.endpoint.set_server_config(Some(server));
    }

    /// Handshakes that were not begun, or not brought to their end, because there were too many.
    pub fn turned_away(&self) -> &Counter {
        &self.turned_away
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next link that somebody opens; its handshake is still to be made. `None` once the listener is closed. Cancel
    /// safe.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let incoming = self.endpoint.accept().await?;
            // Before a place is taken: nobody gives way to an address that is not proved.
            if self.handshakes.is_dense() && incoming.may_retry() {
                if let Err(error) = incoming.retry() {
                    tracing::debug!(%error, "a client could not be asked to prove its address");
                }
                continue;
            }
            if let Ok(place) = self.handshakes.try_enter() {
                let (keeper, turned_away) = (Arc::clone(&self.keeper), self.turned_away.clone());
                return Some(Incoming { incoming, place, keeper, turned_away });
            }
            tracing::debug!(client = %incoming.remote_address(), "too many handshakes; a link was turned away");
            self.turned_away.inc();
            incoming.refuse();
        }
    }

    /// Closes all links at once and waits, a moment at most, until their peers have been told.
    pub async fn close(&self, code: Close, reason: &str) {
        self.endpoint.close((code as u32).into(), reason.as_bytes());
        // Peers that are not told notice by their idle time-out.
        drop(tokio::time::timeout(Duration::from_secs(2), self.endpoint.wait_idle()).await);
    }
}

/// A link whose handshake is still to be made.
#[derive(Debug)]
pub struct Incoming {
    incoming: quinn::Incoming,
    place: Place,
    keeper: Arc<Keeper>,
    turned_away: Counter,
}

/// Why a handshake did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It failed.
    #[error("the handshake failed: {0}")]
    Failed(#[from] Lost),
    /// It took too long.
    #[error("the handshake was not done after {0:?}")]
    Timeout(Duration),
    /// It took longer than it may while there are too many.
    #[error("the handshake was not done after {FAIR:?}, and others wait")]
    GaveWay,
}

impl Incoming {
    /// Where it comes from.
    pub fn remote_address(&self) -> SocketAddr {
        let address = self.incoming.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// Turns the client away.
    #[cfg(feature = "server")]
    pub(crate) fn refuse(self) {
        self.incoming.refuse();
    }

    /// Makes the handshake.
    ///
    /// # Errors
    /// When it fails, or is not done in time.
    pub async fn handshake(self, deadline: Duration) -> Result<Link, HandshakeError> {
        let keeper = Arc::clone(&self.keeper);
        let connection = self.connection(deadline).await?;
        let held = keeper.held(&connection);
        Ok(Link::Quic(QuicLink::new(connection, held)))
    }

    /// The same for a connection that is no link.
    pub(crate) async fn connection(self, deadline: Duration) -> Result<quinn::Connection, HandshakeError> {
        let connecting = self.incoming.accept().map_err(Lost::from)?;
        match self.place.hold(tokio::time::timeout(deadline, connecting)).await {
            Some(Ok(Ok(connection))) => Ok(connection),
            Some(Ok(Err(error))) => Err(HandshakeError::Failed(error.into())),
            Some(Err(_)) => Err(HandshakeError::Timeout(deadline)),
            None => {
                self.turned_away.inc();
                Err(HandshakeError::GaveWay)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{SOON, ends},
        *,
    };

    #[tokio::test]
    async fn handshakes_that_do_not_come_to_their_end_give_way_to_another() {
        let (dialer, mut listener) = ends(&Settings::default(), &Settings::default());
        let fair = Duration::from_millis(500);
        listener.handshakes = Crowd::new(4, fair);
        let address = listener.local_address().unwrap();
        let accept = async || tokio::time::timeout(SOON, listener.accept()).await.unwrap().unwrap();
        // As if the clients had vanished after their first packets: nothing goes on.
        let mut stuck = Vec::new();
        for _ in 0..4 {
            let dialled = dialer.dial(address, "node.example");
            tokio::select! {
                incoming = accept() => stuck.push(incoming),
                linked = dialled => panic!("{linked:?}"),
            }
        }
        let turned_away = dialer.dial(address, "node.example");
        tokio::select! {
            refused = turned_away => assert!(refused.is_err(), "{refused:?}"),
            _ = accept() => panic!("there is no place"),
        }
        assert_eq!(listener.turned_away().get(), 1);
        tokio::time::sleep(fair).await;
        let served = async { accept().await.handshake(SOON).await };
        let (dialled, served) = tokio::join!(dialer.dial(address, "node.example"), served);
        assert!(dialled.is_ok() && served.is_ok(), "{dialled:?} {served:?}");
    }
}
