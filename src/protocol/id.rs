//! Names and numbers that identify things on the wire. Each is checked where it enters and carried as a type from then on.

use std::{fmt, str::FromStr, sync::Arc};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// It has no characters.
    #[error("{what} is empty")]
    Empty {
        /// Which identifier was read.
        what: &'static str,
    },
    /// It is longer than its bound.
    #[error("{what} has {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Which identifier was read.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// It has a character outside letters, digits, `-`, `.`, `_` and `~`.
    #[error("{what} has the character {found:?}; letters, digits, '-', '.', '_' and '~' are allowed")]
    Character {
        /// Which identifier was read.
        what: &'static str,
        /// The first character that is not allowed.
        found: char,
    },
    /// It is not 32 hexadecimal digits.
    #[error("{what} is not 32 hexadecimal digits")]
    NotHex {
        /// Which identifier was read.
        what: &'static str,
    },
}

/// The unreserved characters of RFC 3986 §2.3: safe in hosts, headers, URLs, logs and file names alike.
fn check(what: &'static str, text: &str, max: usize) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty { what });
    }
    if text.len() > max {
        return Err(InvalidId::TooLong { what, len: text.len(), max });
    }
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || "-._~".contains(*c))) {
        Some(found) => Err(InvalidId::Character { what, found }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, |$text:ident| $normal:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The longest that it may be, in bytes.
            pub const MAX_LEN: usize = $max;

            /// Reads one.
            ///
            /// # Errors
            /// When the text is empty, too long, or has a character that is not allowed.
            pub fn new($text: &str) -> Result<Self, InvalidId> {
                check($what, $text, Self::MAX_LEN)?;
                Ok(Self($normal))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name! {
    /// The name that clients ask for and agents serve. Matched without regard to case, as the host names that carry it
    /// are (RFC 9110 §4.2.3), and kept in lower case.
    EndpointId, "endpoint name", 128, |text| text.to_ascii_lowercase().into()
}

name! {
    /// The name of a node, unique in its cluster.
    NodeId, "node name", 64, |text| text.into()
}

name! {
    /// The namespace that an endpoint belongs to.
    TenantId, "tenant name", 64, |text| text.into()
}

impl Default for TenantId {
    /// The tenant of everybody who names none.
    fn default() -> Self {
        Self("default".into())
    }
}

/// The identity of one agent or forwarder process: 128 random bits, chosen when it starts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(pub(crate) [u8; 16]);

impl AgentId {
    /// Makes one from 128 random bits.
    pub fn from_bits(bits: u128) -> Self {
        Self(bits.to_be_bytes())
    }
}

impl FromStr for AgentId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let bad = || InvalidId::NotHex { what: "agent id" };
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        u128::from_str_radix(text, 16).map(Self::from_bits).map_err(|_| bad())
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of a link within one process, never reused while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A text that logs and errors must never show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_names_are_checked_and_folded_to_lower_case() {
        assert_eq!(EndpointId::new("My-App_1.x~").unwrap().as_str(), "my-app_1.x~");
        assert_eq!(EndpointId::new(""), Err(InvalidId::Empty { what: "endpoint name" }));
        assert!(EndpointId::new(&"a".repeat(128)).is_ok());
        assert!(matches!(EndpointId::new(&"a".repeat(129)), Err(InvalidId::TooLong { len: 129, .. })));
        for bad in ["a b", "a/b", "a\n", "é", "a:1"] {
            assert!(matches!(EndpointId::new(bad), Err(InvalidId::Character { .. })), "{bad}");
        }
    }

    #[test]
    fn agent_ids_read_back_as_written() {
        let id = AgentId::from_bits(0x00ff_0000_0000_0000_0000_0000_0000_0001);
        assert_eq!(id.to_string(), "00ff0000000000000000000000000001");
        assert_eq!(id.to_string().parse::<AgentId>().unwrap(), id);
        assert!("+0ff0000000000000000000000000001".parse::<AgentId>().is_err());
    }

    #[test]
    fn secrets_never_print() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[redacted]");
    }
}
