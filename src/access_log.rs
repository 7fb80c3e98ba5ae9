//! The access log of a node: one line for each request and each flow of a client, once that has ended; and their spans.
//!
//! `edge` and `relay` keep a [`Record`] with what they serve and tell it what becomes of that; it writes its line, and ends its
//! span, when it is dropped, so that none is missing and none is written twice. Switched off, which both are by default, a
//! record is nothing and costs nothing. What is refused for its caller's sake is logged by whoever refuses it, always, and has
//! no second line here. No secret is ever in a line: no query, and of header fields only those that are asked for, by names
//! that hold none; in a span there are neither paths nor header fields.

mod header;
mod record;

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use tokio::time::Instant;

pub use header::{InvalidHeader, LoggedHeader};
pub use record::{Carried, Carrying, Ended, Record, Volume};

use crate::{
    drain::Tasks,
    protocol::{Kind, NodeId},
    telemetry::trace::{Context, Hop, Span, TraceId, Tracer},
};

/// What a line has that not every node wants.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Header fields of requests.
    pub headers: Vec<LoggedHeader>,
}

/// The access log and what makes spans, or neither. Clones are handles to the same one.
#[derive(Debug, Clone, Default)]
pub struct AccessLog(Option<Arc<Log>>);

#[derive(Debug)]
struct Log {
    node: NodeId,
    headers: Vec<LoggedHeader>,
    lines: bool,
    tracer: Tracer,
}

/// The trace that something is part of, if it is part of one, and its span, if anybody will hear of that.
#[derive(Debug, Default)]
struct Traced {
    trace: Option<TraceId>,
    span: Option<Span>,
}

/// A request's head, as far as lines have it.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The host that it is for.
    pub host: Option<&'a HeaderValue>,
    /// Its target, of which the path is logged.
    pub target: &'a Uri,
    /// The version of HTTP that it came by.
    pub version: Version,
    /// `http` or `https`, as the client asked.
    pub scheme: &'static str,
}

impl AccessLog {
    /// The log of a node; none without a configuration. Spans are made by the tracer.
    pub fn new(node: NodeId, config: Option<Config>, tracer: Tracer) -> Self {
        let lines = config.is_some();
        let Config { headers } = config.unwrap_or_default();
        Self((lines || tracer.is_on()).then(|| Arc::new(Log { node, headers, lines, tracer })))
    }

    /// A request that began then, served by a task of `owner`. Where spans are made, its fields say from now on that what
    /// follows is a child of its own.
    pub fn request(
        &self,
        owner: &Tasks,
        client: SocketAddr,
        began: Instant,
        head: Head<'_>,
        fields: &mut HeaderMap,
    ) -> Record {
        let Some(log) = &self.0 else { return Record::default() };
        match Traced::by(log.tracer.request(Hop::Edge, fields), || Context::of(fields)) {
            Traced { span: None, .. } if !log.lines => Record::default(),
            traced => Record::request(log, owner, client, began, head, traced),
        }
    }

    /// A flow that begins now, served by a task of `owner`, in a context that becomes its own where spans are made.
    pub fn flow(&self, owner: &Tasks, client: SocketAddr, kind: Kind, trace: &mut Option<String>) -> Record {
        let Some(log) = &self.0 else { return Record::default() };
        match Traced::by(log.tracer.flow(Hop::Edge, trace), || trace.as_ref()?.parse().ok()) {
            Traced { span: None, .. } if !log.lines => Record::default(),
            traced => Record::flow(log, owner, client, kind, traced, log.lines),
        }
    }

    /// The same for a flow of another node's client, whose line that node writes.
    pub fn passing(&self, owner: &Tasks, peer: SocketAddr, kind: Kind, trace: &mut Option<String>) -> Record {
        let span = self.0.as_ref().and_then(|log| Some((log, log.tracer.flow(Hop::Peer, trace)?)));
        match span.filter(|(_, span)| span.is_sampled()) {
            None => Record::default(),
            Some((log, span)) => Record::flow(log, owner, peer, kind, Traced::by(Some(span), || None), false),
        }
    }
}

impl Traced {
    fn by(span: Option<Span>, said: impl FnOnce() -> Option<Context>) -> Self {
        let context = span.as_ref().map_or_else(said, |span| Some(span.context()));
        Self { trace: context.map(|context| context.trace), span: span.filter(Span::is_sampled) }
    }
}

/// A version of HTTP as lines have it.
pub fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_3 => "HTTP/3",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_11 => "HTTP/1.1",
        _ => "HTTP/1.0",
    }
}
