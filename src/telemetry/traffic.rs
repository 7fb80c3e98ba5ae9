//! Bytes of clients each way, exact at any moment and cheap to count: each thread adds to a part of its own, which no other is
//! likely to touch, and a scrape adds the parts up.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};

use super::Metrics;

/// Among how many parts the threads are spread.
const PARTS: usize = 32;

thread_local! {
    /// The part of this thread.
    static PART: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Relaxed) % PARTS
    };
}

/// Bytes from clients and to them. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<[Part; PARTS]>);

/// What some threads have counted, on cache lines of its own: processors fetch two at once.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Part {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Tally {
    fn part(&self) -> &Part {
        &self.0[PART.with(|part| *part)]
    }

    /// So many more bytes have come from a client.
    pub fn received(&self, bytes: usize) {
        self.part().received.fetch_add(bytes as u64, Relaxed);
    }

    /// So many more bytes go to a client.
    pub fn sent(&self, bytes: usize) {
        self.part().sent.fetch_add(bytes as u64, Relaxed);
    }

    /// All that have come, and all that went.
    pub fn total(&self) -> (u64, u64) {
        let parts = self.0.iter().map(|part| (part.received.load(Relaxed), part.sent.load(Relaxed)));
        parts.fold((0, 0), |(received, sent), part| (received + part.0, sent + part.1))
    }
}

/// Bytes of clients by what they come as. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// HTTP, and what it switches to.
    pub http: Tally,
    /// Connections that are passed on as they are.
    pub tcp: Tally,
    /// Packets.
    pub udp: Tally,
}

impl Traffic {
    /// None yet, for a scrape to see.
    pub fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(|registry| registry.register_collector(Box::new(this.clone())));
        this
    }
}

impl Collector for Traffic {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Bytes from clients and to them, by what they come as";
        let mut metric = encoder.encode_descriptor("client_bytes", help, None, MetricType::Counter)?;
        for (kind, tally) in [("http", &self.http), ("tcp", &self.tcp), ("udp", &self.udp)] {
            let (received, sent) = tally.total();
            for (direction, bytes) in [("received", received), ("sent", sent)] {
                let labels = [("kind", kind), ("direction", direction)];
                ConstCounter::new(bytes).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_count_adds_up() {
        let metrics = Metrics::default();
        let traffic = Traffic::new(&metrics);
        std::thread::scope(|scope| {
            for _ in 0..PARTS + 8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        traffic.tcp.received(3);
                        traffic.tcp.sent(1);
                    }
                });
            }
        });
        assert_eq!(traffic.tcp.total(), (120_000, 40_000));
        let scrape = metrics.encode();
        for line in [
            "adit_client_bytes_total{kind=\"tcp\",direction=\"received\"} 120000",
            "adit_client_bytes_total{kind=\"tcp\",direction=\"sent\"} 40000",
            "adit_client_bytes_total{kind=\"udp\",direction=\"sent\"} 0",
        ] {
            assert!(scrape.lines().any(|other| other == line), "{line} in\n{scrape}");
        }
    }
}
