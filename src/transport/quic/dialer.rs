//! Opens links.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quinn::crypto::rustls::QuicClientConfig;

use super::{Keeper, QuicLink, runtime::Batching, tuning};
use crate::{
    net, tls,
    transport::{Link, Lost, Settings},
};

/// How long one address has for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why a link could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No UDP socket can be had.
    #[error("cannot open a UDP socket")]
    Socket(#[source] io::Error),
    /// QUIC needs TLS 1.3 with one of its cipher suites.
    #[error("the TLS configuration cannot be used for QUIC")]
    Tls(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
    /// The address or the server name cannot be used.
    #[error("cannot connect to {address} as {name:?}: {reason}")]
    Invalid {
        /// The address.
        address: SocketAddr,
        /// The name that the peer's certificate must have.
        name: String,
        /// Why.
        reason: String,
    },
    /// The handshake failed.
    #[error("the handshake with {address} failed: {}", tls::explain(&lost.to_string()))]
    Failed {
        /// The address.
        address: SocketAddr,
        /// Why.
        lost: Lost,
    },
    /// Nothing answered.
    #[error("no answer from {address} within {after:?}; is a node there, and does UDP reach it?")]
    Timeout {
        /// The address.
        address: SocketAddr,
        /// How long it had.
        after: Duration,
    },
}

/// Opens links from one UDP socket.
#[derive(Debug)]
pub struct Dialer {
    endpoint: quinn::Endpoint,
    transport: Arc<quinn::TransportConfig>,
    client: Mutex<quinn::ClientConfig>,
    keeper: Keeper,
}

/// TLS that is fit for the opening side of QUIC.
#[derive(Clone)]
pub struct ClientCrypto(Arc<QuicClientConfig>);

impl TryFrom<rustls::ClientConfig> for ClientCrypto {
    type Error = quinn::crypto::rustls::NoInitialCipherSuite;

    fn try_from(tls: rustls::ClientConfig) -> Result<Self, Self::Error> {
        QuicClientConfig::try_from(tls).map(|tls| Self(Arc::new(tls)))
    }
}

impl fmt::Debug for ClientCrypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCrypto").finish_non_exhaustive()
    }
}

impl Dialer {
    /// Opens the socket.
    ///
    /// # Errors
    /// When there is none, or TLS is not fit for QUIC.
    pub fn new(tls: rustls::ClientConfig, settings: &Settings) -> Result<Self, DialError> {
        let socket = unspecified().map_err(DialError::Socket)?;
        let endpoint = quinn::Endpoint::new(tuning::endpoint(None), None, socket, Arc::new(Batching))
            .map_err(DialError::Socket)?;
        let transport = Arc::new(tuning::transport(settings, settings.max_flows, true));
        let client = Mutex::new(client(tls.try_into()?, &transport));
        Ok(Self { endpoint, transport, client, keeper: Keeper::start(settings.window) })
    }

    /// Makes handshakes with this from now on. Links that stand are not touched.
    pub fn replace(&self, tls: ClientCrypto) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client(tls, &self.transport);
    }

    /// Opens a link to an address whose certificate must be for `name`. Cancel safe.
    ///
    /// # Errors
    /// When the handshake fails or nothing answers.
    pub async fn dial(&self, address: SocketAddr, name: &str) -> Result<Link, DialError> {
        let invalid = |error: quinn::ConnectError| DialError::Invalid {
            address,
            name: name.into(),
            reason: error.to_string(),
        };
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connecting = self.endpoint.connect_with(client, address, name).map_err(invalid)?;
        match tokio::time::timeout(HANDSHAKE, connecting).await {
            Ok(Ok(connection)) => {
                let held = self.keeper.held(&connection);
                Ok(Link::Quic(QuicLink::new(connection, held)))
            }
            Ok(Err(quinn::ConnectionError::TimedOut)) | Err(_) => {
                Err(DialError::Timeout { address, after: HANDSHAKE })
            }
            Ok(Err(error)) => Err(DialError::Failed { address, lost: error.into() }),
        }
    }

    /// Waits, a moment at most, until the peers of closed links have been told.
    pub async fn wait_idle(&self) {
        // Peers that are not told notice by their idle time-out.
        drop(tokio::time::timeout(Duration::from_secs(2), self.endpoint.wait_idle()).await);
    }
}

fn client(tls: ClientCrypto, transport: &Arc<quinn::TransportConfig>) -> quinn::ClientConfig {
    let mut client = quinn::ClientConfig::new(tls.0);
    client.transport_config(Arc::clone(transport));
    client
}

/// A socket on a port of the system's choice, for IPv6 and IPv4 where the host has both.
fn unspecified() -> io::Result<std::net::UdpSocket> {
    net::bind_udp((Ipv6Addr::UNSPECIFIED, 0).into())
        .or_else(|_| net::bind_udp((Ipv4Addr::UNSPECIFIED, 0).into()))
}
