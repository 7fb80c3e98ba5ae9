//! The access log: one event for each request, at level info with the target `adit::access`.
//!
//! An [`Access`] travels with its request and then with the response's body, and writes its line when it is dropped, so
//! that none is written twice and none is missing, however the request ends. Queries are left out: they hold secrets.

use std::net::IpAddr;

use http::{HeaderMap, Method, Request, StatusCode, Uri};
use tokio::time::Instant;

use crate::protocol::EndpointId;

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
    /// The content of the response so far.
    pub(super) bytes: u64,
    /// Whether the response has come to its end.
    pub(super) complete: bool,
}

impl Access {
    pub(super) fn new<B>(endpoint: &EndpointId, request: &Request<B>) -> Self {
        Self {
            endpoint: endpoint.clone(),
            client: client(request.headers()),
            method: request.method().clone(),
            uri: request.uri().clone(),
            started: Instant::now(),
            status: None,
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
            bytes = self.bytes,
            duration_ms = self.started.elapsed().as_micros() as f64 / 1000.0,
            complete = self.complete,
            "request"
        );
    }
}

/// The client's address as the node has seen it: the last of the list. Those before it are what the client claims.
fn client(headers: &HeaderMap) -> Option<IpAddr> {
    let list = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    list.rsplit(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_client_is_the_address_that_the_node_has_added() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-forwarded-for", HeaderValue::from_static(value));
            }
            client(&headers).map(|client| client.to_string())
        };
        assert_eq!(of(&["1.1.1.1, 2.2.2.2"]).as_deref(), Some("2.2.2.2"));
        assert_eq!(of(&["1.1.1.1", "::1"]).as_deref(), Some("::1"));
        assert_eq!(of(&["1.1.1.1, evil\tline"]), None);
        assert_eq!(of(&[]), None);
    }
}
