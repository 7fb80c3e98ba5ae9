//! Who serves what: a map from (tenant, endpoint) to the agents' listens, read without a lock.
//!
//! Each change makes a new version of the map, which shares all but the changed path with the one before.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use rpds::HashTrieMapSync;
use tokio::time::Instant;

use super::{
    choice,
    metrics::{Counters, RoleLabel},
    pool::Pool,
    session::{Session, State},
};
use crate::{
    protocol::{AgentId, EndpointId, GoAway, LinkId, Listen, TenantId},
    telemetry::Metrics,
};

/// An endpoint's full name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is called.
    pub endpoint: EndpointId,
}

/// One listen of one agent's link.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) session: Arc<Session>,
    pub(super) listen: Listen,
    pub(super) pool: Pool,
    in_flight: AtomicUsize,
    /// Until when it is passed over, in milliseconds of [`Upstreams::now`].
    shunned_until: AtomicU64,
}

type Routes = HashTrieMapSync<Name, Arc<[Arc<Upstream>]>>;

/// All agents of this node. Clones are handles to the same ones.
#[derive(Debug, Clone)]
pub struct Upstreams {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    routes: ArcSwap<Routes>,
    links: Mutex<BTreeMap<LinkId, Arc<Session>>>,
    last_link: AtomicU64,
    pub(super) counters: Counters,
    started: Instant,
}

/// A link, as `adit status` shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct LinkStatus {
    /// Its number on this node.
    pub id: u64,
    /// `agent` or `forwarder`.
    pub role: &'static str,
    /// Its opener's id.
    pub agent: String,
    /// Its opener's label.
    pub name: Option<String>,
    /// Its opener's address.
    pub address: String,
    /// What it runs over.
    pub transport: &'static str,
    /// Its tenant.
    pub tenant: String,
    /// Smoothed round-trip time in milliseconds.
    pub rtt_ms: f64,
    /// Flows in use.
    pub flows: usize,
    /// Endpoints served over it.
    pub endpoints: usize,
    /// Seconds since it was welcomed.
    pub age_s: u64,
    /// Whether it does not answer.
    pub suspect: bool,
    /// `up`, `leaving` or `superseded`.
    pub state: &'static str,
}

/// An endpoint, as `adit status` shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct EndpointStatus {
    /// Its tenant.
    pub tenant: String,
    /// Its name.
    pub endpoint: String,
    /// What its services speak.
    pub kind: &'static str,
    /// How many agents serve it.
    pub agents: usize,
    /// Flows in use.
    pub flows: usize,
}

