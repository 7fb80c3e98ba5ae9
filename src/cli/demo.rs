//! `adit demo`: a whole tunnel in one process, on loopback, with real traffic through it.
//!
//! Starts services, a node, an agent and a forwarder, runs the checks, and then stays up for the user to try. It uses the
//! same flags and parts as the other commands, so that what it shows is what they do.

mod checks;
mod service;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::{
    failure::Failure,
    node,
    process::{self, Signals},
    say,
};
use crate::{
    agent::{self, Agent},
    config::{EndpointKind, ForwardTcpArgs, LogArgs, NodeArgs, ServeArgs, from_words},
    forward::Forwarder,
    node::Node,
};

/// How long the agent has to be linked; on loopback it takes milliseconds.
const LINKED: Duration = Duration::from_secs(10);

/// How long flows may go on when the demo ends.
const GRACE: Duration = Duration::from_secs(5);

/// Start a node, an agent and two small services on loopback, send HTTP and TCP through the tunnel, say what happened, and
/// stay up until Ctrl-C.
#[derive(Debug, Args)]
#[command(mut_arg("level", |level| level.default_value("warn")))]
pub(super) struct DemoArgs {
    /// Where the node listens for clients.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8000")]
    edge_bind: SocketAddr,
    /// Where the node listens for links (UDP).
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8001")]
    link_bind: SocketAddr,
    /// Where the node listens for operators.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8002")]
    admin_bind: SocketAddr,
    /// Folder of the development certificates, which are made if they are missing.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    certs: PathBuf,
    /// End after the checks; the exit code tells whether all passed.
    #[arg(long)]
    exit: bool,
    #[command(flatten)]
    log: LogArgs,
}

pub(super) fn run(args: DemoArgs) -> Result<(), Failure> {
    process::log(&args.log)?;
    process::raise_file_limit();
    process::block_on(async {
        let mut signals = Signals::new()?;
        let demo = Demo::start(&args).await?;
        let passed = checks::run(demo.edge(), demo.forwarded()?).await;
        if !args.exit {
            demo.tell(&args)?;
            signals.next().await;
        }
        signals.leave(demo.leave()).await?;
        if passed || !args.exit { Ok(()) } else { Err(anyhow!("not all checks passed").into()) }
    })
}

/// The parts, each as it would run in a process of its own.
struct Demo {
    services: service::Services,
    /// The one that clients are told of, then the others, of which the second is where the agent begins.
    nodes: Vec<Node>,
    agent: Agent,
    forwarder: Forwarder,
}

impl Demo {
    async fn start(args: &DemoArgs) -> Result<Self, Failure> {
        let nodes = start_nodes(args).await?;
        say("Three nodes, an agent and two services run in this process. Clients' node, n1:\n");
        node::tell(nodes[0].addresses());
        say("\nThe agent begins at n2 and links to one more of them.");
        let services =
            service::Services::start().await.context("the demo's services cannot listen on loopback")?;
        let connect = format!("--connect={}", reachable(nodes[1].addresses().link));
        let ca = format!("--ca={}", args.certs.join("ca.pem").display());
        let agent = Agent::start(agent_config(&services, &connect, &ca)?)?;
        tokio::time::timeout(LINKED, agent.serve())
            .await
            .map_err(|_| {
                anyhow!("the agent has not been linked within {LINKED:?}; --log-level=debug tells more")
            })?
            .context("the node refuses the demo's agent")?;
        routable(&nodes).await?;
        let connect = format!("--connect={}", reachable(nodes[0].addresses().link));
        let words = ["127.0.0.1:0", "echo", &connect, &ca];
        let forwarder =
            from_words::<ForwardTcpArgs>(&words).context("the demo's forwarder")?.into_config()?;
        let forwarder = Forwarder::start(forwarder).await?;
        Ok(Self { services, nodes, agent, forwarder })
    }

    fn edge(&self) -> SocketAddr {
        reachable(self.nodes[0].addresses().edge)
    }

    /// The local port that leads to the TCP service.
    fn forwarded(&self) -> Result<SocketAddr, Failure> {
        Ok(*self.forwarder.addresses().first().context("the forwarder has no port")?)
    }

