//! Nodes and agents that are killed, hang, or leave one after the other, as processes, under a steady load: what may be sent
//! again is, nothing is delivered twice that must not be, and nobody waits for the dead.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::{Response, StatusCode};
use http_body_util::BodyExt;
use tempfile::TempDir;

use crate::support::{
    client::{get, metric},
    eventually,
    load::Load,
    ok,
    process::{Process, restarted},
    service::{self, Running, full},
};

const ANY: &str = "127.0.0.1:0";

struct OneNode {
    process: Option<Process>,
    arguments: Vec<String>,
    edge: SocketAddr,
    link: SocketAddr,
    admin: SocketAddr,
}

/// Three nodes as processes.
struct Cluster {
    folder: TempDir,
    nodes: Vec<OneNode>,
}

impl Cluster {
    async fn start() -> Self {
        let folder = ok(tempfile::tempdir());
        let mut nodes: Vec<OneNode> = Vec::new();
        let mut join: Option<String> = None;
        for name in ["n1", "n2", "n3"] {
            let arguments = |edge: &str, link: &str, admin: &str, peer: &str| -> Vec<String> {
                let binds =
                    ["--edge-bind", edge, "--link-bind", link, "--admin-bind", admin, "--peer-bind", peer];
                let words = ["node", "--node-id", name, "--grace-period", "20s"].into_iter().chain(binds);
                words.chain(join.iter().flat_map(|join| ["--join", join])).map(str::to_owned).collect()
            };
            let process = start(folder.path(), &arguments(ANY, ANY, ANY, ANY));
            let (edge, link, admin) =
                (process.address("edge"), process.address("link"), process.address("admin"));
            let peer = process.address("peer").to_string();
            let arguments = arguments(&edge.to_string(), &link.to_string(), &admin.to_string(), &peer);
            join.get_or_insert(peer);
            nodes.push(OneNode { process: Some(process), arguments, edge, link, admin });
        }
        let cluster = Self { folder, nodes };
        for number in 0..3 {
            cluster.sees(number, 2).await;
        }
        cluster
    }

    async fn sees(&self, number: usize, others: u64) {
        eventually(&format!("n{} is linked to {others} others", number + 1), async || {
            self.metric(number, "adit_peers").await == others
        })
        .await;
    }

    async fn metric(&self, number: usize, name: &str) -> u64 {
        metric(self.nodes[number].admin, name).await
    }

    /// An agent of the endpoint `web`, as many links as it likes to have.
    fn agent(&self, service: &Running, number: usize) -> Process {
        self.agent_of("web", service, number, &[])
    }

    /// The same with a link to that node alone.
    fn agent_at(&self, endpoint: &str, service: &Running, number: usize) -> Process {
        self.agent_of(endpoint, service, number, &["--links", "1"])
    }

    fn agent_of(&self, endpoint: &str, service: &Running, number: usize, options: &[&str]) -> Process {
        let (service, link) = (service.address.to_string(), self.nodes[number].link.to_string());
        let words = ["agent", "http", endpoint, &service, "--connect", &link];
        let words: Vec<_> = words.iter().chain(options).copied().collect();
        let agent = Process::start(self.folder.path(), &words);
        agent.line_with(&format!("serving {endpoint}"));
        agent
    }

    async fn status(&self, number: usize) -> serde_json::Value {
        let status = get(self.nodes[number].admin, "", "/api/v1/status").await;
        ok(serde_json::from_slice(&status.body))
    }

    /// Waits until an endpoint has so many agents in the view of a node, over so many links of the whole cluster.
    async fn agents(&self, number: usize, agents: u64) {
        eventually(&format!("n{} knows of {agents} agents", number + 1), async || {
            self.status(number).await["endpoints"][0]["agents"].as_u64().unwrap_or(0) == agents
        })
        .await;
    }

    /// How many agents are linked to a node.
    async fn links(&self, number: usize) -> usize {
        self.status(number).await["links"].as_array().map_or(0, Vec::len)
    }

    /// Waits until an agent has links to two of the nodes, and says which.
    async fn linked(&self) -> Vec<usize> {
        let mut found = Vec::new();
        eventually("the agent is linked to two nodes", async || {
            found.clear();
            for number in 0..3 {
                if self.links(number).await > 0 {
                    found.push(number);
                }
            }
            found.len() == 2
        })
        .await;
        found
    }

    /// The nodes that an agent is linked to, and the one that reaches it through them.
    async fn linked_and_not(&self) -> (Vec<usize>, usize) {
        let linked = self.linked().await;
        let entry = (0..3).find(|number| !linked.contains(number)).expect("the agent has two links");
        self.agents(entry, 1).await;
        (linked, entry)
    }

