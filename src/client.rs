//! The SDK: be an agent ([`Client::listen`]) or a client ([`Client::dial`]) of a cluster from inside a program.
//!
//! Owns links to nodes and, alone in adit, their reconnection; `agent` and `forward` are built on it. Dropping a [`Client`]
//! closes its links at once; [`Client::close`] lets flows finish first.
//!
//! ```no_run
//! use adit::{client::{Client, Config}, protocol::{EndpointId, Kind}, tls::{self, Trust}};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let trust = Trust::Roots(Trust::roots_from_file("certs/ca.pem".as_ref())?);
//! let client = Client::new(Config::new("127.0.0.1:8001".parse()?, &trust)?)?;
//! let mut listener = client.listen(EndpointId::new("hello")?, Kind::Tcp).await?;
//! while let Some(incoming) = listener.accept().await {
//!     let mut flow = incoming.accept().await?;
//!     flow.write_all(b"hello\n").await?;
//!     flow.shutdown().await?;
//! }
//! # Ok(())
//! # }
//! ```

mod association;
mod backoff;
mod dial;
mod flow;
mod listen;
mod metrics;
mod nodes;
mod reach;
mod session;
mod slot;
mod token;
mod uplink;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::watch;

pub use association::Association;
pub use backoff::Backoff;
pub use dial::DialError;
pub use flow::{Flow, Retirement};
pub use listen::{Incoming, ListenError, Listener};
pub use reach::{Address, InvalidAddress, Transport};
pub use token::{BoxError, GetTokenError, Token, TokenSource};
pub use uplink::{ConnectError, LinkedTo, State};

use crate::{
    drain::Tasks,
    net::Proxy,
    protocol::{ALPN_LINK, AgentId, EndpointId, Hello, Kind, ListenOptions, Role, TenantId},
    telemetry::Metrics,
    tls,
    transport::{PacketCounters, Settings, Stream, quic},
};
use association::Via;
use listen::Listens;
use metrics::Counters;
use nodes::Nodes;
use reach::Reach;
use token::{Keeper, Tokens};
use uplink::Uplink;

/// How a client reaches its cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// A node's link port, a name that several nodes answer to, or the URL of what balances them.
    pub connect: Address,
    /// Over what.
    pub transport: Transport,
    /// The proxy that WebSocket goes through.
    pub proxy: Option<Proxy>,
    /// Whom to trust and who to be; ALPN must be [`ALPN_LINK`].
    pub tls: rustls::ClientConfig,
    /// The name that a node's certificate must have; `connect`'s host when absent.
    pub server_name: Option<String>,
    /// A label for people, shown in the nodes' status.
    pub name: Option<String>,
    /// The tenant to ask for.
    pub tenant: Option<TenantId>,
    /// Credentials, which are renewed on links that stand when their source has others.
    pub token: Option<Token>,
    /// Timing and sizes of links.
    pub settings: Settings,
    /// How long to wait between attempts to connect.
    pub backoff: Backoff,
    /// How long to wait between attempts after a node has refused the credentials, beyond the first of these times. With
    /// another token there is no wait.
    pub refused: Backoff,
    /// How long to wait between attempts to move from WebSocket to QUIC.
    pub quic_again: Backoff,
    /// To how many nodes listens go, where the cluster has as many; at least one, at most [`Config::MAX_LINKS`]. Dials keep
    /// to one.
    pub links: usize,
}

impl Config {
    /// How many links carry listens by default: with two, the loss of a node costs no outage.
    pub const LINKS: usize = 2;
    /// How long to wait between attempts after a node has refused the credentials, by default: 10 to 60 s. It may come to
    /// take them, and does not because it is asked more often.
    pub const REFUSED: Backoff = Backoff { first: Duration::from_secs(10), longest: Duration::from_secs(50) };
    /// How long to wait between attempts to move from WebSocket to QUIC, by default: an attempt costs a few packets.
    pub const QUIC_AGAIN: Backoff =
        Backoff { first: Duration::from_secs(5), longest: Duration::from_secs(60) };
    /// The most links that carry listens. With more, `Hello` could not name all nodes that are to be avoided.
    pub const MAX_LINKS: usize = Hello::MAX_AVOID;

