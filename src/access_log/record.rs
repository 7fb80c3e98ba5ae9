//! What becomes of one request or flow, and its line and span.

mod span;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use tokio::time::Instant;

use super::{Head, Log, Traced, header, protocol};
use crate::{
    drain::Tasks,
    protocol::{AgentId, Kind},
    splice::{Broken, Counts, packets::Activity},
    telemetry::trace::TraceId,
    upstream::{Name, Trail},
};

/// Why something has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its response, or both of its directions, have come to their end.
    Complete,
    /// Its client went away, or reset it.
    Client,
    /// Its service broke off, or the way to it did.
    Service,
    /// No byte of a body moved for too long.
    Stalled,
    /// The service had not begun to respond in time.
    Late,
    /// No service could be reached.
    Unreachable,
    /// What its client was let in by has ended.
    Lapsed,
    /// It was no good: the code says why.
    Refused,
    /// No packet passed for so long that the association was over.
    Idle,
    /// The agent of an association does not answer, and another one would.
    Silent,
    /// The node has cut it: the code says why, or the node has left.
    Cut,
}

impl Ended {
    fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Client => "client went away",
            Self::Service => "service broke off",
            Self::Stalled => "stalled",
            Self::Late => "time-out",
            Self::Unreachable => "service not reached",
            Self::Lapsed => "credentials ended",
            Self::Refused => "refused",
            Self::Idle => "idle",
            Self::Silent => "agent does not answer",
            Self::Cut => "cut",
        }
    }
}

/// One request or flow under way, where there is a log of it. Clones are handles to the same one, and its line is written when
/// the last is dropped.
#[derive(Debug, Clone, Default)]
pub struct Record(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    log: Arc<Log>,
    /// Whose task serves it, and is aborted when the node has no more time for it.
    owner: Tasks,
    client: SocketAddr,
    began: Instant,
    request: Option<Request>,
    trace: Option<TraceId>,
    /// Whether it has a line.
    line: bool,
    /// With its span.
    trail: Trail,
    /// To the client, and from it.
    sent: AtomicU64,
    received: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Request {
    method: Method,
    host: Option<HeaderValue>,
    target: Uri,
    version: Version,
    scheme: &'static str,
}

/// What is learnt of it by and by.
#[derive(Debug, Default)]
struct Told {
    /// What it is, unless it is a request or one that has become something else.
    flow: Option<Kind>,
    /// Whether it goes on when its response has ended.
    switched: bool,
    name: Option<Name>,
    forwarder: Option<AgentId>,
    headers: Option<String>,
    status: Option<StatusCode>,
    until_headers: Option<Duration>,
    packets: Option<(u64, u64)>,
    code: Option<&'static str>,
    ended: Option<Ended>,
    /// When its response had ended.
    over: Option<Instant>,
    /// Whether somebody else has written its line.
    silent: bool,
}

impl Record {
    /// None: there is no log.
    pub const NONE: Self = Self(None);

    pub(super) fn request(
        log: &Arc<Log>,
        owner: &Tasks,
        client: SocketAddr,
        began: Instant,
        head: Head<'_>,
        traced: Traced,
    ) -> Self {
        let Head { method, host, target, version, scheme } = head;
        let (method, host, target) = (method.clone(), host.cloned(), target.clone());
        let request = Request { method, host, target, version, scheme };
        Self::new(log, owner, client, (began, log.lines), Some(request), traced)
    }

    pub(super) fn flow(
        log: &Arc<Log>,
        owner: &Tasks,
        client: SocketAddr,
        kind: Kind,
        traced: Traced,
        line: bool,
    ) -> Self {
        let this = Self::new(log, owner, client, (Instant::now(), line), None, traced);
        this.tell(|told| told.flow = Some(kind));
        this
    }

    fn new(
        log: &Arc<Log>,
        owner: &Tasks,
        client: SocketAddr,
        (began, line): (Instant, bool),
        request: Option<Request>,
        Traced { trace, span }: Traced,
    ) -> Self {
        Self(Some(Arc::new(Inner {
            log: Arc::clone(log),
            owner: owner.clone(),
            client,
            began,
            request,
            trace,
            line,
            trail: Trail::of(span),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            told: Mutex::default(),
        })))
    }

    /// Whether anything will be told.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether there will be a line.
    pub fn has_line(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.line)
    }

    fn tell(&self, tell: impl FnOnce(&mut Told)) {
        if let Some(inner) = &self.0 {
            tell(&mut inner.told());
        }
    }

    /// Where those who choose its way say which it is.
    pub fn trail(&self) -> Option<&Trail> {
        self.0.as_ref().map(|inner| &inner.trail)
    }

    /// It asks for this endpoint.
    pub fn asks_for(&self, name: &Name) {
        self.tell(|told| told.name = Some(name.clone()));
    }

    /// A forwarder has brought it.
    pub fn brought_by(&self, forwarder: AgentId) {
        self.tell(|told| told.forwarder = Some(forwarder));
    }

    /// It shows these header fields, without what was for the node alone.
    pub fn shows(&self, fields: &HeaderMap) {
        if let Some(inner) = &self.0 {
            inner.told().headers = header::object(&inner.log.headers, fields);
        }
    }

    /// Its response begins, so long after the request's head.
    pub fn answered(&self, status: StatusCode, after: Duration) {
        self.tell(|told| (told.status, told.until_headers) = (Some(status), Some(after)));
    }

    /// Its connection has switched protocols, perhaps to what carries nothing but a flow.
    pub fn switched(&self, to: Option<Kind>) {
        self.tell(|told| (told.switched, told.flow) = (true, to));
    }

    /// So many more bytes of its response go to the client.
    pub fn sent(&self, bytes: usize) {
        if let Some(inner) = &self.0 {
            inner.sent.fetch_add(bytes as u64, Relaxed);
        }
    }

    /// So many more bytes of its request have come from the client.
    pub fn received(&self, bytes: usize) {
        if let Some(inner) = &self.0 {
            inner.received.fetch_add(bytes as u64, Relaxed);
        }
    }

    /// All of its response is there.
    pub fn responded(&self) {
        self.tell(|told| {
            if !told.switched {
                told.ended.get_or_insert(Ended::Complete);
                told.over = Some(Instant::now());
            }
        });
    }

    /// It has ended, and why, which only the first can say; with the code that its client is told or that is counted.
    pub fn ended(&self, ended: Ended, code: Option<&'static str>) {
        self.tell(|told| {
            if told.ended.is_none() {
                (told.ended, told.code) = (Some(ended), code);
            }
        });
    }

    /// The same by how a join of client and service has ended.
    pub fn joined(&self, end: Result<(), &Broken>) {
        let ended = match end {
            Ok(()) => Ended::Complete,
            Err(Broken::Left(_)) => Ended::Client,
            Err(Broken::Right(_)) => Ended::Service,
        };
        self.ended(ended, None);
    }

    /// Whoever refused it has logged that.
    pub fn silence(&self) {
        self.tell(|told| told.silent = true);
    }

    /// Takes down what a join carries, once that is over, however it ends.
    pub fn carrying<'a, C: Carried>(&'a self, by: &'a C) -> Carrying<'a, C> {
        Carrying { record: self, by }
    }
}

