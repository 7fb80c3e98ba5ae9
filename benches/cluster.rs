//! What a full mesh costs as it grows: nodes in one process, each linked to each by QUIC over loopback, with the routes of
//! a hundred endpoints each in a routing table of each.
//!
//! `cargo bench --bench cluster` measures clusters of several sizes, each in a process of its own so that the memory of one
//! is not that of another; `cargo bench --bench cluster -- 50` only that one.

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use adit::{
    auth::Limits,
    cluster::{self, BoxFuture, Cluster, Handler, Own},
    net::HostPort,
    protocol::{AgentId, EndpointId, Kind, ListenOptions, Load, NodeId, PeerRoute, Phase, TenantId},
    telemetry::{Metrics, What},
    tls::{self, Authority, Identity, NODE_NAME},
    transport::{Settings, Stream},
    upstream::Upstreams,
};
use tokio::sync::{mpsc, watch};

/// As in the program: its memory is what counts.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [usize; 3] = [10, 25, 50];

/// Endpoints of each node.
const ENDPOINTS: usize = 100;

/// Nodes that all others are started with the addresses of.
const SEEDS: usize = 3;

/// Endpoints that are added one after the other to see how fast they are known.
const NEW: usize = 200;

/// How long a cluster is left alone before and while it is watched at rest.
const SETTLE: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_secs(30);

fn main() {
    // Cargo adds `--bench`.
    let sizes: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    match sizes[..] {
        [size] => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.expect("a runtime starts").block_on(measure(size));
        }
        _ => {
            let program = std::env::current_exe().expect("the program knows where it is");
            for size in if sizes.is_empty() { &SIZES[..] } else { &sizes } {
                let status = Command::new(&program).arg(size.to_string()).status();
                assert!(status.is_ok_and(|status| status.success()), "{size} nodes");
            }
        }
    }
}

/// Keeps the routes of peers as a node does, and says when it learns of a new one.
#[derive(Debug)]
struct Keeper {
    upstreams: Upstreams,
    learned: mpsc::Sender<Instant>,
}

impl Handler for Keeper {
    fn added(&self, peer: &Arc<cluster::Node>, routes: &[PeerRoute]) {
        self.upstreams.peer_added(peer, routes);
        if let [route] = routes
            && route.endpoint.as_str().starts_with("new-")
        {
            self.learned.try_send(Instant::now()).expect("there is room for one from each node");
        }
    }

    fn removed(&self, peer: &Arc<cluster::Node>, routes: &[PeerRoute]) {
        self.upstreams.peer_removed(peer, routes);
    }

    fn retired(&self, peer: &Arc<cluster::Node>, flows: &[u64]) {
        self.upstreams.peer_retired(peer, flows);
    }

    fn flow(&self, _: &Arc<cluster::Node>, _: Stream) -> BoxFuture {
        Box::pin(std::future::ready(()))
    }

    fn settled(&self) {
        self.upstreams.settle();
    }

    fn load(&self) -> Load {
        self.upstreams.load()
    }

    fn happened(&self, _: What, _: String, _: String) {}
}

fn route(endpoint: &str) -> PeerRoute {
    PeerRoute {
        tenant: TenantId::default(),
        endpoint: EndpointId::new(endpoint).expect("the name is valid"),
        agent: AgentId::from_bits(rand::random()),
        kind: Kind::Http,
        options: ListenOptions::default(),
    }
}

fn identity(authority: &Authority, node: &str) -> Identity {
    let names = vec!["127.0.0.1".into(), format!("{NODE_NAME}{node}")];
    let request = tls::Request {
        common_name: node.into(),
        names,
        usage: tls::Usage::Both,
        lifetime: tls::DEFAULT_LIFETIME,
    };
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (cert, key) = (folder.path().join("node.pem"), folder.path().join("node.key"));
    let issued = authority.issue(&request).expect("a certificate can be made");
    issued.write(&cert, &key).expect("the folder can be written to");
    Identity::load(&cert, &key).expect("what was written can be read")
}

/// A cluster, and what its nodes keep.
struct Mesh {
    nodes: Vec<(Cluster, Arc<Keeper>)>,
    learned: mpsc::Receiver<Instant>,
    _phase: watch::Sender<Phase>,
}

