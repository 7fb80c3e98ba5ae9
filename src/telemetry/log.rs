//! Logs by `tracing`: one line an event on a terminal, one JSON object an event elsewhere.

use std::{
    fmt,
    io::{self, IsTerminal},
    str::FromStr,
    sync::Arc,
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Json, Writer},
    },
    registry::LookupSpan,
    reload::Handle,
};

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
        let builder = builder.map_event_format(Nested).with_filter_reloading();
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

/// JSON in which the header fields of a request are an object of their own. What logs them has them as text that is JSON: an
/// event's fields have no fields in turn, and their names are known when it is compiled.
struct Nested(Format<Json>);

/// The target and the field of such text.
const ACCESS: &str = "adit::access";
const HEADERS: &str = "headers";

impl<S, N> FormatEvent<S, N> for Nested
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut found = Headers(None);
        if event.metadata().target() == ACCESS {
            event.record(&mut found);
        }
        let Headers(Some(object)) = found else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let text = serde_json::Value::from(object.as_str());
        // Quotes are escaped within all that clients have sent, so this is the field and nothing else.
        let (from, to) = (format!("\"{HEADERS}\":{text}"), format!("\"{HEADERS}\":{object}"));
        writer.write_str(&line.replacen(&from, &to, 1))
    }
}

/// Finds that field in an event.
struct Headers(Option<String>);

impl Visit for Headers {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == HEADERS {
            self.0 = Some(format!("{value:?}"));
        }
    }
}

fn log<S: 'static>(handle: Handle<EnvFilter, S>) -> Log {
    Log(Arc::new(move |Filter(filter)| {
        // The subscriber is gone only where another was first.
        if let Err(error) = handle.reload(filter) {
            tracing::debug!(%error, "another log is written");
        }
    }))
}
