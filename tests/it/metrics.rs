//! What a node counts, as a scrape sees it. `tests/interop/metrics.py` reads the same by a parser that is not adit's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use adit::protocol::Kind;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Fabric,
    client::{get, metric},
    cluster::Nodes,
    eventually, ok, service, soon,
};

/// The kind of each metric of a scrape, by its name.
fn kinds(scrape: &str) -> BTreeMap<String, String> {
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

/// The kind of each metric that docs/metrics.md has, by its name.
fn documented(root: &Path) -> BTreeMap<String, String> {
    let docs = ok(fs::read_to_string(root.join("docs/metrics.md")));
    // | `name` | kind | labels | meaning |
    docs.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
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
    let mut flow = ok(TcpStream::connect(port).await);
    ok(flow.write_all(b"1").await);
    ok(soon(flow.read_exact(&mut [0])).await);
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
    let mut flow = ok(TcpStream::connect(port).await);
    ok(flow.write_all(b"1").await);
    ok(soon(flow.read_exact(&mut [0])).await);
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
