//! What an agent says of an endpoint that it serves; nodes tell their peers the same.

use super::{EndpointId, HostPattern, Kind};

/// An endpoint that the agent serves over this link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The agent's number for it, unique on the link; answers carry it.
    pub id: u64,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// What the service behind it speaks.
    pub kind: Kind,
    /// What else there is to it.
    pub options: ListenOptions,
}

/// What else an agent says of an endpoint that it serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenOptions {
    /// Hosts that stand for the endpoint, at most [`ListenOptions::MAX_HOSTS`].
    pub hosts: Vec<HostPattern>,
    /// Its service is told of each connection's client (PROXY protocol): no two clients' requests may share a flow.
    pub proxy_protocol: bool,
}

impl Listen {
    /// How much of the room in a frame it takes: itself, and each of its hosts.
    pub fn weight(&self) -> usize {
        self.options.weight()
    }
}

impl ListenOptions {
    /// The most hosts of one listen.
    pub const MAX_HOSTS: usize = 32;

    pub(super) fn weight(&self) -> usize {
        1 + self.hosts.len()
    }
}
