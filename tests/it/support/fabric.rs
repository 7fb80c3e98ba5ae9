//! A node, and the agents and forwarders that link to it.

use std::{any::Any, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use adit::{
    admin,
    agent::{self, Agent, Service},
    auth::Access,
    client::{self, Transport},
    edge,
    forward::{self, PortKind},
    net::HostPort,
    node::{self, Node},
    protocol::{ALPN_LINK, EndpointId, Kind, NodeId},
    tls::{self, Authority, ClientAuth, Identity, Request, Trust, Usage},
    transport::Settings,
};

use tokio::net::TcpStream;

use super::{cluster::Nodes, ok, piko_agent::Peer};

/// After how long UDP associations end where a test does not say.
pub(crate) const UDP_IDLE: Duration = Duration::from_secs(60);

tokio::task_local! {
    /// Over what clients of a fabric link to it. QUIC where nothing is said: what is between in other tests is of UDP.
    static TRANSPORT: Transport;
}

/// Has the clients of a check link over something else than QUIC.
pub(crate) async fn linked_over<T>(transport: Transport, check: impl Future<Output = T>) -> T {
    TRANSPORT.scope(transport, check).await
}

tokio::task_local! {
    /// The Piko agent that serves in the place of adit's own, its service left out.
    static PIKO: Peer;
}

/// Has a check's service served by a Piko agent like this one, where it is HTTP/1.1 or bytes.
pub(crate) async fn served_by_piko<T>(peer: Peer, check: impl Future<Output = T>) -> T {
    PIKO.scope(peer, check).await
}

/// Who serves an endpoint in a check: an agent of adit's, or one of Piko's. Dropping it is as if its process was killed.
pub(crate) type Served = Box<dyn Any + Send>;

/// Serves an endpoint by a Piko agent, if it is to be one, that is linked to the last of these nodes; who, and the nodes.
async fn by_piko(
    nodes: usize,
    change: impl Fn(&mut node::Config),
    endpoint: &str,
    service: SocketAddr,
) -> Option<(Served, Nodes)> {
    let peer = PIKO.try_with(Clone::clone).ok()?;
    let nodes = Nodes::with(nodes, change).await;
    let last = nodes.all.last().expect("there are nodes");
    let peer = Peer { endpoint: endpoint.into(), service, ..peer };
    let session = ok(peer.link(last.addresses.link).await);
    nodes.knows(0, endpoint).await;
    Some((Box::new(session), nodes))
}

/// A node with its authority.
#[derive(Debug)]
pub(crate) struct Fabric {
    pub(crate) authority: Arc<Authority>,
    pub(crate) config: node::Config,
    pub(crate) node: Option<Node>,
    pub(crate) addresses: node::Addresses,
}

/// Writes a certificate and its key.
pub(crate) fn issue(authority: &Authority, names: &[&str], cert: &Path, key: &Path) {
    let request = Request {
        common_name: "test".into(),
        names: names.iter().map(|name| (*name).into()).collect(),
        usage: Usage::Both,
        lifetime: tls::DEFAULT_LIFETIME,
    };
    ok(ok(authority.issue(&request)).write(cert, key));
}

pub(crate) fn identity(authority: &Authority, names: &[&str]) -> Identity {
    let dir = ok(tempfile::tempdir());
    let (cert, key) = (dir.path().join("a.pem"), dir.path().join("a.key"));
    issue(authority, names, &cert, &key);
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
    let forwarder =
        ok(forward::Forwarder::start(forward::Config { client, ports: vec![port], admin: None }).await);
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
        ok(Self::try_of(authority, change).await)
    }

    /// The same, where the node may not start.
    pub(crate) async fn try_of(
        authority: Arc<Authority>,
        change: impl FnOnce(&mut node::Config),
    ) -> Result<Self, node::StartError> {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let mut config = node::Config {
            node: ok(NodeId::new("n1")),
            cluster: "test".into(),
            edge: edge::Config {
                metrics_endpoints: 0,
                bind: any,
                tls: None,
                sni: None,
                tcp: Vec::new(),
                balancers: Vec::new(),
                limits: edge::Limits::default(),
            },
            udp: edge::udp::Config { ports: Vec::new(), idle: UDP_IDLE },
            link: node::LinkConfig {
                bind: any,
                advertise: None,
                identity: identity(&authority, &["localhost", "127.0.0.1", "::1"]),
                clients: ClientAuth::None,
                settings: Settings::default(),
            },
            cluster_links: None,
            rebalance: node::Rebalance::default(),
            hosts: Vec::new(),
            auth: node::Auth::default(),
            limits: Vec::new(),
            // Some are in a network of their own.
            allow_anonymous: true,
            upstream_wait: Duration::from_secs(2),
            access_log: None,
            traces: None,
            admin: admin::Config { bind: any, tls: None },
            grace_period: Duration::from_secs(10),
            drain_delay: Duration::ZERO,
        };
        change(&mut config);
        let node = Node::start(config.clone()).await?;
        let addresses = node.addresses().clone();
        Ok(Self { authority, config, node: Some(node), addresses })
    }

    /// How often the edge has refused something, or cut it, for this reason.
    pub(crate) async fn refused(&self, reason: &str) -> u64 {
        let metrics = super::client::get(self.addresses.admin, "", "/metrics").await;
        let name = format!("adit_edge_refused_total{{reason=\"{reason}\"}} ");
        metrics.text().lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| ok(count.parse()))
    }

    /// How a client reaches the node.
    pub(crate) fn client(&self) -> client::Config {
        self.client_at(self.addresses.link)
    }

    /// How a client reaches the node through something in between.
    pub(crate) fn client_at(&self, address: SocketAddr) -> client::Config {
        let trust = Trust::Roots(vec![self.authority.certificate().clone()]);
        let connect = HostPort { host: address.ip().to_string(), port: address.port() };
        let transport = TRANSPORT.try_with(|transport| *transport).unwrap_or(Transport::Quic);
        client::Config { transport, ..ok(client::Config::new(connect.into(), &trust)) }
    }

    /// An agent that serves one endpoint from a service, whose address is written as on the command line, once it does.
    pub(crate) async fn agent(&self, endpoint: &str, kind: Kind, service: impl ToString) -> Agent {
        let agent = self.start_agent(self.client(), &[(endpoint, kind, service.to_string())]);
        ok(super::soon(agent.serve()).await);
        agent
    }

    /// The same with a changed endpoint.
    pub(crate) async fn agent_with(
        &self,
        endpoint: &str,
        kind: Kind,
        service: impl ToString,
        change: impl FnOnce(&mut agent::Endpoint),
    ) -> Result<Agent, client::ListenError> {
        let mut endpoint = self.endpoint(endpoint, kind, service);
        change(&mut endpoint);
        let agent = ok(Agent::start(agent::Config::new(self.client(), vec![endpoint])));
        super::soon(agent.serve()).await.map(|()| agent)
    }

    /// An agent that has not linked yet.
    pub(crate) fn start_agent(&self, client: client::Config, endpoints: &[(&str, Kind, String)]) -> Agent {
        let endpoints = endpoints.iter().map(|(name, kind, address)| self.endpoint(name, *kind, address));
        ok(Agent::start(agent::Config::new(client, endpoints.collect())))
    }

    /// An endpoint for an agent to serve.
    pub(crate) fn endpoint(&self, name: &str, kind: Kind, service: impl ToString) -> agent::Endpoint {
        let trust = Trust::Roots(vec![self.authority.certificate().clone()]);
        let tls = Arc::new(ok(tls::client_config(&trust, None, &[])));
        agent::Endpoint {
            name: ok(EndpointId::new(name)),
            kind,
            hosts: Vec::new(),
            service: ok(Service::new(ok(service.to_string().parse()), &tls)),
            door: Access::default(),
            health: None,
            http: None,
            udp_idle: UDP_IDLE,
        }
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

    /// Waits until the node's metrics have a line.
    pub(crate) async fn tells(&self, line: &str) {
        super::eventually(&format!("the metrics tell {line}"), async || {
            let metrics = super::client::get(self.addresses.admin, "", "/metrics").await;
            metrics.text().lines().any(|found| found == line)
        })
        .await;
    }

    /// Stops the node at once, as a kill would, without a goodbye to anybody.
    pub(crate) fn kill(&mut self) {
        self.node = None;
    }

    /// Starts the node again on the same ports.
    pub(crate) async fn restart(&mut self) {
        self.config.edge.bind = self.addresses.edge;
        self.config.link.bind = self.addresses.link;
        self.config.admin.bind = self.addresses.admin;
        if let (Some(cluster), Some(peer)) = (&mut self.config.cluster_links, self.addresses.peer) {
            cluster.bind = peer;
        }
        // The ports of the one that was killed are free once its tasks have been dropped.
        let started = async {
            loop {
                match Node::start(self.config.clone()).await {
                    Ok(node) => return node,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
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

/// A TCP service behind a forwarder, a node or two, and an agent.
#[derive(Debug)]
pub(crate) struct TcpPath {
    pub(crate) agent: Served,
    pub(crate) forwarder: forward::Forwarder,
    port: SocketAddr,
    _fabrics: Vec<Fabric>,
}

impl TcpPath {
    pub(crate) async fn to(service: SocketAddr) -> Self {
        Self::through(Fabric::start().await, service).await
    }

    pub(crate) async fn through(fabric: Fabric, service: impl ToString) -> Self {
        let agent = fabric.agent("tcp", Kind::Tcp, service).await;
        Self::entered(Box::new(agent), vec![fabric], 0).await
    }

    /// By a forwarder that is linked to the node of this number.
    async fn entered(agent: Served, fabrics: Vec<Fabric>, entry: usize) -> Self {
        let (forwarder, port) = fabrics[entry].forwarder("tcp").await;
        Self { agent, forwarder, port, _fabrics: fabrics }
    }

    /// Over so many nodes: the forwarder is linked to one to which the agent is not, unless there is but one.
    pub(crate) async fn over(nodes: usize, service: SocketAddr) -> Self {
        Self::over_with(nodes, |_| {}, service).await
    }

    /// The same with a changed configuration of all nodes.
    pub(crate) async fn over_with(
        nodes: usize,
        change: impl Fn(&mut node::Config),
        service: SocketAddr,
    ) -> Self {
        if let Some((agent, nodes)) = by_piko(nodes, &change, "tcp", service).await {
            return Self::entered(agent, nodes.all, 0).await;
        }
        if nodes == 1 {
            return Self::through(Fabric::with(change).await, service).await;
        }
        let nodes = Nodes::with(nodes, change).await;
        let (agent, entry) = nodes.agent_elsewhere("tcp", Kind::Tcp, service).await;
        Self::entered(Box::new(agent), nodes.all, entry).await
    }

    /// A client's connection to the service.
    pub(crate) async fn connect(&self) -> TcpStream {
        ok(TcpStream::connect(self.port).await)
    }
}

/// An HTTP service behind a node or two and an agent, as the endpoint `web`.
#[derive(Debug)]
pub(crate) struct Web {
    pub(crate) edge: SocketAddr,
    pub(crate) agent: Served,
    /// The node of that edge.
    pub(crate) fabric: Fabric,
    _others: Vec<Fabric>,
}

impl Web {
    pub(crate) async fn to(service: SocketAddr) -> Self {
        Self::through(Fabric::start().await, service).await
    }

    /// The same for a service that speaks HTTP/2.
    pub(crate) async fn to_http2(service: SocketAddr) -> Self {
        Self::of(1, true, service).await
    }

    /// The same for a service of either version, over so many nodes.
    pub(crate) async fn of(nodes: usize, http2: bool, service: SocketAddr) -> Self {
        Self::of_kind(nodes, |_| {}, if http2 { Kind::Http2 } else { Kind::Http }, service).await
    }

    pub(crate) async fn through(fabric: Fabric, service: SocketAddr) -> Self {
        Self::with(fabric, Kind::Http, service).await
    }

    async fn with(fabric: Fabric, kind: Kind, service: SocketAddr) -> Self {
        let agent = fabric.agent("web", kind, service).await;
        Self::entered(Box::new(agent), vec![fabric], 0)
    }

    /// By the edge of the node of this number.
    fn entered(agent: Served, mut fabrics: Vec<Fabric>, entry: usize) -> Self {
        let fabric = fabrics.swap_remove(entry);
        Self { edge: fabric.addresses.edge, agent, fabric, _others: fabrics }
    }

    /// Over so many nodes: the edge is that of one to which the agent is not linked, unless there is but one.
    pub(crate) async fn over(nodes: usize, service: SocketAddr) -> Self {
        Self::of(nodes, false, service).await
    }

    /// The same with a changed configuration of all nodes.
    pub(crate) async fn over_with(
        nodes: usize,
        change: impl Fn(&mut node::Config),
        service: SocketAddr,
    ) -> Self {
        Self::of_kind(nodes, change, Kind::Http, service).await
    }

    async fn of_kind(
        nodes: usize,
        change: impl Fn(&mut node::Config),
        kind: Kind,
        service: SocketAddr,
    ) -> Self {
        if kind == Kind::Http
            && let Some((agent, nodes)) = by_piko(nodes, &change, "web", service).await
        {
            return Self::entered(agent, nodes.all, 0);
        }
        if nodes == 1 {
            return Self::with(Fabric::with(change).await, kind, service).await;
        }
        let nodes = Nodes::with(nodes, change).await;
        let (agent, entry) = nodes.agent_elsewhere("web", kind, service).await;
        Self::entered(Box::new(agent), nodes.all, entry)
    }
}

/// Gives links up after a silence that a test can wait for. A link that is closed while its congestion window is full says
/// no goodbye (issue 2785 of quinn), and then its other end has only that to go by.
pub(crate) fn impatient(config: &mut node::Config) {
    config.link.settings.idle_timeout = Duration::from_secs(8);
}

/// The ALPN of links, for tests that speak the protocol themselves.
pub(crate) const LINK: &[u8] = ALPN_LINK;
