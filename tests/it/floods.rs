//! Endpoints in great numbers, of a peer or of agents, are taken in without holding up requests, or refused.

use std::{sync::Arc, time::Duration};

use adit::{
    auth::{self, Limits, PortConfig, Shown, Standing},
    cluster::exchange::MAX_ROUTES,
    drain::Tasks,
    protocol::{ALPN_LINK, AgentId, Close, Code, Control, Kind, ListenOptions, Role, TenantId},
    telemetry::Metrics,
    tls::{self, Authority},
    transport::{ControlReader, ControlWriter, Datagrams, Lost, Settings, quic},
    upstream::{self, Session, Upstreams},
};
use http::StatusCode;
use tokio::{sync::watch, time::Instant};

use crate::support::{
    Fabric, SOON,
    client::{get, metric},
    cluster::Nodes,
    eventually,
    fabric::identity,
    ok,
    peer::{RawPeer, route},
    raw::listen,
    service, soon,
};

/// The longest that a client waited for an answer while something else went on.
async fn served_meanwhile(node: &Fabric, work: impl Future<Output = ()>) -> Duration {
    let service = service::mirror().await;
    let _agent = node.agent("web", Kind::Http, service.address).await;
    let mut longest = Duration::ZERO;
    tokio::pin!(work);
    loop {
        let began = Instant::now();
        let answered = async {
            assert_eq!(soon(get(node.addresses.edge, "web", "/")).await.status, StatusCode::OK);
            longest = longest.max(began.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        tokio::select! {
            () = &mut work => return longest,
            () = answered => {}
        }
    }
}

/// How many agents serve an endpoint, as the node sees it.
async fn agents(node: &Fabric, endpoint: &str) -> u64 {
    let status = get(node.addresses.admin, "", "/api/v1/status").await;
    let status: serde_json::Value = ok(serde_json::from_slice(&status.body));
    let endpoints = status["endpoints"].as_array().expect("it lists them");
    let found = endpoints.iter().find(|found| found["endpoint"] == endpoint);
    found.and_then(|found| found["agents"].as_u64()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_agents_of_one_endpoint_come_and_go_without_holding_up_requests() {
    const AGENTS: usize = 25_000;
    let node = Nodes::one().await;
    let work = async {
        let mut raw = RawPeer::welcomed(&node, "n2").await;
        raw.announce((0..AGENTS).map(|number| route(1, number))).await;
        let known = async || agents(&node, "endpoint-1").await == AGENTS as u64;
        eventually("they are known", known).await;
        assert_eq!(raw.link.lost(), None);
        raw.link.close(Close::Done, "done");
        eventually("they are gone", async || agents(&node, "endpoint-1").await == 0).await;
    };
    let longest = served_meanwhile(&node, work).await;
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_endpoints_come_and_go_without_holding_up_requests() {
    const ENDPOINTS: usize = 25_000;
    let node = Nodes::one().await;
    let endpoints = async || metric(node.addresses.admin, "adit_endpoints").await;
    let work = async {
        let mut raw = RawPeer::welcomed(&node, "n2").await;
        raw.announce((0..ENDPOINTS).map(|number| route(number, 1))).await;
        eventually("they are known", async || endpoints().await == ENDPOINTS as u64 + 1).await;
        assert_eq!(raw.link.lost(), None);
        raw.link.close(Close::Done, "done");
        eventually("they are gone", async || endpoints().await == 1).await;
    };
    let longest = served_meanwhile(&node, work).await;
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_by_the_million_are_refused() {
    let node = Nodes::one().await;
    let work = async {
        let mut raw = RawPeer::welcomed(&node, "n2").await;
        raw.announce((0..1_000_000).map(|number| route(number, 1))).await;
        match soon(raw.link.closed()).await {
            Lost::Peer { code, reason } => {
                let limit = MAX_ROUTES + ListenOptions::MAX_HOSTS;
                let limit = format!("more than {limit} routes and hosts");
                assert_eq!((code, reason), (Close::Protocol as u64, limit));
            }
            other => panic!("{other:?}"),
        }
    };
    let longest = served_meanwhile(&node, work).await;
    assert!(longest < Duration::from_secs(10), "{longest:?}");
    let counted = async || metric(node.addresses.admin, "adit_peer_refusals_total").await == 1;
    eventually("it is counted", counted).await;
    eventually("nothing of it is left", async || metric(node.addresses.admin, "adit_endpoints").await == 0)
        .await;
}

#[tokio::test]
async fn a_node_takes_no_more_endpoints_than_its_peers_take_from_it() {
    let (authority, settings) = (ok(Authority::generate("test authority")), Settings::default());
    let server =
        ok(tls::server_config(&[identity(&authority, &["localhost"])], tls::ClientAuth::None, &[ALPN_LINK]));
    let listener = ok(quic::Listener::bind(([127, 0, 0, 1], 0).into(), server, None, &settings));
    let dialer =
        ok(quic::Dialer::new(ok(tls::client_config(&tls::Trust::Insecure, None, &[ALPN_LINK])), &settings));
    let accept = async { ok(listener.accept().await.expect("it is open").handshake(SOON).await) };
    let (at_node, link) = tokio::join!(accept, dialer.dial(ok(listener.local_address()), "localhost"));
    let link = ok(link);

    let upstreams = Upstreams::new(&Metrics::default(), Duration::ZERO, [], Limits::default());
    let announcements = upstreams.announcements();
    (0..MAX_ROUTES).for_each(|number| announcements.add(route(number, 1)));
    let of_agent = upstream::Identity {
        role: Role::Agent,
        agent: AgentId::from_bits(2),
        name: None,
        tenant: TenantId::default(),
    };
    let guard = auth::Guards::new(&Metrics::default(), Tasks::new()).guard("link", &PortConfig::default());
    let standing = Standing::new(&guard, ok(guard.caller(Shown::default(), None).await), None);
    let datagrams = Datagrams::new(at_node, upstreams.packets().of_link("agent"));
    let (session, queue) = Session::new(upstreams.next_link(), of_agent, standing, datagrams);
    let (_nodes, nodes) = watch::channel(Arc::from([]));
    let serve = async {
        let stream = ok(session.link.accept().await);
        let control = (ControlReader::new(stream.recv), ControlWriter::new(stream.send));
        upstreams.run(Arc::clone(&session), Vec::new(), 10, control, queue, nodes).await;
    };
    let agent = async {
        let stream = ok(link.open(SOON).await);
        let (mut reader, mut writer) = (ControlReader::new(stream.recv), ControlWriter::new(stream.send));
        ok(writer.send(&Control::Listen(listen(1, "web"))).await);
        match soon(reader.next()).await {
            Ok(Control::ListenRefused(1, refusal)) => assert_eq!(refusal.code, Code::Busy, "{refusal}"),
            other => panic!("{other:?}"),
        }
        announcements.remove(&route(0, 1));
        ok(writer.send(&Control::Listen(listen(2, "web"))).await);
        assert!(matches!(soon(reader.next()).await, Ok(Control::Listening(2))));
    };
    tokio::select! {
        () = serve => panic!("the link ended"),
        () = agent => {}
    }
}
