//! What a web page may have its browser send: nothing that does something, unless it is a page of this port.
//!
//! A browser lets any page send a POST to any address that it reaches, loopback too, and only keeps the answer from it. It
//! says whose page it is (RFC 6454 §7), and what is no browser says nothing.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, StatusCode, Uri,
        header::{HOST, ORIGIN},
    },
    middleware::Next,
    response::Response,
};

use super::error;
use crate::auth::Guard;

/// Refuses what pages of other hosts ask to be done.
pub(super) async fn refuse(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    if request.method().is_safe() || is_own(request.headers(), guard.asks()) {
        return next.run(request).await;
    }
    let path = request.uri().path();
    tracing::info!(target: "adit::access", path, code = "foreign_origin", "a page of another host was refused");
    error::answer(
        StatusCode::FORBIDDEN,
        "foreign_origin",
        "a web page may do this only when it is one of this port, reached by the same name; other programs send no Origin",
    )
}

/// Whether a request comes from no page, or from one of this port. A name of another's choosing may lead to this address as
/// well (DNS rebinding), which is harmless where pages must show a credential. Elsewhere only an address counts, and the
/// name that stands for this host alone (RFC 6761 §6.3).
fn is_own(headers: &HeaderMap, asks: bool) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let page = Uri::try_from(origin.as_bytes()).ok().and_then(|page| page.into_parts().authority);
    let (Some(page), Some(host)) = (page, headers.get(HOST)) else { return false };
    let name = page.host().trim_start_matches('[').trim_end_matches(']');
    let safe = asks || name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost");
    safe && page.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_pages_of_this_port_count_as_its_own() {
        let own = |origin: &'static str, host: &'static str, asks: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            headers.insert(HOST, HeaderValue::from_static(host));
            is_own(&headers, asks)
        };
        assert!(is_own(&HeaderMap::new(), false), "a program is no page");
        for asks in [false, true] {
            assert!(own("http://127.0.0.1:8002", "127.0.0.1:8002", asks));
            assert!(own("http://[::1]:8002", "[::1]:8002", asks));
            assert!(own("http://LocalHost:8002", "localhost:8002", asks));
            assert!(!own("http://evil.example", "127.0.0.1:8002", asks));
            assert!(!own("http://127.0.0.1:3000", "127.0.0.1:8002", asks), "another port is another page");
            assert!(!own("null", "127.0.0.1:8002", asks));
            assert!(!own("", "127.0.0.1:8002", asks));
            assert!(!own("http://", "", asks));
        }
        // A name that leads here today may be anybody's.
        assert!(!own("http://evil.example:8002", "evil.example:8002", false));
        assert!(own("http://n1.internal:8002", "n1.internal:8002", true));
    }
}
