//! Leaving loses nothing: a node, an agent and a forwarder finish what they have.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use adit::{drain::Tasks, protocol::Kind};
use http::{Response, StatusCode, header};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
};

use crate::support::{
    Fabric,
    client::{Http1, get, request, whole},
    eventually,
    load::Load,
    ok,
    process::Process,
    service::{self, full},
    soon,
};

/// A service whose responses wait until they are let go.
pub(crate) async fn held(go: &Arc<Semaphore>) -> service::Running {
    let go = Arc::clone(go);
    service::http(move |_| {
        let go = Arc::clone(&go);
        async move {
            ok(go.acquire().await).forget();
            Response::new(full("done"))
        }
    })
    .await
}

#[tokio::test]
async fn a_node_that_leaves_is_not_ready_at_once_and_finishes_what_it_has() {
    let mut fabric = Fabric::with(|config| config.drain_delay = Duration::from_secs(3)).await;
    let go = Arc::new(Semaphore::new(0));
    let slow = held(&go).await;
    let _agent = fabric.agent("web", Kind::Http, slow.address).await;
    let quick = service::mirror().await;
    let _quick_agent = fabric.agent("quick", Kind::Http, quick.address).await;
    let echo = service::echo().await;
    let _echo_agent = fabric.agent("echo", Kind::Tcp, echo.address).await;
    let (_forwarder, port) = fabric.forwarder("echo").await;
    let mut flow = ok(TcpStream::connect(port).await);
    let mut byte = [0];
    ok(flow.write_all(b"1").await);
    ok(soon(flow.read_exact(&mut byte)).await);
    let (edge, admin) = (fabric.addresses.edge, fabric.addresses.admin);
    assert_eq!(get(admin, "", "/ready").await.status, StatusCode::OK);

    let mut client = Http1::connect(edge).await;
    let tasks = Tasks::new();
    let answered = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&answered);
    tasks.spawn(async move {
        let answer = client.ask(request("GET", "web", "/", "")).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "done"));
        done.store(true, Relaxed);
    });
    eventually("the request is at the service", async || slow.accepted() > 0).await;

    let node = fabric.node.take().expect("it runs");
    let drained = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&drained);
    tasks.spawn(async move {
        ok(node.drain().await);
        done.store(true, Relaxed);
    });
    eventually("it is not ready", async || {
        get(admin, "", "/ready").await.status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    // Balancers need a moment to see it: until then clients are served, and told to connect elsewhere next.
    let answer = get(edge, "quick", "/").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers[header::CONNECTION], "close");

    eventually("new connections are refused", async || TcpStream::connect(edge).await.is_err()).await;
    ok(flow.write_all(b"2").await);
    ok(soon(flow.read_exact(&mut byte)).await);
    assert_eq!(&byte, b"2", "an open flow goes on");
    assert!(!drained.load(Relaxed), "the node waits for its flows");
    go.add_permits(1);
    eventually("the request under way is answered", async || answered.load(Relaxed)).await;
    drop(flow);
    eventually("the node has left", async || drained.load(Relaxed)).await;
    assert!(TcpStream::connect(admin).await.is_err(), "the admin port is closed too");
}

#[tokio::test]
async fn the_grace_period_ends_a_node_that_waits_for_a_flow_that_does_not_end() {
    let mut fabric = Fabric::with(|config| config.grace_period = Duration::from_millis(300)).await;
    let echo = service::echo().await;
    let _agent = fabric.agent("echo", Kind::Tcp, echo.address).await;
    let (_forwarder, port) = fabric.forwarder("echo").await;
    let mut flow = ok(TcpStream::connect(port).await);
    ok(flow.write_all(b"1").await);
    let mut byte = [0];
    ok(soon(flow.read_exact(&mut byte)).await);
    let node = fabric.node.take().expect("it runs");
    let left = soon(node.drain()).await.expect_err("the flow is cut");
    assert!(left.left > 0);
    assert!(soon(flow.read(&mut byte)).await.is_err(), "and its client is told by a reset");
}

