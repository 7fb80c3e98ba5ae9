//! Several nodes that know each other.

use std::{net::SocketAddr, sync::Arc};

use adit::{
    agent::{self, Agent},
    client, cluster,
    net::HostPort,
    node,
    protocol::{Kind, NodeId},
    tls::{Authority, NODE_NAME},
};
use http::StatusCode;

use super::{Fabric, client::get, eventually, fabric::identity, ok, soon};

/// Nodes n1, n2, … of one cluster.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) all: Vec<Fabric>,
}

pub(crate) fn host_port(address: SocketAddr) -> HostPort {
    HostPort { host: address.ip().to_string(), port: address.port() }
}

/// A node's part in a cluster whose certificates an authority signs.
pub(crate) fn links(authority: &Authority, node: &str, join: &[SocketAddr]) -> cluster::Config {
    cluster::Config {
        bind: ([127, 0, 0, 1], 0).into(),
        advertise: None,
        join: join.iter().copied().map(host_port).collect(),
        identity: identity(authority, &["127.0.0.1", &format!("{NODE_NAME}{node}")]),
        roots: vec![authority.certificate().clone()],
    }
}

impl Nodes {
    /// So many nodes, once each is linked to each.
    pub(crate) async fn start(count: usize) -> Self {
        Self::with(count, |_| {}).await
    }

    /// A node that is alone so far.
    pub(crate) async fn one() -> Fabric {
        let mut nodes = Self::start(1).await;
        nodes.all.remove(0)
    }

    /// So many nodes with a changed configuration.
    pub(crate) async fn with(count: usize, change: impl Fn(&mut node::Config)) -> Self {
        let authority = Arc::new(ok(Authority::generate("cluster authority")));
        let mut all: Vec<Fabric> = Vec::new();
        for number in 1..=count {
            let name = format!("n{number}");
            let join: Vec<_> = all.first().and_then(|first| first.addresses.peer).into_iter().collect();
            let fabric = Fabric::of(Arc::clone(&authority), |config| {
                config.node = ok(NodeId::new(&name));
                config.cluster_links = Some(links(&authority, &name, &join));
                change(config);
            });
            all.push(fabric.await);
        }
        let nodes = Self { all };
        for number in 0..count {
            nodes.sees(number, count - 1).await;
        }
        nodes
    }

    pub(crate) fn edge(&self, number: usize) -> SocketAddr {
        self.all[number].addresses.edge
    }

    /// Waits until a node is linked to so many others.
    pub(crate) async fn sees(&self, number: usize, others: usize) {
        let admin = self.all[number].addresses.admin;
        eventually(&format!("n{} is linked to {others} others", number + 1), async || {
            let metrics = get(admin, "", "/metrics").await;
            metrics.text().lines().any(|line| line == format!("adit_peers {others}"))
        })
        .await;
    }

    /// Waits until an endpoint is served through a node.
    pub(crate) async fn serves(&self, number: usize, endpoint: &str) {
        let edge = self.edge(number);
        eventually(&format!("{endpoint} is served through n{}", number + 1), async || {
            get(edge, endpoint, "/").await.status == StatusCode::OK
        })
        .await;
    }

    /// Waits until a node knows of an agent of an endpoint.
    pub(crate) async fn knows(&self, number: usize, endpoint: &str) {
        let node = self.all[number].node.as_ref().expect("it runs");
        eventually(&format!("n{} knows {endpoint}", number + 1), async || node.serves(endpoint)).await;
    }

    /// An agent with a link to every node but one, and the number of that one, which reaches it through the others.
    pub(crate) async fn agent_elsewhere(
        &self,
        endpoint: &str,
        kind: Kind,
        service: impl ToString,
    ) -> (Agent, usize) {
        self.agent_elsewhere_with(endpoint, kind, service, |_| {}).await
    }

    /// The same with a changed endpoint.
    pub(crate) async fn agent_elsewhere_with(
        &self,
        endpoint: &str,
        kind: Kind,
        service: impl ToString,
        change: impl FnOnce(&mut agent::Endpoint),
    ) -> (Agent, usize) {
        let last = self.all.last().expect("there are nodes");
        let links = self.all.len() - 1;
        let client = client::Config { links, ..last.client() };
        let mut served = last.endpoint(endpoint, kind, service);
        change(&mut served);
        let agent = ok(Agent::start(agent::Config::new(client, vec![served])));
        ok(soon(agent.serve()).await);
        let mut state = agent.client().agent_state();
        let linked = ok(soon(state.wait_for(|state| state.nodes().len() == links)).await).clone();
        let is_linked = |node: &Fabric| linked.nodes().contains(&&node.config.node);
        let entry = self.all.iter().position(|node| !is_linked(node)).expect("it has a link too few");
        self.knows(entry, endpoint).await;
        (agent, entry)
    }
}
