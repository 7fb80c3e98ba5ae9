//! Opens links: TCP, through a proxy where there is one, TLS, HTTP upgrade.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio::time::{error::Elapsed, timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{
        self,
        client::IntoClientRequest,
        http::{HeaderValue, header},
    },
};

use super::{PATH, SUBPROTOCOL};
use crate::{
    drain::Tasks,
    net::{self, Connection, HostPort, Proxy, ProxyError, websocket},
    transport::{Link, Settings},
};

/// How long one address has to answer.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why a link could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no connection.
    #[error("cannot connect to {to} over TCP")]
    Connect {
        /// The address, or the name and the proxy that was given it.
        to: String,
        /// Why.
        source: io::Error,
    },
    /// The proxy makes none.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The name that the certificate must have is none.
    #[error("{name:?} cannot be the name of a certificate")]
    Name {
        /// The name.
        name: String,
        /// Why.
        source: InvalidDnsNameError,
    },
    /// TLS failed.
    #[error("TLS with {to} failed: {}", crate::tls::explain(&.error.to_string()))]
    Tls {
        /// The address, or the name and the proxy that was given it.
        to: String,
        /// Why.
        error: io::Error,
    },
    /// The target makes no URL.
    #[error("{0:?} is not a URL")]
    Url(String),
    /// What answers is no node, or a balancer without one.
    #[error("{url} answered {status} and no WebSocket; does it lead to a node's link port?")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// The upgrade failed otherwise.
    #[error("{url} opened no WebSocket")]
    Upgrade {
        /// What was asked for.
        url: String,
        /// Why.
        source: Box<tungstenite::Error>,
    },
    /// Nothing answered.
    #[error("no answer from {to} over TCP within {after:?}")]
    Timeout {
        /// The address, or the name and the proxy that was given it.
        to: String,
        /// How long it had.
        after: Duration,
    },
}

/// Where to open a link.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The address; without one, the proxy finds it.
    pub address: Option<SocketAddr>,
    /// What is named to proxies, and in the `Host` field.
    pub host: &'a HostPort,
    /// The name that the certificate must have; without one, there is no TLS.
    pub name: Option<&'a str>,
    /// What comes before [`PATH`].
    pub base: &'a str,
}

/// Opens links over WebSocket.
#[derive(Debug)]
pub struct Dialer {
    tls: Mutex<Arc<rustls::ClientConfig>>,
    proxy: Option<Proxy>,
    settings: Settings,
    /// Those of the links.
    tasks: Tasks,
}

impl Dialer {
    /// Opens links, through a proxy if there is one.
    pub fn new(tls: rustls::ClientConfig, proxy: Option<Proxy>, settings: &Settings) -> Self {
        Self { tls: Mutex::new(over_http(tls)), proxy, settings: *settings, tasks: Tasks::new() }
    }

    /// Makes handshakes with this from now on. Links that stand are not touched.
    pub fn replace(&self, tls: rustls::ClientConfig) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = over_http(tls);
    }

    /// The proxy that connections go through.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// Opens a link. Cancel safe.
    ///
    /// # Errors
    /// When any step fails, or they take too long together.
    pub async fn dial(&self, target: Target<'_>) -> Result<Link, DialError> {
        let to = match (&self.proxy, target.address) {
            (Some(proxy), _) => format!("{} through the proxy {proxy}", target.host),
            (None, Some(address)) => address.to_string(),
            (None, None) => target.host.to_string(),
        };
        let dialled = timeout(HANDSHAKE, self.connect(target, &to)).await;
        dialled.map_err(|_: Elapsed| DialError::Timeout { to: to.clone(), after: HANDSHAKE })?
    }

    async fn connect(&self, target: Target<'_>, to: &str) -> Result<Link, DialError> {
        let failed = |source| DialError::Connect { to: to.into(), source };
        let stream = match (&self.proxy, target.address) {
            (Some(proxy), _) => proxy.connect(target.host).await?,
            (None, Some(address)) => net::connect_to(address).await.map_err(failed)?,
            (None, None) => return Err(failed(io::ErrorKind::AddrNotAvailable.into())),
        };
        let remote = stream.peer_addr().map_err(failed)?;
        let (connection, certificates, secure, usual_port) = match target.name {
            None => (Connection::Tcp(stream), Vec::new(), "", ":80"),
            Some(name) => {
                let server = ServerName::try_from(name.to_owned())
                    .map_err(|source| DialError::Name { name: name.into(), source })?;
                let tls = Arc::clone(&self.tls.lock().unwrap_or_else(PoisonError::into_inner));
                let stream = TlsConnector::from(tls).connect(server, stream).await;
                let stream = stream.map_err(|source| DialError::Tls { to: to.into(), error: source })?;
                let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
                (Connection::Tls(Box::new(stream.into())), certificates, "s", ":443")
            }
        };
        let host = target.host.to_string();
        // Balancers that go by the host may not expect a port with it.
        let host = host.strip_suffix(usual_port).unwrap_or(&host);
        let rest = format!("{secure}://{host}{}{PATH}", target.base);
        let request = format!("ws{rest}").into_client_request();
        // As users write it, and as other programs take it.
        let url = format!("http{rest}");
        let mut request = request.map_err(|_| DialError::Url(url.clone()))?;
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        let socket = match client_async_with_config(request, connection, Some(websocket::config())).await {
            Ok((socket, _)) => socket,
            Err(tungstenite::Error::Http(response)) => {
                return Err(DialError::Status { url, status: response.status().as_u16() });
            }
            Err(source) => return Err(DialError::Upgrade { url, source: Box::new(source) }),
        };
        let (link, driver) = super::opened(socket, remote, certificates, &self.settings);
        self.tasks.spawn(async move {
            if let Some(reason) = driver.run().await {
                tracing::warn!(reason, "a node's WebSocket was closed: it does not keep to the protocol");
            }
        });
        Ok(link)
    }

    /// Waits, a moment at most, until the peers of closed links have been told.
    pub async fn wait_idle(&self) {
        // Peers that are not told notice by their idle time-out.
        if let Err(aborted) = self.tasks.finish(Duration::from_secs(2)).await {
            tracing::debug!(%aborted, "links over WebSocket were left without a goodbye");
        }
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

fn over_http(mut tls: rustls::ClientConfig) -> Arc<rustls::ClientConfig> {
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(tls)
}
