//! One link to one node: its handshake, its control stream, and the flows that arrive on it.
//!
//! Opened by an [`Uplink`](super::uplink::Uplink), which also replaces it. A session never reconnects.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use super::{
    ConnectError, Incoming, Shared,
    listen::{Announced, not_listening},
};
use crate::{
    drain::Tasks,
    net,
    protocol::{
        Close, Code, Control, DecodeError, Flow, GoAway, GoAwayReason, Hello, Kind, NodeId, OLDEST_VERSION,
        Open, Refusal, Role, VERSION, Welcome,
    },
    transport::{self, ControlReader, ControlWriter, FlowError, FrameError, Link, Monitor, Vitals},
};

/// How long a node has to answer `Hello`, and a flow to say what it is for.
const FIRST_FRAME: Duration = Duration::from_secs(10);

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
    pub(super) node: NodeId,
    pub(super) vitals: Arc<Vitals>,
    /// Open flows of the link.
    pub(super) flows: Tasks,
    phase: watch::Sender<Phase>,
    control: mpsc::Sender<Control>,
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

/// Opens a link and has it welcomed.
pub(super) async fn open(shared: &Arc<Shared>, role: Role) -> Result<Arc<Session>, ConnectError> {
    let config = &shared.config;
    let addresses = config.connect.resolve().await?;
    let name = config.server_name.as_deref().unwrap_or(&config.connect.host);
    let link = net::first_of(&addresses, |address| shared.dialer.dial(address, name))
        .await
        .map_err(|error| error.map_or(ConnectError::NoAddress, ConnectError::Dial))?;

    let stream = link.open(FIRST_FRAME).await?;
    let (mut writer, mut reader) = (ControlWriter::new(stream.send), ControlReader::new(stream.recv));
    let entries = if role == Role::Agent { shared.listens.all() } else { Vec::new() };
    let announced: BTreeMap<_, _> =
        entries.iter().take(Hello::MAX_LISTENS).map(|entry| (entry.listen.id, entry.announce())).collect();
    let hello = Hello {
        version: VERSION,
        oldest: OLDEST_VERSION,
        role,
        agent: shared.agent,
        name: config.name.clone(),
        tenant: config.tenant.clone(),
        token: config.token.clone(),
        listens: announced.values().map(|announced| announced.0.listen.clone()).collect(),
    };
    writer.send(&Control::Hello(hello)).await?;
    let answer = tokio::time::timeout(FIRST_FRAME, reader.next()).await;
    let welcome = match answer.map_err(|_| ConnectError::NoWelcome(FIRST_FRAME))?? {
        Control::Welcome(welcome) => check(welcome)?,
        Control::Refused(refusal) => return Err(ConnectError::Refused(refusal)),
        other => return Err(ConnectError::Unexpected(format!("{other:?}"))),
    };

    let (control, queue) = mpsc::channel(CONTROL_QUEUE);
    let session = Arc::new(Session {
        vitals: Arc::default(),
        flows: Tasks::new(),
        phase: watch::Sender::new(Phase::Up),
        node: welcome.node,
        link,
        control,
    });
    if role == Role::Agent {
        shared.tasks.spawn(accept(Arc::clone(&session), Arc::clone(shared)));
    }
    let run = ControlLoop { session: Arc::clone(&session), shared: Arc::clone(shared), role, announced };
    shared.tasks.spawn(run.run(reader, writer, queue));
    Ok(session)
}

fn check(welcome: Welcome) -> Result<Welcome, ConnectError> {
    if (OLDEST_VERSION..=VERSION).contains(&welcome.version) {
        Ok(welcome)
    } else {
        Err(ConnectError::Unexpected(format!("version {} of the protocol", welcome.version)))
    }
}

/// The task that owns a session's control stream.
struct ControlLoop {
    session: Arc<Session>,
    shared: Arc<Shared>,
    role: Role,
    announced: BTreeMap<u64, Announced>,
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
                _ = changes.changed(), if self.role == Role::Agent => self.announce(&mut writer).await,
                number = monitor.ping(&link) => writer.send(&Control::Ping(number)).await,
                Some(frame) = queue.recv() => writer.send(&frame).await,
                lost = link.closed() => break lost.to_string(),
            };
            match step {
                Ok(()) => {}
                Err(FrameError::Decode(error)) => {
                    link.close(Close::Protocol, &error.to_string());
                    break error.to_string();
                }
                // The link's own end says more than the stream's.
                Err(error) => break link.lost().map_or_else(|| error.to_string(), |lost| lost.to_string()),
            }
        };
        link.close(Close::Done, "the control stream ended");
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
        for (id, entry) in wanted {
            if let Entry::Vacant(vacant) = self.announced.entry(id) {
                writer.send(&Control::Listen(entry.listen.clone())).await?;
                vacant.insert(entry.announce());
            }
        }
        Ok(())
    }

    async fn heard(&mut self, frame: Control, writer: &mut ControlWriter) -> Result<(), FrameError> {
        match frame {
            Control::Ping(number) => writer.send(&Control::Pong(number)).await?,
            Control::Listening(id) => {
                if let Some(announced) = self.announced.get(&id) {
                    announced.0.listening();
                }
            }
            Control::ListenRefused(id, refusal) => {
                if let Some(announced) = self.announced.remove(&id) {
                    let endpoint = &announced.0.listen.endpoint;
                    tracing::error!(%endpoint, node = %self.session.node, %refusal, "the node refuses an endpoint");
                    announced.0.refused(refusal);
                }
            }
            Control::Unlistened(id) => drop(self.announced.remove(&id)),
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
            // Any packet has done what a Pong is for; lists of nodes and retired flows are of no use to this side.
            Control::Pong(_) | Control::Nodes(_) | Control::Retire(_) => {}
            other => tracing::debug!(?other, "the node sent a frame that only agents send"),
        }
        Ok(())
    }
}

/// Takes the flows that the node opens, until the link ends.
async fn accept(session: Arc<Session>, shared: Arc<Shared>) {
    while let Ok(stream) = session.link.accept().await {
        let (shared, hold) = (Arc::clone(&shared), session.flows.hold());
        // As many at once as the link permits streams.
        shared.tasks.clone().spawn(async move { arrive(stream, hold, &shared).await });
    }
}

async fn arrive(
    mut stream: transport::Stream,
    hold: tokio_util::task::task_tracker::TaskTrackerToken,
    shared: &Shared,
) {
    let refusal = match tokio::time::timeout(FIRST_FRAME, transport::read_flow(&mut stream.recv)).await {
        Ok(Ok(Flow::Open(Open { kind: Kind::Other(kind), .. }))) => {
            Refusal::new(Code::Unsupported, format!("this agent knows no flows of kind {kind}"))
        }
        Ok(Ok(Flow::Open(open))) => match shared.listens.of_endpoint(&open.endpoint) {
            Some(entry) => return entry.offer(Incoming::new(open, stream, hold)).await,
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
    transport::refuse(stream, refusal).await;
}
