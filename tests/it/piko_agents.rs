//! Piko's agents, unmodified, serve as adit's own do: HTTP, upgrades and TCP, through their own node and through another.

use adit::edge::{Port, udp};
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    across::serves_either_version,
    half_close, lasting, streaming,
    support::{
        Fabric,
        client::{Http1, assert_counted, get, metric, request},
        cluster::Nodes,
        eventually,
        fabric::{TcpPath, Web, served_by_piko},
        ok,
        piko::Piko,
        piko_agent::{Framing, Peer},
        random, service, soon,
        udp::Client as UdpClient,
    },
    timeouts, upgrade,
};

/// An agent whose endpoint and service a check names.
fn framed(framing: Framing) -> Peer {
    Peer { framing, ..Peer::of("", ([127, 0, 0, 1], 0).into()) }
}

/// Runs a check with a Piko agent on one node, and at the same time on the other one of two.
async fn served(check: impl AsyncFn(usize)) {
    tokio::join!(
        served_by_piko(framed(Framing::Apart), check(1)),
        served_by_piko(framed(Framing::Packed), check(2)),
    );
}

#[tokio::test]
async fn requests_are_served_over_flows_that_are_used_again() {
    for framing in [Framing::Apart, Framing::Packed, Framing::Pieces(5)] {
        for nodes in [1, 2] {
            let check = async {
                let service = service::mirror().await;
                let web = Web::over(nodes, service.address).await;
                serves_either_version(&web).await;
                assert_eq!(service.accepted(), 1, "{framing:?}");
            };
            served_by_piko(framed(framing), check).await;
        }
    }
}

#[tokio::test]
async fn bodies_stream_both_ways_and_who_does_not_read_stops_who_sends() {
    served(streaming::both_bodies_stream).await;
    served(streaming::bodiless_responses_keep_their_flow).await;
    served(streaming::events_arrive_one_by_one).await;
    served(streaming::an_unread_response_stops_the_service).await;
    served(streaming::an_unread_request_stops_the_client).await;
}

#[tokio::test]
async fn what_breaks_in_the_middle_never_seems_complete() {
    served(streaming::a_broken_response_is_an_error).await;
    served(streaming::a_response_of_a_lost_agent_is_an_error).await;
    served(streaming::a_client_that_has_gone_is_noticed).await;
    served(streaming::a_broken_request_is_an_error).await;
}

#[tokio::test]
async fn websockets_and_other_switched_connections_pass() {
    served(upgrade::websocket_messages_pass).await;
    served(upgrade::websockets_pass_over_http2).await;
    served(upgrade::bytes_right_behind_the_switch_arrive).await;
    served(upgrade::each_direction_ends_by_itself).await;
    served(upgrade::a_reset_is_passed_on).await;
}

#[tokio::test]
async fn each_direction_of_a_tcp_flow_ends_by_itself_and_every_byte_arrives() {
    served(half_close::a_client_may_end_first).await;
    served(half_close::a_service_may_end_first).await;
    served(half_close::both_directions_run).await;
    served_by_piko(framed(Framing::Pieces(1000)), half_close::a_client_may_end_first(2)).await;
}

#[tokio::test]
async fn many_transfers_at_once_are_whole() {
    served_by_piko(framed(Framing::Apart), half_close::every_byte_arrives(1)).await;
    served_by_piko(framed(Framing::Packed), half_close::every_byte_arrives(2)).await;
}

#[tokio::test]
async fn a_reset_of_a_tcp_flow_is_a_reset_at_its_other_end() {
    served(half_close::a_client_may_reset).await;
    served(half_close::a_reset_stops_the_service).await;
    served(half_close::a_service_may_reset).await;
    served(half_close::a_killed_service_never_seems_to_have_finished).await;
    served(half_close::a_lost_agent_or_forwarder_is_an_error).await;
}

/// Piko's own fault, that its agents must not bring along: a TCP connection died with the time-out of HTTP requests.
#[tokio::test]
async fn no_flow_ends_with_the_request_time_out() {
    served(lasting::flows_live_on).await;
}

#[tokio::test]
async fn the_request_time_out_is_for_response_headers_alone() {
    served(async |nodes| {
        tokio::join!(
            timeouts::slow_bodies_live_on(nodes),
            timeouts::late_headers_are_a_504(nodes),
            timeouts::the_time_runs_from_the_requests_end(nodes),
        );
    })
    .await;
}