    fn tell(&self, args: &DemoArgs) -> Result<(), Failure> {
        let (edge, forwarded) = (self.edge(), self.forwarded()?);
        let first = self.nodes[0].addresses();
        let (link, admin) = (reachable(first.link), reachable(first.admin));
        let (web, link, admin) = (pasted(format!("http://{edge}")), pasted(link), pasted(admin));
        // As this process was started, which need not be by a name that the shell finds.
        let adit = std::env::args().next().unwrap_or_else(|| "adit".into());
        let certs = match args.certs.to_str() {
            Some("certs") => String::new(),
            _ => format!(" --certs {}", args.certs.display()),
        };
        say("\nTry it from another terminal:\n");
        say(format_args!("  curl -H 'x-adit-endpoint: hello' {web}/"));
        if edge.ip().is_loopback() {
            // curl takes every name below localhost for this host (RFC 6761 §6.3).
            say(format_args!("  curl http://hello.localhost:{}/", edge.port()));
        }
        say(format_args!("  curl -H 'x-adit-endpoint: hello' -d 'echo this' {web}/echo"));
        say(format_args!("  curl -N -H 'x-adit-endpoint: hello' {web}/events"));
        say(format_args!("  nc {} {}", forwarded.ip(), forwarded.port()));
        say(format_args!("  {adit} status --admin {admin}"));
        say(format_args!("  {adit} top --admin {admin}"));
        say(format_args!("\nThe dashboard, in a browser: http://{}/", reachable(first.admin)));
        say("\nServe something of your own through this node, such as a web server on port 3000:\n");
        say(format_args!("  {adit} agent http mine 3000 --connect {link}{certs}"));
        say(format_args!("  curl -H 'x-adit-endpoint: mine' {web}/"));
        say("\nCtrl-C ends it.");
        Ok(())
    }

    /// From the clients' side to the services' side, so that nothing is cut.
    async fn leave(self) -> Result<(), Unfinished> {
        self.services.finish_streams();
        let forwarder = self.forwarder.drain(GRACE).await.is_ok();
        let agent = self.agent.drain(GRACE).await.is_ok();
        let mut node = true;
        for one in self.nodes {
            node &= one.drain().await.is_ok();
        }
        self.services.stop();
        if forwarder && agent && node { Ok(()) } else { Err(Unfinished) }
    }
}

/// Something was still open at the end.
#[derive(Debug, thiserror::Error)]
#[error("connections were still open after {GRACE:?}, and were cut")]
struct Unfinished;

/// Starts n1 on the ports that were asked for, and n2 and n3, which join it, on any.
async fn start_nodes(args: &DemoArgs) -> Result<Vec<Node>, Failure> {
    let any = SocketAddr::new(args.link_bind.ip(), 0);
    let mut nodes: Vec<Node> = Vec::new();
    for name in ["n1", "n2", "n3"] {
        let first = nodes.first().and_then(|first| first.addresses().peer);
        let binds = match first {
            None => [args.edge_bind, args.link_bind, args.admin_bind],
            Some(_) => [any; 3],
        };
        nodes.push(Node::start(node_config(args, name, binds, any, first)?).await?);
    }
    Ok(nodes)
}

/// Waits until the clients' node has heard of what the agent serves.
async fn routable(nodes: &[Node]) -> Result<(), Failure> {
    let heard = async {
        while !nodes[0].serves("hello") || !nodes[0].serves("echo") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(LINKED, heard).await;
    Ok(waited.map_err(|_| anyhow!("the nodes have not found each other within {LINKED:?}"))?)
}

fn node_config(
    args: &DemoArgs,
    name: &str,
    [edge, link, admin]: [SocketAddr; 3],
    peer: SocketAddr,
    join: Option<SocketAddr>,
) -> Result<crate::node::Config, Failure> {
    let mut words = vec![
        format!("--edge-bind={edge}"),
        format!("--link-bind={link}"),
        format!("--admin-bind={admin}"),
        format!("--peer-bind={peer}"),
        format!("--certs={}", args.certs.display()),
        format!("--grace-period={}s", GRACE.as_secs()),
        format!("--node-id={name}"),
    ];
    words.extend(join.map(|join| format!("--join={join}")));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(from_words::<NodeArgs>(&words).context("the demo's node")?.into_config()?)
}

fn agent_config(services: &service::Services, connect: &str, ca: &str) -> Result<agent::Config, Failure> {
    let serve = |name: &str, address: SocketAddr, kind| -> Result<agent::Config, Failure> {
        let words = [name, &address.to_string(), connect, ca, "--name=demo"];
        Ok(from_words::<ServeArgs>(&words).context("the demo's agent")?.into_config(kind)?)
    };
    let mut config = serve("hello", services.web, EndpointKind::Http)?;
    config.endpoints.extend(serve("echo", services.echo, EndpointKind::Tcp)?.endpoints);
    Ok(config)
}

/// A word for a shell, some of which take the brackets of an IPv6 address for a pattern.
fn pasted(word: impl ToString) -> String {
    let word = word.to_string();
    if word.contains('[') { format!("'{word}'") } else { word }
}

/// How this host reaches an address that may be bound to all of its addresses.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}
