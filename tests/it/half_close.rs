//! How TCP flows end: each direction for itself, resets as resets, and with every byte delivered.

use std::{any::Any, io::ErrorKind::ConnectionReset};

use adit::{drain::Tasks, protocol::Kind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::support::{
    Fabric,
    client::{Http1, assert_counted, request},
    eventually,
    fabric::{TcpPath, impatient},
    kind, ok, random, reset,
    service::{self, drain},
    soon,
};

/// Writes for as long as anybody takes it: the error that ended it.
async fn write_endlessly(stream: &mut TcpStream) -> std::io::Error {
    let chunk = random(64 * 1024);
    loop {
        if let Err(error) = stream.write_all(&chunk).await {
            return error;
        }
    }
}

#[tokio::test]
async fn a_client_that_ends_first_still_gets_the_whole_answer() {
    a_client_may_end_first(1).await;
}

pub(crate) async fn a_client_may_end_first(nodes: usize) {
    let service = service::count().await;
    let path = TcpPath::over(nodes, service.address).await;
    for size in [0, 1, 1 << 20] {
        assert_counted(path.connect().await, size).await;
    }
}

#[tokio::test]
async fn a_service_that_ends_first_still_gets_all_that_the_client_sends() {
    a_service_may_end_first(1).await;
}

pub(crate) async fn a_service_may_end_first(nodes: usize) {
    let (counts, mut counted) = mpsc::channel(1);
    let service = service::tcp(move |mut stream| {
        let counts = counts.clone();
        async move {
            ok(stream.write_all(b"no more from here").await);
            ok(stream.shutdown().await);
            drop(counts.send(drain(&mut stream).await).await);
        }
    })
    .await;
    let path = TcpPath::over(nodes, service.address).await;
    let mut client = path.connect().await;
    let mut greeting = String::new();
    ok(soon(client.read_to_string(&mut greeting)).await);
    assert_eq!(greeting, "no more from here");
    ok(soon(client.write_all(&random(1 << 20))).await);
    ok(client.shutdown().await);
    let (count, end) = soon(counted.recv()).await.expect("the service reports");
    ok(end);
    assert_eq!(count, 1 << 20);
}

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_service_as_a_reset() {
    a_client_may_reset(1).await;
}

pub(crate) async fn a_client_may_reset(nodes: usize) {
    let (service, mut reports) = service::report().await;
    let path = TcpPath::over(nodes, service.address).await;
    let mut client = path.connect().await;
    ok(client.write_all(b"hello").await);
    eventually("the service has the connection", async || service.accepted() == 1).await;
    reset(client);
    let (_, end) = soon(reports.recv()).await.expect("the service reports");
    assert_eq!(kind(end), ConnectionReset);

    // And in the middle of a transfer.
    let mut client = path.connect().await;
    ok(client.write_all(&random(2 << 20)).await);
    reset(client);
    let (_, end) = soon(reports.recv()).await.expect("the service reports");
    assert_eq!(kind(end), ConnectionReset);
}

#[tokio::test]
async fn a_client_that_resets_while_it_is_sent_to_stops_the_service() {
    a_reset_stops_the_service(1).await;
}

pub(crate) async fn a_reset_stops_the_service(nodes: usize) {
    let (ends, mut ended) = mpsc::channel(1);
    let service = service::tcp(move |mut stream| {
        let ends = ends.clone();
        async move { drop(ends.send(write_endlessly(&mut stream).await).await) }
    })
    .await;
    let path = TcpPath::over(nodes, service.address).await;
    let mut client = path.connect().await;
    ok(soon(client.read_exact(&mut vec![0; 1 << 20])).await);
    reset(client);
    soon(ended.recv()).await.expect("the service's writes fail");
}

#[tokio::test]
async fn a_reset_by_the_service_reaches_the_client_as_a_reset() {
    a_service_may_reset(1).await;
}

pub(crate) async fn a_service_may_reset(nodes: usize) {
    let service = service::resetting().await;
    let path = TcpPath::over(nodes, service.address).await;
    for sent_before in [0, 2 << 20] {
        let mut client = path.connect().await;
        ok(client.write_u32(sent_before).await);
        let (_, end) = soon(drain(&mut client)).await;
        assert_eq!(kind(end), ConnectionReset, "after {sent_before} bytes");
    }
}

#[tokio::test]
async fn no_bytes_are_lost_at_the_end() {
    every_byte_arrives(1).await;
}

pub(crate) async fn every_byte_arrives(nodes: usize) {
    let most = 3 << 20;
    let all = random(most);
    let sent = all.clone();
    let service = service::tcp(move |mut stream| {
        let all = sent.clone();
        async move {
            let wanted = ok(stream.read_u32().await);
            ok(stream.write_all(&all[..wanted as usize]).await);
        }
    })
    .await;
    let path = TcpPath::over(nodes, service.address).await;
    let sizes = [0, 1, 2, 1199, 1200, 65_535, 65_536, 65_537, 1 << 20, most].into_iter();
    let sizes = sizes.chain((0..50).map(|_| rand::random_range(0..=most)));
    let transfers = sizes.map(async |size| {
        let mut client = path.connect().await;
        ok(client.write_u32(ok(size.try_into())).await);
        let mut got = Vec::new();
        ok(client.read_to_end(&mut got).await);
        assert!(got == all[..size], "{} of {size} bytes came", got.len());
    });
    soon(futures_util::future::join_all(transfers)).await;
}

#[tokio::test]
async fn an_endpoint_that_nobody_serves_resets_the_connection() {
    let fabric = Fabric::start().await;
    let (_forwarder, port) = fabric.forwarder("nobody").await;
    let mut client = ok(TcpStream::connect(port).await);
    assert_eq!(kind(soon(client.read(&mut [0])).await), ConnectionReset);
}

#[tokio::test]
async fn a_service_that_refuses_resets_the_connection() {
    let fabric = Fabric::start().await;
    let _agent = fabric.agent("tcp", Kind::Tcp, service::refusing()).await;
    let (_forwarder, port) = fabric.forwarder("tcp").await;
    let mut client = ok(TcpStream::connect(port).await);
    assert_eq!(kind(soon(client.read(&mut [0])).await), ConnectionReset);
}

#[tokio::test]
async fn a_service_that_is_killed_in_mid_stream_never_seems_to_have_finished() {
    a_killed_service_never_seems_to_have_finished(1).await;
}

pub(crate) async fn a_killed_service_never_seems_to_have_finished(nodes: usize) {
    let service = service::tcp(|mut stream| async move {
        // There is something that it has not read.
        ok(stream.peek(&mut [0]).await);
        ok(stream.write_all(b"half of").await);
        std::future::pending().await
    })
    .await;
    let path = TcpPath::over(nodes, service.address).await;
    let mut client = path.connect().await;
    ok(client.write_all(&random(100_000)).await);
    ok(soon(client.read_exact(&mut [0; 7])).await);
    drop(service);
    let (_, end) = soon(drain(&mut client)).await;
    assert_eq!(kind(end), ConnectionReset);
}

#[tokio::test]
async fn an_agent_or_a_forwarder_that_is_gone_ends_its_flows_with_an_error_on_both_sides() {
    a_lost_agent_or_forwarder_is_an_error(1).await;
}

pub(crate) async fn a_lost_agent_or_forwarder_is_an_error(nodes: usize) {
    for gone in ["agent", "forwarder"] {
        let (service, mut reports) = service::report().await;
        let path = TcpPath::over_with(nodes, impatient, service.address).await;
        let mut client = path.connect().await;
        ok(client.write_all(b"hello").await);
        eventually("the service has the connection", async || service.accepted() == 1).await;
        let TcpPath { agent, forwarder, .. } = path;
        let _other: Box<dyn Any> = if gone == "agent" {
            drop(agent);
            Box::new(forwarder)
        } else {
            drop(forwarder);
            Box::new(agent)
        };
        assert_eq!(kind(soon(client.read(&mut [0])).await), ConnectionReset, "{gone}");
        let (_, end) = soon(reports.recv()).await.expect("the service reports");
        assert_eq!(kind(end), ConnectionReset, "{gone}");
    }
}

#[tokio::test]
async fn both_directions_run_at_once() {
    both_directions_run(1).await;
}

pub(crate) async fn both_directions_run(nodes: usize) {
    let service = service::echo().await;
    let path = TcpPath::over(nodes, service.address).await;
    let all = random(8 << 20);
    let (mut read, mut write) = path.connect().await.into_split();
    let (sent, tasks) = (all.clone(), Tasks::new());
    tasks.spawn(async move {
        ok(write.write_all(&sent).await);
        ok(write.shutdown().await);
    });
    let mut got = Vec::new();
    ok(soon(read.read_to_end(&mut got)).await);
    assert!(got == all, "{} of {} bytes came back", got.len(), all.len());
}

#[tokio::test]
async fn a_request_that_is_given_up_is_reset_at_a_service_that_says_nothing() {
    let (ends, mut ended) = mpsc::channel(1);
    let (reads, mut read) = mpsc::channel(1);
    let service = service::tcp(move |mut stream| {
        let (ends, reads) = (ends.clone(), reads.clone());
        async move {
            drop(reads.send(service::read_request(&mut stream).await).await);
            let (_, end) = drain(&mut stream).await;
            drop(ends.send(end).await);
        }
    })
    .await;
    let fabric = Fabric::start().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let mut client = Http1::connect(fabric.addresses.edge).await;
    let asked = client.send(request("GET", "web", "/", ""));
    tokio::select! {
        _ = asked => panic!("the service says nothing"),
        request = soon(read.recv()) => assert!(request.is_some_and(|request| request.is_some())),
    }
    drop(client);
    assert!(
        soon(ended.recv()).await.expect("it ends").is_err(),
        "a clean end would look like a whole request"
    );
}
