//! Custom domains: a whole host name stands for an endpoint, as an agent or a node says, before its first label is looked at.

use std::{error::Error, net::SocketAddr, time::Duration};

use adit::{
    agent::{self, Agent},
    client::{self, ListenError},
    protocol::{Code, HostPattern, Kind, ListenOptions},
};
use http::{Request, StatusCode, header};

use crate::support::{
    Fabric,
    client::{Answer, Http1, Http2, body, sentence},
    cluster::Nodes,
    eventually, ok,
    service::{self, Running},
    soon,
};

fn hosts(hosts: &[&str]) -> Vec<HostPattern> {
    hosts.iter().map(|host| ok(host.parse())).collect()
}

/// Serves an endpoint for these hosts too, over one link: other nodes know of it from that one.
async fn serve(
    fabric: &Fabric,
    endpoint: &str,
    service: &Running,
    names: &[&str],
) -> Result<Agent, ListenError> {
    let mut served = fabric.endpoint(endpoint, Kind::Http, service.address);
    served.hosts = hosts(names);
    let client = client::Config { links: 1, ..fabric.client() };
    let agent = ok(Agent::start(agent::Config::new(client, vec![served])));
    soon(agent.serve()).await.map(|()| agent)
}

/// A service that says its name.
async fn named(name: &'static str) -> Running {
    service::http(move |_| async move { http::Response::new(service::full(name)) }).await
}

async fn ask(edge: SocketAddr, host: &str) -> Answer {
    let request = ok(Request::get("/").header(header::HOST, host).body(body("")));
    Http1::connect(edge).await.ask(request).await
}

/// Waits until a host leads to the service of this name.
async fn leads(edge: SocketAddr, host: &str, to: &str) {
    eventually(&format!("{host} leads to {to}"), async || {
        let answer = ask(edge, host).await;
        answer.status == StatusCode::OK && answer.text() == to
    })
    .await;
}

