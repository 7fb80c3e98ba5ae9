//! A node with more than its share of agents sends some elsewhere: a few a second, each of them linked there before it
//! leaves, until the shares are about even, and then no more.

use std::time::Duration;

use adit::{client, node::Rebalance, protocol::Kind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::support::{client::get, cluster::Nodes, eventually, load::Load, ok, service, soon};

/// Four for each node.
const AGENTS: usize = 12;

/// A node may have five, and sends two away each second.
const REBALANCE: Rebalance = Rebalance { threshold: 0.3, minimum: 0, rate: 0.5 };
const MOST: usize = 5;

/// How long a request waits for an agent: for news to pass from node to node, on a machine that is busy too.
const WAIT: Duration = Duration::from_secs(1);

/// Nothing more will move after so long: nodes decide each second, and whoever is asked to move does within the next.
const CALM: Duration = Duration::from_secs(3);

/// How many agents each node has, and how many links it has ever welcomed.
async fn links(nodes: &Nodes) -> [(usize, u64); 3] {
    let mut all = [(0, 0); 3];
    for (node, (agents, welcomed)) in nodes.all.iter().zip(&mut all) {
        let status = get(node.addresses.admin, "", "/api/v1/status").await;
        let json: serde_json::Value = ok(serde_json::from_slice(&status.body));
        for link in json["links"].as_array().into_iter().flatten() {
            *agents += usize::from(link["role"] == "agent" && link["state"] == "up");
            *welcomed = link["id"].as_u64().unwrap_or(0).max(*welcomed);
        }
    }
    all
}

/// Sends bytes to and fro.
async fn use_flow(flow: &mut TcpStream) {
    let mut answer = [0; 5];
    ok(flow.write_all(b"hello").await);
    ok(soon(flow.read_exact(&mut answer)).await);
    assert_eq!(&answer, b"hello");
}

#[tokio::test]
async fn agents_that_are_all_at_one_node_spread_over_three_and_nothing_is_lost() {
    let nodes = Nodes::with(3, |config| {
        config.rebalance = REBALANCE;
        config.upstream_wait = WAIT;
    });
    let nodes = nodes.await;
    let (web, echo) = (service::mirror().await, service::echo().await);
    let started = Instant::now();
    // Each has endpoints that nobody else has, so that there is no other to take its place for a moment.
    let names: Vec<_> = (0..AGENTS).map(|agent| (format!("web-{agent}"), format!("echo-{agent}"))).collect();
    let mut agents = Vec::new();
    for (http, tcp) in &names {
        let client = client::Config { links: 1, ..nodes.all[0].client() };
        let endpoints = [
            (http.as_str(), Kind::Http, web.address.to_string()),
            (tcp.as_str(), Kind::Tcp, echo.address.to_string()),
        ];
        let agent = nodes.all[0].start_agent(client, &endpoints);
        ok(soon(agent.serve()).await);
        agents.push(agent);
    }

    // A flow to each that is open all the time, and requests to each at every node.
    let (mut forwarders, mut flows) = (Vec::new(), Vec::new());
    for (http, tcp) in &names {
        for number in 0..3 {
            nodes.knows(number, http).await;
        }
        let (forwarder, port) = nodes.all[1].forwarder(tcp).await;
        forwarders.push(forwarder);
        flows.push(ok(TcpStream::connect(port).await));
        use_flow(flows.last_mut().expect("it was just pushed")).await;
    }
    let endpoints: Vec<_> = names.into_iter().map(|(http, _)| http).collect();
    let load = [0, 1, 2].map(|number| Load::of(nodes.edge(number), &["GET", "POST"], &endpoints));

    let mut last = (links(&nodes).await, Instant::now());
    assert!(last.0[0].0 > MOST, "there is nothing left to move: {last:?}");
    eventually("the agents stay where they are", async || {
        for flow in &mut flows {
            use_flow(flow).await;
        }
        let now = links(&nodes).await;
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() > CALM
    })
    .await;
    let (settled, at) = last;
    assert!(settled.iter().all(|(agents, _)| *agents <= MOST), "{settled:?}");
    assert_eq!(settled.iter().map(|(agents, _)| agents).sum::<usize>(), AGENTS);
    // Seven at least had to go, two a second.
    let took = at - started;
    assert!(took > Duration::from_millis(2500), "all at once: {took:?}");

    for load in load {
        let (answered, _) = load.end().await;
        assert!(answered > 10 * AGENTS, "{answered} requests");
    }
    assert_eq!(echo.accepted(), AGENTS, "every flow is the first");
}
