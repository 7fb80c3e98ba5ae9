//! What a node counts, as a scrape sees it. `tests/interop/metrics.py` reads the same by a parser that is not adit's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use adit::{edge::udp, protocol::Kind, telemetry::Queue};
use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
};

use crate::support::{
    Fabric,
    body::{channel, next},
    client::{Http1, flow_to_echo, get, metric, request},
    cluster::Nodes,
    eventually, ok, random, service, soon,
    udp::{Client, Echo},
};

/// The kind of each metric of a scrape, by its name.
pub(crate) fn kinds(scrape: &str) -> BTreeMap<String, String> {
    let types = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut kinds = BTreeMap::new();
    for (name, kind) in types {
        // A counter's samples are named with `_total`, and that is what is looked for.
        let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        assert!(kinds.insert(name.clone(), kind.to_owned()).is_none(), "{name} is there twice");
    }
    kinds
}

/// All of the program's source.
fn source(folder: &Path, all: &mut String) {
    for entry in ok(fs::read_dir(folder)).map(|entry| ok(entry).path()) {
        if entry.is_dir() {
            source(&entry, all);
        } else {
            all.push_str(&ok(fs::read_to_string(entry)));
        }
    }
}

/// What tables have in their first column, and all behind that.
fn rows(docs: &str) -> impl Iterator<Item = (&str, &str)> {
    docs.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
}

/// The kind of each metric that docs/metrics.md has, by its name.
pub(crate) fn documented(root: &Path) -> BTreeMap<String, String> {
    let docs = ok(fs::read_to_string(root.join("docs/metrics.md")));
    // | `name` | kind | labels | meaning |
    rows(&docs)
        .filter(|(name, _)| name.starts_with("adit_") || name.starts_with("process_"))
        .filter_map(|(name, rest)| Some((name.to_owned(), rest.split_once(" | ")?.0.to_owned())))
        .collect()
}

/// Those that do not exist would never alert anybody.
#[test]
fn the_rules_and_the_dashboard_ask_for_metrics_of_the_docs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documented = documented(root);
    for file in ["deploy/prometheus/adit.rules.yml", "deploy/grafana/adit.json"] {
        let text = ok(fs::read_to_string(root.join(file)));
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: BTreeSet<_> =
            words.filter(|word| word.starts_with("adit_") || word.starts_with("process_")).collect();
        assert!(names.len() > 10, "{file}: {names:?}");
        for name in names {
            assert!(documented.contains_key(name.trim_end_matches("_bucket")), "{file} asks for {name}");
        }
    }
}

#[test]
fn every_queue_that_drops_or_refuses_is_in_the_docs() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let docs = ok(fs::read_to_string(docs));
    let (_, docs) = docs.split_once("\n## Queues\n").expect("there is a part on queues");
    let (docs, _) = docs.split_once("\n## ").expect("there is another behind it");
    let names: Vec<_> = rows(docs).map(|(name, _)| name).filter(|name| *name != "queue").collect();
    assert_eq!(names, Queue::ALL.map(Queue::name));
}

/// A scrape has a metric with labels only once it has counted something, so that each is also looked for in the source.
#[tokio::test]
async fn the_metrics_of_a_node_are_those_of_the_docs() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    for endpoint in ["web", "nobody"] {
        get(fabric.addresses.edge, endpoint, "/").await;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documented = documented(root);
    let scrape = get(fabric.addresses.admin, "", "/metrics").await;
    let kinds = kinds(scrape.text());
    assert!(kinds.len() > 20, "{}", scrape.text());
    for (name, kind) in &kinds {
        assert_eq!(documented.get(name), Some(kind), "{name} in docs/metrics.md");
    }
    let mut text = String::new();
    source(&root.join("src"), &mut text);
    for name in documented.keys().filter(|name| !kinds.contains_key(*name)) {
        let registered = name.trim_start_matches("adit_").trim_end_matches("_total");
        assert!(text.contains(&format!("\"{registered}\"")), "{name} is documented, and nowhere registered");
    }
    let mut helps = scrape.text().lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    assert!(helps.all(|(_, help)| help.len() > 5), "{}", scrape.text());
}

#[tokio::test]
async fn links_are_counted_by_role_while_they_stand_and_what_they_carried_after_they_have_ended() {
    let fabric = Fabric::start().await;
    let admin = fabric.addresses.admin;
    let service = service::echo().await;
    let agent = fabric.agent("echo", Kind::Tcp, service.address).await;
    // It links when it is first needed.
    let (forwarder, port) = fabric.forwarder("echo").await;
    let _flow = flow_to_echo(port).await;
    let links = |role: &str| format!("adit_links{{role=\"{role}\",transport=\"quic\"}}");
    let counted = async |name: &str, role: &str| {
        let labels = format!("role=\"{role}\",transport=\"quic\",direction=\"received\"");
        metric(admin, &format!("adit_link_{name}_total{{{labels}}}")).await
    };
    assert_eq!(metric(admin, &links("agent")).await, 1);
    assert_eq!(metric(admin, &links("forwarder")).await, 1);
    let scrape = get(admin, "", "/metrics").await;
    for name in ["adit_link_rtt_seconds{", "adit_link_congestion_window_bytes{"] {
        let value = scrape.text().lines().find_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        let value: f64 = ok(value.expect("it is there").1.parse());
        assert!(value > 0.0, "{name}: {value}");
    }
    let before = counted("bytes", "agent").await;
    assert!(before > 0 && counted("packets", "agent").await > 0);
    drop(agent);
    eventually("the agent is counted no more", async || metric(admin, &links("agent")).await == 0).await;
    assert!(counted("bytes", "agent").await >= before, "what an ended link has carried is forgotten");
    drop(forwarder);
}

