//! The timing of links, which nodes, agents and forwarders share.

use std::time::Duration;

use clap::Args;

use super::{ConfigError, duration};
use crate::transport::Settings;

/// How links are kept.
#[derive(Debug, Clone, Args)]
pub struct LinkArgs {
    /// Speak on a silent link this often, so that NATs and firewalls keep it.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    keep_alive: Duration,
    /// Give up a link when nothing has come for so long.
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    idle_timeout: Duration,
}

impl LinkArgs {
    pub(super) fn settings(&self) -> Result<Settings, ConfigError> {
        let Self { keep_alive, idle_timeout } = *self;
        if keep_alive.is_zero() || keep_alive >= idle_timeout / 2 {
            return Err(ConfigError::KeepAlive { keep_alive, idle_timeout });
        }
        Ok(Settings { keep_alive, idle_timeout, ..Settings::default() })
    }
}
