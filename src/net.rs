//! Sockets and names: parse `host:port`, resolve it, try the next address, accept without dying of a full file table.
//!
//! Used by everything that binds or dials. It never knows what the bytes mean.

mod connection;
mod crowd;
mod proxy;
mod udp;
pub mod websocket;

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    str::FromStr,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};

pub use connection::Connection;
pub use crowd::{Crowd, Place};
pub use proxy::{InvalidProxy, Proxy, ProxyError};
pub use udp::bind_udp;

/// How long one address has before the next is tried beside it (RFC 8305 §5 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

/// A host and a port, not resolved yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Why a text is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}: {reason}")]
pub struct InvalidHostPort {
    text: String,
    expected: &'static str,
    reason: &'static str,
}

impl HostPort {
    /// Reads a port alone (on 127.0.0.1), `host:port` or `[v6]:port`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn or_port(text: &str) -> Result<Self, InvalidHostPort> {
        match text.parse::<u16>() {
            Ok(port) => Ok(Self { host: "127.0.0.1".into(), port }),
            Err(_) => {
                text.parse().map_err(|error| InvalidHostPort { expected: "a port or host:port", ..error })
            }
        }
    }

    /// All addresses of the name, in the resolver's order.
    ///
    /// # Errors
    /// When the resolver has none.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, ResolveError> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let addresses: Vec<_> =
            found.map_err(|source| ResolveError { host: self.host.clone(), source })?.collect();
        if addresses.is_empty() {
            let source = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            return Err(ResolveError { host: self.host.clone(), source });
        }
        Ok(addresses)
    }
}

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, InvalidHostPort> {
        let bad = |reason| InvalidHostPort { text: text.into(), expected: "host:port", reason };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("the port is missing"))?;
        let port = port.parse().map_err(|_| bad("the port is not a number from 0 to 65535"))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(|| bad("the closing ] is missing"))?,
            None if host.contains(':') => {
                return Err(bad("an IPv6 address needs brackets, as in [::1]:8001"));
            }
            None => host,
        };
        if host.is_empty() {
            return Err(bad("the host is missing"));
        }
        if host.contains(|c: char| c.is_whitespace() || "/@".contains(c)) {
            return Err(bad("the host has a character that no host has"));
        }
        Ok(Self { host: host.into(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A name without an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot resolve {host:?}")]
pub struct ResolveError {
    host: String,
    source: io::Error,
}

/// Tries addresses in turn, each a little after the one before or at once when that failed, and keeps the first that works.
/// Dropping the future gives up all that are under way.
///
/// # Errors
/// The error of the last that failed; `None` when there were no addresses.
pub async fn first_of<T, E, F>(
    addresses: &[SocketAddr],
    mut connect: impl FnMut(SocketAddr) -> F,
) -> Result<T, Option<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = addresses.iter();
    let mut trying = FuturesUnordered::new();
    let mut last = None;
    loop {
        if let Some(address) = waiting.next() {
            trying.push(connect(*address));
        } else if trying.is_empty() {
            return Err(last);
        }
        let more = waiting.len() > 0;
        tokio::select! {
            Some(result) = trying.next() => match result {
                Ok(connected) => return Ok(connected),
                Err(error) => last = Some(error),
            },
            () = tokio::time::sleep(STAGGER), if more => {}
        }
    }
}

/// The address of this host that packets to another bear: that of the interface which leads there. Nothing is sent.
///
/// # Errors
/// When no route leads there.
pub fn source(towards: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if towards.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // For UDP that is to look the route up, and no more.
    socket.connect(towards)?;
    Ok(socket.local_addr()?.ip())
}

/// Connects to the first address that accepts.
///
/// # Errors
/// The error of the last address that was tried.
pub async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    first_of(addresses, connect_to)
        .await
        .map_err(|error| error.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable)))
}

/// Connects to one address. Cancel safe.
///
/// # Errors
/// When that fails.
pub async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    tune(&stream);
    Ok(stream)
}

/// Binds a TCP port at once, and says its address. Must be called inside a tokio runtime.
///
/// # Errors
/// When the port is taken, or may not be had.
pub fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Accepts the next connection. Failures that pass (a peer that gave up, a full file table) are waited out and logged, so
/// that a loop around this lives as long as its listener. Cancel safe.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                tune(&stream);
                return (stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()));
            }
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(%error, "a connection failed before it was accepted");
            }
            Err(error) => {
                // EMFILE and ENFILE: the connection stays in the backlog; trying again at once would spin.
                tracing::error!(%error, "cannot accept connections; trying again in 1 s");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// No delay for small writes, and probes that end a connection whose peer's host is gone: a spliced flow has no other limit.
fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    let set = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        // The peer may have closed already, which the first read will tell.
        tracing::debug!(%error, "cannot set TCP options");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_read_from_every_form() {
        let read = |text: &str| HostPort::or_port(text).map(|found| found.to_string());
        assert_eq!(read("8080").unwrap(), "127.0.0.1:8080");
        assert_eq!(read("example.com:80").unwrap(), "example.com:80");
        assert_eq!(read("[::1]:80").unwrap(), "[::1]:80");
        for (bad, why) in [
            ("example.com", "port is missing"),
            ("::1:80", "brackets"),
            ("[::1:80", "closing ]"),
            ("a:99999", "65535"),
            (":80", "host is missing"),
            ("http://a:80", "brackets"),
            ("a b:80", "no host has"),
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_fails() {
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead_address = dead.local_addr().unwrap();
        drop(dead);
        let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(&[dead_address, live.local_addr().unwrap()]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live.local_addr().unwrap());
        assert!(connect(&[dead_address]).await.is_err());
        assert!(connect(&[]).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_does_not_hold_up_the_next() {
        let addresses = ["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
        let found = first_of(&addresses, |address| async move {
            if address.port() == 1 {
                std::future::pending::<()>().await;
            }
            Ok::<_, ()>(address.port())
        });
        assert_eq!(found.await, Ok(2));
    }
}
