//! Keeps a client's links to its cluster, for ever: so many, to different nodes.
//!
//! Each link has a [`Slot`], a task that opens it and replaces it; here is what they share.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, Once, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::{MutexGuard, watch};

use super::{GetTokenError, Shared, session::Session, slot::Slot};
use crate::{
    net,
    protocol::{Code, Hello, NodeId, Refusal, Role},
    telemetry,
    transport::{FrameError, OpenError, quic, websocket},
};

/// Why no link could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no token to show.
    #[error("there is no token for the link")]
    Token(#[source] Arc<GetTokenError>),
    /// The name has no address.
    #[error(transparent)]
    Resolve(#[from] net::ResolveError),
    /// A listed node's address is none.
    #[error(transparent)]
    Address(#[from] net::InvalidHostPort),
    /// The name has no address that can be tried.
    #[error("there is no address to connect to")]
    NoAddress,
    /// No address answered over QUIC as it should.
    #[error(transparent)]
    Dial(quic::DialError),
    /// No address answered over WebSocket as it should.
    #[error(transparent)]
    WebSocket(websocket::DialError),
    /// Neither did.
    #[error("{quic}; over WebSocket: {}", telemetry::report(&**.websocket))]
    Neither {
        /// What QUIC failed with.
        quic: String,
        /// What WebSocket failed with.
        websocket: Box<Self>,
    },
    /// A listed node did not answer.
    #[error("node {node} has not answered at {address} within {after:?}")]
    Unreachable {
        /// The node.
        node: NodeId,
        /// Where it is said to be.
        address: net::HostPort,
        /// How long it had.
        after: Duration,
    },
    /// The node refuses the link.
    #[error("the node refuses the link: {0}")]
    Refused(Refusal),
    /// Another link of this client leads to the node that has answered.
    #[error("node {0} has answered, to which there is a link already")]
    Linked(NodeId),
    /// The node answered nothing.
    #[error("the node has not answered Hello within {0:?}")]
    NoWelcome(Duration),
    /// The node answered something else.
    #[error("the node answered Hello with {0}")]
    Unexpected(String),
    /// The link broke.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The control stream broke.
    #[error("the control stream failed: {0}")]
    Frame(#[from] FrameError),
}

impl ConnectError {
    /// In a word, for counts.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Resolve(_) | Self::Address(_) | Self::NoAddress => "address",
            Self::Dial(_) | Self::WebSocket(_) | Self::Neither { .. } | Self::Unreachable { .. } => {
                "unreachable"
            }
            Self::Refused(refusal) => refusal.code.name(),
            Self::Linked(_) => Code::Elsewhere.name(),
            Self::NoWelcome(_) | Self::Unexpected(_) | Self::Open(_) | Self::Frame(_) => "broken",
        }
    }

    /// Whether only other credentials, or a change at the node, will help.
    pub(super) fn is_of_credentials(&self) -> bool {
        match self {
            Self::Token(_) => true,
            Self::Refused(refusal) => matches!(refusal.code, Code::Unauthenticated | Code::Forbidden),
            _ => false,
        }
    }
}

/// How a client stands with its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing has asked for a link yet.
    Idle,
    /// There is no link; one is being opened.
    Connecting {
        /// Why the last attempt, or the last link, failed.
        error: Option<String>,
    },
    /// There are links, one at least.
    Connected {
        /// Where they lead; no node is there twice.
        links: Vec<LinkedTo>,
    },
}

/// The other end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedTo {
    /// The node.
    pub node: NodeId,
    /// Its address.
    pub address: SocketAddr,
    /// Over what the link goes: `quic` or `websocket`.
    pub transport: &'static str,
}

impl State {
    /// The nodes to which there are links.
    pub fn nodes(&self) -> Vec<&NodeId> {
        match self {
            Self::Idle | Self::Connecting { .. } => Vec::new(),
            Self::Connected { links } => links.iter().map(|link| &link.node).collect(),
        }
    }
}

/// Links that are kept.
#[derive(Debug)]
pub(super) struct Uplink {
    shared: Arc<Shared>,
    role: Role,
    started: Once,
    links: Arc<Links>,
}

impl Uplink {
    /// One that keeps `count` links, as far as there are nodes for them.
    pub(super) fn new(shared: Arc<Shared>, role: Role, count: usize) -> Self {
        let links = Links {
            state: watch::Sender::new(State::Idle),
            table: watch::Sender::new(Table { slots: vec![None; count], error: None }),
            all: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
            lost: Mutex::new(vec![None; count]),
        };
        Self { shared, role, started: Once::new(), links: Arc::new(links) }
    }

    /// Opens the links, unless that has been done.
    pub(super) fn start(&self) {
        self.started.call_once(|| {
            self.links.change(|_| {});
            let count = self.links.table.borrow().slots.len();
            for index in 0..count {
                let slot = Slot::new(index, Arc::clone(&self.shared), self.role, Arc::clone(&self.links));
                self.shared.tasks.spawn(slot.keep());
            }
        });
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.links.state.subscribe()
    }

    /// A session that takes flows, as soon as there is one. Cancel safe.
    pub(super) async fn session(&self) -> Arc<Session> {
        let mut table = self.links.table.subscribe();
        loop {
            let usable = table.wait_for(|table| table.up().next().is_some()).await;
            if let Ok(table) = usable
                && let Some(session) = table.up().next()
            {
                return Arc::clone(session);
            }
        }
    }

