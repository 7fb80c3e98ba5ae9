//! Host names that whole endpoints are mapped to.

use std::{fmt, str::FromStr, sync::Arc};

/// A host name (RFC 1123 §2.1), or `*.` and a host name, which stands for all names below that. Kept in lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPattern(Arc<str>);

/// Why a text is not a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a host name, nor one behind `*.`: {reason}")]
pub struct InvalidHost {
    text: String,
    reason: &'static str,
}

impl HostPattern {
    /// The longest that it may be, in bytes: `*.` and a name of the length that DNS permits.
    pub const MAX_LEN: usize = 2 + Self::MAX_NAME;
    const MAX_NAME: usize = 253;
    const MAX_LABEL: usize = 63;

    /// Reads one.
    ///
    /// # Errors
    /// When the text is not a host name, with or without `*.` before it.
    pub fn new(text: &str) -> Result<Self, InvalidHost> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let bad = |reason| Err(InvalidHost { text: text.chars().take(Self::MAX_LEN).collect(), reason });
        if name.len() > Self::MAX_NAME {
            return bad("it has more than 253 bytes");
        }
        for label in name.split('.') {
            // Names with an underscore are not for hosts by the RFC, and in use all the same.
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if label.is_empty() {
                return bad("a label is empty");
            } else if label.len() > Self::MAX_LABEL {
                return bad("a label has more than 63 bytes");
            } else if !label.bytes().all(allowed) {
                return bad("labels have letters, digits, '-' and '_'; others are written in punycode");
            } else if label.starts_with('-') || label.ends_with('-') {
                return bad("a label begins or ends with '-'");
            }
        }
        if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
            return bad("it is an address");
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether all hosts that the other one stands for are among those that this one does.
    pub fn covers(&self, other: &Self) -> bool {
        self == other || (self.0.starts_with('*') && other.key().ends_with(self.key()))
    }

    /// What to find it by: the host itself, or the end that all names below it have, with its dot.
    pub fn key(&self) -> &str {
        self.0.strip_prefix('*').unwrap_or(&self.0)
    }

    /// The keys of all patterns that a host in lower case matches, the nearest first: itself, then each of its ends from the
    /// longest on.
    pub fn keys_for(host: &str) -> impl Iterator<Item = &str> {
        // A longer one is no host, and would be looked up once for each of its dots.
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = Some(host).filter(|host| host.len() <= Self::MAX_NAME);
        host.into_iter().flat_map(|host| {
            std::iter::once(host).chain(host.match_indices('.').map(|(dot, _)| &host[dot..]))
        })
    }
}

impl FromStr for HostPattern {
    type Err = InvalidHost;
    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        Self::new(text)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_read_with_and_without_a_wildcard() {
        for (text, kept, key) in [
            ("App.Customer.com", "app.customer.com", "app.customer.com"),
            ("*.Customer.com", "*.customer.com", ".customer.com"),
            ("localhost", "localhost", "localhost"),
            ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
            ("_a.1x", "_a.1x", "_a.1x"),
        ] {
            let host = HostPattern::new(text).unwrap();
            assert_eq!((host.as_str(), host.key()), (kept, key));
        }
        let (label, name) = ("a".repeat(63), ["a".repeat(63).as_str(); 3].join("."));
        assert!(HostPattern::new(&format!("*.{name}.{}", &label[2..])).is_ok(), "253 bytes");
        for (bad, why) in [
            ("", "a label is empty"),
            ("*", "letters"),
            ("*.", "a label is empty"),
            ("a.*.com", "letters"),
            ("**.com", "letters"),
            ("*a.com", "letters"),
            ("a..com", "a label is empty"),
            ("a.com.", "a label is empty"),
            (".com", "a label is empty"),
            ("a.com:80", "letters"),
            ("https://a.com", "letters"),
            ("münchen.example", "punycode"),
            ("-a.com", "'-'"),
            ("a-.com", "'-'"),
            ("10.0.0.1", "address"),
            ("*.0.0.1", "address"),
            ("[::1]", "letters"),
            (&format!("{label}a.com"), "63"),
            (&format!("{name}.{label}"), "253"),
        ] {
            let error = HostPattern::new(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_wildcard_covers_what_is_below_it() {
        let covers = |one, other| HostPattern::new(one).unwrap().covers(&HostPattern::new(other).unwrap());
        for (one, other) in
            [("a.com", "a.com"), ("*.a.com", "b.a.com"), ("*.a.com", "*.a.com"), ("*.a.com", "*.b.a.com")]
        {
            assert!(covers(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("a.com", "b.a.com"),
            ("a.com", "*.a.com"),
            ("*.a.com", "a.com"),
            ("*.b.a.com", "*.a.com"),
            ("*.a.com", "b.xa.com"),
        ] {
            assert!(!covers(one, other), "{one} {other}");
        }
    }

    #[test]
    fn a_host_has_keys_from_the_nearest_to_the_farthest() {
        let keys = |host: &str| HostPattern::keys_for(host).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(keys("a.b.com"), ["a.b.com", ".b.com", ".com"]);
        assert_eq!(keys("a.b.com."), ["a.b.com", ".b.com", ".com"]);
        assert_eq!(keys("localhost"), ["localhost"]);
        assert_eq!(keys(&"a.".repeat(127)).len(), 127);
        assert_eq!(keys(&"a.".repeat(128)), [""; 0]);
    }
}
