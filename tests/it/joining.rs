//! Nodes find each other by what they were given, whatever comes first, and are told where to find the rest.

use std::net::SocketAddr;

use adit::{node, protocol::NodeId};

use crate::support::{
    Fabric,
    client::get,
    cluster::{Nodes, links},
    ok,
    raw::Raw,
};

#[tokio::test]
async fn ports_that_are_bound_to_any_address_are_told_by_one_that_leads_there() {
    let mut nodes = Nodes::start(1).await;
    let authority = nodes.all[0].authority.clone();
    let seed = nodes.all[0].addresses.peer.expect("it has a peer port");
    let any = |config: &mut node::Config| {
        let mut cluster = links(&authority, "n2", &[seed]);
        cluster.bind.set_ip([0, 0, 0, 0].into());
        config.node = ok(NodeId::new("n2"));
        config.cluster_links = Some(cluster);
        config.link.bind.set_ip([0, 0, 0, 0].into());
    };
    let second = Fabric::of(authority.clone(), any).await;
    let (link, peer) = (second.addresses.link, second.addresses.peer.expect("it has a peer port"));
    assert!(link.ip().is_unspecified() && peer.ip().is_unspecified());
    nodes.all.push(second);
    nodes.sees(0, 1).await;
    let status = get(nodes.all[0].addresses.admin, "", "/api/v1/status").await;
    let status: serde_json::Value = ok(serde_json::from_slice(&status.body));
    // The way to the seed is on this host.
    assert_eq!(status["peers"][0]["address"], format!("127.0.0.1:{}", peer.port()));
    // Agents may be anywhere, so this is the address of whichever interface leads to the world here.
    let told = Raw::told_nodes(&nodes.all[0]).await;
    let address: SocketAddr = ok(told[1].address.parse());
    assert!(!address.ip().is_unspecified() && address.port() == link.port(), "{told:?}");
}
