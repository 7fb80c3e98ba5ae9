//! `adit node`.

use super::{
    failure::Failure,
    process::{self, Signals},
    say,
};
use crate::{
    config::NodeArgs,
    node::{Addresses, Node},
};

pub(super) fn run(args: NodeArgs) -> Result<(), Failure> {
    process::log(&args.log)?;
    let config = args.into_config()?;
    process::raise_file_limit();
    process::block_on(async {
        let mut signals = Signals::new()?;
        let node = Node::start(config).await?;
        tell(node.addresses());
        for port in node.udp_ports() {
            say(format_args!("udp    {} to {}", port.listen, port.endpoint));
        }
        signals.next().await;
        signals.leave(node.drain()).await
    })
}

/// One line a port: its name, and its address as bound.
pub(super) fn tell(addresses: &Addresses) {
    say(format_args!("edge   http://{}", addresses.edge));
    if let Some(edge) = addresses.edge_tls {
        say(format_args!("edge   https://{edge}"));
    }
    say(format_args!("link   quic://{}", addresses.link));
    say(format_args!("admin  http://{}", addresses.admin));
    if let Some(peer) = addresses.peer {
        say(format_args!("peer   quic://{peer}"));
    }
}
