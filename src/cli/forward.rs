//! `adit forward`.

use std::time::Duration;

use super::{
    failure::Failure,
    process::{self, Signals},
    say,
};
use crate::{
    config::{ForwardTcpArgs, RunForwardArgs},
    forward::{self, Forwarder},
};

/// `adit forward tcp`.
pub(super) fn tcp(args: ForwardTcpArgs) -> Result<(), Failure> {
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
    let endpoints: Vec<_> = config.ports.iter().map(|port| port.endpoint.clone()).collect();
    process::block_on(async {
        let mut signals = Signals::new()?;
        let forwarder = Forwarder::start(config).await?;
        // Opens the link now, so that the first connection need not wait and a wrong --connect is told at once.
        drop(forwarder.client().forwarder_state());
        for (address, endpoint) in forwarder.addresses().iter().zip(&endpoints) {
            say(format_args!("tcp    {address} to {endpoint}"));
        }
        signals.next().await;
        signals.leave(forwarder.drain(grace)).await
    })
}
