//! Token to [`Grant`]: the signature first, then the claims.
//!
//! One verifier for each port (and each tenant that has keys of its own). It holds keys and rules, and no state of callers.

use std::{sync::Arc, time::SystemTime};

use super::{
    Algorithm, Grant, Jwks, KeySet, MAX_TOKEN, Refused, Rules,
    claims::Claims,
    jws::{self, Jws},
};

/// Where a verifier has its keys from.
#[derive(Debug, Clone)]
pub enum Keys {
    /// Keys that stay as they are.
    Fixed(Arc<KeySet>),
    /// Keys that are kept up to date.
    Jwks(Jwks),
}

/// Verifies tokens. Clones share their keys.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Keys,
    rules: Arc<Rules>,
}

impl Verifier {
    /// A verifier of these keys and rules.
    pub fn new(keys: Keys, rules: Rules) -> Self {
        Self { keys, rules: Arc::new(rules) }
    }

    /// What it demands of tokens.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The same keys under other rules.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules: Arc::new(rules), ..self }
    }

    /// What a token grants at `now`, by the keys that are there. Takes no lock.
    ///
    /// # Errors
    /// Why the token is not taken. A token of more than [`MAX_TOKEN`] bytes is not looked at.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Grant, Refused> {
        match &self.keys {
            Keys::Fixed(keys) => verify(token, keys, &self.rules, now),
            Keys::Jwks(jwks) => match jwks.keys() {
                Some(keys) => verify(token, &keys, &self.rules, now),
                None => Err(Refused::NoKeys),
            },
        }
    }

    /// The same, but a token whose key is not known waits, for [`Jwks::PATIENCE`] at most, until newer keys have been asked
    /// for; that is done as seldom as the source's settings say, whatever comes. Cancel safe.
    ///
    /// # Errors
    /// As [`Verifier::verify`].
    pub async fn verify_fresh(&self, token: &str, now: SystemTime) -> Result<Grant, Refused> {
        match (self.verify(token, now), &self.keys) {
            (Err(refused), Keys::Jwks(jwks))
                if refused.is_of_keys() || names_another(token, &refused, jwks) =>
            {
                jwks.renewed().await;
                self.verify(token, now)
            }
            (outcome, _) => outcome,
        }
    }
}

/// Whether a token names a key that is not there, and only keys without a name have been tried in its place.
fn names_another(token: &str, refused: &Refused, jwks: &Jwks) -> bool {
    if !refused.is_of_another_key() {
        return false;
    }
    let header = jws::split(token).ok().map(|jws| jws.header);
    let header = header.filter(|header| Algorithm::of_name(&header.alg).is_some());
    let id = header.and_then(|header| header.kid);
    let is_there = |id: &str| jwks.keys().is_some_and(|keys| keys.iter().any(|key| key.id() == Some(id)));
    id.is_some_and(|id| !is_there(&id))
}

fn verify(token: &str, keys: &KeySet, rules: &Rules, now: SystemTime) -> Result<Grant, Refused> {
    if token.is_empty() {
        return Err(Refused::Missing);
    }
    if token.len() > MAX_TOKEN {
        return Err(Refused::TooLong { len: token.len() });
    }
    let jws = jws::split(token).map_err(Refused::Malformed)?;
    check_signature(&jws, keys)?;
    Claims::read(&jws.payload)?.grant(rules, now)
}

fn check_signature(jws: &Jws<'_>, keys: &KeySet) -> Result<(), Refused> {
    let algorithm = Algorithm::of_name(&jws.header.alg).ok_or(Refused::Algorithm)?;
    let mut named = keys.candidates(jws.header.kid.as_deref()).peekable();
    if named.peek().is_none() {
        return Err(Refused::UnknownKey);
    }
    let mut fit = named.filter(|key| key.permits(algorithm)).peekable();
    if fit.peek().is_none() {
        return Err(Refused::Algorithm);
    }
    if fit.any(|key| key.verify(algorithm, jws.signed, &jws.signature)) {
        Ok(())
    } else {
        Err(Refused::Signature)
    }
}
