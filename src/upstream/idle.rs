//! HTTP/1.1 flows that are kept open between requests, those of one listen of one link.
//!
//! A flow is a connection of the service (HTTP/1.1 keep-alive), so it is used as such a connection must be: not after it was
//! idle for long, since services close idle connections; not at all once it is retired.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::body::Body;

/// How long a flow may be idle before it is closed. Node.js closes idle connections after 5 s, others later.
pub(super) const MAX_IDLE: Duration = Duration::from_secs(4);

/// How recently a flow must have been used to carry a request that must not be sent twice.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// How many idle flows are kept. When there are more, those that finish are closed.
const MAX_FLOWS: usize = 512;

/// A flow that carries one request after the other.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<Body>,
    /// The flow's number on its link.
    pub(super) flow: u64,
    /// The client's connection whose requests alone it carries.
    pub(super) owner: Option<u64>,
    pub(super) given_up: GivenUp,
}

/// Ends the flow by a reset when it is dropped in the middle of a request; between requests it may end cleanly.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    pub(super) token: CancellationToken,
    idle: bool,
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if !self.idle {
            self.token.cancel();
        }
    }
}

/// The idle flows of one upstream.
#[derive(Debug, Default)]
pub(super) struct Idle {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The last is the most recently used.
    idle: Vec<(Connection, Instant)>,
    /// Flows that are in use and must not come back.
    retired: HashSet<u64>,
    /// Flows in use.
    used: HashSet<u64>,
    /// Flows on which another node puts its requests. That node closes them, once the token has told it to.
    joined: HashMap<u64, CancellationToken>,
    all_retired: bool,
}

impl Idle {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Held for a few instructions, by requests to one agent's one endpoint, never across an await.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most recently used flow that has been idle for at most `age` and is ready: one of the client's connection or, where
    /// it need not be its `own`, one of nobody.
    pub(super) fn take(&self, now: Instant, age: Duration, client: u64, own: bool) -> Option<Connection> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.idle.retain(|(connection, _)| !connection.sender.is_closed());
        let young = |since: Instant| now.saturating_duration_since(since) <= age.min(MAX_IDLE);
        let of = |owner: Option<u64>| {
            inner.idle.iter().rposition(|(connection, since)| {
                connection.owner == owner && connection.sender.is_ready() && young(*since)
            })
        };
        let found = of(Some(client)).or_else(|| if own { None } else { of(None) })?;
        let (mut connection, _) = inner.idle.remove(found);
        connection.given_up.idle = false;
        inner.used.insert(connection.flow);
        Some(connection)
    }

    /// Takes note of a flow that has just been opened for a request.
    pub(super) fn opened(&self, flow: u64) {
        self.inner().used.insert(flow);
    }

    /// Takes note of a flow that is joined to one of another node. What is answered tells when it is retired.
    pub(super) fn joined(&self, flow: u64) -> CancellationToken {
        let mut inner = self.inner();
        let retired = CancellationToken::new();
        if inner.all_retired {
            retired.cancel();
        } else {
            inner.joined.insert(flow, retired.clone());
        }
        retired
    }

    /// Takes a flow back after a request; says whether it is the only idle one, for which nobody sweeps yet.
    pub(super) fn give_back(&self, now: Instant, mut connection: Connection) -> bool {
        connection.given_up.idle = true;
        let mut inner = self.inner();
        inner.used.remove(&connection.flow);
        let retired = inner.retired.remove(&connection.flow) || inner.all_retired;
        if retired || inner.idle.len() >= MAX_FLOWS {
            return false;
        }
        inner.idle.push((connection, now));
        inner.idle.len() == 1
    }

    /// A flow that was in use will not come back.
    pub(super) fn gone(&self, flow: u64) {
        let mut inner = self.inner();
        inner.used.remove(&flow);
        inner.retired.remove(&flow);
        inner.joined.remove(&flow);
    }

    /// Closes what has been idle for too long; says whether anything is left.
    pub(super) fn sweep(&self, now: Instant) -> bool {
        let mut inner = self.inner();
        inner.idle.retain(|(connection, since)| {
            !connection.sender.is_closed() && now.saturating_duration_since(*since) < MAX_IDLE
        });
        !inner.idle.is_empty()
    }

    /// Puts no further request on these flows: idle ones close now, those in use when they become idle.
    pub(super) fn retire(&self, flows: &[u64]) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.idle.retain(|(connection, _)| !flows.contains(&connection.flow));
        inner.retired.extend(flows.iter().filter(|flow| inner.used.contains(*flow)));
        let joined = flows.iter().filter_map(|flow| inner.joined.remove(flow));
        joined.for_each(|retired| retired.cancel());
    }

    /// The same for all flows, present and future.
    pub(super) fn retire_all(&self) {
        let mut inner = self.inner();
        inner.all_retired = true;
        inner.idle.clear();
        inner.joined.drain().for_each(|(_, retired)| retired.cancel());
    }
}
