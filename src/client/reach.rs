//! How a node is reached: over QUIC, over WebSocket, or over whichever is there first.

use std::{
    fmt,
    future::Future,
    str::FromStr,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::timeout;

use super::{Config, ConnectError};
use crate::{
    net::{self, HostPort, InvalidHostPort},
    transport::{
        Link, quic,
        websocket::{self, Target},
    },
};

/// How long QUIC is alone before WebSocket is tried beside it, and when UDP came to nothing the last time.
const HEAD_START: Duration = Duration::from_secs(1);
const HEAD_START_BLOCKED: Duration = Duration::from_millis(100);

/// How long QUIC is waited for once WebSocket has failed, where UDP came to nothing the last time. It doubles with each
/// attempt that comes to nothing either way, until QUIC has all of its time: the client may be on another network now.
const REST_BLOCKED: Duration = Duration::from_secs(1);

/// Over what links are opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// QUIC, or WebSocket where UDP comes to nothing; then back to QUIC as soon as that can be.
    #[default]
    Auto,
    /// QUIC alone.
    Quic,
    /// WebSocket alone.
    WebSocket,
}

/// Where a cluster is: a node's link port, or what leads there over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The host and the port, of UDP and TCP.
    pub at: HostPort,
    /// Whether WebSocket goes over TLS. QUIC always does.
    pub tls: bool,
    /// What comes before the path of links, such as `/base`.
    pub base: String,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Its scheme is not known.
    #[error(
        "expected HOST:PORT, https://HOST[:PORT][/BASE] or http://HOST[:PORT][/BASE], not the scheme {0:?}"
    )]
    Scheme(String),
    /// Its host and port are none.
    #[error(transparent)]
    HostPort(#[from] InvalidHostPort),
    /// It goes on behind the path.
    #[error("a query or a fragment leads nowhere here: {0:?}")]
    Query(String),
}

impl From<HostPort> for Address {
    fn from(at: HostPort) -> Self {
        Self { at, tls: true, base: String::new() }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(text.parse::<HostPort>()?.into());
        };
        let (tls, port) = match scheme {
            "https" | "wss" => (true, 443),
            "http" | "ws" => (false, 80),
            _ => return Err(InvalidAddress::Scheme(scheme.into())),
        };
        if rest.contains(['?', '#']) {
            return Err(InvalidAddress::Query(text.into()));
        }
        let (host, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let at = if has_port { host.parse()? } else { format!("{host}:{port}").parse()? };
        Ok(Self { at, tls, base: base.trim_end_matches('/').into() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.tls, self.base.as_str()) {
            (true, "") => self.at.fmt(f),
            (true, base) => write!(f, "https://{}{base}", self.at),
            (false, base) => write!(f, "http://{}{base}", self.at),
        }
    }
}

/// Opens links to nodes.
#[derive(Debug)]
pub(super) struct Reach {
    quic: quic::Dialer,
    websocket: websocket::Dialer,
    /// How many attempts in a row UDP has come to nothing, the first of which WebSocket has not.
    blocked: AtomicU32,
}

/// Which node, and how to know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal<'a> {
    pub(super) address: &'a Address,
    /// The names of which the node's certificate must have one; the next is tried when the handshake fails with the one
    /// before.
    pub(super) names: &'a [&'a str],
    /// With which of the name's addresses to begin, counted round.
    pub(super) turn: usize,
}

/// A link, and why it is not over QUIC if that was tried.
pub(super) type Reached = (Link, Option<String>);

impl Reach {
    pub(super) fn new(config: &Config) -> Result<Self, quic::DialError> {
        Ok(Self {
            quic: quic::Dialer::new(config.tls.clone(), &config.settings)?,
            websocket: websocket::Dialer::new(config.tls.clone(), config.proxy.clone(), &config.settings),
            blocked: AtomicU32::new(0),
        })
    }

    /// Makes handshakes with this from now on.
    pub(super) fn replace(&self, tls: rustls::ClientConfig) -> Result<(), quic::DialError> {
        self.quic.replace(tls.clone().try_into()?);
        self.websocket.replace(tls);
        Ok(())
    }

