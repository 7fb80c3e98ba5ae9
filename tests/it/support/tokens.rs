//! Keys that tests sign tokens with, and nodes that ask for them.

use std::time::{Duration, SystemTime};

use adit::auth::{self, Algorithm, KeysConfig, PortConfig, Rules, SigningKey, read_keys};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::HeaderValue;
use serde_json::{Value, json};

use super::ok;

/// A key, and the tokens that it makes.
#[derive(Debug)]
pub(crate) struct Issuer(SigningKey);

impl Issuer {
    pub(crate) fn new() -> Self {
        Self::of(Algorithm::EdDsa)
    }

    pub(crate) fn of(algorithm: Algorithm) -> Self {
        Self(ok(SigningKey::generate(algorithm)))
    }

    /// The same, under the name of another's key.
    pub(crate) fn posing_as(self, other: &Self) -> Self {
        Self(self.0.named(other.0.id()))
    }

    pub(crate) fn id(&self) -> &str {
        self.0.id()
    }

    pub(crate) fn token(&self, claims: &Value) -> String {
        ok(self.0.sign(claims))
    }

    pub(crate) fn public_pem(&self) -> String {
        ok(self.0.public_pem()).expect("it is no shared secret")
    }

    /// What verifies its tokens, whose end is not put off.
    pub(crate) fn config(&self) -> auth::Config {
        let keys = ok(read_keys(ok(self.0.jwks()).as_bytes()));
        let rules = Rules { skew: Duration::ZERO, ..Rules::default() };
        auth::Config { keys: KeysConfig::Fixed(keys), rules }
    }

    /// A port that asks for its tokens.
    pub(crate) fn port(&self) -> PortConfig {
        let mut port = PortConfig { keys: Some(self.config()), ..PortConfig::default() };
        port.asked.headers = vec![http::HeaderName::from_static("x-adit-tenant")];
        port.asked.domains = vec!["tunnel.example.com".into()];
        port
    }
}

/// The field that shows a token.
pub(crate) fn bearer(token: &str) -> HeaderValue {
    ok(HeaderValue::try_from(format!("Bearer {token}")))
}

/// A token that is put together by hand.
pub(crate) fn forged(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let [header, claims] = [header, claims].map(|json| part(json.to_string().as_bytes()));
    format!("{header}.{claims}.{}", part(signature))
}

/// So many seconds from now, or before, as a token says it.
pub(crate) fn in_seconds(seconds: f64) -> Value {
    let now = ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)).as_secs_f64();
    json!(now + seconds)
}
