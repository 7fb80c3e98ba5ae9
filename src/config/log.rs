//! The flags of every command that logs.

use clap::Args;

use crate::telemetry::LogFormat;

/// How the process logs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// What to log to standard error: error, warn, info, debug, trace, or a list such as "info,adit::client=debug".
    #[arg(long = "log-level", value_name = "LEVEL", default_value = "info")]
    pub level: String,
    /// One readable line an event, one JSON object an event, or (auto) text on a terminal and JSON elsewhere.
    #[arg(
        long = "log-format",
        value_name = "FORMAT",
        value_enum,
        hide_possible_values = true,
        default_value = "auto"
    )]
    pub format: LogFormat,
}