/// Waits until a host leads to nobody: its first label is an endpoint that nobody serves.
async fn leads_nowhere(edge: SocketAddr, host: &str) {
    let label = host.split('.').next().expect("there is one");
    eventually(&format!("{host} leads nowhere"), async || {
        let answer = ask(edge, host).await;
        answer.status == StatusCode::BAD_GATEWAY && answer.error().1.contains(&format!("{label:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_host_of_an_agent_leads_to_its_endpoint_whatever_its_first_label() {
    let fabric = Fabric::start().await;
    let edge = fabric.addresses.edge;
    let (web, near, other) = (named("web").await, named("near").await, named("other").await);
    let _web = ok(serve(&fabric, "web", &web, &["app.customer.com", "*.wild.example"]).await);
    let _near = ok(serve(&fabric, "near", &near, &["*.b.wild.example", "localhost"]).await);
    let _other = ok(serve(&fabric, "other", &other, &[]).await);
    for (host, service) in [
        ("app.customer.com", "web"),
        ("APP.Customer.com:8000", "web"),
        ("app.customer.com.", "web"),
        ("a.wild.example", "web"),
        ("d.c.wild.example", "web"),
        ("b.wild.example", "web"),
        ("a.b.wild.example", "near"),
        ("localhost:8000", "near"),
        // As ever.
        ("other.customer.com", "other"),
        // Below a wildcard, so not by its own label.
        ("other.wild.example", "web"),
    ] {
        let answer = ask(edge, host).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, service), "{host}");
    }
    sentence(&ask(edge, "wild.example").await, 502, "no_upstream");
    sentence(&ask(edge, "customer.com").await, 502, "no_upstream");

    let over_http2 = ok(Request::get("http://app.customer.com/").body(body("")));
    assert_eq!(Http2::connect(edge).await.ask(over_http2).await.text(), "web");
    let by_name = ok(Request::get("/")
        .header(header::HOST, "app.customer.com")
        .header("x-adit-endpoint", "other")
        .body(body("")));
    assert_eq!(Http1::connect(edge).await.ask(by_name).await.text(), "other");
}

#[tokio::test]
async fn a_host_is_known_to_every_node_until_its_last_agent_leaves() {
    let nodes = Nodes::start(2).await;
    let service = named("web").await;
    let one = ok(serve(&nodes.all[0], "web", &service, &["app.customer.com"]).await);
    let two = ok(serve(&nodes.all[1], "web", &service, &["app.customer.com"]).await);
    for number in 0..2 {
        leads(nodes.edge(number), "app.customer.com", "web").await;
    }
    ok(one.drain(Duration::from_secs(5)).await);
    for number in 0..2 {
        leads(nodes.edge(number), "app.customer.com", "web").await;
    }
    // Without a goodbye.
    drop(two);
    for number in 0..2 {
        leads_nowhere(nodes.edge(number), "app.customer.com").await;
    }
}

#[tokio::test]
async fn a_host_of_another_endpoint_on_the_same_node_is_refused_by_name_and_stays() {
    let fabric =
        Fabric::with(|config| config.hosts = vec![(ok("admin.customer.com".parse()), ok("ops".parse()))])
            .await;
    let edge = fabric.addresses.edge;
    let (first, second) = (named("first").await, named("second").await);
    let agent = ok(serve(&fabric, "b", &first, &["app.customer.com"]).await);
    for (host, owner) in [("app.customer.com", "b"), ("admin.customer.com", "ops")] {
        let error = serve(&fabric, "a", &second, &["a.customer.com", host]).await.expect_err("it is taken");
        let ListenError::Refused { endpoint, refusal } = &error else { panic!("{error}") };
        assert_eq!((endpoint.as_str(), refusal.code), ("a", Code::Invalid));
        let why = error.source().expect("the node's reason").to_string();
        assert!(why.contains(&format!("{host} is mapped to the endpoint {owner} already")), "{why}");
        leads(edge, "app.customer.com", "first").await;
    }
    leads_nowhere(edge, "a.customer.com").await;
    // Another agent of the same endpoint is welcome, and what is free again may be taken.
    let _same = ok(serve(&fabric, "b", &first, &["app.customer.com"]).await);
    drop(_same);
    ok(agent.drain(Duration::from_secs(5)).await);
    leads_nowhere(edge, "app.customer.com").await;
    let _second = ok(serve(&fabric, "a", &second, &["app.customer.com"]).await);
    leads(edge, "app.customer.com", "second").await;
}

#[tokio::test]
async fn nodes_decide_alike_between_endpoints_that_claim_a_host_on_two_of_them() {
    let nodes = Nodes::start(2).await;
    let (a, b) = (named("a").await, named("b").await);
    let _b = ok(serve(&nodes.all[0], "b", &b, &["app.customer.com"]).await);
    leads(nodes.edge(1), "app.customer.com", "b").await;
    let first = ok(serve(&nodes.all[1], "a", &a, &["app.customer.com"]).await);
    for number in 0..2 {
        leads(nodes.edge(number), "app.customer.com", "a").await;
    }
    ok(first.drain(Duration::from_secs(5)).await);
    for number in 0..2 {
        leads(nodes.edge(number), "app.customer.com", "b").await;
    }
}

#[tokio::test]
async fn a_host_of_a_nodes_configuration_leads_to_an_agent_of_another_node() {
    let nodes = Nodes::with(2, |config| {
        config.hosts = vec![
            (ok("app.customer.com".parse()), ok("web".parse())),
            (ok("*.customer.com".parse()), ok("x".parse())),
        ];
    })
    .await;
    let (web, x) = (named("web").await, named("x").await);
    let _web = nodes.all[1].agent("web", Kind::Http, web.address).await;
    let _x = nodes.all[0].agent("x", Kind::Http, x.address).await;
    for number in 0..2 {
        leads(nodes.edge(number), "app.customer.com", "web").await;
        leads(nodes.edge(number), "any.customer.com", "x").await;
    }
}

#[tokio::test]
async fn more_than_one_hello_holds_is_served_all_the_same() {
    let nodes = Nodes::start(2).await;
    let service = named("web").await;
    let endpoints = (0..30).map(|number| {
        let mut endpoint = nodes.all[0].endpoint(&format!("web{number}"), Kind::Http, service.address);
        let names: Vec<_> =
            (0..ListenOptions::MAX_HOSTS).map(|host| format!("h{host}.n{number}.customer.com")).collect();
        endpoint.hosts = hosts(&names.iter().map(String::as_str).collect::<Vec<_>>());
        endpoint
    });
    let client = nodes.all[0].client();
    let agent = ok(Agent::start(agent::Config::new(client, endpoints.collect())));
    ok(soon(agent.serve()).await);
    for number in [0, 1, 15, 29] {
        for edge in [nodes.edge(0), nodes.edge(1)] {
            leads(edge, &format!("h31.n{number}.customer.com"), "web").await;
        }
    }
    let too_many = vec!["a.example"; ListenOptions::MAX_HOSTS + 1];
    let error = serve(&nodes.all[0], "many", &service, &too_many).await.expect_err("they are too many");
    assert!(matches!(error, ListenError::TooManyHosts { hosts: 33, .. }), "{error}");
}
