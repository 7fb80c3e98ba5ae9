//! Whether a request means the same to all who read it: one host, one target, one way to find the end of its body.
//!
//! Most of it the HTTP library has settled before: it refuses what is no HTTP, drops a length beside a transfer coding, and
//! frames what is sent on anew. This is what it lets pass.

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header, uri::Authority};

use super::error::Error;

/// Refuses what others may read otherwise.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), Error> {
    let headers = request.headers();
    if !has_one_host(headers, request.version()) {
        return Err(Error::Host);
    }
    if !is_target(request.method(), request.uri()) {
        return Err(Error::Target);
    }
    // The library undoes `chunked` and nothing else: with another coding beside it, or twice, the service would get a body
    // whose coding nobody tells it.
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(|first| !is_chunked(first)) || codings.next().is_some() {
        return Err(Error::TransferCoding);
    }
    Ok(())
}

/// RFC 9112 §3.2: HTTP/1.1 has exactly one, which names a host or nothing.
fn has_one_host(headers: &HeaderMap, version: Version) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let is_host = |host: &HeaderValue| {
        let host = host.as_bytes();
        // A list is what some make of two fields.
        let is_one = host.iter().all(|byte| !b"@,".contains(byte));
        host.is_empty() || (is_one && Authority::try_from(host).is_ok())
    };
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_host(host),
        (None, _) => version != Version::HTTP_11,
        (Some(_), Some(_)) => false,
    }
}

/// A path, with a host before it or not, or `*` (RFC 9112 §3.2). A host alone is for CONNECT, but would be read as a path.
fn is_target(method: &Method, uri: &Uri) -> bool {
    uri.path().starts_with('/') || (method == Method::OPTIONS && uri.path() == "*")
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;

    use super::*;

    fn hosts(version: Version, hosts: &[&'static str]) -> bool {
        let fields = hosts.iter().map(|host| (header::HOST, HeaderValue::from_static(host)));
        has_one_host(&fields.collect(), version)
    }

    #[test]
    fn a_request_has_one_host() {
        for host in ["a.test", "a.test:80", "a_b.test", "127.0.0.1:1", "[::1]:80", "a$b.test", ""] {
            assert!(hosts(Version::HTTP_11, &[host]), "{host}");
        }
        for host in [
            "a b",
            "a.test/",
            "a.test/b",
            "u@a.test",
            "a.test,b.test",
            "a.test, b.test",
            "a#b",
            "http://a",
            "a:b:c",
        ] {
            assert!(!hosts(Version::HTTP_11, &[host]), "{host}");
        }
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            assert!(!hosts(version, &["a.test", "a.test"]), "{version:?}");
            assert_eq!(hosts(version, &[]), version != Version::HTTP_11, "{version:?}");
        }
    }

    #[test]
    fn a_target_is_a_path() {
        let of = |method: &Method, uri: &'static str| is_target(method, &Uri::from_static(uri));
        for uri in ["/", "//a", "/a?b", "http://a.test", "http://a.test?b", "http://a.test/b"] {
            assert!(of(&Method::GET, uri), "{uri}");
        }
        for uri in ["a.test", "a.test:80", "*"] {
            assert!(!of(&Method::GET, uri), "{uri}");
        }
        assert!(of(&Method::OPTIONS, "*"));
        // HTTP/2 says the path alone.
        for path in ["a", "*a", "*?a", "/ ", "/\r\n", "/\u{7f}"] {
            assert!(PathAndQuery::try_from(path).is_err(), "{path:?}");
        }
    }
}
