//! How agents and forwarders reach a node: its address, whom they believe, and who they are.

use std::path::PathBuf;

use clap::Args;
use rustls::pki_types::ServerName;

use super::{ConfigError, LinkArgs, both};
use crate::{
    client::{self, Backoff},
    net::HostPort,
    protocol::{ALPN_LINK, Secret, TenantId},
    tls::{self, Fingerprint, Identity, Trust},
};

/// The link to the cluster.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Link to the cluster")]
pub struct ConnectArgs {
    /// The link port of a node.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8001")]
    connect: HostPort,
    /// The name that the node's certificate must have, if not the host of --connect.
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    server_name: Option<String>,
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
    /// Tenant to ask for.
    #[arg(long, value_name = "NAME")]
    tenant: Option<TenantId>,
    /// Token to show to the node. In ADIT_TOKEN it stays out of the list of processes.
    #[arg(long, value_name = "TOKEN", hide_default_value = true)]
    token: Option<Secret>,
    /// A label of this process for people, shown by `adit status`.
    #[arg(long, value_name = "LABEL")]
    name: Option<String>,
    #[command(flatten)]
    link: LinkArgs,
}

impl ConnectArgs {
    pub(super) fn into_config(self) -> Result<client::Config, ConfigError> {
        let trust = self.trust()?;
        let identity = both(("--cert", self.cert), ("--key", self.key))?
            .map(|(cert, key)| Identity::load(&cert, &key))
            .transpose()?;
        Ok(client::Config {
            connect: self.connect,
            tls: tls::client_config(&trust, identity.as_ref(), &[ALPN_LINK])?,
            server_name: self.server_name,
            name: self.name,
            tenant: self.tenant,
            token: self.token,
            settings: self.link.settings()?,
            backoff: Backoff::default(),
            links: client::Config::LINKS,
        })
    }

    fn trust(&self) -> Result<Trust, ConfigError> {
        match (&self.ca, self.pin.as_slice(), self.insecure) {
            (Some(_), _, true) => Err(ConfigError::Conflict { one: "--insecure", other: "--ca" }),
            (_, [_, ..], true) => Err(ConfigError::Conflict { one: "--insecure", other: "--pin" }),
            (Some(_), [_, ..], false) => Err(ConfigError::Conflict { one: "--ca", other: "--pin" }),
            (None, [], true) => {
                tracing::warn!(
                    connect = %self.connect,
                    "--insecure: the node is not verified, so whoever answers can read and change everything"
                );
                Ok(Trust::Insecure)
            }
            (None, pins @ [_, ..], false) => Ok(Trust::Pins(pins.to_vec())),
            (Some(ca), [], false) => Ok(Trust::Roots(Trust::roots_from_file(ca)?)),
            (None, [], false) => Ok(Trust::PlatformAnd(self.certs.join("ca.pem"))),
        }
    }
}

fn server_name(text: &str) -> Result<String, String> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.into()),
        Err(_) => Err("expected a host name or an IP address, without a port".into()),
    }
}
