//! Certificates of one's own: a small authority (ECDSA P-256) that signs certificates for nodes and agents.
//!
//! `adit certs` and `development` drive it. It writes only where it is told to, never over an existing file,
//! and it is no public authority: what it signs is believed by those who were given its certificate.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer};
use rcgen::{KeyPair, KeyUsagePurpose, SanType, SerialNumber};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer};

use super::certificate::NODE_NAME;
use super::certificate::day;
use super::identity::{Identity, LoadError, read};
use super::write::{WriteError, write_new};

/// How long an issued certificate lives unless told otherwise: 397 days.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(397 * DAY);

const DAY: u64 = 24 * 60 * 60;
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3652 * DAY);
/// Certificates start to be valid this long before they are made, for clocks that are late.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// To answer as a server.
    Server,
    /// To connect as a client.
    Client,
    /// Both, as nodes do.
    Both,
}

/// A certificate to be issued.
#[derive(Debug, Clone)]
pub struct Request {
    /// The subject's common name: a label for people, 1 to 64 characters.
    pub common_name: String,
    /// The DNS names (also `*.` ones) and IP addresses it is good for; a server needs at least one. A node's also has
    /// its name in the cluster, as [`NODE_NAME`] says.
    pub names: Vec<String>,
    /// What it may be used for.
    pub usage: Usage,
    /// How long it is valid from now on; never longer than its authority.
    pub lifetime: Duration,
}

/// A certificate and its private key, as PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key (PKCS#8).
    pub key_pem: String,
}

impl Issued {
    /// Writes both as new files, the key readable by its owner alone.
    ///
    /// # Errors
    ///
    /// One of the files exists or cannot be written; then neither is left behind by this call.
    pub fn write(&self, cert: &Path, key: &Path) -> Result<(), WriteError> {
        // The key goes first: whoever sees the certificate finds its key.
        write_new(key, self.key_pem.as_bytes(), true)?;
        write_new(cert, self.cert_pem.as_bytes(), false).inspect_err(|_| {
            // Made by this call a moment ago, and of no use without its certificate.
            let _ = std::fs::remove_file(key);
        })
    }
}

impl Issued {
    /// The two as they would be loaded.
    pub(super) fn identity(&self) -> Identity {
        let chain = CertificateDer::pem_slice_iter(self.cert_pem.as_bytes()).collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes());
        Identity::new(chain.expect("it was written by this module"), key.expect("as was this"))
            .expect("the two were made together")
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// A certificate authority: a certificate and the key to sign others with.
pub struct Authority {
    pem: Issued,
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority that lives for ten years and may sign leaf certificates only.
    ///
    /// # Errors
    ///
    /// A common name that is empty or longer than 64 characters.
    pub fn generate(common_name: &str) -> Result<Self, GenerateError> {
        Self::with_key(common_name, KeyPair::generate()?)
    }

    /// Reads an authority's certificate and key from two PEM files.
    ///
    /// # Errors
    ///
    /// A file cannot be loaded, the two do not match, or the certificate is not an authority's.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, GenerateError> {
        let identity = Identity::load(cert, key)?;
        if !identity.leaf().authority {
            return Err(GenerateError::NotAuthority { path: cert.to_owned() });
        }
        let certificate = identity.chain()[0].clone();
        let issuer = Issuer::from_ca_cert_der(&certificate, KeyPair::try_from(identity.key())?)?;
        let text = |path| read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let pem = Issued { cert_pem: text(cert)?, key_pem: text(key)? };
        Ok(Self { pem, certificate, not_after: identity.not_after(), issuer })
    }

    pub(super) fn with_key(common_name: &str, key: KeyPair) -> Result<Self, GenerateError> {
        let not_after = SystemTime::now() + AUTHORITY_LIFETIME;
        let mut params = parameters(common_name, SystemTime::now() - CLOCK_SKEW, not_after)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let pem = Issued { cert_pem: certificate.pem(), key_pem: key.serialize_pem() };
        Ok(Self { pem, certificate: certificate.into(), not_after, issuer: Issuer::new(params, key) })
    }

    /// The authority's own certificate: what others have to trust.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authority's own certificate and key, as PEM.
    pub fn pem(&self) -> &Issued {
        &self.pem
    }

    /// Makes a key and signs a certificate for it.
    ///
    /// # Errors
    ///
    /// A name that no certificate can hold, a server without names, or an impossible common name.
    pub fn issue(&self, request: &Request) -> Result<Issued, GenerateError> {
        self.issue_for(&KeyPair::generate()?, request)
    }

