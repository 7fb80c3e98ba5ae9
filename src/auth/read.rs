//! Keys as people give them: a text or a file that holds PEM, a JWK Set, or a shared secret.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use zeroize::Zeroizing;

use super::{InvalidJwks, InvalidKey, InvalidKeySet, Key, KeySet, jwk};

/// What a shared secret starts with that is written in base64, for secrets that are no text.
const BASE64: &str = "base64:";

/// The most bytes of a file with keys.
pub(super) const MAX_FILE: u64 = 256 * 1024;

/// Reads keys from a text: PEM with public keys or certificates, a JWK Set, or a shared secret, as it is or behind
/// `base64:`.
///
/// # Errors
/// When it holds none, one that cannot be used, or a private key.
pub fn read_keys(text: &[u8]) -> Result<KeySet, ReadKeysError> {
    let text = text.trim_ascii();
    if text.windows(11).any(|window| window == b"-----BEGIN ") {
        return read_pem(text);
    }
    if text.starts_with(b"{") {
        return Ok(jwk::read_jwks(text, true)?);
    }
    Ok(KeySet::new(vec![Key::secret(&read_secret(text)?)?])?)
}

/// The bytes of a shared secret.
pub(super) fn read_secret(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, ReadKeysError> {
    match text.strip_prefix(BASE64.as_bytes()) {
        Some(encoded) => {
            let decoded = BASE64_STANDARD.decode(encoded).map_err(|_| ReadKeysError::Base64)?;
            Ok(Zeroizing::new(decoded))
        }
        None => Ok(Zeroizing::new(text.to_vec())),
    }
}

/// A shared secret as it is read back.
pub(super) fn write_secret(secret: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(format!("{BASE64}{}\n", BASE64_STANDARD.encode(secret)))
}

fn read_pem(text: &[u8]) -> Result<KeySet, ReadKeysError> {
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        match section.map_err(ReadKeysError::Pem)? {
            (SectionKind::PublicKey, spki) => keys.push(Key::public(&spki)?),
            (SectionKind::Certificate, der) => {
                let certificate = x509_parser::parse_x509_certificate(&der);
                let (_, certificate) = certificate.map_err(|_| InvalidKey::Malformed)?;
                keys.push(Key::public(certificate.public_key().raw)?);
            }
            (SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, key) => {
                drop(Zeroizing::new(key));
                return Err(ReadKeysError::Private);
            }
            _ => {}
        }
    }
    Ok(KeySet::new(keys)?)
}

/// Reads keys from a file, as [`read_keys`] does.
///
/// # Errors
/// When it cannot be read, or for what it holds.
pub fn load_keys(path: &Path) -> Result<KeySet, LoadKeysError> {
    let text = load(path)?;
    read_keys(&text).map_err(|source| LoadKeysError::Keys { path: path.to_owned(), source })
}

/// The bytes of a file, which may be a secret.
pub(super) fn load(path: &Path) -> Result<Zeroizing<Vec<u8>>, LoadKeysError> {
    let unreadable = |source| LoadKeysError::Unreadable { path: path.to_owned(), source };
    if fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE {
        return Err(LoadKeysError::TooLarge { path: path.to_owned() });
    }
    fs::read(path).map(Zeroizing::new).map_err(unreadable)
}

/// Why a text holds no keys.
#[derive(Debug, thiserror::Error)]
pub enum ReadKeysError {
    /// It is damaged PEM.
    #[error("it is not well-formed PEM: copy it again in full, with its BEGIN and END lines")]
    Pem(#[source] pem::Error),
    /// It is a private key.
    #[error("it is a private key, which only whoever makes tokens needs: give its public key")]
    Private,
    /// There is no private key.
    #[error("it holds no private key: it must have an unencrypted PEM section such as BEGIN PRIVATE KEY")]
    NoPrivate,
    /// What stands behind `base64:` is not base64.
    #[error("what stands behind `base64:` is not base64")]
    Base64,
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// There is none, or there are too many.
    #[error(transparent)]
    Keys(#[from] InvalidKeySet),
    /// A JWK Set that cannot be used.
    #[error(transparent)]
    Jwks(#[from] InvalidJwks),
}

/// Why a file holds no keys.
#[derive(Debug, thiserror::Error)]
pub enum LoadKeysError {
    /// It cannot be read.
    #[error("{} cannot be read: check the path, and that this user may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is larger than any key.
    #[error("{} has more than {MAX_FILE} bytes: that is no file of keys", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// What it holds cannot be used.
    #[error("{} holds no key that can be used", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ReadKeysError,
    },
}
