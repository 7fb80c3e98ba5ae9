//! What a client counts, in a registry of its own.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use crate::{
    protocol::Refusal,
    telemetry::{Metrics, Queue},
    transport::LinkCounters,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// The counts. Clones count together.
#[derive(Debug, Clone)]
pub(super) struct Counters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: Metrics,
    links: LinkCounters,
    flow_refusals: Family<CodeLabel, Counter>,
    listen_refusals: Family<CodeLabel, Counter>,
    link_failures: Family<ReasonLabel, Counter>,
    reconnects: Family<ReasonLabel, Counter>,
    backlog_full: Counter,
}

impl Default for Counters {
    fn default() -> Self {
        let metrics = Metrics::default();
        let links = LinkCounters::new(&metrics);
        let backlog_full = Counter::default();
        metrics.queue_full(Queue::Flows, &backlog_full);
        let (flow_refusals, listen_refusals) = (Family::default(), Family::default());
        let (link_failures, reconnects) = (Family::default(), Family::default());
        metrics.register(|registry| {
            let help = "Flows that an agent refused, by its code";
            registry.register("flow_refusals", help, flow_refusals.clone());
            let help = "Endpoints that a node has refused to send flows for, each time that it was asked";
            registry.register("listen_refusals", help, listen_refusals.clone());
            let help = "Attempts to have a link that came to nothing";
            registry.register("link_failures", help, link_failures.clone());
            let help = "Links that have taken the place of one before, by why that was";
            registry.register("reconnects", help, reconnects.clone());
        });
        Self(Arc::new(Inner {
            metrics,
            links,
            flow_refusals,
            listen_refusals,
            link_failures,
            reconnects,
            backlog_full,
        }))
    }
}

impl Counters {
    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(super) fn links(&self) -> &LinkCounters {
        &self.0.links
    }

    /// This side refuses a flow.
    pub(super) fn flow_refused(&self, refusal: &Refusal) {
        self.0.flow_refusals.get_or_create(&CodeLabel { code: refusal.code.name() }).inc();
    }

    /// A listener has no room for a flow.
    pub(super) fn backlog_full(&self) {
        self.0.backlog_full.inc();
    }

    /// A node refuses a listen.
    pub(super) fn listen_refused(&self, refusal: &Refusal) {
        self.0.listen_refusals.get_or_create(&CodeLabel { code: refusal.code.name() }).inc();
    }

    /// There is no link yet.
    pub(super) fn link_failed(&self, reason: &'static str) {
        self.0.link_failures.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A link is there in the place of another.
    pub(super) fn reconnected(&self, reason: &'static str) {
        self.0.reconnects.get_or_create(&ReasonLabel { reason }).inc();
    }
}
