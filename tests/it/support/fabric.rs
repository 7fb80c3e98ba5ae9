//! A node, and the agents and forwarders that link to it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use adit::{
    agent::{self, Agent, Service},
    client, edge,
    forward::{self, PortKind},
    net::HostPort,
    node::{self, Node},
    protocol::{ALPN_LINK, EndpointId, Kind, NodeId},
    tls::{self, Authority, ClientAuth, Identity, Request, Trust, Usage},
    transport::Settings,
};

use tokio::net::TcpStream;

use super::ok;

/// After how long UDP associations end where a test does not say.
pub(crate) const UDP_IDLE: Duration = Duration::from_secs(60);

/// A node with its authority.
#[derive(Debug)]
pub(crate) struct Fabric {
    pub(crate) authority: Arc<Authority>,
    pub(crate) config: node::Config,
    pub(crate) node: Option<Node>,
    pub(crate) addresses: node::Addresses,
}

pub(crate) fn identity(authority: &Authority, names: &[&str]) -> Identity {
    let request = Request {
        common_name: "test".into(),
        names: names.iter().map(|name| (*name).into()).collect(),
        usage: Usage::Both,
        lifetime: tls::DEFAULT_LIFETIME,
    };
    let issued = ok(authority.issue(&request));
    let dir = ok(tempfile::tempdir());
    let (cert, key) = (dir.path().join("a.pem"), dir.path().join("a.key"));
    ok(issued.write(&cert, &key));
    ok(Identity::load(&cert, &key))
}

/// A forwarder of one port, and its address.
pub(crate) async fn forwarder_of(
    client: client::Config,
    endpoint: &str,
    kind: PortKind,
) -> (forward::Forwarder, SocketAddr) {
    let listen = vec![([127, 0, 0, 1], 0).into()];
    let port = forward::Port { listen, endpoint: ok(EndpointId::new(endpoint)), kind };
    let forwarder = ok(forward::Forwarder::start(forward::Config { client, ports: vec![port] }).await);
    let address = forwarder.addresses()[0];
    (forwarder, address)
}

impl Fabric {
    /// A node with every limit at its default.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A node with a changed configuration.
    pub(crate) async fn with(change: impl FnOnce(&mut node::Config)) -> Self {
        Self::of(Arc::new(ok(Authority::generate("test authority"))), change).await
    }

    /// The same with certificates of an authority that others have as well.
    pub(crate) async fn of(authority: Arc<Authority>, change: impl FnOnce(&mut node::Config)) -> Self {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let mut config = node::Config {
            node: ok(NodeId::new("n1")),
            cluster: "test".into(),
            edge: edge::Config {
                bind: any,
                tls: None,
                request_timeout: Duration::from_secs(30),
                max_header_bytes: 64 * 1024,
                max_body_bytes: None,
            },
            udp: edge::udp::Config { ports: Vec::new(), idle: UDP_IDLE },
            link: node::LinkConfig {
                bind: any,
                advertise: None,
                identity: identity(&authority, &["localhost", "127.0.0.1", "::1"]),
                settings: Settings::default(),
            },
            cluster_links: None,
            rebalance: node::Rebalance::default(),
            upstream_wait: Duration::from_secs(2),
            admin: any,
            grace_period: Duration::from_secs(10),
            drain_delay: Duration::ZERO,
        };
        change(&mut config);
        let node = ok(Node::start(config.clone()).await);
        let addresses = *node.addresses();
        Self { authority, config, node: Some(node), addresses }
    }

    /// How a client reaches the node.
    pub(crate) fn client(&self) -> client::Config {
        self.client_at(self.addresses.link)
    }

    /// How a client reaches the node through something in between.
    pub(crate) fn client_at(&self, address: SocketAddr) -> client::Config {
        let trust = Trust::Roots(vec![self.authority.certificate().clone()]);
        let connect = HostPort { host: address.ip().to_string(), port: address.port() };
        ok(client::Config::new(connect, &trust))
    }

