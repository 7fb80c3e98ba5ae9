//! Configuration: the flags, the environment and the file of each command become the `Config` of what it starts.
//!
//! Each option is defined once, as a flag of a clap `Args` struct. A key of the file is the long name of a flag, and a
//! variable is `ADIT_` and that name in capitals, so that neither has a list of its own. Driven by `cli`; it reads files and
//! makes development certificates, and never opens a socket.

mod access_log;
mod agent;
mod agent_http;
mod auth;
mod clients;
mod connect;
mod door;
mod files;
mod forward;
mod given;
mod layers;
mod limit;
mod limits;
mod link;
mod log;
mod node;
mod probes;
mod tenants;
mod traces;
mod trust;
mod udp;
mod watch;

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use http::HeaderName;
use ipnet::IpNet;
use serde::de::DeserializeOwned;

pub use access_log::AccessLogArgs;
pub use agent::{
    AgentArgs, EndpointArgs, EndpointKind, RunAgentArgs, ServeArgs, ServeHttpArgs, ServeUdpArgs, UpstreamArgs,
};
pub use agent_http::HttpArgs;
pub use auth::{AdminAuthArgs, EdgeAuthArgs, LinkAuthArgs};
pub use clients::{AdminClientArgs, EdgeClientArgs, LinkClientArgs};
pub use connect::{ConnectArgs, UnusableProxy};
pub use forward::{ForwardArgs, ForwardTcpArgs, ForwardUdpArgs, PortArgs, PortKind, RunForwardArgs};
pub use given::Given;
pub use layers::{ParseError, Read, from_words, parse, read};
pub use limit::CallerLimitArgs;
pub use limits::LimitArgs;
pub use link::LinkArgs;
pub use log::LogArgs;
pub use node::NodeArgs;
pub use tenants::TenantArgs;
pub use traces::{NodeTraceArgs, TraceArgs};
pub use trust::TrustArgs;
pub(crate) use trust::server_name;
pub use udp::UdpArgs;
pub use watch::Watch;

use crate::{
    agent::InvalidService,
    auth::{InvalidAccess, InvalidSource, LoadKeysError, Pattern, ReadKeysError, Scope, What},
    edge,
    net::HostPort,
    otlp::InvalidReceiver,
    protocol::{EndpointId, HostPattern, InvalidId, NodeId},
    tls,
    upstream::Name,
};