    /// Connects to a node whose certificate is trusted by `trust`; everything else by default.
    ///
    /// # Errors
    /// When the trust cannot be used, such as an empty list of roots.
    pub fn new(connect: Address, trust: &tls::Trust) -> Result<Self, tls::ConfigError> {
        Ok(Self {
            connect,
            transport: Transport::Auto,
            proxy: None,
            tls: tls::client_config(trust, None, &[ALPN_LINK])?,
            server_name: None,
            name: None,
            tenant: None,
            token: None,
            settings: Settings::default(),
            backoff: Backoff::default(),
            refused: Self::REFUSED,
            quic_again: Self::QUIC_AGAIN,
            links: Self::LINKS,
        })
    }

    /// Whether a client can be made of it, as far as that shows without a socket.
    ///
    /// # Errors
    /// When TLS is not fit for QUIC, or name or token are too long.
    pub fn check(&self) -> Result<(), StartError> {
        let name = self.name.as_deref().unwrap_or_default().len();
        let fixed = self.token.as_ref().and_then(Token::as_fixed);
        let token = fixed.map_or(0, |token| token.expose().len());
        for (what, len, max) in [("name", name, Hello::MAX_NAME), ("token", token, Hello::MAX_TOKEN)] {
            if len > max {
                return Err(StartError::TooLong { what, len, max });
            }
        }
        quic::ClientCrypto::try_from(self.tls.clone()).map_err(quic::DialError::from)?;
        Ok(())
    }
}

/// What all parts of a client share.
#[derive(Debug)]
struct Shared {
    config: Config,
    agent: AgentId,
    reach: Reach,
    listens: Listens,
    nodes: Nodes,
    tokens: Tokens,
    counters: Counters,
    tasks: Tasks,
}

/// A client of a cluster. Links are opened when first needed and kept from then on. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    agent: Uplink,
    forwarder: Uplink,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.tasks.abort();
    }
}

impl Client {
    /// Makes a client; nothing is sent yet. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When there is no UDP socket to be had, TLS is not fit for QUIC, or name or token are too long.
    pub fn new(config: Config) -> Result<Self, StartError> {
        config.check()?;
        let (tokens, keeper) = Keeper::new(config.token.as_ref());
        let shared = Arc::new(Shared {
            reach: Reach::new(&config)?,
            agent: AgentId::from_bits(rand::random()),
            listens: Listens::default(),
            nodes: Nodes::default(),
            tokens,
            counters: Counters::default(),
            tasks: Tasks::new(),
            config,
        });
        shared.tasks.spawn(shared.counters.links().packets.clone().tell());
        if let Some(keeper) = keeper {
            shared.tasks.spawn(keeper.run());
        }
        let links = shared.config.links.clamp(1, Config::MAX_LINKS);
        let agent = Uplink::new(Arc::clone(&shared), Role::Agent, links);
        let forwarder = Uplink::new(Arc::clone(&shared), Role::Forwarder, 1);
        Ok(Self { inner: Arc::new(Inner { shared, agent, forwarder }) })
    }

    /// Serves an endpoint: returns once a node sends flows for it, however long that takes. From then on it is served over
    /// every link that stands beside the present one or replaces it. A node that does not permit it is asked again, slowly
    /// and with each new token.
    ///
    /// # Errors
    /// When a node refuses for another reason, or this client serves the endpoint already.
    pub async fn listen(&self, endpoint: EndpointId, kind: Kind) -> Result<Listener, ListenError> {
        self.listen_with(endpoint, kind, ListenOptions::default()).await
    }

    /// The same, with what else there is to say of the endpoint.
    ///
    /// # Errors
    /// Those of [`Client::listen`], and too many hosts.
    pub async fn listen_with(
        &self,
        endpoint: EndpointId,
        kind: Kind,
        options: ListenOptions,
    ) -> Result<Listener, ListenError> {
        let mut listener = self.inner.shared.listens.add(endpoint, kind, options)?;
        self.inner.agent.start();
        listener.ready().await?;
        Ok(listener)
    }