#[tokio::test]
async fn a_port_of_a_node_leads_to_an_agent_of_either() {
    for nodes in [1, 2] {
        let port = Port { bind: ([127, 0, 0, 1], 0).into(), endpoint: ok("count".parse()) };
        let nodes = Nodes::with(nodes, |config| config.edge.tcp = vec![port.clone()]).await;
        let service = service::count().await;
        let last = nodes.all.last().expect("there are nodes");
        let _agent = ok(Peer::of("count", service.address).link(last.addresses.link).await);
        nodes.knows(0, "count").await;
        for size in [0, 1, 3 << 20] {
            let client = ok(TcpStream::connect(nodes.all[0].addresses.tcp[0].bind).await);
            assert_counted(client, size).await;
        }
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_ends_the_flow() {
    let check = async {
        let path = TcpPath::over(2, service::refusing()).await;
        let mut client = path.connect().await;
        assert_eq!(ok(soon(client.read(&mut [0])).await), 0, "Piko's agents know no refusal");
        let web = Web::over(2, service::refusing()).await;
        assert_eq!(get(web.edge, "web", "/").await.status, StatusCode::BAD_GATEWAY);
    };
    served_by_piko(framed(Framing::Apart), check).await;
}

#[tokio::test]
async fn pikos_clients_reach_pikos_agents() {
    let check = async {
        let service = service::echo().await;
        let web = Web::over(2, service.address).await;
        let mut client = Piko::connect(web.edge, "web").await;
        let all = random(3 << 20);
        for _ in 0..2 {
            client.send(&all, 100_000).await;
            assert!(client.exactly(all.len()).await == all, "every byte comes back");
        }
        client.close(1000).await;
        assert_eq!(client.all().await.1.code(), 1000);
        assert_eq!(service.accepted(), 1);
    };
    served_by_piko(framed(Framing::Apart), check).await;
}

/// More at once than the agent lets wait to be accepted.
#[tokio::test]
async fn many_flows_at_once_are_all_taken() {
    let fabric = Nodes::one().await;
    let service = service::echo().await;
    let agent = ok(Peer::of("tcp", service.address).link(fabric.addresses.link).await);
    eventually("it is served", async || serves(&fabric, "tcp")).await;
    let (_forwarder, port) = fabric.forwarder("tcp").await;
    let flows = (0..600_u32).map(async |number| {
        let mut client = ok(TcpStream::connect(port).await);
        ok(client.write_u32(number).await);
        assert_eq!(ok(client.read_u32().await), number);
        client
    });
    let clients = soon(futures_util::future::join_all(flows)).await;
    assert_eq!((clients.len(), agent.streams(), agent.refused()), (600, 600, 0));
    drop(clients);
    eventually("each stream ends with its flow", async || agent.streams() == 0).await;
}

fn serves(fabric: &Fabric, endpoint: &str) -> bool {
    fabric.node.as_ref().is_some_and(|node| node.serves(endpoint))
}

#[tokio::test]
async fn listeners_of_one_endpoint_share_its_requests() {
    let nodes = Nodes::start(2).await;
    let mut all = Vec::new();
    for number in 0..4 {
        let service = service::mirror().await;
        let node = nodes.all[1].addresses.link;
        let agent = ok(Peer::of("web", service.address).link(node).await);
        all.push((service, agent));
        eventually("the other node knows it", async || agents(&nodes.all[0], "web").await == number + 1)
            .await;
    }
    let mut client = Http1::connect(nodes.edge(0)).await;
    for _ in 0..100 {
        assert_eq!(client.ask(request("GET", "web", "/", "")).await.status, StatusCode::OK);
    }
    for (service, _) in &all {
        assert!(service.accepted() > 0, "one was never asked");
    }
}

/// How many agents serve an endpoint, as a node's status says.
async fn agents(fabric: &Fabric, endpoint: &str) -> u64 {
    let status = status(fabric).await;
    let endpoints = status["endpoints"].as_array().cloned().unwrap_or_default();
    let found = endpoints.iter().find(|found| found["endpoint"] == endpoint);
    found.and_then(|found| found["agents"].as_u64()).unwrap_or(0)
}

async fn status(fabric: &Fabric) -> serde_json::Value {
    ok(serde_json::from_slice(&get(fabric.addresses.admin, "", "/api/v1/status").await.body))
}

#[tokio::test]
async fn an_agent_of_a_tenant_serves_that_tenant_alone() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let peer = Peer { tenant: Some("acme"), ..Peer::of("web", service.address) };
    let _agent = ok(peer.link(fabric.addresses.link).await);
    eventually("it is served", async || serves(&fabric, "web")).await;
    let status = status(&fabric).await;
    assert_eq!(status["links"][0]["tenant"], "acme");
    assert_eq!(status["links"][0]["transport"], "websocket");
    assert_eq!(status["endpoints"][0]["tenant"], "acme");
    assert_eq!(get(fabric.addresses.edge, "web", "/").await.error().0, "no_upstream");
}

#[tokio::test]
async fn yamuxs_own_pings_are_answered() {
    let fabric = Fabric::start().await;
    let agent = ok(Peer::of("web", service::refusing()).link(fabric.addresses.link).await);
    for _ in 0..3 {
        agent.ping().await;
    }
}

/// There are no packets in what Piko's agents carry.
#[tokio::test]
async fn packets_never_reach_a_service_as_bytes() {
    let endpoint = ok("tcp".parse());
    let listen = ([127, 0, 0, 1], 0).into();
    let fabric = Fabric::with(|config| config.udp.ports = vec![udp::Port { listen, endpoint }]).await;
    let service = service::echo().await;
    let _agent = ok(Peer::of("tcp", service.address).link(fabric.addresses.link).await);
    eventually("it is served", async || serves(&fabric, "tcp")).await;
    let port = fabric.node.as_ref().expect("it runs").udp_ports()[0].listen;
    UdpClient::of(port).await.send(b"packet").await;
    let admin = fabric.addresses.admin;
    let refused = "adit_flow_refusals_total{code=\"unsupported\"}";
    let lost = async || metric(admin, "adit_udp_dropped_total{reason=\"unreachable\"}").await;
    eventually("the packet is dropped", async || lost().await == 1).await;
    assert_eq!((metric(admin, refused).await, service.accepted()), (1, 0));
}