#[tokio::test]
async fn an_agent_that_leaves_beside_another_costs_no_request_of_any_method() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let _stays = fabric.agent("web", Kind::Http, service.address).await;
    let load = Load::start(fabric.addresses.edge, &["GET", "POST"]);
    for _ in 0..5 {
        let leaves = fabric.agent("web", Kind::Http, service.address).await;
        load.goes_on().await;
        ok(leaves.drain(Duration::from_secs(10)).await);
    }
    load.end().await;
}

#[tokio::test]
async fn an_agent_that_leaves_finishes_what_it_has() {
    let fabric = Fabric::start().await;
    let go = Arc::new(Semaphore::new(0));
    let slow = held(&go).await;
    let agent = fabric.agent("web", Kind::Http, slow.address).await;
    let mut client = Http1::connect(fabric.addresses.edge).await;
    let tasks = Tasks::new();
    let drained = Arc::new(AtomicBool::new(false));
    let response = client.send(request("GET", "web", "/", ""));
    tokio::pin!(response);
    // Sent, and held at the service.
    tokio::select! {
        _ = &mut response => panic!("it is held"),
        () = eventually("the request is at the service", async || slow.accepted() > 0) => {}
    }
    let done = Arc::clone(&drained);
    tasks.spawn(async move {
        ok(agent.drain(Duration::from_secs(10)).await);
        done.store(true, Relaxed);
    });
    eventually("the endpoint is served no more", async || {
        get(fabric.addresses.edge, "web", "/").await.status == StatusCode::BAD_GATEWAY
    })
    .await;
    assert!(!drained.load(Relaxed), "the agent waits for its flow");
    go.add_permits(1);
    assert_eq!(whole(ok(soon(response).await)).await.text(), "done");
    eventually("the agent has left", async || drained.load(Relaxed)).await;
}

#[tokio::test]
async fn a_forwarder_that_leaves_finishes_what_it_has() {
    let fabric = Fabric::start().await;
    let echo = service::echo().await;
    let _agent = fabric.agent("echo", Kind::Tcp, echo.address).await;
    let (forwarder, port) = fabric.forwarder("echo").await;
    let mut flow = ok(TcpStream::connect(port).await);
    let mut byte = [0];
    ok(flow.write_all(b"1").await);
    ok(soon(flow.read_exact(&mut byte)).await);
    let (tasks, drained) = (Tasks::new(), Arc::new(AtomicBool::new(false)));
    let done = Arc::clone(&drained);
    tasks.spawn(async move {
        ok(forwarder.drain(Duration::from_secs(10)).await);
        done.store(true, Relaxed);
    });
    eventually("new connections are refused", async || TcpStream::connect(port).await.is_err()).await;
    ok(flow.write_all(b"2").await);
    ok(soon(flow.read_exact(&mut byte)).await);
    assert_eq!(&byte, b"2");
    assert!(!drained.load(Relaxed));
    drop(flow);
    eventually("the forwarder has left", async || drained.load(Relaxed)).await;
}

#[tokio::test]
async fn a_second_signal_ends_a_node_at_once() {
    let folder = ok(tempfile::tempdir());
    let any = "127.0.0.1:0";
    let mut node = Process::start(
        folder.path(),
        &["node", "--edge-bind", any, "--link-bind", any, "--admin-bind", any, "--peer-bind", any],
    );
    let (edge, link) = (node.address("edge"), node.address("link").to_string());
    let slow = held(&Arc::new(Semaphore::new(0))).await;
    let target = slow.address.to_string();
    let agent = Process::start(folder.path(), &["agent", "http", "web", &target, "--connect", &link]);
    agent.line_with("serving web");
    let mut client = Http1::connect(edge).await;
    let response = client.send(request("GET", "web", "/", ""));
    tokio::pin!(response);
    tokio::select! {
        _ = &mut response => panic!("it is held"),
        () = eventually("the request is at the service", async || slow.accepted() > 0) => {}
    }
    node.signal("TERM");
    eventually("new connections are refused", async || TcpStream::connect(edge).await.is_err()).await;
    assert!(node.runs(), "it waits for the request");
    node.signal("TERM");
    assert_eq!(node.wait(), Some(1));
    assert!(soon(response).await.is_err());
}
