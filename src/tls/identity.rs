//! What this process proves itself with: a certificate chain and its private key, read from PEM files and
//! checked once, when they are loaded.
//!
//! Nodes, agents and edges load their identity at start and at reload. An `Identity` always holds a key that
//! matches its leaf; the key is never printed.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::hkdf;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys};

use super::certificate::{Fingerprint, Summary, day};
use super::provider;

/// A certificate chain and the private key of its leaf; cheap to clone.
#[derive(Clone)]
pub struct Identity(Arc<Parts>);

struct Parts {
    certified: Arc<CertifiedKey>,
    key: PrivateKeyDer<'static>,
    leaf: Summary,
}

impl Identity {
    /// Reads the chain (leaf first) from the PEM file `cert` and its private key from the PEM file `key`;
    /// they may be the same file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or does not hold what it should, a key of another certificate, or a leaf
    /// that has ended.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, LoadError> {
        let chain = load_certificates(cert)?;
        let private = load_key(key)?;
        let identity = Self::new(chain, private).map_err(|error| match error {
            IdentityError::Empty => LoadError::NoCertificate { path: cert.to_owned() },
            IdentityError::Certificate(source) => LoadError::BadCertificate { path: cert.to_owned(), source },
            IdentityError::Key(source) => LoadError::BadKey { path: key.to_owned(), source },
            IdentityError::Mismatch => LoadError::Mismatch { cert: cert.to_owned(), key: key.to_owned() },
        })?;
        if identity.not_after() < SystemTime::now() {
            return Err(LoadError::Expired { path: cert.to_owned(), ended: identity.not_after() });
        }
        Ok(identity)
    }

    /// An identity from memory: the chain, leaf first, and the leaf's private key. Whether it has ended is
    /// not looked at.
    ///
    /// # Errors
    ///
    /// An empty chain, a leaf or key that cannot be used, or a key of another certificate.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, IdentityError> {
        let leaf =
            Summary::of(chain.first().ok_or(IdentityError::Empty)?).map_err(IdentityError::Certificate)?;
        let signer = provider().key_provider.load_private_key(key.clone_key()).map_err(IdentityError::Key)?;
        let certified = CertifiedKey::new(chain, signer);
        match certified.keys_match() {
            // A signer that cannot tell its public key is shown wrong by the first handshake.
            Ok(()) | Err(TlsError::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(TlsError::InconsistentKeys(_)) => return Err(IdentityError::Mismatch),
            Err(error) => return Err(IdentityError::Certificate(error)),
        }
        Ok(Self(Arc::new(Parts { certified: Arc::new(certified), key, leaf })))
    }

    /// The certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.certified.cert
    }

    /// The leaf's private key.
    pub fn key(&self) -> &PrivateKeyDer<'static> {
        &self.0.key
    }

    /// The leaf's digest: what a client pins.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.leaf.fingerprint
    }

    /// When the leaf ceases to be valid.
    pub fn not_after(&self) -> SystemTime {
        self.0.leaf.not_after
    }

    /// The DNS names and IP addresses of the leaf.
    pub fn names(&self) -> Vec<String> {
        self.0.leaf.names.clone()
    }

    /// Whether a client that asks for `name` (a DNS name, an IP address, or literally a `*.` name) accepts
    /// the leaf.
    pub fn covers(&self, name: &str) -> bool {
        let literally = self.0.leaf.names.iter().any(|own| own.eq_ignore_ascii_case(name));
        literally
            || match (ParsedCertificate::try_from(&self.chain()[0]), ServerName::try_from(name)) {
                (Ok(leaf), Ok(name)) => verify_server_name(&leaf, &name).is_ok(),
                _ => false,
            }
    }

    /// A secret of 32 bytes that only the holder of this private key can derive; another label gives another
    /// secret.
    pub fn derive_key(&self, label: &[u8]) -> [u8; 32] {
        let mut derived = [0; 32];
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"adit identity")
            .extract(self.key().secret_der())
            .expand(&[label], hkdf::HKDF_SHA256)
            .and_then(|output| output.fill(&mut derived))
            .expect("32 bytes are one block of HKDF-SHA256");
        derived
    }

    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.0.certified
    }

    pub(super) fn leaf(&self) -> &Summary {
        &self.0.leaf
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("names", &self.0.leaf.names)
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

/// Why a chain and a key in memory do not make an [`Identity`].
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no certificate.
    #[error("the certificate chain is empty: give at least the leaf")]
    Empty,
    /// The leaf cannot be read.
    #[error("the leaf is not a usable certificate: give an X.509 version 3 certificate")]
    Certificate(#[source] TlsError),
    /// The key cannot be used.
    #[error("the private key cannot be used: give an RSA, ECDSA or Ed25519 key")]
    Key(#[source] TlsError),
    /// The key is another certificate's.
    #[error("the private key does not match the certificate: give the key that the leaf was made for")]
    Mismatch,
}

/// Why certificates or a key could not be loaded from files: which file, what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{} cannot be read: check the path, and that this user may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is damaged PEM.
    #[error("{} is not well-formed PEM: copy it again in full, with its BEGIN and END lines", path.display())]
    BadPem {
        /// The file.
        path: PathBuf,
        /// What the reader found.
        source: pem::Error,
    },
    /// The file has no certificate inside.
    #[error(
        "{} holds no certificate: it must have a PEM section that begins with BEGIN CERTIFICATE",
        path.display()
    )]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The file has no private key inside.
    #[error(
        "{} holds no private key: it must have an unencrypted PEM section such as BEGIN PRIVATE KEY",
        path.display()
    )]
    NoPrivateKey {
        /// The file.
        path: PathBuf,
    },
    /// A certificate in the file cannot be used.
    #[error("{} holds a certificate that cannot be used: it must be X.509 version 3", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        source: TlsError,
    },
    /// The private key cannot be used.
    #[error(
        "{} holds a private key that cannot be used: it must be an RSA, ECDSA or Ed25519 key",
        path.display()
    )]
    BadKey {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        source: TlsError,
    },
    /// The key belongs to another certificate.
    #[error(
        "the key in {} does not match the certificate in {}: give two files that were made together",
        key.display(), cert.display()
    )]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The certificate has ended.
    #[error("the certificate in {} ended on {}: put a renewed one in its place", path.display(), day(*ended))]
    Expired {
        /// The file.
        path: PathBuf,
        /// When it ended.
        ended: SystemTime,
    },
}

/// All certificates of the PEM file `path`, in its order; at least one.
///
/// # Errors
///
/// The file cannot be read, is damaged, or holds no certificate.
pub fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let chain = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| LoadError::BadPem { path: path.to_owned(), source })?;
    if chain.is_empty() {
        return Err(LoadError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

/// The first private key of the PEM file `path`.
pub(super) fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, LoadError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => LoadError::NoPrivateKey { path: path.to_owned() },
        source => LoadError::BadPem { path: path.to_owned(), source },
    })
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    fs::read(path).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })
}
