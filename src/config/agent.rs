//! The flags and the file of `adit agent`.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, ValueEnum};

use super::{
    ConfigError, ConnectArgs, LogArgs, TraceArgs, UdpArgs,
    agent_http::{HttpArgs, InspectArgs},
    door::{DoorArgs, HttpDoorArgs},
    duration,
    layers::table,
    probes::ProbeArgs,
};
use crate::{
    agent::{self, HealthCheck, Probe, ProxyVersion, Service, ServiceAddress},
    client,
    protocol::{EndpointId, HostPattern, Kind},
    tls::{self, Trust},
};

/// What every agent has.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Keep links to so many different nodes, where the cluster has them.
    #[arg(long, value_name = "N", default_value_t = client::Config::LINKS, value_parser = links)]
    #[arg(help_heading = "Link to the cluster")]
    links: usize,
    /// On leaving, let open flows finish for at most so long.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration, help_heading = "Leaving")]
    pub grace_period: Duration,
    #[command(flatten, next_help_heading = "Traces")]
    traces: TraceArgs,
    #[command(flatten)]
    admin: ProbeArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `adit agent tcp`, and the better part of `adit agent http`: one endpoint.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The name that clients ask for.
    #[arg(value_name = "ENDPOINT")]
    endpoint: EndpointId,
    /// The service: a port of this machine, host:port, or a URL (http, https, tcp, tls).
    #[arg(value_name = "ADDR")]
    address: ServiceAddress,
    #[command(flatten)]
    door: DoorArgs,
    #[command(flatten, next_help_heading = "Clients of the endpoint")]
    clients: ClientArgs,
    #[command(flatten, next_help_heading = "TLS towards the service")]
    upstream: UpstreamArgs,
    #[command(flatten, next_help_heading = "Health of the service")]
    health: HealthArgs,
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// `adit agent http`: one endpoint of a web service.
#[derive(Debug, Clone, Args)]
pub struct ServeHttpArgs {
    #[command(flatten)]
    version: VersionArgs,
    #[command(flatten)]
    door: HttpDoorArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    inspect: InspectArgs,
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// `adit agent udp`: one endpoint.
#[derive(Debug, Clone, Args)]
pub struct ServeUdpArgs {
    /// The name that clients ask for.
    #[arg(value_name = "ENDPOINT")]
    endpoint: EndpointId,
    /// The service: a port of this machine, or host:port.
    #[arg(value_name = "ADDR")]
    address: ServiceAddress,
    #[command(flatten)]
    door: DoorArgs,
    #[command(flatten)]
    udp: UdpArgs,
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// `adit agent run`: the endpoints of a file.
#[derive(Debug, Clone, Args)]
pub struct RunAgentArgs {
    #[arg(long, value_name = "FILE", required = true)]
    #[arg(help = "TOML file: any flag below by its name, and an [[endpoint]] for each service")]
    config: PathBuf,
    #[arg(long, hide = true, value_parser = table::<EndpointArgs>)]
    endpoint: Vec<EndpointArgs>,
    #[command(flatten)]
    inspect: InspectArgs,
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// A table `[[endpoint]]`. Its keys are these flags.
#[derive(Debug, Clone, Args)]
pub struct EndpointArgs {
    #[arg(long)]
    name: EndpointId,
    #[arg(long, value_enum, default_value = "http")]
    kind: EndpointKind,
    #[arg(long)]
    address: ServiceAddress,
    #[command(flatten)]
    door: DoorArgs,
    #[command(flatten)]
    http_door: HttpDoorArgs,
    #[command(flatten)]
    clients: ClientArgs,
    #[command(flatten)]
    upstream: UpstreamArgs,
    #[command(flatten)]
    health: HealthArgs,
    #[command(flatten)]
    version: VersionArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    udp: UdpArgs,
}

/// Which clients an endpoint has, and what its service is told of them.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ClientArgs {
    /// Let a whole host name stand for the endpoint (repeatable): NAME, or *.NAME for all names below it.
    #[arg(long, value_name = "NAME")]
    host: Vec<HostPattern>,
    /// Tell the service each client's address in a PROXY protocol header of this version, before all else.
    #[arg(long, value_name = "v1|v2")]
    proxy_protocol: Option<ProxyVersion>,
}

/// How HTTP is spoken with a service.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct VersionArgs {
    /// The service speaks HTTP/2 without TLS, as most gRPC servers do. One that has TLS chooses the version itself.
    #[arg(long, help_heading = "HTTP")]
    h2c: bool,
}

/// How the agent knows that a service is up.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct HealthArgs {
    /// Serve the endpoint only while its service is up: while it answers GET PATH with 2xx or 3xx, or accepts connections.
    #[arg(long, value_name = "PATH|tcp")]
    health_check: Option<Probe>,
    /// Check so often.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = some_time)]
    health_interval: Duration,
}

