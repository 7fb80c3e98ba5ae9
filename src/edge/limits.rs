//! How long, how large and how many: what the edge allows its clients, whichever version of HTTP they speak.
//!
//! Nothing here limits a whole exchange: as long as bytes move, it may take for ever.

use std::time::Duration;

use http::{HeaderMap, Request, Uri};
use http_body::Body;

use super::error::Error;

/// The limits of the edge.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long a request's head may take, from its first byte to its last.
    pub head_timeout: Duration,
    /// How long a connection may be open without a request.
    pub idle_timeout: Duration,
    /// How long a service has to begin its response, from the last byte of the request on.
    pub request_timeout: Duration,
    /// How long no byte of an exchange's bodies may move, in either direction; no limit when absent.
    pub stall_timeout: Option<Duration>,
    /// The most bytes of names and values of a request's header fields.
    pub max_header_bytes: usize,
    /// The most header fields of a request.
    pub max_headers: usize,
    /// The most bytes of a request's target.
    pub max_uri_bytes: usize,
    /// The most bytes of a request's body; no limit when absent.
    pub max_body_bytes: Option<u64>,
    /// The most connections of clients; as many as the process may have files open when absent.
    pub max_connections: Option<usize>,
    /// The most requests that are open at once in one connection of HTTP/2 or later.
    pub max_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(5 * 60),
            request_timeout: Duration::from_secs(30),
            stall_timeout: None,
            max_header_bytes: 64 * 1024,
            max_headers: 256,
            max_uri_bytes: 16 * 1024,
            max_body_bytes: None,
            max_connections: None,
            max_streams: 256,
        }
    }
}

impl Limits {
    /// How much of a head is read, in bytes, and how many fields of it. It is more than what is allowed, so that most heads
    /// over a limit are answered with the reason; what is far over it, the HTTP library refuses by itself.
    pub(super) fn head_room(&self) -> (usize, usize) {
        let bytes = self.max_header_bytes.saturating_add(self.max_uri_bytes);
        (bytes.saturating_mul(2).max(16 * 1024), self.max_headers.saturating_add(64))
    }

    /// Refuses what is too large.
    pub(super) fn check<B: Body>(&self, request: &Request<B>) -> Result<(), Error> {
        let (size, max) = (target_size(request.uri()), self.max_uri_bytes);
        if size > max {
            return Err(Error::UriTooLong { size, max });
        }
        let (count, max) = (request.headers().len(), self.max_headers);
        if count > max {
            return Err(Error::TooManyHeaders { count, max });
        }
        let (size, max) = (header_size(request.headers()), self.max_header_bytes);
        if size > max {
            return Err(Error::HeadersTooLarge { size, max });
        }
        match self.max_body_bytes {
            Some(max) if request.body().size_hint().lower() > max => Err(Error::BodyTooLarge { max }),
            _ => Ok(()),
        }
    }
}

/// How much room the fields take, in bytes, as HTTP/2 counts it without its overhead.
fn header_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn target_size(uri: &Uri) -> usize {
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    authority + uri.path_and_query().map_or(0, |path| path.as_str().len())
}
