//! What this module counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use crate::{
    telemetry::{self, Metrics},
    transport::LinkCounters,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CodeLabel {
    pub(super) code: &'static str,
}

#[derive(Debug, Clone)]
pub(super) struct Counters {
    pub(super) links: LinkCounters,
    pub(super) endpoints: Gauge,
    pub(super) opened: Counter,
    pub(super) reused: Counter,
    pub(super) retries: Counter,
    pub(super) refusals: Family<CodeLabel, Counter>,
}

impl Counters {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let links = LinkCounters::new(metrics);
        metrics.register(|registry| {
            let refusals = Family::default();
            registry.register("flow_refusals", "Flows that an agent refused, by its code", refusals.clone());
            Self {
                links,
                endpoints: telemetry::gauge(
                    registry,
                    "endpoints",
                    "Endpoints that an agent of this node serves",
                ),
                opened: telemetry::counter(registry, "flows_opened", "Flows opened to agents"),
                reused: telemetry::counter(
                    registry,
                    "flows_reused",
                    "HTTP requests sent on a flow that was open already",
                ),
                retries: telemetry::counter(
                    registry,
                    "retries",
                    "Attempts after the first, of requests and flows",
                ),
                refusals,
            }
        })
    }
}
