//! The registry of metrics, in the text format of Prometheus (OpenMetrics).

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, gauge::Gauge},
};

pub use prometheus_client::registry::Registry;

use super::{
    process::Process,
    queues::{Queue, Queues},
};

/// The registry of one node or agent. Clones are handles to the same one. Metrics register at start-up and keep their own
/// atomic handles, so that counting never comes here.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    queues: Queues,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::new()));
        let this = Self { registry: Arc::new(Mutex::new(registry)), queues: Queues::default() };
        this.register(|registry| registry.register_collector(Box::new(this.queues.clone())));
        this
    }
}

impl Metrics {
    /// Registers metrics, whose exported names begin with `adit_`.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        register(registry.sub_registry_with_prefix("adit"))
    }

    /// Has what a counter counts told as that of a queue that was full, whatever it is told as beside that.
    pub fn queue_full(&self, queue: Queue, counter: &Counter) {
        self.queues.add(queue, counter.clone());
    }

    /// How scrapes say what it is that they read.
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// All metrics, as a scrape sees them.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        match text::encode(&mut out, &registry) {
            Ok(()) => out,
            // Writing to a String cannot fail; a metric that refuses to be written is a fault of that metric.
            Err(std::fmt::Error) => {
                tracing::error!("a metric cannot be encoded");
                out
            }
        }
    }
}

/// Registers a counter; its exported name gets `_total`.
pub fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

/// Registers a gauge.
pub fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}
