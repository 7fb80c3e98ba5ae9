//! The flags and the file of `adit node`.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use super::{ConfigError, LinkArgs, LogArgs, address, both, bytes, duration};
use crate::{
    edge,
    net::HostPort,
    node,
    protocol::NodeId,
    tls::{self, Identity},
};

/// A node.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// TOML file with any flag below by its name.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of this node, unique in its cluster. By default, the host's name.
    #[arg(long, value_name = "NAME")]
    node_id: Option<NodeId>,
    /// Name of the cluster.
    #[arg(long, value_name = "NAME", default_value = "adit")]
    cluster_id: NodeId,
    /// Folder of the link certificate, node.pem and node.key. What is missing is made, with an authority of its own, for
    /// development.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    certs: PathBuf,

    /// Listen for clients' HTTP.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8000", value_parser = address)]
    #[arg(help_heading = "Clients (the edge)")]
    edge_bind: SocketAddr,
    /// Listen for clients' HTTPS as well.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address, help_heading = "Clients (the edge)")]
    edge_tls_bind: Option<SocketAddr>,
    /// Certificate chain for HTTPS, as PEM (repeatable; chosen by the name that the client asks for). By default, the
    /// development certificate.
    #[arg(long, value_name = "FILE", help_heading = "Clients (the edge)")]
    edge_cert: Vec<PathBuf>,
    /// Private key of an --edge-cert, as PEM (repeatable, in the same order).
    #[arg(long, value_name = "FILE", help_heading = "Clients (the edge)")]
    edge_key: Vec<PathBuf>,
    /// Wait so long for a service's response headers, from the end of the request on. Nothing limits what follows.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    #[arg(help_heading = "Clients (the edge)")]
    request_timeout: Duration,
    /// Refuse requests whose headers are longer.
    #[arg(long, value_name = "BYTES", default_value_t = 65536, help_heading = "Clients (the edge)")]
    #[arg(value_parser = clap::value_parser!(u32).range(8192..))]
    max_header_bytes: u32,
    /// Refuse requests whose body is longer. By default, there is no limit.
    #[arg(long, value_name = "BYTES", value_parser = bytes, help_heading = "Clients (the edge)")]
    max_body_bytes: Option<u64>,

    /// Listen for the links of agents and forwarders (UDP).
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8001", value_parser = address)]
    #[arg(help_heading = "Agents and forwarders (links)")]
    link_bind: SocketAddr,
    /// Where agents and forwarders reach the link port, if not at the address it is bound to.
    #[arg(long, value_name = "HOST:PORT", help_heading = "Agents and forwarders (links)")]
    advertise_link: Option<HostPort>,
    /// Certificate chain of the link port, as PEM. By default, node.pem in --certs.
    #[arg(long, value_name = "FILE", help_heading = "Agents and forwarders (links)")]
    link_cert: Option<PathBuf>,
    /// Private key of --link-cert, as PEM. By default, node.key in --certs.
    #[arg(long, value_name = "FILE", help_heading = "Agents and forwarders (links)")]
    link_key: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Agents and forwarders (links)")]
    link: LinkArgs,

    /// Listen for operators: health, metrics, status.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8002", value_parser = address)]
    #[arg(help_heading = "Operators (admin)")]
    admin_bind: SocketAddr,

    /// On leaving, let open flows finish for at most so long.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration, help_heading = "Leaving")]
    grace_period: Duration,
    /// On leaving, go on accepting for so long, so that load balancers see that the node is not ready.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, help_heading = "Leaving")]
    drain_delay: Duration,

    #[command(flatten)]
    pub log: LogArgs,
}

impl NodeArgs {
    /// The node. Makes and logs development certificates where none are given and none are there.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn into_config(self) -> Result<node::Config, ConfigError> {
        let settings = self.link.settings()?;
        let own = self.certificates()?;
        let development = || development(&self.certs, &self.names());
        let identity = match own.link {
            Some(identity) => identity,
            None => development()?,
        };
        let tls = match self.edge_tls_bind {
            None => None,
            Some(bind) if own.edge.is_empty() => {
                Some(edge::TlsConfig { bind, identities: vec![development()?] })
            }
            Some(bind) => Some(edge::TlsConfig { bind, identities: own.edge }),
        };
        tracing::info!(pin = %identity.fingerprint(), "agents can pin the link certificate");
        Ok(node::Config {
            node: self.node_id.unwrap_or_else(default_id),
            cluster: self.cluster_id.to_string(),
            edge: edge::Config {
                bind: self.edge_bind,
                tls,
                request_timeout: self.request_timeout,
                max_header_bytes: self.max_header_bytes as usize,
                max_body_bytes: self.max_body_bytes,
            },
            link: node::LinkConfig {
                bind: self.link_bind,
                advertise: self.advertise_link,
                identity,
                settings,
            },
            admin: self.admin_bind,
            grace_period: self.grace_period,
            drain_delay: self.drain_delay,
        })
    }

    /// The certificates that the flags name.
    fn certificates(&self) -> Result<Certificates, ConfigError> {
        let (certs, keys) = (self.edge_cert.len(), self.edge_key.len());
        if certs != keys {
            return Err(ConfigError::EdgePairs { certs, keys });
        }
        if certs > 0 && self.edge_tls_bind.is_none() {
            return Err(ConfigError::Half { given: "--edge-cert", missing: "--edge-tls-bind" });
        }
        let link = both(("--link-cert", self.link_cert.as_ref()), ("--link-key", self.link_key.as_ref()))?;
        let edge = self.edge_cert.iter().zip(&self.edge_key);
        Ok(Certificates {
            link: link.map(|(cert, key)| Identity::load(cert, key)).transpose()?,
            edge: edge.map(|(cert, key)| Identity::load(cert, key)).collect::<Result<_, _>>()?,
        })
    }

    /// By what a development certificate should know this node, beside the host's own names.
    fn names(&self) -> Vec<String> {
        let advertised = self.advertise_link.iter().map(|link| link.host.clone());
        let bound = Some(self.link_bind.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback());
        advertised.chain(bound.map(|ip| ip.to_string())).collect()
    }
}

struct Certificates {
    link: Option<Identity>,
    edge: Vec<Identity>,
}

/// The node's certificate in the folder, made if it is not there.
fn development(dir: &std::path::Path, names: &[String]) -> Result<Identity, ConfigError> {
    let made = tls::development(dir, names)?;
    for file in &made.created {
        tracing::info!(file = %file.display(), "made for development, as nothing else is configured");
    }
    for warning in &made.warnings {
        tracing::warn!("{warning}");
    }
    Ok(Identity::load(&made.cert, &made.key)?)
}

/// Linux tells the host's name in a file, and shells often export it.
fn default_id() -> NodeId {
    let host =
        fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    let host = host.and_then(|name| NodeId::new(name.trim()).ok());
    host.unwrap_or_else(|| {
        let random = format!("node-{:08x}", rand::random::<u32>());
        NodeId::new(&random).expect("letters, digits and a dash")
    })
}
