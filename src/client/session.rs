//! One link to one node: its handshake, its control stream, and the flows that arrive on it.
//!
//! Opened by a [`Slot`](super::slot::Slot), which also replaces it. A session never reconnects.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    ConnectError, Incoming, Shared,
    association::Via,
    listen::{Announced, not_listening},
    metrics::Counters,
    reach::{Goal, Transport},
};
use crate::{
    drain::Tasks,
    protocol::{
        Close, Code, Control, DecodeError, Flow, GoAway, GoAwayReason, Hello, Kind, NodeId, OLDEST_VERSION,
        Open, Refusal, Retire, Role, Secret, VERSION, Welcome,
    },
    transport::{
        self, ControlReader, ControlWriter, Datagrams, FlowError, FrameError, Link, Lost, Meter, Monitor,
        Vitals,
    },
};

/// How long a node has to answer `Hello`, and a flow to say what it is for.
const FIRST_FRAME: Duration = Duration::from_secs(10);

/// After how long an endpoint that a node has refused is offered to it again: the cause, a limit that is reached or a right
/// that is missing, may pass.
const REFUSED: Duration = Duration::from_secs(15);

/// The same once it has been shown another token. It says nothing when that is good, and may have to fetch a key before.
const RENEWED: Duration = Duration::from_secs(1);

/// Frames that wait for the control stream. Senders wait when it is full.
const CONTROL_QUEUE: usize = 16;

/// Where a session is in its life.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// It takes flows.
    Up,
    /// The node has said goodbye: flows finish, new ones go elsewhere.
    Leaving(GoAway),
    /// It is over.
    Ended(String),
}

/// A link that a node has welcomed.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) link: Link,
    pub(super) datagrams: Datagrams,
    pub(super) node: NodeId,
    pub(super) vitals: Arc<Vitals>,
    /// Open flows of the link.
    pub(super) flows: Tasks,
    /// The node has answered every listen that it was sent at first.
    settled: CancellationToken,
    phase: watch::Sender<Phase>,
    control: mpsc::Sender<Control>,
    pub(super) counters: Counters,
}

/// Why a session should be replaced.
#[derive(Debug)]
pub(super) enum Left {
    /// The node is leaving.
    GoAway(GoAway),
    /// It does not answer.
    Suspect,
    /// It is over.
    Ended(String),
}

impl Session {
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Up) && !self.vitals.is_suspect()
    }

    /// Whether the node has said goodbye and flows finish.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Leaving(_))
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Ended(_))
    }

    /// Whether it serves all that the client serves, as far as the node lets it.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.is_cancelled()
    }

    /// Waits until it does. Cancel safe.
    pub(super) async fn settled(&self) {
        self.settled.cancelled().await;
    }

    /// Waits until the session should be replaced. Cancel safe.
    pub(super) async fn left(&self) -> Left {
        let mut phase = self.phase.subscribe();
        tokio::select! {
            biased;
            changed = phase.wait_for(|phase| !matches!(phase, Phase::Up)) => match changed.as_deref() {
                Ok(Phase::Leaving(away)) => Left::GoAway(*away),
                Ok(Phase::Ended(why)) => Left::Ended(why.clone()),
                Ok(Phase::Up) | Err(_) => Left::Ended("the session was dropped".into()),
            },
            () = self.vitals.suspected() => Left::Suspect,
        }
    }

    async fn ended(&self) {
        // The sender is borrowed for as long as the wait, which therefore cannot fail.
        drop(self.phase.subscribe().wait_for(|phase| matches!(phase, Phase::Ended(_))).await);
    }

    /// Asks for no further request on a flow. A link that has ended has none.
    pub(super) async fn retire(&self, flow: u64) {
        drop(self.control.send(Control::Retire(Retire { flows: vec![flow] })).await);
    }

    /// Lets its flows finish, at most until the deadline, and closes it. How many flows were cut.
    pub(super) async fn finish(&self, deadline: Duration) -> usize {
        let goodbye = GoAway { reason: GoAwayReason::Stopping, deadline, smear: Duration::ZERO };
        let said = self.control.send(Control::GoAway(goodbye));
        let cut = tokio::select! {
            () = self.ended() => self.flows.len(),
            cut = async {
                if said.await.is_err() {
                    tracing::debug!(node = %self.node, "the link ended before its goodbye");
                }
                self.flows.finish(deadline).await.map_or_else(|aborted| aborted.left, |()| 0)
            } => cut,
        };
        let code = if cut == 0 { Close::Done } else { Close::GraceEnded };
        self.link.close(code, "the agent or forwarder has finished");
        cut
    }
}

