//! Which header fields may be in a line, and how their values are.
//!
//! Pure. A name that holds secrets, or sounds so, is refused when it is asked for; of values that are URLs, what may hold one is
//! left out, as it is of a request's own target.

use std::str::FromStr;

use http::{HeaderMap, HeaderName};

use crate::telemetry::secret;

/// The longest value, in characters.
const LONGEST: usize = 256;

/// What fields begin with that are for nodes.
const OWN: &str = "x-adit-";

/// A header field of requests that may be logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedHeader(HeaderName);

/// Why a header field cannot be logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    /// No field can have that name.
    #[error("expected the name of a header field, such as user-agent")]
    Name,
    /// Its values are secrets.
    #[error("fields with {0:?} in their names hold secrets, and none is ever logged: leave it out")]
    Secret(&'static str),
    /// It is for nodes.
    #[error("fields that begin with {OWN} are for nodes, and may be credentials: leave it out")]
    Own,
}

impl FromStr for LoggedHeader {
    type Err = InvalidHeader;

    fn from_str(text: &str) -> Result<Self, InvalidHeader> {
        let name: HeaderName = text.parse().map_err(|_| InvalidHeader::Name)?;
        if name.as_str().starts_with(OWN) {
            return Err(InvalidHeader::Own);
        }
        match secret::in_field(name.as_str()) {
            Some(secret) => Err(InvalidHeader::Secret(secret)),
            None => Ok(Self(name)),
        }
    }
}

impl LoggedHeader {
    /// Its name.
    pub fn name(&self) -> &HeaderName {
        &self.0
    }
}

/// Those of a request's fields that are asked for, as an object of JSON that is all printable ASCII; nothing when it has none.
pub(super) fn object(asked: &[LoggedHeader], fields: &HeaderMap) -> Option<String> {
    let mut object = String::new();
    for LoggedHeader(name) in asked {
        let values: Vec<_> = fields
            .get_all(name)
            .iter()
            .map(|value| public(&String::from_utf8_lossy(value.as_bytes())))
            .collect();
        if !values.is_empty() {
            object.push(if object.is_empty() { '{' } else { ',' });
            quote(name.as_str(), &mut object);
            object.push(':');
            quote(&values.join(", "), &mut object);
        }
    }
    (!object.is_empty()).then(|| object + "}")
}

/// A value without what may be a secret in it: of URLs, the query, and who the user is.
fn public(value: &str) -> String {
    let is_scheme =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte));
    let (scheme, rest) = match value.find("://") {
        Some(at) if is_scheme(&value[..at]) => value.split_at(at + 3),
        Some(_) => ("", value),
        None if value.starts_with('/') => ("", value),
        None => return value.to_owned(),
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    [scheme, host, path].concat()
}

/// Writes a string of JSON. Whatever a terminal might act on is escaped.
fn quote(text: &str, to: &mut String) {
    to.push('"');
    for char in text.chars().take(LONGEST) {
        match char {
            '"' | '\\' => to.extend(['\\', char]),
            ' '..='~' => to.push(char),
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    to.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    to.push('"');
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn names_that_hold_secrets_are_refused() {
        for name in [
            "authorization",
            "Proxy-Authorization",
            "x-piko-authorization",
            "www-authenticate",
            "cookie",
            "Set-Cookie",
            "x-api-key",
            "X-Amz-Security-Token",
            "x-csrftoken",
            "x-xsrf",
            "x-hub-signature-256",
            "php-auth-pw",
        ] {
            assert!(matches!(name.parse::<LoggedHeader>(), Err(InvalidHeader::Secret(_))), "{name}");
        }
        assert_eq!("X-Adit-Endpoint".parse::<LoggedHeader>(), Err(InvalidHeader::Own));
        for name in ["", "a b", "user-agent: x"] {
            assert_eq!(name.parse::<LoggedHeader>(), Err(InvalidHeader::Name), "{name}");
        }
        for name in
            ["User-Agent", "referer", "accept-language", "x-request-id", "traceparent", "x-forwarded-for"]
        {
            assert!(name.parse::<LoggedHeader>().is_ok(), "{name}");
        }
    }

    fn logged(fields: &[(&'static str, &[u8])]) -> Option<String> {
        let asked = ["user-agent", "referer"].map(|name| name.parse().unwrap());
        let field = |(name, value): &(&'static str, &[u8])| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
        };
        object(&asked, &fields.iter().map(field).collect())
    }

    #[test]
    fn an_object_has_what_is_asked_for_and_there() {
        assert_eq!(logged(&[("accept", b"*/*")]), None);
        assert_eq!(
            logged(&[("referer", b"a"), ("user-agent", b"x/1"), ("user-agent", b"y")]).unwrap(),
            r#"{"user-agent":"x/1, y","referer":"a"}"#
        );
    }

    #[test]
    fn nothing_in_a_value_reaches_a_terminal_or_ends_its_string() {
        let value = "a\t\"\\ \u{9b}31m \u{1f600}".as_bytes();
        let object = logged(&[("user-agent", value)]).unwrap();
        assert_eq!(object, r#"{"user-agent":"a\u0009\"\\ \u009b31m \ud83d\ude00"}"#);
        assert!(logged(&[("user-agent", b"\xff\x1f".get(..1).unwrap())]).unwrap().is_ascii());
        let read: serde_json::Value = serde_json::from_str(&object).unwrap();
        assert_eq!(read["user-agent"].as_str().unwrap().as_bytes(), value);
        let long = logged(&[("user-agent", &[b'x'; 5000])]).unwrap();
        assert_eq!(long.len(), LONGEST + r#"{"user-agent":""}"#.len());
    }

    #[test]
    fn urls_are_without_query_and_user() {
        for (value, expected) in [
            ("https://ann:one@a.test:1/b?token=c#d", "https://a.test:1/b"),
            ("https://a.test?token=c/@", "https://a.test"),
            ("https://a.test/@b", "https://a.test/@b"),
            ("/cb?token=c&next=https://a.test/", "/cb"),
            ("/b?token=c", "/b"),
            ("?0", "?0"),
            ("Mozilla/5.0 (what?)", "Mozilla/5.0 (what?)"),
        ] {
            assert_eq!(public(value), expected);
        }
    }
}