    /// Opens a link. Cancel safe.
    pub(super) async fn dial(&self, goal: Goal<'_>, transport: Transport) -> Result<Reached, ConnectError> {
        match transport {
            Transport::Quic => Ok((self.over_quic(goal).await?, None)),
            Transport::WebSocket => Ok((self.over_websocket(goal).await?, None)),
            Transport::Auto => {
                let blocked = self.blocked.load(Relaxed);
                let (head_start, rest) = match blocked.checked_sub(1) {
                    None => (HEAD_START, Duration::MAX),
                    Some(failures) => (HEAD_START_BLOCKED, REST_BLOCKED * (1 << failures.min(4))),
                };
                let quic_failed = |error: Option<ConnectError>| match error {
                    Some(error) => crate::telemetry::report(&error),
                    None => format!("no answer over UDP from {}", goal.address.at),
                };
                match race(self.over_quic(goal), self.over_websocket(goal), head_start, rest).await {
                    Ok((link, why)) => {
                        self.blocked.store(u32::from(why.is_some()), Relaxed);
                        Ok((link, why.map(quic_failed)))
                    }
                    Err((quic, websocket)) => {
                        self.blocked.store(blocked.saturating_add(u32::from(blocked > 0)), Relaxed);
                        let (quic, websocket) = (quic_failed(quic), Box::new(websocket));
                        Err(ConnectError::Neither { quic, websocket })
                    }
                }
            }
        }
    }

    async fn over_quic(&self, goal: Goal<'_>) -> Result<Link, ConnectError> {
        let mut addresses = goal.address.at.resolve().await?;
        let turn = goal.turn % addresses.len();
        addresses.rotate_left(turn);
        let mut last = ConnectError::NoAddress;
        for name in goal.names {
            match net::first_of(&addresses, |address| self.quic.dial(address, name)).await {
                Ok(link) => return Ok(link),
                Err(Some(error)) => last = ConnectError::Dial(error),
                Err(None) => {}
            }
            let of_name = matches!(
                last,
                ConnectError::Dial(quic::DialError::Failed { .. } | quic::DialError::Invalid { .. })
            );
            if !of_name {
                break;
            }
        }
        Err(last)
    }

    async fn over_websocket(&self, goal: Goal<'_>) -> Result<Link, ConnectError> {
        let Address { at, tls, base } = goal.address;
        let target = |address, name| Target { address, host: at, name, base };
        // A proxy finds the host itself.
        let mut addresses = Vec::new();
        if self.websocket.proxy().is_none() {
            addresses = at.resolve().await?;
            let turn = goal.turn % addresses.len();
            addresses.rotate_left(turn);
        }
        let mut last = ConnectError::NoAddress;
        let names = if *tls { goal.names.iter().map(|name| Some(*name)).collect() } else { vec![None] };
        for name in names {
            let dialled = if addresses.is_empty() {
                self.websocket.dial(target(None, name)).await.map_err(Some)
            } else {
                let dial = |address| self.websocket.dial(target(Some(address), name));
                net::first_of(&addresses, dial).await
            };
            match dialled {
                Ok(link) => return Ok(link),
                Err(Some(error)) => last = ConnectError::WebSocket(error),
                Err(None) => {}
            }
            if !matches!(last, ConnectError::WebSocket(websocket::DialError::Tls { .. })) {
                break;
            }
        }
        Err(last)
    }

    /// Waits, a moment at most, until the peers of closed links have been told.
    pub(super) async fn wait_idle(&self) {
        tokio::join!(self.quic.wait_idle(), self.websocket.wait_idle());
    }
}

