//! One link of an agent or a forwarder, on the node's side: who it is, what it serves, and its control stream.
//!
//! Made by `node` when `Hello` has been read; its control loop runs until the link ends. The flows that a forwarder opens on
//! it are `relay`'s.

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::OptionFuture;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use super::{registry::Upstreams, routes::Route as _, service::Upstream, status::LinkStatus};
use crate::{
    auth::{Action, ListenPass, Refused, Standing},
    drain::{Aborted, Tasks},
    protocol::{
        AgentId, Close, Code, Control, DecodeError, EndpointId, GoAway, HostPattern, Kind, LinkId, Listen,
        NodeAddress, Refusal, Retire, Role, TenantId,
    },
    telemetry::{Recent, What},
    transport::{ControlReader, ControlWriter, Datagrams, FrameError, Link, Meter, Monitor, Vitals},
};

/// How many goodbyes wait for the control stream: a node that drains says one more than it has said before. Senders wait when
/// it is full.
const GOODBYES: usize = 16;

/// How many of a link's endpoints are named when it has ended.
const SHOWN: usize = 3;

/// How long endpoints stay with a superseded link until the newer one has listened for them.
const MOVE: Duration = Duration::from_secs(5);

/// Who opened a link, as its `Hello` said and `node` has allowed.
#[derive(Debug, Clone)]
pub struct Identity {
    /// What it is.
    pub role: Role,
    /// Which process.
    pub agent: AgentId,
    /// Its label.
    pub name: Option<String>,
    /// Its tenant.
    pub tenant: TenantId,
}

/// For people: what it is, enough of its id to tell it from others, and its label.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.agent.to_string();
        write!(f, "{} {}", self.role_name(), id.get(..8).unwrap_or(&id))?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

impl Identity {
    /// What it is, in a word.
    pub fn role_name(&self) -> &'static str {
        match self.role {
            Role::Agent => "agent",
            Role::Forwarder => "forwarder",
        }
    }

    /// Whether both are links of one process.
    pub(super) fn is_of_same(&self, other: &Self) -> bool {
        self.agent == other.agent && self.role == other.role && self.tenant == other.tenant
    }
}

/// Where a link is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It takes flows.
    Up = 0,
    /// A newer link of the same process takes its place.
    Superseded = 1,
    /// Its opener has said goodbye: it takes no new flow.
    Leaving = 2,
}

/// An endpoint that a link serves.
#[derive(Debug)]
struct Listening {
    upstream: Arc<Upstream>,
    /// Its part of what the agent and its tenant may serve.
    _pass: ListenPass,
}

/// A link that has been welcomed.
#[derive(Debug)]
pub struct Session {
    /// Its number on this node.
    pub id: LinkId,
    /// Who opened it.
    pub identity: Identity,
    /// The link itself.
    pub link: Link,
    /// Its datagrams.
    pub datagrams: Datagrams,
    /// Whether it answers.
    pub vitals: Arc<Vitals>,
    /// Its flows: everything that must end before it may be closed.
    pub flows: Tasks,
    /// It has no control stream, and its streams carry bytes alone: that of a Piko agent.
    pub bare: bool,
    /// What it may do, and for how long.
    pub standing: Standing,
    state: AtomicU8,
    superseded: Notify,
    shed: AtomicBool,
    goodbyes: mpsc::Sender<GoAway>,
    listens: Mutex<BTreeMap<u64, Listening>>,
    since: Instant,
}

impl Session {
    /// A link that is about to be welcomed, and the goodbyes that wait for its control stream.
    pub fn new(
        id: LinkId,
        identity: Identity,
        standing: Standing,
        datagrams: Datagrams,
    ) -> (Arc<Self>, mpsc::Receiver<GoAway>) {
        let (goodbyes, queue) = mpsc::channel(GOODBYES);
        (Arc::new(Self::made(id, identity, standing, datagrams, goodbyes)), queue)
    }

    /// A link without a control stream.
    pub fn bare(id: LinkId, identity: Identity, standing: Standing, datagrams: Datagrams) -> Arc<Self> {
        let (goodbyes, _) = mpsc::channel(1);
        Arc::new(Self { bare: true, ..Self::made(id, identity, standing, datagrams, goodbyes) })
    }

