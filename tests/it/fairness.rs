//! Flows of one link share what it carries: none starves beside others, and a reader who is gone holds up nobody else.

use std::time::Duration;

use adit::{
    agent::Agent,
    client::{self, Client},
    protocol::{EndpointId, Kind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

use crate::support::{
    Fabric, ok,
    service::{self, Running},
    soon,
};

/// Bytes without end, for whoever connects.
async fn endless() -> Running {
    service::tcp(|mut stream| async move {
        let chunk = vec![7; 64 * 1024];
        while stream.write_all(&chunk).await.is_ok() {}
    })
    .await
}

/// A node with an agent that serves this over one link, as `bulk` and more, and a client.
async fn fabric(bulk: &Running, more: &[(&str, &Running)]) -> (Fabric, Agent, Client) {
    let fabric = Fabric::start().await;
    let config = client::Config { links: 1, ..fabric.client() };
    let served = [("bulk", bulk)].into_iter().chain(more.iter().copied());
    let served: Vec<_> =
        served.map(|(name, service)| (name, Kind::Tcp, service.address.to_string())).collect();
    let agent = fabric.start_agent(config, &served);
    ok(soon(agent.serve()).await);
    let client = ok(Client::new(fabric.client()));
    (fabric, agent, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_share_a_link_and_none_starves() {
    const FLOWS: usize = 30;
    let bulk = endless().await;
    let (_fabric, _agent, client) = fabric(&bulk, &[]).await;
    let mut downloads = JoinSet::new();
    for _ in 0..FLOWS {
        let mut flow = ok(soon(client.dial(&ok(EndpointId::new("bulk")))).await);
        downloads.spawn(async move {
            let (mut chunk, mut bytes) = (vec![0; 64 * 1024], 0_usize);
            let reading = async {
                while let Ok(len @ 1..) = flow.read(&mut chunk).await {
                    bytes += len;
                }
            };
            drop(tokio::time::timeout(Duration::from_secs(4), reading).await);
            bytes
        });
    }
    let mut carried = Vec::new();
    while let Some(bytes) = downloads.join_next().await {
        carried.push(ok(bytes));
    }
    let (least, mean) =
        (carried.iter().min().expect("there are some"), carried.iter().sum::<usize>() / FLOWS);
    assert!(*least > mean / 10, "one has had {least} bytes, the mean is {mean}: {carried:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_who_are_gone_hold_up_nobody_else() {
    let bulk = endless().await;
    let (_fabric, _agent, client) = fabric(&bulk, &[]).await;
    let dial = async || ok(soon(client.dial(&ok(EndpointId::new("bulk")))).await);
    let mut gone = Vec::new();
    // Four of them have as much unread as a link permits all its flows, if it does not make room.
    for _ in 0..12 {
        let mut flow = dial().await;
        ok(soon(flow.read_exact(&mut [0; 1024])).await);
        gone.push(flow);
    }
    let (mut flow, mut chunk) = (dial().await, vec![0; 64 * 1024]);
    for _ in 0..1000 {
        ok(soon(flow.read_exact(&mut chunk)).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_do_not_read_hold_up_no_other() {
    let deaf = service::tcp(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let echo = service::tcp(|mut stream| async move {
        let (mut from, mut to) = stream.split();
        drop(tokio::io::copy(&mut from, &mut to).await);
    })
    .await;
    let (_fabric, _agent, client) = fabric(&echo, &[("deaf", &deaf)]).await;
    let dial = async |name| ok(soon(client.dial(&ok(EndpointId::new(name)))).await);
    let chunk = vec![7; 64 * 1024];
    let mut unheard = Vec::new();
    for _ in 0..8 {
        let mut flow = dial("deaf").await;
        while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), flow.write(&chunk)).await {
            ok(written);
        }
        unheard.push(flow);
    }
    let (mut flow, mut back) = (dial("bulk").await, vec![0; chunk.len()]);
    for _ in 0..100 {
        ok(soon(flow.write_all(&chunk)).await);
        ok(soon(flow.read_exact(&mut back)).await);
    }
    drop(unheard);
}
