//! A local service: where it is, and a new connection to it, plain or with TLS.

use std::{fmt, io, str::FromStr, sync::Arc, time::Duration};

use http::HeaderValue;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use super::proxied::{Ends, ProxyVersion};
use crate::{
    net::{self, Connection, HostPort, InvalidHostPort, ResolveError},
    protocol::{Code, Kind},
    splice::packets::{Counters, UdpService},
};

/// The versions of HTTP, as ALPN names them (RFC 7301 §6, RFC 9113 §3.1).
const HTTP_1_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";

/// How long the service has to accept a connection, TLS included. Nodes and forwarders wait a second longer each.
const DIAL: Duration = Duration::from_secs(5);

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    address: HostPort,
    tls: Option<ServiceTls>,
    proxy_protocol: Option<ProxyVersion>,
}

/// TLS towards a service.
#[derive(Clone)]
pub struct ServiceTls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// Equal are those that share one configuration.
impl PartialEq for ServiceTls {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(self.connector.config(), other.connector.config())
    }
}

impl Eq for ServiceTls {}

impl fmt::Debug for ServiceTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceTls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a text is not a service's address.
#[derive(Debug, thiserror::Error)]
pub enum InvalidService {
    /// It is not a port, host:port or URL.
    #[error(transparent)]
    HostPort(#[from] InvalidHostPort),
    /// The URL's scheme is not http, https, tcp or tls.
    #[error("{0:?} is not a scheme that a service can have: use http, https, tcp or tls")]
    Scheme(String),
    /// The URL has more than a host and a port.
    #[error("{0:?} has a path: adit passes requests on as they are, so give the host and the port alone")]
    Path(String),
    /// The host cannot be in a certificate.
    #[error("{0:?} is neither a host name nor an address")]
    Host(String),
}

/// A service's address as it is written: a port, `host:port`, or a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAddress {
    address: HostPort,
    tls: bool,
}

impl ServiceAddress {
    /// Whether the service wants TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }
}

impl FromStr for ServiceAddress {
    type Err = InvalidService;

    fn from_str(text: &str) -> Result<Self, InvalidService> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self { address: HostPort::or_port(text)?, tls: false });
        };
        let (tls, port) = match scheme {
            "http" => (false, Some(80)),
            "https" => (true, Some(443)),
            "tcp" => (false, None),
            "tls" => (true, None),
            other => return Err(InvalidService::Scheme(other.into())),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(InvalidService::Path(text.into()));
        }
        let address = match (authority.parse::<HostPort>(), port) {
            (Ok(address), _) => address,
            (Err(error), None) => return Err(error.into()),
            (Err(error), Some(port)) => format!("{authority}:{port}").parse().map_err(|_| error)?,
        };
        Ok(Self { address, tls })
    }
}

impl Service {
    /// A service at an address; `tls` is used when the address asks for it, with the address' host as the name that the
    /// service's certificate must have.
    ///
    /// # Errors
    /// When the host cannot be in a certificate.
    pub fn new(address: ServiceAddress, tls: &Arc<rustls::ClientConfig>) -> Result<Self, InvalidService> {
        let ServiceAddress { address, tls: wanted } = address;
        let tls = if wanted {
            let name = ServerName::try_from(address.host.clone())
                .map_err(|_| InvalidService::Host(address.host.clone()))?;
            Some(ServiceTls { connector: TlsConnector::from(Arc::clone(tls)), name })
        } else {
            None
        };
        Ok(Self { address, tls, proxy_protocol: None })
    }

    /// The same service, which is told of each connection whose it is.
    #[must_use]
    pub fn with_proxy_protocol(self, version: Option<ProxyVersion>) -> Self {
        Self { proxy_protocol: version, ..self }
    }

    /// Where it is.
    pub(super) fn address(&self) -> &HostPort {
        &self.address
    }

    /// Whether it is told of each connection whose it is.
    pub(super) fn has_proxy_protocol(&self) -> bool {
        self.proxy_protocol.is_some()
    }

    /// How requests to it name it: without its port where that is the usual one (RFC 9110 §7.2).
    ///
    /// # Errors
    /// When the host cannot be in a request.
    pub fn host_header(&self) -> Result<HeaderValue, InvalidService> {
        let mut host = self.address.to_string();
        let usual = if self.tls.is_some() { ":443" } else { ":80" };
        if let Some(bare) = host.strip_suffix(usual) {
            host.truncate(bare.len());
        }
        HeaderValue::try_from(host).map_err(|_| InvalidService::Host(self.address.host.clone()))
    }

    /// Where its web pages begin, without a path.
    pub(super) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Whether it chooses the version of HTTP that is spoken with it.
    pub(super) fn chooses(&self) -> bool {
        self.tls.is_some()
    }

    /// Opens a connection for a flow of a kind, on behalf of a client.
    pub(super) async fn connect(&self, kind: Kind, ends: Ends) -> Result<Connection, ConnectError> {
        match kind {
            Kind::Http => self.dial(&[HTTP_1_1], ends).await,
            Kind::Http2Tls => {
                let connection = self.dial(&[HTTP_2], ends).await?;
                let agreed = connection.alpn() == Some(HTTP_2);
                if agreed { Ok(connection) } else { Err(ConnectError::Version(self.address.clone())) }
            }
            _ => self.dial(&[], ends).await,
        }
    }

