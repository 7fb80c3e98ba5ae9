//! What clients pass that send no request of HTTP, before they are given a flow: their limits, and the door of the endpoint,
//! as far as an address opens it. Asked by `tcp`, `sni` and `udp`.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    access_log::{Ended, Record},
    auth::{Denied, Guard, Limited, Limits, Pass},
    upstream::{Name, OpenFlowError},
};

/// Why a client gets no flow.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Open(#[from] OpenFlowError),
}

impl From<Limited> for Refused {
    fn from(limited: Limited) -> Self {
        Self::Open(limited.into())
    }
}

impl Refused {
    /// What is counted.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Denied(denied) => denied.code(),
            Self::Open(error) => error.name(),
        }
    }

    /// Whether it is the client who may not have it.
    fn is_of_client(&self) -> bool {
        matches!(self, Self::Denied(_) | Self::Open(OpenFlowError::Limited(_)))
    }

    /// Says so in the log; in that of access, where it is the client who may not have it. Else the flow's record says it.
    pub(super) fn log(&self, client: SocketAddr, name: Option<&Name>, record: &Record) {
        self.log_one(client, name, self.is_of_client().then_some(0), record);
    }

    /// The same where clients come without a connection, so that many are refused at little cost to them.
    pub(super) fn log_sparsely(&self, client: SocketAddr, name: &Name, lines: &Sparse, record: &Record) {
        let others = self.is_of_client().then(|| lines.line(Instant::now())).flatten();
        self.log_one(client, Some(name), others, record);
    }

    /// Says so in the access log, for so many others as well, or only for debugging.
    fn log_one(&self, client: SocketAddr, name: Option<&Name>, others: Option<u64>, record: &Record) {
        let code = self.name();
        if self.is_of_client() {
            record.silence();
        } else {
            record.ended(Ended::Unreachable, Some(code));
        }
        let endpoint = name.map(|name| tracing::field::display(&name.endpoint));
        let tenant = name.map(|name| tracing::field::display(&name.tenant));
        let Some(others) = others else {
            return tracing::debug!(%client, endpoint, tenant, code, error = %self, "a client was refused");
        };
        let others = (others > 0).then_some(others);
        tracing::info!(
            target: "adit::access", %client, endpoint, tenant, code, others, error = %self, "a client was refused"
        );
    }
}

/// How often one place writes a line to the access log, once in [`Sparse::EVERY`], and how many it has left out since. All
/// are counted elsewhere.
#[derive(Debug, Default)]
pub(super) struct Sparse(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    last: Option<Instant>,
    left_out: u64,
}

impl Sparse {
    const EVERY: Duration = Duration::from_secs(1);

    /// How many have been left out before this one, if it gets a line.
    fn line(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.last.is_some_and(|last| now < last + Self::EVERY) {
            lines.left_out += 1;
            return None;
        }
        lines.last = Some(now);
        Some(std::mem::take(&mut lines.left_out))
    }
}

/// Lets a client of an endpoint in.
pub(super) fn enter(
    guard: &Guard,
    callers: &Limits,
    name: &Name,
    client: SocketAddr,
) -> Result<Pass, Refused> {
    admit(guard, callers, callers.client(client.ip())?, name, client)
}

/// Goes on with a client that its address has let in, once its endpoint is known.
pub(super) fn admit(
    guard: &Guard,
    callers: &Limits,
    mut pass: Pass,
    name: &Name,
    client: SocketAddr,
) -> Result<Pass, Refused> {
    guard.check_address(&name.tenant, &name.endpoint, client.ip())?;
    callers.endpoint(&mut pass, &name.tenant, &name.endpoint)?;
    Ok(pass)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_second_with_how_many_were_left_out() {
        let (lines, now) = (Sparse::default(), Instant::now());
        assert_eq!(lines.line(now), Some(0));
        let soon = now + Sparse::EVERY / 2;
        assert!((0..5000).all(|_| lines.line(soon).is_none()));
        assert_eq!(lines.line(now + Sparse::EVERY), Some(5000));
        assert_eq!(lines.line(now + Sparse::EVERY * 2), Some(0));
    }
}
