//! The connections of HTTP/2 to one upstream, shared by requests: which has room, when another is opened, when one ends.
//!
//! It holds what `http2` opens and uses. A connection carries at most so many requests at once; when all are full, another
//! is opened, and those who come meanwhile wait for that one.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::noop_waker_ref;
use h2::client::SendRequest;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::DropGuard;

use super::flow::OpenFlowError;

/// How many requests share a connection. Each may have as much under way as a flow of its own (see `http2`), so this is also
/// a bound on memory; and what one lost packet holds up.
pub(super) const STREAMS: usize = 32;

/// How long a connection may be unused before it is closed. Services close theirs later, if at all, and say so.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// The same of one that is for a single client's connection, which may have ended.
const MAX_IDLE_OWNED: Duration = Duration::from_secs(4);

/// The same once the upstream is to be used no more, except by requests that had chosen it before.
const MAX_IDLE_RETIRED: Duration = Duration::from_secs(1);

/// A connection, for as long as anybody uses it or may.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    pub(super) sender: SendRequest<Bytes>,
    /// The flow's number on its link.
    pub(super) flow: u64,
    /// Tells the connection when the last handle is gone.
    pub(super) _last: Arc<DropGuard>,
}

/// How the opening of a connection has ended, once it has.
pub(super) type Outcome = Option<Result<(), OpenFlowError>>;

/// What there is for a request.
#[derive(Debug)]
pub(super) enum Found {
    /// A place on a connection, and whether others have used it before.
    Place(Handle, bool),
    /// A connection that is being opened and should have room.
    Opening(watch::Receiver<Outcome>),
    /// Nothing: whoever asked opens a connection, and tells here.
    Nothing(watch::Sender<Outcome>),
}

/// The connections of one upstream.
#[derive(Debug, Default)]
pub(super) struct Shared {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    connections: Vec<Connection>,
    opening: Vec<Opening>,
    /// How many requests the last connection took at once.
    room: Option<usize>,
    all_retired: bool,
}

#[derive(Debug)]
struct Connection {
    handle: Handle,
    /// The client's connection whose requests alone it carries.
    owner: Option<u64>,
    opened: Instant,
    /// How many requests it carries.
    used: usize,
    /// How many it has carried before.
    carried: bool,
    idle_since: Instant,
}

#[derive(Debug)]
struct Opening {
    owner: Option<u64>,
    waiting: usize,
    outcome: watch::Receiver<Outcome>,
}

impl Connection {
    /// How many requests it carries at most: what the service says, which may change; at least one, which then waits there.
    fn room(&self) -> usize {
        self.handle.sender.current_max_send_streams().clamp(1, STREAMS)
    }

    /// Whether it takes requests: it has not broken, and its service has not said goodbye (GOAWAY).
    fn takes(&mut self) -> bool {
        let mut nobody = Context::from_waker(noop_waker_ref());
        matches!(self.handle.sender.poll_ready(&mut nobody), Poll::Ready(Ok(())))
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Held for a few instructions, by requests to one agent's one endpoint, never across an await.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a place for a request, on a connection of this owner that was opened after `after` where there is such a demand.
    pub(super) fn find(&self, owner: Option<u64>, after: Option<Instant>) -> Found {
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.connections.retain_mut(Connection::takes);
        let fits = |connection: &Connection| {
            connection.owner == owner && after.is_none_or(|after| connection.opened > after)
        };
        // The fullest that has room, so that those which are not needed become idle.
        let fullest = inner
            .connections
            .iter_mut()
            .filter(|connection| connection.used < connection.room() && fits(connection))
            .max_by_key(|connection| connection.used);
        if let Some(connection) = fullest {
            connection.used += 1;
            let reused = std::mem::replace(&mut connection.carried, true);
            return Found::Place(connection.handle.clone(), reused);
        }
        // Those that have ended, one way or the other, tell nobody any more.
        inner.opening.retain(|opening| opening.outcome.has_changed().is_ok());
        let room = inner.room.unwrap_or(STREAMS);
        let mut opening = inner.opening.iter_mut();
        if let Some(opening) = opening.find(|opening| opening.owner == owner && opening.waiting < room) {
            opening.waiting += 1;
            return Found::Opening(opening.outcome.clone());
        }
        let (tell, outcome) = watch::channel(None);
        inner.opening.push(Opening { owner, waiting: 1, outcome });
        Found::Nothing(tell)
    }

    /// A connection has been opened; nobody uses it yet.
    pub(super) fn opened(&self, handle: Handle, owner: Option<u64>, now: Instant) {
        let mut inner = self.inner();
        let connection = Connection { handle, owner, opened: now, used: 0, carried: false, idle_since: now };
        inner.room = Some(connection.room());
        inner.connections.push(connection);
    }

    /// A request has left its place.
    pub(super) fn leave(&self, flow: u64, now: Instant) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let Some(at) = inner.connections.iter().position(|connection| connection.handle.flow == flow) else {
            return;
        };
        let connection = &mut inner.connections[at];
        connection.used -= 1;
        connection.idle_since = now;
        if inner.all_retired && connection.used == 0 {
            inner.connections.swap_remove(at);
        }
    }

    /// Gives a connection up when it has been unused for too long. Says when to ask again, while it is there.
    pub(super) fn look(&self, flow: u64, now: Instant) -> Option<Instant> {
        let mut inner = self.inner();
        let at = inner.connections.iter().position(|connection| connection.handle.flow == flow)?;
        let connection = &inner.connections[at];
        let max = match connection.owner {
            _ if inner.all_retired => MAX_IDLE_RETIRED,
            Some(_) => MAX_IDLE_OWNED,
            None => MAX_IDLE,
        };
        let until = if connection.used > 0 { now } else { connection.idle_since } + max;
        if until > now {
            return Some(until);
        }
        inner.connections.swap_remove(at);
        None
    }

    /// Puts no further request on these flows. They end with their last.
    pub(super) fn retire(&self, flows: &[u64]) {
        self.inner().connections.retain(|connection| !flows.contains(&connection.handle.flow));
    }

    /// The same for all flows. One that a late request opens ends with it.
    pub(super) fn retire_all(&self) {
        let mut inner = self.inner();
        inner.all_retired = true;
        inner.connections.clear();
    }
}
