//! Which endpoint a request is for: a header names it, or else the host is mapped to it, or its first label is its name. A
//! TLS connection that is passed on unopened has only the host.

use std::net::IpAddr;

use http::HeaderMap;

use crate::{
    protocol::{EndpointId, InvalidId},
    upstream::Name,
};

/// The headers that name an endpoint, the first that is there rules; the second is Piko's.
const HEADERS: [&str; 2] = ["x-adit-endpoint", "x-piko-endpoint"];

/// Why a request names no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum EndpointError {
    #[error(
        "missing endpoint id: name it in the header x-adit-endpoint, or as the first label of the host, as in \
         http://ENDPOINT.example.com"
    )]
    Missing,
    #[error("{0}")]
    Invalid(#[from] InvalidId),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// What the host as a whole stands for, which comes first.
    pub(super) mapped: Option<Name>,
    /// What a header or the host's first label names, in the tenant that is asked for otherwise.
    pub(super) named: Result<EndpointId, EndpointError>,
}

/// The endpoint of a request with these headers, to this host (with or without a port); `mapped` looks up whole hosts.
pub(super) fn endpoint(
    headers: &HeaderMap,
    host: Option<&str>,
    mapped: impl Fn(&str) -> Option<Name>,
) -> Target {
    for header in HEADERS {
        if let Some(value) = headers.get(header) {
            // What is no text has characters that no endpoint has.
            return Target { mapped: None, named: named(&String::from_utf8_lossy(value.as_bytes())) };
        }
    }
    match host {
        Some(host) => of_host(host, mapped),
        None => Target { mapped: None, named: Err(EndpointError::Missing) },
    }
}

/// The endpoint of a host (with or without a port).
pub(super) fn of_host(host: &str, mapped: impl Fn(&str) -> Option<Name>) -> Target {
    let Some(host) = name_of(host) else {
        return Target { mapped: None, named: Err(EndpointError::Missing) };
    };
    let named = match host.split_once('.') {
        Some((label, rest)) if !rest.is_empty() && host.parse::<IpAddr>().is_err() => named(label),
        _ => Err(EndpointError::Missing),
    };
    Target { mapped: mapped(host), named }
}

/// The name in a host, without its port; none of an address in brackets.
pub(super) fn name_of(host: &str) -> Option<&str> {
    (!host.starts_with('[')).then(|| host.rsplit_once(':').map_or(host, |(name, _)| name))
}

/// The endpoint of this name.
pub(super) fn named(endpoint: &str) -> Result<EndpointId, EndpointError> {
    Ok(EndpointId::new(endpoint)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::TenantId;

    fn of(headers: &[(&'static str, &'static str)], host: Option<&str>) -> Result<String, EndpointError> {
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect();
        let whole = || Name { tenant: TenantId::default(), endpoint: EndpointId::new("whole").unwrap() };
        let mapped = |host: &str| (host == "mapped.example.com").then(whole);
        let Target { mapped, named } = endpoint(&headers, host, mapped);
        mapped.map_or(named, |name| Ok(name.endpoint)).map(|endpoint| endpoint.to_string())
    }

    #[test]
    fn a_header_rules_over_the_host() {
        let both = [("x-adit-endpoint", "a"), ("x-piko-endpoint", "b")];
        assert_eq!(of(&both, Some("c.example.com")).as_deref(), Ok("a"));
        assert_eq!(of(&both[1..], Some("c.example.com")).as_deref(), Ok("b"));
        assert_eq!(of(&[], Some("C.example.com:8000")).as_deref(), Ok("c"));
        assert_eq!(of(&[], Some("c.localhost")).as_deref(), Ok("c"));
    }

    #[test]
    fn a_mapped_host_rules_over_its_first_label() {
        assert_eq!(of(&[], Some("mapped.example.com:8000")).as_deref(), Ok("whole"));
        assert_eq!(of(&[("x-adit-endpoint", "a")], Some("mapped.example.com")).as_deref(), Ok("a"));
    }

    #[test]
    fn addresses_and_single_labels_name_nothing() {
        for host in
            ["localhost", "localhost:8000", "127.0.0.1:8000", "10.0.0.1", "[::1]:8000", "::1", "app.", ""]
        {
            assert_eq!(of(&[], Some(host)), Err(EndpointError::Missing), "{host}");
        }
        assert_eq!(of(&[], None), Err(EndpointError::Missing));
    }

    #[test]
    fn a_name_that_cannot_be_one_is_refused() {
        assert!(matches!(of(&[("x-adit-endpoint", "a b")], None), Err(EndpointError::Invalid(_))));
        assert!(matches!(of(&[("x-adit-endpoint", "")], Some("a.b")), Err(EndpointError::Invalid(_))));
    }
}
