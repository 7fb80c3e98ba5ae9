//! Whether whoever asks for an endpoint may have it, in which tenant, and for how long.
//!
//! Asked by `http` for each request, before anything is routed. What a credential permits is `auth`'s; this finds the
//! credential in a request, and takes out what was for the edge alone.

use std::sync::Arc;

use http::{HeaderMap, Request};

use super::{Shared, connection::Client, endpoint, error::Error};
use crate::{
    auth::{Action, Lapsed, Refused, Shown, Standing},
    protocol::EndpointId,
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

/// The leave that a request's credentials give to what it asks for, of which nothing is told before they are good. They are
/// taken from the request. What its host is `mapped` to comes first, for those who may reach it; to all others there is no
/// mapping, so that none is told to those who may not, and the endpoint is the one that is `named`.
pub(super) async fn permit<B>(
    shared: &Shared,
    client: &Client,
    request: &mut Request<B>,
    host: Option<&str>,
    mapped: Option<Name>,
    named: Result<EndpointId, Error>,
) -> Result<Permit, Error> {
    let guard = &shared.guard;
    let asked = |headers: &HeaderMap| guard.asked(headers, host.and_then(endpoint::name_of));
    if !guard.asks() {
        let name = match mapped {
            Some(name) => name,
            None => Name { tenant: asked(request.headers())?.unwrap_or_default(), endpoint: named? },
        };
        pass_doors(shared, client, request, &name)?;
        return Ok(Permit { name, standing: None });
    }
    let certificate = client.certificate.as_deref();
    // What there is of another scheme may be for the service.
    let needless =
        |refused: &Refused| certificate.is_some() && matches!(refused, Refused::Missing | Refused::Scheme);
    let bearer = guard.bearer(request.headers(), needless)?;
    let shown = Shown { token: bearer.as_ref().map(|bearer| bearer.token), certificate };
    let of_mapped = match &mapped {
        Some(Name { tenant, endpoint }) => guard.client_of(shown, tenant, endpoint).await,
        None => None,
    };
    let (caller, endpoint) = match (of_mapped, mapped) {
        (Some(caller), Some(name)) => (caller, name.endpoint),
        _ => (guard.caller(shown, asked(request.headers())?.as_ref()).await?, named?),
    };
    if let Some(field) = bearer.map(|bearer| bearer.field) {
        request.headers_mut().remove(field);
    }
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