    /// An agent that serves one endpoint from a service, whose address is written as on the command line, once it does.
    pub(crate) async fn agent(&self, endpoint: &str, kind: Kind, service: impl ToString) -> Agent {
        let agent = self.start_agent(self.client(), &[(endpoint, kind, service.to_string())]);
        ok(super::soon(agent.serve()).await);
        agent
    }

    /// An agent that has not linked yet.
    pub(crate) fn start_agent(&self, client: client::Config, endpoints: &[(&str, Kind, String)]) -> Agent {
        let tls = Arc::new(ok(tls::client_config(
            &Trust::Roots(vec![self.authority.certificate().clone()]),
            None,
            &[],
        )));
        let endpoints = endpoints.iter().map(|(name, kind, address)| agent::Endpoint {
            name: ok(EndpointId::new(name)),
            kind: *kind,
            service: ok(Service::new(ok(address.parse()), &tls)),
            health: None,
            udp_idle: UDP_IDLE,
        });
        ok(Agent::start(agent::Config { client, endpoints: endpoints.collect() }))
    }

    /// A forwarder of one port, and its address.
    pub(crate) async fn forwarder(&self, endpoint: &str) -> (forward::Forwarder, SocketAddr) {
        self.forwarder_of(endpoint, PortKind::Tcp).await
    }

    /// The same for what the port takes.
    pub(crate) async fn forwarder_of(
        &self,
        endpoint: &str,
        kind: PortKind,
    ) -> (forward::Forwarder, SocketAddr) {
        forwarder_of(self.client(), endpoint, kind).await
    }

    /// Stops the node at once, as a kill would, without a goodbye to anybody.
    pub(crate) fn kill(&mut self) {
        self.node = None;
    }

    /// Starts the node again on the same ports.
    pub(crate) async fn restart(&mut self) {
        self.config.edge.bind = self.addresses.edge;
        self.config.link.bind = self.addresses.link;
        self.config.admin = self.addresses.admin;
        if let (Some(cluster), Some(peer)) = (&mut self.config.cluster_links, self.addresses.peer) {
            cluster.bind = peer;
        }
        // The ports of the one that was killed are free once its tasks have been dropped.
        let started = async {
            loop {
                match Node::start(self.config.clone()).await {
                    Ok(node) => return node,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        self.node = Some(super::soon(started).await);
    }

    /// A configuration of TLS for services whose certificate the authority has signed.
    pub(crate) fn service_tls(&self, names: &[&str], alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
        let identity = identity(&self.authority, names);
        Arc::new(ok(tls::server_config(&[identity], ClientAuth::None, alpn)))
    }
}

/// A TCP service behind a forwarder, a node and an agent.
#[derive(Debug)]
pub(crate) struct TcpPath {
    pub(crate) agent: Agent,
    pub(crate) forwarder: forward::Forwarder,
    port: SocketAddr,
    _fabric: Fabric,
}

impl TcpPath {
    pub(crate) async fn to(service: SocketAddr) -> Self {
        Self::through(Fabric::start().await, service).await
    }

    pub(crate) async fn through(fabric: Fabric, service: impl ToString) -> Self {
        let agent = fabric.agent("tcp", Kind::Tcp, service).await;
        let (forwarder, port) = fabric.forwarder("tcp").await;
        Self { agent, forwarder, port, _fabric: fabric }
    }

    /// A client's connection to the service.
    pub(crate) async fn connect(&self) -> TcpStream {
        ok(TcpStream::connect(self.port).await)
    }
}

/// An HTTP service behind a node and an agent, as the endpoint `web`.
#[derive(Debug)]
pub(crate) struct Web {
    pub(crate) edge: SocketAddr,
    pub(crate) agent: Agent,
    pub(crate) fabric: Fabric,
}

impl Web {
    pub(crate) async fn to(service: SocketAddr) -> Self {
        Self::through(Fabric::start().await, service).await
    }

    pub(crate) async fn through(fabric: Fabric, service: SocketAddr) -> Self {
        let agent = fabric.agent("web", Kind::Http, service).await;
        Self { edge: fabric.addresses.edge, agent, fabric }
    }
}

/// The ALPN of links, for tests that speak the protocol themselves.
pub(crate) const LINK: &[u8] = ALPN_LINK;
