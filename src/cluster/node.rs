//! One peer link: what this node knows of the node at its other end, and the task that owns the link's control stream.
//!
//! Made by `links` once both sides have said `Hello`. It never reconnects.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, watch};

use super::{
    Handler, Shared,
    exchange::{ExchangeError, Receiver, Sender},
    membership::Member,
    metrics::Carried,
};
use crate::{
    drain::{Aborted, Tasks},
    protocol::{AgentId, Close, DecodeError, LinkId, Load, Peer, PeerHello, Phase, Retire},
    telemetry::What,
    transport::{
        Datagrams, FrameError, FrameReader, FrameWriter, Inbox, Link, Lost, Monitor, Vitals, Waiting,
    },
};

/// Frames that wait for the control stream. While it is full, what is due is kept and not queued.
const CONTROL_QUEUE: usize = 4;

/// The stream that the control stream of a peer link is, on both sides: the first that the dialler opens.
pub(super) const CONTROL_STREAM: u64 = 0;

/// How often a node tells how busy it is, while that changes.
const LOAD_EVERY: Duration = Duration::from_millis(200);

/// Another node of the cluster, over one link.
pub struct Node {
    /// The link's number on this node.
    pub id: LinkId,
    /// Who it is.
    pub member: Member,
    /// The link itself.
    pub link: Link,
    /// Its datagrams.
    pub datagrams: Datagrams,
    /// Whether it answers.
    pub vitals: Arc<Vitals>,
    /// Its flows: everything that must end before it may be closed.
    pub flows: Tasks,
    /// Where agents and forwarders reach that node.
    pub link_address: String,
    /// Whether this side opened the link.
    pub(super) dialled: bool,
    phase: watch::Sender<Phase>,
    /// Read for each flow.
    draining: AtomicBool,
    agent_links: AtomicU32,
    agents: ArcSwap<Agents>,
    told: watch::Sender<()>,
    complete: AtomicBool,
    /// Flows of its that are to carry no further request, of which it has still to be told: each once, and all within the
    /// time that it has to read a frame.
    retired: Mutex<Vec<u64>>,
    retiring: Notify,
    /// Peer links are always watched: whoever would use one must know beforehand whether it answers.
    _watched: Waiting,
}

/// What it last said of its agents.
#[derive(Debug, Default)]
struct Agents {
    flows: HashMap<AgentId, u32>,
    suspects: HashSet<AgentId>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.id).field("member", &self.member).finish_non_exhaustive()
    }
}

impl Node {
    pub(super) fn new(id: LinkId, hello: &PeerHello, datagrams: Datagrams, dialled: bool) -> Arc<Self> {
        let vitals = Arc::<Vitals>::default();
        let node = Self {
            id,
            member: Member {
                node: hello.node.clone(),
                incarnation: hello.incarnation,
                address: hello.peer_address.clone(),
            },
            link: datagrams.link().clone(),
            datagrams,
            flows: Tasks::new(),
            link_address: hello.link_address.clone(),
            dialled,
            phase: watch::Sender::new(hello.phase),
            draining: AtomicBool::new(hello.phase == Phase::Draining),
            agent_links: AtomicU32::new(0),
            agents: ArcSwap::default(),
            told: watch::Sender::new(()),
            complete: AtomicBool::new(false),
            retired: Mutex::default(),
            retiring: Notify::new(),
            _watched: vitals.wait(),
            vitals,
        };
        Arc::new(node)
    }

    /// Whether it finishes what it has and should get nothing new.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// How many agents are linked to it, as it last said.
    pub fn agent_links(&self) -> usize {
        self.agent_links.load(Relaxed) as usize
    }

    /// How many flows it says that an agent of its carries.
    pub fn in_flight(&self, agent: AgentId) -> usize {
        self.agents.load().flows.get(&agent).map_or(0, |flows| *flows as usize)
    }

    /// Whether it says that an agent of its does not answer.
    pub fn suspects(&self, agent: AgentId) -> bool {
        self.agents.load().suspects.contains(&agent)
    }

