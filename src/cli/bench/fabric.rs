//! What is measured: nodes and agents as processes of their own, or agents beside a cluster that is there already.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes};
use serde::{Deserialize, de::IgnoredAny};
use tempfile::TempDir;

use super::{super::http, child::Child, progress::Progress};
use crate::{
    client::{self, Address, Client, Transport},
    drain::Tasks,
    load::Way,
    net::HostPort,
    protocol::EndpointId,
    tls::{self, Trust},
};

/// How long the nodes have to find each other and to know what the agents serve.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a client has to be linked.
const LINKED: Duration = Duration::from_secs(10);

/// How long this process's own links to a real cluster have to be closed, and its agents, which wait a second for flows that are
/// open, to leave. All is measured by then.
const CLOSE: Duration = Duration::from_secs(1);
const LEAVE: Duration = Duration::from_secs(5);

/// How often they are asked.
const AGAIN: Duration = Duration::from_millis(20);

/// What a cluster of its own is like, or where a real one is.
#[derive(Debug, Args)]
pub(super) struct FabricArgs {
    /// Start so many nodes. By default one, or two with --forwarded.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    #[arg(help_heading = "A cluster of its own", conflicts_with = "link")]
    nodes: Option<u8>,
    /// Send everything to a node that no agent is linked to, so that it is forwarded to another.
    #[arg(long, help_heading = "A cluster of its own", conflicts_with = "link")]
    pub(super) forwarded: bool,
    /// Serve through so many agents, each a process.
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "What is served")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    agents: u16,
    /// Link over this, the agents and what else has a link: never by chance over the other, as with other commands.
    #[arg(long, value_name = "quic|websocket", default_value = "quic", value_parser = transport)]
    #[arg(help_heading = "What is served")]
    transport: Transport,
    /// The link port of a node of a real cluster.
    #[arg(long, value_name = "HOST:PORT|URL", help_heading = "A real cluster")]
    pub(super) link: Option<Address>,
    /// Trust only the authorities in this PEM file. By default, the public ones and ca.pem in --certs.
    #[arg(long, value_name = "FILE", help_heading = "A real cluster")]
    ca: Option<PathBuf>,
    /// Folder whose ca.pem, when there is one, is trusted beside the public authorities.
    #[arg(long, value_name = "DIR", default_value = "certs", help_heading = "A real cluster")]
    certs: PathBuf,
    /// Trust any server.
    #[arg(long, conflicts_with = "ca", help_heading = "A real cluster")]
    insecure: bool,
}

fn transport(text: &str) -> Result<Transport, &'static str> {
    match text {
        "quic" => Ok(Transport::Quic),
        "websocket" => Ok(Transport::WebSocket),
        _ => Err("expected quic or websocket"),
    }
}

/// What is to be served, and how it is come to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// `http`, `tcp` or `udp`.
    pub(super) kind: &'a str,
    /// How many names.
    pub(super) endpoints: usize,
    /// The services, at least one for each name.
    pub(super) services: &'a [SocketAddr],
    /// Whether the nodes' edges are to have TLS.
    pub(super) tls: bool,
    /// Whether the first endpoint is to have a port of each node.
    pub(super) port: bool,
}

/// What is started.
#[derive(Debug, Clone)]
pub(super) struct Setup<'a> {
    /// So many nodes; none where `real` is.
    pub(super) nodes: usize,
    /// The nodes that clients go to.
    pub(super) entries: Vec<usize>,
    /// The nodes that agents link to first, in turn.
    pub(super) homes: Vec<usize>,
    /// How many agents.
    pub(super) agents: usize,
    /// To how many nodes each is linked, unless as by default.
    pub(super) links: Option<usize>,
    /// Whether the entries are to have no agent.
    pub(super) forwarded: bool,
    /// What all links are over.
    pub(super) transport: Transport,
    /// The cluster that is there already.
    pub(super) real: Option<&'a FabricArgs>,
}

impl Setup<'_> {
    /// Nodes of its own, all alike.
    pub(super) fn own(nodes: usize, agents: usize) -> Self {
        let all: Vec<usize> = (0..nodes).collect();
        let (entries, homes) = (all.clone(), all);
        let transport = Transport::Quic;
        Setup { nodes, entries, homes, agents, links: None, forwarded: false, transport, real: None }
    }
}

