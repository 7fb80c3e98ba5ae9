//! What has become of packets: passed on, or dropped and why.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::telemetry::{Metrics, Queue};

/// How often drops are logged.
const TELL: Duration = Duration::from_secs(60);

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// It belongs to no association that is open.
    NoAssociation,
    /// Those before it have not been taken yet.
    QueueFull,
    /// Its link has as many under way as it takes.
    LinkFull,
    /// The system could not send it, or tells that it has not arrived (ICMP).
    Undelivered,
    /// Its endpoint cannot be reached.
    Unreachable,
    /// Its port has as many clients as it may have.
    TooManyClients,
}

impl Dropped {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::NoAssociation,
        Self::QueueFull,
        Self::LinkFull,
        Self::Undelivered,
        Self::Unreachable,
        Self::TooManyClients,
    ];

    /// Those that are of a link's datagrams, the first of all.
    const OF_LINK: [Self; 3] = [Self::NoAssociation, Self::QueueFull, Self::LinkFull];

    /// The name that logs and metrics use.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAssociation => "no_association",
            Self::QueueFull => "queue_full",
            Self::LinkFull => "link_full",
            Self::Undelivered => "undelivered",
            Self::Unreachable => "unreachable",
            Self::TooManyClients => "too_many_clients",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    by: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LinkReason {
    role: &'static str,
    reason: &'static str,
}

/// The counts of one process. Clones are handles to the same ones.
#[derive(Debug, Clone)]
pub struct Counters {
    passed: Family<By, Counter>,
    drops: Family<Reason, Counter>,
    link_drops: Family<LinkReason, Counter>,
    /// Packets that went by a datagram of a link, by the stream of their association, and to a UDP socket.
    pub datagram: Counter,
    /// See [`Counters::datagram`].
    pub stream: Counter,
    /// See [`Counters::datagram`].
    pub socket: Counter,
    /// Associations that are open.
    pub associations: Gauge,
    dropped: [Counter; Dropped::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        let (passed, drops) = (Family::<By, Counter>::default(), Family::<Reason, Counter>::default());
        let by = |by| passed.get_or_create_owned(&By { by });
        Self {
            datagram: by("datagram"),
            stream: by("stream"),
            socket: by("socket"),
            associations: Gauge::default(),
            dropped: Dropped::ALL.map(|why| drops.get_or_create_owned(&Reason { reason: why.name() })),
            passed,
            drops,
            link_drops: Family::default(),
        }
    }
}

impl Counters {
    /// Lets a scrape see them.
    pub fn register(&self, metrics: &Metrics) {
        metrics.queue_full(Queue::Udp, &self.dropped[Dropped::QueueFull as usize]);
        metrics.queue_full(Queue::Datagrams, &self.dropped[Dropped::LinkFull as usize]);
        metrics.register(|registry| self.register_in(registry));
    }

    fn register_in(&self, registry: &mut Registry) {
        registry.register("udp_packets", "UDP packets passed on, by what carries them", self.passed.clone());
        registry.register("udp_dropped", "UDP packets dropped, by why", self.drops.clone());
        registry.register("udp_associations", "UDP associations that are open", self.associations.clone());
        registry.register(
            "link_datagrams_dropped",
            "Datagrams of links that were dropped, by the role of the other end and why",
            self.link_drops.clone(),
        );
    }

    /// Counts a packet that is dropped.
    pub fn drop(&self, why: Dropped) {
        self.drop_all(why, 1);
    }

    fn drop_all(&self, why: Dropped, packets: u64) {
        self.dropped[why as usize].inc_by(packets);
    }

    /// The same counts for a link whose other end has this role.
    pub fn of_link(&self, role: &'static str) -> OfLink {
        let of = |why: Dropped| self.link_drops.get_or_create_owned(&LinkReason { role, reason: why.name() });
        OfLink { all: self.clone(), dropped: Dropped::OF_LINK.map(of) }
    }

    /// How many packets were dropped for a reason.
    pub fn dropped(&self, why: Dropped) -> u64 {
        self.dropped[why as usize].get()
    }

    /// Logs what is dropped, at most once a minute, for ever. A node's counts are scraped instead.
    pub async fn tell(self) {
        let counts = || Dropped::ALL.map(|why| self.dropped(why));
        let mut told = counts();
        loop {
            tokio::time::sleep(TELL).await;
            let now = counts();
            let news = Dropped::ALL.iter().zip(now).zip(told).filter(|((_, now), told)| now > told);
            let news: Vec<_> =
                news.map(|((why, now), told)| format!("{} {}", now - told, why.name())).collect();
            if !news.is_empty() {
                tracing::warn!(packets = news.join(", "), "UDP packets were dropped");
            }
            told = now;
        }
    }

    /// Counts an open association, until the answer is dropped.
    pub fn associate(&self) -> Associated {
        self.associations.inc();
        Associated(self.associations.clone())
    }
}

/// The counts of a process, as those of one link keep them.
#[derive(Debug, Clone)]
pub struct OfLink {
    /// Those of all links together.
    pub all: Counters,
    dropped: [Counter; Dropped::OF_LINK.len()],
}

impl OfLink {
    /// Counts a datagram that is dropped.
    pub fn drop(&self, why: Dropped) {
        self.drop_all(why, 1);
    }

    /// Counts so many of them.
    pub fn drop_all(&self, why: Dropped, datagrams: u64) {
        self.all.drop_all(why, datagrams);
        if let Some(of_link) = self.dropped.get(why as usize) {
            of_link.inc_by(datagrams);
        }
    }
}

/// An association that is counted as open.
#[derive(Debug)]
pub struct Associated(Gauge);

impl Drop for Associated {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_links_drop_is_counted_by_role_and_with_all_else() {
        let metrics = Metrics::default();
        let counters = Counters::default();
        counters.register(&metrics);
        let (agent, node) = (counters.of_link("agent"), counters.of_link("node"));
        for (link, why, times) in [
            (&agent, Dropped::NoAssociation, 1),
            (&agent, Dropped::QueueFull, 2),
            (&node, Dropped::QueueFull, 4),
            (&node, Dropped::LinkFull, 3),
        ] {
            (0..times).for_each(|_| link.drop(why));
        }
        counters.drop(Dropped::QueueFull);
        counters.drop(Dropped::Undelivered);
        let scrape = metrics.encode();
        for line in [
            r#"adit_link_datagrams_dropped_total{role="agent",reason="no_association"} 1"#,
            r#"adit_link_datagrams_dropped_total{role="agent",reason="queue_full"} 2"#,
            r#"adit_link_datagrams_dropped_total{role="agent",reason="link_full"} 0"#,
            r#"adit_link_datagrams_dropped_total{role="node",reason="queue_full"} 4"#,
            r#"adit_link_datagrams_dropped_total{role="node",reason="link_full"} 3"#,
            r#"adit_udp_dropped_total{reason="queue_full"} 7"#,
            r#"adit_udp_dropped_total{reason="undelivered"} 1"#,
            r#"adit_queue_full_total{queue="udp"} 7"#,
            r#"adit_queue_full_total{queue="datagrams"} 3"#,
        ] {
            assert!(scrape.lines().any(|other| other == line), "{line} in\n{scrape}");
        }
    }
}
