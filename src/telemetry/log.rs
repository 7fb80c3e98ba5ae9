//! Logs by `tracing`: one line an event on a terminal, one JSON object an event elsewhere.

use std::{
    fmt,
    io::{self, IsTerminal},
    str::FromStr,
    sync::Arc,
};

use tracing_subscriber::{EnvFilter, reload::Handle};

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

/// Which events are logged.
#[derive(Debug)]
pub struct Filter(EnvFilter);

impl FromStr for Filter {
    type Err = InvalidFilter;

    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        let filter = EnvFilter::try_new(text);
        filter.map(Self).map_err(|error| InvalidFilter { text: text.into(), reason: error.to_string() })
    }
}

/// The log of this process. Clones are handles to the same one.
#[derive(Clone)]
pub struct Log(Arc<dyn Fn(Filter) + Send + Sync>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Log {
    /// Logs other events from now on.
    pub fn replace(&self, filter: Filter) {
        (self.0)(filter);
    }
}

/// Starts logging for this process. A second call changes nothing.
///
/// # Errors
/// When the filter cannot be read.
pub fn init(format: LogFormat, filter: &str) -> Result<Log, InvalidFilter> {
    let Filter(filter) = filter.parse()?;
    let terminal = io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // They would go to standard error too: where that is closed, as with a terminal, to say so would be to panic.
        .log_internal_errors(false);
    let (started, log) = if json {
        let builder = builder.json().flatten_event(true).with_current_span(true).with_span_list(false);
        let builder = builder.with_filter_reloading();
        let log = log(builder.reload_handle());
        (builder.try_init(), log)
    } else {
        let builder = builder.with_ansi(terminal).with_filter_reloading();
        let log = log(builder.reload_handle());
        (builder.try_init(), log)
    };
    if started.is_err() {
        tracing::debug!("logging had been started before");
    }
    Ok(log)
}

fn log<S: 'static>(handle: Handle<EnvFilter, S>) -> Log {
    Log(Arc::new(move |Filter(filter)| {
        // The subscriber is gone only where another was first.
        if let Err(error) = handle.reload(filter) {
            tracing::debug!(%error, "another log is written");
        }
    }))
}
