//! Requests and flows that are open on this node, for whoever wants to see them one by one.
//!
//! Each enters itself as it is given an agent and leaves when it is dropped, at the cost of two locks that no other thread is
//! likely to hold. Whoever looks copies one part after the other, and holds up a part of what begins meanwhile.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use tokio::time::Instant;

use super::{
    metrics::KindLabel,
    registry::Upstreams,
    service::{Upstream, Via},
};
use crate::protocol::{Kind, Open, TenantId};

/// Among how many parts the threads are spread.
const PARTS: usize = 32;

thread_local! {
    /// The part of this thread.
    static PART: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Relaxed) % PARTS
    };
}

/// How what is open is called; there is no other.
const KINDS: [&str; 5] = ["request", "upgrade", "tcp", "udp", "shared"];

/// What is open, and whose it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct What {
    /// How it is called.
    kind: &'static str,
    /// Who has opened it; unknown of what another node uses for many clients.
    client: Option<SocketAddr>,
}

impl What {
    /// A request of a client, which may be one to switch protocols.
    pub(super) fn request(client: SocketAddr, switching: bool) -> Self {
        Self { kind: if switching { "upgrade" } else { "request" }, client: Some(client) }
    }
}

impl From<&Open> for What {
    fn from(open: &Open) -> Self {
        let kind = match open.kind {
            // Of those only another node knows the requests.
            Kind::Http | Kind::Http2 | Kind::Http2Tls => "shared",
            other => other.name(),
        };
        Self { kind, client: open.client }
    }
}

/// One that is open.
#[derive(Debug, Clone)]
struct Entry {
    what: What,
    upstream: Arc<Upstream>,
    since: Instant,
}

/// Entries at places that are used again.
#[derive(Debug, Default)]
struct Part {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
}

/// Keeps one entered until it is dropped.
#[derive(Debug)]
pub(super) struct Entered {
    part: Arc<Mutex<Part>>,
    place: usize,
}

/// All that are open. Clones are handles to the same.
#[derive(Debug, Clone, Default)]
pub(super) struct AllOpen([Arc<Mutex<Part>>; PARTS]);

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AllOpen {
    pub(super) fn enter(&self, what: What, upstream: &Arc<Upstream>) -> Entered {
        let entry = Some(Entry { what, upstream: Arc::clone(upstream), since: Instant::now() });
        let all = &self.0[PART.with(|part| *part)];
        let mut part = lock(all);
        let place = match part.free.pop() {
            Some(place) => {
                part.entries[place] = entry;
                place
            }
            None => {
                part.entries.push(entry);
                part.entries.len() - 1
            }
        };
        drop(part);
        Entered { part: Arc::clone(all), place }
    }

    fn entries(&self) -> Vec<Entry> {
        let mut all = Vec::new();
        for part in &self.0 {
            all.extend(lock(part).entries.iter().flatten().cloned());
        }
        all
    }
}

/// How many there are, as a scrape sees it.
impl Collector for AllOpen {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut count: BTreeMap<_, u64> = KINDS.iter().map(|kind| (*kind, 0)).collect();
        for part in &self.0 {
            for entry in lock(part).entries.iter().flatten() {
                *count.entry(entry.what.kind).or_default() += 1;
            }
        }
        let help = "Requests and flows that are open, by what they are";
        let mut metric = encoder.encode_descriptor("flows_open", help, None, MetricType::Gauge)?;
        for (kind, open) in count {
            ConstGauge::new(open).encode(metric.encode_family(&KindLabel { kind })?)?;
        }
        Ok(())
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut part = lock(&self.part);
        let gone = part.entries[self.place].take();
        part.free.push(self.place);
        drop(part);
        // What it was the last to hold goes without the lock.
        drop(gone);
    }
}

/// A request or flow that is open, as `adit status` shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct OpenStatus {
    /// `request`, `upgrade` (a request to switch protocols, and what comes of it), `tcp`, `udp`, or `shared` (a connection
    /// that carries the requests of another node's clients).
    pub kind: &'static str,
    /// Its endpoint's tenant.
    pub tenant: String,
    /// Its endpoint.
    pub endpoint: String,
    /// The client's address, where it is known.
    pub client: Option<String>,
    /// The agent that serves it.
    pub agent: String,
    /// That agent's link, where it is one of this node.
    pub link: Option<u64>,
    /// The node that it goes on to, where the agent's link is one of that.
    pub node: Option<String>,
    /// Seconds since it was opened.
    pub age_s: f64,
}

impl From<&Entry> for OpenStatus {
    fn from(entry: &Entry) -> Self {
        let Entry { what, upstream, since } = entry;
        let (link, node) = match &upstream.via {
            Via::Agent(session) => (Some(session.id.0), None),
            Via::Node(node) => (None, Some(node.member.node.to_string())),
        };
        Self {
            kind: what.kind,
            tenant: upstream.name.tenant.to_string(),
            endpoint: upstream.name.endpoint.to_string(),
            client: what.client.map(|client| client.to_string()),
            agent: upstream.agent.to_string(),
            link,
            node,
            age_s: since.elapsed().as_millis() as f64 / 1000.0,
        }
    }
}

impl Upstreams {
    /// How many requests and flows of these tenants are open.
    pub fn open_of(&self, sees: impl Fn(&TenantId) -> bool) -> usize {
        let seen = |part: &Arc<Mutex<Part>>| {
            let part = lock(part);
            part.entries.iter().flatten().filter(|entry| sees(&entry.upstream.name.tenant)).count()
        };
        self.inner.open.0.iter().map(seen).sum()
    }

    /// How many requests and flows are open.
    pub fn open_count(&self) -> usize {
        let parts = self.inner.open.0.iter().map(|part| lock(part));
        parts.map(|part| part.entries.len() - part.free.len()).sum()
    }

    /// How many requests and flows of these tenants are open, and the oldest of them, so many at most.
    pub fn open_status(&self, most: usize, sees: impl Fn(&TenantId) -> bool) -> (usize, Vec<OpenStatus>) {
        let mut entries = self.inner.open.entries();
        entries.retain(|entry| sees(&entry.upstream.name.tenant));
        entries.sort_by_key(|entry| entry.since);
        (entries.len(), entries.iter().take(most).map(OpenStatus::from).collect())
    }
}
