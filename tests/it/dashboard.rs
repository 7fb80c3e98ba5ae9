//! The dashboard: its files, and the events that it shows. tests/browser/dashboard.py looks at it in a browser.

use std::time::Duration;

use adit::{
    client::{self, Token},
    node,
    protocol::{Ask, Code, Flow, Kind, Refusal, Secret},
    transport,
};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    admin::differences,
    support::{
        Fabric, SOON,
        client::{Answer, get},
        cluster::Nodes,
        eventually, ok,
        peer::RawPeer,
        service, soon,
        tokens::{Issuer, in_seconds},
        viewer::Viewer,
    },
};

const EVENTS: &str = "/api/v1/events";

/// What of a text stands between two others, everywhere.
fn between<'a>(text: &'a str, before: &'a str, after: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).filter_map(move |rest| Some(rest.split_once(after)?.0))
}

#[tokio::test]
async fn the_page_is_whole_loads_nothing_from_elsewhere_and_is_open_to_all() {
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| config.auth.admin = issuer.port()).await;
    let admin = fabric.addresses.admin;
    let root = get(admin, "", "/").await;
    assert_eq!((root.status, &root.headers["location"]), (StatusCode::FOUND, &"dashboard".parse().unwrap()));
    let page = get(admin, "", "/dashboard").await;
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    let (mut files, mut seen) = (vec!["/dashboard".to_owned()], Vec::new());
    while let Some(path) = files.pop() {
        let file = get(admin, "", &path).await;
        assert_eq!(file.status, StatusCode::OK, "{path}");
        let policy = file.headers["content-security-policy"].to_str().unwrap();
        for part in
            ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"]
        {
            assert!(policy.split("; ").any(|one| one == part), "{part}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-cache"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(file.headers[name], value, "{path}");
        }
        // What is named as a namespace is fetched by nobody.
        let text = file.text().replace("http://www.w3.org/2000/svg", "");
        for elsewhere in ["http:", "https:", "src=\"//", "@import", "innerHTML", "style="] {
            assert!(!text.contains(elsewhere), "{path} has {elsewhere}");
        }
        let named = between(&text, "href=\"dashboard/", "\"").chain(between(&text, "src=\"dashboard/", "\""));
        for name in named.chain(between(&text, "from './", "'")) {
            let path = format!("/dashboard/{name}");
            if !seen.contains(&path) {
                seen.push(path.clone());
                files.push(path);
            }
        }
    }
    assert!(seen.len() >= 8, "{seen:?}");
    for (path, status, code) in
        [("/dashboard/nothing.js", 404, "unknown_file"), (EVENTS, 401, "missing_token")]
    {
        let refused = get(admin, "", path).await;
        assert_eq!(code_of(&refused), (status, code.to_owned()), "{path}");
    }
}

