//! What a proxy changes in headers: hop-by-hop fields end here, and who forwarded for whom is added.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, FORWARDED, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
        TE, TRANSFER_ENCODING, UPGRADE,
    },
};

use crate::{
    auth,
    telemetry::trace::{TRACEPARENT, TRACESTATE},
};

/// The error code of a response that adit made itself; a service's own is not passed on, so that it can be relied upon.
pub(super) const ERROR: HeaderName = HeaderName::from_static("x-adit-error");

/// How a call of gRPC has ended.
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What clients say to Piko's nodes alone: tokens, and the word between nodes, which no client may speak. Its other fields are
/// for services as well.
const PIKO: [HeaderName; 2] = [HeaderName::from_static("x-piko-forward"), auth::PIKO_AUTHORIZATION];

/// What the fields begin with that are adit's own.
const ADIT: &str = "x-adit-";

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Fields for one hop, whether `Connection` names them or not (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HTTP2_SETTINGS,
    KEEP_ALIVE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    PROXY_CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes the fields of the hop that ends here, except a switch of protocols that is asked for or agreed, and `te:
/// trailers`, which asks nothing of the hop.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        // A length beside it means nothing, and must not be passed on as if it did (RFC 9112 §6.3).
        headers.remove(CONTENT_LENGTH);
    }
    let upgrade = upgrade(headers);
    let trailers = headers.get_all(TE).iter().any(|te| has_token(te, "trailers"));
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // They are of the whole way, and by now what this node has to say of it.
        .filter(|name| *name != TRACEPARENT && *name != TRACESTATE)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes what is for nodes alone.
pub(super) fn strip_own(headers: &mut HeaderMap) {
    let own: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(ADIT)).cloned().collect();
    for name in own.iter().chain(&PIKO) {
        headers.remove(name);
    }
}

/// The protocol that a message asks to switch to, or says that it switches to (RFC 9110 §7.8).
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers.get_all(CONNECTION).iter().any(|value| has_token(value, "upgrade"));
    // A service that agreed to cleartext HTTP/2 (deprecated by RFC 9113 §3.1) would have a client's requests past the edge.
    let wanted = headers.get(UPGRADE).filter(|upgrade| !has_token(upgrade, "h2c"));
    if asked { wanted.cloned() } else { None }
}

/// The content type of a request of gRPC, in whichever of its forms.
pub(super) fn grpc(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(CONTENT_TYPE).filter(|value| value.as_bytes().starts_with(b"application/grpc")).cloned()
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    value.to_str().is_ok_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

/// What the fields of forwarding say of a client in every request of its connection.
#[derive(Debug)]
pub(super) struct Forwarding {
    address: HeaderValue,
    scheme: HeaderValue,
    /// The element of `Forwarded` up to its host.
    element: String,
}

impl Forwarding {
    pub(super) fn new(client: IpAddr, scheme: &'static str) -> Self {
        let address = client.to_string();
        // An IPv6 address needs quotes (RFC 7239 §6).
        let node = if client.is_ipv6() { format!("\"[{address}]\"") } else { address.clone() };
        Self {
            address: HeaderValue::try_from(address).unwrap_or(const { HeaderValue::from_static("unknown") }),
            scheme: HeaderValue::from_static(scheme),
            element: format!("for={node};proto={scheme}"),
        }
    }

    fn element(&self, host: &str) -> String {
        // A port needs quotes (RFC 7239 §4).
        let (before, after) =
            match host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)) {
                true => (";host=", ""),
                false if host.contains(['"', '\\']) => return self.element.clone(),
                false => (";host=\"", "\""),
            };
        [self.element.as_str(), before, host, after].concat()
    }

    /// Says for whom the request is forwarded. The list of addresses grows by the client's; scheme and host are those that
    /// this edge has seen, whatever the client claims.
    pub(super) fn tell(&self, headers: &mut HeaderMap, host: Option<&HeaderValue>) {
        append(headers, X_FORWARDED_FOR, self.address.clone());
        headers.insert(X_FORWARDED_PROTO, self.scheme.clone());
        let element = match host.and_then(|host| Some((host, host.to_str().ok()?))) {
            Some((host, text)) => {
                headers.insert(X_FORWARDED_HOST, host.clone());
                self.element(text)
            }
            None => {
                headers.remove(X_FORWARDED_HOST);
                self.element.clone()
            }
        };
        if let Ok(element) = HeaderValue::try_from(element) {
            append(headers, FORWARDED, element);
        }
    }
}

