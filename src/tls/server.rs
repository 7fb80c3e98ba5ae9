//! A server's side of TLS: which certificate it shows (by the name a client asks for) and what it asks of its
//! clients (`ClientAuth`).
//!
//! Edges and link listeners build their configuration here and keep it in a `ServerTls`; a reload replaces it
//! for handshakes to come, and connections that stand are never touched by that.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use super::identity::Identity;
use super::provider;
use super::trust::{ConfigError, root_store};

/// What a server asks of its clients.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// Nothing.
    None,
    /// A client may show a certificate; one that these authorities did not sign is refused.
    Optional(Vec<CertificateDer<'static>>),
    /// A client must show a certificate that one of these authorities signed.
    Required(Vec<CertificateDer<'static>>),
}

impl ClientAuth {
    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, ConfigError> {
        let builder = |roots| {
            root_store(roots).map(|store| WebPkiClientVerifier::builder_with_provider(store, provider()))
        };
        Ok(match self {
            Self::None => Arc::new(NoClientAuth),
            Self::Optional(roots) => builder(roots)?.allow_unauthenticated().build()?,
            Self::Required(roots) => builder(roots)?.build()?,
        })
    }
}

/// A server's configuration for TLS 1.2 and 1.3, also usable for QUIC. The first identity answers clients
/// whose name, if they ask for any, none of the identities has.
///
/// # Errors
///
/// No identity, or an authority for clients that is missing or cannot be read.
pub fn server_config(
    identities: &[Identity],
    clients: ClientAuth,
    alpn: &[&[u8]],
) -> Result<ServerConfig, ConfigError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients.verifier()?)
        .with_cert_resolver(Arc::new(Resolver::new(identities)?));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// A server's configuration that can be exchanged as a whole: certificates, what is asked of clients, and the
/// sessions that may be resumed, which a client that is not trusted any more could else go on with. Clones are
/// handles to the same one.
#[derive(Debug, Clone)]
pub struct ServerTls(Arc<RwLock<Arc<ServerConfig>>>);

impl ServerTls {
    /// Handshakes are made with `config`.
    pub fn new(config: ServerConfig) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(config))))
    }

    /// Handshakes are made with `config` from now on.
    pub fn replace(&self, config: ServerConfig) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// What the next handshake is to be made with.
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Chooses the certificate by the name that the client asks for: an identity with exactly that name, else one
/// with the `*.` name above it, else the first one. Of two with the same name, the earlier one answers for it.
struct Resolver {
    default: Arc<CertifiedKey>,
    names: HashMap<String, Arc<CertifiedKey>>,
}

impl Resolver {
    fn new(identities: &[Identity]) -> Result<Self, ConfigError> {
        let first = identities.first().ok_or(ConfigError::NoIdentity)?;
        let mut names = HashMap::new();
        for identity in identities {
            for name in &identity.leaf().names {
                names.entry(name.to_ascii_lowercase()).or_insert_with(|| Arc::clone(identity.certified()));
            }
        }
        Ok(Self { default: Arc::clone(first.certified()), names })
    }

    fn choose(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            self.names.get(&name).or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.names.get(&format!("*.{parent}"))
            })
        });
        Arc::clone(named.unwrap_or(&self.default))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(client.server_name()))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names.keys()).finish()
    }
}
