//! The port of an agent or a forwarder for those who watch over it: what it counts is what it has carried.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use adit::{
    agent::{self, Agent, HealthCheck, HttpOptions},
    client::{self, Token},
    forward,
    protocol::{EndpointId, Kind, Secret},
};
use http::{Response, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

use crate::{
    metrics::{documented, kinds},
    support::{
        Fabric,
        client::{Http1, get, metric, request},
        eventually, ok, random,
        service::{self, full},
        soon,
        tokens::{Issuer, in_seconds},
        udp::{Client, Echo, UDP},
    },
};

const ANY: Option<SocketAddr> = Some(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0));

/// An agent with a port of its own, and that port.
fn start(fabric: &Fabric, endpoints: Vec<agent::Endpoint>) -> (Agent, SocketAddr) {
    let config = agent::Config { admin: ANY, ..agent::Config::new(fabric.client(), endpoints) };
    let agent = ok(Agent::start(config));
    let admin = agent.admin().expect("it has a port");
    (agent, admin)
}

/// Whether it is ready, and what it says.
async fn ready(admin: SocketAddr) -> (u16, String) {
    let answer = get(admin, "", "/ready").await;
    (answer.status.as_u16(), answer.text().trim_end().to_owned())
}

/// Samples of a scrape, by what is before the value.
async fn samples(admin: SocketAddr) -> BTreeMap<String, f64> {
    let scrape = get(admin, "", "/metrics").await;
    let lines = scrape.text().lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| line.rsplit_once(' ').expect("it is a sample"));
    samples.map(|(name, value)| (name.to_owned(), ok(value.parse()))).collect()
}