/// It runs while this is not dropped.
#[derive(Debug)]
pub(super) struct Fabric {
    pub(super) nodes: Vec<Node>,
    pub(super) agents: Vec<Child>,
    /// The names that are served.
    pub(super) endpoints: Vec<String>,
    /// Which of the nodes clients go to.
    pub(super) entries: Vec<usize>,
    /// Where agents link to, and clients that have no edge: a node of its own, or the real one.
    pub(super) link: Address,
    /// Dropped last: the certificates, files and logs of the processes.
    folder: TempDir,
}

/// A node of its own cluster.
#[derive(Debug)]
pub(super) struct Node {
    name: String,
    ports: Ports,
    pub(super) child: Child,
    pub(super) edge: SocketAddr,
    pub(super) edge_tls: Option<SocketAddr>,
    pub(super) link: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) peer: SocketAddr,
    /// The port of the first endpoint.
    pub(super) port: Option<SocketAddr>,
}

impl FabricArgs {
    /// How many nodes of its own there are.
    pub(super) fn count(&self) -> usize {
        let least = if self.forwarded { 2 } else { 1 };
        if self.link.is_some() { 0 } else { usize::from(self.nodes.unwrap_or(least)) }
    }

    /// What is to be started.
    pub(super) fn setup(&self) -> Setup<'_> {
        let own = Setup::own(self.count(), usize::from(self.agents));
        let setup = Setup { transport: self.transport, ..own };
        let real = self.link.is_some().then_some(self);
        if !self.forwarded {
            return Setup { real, ..setup };
        }
        let (entries, homes) = (vec![0], (1..setup.nodes).collect());
        Setup { entries, homes, links: Some(1), forwarded: true, real, ..setup }
    }

    /// What cannot be done, before anything is started.
    pub(super) fn check(&self, endpoints: usize, upstreams: usize) -> anyhow::Result<()> {
        if self.forwarded && self.nodes == Some(1) {
            bail!("--forwarded needs a node to forward to: leave --nodes out, or give 2 or 3");
        }
        if endpoints == 0 || upstreams < endpoints {
            bail!("{endpoints} endpoints cannot be served by {upstreams} upstreams: each needs one");
        }
        let each = upstreams.div_ceil(endpoints);
        if each > usize::from(self.agents) {
            bail!("an agent serves an endpoint once: {each} upstreams an endpoint need --agents {each}");
        }
        Ok(())
    }

    /// In words.
    pub(super) fn describe(&self) -> String {
        let agents = match self.agents {
            1 => "1 agent".to_owned(),
            agents => format!("{agents} agents"),
        };
        let nodes = match self.count() {
            0 => "a cluster".to_owned(),
            1 => "1 node".to_owned(),
            nodes => format!("{nodes} nodes"),
        };
        let forwarded = if self.forwarded { ", everything forwarded" } else { "" };
        let over = if self.transport == Transport::WebSocket { ", links over WebSocket" } else { "" };
        format!("{nodes}, {agents}{forwarded}{over}")
    }

    /// Whom clients of a server with TLS believe; `folder` has the certificates of its own cluster.
    pub(super) fn trust(&self, fabric: Option<&Fabric>) -> anyhow::Result<Trust> {
        let own = fabric.filter(|fabric| !fabric.nodes.is_empty()).map(Fabric::ca);
        Ok(match (own.as_ref().or(self.ca.as_ref()), self.insecure) {
            (Some(ca), _) => Trust::Roots(Trust::roots_from_file(ca)?),
            (None, true) => Trust::Insecure,
            (None, false) => Trust::PlatformAnd(self.certs.join("ca.pem")),
        })
    }
}

