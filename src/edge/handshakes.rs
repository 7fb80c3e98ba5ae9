//! What the edge makes TLS handshakes with, over TCP and over QUIC, and how that is exchanged while it runs.

use std::sync::Weak;

use super::{BindError, Edge, Http3, TlsConfig};
use crate::{
    tls::{self, ServerTls},
    transport::quic,
};

/// The certificates of a [`TlsConfig`] and what it asks of clients, which have been found to be fit for handshakes.
#[derive(Debug)]
pub struct Handshakes {
    tcp: rustls::ServerConfig,
    quic: Option<quic::ServerCrypto>,
}

impl Handshakes {
    /// Those of a configuration.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn new(config: &TlsConfig) -> Result<Self, BindError> {
        let quic = match config.http3 {
            Http3::Off => None,
            Http3::Bound | Http3::Port(_) => {
                Some(over_quic(config)?.try_into().map_err(quic::BindError::from)?)
            }
        };
        Ok(Self { tcp: over_tcp(config)?, quic })
    }
}

/// What of a running edge makes handshakes.
#[derive(Debug)]
pub(super) struct Doors {
    pub(super) tcp: ServerTls,
    /// HTTP/3, until the edge leaves.
    pub(super) quic: Weak<quic::Listener>,
}

impl Edge {
    /// Makes handshakes with these from now on. Connections that stand are not touched.
    pub fn replace(&self, handshakes: Handshakes) {
        let Some(doors) = &self.tls else { return };
        doors.tcp.replace(handshakes.tcp);
        if let (Some(listener), Some(crypto)) = (doors.quic.upgrade(), handshakes.quic) {
            listener.replace(crypto);
        }
    }
}

pub(super) fn over_tcp(config: &TlsConfig) -> Result<rustls::ServerConfig, tls::ConfigError> {
    tls::server_config(&config.identities, config.clients.clone(), &[b"h2", b"http/1.1"])
}

pub(super) fn over_quic(config: &TlsConfig) -> Result<rustls::ServerConfig, tls::ConfigError> {
    tls::server_config(&config.identities, config.clients.clone(), &[b"h3"])
}
