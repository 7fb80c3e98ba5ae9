//! Keys that verify tokens, and sets of them.
//!
//! A key knows for itself which algorithms it is for; a token's header only has to name one of these. So `none`, and an RSA
//! public key taken for a shared secret, cannot be expressed. Secrets are zeroed when dropped and never printed.

use std::fmt;

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    signature::{ParsedPublicKey, RsaPublicKeyComponents, UnparsedPublicKey},
};
use x509_parser::{prelude::FromDer, public_key::PublicKey, x509::SubjectPublicKeyInfo};
use zeroize::Zeroizing;

use super::{Algorithm, Kind};

/// The shortest shared secret, in bytes: what HS256 asks for (RFC 7518 §3.2). Tokens can be tried against guesses at leisure.
pub const MIN_SECRET: usize = 32;

/// The shortest RSA key, in bits (RFC 7518 §3.3).
const MIN_RSA_BITS: usize = 2048;

/// The longest RSA key, in bits.
const MAX_RSA_BITS: usize = 8192;

/// A key that verifies tokens.
#[derive(Clone)]
pub struct Key {
    id: Option<String>,
    kind: Kind,
    only: Option<Algorithm>,
    /// The secret, or the public key: SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), an uncompressed point, or Ed25519's 32 bytes.
    bytes: Zeroizing<Vec<u8>>,
}

impl Key {
    /// A shared secret for HS256, HS384 and HS512.
    ///
    /// # Errors
    /// When it has less than [`MIN_SECRET`] bytes.
    pub fn secret(secret: &[u8]) -> Result<Self, InvalidKey> {
        if secret.len() < MIN_SECRET {
            return Err(InvalidKey::ShortSecret { len: secret.len() });
        }
        Ok(Self::of(Kind::Secret, secret))
    }

    /// A public key as SubjectPublicKeyInfo, as it stands in a PEM section PUBLIC KEY and in certificates.
    ///
    /// # Errors
    /// When it is not well-formed, too short, or of a kind that no algorithm here is for.
    pub fn public(spki: &[u8]) -> Result<Self, InvalidKey> {
        let (rest, info) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| InvalidKey::Malformed)?;
        if !rest.is_empty() {
            return Err(InvalidKey::Malformed);
        }
        let oid = info.algorithm.algorithm.to_id_string();
        let kind = match (oid.as_str(), info.parsed().map_err(|_| InvalidKey::Malformed)?) {
            ("1.2.840.113549.1.1.1", PublicKey::RSA(rsa)) => {
                check_bits(rsa.modulus)?;
                Kind::Rsa
            }
            ("1.2.840.10045.2.1", PublicKey::EC(_)) => {
                let curve = info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
                match curve.map(|oid| oid.to_id_string()).as_deref() {
                    Some("1.2.840.10045.3.1.7") => Kind::P256,
                    Some("1.3.132.0.34") => Kind::P384,
                    Some("1.3.132.0.35") => Kind::P521,
                    _ => return Err(InvalidKey::Unsupported("its curve is none of P-256, P-384 and P-521")),
                }
            }
            ("1.3.101.112", _) => Kind::Ed25519,
            _ => return Err(InvalidKey::Unsupported("it is not for RSA, ECDSA or Ed25519")),
        };
        Self::of(kind, spki).checked()
    }

    /// An RSA public key by its numbers, big-endian.
    ///
    /// # Errors
    /// When they make no key, or a short one.
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, InvalidKey> {
        check_bits(modulus)?;
        // A leading zero is of no meaning, and not taken by the library.
        let number = |bytes: &'_ [u8]| -> Vec<u8> { bytes.iter().copied().skip_while(|b| *b == 0).collect() };
        let components = RsaPublicKeyComponents { n: number(modulus), e: number(exponent) };
        let spki = components.as_der().map_err(|_| InvalidKey::Malformed)?;
        Self::of(Kind::Rsa, spki.as_ref()).checked()
    }

    /// A point of a curve, by its coordinates at their full length.
    ///
    /// # Errors
    /// When it is not on the curve, or the curve is none.
    pub fn point(kind: Kind, x: &[u8], y: &[u8]) -> Result<Self, InvalidKey> {
        let len = match kind {
            Kind::P256 => 32,
            Kind::P384 => 48,
            Kind::P521 => 66,
            _ => return Err(InvalidKey::Malformed),
        };
        if x.len() != len || y.len() != len {
            return Err(InvalidKey::Malformed);
        }
        Self::of(kind, &[&[4], x, y].concat()).checked()
    }

    /// An Ed25519 public key of 32 bytes.
    ///
    /// # Errors
    /// When it has another length, or is no point of the curve.
    pub fn ed25519(x: &[u8]) -> Result<Self, InvalidKey> {
        if x.len() != 32 {
            return Err(InvalidKey::Malformed);
        }
        Self::of(Kind::Ed25519, x).checked()
    }

    fn of(kind: Kind, bytes: &[u8]) -> Self {
        Self { id: None, kind, only: None, bytes: Zeroizing::new(bytes.to_vec()) }
    }

    fn checked(self) -> Result<Self, InvalidKey> {
        let mut algorithms = Algorithm::ALL.into_iter().filter(|algorithm| algorithm.kind() == self.kind);
        let algorithm = algorithms.find_map(Algorithm::verification).ok_or(InvalidKey::Malformed)?;
        ParsedPublicKey::new(algorithm, &self.bytes).map_err(|_| InvalidKey::Malformed)?;
        Ok(self)
    }

    /// The same, by a name (`kid`, RFC 7515 §4.1.4): only tokens that name it or none are verified with it.
    #[must_use]
    pub fn named(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The same for one algorithm alone.
    ///
    /// # Errors
    /// When the algorithm needs another kind of key.
    pub fn only(mut self, algorithm: Algorithm) -> Result<Self, InvalidKey> {
        if algorithm.kind() != self.kind {
            return Err(InvalidKey::OtherKind { algorithm, kind: self.kind });
        }
        self.only = Some(algorithm);
        Ok(self)
    }

    /// Its name, if it has one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// What kind of key it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it is for this algorithm.
    pub fn permits(&self, algorithm: Algorithm) -> bool {
        self.kind == algorithm.kind() && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether `signature` is that of `message` by this key and `algorithm`; never when the key is not for the algorithm.
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.permits(algorithm) {
            return false;
        }
        if let Some(hmac) = algorithm.hmac() {
            // Compares in constant time.
            return hmac::verify(&hmac::Key::new(hmac, &self.bytes), message, signature).is_ok();
        }
        let Some(verification) = algorithm.verification() else {
            return false;
        };
        UnparsedPublicKey::new(verification, self.bytes.as_slice()).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = f.debug_struct("Key");
        key.field("id", &self.id).field("kind", &self.kind).field("only", &self.only).finish_non_exhaustive()
    }
}

