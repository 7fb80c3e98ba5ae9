//! Clients that connect and say nothing, as many as a port has places for: those who come after them are served all the same,
//! while the silent ones are still there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use adit::{
    agent::{self, Agent},
    client,
    edge::{Http3, TlsConfig},
    protocol::Kind,
    tls::{self, ClientAuth, Trust},
};
use http::StatusCode;
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::support::{
    Fabric,
    client::{Http1, get, request},
    fabric::identity,
    ok, service,
};

/// Less than the silent ones have until their own deadlines, and many times what it takes.
const WHILE_THEY_ARE_THERE: Duration = Duration::from_secs(8);

async fn silent(port: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..count {
        silent.push(ok(TcpStream::connect(port).await));
    }
    silent
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    timeout(WHILE_THEY_ARE_THERE, what).await.expect("who says nothing holds up nobody")
}

#[tokio::test]
async fn clients_of_https_do_not_wait_for_those_who_say_nothing() {
    let fabric = Fabric::with(|config| {
        let authority = ok(tls::Authority::generate("server"));
        config.edge.tls = Some(TlsConfig {
            bind: ([127, 0, 0, 1], 0).into(),
            identities: vec![identity(&authority, &["localhost"])],
            clients: ClientAuth::None,
            http3: Http3::Off,
        });
    })
    .await;
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let port = fabric.addresses.edge_tls.expect("it was asked for");
    let _silent = silent(port, 300).await;
    let connector = TlsConnector::from(Arc::new(ok(tls::client_config(&Trust::Insecure, None, &[]))));
    let stream = ok(TcpStream::connect(port).await);
    let stream = ok(in_time(connector.connect(ok(ServerName::try_from("localhost")), stream)).await);
    let answer = in_time(Http1::over(stream).await.ask(request("GET", "web", "/", ""))).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn agents_over_websocket_do_not_wait_for_those_who_say_nothing() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let _silent = silent(fabric.addresses.link, 280).await;
    let client = client::Config { transport: client::Transport::WebSocket, ..fabric.client() };
    let agent = fabric.start_agent(client, &[("web", Kind::Http, service.address.to_string())]);
    ok(in_time(agent.serve()).await);
}

#[tokio::test]
async fn who_watches_over_an_agent_does_not_wait_for_those_who_say_nothing() {
    let fabric = Fabric::start().await;
    let admin = Some(([127, 0, 0, 1], 0).into());
    let agent = ok(Agent::start(agent::Config { admin, ..agent::Config::new(fabric.client(), Vec::new()) }));
    let port = agent.admin().expect("it was asked for");
    let _silent = silent(port, 50).await;
    assert_eq!(in_time(get(port, "", "/health")).await.text(), "ok\n");
}