    pub(super) fn issue_for(&self, key: &KeyPair, request: &Request) -> Result<Issued, GenerateError> {
        let now = SystemTime::now();
        let wanted = now.checked_add(request.lifetime).unwrap_or(self.not_after);
        self.sign(key, request, now - CLOCK_SKEW, wanted.min(self.not_after))
    }

    pub(super) fn sign(
        &self,
        key: &KeyPair,
        request: &Request,
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> Result<Issued, GenerateError> {
        let mut params = parameters(&request.common_name, not_before, not_after)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match request.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        for name in &request.names {
            let name = alternative_name(name)?;
            if !params.subject_alt_names.contains(&name) {
                params.subject_alt_names.push(name);
            }
        }
        if params.subject_alt_names.is_empty() && request.usage != Usage::Client {
            return Err(GenerateError::NoNames);
        }
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Issued { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

fn parameters(
    common_name: &str,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, GenerateError> {
    if !(1..=64).contains(&common_name.chars().count()) {
        return Err(GenerateError::CommonName { name: common_name.to_owned() });
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    // rcgen's default is a digest of the key, which would repeat when a key is certified again.
    params.serial_number = Some(serial_number());
    Ok(params)
}

fn serial_number() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    // A positive integer without leading zeros, whatever was drawn.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn alternative_name(name: &str) -> Result<SanType, GenerateError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    if name.starts_with(NODE_NAME) {
        let uri = name.to_owned().try_into();
        return uri.map(SanType::URI).map_err(|_| GenerateError::Name { name: name.to_owned() });
    }
    let invalid = || GenerateError::Name { name: name.to_owned() };
    let host = name.strip_prefix("*.").unwrap_or(name);
    if !is_dns_name(host) {
        return Err(invalid());
    }
    Ok(SanType::DnsName(name.to_ascii_lowercase().try_into().map_err(|_| invalid())?))
}

pub(super) fn is_dns_name(name: &str) -> bool {
    // A certificate holds names without the final dot, and clients drop it before they compare.
    DnsName::try_from(name).is_ok() && !name.ends_with('.')
}

/// Why certificates could not be generated: what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A name is no address and no DNS name.
    #[error(
        "`{name}` is neither an IP address nor a DNS name: give it without a port or scheme, in letters, \
         digits, hyphens and dots (a name in another script as xn--…)"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A server's certificate without names.
    #[error(
        "a server's certificate without names is good for nothing: give at least one DNS name or IP address"
    )]
    NoNames,
    /// The common name does not fit.
    #[error("`{name}` cannot be a common name: give 1 to 64 characters")]
    CommonName {
        /// The common name.
        name: String,
    },
    /// The certificate to sign with is not an authority's.
    #[error("the certificate in {} is not an authority's: make one with `adit certs ca`", path.display())]
    NotAuthority {
        /// The file.
        path: PathBuf,
    },
    /// Two files are needed, and only one is there.
    #[error(
        "{} is there without {}: put the missing file back, or remove the other for new ones to be made",
        present.display(), missing.display()
    )]
    Halved {
        /// The file that exists.
        present: PathBuf,
        /// The file that belongs to it.
        missing: PathBuf,
    },
    /// A node's certificate is to be made, and the authority's key is elsewhere.
    #[error(
        "{} has to be made, and {} is there without {}: put that key here, or a node's certificate and key \
         made where it is (`adit certs node`)",
        node.display(), cert.display(), key.display()
    )]
    NoAuthorityKey {
        /// The authority's certificate, which exists.
        cert: PathBuf,
        /// The authority's key, which does not.
        key: PathBuf,
        /// What was to be made.
        node: PathBuf,
    },
    /// The node has a certificate, but not that of the authority which signed it.
    #[error(
        "{} is there without {}, the certificate of the authority that signed it: put that here, or \
         remove {} and {} and start again",
        node.display(), cert.display(), node.display(), key.display()
    )]
    NoAuthority {
        /// The authority's certificate, which does not exist.
        cert: PathBuf,
        /// The node's certificate.
        node: PathBuf,
        /// The node's key.
        key: PathBuf,
    },
    /// The node's certificate has ended.
    #[error(
        "the certificate in {} ended on {}: remove it and {} and start again",
        cert.display(), day(*ended), key.display()
    )]
    NodeExpired {
        /// The node's certificate.
        cert: PathBuf,
        /// The node's key.
        key: PathBuf,
        /// When it ended.
        ended: SystemTime,
    },
    /// The folder cannot be used.
    #[error("the folder {} cannot be made or locked: check that this user may write there", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The authority's key cannot be used, or the system has no randomness.
    #[error(
        "the certificate could not be made and signed: use an ECDSA, Ed25519 or RSA key for the authority"
    )]
    Sign(#[from] rcgen::Error),
}
