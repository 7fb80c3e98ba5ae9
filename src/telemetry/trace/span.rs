//! Spans: what this process adds to a trace.
//!
//! Whoever serves a request or a flow has a [`Span`] for it, passes its context on, and ends it with what has become of it. A
//! span that ends goes to a queue with a bound, which whoever exports them reads; when that is full it is dropped and counted,
//! and nothing ever waits. Switched off, which it is by default, a [`Tracer`] is nothing and begins nothing.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Method, StatusCode};
use prometheus_client::metrics::counter::Counter;
use tokio::{sync::mpsc, time::Instant};

use super::{Context, SpanId, TRACEPARENT, TraceId, bound_state};

/// What has a span, and who tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// The node that a client has come to.
    Edge,
    /// The way through another node, which the agent is linked to.
    Peer,
    /// The agent, with its service.
    Agent,
}

impl Hop {
    /// What spans say in `adit.hop`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Peer => "peer",
            Self::Agent => "agent",
        }
    }
}

/// What is known of a span, by a name of OpenTelemetry's or one that begins with `adit.`.
pub type Attribute = (&'static str, Value);

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// A span that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Itself: its trace, and its own id.
    pub context: Context,
    /// The span that it is a child of.
    pub parent: Option<SpanId>,
    /// Whether another process has told of that one.
    pub remote: bool,
    /// Where it was.
    pub hop: Hop,
    /// What it is called: one of few.
    pub name: &'static str,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What else is known.
    pub attributes: Vec<Attribute>,
    /// Why it has failed, if it has.
    pub error: Option<&'static str>,
}

/// Which spans there are to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Which share of those traces is recorded that begin here, from 0 to 1.
    pub sample: f64,
    /// Whether what clients say of their traces counts.
    pub trusts_clients: bool,
}

/// What a span of a request is called, and the method as the conventions have it: names are few, whatever clients make up.
pub fn method(method: &Method) -> (&'static str, &'static str) {
    const KNOWN: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE"];
    let known = KNOWN.into_iter().find(|known| *known == method.as_str());
    known.map_or(("HTTP", "_OTHER"), |known| (known, known))
}

/// Why the span of a request has failed whose response had this status, if it has.
pub fn failure(status: StatusCode) -> Option<&'static str> {
    status.is_server_error().then_some("the response says so")
}

/// What spans wait in for whoever exports them.
pub type Queue = mpsc::Receiver<Finished>;

/// Begins spans, or does not. Clones are handles to the same one.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    queue: mpsc::Sender<Finished>,
    dropped: Counter,
}

impl Tracer {
    /// One whose spans are in the queue, as many at once as that; what does not fit is counted.
    pub fn new(settings: Settings, length: usize, dropped: Counter) -> (Self, Queue) {
        let (sender, queue) = mpsc::channel(length);
        (Self(Some(Arc::new(Inner { settings, queue: sender, dropped }))), queue)
    }

    /// Whether there are spans.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins the span of a client's request, whose context becomes that of the span. What the request said before does not
    /// reach anybody but as the span's parent.
    pub fn request(&self, hop: Hop, headers: &mut HeaderMap) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let parent = Context::of(headers).filter(|_| inner.hears(hop));
        bound_state(headers, parent.is_some());
        headers.remove(TRACEPARENT);
        let span = inner.begin(hop, parent);
        span.context.put(headers);
        Some(span)
    }

    /// Begins the span of a flow that was opened with this context, which becomes that of the span.
    pub fn flow(&self, hop: Hop, trace: &mut Option<String>) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let parent = trace.take().and_then(|trace| trace.parse().ok()).filter(|_| inner.hears(hop));
        let span = inner.begin(hop, parent);
        *trace = Some(span.context.to_string());
        Some(span)
    }
}

impl Inner {
    /// Whether what others say of their traces counts there.
    fn hears(&self, hop: Hop) -> bool {
        hop != Hop::Edge || self.settings.trusts_clients
    }