    /// Lets the flows of all links finish, at most until the deadline, and closes the links. How many flows were cut.
    pub(super) async fn finish(&self, deadline: Duration) -> usize {
        self.shared.tasks.signal();
        let sessions = self.links.sessions();
        let finished = sessions.iter().map(|session| session.finish(deadline));
        futures_util::future::join_all(finished).await.into_iter().sum()
    }
}

/// What the slots of an uplink share.
#[derive(Debug)]
pub(super) struct Links {
    state: watch::Sender<State>,
    table: watch::Sender<Table>,
    /// Every session that may still have flows, those of the table among them.
    all: Mutex<Vec<Weak<Session>>>,
    dialling: tokio::sync::Mutex<()>,
    /// Why the link of each slot has gone, in a word, where there is none in its place yet.
    lost: Mutex<Vec<Option<&'static str>>>,
}

#[derive(Debug)]
struct Table {
    /// The newest session of each slot; it may have ended, until the slot has another.
    slots: Vec<Option<Arc<Session>>>,
    /// What went wrong last.
    error: Option<String>,
}

impl Table {
    fn up(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.slots.iter().flatten().filter(|session| session.is_up())
    }

    fn state(&self) -> State {
        let linked = |session: &Arc<Session>| LinkedTo {
            node: session.node.clone(),
            address: session.link.remote_address(),
            transport: session.link.transport(),
        };
        let links: Vec<_> = self.up().map(linked).collect();
        if links.is_empty() {
            State::Connecting { error: self.error.clone() }
        } else {
            State::Connected { links }
        }
    }
}

impl Links {
    /// Changes the table and tells everybody.
    fn change(&self, change: impl FnOnce(&mut Table)) {
        self.table.send_modify(|table| {
            change(table);
            let new = table.state();
            self.state.send_if_modified(|state| {
                let changed = *state != new;
                *state = new;
                changed
            });
        });
    }

    fn sessions(&self) -> Vec<Arc<Session>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }

    fn reasons(&self) -> std::sync::MutexGuard<'_, Vec<Option<&'static str>>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot's link has gone, and why.
    pub(super) fn lost(&self, index: usize, why: &'static str) {
        self.reasons()[index] = Some(why);
    }

    /// It has not gone, as it turns out.
    pub(super) fn not_lost(&self, index: usize) {
        self.reasons()[index] = None;
    }

    /// A slot has a link: why the one has gone in whose place it is, if there was one. That may have been another slot's, since
    /// one that never had a link may be the first to find a node.
    pub(super) fn replaced(&self, index: usize) -> Option<&'static str> {
        let mut reasons = self.reasons();
        let own = reasons[index].take();
        own.or_else(|| reasons.iter_mut().find_map(Option::take))
    }

    /// Waits until this slot alone looks for a node: who will answer a name is known only when it has, and of two that ask
    /// at once both might be given the same node.
    pub(super) async fn dialling(&self) -> MutexGuard<'_, ()> {
        self.dialling.lock().await
    }

    /// The newest session of a slot.
    pub(super) fn of(&self, index: usize) -> Option<Arc<Session>> {
        self.table.borrow().slots.get(index).cloned().flatten()
    }

    /// Gives a slot a session, or none. Its former one.
    pub(super) fn put(&self, index: usize, session: Option<Arc<Session>>) -> Option<Arc<Session>> {
        if let Some(session) = &session {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|session| session.strong_count() > 0);
            all.push(Arc::downgrade(session));
        }
        let mut former = None;
        self.change(|table| {
            table.error = None;
            if let Some(slot) = table.slots.get_mut(index) {
                former = std::mem::replace(slot, session);
            }
        });
        former
    }

    /// Notes that a session has come up or gone down, or that none could be had, and why.
    pub(super) fn note(&self, error: Option<String>) {
        self.change(|table| table.error = error);
    }

    /// Whether a slot other than this one has a link that takes all flows.
    pub(super) fn others_up(&self, index: usize) -> bool {
        let table = self.table.borrow();
        let mut others = table.slots.iter().enumerate().filter(|(other, _)| *other != index);
        others.any(|(_, slot)| slot.as_ref().is_some_and(|session| session.is_up() && session.is_settled()))
    }

    /// Whether there is a link that takes flows.
    pub(super) fn any_up(&self) -> bool {
        self.table.borrow().up().next().is_some()
    }

    /// The nodes that are not for this slot: those of the other slots, which another link must not supersede, and, unless
    /// it `returns`, those that have said goodbye and whose flows finish. In that order, so that what is cut off at the
    /// bound of `Hello` matters least.
    pub(super) fn avoid(&self, index: usize, returns: bool) -> Vec<NodeId> {
        let mut avoid = Vec::new();
        let mut add = |session: &Session| {
            if !session.has_ended() && !avoid.contains(&session.node) {
                avoid.push(session.node.clone());
            }
        };
        for (other, session) in self.table.borrow().slots.iter().enumerate() {
            if let Some(session) = session
                && other != index
            {
                add(session);
            }
        }
        let leaving = self.sessions();
        for session in leaving.iter().filter(|session| !returns && session.is_leaving()) {
            add(session);
        }
        avoid.truncate(Hello::MAX_AVOID);
        avoid
    }

    /// Waits for the next change of any slot's link. Cancel safe.
    pub(super) async fn changed(&self, since: &mut Since) {
        if since.0.changed().await.is_err() {
            // The sender is this one, which is borrowed.
            std::future::pending().await
        }
    }

    /// From when on [`Links::changed`] tells.
    pub(super) fn now(&self) -> Since {
        Since(self.table.subscribe())
    }
}

/// A moment in the life of [`Links`].
#[derive(Debug)]
pub(super) struct Since(watch::Receiver<Table>);