impl Fabric {
    /// Starts everything, and returns when every node knows every endpoint that is served.
    pub(super) async fn start(
        setup: &Setup<'_>,
        wanted: &Wanted<'_>,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("adit-bench-").tempdir()?;
        // Names of its own, for a cluster in which others serve too.
        let mark = setup.real.map_or_else(String::new, |_| format!("{:08x}-", rand::random::<u32>()));
        let endpoints: Vec<_> = (0..wanted.endpoints).map(|number| format!("bench-{mark}{number}")).collect();
        let mut nodes = Vec::<Node>::with_capacity(setup.nodes);
        for number in 1..=setup.nodes {
            let join = nodes.first().map(|first| first.peer);
            let ports = Ports::any(wanted, join, endpoints.first());
            nodes.push(Node::start(&folder, &format!("n{number}"), &ports).await?);
        }
        let link = match (setup.real.and_then(|real| real.link.as_ref()), setup.entries.first()) {
            (Some(link), _) => link.clone(),
            (None, Some(&entry)) => host_port(nodes[entry].link).into(),
            (None, None) => bail!("there is neither a node nor a --link"),
        };
        let mut fabric =
            Self { nodes, agents: Vec::new(), endpoints, entries: setup.entries.clone(), link, folder };
        fabric.know(0).await?;
        if wanted.services.is_empty() {
            return Ok(fabric);
        }
        for number in 0..setup.agents {
            let home = setup.homes.get(number % setup.homes.len().max(1));
            let home =
                home.map_or_else(|| fabric.link.clone(), |&home| host_port(fabric.nodes[home].link).into());
            let agent = fabric.agent(setup, number, &home, wanted)?;
            fabric.agents.extend(agent);
        }
        for agent in &mut fabric.agents {
            // Of each endpoint it says in a second line how clients come to it.
            while !agent.line_of_others(progress).await?.starts_with("        ") {}
            agent.is_started();
        }
        fabric.know(wanted.endpoints).await?;
        for &entry in setup.entries.iter().filter(|_| setup.forwarded) {
            if fabric.status(entry).await?.links.iter().any(|link| link.role == "agent") {
                bail!("an agent has linked to the node that was to forward everything");
            }
        }
        Ok(fabric)
    }

    /// The authority of its own nodes.
    pub(super) fn ca(&self) -> PathBuf {
        self.folder.path().join("certs/ca.pem")
    }

    /// All processes.
    pub(super) fn children(&self) -> impl Iterator<Item = &Child> {
        self.nodes.iter().map(|node| &node.child).chain(&self.agents)
    }

    /// Fails if one of them does not run any more.
    pub(super) fn runs(&mut self) -> anyhow::Result<()> {
        let nodes = self.nodes.iter_mut().map(|node| &mut node.child);
        nodes.chain(&mut self.agents).try_for_each(Child::runs)
    }

    /// Says goodbye to a real cluster, whose operators would take agents and forwarders that are just gone for ones that have
    /// hung. Nodes of its own end with all that is linked to them.
    pub(super) async fn leave(&mut self, ways: &[Way]) {
        if !self.nodes.is_empty() {
            return;
        }
        let links =
            ways.iter().filter_map(|way| if let Way::Link(client, _) = way { Some(client) } else { None });
        for closed in join_all(links.map(|client| client.close(CLOSE))).await {
            if let Err(cut) = closed {
                tracing::debug!(%cut, "a link was closed");
            }
        }
        for left in join_all(self.agents.iter_mut().map(|agent| agent.leave(LEAVE))).await {
            if let Err(error) = left {
                tracing::warn!(error = format!("{error:#}"), "an agent is killed");
            }
        }
    }

    /// Starts the agent of this number, if it has anything to serve.
    fn agent(
        &self,
        setup: &Setup<'_>,
        number: usize,
        home: &Address,
        wanted: &Wanted<'_>,
    ) -> anyhow::Result<Option<Child>> {
        let mut file = String::new();
        for (index, service) in wanted.services.iter().enumerate() {
            // The upstreams of one endpoint are spread over the agents too, each on another.
            let (endpoint, nth) = (index % wanted.endpoints, index / wanted.endpoints);
            if (endpoint + nth) % setup.agents == number {
                let (name, kind) = (&self.endpoints[endpoint], wanted.kind);
                // Writing to a String cannot fail.
                let _ =
                    writeln!(file, "[[endpoint]]\nname = '{name}'\nkind = '{kind}'\naddress = '{service}'");
            }
        }
        if file.is_empty() {
            return Ok(None);
        }
        let path = self.folder.path().join(format!("agent-{number}.toml"));
        std::fs::write(&path, file).with_context(|| format!("{} cannot be written", path.display()))?;
        let mut words = vec!["agent".into(), "run".into(), format!("--config={}", path.display())];
        words.extend([format!("--connect={home}"), "--grace-period=1s".into()]);
        words.push(match setup.transport {
            Transport::WebSocket => "--transport=websocket".into(),
            Transport::Quic | Transport::Auto => "--transport=quic".into(),
        });
        words.extend(setup.links.map(|links| format!("--links={links}")));
        words.push(match setup.real {
            None => format!("--ca={}", self.ca().display()),
            Some(FabricArgs { ca: Some(ca), .. }) => format!("--ca={}", ca.display()),
            Some(real) if real.insecure => "--insecure".into(),
            Some(real) => format!("--certs={}", real.certs.display()),
        });
        let name = format!("agent a{}", number + 1);
        Child::start(self.folder.path(), &name, &words, setup.real.is_some()).map(Some)
    }

