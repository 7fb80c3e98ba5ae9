//! A forwarder process: local ports for endpoints.
//!
//! Owns the listeners; each TCP connection, and each address that UDP packets come from, becomes a flow to its endpoint. Built
//! on `client`, which keeps the link.

mod udp;

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

use crate::{
    client::{self, Client, FlowsCut, State},
    drain::Tasks,
    net,
    probes::{self, Probes},
    protocol::EndpointId,
    splice::{Counts, Side, packets::UdpPort, splice},
    telemetry::{Drains, Tally, Traffic},
};

/// What a forwarder listens for.
#[derive(Debug, Clone)]
pub struct Config {
    /// How it reaches its cluster.
    pub client: client::Config,
    /// The ports and their endpoints.
    pub ports: Vec<Port>,
    /// Where health, readiness and metrics are told to whoever reaches that. Without, they are not.
    pub admin: Option<SocketAddr>,
}

/// One local port.
#[derive(Debug, Clone)]
pub struct Port {
    /// Where to listen; the first address that can be bound is.
    pub listen: Vec<SocketAddr>,
    /// The endpoint behind it.
    pub endpoint: EndpointId,
    /// What it takes.
    pub kind: PortKind,
}

/// What a port takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// TCP connections.
    Tcp,
    /// UDP packets.
    Udp {
        /// After how long without one an association ends.
        idle: Duration,
    },
}

impl fmt::Display for PortKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp { .. } => "UDP",
        })
    }
}

/// Why a forwarder does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be bound.
    #[error("cannot listen on {kind} {address} for endpoint {endpoint}")]
    Bind {
        /// What the port takes.
        kind: PortKind,
        /// The address.
        address: SocketAddr,
        /// The endpoint.
        endpoint: EndpointId,
        /// Why.
        source: io::Error,
    },
    /// The link cannot be set up.
    #[error(transparent)]
    Client(#[from] client::StartError),
    /// The operators' port is not to be had.
    #[error(transparent)]
    Admin(#[from] probes::BindError),
}

/// A running forwarder. Dropping it cuts everything; see [`Forwarder::drain`].
#[derive(Debug)]
pub struct Forwarder {
    client: Client,
    addresses: Vec<SocketAddr>,
    probes: Option<Probes>,
    drains: Drains,
    accepting: Tasks,
    flows: Tasks,
}

impl Forwarder {
    /// Binds all ports and starts to connect.
    ///
    /// # Errors
    /// When a port is taken, or there is no socket to be had.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let client = Client::new(config.client)?;
        let (accepting, flows) = (Tasks::new(), Tasks::new());
        let metrics = client.metrics().clone();
        let (traffic, drains) = (Traffic::new(&metrics), Drains::new(&metrics));
        let mut bound = Vec::new();
        for port in config.ports {
            let listener = Listener::bind(&port, &client).await?;
            bound.push((listener, port));
        }
        let probes =
            config.admin.map(|address| Probes::start(address, metrics, readiness(&client, flows.clone())));
        let probes = probes.transpose()?;
        let mut addresses = Vec::new();
        for (listener, port) in bound {
            let address = listener.address().map_err(|source| failed(&port, source))?;
            let Port { endpoint, kind, .. } = port;
            tracing::info!(%address, %endpoint, %kind, "forwarding");
            addresses.push(address);
            let (endpoint, client) = (Arc::new(endpoint), client.clone());
            let (owner, flows, traffic) = (accepting.clone(), flows.clone(), traffic.clone());
            match listener {
                Listener::Tcp(listener) => {
                    accepting.spawn(accept(listener, (endpoint, client, traffic), owner, flows));
                }
                Listener::Udp(listener, idle) => {
                    accepting.spawn(udp::serve(listener, (endpoint, client, traffic), owner, flows, idle));
                }
            }
        }
        Ok(Self { client, addresses, probes, drains, accepting, flows })
    }

    /// The client that keeps the link.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The addresses that were bound, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where health, readiness and metrics are told, if they are.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.probes.as_ref().map(Probes::address)
    }

    /// Leaves: accepts nothing new, lets open flows finish at most `grace` long, closes the link.
    ///
    /// # Errors
    /// How many flows had not ended by then.
    pub async fn drain(self, grace: Duration) -> Result<(), FlowsCut> {
        let started = Instant::now();
        self.drains.begin();
        self.accepting.signal();
        let cut = match self.flows.finish(grace).await {
            Ok(()) => Ok(()),
            Err(aborted) => Err(FlowsCut(aborted.left)),
        };
        let closed = self.client.close(grace.saturating_sub(started.elapsed())).await;
        let left = cut.and(closed);
        self.drains.end(left.map_or_else(|FlowsCut(cut)| cut, |()| 0));
        if let Some(probes) = &self.probes {
            probes.close().await;
        }
        left
    }
}

