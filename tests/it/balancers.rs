//! Agents and forwarders whose only way to a node is a real balancer, nginx or HAProxy, with the time-outs that it has by
//! default. What is not installed is not tested, and that is said.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use adit::{
    agent::Agent,
    client::{self, State, Transport},
    forward::{Forwarder, PortKind},
    node::Addresses,
    protocol,
    tls::{self, Trust},
};
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::support::{
    Fabric,
    balancer::{Kind, balancer, client_behind},
    client::{Http1, Http2, get, over_http2, request},
    cluster::{Nodes, host_port},
    eventually,
    fabric::forwarder_of,
    ok,
    process::Process,
    program::Server,
    random, service, soon,
    streams::mirror_bodies,
};

/// How much goes each way where a check moves much, in bytes.
const MUCH: usize = 8 << 20;

/// Nodes behind a balancer. What they advertise of their link ports leads nowhere.
struct Behind {
    nodes: Nodes,
    balancer: Server,
}

impl Behind {
    async fn start(kind: Kind, count: usize) -> Option<Self> {
        let nowhere = host_port(service::refusing());
        let nodes = Nodes::with(count, |config| config.link.advertise = Some(nowhere.clone())).await;
        let all: Vec<_> = nodes.all.iter().map(|node| &node.addresses).collect();
        let balancer = balancer(kind, &nodes.all[0].authority, &all).await?;
        Some(Self { nodes, balancer })
    }

    fn client(&self, transport: Transport) -> client::Config {
        client_behind(&self.nodes.all[0], &self.balancer, transport)
    }

    async fn agent(&self, client: client::Config, endpoints: &[(&str, protocol::Kind, String)]) -> Agent {
        let agent = self.nodes.all[0].start_agent(client, endpoints);
        ok(soon(agent.serve()).await);
        agent
    }

    async fn forwarder(&self, client: client::Config) -> (Forwarder, SocketAddr) {
        let (forwarder, port) = forwarder_of(client, "tcp", PortKind::Tcp).await;
        let mut state = forwarder.client().forwarder_state();
        ok(soon(state.wait_for(|state| !state.nodes().is_empty())).await);
        (forwarder, port)
    }

    /// That all of a client's links go through the balancer.
    fn carries(&self, state: &State) {
        let State::Connected { links } = state else { panic!("there is no link: {state:?}") };
        for link in links {
            assert_eq!((link.transport, link.address), ("websocket", self.balancer.address), "{links:?}");
        }
    }
}

/// Sends bytes to a service that sends them back, and ends first.
async fn echoed(port: SocketAddr, bytes: &[u8]) {
    let stream = ok(TcpStream::connect(port).await);
    let (mut read, mut write) = stream.into_split();
    let send = async {
        ok(write.write_all(bytes).await);
        ok(write.shutdown().await);
    };
    let mut back = Vec::new();
    let (_, read) = soon(async { tokio::join!(send, read.read_to_end(&mut back)) }).await;
    ok(read);
    assert!(back == bytes, "{} bytes went and {} came back", bytes.len(), back.len());
}

/// Sends a line on a connection to such a service, and waits until it is back.
async fn answers(stream: &mut TcpStream, line: &[u8]) {
    ok(stream.write_all(line).await);
    let mut back = vec![0; line.len()];
    ok(soon(stream.read_exact(&mut back)).await);
    assert_eq!(back, line);
}

#[tokio::test]
async fn whoever_has_no_other_way_serves_and_reaches_http_and_tcp_through_a_balancer() {
    for kind in Kind::ALL {
        let Some(behind) = Behind::start(kind, 1).await else { continue };
        let (web, tcp) = (mirror_bodies().await, service::echo().await);
        let endpoints = [
            ("web", protocol::Kind::Http, web.address.to_string()),
            ("tcp", protocol::Kind::Tcp, tcp.address.to_string()),
        ];
        let agent = behind.agent(behind.client(Transport::Auto), &endpoints).await;
        let (forwarder, port) = behind.forwarder(behind.client(Transport::Auto)).await;

        let (edge, bytes) = (behind.nodes.edge(0), random(MUCH));
        let (mut http1, http2) = (Http1::connect(edge).await, Http2::connect(edge).await);
        for content in [random(0), random(10), bytes.clone()] {
            let ask = || request("POST", "web", "/", content.clone());
            for answer in [soon(http1.ask(ask())).await, soon(http2.ask(over_http2(ask()))).await] {
                assert_eq!(answer.status, StatusCode::OK, "{kind:?}");
                assert!(answer.body == content, "{kind:?}: {} bytes", content.len());
            }
        }
        echoed(port, &bytes).await;

        behind.carries(&agent.client().agent_state().borrow());
        behind.carries(&forwarder.client().forwarder_state().borrow());
    }
}

