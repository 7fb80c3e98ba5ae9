//! What a client's connection is doing and since when, which is all that the edge's time-outs need to know.
//!
//! Told by the connection's socket about bytes, by the service about requests, by bodies about their progress; asked by the
//! task that serves the connection, or the stream, which ends what takes too long. It ends nothing itself. Bodies also keep to
//! their exchange's pace here, since what is held back for that has not stalled.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use tokio::{
    sync::Notify,
    time::{Instant, Sleep},
};

use super::{heads::Seen, limits::Limits};
use crate::{
    access_log::{Ended, Record},
    auth::{Pace, Pass},
    telemetry::Tally,
};

/// A client that gives up more than half of its requests before they are answered may do so this often in one connection:
/// each costs the nodes, the agent and the service a request, and the client next to nothing (CVE-2023-44487).
const MAX_GIVEN_UP: u64 = 250;

/// What a client does for too long, or too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Overdue {
    #[error("a request's head was not complete in time")]
    Head,
    #[error("nothing was asked for a long time")]
    Idle,
    #[error("no byte of a body moved for a long time")]
    Stalled,
    #[error("most requests were given up before they were answered")]
    GivenUp,
}

impl Overdue {
    /// What it is counted as.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Head => "head_timeout",
            Self::Idle => "idle_timeout",
            Self::Stalled => "stalled",
            Self::GivenUp => "rapid_reset",
        }
    }

    /// How what is under way ends by it.
    fn ended(self) -> Ended {
        if self == Self::Stalled { Ended::Stalled } else { Ended::Cut }
    }
}

/// A connection. In HTTP/2, one of its streams as well, for the bodies.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    given_up: Notify,
}

