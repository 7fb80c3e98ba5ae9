//! What an endpoint's own door demands of clients: where they come from, a name and a password, a header field.
//!
//! Pure. Set by whoever serves the endpoint or by the node, and asked by the edge after its own authentication. Passwords and
//! values are kept as digests under a key of this process alone, and compared in constant time.

use std::{fmt, net::IpAddr, str::FromStr, sync::LazyLock};

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use ipnet::IpNet;

use super::basic;

/// A digest of a secret that says nothing of it to whoever does not have this process' key.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Digest([u8; 32]);

impl Digest {
    fn of(secret: &[u8]) -> Self {
        static KEY: LazyLock<hmac::Key> =
            LazyLock::new(|| hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()));
        let mut digest = [0; 32];
        digest.copy_from_slice(hmac::sign(&KEY, secret).as_ref());
        Self(digest)
    }

    /// Whether it is that of `secret`. The time tells neither where they differ nor how long either is.
    fn is_of(&self, secret: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, &Self::of(secret).0).is_ok()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A name and a password, as `name:password`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login(Digest);

impl FromStr for Login {
    type Err = InvalidAccess;
    fn from_str(text: &str) -> Result<Self, InvalidAccess> {
        match text.split_once(':') {
            Some((name, password)) if !name.is_empty() && !password.is_empty() => {
                Ok(Self(Digest::of(text.as_bytes())))
            }
            _ => Err(InvalidAccess::Login),
        }
    }
}

/// A header field that must have this value, as `name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredHeader {
    name: HeaderName,
    value: Digest,
}

impl RequiredHeader {
    /// The field, which is not passed on: it is a secret of this door.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }
}

impl FromStr for RequiredHeader {
    type Err = InvalidAccess;
    fn from_str(text: &str) -> Result<Self, InvalidAccess> {
        let (name, value) = text.split_once('=').ok_or(InvalidAccess::Header)?;
        let name = name.trim().parse().map_err(|_| InvalidAccess::Header)?;
        match value.trim() {
            "" => Err(InvalidAccess::Header),
            value => Ok(Self { name, value: Digest::of(value.as_bytes()) }),
        }
    }
}

/// Why a text is no demand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccess {
    /// Not a name and a password.
    #[error("expected NAME:PASSWORD, neither of them empty")]
    Login,
    /// Not a field and its value.
    #[error("expected NAME=VALUE, the name and value of a header field")]
    Header,
}

/// What is demanded. Nothing by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Only clients of these networks; any when there is none.
    pub allow: Vec<IpNet>,
    /// No clients of these, whatever `allow` says.
    pub deny: Vec<IpNet>,
    /// One of these names with its password; none is asked for when there is none.
    pub logins: Vec<Login>,
    /// Each of these fields.
    pub headers: Vec<RequiredHeader>,
}

impl Access {
    /// Whether nothing is demanded.
    pub fn is_open(&self) -> bool {
        self == &Self::default()
    }

    /// Whether a client may connect at all, by its address: all that can be asked of TCP and UDP.
    ///
    /// # Errors
    /// [`Denied::Address`].
    pub fn check_address(&self, client: IpAddr) -> Result<(), Denied> {
        // A client of IPv4 stays one on a socket that takes both.
        let client = client.to_canonical();
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&client));
        match within(&self.deny) || !self.allow.is_empty() && !within(&self.allow) {
            true => Err(Denied::Address),
            false => Ok(()),
        }
    }

    /// Whether a request may come in. Its `client` is whom the edge takes it to be, never what a header field says.
    ///
    /// # Errors
    /// The first demand that it does not meet: address, header, login.
    pub fn check(&self, client: IpAddr, headers: &HeaderMap) -> Result<(), Denied> {
        self.check_address(client)?;
        self.check_headers(headers)
    }

    /// The part of that which is demanded of header fields.
    ///
    /// # Errors
    /// The first demand that it does not meet: header, login.
    pub fn check_headers(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let meets = |required: &RequiredHeader| {
            let mut values = headers.get_all(&required.name).iter();
            let only = values.next().filter(|_| values.next().is_none());
            only.is_some_and(|value| required.value.is_of(value.as_bytes()))
        };
        if !self.headers.iter().all(meets) {
            return Err(Denied::Header);
        }
        if self.logins.is_empty() {
            return Ok(());
        }
        let given = basic(headers).map_err(|_| Denied::Login)?.ok_or(Denied::Login)?;
        // All are compared, so that the time does not tell which it was.
        let matching = self.logins.iter().filter(|login| login.0.is_of(&given)).count();
        if matching > 0 { Ok(()) } else { Err(Denied::Login) }
    }

    /// The fields of a request that were for this door, and are not passed on.
    pub fn consumed(&self) -> impl Iterator<Item = HeaderName> {
        let login = (!self.logins.is_empty()).then_some(header::AUTHORIZATION);
        login.into_iter().chain(self.headers.iter().map(|required| required.name.clone()))
    }
}

/// Why a client is not let in to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It comes from elsewhere.
    #[error("clients of this address are not let in here")]
    Address,
    /// A header field is missing, or has another value.
    #[error("a header field that is demanded here is missing or wrong")]
    Header,
    /// No name and password, or wrong ones.
    #[error("a name and a password are demanded here")]
    Login,
}