impl Upstreams {
    /// No agent yet.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            inner: Arc::new(Inner {
                routes: ArcSwap::from_pointee(Routes::default()),
                links: Mutex::default(),
                last_link: AtomicU64::new(0),
                counters: Counters::new(metrics),
                started: Instant::now(),
            }),
        }
    }

    /// The number for the next link.
    pub fn next_link(&self) -> LinkId {
        LinkId(self.inner.last_link.fetch_add(1, Relaxed) + 1)
    }

    fn links(&self) -> std::sync::MutexGuard<'_, BTreeMap<LinkId, Arc<Session>>> {
        self.inner.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every link, oldest first.
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        self.links().values().cloned().collect()
    }

    /// Takes a link in. An older link of the same process is superseded: its endpoints move over as the newer link listens
    /// for them, its flows may finish, and it goes at once if it does not answer.
    pub(super) fn add_link(&self, session: &Arc<Session>) {
        let mut links = self.links();
        let identity = &session.identity;
        for old in links.values() {
            let same = old.identity.agent == identity.agent
                && old.identity.role == identity.role
                && old.identity.tenant == identity.tenant;
            if same && old.supersede() {
                tracing::info!(link = %old.id, newer = %session.id, agent = %identity.agent, "a link is superseded");
            }
        }
        links.insert(session.id, Arc::clone(session));
        drop(links);
        self.inner.counters.links.get_or_create(&RoleLabel { role: identity.role_name() }).inc();
    }

    pub(super) fn remove_link(&self, session: &Session) {
        let removed = self.links().remove(&session.id).is_some();
        if removed {
            let role = session.identity.role_name();
            self.inner.counters.links.get_or_create(&RoleLabel { role }).dec();
        }
    }

    fn change(&self, name: &Name, change: impl Fn(&[Arc<Upstream>]) -> Vec<Arc<Upstream>>) {
        self.inner.routes.rcu(|routes| {
            let upstreams = change(routes.get(name).map_or(&[], |upstreams| upstreams));
            if upstreams.is_empty() {
                routes.remove(name)
            } else {
                routes.insert(name.clone(), upstreams.into())
            }
        });
        self.inner.counters.endpoints.set(i64::try_from(self.inner.routes.load().size()).unwrap_or(i64::MAX));
    }

    /// Sends flows for an endpoint to a link from now on, in place of older links of the same agent.
    pub(super) fn listen(&self, session: &Arc<Session>, listen: Listen) -> Arc<Upstream> {
        let name = Name { tenant: session.identity.tenant.clone(), endpoint: listen.endpoint.clone() };
        let upstream = Arc::new(Upstream {
            session: Arc::clone(session),
            pool: Pool::default(),
            in_flight: AtomicUsize::new(0),
            shunned_until: AtomicU64::new(0),
            listen,
        });
        self.change(&name, |upstreams| {
            let others =
                upstreams.iter().filter(|other| other.session.identity.agent != session.identity.agent);
            others.chain([&upstream]).cloned().collect()
        });
        upstream
    }

    /// Opens no flow for a listen any more. Flows in use may finish.
    pub(super) fn unlisten(&self, upstream: &Arc<Upstream>) {
        let name = Name {
            tenant: upstream.session.identity.tenant.clone(),
            endpoint: upstream.listen.endpoint.clone(),
        };
        self.change(&name, |upstreams| {
            upstreams.iter().filter(|other| !Arc::ptr_eq(other, upstream)).cloned().collect()
        });
        upstream.pool.retire_all();
    }

    /// The upstream to use for an endpoint, leaving out agents that were tried.
    pub(super) fn choose(&self, name: &Name, tried: &[AgentId]) -> Option<Arc<Upstream>> {
        let routes = self.inner.routes.load();
        let upstreams = routes.get(name)?;
        let now = self.now();
        let candidates = upstreams.iter().map(|upstream| choice::Candidate {
            agent: upstream.session.identity.agent,
            in_flight: upstream.in_flight(),
            leaving: upstream.session.state() == State::Leaving,
            suspect: upstream.session.vitals.is_suspect() || upstream.shunned_until.load(Relaxed) > now,
        });
        let chosen = choice::choose(candidates, tried, (rand::random(), rand::random()))?;
        upstreams.get(chosen).cloned()
    }

    /// Milliseconds since this was made.
    fn now(&self) -> u64 {
        u64::try_from(self.inner.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Passes an upstream over for a while, unless nothing else is left: its agent answers, its service does not.
    pub(super) fn shun(&self, upstream: &Upstream, time: Duration) {
        let until = self.now().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        upstream.shunned_until.store(until, Relaxed);
    }

    /// Says goodbye on every link: no new flow, and what is open may finish until the deadline.
    pub async fn go_away(&self, away: GoAway) {
        let sessions = self.sessions();
        futures_util::future::join_all(sessions.iter().map(|session| session.go_away(away))).await;
    }

    /// All links, oldest first.
    pub fn link_status(&self) -> Vec<LinkStatus> {
        self.sessions().iter().map(|session| session.status()).collect()
    }

    /// All endpoints, by name.
    pub fn endpoint_status(&self) -> Vec<EndpointStatus> {
        let routes = self.inner.routes.load_full();
        let mut all: Vec<_> = routes
            .iter()
            .map(|(name, upstreams)| EndpointStatus {
                tenant: name.tenant.to_string(),
                endpoint: name.endpoint.to_string(),
                kind: upstreams.first().map_or("", |upstream| upstream.listen.kind.name()),
                agents: upstreams.len(),
                flows: upstreams.iter().map(|upstream| upstream.in_flight()).sum(),
            })
            .collect();
        all.sort_by(|a, b| (&a.tenant, &a.endpoint).cmp(&(&b.tenant, &b.endpoint)));
        all
    }
}

impl Upstream {
    /// Requests and flows in use.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Counts one more, until the answer is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// A request or flow in use.
#[derive(Debug)]
pub(super) struct InFlight(pub(super) Arc<Upstream>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}
