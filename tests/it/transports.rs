//! Over what links go: QUIC, WebSocket where UDP comes to nothing, and back.

use std::{net::SocketAddr, time::Duration};

use adit::{
    agent::{self, Agent},
    client::{self, Backoff, State, Transport},
    protocol::Kind,
    transport::Settings,
};
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    Fabric,
    client::get,
    fabric::linked_over,
    free::both,
    load::Load,
    middle::Middle,
    ok, random,
    service::{self, Running},
    soon,
    udp::{self, UdpPath},
};

/// A node that tells of itself an address at which nothing is.
async fn node() -> Fabric {
    Fabric::with(|config| config.link.advertise = Some(ok("127.0.0.1:1".parse()))).await
}

/// Passes TCP connections on to a node.
fn relay(listener: TcpListener, node: SocketAddr) -> Running {
    service::tcp_on(listener, move |mut from| async move {
        let mut to = ok(TcpStream::connect(node).await);
        // Either side may go without a word.
        drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
    })
}

/// A client that reaches a node at an address, over what it can.
fn at(fabric: &Fabric, address: SocketAddr) -> client::Config {
    client::Config {
        transport: Transport::Auto,
        links: 1,
        quic_again: Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(1) },
        ..fabric.client_at(address)
    }
}

async fn agent(fabric: &Fabric, client: client::Config, kind: Kind, service: SocketAddr) -> Agent {
    let agent = fabric.start_agent(client, &[("web", kind, service.to_string())]);
    ok(soon(agent.serve()).await);
    agent
}

fn over(state: &State) -> Vec<&'static str> {
    match state {
        State::Connected { links } => links.iter().map(|link| link.transport).collect(),
        State::Idle | State::Connecting { .. } => Vec::new(),
    }
}

async fn is_over(agent: &Agent, transport: &'static str) {
    let mut state = agent.client().agent_state();
    drop(ok(soon(state.wait_for(|state| over(state) == [transport])).await));
}

#[tokio::test]
async fn quic_is_what_links_go_over_where_it_can_be() {
    let fabric = node().await;
    let service = service::mirror().await;
    let agent = agent(&fabric, at(&fabric, fabric.addresses.link), Kind::Http, service.address).await;
    is_over(&agent, "quic").await;
}

#[tokio::test]
async fn where_udp_is_refused_or_lost_links_go_over_websocket() {
    let fabric = node().await;
    let service = service::mirror().await;
    let ((refusing, refused), (_silent, silent)) = (both().await, both().await);
    drop(refusing);
    for listener in [refused, silent] {
        let client = at(&fabric, ok(listener.local_addr()));
        let _relay = relay(listener, fabric.addresses.link);
        let agent = agent(&fabric, client, Kind::Http, service.address).await;
        is_over(&agent, "websocket").await;
        assert_eq!(get(fabric.addresses.edge, "web", "/").await.status, StatusCode::OK);
        ok(agent.drain(Duration::from_secs(5)).await);
    }
}

#[tokio::test]
async fn a_link_that_may_be_over_one_alone_is_over_that() {
    let fabric = node().await;
    let service = service::mirror().await;
    let websocket = client::Config { transport: Transport::WebSocket, ..at(&fabric, fabric.addresses.link) };
    is_over(&agent(&fabric, websocket, Kind::Http, service.address).await, "websocket").await;
    // There is TCP at this port, and no UDP.
    let (_, listener) = both().await;
    let quic = client::Config { transport: Transport::Quic, ..at(&fabric, ok(listener.local_addr())) };
    let _relay = relay(listener, fabric.addresses.link);
    let agent = fabric.start_agent(quic, &[("web", Kind::Http, service.address.to_string())]);
    let served = tokio::time::timeout(Duration::from_secs(3), agent.serve()).await;
    assert!(served.is_err(), "{:?}", agent.client().agent_state().borrow());
}

#[tokio::test]
async fn once_udp_goes_through_links_move_to_quic_and_no_request_and_no_flow_is_lost() {
    let fabric = node().await;
    let service = service::mirror().await;
    let (udp, tcp) = both().await;
    let middle = Middle::at(udp, fabric.addresses.link).await;
    middle.cut(true);
    let relay = relay(tcp, fabric.addresses.link);
    let client = at(&fabric, middle.address);
    let echo = service::echo().await;
    let endpoints = [
        fabric.endpoint("web", Kind::Http, service.address),
        fabric.endpoint("tcp", Kind::Tcp, echo.address),
    ];
    let agent = ok(Agent::start(agent::Config::new(client, endpoints.into())));
    ok(soon(agent.serve()).await);
    is_over(&agent, "websocket").await;
    let (_forwarder, port) = fabric.forwarder("tcp").await;
    let mut flow = ok(TcpStream::connect(port).await);
    let mut echoed = async |bytes: &[u8]| {
        let mut back = vec![0; bytes.len()];
        ok(flow.write_all(bytes).await);
        ok(soon(flow.read_exact(&mut back)).await);
        assert!(back == bytes);
    };
    echoed(b"over WebSocket").await;

    let load = Load::start(fabric.addresses.edge, &["GET", "POST"]);
    load.goes_on().await;
    middle.cut(false);
    is_over(&agent, "quic").await;
    load.goes_on().await;
    echoed(&random(100_000)).await;
    load.end().await;
    assert_eq!(relay.accepted(), 1, "the flow has stayed where it was, and nothing else was opened");
}

#[tokio::test]
async fn a_link_over_quic_that_is_lost_comes_back_over_websocket() {
    let fabric = node().await;
    let service = service::mirror().await;
    let (udp, tcp) = both().await;
    let middle = Middle::at(udp, fabric.addresses.link).await;
    let _relay = relay(tcp, fabric.addresses.link);
    let settings = Settings {
        keep_alive: Duration::from_millis(500),
        idle_timeout: Duration::from_secs(2),
        ..Settings::default()
    };
    let client = client::Config { settings, ..at(&fabric, middle.address) };
    let agent = agent(&fabric, client, Kind::Http, service.address).await;
    is_over(&agent, "quic").await;
    middle.cut(true);
    let load = Load::start(fabric.addresses.edge, &["GET"]);
    is_over(&agent, "websocket").await;
    load.goes_on().await;
    load.end().await;
}

#[tokio::test]
async fn packets_ride_on_a_link_without_datagrams() {
    linked_over(Transport::WebSocket, async {
        let service = udp::Echo::start().await;
        let path = UdpPath::to(service.address).await;
        let client = path.client().await;
        for len in [0, 1, 1200, 60_000] {
            let packet = random(len);
            assert!(client.ask(&packet).await == packet, "{len} bytes");
        }
    })
    .await;
}
