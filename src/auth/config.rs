//! What a port is told of authentication, and what it makes of that.

use std::sync::Arc;

use super::{JwksSets, JwksSettings, JwksSource, KeySet, Keys, Rules, Verifier};

/// Authentication of one port.
#[derive(Debug, Clone)]
pub struct Config {
    /// What verifies its tokens.
    pub keys: KeysConfig,
    /// What it demands of them.
    pub rules: Rules,
}

/// Where keys are had from.
#[derive(Debug, Clone)]
pub enum KeysConfig {
    /// They were given.
    Fixed(KeySet),
    /// They are fetched.
    Jwks(JwksSource, JwksSettings),
}

impl Config {
    /// The verifier. Keys that are fetched are a set of `sets`, for as long as the verifier is used.
    pub fn verifier(&self, sets: &JwksSets) -> Verifier {
        let keys = match &self.keys {
            KeysConfig::Fixed(keys) => Keys::Fixed(Arc::new(keys.clone())),
            KeysConfig::Jwks(source, settings) => Keys::Jwks(sets.of(source, *settings)),
        };
        Verifier::new(keys, self.rules.clone())
    }
}
