//! The one place that maps what went wrong to what the client is told: a status, a stable code, a sentence.

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::LengthLimitError;

use super::{body::Body, endpoint::EndpointError, headers, piko};
use crate::{
    access_log::Ended,
    auth::{Denied, Lapsed, Limited, Refused},
    protocol::Code,
    upstream::{OpenFlowError, SendError},
};

/// How a client is told of errors: as what it speaks has them.
#[derive(Debug)]
pub(super) enum Tongue {
    /// JSON with adit's sentence.
    Plain,
    /// JSON with Piko's texts, for its clients.
    Piko,
    /// Trailers, for a request with this content type.
    Grpc(HeaderValue),
}

impl Tongue {
    /// That of a request.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        match headers::grpc(request.headers()) {
            Some(content_type) => Self::Grpc(content_type),
            None if piko::is_spoken(request) => Self::Piko,
            None => Self::Plain,
        }
    }
}

/// Why a request gets no response from its service.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error("the method CONNECT has no meaning here")]
    Connect,
    #[error(
        "a request of HTTP/1.1 has one Host field, no more and no less, with a host and nothing else in it"
    )]
    Host,
    #[error("the target is neither a path nor a URL")]
    Target,
    #[error("the only transfer coding that is understood is chunked, once")]
    TransferCoding,
    #[error("the request's target has {size} bytes, at most {max} are allowed")]
    UriTooLong { size: usize, max: usize },
    #[error("the request has {count} header fields, at most {max} are allowed")]
    TooManyHeaders { count: usize, max: usize },
    #[error("the request's header fields have {size} bytes, at most {max} are allowed")]
    HeadersTooLarge { size: usize, max: usize },
    #[error("the request's body is larger than the {max} bytes that are allowed")]
    BodyTooLarge { max: u64 },
    #[error("no byte of the request's body came, or could be passed on, for too long")]
    Stalled,
    #[error("a connection to {0:?} cannot be had here, only one to \"websocket\"")]
    Protocol(String),
    #[error("the service switched protocols, which the request had not asked for")]
    Switched,
    #[error("the service did not switch to WebSocket as the request had asked for")]
    NotSwitched,
    #[error(transparent)]
    Piko(#[from] piko::Refusal),
    #[error(transparent)]
    Limited(#[from] Limited),
    #[error(transparent)]
    Auth(#[from] Refused),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Lapsed(Lapsed),
    #[error("{}", crate::telemetry::report(.0))]
    Send(SendError),
}

impl Error {
    /// What sending a request failed with; `max_body` is the limit that its body had.
    pub(super) fn of_send(error: SendError, max_body: Option<u64>) -> Self {
        match (&error, max_body) {
            (SendError::Open(OpenFlowError::Limited(limited)), _) => Self::Limited(*limited),
            (SendError::Body(source), Some(max)) if is_length_limit(&**source) => Self::BodyTooLarge { max },
            _ => Self::Send(error),
        }
    }

    /// The status and the stable code.
    pub(super) fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Endpoint(EndpointError::Missing) => (StatusCode::BAD_REQUEST, "missing_endpoint"),
            Self::Endpoint(EndpointError::Invalid(_)) => (StatusCode::BAD_REQUEST, "invalid_endpoint"),
            Self::Connect => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Protocol(_) => (StatusCode::NOT_IMPLEMENTED, "unsupported"),
            Self::Host => (StatusCode::BAD_REQUEST, "invalid_host"),
            Self::Target => (StatusCode::BAD_REQUEST, "invalid_target"),
            Self::TransferCoding => (StatusCode::BAD_REQUEST, "invalid_transfer_coding"),
            Self::UriTooLong { .. } => (StatusCode::URI_TOO_LONG, "uri_too_long"),
            Self::TooManyHeaders { .. } => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_headers"),
            Self::HeadersTooLarge { .. } => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large")
            }
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::Stalled => (StatusCode::REQUEST_TIMEOUT, "request_stalled"),
            Self::Limited(limited) => (StatusCode::TOO_MANY_REQUESTS, limited.code()),
            Self::Auth(refused) => (refused.status(), refused.code()),
            Self::Denied(denied) => (denied.status(), denied.code()),
            Self::Lapsed(Lapsed::Expired) => (StatusCode::UNAUTHORIZED, Refused::Expired.code()),
            Self::Lapsed(Lapsed::Revoked) => (StatusCode::FORBIDDEN, Refused::Revoked.code()),
            Self::Piko(piko::Refusal::Path) => (StatusCode::NOT_FOUND, "not_found"),
            Self::Piko(piko::Refusal::Method(_)) => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Piko(piko::Refusal::NoWebSocket) => (StatusCode::BAD_REQUEST, "upgrade_required"),
            Self::Piko(piko::Refusal::Origin(_)) => (StatusCode::FORBIDDEN, "foreign_origin"),
            Self::Send(SendError::Timeout(_)) => (StatusCode::GATEWAY_TIMEOUT, "response_timeout"),
            Self::Send(SendError::Body(_)) => (StatusCode::BAD_REQUEST, "request_broken"),
            Self::Switched | Self::NotSwitched | Self::Send(SendError::Broken(_) | SendError::Switch(_)) => {
                (StatusCode::BAD_GATEWAY, "upstream_broken")
            }
            Self::Send(SendError::Open(error)) => match error.code() {
                Code::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
                // The name of the code is the code: no_upstream, upstream_refused, upstream_timeout, upstream_tls …
                code => (StatusCode::BAD_GATEWAY, code.name()),
            },
        }
    }

    /// How its request has ended by it.
    pub(super) fn ended(&self) -> Ended {
        match self {
            Self::Stalled => Ended::Stalled,
            Self::Lapsed(_) => Ended::Lapsed,
            Self::Switched | Self::NotSwitched => Ended::Service,
            Self::Send(SendError::Broken(_) | SendError::Switch(_)) => Ended::Service,
            Self::Send(SendError::Body(_)) => Ended::Client,
            Self::Send(SendError::Timeout(_)) => Ended::Late,
            Self::Send(SendError::Open(_)) => Ended::Unreachable,
            _ => Ended::Refused,
        }
    }

    /// Whether it is the caller who may not have what was asked for.
    pub(super) fn is_of_caller(&self) -> bool {
        let is_foreign = matches!(self, Self::Piko(piko::Refusal::Origin(_)));
        is_foreign || matches!(self, Self::Limited(_) | Self::Auth(_) | Self::Denied(_) | Self::Lapsed(_))
    }

    /// What Piko says in its place, where it has a text.
    fn piko_text(&self) -> Option<&'static str> {
        match self {
            Self::Endpoint(EndpointError::Missing) => Some("missing endpoint id"),
            Self::Auth(refused) => Some(refused.piko()),
            Self::Send(SendError::Timeout(_)) => Some("upstream timeout"),
            Self::Send(SendError::Open(error)) if error.code() == Code::NoUpstream => {
                Some("no available upstreams")
            }
            _ if self.status().0 == StatusCode::BAD_GATEWAY => Some("upstream unreachable"),
            _ => None,
        }
    }

    /// The response to the client.
    pub(super) fn response(&self, tongue: Tongue) -> Response<Body> {
        let (status, code) = self.status();
        let sentence = self.error_text();
        let json = match (tongue, self.piko_text()) {
            (Tongue::Grpc(content_type), _) => return self.grpc_response(content_type, status, code),
            (Tongue::Piko, Some(text)) => {
                serde_json::json!({ "error": text, "code": code, "detail": sentence })
            }
            _ => serde_json::json!({ "error": sentence, "code": code }),
        };
        let mut response = Response::new(Body::full(json.to_string() + "\n"));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(headers::ERROR, HeaderValue::from_static(code));
        if matches!(self, Self::TransferCoding) {
            // Whoever sent it may be of another mind about where the next request begins (RFC 9112 §6.1).
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let challenge = match self {
            Self::Auth(refused) => refused.challenge(),
            Self::Denied(denied) => denied.challenge(),
            Self::Lapsed(Lapsed::Expired) => Refused::Expired.challenge(),
            _ => None,
        };
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        match self {
            Self::Limited(limited) => {
                headers.insert(header::RETRY_AFTER, limited.retry_after().into());
            }
            Self::Piko(piko::Refusal::Method(_)) => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
            }
            Self::Piko(piko::Refusal::NoWebSocket) => {
                // RFC 6455 §4.4.
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            _ => {}
        }
        response
    }

    /// Trailers alone, in the place of the header (gRPC over HTTP/2, "Responses").
    fn grpc_response(
        &self,
        content_type: HeaderValue,
        status: StatusCode,
        code: &'static str,
    ) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(headers::GRPC_STATUS, HeaderValue::from_static(grpc_status(status)));
        // All that is encoded is ASCII.
        if let Ok(message) = HeaderValue::try_from(grpc_message(&self.error_text())) {
            headers.insert(headers::GRPC_MESSAGE, message);
        }
        headers.insert(headers::ERROR, HeaderValue::from_static(code));
        response
    }

    fn error_text(&self) -> String {
        match self {
            // The code says it beside the sentence already.
            Self::Send(SendError::Open(OpenFlowError::Refused(refusal))) => refusal.message.clone(),
            other => other.to_string(),
        }
    }
}