/// How the TLS of a service is verified.
#[derive(Debug, Clone, Default, Args)]
pub struct UpstreamArgs {
    /// Trust only the authorities in this PEM file. By default, the public ones.
    #[arg(long, value_name = "FILE")]
    upstream_ca: Option<PathBuf>,
    /// Trust any certificate of the service.
    #[arg(long)]
    upstream_insecure: bool,
}

/// What a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EndpointKind {
    /// HTTP.
    Http,
    /// Bytes.
    Tcp,
    /// Packets.
    Udp,
}

impl AgentArgs {
    /// An agent of these endpoints.
    fn serving(self, endpoints: Vec<agent::Endpoint>) -> Result<agent::Config, ConfigError> {
        let client = client::Config { links: self.links, ..self.connect.into_config()? };
        let (traces, admin) = (self.traces.config()?, self.admin.admin_bind);
        Ok(agent::Config { traces, admin, ..agent::Config::new(client, endpoints) })
    }
}

impl HealthArgs {
    fn into_config(self) -> Option<HealthCheck> {
        self.health_check.map(|probe| HealthCheck { probe, interval: self.health_interval })
    }
}

/// A duration that is not nothing.
pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(Duration::ZERO) => Err("expected more than nothing".into()),
        read => read.map_err(|error| error.to_string()),
    }
}

/// A number of links.
fn links(text: &str) -> Result<usize, String> {
    let max = client::Config::MAX_LINKS;
    let fits = text.parse().ok().filter(|links| (1..=max).contains(links));
    fits.ok_or_else(|| format!("expected a number from 1 to {max}"))
}

impl ServeArgs {
    /// The agent for this endpoint.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn into_config(self, kind: EndpointKind) -> Result<agent::Config, ConfigError> {
        self.with_http(kind, VersionArgs::default(), HttpDoorArgs::default(), HttpArgs::default())
    }

    fn with_http(
        self,
        kind: EndpointKind,
        version: VersionArgs,
        http_door: HttpDoorArgs,
        http: HttpArgs,
    ) -> Result<agent::Config, ConfigError> {
        let endpoint = EndpointArgs {
            name: self.endpoint,
            kind,
            address: self.address,
            door: self.door,
            http_door,
            clients: self.clients,
            version,
            http,
            upstream: self.upstream,
            health: self.health,
            udp: UdpArgs::default(),
        };
        self.agent.serving(vec![endpoint.into_endpoint()?])
    }
}

impl ServeUdpArgs {
    /// The agent for this endpoint.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn into_config(self) -> Result<agent::Config, ConfigError> {
        let endpoint = EndpointArgs {
            name: self.endpoint,
            kind: EndpointKind::Udp,
            address: self.address,
            door: self.door,
            http_door: HttpDoorArgs::default(),
            clients: ClientArgs::default(),
            version: VersionArgs::default(),
            http: HttpArgs::default(),
            upstream: UpstreamArgs::default(),
            health: HealthArgs::default(),
            udp: self.udp,
        };
        self.agent.serving(vec![endpoint.into_endpoint()?])
    }
}

