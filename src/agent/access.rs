//! The access log: one event for each request, at level info with the target `adit::access`; for those that the door does
//! not let in also where it was not asked for.
//!
//! An [`Access`] travels with its request and then with the response's body, and writes its line when it is dropped, so
//! that none is written twice and none is missing, however the request ends. Queries are left out: they hold secrets.

use std::net::IpAddr;

use http::{Method, Request, StatusCode, Uri};
use tokio::time::Instant;

use crate::{auth::Denied, protocol::EndpointId};

/// A request under way.
#[derive(Debug)]
pub(super) struct Access {
    endpoint: EndpointId,
    client: Option<IpAddr>,
    method: Method,
    uri: Uri,
    started: Instant,
    /// That of the response, once it has begun.
    pub(super) status: Option<StatusCode>,
    /// Why it was not let in.
    pub(super) denied: Option<Denied>,
    /// The content of the response so far.
    pub(super) bytes: u64,
    /// Whether the response has come to its end.
    pub(super) complete: bool,
}

impl Access {
    pub(super) fn new<B>(endpoint: &EndpointId, client: Option<IpAddr>, request: &Request<B>) -> Self {
        Self {
            endpoint: endpoint.clone(),
            client,
            method: request.method().clone(),
            uri: request.uri().clone(),
            started: Instant::now(),
            status: None,
            denied: None,
            bytes: 0,
            complete: false,
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        tracing::info!(
            target: "adit::access",
            endpoint = %self.endpoint,
            client = self.client.map(tracing::field::display),
            method = %self.method,
            path = self.uri.path(),
            status = self.status.map(|status| status.as_u16()),
            code = self.denied.map(Denied::code),
            bytes = self.bytes,
            duration_ms = self.started.elapsed().as_micros() as f64 / 1000.0,
            complete = self.complete,
            "request"
        );
    }
}
