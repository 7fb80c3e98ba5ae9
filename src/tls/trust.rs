//! Whom a client believes: the platform's authorities, authorities of its own, pinned certificates, or
//! anybody; and the client's rustls configuration made of that.
//!
//! Whatever is trusted, the server always has to prove that it holds the key of the certificate it shows.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, VerifierBuilderError};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, OtherError};
use rustls::{RootCertStore, SignatureScheme};

use super::certificate::Fingerprint;
use super::identity::{Identity, LoadError, load_certificates};
use super::provider;

/// Which servers a client believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// What the platform trusts, and `extra` authorities beside it. Where the platform has no store at all,
    /// only `extra`.
    Platform {
        /// Further authorities.
        extra: Vec<CertificateDer<'static>>,
    },
    /// What the platform trusts, and the authorities in a file beside it, if it is there when a server is judged: it may be
    /// made, or replaced, while the client runs.
    PlatformAnd(PathBuf),
    /// Exactly these authorities.
    Roots(Vec<CertificateDer<'static>>),
    /// Servers whose leaf has one of these digests; its names, chain and dates are not looked at.
    Pins(Vec<Fingerprint>),
    /// Any server: for trying things out only.
    Insecure,
    /// Any server whose certificate one of these authorities has signed, whatever its names: nodes of a cluster, which
    /// look at the node's name themselves ([`is_of_node`](super::is_of_node)).
    Cluster(Vec<CertificateDer<'static>>),
}

impl Trust {
    /// The authorities in the PEM file `path`, for [`Trust::Roots`], [`Trust::Platform`] or a server's
    /// `ClientAuth`.
    ///
    /// # Errors
    ///
    /// The file cannot be read, holds no certificate, or one that cannot be an authority.
    pub fn roots_from_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
        let roots = load_certificates(path)?;
        for root in &roots {
            RootCertStore::empty()
                .add(root.clone())
                .map_err(|source| LoadError::BadCertificate { path: path.to_owned(), source })?;
        }
        Ok(roots)
    }

    fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, ConfigError> {
        Ok(match self {
            Self::Platform { extra } => Arc::new(
                rustls_platform_verifier::Verifier::new_with_extra_roots(extra.iter().cloned(), provider())
                    .map_err(ConfigError::Platform)?,
            ),
            Self::PlatformAnd(path) => Judge::of(Demand::FileOrPlatform {
                path: path.clone(),
                platform: rustls_platform_verifier::Verifier::new(provider()),
            }),
            Self::Roots(roots) => {
                WebPkiServerVerifier::builder_with_provider(root_store(roots)?, provider()).build()?
            }
            Self::Pins(pins) if pins.is_empty() => return Err(ConfigError::NoPins),
            Self::Pins(pins) => Judge::of(Demand::Pinned(pins.clone())),
            Self::Insecure => Judge::of(Demand::Nothing),
            Self::Cluster(roots) => Judge::of(Demand::Chain(root_store(roots)?)),
        })
    }
}

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is nobody to trust.
    #[error("no authority to trust was given: name a file with the certificate of at least one")]
    NoRoots,
    /// There is no pin.
    #[error("no pin was given: name at least one `sha256:` digest")]
    NoPins,
    /// There is nothing to serve with.
    #[error("a server needs a certificate: give at least one identity")]
    NoIdentity,
    /// A trusted certificate cannot be one of an authority.
    #[error("a trusted certificate cannot be read as an authority's: give X.509 certificates of authorities")]
    BadRoot(#[source] TlsError),
    /// The platform trusts nobody, and no authority was given beside it.
    #[error(
        "the platform's trusted authorities cannot be used: install them, or name the authority to trust"
    )]
    Platform(#[source] TlsError),
    /// The verifier could not be built.
    #[error("no verifier can be made of the trusted authorities: give X.509 certificates of authorities")]
    Verifier(#[from] VerifierBuilderError),
    /// rustls refused the rest.
    #[error("TLS could not be configured")]
    Tls(#[from] TlsError),
}

/// A client's configuration for TLS 1.2 and 1.3, also usable for QUIC.
///
/// # Errors
///
/// Nobody to trust, or an authority that cannot be read.
pub fn client_config(
    trust: &Trust,
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, ConfigError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        // The name is rustls' warning that the verifier may be lax; see `Trust` for what each kind demands.
        .dangerous()
        .with_custom_certificate_verifier(trust.verifier()?);
    let mut config = match identity {
        Some(identity) => {
            let own = SingleCertAndKey::from(Arc::clone(identity.certified()));
            builder.with_client_cert_resolver(Arc::new(own))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

pub(super) fn root_store(roots: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, ConfigError> {
    if roots.is_empty() {
        return Err(ConfigError::NoRoots);
    }
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(ConfigError::BadRoot)?;
    }
    Ok(Arc::new(store))
}

/// The server showed a certificate that is not pinned; found inside the handshake's
/// [`rustls::CertificateError::Other`].
#[derive(thiserror::Error)]
#[error(
    "the server's certificate is {presented}, which is not pinned: if this is the node that you mean, give --pin the \
     digest that it logs when it starts"
)]
pub struct PinMismatch {
    /// The digest of what it showed.
    pub presented: Fingerprint,
}

/// rustls shows what it does not know by `Debug`, and QUIC passes only that text on.
impl fmt::Debug for PinMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is demanded of a server's certificate where webpki's own verifier does not serve.
#[derive(Debug)]
enum Demand {
    /// One of these digests.
    Pinned(Vec<Fingerprint>),
    /// Nothing.
    Nothing,
    /// A chain to one of these, whatever the names.
    Chain(Arc<RootCertStore>),
    /// Chain and name by the authorities in a file, as they are at that moment, or else by the platform.
    FileOrPlatform { path: PathBuf, platform: Result<rustls_platform_verifier::Verifier, TlsError> },
}

/// Judges servers by a [`Demand`]; signatures of the handshake are verified all the same.
#[derive(Debug)]
struct Judge {
    demand: Demand,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Judge {
    fn of(demand: Demand) -> Arc<Self> {
        Arc::new(Self { demand, algorithms: provider().signature_verification_algorithms })
    }
}

/// A verifier of the authorities in a file; nothing when it is not there.
fn verifier_of_file(path: &Path) -> Option<Result<Arc<WebPkiServerVerifier>, TlsError>> {
    if !path.exists() {
        return None;
    }
    let verifier = Trust::roots_from_file(path)
        .map_err(|error| error.to_string())
        .and_then(|roots| root_store(&roots).map_err(|error| error.to_string()))
        .and_then(|store| {
            let builder = WebPkiServerVerifier::builder_with_provider(store, provider());
            builder.build().map_err(|error| error.to_string())
        });
    Some(verifier.map_err(TlsError::General))
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match &self.demand {
            Demand::Nothing => {}
            Demand::Pinned(pins) => {
                let presented = Fingerprint::of(leaf);
                if !pins.contains(&presented) {
                    let mismatch = OtherError(Arc::new(PinMismatch { presented }));
                    return Err(TlsError::InvalidCertificate(CertificateError::Other(mismatch)));
                }
            }
            Demand::Chain(roots) => {
                let leaf = ParsedCertificate::try_from(leaf)?;
                let algorithms = self.algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms)?;
            }
            Demand::FileOrPlatform { path, platform } => {
                let by_platform = || match platform {
                    Ok(platform) => platform.verify_server_cert(leaf, intermediates, name, ocsp, now),
                    Err(error) => Err(error.clone()),
                };
                return match verifier_of_file(path) {
                    None => by_platform(),
                    Some(verifier) => verifier
                        .and_then(|verifier| {
                            verifier.verify_server_cert(leaf, intermediates, name, ocsp, now)
                        })
                        // What the file's authorities say against it tells more than what the platform's do.
                        .or_else(|error| by_platform().map_err(|_| error)),
                };
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, leaf, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
/// What a handshake failed with, and what to do about the mistake that is made first and most often.
pub(crate) fn explain(text: &str) -> String {
    // What a verifier has said itself, in the frame that rustls shows it in.
    let said = text.split_once("Other(OtherError(").and_then(|(_, rest)| rest.strip_suffix("))"));
    match said {
        Some(said) => said.into(),
        None if text.contains("UnknownIssuer") => {
            format!(
                "{text}; trust the authority that has signed the node's certificate (--ca FILE, or ca.pem in --certs), or \
                 pin the certificate (--pin sha256:..., which the node logs when it starts)"
            )
        }
        None => text.into(),
    }
}
