//! What an agent counts of its services, beside what its client counts of links.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::StatusCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::{
    auth::Denied,
    protocol::{Code, Kind},
    telemetry::{Drains, Metrics, Reloads, Tally, Traffic},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PortLabel {
    port: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HealthLabel {
    health: &'static str,
}

/// Bounds in seconds, those of a node.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// Classes of status (RFC 9110 §15).
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The kinds of flows that nodes open.
const KINDS: [Kind; 5] = [Kind::Http, Kind::Http2, Kind::Http2Tls, Kind::Tcp, Kind::Udp];

/// The counts. Clones count together.
#[derive(Debug, Clone)]
pub(super) struct Counters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    traffic: Traffic,
    /// Those that are open and all that were, by the name of their kind.
    flows: BTreeMap<&'static str, (Gauge, Counter)>,
    requests: [Counter; CLASSES.len()],
    until_headers: Histogram,
    connect_failures: Family<CodeLabel, Counter>,
    denied: Family<PortLabel, Counter>,
    services: [Gauge; Health::ALL.len()],
    reloads: Reloads,
    drains: Drains,
}

impl Counters {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let (traffic, reloads, drains) = (Traffic::new(metrics), Reloads::new(metrics), Drains::new(metrics));
        metrics.register(|registry| {
            let (open, opened) = (Family::<_, Gauge>::default(), Family::<_, Counter>::default());
            let help = "Flows that are joined to a service, by what they carry";
            registry.register("service_flows_open", help, open.clone());
            let help = "Flows that were joined to a service, by what they carry";
            registry.register("service_flows_opened", help, opened.clone());
            let flows = KINDS.map(Kind::name).map(|kind| {
                let label = KindLabel { kind };
                (kind, (open.get_or_create_owned(&label), opened.get_or_create_owned(&label)))
            });
            let requests = Family::<_, Counter>::default();
            let help =
                "Requests that this agent has read and passed to a service, by the class of its status";
            registry.register("service_requests", help, requests.clone());
            let until_headers = Histogram::new(BUCKETS);
            let help = "Time from such a request's head to the head of the service's response";
            registry.register("service_response_headers_seconds", help, until_headers.clone());
            let connect_failures = Family::default();
            let help = "Flows for which the service could not be reached, by the code that the node was told";
            registry.register("service_connect_failures", help, connect_failures.clone());
            let denied = Family::default();
            let help = "Requests and flows that a door has not let in, by why";
            registry.register("auth_refused", help, denied.clone());
            let services = Family::<_, Gauge>::default();
            let help = "Services by their health check: up, down, or not checked";
            registry.register("services", help, services.clone());
            Self(Arc::new(Inner {
                traffic,
                flows: BTreeMap::from(flows),
                requests: CLASSES.map(|status| requests.get_or_create_owned(&StatusLabel { status })),
                until_headers,
                connect_failures,
                denied,
                services: Health::ALL
                    .map(|health| services.get_or_create_owned(&HealthLabel { health: health.name() })),
                reloads,
                drains,
            }))
        })
    }

    pub(super) fn reloads(&self) -> &Reloads {
        &self.0.reloads
    }

    pub(super) fn drains(&self) -> &Drains {
        &self.0.drains
    }

    /// Where bytes of flows of a kind are counted.
    pub(super) fn tally(&self, kind: Kind) -> &Tally {
        let Traffic { http, tcp, udp } = &self.0.traffic;
        match kind {
            Kind::Udp => udp,
            kind if kind.is_http() => http,
            _ => tcp,
        }
    }

    /// Counts a flow as open until the answer is dropped.
    pub(super) fn open(&self, kind: Kind) -> Open {
        let counted = self.0.flows.get(kind.name());
        if let Some((open, opened)) = counted {
            open.inc();
            opened.inc();
        }
        Open(counted.map(|(open, _)| open.clone()))
    }

    /// The service of a flow cannot be reached.
    pub(super) fn unreached(&self, code: Code) {
        self.0.connect_failures.get_or_create(&CodeLabel { code: code.name() }).inc();
    }

    /// A door does not let a request or a flow in.
    pub(super) fn denied(&self, denied: Denied) {
        self.0.denied.get_or_create(&PortLabel { port: "agent", reason: denied.code() }).inc();
    }

    /// A service has begun to respond to a request.
    pub(super) fn responded(&self, status: StatusCode, after: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.0.requests[class].inc();
        self.0.until_headers.observe(after.as_secs_f64());
    }

    /// One service more, of which nothing is told yet.
    pub(super) fn service(&self) -> Service {
        Service { counters: self.clone(), health: Mutex::default() }
    }
}

/// An open flow.
#[derive(Debug)]
pub(super) struct Open(Option<Gauge>);

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(open) = &self.0 {
            open.dec();
        }
    }
}

/// How a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Up,
    Down,
    /// It has no health check.
    Unchecked,
}

impl Health {
    const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Unchecked];

    fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unchecked => "unchecked",
        }
    }
}

/// One service among those that are counted.
#[derive(Debug)]
pub(super) struct Service {
    counters: Counters,
    health: Mutex<Option<Health>>,
}

impl Service {
    /// Counts it as this from now on; as nothing when it is not served.
    pub(super) fn is(&self, health: Option<Health>) {
        let was = std::mem::replace(&mut *self.health.lock().unwrap_or_else(PoisonError::into_inner), health);
        let gauge = |health: Health| &self.counters.0.services[health as usize];
        if let Some(was) = was {
            gauge(was).dec();
        }
        if let Some(health) = health {
            gauge(health).inc();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.is(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_is_counted_as_what_it_is_until_it_is_served_no_more() {
        let metrics = Metrics::default();
        let counters = Counters::new(&metrics);
        let counts = || {
            let scrape = metrics.encode();
            Health::ALL.map(|health| {
                let name = format!("adit_services{{health=\"{}\"}} ", health.name());
                scrape.lines().find_map(|line| line.strip_prefix(&name)?.parse::<i64>().ok()).unwrap()
            })
        };
        let (one, other) = (counters.service(), counters.service());
        assert_eq!(counts(), [0, 0, 0]);
        one.is(Some(Health::Down));
        other.is(Some(Health::Unchecked));
        one.is(Some(Health::Up));
        one.is(Some(Health::Up));
        assert_eq!(counts(), [1, 0, 1]);
        other.is(None);
        drop(one);
        assert_eq!(counts(), [0, 0, 0]);
    }
}
