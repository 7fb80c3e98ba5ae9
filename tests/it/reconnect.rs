//! Links come back, whatever ended them, and a link that does not answer holds nobody up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use adit::{
    drain::Tasks,
    net::HostPort,
    protocol::{Close, Control, Kind, NodeId, Role, VERSION, Welcome},
    tls::{self, ClientAuth},
    transport::{ControlReader, ControlWriter, Settings, quic},
};
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Fabric, SOON,
    client::{Http1, get, request},
    eventually,
    fabric::{LINK, identity},
    free,
    middle::Middle,
    ok,
    process::{Process, restarted},
    raw::{Raw, hello},
    service, soon,
};

const ANY: &str = "127.0.0.1:0";

/// The arguments of a node with its edge and its link port at these addresses.
fn node_at<'a>(edge: &'a str, link: &'a str) -> [&'a str; 9] {
    ["node", "--edge-bind", edge, "--link-bind", link, "--admin-bind", ANY, "--peer-bind", ANY]
}

async fn serves(fabric: &Fabric) -> bool {
    get(fabric.addresses.edge, "web", "/").await.status == StatusCode::OK
}

#[tokio::test]
async fn an_agent_links_once_there_is_a_node_and_again_when_it_has_restarted() {
    let mut fabric = Fabric::start().await;
    fabric.kill();
    let service = service::mirror().await;
    let agent = fabric.start_agent(fabric.client(), &[("web", Kind::Http, service.address.to_string())]);
    let tasks = Tasks::new();
    let agent = Arc::new(agent);
    let serving = Arc::clone(&agent);
    tasks.spawn(async move { ok(serving.serve().await) });
    for _ in 0..2 {
        fabric.restart().await;
        eventually("the endpoint is served", async || serves(&fabric).await).await;
        fabric.kill();
    }
    tasks.abort();
}

#[tokio::test]
async fn a_node_that_was_killed_resets_its_old_links_at_the_first_packet() {
    let folder = ok(tempfile::tempdir());
    let node = Process::start(folder.path(), &node_at(ANY, ANY));
    let (edge, link) = (node.address("edge"), node.address("link"));
    let service = service::mirror().await;
    // Left to the idle time-out alone, the link would be held for five minutes.
    let connect = link.to_string();
    let target = service.address.to_string();
    let mut arguments = vec!["agent", "http", "web", &target, "--connect", &connect];
    arguments.extend(["--idle-timeout", "5m", "--keep-alive", "1s"]);
    let agent = Process::start(folder.path(), &arguments);
    agent.line_with("serving web");
    assert_eq!(get(edge, "web", "/").await.status, StatusCode::OK);
    node.signal("KILL");
    drop(node);
    let (at, to) = (edge.to_string(), link.to_string());
    let (_node, _) = restarted(folder.path(), &node_at(&at, &to), "edge").await;
    eventually("the agent is back", async || get(edge, "web", "/").await.status == StatusCode::OK).await;
}

#[tokio::test]
async fn a_change_of_address_costs_no_flow() {
    let fabric = Fabric::start().await;
    let middle = Middle::start(fabric.addresses.link).await;
    let service = service::echo().await;
    let agent = fabric
        .start_agent(fabric.client_at(middle.address), &[("echo", Kind::Tcp, service.address.to_string())]);
    ok(soon(agent.serve()).await);
    let (_forwarder, port) = fabric.forwarder("echo").await;
    let mut stream = ok(TcpStream::connect(port).await);
    for round in 0..3u8 {
        let mut answer = [0];
        ok(stream.write_all(&[round]).await);
        ok(soon(stream.read_exact(&mut answer)).await);
        assert_eq!(answer, [round]);
        middle.change_address().await;
    }
    assert_eq!(service.accepted(), 1, "it is the same flow all along");
}

#[tokio::test]
async fn a_path_that_is_cut_for_a_while_costs_no_flow_and_one_that_stays_cut_is_replaced() {
    let fabric = Fabric::start().await;
    let middle = Middle::start(fabric.addresses.link).await;
    let service = service::mirror().await;
    let mut config = fabric.client_at(middle.address);
    config.settings.keep_alive = Duration::from_millis(500);
    config.settings.idle_timeout = Duration::from_secs(5);
    let agent = fabric.start_agent(config, &[("web", Kind::Http, service.address.to_string())]);
    ok(soon(agent.serve()).await);
    let mut client = Http1::connect(fabric.addresses.edge).await;

    middle.cut(true);
    let mend = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        middle.cut(false);
    };
    let (answer, ()) = tokio::join!(client.ask(request("POST", "web", "/", "x")), mend);
    assert_eq!(answer.status, StatusCode::OK, "a request waits while its agent is away: {}", answer.text());

    let mut state = agent.client().agent_state();
    middle.cut(true);
    let lost = state.wait_for(|state| matches!(state, adit::client::State::Connecting { .. }));
    drop(ok(soon(lost).await));
    middle.cut(false);
    eventually("the endpoint is served again", async || serves(&fabric).await).await;
}

