//! What becomes of requests when a Piko agent or its node leaves, fails or says nothing. Such an agent has one connection,
//! and comes back only when that is reset: there is a gap, which is waited out.

use std::{
    io::ErrorKind::ConnectionReset,
    sync::Arc,
    time::{Duration, Instant},
};

use adit::{drain::Tasks, node};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    drain::held,
    support::{
        Fabric,
        body::{self, trickle},
        client::{Http1, get, request, sentence, whole},
        cluster::Nodes,
        eventually, kind,
        load::Load,
        ok,
        piko_agent::{Agent, End, Manner, Peer, Session},
        process::Process,
        service::{self, Running, full},
        soon,
    },
};

const MS: Duration = Duration::from_millis(1);

/// So many nodes, and an agent of the endpoint `web` at the last of them, which the first one knows of.
async fn linked(nodes: usize, peer: Peer) -> (Nodes, Session) {
    let nodes = Nodes::start(nodes).await;
    let session = ok(peer.link(last(&nodes)).await);
    nodes.knows(0, "web").await;
    (nodes, session)
}

fn last(nodes: &Nodes) -> std::net::SocketAddr {
    nodes.all.last().expect("there are nodes").addresses.link
}

/// A request that is at the service, which holds it.
async fn asked(
    edge: std::net::SocketAddr,
    slow: &Running,
) -> (Tasks, tokio::sync::oneshot::Receiver<String>) {
    let (tell, told) = tokio::sync::oneshot::channel();
    let tasks = Tasks::new();
    tasks.spawn(async move {
        let answer = get(edge, "web", "/").await;
        drop(tell.send(answer.text().to_owned()));
    });
    eventually("the request is at the service", async || slow.accepted() > 0).await;
    (tasks, told)
}

#[tokio::test]
async fn an_agent_that_goes_away_finishes_what_it_has_and_gets_nothing_new() {
    for nodes in [1, 2] {
        let go = Arc::new(Semaphore::new(0));
        let slow = held(&go).await;
        let (nodes, session) = linked(nodes, Peer::of("web", slow.address)).await;
        let (_tasks, told) = asked(nodes.edge(0), &slow).await;
        session.go_away().await;
        let node = nodes.all[0].node.as_ref().expect("it runs");
        eventually("the endpoint is gone", async || !node.serves("web")).await;
        sentence(&get(nodes.edge(0), "web", "/").await, 502, "no_upstream");
        assert!(!session.has_ended(), "a request is under way on it");
        go.add_permits(1);
        assert_eq!(ok(soon(told).await), "done");
        // It must not come back, so it is told in words.
        let End::Said(Some(frame)) = session.ended().await else { panic!("{:?}", session.ended().await) };
        assert_eq!(frame.code, CloseCode::from(4000), "{frame}");
        assert_eq!(slow.accepted(), 1);
    }
}

#[tokio::test]
async fn an_agent_that_goes_away_beside_another_costs_no_request() {
    for nodes in [1, 2] {
        let service = service::mirror().await;
        let (nodes, _stays) = linked(nodes, Peer::of("web", service.address)).await;
        let load = Load::start(nodes.edge(0), &["GET", "POST"]);
        for _ in 0..5 {
            let leaves = ok(Peer::of("web", service.address).link(last(&nodes)).await);
            load.goes_on().await;
            leaves.go_away().await;
            assert!(matches!(leaves.ended().await, End::Said(_)));
        }
        load.end().await;
    }
}

#[tokio::test]
async fn a_stream_that_is_refused_is_tried_at_another_agent() {
    let service = service::mirror().await;
    let refusing = Peer { manner: Manner::Refuse, ..Peer::of("web", service.address) };
    for nodes in [1, 2] {
        let (nodes, refuses) = linked(nodes, refusing.clone()).await;
        let answer = get(nodes.edge(0), "web", "/").await;
        sentence(&answer, 502, "upstream_unreachable");
        let _serves = ok(Peer::of("web", service.address).link(last(&nodes)).await);
        nodes.serves(0, "web").await;
        for method in ["GET", "POST"].repeat(10) {
            let answer = Http1::connect(nodes.edge(0)).await.ask(request(method, "web", "/", "")).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        }
        assert!(refuses.refused() > 0);
    }
}