/// Joins cookies that HTTP/2 and HTTP/3 let a client send in several fields; in HTTP/1.1 there is but one (RFC 9113 §8.2.3,
/// RFC 9114 §4.2.1).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() > 1
        && let Ok(cookie) = HeaderValue::from_bytes(&pieces.join(&b"; "[..]))
    {
        headers.insert(COOKIE, cookie);
    }
}

/// Adds an element to a list field, joining what may stand in several lines.
fn append(headers: &mut HeaderMap, name: HeaderName, element: HeaderValue) {
    // What is no text cannot be part of the list.
    let mut list: Vec<&str> = headers.get_all(&name).iter().filter_map(|value| value.to_str().ok()).collect();
    if list.is_empty() {
        headers.insert(name, element);
        return;
    }
    list.extend(element.to_str());
    if let Ok(value) = HeaderValue::try_from(list.join(", ")) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        map
    }

    fn lines(map: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<_> =
            map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn fields_of_the_hop_are_removed_and_so_are_those_that_connection_names() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "keep-alive"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eDp5"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(lines(&headers), ["accept: */*", "te: trailers"]);
    }

    #[test]
    fn no_client_has_the_context_of_its_trace_removed_on_the_way() {
        let mut headers = map(&[("connection", "traceparent, x-mine, TraceState"), ("x-mine", "1")]);
        headers.insert(TRACEPARENT, HeaderValue::from_static("00-1-2-00"));
        headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        strip_hop_by_hop(&mut headers);
        assert_eq!(lines(&headers), ["traceparent: 00-1-2-00", "tracestate: a=b"]);
    }

    #[test]
    fn what_is_for_nodes_alone_is_removed() {
        let mut headers = map(&[
            ("x-adit-endpoint", "web"),
            ("x-adit-error", "busy"),
            ("X-Adit-Whatever", "1"),
            ("x-adit-whatever", "2"),
            ("x-piko-forward", "true"),
            ("x-piko-authorization", "Bearer a.b.c"),
            ("x-piko-endpoint", "web"),
            ("x-adit", "1"),
            ("x-other", "1"),
        ]);
        strip_own(&mut headers);
        assert_eq!(lines(&headers), ["x-adit: 1", "x-other: 1", "x-piko-endpoint: web"]);
    }

    #[test]
    fn a_switch_of_protocols_passes() {
        let mut headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(lines(&headers), ["connection: upgrade", "upgrade: websocket"]);
    }

    #[test]
    fn cookies_become_one_field() {
        for (fields, expected) in
            [(&["a=1"][..], "cookie: a=1"), (&["a=1", "b=2; c=3", "d=4"], "cookie: a=1; b=2; c=3; d=4")]
        {
            let mut headers = map(&fields.iter().map(|cookie| ("cookie", *cookie)).collect::<Vec<_>>());
            join_cookies(&mut headers);
            assert_eq!(lines(&headers), [expected]);
        }
    }

    #[test]
    fn addresses_are_added_and_scheme_and_host_are_what_was_seen() {
        let mut headers = map(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("forwarded", "for=1.1.1.1"),
        ]);
        let host = HeaderValue::from_static("app.test:8000");
        Forwarding::new("::1".parse().unwrap(), "http").tell(&mut headers, Some(&host));
        assert_eq!(
            lines(&headers),
            [
                "forwarded: for=1.1.1.1, for=\"[::1]\";proto=http;host=\"app.test:8000\"",
                "x-forwarded-for: 1.1.1.1, 2.2.2.2, ::1",
                "x-forwarded-host: app.test:8000",
                "x-forwarded-proto: http",
            ]
        );
    }
}
