//! Logs by `tracing`: one line an event on a terminal, one JSON object an event elsewhere.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// How events are written. They always go to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// `text` on a terminal, `json` elsewhere.
    #[default]
    Auto,
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// A `--log-level` that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log-level {text:?} is not a level or a list of module=level, such as \"info,adit::edge=debug\": {reason}"
)]
pub struct InvalidFilter {
    text: String,
    reason: String,
}

/// Starts logging for this process. A second call changes nothing.
///
/// # Errors
/// When the filter cannot be read.
pub fn init(format: LogFormat, filter: &str) -> Result<(), InvalidFilter> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| InvalidFilter { text: filter.into(), reason: error.to_string() })?;
    let terminal = io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        builder.with_ansi(terminal).try_init()
    };
    if started.is_err() {
        tracing::debug!("logging had been started before");
    }
    Ok(())
}
