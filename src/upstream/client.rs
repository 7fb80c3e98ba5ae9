//! Whose request it is, for services that are told of each connection, or remember who has logged in on one.

use std::net::SocketAddr;

use http::{
    HeaderMap,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};

/// A client's connection to the edge.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// Its number: no other connection of this node has the same.
    pub number: u64,
    /// The client's address.
    pub address: SocketAddr,
    /// The address that it connected to, where that is known.
    pub server: Option<SocketAddr>,
}

/// Whether a message is part of a login that holds for a whole connection and not for one request, as those of NTLM and
/// Negotiate do (RFC 4559 §6).
pub(super) fn logs_in(headers: &HeaderMap) -> bool {
    let of_connection = |scheme: &str| {
        let scheme = scheme.split_ascii_whitespace().next().unwrap_or_default();
        scheme.eq_ignore_ascii_case("ntlm") || scheme.eq_ignore_ascii_case("negotiate")
    };
    let fields = [WWW_AUTHENTICATE, AUTHORIZATION];
    let mut values =
        fields.iter().flat_map(|name| headers.get_all(name)).filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(of_connection))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn logins_of_a_connection_are_told_from_those_of_a_request() {
        let of = |fields: &[(HeaderName, &'static str)]| {
            let fields = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            logs_in(&fields.collect())
        };
        assert!(of(&[(WWW_AUTHENTICATE, "NTLM")]));
        assert!(of(&[(WWW_AUTHENTICATE, "negotiate TlRMTVNTUAAC==")]));
        assert!(of(&[(WWW_AUTHENTICATE, "Basic realm=\"a\", Negotiate")]));
        assert!(of(&[(WWW_AUTHENTICATE, "Basic realm=\"a\""), (AUTHORIZATION, "NTLM TlRM")]));
        assert!(!of(&[(WWW_AUTHENTICATE, "Basic realm=\"NTLM\"")]));
        assert!(!of(&[(AUTHORIZATION, "Bearer ntlm")]));
        assert!(!of(&[]));
    }
}
