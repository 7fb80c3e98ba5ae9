//! What the edge counts.

use std::time::Duration;

use http::{StatusCode, Version};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::telemetry::{self, Metrics};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    protocol: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DoorLabels {
    door: &'static str,
    outcome: &'static str,
}

/// Classes of status (RFC 9110 §15).
pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The place of a status among [`CLASSES`].
pub(super) fn class(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1
}

/// Bounds in seconds: a local service answers in under a millisecond, a busy one in seconds.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

#[derive(Debug, Clone)]
pub(super) struct Counters {
    requests: Family<Labels, Counter>,
    refused: Family<Reason, Counter>,
    pub(super) connections: Gauge,
    in_flight: Gauge,
    until_headers: Histogram,
    joined: Family<DoorLabels, Counter>,
}

impl Counters {
    pub(super) fn new(metrics: &Metrics) -> Self {
        metrics.register(|registry| {
            let requests = Family::default();
            registry.register(
                "requests",
                "Requests answered, by protocol and class of status",
                requests.clone(),
            );
            let refused = Family::default();
            registry.register(
                "edge_refused",
                "Requests and connections that were refused or ended for what their clients did",
                refused.clone(),
            );
            let until_headers = Histogram::new(BUCKETS);
            registry.register(
                "response_headers_seconds",
                "Time from a request's head to its response's head",
                until_headers.clone(),
            );
            let joined = Family::default();
            registry.register(
                "tcp_connections",
                "Connections that are passed on as they are, by door and outcome",
                joined.clone(),
            );
            Self {
                requests,
                refused,
                connections: telemetry::gauge(
                    registry,
                    "edge_connections",
                    "Connections of clients that are open",
                ),
                in_flight: telemetry::gauge(
                    registry,
                    "requests_in_flight",
                    "Requests whose response has not begun",
                ),
                until_headers,
                joined,
            }
        })
    }

    /// Counts a connection of a door: `joined`, or why not.
    pub(super) fn connection(&self, door: &'static str, outcome: &'static str) {
        self.joined.get_or_create(&DoorLabels { door, outcome }).inc();
    }

    /// Counts a request as in flight until the answer is dropped.
    pub(super) fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts what a client is refused for, by the code of the error or the limit.
    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    pub(super) fn answered(&self, version: Version, status: StatusCode, time: Duration) {
        let protocol = match version {
            Version::HTTP_3 => "h3",
            Version::HTTP_2 => "h2",
            _ => "h1",
        };
        let status = CLASSES[class(status)];
        self.requests.get_or_create(&Labels { protocol, status }).inc();
        self.until_headers.observe(time.as_secs_f64());
    }
}

#[derive(Debug)]
pub(super) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