#[tokio::test]
async fn an_agent_counts_exactly_what_it_has_served() {
    let fabric = Fabric::start().await;
    let service = service::http(|request| async move {
        let mut response = Response::new(full("hello"));
        if request.uri().path() == "/none" {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        response
    })
    .await;
    let (echo, packets) = (service::echo().await, Echo::start().await);
    let mut web = fabric.endpoint("web", Kind::Http, service.address);
    web.http = Some(HttpOptions { access_log: true, ..HttpOptions::default() });
    let (agent, admin) = start(
        &fabric,
        vec![
            web,
            fabric.endpoint("echo", Kind::Tcp, echo.address),
            fabric.endpoint("udp", Kind::Udp, packets.address),
            fabric.endpoint("gone", Kind::Http, service::refusing()),
        ],
    );
    ok(soon(agent.serve()).await);
    assert_eq!(get(admin, "", "/health").await.text(), "ok\n");
    eventually("it is ready", async || ready(admin).await == (200, "ready".into())).await;

    let edge = fabric.addresses.edge;
    let mut client = Http1::connect(edge).await;
    for (path, times) in [("/", 7), ("/none", 3)] {
        for _ in 0..times {
            client.ask(request("POST", "web", path, random(100))).await;
        }
    }
    assert_eq!(get(edge, "gone", "/").await.status, StatusCode::BAD_GATEWAY);
    let (_forwarder, port) = fabric.forwarder("echo").await;
    let mut flow = ok(TcpStream::connect(port).await);
    ok(flow.write_all(&random(70_000)).await);
    ok(soon(flow.read_exact(&mut vec![0; 70_000])).await);
    let (_udp_forwarder, udp_port) = fabric.forwarder_of("udp", UDP).await;
    let client_of_udp = Client::of(udp_port).await;
    for length in [0, 1200, 30_000] {
        client_of_udp.ask(&random(length)).await;
    }

    let bytes = |samples: &BTreeMap<String, f64>, kind: &str| {
        ["received", "sent"]
            .map(|way| samples[&format!("adit_client_bytes_total{{kind=\"{kind}\",direction=\"{way}\"}}")])
    };
    eventually("all bytes are counted", async || {
        let samples = samples(admin).await;
        bytes(&samples, "tcp") == [70_000.0; 2] && bytes(&samples, "udp") == [31_200.0; 2]
    })
    .await;
    let all = samples(admin).await;
    let [received, sent] = bytes(&all, "http");
    assert!(received > 10.0 * 100.0 && received < 10.0 * 1000.0, "bodies and heads: {received}");
    assert!(sent > 10.0 * 5.0 && sent < 10.0 * 1000.0, "{sent}");
    for (name, value) in [
        ("adit_service_requests_total{status=\"2xx\"}", 7.0),
        ("adit_service_requests_total{status=\"4xx\"}", 3.0),
        ("adit_service_requests_total{status=\"5xx\"}", 0.0),
        ("adit_service_response_headers_seconds_count", 10.0),
        ("adit_service_flows_opened_total{kind=\"tcp\"}", 1.0),
        ("adit_service_flows_open{kind=\"tcp\"}", 1.0),
        ("adit_service_flows_open{kind=\"udp\"}", 1.0),
        ("adit_service_connect_failures_total{code=\"upstream_refused\"}", 1.0),
        ("adit_flow_refusals_total{code=\"upstream_refused\"}", 1.0),
        ("adit_services{health=\"unchecked\"}", 4.0),
        ("adit_links{role=\"node\",transport=\"quic\"}", 1.0),
        ("adit_queue_full_total{queue=\"flows\"}", 0.0),
    ] {
        assert_eq!(all.get(name), Some(&value), "{name} in {all:#?}");
    }
    drop(flow);
    let open = async || metric(admin, "adit_service_flows_open{kind=\"tcp\"}").await;
    eventually("it is open no more", async || open().await == 0).await;
}

#[tokio::test]
async fn an_agent_is_ready_when_a_node_sends_flows_for_all_that_it_serves() {
    let fabric = Fabric::start().await;
    let well = watch::Sender::new(false);
    let seen = well.subscribe();
    let service = service::http(move |_| {
        let mut response = Response::new(full("here"));
        if !*seen.borrow() {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        async move { response }
    })
    .await;
    let mut endpoint = fabric.endpoint("web", Kind::Http, service.address);
    endpoint.health = Some(HealthCheck { probe: ok("/".parse()), interval: Duration::from_millis(50) });
    let (agent, admin) = start(&fabric, vec![endpoint]);
    ok(soon(agent.serve()).await);
    let is = async |health: &str| metric(admin, &format!("adit_services{{health=\"{health}\"}}")).await;
    assert_eq!((is("down").await, is("up").await), (1, 0));
    assert_eq!(ready(admin).await, (503, "not linked to a node".into()), "there is nothing to link for");
    well.send_replace(true);
    eventually("it is ready", async || ready(admin).await.0 == 200).await;
    assert_eq!((is("down").await, is("up").await), (0, 1));
    well.send_replace(false);
    eventually("it is ready no more", async || ready(admin).await == (503, "no endpoint is served".into()))
        .await;
    eventually("its service is down", async || (is("down").await, is("up").await) == (1, 0)).await;
    ok(soon(agent.drain(Duration::from_secs(10))).await);
    assert!(TcpStream::connect(admin).await.is_err(), "the port goes with the agent");
}

#[tokio::test]
async fn who_may_not_serve_an_endpoint_is_not_ready_and_counts_it() {
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| config.auth.link = issuer.port()).await;
    let service = service::mirror().await;
    let token = issuer.token(&json!({ "exp": in_seconds(600.0), "adit": { "endpoints": ["good"] } }));
    let config = agent::Config {
        admin: ANY,
        ..agent::Config::new(
            client::Config { token: Some(Token::fixed(Secret::new(token))), ..fabric.client() },
            ["good", "bad"].map(|name| fabric.endpoint(name, Kind::Http, service.address)).into(),
        )
    };
    let agent = ok(Agent::start(config));
    let admin = agent.admin().expect("it has a port");
    eventually("it says what is missing", async || {
        ready(admin).await == (503, "no node sends flows for 1 of 2 endpoints".into())
    })
    .await;
    let refused = async || metric(admin, "adit_listen_refusals_total{code=\"forbidden\"}").await;
    // It is asked again for what it has refused as other endpoints come, so that there may be more than one.
    let refusals = "adit_auth_refused_total{port=\"link\",reason=\"endpoint_not_permitted\"}";
    eventually("each refusal is counted, as the node counts it", async || {
        let counted = refused().await;
        counted > 0 && counted == metric(fabric.addresses.admin, refusals).await
    })
    .await;
}

#[tokio::test]
async fn failures_to_link_are_counted_by_reason() {
    let fabric = Fabric::start().await;
    let mut client = fabric.client_at(service::refusing());
    client.transport = client::Transport::WebSocket;
    let config = agent::Config {
        admin: ANY,
        ..agent::Config::new(client, vec![fabric.endpoint("web", Kind::Http, "1")])
    };
    let agent = ok(Agent::start(config));
    let admin = agent.admin().expect("it has a port");
    let failed = async || metric(admin, "adit_link_failures_total{reason=\"unreachable\"}").await;
    eventually("it fails", async || failed().await > 0).await;
    assert_eq!(ready(admin).await, (503, "not linked to a node".into()));
}

#[tokio::test]
async fn the_metrics_of_agents_and_forwarders_are_those_of_the_docs_and_as_many_however_many_endpoints() {
    let fabric = Fabric::start().await;
    let (service, echo) = (service::mirror().await, service::echo().await);
    let documented = documented(Path::new(env!("CARGO_MANIFEST_DIR")));
    let mut series = Vec::new();
    for count in [1, 200] {
        let endpoints =
            (0..count).map(|n| fabric.endpoint(&format!("e{count}-{n}"), Kind::Http, service.address));
        let (agent, admin) = start(&fabric, endpoints.collect());
        ok(soon(agent.serve()).await);
        for n in 0..count {
            get(fabric.addresses.edge, &format!("e{count}-{n}"), "/").await;
        }
        series.push(samples(admin).await.into_keys().collect::<Vec<_>>());
        let scrape = get(admin, "", "/metrics").await;
        for (name, kind) in kinds(scrape.text()) {
            assert_eq!(documented.get(&name), Some(&kind), "{name} in docs/metrics.md");
        }
        assert!(!scrape.text().contains(&format!("e{count}-0")), "names are told: {}", scrape.text());
    }
    assert_eq!(series[0], series[1]);

    let _agent = fabric.agent("echo", Kind::Tcp, echo.address).await;
    let port = forward::Port {
        listen: vec![([127, 0, 0, 1], 0).into()],
        endpoint: ok(EndpointId::new("echo")),
        kind: forward::PortKind::Tcp,
    };
    let config = forward::Config { client: fabric.client(), ports: vec![port], admin: ANY };
    let forwarder = ok(forward::Forwarder::start(config).await);
    let admin = forwarder.admin().expect("it has a port");
    eventually("it is ready", async || ready(admin).await == (200, "ready".into())).await;
    let mut flow = ok(TcpStream::connect(forwarder.addresses()[0]).await);
    ok(flow.write_all(&random(5000)).await);
    ok(soon(flow.read_exact(&mut vec![0; 5000])).await);
    for way in ["received", "sent"] {
        let name = format!("adit_client_bytes_total{{kind=\"tcp\",direction=\"{way}\"}}");
        eventually(&name, async || metric(admin, &name).await == 5000).await;
    }
    let scrape = get(admin, "", "/metrics").await;
    for (name, kind) in kinds(scrape.text()) {
        assert_eq!(documented.get(&name), Some(&kind), "{name} in docs/metrics.md");
    }
    assert_eq!(get(admin, "", "/nothing").await.status, StatusCode::NOT_FOUND);
}
