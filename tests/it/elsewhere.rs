//! A request goes elsewhere when whoever has it does not answer, and stays where it is when its agent only moves. The agents
//! here are spoken by hand, behind a node that the clients do not use, and behind the one that they do.

use std::time::Duration;

use adit::protocol::{Control, GoAway, GoAwayReason, Hello, Kind, Role};
use http::Response;
use tokio::io::AsyncWriteExt;

use crate::support::{
    client::{Answer, get},
    cluster::Nodes,
    eventually,
    middle::Middle,
    ok,
    raw::{Raw, hello},
    service::{self, OK},
};

fn agent(id: u128) -> Hello {
    hello(Role::Agent, id, &["web"])
}

/// An agent at the second node, over a link that can be made to hang, once both nodes know it.
async fn behind_a_middle(nodes: &Nodes) -> (Middle, Raw) {
    let middle = Middle::start(nodes.all[1].addresses.link).await;
    let agent = Raw::welcomed_at(&nodes.all[1], middle.address, agent(1)).await;
    for number in 0..2 {
        nodes.knows(number, "web").await;
    }
    (middle, agent)
}

async fn is_suspect(nodes: &Nodes) {
    eventually("the link is suspect", async || {
        let status = get(nodes.all[1].addresses.admin, "", "/api/v1/status").await;
        status.text().contains("\"suspect\":true,\"state\"")
    })
    .await;
}

fn assert_ok(answer: &Answer) {
    assert_eq!(answer.text(), "ok");
}

#[tokio::test]
async fn a_request_under_way_is_left_alone_when_its_agent_moves() {
    let nodes = Nodes::start(3).await;
    let mut old = Raw::welcomed(&nodes.all[1], agent(1)).await;
    for edge in [0, 1] {
        nodes.knows(edge, "web").await;
    }
    let (edges, moves) = ([nodes.edge(0), nodes.edge(1)], async {
        let mut flows = [old.asked().await, old.asked().await];
        let new = Raw::welcomed(&nodes.all[2], agent(1)).await;
        let (reason, deadline) = (GoAwayReason::Stopping, Duration::from_secs(60));
        old.say(Control::GoAway(GoAway { reason, deadline, smear: Duration::ZERO })).await;
        // Routes go in order, so whoever knows the next has heard that the agent has moved.
        let _next = Raw::welcomed(&nodes.all[1], hello(Role::Agent, 2, &["next"])).await;
        nodes.knows(0, "next").await;
        let (answer, _flow) = tokio::join!(get(nodes.edge(0), "web", "/"), new.answered());
        assert_ok(&answer);
        for flow in &mut flows {
            ok(flow.send.write_all(OK).await);
        }
        (flows, new)
    });
    let (one, other, _flows) = tokio::join!(get(edges[0], "web", "/"), get(edges[1], "web", "/"), moves);
    assert_ok(&one);
    assert_ok(&other);
}

#[tokio::test]
async fn an_agent_of_which_one_link_hangs_is_asked_over_the_other() {
    let nodes = Nodes::start(3).await;
    let (middle, hangs) = behind_a_middle(&nodes).await;
    for edge in [nodes.edge(0), nodes.edge(1)] {
        middle.cut(false);
        let hang = async {
            let flow = hangs.asked().await;
            middle.cut(true);
            let answers = Raw::welcomed(&nodes.all[2], agent(1)).await;
            let other = answers.answered().await;
            (flow, other, answers)
        };
        let (answer, _flows) = tokio::join!(get(edge, "web", "/"), hang);
        assert_ok(&answer);
        nodes.knows(2, "web").await;
    }
}

#[tokio::test]
async fn a_request_that_nobody_answers_is_taken_by_the_next_agent_that_comes() {
    let nodes = Nodes::start(3).await;
    let (middle, _hangs) = behind_a_middle(&nodes).await;
    let service = service::http(async |_| Response::new(service::full("ok"))).await;
    middle.cut(true);
    // Of two clients each, one asks before it is known that the agent does not answer, and one after.
    let before = futures_util::future::join_all([0, 1].map(|number| get(nodes.edge(number), "web", "/")));
    let after = async {
        is_suspect(&nodes).await;
        futures_util::future::join_all([0, 1].map(|number| get(nodes.edge(number), "web", "/"))).await
    };
    let comes = async {
        is_suspect(&nodes).await;
        nodes.all[2].agent("web", Kind::Http, service.address).await
    };
    let all = async { tokio::join!(before, after, comes) };
    // Two seconds until it is suspect, and not the six that an agent has to answer: none has waited as long by then.
    let all = tokio::time::timeout(Duration::from_secs(6), all).await;
    let (before, after, _next) = all.expect("nobody waits for the dead");
    before.iter().chain(&after).for_each(assert_ok);
}
