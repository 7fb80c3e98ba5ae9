//! Keys as JSON: JWK and JWK Set (RFC 7517, RFC 7518 §6, RFC 8037 §2), read for verifying and written for publishing.

use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Algorithm, InvalidKey, InvalidKeySet, Key, KeySet, Kind};

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The members that are looked at.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    #[serde(default)]
    k: Option<String>,
}

/// Why JSON is no set of keys.
#[derive(Debug, thiserror::Error)]
pub enum InvalidJwks {
    /// It is not JSON, or not of the form of a set.
    #[error("it is not a JWK Set: a JSON object with a list `keys`")]
    Form,
    /// A key in it can make tokens, not only verify them.
    #[error(
        "a key in it is a private one (it has `d`), which only whoever makes tokens needs: give its public key"
    )]
    Private,
    /// None of its keys can be used.
    #[error(transparent)]
    Keys(#[from] InvalidKeySet),
}

/// Reads a JWK Set. Keys that are for something else, or that are not understood, are passed over (RFC 7517 §5). Shared
/// secrets only count when `secrets` says so: what is published is none. Nor is a private key, with which anybody could make
/// tokens who reads it there: it is passed over in what is published, and refused where it was given.
///
/// # Errors
/// When it is not one, or no key is left.
pub fn read_jwks(json: &[u8], secrets: bool) -> Result<KeySet, InvalidJwks> {
    let set: Set = serde_json::from_slice(json).map_err(|_| InvalidJwks::Form)?;
    let is_private = |value: &Value| value.get("d").is_some();
    if secrets && set.keys.iter().any(is_private) {
        return Err(InvalidJwks::Private);
    }
    let of_value = |value: Value| serde_json::from_value(value).ok().and_then(|jwk: Jwk| key(jwk, secrets));
    let public = set.keys.into_iter().filter(|value| !is_private(value));
    Ok(KeySet::new(public.filter_map(of_value).collect())?)
}

fn key(jwk: Jwk, secrets: bool) -> Option<Key> {
    let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
    if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") || !jwk.key_ops.as_ref().is_none_or(verifies)
    {
        return None;
    }
    let key = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => Key::rsa(&bytes(jwk.n)?, &bytes(jwk.e)?),
        ("EC", Some(curve)) => Key::point(of_curve(curve)?, &bytes(jwk.x)?, &bytes(jwk.y)?),
        ("OKP", Some("Ed25519")) => Key::ed25519(&bytes(jwk.x)?),
        ("oct", _) if secrets => Key::secret(&Zeroizing::new(bytes(jwk.k)?)),
        _ => return None,
    };
    let mut key = key.ok()?;
    if let Some(id) = jwk.kid {
        key = key.named(id);
    }
    match jwk.alg {
        None => Some(key),
        Some(alg) => key.only(Algorithm::of_name(&alg)?).ok(),
    }
}

fn bytes(member: Option<String>) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(Zeroizing::new(member?).as_bytes()).ok()
}

fn of_curve(name: &str) -> Option<Kind> {
    match name {
        "P-256" => Some(Kind::P256),
        "P-384" => Some(Kind::P384),
        "P-521" => Some(Kind::P521),
        _ => None,
    }
}