impl ServeHttpArgs {
    /// The agent for this endpoint.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn into_config(self) -> Result<agent::Config, ConfigError> {
        let name = self.serve.endpoint.clone();
        let config = self.serve.with_http(EndpointKind::Http, self.version, self.door, self.http)?;
        let inspect = self.inspect.inspect;
        if inspect.is_some() && config.endpoints.iter().any(|endpoint| endpoint.kind != Kind::Http) {
            return Err(ConfigError::NotHttp { option: "--inspect", endpoint: name });
        }
        Ok(agent::Config { inspect, ..config })
    }
}

impl RunAgentArgs {
    /// The agent for all endpoints of the file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn into_config(self) -> Result<agent::Config, ConfigError> {
        if self.endpoint.is_empty() {
            return Err(ConfigError::Nothing { path: self.config, table: "endpoint" });
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.endpoint.iter().find(|endpoint| !names.insert(&endpoint.name)) {
            return Err(ConfigError::Duplicate(twice.name.clone()));
        }
        let endpoints = self.endpoint.into_iter().map(EndpointArgs::into_endpoint);
        let config = self.agent.serving(endpoints.collect::<Result<_, _>>()?)?;
        Ok(agent::Config { inspect: self.inspect.inspect, ..config })
    }
}

impl EndpointArgs {
    fn into_endpoint(self) -> Result<agent::Endpoint, ConfigError> {
        if self.kind == EndpointKind::Udp {
            self.check_udp()?;
        }
        let kind = match (self.kind, self.version.h2c) {
            (EndpointKind::Http, false) => Kind::Http,
            (EndpointKind::Http, true) if !self.address.is_tls() => Kind::Http2,
            (EndpointKind::Tcp, false) => Kind::Tcp,
            (EndpointKind::Udp, false) => Kind::Udp,
            (_, true) => return Err(ConfigError::NoH2c(self.name)),
        };
        let trust = self.upstream.trust(&self.name, self.address.is_tls())?;
        let tls = Arc::new(tls::client_config(&trust, None, &[])?);
        let service = Service::new(self.address, &tls)?.with_proxy_protocol(self.clients.proxy_protocol);
        let door = self.door.into_access(self.http_door, &self.name, kind)?;
        let http = self.http.into_options(&self.name, kind, &service)?;
        Ok(agent::Endpoint {
            name: self.name,
            kind,
            hosts: self.clients.host,
            service,
            door,
            health: self.health.into_config(),
            http,
            udp_idle: self.udp.udp_idle,
        })
    }

    /// What is only for services that are connected to.
    fn check_udp(&self) -> Result<(), ConfigError> {
        let given = [
            ("TLS", self.address.is_tls()),
            ("--upstream-ca", self.upstream.upstream_ca.is_some()),
            ("--upstream-insecure", self.upstream.upstream_insecure),
            ("--health-check", self.health.health_check.is_some()),
            ("--host", !self.clients.host.is_empty()),
            ("--proxy-protocol", self.clients.proxy_protocol.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(ConfigError::NotForUdp { option, endpoint: self.name.clone() }),
            None => Ok(()),
        }
    }
}

impl UpstreamArgs {
    fn trust(self, endpoint: &EndpointId, tls: bool) -> Result<Trust, ConfigError> {
        let without_tls = |option| ConfigError::NoTls { option, endpoint: endpoint.clone() };
        match (self.upstream_ca, self.upstream_insecure) {
            (Some(_), true) => {
                Err(ConfigError::Conflict { one: "--upstream-insecure", other: "--upstream-ca" })
            }
            (Some(_), false) if !tls => Err(without_tls("--upstream-ca")),
            (None, true) if !tls => Err(without_tls("--upstream-insecure")),
            (Some(ca), false) => Ok(Trust::Roots(Trust::roots_from_file(&ca)?)),
            (None, true) => {
                tracing::warn!(%endpoint, "--upstream-insecure: the service's certificate is not verified");
                Ok(Trust::Insecure)
            }
            (None, false) if tls => Ok(Trust::Platform { extra: Vec::new() }),
            // Never used, and it needs no store of authorities, which a small image may lack.
            (None, false) => Ok(Trust::Insecure),
        }
    }
}