impl Denied {
    /// The code that responses, logs and metrics use. Stable.
    pub fn code(self) -> &'static str {
        match self {
            Self::Address => "address_denied",
            Self::Header => "header_required",
            Self::Login => "login_required",
        }
    }

    /// The status of a response.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Address | Self::Header => StatusCode::FORBIDDEN,
            Self::Login => StatusCode::UNAUTHORIZED,
        }
    }

    /// The `WWW-Authenticate` field of the response, for browsers to ask (RFC 7617 §2).
    pub fn challenge(self) -> Option<HeaderValue> {
        let basic = HeaderValue::from_static("Basic realm=\"adit\", charset=\"UTF-8\"");
        (self == Self::Login).then_some(basic)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use proptest::prelude::*;

    use super::*;

    fn access() -> Access {
        Access {
            allow: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            deny: vec!["10.1.0.0/16".parse().unwrap()],
            logins: vec!["ann:one".parse().unwrap(), "bob:two:three".parse().unwrap()],
            headers: vec!["x-door=open sesame".parse().unwrap()],
        }
    }

    fn request(login: &str, door: &str) -> HeaderMap {
        let login = format!("Basic {}", BASE64_STANDARD.encode(login));
        let fields = [(header::AUTHORIZATION, login.as_str()), (HeaderName::from_static("x-door"), door)];
        fields.into_iter().map(|(name, value)| (name, value.parse().unwrap())).collect()
    }

    fn inside() -> IpAddr {
        "10.2.3.4".parse().unwrap()
    }

    #[test]
    fn an_address_must_be_allowed_and_not_denied() {
        for (client, outcome) in [
            ("10.2.3.4", Ok(())),
            ("::ffff:10.2.3.4", Ok(())),
            ("2001:db8::1", Ok(())),
            ("10.1.0.1", Err(Denied::Address)),
            ("::ffff:10.1.0.1", Err(Denied::Address)),
            ("192.0.2.1", Err(Denied::Address)),
            ("2001:db9::1", Err(Denied::Address)),
        ] {
            assert_eq!(access().check_address(client.parse().unwrap()), outcome, "{client}");
        }
        let denied = Access { allow: Vec::new(), ..access() };
        assert_eq!(denied.check_address("192.0.2.1".parse().unwrap()), Ok(()));
        assert_eq!(denied.check_address("10.1.0.1".parse().unwrap()), Err(Denied::Address));
    }

    #[test]
    fn each_demand_is_met_or_the_request_is_denied() {
        let check = |request: &HeaderMap| access().check(inside(), request);
        assert_eq!(check(&request("ann:one", "open sesame")), Ok(()));
        assert_eq!(check(&request("bob:two:three", "open sesame")), Ok(()));
        for bad in ["ann:two", "ann:", "ann", ":one", "Ann:one", "ann:one ", "bob:two", ""] {
            assert_eq!(check(&request(bad, "open sesame")), Err(Denied::Login), "{bad}");
        }
        for bad in ["", "open", "open sesame!", "Open sesame"] {
            assert_eq!(check(&request("ann:one", bad)), Err(Denied::Header), "{bad}");
        }
        assert_eq!(check(&HeaderMap::new()), Err(Denied::Header));
        let mut twice = request("ann:one", "open sesame");
        twice.append("x-door", "open sesame".parse().unwrap());
        assert_eq!(check(&twice), Err(Denied::Header));
        let outside = access().check("192.0.2.1".parse().unwrap(), &request("ann:one", "open sesame"));
        assert_eq!(outside, Err(Denied::Address));
        assert!(!access().is_open() && Access::default().is_open());
        assert_eq!(Access::default().check(inside(), &HeaderMap::new()), Ok(()));
    }

    #[test]
    fn what_was_for_the_door_is_named_and_never_shown() {
        let consumed: Vec<_> = access().consumed().collect();
        assert_eq!(consumed, [header::AUTHORIZATION, HeaderName::from_static("x-door")]);
        assert_eq!(Access::default().consumed().count(), 0);
        let shown = format!("{:?}", access());
        assert!(!shown.contains("one") && !shown.contains("sesame"), "{shown}");
        assert!(Denied::Login.challenge().is_some() && Denied::Address.challenge().is_none());
    }

    #[test]
    fn demands_are_read_or_refused() {
        for bad in ["", "ann", ":", "ann:", ":one"] {
            assert_eq!(bad.parse::<Login>(), Err(InvalidAccess::Login), "{bad}");
        }
        for bad in ["", "x-door", "x-door=", "x door=a", "=a"] {
            assert_eq!(bad.parse::<RequiredHeader>(), Err(InvalidAccess::Header), "{bad}");
        }
    }

    proptest! {
        /// Only the very login opens.
        #[test]
        fn no_other_login_opens(login in "[a-z]{1,3}:[a-z:]{1,3}", given in "[a-z]{0,3}:?[a-z:]{0,3}") {
            let access = Access { logins: vec![login.parse().unwrap()], ..Access::default() };
            let opens = access.check(inside(), &request(&given, "-")).is_ok();
            prop_assert_eq!(opens, login == given);
        }
    }
}
