//! Nodes find each other by what they were given, whatever comes first, and are told where to find the rest.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use adit::{
    net::HostPort,
    node,
    protocol::{Kind, NodeId},
    tls::Authority,
};
use http::StatusCode;
use tokio::{net::UdpSocket, time::Instant};

use crate::support::{
    Fabric,
    client::{get, metric},
    cluster::{Nodes, links},
    eventually, ok,
    process::Process,
    raw::Raw,
    service,
};

/// A node with these seeds.
async fn node(authority: &Arc<Authority>, name: &str, join: Vec<HostPort>) -> Fabric {
    let signer = Arc::clone(authority);
    Fabric::of(Arc::clone(authority), move |config| {
        let mut cluster = links(&signer, name, &[]);
        cluster.join = join;
        config.node = ok(NodeId::new(name));
        config.cluster_links = Some(cluster);
    })
    .await
}

fn authority() -> Arc<Authority> {
    Arc::new(ok(Authority::generate("cluster authority")))
}

/// A seed by name, which stands for as many addresses as this host's resolver knows.
fn seed(port: u16) -> HostPort {
    HostPort { host: "localhost".into(), port }
}

fn port(fabric: &Fabric) -> u16 {
    fabric.addresses.peer.expect("it has a peer port").port()
}

/// Starts a node again with other seeds.
async fn restart_with(fabric: &mut Fabric, join: &[HostPort]) {
    fabric.kill();
    fabric.config.cluster_links.as_mut().expect("it is of a cluster").join = join.to_vec();
    fabric.restart().await;
}

/// An address where nobody ever answers.
async fn silent() -> UdpSocket {
    ok(UdpSocket::bind("127.0.0.1:0").await)
}

async fn assert_serves(fabric: &Fabric) {
    assert_eq!(get(fabric.addresses.admin, "", "/ready").await.status, StatusCode::OK);
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    assert_eq!(get(fabric.addresses.edge, "web", "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_first_node_serves_though_it_finds_nobody_but_itself_and_the_second_finds_it() {
    let (authority, nobody) = (authority(), silent().await);
    let mut first = node(&authority, "n1", Vec::new()).await;
    let own = seed(port(&first));
    restart_with(&mut first, &[own.clone(), seed(ok(nobody.local_addr()).port())]).await;
    assert_serves(&first).await;
    let second = node(&authority, "n2", vec![own]).await;
    let nodes = Nodes { all: vec![first, second] };
    nodes.sees(0, 1).await;
    nodes.sees(1, 1).await;
}

#[tokio::test]
async fn a_seed_that_comes_up_later_is_found() {
    let (ours, theirs) = (authority(), authority());
    // So that the first attempt has failed by then, there is somebody else at the seed's address.
    let mut stranger = node(&theirs, "n1", Vec::new()).await;
    let second = node(&ours, "n2", vec![seed(port(&stranger))]).await;
    assert_serves(&second).await;
    let refusals = "adit_peer_refusals_total";
    eventually("the stranger refuses", async || metric(stranger.addresses.admin, refusals).await > 0).await;
    stranger.kill();
    let mut first = node(&ours, "n1", Vec::new()).await;
    first.kill();
    first.addresses.peer = stranger.addresses.peer;
    first.restart().await;
    let nodes = Nodes { all: vec![first, second] };
    nodes.sees(0, 1).await;
    nodes.sees(1, 1).await;
}

#[tokio::test]
async fn nodes_whose_seeds_are_all_of_them_find_each_other_and_not_themselves() {
    let authority = authority();
    let mut all = Vec::new();
    for name in ["n1", "n2", "n3"] {
        all.push(node(&authority, name, Vec::new()).await);
    }
    let seeds: Vec<_> = all.iter().map(|node| seed(port(node))).collect();
    for node in &mut all {
        restart_with(node, &seeds).await;
    }
    let nodes = Nodes { all };
    for number in 0..3 {
        nodes.sees(number, 2).await;
        let status = get(nodes.all[number].addresses.admin, "", "/api/v1/status").await;
        let status: serde_json::Value = ok(serde_json::from_slice(&status.body));
        let peers = status["peers"].as_array().into_iter().flatten();
        assert!(peers.map(|peer| &peer["node"]).all(|peer| *peer != status["node"]), "{status}");
    }
}

#[tokio::test]
async fn a_seed_that_does_not_answer_holds_up_no_other() {
    let authority = authority();
    let first = node(&authority, "n1", Vec::new()).await;
    // Addresses are taken in order: some of these come before the one that answers.
    let mut nobody = Vec::new();
    while !nobody.iter().any(|before: &UdpSocket| ok(before.local_addr()).port() < port(&first)) {
        nobody.push(silent().await);
    }
    let seeds = nobody.iter().map(|nobody| ok(nobody.local_addr()).port()).chain([port(&first)]).map(seed);
    let started = Instant::now();
    let second = node(&authority, "n2", seeds.collect()).await;
    let nodes = Nodes { all: vec![first, second] };
    nodes.sees(0, 1).await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn ports_that_are_bound_to_any_address_are_told_by_one_that_leads_there() {
    let mut nodes = Nodes::start(1).await;
    let authority = Arc::clone(&nodes.all[0].authority);
    let seed = nodes.all[0].addresses.peer.expect("it has a peer port");
    let any = |config: &mut node::Config| {
        let mut cluster = links(&authority, "n2", &[seed]);
        cluster.bind.set_ip([0, 0, 0, 0].into());
        config.node = ok(NodeId::new("n2"));
        config.cluster_links = Some(cluster);
        config.link.bind.set_ip([0, 0, 0, 0].into());
    };
    let second = Fabric::of(Arc::clone(&authority), any).await;
    let (link, peer) = (second.addresses.link, second.addresses.peer.expect("it has a peer port"));
    assert!(link.ip().is_unspecified() && peer.ip().is_unspecified());
    // The way to the seed is on this host.
    let peer = format!("127.0.0.1:{}", peer.port());
    nodes.all.push(second);
    nodes.sees(0, 1).await;
    let status = get(nodes.all[0].addresses.admin, "", "/api/v1/status").await;
    let status: serde_json::Value = ok(serde_json::from_slice(&status.body));
    assert_eq!(status["peers"][0]["address"], peer);
    // Agents may be anywhere, so this is the address of whichever interface leads to the world here.
    let told = Raw::told_nodes(&nodes.all[0]).await;
    let address: SocketAddr = ok(told[1].address.parse());
    assert!(!address.ip().is_unspecified() && address.port() == link.port(), "{told:?}");
}

#[tokio::test]
async fn a_node_logs_where_others_are_told_to_reach_it() {
    let folder = ok(tempfile::tempdir());
    let (here, any) = ("127.0.0.1:0", "0.0.0.0:0");
    let binds = [
        "--edge-bind",
        here,
        "--admin-bind",
        here,
        "--link-bind",
        any,
        "--peer-bind",
        any,
        "--allow-anonymous",
    ];
    let nobody = silent().await;
    let seed = ok(nobody.local_addr()).to_string();
    let node = Process::start(folder.path(), &[&["node", "--join", &seed], &binds[..]].concat());
    let line = node.log_with("where others are told to reach this node");
    let peer = node.address("peer").port();
    assert!(line.contains(&format!("127.0.0.1:{peer}")), "{line}");
}
