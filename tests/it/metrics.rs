//! What a node counts, as a scrape sees it. `tests/interop/metrics.py` reads the same by a parser that is not adit's.

use std::{collections::BTreeMap, fs, path::Path};

use adit::protocol::Kind;

use crate::support::{
    Fabric,
    client::{get, metric},
    eventually, ok, service,
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
    let docs = ok(fs::read_to_string(root.join("docs/metrics.md")));
    // | `name` | kind | labels | meaning |
    let documented: BTreeMap<String, String> = docs
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter_map(|(name, rest)| Some((name.to_owned(), rest.split_once(" | ")?.0.to_owned())))
        .collect();
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
    let service = service::mirror().await;
    let agent = fabric.agent("web", Kind::Http, service.address).await;
    let forwarder = fabric.forwarder("web").await;
    let links = |role: &str| format!("adit_links{{role=\"{role}\",transport=\"quic\"}}");
    let counted = async |name: &str, role: &str| {
        let labels = format!("role=\"{role}\",transport=\"quic\",direction=\"received\"");
        metric(admin, &format!("adit_link_{name}_total{{{labels}}}")).await
    };
    assert_eq!(metric(admin, &links("agent")).await, 1);
    eventually("the forwarder is counted", async || metric(admin, &links("forwarder")).await == 1).await;
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
