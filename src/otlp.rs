//! Sends spans to a receiver of OTLP (<https://opentelemetry.io/docs/specs/otlp/>): protobuf over HTTP.
//!
//! Driven by `node` and `agent`, which hand its tracer to whoever serves and end it last. Only with the cargo feature `otlp`:
//! without it no receiver can be named, and all the rest is as with it. Spans wait in a queue with a bound; a receiver that is
//! slow or gone costs spans, which are counted, and never holds anything else up.

#[cfg(feature = "otlp")]
mod encode;
#[cfg(feature = "otlp")]
mod receiver;
#[cfg(feature = "otlp")]
mod sender;
#[cfg(not(feature = "otlp"))]
mod without;

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

#[cfg(feature = "otlp")]
pub use receiver::Receiver;
#[cfg(feature = "otlp")]
use sender::send;
#[cfg(not(feature = "otlp"))]
pub use without::Receiver;
#[cfg(not(feature = "otlp"))]
use without::send;

use crate::{
    drain::Tasks,
    telemetry::{
        self, Metrics,
        trace::{Settings, Tracer},
    },
    tls,
};

/// How many spans wait at most: what a busy node makes in a second. Each has about half a kilobyte.
const QUEUE: usize = 8192;

/// How long whatever is left may take to be sent when the process leaves.
const LAST: Duration = Duration::from_secs(3);

/// Where spans go, and which there are.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who takes them.
    pub receiver: Receiver,
    /// Which are made.
    pub settings: Settings,
}

/// Why a text names no receiver.
#[derive(Debug, thiserror::Error)]
pub enum InvalidReceiver {
    /// The program cannot send spans.
    #[error(
        "this adit is built without it: `cargo build --release --features otlp` makes one that sends spans"
    )]
    Without,
    /// It is no URL of a kind that is understood.
    #[error(
        "expected http://HOST:PORT or https://HOST:PORT of a receiver of OTLP over HTTP, usually at port 4318"
    )]
    Form,
    /// A name and a password in the URL, or a query.
    #[error(
        "a receiver's URL has no name, password or query: such secrets belong into a collector beside adit"
    )]
    Secret,
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] tls::ConfigError),
}

/// Who makes the spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// What it is: `adit-node` or `adit-agent`.
    pub service: &'static str,
    /// Which of those.
    pub instance: String,
}

/// What becomes of spans.
#[derive(Debug, Clone, Default)]
struct Counters {
    #[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "nobody sends any"))]
    exported: Counter,
    dropped: Counter,
}

/// Sends spans while it is there.
#[derive(Debug)]
pub struct Exporter {
    tasks: Tasks,
}

impl Exporter {
    /// Starts to send, if there is anybody to send to, and gives what makes the spans. Must be called inside a tokio runtime.
    pub fn start(config: Option<Config>, resource: Resource, metrics: Option<&Metrics>) -> (Tracer, Self) {
        let counters = metrics.map_or_else(Counters::default, Counters::new);
        let exporter = Self { tasks: Tasks::new() };
        let Some(Config { receiver, settings }) = config else { return (Tracer::default(), exporter) };
        tracing::info!(%receiver, sample = settings.sample, "spans are sent");
        let (tracer, queue) = Tracer::new(settings, QUEUE, counters.dropped.clone());
        let sending = send(receiver, resource, queue, counters, exporter.tasks.clone());
        exporter.tasks.spawn(sending);
        (tracer, exporter)
    }

    /// Sends what is there, for a little while, and ends.
    pub async fn finish(&self) {
        if let Err(aborted) = self.tasks.finish(LAST).await {
            tracing::warn!(%aborted, "the last spans could not be sent");
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

impl Counters {
    fn new(metrics: &Metrics) -> Self {
        metrics.register(|registry| Self {
            exported: telemetry::counter(
                registry,
                "trace_spans_exported",
                "Spans that the receiver of --otlp-endpoint has taken",
            ),
            dropped: telemetry::counter(
                registry,
                "trace_spans_dropped",
                "Spans that it has not taken, or that did not fit the queue to it",
            ),
        })
    }
}
