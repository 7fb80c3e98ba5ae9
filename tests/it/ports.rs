//! Plain public ports: a TCP client reaches an endpoint through a port of the node, without a forwarder.

use std::{io::ErrorKind::ConnectionReset, time::Duration};

use adit::{edge::Port, node, protocol::Kind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Fabric,
    client::assert_counted,
    cluster::Nodes,
    eventually, kind, ok,
    process::Process,
    random, reset,
    service::{self, drain},
    soon,
};

/// Gives a node a port for each of these endpoints.
fn ports(endpoints: &[&str]) -> impl Fn(&mut node::Config) {
    let ports = endpoints
        .iter()
        .map(|endpoint| Port { bind: ([127, 0, 0, 1], 0).into(), endpoint: ok(endpoint.parse()) });
    let ports: Vec<_> = ports.collect();
    move |config| config.edge.tcp = ports.clone()
}

async fn connect(fabric: &Fabric, port: usize) -> TcpStream {
    ok(TcpStream::connect(fabric.addresses.tcp[port].bind).await)
}

#[tokio::test]
async fn each_port_leads_to_its_endpoint_with_half_close() {
    let fabric = Fabric::with(ports(&["count", "greet"])).await;
    let count = service::count().await;
    let greet = service::tcp(|mut stream| async move { ok(stream.write_all(b"220 ready").await) }).await;
    let _count = fabric.agent("count", Kind::Tcp, count.address).await;
    let _greet = fabric.agent("greet", Kind::Tcp, greet.address).await;
    for size in [0, 1, 1 << 20] {
        assert_counted(connect(&fabric, 0).await, size).await;
    }
    let mut greeting = String::new();
    ok(soon(connect(&fabric, 1).await.read_to_string(&mut greeting)).await);
    assert_eq!(greeting, "220 ready");
    fabric.tells("adit_tcp_connections_total{door=\"tcp\",outcome=\"joined\"} 4").await;
}

#[tokio::test]
async fn a_port_of_one_node_leads_to_an_agent_of_another() {
    let nodes = Nodes::with(2, ports(&["count"])).await;
    let service = service::count().await;
    let (_agent, entry) = nodes.agent_elsewhere("count", Kind::Tcp, service.address).await;
    assert_counted(connect(&nodes.all[entry], 0).await, 1 << 20).await;
}

#[tokio::test]
async fn a_connection_whose_endpoint_cannot_be_reached_is_reset() {
    let fabric = Fabric::with(ports(&["tcp"])).await;
    let (_, end) = soon(drain(&mut connect(&fabric, 0).await)).await;
    assert_eq!(kind(end), ConnectionReset);
    fabric.tells("adit_tcp_connections_total{door=\"tcp\",outcome=\"no_upstream\"} 1").await;

    let _agent = fabric.agent("tcp", Kind::Tcp, service::refusing()).await;
    let (_, end) = soon(drain(&mut connect(&fabric, 0).await)).await;
    assert_eq!(kind(end), ConnectionReset);
    fabric.tells("adit_tcp_connections_total{door=\"tcp\",outcome=\"upstream_refused\"} 1").await;
}

#[tokio::test]
async fn resets_pass_in_both_directions() {
    let fabric = Fabric::with(ports(&["tcp"])).await;
    let (service, mut reports) = service::report().await;
    let agent = fabric.agent("tcp", Kind::Tcp, service.address).await;
    let mut client = connect(&fabric, 0).await;
    ok(client.write_all(&random(2 << 20)).await);
    reset(client);
    let (_, end) = soon(reports.recv()).await.expect("the service reports");
    assert_eq!(kind(end), ConnectionReset);
    ok(agent.drain(Duration::from_secs(5)).await);

    let service = service::tcp(|mut stream| async move {
        ok(stream.write_all(b"half").await);
        reset(stream);
    })
    .await;
    let _agent = fabric.agent("tcp", Kind::Tcp, service.address).await;
    let (_, end) = soon(drain(&mut connect(&fabric, 0).await)).await;
    assert_eq!(kind(end), ConnectionReset);
}

#[tokio::test]
async fn a_node_that_leaves_accepts_no_more_and_finishes_what_it_has() {
    let mut fabric = Fabric::with(ports(&["echo"])).await;
    let service = service::echo().await;
    let _agent = fabric.agent("echo", Kind::Tcp, service.address).await;
    let mut open = connect(&fabric, 0).await;
    ok(open.write_all(b"1").await);
    assert_eq!(ok(soon(open.read_u8()).await), b'1');
    let node = fabric.node.take().expect("it runs");
    let client = async {
        let port = fabric.addresses.tcp[0].bind;
        eventually("new connections are refused", async || TcpStream::connect(port).await.is_err()).await;
        ok(open.write_all(b"2").await);
        assert_eq!(ok(soon(open.read_u8()).await), b'2', "the open one goes on");
        ok(open.shutdown().await);
        assert_eq!(soon(drain(&mut open)).await.0, 0, "and ends as its client wants");
    };
    let (drained, ()) = tokio::join!(soon(node.drain()), client);
    ok(drained);
}

#[tokio::test]
async fn ports_are_flags_or_lists_of_the_file_and_what_was_bound_is_told() {
    let folder = ok(tempfile::tempdir());
    ok(std::fs::write(folder.path().join("adit.toml"), "tcp = [\"0=one\", \"127.0.0.1:0=two\"]"));
    let free =
        ["--edge-bind", "--link-bind", "--admin-bind", "--peer-bind"].map(|bind| [bind, "127.0.0.1:0"]);
    let words = [&["node"], free.as_flattened()].concat();
    for (ports, endpoints) in [
        (["--config", "adit.toml"].as_slice(), ["one", "two"].as_slice()),
        (&["--tcp", "0=one", "--tcp", "[::1]:0=three"], &["one", "three"]),
    ] {
        let node = Process::start(folder.path(), &[&words, ports].concat());
        for endpoint in endpoints {
            let line = node.line_with("tcp ");
            let address = line.strip_prefix("tcp    tcp://").and_then(|rest| rest.split_once(" for "));
            let (address, name) = address.expect("an address and an endpoint");
            assert_eq!(name, *endpoint);
            ok(TcpStream::connect(address).await);
        }
    }
}