/// Why a configuration cannot be used: which part, what is wrong with it, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{} cannot be read: check the path of --config, and that this user may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{}, line {line}: this is not TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The first line that is wrong.
        line: usize,
        /// What the reader found.
        reason: String,
    },
    /// Another file cannot be read.
    #[error("{} cannot be read: check the path, and that this user may read it", path.display())]
    UnreadableFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another file is not what it should be.
    #[error("{}, line {line}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The first line that is wrong.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A key that the command does not have.
    #[error("{}: {}", path.display(), unknown(key, nearest.as_deref()))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The known key that is most like it, if any is.
        nearest: Option<String>,
    },
    /// A value that its option cannot have.
    #[error("{place}: {reason}")]
    Value {
        /// The file and the key, or the variable.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// One of two options that go together is missing.
    #[error("{given} needs {missing}: give both or neither")]
    Half {
        /// The option that was given.
        given: &'static str,
        /// The one that was not.
        missing: &'static str,
    },
    /// Two options exclude each other.
    #[error("{one} and {other} exclude each other: leave one of them out")]
    Conflict {
        /// The one.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A demand on clients that is none. It may be a secret, so it is not shown.
    #[error("{option} of {endpoint} cannot be used")]
    Door {
        /// The option.
        option: &'static str,
        /// The endpoint, or the pattern of a node's door.
        endpoint: String,
        /// What is wrong with it.
        source: InvalidAccess,
    },
    /// A door that demands nothing.
    #[error(
        "the [[door]] of {0} demands nothing: give allow, deny, basic-auth or require-header, or leave it out"
    )]
    OpenDoor(Pattern),
    /// A header field that would be logged, and whose values open a door.
    #[error(
        "--access-log-header {0}: a [[door]] is opened by it, so its values are secrets: log another, or none"
    )]
    LoggedSecret(HeaderName),
    /// A key that was given cannot verify tokens.
    #[error("{option} cannot be used")]
    AuthKey {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        source: ReadKeysError,
    },
    /// A set of keys cannot be fetched from there.
    #[error("{option} cannot be used")]
    AuthSource {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        source: InvalidSource,
    },
    /// Spans cannot be sent there.
    #[error("--otlp-endpoint cannot be used")]
    Receiver(#[from] InvalidReceiver),
    /// Demands on tokens, and nothing to verify them with.
    #[error("{given} is given without a key, so that no token could be verified: give {key} too")]
    NoAuthKeys {
        /// The option.
        given: &'static str,
        /// What is missing.
        key: &'static str,
    },
    /// A port lets in whom it should not.
    #[error(transparent)]
    Exposed(#[from] crate::node::Exposed),
    /// A file of keys cannot be used.
    #[error(transparent)]
    AuthKeys(#[from] LoadKeysError),
    /// A node's certificate for its peers that is for another node.
    #[error(
        "{} is not a certificate of the node {node}: make one with `adit certs node HOST --node-id {node}`, or give this \
         node the --node-id that its certificate has", cert.display()
    )]
    NotOfNode {
        /// The certificate.
        cert: PathBuf,
        /// The node.
        node: NodeId,
    },
    /// Certificates and keys of the edge that do not pair up.
    #[error(
        "{certs} of --edge-cert and {keys} of --edge-key are given: give one key for each certificate, in order"
    )]
    EdgePairs {
        /// How many certificates.
        certs: usize,
        /// How many keys.
        keys: usize,
    },
    /// A proxy that is none.
    #[error(transparent)]
    Proxy(#[from] UnusableProxy),
    /// Links would not outlive one lost packet.
    #[error(
        "--keep-alive {} is not below half of --idle-timeout {}: one lost packet would end the link; shorten the one or \
         lengthen the other",
        humantime::format_duration(*keep_alive), humantime::format_duration(*idle_timeout)
    )]
    KeepAlive {
        /// What was given.
        keep_alive: Duration,
        /// What was given, or the default.
        idle_timeout: Duration,
    },
    /// TLS options for a service without TLS.
    #[error(
        "{option} is for services with TLS, and {endpoint}'s address is without: begin it with https:// or tls://"
    )]
    NoTls {
        /// The option.
        option: &'static str,
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// What a service of UDP cannot have.
    #[error("{option} is not for UDP: leave it out for {endpoint}, and give its address as host:port")]
    NotForUdp {
        /// What it is.
        option: &'static str,
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// Options for requests of a service that has none.
    #[error("{option} is for services that speak HTTP/1.1, and {endpoint}'s does not: leave it out")]
    NotHttp {
        /// The option.
        option: &'static str,
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// An option for cleartext HTTP/2 and a service that cannot have it.
    #[error(
        "--h2c is for web services without TLS, and {0}'s is none: leave it out; a service with TLS says itself whether it \
         speaks HTTP/2"
    )]
    NoH2c(EndpointId),
    /// The file has nothing to do.
    #[error("{} has no [[{table}]]: add one for each {table}", path.display())]
    Nothing {
        /// The file.
        path: PathBuf,
        /// The name of the tables.
        table: &'static str,
    },
    /// An endpoint is served twice.
    #[error("there are two [[endpoint]] tables for {0}: one process serves an endpoint once")]
    Duplicate(EndpointId),
    /// A host is mapped to two endpoints.
    #[error("--host maps {0} to two endpoints: leave one of them out")]
    HostTwice(HostPattern),
    /// A limit on callers has two numbers.
    #[error("--limit {scope}.{what} is given twice: leave one of them out")]
    LimitTwice {
        /// Whose share it bounds.
        scope: Scope,
        /// What it bounds.
        what: What,
    },
    /// A name to listen on has no address.
    #[error(
        "{listen} cannot be resolved, so there is nothing to listen on for {endpoint}: use an address of this host"
    )]
    Listen {
        /// The name.
        listen: HostPort,
        /// The endpoint behind it.
        endpoint: EndpointId,
        /// What the resolver said.
        source: io::Error,
    },
    /// A service's address cannot be used.
    #[error(transparent)]
    Service(#[from] InvalidService),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Load(#[from] tls::LoadError),
    /// The development certificates cannot be made or used.
    #[error(transparent)]
    Development(#[from] tls::GenerateError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] tls::ConfigError),
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> ConfigError {
    let path = path.to_owned();
    move |source| ConfigError::UnreadableFile { path, source }
}

/// Reads another TOML file than that of the flags.
fn read_file<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path).map_err(unreadable(path))?;
    toml::from_str(&text).map_err(|error: toml::de::Error| ConfigError::File {
        path: path.to_owned(),
        line: line_of(&text, &error),
        reason: error.message().trim().replace('\n', ", "),
    })
}

