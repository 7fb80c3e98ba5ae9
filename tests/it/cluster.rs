//! A cluster of nodes: every endpoint is reachable through every node, one hop away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use adit::{
    cluster::{self, Announcements, BoxFuture, Cluster, Handler, Own},
    protocol::{AgentId, EndpointId, Kind, ListenOptions, Load, NodeId, PeerRoute, Phase, TenantId},
    telemetry::{Metrics, What},
    tls::Authority,
    transport::{LinkCounters, Settings, Stream},
};
use http::StatusCode;
use tokio::sync::watch;

use crate::support::{
    Fabric,
    client::{Http1, get, request},
    cluster::{Nodes, links},
    eventually, ok, service, soon,
};

#[tokio::test]
async fn an_endpoint_is_reachable_through_every_node() {
    let nodes = Nodes::start(3).await;
    let service = service::mirror().await;
    let _agent = nodes.all[1].agent("web", Kind::Http, service.address).await;
    for number in 0..3 {
        nodes.serves(number, "web").await;
        let mut client = Http1::connect(nodes.edge(number)).await;
        for _ in 0..5 {
            let answer = client.ask(request("POST", "web", "/x", "hello")).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            assert!(answer.text().ends_with("hello"));
        }
    }
}

#[tokio::test]
async fn a_node_that_is_lost_is_passed_over_and_a_restarted_one_rejoins() {
    let mut nodes = Nodes::start(3).await;
    let service = service::mirror().await;
    let _one = nodes.all[1].agent("web", Kind::Http, service.address).await;
    let _two = nodes.all[2].agent("web", Kind::Http, service.address).await;
    nodes.serves(0, "web").await;
    nodes.all[1].kill();
    for _ in 0..50 {
        let answer = get(nodes.edge(0), "web", "/").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }
    nodes.sees(0, 1).await;
    nodes.all[1].restart().await;
    for number in 0..3 {
        nodes.sees(number, 2).await;
    }
    nodes.serves(1, "web").await;
}

#[tokio::test]
async fn clusters_of_other_names_or_authorities_refuse_each_other() {
    let nodes = Nodes::start(1).await;
    let peer = nodes.all[0].addresses.peer.expect("it has a peer port");
    let authority = Arc::clone(&nodes.all[0].authority);
    let stranger =
        |name: &'static str, authority: Arc<Authority>, cluster: &'static str, certificate: &'static str| {
            let signer = Arc::clone(&authority);
            Fabric::of(authority, move |config| {
                config.node = ok(NodeId::new(name));
                config.cluster = cluster.into();
                config.cluster_links = Some(links(&signer, certificate, &[peer]));
            })
        };
    let other_authority = Arc::new(ok(Authority::generate("another authority")));
    let _others = [
        stranger("n2", Arc::clone(&authority), "elsewhere", "n2").await,
        stranger("n3", other_authority, "test", "n3").await,
        stranger("n4", Arc::clone(&authority), "test", "n5").await,
        stranger("n1", Arc::clone(&authority), "test", "n1").await,
    ];
    let admin = nodes.all[0].addresses.admin;
    eventually("each has been refused", async || {
        let metrics = get(admin, "", "/metrics").await;
        let refused = metrics.text().lines().find_map(|line| line.strip_prefix("adit_peer_refusals_total "));
        refused.and_then(|count| count.parse::<u32>().ok()).is_some_and(|count| count >= 4)
    })
    .await;
    assert!(get(admin, "", "/metrics").await.text().contains("\nadit_peers 0\n"));
}

#[tokio::test]
async fn nodes_leave_one_after_the_other_and_no_request_fails() {
    let mut nodes = Nodes::start(3).await;
    let service = service::mirror().await;
    let mut agents = Vec::new();
    for number in 0..3 {
        agents.push(nodes.all[number].agent("web", Kind::Http, service.address).await);
    }
    for number in 0..3 {
        nodes.serves(number, "web").await;
    }
    for leaving in 0..3 {
        let node = nodes.all[leaving].node.take().expect("it runs");
        let edge = nodes.edge((leaving + 1) % 3);
        let load = async {
            let mut client = Http1::connect(edge).await;
            let mut answered = 0;
            let end = tokio::time::Instant::now() + Duration::from_secs(2);
            while tokio::time::Instant::now() < end {
                for method in ["GET", "POST"] {
                    let answer = client.ask(request(method, "web", "/", "x")).await;
                    assert_eq!(answer.status, StatusCode::OK, "{method}: {}", answer.text());
                    answered += 1;
                }
            }
            answered
        };
        let (drained, answered) = tokio::join!(soon(node.drain()), load);
        ok(drained);
        assert!(answered > 100, "{answered}");
        nodes.all[leaving].restart().await;
        for number in 0..3 {
            nodes.sees(number, 2).await;
        }
    }
}

/// What a node would do with its peers' routes: counts them.
#[derive(Debug, Default)]
struct Counting(AtomicUsize);

impl Handler for Counting {
    fn added(&self, _: &Arc<cluster::Node>, routes: &[PeerRoute]) {
        self.0.fetch_add(routes.len(), Relaxed);
    }

    fn removed(&self, _: &Arc<cluster::Node>, routes: &[PeerRoute]) {
        self.0.fetch_sub(routes.len(), Relaxed);
    }

    fn retired(&self, _: &Arc<cluster::Node>, _: &[u64]) {}

    fn flow(&self, _: &Arc<cluster::Node>, _: Stream) -> BoxFuture {
        Box::pin(std::future::ready(()))
    }

    fn settled(&self) {}

    fn load(&self) -> Load {
        Load { agent_links: 0, agents: Vec::new(), suspects: Vec::new() }
    }

    fn happened(&self, _: What, _: String, _: String) {}
}

#[tokio::test]
async fn nodes_that_both_have_a_hundred_thousand_routes_tell_each_other_all() {
    const ROUTES: usize = 100_000;
    let authority = ok(Authority::generate("cluster authority"));
    let (_phase, phase) = watch::channel(Phase::Ready);
    let mut peer = None;
    let mut nodes = Vec::new();
    for name in ["n1", "n2"] {
        let announcements = Arc::<Announcements>::default();
        for number in 0..ROUTES {
            announcements.add(PeerRoute {
                tenant: TenantId::default(),
                endpoint: ok(EndpointId::new(&format!("{name}-endpoint-{number}"))),
                agent: AgentId::from_bits(number as u128),
                kind: Kind::Http,
                options: ListenOptions::default(),
            });
        }
        let handler = Arc::<Counting>::default();
        let own = Own {
            node: ok(NodeId::new(name)),
            cluster: "test".into(),
            incarnation: 1,
            link_address: "127.0.0.1:1".into(),
            phase: phase.clone(),
        };
        let join: Vec<_> = peer.into_iter().collect();
        let config = links(&authority, name, &join);
        let shared = Arc::<Counting>::clone(&handler);
        let metrics = Metrics::default();
        let carried = LinkCounters::new(&metrics);
        let node =
            Cluster::start(config, own, &Settings::default(), announcements, shared, &metrics, carried);
        let node = ok(node);
        peer = Some(node.address());
        nodes.push((node, handler));
    }
    for (_, handler) in &nodes {
        let told = eventually("all routes have come", async || handler.0.load(Relaxed) == ROUTES);
        told.await;
    }
}
