//! What the span of a request or flow says of it, by the semantic conventions of OpenTelemetry for HTTP and the network. No path,
//! no query, no header field and no address of a client: whoever stores traces is not whoever may read those.

use http::{StatusCode, Version, uri::Authority};
use tokio::time::Instant;

use super::{Ended, Inner, Request, Told};
use crate::{
    protocol::Kind,
    telemetry::trace::{self, Attribute, method},
};

impl Inner {
    /// Its span has ended then, and that of the node which it went through.
    pub(super) fn end_span(&mut self, told: &Told, ended: Ended, at: Instant) {
        if !self.trail.is_traced() {
            return;
        }
        let everywhere = self.everywhere(told, ended);
        let here = self.here(told);
        let kind = told.flow.unwrap_or(Kind::Tcp).name();
        let name = self.request.as_ref().map_or(kind, |request| method(&request.method).0);
        self.trail.end(at, name, everywhere, here, failure(told.status, ended));
    }

    /// What is said of it wherever it was.
    fn everywhere(&self, told: &Told, ended: Ended) -> Vec<Attribute> {
        let mut said = vec![("adit.ended", ended.name().into())];
        if let Some(name) = &told.name {
            said.push(("adit.endpoint", name.endpoint.to_string().into()));
            said.push(("adit.tenant", name.tenant.to_string().into()));
        }
        if let Some(request) = &self.request {
            said.push(("http.request.method", method(&request.method).1.into()));
        }
        if let Some(status) = told.status {
            said.push(("http.response.status_code", status.as_u16().into()));
        }
        if let Some(code) = told.code {
            said.push(("error.type", code.into()));
        }
        said
    }

    /// What only this node knows.
    fn here(&self, told: &Told) -> Vec<Attribute> {
        let mut said = vec![("adit.node", self.log.node.to_string().into())];
        if let Some(agent) = self.trail.agent() {
            said.push(("adit.agent", agent.to_string().into()));
        }
        if self.trail.retries() > 0 {
            said.push(("adit.retries", self.trail.retries().into()));
        }
        match &self.request {
            Some(request) => said.extend(of_request(request)),
            None => {
                let transport = if told.flow == Some(Kind::Udp) { "udp" } else { "tcp" };
                said.push(("network.transport", transport.into()));
            }
        }
        let (sent, received) = self.volume();
        said.push(("adit.sent_bytes", sent.into()));
        said.push(("adit.received_bytes", received.into()));
        said
    }
}

/// The longest name of a host, in bytes.
const NAME: usize = 253;

fn of_request(request: &Request) -> Vec<Attribute> {
    let version = match request.version {
        Version::HTTP_3 => "3",
        Version::HTTP_2 => "2",
        Version::HTTP_11 => "1.1",
        _ => "1.0",
    };
    let mut said = vec![("url.scheme", request.scheme.into()), ("network.protocol.version", version.into())];
    let host = request.host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    // What is longer is no name (RFC 1035 §2.3.4), and spans wait in numbers, not in bytes.
    if let Some(host) = host.filter(|host| host.host().len() <= NAME) {
        said.push(("server.address", host.host().into()));
        said.extend(host.port_u16().map(|port| ("server.port", port.into())));
    }
    said
}

/// Why it counts as failed, if it does: for what its client has done it does not.
fn failure(status: Option<StatusCode>, ended: Ended) -> Option<&'static str> {
    match ended {
        Ended::Service | Ended::Late | Ended::Unreachable | Ended::Silent | Ended::Cut => Some(ended.name()),
        Ended::Complete | Ended::Client | Ended::Stalled | Ended::Lapsed | Ended::Refused | Ended::Idle => {
            status.and_then(trace::failure)
        }
    }
}