    fn signal(&self, number: usize, signal: &str) {
        self.nodes[number].process.as_ref().expect("it runs").signal(signal);
    }

    async fn restart(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.process = None;
        let arguments: Vec<&str> = node.arguments.iter().map(String::as_str).collect();
        let (process, _) = restarted(self.folder.path(), &arguments, "edge").await;
        node.process = Some(process);
    }
}

fn start(folder: &Path, arguments: &[String]) -> Process {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Process::start(folder, &arguments)
}

/// A service that counts how often it gets each request.
#[derive(Clone, Default)]
struct Deliveries {
    counts: Arc<Mutex<HashMap<String, usize>>>,
    /// How long an answer takes.
    takes: Duration,
}

impl Deliveries {
    async fn service(&self) -> Running {
        let seen = self.clone();
        service::http(move |request| {
            let seen = seen.clone();
            async move {
                let body =
                    request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                let id = String::from_utf8_lossy(&body).into_owned();
                *seen.counts.lock().expect("nobody panics with it").entry(id).or_default() += 1;
                tokio::time::sleep(seen.takes).await;
                Response::new(full("ok"))
            }
        })
        .await
    }

    fn twice(&self) -> Vec<String> {
        let seen = self.counts.lock().expect("nobody panics with it");
        seen.iter().filter(|(id, count)| !id.is_empty() && **count > 1).map(|(id, _)| id.clone()).collect()
    }
}

