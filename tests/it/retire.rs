//! A flow that is to carry no further request is closed as soon as it is idle, by the node that puts requests on it: the one
//! that the agent is linked to, or another.

use std::time::Duration;

use adit::{
    protocol::{Control, Kind, Retire, Role},
    transport::Stream,
};
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use crate::support::{
    client::{Http1, get, request},
    cluster::Nodes,
    eventually,
    middle::Middle,
    ok,
    raw::{Raw, hello},
    service::{self, OK},
    soon,
};

/// Well below the four seconds after which a flow is closed for being idle.
const PROMPT: Duration = Duration::from_secs(2);

async fn assert_closed(flow: &mut Stream) {
    let ended = timeout(PROMPT, flow.recv.read_to_end(&mut Vec::new())).await;
    assert_eq!(ok(ended.expect("the flow is closed promptly")), 0, "it carries no other request");
}

#[tokio::test]
async fn a_flow_that_its_agent_retires_is_closed_when_it_is_idle() {
    let nodes = Nodes::start(2).await;
    let mut agent = Raw::welcomed(&nodes.all[1], hello(Role::Agent, 1, &["web"])).await;
    nodes.knows(0, "web").await;
    for edge in [nodes.edge(0), nodes.edge(1)] {
        let (answer, mut idle) = tokio::join!(get(edge, "web", "/"), agent.answered());
        assert_eq!(answer.text(), "ok");
        agent.say(Control::Retire(Retire { flows: vec![idle.id()] })).await;
        assert_closed(&mut idle).await;

        let in_use = async {
            let mut flow = agent.asked().await;
            agent.say(Control::Retire(Retire { flows: vec![flow.id()] })).await;
            agent.say(Control::Ping(7)).await;
            while !matches!(agent.hear().await, Ok(Control::Pong(7))) {}
            ok(flow.send.write_all(OK).await);
            flow
        };
        let (answer, mut flow) = tokio::join!(get(edge, "web", "/"), in_use);
        assert_eq!(answer.text(), "ok", "the request that it carried is not cut");
        assert_closed(&mut flow).await;
    }
}

#[tokio::test]
async fn a_link_that_a_newer_one_replaces_is_left_by_the_requests_of_other_nodes() {
    let nodes = Nodes::start(2).await;
    let hello = || hello(Role::Agent, 1, &["web"]);
    let old = Raw::welcomed(&nodes.all[1], hello()).await;
    nodes.knows(0, "web").await;
    let (_, mut idle) = tokio::join!(get(nodes.edge(0), "web", "/"), old.answered());
    let new = Raw::welcomed(&nodes.all[1], hello()).await;
    assert_closed(&mut idle).await;
    let (answer, _flow) = tokio::join!(get(nodes.edge(0), "web", "/"), new.answered());
    assert_eq!(answer.text(), "ok");
}

#[tokio::test]
async fn a_link_that_hangs_and_is_replaced_takes_no_route_with_it() {
    let nodes = Nodes::start(2).await;
    let node = &nodes.all[1];
    // What is to be shown depends on which of two things at the same moment comes first.
    let names: Vec<_> = (0..8).map(|number| format!("web-{number}")).collect();
    let mut links = Vec::new();
    for (agent, name) in names.iter().enumerate() {
        let hello = || hello(Role::Agent, agent as u128, &[name]);
        let middle = Middle::start(node.addresses.link).await;
        links.push(Raw::welcomed_at(node, middle.address, hello()).await);
        middle.cut(true);
        links.push(Raw::welcomed(node, hello()).await);
    }
    eventually("the links that hang are closed", async || {
        let metrics = get(node.addresses.admin, "", "/metrics").await;
        metrics.text().lines().any(|line| line == "adit_links{role=\"agent\",transport=\"quic\"} 8")
    })
    .await;
    // Routes go in order, so whoever knows the last has heard of all.
    let _last = Raw::welcomed(node, hello(Role::Agent, 99, &["last"])).await;
    nodes.knows(0, "last").await;
    let other = nodes.all[0].node.as_ref().expect("it runs");
    let lost: Vec<_> = names.iter().filter(|name| !other.serves(name)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test]
async fn an_agent_that_leaves_does_not_wait_for_flows_that_other_nodes_keep() {
    let nodes = Nodes::start(2).await;
    let service = service::mirror().await;
    let (agent, entry) = nodes.agent_elsewhere("web", Kind::Http, service.address).await;
    let asked = (0..20).map(async |_| {
        let answer = Http1::connect(nodes.edge(entry)).await.ask(request("GET", "web", "/", "")).await;
        assert_eq!(answer.status, StatusCode::OK);
    });
    futures_util::future::join_all(asked).await;
    let started = Instant::now();
    ok(soon(agent.drain(Duration::from_secs(10))).await);
    let took = started.elapsed();
    assert!(took < PROMPT, "{took:?}");
}
