//! Who serves what: a map from (tenant, endpoint) to the agents' listens, read without a lock.
//!
//! Each change makes a new version of the map, which shares all but the changed path with the one before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::watch, time::Instant};

use super::{
    choice,
    metrics::{Counters, RoleLabel},
    open::AllOpen,
    returns::Departed,
    routes::{Route, Routes},
    service::{Tried, Upstream, Via},
    session::{Session, State},
};
pub use crate::cluster::table::Name;
use crate::{
    auth::{Limits, ListenPass},
    cluster::{self, Announcements},
    protocol::{AgentId, Code, GoAway, HostPattern, LinkId, Listen, Load, PeerRoute, Refusal, Role},
    telemetry::{Metrics, Recent},
    transport::{LinkCounters, Meter, PacketCounters},
};

/// How long an endpoint that has lost its last agent is remembered, and how many are.
const GONE: Duration = Duration::from_secs(10);
const MAX_GONE: usize = 10_000;

/// Endpoints that have lost their last agent lately, and when.
#[derive(Debug, Default)]
struct Gone {
    since: BTreeMap<Name, Instant>,
    swept: Option<Instant>,
}

impl Gone {
    fn note(&mut self, name: &Name, has_agents: bool, now: Instant) {
        // Not each time: a peer may come and go with a hundred thousand.
        if self.swept.is_none_or(|swept| now > swept + GONE / 10) {
            self.since.retain(|_, since| now.saturating_duration_since(*since) < GONE);
            self.swept = Some(now);
        }
        if has_agents {
            self.since.remove(name);
        } else if self.since.len() < MAX_GONE {
            self.since.insert(name.clone(), now);
        }
    }
}

/// How long a node that has just started may not have heard of every endpoint.
const YOUNG: Duration = Duration::from_secs(5);

/// All agents of this node. Clones are handles to the same ones.
#[derive(Debug, Clone)]
pub struct Upstreams {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) routes: ArcSwap<Routes<Upstream>>,
    /// Held while a listen's hosts are compared with those that are mapped, and mapped.
    mapping: Mutex<()>,
    links: Mutex<BTreeMap<LinkId, Arc<Session>>>,
    last_link: AtomicU64,
    /// What peers are told of the agents of this node.
    announcements: Arc<Announcements>,
    gone: Mutex<Gone>,
    changed: watch::Sender<()>,
    /// Whether every endpoint that peers serve has been heard of.
    settled: AtomicBool,
    /// How long a request waits at most for an agent of an endpoint that had one a moment ago.
    pub(super) wait: Duration,
    /// What agents may have.
    pub(super) limits: Limits,
    pub(super) counters: Counters,
    pub(super) open: AllOpen,
    recent: Recent,
    departed: Departed,
    started: Instant,
}

impl Upstreams {
    /// No agent yet, and these hosts mapped to endpoints. Requests wait for an agent so long at most where there is a gap, and
    /// agents serve within these limits.
    pub fn new(
        metrics: &Metrics,
        wait: Duration,
        hosts: impl IntoIterator<Item = (HostPattern, Name)>,
        limits: Limits,
    ) -> Self {
        let open = AllOpen::default();
        metrics.register(|registry| registry.register_collector(Box::new(open.clone())));
        Self {
            inner: Arc::new(Inner {
                routes: ArcSwap::from_pointee(Routes::new(hosts)),
                mapping: Mutex::default(),
                links: Mutex::default(),
                last_link: AtomicU64::new(0),
                announcements: Arc::default(),
                gone: Mutex::default(),
                changed: watch::Sender::new(()),
                settled: AtomicBool::new(false),
                wait,
                limits,
                counters: Counters::new(metrics),
                open,
                recent: Recent::new(metrics),
                departed: Departed::default(),
                started: Instant::now(),
            }),
        }
    }

    /// What is counted of links on this node.
    pub fn link_counters(&self) -> &LinkCounters {
        &self.inner.counters.links
    }

    /// What has happened of late on this node, to links and otherwise.
    pub fn recent(&self) -> &Recent {
        &self.inner.recent
    }

    /// Counts a link until the answer is dropped.
    pub(super) fn meter(&self, session: &Session) -> Meter {
        self.inner.counters.links.meters.meter(session.identity.role_name(), &session.link)
    }

    /// What has become of UDP packets on this node.
    pub fn packets(&self) -> &PacketCounters {
        &self.inner.counters.links.packets
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
        let mut returned = self.inner.departed.is_back(identity, Instant::now());
        for old in links.values().filter(|old| old.identity.is_of_same(identity)) {
            returned = true;
            if old.supersede() {
                tracing::info!(link = %old.id, newer = %session.id, agent = %identity.agent, "a link is superseded");
            }
        }
        links.insert(session.id, Arc::clone(session));
        if returned {
            self.inner.counters.returned.get_or_create(&RoleLabel { role: identity.role_name() }).inc();
        }
    }

