//! Keys that sign tokens: made, read, written, and used by `adit token` and by tests. Nodes only verify.

use std::{fmt, path::Path};

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
        RsaKeyPair,
    },
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::pki_types::pem::{PemObject, SectionKind};
use serde_json::{Value, json};
use x509_parser::{prelude::FromDer, public_key::RSAPublicKey};
use zeroize::Zeroizing;

use super::{
    Algorithm, InvalidKey, Key, Kind, LoadKeysError, ReadKeysError,
    jwk::Parts,
    jws,
    read::{self, read_secret, write_secret},
};

/// A key that signs tokens.
pub struct SigningKey {
    pair: Pair,
    id: String,
    algorithm: Algorithm,
}

enum Pair {
    Secret(Zeroizing<Vec<u8>>),
    Rsa(RsaKeyPair),
    Ec(Kind, EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// Makes a key for an algorithm. An RSA key has 3072 bits.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate(algorithm: Algorithm) -> Result<Self, SignError> {
        let pair = match algorithm.kind() {
            Kind::Secret => Pair::Secret(Zeroizing::new(rand::random::<[u8; 64]>().to_vec())),
            Kind::Rsa => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa3072).map_err(|_| SignError::Library)?),
            Kind::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate().map_err(|_| SignError::Library)?),
            kind @ (Kind::P256 | Kind::P384 | Kind::P521) => {
                let curve = curve(kind).ok_or(SignError::Library)?;
                Pair::Ec(kind, EcdsaKeyPair::generate(curve).map_err(|_| SignError::Library)?)
            }
        };
        Self::of(pair, algorithm)
    }

    /// Reads a private key in PEM (PKCS#8 of either version, PKCS#1, SEC 1), or a shared secret as
    /// [`read_keys`](super::read_keys) does.
    ///
    /// # Errors
    /// When it holds none, or one that cannot be used.
    pub fn read(text: &[u8]) -> Result<Self, ReadKeysError> {
        let text = text.trim_ascii();
        let unusable = |_| InvalidKey::Malformed;
        if !text.windows(11).any(|window| window == b"-----BEGIN ") {
            let secret = read_secret(text)?;
            Key::secret(&secret)?;
            return Ok(Self::of(Pair::Secret(secret), Algorithm::Hs256).map_err(unusable)?);
        }
        let mut sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(text);
        let private = sections.find_map(|section| match section {
            Ok((SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, key)) => {
                Some(Ok(Zeroizing::new(key)))
            }
            Ok(_) => None,
            Err(error) => Some(Err(ReadKeysError::Pem(error))),
        });
        let der = private.unwrap_or(Err(ReadKeysError::NoPrivate))?;
        let (pair, algorithm) = read_private(&der).ok_or(InvalidKey::Malformed)?;
        Ok(Self::of(pair, algorithm).map_err(unusable)?)
    }

    /// Reads a file, as [`SigningKey::read`] does.
    ///
    /// # Errors
    /// When it cannot be read, or for what it holds.
    pub fn load(path: &Path) -> Result<Self, LoadKeysError> {
        let text = read::load(path)?;
        Self::read(&text).map_err(|source| LoadKeysError::Keys { path: path.to_owned(), source })
    }

    fn of(pair: Pair, algorithm: Algorithm) -> Result<Self, SignError> {
        let id = with_parts(&pair, |parts| parts.thumbprint())?;
        Ok(Self { pair, id, algorithm })
    }

    /// The name of the key in tokens and in its JWK Set: its thumbprint (RFC 7638).
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The algorithm that it signs with unless told otherwise.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// What kind of key it is.
    pub fn kind(&self) -> Kind {
        match &self.pair {
            Pair::Secret(_) => Kind::Secret,
            Pair::Rsa(_) => Kind::Rsa,
            Pair::Ec(kind, _) => *kind,
            Pair::Ed25519(_) => Kind::Ed25519,
        }
    }

    /// The private key as [`SigningKey::read`] reads it: PKCS#8 version 1 in PEM, which every tool understands, or the
    /// secret.
    ///
    /// # Errors
    /// When the library cannot write it.
    pub fn private_text(&self) -> Result<Zeroizing<String>, SignError> {
        let document = match &self.pair {
            Pair::Secret(secret) => return Ok(write_secret(secret)),
            Pair::Rsa(pair) => pair.as_der().map(|der| Zeroizing::new(der.as_ref().to_vec())),
            Pair::Ec(_, pair) => pair.to_pkcs8v1().map(|der| Zeroizing::new(der.as_ref().to_vec())),
            Pair::Ed25519(pair) => pair.to_pkcs8v1().map(|der| Zeroizing::new(der.as_ref().to_vec())),
        };
        Ok(Zeroizing::new(to_pem("PRIVATE KEY", &document.map_err(|_| SignError::Library)?)))
    }

    /// The public key in PEM; a secret has none.
    ///
    /// # Errors
    /// When the library cannot write it.
    pub fn public_pem(&self) -> Result<Option<String>, SignError> {
        let spki = match &self.pair {
            Pair::Secret(_) => return Ok(None),
            Pair::Rsa(pair) => pair.public_key().as_der(),
            Pair::Ec(_, pair) => pair.public_key().as_der(),
            Pair::Ed25519(pair) => pair.public_key().as_der(),
        };
        Ok(Some(to_pem("PUBLIC KEY", spki.map_err(|_| SignError::Library)?.as_ref())))
    }

    /// The JWK Set that verifies its tokens: the public key, or the secret.
    ///
    /// # Errors
    /// When the key cannot be written.
    pub fn jwks(&self) -> Result<String, SignError> {
        with_parts(&self.pair, |parts| parts.set(&self.id, self.algorithm))
    }

    /// The same key for another algorithm of its kind.
    ///
    /// # Errors
    /// When the algorithm needs another kind of key.
    pub fn with_algorithm(self, algorithm: Algorithm) -> Result<Self, InvalidKey> {
        match algorithm.kind() == self.kind() {
            true => Ok(Self { algorithm, ..self }),
            false => Err(InvalidKey::OtherKind { algorithm, kind: self.kind() }),
        }
    }

    /// The same key by another name.
    #[must_use]
    pub fn named(self, id: impl Into<String>) -> Self {
        Self { id: id.into(), ..self }
    }

    /// A token of these claims.
    ///
    /// # Errors
    /// When the library cannot sign.
    pub fn sign(&self, claims: &Value) -> Result<String, SignError> {
        let header = json!({ "alg": self.algorithm.name(), "kid": self.id, "typ": "JWT" });
        let text = jws::join(&header, claims);
        let signature = self.signature(text.as_bytes()).ok_or(SignError::Library)?;
        Ok(jws::sign(text, &signature))
    }

    fn signature(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Secret(secret) => {
                let key = hmac::Key::new(self.algorithm.hmac()?, secret);
                Some(hmac::sign(&key, message).as_ref().to_vec())
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding(self.algorithm)?, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Pair::Ec(_, pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
            Pair::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = f.debug_struct("SigningKey");
        key.field("id", &self.id).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

fn read_private(der: &[u8]) -> Option<(Pair, Algorithm)> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
        return Some((Pair::Ed25519(pair), Algorithm::EdDsa));
    }
    for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::Es512] {
        let kind = algorithm.kind();
        if let Ok(pair) = EcdsaKeyPair::from_private_key_der(curve(kind)?, der) {
            return Some((Pair::Ec(kind, pair), algorithm));
        }
    }
    let pair = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der)).ok()?;
    Some((Pair::Rsa(pair), Algorithm::Rs256))
}

