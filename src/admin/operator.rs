//! Who asks, and whether they may: what the port's guard says of a request's credentials.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};

use super::error;
use crate::{
    auth::{Action, Caller, Guard, Refused, Shown, Tenants},
    protocol::TenantId,
};

/// Who asks, which the port's guard, or that of another node, has let in.
#[derive(Debug, Clone)]
pub(super) struct Operator {
    /// Whose things are for them.
    pub(super) tenants: Tenants,
    /// An address, or a node, for logs.
    pub(super) from: Arc<str>,
}

impl Operator {
    /// Whether what is of a tenant is for them.
    pub(super) fn sees(&self, tenant: &TenantId) -> bool {
        self.tenants.contain(tenant)
    }

    /// Whether they may do what is felt in all tenants.
    pub(super) fn is_of_all(&self) -> bool {
        self.tenants == Tenants::Any
    }
}

/// Lets in who may do what operators do.
pub(super) async fn permit(
    State(guard): State<Guard>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    match tenants(&guard, request.headers()).await {
        Ok(tenants) => {
            request.extensions_mut().insert(Operator { tenants, from: client.to_string().into() });
            next.run(request).await
        }
        Err(refused) => {
            let (path, status, code) = (request.uri().path(), refused.status().as_u16(), refused.code());
            tracing::info!(target: "adit::access", %client, path, status, code, %refused, "an operator was refused");
            refuse(&refused)
        }
    }
}

async fn tenants(guard: &Guard, headers: &HeaderMap) -> Result<Tenants, Refused> {
    let token = guard.bearer(headers, |_| false)?.map(|bearer| bearer.token);
    let Caller { grant, .. } = guard.caller(Shown { token, certificate: None }, None).await?;
    guard.may(&grant, Action::Admin)?;
    Ok(grant.tenants)
}

fn refuse(refused: &Refused) -> Response {
    let mut response = error::answer(refused.status(), refused.code(), refused);
    if let Some(challenge) = refused.challenge() {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}
