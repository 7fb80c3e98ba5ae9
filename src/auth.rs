//! Who may do what: tokens and certificates become a [`Grant`], and a grant answers for actions, endpoints and tenants.
//!
//! It owns keys and the claims that they vouch for, the kinds of limits on callers, and what a refused caller is told. It is
//! driven by the ports that let callers in (edge, links, admin), in this order: limits, authentication, routing. Everything
//! but `jwks` is pure and takes the time as an argument. It never logs, keeps or returns any part of a credential.

mod access;
mod algorithm;
mod certificates;
mod claims;
mod config;
mod credentials;
mod doors;
mod grant;
mod guard;
mod jwk;
mod jwks;
mod jws;
mod key;
mod limits;
mod read;
mod refused;
mod signer;
mod tenants;
#[cfg(test)]
mod tests;
mod verifier;

pub use access::{Access, Denied, InvalidAccess, Login, RequiredHeader};
pub use algorithm::{Algorithm, Kind, UnknownAlgorithm};
pub use certificates::{
    CertificateRule, CertificateRules, DeniedList, InvalidDenied, InvalidDeniedList, InvalidNamePattern,
    NamePattern,
};
pub use claims::Rules;
pub use config::{Config, KeysConfig};
pub use credentials::{ADIT_AUTHORIZATION, Bearer, PIKO_AUTHORIZATION, basic, bearer};
pub use doors::{Door, Doors};
pub use grant::{Action, Grant, Hosts, NotPermitted, Pattern, Tenants, UnknownAction};
pub use guard::{Guard, Guards, Lapsed, PortConfig, Shown, Standing};
pub use jwk::{InvalidJwks, read_jwks};
pub use jwks::{
    InvalidSource, Jwks, JwksCounters, Sets as JwksSets, Settings as JwksSettings, Source as JwksSource,
};
pub use jws::MAX_TOKEN;
pub use key::{InvalidKey, InvalidKeySet, Key, KeySet, MIN_SECRET};
pub use limits::{
    Limit, Limited, Limits, LinkPass, ListenPass, Pace, Pass, Scope, Served, UnknownLimit, What,
};
pub use read::{LoadKeysError, ReadKeysError, load_keys, read_keys};
pub use refused::Refused;
pub use signer::{SignError, SigningKey};
pub use tenants::{Caller, HostNames, TenantRules, Verifiers};
pub use verifier::{Keys, Verifier};