    fn made(
        id: LinkId,
        identity: Identity,
        standing: Standing,
        datagrams: Datagrams,
        goodbyes: mpsc::Sender<GoAway>,
    ) -> Self {
        Self {
            id,
            identity,
            link: datagrams.link().clone(),
            datagrams,
            vitals: Arc::default(),
            flows: Tasks::new(),
            bare: false,
            standing,
            state: AtomicU8::new(State::Up as u8),
            superseded: Notify::new(),
            shed: AtomicBool::new(false),
            goodbyes,
            listens: Mutex::default(),
            since: Instant::now(),
        }
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        match self.state.load(Relaxed) {
            0 => State::Up,
            1 => State::Superseded,
            _ => State::Leaving,
        }
    }

    /// Lets a newer link take its place; false when that has happened before.
    pub(super) fn supersede(&self) -> bool {
        let first =
            self.state.compare_exchange(State::Up as u8, State::Superseded as u8, Relaxed, Relaxed).is_ok();
        if first {
            self.superseded.notify_one();
        }
        first
    }

    fn listens(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Listening>> {
        self.listens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the opener to move to another node.
    pub async fn shed(&self, away: GoAway) {
        self.shed.store(true, Relaxed);
        self.go_away(away).await;
    }

    /// Whether it has been asked to move.
    pub fn is_shed(&self) -> bool {
        self.shed.load(Relaxed)
    }

    /// Says goodbye. The opener is to link elsewhere; until it has, it is still sent what nobody else can take.
    pub async fn go_away(&self, away: GoAway) {
        if !self.bare && self.goodbyes.send(away).await.is_err() {
            tracing::debug!(link = %self.id, "the link ended before its goodbye");
        }
    }

    /// Closes HTTP flows as they become idle, waits until no flow is left, at most until the deadline, and closes the link.
    ///
    /// # Errors
    /// When flows were left, which are cut.
    pub async fn finish(&self, deadline: Duration) -> Result<(), Aborted> {
        self.retire_flows(None);
        let finished = tokio::select! {
            _ = self.link.closed() => Ok(()),
            finished = self.flows.finish(deadline) => finished,
        };
        let code = if finished.is_ok() { Close::Done } else { Close::GraceEnded };
        self.link.close(code, "the node is leaving");
        finished
    }

    /// Puts no further request on flows: those named, or all.
    fn retire_flows(&self, flows: Option<&[u64]>) {
        for Listening { upstream, .. } in self.listens().values() {
            match flows {
                Some(flows) => upstream.retire(flows),
                None => upstream.retire_all(),
            }
        }
    }

    /// Whether what it stands on lets it serve an endpoint with these hosts.
    fn may_serve(&self, endpoint: &EndpointId, hosts: &[HostPattern]) -> Result<(), Refused> {
        self.standing.permits(Action::Serve, endpoint)?;
        self.standing.permits_hosts(hosts)
    }

    /// Has it serve an endpoint.
    pub(super) fn serve(&self, id: u64, upstream: Arc<Upstream>, pass: ListenPass) {
        self.listens().insert(id, Listening { upstream, _pass: pass });
    }

    /// Opens no flow on it any more; those under way finish.
    pub(super) fn leave(&self, upstreams: &Upstreams) {
        self.state.store(State::Leaving as u8, Relaxed);
        self.withdraw(upstreams);
    }

    fn withdraw(&self, upstreams: &Upstreams) {
        let listens = std::mem::take(&mut *self.listens());
        for Listening { upstream, .. } in listens.values() {
            upstreams.unlisten(upstream);
        }
    }

    /// The names of its endpoints, the first few of them.
    fn served(&self) -> String {
        let listens = self.listens();
        let mut names: Vec<_> =
            listens.values().map(|listening| listening.upstream.name.endpoint.to_string()).collect();
        names.sort_unstable();
        let more = names.len().saturating_sub(SHOWN);
        names.truncate(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        names.join(", ") + &more
    }

    /// Requests and flows in use by its endpoints.
    pub(super) fn in_flight(&self) -> usize {
        self.listens().values().map(|listening| listening.upstream.in_flight()).sum()
    }

    pub(super) fn status(&self) -> LinkStatus {
        let endpoints = self.listens().len();
        let in_flight = self.in_flight();
        LinkStatus {
            id: self.id.0,
            role: self.identity.role_name(),
            agent: self.identity.agent.to_string(),
            name: self.identity.name.clone(),
            address: self.link.remote_address().to_string(),
            transport: self.link.transport(),
            tenant: self.identity.tenant.clone(),
            rtt_ms: self.link.stats().rtt.as_micros() as f64 / 1000.0,
            flows: if self.identity.role == Role::Agent { in_flight } else { self.flows.len() },
            endpoints,
            age_s: self.since.elapsed().as_secs(),
            suspect: self.vitals.is_suspect(),
            state: match self.state() {
                State::Up => "up",
                State::Superseded => "superseded",
                State::Leaving => "leaving",
            },
        }
    }
}

/// A token that is judged while the link goes on, since keys may have to be fetched for it. Of two, the newer counts.
type Renewal<'a> = OptionFuture<Pin<Box<dyn Future<Output = Result<(), Refused>> + Send + 'a>>>;

/// Runs a link's control stream.
#[derive(Debug)]
struct ControlLoop {
    session: Arc<Session>,
    upstreams: Upstreams,
    max_listens: usize,
    _meter: Meter,
    /// The loop has come to its end.
    ended: bool,
}

impl Upstreams {
    /// Runs a link's control stream until the link ends. `listens` are those of its `Hello`.
    pub async fn run(
        &self,
        session: Arc<Session>,
        listens: Vec<Listen>,
        max_listens: usize,
        (reader, mut writer): (ControlReader, ControlWriter),
        goodbyes: mpsc::Receiver<GoAway>,
        nodes: watch::Receiver<Arc<[NodeAddress]>>,
    ) {
        self.add_link(&session);
        let meter = self.meter(&session);
        let happened = Happened::new(self, &session);
        let mut run = ControlLoop {
            session: Arc::clone(&session),
            upstreams: self.clone(),
            max_listens,
            _meter: meter,
            ended: false,
        };
        let mut hello = Ok(());
        for listen in listens {
            if hello.is_ok() {
                hello = run.listen(listen, &mut writer).await;
            }
        }
        let why = match hello {
            Ok(()) => run.run(reader, writer, goodbyes, nodes).await,
            Err(error) => error.to_string(),
        };
        run.ended = true;
        happened.ended(&why);
        let Session { id, identity, .. } = &*run.session;
        tracing::info!(link = %id, agent = %identity.agent, role = identity.role_name(), why, "a link has ended");
    }
}

/// Takes down that a link has come up, and then how it has ended.
pub(super) struct Happened {
    recent: Recent,
    session: Arc<Session>,
}

impl Happened {
    pub(super) fn new(upstreams: &Upstreams, session: &Arc<Session>) -> Self {
        let this = Self { recent: upstreams.recent().clone(), session: Arc::clone(session) };
        let link = &session.link;
        this.note(What::Linked, format!("from {} over {}", link.remote_address().ip(), link.transport()));
        this
    }

    /// To be told while the link's endpoints are still its own.
    pub(super) fn ended(&self, why: &str) {
        let served = self.session.served();
        let served = if served.is_empty() { served } else { format!("; it served {served}") };
        self.note(What::LinkEnded, format!("{why}{served}"));
    }

    fn note(&self, what: What, why: String) {
        let identity = &self.session.identity;
        self.recent.note(what, Some(identity.tenant.as_str()), identity.to_string(), why);
    }
}

/// However the loop ends, the link ends with it: also when its task is dropped with the node. What has arrived on its flows
/// may still be read, unless the node is gone as well.
impl Drop for ControlLoop {
    fn drop(&mut self) {
        self.session.withdraw(&self.upstreams);
        self.upstreams.remove_link(&self.session);
        self.session.link.close(Close::Done, "the control stream ended");
        if !self.ended {
            self.session.flows.abort();
        }
    }
}

impl ControlLoop {
    async fn run(
        &self,
        mut reader: ControlReader,
        mut writer: ControlWriter,
        mut goodbyes: mpsc::Receiver<GoAway>,
        mut nodes: watch::Receiver<Arc<[NodeAddress]>>,
    ) -> String {
        let link = &self.session.link;
        let mut monitor = Monitor::new(link, Arc::clone(&self.session.vitals));
        let (superseded, lapsed) = (self.superseded(), self.session.standing.lapsed());
        tokio::pin!(superseded, lapsed);
        let mut renewal = Renewal::default();
        loop {
            let step = tokio::select! {
                frame = reader.next() => self.read(frame, &mut renewal, &mut writer).await,
                number = monitor.ping(link) => writer.send(&Control::Ping(number)).await,
                Some(away) = goodbyes.recv() => writer.send(&Control::GoAway(away)).await,
                Ok(()) = nodes.changed() => {
                    let nodes = nodes.borrow_and_update().to_vec();
                    writer.send(&Control::Nodes(nodes)).await
                }
                Some(renewed) = &mut renewal => {
                    renewal = None.into();
                    self.renewed(renewed, &mut writer).await
                }
                lapsed = &mut lapsed => {
                    let why = lapsed.to_string();
                    link.close(Close::Expired, &why);
                    return why;
                }
                why = &mut superseded => {
                    link.close(Close::Superseded, why);
                    return why.into();
                }
                lost = link.closed() => return lost.to_string(),
            };
            if let Err(error) = step {
                if let FrameError::Decode(error) = &error {
                    link.close(Close::Protocol, &error.to_string());
                }
                // The link's own end says more than the stream's.
                return link.lost().map_or_else(|| error.to_string(), |lost| lost.to_string());
            }
        }
    }

    async fn read<'a>(
        &'a self,
        frame: Result<Control, FrameError>,
        renewal: &mut Renewal<'a>,
        writer: &mut ControlWriter,
    ) -> Result<(), FrameError> {
        match frame {
            Ok(Control::Token(token)) => {
                let renewed = async move { self.session.standing.renew(token.expose()).await };
                *renewal = Some(Box::pin(renewed) as Pin<Box<_>>).into();
                Ok(())
            }
            Ok(frame) => {
                // What is asked for behind a token is judged by that one.
                if matches!(frame, Control::Listen(_))
                    && let Some(renewed) = std::mem::take(renewal).await
                {
                    self.renewed(renewed, writer).await?;
                }
                self.heard(frame, writer).await
            }
            Err(FrameError::Decode(DecodeError::Unknown { kind })) => {
                tracing::debug!(link = %self.session.id, kind, "a frame that is not known here");
                writer.send(&Control::Unsupported(kind)).await
            }
            Err(error) => Err(error),
        }
    }

    /// Once a newer link has taken this one's place: ends with its last flow, or as soon as it does not answer.
    async fn superseded(&self) -> &'static str {
        self.session.superseded.notified().await;
        // Somebody waits for it to answer now: it is either in use or a zombie.
        let _waiting = self.session.vitals.wait();
        let empty = async {
            tokio::time::sleep(MOVE).await;
            self.session.withdraw(&self.upstreams);
            self.session.flows.wait_empty().await;
        };
        tokio::select! {
            () = empty => "superseded by a newer link",
            () = self.session.vitals.suspected() => "superseded by a newer link, and it did not answer",
        }
    }

    /// A link whose token has been renewed, or not, goes on; what the new one does not permit ends.
    async fn renewed(
        &self,
        renewed: Result<(), Refused>,
        writer: &mut ControlWriter,
    ) -> Result<(), FrameError> {
        let session = &self.session;
        if let Err(refused) = renewed {
            let (agent, code) = (session.identity.agent, refused.code());
            tracing::warn!(target: "adit::access", link = %session.id, %agent, code, %refused, "a link's new token is refused");
            return writer.send(&Control::Refused(refused.refusal())).await;
        }
        tracing::debug!(link = %session.id, "a link's token is renewed");
        let mut withdrawn = Vec::new();
        session.listens().retain(|id, Listening { upstream, .. }| {
            match session.may_serve(&upstream.name.endpoint, upstream.hosts()) {
                Ok(()) => true,
                Err(refused) => {
                    withdrawn.push((*id, Arc::clone(upstream), refused));
                    false
                }
            }
        });
        for (id, upstream, refused) in withdrawn {
            let (endpoint, code) = (&upstream.name, refused.code());
            tracing::warn!(target: "adit::access", link = %session.id, %endpoint, code, %refused, "an endpoint is withdrawn");
            self.upstreams.unlisten(&upstream);
            writer.send(&Control::ListenRefused(id, refused.refusal())).await?;
        }
        Ok(())
    }

    async fn listen(&self, listen: Listen, writer: &mut ControlWriter) -> Result<(), FrameError> {
        let (id, session) = (listen.id, &self.session);
        let refusal = {
            let listens = session.listens();
            if session.identity.role != Role::Agent {
                Some(Refusal::new(
                    Code::Unsupported,
                    "only a link with the role of an agent serves endpoints",
                ))
            } else if let Err(refused) = session.may_serve(&listen.endpoint, &listen.options.hosts) {
                Some(refused.refusal())
            } else if let Kind::Other(kind) = listen.kind {
                Some(Refusal::new(Code::Unsupported, format!("this node knows no endpoints of kind {kind}")))
            } else if listens.contains_key(&id) {
                Some(Refusal::new(Code::Invalid, format!("listen {id} stands already")))
            } else if listens.len() >= self.max_listens {
                let most = self.max_listens;
                Some(Refusal::new(Code::Busy, format!("one link may serve {most} endpoints at most")))
            } else if self.upstreams.announcements().is_full() {
                Some(Refusal::new(Code::Busy, "this node serves as many endpoints as one may"))
            } else if listens.values().any(|other| other.upstream.name.endpoint == listen.endpoint) {
                Some(Refusal::new(Code::Invalid, format!("the link serves {} already", listen.endpoint)))
            } else {
                None
            }
        };
        let (endpoint, kind) = (listen.endpoint.clone(), listen.kind);
        let listening = match refusal {
            Some(refusal) => Err(refusal),
            None => self.upstreams.listen(session, listen),
        };
        let (upstream, pass) = match listening {
            Ok(listening) => listening,
            Err(refusal) => {
                let code = refusal.code.name();
                tracing::warn!(target: "adit::access", link = %session.id, %endpoint, code, %refusal, "an endpoint is refused");
                return writer.send(&Control::ListenRefused(id, refusal)).await;
            }
        };
        tracing::info!(link = %session.id, %endpoint, kind = kind.name(), "an agent serves an endpoint");
        session.serve(id, upstream, pass);
        writer.send(&Control::Listening(id)).await
    }

    async fn heard(&self, frame: Control, writer: &mut ControlWriter) -> Result<(), FrameError> {
        let session = &self.session;
        match frame {
            Control::Ping(number) => writer.send(&Control::Pong(number)).await?,
            Control::Listen(listen) => self.listen(listen, writer).await?,
            Control::Unlisten(id) => {
                let listening = session.listens().remove(&id);
                if let Some(Listening { upstream, .. }) = listening {
                    tracing::info!(link = %session.id, endpoint = %upstream.name.endpoint, "an agent no longer serves an endpoint");
                    self.upstreams.unlisten(&upstream);
                }
                writer.send(&Control::Unlistened(id)).await?;
            }
            Control::Retire(Retire { flows }) => session.retire_flows(Some(&flows)),
            Control::GoAway(away) => {
                tracing::info!(link = %session.id, deadline = ?away.deadline, "the link's opener is leaving");
                session.leave(&self.upstreams);
            }
            Control::Unsupported(kind) => {
                tracing::debug!(link = %session.id, kind, "the peer does not know a frame")
            }
            // Any packet has done what a Pong is for.
            Control::Pong(_) => {}
            other => tracing::debug!(link = %session.id, ?other, "a frame that only nodes send"),
        }
        Ok(())
    }
}
