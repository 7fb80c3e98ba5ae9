//! Which way a request or a flow has gone, for whoever tells of it afterwards.
//!
//! Written by those who choose the way, and kept by whoever asked them: a request that is given up half way has left one too.
//! A node through which a request goes does not read it, so that its span is made here, by the one that sends it there; a flow
//! says of which trace it is when it is opened, and has one there.

use std::sync::{Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use tokio::time::Instant;

use super::service::{Upstream, Via};
use crate::{
    protocol::{AgentId, NodeId},
    telemetry::trace::{Attribute, Hop, Span},
};

/// The way so far.
#[derive(Debug, Default)]
pub struct Trail {
    way: Mutex<Way>,
    /// The span of what goes that way, if it has one that anybody will hear of.
    span: Option<Span>,
}

#[derive(Debug, Default)]
struct Way {
    agent: Option<AgentId>,
    node: Option<NodeId>,
    tries: u64,
    through: Option<Through>,
}

/// The node that a request goes through.
#[derive(Debug)]
struct Through {
    span: Span,
    node: NodeId,
    agent: AgentId,
}

impl Through {
    fn end(self, at: Instant, name: &'static str, told: Vec<Attribute>, error: Option<&'static str>) {
        let Self { span, node, agent } = self;
        let way = vec![("adit.node", node.to_string().into()), ("adit.agent", agent.to_string().into())];
        span.end(at, || (name, [way, told].concat(), error));
    }
}

impl Trail {
    /// The trail of what has this span.
    pub fn of(span: Option<Span>) -> Self {
        Self { way: Mutex::default(), span }
    }

    /// Whether anybody will hear of it.
    pub fn is_traced(&self) -> bool {
        self.span.is_some()
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is sent this way now.
    pub(super) fn leads(&self, to: &Upstream) {
        let mut way = self.way();
        way.agent = Some(to.agent);
        way.node = match &to.via {
            Via::Agent(_) => None,
            Via::Node(node) => Some(node.member.node.clone()),
        };
        way.tries += 1;
    }

    /// The same for a request, which is told whose child the next span is.
    pub(super) fn leads_request(&self, to: &Upstream, headers: &mut HeaderMap) {
        self.leads(to);
        let Some(span) = &self.span else { return };
        let through = match &to.via {
            Via::Agent(_) => None,
            Via::Node(node) => {
                Some(Through { span: span.child(Hop::Peer), node: node.member.node.clone(), agent: to.agent })
            }
        };
        through.as_ref().map_or(span, |through| &through.span).context().put(headers);
        let before = std::mem::replace(&mut self.way().through, through);
        if let Some(failed) = before {
            failed.end(Instant::now(), "peer", Vec::new(), Some("tried elsewhere"));
        }
    }

    /// What had gone this way ended then. Its spans say what is known of it `everywhere`; its own also what is known `here`, and
    /// that of the node that it went through which node that was.
    pub fn end(
        &mut self,
        at: Instant,
        name: &'static str,
        everywhere: Vec<Attribute>,
        here: Vec<Attribute>,
        error: Option<&'static str>,
    ) {
        let Some(span) = self.span.take() else { return };
        let through = self.way().through.take();
        if let Some(through) = through {
            through.end(at, name, everywhere.clone(), error);
        }
        span.end(at, || (name, [everywhere, here].concat(), error));
    }

    /// The agent that was asked last.
    pub fn agent(&self) -> Option<AgentId> {
        self.way().agent
    }

    /// The node that the agent is linked to, if not this one.
    pub fn node(&self) -> Option<NodeId> {
        self.way().node.clone()
    }

    /// How often it was tried again.
    pub fn retries(&self) -> u64 {
        self.way().tries.saturating_sub(1)
    }
}
