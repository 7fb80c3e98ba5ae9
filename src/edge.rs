//! The front doors of a node: HTTP/1.1 and HTTP/2, in the clear and with TLS; HTTP/3; TLS that is passed on unopened; and
//! plain ports for single endpoints, TCP or UDP.
//!
//! Owns the listeners, the clients' connections, and what clients are told when something fails. It parses HTTP, the only
//! time on the way; requests and connections go on through `upstream`.

mod activity;
mod admission;
mod body;
mod by_endpoint;
mod connection;
mod endpoint;
mod entry;
mod error;
mod h3;
mod handshakes;
mod headers;
mod heads;
mod http;
mod lapse;
mod limits;
mod meaning;
mod metrics;
mod permit;
mod piko;
mod postgres;
mod proxied;
mod sni;
mod socket;
mod tcp;
pub mod udp;
mod websocket;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ::http::HeaderValue;
use ipnet::IpNet;
use tokio::{net::TcpListener, sync::Semaphore};

use admission::Admissions;
use by_endpoint::ByEndpoint;
pub use handshakes::Handshakes;
pub use limits::Limits;

use crate::{
    access_log::AccessLog,
    auth::{self, Guard},
    drain::{Aborted, Tasks},
    telemetry::{Metrics, Queue, Traffic},
    tls::{self, ServerTls},
    transport::quic,
    upstream::{Name, Upstreams},
};
use connection::Door;
use handshakes::Doors;

/// How the edge listens, and what it allows.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where HTTP is spoken in the clear.
    pub bind: SocketAddr,
    /// Where HTTP is spoken over TLS, if anywhere.
    pub tls: Option<TlsConfig>,
    /// Where TLS is passed on to the endpoint that its client names, if anywhere.
    pub sni: Option<SocketAddr>,
    /// Plain ports, each for one endpoint.
    pub tcp: Vec<Port>,
    /// Networks of balancers, which say in a PROXY protocol header whose connection each is. Not read over QUIC or UDP.
    pub balancers: Vec<IpNet>,
    /// What clients may do.
    pub limits: Limits,
    /// For how many endpoints at most there are metrics of their own.
    pub metrics_endpoints: usize,
}

/// The edge with TLS.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Its certificates, chosen by the name that the client asks for; the first for all other names.
    pub identities: Vec<tls::Identity>,
    /// What it asks of clients.
    pub clients: tls::ClientAuth,
    /// HTTP/3, on the UDP port of the same number.
    pub http3: Http3,
}

/// Whether there is HTTP/3, and on which port clients are told to find it (`Alt-Svc`, RFC 7838).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http3 {
    /// There is none.
    Off,
    /// On the port that is bound.
    Bound,
    /// On another, which something in between maps to it.
    Port(u16),
}

/// A port whose connections are all for one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Where it listens.
    pub bind: SocketAddr,
    /// The endpoint behind it.
    pub endpoint: Name,
}