#[tokio::test]
async fn a_process_tells_what_it_uses() {
    let fabric = Fabric::start().await;
    let scrape = get(fabric.addresses.admin, "", "/metrics").await;
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
        "adit_runtime_tasks",
    ] {
        let value = scrape.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value: f64 = ok(value.unwrap_or_else(|| panic!("{name} in\n{}", scrape.text())).parse());
        assert!(value > 0.0, "{name}: {value}");
    }
}

#[tokio::test]
async fn what_is_open_is_counted_by_kind() {
    let fabric = Fabric::start().await;
    let admin = fabric.addresses.admin;
    let echo = service::echo().await;
    let _agent = fabric.agent("echo", Kind::Tcp, echo.address).await;
    let (_forwarder, port) = fabric.forwarder("echo").await;
    let flow = flow_to_echo(port).await;
    let open = async |kind: &str| metric(admin, &format!("adit_flows_open{{kind=\"{kind}\"}}")).await;
    assert_eq!((open("tcp").await, open("request").await), (1, 0));
    assert_eq!(metric(admin, "adit_flows_opened_total{kind=\"tcp\"}").await, 1);
    drop(flow);
    eventually("it is open no more", async || open("tcp").await == 0).await;
    assert_eq!(metric(admin, "adit_flows_opened_total{kind=\"tcp\"}").await, 1);
}

#[tokio::test]
async fn requests_are_counted_by_endpoint_for_as_many_as_was_asked_for() {
    let fabric = Fabric::with(|config| config.edge.metrics_endpoints = 1).await;
    let admin = fabric.addresses.admin;
    let service = service::mirror().await;
    let _agents = [
        fabric.agent("web", Kind::Http, service.address).await,
        fabric.agent("shop", Kind::Http, service.address).await,
    ];
    for (endpoint, times) in [("nobody", 1), ("web", 3), ("shop", 2)] {
        for _ in 0..times {
            get(fabric.addresses.edge, endpoint, "/").await;
        }
    }
    let scrape = get(admin, "", "/metrics").await;
    let mut series: Vec<_> =
        scrape.text().lines().filter(|line| line.starts_with("adit_endpoint_requests_total")).collect();
    series.sort_unstable();
    let counted = |tenant: &str, endpoint: &str, status: &str, count: u64| {
        format!(
            "adit_endpoint_requests_total{{tenant=\"{tenant}\",endpoint=\"{endpoint}\",status=\"{status}\"}} {count}"
        )
    };
    let expected =
        [counted("*", "*", "2xx", 2), counted("*", "*", "5xx", 1), counted("default", "web", "2xx", 3)];
    assert_eq!(series, expected);
}

#[tokio::test]
async fn nodes_are_counted_by_phase_and_what_they_tell_each_other_in_bytes() {
    let nodes = Nodes::start(2).await;
    let service = service::mirror().await;
    let _agent = nodes.all[1].agent("web", Kind::Http, service.address).await;
    let admin = nodes.all[0].addresses.admin;
    let ready = async || metric(admin, "adit_nodes{phase=\"ready\"}").await;
    eventually("both are ready", async || ready().await == 2).await;
    for (name, direction) in [("routes", "received"), ("membership", "received"), ("membership", "sent")] {
        let name = format!("adit_{name}_bytes_total{{direction=\"{direction}\"}}");
        eventually(&name, async || metric(admin, &name).await > 0).await;
    }
}

/// Bytes of clients of a kind, from them and to them.
async fn bytes(admin: SocketAddr, kind: &str) -> (u64, u64) {
    let name = |way| format!("adit_client_bytes_total{{kind=\"{kind}\",direction=\"{way}\"}}");
    (metric(admin, &name("received")).await, metric(admin, &name("sent")).await)
}

