//! What is asked of one node and is for another: `?node=ID`, and a node's own page.
//!
//! It is passed on over the link between the two, one hop and no more, and the answer is passed back as it is.

use std::sync::Arc;

use axum::{
    Extension,
    body::to_bytes,
    extract::{Request, State},
    http::{Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Source, error, operator::Operator};
use crate::{
    auth::Tenants,
    cluster::{AskError, Node},
    protocol::Ask,
};

/// Answers what is for another node by asking that one.
pub(super) async fn answer(
    State(source): State<Arc<Source>>,
    Extension(operator): Extension<Operator>,
    request: Request,
    next: Next,
) -> Response {
    let Target { node, path } = match Target::of(request.uri()) {
        Some(target) if target.node != source.node.as_str() => target,
        _ => return next.run(request).await,
    };
    let Some(peer) = peer(&source, &node) else {
        let error = format!(
            "the node {} is linked to no node {node:?}: `adit status nodes` shows which there are",
            source.node
        );
        return error::answer(StatusCode::NOT_FOUND, "unknown_node", error);
    };
    if request.method() == Method::POST {
        let from = &operator.from;
        tracing::info!(target: "adit::access", %from, node, path, "an operator asks for something at another node");
    }
    let ask = match ask(operator, path, request).await {
        Ok(ask) => ask,
        Err(refused) => return refused,
    };
    match peer.ask(ask).await {
        Ok(answer) => {
            let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
            (status, [(header::CONTENT_TYPE, "application/json")], answer.body).into_response()
        }
        Err(failed) => {
            let status = match failed {
                AskError::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
                AskError::Silent(_) => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::BAD_GATEWAY,
            };
            error::answer(status, failed.name(), failed)
        }
    }
}

fn peer(source: &Source, node: &str) -> Option<Arc<Node>> {
    source.peers.get()?.peers().into_iter().find(|peer| peer.member.node.as_str() == node)
}

/// What the other node is asked.
async fn ask(operator: Operator, path: String, request: Request) -> Result<Ask, Response> {
    let tenants = match operator.tenants {
        Tenants::Any => None,
        Tenants::Some(tenants) => Some(tenants),
    };
    if tenants.as_ref().is_some_and(|tenants| tenants.len() > Ask::MAX_TENANTS) {
        let error = format!(
            "what is for over {} tenants cannot be asked of another node: ask its own admin port",
            Ask::MAX_TENANTS
        );
        return Err(error::answer(StatusCode::BAD_REQUEST, "too_many_tenants", error));
    }
    if path.len() > Ask::MAX_PATH {
        let error = format!("the path has over {} bytes", Ask::MAX_PATH);
        return Err(error::answer(StatusCode::URI_TOO_LONG, "uri_too_long", error));
    }
    let act = request.method() == Method::POST;
    let body = to_bytes(request.into_body(), Ask::MAX_BODY).await.map_err(|_| {
        let error = format!("the body has over {} bytes, or broke off", Ask::MAX_BODY);
        error::answer(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", error)
    })?;
    Ok(Ask { path, act, body, tenants })
}

/// A node that is named, and what of the path is for it.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    node: String,
    path: String,
}

impl Target {
    /// That of a path. The names of nodes have no character that would be written in another way.
    fn of(uri: &Uri) -> Option<Self> {
        let path = uri.path();
        let (named, rest): (Vec<_>, Vec<_>) =
            uri.query().unwrap_or_default().split('&').partition(|pair| pair.starts_with("node="));
        let named = named.first().and_then(|pair| pair.strip_prefix("node="));
        let node = named.or_else(|| path.strip_prefix("/api/v1/nodes/"))?.to_owned();
        let query = rest.join("&");
        let path = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        Some(Self { node, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_that_of_the_query_or_of_the_path() {
        let of = |path: &'static str| {
            Target::of(&Uri::from_static(path)).map(|Target { node, path }| format!("{node} {path}"))
        };
        assert_eq!(of("/api/v1/links"), None);
        assert_eq!(of("/api/v1/flows?limit=3"), None);
        assert_eq!(of("/api/v1/links?node=n2").as_deref(), Some("n2 /api/v1/links"));
        assert_eq!(of("/api/v1/flows?limit=3&node=n2").as_deref(), Some("n2 /api/v1/flows?limit=3"));
        assert_eq!(of("/api/v1/nodes/n3").as_deref(), Some("n3 /api/v1/nodes/n3"));
        assert_eq!(of("/api/v1/nodes/n3?node=n2").as_deref(), Some("n2 /api/v1/nodes/n3"));
        assert_eq!(of("/api/v1/links?node=").as_deref(), Some(" /api/v1/links"));
    }
}