#[tokio::test]
async fn a_killed_node_costs_no_get() {
    let cluster = Cluster::start().await;
    let service = Deliveries::default().service().await;
    let _agent = cluster.agent(&service, 1);
    let (linked, entry) = cluster.linked_and_not().await;
    let load = Load::start(cluster.nodes[entry].edge, &["GET"]);
    load.goes_on().await;
    cluster.signal(linked[0], "KILL");
    load.goes_on().await;
    cluster.sees(entry, 1).await;
    load.goes_on().await;
    let (answered, slowest) = load.end().await;
    assert!(slowest < Duration::from_secs(8), "{answered} answered, the slowest after {slowest:?}");
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "figures for whoever runs this with --nocapture")]
async fn a_killed_node_is_passed_over_within_seconds_and_gone_within_ten_for_good() {
    let cluster = Cluster::start().await;
    let service = Deliveries::default().service().await;
    let survivors = [0, 1];
    // One endpoint is served through the third node alone, one through another as well.
    let _agents = [
        cluster.agent_at("lost", &service, 2),
        cluster.agent_at("web", &service, 2),
        cluster.agent_at("web", &service, 1),
    ];
    for number in survivors {
        eventually("the routes have come", async || {
            let endpoints = cluster.status(number).await["endpoints"].clone();
            endpoints[0]["endpoint"] == "lost" && endpoints[1]["agents"] == 2
        })
        .await;
        assert_eq!(cluster.metric(number, "adit_members").await, 2);
    }
    cluster.signal(2, "KILL");
    let killed = Instant::now();
    for number in survivors {
        eventually("it is passed over", async || {
            let peers = cluster.status(number).await["peers"].clone();
            let third = peers.as_array().into_iter().flatten().find(|peer| peer["node"] == "n3");
            third.is_none_or(|third| third["suspect"] == true)
        })
        .await;
    }
    let passed_over = killed.elapsed();
    let is_gone = async |number| {
        let status = cluster.status(number).await;
        let (peers, endpoints) = (&status["peers"], &status["endpoints"]);
        let one = |list: &serde_json::Value| list.as_array().is_some_and(|list| list.len() == 1);
        one(peers)
            && one(endpoints)
            && endpoints[0]["endpoint"] == "web"
            && endpoints[0]["agents"] == 1
            && cluster.metric(number, "adit_members").await == 1
            && cluster.metric(number, "adit_peers").await == 1
    };
    for number in survivors {
        eventually("it is gone", async || is_gone(number).await).await;
    }
    let gone = killed.elapsed();
    println!("passed over after {passed_over:?}, gone after {gone:?}");
    // It is less than two, which the tests of the pulse hold it to; here the machine may have other things to do.
    assert!(passed_over < Duration::from_secs(4), "{passed_over:?}");
    assert!(gone < Duration::from_secs(10), "{gone:?}");
    // This span is the scenario: those that are down are called every five seconds, and nothing brings the dead back.
    let end = Instant::now() + Duration::from_secs(12);
    while Instant::now() < end {
        for number in survivors {
            assert!(is_gone(number).await, "n{} has seen it again", number + 1);
            assert_eq!(get(cluster.nodes[number].edge, "web", "/").await.status, StatusCode::OK);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_node_that_hangs_is_passed_over_and_used_again() {
    let cluster = Cluster::start().await;
    let service = Deliveries::default().service().await;
    let _agent = cluster.agent(&service, 1);
    let (linked, entry) = cluster.linked_and_not().await;
    let load = Load::start(cluster.nodes[entry].edge, &["GET"]);
    load.goes_on().await;
    cluster.signal(linked[0], "STOP");
    load.goes_on().await;
    load.goes_on().await;
    cluster.signal(linked[0], "CONT");
    cluster.sees(entry, 2).await;
    load.goes_on().await;
    let (answered, slowest) = load.end().await;
    assert!(slowest < Duration::from_secs(8), "{answered} answered, the slowest after {slowest:?}");
    cluster.sees(linked[0], 2).await;
}

#[tokio::test]
async fn nodes_that_restart_one_after_the_other_cost_no_request_and_deliver_no_post_twice() {
    let mut cluster = Cluster::start().await;
    let deliveries = Deliveries::default();
    let service = deliveries.service().await;
    let _agent = cluster.agent(&service, 1);
    cluster.linked().await;
    for number in 0..3 {
        cluster.agents(number, 1).await;
    }
    for leaving in 0..3 {
        let load = Load::start(cluster.nodes[(leaving + 1) % 3].edge, &["GET", "POST"]);
        load.goes_on().await;
        cluster.signal(leaving, "TERM");
        let status = cluster.nodes[leaving].process.as_mut().expect("it runs").wait_in_time().await;
        assert_eq!(status, Some(0), "n{} has left cleanly", leaving + 1);
        load.goes_on().await;
        cluster.restart(leaving).await;
        for number in 0..3 {
            cluster.sees(number, 2).await;
        }
        cluster.linked().await;
        load.goes_on().await;
        load.end().await;
    }
    assert_eq!(deliveries.twice(), Vec::<String>::new());
}

#[tokio::test]
async fn an_agent_that_is_killed_beside_another_costs_no_get_and_is_forgotten() {
    let cluster = Cluster::start().await;
    let service = Deliveries::default().service().await;
    let killed = cluster.agent(&service, 1);
    let _stays = cluster.agent(&service, 2);
    for number in 0..3 {
        cluster.agents(number, 2).await;
    }
    let load = Load::start(cluster.nodes[0].edge, &["GET"]);
    load.goes_on().await;
    killed.signal("KILL");
    load.goes_on().await;
    let (_, slowest) = load.end().await;
    assert!(slowest < Duration::from_secs(8), "the slowest took {slowest:?}");
    let forgotten = tokio::time::timeout(Duration::from_secs(40), async {
        loop {
            if cluster.status(0).await["endpoints"][0]["agents"] == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    assert!(forgotten.await.is_ok(), "a dead agent is forgotten within the idle time-out");
}

#[tokio::test]
async fn requests_wait_for_the_only_agent_while_it_restarts() {
    let cluster = Cluster::start().await;
    let deliveries = Deliveries::default();
    let service = deliveries.service().await;
    let mut agent = cluster.agent_at("web", &service, 1);
    for number in 0..3 {
        cluster.agents(number, 1).await;
    }
    let load = Load::start(cluster.nodes[0].edge, &["GET", "POST"]);
    load.goes_on().await;
    for number in [2, 1] {
        agent.signal("TERM");
        assert_eq!(agent.wait_in_time().await, Some(0));
        agent = cluster.agent_at("web", &service, number);
        load.goes_on().await;
    }
    load.end().await;
    assert_eq!(deliveries.twice(), Vec::<String>::new());
}

#[tokio::test]
async fn an_agent_that_leaves_beside_another_costs_no_request() {
    let cluster = Cluster::start().await;
    // Long enough that there are always some under way.
    let deliveries = Deliveries { takes: Duration::from_millis(20), ..Deliveries::default() };
    let service = deliveries.service().await;
    // Clients enter at the one node that no agent is linked to.
    let mut agents = [1, 2].map(|number| cluster.agent_at("web", &service, number));
    cluster.agents(0, 2).await;
    let load = Load::start(cluster.nodes[0].edge, &["GET", "POST"]);
    load.goes_on().await;
    for (number, leaving) in (1..).zip(&mut agents) {
        leaving.signal("TERM");
        assert_eq!(leaving.wait_in_time().await, Some(0), "it had nothing to wait for in vain");
        load.goes_on().await;
        *leaving = cluster.agent_at("web", &service, number);
        cluster.agents(0, 2).await;
        load.goes_on().await;
    }
    load.end().await;
    assert_eq!(deliveries.twice(), Vec::<String>::new());
}
