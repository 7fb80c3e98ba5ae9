//! What Piko's `server status` asks of an admin port, in its shapes: the endpoints of this node, and the nodes.
//!
//! Piko has one space of names, which is the default tenant's here.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use super::{Source, operator::Operator};
use crate::protocol::TenantId;

/// A node, with its endpoints or how many they are.
#[derive(Debug, Serialize)]
struct Node<E> {
    id: String,
    status: &'static str,
    /// Empty where it is not known.
    proxy_addr: String,
    admin_addr: String,
    #[serde(flatten)]
    endpoints: E,
}

#[derive(Debug, Serialize)]
struct Counted {
    endpoints: usize,
    upstreams: usize,
}

#[derive(Debug, Serialize)]
struct Listed {
    endpoints: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Shown {
    source: Arc<Source>,
    address: SocketAddr,
}

/// The paths, in the order of what answers to them.
pub(super) const PATHS: [&str; 4] = [
    "/status/upstream/endpoints",
    "/status/cluster/nodes",
    "/status/cluster/nodes/local",
    "/status/cluster/nodes/{id}",
];

pub(super) fn router(source: Arc<Source>, address: SocketAddr) -> Router {
    let answers = [get(endpoints), get(nodes), get(local), get(node)];
    let routes = PATHS.into_iter().zip(answers);
    let router = routes.fold(Router::new(), |router, (path, answer)| router.route(path, answer));
    router.with_state(Arc::new(Shown { source, address }))
}

impl Shown {
    /// How many agents serve each endpoint at each node, as far as that is for the operator.
    fn served(&self, operator: &Operator) -> BTreeMap<Option<String>, BTreeMap<String, usize>> {
        match operator.sees(&TenantId::default()) {
            true => self.source.upstreams.served_by_node(),
            false => BTreeMap::new(),
        }
    }

    /// All nodes, this one first.
    fn nodes(&self, operator: &Operator) -> Vec<Node<Listed>> {
        let mut served = self.served(operator);
        let mut listed = |node: Option<&str>| {
            let endpoints = served.remove(&node.map(ToOwned::to_owned)).unwrap_or_default();
            Listed { endpoints }
        };
        let own = Node {
            id: self.source.node.to_string(),
            status: "active",
            proxy_addr: self.source.edge.get().map_or_else(String::new, ToString::to_string),
            admin_addr: self.address.to_string(),
            endpoints: listed(None),
        };
        let peers = self.source.peers.get().map_or_else(Vec::new, |cluster| cluster.peers());
        let peers = peers.iter().map(|peer| peer.status()).map(|peer| Node {
            status: if peer.suspect { "unreachable" } else { "active" },
            // Peers tell each other where to link to, and no more.
            proxy_addr: String::new(),
            admin_addr: String::new(),
            endpoints: listed(Some(&peer.node)),
            id: peer.node,
        });
        std::iter::once(own).chain(peers).collect()
    }
}

async fn endpoints(
    State(shown): State<Arc<Shown>>,
    Extension(operator): Extension<Operator>,
) -> impl IntoResponse {
    Json(shown.served(&operator).remove(&None).unwrap_or_default())
}

async fn nodes(
    State(shown): State<Arc<Shown>>,
    Extension(operator): Extension<Operator>,
) -> impl IntoResponse {
    let counted = |node: Node<Listed>| {
        let Node { id, status, proxy_addr, admin_addr, endpoints: Listed { endpoints } } = node;
        let endpoints = Counted { endpoints: endpoints.len(), upstreams: endpoints.values().sum() };
        Node { id, status, proxy_addr, admin_addr, endpoints }
    };
    let mut nodes: Vec<_> = shown.nodes(&operator).into_iter().map(counted).collect();
    nodes.sort_by(|a, b| a.id.cmp(&b.id));
    Json(nodes)
}

async fn local(
    State(shown): State<Arc<Shown>>,
    Extension(operator): Extension<Operator>,
) -> impl IntoResponse {
    Json(shown.nodes(&operator).into_iter().next())
}

async fn node(
    State(shown): State<Arc<Shown>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
) -> Response {
    match shown.nodes(&operator).into_iter().find(|node| node.id == id) {
        Some(node) => Json(node).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