/// The first of two ways that comes to its end, the second of which begins later, or as soon as the first fails. Beside what
/// the second way has found: why the first did not, unless it was still on its way.
///
/// # Errors
/// Those of both, when both fail; the first has `rest` to fail in once the second has.
async fn race<T, E>(
    first: impl Future<Output = Result<T, E>>,
    second: impl Future<Output = Result<T, E>>,
    head_start: Duration,
    rest: Duration,
) -> Result<(T, Option<Option<E>>), (Option<E>, E)> {
    tokio::pin!(first, second);
    let mut failed = match timeout(head_start, first.as_mut()).await {
        Ok(Ok(found)) => return Ok((found, None)),
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    let second_failed = loop {
        tokio::select! {
            biased;
            found = first.as_mut(), if failed.is_none() => match found {
                Ok(found) => return Ok((found, None)),
                Err(error) => failed = Some(error),
            },
            found = second.as_mut() => match found {
                Ok(found) => return Ok((found, Some(failed))),
                Err(error) => break error,
            },
        }
    };
    if failed.is_some() {
        return Err((failed, second_failed));
    }
    match timeout(rest, first).await {
        Ok(Ok(found)) => Ok((found, None)),
        Ok(Err(error)) => Err((Some(error), second_failed)),
        Err(_) => Err((None, second_failed)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn an_address_is_a_port_or_a_url() {
        let read = |text: &str| text.parse::<Address>();
        let shown = |text: &str| read(text).map(|address| (address.to_string(), address.tls, address.base));
        let base = |at: &str, tls, base: &str| Ok((at.to_owned(), tls, base.to_owned()));
        assert_eq!(shown("[::1]:8001"), base("[::1]:8001", true, ""));
        assert_eq!(shown("https://a.example.com"), base("a.example.com:443", true, ""));
        assert_eq!(shown("https://a:8443/x/y/"), base("https://a:8443/x/y", true, "/x/y"));
        assert_eq!(shown("http://[::1]/x"), base("http://[::1]:80/x", false, "/x"));
        assert_eq!(read("ftp://a"), Err(InvalidAddress::Scheme("ftp".into())));
        assert!(matches!(read("https://a?b=c"), Err(InvalidAddress::Query(_))));
        assert!(matches!(read("https:///x"), Err(InvalidAddress::HostPort(_))));
        assert!(matches!(read("a"), Err(InvalidAddress::HostPort(_))));
    }

    async fn after(ms: u64, found: Result<&'static str, &'static str>) -> Result<&'static str, &'static str> {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        found
    }

    const HEAD_START: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_second_way_begins_after_the_head_start_or_when_the_first_fails() {
        let began = Instant::now();
        let race = async |first, second| race(first, second, HEAD_START, Duration::MAX).await;
        assert_eq!(race(after(999, Ok("quic")), after(0, Ok("web"))).await, Ok(("quic", None)));
        assert_eq!(race(after(1100, Ok("quic")), after(50, Ok("web"))).await, Ok(("web", Some(None))));
        let refused = race(after(0, Err("refused")), after(0, Ok("web"))).await;
        assert_eq!(refused, Ok(("web", Some(Some("refused")))));
        assert_eq!(began.elapsed().as_millis(), 999 + 1050);
    }

    #[tokio::test(start_paused = true)]
    async fn a_way_that_fails_leaves_the_other_its_time() {
        let race = async |first, second| race(first, second, HEAD_START, Duration::MAX).await;
        assert_eq!(race(after(5000, Ok("quic")), after(0, Err("no"))).await, Ok(("quic", None)));
        assert_eq!(race(after(5000, Err("a")), after(0, Err("b"))).await, Err((Some("a"), "b")));
        assert_eq!(race(after(0, Err("a")), after(5000, Err("b"))).await, Err((Some("a"), "b")));
        assert_eq!(race(after(90_000, Ok("quic")), after(9000, Ok("web"))).await, Ok(("web", Some(None))));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_way_has_a_rest_once_the_second_has_failed() {
        let (began, rest) = (Instant::now(), Duration::from_secs(2));
        let race = async |first| race(first, after(50, Err("web")), HEAD_START, rest).await;
        assert_eq!(race(after(3049, Ok("quic"))).await, Ok(("quic", None)));
        assert_eq!(race(after(3051, Ok("quic"))).await, Err((None, "web")));
        assert_eq!(began.elapsed().as_millis(), 3049 + 3050);
    }
}
