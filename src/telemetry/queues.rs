//! Queues with a bound, of which what they have no room for is dropped or refused: how often that happens, by one name for
//! all, so that one alert watches every queue there is.
//!
//! Whoever owns a queue counts that anyway; here its counter is told by the queue's name as well.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
    },
};

/// A queue, or several of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Queue {
    /// Packets that wait for an association to pass them on.
    Udp,
    /// Datagrams that wait to leave on a link.
    Datagrams,
    /// QUIC handshakes under way.
    Handshakes,
    /// Messages that wait for membership.
    Membership,
    /// Flows that wait for an agent to take them.
    Flows,
}

impl Queue {
    /// All that there are.
    pub const ALL: [Self; 5] = [Self::Udp, Self::Datagrams, Self::Handshakes, Self::Membership, Self::Flows];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Datagrams => "datagrams",
            Self::Handshakes => "handshakes",
            Self::Membership => "membership",
            Self::Flows => "flows",
        }
    }
}

/// Counters of queues, as a scrape sees them. Clones are handles to the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Queues(Arc<Mutex<BTreeMap<Queue, Vec<Counter>>>>);

impl Queues {
    pub(super) fn add(&self, queue: Queue, counter: Counter) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(queue).or_default().push(counter);
    }
}

impl Collector for Queues {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return Ok(());
        }
        let help = "What was dropped or refused because a queue was full, by queue";
        let mut metric = encoder.encode_descriptor("queue_full", help, None, MetricType::Counter)?;
        for (queue, counters) in &*all {
            let full: u64 = counters.iter().map(Counter::get).sum();
            ConstCounter::new(full).encode(metric.encode_family(&[("queue", queue.name())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Metrics, *};

    #[test]
    fn queues_of_one_kind_are_counted_together() {
        let metrics = Metrics::default();
        assert!(!metrics.encode().contains("adit_queue_full"));
        let (one, other) = (Counter::default(), Counter::default());
        metrics.queue_full(Queue::Handshakes, &one);
        metrics.queue_full(Queue::Handshakes, &other);
        metrics.queue_full(Queue::Flows, &Counter::default());
        one.inc_by(2);
        other.inc();
        let scrape = metrics.encode();
        let full: Vec<_> = scrape.lines().filter(|line| line.starts_with("adit_queue_full_total")).collect();
        assert_eq!(
            full,
            [r#"adit_queue_full_total{queue="handshakes"} 3"#, r#"adit_queue_full_total{queue="flows"} 0"#]
        );
    }
}
