//! Who asks, and whether they may: what the port's guard says of a request's credentials.

use std::sync::Arc;

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};

use rustls::pki_types::CertificateDer;

use super::{door::Visitor, error};
use crate::{
    auth::{Action, Caller, Guard, Lapsed, Refused, Shown, Standing, Tenants},
    protocol::TenantId,
};

/// Who asks, which the port's guard, or that of another node, has let in.
#[derive(Debug, Clone)]
pub(super) struct Operator {
    /// Whose things are for them.
    pub(super) tenants: Tenants,
    /// An address, or a node, for logs.
    pub(super) from: Arc<str>,
    /// What they stand on, where that ends some time.
    pub(super) standing: Option<Arc<Standing>>,
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

    /// Waits until they are let in no more. Cancel safe.
    pub(super) async fn lapsed(&self) -> Lapsed {
        match &self.standing {
            Some(standing) => standing.lapsed().await,
            None => std::future::pending().await,
        }
    }
}

/// Lets in who may do what operators do.
pub(super) async fn permit(
    State(guard): State<Guard>,
    ConnectInfo(visitor): ConnectInfo<Visitor>,
    mut request: Request,
    next: Next,
) -> Response {
    let Visitor { address: client, certificate } = visitor;
    match caller(&guard, request.headers(), certificate.as_deref()).await {
        Ok(caller) => {
            let tenants = caller.grant.tenants.clone();
            let standing = Standing::new(&guard, caller, certificate);
            let standing = standing.ends().then(|| Arc::new(standing));
            request.extensions_mut().insert(Operator { tenants, from: client.to_string().into(), standing });
            next.run(request).await
        }
        Err(refused) => {
            let (path, status, code) = (request.uri().path(), refused.status().as_u16(), refused.code());
            tracing::info!(target: "adit::access", %client, path, status, code, %refused, "an operator was refused");
            refuse(&refused)
        }
    }
}

async fn caller(
    guard: &Guard,
    headers: &HeaderMap,
    certificate: Option<&CertificateDer<'static>>,
) -> Result<Caller, Refused> {
    let needless = |refused: &Refused| certificate.is_some() && matches!(refused, Refused::Missing);
    let token = guard.bearer(headers, needless)?.map(|bearer| bearer.token);
    let caller = guard.caller(Shown { token, certificate }, None).await?;
    guard.may(&caller.grant, Action::Admin)?;
    Ok(caller)
}

fn refuse(refused: &Refused) -> Response {
    let mut response = error::answer(refused.status(), refused.code(), refused);
    if let Some(challenge) = refused.challenge() {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}
