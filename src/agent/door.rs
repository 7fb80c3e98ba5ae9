//! An endpoint's own door: who may come in to its service, asked at the last hop, so that it holds whichever node a client
//! came in by, and no password is known to a node.
//!
//! Asked by `http` for each request, and for each flow whose requests are not read. What is demanded, and whether it is met,
//! is `auth`'s; here is whom a demand is made of.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};

use crate::{
    auth::{Access, Denied},
    protocol::{EndpointId, Open},
};

/// Whose requests a flow carries.
#[derive(Debug, Clone, Copy)]
pub(super) enum Clients {
    /// Those of many, put there by a node, which says for each whose it is.
    Said,
    /// Those of one, as bytes: what they say of themselves is for nothing. Who it is may not be known.
    One(Option<IpAddr>),
}

impl Clients {
    pub(super) fn of(open: &Open) -> Self {
        if open.kind.is_http() { Self::Said } else { Self::One(open.client.map(|client| client.ip())) }
    }

    /// Whose request it is with these header fields. The node has added whom it has seen at the end of the list; what is before
    /// that the client claims.
    pub(super) fn client(self, headers: &HeaderMap) -> Option<IpAddr> {
        match self {
            Self::One(client) => client,
            Self::Said => {
                let list = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
                list.rsplit(',').next()?.trim().parse().ok()
            }
        }
    }
}

/// Whether a flow may be joined whose requests, if it has any, are not read. What could only be demanded of them is not met.
pub(super) fn check_flow(door: &Access, open: &Open) -> Result<(), Denied> {
    check_request(door, open.client.map(|client| client.ip()), &HeaderMap::new())
}

/// Whether a request may be passed on. Where addresses are let in or kept out, a client that has none stays out.
pub(super) fn check_request(
    door: &Access,
    client: Option<IpAddr>,
    headers: &HeaderMap,
) -> Result<(), Denied> {
    match client {
        Some(client) => door.check_address(client)?,
        None if door.allow.is_empty() && door.deny.is_empty() => {}
        None => return Err(Denied::Address),
    }
    door.check_headers(headers)
}

/// The `WWW-Authenticate` field of a refusal, for browsers to ask, and to keep what they were told apart by endpoint.
pub(super) fn challenge(denied: Denied, endpoint: &EndpointId) -> Option<HeaderValue> {
    let basic = format!("Basic realm=\"{endpoint}\", charset=\"UTF-8\"");
    // A name has no character that would have to be quoted.
    HeaderValue::try_from(basic).ok().filter(|_| denied == Denied::Login)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Hop, Kind};

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn open(kind: Kind, client: Option<&str>) -> Open {
        Open {
            endpoint: EndpointId::new("web").unwrap(),
            tenant: None,
            kind,
            hop: Hop::Final,
            agent: None,
            client: client.map(|client| client.parse().unwrap()),
            server: None,
            trace: None,
        }
    }

    #[test]
    fn the_client_is_the_address_that_the_node_has_added() {
        let of = |values: &[&'static str]| {
            let fields: Vec<_> = values.iter().map(|value| ("x-forwarded-for", *value)).collect();
            Clients::Said.client(&headers(&fields)).map(|client| client.to_string())
        };
        assert_eq!(of(&["1.1.1.1, 2.2.2.2"]).as_deref(), Some("2.2.2.2"));
        assert_eq!(of(&["1.1.1.1", "::1"]).as_deref(), Some("::1"));
        assert_eq!(of(&["1.1.1.1, evil\tline"]), None);
        assert_eq!(of(&["1.1.1.1, "]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn what_bytes_say_of_their_client_counts_for_nothing() {
        let forged = headers(&[("x-forwarded-for", "10.0.0.1")]);
        let of = |open: &Open| Clients::of(open).client(&forged).map(|client| client.to_string());
        assert_eq!(of(&open(Kind::Http, None)).as_deref(), Some("10.0.0.1"), "a node has written it");
        assert_eq!(of(&open(Kind::Tcp, Some("192.0.2.1:7"))).as_deref(), Some("192.0.2.1"));
        assert_eq!(of(&open(Kind::Tcp, None)), None);
    }

    #[test]
    fn a_client_without_an_address_stays_out_where_addresses_count() {
        let network = vec!["10.0.0.0/8".parse().unwrap()];
        let allow = Access { allow: network.clone(), ..Access::default() };
        let deny = Access { deny: network, ..Access::default() };
        for (door, client, outcome) in [
            (&allow, None, Err(Denied::Address)),
            (&deny, None, Err(Denied::Address)),
            (&allow, Some("10.0.0.1:7"), Ok(())),
            (&deny, Some("10.0.0.1:7"), Err(Denied::Address)),
            (&allow, Some("192.0.2.1:7"), Err(Denied::Address)),
            (&deny, Some("192.0.2.1:7"), Ok(())),
            (&Access::default(), None, Ok(())),
        ] {
            assert_eq!(check_flow(door, &open(Kind::Udp, client)), outcome, "{door:?} {client:?}");
        }
    }

    #[test]
    fn a_demand_on_requests_is_not_met_by_a_flow_whose_requests_are_not_read() {
        let logins = Access { logins: vec!["ann:one".parse().unwrap()], ..Access::default() };
        let field = Access { headers: vec!["x-door=one".parse().unwrap()], ..Access::default() };
        let open = open(Kind::Http2, Some("192.0.2.1:7"));
        assert_eq!(check_flow(&logins, &open), Err(Denied::Login));
        assert_eq!(check_flow(&field, &open), Err(Denied::Header));
    }

    #[test]
    fn who_is_asked_for_a_login_is_told_for_what() {
        let web = EndpointId::new("web").unwrap();
        assert_eq!(challenge(Denied::Login, &web).unwrap(), "Basic realm=\"web\", charset=\"UTF-8\"");
        assert_eq!(challenge(Denied::Header, &web), None);
    }
}
