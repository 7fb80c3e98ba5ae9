//! The API for the operators of other nodes: they ask their node, which asks this one over the link between the two.
//!
//! It is the same routes without the port's guards: that node has judged its operator, and nodes trust each other. It has no
//! way to ask a third node.

use std::{
    convert::Infallible,
    sync::{Arc, Weak},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode},
    response::Response,
};
use bytes::Bytes;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::{error, operator::Operator};
use crate::{
    auth::Tenants,
    cluster::Answer,
    protocol::{Ask, NodeId},
};

/// What this node tells others for their operators. Clones are handles to the same, which ends with the admin port: the API
/// knows the cluster, by which what is asked comes here.
#[derive(Debug, Clone)]
pub struct Answers(Weak<Router>);

impl Answers {
    pub(super) fn of(api: &Arc<Router>) -> Self {
        Self(Arc::downgrade(api))
    }

    /// The answer to what another node asks.
    pub async fn to(&self, node: &NodeId, ask: Ask) -> Answer {
        let Ask { path, act, body, tenants } = ask;
        let operator = Operator {
            tenants: tenants.map_or(Tenants::Any, Tenants::Some),
            from: format!("node {node}").into(),
            standing: None,
        };
        let request = Request::builder()
            .method(if act { Method::POST } else { Method::GET })
            .uri(path)
            .extension(operator)
            .body(Body::from(body));
        let response = match (request, self.0.upgrade()) {
            (Ok(request), Some(api)) => {
                let answered: Result<Response, Infallible> =
                    TowerToHyperService::new((*api).clone()).call(request).await;
                match answered {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
            (Err(invalid), _) => error::answer(StatusCode::BAD_REQUEST, "invalid_path", invalid),
            (Ok(_), None) => error::answer(StatusCode::SERVICE_UNAVAILABLE, "leaving", "the node has left"),
        };
        let status = response.status().as_u16();
        // It is one that this process has made, whole.
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap_or_else(|_| Bytes::new());
        Answer { status, body }
    }
}