fn curve(kind: Kind) -> Option<&'static EcdsaSigningAlgorithm> {
    match kind {
        Kind::P256 => Some(&ECDSA_P256_SHA256_FIXED_SIGNING),
        Kind::P384 => Some(&ECDSA_P384_SHA384_FIXED_SIGNING),
        Kind::P521 => Some(&ECDSA_P521_SHA512_FIXED_SIGNING),
        _ => None,
    }
}

fn padding(algorithm: Algorithm) -> Option<&'static dyn RsaEncoding> {
    match algorithm {
        Algorithm::Rs256 => Some(&RSA_PKCS1_SHA256),
        Algorithm::Rs384 => Some(&RSA_PKCS1_SHA384),
        Algorithm::Rs512 => Some(&RSA_PKCS1_SHA512),
        Algorithm::Ps256 => Some(&RSA_PSS_SHA256),
        Algorithm::Ps384 => Some(&RSA_PSS_SHA384),
        Algorithm::Ps512 => Some(&RSA_PSS_SHA512),
        _ => None,
    }
}

fn with_parts<T>(
    pair: &Pair,
    take: impl FnOnce(&Parts<'_>) -> Result<T, InvalidKey>,
) -> Result<T, SignError> {
    Ok(match pair {
        Pair::Secret(secret) => take(&Parts::Secret(secret))?,
        Pair::Ec(kind, pair) => take(&Parts::Point(*kind, pair.public_key().as_ref()))?,
        Pair::Ed25519(pair) => take(&Parts::Ed25519(pair.public_key().as_ref()))?,
        Pair::Rsa(pair) => {
            let public = RSAPublicKey::from_der(pair.public_key().as_ref());
            let (_, public) = public.map_err(|_| SignError::Library)?;
            // DER puts a zero before numbers whose first bit is set; JWK does not (RFC 7518 §6.3.1).
            let modulus = public.modulus.strip_prefix(&[0]).unwrap_or(public.modulus);
            take(&Parts::Rsa(modulus, public.exponent))?
        }
    })
}

fn to_pem(label: &str, der: &[u8]) -> String {
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(der));
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text + &format!("-----END {label}-----\n")
}

/// Why a key cannot sign or be written.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The cryptographic library failed, which it does when the system has no randomness.
    #[error("the cryptographic library failed")]
    Library,
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] InvalidKey),
}
