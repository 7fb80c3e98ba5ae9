//! A network between real nodes that is cut and mended: both sides go on with what they have, and find each other again.

use std::{
    cell::Cell,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use adit::tls;
use futures_util::future::join_all;
use http::StatusCode;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    client::{Http1, get, request, whole},
    eventually,
    network::{Host, Network},
    ok,
    process::Process,
    service::{self, Running},
    soon,
};

const EDGE: SocketAddr = local(8000);
const ADMIN: SocketAddr = local(8002);
const FORWARDED: SocketAddr = local(9000);

/// So long after a cut no dial that the loss of a link has set off goes on.
const FORGOTTEN: Duration = Duration::from_secs(27);

/// Each host has a loopback of its own.
const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Three nodes, each a process on a host of its own, and one host more.
struct Cluster {
    /// First, as what is on a network ends before it does.
    processes: Vec<Process>,
    folder: TempDir,
    hosts: [Host; 4],
    network: Network,
    flags: Vec<&'static str>,
}

impl Cluster {
    /// With the same flags for nodes, agents and forwarders.
    async fn start(flags: &[&'static str]) -> Option<Self> {
        let (network, hosts) = Network::of(["n1", "n2", "n3", "elsewhere"])?;
        let folder = ok(tempfile::tempdir());
        let names: Vec<_> = hosts.iter().map(|host| host.address.to_string()).collect();
        ok(tls::development(&folder.path().join("certs"), &names));
        let mut cluster = Self { processes: Vec::new(), folder, hosts, network, flags: flags.to_vec() };
        let first = format!("{}:8003", cluster.hosts[0].address);
        for host in &cluster.hosts[..3] {
            let (link, peer) = (format!("{}:8001", host.address), format!("{}:8003", host.address));
            let binds = ["--link-bind", &link, "--peer-bind", &peer, "--allow-anonymous"];
            let join: &[&str] = if peer == first { &[] } else { &["--join", &first] };
            let node = cluster.process(host, &[&["node", "--node-id", host.name], &binds[..], join].concat());
            node.line_with("edge ");
            cluster.processes.push(node);
        }
        for host in cluster.nodes() {
            sees(host, 2).await;
        }
        Some(cluster)
    }

    fn nodes(&self) -> &[Host] {
        &self.hosts[..3]
    }

    fn process(&self, host: &Host, arguments: &[&str]) -> Process {
        host.run(|| Process::start(self.folder.path(), &[arguments, &self.flags].concat()))
    }

    /// An agent on a host, linked to a node and perhaps to others.
    fn agent(&self, host: &Host, node: &Host, arguments: &[&str]) -> Process {
        let link = format!("{}:8001", node.address);
        let agent = self.process(host, &[&["agent"], arguments, &["--connect", &link]].concat());
        agent.line_with("serving ");
        agent
    }

    /// An agent of a web service on a host.
    fn web(&self, host: &Host, node: &Host, endpoint: &str, service: &Running, links: &str) -> Process {
        self.agent(host, node, &["http", endpoint, &service.address.to_string(), "--links", links])
    }

    /// Waits until endpoints are served through every node.
    async fn all_serve(&self, endpoints: &[&str]) {
        for host in self.nodes() {
            for endpoint in endpoints {
                serves(host, endpoint).await;
            }
        }
    }
}

async fn serves(host: &Host, endpoint: &str) {
    eventually(&format!("{endpoint} is served through {}", host.name), async || {
        host.on(get(EDGE, endpoint, "/")).await.status == StatusCode::OK
    })
    .await;
}

/// Waits until a node is linked to so many others.
async fn sees(host: &Host, others: usize) {
    eventually(&format!("{} is linked to {others} others", host.name), async || {
        let metrics = host.on(get(ADMIN, "", "/metrics")).await;
        metrics.text().lines().any(|line| line == format!("adit_peers {others}"))
    })
    .await;
}

async fn status(host: &Host) -> serde_json::Value {
    ok(serde_json::from_slice(&host.on(get(ADMIN, "", "/api/v1/status")).await.body))
}

/// Clients of a node that ask for an endpoint over and over.
#[derive(Default)]
struct Load {
    answered: Cell<usize>,
    slowest: Cell<Duration>,
    stop: Cell<bool>,
}

impl Load {
    async fn run(&self, host: &Host, endpoint: &str) {
        let client = async || {
            let mut connection = Http1::connect(EDGE).await;
            while !self.stop.get() {
                let asked = Instant::now();
                let answer = whole(ok(connection.send(request("GET", endpoint, "/", "")).await)).await;
                assert_eq!(answer.status, StatusCode::OK, "through {}: {}", host.name, answer.text());
                self.answered.set(self.answered.get() + 1);
                self.slowest.set(asked.elapsed().max(self.slowest.get()));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        host.on(join_all((0..4).map(|_| client()))).await;
    }

    async fn goes_on(&self) {
        let before = self.answered.get();
        eventually("requests go on", async || self.answered.get() > before + 100).await;
    }
}

#[expect(clippy::print_stdout, reason = "figures for whoever runs this with --nocapture")]
fn report(text: &str) {
    println!("{text}");
}

#[tokio::test]
async fn both_sides_of_a_split_serve_on_and_are_one_cluster_again_once_it_mends() {
    let Some(mut cluster) = Cluster::start(&[]).await else { return };
    let [n1, n2, n3, _] = &cluster.hosts;
    let (large, small) = (n1.on(service::mirror()).await, n3.on(service::mirror()).await);
    let endpoints = ["large-side", "small-side", "both-sides"];
    let _agents = [
        cluster.web(n1, n1, endpoints[0], &large, "2"),
        cluster.web(n3, n3, endpoints[1], &small, "2"),
        // One link each, so that n2 reaches each only through its node.
        cluster.web(n1, n1, endpoints[2], &large, "1"),
        cluster.web(n3, n3, endpoints[2], &small, "1"),
    ];
    cluster.all_serve(&endpoints).await;
    eventually("n2 knows of both agents", async || {
        let known = status(n2).await["endpoints"].clone();
        let known = known.as_array().map_or(&[][..], |known| known);
        known.iter().any(|known| known["endpoint"] == endpoints[2] && known["agents"] == 2)
    })
    .await;
    let loads = [Load::default(), Load::default()];
    let script = async {
        for load in &loads {
            load.goes_on().await;
        }
        cluster.network.cut(n3);
        let cut = tokio::time::Instant::now();
        for load in &loads {
            load.goes_on().await;
        }
        // Long before the links' idle time-out: membership has declared the other side down.
        tokio::join!(sees(n1, 1), sees(n2, 1), sees(n3, 0));
        tokio::join!(serves(n1, endpoints[0]), serves(n2, endpoints[0]), serves(n3, endpoints[1]));
        for host in cluster.nodes() {
            for path in ["/health", "/ready"] {
                assert_eq!(
                    host.on(get(ADMIN, "", path)).await.status,
                    StatusCode::OK,
                    "{path} of {}",
                    host.name
                );
            }
        }
        for load in &loads {
            load.goes_on().await;
        }
        tokio::time::sleep_until(cut + FORGOTTEN).await;
        cluster.network.mend(n3);
        let mended = Instant::now();
        cluster.all_serve(&endpoints).await;
        report(&format!("every endpoint is served through every node {:?} after the mend", mended.elapsed()));
        for host in cluster.nodes() {
            sees(host, 2).await;
        }
        for load in &loads {
            load.goes_on().await;
            load.stop.set(true);
        }
    };
    tokio::join!(loads[0].run(n2, endpoints[2]), loads[1].run(n3, endpoints[1]), script);
    for (load, through) in loads.iter().zip(["n2", "n3"]) {
        let (answered, slowest) = (load.answered.get(), load.slowest.get());
        report(&format!("{answered} requests through {through}, none failed, the slowest took {slowest:?}"));
        assert!(slowest < Duration::from_secs(3), "{slowest:?}: the lost side is passed over within 2 s");
    }
    assert!(cluster.processes.iter_mut().all(Process::runs));
}

#[tokio::test]
async fn a_flow_across_nodes_outlives_a_cut_of_three_seconds() {
    let Some(cluster) = Cluster::start(&[]).await else { return };
    let [n1, _, n3, _] = &cluster.hosts;
    let service = n3.on(service::echo()).await;
    let _agent = cluster.agent(n3, n3, &["tcp", "echo", &service.address.to_string(), "--links", "1"]);
    let (port, link) = (FORWARDED.to_string(), format!("{}:8001", n1.address));
    let forwarder = cluster.process(n1, &["forward", "tcp", &port, "echo", "--connect", &link]);
    forwarder.line_with("echo");
    eventually("n1 knows of the endpoint", async || !status(n1).await["endpoints"][0].is_null()).await;
    let mut flow = n1.on(TcpStream::connect(FORWARDED)).await.expect("the forwarder listens");
    echoes(&mut flow, b"before").await;
    let peers = status(n1).await["peers"].clone();
    let to_n3 = peers.as_array().and_then(|peers| peers.iter().find(|peer| peer["node"] == "n3"));
    assert_eq!(to_n3.map(|peer| &peer["flows"]), Some(&1.into()), "the flow crosses: {peers}");
    cluster.network.cut(n3);
    ok(flow.write_all(b"during").await);
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.network.mend(n3);
    let mended = Instant::now();
    let mut answer = [0; 6];
    ok(soon(flow.read_exact(&mut answer)).await);
    assert_eq!(&answer, b"during");
    report(&format!("the flow goes on {:?} after the mend", mended.elapsed()));
    echoes(&mut flow, b"after").await;
    assert_eq!(service.accepted(), 1);
}

async fn echoes(flow: &mut TcpStream, text: &[u8]) {
    ok(flow.write_all(text).await);
    let mut answer = vec![0; text.len()];
    ok(soon(flow.read_exact(&mut answer)).await);
    assert_eq!(answer, text);
}

#[tokio::test]
async fn an_agent_that_was_cut_off_serves_again_within_seconds_of_the_mend() {
    // Short, so that the links are lost for good soon.
    let Some(cluster) = Cluster::start(&["--keep-alive", "1s", "--idle-timeout", "4s"]).await else { return };
    let [n1, .., elsewhere] = &cluster.hosts;
    let service = elsewhere.on(service::mirror()).await;
    let _agent = cluster.web(elsewhere, n1, "web", &service, "2");
    cluster.all_serve(&["web"]).await;
    cluster.network.cut(elsewhere);
    for host in cluster.nodes() {
        eventually(&format!("{} has given the agent up", host.name), async || {
            status(host).await["endpoints"].as_array().is_some_and(Vec::is_empty)
        })
        .await;
    }
    cluster.network.mend(elsewhere);
    let mended = Instant::now();
    cluster.all_serve(&["web"]).await;
    report(&format!("the agent serves again through every node {:?} after the mend", mended.elapsed()));
}