/// What was carried, to the service and from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// Bytes.
    pub bytes: (u64, u64),
    /// Packets, where it is those that are carried.
    pub packets: Option<(u64, u64)>,
}

/// Something that counts what it carries from a client to a service and back.
pub trait Carried {
    /// So much so far.
    fn volume(&self) -> Volume;
}

impl Carried for Counts {
    fn volume(&self) -> Volume {
        Volume { bytes: (self.left_to_right(), self.right_to_left()), packets: None }
    }
}

impl Carried for Activity {
    fn volume(&self) -> Volume {
        let packets = (self.left_to_right(), self.right_to_left());
        Volume { bytes: (self.bytes_left_to_right(), self.bytes_right_to_left()), packets: Some(packets) }
    }
}

/// A join that a record takes down when it is over.
#[derive(Debug)]
pub struct Carrying<'a, C: Carried> {
    record: &'a Record,
    by: &'a C,
}

impl<C: Carried> Drop for Carrying<'_, C> {
    fn drop(&mut self) {
        let Some(inner) = &self.record.0 else { return };
        let Volume { bytes: (to_service, from_service), packets } = self.by.volume();
        inner.received.fetch_add(to_service, Relaxed);
        inner.sent.fetch_add(from_service, Relaxed);
        inner.told().packets = packets;
    }
}

impl Inner {
    /// Bytes to the client, and from it.
    fn volume(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.received.load(Relaxed))
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let told = std::mem::take(&mut *self.told());
        // Who has not come so far as to say what for has asked for nothing.
        if self.request.is_none() && told.name.is_none() {
            return;
        }
        let unasked = if self.owner.is_aborted() { Ended::Cut } else { Ended::Client };
        let (ended, over) = (told.ended.unwrap_or(unasked), told.over.unwrap_or_else(Instant::now));
        self.end_span(&told, ended, over);
        if told.silent || !self.line {
            return;
        }
        let duration = over.saturating_duration_since(self.began);
        let (kind, message) = match told.flow {
            None => (Kind::Http, "a request has ended"),
            Some(kind) => (kind, "a flow has ended"),
        };
        let request = self.request.as_ref();
        let (sent_bytes, received_bytes) = self.volume();
        tracing::info!(
            target: "adit::access",
            kind = kind.name(),
            method = request.map(|request| tracing::field::display(&request.method)),
            host = request.and_then(|request| request.host.as_ref()?.to_str().ok()),
            path = request.map(|request| request.target.path()),
            protocol = request.map(|request| protocol(request.version)),
            status = told.status.map(|status| status.as_u16()),
            code = told.code,
            endpoint = told.name.as_ref().map(|name| tracing::field::display(&name.endpoint)),
            tenant = told.name.as_ref().map(|name| tracing::field::display(&name.tenant)),
            client = %self.client,
            forwarder = told.forwarder.map(tracing::field::display),
            edge = %self.log.node,
            node = self.trail.node().map(tracing::field::display),
            agent = self.trail.agent().map(tracing::field::display),
            retries = self.trail.retries(),
            sent_bytes,
            received_bytes,
            sent_packets = told.packets.map(|(_, from_service)| from_service),
            received_packets = told.packets.map(|(to_service, _)| to_service),
            headers_ms = told.until_headers.map(millis),
            duration_ms = millis(duration),
            ended = ended.name(),
            trace_id = self.trace.map(tracing::field::display),
            headers = told.headers.map(tracing::field::display),
            "{message}"
        );
    }
}

fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
