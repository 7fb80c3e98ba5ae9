//! Which way a request or a flow has gone, for whoever tells of it afterwards.
//!
//! Written by those who choose the way, and kept by whoever asked them: a request that is given up half way has left one too.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::service::{Upstream, Via};
use crate::protocol::{AgentId, NodeId};

/// The way so far.
#[derive(Debug, Default)]
pub struct Trail(Mutex<Way>);

#[derive(Debug, Default)]
struct Way {
    agent: Option<AgentId>,
    node: Option<NodeId>,
    tries: u64,
}

impl Trail {
    fn way(&self) -> MutexGuard<'_, Way> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
