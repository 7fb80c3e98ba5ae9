//! Whether whoever asks for an endpoint may have it, in which tenant, and for how long.
//!
//! Asked by `http` for each request, before anything is routed. What a credential permits is `auth`'s; this finds the
//! credential in a request, and takes out what was for the edge alone.

use std::sync::Arc;

use http::Request;

use super::{Shared, connection::Client, endpoint::Target, error::Error};
use crate::{
    auth::{self, Action, Lapsed, Refused, Shown, Standing},
    upstream::Name,
};

/// Leave to reach one endpoint.
#[derive(Debug, Clone)]
pub(super) struct Permit {
    pub(super) name: Name,
    /// What it relies on, where that ends some time.
    standing: Option<Arc<Standing>>,
}

impl Permit {
    /// Waits until what it relies on is over; nothing when that has no end.
    pub(super) fn lapsed(&self) -> Option<impl Future<Output = Lapsed> + Send + 'static> {
        let standing = Arc::clone(self.standing.as_ref()?);
        Some(async move { standing.lapsed().await })
    }

    /// The same, for ever when it has no end.
    pub(super) async fn over(&self) -> Lapsed {
        match &self.standing {
            Some(standing) => standing.lapsed().await,
            None => std::future::pending().await,
        }
    }
}

/// The leave that a request's credentials give to its target, of which nothing is told before they are good. They are taken
/// from the request.
pub(super) async fn permit<B>(
    shared: &Shared,
    client: &Client,
    request: &mut Request<B>,
    host: Option<&str>,
    target: Result<Target, Error>,
) -> Result<Permit, Error> {
    let guard = &shared.guard;
    let mapped = target.as_ref().ok().and_then(|target| target.tenant.clone());
    let asked = match mapped {
        Some(tenant) => Some(tenant),
        None => guard.asked(request.headers(), host)?,
    };
    if !guard.asks() {
        let name = Name { tenant: asked.unwrap_or_default(), endpoint: target?.endpoint };
        pass_doors(shared, client, request, &name)?;
        return Ok(Permit { name, standing: None });
    }
    let certificate = client.certificate.as_deref();
    let bearer = match auth::bearer(request.headers()) {
        _ if !guard.takes_tokens() => None,
        Ok(bearer) => Some(bearer),
        // What there is may be for the service: the certificate is good alone.
        Err(Refused::Missing | Refused::Scheme) if certificate.is_some() => None,
        Err(refused) => {
            guard.count(&refused);
            return Err(refused.into());
        }
    };
    let shown = Shown { token: bearer.as_ref().map(|bearer| bearer.token), certificate };
    let caller = guard.caller(shown, asked.as_ref()).await?;
    let consumed = bearer.map(|bearer| bearer.field);
    if let Some(field) = consumed {
        request.headers_mut().remove(field);
    }
    let endpoint = target?.endpoint;
    let standing = Standing::new(guard, caller, client.certificate.clone());
    standing.permits(Action::Connect, &endpoint)?;
    let name = Name { tenant: standing.tenant().clone(), endpoint };
    pass_doors(shared, client, request, &name)?;
    Ok(Permit { name, standing: standing.ends().then(|| Arc::new(standing)) })
}

/// Meets what the node demands before an endpoint, and takes out of the request what was for that.
fn pass_doors<B>(
    shared: &Shared,
    client: &Client,
    request: &mut Request<B>,
    name: &Name,
) -> Result<(), Error> {
    let Name { tenant, endpoint } = name;
    let headers = request.headers_mut();
    for field in shared.guard.check_doors(tenant, endpoint, client.address.ip(), headers)? {
        headers.remove(field);
    }
    Ok(())
}