/// The status of gRPC that says what a status of HTTP does. Where gRPC has a mapping for its clients
/// (http-grpc-status-mapping.md), it is that; the rest is for the limits that it does not know.
fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        // INTERNAL
        400 => "13",
        // UNAUTHENTICATED
        401 => "16",
        // PERMISSION_DENIED
        403 => "7",
        // UNIMPLEMENTED
        404 | 405 | 501 => "12",
        // RESOURCE_EXHAUSTED
        413 | 414 | 431 => "8",
        // UNAVAILABLE
        429 | 502..=504 => "14",
        // UNKNOWN
        _ => "2",
    }
}

/// A text as `grpc-message` has it: what is not printable ASCII is percent-encoded, byte by byte.
fn grpc_message(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn is_length_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(this) = error {
        if this.is::<LengthLimitError>() {
            return true;
        }
        error = this.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_told_of_an_end_in_time_is_asked_for_what_would_do() {
        for (lapsed, status) in [(Lapsed::Expired, 401), (Lapsed::Revoked, 403)] {
            let response = Error::Lapsed(lapsed).response(Tongue::Plain);
            assert_eq!(response.status(), status);
            let challenge = response.headers().get(header::WWW_AUTHENTICATE).cloned();
            assert_eq!(challenge, Refused::Expired.challenge().filter(|_| status == 401));
        }
    }

    #[test]
    fn messages_of_grpc_are_percent_encoded() {
        assert_eq!(grpc_message("50% of \"a~\""), "50%25 of \"a~\"");
        assert_eq!(grpc_message("zu groß\n"), "zu gro%C3%9F%0A");
    }
}
