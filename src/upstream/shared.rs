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

/// How many requests share a connection. All of them have a full window (see `http2`), and one lost packet holds all of them
/// up.
pub(super) const STREAMS: usize = 32;

/// How long a connection may be unused before it is closed. Services close theirs later, if at all, and say so.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// The same of one that is for a single client's connection, which may have ended.
const MAX_IDLE_OWNED: Duration = Duration::from_secs(4);

/// The same once the upstream is to be used no more, except by requests that had chosen it before.
const MAX_IDLE_RETIRED: Duration = Duration::from_secs(1);

/// A request that is given up after so long, while its connection brought no response to any other, has shown that the
/// connection may be dead: its service's host can be gone without a word.
const SILENCE: Duration = Duration::from_secs(1);

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
    /// When the last response began.
    heard: Instant,
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

impl Inner {
    fn at(&self, flow: u64) -> Option<usize> {
        self.connections.iter().position(|connection| connection.handle.flow == flow)
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
        let connection =
            Connection { handle, owner, opened: now, used: 0, carried: false, idle_since: now, heard: now };
        inner.room = Some(connection.room());
        inner.connections.push(connection);
    }

    /// A response has begun.
    pub(super) fn heard(&self, flow: u64, now: Instant) {
        let mut inner = self.inner();
        if let Some(at) = inner.at(flow) {
            inner.connections[at].heard = now;
        }
    }

    /// A request has left its place; `waiting` since then for a response, if that has not begun.
    pub(super) fn leave(&self, flow: u64, now: Instant, waiting: Option<Instant>) {
        let mut inner = self.inner();
        let Some(at) = inner.at(flow) else { return };
        let last = inner.all_retired;
        let connection = &mut inner.connections[at];
        connection.used -= 1;
        connection.idle_since = now;
        let silent = waiting.is_some_and(|since| since + SILENCE < now && connection.heard <= since);
        if silent || (last && connection.used == 0) {
            inner.connections.swap_remove(at);
        }
    }

    /// Gives a connection up when it has been unused for too long. Says when to ask again, while it is there.
    pub(super) fn look(&self, flow: u64, now: Instant) -> Option<Instant> {
        let mut inner = self.inner();
        let at = inner.at(flow)?;
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

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// A connection whose service has said nothing yet, and what keeps it open.
    async fn connection(flow: u64) -> (Handle, impl Sized) {
        let (client, service) = tokio::io::duplex(1000);
        let (sender, connection) = h2::client::handshake(client).await.unwrap();
        let handle = Handle { sender, flow, _last: Arc::new(CancellationToken::new().drop_guard()) };
        (handle, (connection, service))
    }

    /// The flow of the place that is found, and whether others have used it.
    fn place(shared: &Shared, after: Option<Instant>) -> Option<(u64, bool)> {
        match shared.find(None, after) {
            Found::Place(handle, reused) => Some((handle.flow, reused)),
            Found::Opening(_) | Found::Nothing(_) => None,
        }
    }

    #[tokio::test]
    async fn a_connection_that_nobody_uses_for_a_minute_is_given_up() {
        let (shared, began) = (Shared::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        let (handle, _open) = connection(1).await;
        shared.opened(handle, None, at(0));
        assert_eq!(shared.look(1, at(0)), Some(at(60)));
        assert_eq!(place(&shared, None), Some((1, false)));
        assert_eq!(place(&shared, None), Some((1, true)));
        shared.leave(1, at(10), None);
        assert_eq!(shared.look(1, at(80)), Some(at(140)), "it is in use");
        shared.leave(1, at(100), None);
        assert_eq!(shared.look(1, at(140)), Some(at(160)));
        assert_eq!(shared.look(1, at(160)), None);
        assert_eq!(place(&shared, None), None);
    }

    #[tokio::test]
    async fn a_connection_that_is_retired_or_too_old_has_no_place() {
        let (shared, now) = (Shared::default(), Instant::now());
        let (first, _open) = connection(1).await;
        shared.opened(first, None, now);
        assert_eq!(place(&shared, Some(now)), None);
        let (second, _open) = connection(5).await;
        shared.opened(second, None, now + Duration::from_secs(1));
        assert_eq!(place(&shared, Some(now)), Some((5, false)));
        shared.retire(&[5]);
        assert_eq!(place(&shared, None), Some((1, false)));
        shared.retire_all();
        assert_eq!(place(&shared, None), None);
        // Who had chosen the upstream before opens one for itself alone.
        let (late, _open) = connection(9).await;
        shared.opened(late, None, now);
        assert_eq!(place(&shared, None), Some((9, false)));
        shared.leave(9, now, None);
        assert_eq!(place(&shared, None), None);
    }

    #[tokio::test]
    async fn a_connection_on_which_a_request_waits_in_vain_is_given_up_unless_others_do_not() {
        let (shared, began) = (Shared::default(), Instant::now());
        let at = |millis| began + Duration::from_millis(millis);
        let (handle, _open) = connection(1).await;
        shared.opened(handle, None, at(0));
        let again = || assert!(place(&shared, None).is_some());
        // Not for long, or with responses to others meanwhile.
        again();
        shared.leave(1, at(1000), Some(at(0)));
        again();
        shared.heard(1, at(2500));
        shared.leave(1, at(9000), Some(at(2000)));
        again();
        shared.leave(1, at(4000), Some(at(2500)));
        assert_eq!(place(&shared, None), None);
    }

    #[tokio::test]
    async fn the_fullest_connection_that_has_room_is_taken() {
        let (shared, now) = (Shared::default(), Instant::now());
        let (first, _open) = connection(1).await;
        shared.opened(first, None, now);
        let all = std::iter::repeat_with(|| place(&shared, None)).take(STREAMS);
        assert!(all.map_while(|place| place).all(|(flow, _)| flow == 1));
        let (second, _open) = connection(5).await;
        shared.opened(second, None, now);
        assert_eq!(place(&shared, None), Some((5, false)));
        shared.leave(1, now, None);
        assert_eq!(place(&shared, None), Some((1, true)));
    }

    #[tokio::test]
    async fn so_many_wait_for_a_connection_as_it_has_room_for() {
        let shared = Shared::default();
        let Found::Nothing(tell) = shared.find(None, None) else { panic!("nothing is there") };
        for _ in 1..STREAMS {
            assert!(matches!(shared.find(None, None), Found::Opening(_)));
        }
        let Found::Nothing(_second) = shared.find(None, None) else { panic!("the first is spoken for") };
        drop(tell);
        let Found::Opening(outcome) = shared.find(None, None) else { panic!("the second has room") };
        assert!(outcome.borrow().is_none());
    }
}