impl Mesh {
    fn start(identities: Vec<Identity>, authority: &Authority) -> Self {
        let (sender, learned) = mpsc::channel(identities.len());
        let phase = watch::Sender::new(Phase::Ready);
        let mut nodes: Vec<(Cluster, Arc<Keeper>)> = Vec::new();
        for (number, identity) in identities.into_iter().enumerate() {
            let metrics = Metrics::default();
            let upstreams = Upstreams::new(&metrics, Duration::ZERO, [], Limits::default());
            let announcements = upstreams.announcements();
            (0..ENDPOINTS)
                .for_each(|endpoint| announcements.add(route(&format!("service-{number}-{endpoint}"))));
            let keeper = Arc::new(Keeper { upstreams, learned: sender.clone() });
            let seeds = nodes.iter().take(SEEDS).map(|(seed, _)| seed.address());
            let config = cluster::Config {
                bind: ([127, 0, 0, 1], 0).into(),
                advertise: None,
                join: seeds.map(|seed| HostPort { host: seed.ip().to_string(), port: seed.port() }).collect(),
                identity,
                roots: vec![authority.certificate().clone()],
            };
            let own = Own {
                node: name(number),
                cluster: "bench".into(),
                incarnation: 1,
                link_address: "127.0.0.1:1".into(),
                phase: phase.subscribe(),
            };
            let handler = Arc::<Keeper>::clone(&keeper);
            let settings = Settings::default();
            let carried = keeper.upstreams.link_counters().clone();
            let node = Cluster::start(config, own, &settings, announcements, handler, &metrics, carried);
            nodes.push((node.expect("the node starts"), keeper));
        }
        Self { nodes, learned, _phase: phase }
    }

    /// Waits until every node is linked to every other and knows its routes.
    async fn converge(&self) {
        for (node, _) in &self.nodes {
            let others = || node.peers().iter().filter(|peer| peer.is_complete()).count();
            while others() < self.nodes.len() - 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// How long it takes until all others know of a new endpoint of one node.
    async fn learn(&mut self, number: usize) -> Duration {
        let announcements = self.nodes[number % self.nodes.len()].1.upstreams.announcements();
        let route = route(&format!("new-{number}"));
        let added = Instant::now();
        announcements.add(route);
        let mut last = added;
        for _ in 1..self.nodes.len() {
            last = last.max(self.learned.recv().await.expect("the nodes live"));
        }
        last - added
    }

    /// Bytes and packets that all nodes together have sent over the links that they have, and how many ends these have.
    fn sent(&self) -> (u64, u64, usize) {
        let peers: Vec<_> = self.nodes.iter().flat_map(|(node, _)| node.peers()).collect();
        let stats = peers.iter().map(|peer| peer.link.stats());
        let (bytes, packets) = stats
            .fold((0, 0), |(bytes, packets), link| (bytes + link.sent_bytes, packets + link.sent_packets));
        (bytes, packets, peers.len())
    }
}

fn name(number: usize) -> NodeId {
    NodeId::new(&format!("n{number}")).expect("the name is valid")
}

/// Resident memory in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux tells it");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number follows") * 1024
}

/// Time on a processor so far; Linux counts it in hundredths of a second.
fn busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux tells it");
    let (_, fields) = stat.rsplit_once(") ").expect("the name ends");
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("a number"));
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

#[expect(clippy::print_stdout, reason = "the figures are what this is for")]
async fn measure(size: usize) {
    let authority = Authority::generate("bench authority").expect("an authority can be made");
    let identities: Vec<_> = (0..size).map(|number| identity(&authority, name(number).as_str())).collect();
    let before = memory();
    let (began, busy_before) = (Instant::now(), busy());
    let mut mesh = Mesh::start(identities, &authority);
    mesh.converge().await;
    println!("{size} nodes, {} endpoints", size * ENDPOINTS);
    println!(
        "  each knows all after       {:.2?} ({:.2?} of processor time)",
        began.elapsed(),
        busy() - busy_before
    );

    tokio::time::sleep(SETTLE).await;
    let (settled, busy_before, (bytes, packets, ends)) = (Instant::now(), busy(), mesh.sent());
    tokio::time::sleep(REST).await;
    let (bytes_after, packets_after, ends_after) = mesh.sent();
    assert_eq!((ends, ends_after), (size * (size - 1), size * (size - 1)), "no link was lost");
    let per_node = |total: f64| total / settled.elapsed().as_secs_f64() / size as f64;
    println!(
        "  at rest, a node and second {:.0} bytes in {:.0} packets sent, {:.2} ms of processor time",
        per_node((bytes_after - bytes) as f64),
        per_node((packets_after - packets) as f64),
        per_node((busy() - busy_before).as_secs_f64() * 1000.0),
    );

    let mut times = Vec::new();
    for number in 0..NEW {
        times.push(mesh.learn(number).await);
    }
    times.sort();
    println!(
        "  a new endpoint everywhere  {:.2?} (median), {:.2?} (p99), {:.2?} (longest of {NEW})",
        times[NEW / 2],
        times[NEW * 99 / 100],
        times[NEW - 1]
    );

    let grown = memory().saturating_sub(before);
    println!(
        "  memory                     {} MiB in all, {} KiB a node, {} KiB an end of a link",
        memory() >> 20,
        (grown >> 10) / size as u64,
        (grown >> 10) / (size * (size - 1)) as u64
    );
}