    fn begin(self: &Arc<Self>, hop: Hop, parent: Option<Context>) -> Span {
        let trace = parent.map_or_else(|| TraceId(random(1u128).to_be_bytes()), |parent| parent.trace);
        let sampled = parent.map_or_else(|| samples(self.settings.sample, trace), |parent| parent.sampled);
        let context = Context { trace, span: SpanId(random(1u64).to_be_bytes()), sampled };
        Span {
            context,
            parent: parent.map(|parent| parent.span),
            remote: true,
            hop,
            since: Instant::now(),
            tracer: Arc::clone(self),
        }
    }
}

/// Anything but zero, for which there is another.
fn random<T: Default + PartialEq>(other: T) -> T
where
    rand::distr::StandardUniform: rand::distr::Distribution<T>,
{
    let random = rand::random();
    if random == T::default() { other } else { random }
}

/// Whether a trace is of the share that is recorded: told by its id, so that all who record the same share record the same.
fn samples(share: f64, trace: TraceId) -> bool {
    let [.., a, b, c, d, e, f, g] = trace.0;
    let place = u64::from_be_bytes([0, a, b, c, d, e, f, g]);
    // Close to all of it, the two cannot be told apart.
    share >= 1.0 || (place as f64) < share * (1u64 << 56) as f64
}

/// A request or a flow under way. Dropped before it has ended, nobody hears of it.
#[derive(Debug)]
pub struct Span {
    context: Context,
    parent: Option<SpanId>,
    remote: bool,
    hop: Hop,
    since: Instant,
    tracer: Arc<Inner>,
}

impl Span {
    /// What those who come after it are told.
    pub fn context(&self) -> Context {
        self.context
    }

    /// Whether anybody will hear of it.
    pub fn is_sampled(&self) -> bool {
        self.context.sampled
    }

    /// Begins one below it.
    pub fn child(&self, hop: Hop) -> Self {
        let span = self.tracer.begin(hop, Some(self.context));
        Self { remote: false, ..span }
    }

