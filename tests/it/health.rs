//! An endpoint whose service is down is not served, where its agent checks.

use std::{net::SocketAddr, time::Duration};

use adit::{
    agent::{self, Agent, HealthCheck},
    protocol::Kind,
};
use http::{Response, StatusCode};
use tokio::sync::watch;

use crate::support::{
    Fabric,
    client::get,
    eventually, ok,
    service::{self, Running, full},
    soon,
};

fn agent(fabric: &Fabric, address: SocketAddr, probe: &str) -> Agent {
    let mut endpoint = fabric.endpoint("web", Kind::Http, address);
    endpoint.health = Some(HealthCheck { probe: ok(probe.parse()), interval: Duration::from_millis(50) });
    ok(Agent::start(agent::Config::new(fabric.client(), vec![endpoint])))
}

async fn error(fabric: &Fabric) -> String {
    let answer = get(fabric.addresses.edge, "web", "/").await;
    if answer.status == StatusCode::OK { "none".into() } else { answer.error().0 }
}

#[tokio::test]
async fn an_endpoint_is_withdrawn_while_its_service_says_that_it_is_not_well() {
    let fabric = Fabric::start().await;
    let well = watch::Sender::new(false);
    let seen = well.subscribe();
    let service = service::http(move |request| {
        let well = *seen.borrow();
        async move {
            let mut response = Response::new(full("here"));
            let asked = request.uri().path() == "/health" && request.headers().contains_key("host");
            *response.status_mut() = match (asked, well) {
                (true, true) => StatusCode::FOUND,
                (true, false) => StatusCode::SERVICE_UNAVAILABLE,
                (false, _) => StatusCode::OK,
            };
            response
        }
    })
    .await;
    let agent = agent(&fabric, service.address, "/health");
    ok(soon(agent.serve()).await);
    assert_eq!(error(&fabric).await, "no_upstream", "the first check comes before the first listen");
    for _ in 0..2 {
        well.send_replace(true);
        eventually("it is served", async || error(&fabric).await == "none").await;
        well.send_replace(false);
        eventually("it is withdrawn", async || error(&fabric).await == "no_upstream").await;
    }
    ok(soon(agent.drain(Duration::from_secs(10))).await);
}

/// A service that answers whatever it is asked.
async fn answering(address: &str) -> Running {
    service::tcp_at(address, |mut stream| async move {
        while service::read_request(&mut stream).await.is_some() {
            drop(tokio::io::AsyncWriteExt::write_all(&mut stream, service::OK).await);
        }
    })
    .await
}

#[tokio::test]
async fn an_endpoint_is_withdrawn_while_its_service_accepts_no_connection() {
    let fabric = Fabric::with(|config| config.upstream_wait = Duration::ZERO).await;
    // The port is given up for a while, and must not be another test's when it is wanted again: so it is of an address of
    // its own, where there are more.
    let mut service = answering(if cfg!(target_os = "linux") { "127.66.0.1:0" } else { "127.0.0.1:0" }).await;
    let address = service.address;
    let agent = agent(&fabric, address, "tcp");
    ok(soon(agent.serve()).await);
    assert_eq!(error(&fabric).await, "none", "it was up, so it was listened for");
    drop(service);
    eventually("it is withdrawn", async || error(&fabric).await == "no_upstream").await;
    service = answering(&address.to_string()).await;
    eventually("it is served again", async || error(&fabric).await == "none").await;
    ok(soon(agent.drain(Duration::from_secs(10))).await);
    drop(service);
}