/// The members of a public key that make it what it is, in the order of their names.
pub(super) enum Parts<'a> {
    /// Modulus and exponent, big-endian.
    Rsa(&'a [u8], &'a [u8]),
    /// A curve and an uncompressed point of it.
    Point(Kind, &'a [u8]),
    /// 32 bytes.
    Ed25519(&'a [u8]),
    /// A secret.
    Secret(&'a [u8]),
}

impl Parts<'_> {
    fn members(&self) -> Result<Value, InvalidKey> {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        Ok(match self {
            Self::Rsa(n, e) => json!({ "e": text(e), "kty": "RSA", "n": text(n) }),
            Self::Point(kind, point) => {
                let (curve, len) = match kind {
                    Kind::P256 => ("P-256", 32),
                    Kind::P384 => ("P-384", 48),
                    Kind::P521 => ("P-521", 66),
                    _ => return Err(InvalidKey::Malformed),
                };
                let (x, y) = point[1..].split_at_checked(len).ok_or(InvalidKey::Malformed)?;
                json!({ "crv": curve, "kty": "EC", "x": text(x), "y": text(y) })
            }
            Self::Ed25519(x) => json!({ "crv": "Ed25519", "kty": "OKP", "x": text(x) }),
            Self::Secret(k) => json!({ "k": text(k), "kty": "oct" }),
        })
    }

    /// The thumbprint that names the key (RFC 7638): the same for everybody who has it.
    pub(super) fn thumbprint(&self) -> Result<String, InvalidKey> {
        // serde_json writes members in the order of their names and without spaces, as it must be.
        let members = self.members()?.to_string();
        Ok(BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, members.as_bytes())))
    }

    /// The key as a JWK Set of one.
    pub(super) fn set(&self, id: &str, algorithm: Algorithm) -> Result<String, InvalidKey> {
        let mut jwk = self.members()?;
        jwk["alg"] = algorithm.name().into();
        jwk["kid"] = id.into();
        jwk["use"] = "sig".into();
        Ok(format!("{:#}\n", json!({ "keys": [jwk] })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn read(keys: &Value, secrets: bool) -> Result<Vec<Option<String>>, InvalidJwks> {
        let set = read_jwks(json!({ "keys": keys }).to_string().as_bytes(), secrets)?;
        Ok(set.iter().map(|key| key.id().map(str::to_owned)).collect())
    }

    #[test]
    fn the_thumbprint_is_that_of_the_rfcs() {
        // RFC 8037, appendix A.3.
        let x = BASE64_URL_SAFE_NO_PAD.decode(X).unwrap();
        let thumbprint = Parts::Ed25519(&x).thumbprint().unwrap();
        assert_eq!(thumbprint, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn what_is_for_something_else_or_not_understood_is_passed_over() {
        let keys = json!([
            { "kty": "OKP", "crv": "Ed25519", "x": X, "kid": "good", "use": "sig", "alg": "EdDSA", "more": [1] },
            { "kty": "OKP", "crv": "Ed25519", "x": X },
            { "kty": "OKP", "crv": "Ed25519", "x": X, "kid": "ops", "key_ops": ["sign", "verify"] },
            { "kty": "OKP", "crv": "Ed25519", "x": X, "kid": "encrypts", "use": "enc" },
            { "kty": "OKP", "crv": "Ed25519", "x": X, "kid": "signs", "key_ops": ["sign"] },
            { "kty": "OKP", "crv": "Ed25519", "x": X, "kid": "other kind", "alg": "RS256" },
            { "kty": "OKP", "crv": "Ed25519", "x": X, "kid": "none", "alg": "none" },
            { "kty": "OKP", "crv": "X25519", "x": X, "kid": "exchange" },
            { "kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "short" },
            { "kty": "EC", "crv": "P-256", "x": X, "y": X, "kid": "not on the curve" },
            { "kty": "EC", "crv": "P-256", "x": X, "kid": "half" },
            { "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "tiny" },
            { "kty": "oct", "k": X, "kid": "secret" },
            { "kty": "new", "kid": "new" },
            { "kid": "nothing" },
            7,
        ]);
        let good = || vec![Some("good".to_owned()), None, Some("ops".to_owned())];
        assert_eq!(read(&keys, false).unwrap(), good());
        assert_eq!(read(&keys, true).unwrap(), [good(), vec![Some("secret".to_owned())]].concat());
    }

    #[test]
    fn a_private_key_is_refused_or_where_it_is_published_passed_over() {
        let public = json!({ "kty": "OKP", "crv": "Ed25519", "x": X, "kid": "public" });
        let mut private = public.clone();
        private["d"] = X.into();
        let keys = json!([private, public]);
        let refused = read(&keys, true).unwrap_err();
        assert!(matches!(refused, InvalidJwks::Private), "{refused}");
        assert!(!refused.to_string().contains(X));
        assert_eq!(read(&keys, false).unwrap(), [Some("public".to_owned())]);
        assert!(matches!(read(&json!([private]), false), Err(InvalidJwks::Keys(InvalidKeySet::Empty))));
    }

    #[test]
    fn a_set_is_neither_empty_nor_endless() {
        assert!(matches!(read(&json!([]), true), Err(InvalidJwks::Keys(InvalidKeySet::Empty))));
        assert!(matches!(read(&json!({}), true), Err(InvalidJwks::Form)));
        assert!(matches!(read_jwks(b"<html>", true), Err(InvalidJwks::Form)));
        let many = vec![json!({ "kty": "OKP", "crv": "Ed25519", "x": X }); 65];
        let refused = read(&many.into(), true);
        assert!(matches!(refused, Err(InvalidJwks::Keys(InvalidKeySet::TooMany { count: 65 }))));
    }
}
