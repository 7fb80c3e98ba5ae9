//! What an agent changes in the header of a request on its way to the service.
//!
//! Pure: header fields in, header fields out. Fields that belong to a hop or frame a message cannot be named at all.

use std::str::FromStr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
};

/// Fields of a single hop (RFC 9110 §7.6.1), and those that say where a message ends.
pub(super) const RESERVED: [HeaderName; 11] = [
    CONNECTION,
    CONTENT_LENGTH,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Changes to a request's header: fields are removed, then others set, then the host is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Removed, however often the client has sent them.
    pub strip: Vec<FieldName>,
    /// Put in the place of all that the client has sent under their names.
    pub set: Vec<Field>,
    /// What `Host` says.
    pub host: Option<HeaderValue>,
}

/// The name of a field that may be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldName(HeaderName);

/// A field that is set. Its value may be a secret, and is never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    name: FieldName,
    value: HeaderValue,
}

/// Why a text is not a field, or the name of one, that may be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidField {
    /// It has no value.
    #[error("expected NAME=VALUE, such as x-tenant=7")]
    NoValue,
    /// No field can have this name.
    #[error("{0:?} is not the name of a header field, such as x-tenant")]
    Name(String),
    /// The field cannot have this value.
    #[error("the value of {0} has a character that no header field has")]
    Value(HeaderName),
    /// There is a flag of its own for it.
    #[error("host has a flag of its own: use --host-header")]
    Host,
    /// adit sets it as each connection needs it.
    #[error("{0} is of one connection or frames a message, which adit sees to itself: leave it out")]
    Reserved(HeaderName),
}

impl Rewrite {
    /// Makes the changes.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        let replaced = self.set.iter().map(|field| &field.name);
        for FieldName(name) in self.strip.iter().chain(replaced) {
            headers.remove(name);
        }
        // A name may be given more than once.
        for Field { name: FieldName(name), value } in &self.set {
            headers.append(name.clone(), value.clone());
        }
        if let Some(host) = &self.host {
            headers.insert(HOST, host.clone());
        }
    }
}

impl FromStr for FieldName {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, InvalidField> {
        match text.parse::<HeaderName>() {
            Err(_) => Err(InvalidField::Name(text.into())),
            Ok(HOST) => Err(InvalidField::Host),
            Ok(name) if RESERVED.contains(&name) => Err(InvalidField::Reserved(name)),
            Ok(name) => Ok(Self(name)),
        }
    }
}

impl FromStr for Field {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, InvalidField> {
        let (name, value) = text.split_once('=').ok_or(InvalidField::NoValue)?;
        let name: FieldName = name.parse()?;
        match HeaderValue::from_bytes(value.as_bytes()) {
            Ok(mut value) => {
                value.set_sensitive(true);
                Ok(Self { name, value })
            }
            Err(_) => Err(InvalidField::Value(name.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let field =
            |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in fields.iter().map(field) {
            map.append(name, value);
        }
        map
    }

    fn rewritten(strip: &[&str], set: &[&str], host: Option<&'static str>) -> Vec<String> {
        let rewrite = Rewrite {
            strip: strip.iter().map(|name| name.parse().unwrap()).collect(),
            set: set.iter().map(|field| field.parse().unwrap()).collect(),
            host: host.map(HeaderValue::from_static),
        };
        let mut headers = map(&[
            ("host", "web.example.com"),
            ("cookie", "a"),
            ("cookie", "b"),
            ("x-tenant", "1"),
            ("accept", "*/*"),
        ]);
        rewrite.apply(&mut headers);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn fields_are_removed_then_set_and_the_host_comes_last() {
        assert_eq!(
            rewritten(&["Cookie", "X-Absent"], &["X-Tenant=7", "x-new=a=b", "x-empty="], Some("app:3000")),
            ["accept: */*", "host: app:3000", "x-empty: ", "x-new: a=b", "x-tenant: 7"]
        );
    }

    #[test]
    fn what_is_both_removed_and_set_is_set() {
        assert_eq!(
            rewritten(&["cookie"], &["cookie=c"], None),
            ["accept: */*", "cookie: c", "host: web.example.com", "x-tenant: 1"]
        );
    }

    #[test]
    fn a_name_that_is_set_twice_has_both_values_and_none_of_the_clients() {
        assert_eq!(
            rewritten(&[], &["cookie=c", "cookie=d"], None),
            ["accept: */*", "cookie: c", "cookie: d", "host: web.example.com", "x-tenant: 1"]
        );
    }

    #[test]
    fn what_frames_a_message_or_is_of_one_hop_cannot_be_named() {
        for name in RESERVED {
            let text = name.as_str().to_ascii_uppercase();
            assert_eq!(text.parse::<FieldName>(), Err(InvalidField::Reserved(name.clone())));
            assert_eq!(format!("{text}=1").parse::<Field>(), Err(InvalidField::Reserved(name)));
        }
        assert_eq!("Host".parse::<FieldName>(), Err(InvalidField::Host));
        assert_eq!("host=a".parse::<Field>(), Err(InvalidField::Host));
    }

    #[test]
    fn a_field_is_a_name_an_equals_sign_and_a_value() {
        for (text, error) in [
            ("x-tenant", InvalidField::NoValue),
            ("x-tenant: 7", InvalidField::NoValue),
            ("x tenant=7", InvalidField::Name("x tenant".into())),
            ("=7", InvalidField::Name(String::new())),
            ("x-tenant=7\r\nx-evil: 1", InvalidField::Value(HeaderName::from_static("x-tenant"))),
        ] {
            assert_eq!(text.parse::<Field>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_value_is_not_shown() {
        let field: Field = "authorization=Bearer hunter2".parse().unwrap();
        assert!(!format!("{field:?}").contains("hunter2"), "{field:?}");
    }
}