/// The first line that an error is about.
fn line_of(text: &str, error: &toml::de::Error) -> usize {
    1 + text[..error.span().map_or(0, |span| span.start)].matches('\n').count()
}

fn unknown(key: &str, nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("unknown key `{key}`: did you mean `{nearest}`?"),
        None => format!("unknown key `{key}`: the command's --help lists the flags that a file can set"),
    }
}

/// Both or neither of two options.
fn both<T>(
    one: (&'static str, Option<T>),
    other: (&'static str, Option<T>),
) -> Result<Option<(T, T)>, ConfigError> {
    match (one.1, other.1) {
        (Some(first), Some(second)) => Ok(Some((first, second))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(ConfigError::Half { given: one.0, missing: other.0 }),
        (None, Some(_)) => Err(ConfigError::Half { given: other.0, missing: one.0 }),
    }
}

/// A duration as people write it.
fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

/// A number of bytes, as it is or in larger units.
fn bytes(text: &str) -> Result<u64, &'static str> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: Option<u64> = match &text[digits.len()..] {
        "" => Some(1),
        "kB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .ok_or("expected a number of bytes, such as 1048576, 10MB or 1MiB")
}

/// A port and the endpoint behind it, as in 5432=db or 0.0.0.0:5432=acme/db.
fn port(text: &str) -> Result<edge::Port, String> {
    let (listen, endpoint) =
        text.split_once('=').ok_or("expected LISTEN=ENDPOINT, such as 0.0.0.0:5432=db")?;
    let bind = match listen.parse() {
        Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        Err(_) => address(listen)?,
    };
    let endpoint = endpoint.parse().map_err(|error: InvalidId| error.to_string())?;
    Ok(edge::Port { bind, endpoint })
}

/// A host and the endpoint that it stands for, as in app.customer.com=web.
fn mapping(text: &str) -> Result<(HostPattern, Name), String> {
    let (host, endpoint) =
        text.split_once('=').ok_or("expected NAME=ENDPOINT, such as app.customer.com=web")?;
    let host = HostPattern::new(host).map_err(|error| error.to_string())?;
    Ok((host, endpoint.parse().map_err(|error: InvalidId| error.to_string())?))
}

/// A network, or a single address.
fn network(text: &str) -> Result<IpNet, &'static str> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| "expected ADDRESS or ADDRESS/PREFIX, such as 10.0.0.0/8")
}

/// An address to listen on. A name could stand for several, so only a number will do.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected ADDRESS:PORT in numbers, such as 127.0.0.1:8000 or [::]:8000".into())
}

/// The same, or a port alone, which is one of this machine.
fn port_or_address(text: &str) -> Option<SocketAddr> {
    match text.parse() {
        Ok(port) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Err(_) => text.parse().ok(),
    }
}