/// Where to open a link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) goal: Goal<'a>,
    pub(super) transport: Transport,
    /// The node that is said to be there, and how long it has for its handshake.
    pub(super) listed: Option<(&'a NodeId, Duration)>,
}

/// Opens a link and has it welcomed by a node that is not to be avoided.
pub(super) async fn open(
    shared: &Arc<Shared>,
    role: Role,
    target: Target<'_>,
    avoid: Vec<NodeId>,
    token: Option<Secret>,
) -> Result<Opened, ConnectError> {
    let config = &shared.config;
    let dialled = shared.reach.dial(target.goal, target.transport);
    let (link, why) = match target.listed {
        None => dialled.await?,
        Some((node, after)) => tokio::time::timeout(after, dialled).await.unwrap_or_else(|_| {
            let address = target.goal.address.at.clone();
            Err(ConnectError::Unreachable { node: node.clone(), address, after })
        })?,
    };
    let stream = link.open(FIRST_FRAME).await?;
    let (mut writer, mut reader) = (ControlWriter::new(stream.send), ControlReader::new(stream.recv));
    let entries = if role == Role::Agent { shared.listens.all() } else { Vec::new() };
    let (mut announced, mut room) = (BTreeMap::new(), Hello::MAX_LISTENS);
    for entry in &entries {
        let Some(left) = room.checked_sub(entry.listen.weight()) else { break };
        room = left;
        announced.insert(entry.listen.id, entry.announce());
    }
    let hello = Hello {
        version: VERSION,
        oldest: OLDEST_VERSION,
        role,
        agent: shared.agent,
        name: config.name.clone(),
        tenant: config.tenant.clone(),
        token: token.clone(),
        listens: announced.values().map(|announced| announced.0.listen.clone()).collect(),
        avoid: avoid.clone(),
    };
    writer.send(&Control::Hello(hello)).await?;
    let answer = tokio::time::timeout(FIRST_FRAME, reader.next()).await;
    let welcome = match answer.map_err(|_| ConnectError::NoWelcome(FIRST_FRAME))?? {
        Control::Welcome(welcome) => check(welcome)?,
        Control::Refused(refusal) => {
            let error = ConnectError::Refused(refusal);
            if error.is_of_credentials()
                && let Some(token) = &token
            {
                shared.tokens.refused(token).await;
            }
            return Err(error);
        }
        other => return Err(ConnectError::Unexpected(format!("{other:?}"))),
    };
    shared.nodes.learn(welcome.nodes);
    if avoid.contains(&welcome.node) {
        // A node of ours would have refused.
        link.close(Close::Done, "there is a link to this node already");
        return Err(ConnectError::Linked(welcome.node));
    }

    let (control, queue) = mpsc::channel(CONTROL_QUEUE);
    let session = Arc::new(Session {
        vitals: Arc::default(),
        flows: Tasks::new(),
        phase: watch::Sender::new(Phase::Up),
        settled: CancellationToken::new(),
        node: welcome.node,
        datagrams: Datagrams::new(link.clone(), shared.counters.links().packets.of_link("node")),
        counters: shared.counters.clone(),
        link,
        control,
    });
    let run = ControlLoop {
        meter: shared.counters.links().meters.meter("node", &session.link),
        session: Arc::clone(&session),
        shared: Arc::clone(shared),
        role,
        unanswered: announced.keys().copied().collect(),
        refused: false,
        announced,
        token,
    };
    Ok(Opened { session, why, run, reader, writer, queue })
}

/// A link that has been welcomed, on which nothing is read yet.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) session: Arc<Session>,
    /// Why it is not over QUIC, if that was tried.
    pub(super) why: Option<String>,
    run: ControlLoop,
    reader: ControlReader,
    writer: ControlWriter,
    queue: mpsc::Receiver<Control>,
}

impl Opened {
    /// Lets frames and flows come.
    pub(super) fn run(self) {
        let Self { session, why: _, run, reader, writer, queue } = self;
        let shared = Arc::clone(&run.shared);
        shared.tasks.spawn(session.datagrams.clone().run());
        if run.role == Role::Agent {
            shared.tasks.spawn(accept(session, Arc::clone(&shared)));
        }
        shared.tasks.spawn(run.run(reader, writer, queue));
    }
}

