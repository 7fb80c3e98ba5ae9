//! Counts of the edge by endpoint, where the operator has asked for them: so many endpoints at most, since each is a series that
//! whoever scrapes keeps. An endpoint gets one with its first request or connection while an agent serves it, so that names
//! which clients make up get none; all others are counted together, as [`OTHERS`].

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use http::StatusCode;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};

use super::metrics::{CLASSES, class};
use crate::{telemetry::Metrics, upstream::Name};

/// What endpoints are called that have no series of their own. No endpoint can have this name.
const OTHERS: &str = "*";

/// The counts. Clones are handles to the same.
#[derive(Debug, Clone)]
pub(super) struct ByEndpoint(Option<Arc<All>>);

#[derive(Debug)]
struct All {
    most: usize,
    known: ArcSwap<HashMap<Name, Arc<Counts>>>,
    /// Held while one is added.
    adding: Mutex<()>,
    others: Arc<Counts>,
}

/// Those of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// By class, `1xx` first.
    responses: [AtomicU64; CLASSES.len()],
    joined: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    pub(super) fn answered(&self, status: StatusCode) {
        self.responses[class(status)].fetch_add(1, Relaxed);
    }

    pub(super) fn connection(&self, joined: bool) {
        let count = if joined { &self.joined } else { &self.failed };
        count.fetch_add(1, Relaxed);
    }
}

impl ByEndpoint {
    /// Counts for so many endpoints at most; none at all for 0.
    pub(super) fn new(most: usize, metrics: &Metrics) -> Self {
        if most == 0 {
            return Self(None);
        }
        let all = Arc::new(All {
            most,
            known: ArcSwap::default(),
            adding: Mutex::default(),
            others: Arc::default(),
        });
        metrics.register(|registry| registry.register_collector(Box::new(Shown(Arc::clone(&all)))));
        Self(Some(all))
    }

    /// Those of an endpoint, which an agent may serve or not.
    pub(super) fn of(&self, name: &Name, is_served: impl FnOnce() -> bool) -> Option<Arc<Counts>> {
        let all = self.0.as_ref()?;
        let known = all.known.load();
        if let Some(counts) = known.get(name) {
            return Some(Arc::clone(counts));
        }
        if known.len() >= all.most || !is_served() {
            return Some(Arc::clone(&all.others));
        }
        let _adding = all.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.known.load();
        if let Some(counts) = known.get(name) {
            return Some(Arc::clone(counts));
        }
        if known.len() >= all.most {
            return Some(Arc::clone(&all.others));
        }
        let (mut more, counts) = (HashMap::clone(&known), Arc::<Counts>::default());
        more.insert(name.clone(), Arc::clone(&counts));
        all.known.store(Arc::new(more));
        Some(counts)
    }
}

#[derive(Debug)]
struct Shown(Arc<All>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let known = self.0.known.load();
        let named = known.iter().map(|(name, counts)| (name.tenant.as_str(), name.endpoint.as_str(), counts));
        let all: Vec<_> = named.chain([(OTHERS, OTHERS, &self.0.others)]).collect();
        let help = "Requests answered, by endpoint and class of status";
        let mut metric = encoder.encode_descriptor("endpoint_requests", help, None, MetricType::Counter)?;
        for (tenant, endpoint, counts) in &all {
            for (status, count) in CLASSES.into_iter().zip(&counts.responses) {
                let count = count.load(Relaxed);
                if count > 0 {
                    let labels = [("tenant", *tenant), ("endpoint", *endpoint), ("status", status)];
                    ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
                }
            }
        }
        let help = "Connections that are passed on as they are, by endpoint";
        let mut metric =
            encoder.encode_descriptor("endpoint_connections", help, None, MetricType::Counter)?;
        for (tenant, endpoint, counts) in &all {
            for (outcome, count) in [("joined", &counts.joined), ("failed", &counts.failed)] {
                let count = count.load(Relaxed);
                if count > 0 {
                    let labels = [("tenant", *tenant), ("endpoint", *endpoint), ("outcome", outcome)];
                    ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{EndpointId, TenantId};

    fn name(endpoint: &str) -> Name {
        Name { tenant: TenantId::default(), endpoint: EndpointId::new(endpoint).unwrap() }
    }

    fn series(metrics: &Metrics) -> Vec<String> {
        let scrape = metrics.encode();
        let lines = scrape.lines().filter(|line| line.starts_with("adit_endpoint_"));
        lines.map(ToOwned::to_owned).collect()
    }

    #[test]
    fn ten_thousand_endpoints_are_as_many_series_as_were_asked_for_and_one_for_the_others() {
        let metrics = Metrics::default();
        let counts = ByEndpoint::new(100, &metrics);
        for _ in 0..2 {
            for number in 0..10_000 {
                let of = counts.of(&name(&format!("service-{number}")), || true).unwrap();
                of.answered(StatusCode::OK);
            }
        }
        let series = series(&metrics);
        assert_eq!(series.len(), 101, "{series:?}");
        let others = r#"adit_endpoint_requests_total{tenant="*",endpoint="*",status="2xx"} 19800"#;
        assert!(series.iter().any(|line| line == others), "{series:?}");
        let first = r#"adit_endpoint_requests_total{tenant="default",endpoint="service-0",status="2xx"} 2"#;
        assert!(series.iter().any(|line| line == first), "{series:?}");
    }

    #[test]
    fn names_that_nobody_serves_get_no_series_and_none_does_unless_asked_for() {
        let metrics = Metrics::default();
        let counts = ByEndpoint::new(2, &metrics);
        for number in 0..10 {
            let of = counts.of(&name(&format!("made-up-{number}")), || false).unwrap();
            of.answered(StatusCode::NOT_FOUND);
        }
        counts.of(&name("web"), || true).unwrap().connection(true);
        counts.of(&name("web"), || false).unwrap().connection(false);
        assert_eq!(
            series(&metrics),
            [
                r#"adit_endpoint_requests_total{tenant="*",endpoint="*",status="4xx"} 10"#,
                r#"adit_endpoint_connections_total{tenant="default",endpoint="web",outcome="joined"} 1"#,
                r#"adit_endpoint_connections_total{tenant="default",endpoint="web",outcome="failed"} 1"#,
            ]
        );
        let metrics = Metrics::default();
        assert!(ByEndpoint::new(0, &metrics).of(&name("web"), || true).is_none());
        assert!(!metrics.encode().contains("adit_endpoint_"));
    }
}