    /// Opens a flow to an endpoint, waiting for a link if there is none just now.
    ///
    /// # Errors
    /// See [`DialError`]. Cancel safe: a dial that is dropped is given up.
    pub async fn dial(&self, endpoint: &EndpointId) -> Result<Flow, DialError> {
        self.dial_for(endpoint, None).await
    }

    /// The same on behalf of a client at an address, of which the service may be told.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial_for(
        &self,
        endpoint: &EndpointId,
        client: Option<SocketAddr>,
    ) -> Result<Flow, DialError> {
        let (stream, via) = self.open(endpoint, Kind::Tcp, client).await?;
        Ok(Flow::new(stream, client, via))
    }

    /// Opens a UDP association to an endpoint, like [`Client::dial`].
    ///
    /// # Errors
    /// See [`DialError`]. Cancel safe.
    pub async fn associate(&self, endpoint: &EndpointId) -> Result<Association, DialError> {
        self.associate_for(endpoint, None).await
    }

    /// The same on behalf of a client at an address, of which the service may be told.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn associate_for(
        &self,
        endpoint: &EndpointId,
        client: Option<SocketAddr>,
    ) -> Result<Association, DialError> {
        let (stream, via) = self.open(endpoint, Kind::Udp, client).await?;
        Ok(Association::new(stream, client, via))
    }

    async fn open(
        &self,
        endpoint: &EndpointId,
        kind: Kind,
        client: Option<SocketAddr>,
    ) -> Result<(Stream, Via), DialError> {
        self.inner.forwarder.start();
        dial::dial(&self.inner.forwarder, endpoint, kind, client).await
    }

    /// Opens links with this from now on; ALPN must be [`ALPN_LINK`]. Those that stand are not touched.
    ///
    /// # Errors
    /// When TLS is not fit for QUIC; then nothing changes.
    pub fn replace_tls(&self, tls: rustls::ClientConfig) -> Result<(), StartError> {
        Ok(self.inner.shared.reach.replace(tls)?)
    }

    /// What has become of this client's UDP packets.
    pub fn packets(&self) -> &PacketCounters {
        &self.inner.shared.counters.links().packets
    }

    /// What this client counts, for a scrape; whoever uses it may register more there.
    pub fn metrics(&self) -> &Metrics {
        self.inner.shared.counters.metrics()
    }

    /// Says, each time that it is called, how many endpoints are listened for, and for how many of them no node sends flows. It
    /// keeps no link.
    pub fn listens(&self) -> impl Fn() -> (usize, usize) + Send + Sync + use<> {
        let listens = self.inner.shared.listens.clone();
        move || listens.standing()
    }

    /// The state of the links that carry this client's listens, as it changes.
    pub fn agent_state(&self) -> watch::Receiver<State> {
        self.inner.agent.state()
    }

    /// The state of the link that carries this client's dials, as it changes. The link is opened by the first dial, or by
    /// this call.
    pub fn forwarder_state(&self) -> watch::Receiver<State> {
        self.inner.forwarder.start();
        self.inner.forwarder.state()
    }

    /// The id by which nodes know this client.
    pub fn id(&self) -> AgentId {
        self.inner.shared.agent
    }

    /// Leaves without losing a flow: serves no endpoint any more, says goodbye, waits for open flows at most `grace` long,
    /// and closes the links.
    ///
    /// # Errors
    /// How many flows had not ended by then and were cut.
    pub async fn close(&self, grace: Duration) -> Result<(), FlowsCut> {
        let started = tokio::time::Instant::now();
        self.inner.shared.listens.close(grace).await;
        let left = self.inner.agent.finish(grace.saturating_sub(started.elapsed())).await
            + self.inner.forwarder.finish(grace.saturating_sub(started.elapsed())).await;
        self.inner.shared.tasks.abort();
        self.inner.shared.reach.wait_idle().await;
        if left > 0 { Err(FlowsCut(left)) } else { Ok(()) }
    }
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no UDP socket to be had, or TLS is not fit for QUIC.
    #[error(transparent)]
    Dial(#[from] quic::DialError),
    /// The name or the token is longer than a node would read.
    #[error("the {what} has {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Which.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The bound in bytes.
        max: usize,
    },
}

/// Flows that had not ended when a client closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} flows had not ended and were cut")]
pub struct FlowsCut(pub usize);