fn check(welcome: Welcome) -> Result<Welcome, ConnectError> {
    if (OLDEST_VERSION..=VERSION).contains(&welcome.version) {
        Ok(welcome)
    } else {
        Err(ConnectError::Unexpected(format!("version {} of the protocol", welcome.version)))
    }
}

/// The task that owns a session's control stream.
#[derive(Debug)]
struct ControlLoop {
    /// Has the link counted for as long as it stands.
    meter: Meter,
    session: Arc<Session>,
    shared: Arc<Shared>,
    role: Role,
    announced: BTreeMap<u64, Announced>,
    /// Those of them that the node has not answered.
    unanswered: BTreeSet<u64>,
    /// One has been refused since this was last looked at.
    refused: bool,
    /// What the node has been shown last.
    token: Option<Secret>,
}

impl ControlLoop {
    async fn run(
        mut self,
        mut reader: ControlReader,
        mut writer: ControlWriter,
        mut queue: mpsc::Receiver<Control>,
    ) {
        let link = self.session.link.clone();
        let mut monitor = Monitor::new(&link, Arc::clone(&self.session.vitals));
        let mut changes = self.shared.listens.changes();
        changes.mark_changed();
        let mut tokens = self.shared.tokens.changes();
        tokens.mark_changed();
        // What did not fit into Hello is still to be announced.
        let mut caught_up = self.role != Role::Agent;
        if caught_up {
            self.session.settled.cancel();
        }
        // When to offer what was refused once more.
        let mut again: Option<Instant> = None;
        let why = loop {
            let step = tokio::select! {
                frame = reader.next() => match frame {
                    Ok(frame) => self.heard(frame, &mut writer).await,
                    Err(FrameError::Decode(DecodeError::Unknown { kind })) => {
                        tracing::debug!(kind, "the node sent a frame that is not known here");
                        writer.send(&Control::Unsupported(kind)).await
                    }
                    Err(error) => Err(error),
                },
                () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                    again = None;
                    self.announce(&mut writer).await
                }
                _ = changes.changed(), if self.role == Role::Agent => {
                    caught_up = true;
                    self.announce(&mut writer).await
                }
                Ok(()) = tokens.changed() => {
                    let token = tokens.borrow_and_update().clone().filter(|token| self.token.as_ref() != Some(token));
                    match token {
                        Some(token) => {
                            again = (self.role == Role::Agent).then(|| Instant::now() + RENEWED);
                            self.token = Some(token.clone());
                            writer.send(&Control::Token(token)).await
                        }
                        // It went with Hello.
                        None => Ok(()),
                    }
                }
                number = monitor.ping(&link) => writer.send(&Control::Ping(number)).await,
                Some(frame) = queue.recv() => writer.send(&frame).await,
                lost = link.closed() => break lost.to_string(),
            };
            if std::mem::take(&mut self.refused) {
                again = Some(Instant::now() + REFUSED.mul_f64(0.75 + 0.5 * rand::random::<f64>()));
            }
            match step {
                Ok(()) if caught_up && self.unanswered.is_empty() => self.session.settled.cancel(),
                Ok(()) => {}
                Err(FrameError::Decode(error)) => {
                    link.close(Close::Protocol, &error.to_string());
                    break error.to_string();
                }
                // The link's own end says more than the stream's.
                Err(error) => break link.lost().map_or_else(|| error.to_string(), |lost| lost.to_string()),
            }
        };
        if let (Some(Lost::Peer { code, .. }), Some(token)) = (link.lost(), &self.token)
            && code == Close::Expired as u64
        {
            // By the node's clock, or for another reason that it has; the next link is not to begin with it.
            self.shared.tokens.refused(token).await;
        }
        link.close(Close::Done, "the control stream ended");
        drop(self.meter);
        self.session.flows.abort();
        self.session.phase.send_replace(Phase::Ended(why));
    }

    /// Brings what stands on the link in line with what the client serves now.
    async fn announce(&mut self, writer: &mut ControlWriter) -> Result<(), FrameError> {
        let wanted: BTreeMap<_, _> =
            self.shared.listens.all().into_iter().map(|entry| (entry.listen.id, entry)).collect();
        for id in self.announced.keys().filter(|id| !wanted.contains_key(id)) {
            // It stands until the node has said that no flow will come for it any more.
            writer.send(&Control::Unlisten(*id)).await?;
        }
        if !matches!(*self.session.phase.borrow(), Phase::Up) {
            // What is new is for the link that takes this one's place.
            return Ok(());
        }
        for (id, entry) in wanted {
            if let Entry::Vacant(vacant) = self.announced.entry(id) {
                writer.send(&Control::Listen(entry.listen.clone())).await?;
                vacant.insert(entry.announce());
                self.unanswered.insert(id);
            }
        }
        Ok(())
    }

    async fn heard(&mut self, frame: Control, writer: &mut ControlWriter) -> Result<(), FrameError> {
        match frame {
            Control::Ping(number) => writer.send(&Control::Pong(number)).await?,
            Control::Listening(id) => {
                self.unanswered.remove(&id);
                if let Some(announced) = self.announced.get(&id) {
                    announced.0.listening();
                }
            }
            Control::ListenRefused(id, refusal) => {
                self.unanswered.remove(&id);
                self.shared.counters.listen_refused(&refusal);
                self.refused = true;
                if let Some(announced) = self.announced.remove(&id) {
                    let endpoint = &announced.0.listen.endpoint;
                    if announced.0.refused(refusal.clone()) {
                        let node = &self.session.node;
                        tracing::error!(%endpoint, %node, %refusal, "the node refuses an endpoint; asking on");
                    }
                }
            }
            Control::Unlistened(id) => {
                self.unanswered.remove(&id);
                drop(self.announced.remove(&id));
            }
            Control::Refused(refusal) => {
                if let Some(token) = &self.token {
                    self.shared.tokens.refused_by(&self.session.node, token, refusal).await;
                }
            }
            Control::Nodes(nodes) => self.shared.nodes.learn(nodes),
            Control::GoAway(away) => {
                tracing::info!(node = %self.session.node, deadline = ?away.deadline, "the node is leaving");
                self.session.phase.send_if_modified(|phase| {
                    let up = matches!(phase, Phase::Up);
                    if up {
                        *phase = Phase::Leaving(away);
                    }
                    up
                });
            }
            Control::Unsupported(kind) => tracing::debug!(kind, "the node does not know a frame"),
            // Any packet has done what a Pong is for; retired flows are of no use to this side.
            Control::Pong(_) | Control::Retire(_) => {}
            other => tracing::debug!(?other, "the node sent a frame that only agents send"),
        }
        Ok(())
    }
}