/// Says what is missing before a forwarder is ready: a link.
fn readiness(client: &Client, flows: Tasks) -> impl Fn() -> Result<(), String> + Send + Sync + use<> {
    let state = client.forwarder_state();
    move || match *state.borrow() {
        _ if flows.is_signalled() => Err("leaving".into()),
        State::Connected { .. } => Ok(()),
        State::Idle | State::Connecting { .. } => Err("not linked to a node".into()),
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.accepting.abort();
        self.flows.abort();
    }
}

/// A port that has been bound.
enum Listener {
    Tcp(TcpListener),
    /// And after how long its associations are idle.
    Udp(UdpPort, Duration),
}

impl Listener {
    async fn bind(port: &Port, client: &Client) -> Result<Self, StartError> {
        let bound = match port.kind {
            PortKind::Tcp => TcpListener::bind(port.listen.as_slice()).await.map(Self::Tcp),
            PortKind::Udp { idle } => bind_udp(port, client).map(|bound| Self::Udp(bound, idle)),
        };
        bound.map_err(|source| failed(port, source))
    }

    fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(port, _) => port.local_address(),
        }
    }
}

fn bind_udp(port: &Port, client: &Client) -> io::Result<UdpPort> {
    let mut bound = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in &port.listen {
        bound = UdpPort::bind(*address, client.packets().clone());
        if bound.is_ok() {
            break;
        }
    }
    bound
}

fn failed(port: &Port, source: io::Error) -> StartError {
    StartError::Bind {
        kind: port.kind,
        address: port.listen.first().copied().unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0))),
        endpoint: port.endpoint.clone(),
        source,
    }
}

/// Accepts a port's connections until the forwarder leaves.
async fn accept(
    listener: TcpListener,
    (endpoint, client, traffic): (Arc<EndpointId>, Client, Traffic),
    accepting: Tasks,
    flows: Tasks,
) {
    loop {
        let (stream, peer) = tokio::select! {
            accepted = net::accept(&listener) => accepted,
            () = accepting.signalled() => return,
        };
        // As many at once as the process may have files open; the node bounds flows.
        flows.spawn(join(stream, peer, Arc::clone(&endpoint), client.clone(), traffic.tcp.clone()));
    }
}

/// Joins one connection to a new flow. A connection whose endpoint cannot be reached is reset, as a refused one would be.
async fn join(stream: TcpStream, peer: SocketAddr, endpoint: Arc<EndpointId>, client: Client, tally: Tally) {
    let flow = match client.dial_for(&endpoint, Some(peer)).await {
        Ok(flow) => flow,
        Err(error) => {
            tracing::warn!(%endpoint, client = %peer, error = crate::telemetry::report(&error), "a connection was refused");
            return stream.reset(false);
        }
    };
    let counts = Counts::default().counted(&tally);
    let end = splice(stream, flow, &counts).await;
    tracing::debug!(
        %endpoint,
        client = %peer,
        to_service = counts.left_to_right(),
        from_service = counts.right_to_left(),
        broken = end.err().map(|broken| crate::telemetry::report(&broken)),
        "a flow has ended"
    );
}
