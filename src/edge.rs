//! The front doors of a node: for HTTP clients, HTTP/1.1 and HTTP/2, in the clear and with TLS; and plain UDP ports.
//!
//! Owns the listeners, the clients' connections, and what clients are told when something fails. It parses HTTP, the only
//! time on the way; requests go on through `upstream`.

mod body;
mod connection;
mod endpoint;
mod error;
mod headers;
mod http;
mod metrics;
pub mod udp;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{net::TcpListener, sync::Semaphore};
use tokio_rustls::TlsAcceptor;

use crate::{
    drain::{Aborted, Tasks},
    telemetry::Metrics,
    tls,
    upstream::Upstreams,
};

/// How the edge listens, and its limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where HTTP is spoken in the clear.
    pub bind: SocketAddr,
    /// Where HTTP is spoken over TLS, if anywhere.
    pub tls: Option<TlsConfig>,
    /// How long a service has to begin its response, from the last byte of the request on.
    pub request_timeout: Duration,
    /// The most bytes of names and values of a request's header fields.
    pub max_header_bytes: usize,
    /// The most bytes of a request's body; no limit when absent.
    pub max_body_bytes: Option<u64>,
}

/// The edge with TLS.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Its certificates, chosen by the name that the client asks for; the first for all other names.
    pub identities: Vec<tls::Identity>,
}

/// Why an edge does not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A port cannot be bound.
    #[error("cannot listen on TCP {address} for HTTP ({flag})")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// The flag that says where.
        flag: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error("the edge's certificates cannot be used")]
    Tls(#[from] tls::ConfigError),
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    upstreams: Upstreams,
    limits: Config,
    counters: metrics::Counters,
    /// Tells clients to open their next connection elsewhere.
    closing: AtomicBool,
    connections: Tasks,
    /// TLS handshakes that may be made at once: they cost far more than the connections that send nothing.
    handshakes: Semaphore,
}

/// How many TLS handshakes are made at once; others wait, within their deadline.
const HANDSHAKES: usize = 64;

/// A running edge.
#[derive(Debug)]
pub struct Edge {
    shared: Arc<Shared>,
    accepting: Tasks,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
}

impl Edge {
    /// Binds the ports and serves.
    ///
    /// # Errors
    /// When a port is taken, or a certificate cannot be used.
    pub async fn start(config: Config, upstreams: Upstreams, metrics: &Metrics) -> Result<Self, BindError> {
        let (plain, address) = bind(config.bind, "--edge-bind").await?;
        let tls = match &config.tls {
            None => None,
            Some(tls) => {
                let server =
                    tls::server_config(&tls.identities, tls::ClientAuth::None, &[b"h2", b"http/1.1"])?;
                let (listener, address) = bind(tls.bind, "--edge-tls-bind").await?;
                Some((listener, address, TlsAcceptor::from(Arc::new(server))))
            }
        };
        let shared = Arc::new(Shared {
            upstreams,
            limits: config,
            counters: metrics::Counters::new(metrics),
            closing: AtomicBool::new(false),
            connections: Tasks::new(),
            handshakes: Semaphore::new(HANDSHAKES),
        });
        let accepting = Tasks::new();
        accepting.spawn(connection::accept(plain, None, Arc::clone(&shared), accepting.clone()));
        let tls_address = tls.map(|(listener, address, acceptor)| {
            accepting.spawn(connection::accept(
                listener,
                Some(acceptor),
                Arc::clone(&shared),
                accepting.clone(),
            ));
            address
        });
        Ok(Self { shared, accepting, address, tls_address })
    }

    /// Where HTTP is spoken in the clear.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where HTTP is spoken over TLS.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// Goes on serving, and tells clients with each answer that their connection ends.
    pub fn closing(&self) {
        self.shared.closing.store(true, Relaxed);
    }

    /// Stops accepting and finishes what is under way: HTTP/1.1 connections end with their request, HTTP/2 ones with
    /// GOAWAY and their last stream, upgraded ones when they end, all at the deadline.
    ///
    /// # Errors
    /// When something was left at the deadline.
    pub async fn drain(&self, deadline: Duration) -> Result<(), Aborted> {
        self.closing();
        self.accepting.signal();
        self.shared.connections.finish(deadline).await
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.connections.abort();
    }
}

async fn bind(address: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), BindError> {
    let failed = |source| BindError::Bind { address, flag, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
