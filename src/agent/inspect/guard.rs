//! Who may ask the inspector, as far as a browser can be made to ask in the name of others, and what its pages may do.
//!
//! Whoever reaches the address may see everything: it is one of this machine alone. But a browser on it sends what any page
//! has it send. So a request must name this machine by an address, or by the one name that stands for it (RFC 6761 §6.3): a
//! name of another's choosing may lead here as well (DNS rebinding). And what says that a page of another origin has sent it
//! is refused, but for a link to the first page.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        },
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::api::Refused;

/// What pages may load, and from where: nothing but what is here.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// With all that is answered.
const FIELDS: [(HeaderName, HeaderValue); 5] = [
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// Says by whom a browser was made to ask (Fetch Metadata).
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Lets in who may ask, and says what the answer may do.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let is_first_page = request.method() == Method::GET && request.uri().path() == "/";
    let mut response = match check(request.headers(), is_first_page) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    for (name, value) in FIELDS {
        response.headers_mut().insert(name, value);
    }
    response
}

fn check(headers: &HeaderMap, is_first_page: bool) -> Result<(), Refused> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_local(host) {
        return Err(Refused::new(
            StatusCode::FORBIDDEN,
            "foreign_host",
            format!(
                "{host:?} is no name of the inspector: call it by its address, such as 127.0.0.1, or localhost"
            ),
        ));
    }
    let origin = headers.get(ORIGIN).is_none_or(|origin| origin == &format!("http://{host}"));
    let site = headers.get(SITE).is_none_or(|site| site == "same-origin" || site == "none") || is_first_page;
    if origin && site {
        return Ok(());
    }
    Err(Refused::new(
        StatusCode::FORBIDDEN,
        "foreign_origin",
        "only a page of the inspector may have a browser ask this; other programs send neither Origin nor Sec-Fetch-Site",
    ))
}

fn is_local(host: &str) -> bool {
    let Ok(host) = host.parse::<Authority>() else { return false };
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    !host.as_str().contains('@') && (name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(fields: &[(&'static str, &'static str)], is_first_page: bool) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        check(&headers, is_first_page).err().map(|refused| refused.code)
    }

    #[test]
    fn only_names_that_are_this_machines_for_sure_are_answered() {
        for host in
            ["127.0.0.1:4040", "127.0.0.1", "[::1]:4040", "localhost:9000", "LocalHost", "10.0.0.1:4040"]
        {
            assert_eq!(refused(&[("host", host)], true), None, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:4040",
            "localhost.evil.example",
            "a@127.0.0.1",
            "",
            "127.0.0.1.evil",
        ] {
            assert_eq!(refused(&[("host", host)], true), Some("foreign_host"), "{host}");
        }
        assert_eq!(refused(&[], true), Some("foreign_host"));
    }

    #[test]
    fn only_its_own_pages_have_a_browser_ask() {
        let of = |name, value, first| refused(&[("host", "127.0.0.1:4040"), (name, value)], first);
        assert_eq!(of("origin", "http://127.0.0.1:4040", false), None);
        for origin in ["http://evil.example", "http://127.0.0.1:3000", "https://127.0.0.1:4040", "null", ""] {
            for first in [true, false] {
                assert_eq!(of("origin", origin, first), Some("foreign_origin"), "{origin}");
            }
        }
        assert_eq!(of("sec-fetch-site", "same-origin", false), None);
        assert_eq!(of("sec-fetch-site", "none", false), None, "whoever has typed the address");
        for site in ["cross-site", "same-site", "strange"] {
            assert_eq!(of("sec-fetch-site", site, false), Some("foreign_origin"), "{site}");
            assert_eq!(of("sec-fetch-site", site, true), None, "a link leads to the page");
        }
    }
}
