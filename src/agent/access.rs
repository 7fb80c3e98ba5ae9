//! The access log: one event for each request, at level info with the target `adit::access`; for those that the door does
//! not let in also where it was not asked for. And the span of each request.
//!
//! An [`Access`] travels with its request and then with the response's body, and writes its line and ends its span when it is
//! dropped, so that none is written twice and none is missing, however the request ends. Queries are left out: they hold secrets.

use std::net::IpAddr;

use http::{Method, Request, StatusCode, Uri};
use tokio::time::Instant;

use super::span::Spanned;
use crate::{auth::Denied, protocol::EndpointId, telemetry::trace};

/// A request under way.
#[derive(Debug)]
pub(super) struct Access {
    endpoint: EndpointId,
    client: Option<IpAddr>,
    method: Method,
    uri: Uri,
    started: Instant,
    /// Whether it has a line.
    line: bool,
    span: Option<Spanned>,
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
    pub(super) fn new<B>(
        endpoint: &EndpointId,
        client: Option<IpAddr>,
        request: &Request<B>,
        line: bool,
        span: Option<Spanned>,
    ) -> Self {
        Self {
            endpoint: endpoint.clone(),
            client,
            method: request.method().clone(),
            uri: request.uri().clone(),
            started: Instant::now(),
            line,
            span,
            status: None,
            denied: None,
            bytes: 0,
            complete: false,
        }
    }
}

impl Access {
    fn end_span(&mut self) {
        let Some(span) = self.span.take() else { return };
        let (name, method) = trace::method(&self.method);
        let mut told =
            vec![("http.request.method", method.into()), ("network.protocol.version", "1.1".into())];
        let error = match self.status {
            None => Some("no response"),
            Some(status) => {
                told.push(("http.response.status_code", status.as_u16().into()));
                trace::failure(status)
            }
        };
        if let Some(denied) = self.denied {
            told.push(("error.type", denied.code().into()));
        }
        span.end(name, told, error);
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.end_span();
        if !self.line {
            return;
        }
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