    /// Waits until it says so. Cancel safe.
    pub async fn suspected(&self, agent: AgentId) {
        let mut told = self.told.subscribe();
        while !self.suspects(agent) {
            // The sender lives as long as this borrow of it, so the wait cannot fail.
            drop(told.changed().await);
        }
    }

    /// Whether its first snapshot of routes has come.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Relaxed)
    }

    /// Asks it to put no further request on a flow that it has opened.
    pub fn retire(&self, flow: u64) {
        self.retired().push(flow);
        self.retiring.notify_one();
    }

    fn retired(&self) -> MutexGuard<'_, Vec<u64>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it shows of itself.
    pub fn status(&self) -> PeerStatus {
        PeerStatus {
            node: self.member.node.to_string(),
            address: self.member.address.clone(),
            phase: self.phase().name(),
            rtt_ms: self.link.stats().rtt.as_micros() as f64 / 1000.0,
            flows: self.flows.len(),
            agent_links: self.agent_links(),
            suspect: self.vitals.is_suspect(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Lets its flows finish, at most until the deadline, and closes the link.
    ///
    /// # Errors
    /// When flows were left, which are cut.
    pub async fn finish(&self, deadline: Duration) -> Result<(), Aborted> {
        let finished = tokio::select! {
            _ = self.link.closed() => Ok(()),
            finished = self.flows.finish(deadline) => finished,
        };
        let code = if finished.is_ok() { Close::Done } else { Close::GraceEnded };
        self.link.close(code, "the node is leaving, or another link takes this one's place");
        finished
    }
}

/// A peer, as `adit status` shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct PeerStatus {
    /// Its name.
    pub node: String,
    /// Where peers reach it, as it says.
    pub address: String,
    /// `starting`, `ready` or `draining`.
    pub phase: &'static str,
    /// Smoothed round-trip time in milliseconds.
    pub rtt_ms: f64,
    /// Flows over the link, of either side.
    pub flows: usize,
    /// Agents that are linked to it.
    pub agent_links: usize,
    /// Whether it does not answer.
    pub suspect: bool,
}

/// The routes of this node and how they change, for all peers.
#[derive(Debug, Default)]
pub struct Announcements {
    log: Mutex<super::exchange::RouteLog>,
    changed: watch::Sender<u64>,
}

impl Announcements {
    fn log(&self) -> MutexGuard<'_, super::exchange::RouteLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there are as many routes as peers may be told of.
    pub fn is_full(&self) -> bool {
        self.log().is_full()
    }

    /// Tells every peer that an agent of this node serves an endpoint.
    pub fn add(&self, route: crate::protocol::PeerRoute) {
        let mut log = self.log();
        if log.add(route) {
            self.changed.send_replace(log.sequence());
        }
    }

    /// Tells every peer that it does no more.
    pub fn remove(&self, route: &crate::protocol::PeerRoute) {
        let mut log = self.log();
        if log.remove(route) {
            self.changed.send_replace(log.sequence());
        }
    }
}

/// What is to be said to a peer as soon as there is room. Of pings and answers the latest is enough: any packet shows that
/// the link lives.
#[derive(Debug, Default)]
struct Due {
    pong: Option<u64>,
    ping: Option<u64>,
    unsupported: Option<u8>,
    retire: bool,
    phase: bool,
    load: bool,
    routes: bool,
}

impl Due {
    fn any(&self) -> bool {
        self.pong.is_some()
            || self.ping.is_some()
            || self.unsupported.is_some()
            || self.retire
            || self.phase
            || self.load
            || self.routes
    }
}

/// What a peer has sent that cannot be right.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// It is no frame.
    #[error(transparent)]
    Frame(#[from] DecodeError),
    /// Its routes make no sense.
    #[error(transparent)]
    Routes(#[from] ExchangeError),
}

/// Writes what is queued for a peer, until the link ends.
async fn write(mut writer: FrameWriter<Peer>, mut queue: mpsc::Receiver<Peer>, link: Link, routes: Carried) {
    while let Some(frame) = queue.recv().await {
        if let Err(error) = writer.send(&frame).await {
            return link.close(Close::Timeout, &error.to_string());
        }
        if matches!(frame, Peer::Routes(_)) {
            routes.sent(writer.last_len());
        }
    }
}

/// The task of a peer link.
pub(super) struct ControlLoop {
    pub(super) node: Arc<Node>,
    pub(super) shared: Arc<Shared>,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    /// How busy this node was when the peer was last told.
    said: Load,
    carried: Carried,
}

impl ControlLoop {
    pub(super) fn new(node: Arc<Node>, shared: Arc<Shared>, carried: Carried) -> Self {
        let said = Load { agent_links: 0, agents: Vec::new(), suspects: Vec::new() };
        Self { node, shared, sender: Sender::new(), receiver: Receiver::new(), said, carried }
    }

    /// Runs until the link ends; says why it has. The link itself says later that this side has closed it.
    ///
    /// # Errors
    /// When it was closed for what the peer had sent.
    pub(super) async fn run(
        mut self,
        mut reader: FrameReader<Peer>,
        writer: FrameWriter<Peer>,
    ) -> Result<Lost, Fault> {
        let node = Arc::clone(&self.node);
        let link = node.link.clone();
        let mut monitor = Monitor::new(&link, Arc::clone(&node.vitals));
        let mut changes = self.shared.announcements.changed.subscribe();
        let mut phase = self.shared.phase.clone();
        let mut load = tokio::time::interval(LOAD_EVERY);
        load.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Written by a task of its own, so that this one never waits for the peer to read while the peer waits for it: two
        // nodes that have much to tell would wait for each other for ever.
        let (out, queue) = mpsc::channel(CONTROL_QUEUE);
        self.shared.tasks.spawn(write(writer, queue, link.clone(), self.carried.clone()));
        let mut due = Due { routes: true, ..Due::default() };
        loop {
            tokio::select! {
                frame = reader.next() => match frame {
                    Ok(frame) => {
                        if matches!(frame, Peer::Routes(_)) {
                            self.carried.received(reader.last_len());
                        }
                        self.heard(frame, &mut due).map_err(|error| self.fault(error.into()))?;
                    }
                    Err(FrameError::Decode(DecodeError::Unknown { kind })) => due.unsupported = Some(kind),
                    Err(FrameError::Decode(error)) => return Err(self.fault(error.into())),
                    Err(error) => return Ok(link.lost().unwrap_or_else(|| Lost::Other(error.to_string()))),
                },
                number = monitor.ping(&link) => due.ping = Some(number),
                () = node.retiring.notified() => due.retire = true,
                Ok(()) = phase.changed() => due.phase = true,
                _ = load.tick() => due.load = true,
                Ok(()) = changes.changed() => due.routes = true,
                Ok(room) = out.reserve(), if due.any() => if let Some(frame) = self.next(&mut due) {
                    room.send(frame);
                },
                lost = link.closed() => return Ok(lost),
            }
        }
    }

    /// Closes the link for what the peer has sent, before anything else does, so that the peer is told why.
    fn fault(&self, fault: Fault) -> Fault {
        self.node.link.close(Close::Protocol, &fault.to_string());
        fault
    }

    /// The next frame to send, of what is due. A peer that reads slowly is told the sum of what has changed meanwhile.
    fn next(&mut self, due: &mut Due) -> Option<Peer> {
        if let Some(number) = due.pong.take() {
            return Some(Peer::Pong(number));
        }
        if let Some(number) = due.ping.take() {
            return Some(Peer::Ping(number));
        }
        if let Some(kind) = due.unsupported.take() {
            return Some(Peer::Unsupported(kind));
        }
        if std::mem::take(&mut due.retire) {
            let mut retired = self.node.retired();
            let first = retired.len().min(Retire::MAX_FLOWS);
            let flows = retired.drain(..first).collect();
            due.retire = !retired.is_empty();
            return Some(Peer::Retire(Retire { flows }));
        }
        if std::mem::take(&mut due.phase) {
            return Some(Peer::Phase(*self.shared.phase.borrow()));
        }
        if std::mem::take(&mut due.load) {
            let load = self.shared.handler.load();
            if load != self.said {
                self.said = load.clone();
                return Some(Peer::Load(load));
            }
        }
        let update = self.sender.next(&self.shared.announcements.log());
        due.routes = update.is_some();
        update.map(Peer::Routes)
    }

    fn heard(&mut self, frame: Peer, due: &mut Due) -> Result<(), ExchangeError> {
        let node = &self.node;
        match frame {
            Peer::Ping(number) => due.pong = Some(number),
            Peer::Routes(update) => {
                let changes = self.receiver.apply(update)?;
                let handler = &self.shared.handler;
                handler.removed(node, &changes.removed);
                handler.added(node, &changes.added);
                if self.receiver.complete() && !node.complete.swap(true, Relaxed) {
                    let (peer, address, dialled) =
                        (&node.member.node, node.link.remote_address(), node.dialled);
                    tracing::info!(%peer, %address, dialled, routes = changes.added.len(), "linked to a peer");
                    self.shared.handler.happened(
                        What::NodeLinked,
                        format!("node {peer}"),
                        format!("at {address}"),
                    );
                    self.shared.settled();
                }
            }
            Peer::Phase(phase) if phase <= node.phase() => {
                tracing::debug!(peer = %node.member.node, phase = phase.name(), "a peer's phase goes back");
            }
            Peer::Phase(phase) => {
                node.draining.store(phase == Phase::Draining, Relaxed);
                node.phase.send_replace(phase);
                tracing::info!(peer = %node.member.node, phase = phase.name(), "a peer has changed its phase");
                if phase == Phase::Draining {
                    self.shared.handler.happened(
                        What::Draining,
                        format!("node {}", node.member.node),
                        "it is leaving".into(),
                    );
                }
                self.shared.members_changed();
            }
            Peer::Load(load) => {
                node.agent_links.store(load.agent_links, Relaxed);
                let (flows, suspects) = (load.agents.into_iter(), load.suspects.into_iter());
                node.agents.store(Arc::new(Agents { flows: flows.collect(), suspects: suspects.collect() }));
                node.told.send_replace(());
            }
            Peer::Retire(retire) => self.shared.handler.retired(node, &retire.flows),
            Peer::Unsupported(kind) => {
                tracing::debug!(peer = %node.member.node, kind, "the peer does not know a frame")
            }
            Peer::Pong(_) => {}
            other => tracing::debug!(peer = %node.member.node, ?other, "a frame that only begins a link"),
        }
        Ok(())
    }
}

/// However the loop ends, the peer's routes end with it.
impl Drop for ControlLoop {
    fn drop(&mut self) {
        let routes: Vec<_> = self.receiver.routes().cloned().collect();
        self.shared.handler.removed(&self.node, &routes);
        self.node.link.close(Close::Done, "the control stream ended");
        self.node.flows.abort();
        self.shared.unlinked(&self.node);
    }
}

/// Hands out the peer's datagrams, those of the control stream to membership, until the link ends.
pub(super) async fn datagrams(node: Arc<Node>, shared: Arc<Shared>) {
    let membership = membership(node.datagrams.inbox(CONTROL_STREAM), &node, &shared);
    tokio::select! {
        () = node.datagrams.clone().run() => {}
        () = membership => {}
    }
}

async fn membership(mut messages: Inbox, node: &Node, shared: &Shared) {
    loop {
        let data = messages.recv().await;
        let heard = super::Event::Heard { from: node.member.node.clone(), data };
        // When membership cannot keep up, what it misses is said again: SWIM is made for loss.
        if shared.membership.try_send(heard).is_err() {
            shared.full.inc();
            tracing::debug!(peer = %node.member.node, "a membership message was dropped");
        }
    }
}

/// Hands the peer's flows over, until the link ends.
pub(super) async fn flows(node: Arc<Node>, handler: Arc<dyn Handler>) {
    while let Ok(stream) = node.link.accept().await {
        let flow = handler.flow(&node, stream);
        // As many at once as the link permits streams.
        node.flows.spawn(flow);
    }
}
