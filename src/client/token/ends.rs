//! When a token ends, by its own word. Pure.
//!
//! Nothing is verified: whoever gets a token trusts where it comes from, and a wrong time only has another one be got too
//! early or too late.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::protocol::Secret;

/// What the claim `exp` says (RFC 7519 §4.1.4). A token that is no JWT has none.
pub(super) fn ends(token: &Secret) -> Option<SystemTime> {
    let mut parts = token.expose().split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let since_1970 = Duration::try_from_secs_f64(claims.get("exp")?.as_f64()?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since_1970)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_read_where_there_is_one() {
        let of = |claims: &str| {
            let claims = BASE64_URL_SAFE_NO_PAD.encode(claims);
            ends(&Secret::new(format!("x.{claims}.x")))
                .map(|ends| ends.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis())
        };
        assert_eq!(of(r#"{"exp":1500}"#), Some(1_500_000));
        assert_eq!(of(r#"{"a":[{"exp":1}],"exp":1500.25}"#), Some(1_500_250));
        for none in ["{}", r#"{"exp":"1500"}"#, r#"{"exp":-1}"#, r#"{"exp":1e300}"#, "[1500]", "", "{"] {
            assert_eq!(of(none), None, "{none}");
        }
        for none in ["", "a", "a.b", "a.b.c", "a.eyJleHAiOjF9.c.d", "..", "é.é.é"] {
            assert_eq!(ends(&Secret::new(none)), None, "{none}");
        }
    }
}
