//! What links carry and how well, as a scrape sees it: by role and by what they run over.
//!
//! Whoever runs a link has it metered until it ends. Figures of links that stand are read when somebody asks, and what they had
//! carried when they ended is kept as a sum, so that counts never fall. The lock is taken as links begin and end, and by scrapes.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{Link, Stats};
use crate::telemetry::Metrics;

/// The links of one process. Clones are handles to the same ones.
#[derive(Debug, Clone, Default)]
pub struct Meters(Arc<Mutex<Metered>>);

#[derive(Debug, Default)]
struct Metered {
    last: u64,
    standing: BTreeMap<u64, (Kind, Link)>,
    /// What those have carried that have ended.
    ended: BTreeMap<Kind, Carried>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Kind {
    role: &'static str,
    transport: &'static str,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Carried {
    links: u64,
    sent_packets: u64,
    lost_packets: u64,
    received_packets: u64,
    sent_bytes: u64,
    received_bytes: u64,
    cut_flows: u64,
}

impl Carried {
    fn add(&mut self, stats: &Stats) {
        self.links += 1;
        self.sent_packets += stats.sent_packets;
        self.lost_packets += stats.lost_packets;
        self.received_packets += stats.received_packets;
        self.sent_bytes += stats.sent_bytes;
        self.received_bytes += stats.received_bytes;
        self.cut_flows += stats.cut_flows;
    }
}

impl Meters {
    /// No link yet.
    pub fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(|registry| registry.register_collector(Box::new(this.clone())));
        this
    }

    fn lock(&self) -> MutexGuard<'_, Metered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a link until the answer is dropped. `role` is that of its other end.
    pub fn meter(&self, role: &'static str, link: &Link) -> Meter {
        let mut all = self.lock();
        all.last += 1;
        let number = all.last;
        all.standing.insert(number, (Kind { role, transport: link.transport() }, link.clone()));
        Meter { number, all: self.clone() }
    }
}

/// A link that is counted.
#[derive(Debug)]
pub struct Meter {
    number: u64,
    all: Meters,
}

impl Drop for Meter {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some((kind, link)) = all.standing.remove(&self.number) {
            all.ended.entry(kind).or_default().add(&link.stats());
        }
    }
}

/// A kind of link, as a scrape sees it.
#[derive(Debug, Default)]
struct Seen {
    links: u64,
    carried: Carried,
    /// Of the links that stand, the least first.
    round_trips: Vec<Duration>,
    windows: Vec<u64>,
}

impl Metered {
    fn seen(&self) -> BTreeMap<Kind, Seen> {
        let ended =
            |(kind, carried): (&Kind, &Carried)| (*kind, Seen { carried: *carried, ..Seen::default() });
        let mut all: BTreeMap<Kind, Seen> = self.ended.iter().map(ended).collect();
        for (kind, link) in self.standing.values() {
            let (seen, stats) = (all.entry(*kind).or_default(), link.stats());
            seen.links += 1;
            seen.carried.add(&stats);
            seen.round_trips.push(stats.rtt);
            seen.windows.extend(stats.congestion_window);
        }
        for seen in all.values_mut() {
            seen.round_trips.sort_unstable();
            seen.windows.sort_unstable();
        }
        all
    }
}

/// The value below which that share of the sorted ones is, themselves included.
fn quantile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let place = (share * sorted.len() as f64).ceil().max(1.0) as usize - 1;
    sorted.get(place).copied()
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Directed {
    role: &'static str,
    transport: &'static str,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Quantile {
    role: &'static str,
    transport: &'static str,
    quantile: &'static str,
}

impl Collector for Meters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.lock().seen();
        let help = "Links that stand, by the role of their other end and what they run over";
        let mut metric = encoder.encode_descriptor("links", help, None, MetricType::Gauge)?;
        for (kind, seen) in &all {
            ConstGauge::new(seen.links).encode(metric.encode_family(kind)?)?;
        }
        let help = "Links that have come up, those that have ended among them";
        let mut metric = encoder.encode_descriptor("links_opened", help, None, MetricType::Counter)?;
        for (kind, seen) in &all {
            ConstCounter::new(seen.carried.links).encode(metric.encode_family(kind)?)?;
        }
        let directed =
            |kind: &Kind, direction| Directed { role: kind.role, transport: kind.transport, direction };
        let help = "Packets of links, sent and received";
        let mut metric = encoder.encode_descriptor("link_packets", help, None, MetricType::Counter)?;
        for (kind, Seen { carried, .. }) in &all {
            for (direction, packets) in
                [("sent", carried.sent_packets), ("received", carried.received_packets)]
            {
                ConstCounter::new(packets).encode(metric.encode_family(&directed(kind, direction))?)?;
            }
        }
        let help = "Bytes of links, sent and received, with headers and what was sent again";
        let mut metric = encoder.encode_descriptor("link_bytes", help, None, MetricType::Counter)?;
        for (kind, Seen { carried, .. }) in &all {
            for (direction, bytes) in [("sent", carried.sent_bytes), ("received", carried.received_bytes)] {
                ConstCounter::new(bytes).encode(metric.encode_family(&directed(kind, direction))?)?;
            }
        }
        let help = "Packets sent on links over QUIC and held to be lost";
        let mut metric = encoder.encode_descriptor("link_packets_lost", help, None, MetricType::Counter)?;
        for (kind, seen) in &all {
            ConstCounter::new(seen.carried.lost_packets).encode(metric.encode_family(kind)?)?;
        }
        let help = "Flows of links cut because their readers took too little while others had no room";
        let mut metric = encoder.encode_descriptor("link_flows_cut", help, None, MetricType::Counter)?;
        for (kind, seen) in &all {
            ConstCounter::new(seen.carried.cut_flows).encode(metric.encode_family(kind)?)?;
        }
        let at = |kind: &Kind, quantile| Quantile { role: kind.role, transport: kind.transport, quantile };
        let help = "Smoothed round-trip time of the links that stand, as that of the link at this quantile";
        let mut metric = encoder.encode_descriptor("link_rtt_seconds", help, None, MetricType::Gauge)?;
        for (kind, seen) in &all {
            for (name, share) in [("0.5", 0.5), ("0.99", 0.99), ("1", 1.0)] {
                if let Some(rtt) = quantile(&seen.round_trips, share) {
                    ConstGauge::new(rtt.as_secs_f64()).encode(metric.encode_family(&at(kind, name))?)?;
                }
            }
        }
        let help =
            "Congestion window of the links over QUIC that stand, as that of the link at this quantile";
        let mut metric =
            encoder.encode_descriptor("link_congestion_window_bytes", help, None, MetricType::Gauge)?;
        for (kind, seen) in &all {
            for (name, share) in [("0", 0.0), ("0.5", 0.5)] {
                if let Some(window) = quantile(&seen.windows, share) {
                    ConstGauge::new(window).encode(metric.encode_family(&at(kind, name))?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let hundred: Vec<u64> = (1..=100).collect();
        let of = |share| quantile(&hundred, share);
        assert_eq!([of(0.0), of(0.5), of(0.99), of(1.0)], [Some(1), Some(50), Some(99), Some(100)]);
        assert_eq!([quantile(&[7], 0.0), quantile(&[7], 0.5), quantile(&[7], 1.0)], [Some(7); 3]);
        assert_eq!(quantile::<u64>(&[], 0.5), None);
    }
}
