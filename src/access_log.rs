//! The access log of a node: one line for each request and each flow of a client, once that has ended.
//!
//! `edge` and `relay` keep a [`Record`] with what they serve and tell it what becomes of that; it writes its line when it is
//! dropped, so that none is missing and none is written twice. Switched off, which it is by default, a record is nothing and
//! costs nothing. What is refused for its caller's sake is logged by whoever refuses it, always, and has no second line here.
//! No secret is ever in a line: no query, and of header fields only those that are asked for, by names that hold none.

mod header;
mod record;

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderValue, Method, Uri, Version};
use tokio::time::Instant;

pub use header::{InvalidHeader, LoggedHeader};
pub use record::{Carried, Carrying, Ended, Record, Volume};

use crate::{
    drain::Tasks,
    protocol::{Kind, NodeId},
};

/// What a line has that not every node wants.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Header fields of requests.
    pub headers: Vec<LoggedHeader>,
}

/// The access log, or none. Clones are handles to the same one.
#[derive(Debug, Clone, Default)]
pub struct AccessLog(Option<Arc<Log>>);

#[derive(Debug)]
struct Log {
    node: NodeId,
    headers: Vec<LoggedHeader>,
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
}

impl AccessLog {
    /// The log of a node; none without a configuration.
    pub fn new(node: NodeId, config: Option<Config>) -> Self {
        Self(config.map(|Config { headers }| Arc::new(Log { node, headers })))
    }

    /// A request that began then, served by a task of `owner`.
    pub fn request(&self, owner: &Tasks, client: SocketAddr, began: Instant, head: Head<'_>) -> Record {
        let Some(log) = &self.0 else { return Record::default() };
        Record::request(log, owner, client, began, head)
    }

    /// A flow that begins now, served by a task of `owner`.
    pub fn flow(&self, owner: &Tasks, client: SocketAddr, kind: Kind) -> Record {
        let Some(log) = &self.0 else { return Record::default() };
        Record::flow(log, owner, client, kind)
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
