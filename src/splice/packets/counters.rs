//! What has become of packets: passed on, or dropped and why.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

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

/// The counts of one process. Clones are handles to the same ones.
#[derive(Debug, Clone)]
pub struct Counters {
    passed: Family<By, Counter>,
    drops: Family<Reason, Counter>,
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
        }
    }
}

impl Counters {
    /// Lets a scrape see them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("udp_packets", "UDP packets passed on, by what carries them", self.passed.clone());
        registry.register("udp_dropped", "UDP packets dropped, by why", self.drops.clone());
        registry.register("udp_associations", "UDP associations that are open", self.associations.clone());
    }

    /// Counts a packet that is dropped.
    pub fn drop(&self, why: Dropped) {
        self.dropped[why as usize].inc();
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

/// An association that is counted as open.
#[derive(Debug)]
pub struct Associated(Gauge);

impl Drop for Associated {
    fn drop(&mut self) {
        self.0.dec();
    }
}
