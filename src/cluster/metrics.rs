//! What this module counts.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge, gauge::Gauge},
    registry::Registry,
};

use super::Shared;
use crate::{
    protocol::Phase,
    telemetry::{self, Metrics},
};

#[derive(Debug, Clone)]
pub(super) struct Counters {
    pub(super) peers: Gauge,
    pub(super) members: Gauge,
    pub(super) dropped: Counter,
    pub(super) membership: Carried,
    pub(super) routes: Carried,
}

/// Bytes each way.
#[derive(Debug, Clone)]
pub(super) struct Carried {
    sent: Counter,
    received: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

impl Carried {
    fn new(registry: &mut Registry, name: &str, help: &str) -> Self {
        let family = Family::<Direction, Counter>::default();
        registry.register(name, help, family.clone());
        let way = |direction| family.get_or_create_owned(&Direction { direction });
        Self { sent: way("sent"), received: way("received") }
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.inc_by(bytes as u64);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.inc_by(bytes as u64);
    }
}

impl Counters {
    pub(super) fn new(metrics: &Metrics, shared: &Arc<Shared>) -> Self {
        metrics.register(|registry| {
            registry.register_collector(Box::new(Nodes(Arc::clone(shared))));
            Self {
                peers: telemetry::gauge(registry, "peers", "Nodes that this node is linked to"),
                members: telemetry::gauge(
                    registry,
                    "members",
                    "Other nodes that membership holds to be in the cluster",
                ),
                dropped: telemetry::counter(
                    registry,
                    "membership_dropped",
                    "Membership messages that had no link to go by",
                ),
                membership: Carried::new(registry, "membership_bytes", "Bytes of membership messages"),
                routes: Carried::new(
                    registry,
                    "routes_bytes",
                    "Bytes by which nodes tell each other who serves what",
                ),
            }
        })
    }
}

/// The nodes in each phase, as a scrape sees them: this one, and those that it is linked to.
#[derive(Debug)]
struct Nodes(Arc<Shared>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

impl Collector for Nodes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut phases: Vec<Phase> = self.0.peers().values().map(|peer| peer.phase()).collect();
        phases.push(*self.0.phase.borrow());
        let help = "This node and those that it is linked to, by where they are in their life";
        let mut metric = encoder.encode_descriptor("nodes", help, None, MetricType::Gauge)?;
        for phase in [Phase::Starting, Phase::Ready, Phase::Draining] {
            let count = phases.iter().filter(|other| **other == phase).count() as u64;
            let label = PhaseLabel { phase: phase.name() };
            ConstGauge::new(count).encode(metric.encode_family(&label)?)?;
        }
        Ok(())
    }
}
