//! What is measured: nodes and agents as processes of their own, or agents beside a cluster that is there already.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes};
use serde::{Deserialize, de::IgnoredAny};
use tempfile::TempDir;

use super::{super::http, child::Child};
use crate::{
    drain::Tasks,
    net::HostPort,
    tls::{self, Trust},
};

/// How long the nodes have to find each other and to know what the agents serve.
const PATIENCE: Duration = Duration::from_secs(60);

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
    /// The link port of a node of a real cluster, for the agents.
    #[arg(long, value_name = "HOST:PORT", help_heading = "A real cluster")]
    pub(super) link: Option<HostPort>,
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
    pub(super) link: HostPort,
    /// Dropped last: the certificates, files and logs of the processes.
    folder: TempDir,
}

/// A node of its own cluster.
#[derive(Debug)]
pub(super) struct Node {
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
        match (self.count(), self.forwarded) {
            (0, _) => format!("a cluster, {agents}"),
            (1, _) => format!("1 node, {agents}"),
            (nodes, false) => format!("{nodes} nodes, {agents}"),
            (nodes, true) => format!("{nodes} nodes, {agents}, everything forwarded"),
        }
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
    /// Starts everything, and returns when every node knows every endpoint.
    pub(super) async fn start(args: &FabricArgs, wanted: &Wanted<'_>) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("adit-bench-").tempdir()?;
        // Names of its own, for a cluster in which others serve too.
        let mark = args.link.as_ref().map_or_else(String::new, |_| format!("{:08x}-", rand::random::<u32>()));
        let endpoints: Vec<_> = (0..wanted.endpoints).map(|number| format!("bench-{mark}{number}")).collect();
        let count = args.count();
        let mut nodes = Vec::<Node>::with_capacity(count);
        for number in 1..=count {
            let join = nodes.first().map(|first| first.peer);
            nodes.push(Node::start(&folder, number, join, wanted, &endpoints[0]).await?);
        }
        let (entries, homes): (Vec<usize>, Vec<usize>) = match args.forwarded {
            true => (vec![0], (1..count).collect()),
            false => ((0..count).collect(), (0..count).collect()),
        };
        let link = match (&args.link, entries.first()) {
            (Some(link), _) => link.clone(),
            (None, Some(&entry)) => host_port(nodes[entry].link),
            (None, None) => bail!("there is neither a node nor a --link"),
        };
        let mut fabric = Self { nodes, agents: Vec::new(), endpoints, entries, link, folder };
        fabric.know(0).await?;
        for number in 0..usize::from(args.agents) {
            let home = homes.get(number % homes.len().max(1)).map(|&home| host_port(fabric.nodes[home].link));
            let home = home.unwrap_or_else(|| fabric.link.clone());
            let agent = fabric.agent(args, number, &home, wanted).await?;
            fabric.agents.extend(agent);
        }
        for agent in &mut fabric.agents {
            while !agent.line().await?.starts_with("        ") {}
            agent.is_started();
        }
        fabric.know(wanted.endpoints).await?;
        if args.forwarded && fabric.status(0).await?.links.iter().any(|link| link.role == "agent") {
            bail!("an agent has linked to the node that was to forward everything");
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

    /// Starts the agent of this number, if it has anything to serve. It says so for each endpoint in two lines.
    async fn agent(
        &self,
        args: &FabricArgs,
        number: usize,
        home: &HostPort,
        wanted: &Wanted<'_>,
    ) -> anyhow::Result<Option<Child>> {
        let agents = usize::from(args.agents);
        let mut file = String::new();
        for (index, service) in wanted.services.iter().enumerate() {
            // The upstreams of one endpoint are spread over the agents too.
            if (index + index / wanted.endpoints) % agents == number {
                let name = &self.endpoints[index % wanted.endpoints];
                let _ = writeln!(
                    file,
                    "[[endpoint]]\nname = '{name}'\nkind = '{}'\naddress = '{service}'",
                    wanted.kind
                );
            }
        }
        if file.is_empty() {
            return Ok(None);
        }
        let path = self.folder.path().join(format!("agent-{number}.toml"));
        std::fs::write(&path, file).with_context(|| format!("{} cannot be written", path.display()))?;
        let mut words = vec!["agent".into(), "run".into(), format!("--config={}", path.display())];
        words.push(format!("--connect={home}"));
        words.push("--grace-period=1s".into());
        if args.forwarded {
            words.push("--links=1".into());
        }
        match (&args.link, &args.ca) {
            (None, _) => words.push(format!("--ca={}", self.ca().display())),
            (Some(_), Some(ca)) => words.push(format!("--ca={}", ca.display())),
            (Some(_), None) if args.insecure => words.push("--insecure".into()),
            (Some(_), None) => words.push(format!("--certs={}", args.certs.display())),
        }
        let name = format!("agent a{}", number + 1);
        Child::start(self.folder.path(), &name, &words, args.link.is_some()).map(Some)
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
    pub(super) async fn status(&self, node: usize) -> anyhow::Result<Status> {
        let admin = host_port(self.nodes[node].admin);
        let tasks = Tasks::new();
        let request =
            Request::get("/api/v1/status").header("host", admin.to_string()).body(Empty::<Bytes>::new())?;
        let response = http::send(&tasks, &admin, request).await?;
        Ok(serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?)
    }
}

/// What is of interest of a node's status.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    peers: Vec<IgnoredAny>,
    links: Vec<Link>,
    endpoints: Vec<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Link {
    role: String,
}

impl Node {
    async fn start(
        folder: &TempDir,
        number: usize,
        join: Option<SocketAddr>,
        wanted: &Wanted<'_>,
        first: &str,
    ) -> anyhow::Result<Self> {
        let any = "127.0.0.1:0";
        let mut words = vec!["node".into(), format!("--node-id=n{number}")];
        words.push(format!("--certs={}", folder.path().join("certs").display()));
        words.extend(["edge", "link", "admin", "peer"].map(|port| format!("--{port}-bind={any}")));
        words.push("--grace-period=5s".into());
        words.extend(wanted.tls.then(|| format!("--edge-tls-bind={any}")));
        words.extend(wanted.port.then(|| format!("--{}={any}={first}", wanted.kind)));
        words.extend(join.map(|join| format!("--join={join}")));
        Self::of(Child::start(folder.path(), &format!("node n{number}"), &words, false)?, wanted).await
    }

    /// Reads where its ports are.
    async fn of(mut child: Child, wanted: &Wanted<'_>) -> anyhow::Result<Self> {
        let (mut edge, mut edge_tls, mut link, mut admin, mut peer, mut port) =
            (None, None, None, None, None, None);
        while peer.is_none() || wanted.port && port.is_none() {
            let line = child.line().await?;
            let words: Vec<_> = line.split_whitespace().collect();
            let &[name, address, ..] = &words[..] else { continue };
            let (scheme, address) = address.split_once("://").unwrap_or(("", address));
            let address = Some(address.parse().with_context(|| format!("{} says {line:?}", child.name))?);
            match (name, scheme) {
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
        Ok(Self { child, edge, edge_tls, link, admin, peer, port })
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