#[tokio::test]
async fn a_suspect_link_is_passed_over_and_used_again_when_it_answers() {
    let fabric = Fabric::start().await;
    let middle = Middle::start(fabric.addresses.link).await;
    let hidden = service::mirror().await;
    let cut_off = fabric
        .start_agent(fabric.client_at(middle.address), &[("web", Kind::Http, hidden.address.to_string())]);
    ok(soon(cut_off.serve()).await);
    let service = service::mirror().await;
    let _other = fabric.agent("web", Kind::Http, service.address).await;
    eventually("both are used", async || {
        serves(&fabric).await && hidden.accepted() > 0 && service.accepted() > 0
    })
    .await;

    middle.cut(true);
    let started = Instant::now();
    for _ in 0..20 {
        assert!(serves(&fabric).await, "no GET fails");
    }
    assert!(started.elapsed() < SOON, "only the first ones wait for the suspicion");
    let started = Instant::now();
    for _ in 0..20 {
        assert!(serves(&fabric).await);
    }
    // If it held up those that it gets, half of them, each would wait 1.5 s for the suspicion.
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "a suspect link holds nobody up: {:?}",
        started.elapsed()
    );

    middle.cut(false);
    let before = hidden.accepted();
    eventually("the mended link is used again", async || serves(&fabric).await && hidden.accepted() > before)
        .await;
}

#[tokio::test]
async fn the_newest_link_of_an_agent_takes_all_new_flows() {
    let fabric = Fabric::start().await;
    let mut old = Raw::welcomed(&fabric, hello(Role::Agent, 7, &["echo"])).await;
    let mut new = Raw::welcomed(&fabric, hello(Role::Agent, 7, &["echo"])).await;
    let (_forwarder, port) = fabric.forwarder("echo").await;
    for _ in 0..3 {
        let _client = ok(TcpStream::connect(port).await);
        let flow = tokio::select! {
            flow = new.link.accept() => ok(flow),
            _ = old.link.accept() => panic!("the old link was given a flow"),
            () = tokio::time::sleep(SOON) => panic!("nobody was given the flow"),
        };
        drop(flow);
    }
    // A superseded link without flows is closed, though its opener never says goodbye.
    let lost = soon(async {
        loop {
            if let Err(error) = old.reader.next().await {
                break error;
            }
        }
    });
    drop(lost.await);
    assert_eq!(
        soon(old.link.closed()).await,
        adit::transport::Lost::Peer {
            code: Close::Superseded as u64,
            reason: "superseded by a newer link".into()
        }
    );
    new.say(Control::Ping(1)).await;
    assert!(matches!(new.hear().await, Ok(Control::Pong(1))));
}

#[tokio::test]
async fn a_node_that_welcomes_and_closes_at_once_is_not_hammered() {
    let fabric = Fabric::start().await;
    let identity = identity(&fabric.authority, &["127.0.0.1"]);
    let tls = ok(tls::server_config(&[identity], ClientAuth::None, &[LINK]));
    let any = ([127, 0, 0, 1], 0).into();
    let listener = Arc::new(ok(quic::Listener::bind(any, tls, None, &Settings::default())));
    let address = ok(listener.local_address());
    let links = Arc::new(AtomicUsize::new(0));
    let (tasks, count) = (Tasks::new(), Arc::clone(&links));
    tasks.spawn(async move {
        while let Some(incoming) = listener.accept().await {
            count.fetch_add(1, Relaxed);
            let Ok(link) = incoming.handshake(SOON).await else { continue };
            let Ok(stream) = link.accept().await else { continue };
            let mut writer = ControlWriter::new(stream.send);
            let mut reader = ControlReader::new(stream.recv);
            drop(reader.next().await);
            let welcome = Welcome {
                version: VERSION,
                node: ok(NodeId::new("fickle")),
                cluster: "test".into(),
                nodes: Vec::new(),
                max_listens: 1,
            };
            drop(writer.send(&Control::Welcome(welcome)).await);
            writer.finish().await;
            link.close(Close::Done, "no more");
        }
    });
    let mut config = fabric.client();
    config.connect = HostPort { host: "127.0.0.1".into(), port: address.port() }.into();
    let agent = fabric.start_agent(config, &[("web", Kind::Http, "127.0.0.1:1".into())]);
    let agent = Arc::new(agent);
    let serving = Arc::clone(&agent);
    tasks.spawn(async move { drop(serving.serve().await) });
    eventually("it tries again", async || links.load(Relaxed) >= 3).await;
    let before = links.load(Relaxed);
    // This span is the scenario: full jitter over at least 400 ms an attempt leaves some twelve, not hundreds.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let attempts = links.load(Relaxed) - before;
    assert!(attempts < 40, "{attempts} attempts in three seconds");
    tasks.abort();
}

#[tokio::test]
async fn an_agent_finds_the_authority_that_its_node_makes_later() {
    let folder = ok(tempfile::tempdir());
    // A port that is free now, for UDP and for TCP; nobody else asks for this one by number.
    let link = ok(free::both().await.0.local_addr()).to_string();
    let service = service::mirror().await;
    let target = service.address.to_string();
    let agent = Process::start(folder.path(), &["agent", "http", "web", &target, "--connect", &link]);
    let (_node, edge) = restarted(folder.path(), &node_at(ANY, &link), "edge").await;
    agent.line_with("serving web");
    assert_eq!(get(edge, "web", "/").await.status, StatusCode::OK);
}
