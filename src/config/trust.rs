//! Whom a client of a node believes, and who it is itself: the same flags wherever TLS is spoken to a node.

use std::{fmt, path::PathBuf};

use clap::Args;
use rustls::pki_types::ServerName;

use super::{ConfigError, both};
use crate::tls::{Fingerprint, Identity, Trust};

/// Trust in a node, and an identity.
#[derive(Debug, Clone, Args)]
pub struct TrustArgs {
    /// Folder whose ca.pem, when there is one, is trusted beside the public authorities.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    certs: PathBuf,
    /// Trust only the authorities in this PEM file.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Trust only a node whose certificate has this digest (repeatable). `adit node` logs its own as it starts.
    #[arg(long, value_name = "sha256:HEX")]
    pin: Vec<Fingerprint>,
    /// Trust any node. Whoever answers can read and change everything.
    #[arg(long)]
    insecure: bool,
    /// Certificate to show to the node, as PEM.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The private key of --cert, as PEM.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl TrustArgs {
    /// Whom to believe at this address.
    ///
    /// # Errors
    /// What was given does not go together, or cannot be used.
    pub fn trust(&self, address: &dyn fmt::Display) -> Result<Trust, ConfigError> {
        match (&self.ca, self.pin.as_slice(), self.insecure) {
            (Some(_), _, true) => Err(ConfigError::Conflict { one: "--insecure", other: "--ca" }),
            (_, [_, ..], true) => Err(ConfigError::Conflict { one: "--insecure", other: "--pin" }),
            (Some(_), [_, ..], false) => Err(ConfigError::Conflict { one: "--ca", other: "--pin" }),
            (None, [], true) => {
                tracing::warn!(
                    connect = %address,
                    "--insecure: the node is not verified, so whoever answers can read and change everything"
                );
                Ok(Trust::Insecure)
            }
            (None, pins @ [_, ..], false) => Ok(Trust::Pins(pins.to_vec())),
            (Some(ca), [], false) => Ok(Trust::Roots(Trust::roots_from_file(ca)?)),
            (None, [], false) => Ok(Trust::PlatformAnd(self.certs.join("ca.pem"))),
        }
    }

    /// What to show to the node, if anything.
    ///
    /// # Errors
    /// What was given does not go together, or cannot be used.
    pub fn identity(&self) -> Result<Option<Identity>, ConfigError> {
        let pair = both(("--cert", self.cert.as_ref()), ("--key", self.key.as_ref()))?;
        Ok(pair.map(|(cert, key)| Identity::load(cert, key)).transpose()?)
    }
}

/// Reads `--server-name`.
pub(crate) fn server_name(text: &str) -> Result<String, String> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.into()),
        Err(_) => Err("expected a host name or an IP address, without a port".into()),
    }
}