#[tokio::test]
async fn bytes_of_clients_are_counted_exactly_as_they_pass() {
    let packets = Echo::start().await;
    let fabric = Fabric::with(|config| {
        let listen = ([127, 0, 0, 1], 0).into();
        config.udp.ports = vec![udp::Port { listen, endpoint: ok("udp".parse()) }];
    })
    .await;
    let (edge, admin) = (fabric.addresses.edge, fabric.addresses.admin);
    let (web, echo) = (service::mirror().await, service::echo().await);
    let _agents = [
        fabric.agent("web", Kind::Http, web.address).await,
        fabric.agent("echo", Kind::Tcp, echo.address).await,
        fabric.agent("udp", Kind::Udp, packets.address).await,
    ];
    let (_forwarder, port) = fabric.forwarder("echo").await;

    let (mut client, mut answered) = (Http1::connect(edge).await, 0);
    for length in [0, 1, 70_000, 12_345] {
        let answer = client.ask(request("POST", "web", "/", random(length))).await;
        answered += answer.body.len() as u64;
    }
    // What the node answers itself goes to clients, too.
    answered += client.ask(request("GET", "nobody", "/", "")).await.body.len() as u64;
    assert_eq!(bytes(admin, "http").await, (82_346, answered));

    let mut flow = ok(TcpStream::connect(port).await);
    for length in [1, 100_000] {
        ok(flow.write_all(&random(length)).await);
        ok(soon(flow.read_exact(&mut vec![0; length])).await);
    }
    // It is open still; the last bytes are counted a moment after they have been written.
    let carried = async || bytes(admin, "tcp").await == (100_001, 100_001);
    eventually("all bytes of an open connection are counted", carried).await;
    drop(flow);

    let ports = fabric.node.as_ref().expect("it runs").udp_ports();
    let client = Client::of(ports[0].listen).await;
    for length in [0, 100, 20_000] {
        client.ask(&random(length)).await;
    }
    eventually("packets are counted", async || bytes(admin, "udp").await == (20_100, 20_100)).await;
    assert_eq!(bytes(admin, "tcp").await, (100_001, 100_001));
    assert_eq!(bytes(admin, "http").await, (82_346, answered));
}

#[tokio::test]
async fn a_download_moves_the_count_before_it_ends_and_is_counted_where_its_client_is() {
    let nodes = Nodes::start(2).await;
    let (sender, body) = channel();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let service = service::http(move |_| {
        let body = ok(body.lock()).take().expect("it is asked once");
        async move { Response::new(body) }
    })
    .await;
    let _agent = nodes.all[1].agent("web", Kind::Http, service.address).await;
    nodes.knows(0, "web").await;
    let mut client = Http1::connect(nodes.edge(0)).await;
    let mut download = ok(soon(client.send(request("GET", "web", "/", ""))).await).into_body();
    let here = nodes.all[0].addresses.admin;
    for round in 1..=3 {
        sender.data(random(5000)).await;
        let mut came = 0;
        while came < 5000 {
            came += ok(next(&mut download).await.expect("there is more")).len();
        }
        eventually("it is counted so far", async || bytes(here, "http").await == (0, round * 5000)).await;
    }
    assert_eq!(bytes(nodes.all[1].addresses.admin, "http").await, (0, 0), "the client is none of this node");
}

#[tokio::test]
async fn a_drain_is_counted_as_it_begins() {
    let mut fabric = Fabric::start().await;
    let (admin, edge) = (fabric.addresses.admin, fabric.addresses.edge);
    let go = Arc::new(Semaphore::new(0));
    let service = crate::drain::held(&go).await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let begun = async || metric(admin, "adit_drains_total{outcome=\"begun\"}").await;
    assert_eq!(begun().await, 0);
    let mut client = Http1::connect(edge).await;
    let asked = async { client.ask(request("GET", "web", "/", "")).await.text().to_owned() };
    let node = fabric.node.take().expect("it runs");
    let left = async {
        eventually("the request is at the service", async || service.accepted() > 0).await;
        node.drain().await
    };
    let seen = async {
        eventually("it drains", async || begun().await == 1).await;
        assert_eq!(metric(admin, "adit_events_total{what=\"draining\"}").await, 1);
        assert_eq!(metric(admin, "adit_drains_total{outcome=\"complete\"}").await, 0);
        go.add_permits(1);
    };
    let (answer, left, ()) = soon(async { tokio::join!(asked, left, seen) }).await;
    assert_eq!((answer.as_str(), left), ("done", Ok(())));
}

#[tokio::test]
async fn an_agent_that_comes_back_is_known_on_both_sides() {
    let fabric = Fabric::start().await;
    let admin = fabric.addresses.admin;
    let service = service::mirror().await;
    let agent = fabric.agent("web", Kind::Http, service.address).await;
    let _other = fabric.agent("shop", Kind::Http, service.address).await;
    let returned = async || metric(admin, "adit_links_returned_total{role=\"agent\"}").await;
    let reconnects = || {
        let scrape = agent.client().metrics().encode();
        let counts = scrape.lines().filter_map(|line| line.strip_prefix("adit_reconnects_total{"));
        counts.map(|line| ok(line.rsplit_once(' ').expect("it is a sample").1.parse::<u64>())).sum::<u64>()
    };
    assert_eq!((returned().await, reconnects()), (0, 0), "the first links are none");
    for times in 1..=2 {
        let path = format!("/api/v1/agents/{}/disconnect", agent.client().id());
        let parted = Http1::connect(admin).await.ask(request("POST", "", &path, "")).await;
        assert_eq!(parted.status, 202, "{}", parted.text());
        eventually("it is back", async || returned().await == times && reconnects() == times).await;
    }
}