#[tokio::test]
async fn an_agent_behind_a_balancer_serves_a_forwarder_that_is_linked_to_another_node_over_quic() {
    let nodes = Nodes::start(2).await;
    let [first, second] = nodes.all.as_slice() else { unreachable!("there are two") };
    let kind = Kind::Nginx;
    let Some(balancer) = balancer(kind, &first.authority, &[&first.addresses]).await else { return };
    let echo = service::echo().await;
    let client = client::Config { links: 1, ..client_behind(first, &balancer, Transport::WebSocket) };
    let agent = first.start_agent(client, &[("tcp", protocol::Kind::Tcp, echo.address.to_string())]);
    ok(soon(agent.serve()).await);
    nodes.knows(1, "tcp").await;
    let (forwarder, port) = second.forwarder("tcp").await;
    echoed(port, &random(MUCH)).await;

    let nodes_of = |state: &State| state.nodes().iter().map(|node| node.to_string()).collect::<Vec<_>>();
    assert_eq!(nodes_of(&agent.client().agent_state().borrow()), ["n1"]);
    assert_eq!(nodes_of(&forwarder.client().forwarder_state().borrow()), ["n2"]);
}

#[tokio::test]
async fn the_two_links_of_an_agent_lead_to_two_nodes_behind_one_balancer() {
    for kind in [Kind::Nginx, Kind::HAProxy] {
        let Some(behind) = Behind::start(kind, 2).await else { continue };
        let web = service::mirror().await;
        let endpoints = [("web", protocol::Kind::Http, web.address.to_string())];
        let agent = behind.agent(behind.client(Transport::Auto), &endpoints).await;
        let mut state = agent.client().agent_state();
        let both = ok(soon(state.wait_for(|state| state.nodes().len() == 2)).await).clone();
        behind.carries(&both);
        for node in &behind.nodes.all {
            node.tells("adit_links{role=\"agent\",transport=\"websocket\"} 1").await;
            assert_eq!(get(node.addresses.edge, "web", "/").await.status, StatusCode::OK, "{kind:?}");
        }
    }
}

#[tokio::test]
async fn links_are_back_after_a_restart_of_the_balancer() {
    for kind in [Kind::Nginx, Kind::HAProxy] {
        let Some(mut behind) = Behind::start(kind, 1).await else { continue };
        let (web, tcp) = (service::mirror().await, service::echo().await);
        let endpoints = [
            ("web", protocol::Kind::Http, web.address.to_string()),
            ("tcp", protocol::Kind::Tcp, tcp.address.to_string()),
        ];
        let agent = behind.agent(behind.client(Transport::Auto), &endpoints).await;
        let (_forwarder, port) = behind.forwarder(behind.client(Transport::Auto)).await;
        let mut states = agent.client().agent_state();
        let mut flow = ok(TcpStream::connect(port).await);
        answers(&mut flow, b"before").await;
        states.mark_unchanged();

        behind.balancer.restart().await;
        // The flow's link is gone, and so is the flow.
        let end = soon(flow.read(&mut [0])).await;
        assert_eq!(end.expect_err("it was cut").kind(), std::io::ErrorKind::ConnectionReset, "{kind:?}");
        ok(soon(states.changed()).await);
        ok(soon(states.wait_for(|state| !state.nodes().is_empty())).await);
        behind.nodes.serves(0, "web").await;
        eventually("the forwarder is linked again", async || {
            let mut stream = ok(TcpStream::connect(port).await);
            let mut back = [0; 5];
            stream.write_all(b"after").await.is_ok()
                && stream.read_exact(&mut back).await.is_ok()
                && back == *b"after"
        })
        .await;
    }
}

#[tokio::test]
async fn a_reload_of_nginx_keeps_the_links_that_are_there() {
    let Some(behind) = Behind::start(Kind::Nginx, 2).await else { return };
    let [first, second] = behind.nodes.all.as_slice() else { unreachable!("there are two") };
    // All links lead to the first node, and after the reload to the second.
    let (to_first, to_second) =
        (format!("server {};", first.addresses.link), format!("server {};", second.addresses.link));
    let one = || client::Config { links: 1, ..behind.client(Transport::WebSocket) };
    let linked_to = async |node: &str| {
        let (forwarder, _) = behind.forwarder(one()).await;
        let mut state = forwarder.client().forwarder_state();
        let state = ok(soon(state.wait_for(|state| !state.nodes().is_empty())).await);
        state.nodes().iter().all(|linked| linked.as_str() == node)
    };
    behind.balancer.reload(|config| config.replace(&to_second, "")).await;
    assert!(
        linked_to("n1").await && linked_to("n1").await,
        "round robin leads no two in a row to the same of two"
    );
    let tcp = service::echo().await;
    let agent = behind.agent(one(), &[("tcp", protocol::Kind::Tcp, tcp.address.to_string())]).await;
    let (forwarder, port) = behind.forwarder(one()).await;
    let mut flow = ok(TcpStream::connect(port).await);
    answers(&mut flow, b"before").await;
    let mut states = [agent.client().agent_state(), forwarder.client().forwarder_state()];
    states.iter_mut().for_each(|state| state.mark_unchanged());

    behind.balancer.change(|config| config.replace(&to_first, &to_second));
    behind.balancer.signal("HUP");
    eventually("new links lead to the second", async || linked_to("n2").await).await;
    answers(&mut flow, b"after").await;
    for state in &states {
        assert!(!ok(state.has_changed()), "{:?}", state.borrow());
        assert_eq!(state.borrow().nodes()[0].as_str(), "n1");
    }
}