    pub(super) fn remove_link(&self, session: &Session) {
        let mut links = self.links();
        links.remove(&session.id);
        // A Piko agent has no id of its own, by which it could be known again.
        if !session.bare && !links.values().any(|other| other.identity.is_of_same(&session.identity)) {
            self.inner.departed.note(&session.identity, Instant::now());
        }
    }

    fn change(&self, name: &Name, change: impl Fn(&[Arc<Upstream>]) -> Vec<Arc<Upstream>>) {
        let before = self.inner.routes.rcu(|routes| routes.with(name, |upstreams| change(upstreams)));
        let (had, has) = (!before.get(name).is_empty(), !self.inner.routes.load().get(name).is_empty());
        if had != has {
            let mut gone = self.inner.gone.lock().unwrap_or_else(PoisonError::into_inner);
            gone.note(name, has, Instant::now());
        }
        self.warn_of_contested(name, &before);
        self.inner.changed.send_replace(());
        self.inner.counters.endpoints.set(i64::try_from(self.inner.routes.load().len()).unwrap_or(i64::MAX));
    }

    /// Waits for an agent of an endpoint that had one a moment ago, or that this node may not have heard of yet: agents
    /// that restart and nodes that do leave gaps, and a gap is no error. `until` is for whoever waits again: the time runs from
    /// the first gap on, as a link that was silent for a while before it was lost must not use it up.
    pub(super) async fn gap(&self, name: &Name, until: &mut Option<Instant>) -> bool {
        let until = *until.get_or_insert_with(|| Instant::now() + self.inner.wait);
        let mut changed = self.inner.changed.subscribe();
        let lately = {
            let gone = self.inner.gone.lock().unwrap_or_else(PoisonError::into_inner);
            gone.since.get(name).is_some_and(|since| since.elapsed() < GONE)
        };
        if !lately && (self.inner.settled.load(Relaxed) || self.inner.started.elapsed() > YOUNG) {
            return false;
        }
        while self.inner.routes.load().get(name).is_empty() {
            // The sender is borrowed for as long as the wait, so only the time can end it.
            if tokio::time::timeout_at(until, changed.changed()).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Says that every endpoint that peers serve has been heard of, so that one without an agent has none.
    pub fn settle(&self) {
        self.inner.settled.store(true, Relaxed);
    }

    /// Sends flows for an endpoint to a link from now on, in place of older links of the same agent. A host that is mapped to
    /// another endpoint here stays with that, and the listen is refused. With it comes what it takes of what its agent and its
    /// tenant may serve.
    pub(super) fn listen(
        &self,
        session: &Arc<Session>,
        listen: Listen,
    ) -> Result<(Arc<Upstream>, ListenPass), Refusal> {
        let agent = session.identity.agent;
        let pass = self.inner.limits.listen(&session.identity.tenant, agent, &listen.endpoint);
        let pass = pass.map_err(|limited| Refusal::new(Code::Busy, limited.to_string()))?;
        let Listen { id: _, endpoint, kind, options } = listen;
        let route = PeerRoute { tenant: session.identity.tenant.clone(), endpoint, agent, kind, options };
        let upstream = Upstream::new(route, Via::Agent(Arc::clone(session)));
        let _mapping = (!upstream.hosts().is_empty())
            .then(|| self.inner.mapping.lock().unwrap_or_else(PoisonError::into_inner));
        self.check_hosts(&upstream)?;
        let of_agent = |other: &Upstream| match &other.via {
            Via::Agent(session) if other.agent == agent => Some(session.id),
            _ => None,
        };
        for other in self.inner.routes.load().get(&upstream.name) {
            // Requests of other nodes that find an idle flow would go on over the older link.
            if of_agent(other).is_some_and(|link| link < session.id) {
                other.retire_all();
            }
        }
        self.change(&upstream.name, |upstreams| {
            // A link that a newer one has replaced may still say what it was told before that.
            if upstreams.iter().filter_map(|other| of_agent(other)).any(|other| other > session.id) {
                return upstreams.to_vec();
            }
            let others = upstreams.iter().filter(|other| of_agent(other).is_none());
            others.chain([&upstream]).cloned().collect()
        });
        self.inner.announcements.add(upstream.route());
        Ok((upstream, pass))
    }

    /// Opens no flow for a listen any more. Flows in use may finish.
    pub(super) fn unlisten(&self, upstream: &Arc<Upstream>) {
        self.change(&upstream.name, |upstreams| {
            upstreams.iter().filter(|other| !Arc::ptr_eq(other, upstream)).cloned().collect()
        });
        upstream.retire_all();
        if self.local(&upstream.name, upstream.agent).is_none() {
            self.inner.announcements.remove(&upstream.route());
        }
    }

    /// What peers are told of the agents of this node.
    pub fn announcements(&self) -> Arc<Announcements> {
        Arc::clone(&self.inner.announcements)
    }

    /// Takes note of what a peer serves.
    pub fn peer_added(&self, peer: &Arc<cluster::Node>, routes: &[PeerRoute]) {
        for (name, routes) in by_name(routes) {
            // Of one agent's the last holds.
            let upstreams: BTreeMap<_, _> = routes
                .into_iter()
                .map(|route| {
                    let via = Via::Node(Arc::clone(peer));
                    (route.agent, Upstream::new(route.clone(), via))
                })
                .collect();
            let replaced = |other: &Upstream| match &other.via {
                Via::Node(node) => {
                    node.member.node == peer.member.node && upstreams.contains_key(&other.agent)
                }
                Via::Agent(_) => false,
            };
            self.change(&name, |before| {
                let others = before.iter().filter(|other| !replaced(other));
                others.chain(upstreams.values()).cloned().collect()
            });
        }
    }

    /// Takes note of what a peer serves no more.
    pub fn peer_removed(&self, peer: &Arc<cluster::Node>, routes: &[PeerRoute]) {
        for (name, routes) in by_name(routes) {
            let agents: BTreeSet<_> = routes.into_iter().map(|route| route.agent).collect();
            let is = |other: &Upstream| other.via.is_node(peer) && agents.contains(&other.agent);
            for upstream in self.inner.routes.load().get(&name).iter().filter(|other| is(other)) {
                upstream.retire_all();
            }
            self.change(&name, |upstreams| upstreams.iter().filter(|other| !is(other)).cloned().collect());
        }
    }

    /// Puts no further request on flows that were opened over a peer link.
    pub fn peer_retired(&self, peer: &Arc<cluster::Node>, flows: &[u64]) {
        for (_, upstreams) in self.inner.routes.load().iter() {
            for upstream in upstreams.iter().filter(|upstream| upstream.via.is_node(peer)) {
                upstream.retire(flows);
            }
        }
    }

    /// How busy this node is, as peers are told: the busiest agents, when there are more than one frame holds.
    pub fn load(&self) -> Load {
        let sessions = self.sessions();
        let agents = sessions.iter().filter(|session| session.identity.role == Role::Agent);
        let agent_links = agents.clone().filter(|session| session.state() == State::Up).count();
        // One agent may have two links while it moves, of which the newer takes what is new.
        let mut by_agent = BTreeMap::<_, (usize, bool)>::new();
        for session in agents {
            let (flows, suspect) = by_agent.entry(session.identity.agent).or_default();
            *flows += session.in_flight();
            *suspect = session.vitals.is_suspect();
        }
        let suspects = by_agent.iter().filter(|(_, (_, suspect))| *suspect).map(|(agent, _)| *agent);
        let suspects = suspects.take(Load::MAX_AGENTS).collect();
        let mut flows: Vec<_> = by_agent
            .into_iter()
            .filter(|(_, (flows, _))| *flows > 0)
            .map(|(agent, (flows, _))| (agent, u32::try_from(flows).unwrap_or(u32::MAX)))
            .collect();
        flows.sort_by_key(|(agent, flows)| (std::cmp::Reverse(*flows), *agent));
        flows.truncate(Load::MAX_AGENTS);
        Load { agent_links: u32::try_from(agent_links).unwrap_or(u32::MAX), agents: flows, suspects }
    }

    /// The agent's own link, where it has one to this node.
    pub(super) fn local(&self, name: &Name, agent: AgentId) -> Option<Arc<Upstream>> {
        let routes = self.inner.routes.load();
        let mut upstreams = routes.get(name).iter();
        upstreams.find(|upstream| upstream.agent == agent && matches!(upstream.via, Via::Agent(_))).cloned()
    }

    /// Whether some agent serves an endpoint, on whatever node.
    pub fn has(&self, name: &Name) -> bool {
        !self.inner.routes.load().get(name).is_empty()
    }

    /// The upstream to use for an endpoint, leaving out what was tried.
    pub(super) fn choose(&self, name: &Name, tried: &Tried) -> Option<Arc<Upstream>> {
        let routes = self.inner.routes.load();
        let upstreams = routes.get(name);
        let now = self.now();
        let candidates = upstreams.iter().map(|upstream| choice::Candidate {
            in_flight: upstream.load(),
            rank: tried.rank(upstream, upstream.rank(now)),
        });
        let chosen = choice::choose(candidates, (rand::random(), rand::random()))?;
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
}

/// A peer's routes by endpoint, so that many agents of one cost one change.
fn by_name(routes: &[PeerRoute]) -> BTreeMap<Name, Vec<&PeerRoute>> {
    let mut by_name = BTreeMap::<_, Vec<_>>::new();
    for route in routes {
        let name = Name { tenant: route.tenant.clone(), endpoint: route.endpoint.clone() };
        by_name.entry(name).or_default().push(route);
    }
    by_name
}
