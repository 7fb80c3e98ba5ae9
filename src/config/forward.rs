//! The flags and the file of `adit forward`.

use std::{net::ToSocketAddrs, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{ConfigError, ConnectArgs, LogArgs, UdpArgs, duration, layers::table, probes::ProbeArgs};
use crate::{forward, net::HostPort, protocol::EndpointId};

/// What every forwarder has.
#[derive(Debug, Clone, Args)]
pub struct ForwardArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// On leaving, let open connections finish for at most so long.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration, help_heading = "Leaving")]
    pub grace_period: Duration,
    #[command(flatten)]
    admin: ProbeArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `adit forward tcp`: one port.
#[derive(Debug, Clone, Args)]
pub struct ForwardTcpArgs {
    /// Where to listen: a port of 127.0.0.1, or host:port. Port 0 lets the system choose.
    #[arg(value_name = "LISTEN", value_parser = HostPort::or_port)]
    listen: HostPort,
    /// The endpoint that connections go to.
    #[arg(value_name = "ENDPOINT")]
    endpoint: EndpointId,
    #[command(flatten)]
    pub forward: ForwardArgs,
}

/// `adit forward udp`: one port.
#[derive(Debug, Clone, Args)]
pub struct ForwardUdpArgs {
    /// Where to listen: a port of 127.0.0.1, or host:port. Port 0 lets the system choose.
    #[arg(value_name = "LISTEN", value_parser = HostPort::or_port)]
    listen: HostPort,
    /// The endpoint that packets go to.
    #[arg(value_name = "ENDPOINT")]
    endpoint: EndpointId,
    #[command(flatten)]
    udp: UdpArgs,
    #[command(flatten)]
    pub forward: ForwardArgs,
}

/// `adit forward run`: the ports of a file.
#[derive(Debug, Clone, Args)]
pub struct RunForwardArgs {
    #[arg(long, value_name = "FILE", required = true)]
    #[arg(help = "TOML file: any flag below by its name, and a [[port]] for each port")]
    config: PathBuf,
    #[arg(long, hide = true, value_parser = table::<PortArgs>)]
    port: Vec<PortArgs>,
    #[command(flatten)]
    pub forward: ForwardArgs,
}

/// A table `[[port]]`. Its keys are these flags.
#[derive(Debug, Clone, Args)]
pub struct PortArgs {
    #[arg(long, value_parser = HostPort::or_port)]
    listen: HostPort,
    #[arg(long)]
    endpoint: EndpointId,
    #[arg(long, value_enum, default_value = "tcp")]
    kind: PortKind,
    #[command(flatten)]
    udp: UdpArgs,
}

/// What a port takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PortKind {
    /// Connections.
    Tcp,
    /// Packets.
    Udp,
}

impl ForwardTcpArgs {
    /// The forwarder for this port.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn into_config(self) -> Result<forward::Config, ConfigError> {
        let Self { listen, endpoint, forward } = self;
        PortArgs { listen, endpoint, kind: PortKind::Tcp, udp: UdpArgs::default() }.into_config(forward)
    }
}

impl ForwardUdpArgs {
    /// The forwarder for this port.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn into_config(self) -> Result<forward::Config, ConfigError> {
        let Self { listen, endpoint, udp, forward } = self;
        PortArgs { listen, endpoint, kind: PortKind::Udp, udp }.into_config(forward)
    }
}

impl RunForwardArgs {
    /// The forwarder for all ports of the file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn into_config(self) -> Result<forward::Config, ConfigError> {
        if self.port.is_empty() {
            return Err(ConfigError::Nothing { path: self.config, table: "port" });
        }
        Ok(forward::Config {
            ports: self.port.into_iter().map(PortArgs::into_port).collect::<Result<_, _>>()?,
            admin: self.forward.admin.admin_bind,
            client: self.forward.connect.into_config()?,
        })
    }
}

impl PortArgs {
    fn into_config(self, args: ForwardArgs) -> Result<forward::Config, ConfigError> {
        let admin = args.admin.admin_bind;
        Ok(forward::Config { ports: vec![self.into_port()?], client: args.connect.into_config()?, admin })
    }

    fn into_port(self) -> Result<forward::Port, ConfigError> {
        let Self { listen, endpoint, kind, udp } = self;
        let kind = match kind {
            PortKind::Tcp => forward::PortKind::Tcp,
            PortKind::Udp => forward::PortKind::Udp { idle: udp.udp_idle },
        };
        // Before the runtime starts, so it may block.
        match (listen.host.as_str(), listen.port).to_socket_addrs() {
            Ok(addresses) => Ok(forward::Port { listen: addresses.collect(), endpoint, kind }),
            Err(source) => Err(ConfigError::Listen { listen, endpoint, source }),
        }
    }
}
