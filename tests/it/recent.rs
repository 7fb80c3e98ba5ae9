//! What has happened of late, as operators are told who come to look when it is over.

use std::net::SocketAddr;

use adit::{
    protocol::{Close, Role},
    tls::{self, Authority, Trust},
    transport::{Settings, quic::Dialer},
};
use serde_json::Value;

use crate::support::{
    Fabric,
    client::{get, metric},
    cluster::Nodes,
    eventually,
    fabric::LINK,
    ok,
    raw::{Raw, hello},
    soon,
};

/// Whether something has happened of which this is said, in words that are somewhere in each part.
async fn has_happened(admin: SocketAddr, what: &str, who: &str, why: &str) -> bool {
    let told: Value = ok(serde_json::from_slice(&get(admin, "", "/api/v1/recent").await.body));
    let events = told["events"].as_array().cloned().unwrap_or_default();
    let part =
        |event: &Value, key: &str, text: &str| event[key].as_str().is_some_and(|said| said.contains(text));
    events.iter().any(|event| event["what"] == what && part(event, "who", who) && part(event, "why", why))
}

#[tokio::test]
async fn a_link_that_has_ended_is_told_with_what_it_served_and_why() {
    let fabric = Fabric::start().await;
    let admin = fabric.addresses.admin;
    let agent = Raw::welcomed(&fabric, hello(Role::Agent, 1, &["web"])).await;
    assert!(has_happened(admin, "linked", "agent ", "from 127.0.0.1 over quic").await);
    assert!(!has_happened(admin, "link_ended", "", "").await);
    agent.link.close(Close::Done, "it is broken");
    eventually("it is told", async || {
        has_happened(admin, "link_ended", "agent ", "it is broken; it served web").await
    })
    .await;
    // That a link has come up is no reason to look, that it has ended is.
    let status: Value = ok(serde_json::from_slice(&get(admin, "", "/api/v1/status").await.body));
    let shown: Vec<_> =
        status["recent"].as_array().into_iter().flatten().map(|event| event["what"].clone()).collect();
    assert_eq!(shown, ["link_ended"], "{status}");
}

#[tokio::test]
async fn a_handshake_that_fails_is_told_with_the_address_and_counted() {
    let fabric = Fabric::start().await;
    let admin = fabric.addresses.admin;
    // It takes the node's certificate for no good, as an agent does when that has ended.
    let other = Trust::Roots(vec![ok(Authority::generate("other authority")).certificate().clone()]);
    let dialer = ok(Dialer::new(ok(tls::client_config(&other, None, &[LINK])), &Settings::default()));
    for _ in 0..2 {
        soon(dialer.dial(fabric.addresses.link, "127.0.0.1"))
            .await
            .expect_err("it is signed by nobody known");
    }
    eventually("it is told", async || has_happened(admin, "link_refused", "127.0.0.1", "handshake").await)
        .await;
    eventually("twice", async || {
        let told: Value = ok(serde_json::from_slice(&get(admin, "", "/api/v1/recent").await.body));
        told["events"][0]["times"] == 2
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_gone_is_told_by_the_others() {
    let mut nodes = Nodes::start(2).await;
    let admin = nodes.all[0].addresses.admin;
    eventually("they are linked", async || has_happened(admin, "node_linked", "node n2", "at ").await).await;
    nodes.all[1].kill();
    eventually("it is told", async || {
        has_happened(admin, "node_link_ended", "node n2", "").await
            && has_happened(admin, "node_gone", "node n2", "").await
    })
    .await;
}

#[tokio::test]
async fn the_end_of_each_ports_certificate_is_told() {
    let fabric = Fabric::start().await;
    let admin = fabric.addresses.admin;
    let status: Value = ok(serde_json::from_slice(&get(admin, "", "/api/v1/status").await.body));
    let link = status["certificates"].as_array().into_iter().flatten().find(|one| one["port"] == "link");
    let link = link.unwrap_or_else(|| panic!("{status}"));
    assert!(link["names"].as_array().is_some_and(|names| names.contains(&"127.0.0.1".into())), "{status}");
    let ends = metric(admin, "adit_certificate_not_after_timestamp_seconds{port=\"link\"}").await;
    assert_eq!(link["not_after"].as_u64(), Some(ends), "{status}");
    assert!(ends > 1_700_000_000, "{ends}");
}
