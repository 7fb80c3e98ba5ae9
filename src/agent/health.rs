//! Whether a service is up: a probe every so often, and a judgement that one lost answer does not sway.

use std::{str::FromStr, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header, uri::PathAndQuery};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::service::{ConnectError, InvalidService, Service};
use crate::{net::Connection, protocol::Kind};

/// How long a service has to pass one check.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many failures in a row make a service down.
const FAILURES: u32 = 2;

/// How to know that a service is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What it must do.
    pub probe: Probe,
    /// How often.
    pub interval: Duration,
}

/// What a service that is up does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It accepts a connection, and TLS on it where its address says so.
    Connect,
    /// It answers a GET for this path with a status of 2xx or 3xx.
    Get(PathAndQuery),
}

/// Why a text is not a probe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither `tcp` nor a path that begins with /")]
pub struct InvalidProbe(String);

impl FromStr for Probe {
    type Err = InvalidProbe;

    fn from_str(text: &str) -> Result<Self, InvalidProbe> {
        match text {
            "tcp" => Ok(Self::Connect),
            path if path.starts_with('/') => {
                path.parse().map(Self::Get).map_err(|_| InvalidProbe(text.into()))
            }
            _ => Err(InvalidProbe(text.into())),
        }
    }
}

/// Why a service has not passed a check.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no HTTP response: {0}")]
    Http(#[from] hyper::Error),
    #[error("no HTTP/2 response: {0}")]
    Http2(#[from] h2::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error(transparent)]
    Host(#[from] InvalidService),
    #[error("status {0}")]
    Status(StatusCode),
    #[error("no answer within {PATIENCE:?}")]
    Timeout,
}

impl Probe {
    async fn check(&self, service: &Service, kind: Kind) -> Result<(), Failure> {
        let checked = async {
            let (connection, kind) = service.negotiate(kind).await?;
            let Self::Get(path) = self else { return Ok(()) };
            let authority = service.host_header()?;
            let authority = authority.to_str().unwrap_or_default();
            let status = match kind {
                Kind::Http2 => get_http2(connection, &format!("http://{authority}{path}")).await?,
                Kind::Http2Tls => get_http2(connection, &format!("https://{authority}{path}")).await?,
                _ => get_http1(connection, path, authority).await?,
            };
            if status.is_success() || status.is_redirection() { Ok(()) } else { Err(Failure::Status(status)) }
        };
        tokio::time::timeout(PATIENCE, checked).await.unwrap_or(Err(Failure::Timeout))
    }
}

const USER_AGENT: &str = concat!("adit/", env!("CARGO_PKG_VERSION"));

async fn get_http1(
    connection: Connection,
    path: &PathAndQuery,
    authority: &str,
) -> Result<StatusCode, Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(connection)).await?;
    let request = Request::get(path.as_str())
        .header(header::HOST, authority)
        .header(header::USER_AGENT, USER_AGENT)
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request);
    tokio::pin!(response);
    let response = tokio::select! {
        biased;
        response = &mut response => response?,
        // The service has closed the connection, perhaps behind its response.
        _ = connection => response.await?,
    };
    Ok(response.status())
}

async fn get_http2(connection: Connection, target: &str) -> Result<StatusCode, Failure> {
    let (mut sender, connection) = h2::client::handshake(connection).await?;
    let request = Request::get(target).header(header::USER_AGENT, USER_AGENT).body(())?;
    let (mut response, _) = sender.send_request(request, true)?;
    let response = tokio::select! {
        biased;
        response = &mut response => response?,
        _ = connection => response.await?,
    };
    Ok(response.status())
}

/// What a check has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The service is up.
    Up,
    /// It is down.
    Down,
}

/// The judgement of one service, which is down until it has passed a check.
#[derive(Debug, Default)]
struct Health {
    up: bool,
    failures: u32,
}

impl Health {
    /// Takes in a check's result.
    fn observe(&mut self, passed: bool) -> Option<Change> {
        self.failures = if passed { 0 } else { self.failures.saturating_add(1) };
        match (self.up, passed) {
            (false, true) => {
                self.up = true;
                Some(Change::Up)
            }
            (true, false) if self.failures >= FAILURES => {
                self.up = false;
                Some(Change::Down)
            }
            _ => None,
        }
    }
}

/// Watches one service.
#[derive(Debug)]
pub(super) struct Watch {
    check: HealthCheck,
    service: Service,
    kind: Kind,
    health: Health,
    next: Instant,
}

impl Watch {
    /// The first check is to be made at once.
    pub(super) fn new(check: HealthCheck, service: Service, kind: Kind) -> Self {
        Self { check, service, kind, health: Health::default(), next: Instant::now() }
    }

    /// Makes the next check when it is due.
    pub(super) async fn check(&mut self) -> Option<Change> {
        tokio::time::sleep_until(self.next).await;
        let result = self.check.probe.check(&self.service, self.kind).await;
        self.next = Instant::now() + self.check.interval;
        if let Err(failure) = &result {
            tracing::debug!(service = %self.service, %failure, "a health check failed");
        }
        self.health.observe(result.is_ok())
    }

    /// Makes checks until they change the judgement like this.
    pub(super) async fn until(&mut self, wanted: Change) {
        while self.check().await != Some(wanted) {}
    }

    /// Takes the service to be up until it fails.
    pub(super) fn believe(&mut self) {
        self.health.up = true;
    }

    /// Takes the service to be down until it passes the next check.
    pub(super) fn doubt(&mut self) {
        self.health = Health::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_failures_in_a_row_are_down_and_one_success_is_up() {
        let mut health = Health::default();
        let mut run =
            |checks: &str| -> Vec<_> { checks.bytes().map(|check| health.observe(check == b'+')).collect() };
        let (none, up, down) = (None, Some(Change::Up), Some(Change::Down));
        assert_eq!(run("---"), [none; 3], "it was never up");
        assert_eq!(run("++-+-+"), [up, none, none, none, none, none]);
        assert_eq!(run("---"), [none, down, none]);
        assert_eq!(run("+-"), [up, none]);
    }

    #[test]
    fn a_probe_is_tcp_or_a_path() {
        assert_eq!("tcp".parse(), Ok(Probe::Connect));
        assert_eq!("/up?deep=1".parse(), Ok(Probe::Get(PathAndQuery::from_static("/up?deep=1"))));
        for bad in ["", "http", "up", "http://host/", "/a b"] {
            assert!(bad.parse::<Probe>().is_err(), "{bad}");
        }
    }
}
