//! What ends a UDP association, for agents, forwarders and nodes.

use std::time::Duration;

use clap::Args;

use super::duration;

/// How UDP associations are kept.
#[derive(Debug, Clone, Args)]
pub struct UdpArgs {
    /// End a UDP client's association when no packet has passed for so long.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    pub(super) udp_idle: Duration,
}

impl Default for UdpArgs {
    fn default() -> Self {
        Self { udp_idle: Duration::from_secs(60) }
    }
}
