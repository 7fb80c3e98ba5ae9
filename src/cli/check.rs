//! `adit node check`, `adit agent check` and `adit forward check`: reads all that starting would read, says what would run,
//! and neither opens a port nor makes a file.

use std::{fmt, net::SocketAddr, path::PathBuf};

use super::{failure::Failure, process, say};
use crate::{
    auth,
    client::{self, Transport},
    config::{NodeArgs, RunAgentArgs, RunForwardArgs},
    forward::PortKind,
    node,
    tls::{self, Identity},
};

/// How many names of a certificate are shown.
const NAMES: usize = 3;

/// `adit node check`.
pub(super) fn node(args: NodeArgs) -> Result<(), Failure> {
    process::log(&args.log)?;
    let (config, made) = args.rehearse()?;
    node::check(&config)?;
    tell_node(&config, &made);
    say("good   adit node would start with this");
    Ok(())
}

fn tell_node(config: &node::Config, made: &[PathBuf]) {
    let node::Config { node, cluster, edge, udp, link, cluster_links, auth, admin, .. } = config;
    say(format_args!("node   {node} of the cluster {cluster}"));
    let asked = asked(&auth.edge);
    say(format_args!("edge   http://{}{asked}", edge.bind));
    if let Some(tls) = &edge.tls {
        say(format_args!("edge   https://{}{asked}", tls.bind));
        tls.identities.iter().for_each(tell_certificate);
    }
    if let Some(sni) = edge.sni {
        say(format_args!("sni    tls://{sni}"));
    }
    for port in &edge.tcp {
        say(format_args!("tcp    tcp://{} for {}", port.bind, port.endpoint));
    }
    for port in &udp.ports {
        say(format_args!("udp    {} to {}", port.listen, port.endpoint));
    }
    say(format_args!("link   quic://{}{}", link.bind, self::asked(&auth.link)));
    tell_certificate(&link.identity);
    let scheme = if admin.tls.is_some() { "https" } else { "http" };
    say(format_args!("admin  {scheme}://{}{}", admin.bind, self::asked(&auth.admin)));
    if let Some(tls) = &admin.tls {
        tell_certificate(&tls.identity);
    }
    if let Some(cluster) = cluster_links {
        say(format_args!("peer   quic://{}", cluster.bind));
        tell_certificate(&cluster.identity);
    }
    for file in made {
        say(format_args!("make   {}, for development: it is not there yet", file.display()));
    }
}

fn asked(port: &auth::PortConfig) -> &'static str {
    match (port.keys.is_some() || !port.tenants.is_empty(), port.certificates.is_some()) {
        (false, false) => ", for whoever reaches it",
        (true, false) => ", for holders of a token",
        (false, true) => ", for holders of a certificate",
        (true, true) => ", for holders of a token or a certificate",
    }
}

fn tell_certificate(identity: &Identity) {
    let names = identity.names();
    let more = names.len().saturating_sub(NAMES);
    let shown = names.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    say(format_args!("       certificate for {shown}{more}, until {}", tls::day(identity.not_after())));
}

/// `adit agent check`.
pub(super) fn agent(args: RunAgentArgs) -> Result<(), Failure> {
    process::log(&args.agent.log)?;
    let config = args.into_config()?;
    config.client.check().map_err(crate::agent::StartError::from)?;
    tell_link(&config.client);
    for endpoint in &config.endpoints {
        say(format_args!("serve  {} from {} ({})", endpoint.name, endpoint.service, endpoint.kind.name()));
    }
    if let Some(address) = config.inspect {
        say(format_args!("inspect http://{address}/, for whoever is on this machine"));
    }
    tell_admin(config.admin);
    say("good   adit agent run would start with this");
    Ok(())
}

/// `adit forward check`.
pub(super) fn forward(args: RunForwardArgs) -> Result<(), Failure> {
    process::log(&args.forward.log)?;
    let config = args.into_config()?;
    config.client.check().map_err(crate::forward::StartError::from)?;
    tell_link(&config.client);
    for port in &config.ports {
        let kind = match port.kind {
            PortKind::Tcp => "tcp",
            PortKind::Udp { .. } => "udp",
        };
        let listen = port.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        say(format_args!("{kind}    {listen} to {}", port.endpoint));
    }
    tell_admin(config.admin);
    say("good   adit forward run would start with this");
    Ok(())
}

fn tell_admin(address: Option<SocketAddr>) {
    if let Some(address) = address {
        say(format_args!("admin  http://{address}/metrics, for whoever reaches it"));
    }
}

fn tell_link(config: &client::Config) {
    let over: &dyn fmt::Display = match config.transport {
        Transport::Auto => &"QUIC or WebSocket",
        Transport::Quic => &"QUIC",
        Transport::WebSocket => &"WebSocket",
    };
    say(format_args!("link   to {} over {over}", config.connect));
}