    /// Starts a node that has ended again, where it was.
    pub(super) async fn restart(&mut self, node: usize) -> anyhow::Result<()> {
        let old = &self.nodes[node];
        let join = self.nodes.iter().map(|other| other.peer).find(|peer| *peer != old.peer);
        let ports = Ports { join, ..old.ports.at(old) };
        let name = old.name.clone();
        self.nodes[node] = Node::start(&self.folder, &name, &ports).await?;
        Ok(())
    }

    /// Ways to the first endpoint, by ports of the nodes that clients go to, or by links.
    pub(super) async fn ways(&self, args: &FabricArgs, by_port: bool) -> anyhow::Result<Vec<Way>> {
        if by_port {
            let ports = self.entries.iter().map(|&entry| self.nodes[entry].port);
            return ports.map(|port| port.map(Way::Port).context("the node has no port for it")).collect();
        }
        let endpoint = EndpointId::new(&self.endpoints[0])?;
        let links: Vec<Address> = match self.nodes.is_empty() {
            true => vec![self.link.clone()],
            false => self.entries.iter().map(|&entry| host_port(self.nodes[entry].link).into()).collect(),
        };
        let trust = args.trust(Some(self))?;
        let mut ways = Vec::with_capacity(links.len());
        for link in links {
            let config = client::Config::new(link.clone(), &trust)?;
            let client = Client::new(client::Config { transport: args.transport, ..config })?;
            let mut state = client.forwarder_state();
            let linked = state.wait_for(|state| !state.nodes().is_empty());
            let linked = tokio::time::timeout(LINKED, linked).await;
            linked.with_context(|| format!("no link to {link} within {LINKED:?}"))??;
            ways.push(Way::Link(client, endpoint.clone()));
        }
        Ok(ways)
    }