    /// It has ended then. `what` says how it is called, what is known of it, and why it has failed, and is asked only when
    /// somebody wants to hear it.
    pub fn end(
        self,
        at: Instant,
        what: impl FnOnce() -> (&'static str, Vec<Attribute>, Option<&'static str>),
    ) {
        let Self { context, parent, remote, hop, since, tracer } = self;
        if !context.sampled {
            return;
        }
        let (name, mut attributes, error) = what();
        attributes.push(("adit.hop", hop.name().into()));
        let took = at.saturating_duration_since(since);
        // By the clock of now, so that a span's times are as far apart as it took, whatever was done to the clock meanwhile.
        let began = SystemTime::now().checked_sub(since.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
        let finished = Finished { context, parent, remote, hop, name, began, took, attributes, error };
        if tracer.queue.try_send(finished).is_err() {
            tracer.dropped.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::{super::TRACESTATE, *};

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn tracer(sample: f64, trusts_clients: bool) -> (Tracer, Queue) {
        Tracer::new(Settings { sample, trusts_clients }, 1, Counter::default())
    }

    fn said(context: &'static str) -> HeaderMap {
        let fields = [(TRACEPARENT, context), (TRACESTATE, "a=b")];
        fields.map(|(name, value)| (name, HeaderValue::from_static(value))).into_iter().collect()
    }

    fn end(span: Span) {
        span.end(Instant::now(), || ("GET", vec![("adit.node", "n1".into())], None));
    }

    #[test]
    fn switched_off_nothing_is_begun_and_nothing_changed() {
        let (off, mut headers) = (Tracer::default(), said("bad"));
        assert!(!off.is_on() && off.request(Hop::Edge, &mut headers).is_none());
        assert_eq!(headers, said("bad"));
        let mut trace = Some("bad".to_owned());
        assert!(off.flow(Hop::Peer, &mut trace).is_none());
        assert_eq!(trace.as_deref(), Some("bad"));
    }

    #[test]
    fn a_span_is_a_child_of_what_the_request_said_and_what_follows_is_a_child_of_the_span() {
        let (tracer, mut queue) = tracer(0.0, true);
        let mut headers = said(PARENT);
        let span = tracer.request(Hop::Edge, &mut headers).unwrap();
        let parent: Context = PARENT.parse().unwrap();
        let told = Context::of(&headers).unwrap();
        assert_eq!(told, span.context());
        assert_eq!((told.trace, told.sampled), (parent.trace, true), "the parent has said so");
        assert_ne!(told.span, parent.span);
        assert_eq!(headers.get(TRACESTATE).unwrap(), "a=b");
        let child = span.child(Hop::Peer);
        end(child);
        let child = queue.try_recv().unwrap();
        assert_eq!((child.context.trace, child.parent, child.remote), (parent.trace, Some(told.span), false));
        end(span);
        let span = queue.try_recv().unwrap();
        assert_eq!((span.context, span.parent, span.remote), (told, Some(parent.span), true));
        assert_eq!(span.attributes, [("adit.node", "n1".into()), ("adit.hop", "edge".into())]);
    }

    #[test]
    fn what_is_not_sampled_is_passed_on_and_not_told() {
        let (tracer, mut queue) = tracer(1.0, true);
        let mut trace = Some(UNSAMPLED.to_owned());
        let span = tracer.flow(Hop::Agent, &mut trace).unwrap();
        assert!(trace.unwrap().ends_with("-00"));
        span.end(Instant::now(), || unreachable!("nobody wants to hear it"));
        assert!(queue.try_recv().is_err());
    }

    #[test]
    fn a_trace_begins_where_there_is_none_and_nothing_of_a_bad_one_is_passed_on() {
        for (context, sample) in [("00-zz", 1.0), ("00-zz", 0.0)] {
            let (tracer, _queue) = tracer(sample, true);
            let mut headers = said(context);
            let span = tracer.request(Hop::Edge, &mut headers).unwrap();
            assert_eq!((span.parent, span.is_sampled()), (None, sample == 1.0));
            assert_eq!(Context::of(&headers), Some(span.context()));
            assert!(!headers.contains_key(TRACESTATE));
        }
    }

    #[test]
    fn a_client_that_is_not_trusted_begins_anew_and_others_are_trusted() {
        let (tracer, _queue) = tracer(0.0, false);
        let parent: Context = PARENT.parse().unwrap();
        let mut headers = said(PARENT);
        let span = tracer.request(Hop::Edge, &mut headers).unwrap();
        assert_eq!((span.parent, span.is_sampled()), (None, false));
        assert_ne!(span.context().trace, parent.trace);
        assert!(!headers.contains_key(TRACESTATE));
        for hop in [Hop::Peer, Hop::Agent] {
            let span = tracer.request(hop, &mut said(PARENT)).unwrap();
            assert_eq!((span.context().trace, span.parent), (parent.trace, Some(parent.span)));
        }
    }

    #[test]
    fn what_does_not_fit_the_queue_is_dropped_and_counted() {
        let dropped = Counter::default();
        let (tracer, mut queue) =
            Tracer::new(Settings { sample: 1.0, trusts_clients: true }, 2, dropped.clone());
        for _ in 0..5 {
            end(tracer.flow(Hop::Edge, &mut None).unwrap());
        }
        assert_eq!(dropped.get(), 3);
        assert!(queue.try_recv().is_ok() && queue.try_recv().is_ok() && queue.try_recv().is_err());
    }

    #[test]
    fn a_span_has_one_of_few_names() {
        assert_eq!(method(&Method::GET), ("GET", "GET"));
        assert_eq!(method(&Method::from_bytes(b"SECRET").unwrap()), ("HTTP", "_OTHER"));
    }

    #[test]
    fn the_share_that_is_recorded_is_that_of_the_traces() {
        let sampled = |share: f64| {
            // Evenly spread.
            let traces = (0..1000u128).map(|place| TraceId(((place << 46) | 1).to_be_bytes()));
            traces.filter(|trace| samples(share, *trace)).count()
        };
        assert_eq!(sampled(0.0), 0);
        assert_eq!(sampled(0.25), 256);
        assert_eq!(sampled(1.0), 1000);
        let half = samples(0.5, TraceId([0x7f; 16])) && !samples(0.5, TraceId([0xff; 16]));
        assert!(half);
    }
}
