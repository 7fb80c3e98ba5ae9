//! What this module counts.

use std::{collections::BTreeMap, sync::Arc};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use crate::{
    protocol::Kind,
    telemetry::{self, Metrics},
    transport::LinkCounters,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CodeLabel {
    pub(super) code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabel {
    pub(super) kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RoleLabel {
    pub(super) role: &'static str,
}

#[derive(Debug, Clone)]
pub(super) struct Counters {
    pub(super) links: LinkCounters,
    pub(super) endpoints: Gauge,
    /// By what they carry. None is looked up in a family for each flow.
    pub(super) opened: Arc<BTreeMap<&'static str, Counter>>,
    pub(super) reused: Counter,
    pub(super) retries: Counter,
    /// By role.
    pub(super) returned: Family<RoleLabel, Counter>,
    pub(super) refusals: Family<CodeLabel, Counter>,
}

impl Counters {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let links = LinkCounters::new(metrics);
        metrics.register(|registry| {
            let refusals = Family::default();
            registry.register("flow_refusals", "Flows that an agent refused, by its code", refusals.clone());
            let returned = Family::default();
            registry.register(
                "links_returned",
                "Links by agents and forwarders that have one, or had one within ten minutes",
                returned.clone(),
            );
            let family = Family::<KindLabel, Counter>::default();
            registry.register("flows_opened", "Flows opened to agents, by what they carry", family.clone());
            let kinds = [Kind::Http, Kind::Http2, Kind::Http2Tls, Kind::Tcp, Kind::Udp].map(Kind::name);
            let opened = kinds.map(|kind| (kind, family.get_or_create_owned(&KindLabel { kind })));
            let opened = Arc::new(BTreeMap::from(opened));
            Self {
                links,
                endpoints: telemetry::gauge(
                    registry,
                    "endpoints",
                    "Endpoints that an agent of this node serves",
                ),
                opened,
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
                returned,
                refusals,
            }
        })
    }
}
