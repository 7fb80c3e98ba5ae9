//! The flags and the file of `adit node`.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use ipnet::IpNet;

use super::{
    AccessLogArgs, AdminAuthArgs, AdminClientArgs, CallerLimitArgs, ConfigError, EdgeAuthArgs,
    EdgeClientArgs, LimitArgs, LinkArgs, LinkAuthArgs, LinkClientArgs, LogArgs, NodeTraceArgs, TenantArgs,
    UdpArgs, address, both, door::NodeDoorArgs, duration, layers::table, mapping, network, port,
};
use crate::{
    admin, auth, cluster,
    edge::{self, udp},
    net::HostPort,
    node,
    protocol::{HostPattern, NodeId},
    tls::{self, Development, Identity},
    upstream::Name,
};

/// A node.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    #[arg(long, value_name = "FILE")]
    #[arg(
        help = "TOML file with any flag below by its name, and a [[door]] for what is demanded of clients \
        before endpoints: `endpoint` (a name, `web-*` or `*`) and perhaps `tenant`, and `allow`, \
        `deny`, `basic-auth`, `require-header`"
    )]
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
    /// Tell clients of HTTPS that HTTP/3 is on this UDP port, if not on that of --edge-tls-bind; 0 for no HTTP/3.
    #[arg(long, value_name = "PORT", help_heading = "Clients (the edge)")]
    edge_http3_port: Option<u16>,
    /// Listen for TLS that the services end themselves. It is passed on unopened, to the TCP endpoint of the name that the
    /// client asks for (SNI).
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address, help_heading = "Clients (the edge)")]
    edge_sni_bind: Option<SocketAddr>,
    /// Listen for TCP connections to one endpoint (repeatable): a port of 127.0.0.1, or ADDRESS:PORT, and the endpoint's
    /// name.
    #[arg(long, value_name = "LISTEN=ENDPOINT", value_parser = port, help_heading = "Clients (the edge)")]
    tcp: Vec<edge::Port>,
    /// Take whose a connection is from its PROXY protocol header (v1 or v2), which is required of connections from this
    /// network, such as 10.0.0.0/8, or address (repeatable). From all others it is never read.
    #[arg(long, value_name = "CIDR", value_parser = network, help_heading = "Clients (the edge)")]
    edge_proxy_protocol: Vec<IpNet>,
    /// Let a whole host name stand for an endpoint, whatever its first label (repeatable): NAME, or *.NAME for all names
    /// below it.
    #[arg(long, value_name = "NAME=ENDPOINT", value_parser = mapping, help_heading = "Clients (the edge)")]
    host: Vec<(HostPattern, Name)>,
    /// Wait so long for an agent of an endpoint that had one a moment ago.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    #[arg(help_heading = "Clients (the edge)")]
    upstream_wait: Duration,
    #[command(flatten, next_help_heading = "Clients (the edge)")]
    limits: LimitArgs,

    /// Listen for plain UDP of clients, for one endpoint (repeatable).
    #[arg(long, value_name = "ADDRESS:PORT=ENDPOINT", help_heading = "Clients (the edge)")]
    udp: Vec<udp::Port>,
    #[command(flatten, next_help_heading = "Clients (the edge)")]
    associations: UdpArgs,

    /// Listen for the links of agents and forwarders (UDP).
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8001", value_parser = address)]
    #[arg(help_heading = "Agents and forwarders (links)")]
    link_bind: SocketAddr,
    /// Where agents and forwarders reach the link port. By default, at the address that it is bound to or, where that is any,
    /// at that of the interface with the default route.
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
    #[command(flatten, next_help_heading = "Credentials of agents and forwarders")]
    link_auth: LinkAuthArgs,
    #[command(flatten, next_help_heading = "Credentials of agents and forwarders")]
    link_clients: LinkClientArgs,
    /// Let whoever reaches a port in without credentials, where that is refused otherwise: at a link port that other
    /// machines reach, and at --edge-sni-bind beside an edge that asks for credentials.
    #[arg(long, help_heading = "Credentials of agents and forwarders")]
    allow_anonymous: bool,
    #[command(flatten, next_help_heading = "Credentials of clients")]
    edge_auth: EdgeAuthArgs,
    #[command(flatten, next_help_heading = "Credentials of clients")]
    edge_clients: EdgeClientArgs,
    #[arg(long, hide = true, value_parser = table::<NodeDoorArgs>, hide_default_value = true)]
    door: Vec<NodeDoorArgs>,
    #[command(flatten)]
    tenants: TenantArgs,
    #[command(flatten, next_help_heading = "Limits on callers")]
    callers: CallerLimitArgs,

    /// Listen for the links of other nodes (UDP, mutual TLS).
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8003", value_parser = address)]
    #[arg(help_heading = "Other nodes (peers)")]
    peer_bind: SocketAddr,
    /// Where other nodes reach the peer port. By default, at the address that it is bound to or, where that is any, at that
    /// of the interface which leads to --join.
    #[arg(long, value_name = "HOST:PORT", help_heading = "Other nodes (peers)")]
    advertise_peer: Option<HostPort>,
    /// Peer port of a node to find the cluster through (repeatable). A name stands for all its addresses, and is resolved
    /// again and again; that nobody is there yet is no error.
    #[arg(long, value_name = "HOST:PORT", num_args = 1.., help_heading = "Other nodes (peers)")]
    join: Vec<HostPort>,
    /// Certificate of this node for its peers, as PEM, with the name that `adit certs node` gives. By default, node.pem in
    /// --certs.
    #[arg(long, value_name = "FILE", help_heading = "Other nodes (peers)")]
    peer_cert: Option<PathBuf>,
    /// Private key of --peer-cert, as PEM. By default, node.key in --certs.
    #[arg(long, value_name = "FILE", help_heading = "Other nodes (peers)")]
    peer_key: Option<PathBuf>,
    /// Authority of the cluster, as PEM: who signs the certificates of its nodes. By default, ca.pem in --certs.
    #[arg(long, value_name = "FILE", help_heading = "Other nodes (peers)")]
    peer_ca: Option<PathBuf>,
    /// Ask agents to move when this node has more of their links than the average by this share; 0 for never.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, help_heading = "Other nodes (peers)")]
    rebalance_threshold: f64,
    /// Ask none to move below this many links.
    #[arg(long, value_name = "LINKS", default_value_t = 50, help_heading = "Other nodes (peers)")]
    rebalance_min: usize,
    /// Ask at most this share of the average to move each second.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, help_heading = "Other nodes (peers)")]
    rebalance_rate: f64,

    /// Listen for operators: health, metrics, status.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8002", value_parser = address)]
    #[arg(help_heading = "Operators (admin)")]
    admin_bind: SocketAddr,
    /// Certificate chain of the admin port, as PEM. It speaks HTTPS then, and nothing in the clear.
    #[arg(long, value_name = "FILE", help_heading = "Operators (admin)")]
    admin_cert: Option<PathBuf>,
    /// Private key of --admin-cert, as PEM.
    #[arg(long, value_name = "FILE", help_heading = "Operators (admin)")]
    admin_key: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Operators (admin)")]
    admin_auth: AdminAuthArgs,
    #[command(flatten, next_help_heading = "Operators (admin)")]
    admin_clients: AdminClientArgs,
    /// Count requests and connections by endpoint too, for so many endpoints at most: each is several series for whoever
    /// scrapes. All others are counted together, as "*".
    #[arg(long, value_name = "N", default_value = "0", help_heading = "Operators (admin)")]
    metrics_endpoints: usize,

    /// On leaving, let open flows finish for at most so long.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration, help_heading = "Leaving")]
    grace_period: Duration,
    /// On leaving, go on accepting for so long, so that load balancers see that the node is not ready.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, help_heading = "Leaving")]
    drain_delay: Duration,

    #[command(flatten, next_help_heading = "Logs")]
    access_log: AccessLogArgs,
    #[command(flatten, next_help_heading = "Traces")]
    traces: NodeTraceArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// What is done where development certificates are wanted and not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Made,
    Rehearsed,
    Refused,
}