    /// Opens a connection of the agent's own on which the service, where it can, chooses between the versions of HTTP; says
    /// which kind of flow goes with its choice.
    pub(super) async fn negotiate(&self, kind: Kind) -> Result<(Connection, Kind), ConnectError> {
        if kind != Kind::Http || !self.chooses() {
            return Ok((self.connect(kind, Ends::default()).await?, kind));
        }
        let connection = self.dial(&[HTTP_2, HTTP_1_1], Ends::default()).await?;
        let kind = if connection.alpn() == Some(HTTP_2) { Kind::Http2Tls } else { Kind::Http };
        Ok((connection, kind))
    }

    /// Opens a connection and, where it is one of TLS, offers these protocols. Names are resolved each time, and the next
    /// address is tried when one fails.
    async fn dial(&self, alpn: &[&[u8]], ends: Ends) -> Result<Connection, ConnectError> {
        tokio::time::timeout(DIAL, async {
            let addresses = self.address.resolve().await.map_err(ConnectError::Resolve)?;
            let failed = |source| ConnectError::Tcp(self.address.clone(), source);
            let mut stream = net::connect(&addresses).await.map_err(failed)?;
            if let Some(version) = self.proxy_protocol {
                let header = ends.header(version).map_err(failed)?;
                stream.write_all(&header).await.map_err(failed)?;
            }
            match &self.tls {
                None => Ok(Connection::Tcp(stream)),
                Some(tls) => {
                    let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
                    match tls.connector.with_alpn(alpn).connect(tls.name.clone(), stream).await {
                        Ok(stream) => Ok(Connection::Tls(Box::new(stream.into()))),
                        Err(source) => Err(ConnectError::Tls(self.address.clone(), source)),
                    }
                }
            }
        })
        .await
        .unwrap_or_else(|_| Err(ConnectError::Timeout(self.address.clone())))
    }

    /// Opens a socket for UDP. Nothing is sent, so whether a service is there is not known.
    pub(super) async fn associate(&self, counters: Counters) -> Result<UdpService, ConnectError> {
        tokio::time::timeout(DIAL, async {
            let addresses = self.address.resolve().await.map_err(ConnectError::Resolve)?;
            let failed = |source| ConnectError::Udp(self.address.clone(), source);
            let address = addresses.first().ok_or_else(|| failed(io::ErrorKind::AddrNotAvailable.into()))?;
            UdpService::connect(*address, counters).await.map_err(failed)
        })
        .await
        .unwrap_or_else(|_| Err(ConnectError::Timeout(self.address.clone())))
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.tls.is_some() { "tls://" } else { "" }, self.address)
    }
}

/// Why a service cannot be reached. The sentence goes to the client, so it holds what its sources say.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{}", crate::telemetry::report(.0))]
    Resolve(ResolveError),
    #[error("cannot connect to {0}: {1}")]
    Tcp(HostPort, io::Error),
    #[error("cannot open a UDP socket for {0}: {1}")]
    Udp(HostPort, io::Error),
    #[error("TLS with {0} failed: {1}")]
    Tls(HostPort, io::Error),
    #[error("{0} speaks HTTP/2 no longer")]
    Version(HostPort),
    #[error("{0} did not accept the connection within {DIAL:?}")]
    Timeout(HostPort),
}

impl ConnectError {
    /// Whether the service may speak another version of HTTP than the one that was offered.
    pub(super) fn is_of_version(&self) -> bool {
        matches!(self, Self::Tls(..) | Self::Version(_))
    }

    pub(super) fn code(&self) -> Code {
        match self {
            Self::Tcp(_, error) if error.kind() == io::ErrorKind::ConnectionRefused => Code::UpstreamRefused,
            Self::Tcp(_, error) if error.kind() == io::ErrorKind::TimedOut => Code::UpstreamTimeout,
            Self::Resolve(_) | Self::Tcp(..) | Self::Udp(..) => Code::UpstreamUnreachable,
            Self::Tls(..) | Self::Version(_) => Code::UpstreamTls,
            Self::Timeout(_) => Code::UpstreamTimeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{self, Trust};

    #[test]
    fn requests_name_the_service_without_the_usual_port() {
        let tls = Arc::new(tls::client_config(&Trust::Insecure, None, &[]).unwrap());
        for (address, host) in [
            ("3000", "127.0.0.1:3000"),
            ("http://app", "app"),
            ("https://app:80", "app:80"),
            ("https://[::1]", "[::1]"),
            ("http://[::1]:443", "[::1]:443"),
        ] {
            let service = Service::new(address.parse().unwrap(), &tls).unwrap();
            assert_eq!(service.host_header().unwrap(), host, "{address}");
        }
    }

    #[test]
    fn a_service_is_a_port_a_host_and_port_or_a_url() {
        let read = |text: &str| {
            text.parse::<ServiceAddress>().map(|service| (service.address.to_string(), service.is_tls()))
        };
        for (text, address, tls) in [
            ("3000", "127.0.0.1:3000", false),
            ("db:5432", "db:5432", false),
            ("http://app", "app:80", false),
            ("http://app:3000/", "app:3000", false),
            ("https://app", "app:443", true),
            ("https://[::1]", "[::1]:443", true),
            ("tls://[::1]:853", "[::1]:853", true),
        ] {
            assert_eq!(read(text).unwrap(), (address.into(), tls), "{text}");
        }
        for (bad, why) in [
            ("ftp://app", "scheme"),
            ("http://app/base", "path"),
            ("tcp://app", "port is missing"),
            ("app", "port or host:port"),
        ] {
            assert!(read(bad).unwrap_err().to_string().contains(why), "{bad}");
        }
    }
}