/// Why an edge does not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A port cannot be bound.
    #[error("cannot listen on TCP {address} for clients ({flag})")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// The flag that says where.
        flag: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The UDP port of HTTP/3 cannot be bound.
    #[error("the port of HTTP/3 does not open; --edge-http3-port 0 does without HTTP/3")]
    Http3(#[from] quic::BindError),
    /// The certificates cannot be used.
    #[error("the edge's certificates cannot be used")]
    Tls(#[from] tls::ConfigError),
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    upstreams: Upstreams,
    guard: Guard,
    /// What clients may have, whichever they are.
    callers: auth::Limits,
    balancers: Vec<IpNet>,
    limits: Limits,
    admissions: Admissions,
    counters: metrics::Counters,
    by_endpoint: ByEndpoint,
    access_log: AccessLog,
    traffic: Traffic,
    /// Tells clients to open their next connection elsewhere.
    closing: AtomicBool,
    connections: Tasks,
    /// How many clients' connections of HTTP there have been.
    clients: AtomicU64,
    /// What clients that come by TCP are told of HTTP/3.
    alt_svc: Option<HeaderValue>,
    /// TLS handshakes that may be computed at once: that takes long enough to be in the way of what needs no handshake. Held
    /// for as long as no client is waited for, so that none can keep it.
    handshakes: Semaphore,
}

/// How many TLS handshakes are computed at once; others wait, within their deadline.
const HANDSHAKES: usize = 4;

/// A running edge.
#[derive(Debug)]
pub struct Edge {
    shared: Arc<Shared>,
    accepting: Tasks,
    address: SocketAddr,
    tls: Option<Doors>,
    tls_address: Option<SocketAddr>,
    sni_address: Option<SocketAddr>,
    ports: Vec<Port>,
}

impl Edge {
    /// Binds the ports and serves.
    ///
    /// # Errors
    /// When a port is taken, or a certificate cannot be used.
    pub async fn start(
        config: Config,
        upstreams: Upstreams,
        guard: Guard,
        callers: auth::Limits,
        access_log: AccessLog,
        traffic: Traffic,
        metrics: &Metrics,
    ) -> Result<Self, BindError> {
        let (plain, address) = bind(config.bind, "--edge-bind").await?;
        let mut doors = vec![(plain, Door::Http)];
        let mut tls_address = None;
        let mut http3 = None;
        let mut tls_doors = None;
        if let Some(tls) = &config.tls {
            let server = ServerTls::new(handshakes::over_tcp(tls)?);
            let (listener, address, quic) = bind_tls(tls, config.limits.max_streams).await?;
            tls_address = Some(address);
            http3 = quic;
            let quic = http3.as_ref().map_or_else(Weak::new, |(listener, _)| Arc::downgrade(listener));
            tls_doors = Some(Doors { tcp: server.clone(), quic });
            doors.push((listener, Door::Https(server)));
        }
        let mut sni_address = None;
        if let Some(wanted) = config.sni {
            let (listener, address) = bind(wanted, "--edge-sni-bind").await?;
            sni_address = Some(address);
            doors.push((listener, Door::Sni));
        }
        let mut ports = Vec::new();
        for Port { bind: wanted, endpoint } in &config.tcp {
            let (listener, bind) = bind(*wanted, "--tcp").await?;
            ports.push(Port { bind, endpoint: endpoint.clone() });
            doors.push((listener, Door::Tcp(endpoint.clone())));
        }
        let counters = metrics::Counters::new(metrics);
        let shared = Arc::new(Shared {
            upstreams,
            guard,
            callers,
            alt_svc: http3.as_ref().map(|(_, alt_svc)| alt_svc.clone()),
            admissions: Admissions::new(config.limits.max_connections, counters.clone()),
            balancers: config.balancers,
            limits: config.limits,
            counters,
            by_endpoint: ByEndpoint::new(config.metrics_endpoints, metrics),
            access_log,
            traffic,
            closing: AtomicBool::new(false),
            connections: Tasks::new(),
            clients: AtomicU64::new(0),
            handshakes: Semaphore::new(HANDSHAKES),
        });
        let accepting = Tasks::new();
        for (listener, door) in doors {
            accepting.spawn(connection::accept(listener, door, Arc::clone(&shared), accepting.clone()));
        }
        if let Some((listener, _)) = http3 {
            metrics.queue_full(Queue::Handshakes, listener.turned_away());
            accepting.spawn(h3::accept(listener, Arc::clone(&shared), accepting.clone()));
        }
        Ok(Self { shared, accepting, address, tls: tls_doors, tls_address, sni_address, ports })
    }

    /// Where HTTP is spoken in the clear.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where HTTP is spoken over TLS.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// Where TLS is passed on unopened.
    pub fn sni_address(&self) -> Option<SocketAddr> {
        self.sni_address
    }

    /// The plain ports, with the addresses that were bound.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Goes on serving, and tells clients with each answer that their connection ends.
    pub fn closing(&self) {
        self.shared.closing.store(true, Relaxed);
    }

    /// Stops accepting and finishes what is under way: HTTP/1.1 connections end with their request, HTTP/2 and HTTP/3
    /// ones with GOAWAY and their last stream, upgraded and plain ones when they end, all at the deadline.
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

/// A port of HTTP/3, and what clients of that of TLS are told of it.
type BoundHttp3 = (Arc<quic::Listener>, HeaderValue);

/// Binds the port of TLS, and that of HTTP/3 beside it. Where any port will do, one that is free for both is looked for.
async fn bind_tls(
    config: &TlsConfig,
    max_streams: u32,
) -> Result<(TcpListener, SocketAddr, Option<BoundHttp3>), BindError> {
    let any = config.bind.port() == 0 && matches!(config.http3, Http3::Bound);
    let mut tries = if any { 16 } else { 1 };
    loop {
        let (listener, address) = bind(config.bind, "--edge-tls-bind").await?;
        tries -= 1;
        match bind_http3(config, address, max_streams) {
            Err(BindError::Http3(quic::BindError::Bind { source, .. }))
                if source.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            bound => return Ok((listener, address, bound?)),
        }
    }
}

fn bind_http3(
    config: &TlsConfig,
    tls: SocketAddr,
    max_streams: u32,
) -> Result<Option<BoundHttp3>, BindError> {
    let port = match config.http3 {
        Http3::Off => return Ok(None),
        Http3::Bound => tls.port(),
        Http3::Port(port) => port,
    };
    let server = handshakes::over_quic(config)?;
    let secret = config.identities.first().ok_or(tls::ConfigError::NoIdentity)?.derive_key(b"adit edge");
    let listener = Arc::new(quic::Listener::bind_http3(tls, server, &secret, max_streams)?);
    // RFC 7838 §3; a day is what it would last without saying so.
    let alt_svc = HeaderValue::from_str(&format!("h3=\":{port}\"; ma=86400"));
    Ok(alt_svc.ok().map(|alt_svc| (listener, alt_svc)))
}

async fn bind(address: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), BindError> {
    let failed = |source| BindError::Bind { address, flag, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