fn code_of(answer: &Answer) -> (u16, String) {
    let json: Value = ok(serde_json::from_slice(&answer.body));
    (answer.status.as_u16(), json["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn events_are_as_the_description_says_and_tell_everything_once_and_then_what_changes() {
    let document: Value = ok(serde_json::from_str(include_str!("../../docs/openapi.json")));
    let schema = &document["components"]["schemas"]["Changes"];
    let nodes = Nodes::start(2).await;
    let [n1, n2] = &nodes.all[..] else { panic!("there are two") };
    let service = service::mirror().await;
    let config = client::Config { links: 1, name: Some("laptop".into()), ..n2.client() };
    let agent = n2.start_agent(config, &[("web", Kind::Http, service.address.to_string())]);
    ok(soon(agent.serve()).await);
    nodes.knows(0, "web").await;
    let mut viewer = Viewer::at(n1.addresses.admin).await;
    let (name, first) = viewer.next().await.expect("there is one");
    assert_eq!((name.as_str(), &first["full"], &first["node"]), ("changes", &true.into(), &"n1".into()));
    assert_eq!(differences(&document, schema, &first, "first"), [""; 0]);
    assert_eq!((viewer.keys("nodes"), viewer.keys("endpoints")), (vec!["n1", "n2"], vec!["default/web"]));
    assert_eq!(viewer.row("nodes", "n1")["this"], true);
    viewer
        .until("what both count", |viewer| {
            viewer.row("nodes", "n2")["rates"].is_object() && viewer.row("links", "n1 n2")["loss"].is_number()
        })
        .await;
    assert_eq!(differences(&document, schema, &viewer.last, "later"), [""; 0]);
    assert_eq!(
        (&viewer.last["full"], &viewer.last["endpoints"]),
        (&false.into(), &json!([])),
        "it is as it was"
    );
    let key = format!("default/{}", agent.client().id());
    let told = viewer.row("agents", &key);
    assert_eq!((&told["nodes"], &told["endpoints"]), (&json!(["n2"]), &json!(["web"])));
    ok(soon(agent.drain(SOON)).await);
    viewer.until("the agent is gone", |viewer| viewer.keys("agents").is_empty()).await;
    assert_eq!(viewer.last["gone"]["agents"], json!([key]));
    viewer.until("so is its endpoint", |viewer| viewer.keys("endpoints").is_empty()).await;
}

#[tokio::test]
async fn requests_at_one_node_are_told_by_another() {
    let nodes = Nodes::start(2).await;
    let service = service::mirror().await;
    let _agent = nodes.all[1].agent("web", Kind::Http, service.address).await;
    let mut viewer = Viewer::at(nodes.all[0].addresses.admin).await;
    let rate = |viewer: &Viewer, node: &str, what: &str| {
        viewer.row("nodes", node)["rates"][what].as_f64().unwrap_or(0.0)
    };
    viewer.until("n2 is measured", |viewer| viewer.row("nodes", "n2")["rates"].is_object()).await;
    assert_eq!(viewer.row("nodes", "n2")["rates"]["p99_ms"], Value::Null, "nobody has asked for anything");
    for _ in 0..20 {
        assert_eq!(get(nodes.edge(1), "web", "/").await.status, StatusCode::OK);
    }
    assert_eq!(get(nodes.edge(1), "nobody", "/").await.status, StatusCode::BAD_GATEWAY);
    let (mut requests, mut errors) = (0.0_f64, 0.0_f64);
    viewer
        .until("they are told", |viewer| {
            requests = requests.max(rate(viewer, "n2", "requests_s"));
            errors = errors.max(rate(viewer, "n2", "errors_s"));
            errors > 0.0
        })
        .await;
    assert!(requests > errors && rate(&viewer, "n2", "p99_ms") > 0.0, "{:?}", viewer.row("nodes", "n2"));
    assert_eq!(rate(&viewer, "n1", "requests_s"), 0.0);
    assert!(viewer.last["rates"]["p99_ms"].is_number(), "the cluster's: {}", viewer.last["rates"]);
}

#[tokio::test]
async fn a_node_that_drains_and_one_that_tells_nothing_are_told_of_as_that() {
    // Long enough to be seen: the node has nothing else to wait for.
    let mut nodes = Nodes::with(2, |config| config.drain_delay = Duration::from_secs(3)).await;
    let leaving = nodes.all.pop().expect("there are two");
    let admin = nodes.all[0].addresses.admin;
    let old = RawPeer::welcomed(&nodes.all[0], "n9").await;
    let mut viewer = Viewer::at(admin).await;
    let refuse = async {
        let stream = ok(soon(old.link.accept()).await);
        transport::refuse(stream, Refusal::new(Code::Unsupported, "frame 0x22 is not known here")).await;
    };
    let is_silent = viewer.until("n9 tells nothing", |viewer| {
        viewer.row("nodes", "n9")["silent"]
            .as_str()
            .is_some_and(|why| why.contains("n9") && why.contains("version"))
    });
    tokio::join!(refuse, is_silent);
    assert_eq!(viewer.row("nodes", "n2")["phase"], "ready");
    let drain = async { ok(leaving.node.expect("it runs").drain().await) };
    let mut phases = Vec::new();
    let seen = viewer.until("n2 is gone", |viewer| {
        phases.push(viewer.row("nodes", "n2")["phase"].clone());
        phases.last() == Some(&Value::Null)
    });
    tokio::join!(drain, seen);
    assert!(phases.contains(&"draining".into()), "{phases:?}");
}

#[tokio::test]
async fn operators_are_told_of_their_tenants_alone() {
    let issuer = Issuer::new();
    let port = issuer.port();
    let auth = node::Auth { edge: port.clone(), link: port.clone(), admin: port };
    let fabric = Fabric::with(|config| config.auth = auth).await;
    let service = service::mirror().await;
    let mut agents = Vec::new();
    for tenant in ["a", "b"] {
        let token = issuer.token(&json!({ "adit": { "tenant": tenant } }));
        let token = Some(Token::fixed(Secret::new(token)));
        let config = client::Config { token, ..fabric.client() };
        let agent = fabric.start_agent(config, &[(tenant, Kind::Http, service.address.to_string())]);
        ok(soon(agent.serve()).await);
        agents.push(agent);
    }
    let viewer = async |tenant: &str| {
        let token = issuer.token(&json!({ "adit": { "tenant": tenant, "actions": ["admin"] } }));
        let mut viewer =
            Viewer::with(fabric.addresses.admin, EVENTS, Some(&token)).await.expect("it may look");
        viewer.next().await;
        viewer
    };
    let (mut of_a, mut of_all) = (viewer("a").await, viewer("*").await);
    assert_eq!((of_a.keys("endpoints"), of_a.keys("agents").len()), (vec!["a/a"], 1));
    assert_eq!((of_all.keys("endpoints"), of_all.keys("agents").len()), (vec!["a/a", "b/b"], 2));
    assert_eq!(of_a.keys("nodes"), ["n1"]);
    ok(soon(agents.pop().expect("there are two").drain(SOON)).await);
    of_all.until("the agent of b is gone", |viewer| viewer.keys("endpoints") == ["a/a"]).await;
    // What the other was told at the same time, and since.
    while of_a.last["version"].as_u64() < of_all.last["version"].as_u64() {
        of_a.next().await;
        let (name, gone) = (of_a.last.to_string(), &of_a.last["gone"]);
        assert_eq!((&gone["agents"], &gone["endpoints"]), (&json!([]), &json!([])), "{name}");
        assert!(!name.contains("\"tenant\":\"b\"") && !name.contains("\"b/"), "{name}");
    }
}

#[tokio::test]
async fn only_so_many_look_at_once() {
    let fabric = Fabric::start().await;
    let admin = fabric.addresses.admin;
    let mut viewers = Vec::new();
    for _ in 0..32 {
        viewers.push(Viewer::at(admin).await);
    }
    let refused = Viewer::with(admin, EVENTS, None).await.expect_err("there is no place");
    assert_eq!(code_of(&refused), (503, "too_many_viewers".into()));
    for viewer in &mut viewers {
        assert_eq!(viewer.next().await.map(|(name, _)| name).as_deref(), Some("changes"));
    }
    drop(viewers.pop());
    eventually("there is a place again", async || Viewer::with(admin, EVENTS, None).await.is_ok()).await;
}

#[tokio::test]
async fn a_viewer_that_does_not_read_holds_up_neither_others_nor_the_node() {
    let fabric = Fabric::start().await;
    let admin = fabric.addresses.admin;
    let mut silent = ok(TcpStream::connect(admin).await);
    ok(silent.write_all(format!("GET {EVENTS} HTTP/1.1\r\nhost: {admin}\r\n\r\n").as_bytes()).await);
    let mut viewer = Viewer::at(admin).await;
    for _ in 0..3 {
        assert_eq!(soon(viewer.next()).await.map(|(name, _)| name).as_deref(), Some("changes"));
    }
    let drain = soon(fabric.node.expect("it runs").drain());
    let end = async {
        loop {
            let (name, data) = viewer.next().await.expect("there is a last word");
            if name == "end" {
                return data;
            }
        }
    };
    let (drained, end) = tokio::join!(drain, end);
    ok(drained);
    assert_eq!(end["code"], "leaving");
    assert!(viewer.next().await.is_none());
}

#[tokio::test]
async fn a_stream_ends_with_the_token_that_it_was_opened_with() {
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| config.auth.admin = issuer.port()).await;
    let claims = json!({ "exp": in_seconds(2.0), "adit": { "tenant": "*", "actions": ["admin"] } });
    let token = issuer.token(&claims);
    let mut viewer = Viewer::with(fabric.addresses.admin, EVENTS, Some(&token)).await.expect("it is good");
    let mut last = String::new();
    soon(async {
        while let Some((name, data)) = viewer.next().await {
            last = format!("{name} {}", data["code"]);
        }
    })
    .await;
    assert_eq!(last, "end \"expired_token\"");
    let refused =
        Viewer::with(fabric.addresses.admin, EVENTS, Some(&token)).await.expect_err("it has expired");
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn events_are_of_the_node_that_is_asked_and_have_no_place_between_nodes() {
    let node = Nodes::one().await;
    let refused = Viewer::with(node.addresses.admin, "/api/v1/events?node=n2", None).await;
    assert_eq!(code_of(&refused.expect_err("it is another")), (400, "not_of_another".into()));
    ok(Viewer::with(node.addresses.admin, "/api/v1/events?node=n1", None)
        .await
        .map_err(|answer| answer.status));
    let peer = RawPeer::welcomed(&node, "n2").await;
    let mut stream = ok(peer.link.open(SOON).await);
    let ask = Ask { path: EVENTS.into(), act: false, body: Bytes::new(), tenants: None };
    ok(transport::write_flow(&mut stream, &Flow::Ask(ask)).await);
    assert_eq!(ok(soon(transport::read_flow(&mut stream.recv)).await), Flow::Answer(404));
}

#[tokio::test]
async fn nothing_is_asked_of_other_nodes_while_nobody_looks() {
    let node = Nodes::one().await;
    let peer = RawPeer::welcomed(&node, "n2").await;
    let mut viewer = Viewer::at(node.addresses.admin).await;
    let asked = async |wait| tokio::time::timeout(wait, peer.link.accept()).await.map(ok);
    let (stream, _) = tokio::join!(asked(SOON), viewer.next());
    drop(ok(stream));
    drop(viewer);
    // The node has a question under way at most, and notices within a look or two that nobody looks.
    soon(async { while asked(Duration::from_secs(3)).await.is_ok() {} }).await;
}
