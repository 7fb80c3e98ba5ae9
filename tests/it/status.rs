//! `adit status`: every table, of the node that is asked and, through it, of any other.

use std::{net::SocketAddr, sync::Arc};

use adit::{
    agent::{self, Agent},
    client,
    forward::{self, PortKind},
    protocol::Kind,
};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Semaphore};

use crate::{
    cli::{adit, told},
    drain::held,
    support::{
        Fabric,
        client::{flow_to_echo, get},
        cluster::Nodes,
        eventually,
        fabric::forwarder_of,
        ok,
        process::Process,
        program::output,
        service::{self, Running},
        soon,
    },
};

/// What `adit status` prints, and its exit code.
async fn status(admin: SocketAddr, words: &[&str]) -> String {
    let folder = ok(tempfile::tempdir());
    let admin = admin.to_string();
    told(&output(adit(folder.path(), &[&["status"], words, &["--admin", &admin]].concat())).await)
}

async fn json(admin: SocketAddr, path: &str) -> Value {
    ok(serde_json::from_slice(&get(admin, "", path).await.body))
}

/// A text without what is another each time: addresses, times and ids. Columns are told apart by bars.
fn reviewed(text: &str) -> String {
    let word = |word: &str| {
        let bare = word.trim_end_matches(',');
        let is_time = bare.strip_suffix("ms").is_some_and(|number| number.parse::<f64>().is_ok())
            || (bare != "0" && humantime::parse_duration(bare).is_ok());
        let is_id = bare.len() == 8 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        let name = match bare {
            bare if bare.parse::<SocketAddr>().is_ok() => "ADDRESS",
            // Some ids would be times too, such as one of digits with a `d` behind them.
            _ if is_id => "ID",
            _ if is_time => "TIME",
            env!("CARGO_PKG_VERSION") => "VERSION",
            other => other,
        };
        word.replacen(bare, name, 1)
    };
    let cell = |cell: &str| cell.split(' ').map(word).collect::<Vec<_>>().join(" ");
    let line = |line: &str| {
        let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
        cells.map(cell).collect::<Vec<_>>().join(" | ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Two nodes. An agent of n1 serves a shop, which has one request that it has not answered, and a database, to which one
/// connection is open by a forwarder of n2.
struct Scene {
    nodes: Nodes,
    _agent: Agent,
    _forwarder: forward::Forwarder,
    _client: TcpStream,
    _flow: TcpStream,
    _services: [Running; 2],
}

impl Scene {
    async fn new() -> Self {
        let nodes = Nodes::start(2).await;
        let [n1, n2] = &nodes.all[..] else { panic!("there are two") };
        let one =
            |node: &Fabric, name: &str| client::Config { name: Some(name.into()), links: 1, ..node.client() };
        let (shop, database) = (held(&Arc::new(Semaphore::new(0))).await, service::echo().await);
        let mut endpoints = vec![
            n1.endpoint("shop", Kind::Http, shop.address),
            n1.endpoint("db", Kind::Tcp, database.address),
        ];
        endpoints[0].hosts = vec![ok("shop.example".parse())];
        let agent = ok(Agent::start(agent::Config::new(one(n1, "laptop"), endpoints)));
        ok(soon(agent.serve()).await);
        nodes.knows(1, "db").await;
        let (forwarder, port) = forwarder_of(one(n2, "desk"), "db", PortKind::Tcp).await;
        let flow = flow_to_echo(port).await;
        let mut client = ok(TcpStream::connect(n1.addresses.edge).await);
        ok(client.write_all(b"GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n").await);
        let (first, second) = (n1.addresses.admin, n2.addresses.admin);
        eventually("the request is under way, and known at both nodes", async || {
            json(second, "/api/v1/agents").await["agents"][0]["flows"] == 2
                && json(first, "/api/v1/flows").await["total"] == 2
                && json(second, "/api/v1/nodes").await["nodes"][0]["agent_links"] == 1
        })
        .await;
        let _services = [shop, database];
        Self { nodes, _agent: agent, _forwarder: forwarder, _client: client, _flow: flow, _services }
    }

    fn admin(&self, number: usize) -> SocketAddr {
        self.nodes.all[number].addresses.admin
    }
}

/// Every view, as it is asked for.
const VIEWS: [&[&str]; 7] =
    [&[], &["nodes"], &["endpoints"], &["agents"], &["links"], &["flows"], &["recent"]];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_is_as_reviewed_of_the_node_that_is_asked_and_of_another() {
    let scene = Scene::new().await;
    for (name, own, node) in [("n1", "n1", &[][..]), ("n2_by_n1", "n2", &["--node", "n2"])] {
        let mut all = String::new();
        let page: &[&str] = &["node", own];
        // A node is asked for its own page whoever passes the question on.
        for (view, node) in VIEWS.iter().map(|view| (*view, node)).chain([(page, &[][..])]) {
            let words = [view, node].concat();
            let text = status(scene.admin(0), &words).await;
            all += &format!("$ adit status {}\n{}\n\n", words.join(" "), reviewed(&text));
        }
        insta::assert_snapshot!(format!("status_of_{name}"), all.trim_end());
    }
}

#[tokio::test]
async fn any_node_answers_for_any_other_as_that_one_does() {
    let scene = Scene::new().await;
    for (asked, other, name) in [(0, 1, "n2"), (1, 0, "n1")] {
        for (table, key) in
            [("links", "id"), ("endpoints", "endpoint"), ("agents", "agent"), ("flows", "kind")]
        {
            let path = format!("/api/v1/{table}");
            let by_other = json(scene.admin(asked), &format!("{path}?node={name}")).await;
            let itself = json(scene.admin(other), &path).await;
            let keys = |answer: &Value| -> Vec<Value> {
                let rows = answer[table].as_array().unwrap_or_else(|| panic!("{table}: {answer}"));
                rows.iter().map(|row| row[key].clone()).collect()
            };
            assert_eq!(by_other["node"], name);
            assert_eq!((keys(&by_other), &by_other["total"]), (keys(&itself), &itself["total"]), "{path}");
            assert!(!keys(&itself).is_empty(), "{path}");
        }
        let page = json(scene.admin(asked), &format!("/api/v1/nodes/{name}")).await;
        assert_eq!((&page["node"], &page["phase"]), (&name.into(), &"ready".into()));
    }
    let nobody = status(scene.admin(0), &["links", "--node", "n9"]).await;
    assert!(
        nobody.contains("404") && nobody.contains("no node \"n9\"") && nobody.ends_with("exit code 1"),
        "{nobody}"
    );
    let own = status(scene.admin(0), &["links", "--node", "n1", "--json"]).await;
    assert!(own.starts_with("{\"node\":\"n1\""), "{own}");
}

#[tokio::test]
async fn a_flow_is_shown_until_it_ends_and_the_oldest_come_first() {
    let fabric = Fabric::start().await;
    let (echo, mirror) = (service::echo().await, service::mirror().await);
    let _agents = [
        fabric.agent("echo", Kind::Tcp, echo.address).await,
        fabric.agent("web", Kind::Http, mirror.address).await,
    ];
    let (_forwarder, port) = fabric.forwarder("echo").await;
    let admin = fabric.addresses.admin;
    let mut flows = Vec::new();
    for _ in 0..3 {
        let flow = flow_to_echo(port).await;
        flows.push(flow);
    }
    // What has been answered is no flow any more, though its connection to the service waits for the next.
    get(fabric.addresses.edge, "web", "/").await;
    let all = json(admin, "/api/v1/flows").await;
    assert_eq!((&all["total"], all["flows"].as_array().map(Vec::len)), (&3.into(), Some(3)), "{all}");
    let clients: Vec<_> = flows.iter().map(|flow| ok(flow.local_addr()).to_string()).collect();
    let shown: Vec<_> =
        all["flows"].as_array().into_iter().flatten().map(|flow| flow["client"].clone()).collect();
    assert_eq!(shown, clients);
    let first = json(admin, "/api/v1/flows?limit=1").await;
    assert_eq!((&first["total"], &first["flows"][0]["client"]), (&3.into(), &clients[0].clone().into()));
    assert_eq!(first["flows"].as_array().map(Vec::len), Some(1));
    let text = status(admin, &["flows", "--max", "1"]).await;
    assert!(text.contains("and 2 more that are younger"), "{text}");
    drop(flows);
    eventually("they have ended", async || json(admin, "/api/v1/flows").await["total"] == 0).await;
    let wrong = get(admin, "", "/api/v1/flows?limit=many").await;
    assert!(wrong.status == 400 && wrong.text().contains("invalid_limit"), "{}", wrong.text());
}

#[tokio::test]
async fn who_watches_is_shown_each_answer_and_that_there_is_none_until_ctrl_c() {
    let mut fabric = Fabric::start().await;
    let admin = fabric.addresses.admin.to_string();
    let folder = ok(tempfile::tempdir());
    let words = ["status", "links", "--admin", &admin, "--watch=100ms"];
    let mut tables = Process::start(folder.path(), &words);
    let mut documents = Process::start(folder.path(), &[&words[..], &["--json"]].concat());
    for _ in 0..2 {
        tables.printed("no links").await;
        documents.printed("{\"node\":\"n1\",\"links\":[]}").await;
    }
    fabric.kill();
    tables.printed("adit: no status from").await;
    let failed: Value = ok(serde_json::from_str(&documents.printed("no status from").await));
    assert!(failed["error"].as_str().is_some_and(|error| error.contains(&admin)), "{failed}");
    fabric.restart().await;
    tables.printed("no links").await;
    documents.printed("\"links\":[]").await;
    for process in [&mut tables, &mut documents] {
        process.signal("INT");
        assert_eq!(process.wait_in_time().await, Some(0));
    }
}

#[tokio::test]
async fn an_interval_that_nobody_could_read_along_with_is_refused() {
    let folder = ok(tempfile::tempdir());
    for wrong in ["--watch=0s", "--watch=often"] {
        let told = told(&output(adit(folder.path(), &["status", wrong])).await);
        assert!(told.contains("--watch") && told.ends_with("exit code 2"), "{told}");
    }
}
