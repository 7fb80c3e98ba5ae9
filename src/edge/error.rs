//! The one place that maps what went wrong to what the client is told: a status, a stable code, a sentence.

use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::LengthLimitError;

use super::{body::Body, endpoint::EndpointError, headers};
use crate::{
    protocol::Code,
    upstream::{OpenFlowError, SendError},
};

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
    #[error("the service switched protocols, which the request had not asked for")]
    Switched,
    #[error("{}", crate::telemetry::report(.0))]
    Send(SendError),
}

impl Error {
    /// What sending a request failed with; `max_body` is the limit that its body had.
    pub(super) fn of_send(error: SendError, max_body: Option<u64>) -> Self {
        match (&error, max_body) {
            (SendError::Body(source), Some(max)) if is_length_limit(source) => Self::BodyTooLarge { max },
            _ => Self::Send(error),
        }
    }

    /// The status and the stable code.
    pub(super) fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Endpoint(EndpointError::Missing) => (StatusCode::BAD_REQUEST, "missing_endpoint"),
            Self::Endpoint(EndpointError::Invalid(_)) => (StatusCode::BAD_REQUEST, "invalid_endpoint"),
            Self::Connect => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
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
            Self::Send(SendError::Timeout(_)) => (StatusCode::GATEWAY_TIMEOUT, "response_timeout"),
            Self::Send(SendError::Body(_)) => (StatusCode::BAD_REQUEST, "request_broken"),
            Self::Switched | Self::Send(SendError::Broken(_)) => (StatusCode::BAD_GATEWAY, "upstream_broken"),
            Self::Send(SendError::Open(error)) => match error.code() {
                Code::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
                // The name of the code is the code: no_upstream, upstream_refused, upstream_timeout, upstream_tls …
                code => (StatusCode::BAD_GATEWAY, code.name()),
            },
        }
    }

    /// The response to the client, as JSON.
    pub(super) fn response(&self) -> Response<Body> {
        let (status, code) = self.status();
        let text = serde_json::json!({ "error": self.error_text(), "code": code }).to_string();
        let mut response = Response::new(Body::full(text + "\n"));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(headers::ERROR, HeaderValue::from_static(code));
        if matches!(self, Self::TransferCoding) {
            // Whoever sent it may be of another mind about where the next request begins (RFC 9112 §6.1).
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
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