fn check_bits(modulus: &[u8]) -> Result<(), InvalidKey> {
    let mut significant = modulus.iter().skip_while(|byte| **byte == 0);
    let bits = match significant.next() {
        Some(first) => significant.count() * 8 + (8 - first.leading_zeros() as usize),
        None => 0,
    };
    if (MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) { Ok(()) } else { Err(InvalidKey::RsaBits { bits }) }
}

/// Why bytes are no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// A secret that could be guessed.
    #[error(
        "the secret has {len} bytes, and at least {MIN_SECRET} are needed: make one with `adit token key --alg HS256`"
    )]
    ShortSecret {
        /// Its length.
        len: usize,
    },
    /// An RSA key of a length that is not taken.
    #[error("the RSA key has {bits} bits, and {MIN_RSA_BITS} to {MAX_RSA_BITS} are taken")]
    RsaBits {
        /// Its length.
        bits: usize,
    },
    /// It is damaged, or not what it is said to be.
    #[error("the key is malformed")]
    Malformed,
    /// A kind of key that tokens are not verified with here.
    #[error("the key cannot verify tokens: {0}")]
    Unsupported(&'static str),
    /// An algorithm that needs another kind of key.
    #[error("{algorithm} cannot be used with this key, which is a {}", kind.name())]
    OtherKind {
        /// The algorithm.
        algorithm: Algorithm,
        /// What the key is.
        kind: Kind,
    },
}

/// Keys, any of which may have signed a token. Not empty, and at most [`KeySet::MAX`].
#[derive(Debug, Clone)]
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// The most keys in a set, which bounds what one token can cost: one that names no key is tried with each.
    pub const MAX: usize = 64;

    /// A set.
    ///
    /// # Errors
    /// When there are none, or too many.
    pub fn new(keys: Vec<Key>) -> Result<Self, InvalidKeySet> {
        match keys.len() {
            0 => Err(InvalidKeySet::Empty),
            1..=Self::MAX => Ok(Self(keys)),
            count => Err(InvalidKeySet::TooMany { count }),
        }
    }

    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    /// The keys that a token's header may mean: those of the name that it gives and those without a name; all when it gives
    /// none.
    pub(super) fn candidates(&self, id: Option<&str>) -> impl Iterator<Item = &Key> {
        self.0.iter().filter(move |key| match (id, key.id()) {
            (Some(wanted), Some(id)) => wanted == id,
            _ => true,
        })
    }
}

/// Why keys make no set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeySet {
    /// There is none that can be used.
    #[error("there is no key in it that tokens could be verified with")]
    Empty,
    /// There are too many.
    #[error("there are {count} keys in it, at most {} are taken", KeySet::MAX)]
    TooMany {
        /// How many.
        count: usize,
    },
}