/// What an agent, as users run it, logs when it cannot link.
async fn log_of_agent(folder: &Path, ca: &str, connect: &str, text: &str) -> String {
    let mut line = vec!["agent", "http", "web", "9", "--ca", ca, "--connect", connect];
    line.extend(["--transport", "websocket"]);
    Process::start(folder, &line).logs(text).await
}

#[tokio::test]
async fn what_a_balancer_answers_in_a_nodes_place_is_named_with_the_url() {
    let folder = ok(tempfile::tempdir());
    let fabric = Fabric::start().await;
    let (cert, key) = (folder.path().join("authority.pem"), folder.path().join("authority.key"));
    ok(fabric.authority.pem().write(&cert, &key));
    let ca = cert.to_str().expect("it is text");
    let nobody = Addresses { link: service::refusing(), ..fabric.addresses.clone() };
    for (kind, without_a_node, without_a_path) in [(Kind::Nginx, 502, 404), (Kind::HAProxy, 503, 503)] {
        let Some(balancer) = balancer(kind, &fabric.authority, &[&nobody]).await else { continue };
        for (base, status) in [("/base", without_a_node), ("/elsewhere", without_a_path)] {
            let connect = format!("https://{}{base}", balancer.address);
            let line = log_of_agent(folder.path(), ca, &connect, "no link").await;
            let told = format!("{connect}/adit/v1/link answered {status} and no WebSocket");
            assert!(line.contains(&told), "{kind:?} {base}: {line}");
        }
    }
}

/// Longer than what any balancer here waits.
const IDLE: Duration = Duration::from_secs(180);

#[tokio::test]
#[ignore = "it takes 3 minutes: .ci/run runs it beside other steps"]
async fn idle_behind_a_balancer() {
    let idle = async |kind| tokio::join!(a_link_and_its_flow_live_on(kind), a_silent_connection_is_cut(kind));
    tokio::join!(idle(Kind::Nginx), idle(Kind::HAProxy));
}

async fn a_link_and_its_flow_live_on(kind: Kind) {
    let Some(behind) = Behind::start(kind, 1).await else { return };
    let echo = service::echo().await;
    let endpoints = [("tcp", protocol::Kind::Tcp, echo.address.to_string())];
    let agent = behind.agent(behind.client(Transport::Auto), &endpoints).await;
    let (forwarder, port) = behind.forwarder(behind.client(Transport::Auto)).await;
    let mut flow = ok(TcpStream::connect(port).await);
    answers(&mut flow, b"before").await;
    let mut states = [agent.client().agent_state(), forwarder.client().forwarder_state()];
    states.iter_mut().for_each(|state| state.mark_unchanged());

    tokio::time::sleep(IDLE).await;
    for state in &states {
        assert!(!ok(state.has_changed()), "{kind:?}: {:?}", state.borrow());
        behind.carries(&state.borrow());
    }
    answers(&mut flow, b"after").await;
}

/// That there is a time-out to outlive.
async fn a_silent_connection_is_cut(kind: Kind) {
    let silent = service::tcp(|mut stream| async move {
        service::read_head(&mut stream).await.expect("there is a request");
        ok(stream.write_all(format!("HTTP/1.1 101 Switching Protocols\r\n{UPGRADE}\r\n").as_bytes()).await);
        drop(stream.read_to_end(&mut Vec::new()).await);
    })
    .await;
    let fabric = Fabric::start().await;
    let node = Addresses { link: silent.address, ..fabric.addresses.clone() };
    let Some(balancer) = balancer(kind, &fabric.authority, &[&node]).await else { return };
    let trust = Trust::Roots(vec![fabric.authority.certificate().clone()]);
    let connector = TlsConnector::from(Arc::new(ok(tls::client_config(&trust, None, &[]))));
    let stream = ok(TcpStream::connect(balancer.address).await);
    let mut stream = ok(connector.connect(ok("127.0.0.1".try_into()), stream).await);
    let request = format!("GET /base/ HTTP/1.1\r\nHost: 127.0.0.1\r\n{UPGRADE}\r\n");
    ok(stream.write_all(request.as_bytes()).await);
    let head = soon(service::read_head(&mut stream)).await.expect("there is an answer");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let cut = tokio::time::timeout(IDLE, stream.read_to_end(&mut Vec::new())).await;
    assert!(cut.is_ok(), "{kind:?} has not ended a silent connection within {IDLE:?}");
}

/// Of requests and responses alike, as far as balancers look at them.
const UPGRADE: &str = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
