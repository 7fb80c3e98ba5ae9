//! `adit forward`.

use std::time::Duration;

use super::{
    failure::Failure,
    process::{self, Signals},
    say,
};
use crate::{
    config::{ForwardTcpArgs, ForwardUdpArgs, RunForwardArgs},
    forward::{self, Forwarder, PortKind},
};

/// `adit forward tcp`.
pub(super) fn tcp(args: ForwardTcpArgs) -> Result<(), Failure> {
    process::log(&args.forward.log)?;
    let grace = args.forward.grace_period;
    start(args.into_config()?, grace)
}

/// `adit forward udp`.
pub(super) fn udp(args: ForwardUdpArgs) -> Result<(), Failure> {
    process::log(&args.forward.log)?;
    let grace = args.forward.grace_period;
    start(args.into_config()?, grace)
}

/// `adit forward run`.
pub(super) fn run(args: RunForwardArgs) -> Result<(), Failure> {
    process::log(&args.forward.log)?;
    let grace = args.forward.grace_period;
    start(args.into_config()?, grace)
}

fn start(config: forward::Config, grace: Duration) -> Result<(), Failure> {
    process::raise_file_limit();
    let ports = config.ports.clone();
    process::block_on(async {
        let mut signals = Signals::new()?;
        let forwarder = Forwarder::start(config).await?;
        // Opens the link now, so that the first connection need not wait and a wrong --connect is told at once.
        drop(forwarder.client().forwarder_state());
        if let Some(address) = forwarder.admin() {
            say(format_args!("admin  http://{address}/metrics"));
        }
        for (address, port) in forwarder.addresses().iter().zip(&ports) {
            let kind = match port.kind {
                PortKind::Tcp => "tcp",
                PortKind::Udp { .. } => "udp",
            };
            say(format_args!("{kind}    {address} to {}", port.endpoint));
        }
        signals.next().await;
        signals.leave(forwarder.drain(grace)).await
    })
}