#[derive(Debug)]
struct State {
    /// When the head that is coming began.
    head: Option<Instant>,
    requests: usize,
    /// Bodies of requests that are being read, and of responses that are being written.
    uploads: usize,
    downloads: usize,
    /// Whether a response was broken off.
    broken: bool,
    /// Whether the client does not take what is written.
    blocked: bool,
    /// When a byte of a body last moved, or a request ended.
    last: Instant,
    answered: u64,
    given_up: u64,
    /// What has been found to be overdue.
    overdue: Option<Overdue>,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let state = State {
            head: None,
            requests: 0,
            uploads: 0,
            downloads: 0,
            broken: false,
            blocked: false,
            last: Instant::now(),
            answered: 0,
            given_up: 0,
            overdue: None,
        };
        Arc::new(Self { state: Mutex::new(state), given_up: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client has sent something.
    pub(super) fn read(&self, seen: Seen) {
        let mut state = self.state();
        let within = match seen {
            Seen::Within => true,
            Seen::Outside => false,
            Seen::Http1 => state.requests == 0,
        };
        match (within, state.head) {
            (true, None) => state.head = Some(Instant::now()),
            (false, Some(_)) => state.head = None,
            _ => {}
        }
    }

    /// The client has taken something that was written, or does not.
    pub(super) fn written(&self, blocked: bool) {
        let mut state = self.state();
        // What HTTP/2 writes on its own account while nothing is asked moves nothing.
        if !blocked && (state.blocked || state.downloads > 0) {
            state.moved(Instant::now());
        }
        state.blocked = blocked;
    }

    /// Whether a response has begun that will never be complete.
    pub(super) fn is_broken_off(&self) -> bool {
        let state = self.state();
        state.broken || state.downloads > 0
    }

    /// Waits until something is overdue. Cancel safe.
    pub(super) async fn overdue(&self, limits: &Limits) -> Overdue {
        loop {
            let left = self.state().left(limits, Instant::now());
            let overdue = match left {
                Ok(left) => tokio::select! {
                    () = tokio::time::sleep(left) => continue,
                    () = self.given_up.notified() => Overdue::GivenUp,
                },
                Err(overdue) => overdue,
            };
            self.state().overdue = Some(overdue);
            return overdue;
        }
    }
}

impl State {
    /// A byte moves, or the next one may only move later.
    fn moved(&mut self, at: Instant) {
        self.last = self.last.max(at);
    }

    /// For how long nothing can become overdue.
    fn left(&self, limits: &Limits, now: Instant) -> Result<Duration, Overdue> {
        let stall = limits.stall_timeout.unwrap_or(Duration::MAX);
        let clocks = [
            (self.head, limits.head_timeout, Overdue::Head),
            ((self.requests == 0 && !self.blocked).then_some(self.last), limits.idle_timeout, Overdue::Idle),
            ((self.downloads > 0 || self.blocked).then_some(self.last), stall, Overdue::Stalled),
        ];
        let mut least = Duration::MAX;
        for (since, limit, overdue) in clocks {
            // What begins later has all of its time then.
            let spent = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            if since.is_some() && spent >= limit {
                return Err(overdue);
            }
            least = least.min(limit.saturating_sub(spent));
        }
        Ok(least)
    }
}

/// A request and its response, until both are over, and what they have of their callers' shares.
#[derive(Debug)]
pub(super) struct Exchange {
    connection: Arc<Activity>,
    /// Where its bodies are watched: one stream of HTTP/2 must not end the others with it.
    bodies: Arc<Activity>,
    answered: AtomicBool,
    pass: OnceLock<Pass>,
    record: OnceLock<Record>,
    tally: OnceLock<Tally>,
}

impl Exchange {
    /// One that has its connection to itself.
    pub(super) fn alone(connection: &Arc<Activity>) -> Arc<Self> {
        connection.state().head = None;
        Self::new(connection, Arc::clone(connection))
    }

    /// One of many on its connection.
    pub(super) fn stream(connection: &Arc<Activity>) -> Arc<Self> {
        let bodies = Activity::new();
        // It is never idle.
        bodies.state().requests += 1;
        Self::new(connection, bodies)
    }

    fn new(connection: &Arc<Activity>, bodies: Arc<Activity>) -> Arc<Self> {
        connection.state().requests += 1;
        Arc::new(Self {
            connection: Arc::clone(connection),
            bodies,
            answered: AtomicBool::new(false),
            pass: OnceLock::new(),
            record: OnceLock::new(),
            tally: OnceLock::new(),
        })
    }

    /// Has its line written when it is over.
    pub(super) fn keep(&self, record: Record) {
        if record.is_on() {
            self.record.get_or_init(|| record);
        }
    }

    /// Has the bytes of its bodies counted here too, as they pass.
    pub(super) fn count(&self, tally: &Tally) {
        self.tally.get_or_init(|| tally.clone());
    }

    /// What its line will say; nothing before there is any.
    pub(super) fn record(&self) -> &Record {
        static NONE: Record = Record::NONE;
        self.record.get().unwrap_or(&NONE)
    }

    /// What has ended it, if it was the edge for what its client did.
    fn overdue(&self) -> Option<Overdue> {
        let of_bodies = self.bodies.state().overdue;
        // An idle connection has none that is under way.
        of_bodies.or_else(|| self.connection.state().overdue).filter(|overdue| *overdue != Overdue::Idle)
    }

    /// It may go on with this, at this pace.
    pub(super) fn admit(&self, pass: Pass) -> &Pace {
        self.pass.get_or_init(|| pass).pace()
    }

    /// Its pace, once it has been admitted.
    pub(super) fn pace(&self) -> Option<&Pace> {
        self.pass.get().map(Pass::pace)
    }

    /// Where its bodies are watched.
    pub(super) fn bodies(&self) -> &Arc<Activity> {
        &self.bodies
    }

    /// Watches the request's body.
    pub(super) fn upload<B: Body>(self: &Arc<Self>, body: B) -> Watched<B> {
        Watched::new(body, self, Direction::Up)
    }

    /// Watches the response's body; the response begins.
    pub(super) fn download<B: Body>(self: &Arc<Self>, body: B) -> Watched<B> {
        self.answered.store(true, Relaxed);
        Watched::new(body, self, Direction::Down)
    }

    /// Waits until the request's body has stalled. Cancel safe.
    pub(super) async fn upload_stalled(&self, after: Duration) {
        loop {
            let spent = {
                let state = self.bodies.state();
                if state.uploads > 0 { state.last.elapsed() } else { Duration::ZERO }
            };
            if spent >= after {
                return;
            }
            tokio::time::sleep(after - spent).await;
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.record().is_on()
            && let Some(overdue) = self.overdue()
        {
            self.record().ended(overdue.ended(), Some(overdue.code()));
        }
        let mut state = self.connection.state();
        state.requests -= 1;
        state.last = Instant::now();
        if self.answered.load(Relaxed) {
            state.answered += 1;
        } else {
            state.given_up += 1;
            if state.given_up > MAX_GIVEN_UP.max(state.answered) {
                self.connection.given_up.notify_one();
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl State {
    fn open(&mut self, direction: Direction) -> &mut usize {
        match direction {
            Direction::Up => &mut self.uploads,
            Direction::Down => &mut self.downloads,
        }
    }
}

/// A body whose progress is watched until it ends.
#[derive(Debug)]
pub(super) struct Watched<B> {
    body: B,
    direction: Direction,
    exchange: Option<Arc<Exchange>>,
    wait: Wait,
}

/// What a body's next frame waits for.
#[derive(Debug)]
enum Wait {
    /// It is the first: others may have used up what there is.
    First,
    /// Its pace.
    Until(Pin<Box<Sleep>>),
    Nothing,
}

impl<B: Body> Watched<B> {
    fn new(body: B, exchange: &Arc<Exchange>, direction: Direction) -> Self {
        let watched = (!body.is_end_stream()).then(|| Arc::clone(exchange));
        if watched.is_none() && direction == Direction::Down {
            exchange.record().responded();
        }
        if let Some(exchange) = &watched {
            let mut state = exchange.bodies.state();
            *state.open(direction) += 1;
            state.moved(Instant::now());
        }
        Self { body, direction, exchange: watched, wait: Wait::First }
    }
}

impl<B> Watched<B> {
    fn over(&mut self, complete: bool) {
        if let Some(exchange) = self.exchange.take() {
            let mut state = exchange.bodies.state();
            *state.open(self.direction) -= 1;
            state.broken |= self.direction == Direction::Down && !complete;
            drop(state);
            if self.direction == Direction::Down && complete {
                exchange.record().responded();
            }
        }
    }

    /// Its sender has broken it off.
    fn broke(&self) {
        if let Some(exchange) = &self.exchange
            && self.direction == Direction::Down
        {
            exchange.record().ended(Ended::Service, None);
        }
    }
}

impl<B> Watched<B> {
    /// So many bytes of it have moved: the next wait for its pace.
    fn passed(&mut self, bytes: usize) {
        let Some(exchange) = &self.exchange else { return };
        match self.direction {
            Direction::Up => exchange.record().received(bytes),
            Direction::Down => exchange.record().sent(bytes),
        }
        match (exchange.tally.get(), self.direction) {
            (Some(tally), Direction::Up) => tally.received(bytes),
            (Some(tally), Direction::Down) => tally.sent(bytes),
            (None, _) => {}
        }
        let wait = exchange.pace().map_or(Duration::ZERO, |pace| pace.passed(bytes));
        exchange.bodies.state().moved(Instant::now() + wait);
        self.wait =
            if wait.is_zero() { Wait::Nothing } else { Wait::Until(Box::pin(tokio::time::sleep(wait))) };
    }
}

impl<B> Drop for Watched<B> {
    fn drop(&mut self) {
        self.over(false);
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        if matches!(self.wait, Wait::First) {
            self.passed(0);
        }
        if let Wait::Until(sleep) = &mut self.wait {
            ready!(sleep.as_mut().poll(cx));
            self.wait = Wait::Nothing;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        self.passed(data.map_or(0, Buf::remaining));
        if matches!(frame, Some(Err(_))) {
            self.broke();
        }
        if frame.is_none() || self.body.is_end_stream() {
            self.over(true);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
