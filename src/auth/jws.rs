//! A token as text: the compact serialisation of JWS (RFC 7515 §7.1), taken apart and never trusted.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::Algorithm;

/// The longest token, in bytes. Header fields of more are refused by most servers on the way.
pub const MAX_TOKEN: usize = 8 * 1024;

/// The parts of a token, none of them verified.
pub(super) struct Jws<'a> {
    pub(super) header: Header,
    /// What the signature is of.
    pub(super) signed: &'a [u8],
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

impl fmt::Debug for Jws<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jws").field("header", &self.header).finish_non_exhaustive()
    }
}

/// What is read of a token's header. Keys that it carries or points to (`jwk`, `jku`, `x5c`, `x5u`) are never looked at.
#[derive(Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    #[serde(default)]
    pub(super) kid: Option<String>,
    /// Extensions that must be understood (RFC 7515 §4.1.11); none are.
    #[serde(default)]
    crit: Option<serde::de::IgnoredAny>,
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever made it wrote what it liked, perhaps a secret in the wrong place.
        f.debug_struct("Header").field("alg", &Algorithm::of_name(&self.alg)).finish_non_exhaustive()
    }
}

/// Takes a token apart. What is wrong with it is said without repeating any of it.
pub(super) fn split(token: &str) -> Result<Jws<'_>, &'static str> {
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("it does not have three parts");
    };
    let signed = &token.as_bytes()[..header.len() + 1 + payload.len()];
    let decode = |part| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| "a part of it is not base64url");
    let header: Header =
        serde_json::from_slice(&decode(header)?).map_err(|_| "its header is not the JSON of a token")?;
    if header.crit.is_some() {
        return Err("it demands an extension that is not understood (crit)");
    }
    Ok(Jws { header, signed, payload: decode(payload)?, signature: decode(signature)? })
}

/// The text of a token, but for its signature.
pub(super) fn join(header: &serde_json::Value, payload: &serde_json::Value) -> String {
    let encode = |part: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}", encode(header), encode(payload))
}

/// The token with its signature.
pub(super) fn sign(mut text: String, signature: &[u8]) -> String {
    text.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut text);
    text
}
