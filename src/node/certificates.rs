//! When the certificates of a node's ports end, for operators and scrapes.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use tokio::sync::watch;

use super::Config;
use crate::{admin::Certificate, telemetry::Metrics, tls::Identity};

/// Those that are shown from now on, whatever those show that stand.
#[derive(Debug, Clone)]
pub(super) struct Certificates(watch::Sender<Vec<Certificate>>);

impl Certificates {
    pub(super) fn new(config: &Config, metrics: &Metrics) -> Self {
        let this = Self(watch::Sender::new(all(config)));
        metrics.register(|registry| registry.register_collector(Box::new(this.clone())));
        this
    }

    /// A port that was not there at the start comes with the next one.
    pub(super) fn replace(&self, config: &Config) {
        let mut now = all(config);
        self.0.send_modify(|shown| {
            now.retain(|new| shown.iter().any(|old| old.port == new.port));
            *shown = now;
        });
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Vec<Certificate>> {
        self.0.subscribe()
    }
}

fn all(config: &Config) -> Vec<Certificate> {
    let edge = config.edge.tls.iter().flat_map(|tls| &tls.identities).map(|identity| ("edge", identity));
    let peer = config.cluster_links.iter().map(|peers| ("peer", &peers.identity));
    let admin = config.admin.tls.iter().map(|tls| ("admin", &tls.identity));
    edge.chain([("link", &config.link.identity)])
        .chain(admin)
        .chain(peer)
        .map(|(port, of)| certificate(port, of))
        .collect()
}

fn certificate(port: &'static str, identity: &Identity) -> Certificate {
    Certificate { port, names: identity.names(), not_after: unix(identity.not_after()) }
}

/// Seconds since 1970, which some certificates begin and end before.
fn unix(time: SystemTime) -> i64 {
    let seconds = |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => seconds(since),
        Err(before) => -seconds(before.duration()),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PortLabel {
    port: &'static str,
}

/// The first to end of each port.
impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "When the certificate of a port ends, the first of several, in seconds since 1970";
        let mut metric = encoder.encode_descriptor(
            "certificate_not_after_timestamp_seconds",
            help,
            None,
            MetricType::Gauge,
        )?;
        let all = self.0.borrow();
        for port in ["admin", "edge", "link", "peer"] {
            let ends = all.iter().filter(|certificate| certificate.port == port);
            if let Some(first) = ends.map(|certificate| certificate.not_after).min() {
                ConstGauge::new(first).encode(metric.encode_family(&PortLabel { port })?)?;
            }
        }
        Ok(())
    }
}