#[tokio::test]
async fn an_agent_that_accepts_no_stream_is_passed_over() {
    let service = service::mirror().await;
    let (nodes, _silent) =
        linked(1, Peer { manner: Manner::Ignore, ..Peer::of("web", service.address) }).await;
    let began = Instant::now();
    sentence(&get(nodes.edge(0), "web", "/").await, 502, "upstream_timeout");
    let _serves = ok(Peer::of("web", service.address).link(last(&nodes)).await);
    for _ in 0..20 {
        let answer = Http1::connect(nodes.edge(0)).await.ask(request("POST", "web", "/", "")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

/// One whose process has been stopped: its connection stands, and nothing comes.
#[tokio::test]
async fn an_agent_that_does_not_answer_is_passed_over_and_what_it_has_moves() {
    let go = Arc::new(Semaphore::new(0));
    let slow = held(&go).await;
    let (nodes, session) = linked(1, Peer::of("web", slow.address)).await;
    let (_tasks, told) = asked(nodes.edge(0), &slow).await;
    let service = service::http(|_| async { Response::new(full("elsewhere")) }).await;
    let _serves = ok(Peer::of("web", service.address).link(last(&nodes)).await);
    let began = Instant::now();
    session.stop();
    assert_eq!(ok(soon(told).await), "elsewhere");
    for _ in 0..10 {
        assert_eq!(get(nodes.edge(0), "web", "/").await.text(), "elsewhere");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_agent_that_is_killed_is_gone_and_what_it_had_is_told() {
    for nodes in [1, 2] {
        let slow = held(&Arc::new(Semaphore::new(0))).await;
        let (nodes, session) = linked(nodes, Peer::of("web", slow.address)).await;
        let (_forwarder, port) = nodes.all[0].forwarder("web").await;
        let mut flow = ok(TcpStream::connect(port).await);
        ok(flow.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await);
        eventually("the flow is at the service", async || slow.accepted() == 1).await;
        let (_tasks, told) = asked(nodes.edge(0), &slow).await;
        eventually("the request is there too", async || slow.accepted() == 2).await;
        drop(session);
        let node = nodes.all[0].node.as_ref().expect("it runs");
        eventually("the endpoint is gone", async || !node.serves("web")).await;
        assert!(ok(soon(told).await).contains("error"), "the request fails");
        assert_eq!(kind(soon(flow.read(&mut [0])).await), ConnectionReset);
        sentence(&get(nodes.edge(0), "web", "/").await, 502, "no_upstream");
    }
}

#[tokio::test]
async fn pings_keep_an_idle_agent_and_tell_when_it_is_gone() {
    let service = service::mirror().await;
    let brisk = |config: &mut node::Config| {
        config.link.settings.keep_alive = 250 * MS;
        config.link.settings.idle_timeout = 1500 * MS;
    };
    let fabric = Fabric::with(brisk).await;
    let session = ok(Peer::of("web", service.address).link(fabric.addresses.link).await);
    // Several times as long as silence may last.
    eventually("pings come", async || session.pings() > 20).await;
    assert!(!session.has_ended());
    assert_eq!(get(fabric.addresses.edge, "web", "/").await.status, StatusCode::OK);
    session.stop();
    let node = fabric.node.as_ref().expect("it runs");
    eventually("it is gone", async || !node.serves("web")).await;
}

/// Two nodes, of which the second gives what is under way a quarter of this long; one agent that begins at the second.
async fn two(grace: Duration, service: &Running) -> (Nodes, Agent) {
    let nodes = Nodes::with(2, |config| config.grace_period = grace).await;
    let (first, second) = (nodes.all[0].addresses.link, nodes.all[1].addresses.link);
    let agent = Agent::start(Peer::of("web", service.address), vec![second, first]);
    nodes.knows(0, "web").await;
    (nodes, agent)
}

#[tokio::test]
async fn a_node_that_drains_has_its_agents_come_back_elsewhere_and_no_request_fails() {
    // What is under way takes longer than others wait for an agent.
    let service = service::http(|request| async move {
        let pieces = if request.uri().path() == "/long" { 12 } else { 1 };
        Response::new(trickle(pieces, if pieces > 1 { 250 * MS } else { MS }, "piece"))
    })
    .await;
    let (mut nodes, agent) = two(Duration::from_secs(24), &service).await;
    let mut client = Http1::connect(nodes.edge(0)).await;
    let mut response = ok(soon(client.send(request("GET", "web", "/long", ""))).await).into_body();
    ok(body::next(&mut response).await.expect("it has begun"));
    let load = Load::start(nodes.edge(0), &["GET", "POST"]);
    load.goes_on().await;
    let node = nodes.all[1].node.take().expect("it runs");
    let (drained, rest) = tokio::join!(soon(node.drain()), soon(response.collect()));
    ok(drained);
    assert_eq!(ok(rest).to_bytes().len(), 11 * "piece".len());
    load.goes_on().await;
    load.end().await;
    assert_eq!(agent.ends(), [End::Reset], "an end of the connection would be taken for good");
    assert!(nodes.all[0].node.as_ref().is_some_and(|node| node.serves("web")));
}

#[tokio::test]
async fn a_node_that_drains_cuts_what_does_not_end_and_its_agents_come_back_elsewhere() {
    let service = service::http(|request| async move {
        let endless = request.uri().path() == "/endless";
        Response::new(if endless { trickle(1000, 100 * MS, "piece") } else { full("short") })
    })
    .await;
    let (mut nodes, agent) = two(Duration::from_secs(12), &service).await;
    let mut client = Http1::connect(nodes.edge(0)).await;
    let response = ok(soon(client.send(request("GET", "web", "/endless", ""))).await);
    let load = Load::start(nodes.edge(0), &["GET", "POST"]);
    load.goes_on().await;
    let node = nodes.all[1].node.take().expect("it runs");
    let began = Instant::now();
    let (_, rest) = tokio::join!(soon(node.drain()), soon(response.into_body().collect()));
    assert!(rest.is_err(), "it was cut, and must not seem complete");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    load.goes_on().await;
    load.end().await;
    assert_eq!(agent.ends(), [End::Reset]);
}

#[tokio::test]
async fn a_node_that_is_alone_resets_its_agents_when_it_has_left() {
    let service = service::mirror().await;
    let mut fabric = Fabric::start().await;
    let link = fabric.addresses.link;
    let agent = Agent::start(Peer::of("web", service.address), vec![link]);
    eventually("it is served", async || fabric.node.as_ref().is_some_and(|node| node.serves("web"))).await;
    let node = fabric.node.take().expect("it runs");
    ok(soon(node.drain()).await);
    fabric.restart().await;
    eventually("it has come back", async || get(fabric.addresses.edge, "web", "/").await.status.is_success())
        .await;
    assert_eq!(agent.ends(), [End::Reset]);
}

/// The system closes what a process leaves open, and that must be a reset too.
#[tokio::test]
async fn a_node_that_is_killed_has_its_agents_come_back() {
    let folder = ok(tempfile::tempdir());
    let any = "127.0.0.1:0";
    let mut node = Process::start(
        folder.path(),
        &["node", "--edge-bind", any, "--link-bind", any, "--admin-bind", any, "--peer-bind", any],
    );
    let (edge, link) = (node.address("edge"), node.address("link"));
    let service = service::mirror().await;
    let session = ok(Peer::of("web", service.address).link(link).await);
    eventually("it is served", async || get(edge, "web", "/").await.status == StatusCode::OK).await;
    node.signal("KILL");
    node.wait();
    assert_eq!(session.ended().await, End::Reset);
}

#[tokio::test]
async fn a_request_of_a_client_that_waits_gets_the_agent_that_comes_back() {
    let service = service::mirror().await;
    let (nodes, session) = linked(2, Peer::of("web", service.address)).await;
    drop(session);
    let waits = Tasks::new();
    let (edge, (tell, told)) = (nodes.edge(0), tokio::sync::oneshot::channel());
    waits.spawn(async move {
        let response = Http1::connect(edge).await.send(request("POST", "web", "/", "once")).await;
        ok(tell.send(whole(ok(response)).await.status));
    });
    let _back = ok(Peer::of("web", service.address).link(nodes.all[0].addresses.link).await);
    assert_eq!(ok(soon(told).await), StatusCode::OK);
}
