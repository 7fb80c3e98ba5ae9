//! What clients pass that send no request of HTTP, before they are given a flow: their limits, and the door of the endpoint,
//! as far as an address opens it. Asked by `tcp`, `sni` and `udp`.

use std::net::SocketAddr;

use crate::{
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

    /// Says so in the log; in that of access, where it is the client who may not have it.
    pub(super) fn log(&self, client: SocketAddr, name: Option<&Name>) {
        let (code, endpoint) = (self.name(), name.map(tracing::field::display));
        match self {
            Self::Denied(_) | Self::Open(OpenFlowError::Limited(_)) => {
                tracing::info!(target: "adit::access", %client, endpoint, code, error = %self, "a client was refused");
            }
            Self::Open(error) => tracing::debug!(%client, endpoint, %error, "a client was refused"),
        }
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
