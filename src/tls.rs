//! Certificates and TLS: what this process is (`Identity`), whom it believes (`Trust`), the rustls
//! configurations made of both, and certificates of one's own where there are none yet (`Authority`,
//! `development`).
//!
//! Every link, edge and command line takes its TLS from here. Nothing in it opens a socket, and nothing
//! relies on a process-wide crypto provider: each configuration carries aws-lc-rs itself.

mod certificate;
mod development;
mod generate;
mod identity;
mod provider;
mod server;
mod trust;
mod write;

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod tests_files;
#[cfg(test)]
mod tests_handshakes;

#[cfg(feature = "server")]
pub(crate) use certificate::day;
pub use certificate::{ANY_NODE, Fingerprint, NODE_NAME, ParseFingerprintError, Summary, is_of_node};
pub use development::{Development, development, rehearse};
pub use generate::{Authority, DEFAULT_LIFETIME, GenerateError, Issued, Request, Usage};
pub use identity::{Identity, IdentityError, LoadError, load_certificates};
pub use provider::provider;
pub use server::{ClientAuth, ServerTls, server_config};
pub(crate) use trust::explain;
pub use trust::{ConfigError, PinMismatch, Trust, client_config};
pub use write::{WriteError, write_new};