impl NodeArgs {
    /// The node. Makes and logs development certificates where none are given and none are there.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn into_config(self) -> Result<node::Config, ConfigError> {
        self.start().map(|(config, _)| config)
    }

    /// The same, and the files that were made.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn start(self) -> Result<(node::Config, Vec<PathBuf>), ConfigError> {
        self.read(Missing::Made)
    }

    /// The node as it would be, and the files that starting it would make. None is made.
    ///
    /// # Errors
    /// Those of [`NodeArgs::into_config`].
    pub fn rehearse(self) -> Result<(node::Config, Vec<PathBuf>), ConfigError> {
        self.read(Missing::Rehearsed)
    }

    /// What a node that runs should be now, which needs its certificates to be there.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn again(self) -> Result<node::Config, ConfigError> {
        self.read(Missing::Refused).map(|(config, _)| config)
    }

    fn read(self, missing: Missing) -> Result<(node::Config, Vec<PathBuf>), ConfigError> {
        let settings = self.link.settings()?;
        let (auth, Clients { edge: edge_clients, link: link_clients, admin: admin_clients }) = self.auth()?;
        let exposure = node::Exposure {
            link: self.link_bind,
            sni: self.edge_sni_bind.is_some(),
            admin: self.admin_bind,
        };
        exposure.check(&auth, self.allow_anonymous)?;
        if missing != Missing::Refused {
            exposure.tell(&auth);
        }
        let access_log = self.access_log.clone().config(&auth.edge.doors)?;
        let traces = self.traces.clone().config()?;
        let own = self.certificates()?;
        let mut made: Option<Development> = None;
        let mut development = || -> Result<Identity, ConfigError> {
            match &made {
                Some(made) => Ok(made.identity.clone()),
                None => Ok(made.insert(development(&self.certs, &self.names(), missing)?).identity.clone()),
            }
        };
        let identity = match own.link {
            Some(identity) => identity,
            None => development()?,
        };
        let http3 = match self.edge_http3_port {
            None => edge::Http3::Bound,
            Some(0) => edge::Http3::Off,
            Some(port) => edge::Http3::Port(port),
        };
        let tls = match self.edge_tls_bind {
            None if self.edge_http3_port.is_some_and(|port| port > 0) => {
                return Err(ConfigError::Half { given: "--edge-http3-port", missing: "--edge-tls-bind" });
            }
            None => None,
            Some(bind) if own.edge.is_empty() => {
                Some(edge::TlsConfig { bind, identities: vec![development()?], clients: edge_clients, http3 })
            }
            Some(bind) => Some(edge::TlsConfig { bind, identities: own.edge, clients: edge_clients, http3 }),
        };
        if missing != Missing::Rehearsed {
            tracing::info!(pin = %identity.fingerprint(), "agents can pin the link certificate");
        }
        let node = self.node_id.clone().unwrap_or_else(default_id);
        let cluster_links = self.cluster_links(&node, made.as_ref())?;
        let config = node::Config {
            node,
            cluster_links,
            hosts: self.hosts()?,
            auth,
            allow_anonymous: self.allow_anonymous,
            limits: self.callers.limits()?,
            upstream_wait: self.upstream_wait,
            access_log,
            traces,
            rebalance: node::Rebalance {
                threshold: self.rebalance_threshold,
                minimum: self.rebalance_min,
                rate: self.rebalance_rate,
            },
            cluster: self.cluster_id.to_string(),
            edge: edge::Config {
                bind: self.edge_bind,
                tls,
                sni: self.edge_sni_bind,
                tcp: self.tcp,
                balancers: self.edge_proxy_protocol,
                limits: self.limits.limits(),
                metrics_endpoints: self.metrics_endpoints,
            },
            udp: udp::Config { ports: self.udp, idle: self.associations.udp_idle },
            link: node::LinkConfig {
                bind: self.link_bind,
                advertise: self.advertise_link,
                identity,
                clients: link_clients,
                settings,
            },
            admin: admin::Config {
                bind: self.admin_bind,
                tls: own.admin.map(|identity| admin::TlsConfig { identity, clients: admin_clients }),
            },
            grace_period: self.grace_period,
            drain_delay: self.drain_delay,
        };
        Ok((config, made.map_or_else(Vec::new, |made| made.created)))
    }

    /// What the ports ask of their callers, and what they ask for in TLS handshakes.
    fn auth(&self) -> Result<(node::Auth, Clients), ConfigError> {
        let (tenants, asked) = (self.tenants.keys()?, self.tenants.asked());
        let doors: Vec<_> =
            self.door.iter().cloned().map(NodeDoorArgs::into_door).collect::<Result<_, _>>()?;
        let (edge_clients, edge_certificates) = self.edge_clients.config()?;
        if edge_certificates.is_some() && self.edge_tls_bind.is_none() {
            return Err(ConfigError::Half { given: "--edge-client-ca", missing: "--edge-tls-bind" });
        }
        let (link_clients, link_certificates) = self.link_clients.config()?;
        let edge = auth::PortConfig {
            keys: self.edge_auth.clone().config()?,
            tenants: tenants.clone(),
            certificates: edge_certificates,
            asked: asked.clone(),
            doors: doors.into(),
            keep_expired: self.edge_auth.keep_expired(),
        };
        let link = auth::PortConfig {
            keys: self.link_auth.clone().config()?,
            tenants,
            certificates: link_certificates,
            asked,
            doors: auth::Doors::default(),
            keep_expired: self.link_auth.keep_expired(),
        };
        let (admin_clients, admin_certificates) = self.admin_clients.config()?;
        if admin_certificates.is_some() && self.admin_cert.is_none() {
            return Err(ConfigError::Half { given: "--admin-client-ca", missing: "--admin-cert" });
        }
        let admin = auth::PortConfig {
            keys: self.admin_auth.clone().config()?,
            certificates: admin_certificates,
            ..auth::PortConfig::default()
        };
        let clients = Clients { edge: edge_clients, link: link_clients, admin: admin_clients };
        Ok((node::Auth { edge, link, admin }, clients))
    }

    /// The other nodes. Certificates that are there for nothing else leave a node alone; those that were asked for must do.
    /// The development certificates may have been `made` in memory alone.
    fn cluster_links(
        &self,
        node: &NodeId,
        made: Option<&Development>,
    ) -> Result<Option<cluster::Config>, ConfigError> {
        let pair = both(("--peer-cert", self.peer_cert.as_ref()), ("--peer-key", self.peer_key.as_ref()))?;
        let asked = pair.is_some() || self.peer_ca.is_some() || !self.join.is_empty();
        let ca = self.peer_ca.clone().unwrap_or_else(|| self.certs.join("ca.pem"));
        let (cert, key) = pair.map_or_else(
            || (self.certs.join("node.pem"), self.certs.join("node.key")),
            |(cert, key)| (cert.clone(), key.clone()),
        );
        let there = made.is_some() || (ca.exists() && cert.exists() && key.exists());
        if !asked && !there {
            tracing::info!("there are no certificates of a cluster: this node is alone");
            return Ok(None);
        }
        let identity = match made.filter(|_| pair.is_none()) {
            Some(made) => made.identity.clone(),
            None => Identity::load(&cert, &key)?,
        };
        let roots = match made.filter(|_| self.peer_ca.is_none()) {
            Some(made) => made.roots.clone(),
            None => tls::Trust::roots_from_file(&ca)?,
        };
        let is_of_node = identity.chain().first().map(|leaf| tls::is_of_node(leaf, node.as_str()));
        if !matches!(is_of_node, Some(Ok(true))) {
            if asked {
                return Err(ConfigError::NotOfNode { cert, node: node.clone() });
            }
            tracing::warn!(cert = %cert.display(), %node, "the certificate is not for this node, which is therefore alone");
            return Ok(None);
        }
        Ok(Some(cluster::Config {
            bind: self.peer_bind,
            advertise: self.advertise_peer.clone(),
            join: self.join.clone(),
            identity,
            roots,
        }))
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
        let admin =
            both(("--admin-cert", self.admin_cert.as_ref()), ("--admin-key", self.admin_key.as_ref()))?;
        let edge = self.edge_cert.iter().zip(&self.edge_key);
        Ok(Certificates {
            link: link.map(|(cert, key)| Identity::load(cert, key)).transpose()?,
            admin: admin.map(|(cert, key)| Identity::load(cert, key)).transpose()?,
            edge: edge.map(|(cert, key)| Identity::load(cert, key)).collect::<Result<_, _>>()?,
        })
    }

    /// The hosts that are mapped, each to one endpoint.
    fn hosts(&self) -> Result<Vec<(HostPattern, Name)>, ConfigError> {
        let mut hosts = BTreeMap::new();
        for (host, endpoint) in &self.host {
            if hosts.insert(host, endpoint).is_some_and(|other| other != endpoint) {
                return Err(ConfigError::HostTwice(host.clone()));
            }
        }
        Ok(hosts.into_iter().map(|(host, endpoint)| (host.clone(), endpoint.clone())).collect())
    }

    /// By what a development certificate should know this node, beside the host's own names.
    fn names(&self) -> Vec<String> {
        let advertised = self.advertise_link.iter().chain(&self.advertise_peer).map(|link| link.host.clone());
        let bound = Some(self.link_bind.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback());
        advertised.chain(bound.map(|ip| ip.to_string())).collect()
    }
}

/// What the ports ask for in TLS handshakes.
struct Clients {
    edge: tls::ClientAuth,
    link: tls::ClientAuth,
    admin: tls::ClientAuth,
}

struct Certificates {
    link: Option<Identity>,
    admin: Option<Identity>,
    edge: Vec<Identity>,
}

/// The node's certificate in the folder.
fn development(dir: &Path, names: &[String], missing: Missing) -> Result<Development, ConfigError> {
    let found = match missing {
        Missing::Made => tls::development(dir, names)?,
        Missing::Rehearsed | Missing::Refused => tls::rehearse(dir, names)?,
    };
    match (missing, found.created.first()) {
        (Missing::Refused, Some(path)) => {
            let source = fs::metadata(path).err().unwrap_or_else(|| io::ErrorKind::NotFound.into());
            return Err(tls::LoadError::Unreadable { path: path.clone(), source }.into());
        }
        (Missing::Made, _) => {
            for file in &found.created {
                tracing::info!(file = %file.display(), "made for development, as nothing else is configured");
            }
        }
        _ => {}
    }
    for warning in &found.warnings {
        tracing::warn!("{warning}");
    }
    Ok(found)
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