/// Takes the flows that the node opens, until the link ends.
async fn accept(session: Arc<Session>, shared: Arc<Shared>) {
    while let Ok(stream) = session.link.accept().await {
        let (shared, via) = (Arc::clone(&shared), Via::new(&session));
        // As many at once as the link permits streams.
        shared.tasks.clone().spawn(async move { arrive(stream, via, &shared).await });
    }
}

async fn arrive(mut stream: transport::Stream, via: Via, shared: &Shared) {
    let refusal = match tokio::time::timeout(FIRST_FRAME, transport::read_flow(&mut stream.recv)).await {
        Ok(Ok(Flow::Open(Open { kind: Kind::Other(kind), .. }))) => {
            Refusal::new(Code::Unsupported, format!("this agent knows no flows of kind {kind}"))
        }
        Ok(Ok(Flow::Open(open))) => match shared.listens.of_endpoint(&open.endpoint) {
            Some(entry) if (entry.listen.kind == Kind::Udp) != (open.kind == Kind::Udp) => {
                let (endpoint, kind) = (&open.endpoint, entry.listen.kind.name());
                Refusal::new(Code::Unsupported, format!("{endpoint} is served as {kind} by this agent"))
            }
            Some(entry) => return entry.offer(Incoming::new(open, stream, via)).await,
            None => not_listening(&open.endpoint),
        },
        Ok(Ok(_)) => Refusal::new(Code::Invalid, "a flow begins with Open"),
        Ok(Err(FlowError::Decode(error @ DecodeError::Unknown { .. }))) => {
            Refusal::new(Code::Unsupported, error.to_string())
        }
        Ok(Err(FlowError::Decode(error))) => Refusal::new(Code::Invalid, error.to_string()),
        Ok(Err(FlowError::Io(error))) => return tracing::debug!(%error, "a flow went away before it began"),
        Err(_) => Refusal::new(Code::Invalid, format!("no Open within {FIRST_FRAME:?}")),
    };
    shared.counters.flow_refused(&refusal);
    transport::refuse(stream, refusal).await;
}