    /// Waits until all nodes know each other, and so many endpoints.
    pub(super) async fn know(&self, endpoints: usize) -> anyhow::Result<()> {
        let all = async {
            for node in 0..self.nodes.len() {
                loop {
                    let status = self.status(node).await?;
                    if status.endpoints.len() >= endpoints && status.peers.len() + 1 >= self.nodes.len() {
                        break;
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
            anyhow::Ok(())
        };
        let known = tokio::time::timeout(PATIENCE, all).await;
        known.with_context(|| format!("the nodes have not learned of everything within {PATIENCE:?}"))?
    }

    /// What a node says of itself.
    async fn status(&self, node: usize) -> anyhow::Result<Status> {
        Ok(serde_json::from_slice(&self.ask(node, "/api/v1/status").await?)?)
    }

    /// The bytes that all nodes together have sent to each other so far, by their own counts.
    pub(super) async fn bytes_between_nodes(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for node in 0..self.nodes.len() {
            sum += sent_to_nodes(&String::from_utf8_lossy(&self.ask(node, "/metrics").await?));
        }
        Ok(sum)
    }

    async fn ask(&self, node: usize, path: &str) -> anyhow::Result<Bytes> {
        let admin = host_port(self.nodes[node].admin);
        let tasks = Tasks::new();
        let request = Request::get(path).header("host", admin.to_string()).body(Empty::<Bytes>::new())?;
        let response = http::send(&tasks, &admin, request).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }
}

/// Of a node's metrics, what its links to other nodes have sent.
fn sent_to_nodes(metrics: &str) -> u64 {
    let links =
        metrics.lines().filter_map(|line| line.strip_prefix("adit_link_bytes_total{")?.rsplit_once("} "));
    let sent =
        links.filter(|(labels, _)| labels.contains("role=\"node\"") && labels.contains("direction=\"sent\""));
    sent.filter_map(|(_, bytes)| bytes.parse::<u64>().ok()).sum()
}

/// What is of interest of a node's status.
#[derive(Debug, Deserialize)]
struct Status {
    peers: Vec<IgnoredAny>,
    links: Vec<Link>,
    endpoints: Vec<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Link {
    role: String,
}

/// What a node is told of its ports.
#[derive(Debug, Clone)]
struct Ports {
    edge: SocketAddr,
    edge_tls: Option<SocketAddr>,
    link: SocketAddr,
    admin: SocketAddr,
    peer: SocketAddr,
    /// For an endpoint: its kind, the port, its name.
    service: Option<(String, SocketAddr, String)>,
    join: Option<SocketAddr>,
}

impl Ports {
    fn any(wanted: &Wanted<'_>, join: Option<SocketAddr>, first: Option<&String>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let service = first.filter(|_| wanted.port).map(|name| (wanted.kind.to_owned(), any, name.clone()));
        let edge_tls = wanted.tls.then_some(any);
        Self { edge: any, edge_tls, link: any, admin: any, peer: any, service, join }
    }

    /// Where a node is now.
    fn at(&self, node: &Node) -> Self {
        let service = self.service.clone().zip(node.port).map(|((kind, _, name), port)| (kind, port, name));
        let Node { edge, edge_tls, link, admin, peer, .. } = *node;
        Self { edge, edge_tls, link, admin, peer, service, join: self.join }
    }
}

impl Node {
    async fn start(folder: &TempDir, name: &str, ports: &Ports) -> anyhow::Result<Self> {
        let mut words = vec!["node".into(), format!("--node-id={name}"), "--grace-period=5s".into()];
        words.push(format!("--certs={}", folder.path().join("certs").display()));
        let Ports { edge, edge_tls, link, admin, peer, service, join } = ports;
        words.extend([format!("--edge-bind={edge}"), format!("--link-bind={link}")]);
        words.extend([format!("--admin-bind={admin}"), format!("--peer-bind={peer}")]);
        words.extend(edge_tls.map(|edge| format!("--edge-tls-bind={edge}")));
        words.extend(service.as_ref().map(|(kind, port, name)| format!("--{kind}={port}={name}")));
        words.extend(join.map(|join| format!("--join={join}")));
        let child = Child::start(folder.path(), &format!("node {name}"), &words, false)?;
        Self::of(child, name, ports).await
    }

    /// Reads where its ports are.
    async fn of(mut child: Child, name: &str, ports: &Ports) -> anyhow::Result<Self> {
        let (mut edge, mut edge_tls, mut link, mut admin, mut peer, mut port) =
            (None, None, None, None, None, None);
        while peer.is_none() || ports.service.is_some() && port.is_none() {
            let line = child.line().await?;
            let words: Vec<_> = line.split_whitespace().collect();
            let &[what, address, ..] = &words[..] else { continue };
            let (scheme, address) = address.split_once("://").unwrap_or(("", address));
            let address = Some(address.parse().with_context(|| format!("{} says {line:?}", child.name))?);
            match (what, scheme) {
                ("edge", "http") => edge = address,
                ("edge", "https") => edge_tls = address,
                ("link", _) => link = address,
                ("admin", _) => admin = address,
                ("peer", _) => peer = address,
                ("tcp" | "udp", _) => port = address,
                _ => {}
            }
        }
        child.is_started();
        let missing = || format!("{} does not say where it listens", child.name);
        let (edge, link) = (edge.with_context(missing)?, link.with_context(missing)?);
        let (admin, peer) = (admin.with_context(missing)?, peer.with_context(missing)?);
        let (name, ports) = (name.to_owned(), ports.clone());
        Ok(Self { name, ports, child, edge, edge_tls, link, admin, peer, port })
    }
}

/// An address as clients are given it.
pub(super) fn host_port(address: SocketAddr) -> HostPort {
    HostPort { host: address.ip().to_string(), port: address.port() }
}

/// The TLS of clients.
pub(super) fn client_tls(
    trust: &Trust,
    alpn: &[&[u8]],
) -> anyhow::Result<std::sync::Arc<rustls::ClientConfig>> {
    Ok(std::sync::Arc::new(tls::client_config(trust, None, alpn)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_between_nodes_are_what_is_sent_to_nodes() {
        let metrics = "# TYPE adit_link_bytes counter\n\
            adit_link_bytes_total{role=\"agent\",transport=\"quic\",direction=\"sent\"} 1\n\
            adit_link_bytes_total{role=\"node\",transport=\"quic\",direction=\"sent\"} 20\n\
            adit_link_bytes_total{role=\"node\",transport=\"quic\",direction=\"received\"} 300\n\
            adit_link_packets_total{role=\"node\",transport=\"quic\",direction=\"sent\"} 4000\n";
        assert_eq!((sent_to_nodes(metrics), sent_to_nodes("")), (20, 0));
    }
}
