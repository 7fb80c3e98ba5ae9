//! `adit node`.

use super::{
    Command,
    failure::Failure,
    process::{self, Signals},
    reload::{Reload, Reloader},
    say,
};
use crate::{
    config::{Given, LogArgs, NodeArgs},
    node::{self, Addresses, Node},
    telemetry::Outcome,
};

/// The flags that a node takes over while it runs: these, and all that begin so.
const TAKES: &[&str] = &[
    "--certs",
    "--edge-cert",
    "--edge-key",
    "--link-cert",
    "--link-key",
    "--peer-cert",
    "--peer-key",
    "--peer-ca",
    "--edge-auth-",
    "--edge-client-",
    "--link-auth-",
    "--link-client-",
    "--admin-auth-",
    "--admin-cert",
    "--admin-key",
    "--admin-client-",
    "--tenants",
    "--tenant-",
    "--limit",
    "--allow-anonymous",
    "[[door]]",
];

impl Reload for Node {
    type Args = NodeArgs;
    type Config = node::Config;

    fn args(command: Command) -> Option<NodeArgs> {
        if let Command::Node(line) = command { Some(line.args) } else { None }
    }

    fn log(args: &NodeArgs) -> &LogArgs {
        &args.log
    }

    fn config(args: NodeArgs) -> Result<node::Config, Failure> {
        Ok(args.again()?)
    }

    fn takes(flag: &str) -> bool {
        TAKES.iter().any(|own| flag == *own || (own.ends_with('-') && flag.starts_with(own)))
    }

    fn reload(&self, config: node::Config) -> Result<(), Failure> {
        Ok(Self::reload(self, &config)?)
    }

    fn count(&self, outcome: Outcome) {
        self.count_reload(outcome);
    }
}

pub(super) fn run(args: &NodeArgs, given: &Given) -> Result<(), Failure> {
    let log = process::log(&args.log)?;
    let (mut reloader, args) = Reloader::new::<Node>(given, log.clone())?;
    let (config, made) = args.start()?;
    reloader.made(&made);
    process::raise_file_limit();
    process::block_on(async {
        let (mut signals, hangups) = Signals::with_hangups()?;
        let node = Node::start(config).await?;
        node.logs_to(log);
        let asked_to_leave = node.asked_to_leave();
        tell(node.addresses());
        for port in node.udp_ports() {
            say(format_args!("udp    {} to {}", port.listen, port.endpoint));
        }
        tokio::select! {
            () = signals.next() => {}
            () = asked_to_leave => {}
            never = reloader.run(&node, hangups) => match never {},
        }
        signals.leave(node.drain()).await
    })
}

/// One line a port: its name, and its address as bound.
pub(super) fn tell(addresses: &Addresses) {
    say(format_args!("edge   http://{}", addresses.edge));
    if let Some(edge) = addresses.edge_tls {
        say(format_args!("edge   https://{edge}"));
    }
    if let Some(sni) = addresses.edge_sni {
        say(format_args!("sni    tls://{sni}"));
    }
    for port in &addresses.tcp {
        say(format_args!("tcp    tcp://{} for {}", port.bind, port.endpoint));
    }
    say(format_args!("link   quic://{}", addresses.link));
    say(format_args!("admin  {}://{}", if addresses.admin_tls { "https" } else { "http" }, addresses.admin));
    if let Some(peer) = addresses.peer {
        say(format_args!("peer   quic://{peer}"));
    }
}
