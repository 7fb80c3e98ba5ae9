//! Timing and congestion control of links, which nodes, agents and forwarders share.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{ConfigError, duration};
use crate::transport::{self, Settings};

/// How links are kept.
#[derive(Debug, Clone, Args)]
pub struct LinkArgs {
    /// Speak on a silent link this often, so that NATs and firewalls keep it.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    keep_alive: Duration,
    /// Give up a link when nothing has come for so long.
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    idle_timeout: Duration,
    /// Fit what this side sends over QUIC to the path by this: bbr is many times faster where packets are lost for other
    /// reasons than full queues, such as radio, and unfair to others where queues are full.
    #[arg(long, value_enum, default_value = "cubic")]
    congestion_control: Congestion,
}

/// Congestion control, by its name.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Congestion {
    Cubic,
    Bbr,
}

impl LinkArgs {
    pub(super) fn settings(&self) -> Result<Settings, ConfigError> {
        let Self { keep_alive, idle_timeout, congestion_control } = *self;
        if keep_alive.is_zero() || keep_alive >= idle_timeout / 2 {
            return Err(ConfigError::KeepAlive { keep_alive, idle_timeout });
        }
        let congestion = match congestion_control {
            Congestion::Cubic => transport::Congestion::Cubic,
            Congestion::Bbr => transport::Congestion::Bbr,
        };
        Ok(Settings { keep_alive, idle_timeout, congestion, ..Settings::default() })
    }
}
