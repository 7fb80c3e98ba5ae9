//! The operators' port: what it tells, to whom, and what it has a node do.

use std::net::SocketAddr;

use adit::{
    client::{self, Token},
    node,
    protocol::{Kind, Secret},
};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Fabric,
    client::{Answer, Http1, flow_to_echo, get, request},
    cluster::Nodes,
    eventually,
    load::Load,
    ok,
    process::Process,
    service, soon,
    tokens::Issuer,
};

#[tokio::test]
async fn health_readiness_and_metrics_are_told() {
    let fabric = Fabric::start().await;
    let admin = fabric.addresses.admin;
    for path in ["/health", "/ready"] {
        assert_eq!(get(admin, "", path).await.status, StatusCode::OK, "{path}");
    }
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    for path in ["/", "/", "/"] {
        assert_eq!(get(fabric.addresses.edge, "web", path).await.status, StatusCode::OK);
    }
    get(fabric.addresses.edge, "nobody", "/").await;
    let metrics = get(admin, "", "/metrics").await;
    for line in [
        "adit_requests_total{protocol=\"h1\",status=\"2xx\"} 3",
        "adit_requests_total{protocol=\"h1\",status=\"5xx\"} 1",
        "adit_links{role=\"agent\",transport=\"quic\"} 1",
        "adit_endpoints 1",
        "adit_flows_opened_total{kind=\"http\"} 1",
        "adit_flows_reused_total 2",
        "adit_retries_total 0",
        "# EOF",
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "{line} in\n{}", metrics.text());
    }
}

#[tokio::test]
async fn status_shows_links_and_endpoints() {
    let fabric = Fabric::start().await;
    let service = service::echo().await;
    let mut config = fabric.client();
    config.name = Some("laptop".into());
    let agent = fabric.start_agent(config, &[("echo", Kind::Tcp, service.address.to_string())]);
    ok(agent.serve().await);
    let status = get(fabric.addresses.admin, "", "/api/v1/status").await;
    let json: Value = ok(serde_json::from_slice(&status.body));
    assert_eq!((json["node"].as_str(), json["phase"].as_str()), (Some("n1"), Some("ready")));
    let link = &json["links"][0];
    assert_eq!((link["role"].as_str(), link["name"].as_str()), (Some("agent"), Some("laptop")));
    assert_eq!(link["agent"].as_str(), Some(agent.client().id().to_string().as_str()));
    assert_eq!((link["endpoints"].as_u64(), link["state"].as_str()), (Some(1), Some("up")));
    let endpoint = &json["endpoints"][0];
    assert_eq!((endpoint["endpoint"].as_str(), endpoint["kind"].as_str()), (Some("echo"), Some("tcp")));
    assert_eq!(endpoint["agents"].as_u64(), Some(1));
}

/// What is asked of an admin port, and the answer.
async fn ask(admin: SocketAddr, method: &str, path: &str, body: &str, fields: &[(&str, &str)]) -> Answer {
    let mut request = request(method, "", path, body.to_owned());
    for (name, value) in fields {
        request.headers_mut().insert(ok(HeaderName::try_from(*name)), ok(HeaderValue::try_from(*value)));
    }
    soon(Http1::connect(admin).await.ask(request)).await
}

async fn post(admin: SocketAddr, path: &str, body: &str) -> Answer {
    ask(admin, "POST", path, body, &[]).await
}

fn json(answer: &Answer) -> Value {
    ok(serde_json::from_slice(&answer.body))
}

/// The status and the code of a refusal, whose sentence must be one.
fn refusal(answer: &Answer) -> (u16, String) {
    let json = json(answer);
    let sentence = json["error"].as_str().unwrap_or_default();
    assert!(sentence.contains(' '), "no sentence: {json}");
    (answer.status.as_u16(), json["code"].as_str().unwrap_or_default().to_owned())
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// What differs between an answer and what docs/openapi.json says of it.
pub(crate) fn differences(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let path = name.strip_prefix('#').expect("it is in the document");
        return differences(document, document.pointer(path).expect("it is there"), value, at);
    }
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.clone(),
        kind => vec![kind.clone()],
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = |wanted: &Value| wanted == kind || (wanted == "number" && kind == "integer");
    if !kinds.iter().any(fits) {
        return vec![format!("{at} is {value}, and not {kinds:?}")];
    }
    if let (Some(known), Value::String(_)) = (schema["enum"].as_array(), value)
        && !known.contains(value)
    {
        return vec![format!("{at} is {value}, and none of {known:?}")];
    }
    match value {
        Value::Array(items) => {
            let each = items.iter().flat_map(|item| differences(document, &schema["items"], item, at));
            each.collect()
        }
        Value::Object(fields) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let missing = required.filter(|name| !fields.contains_key(*name));
            let mut all: Vec<_> = missing.map(|name| format!("{at} has no {name}")).collect();
            for (name, value) in fields {
                let at = format!("{at}.{name}");
                match (schema["properties"].get(name), schema.get("additionalProperties")) {
                    (Some(known), _) | (None, Some(known)) => {
                        all.extend(differences(document, known, value, &at));
                    }
                    (None, None) => all.push(format!("{at} is not described")),
                }
            }
            all
        }
        _ => Vec::new(),
    }
}

/// What the document has for an answer of this status.
fn described<'a>(document: &'a Value, method: &str, path: &str, status: u16) -> &'a Value {
    let answer = &document["paths"][path][method]["responses"][status.to_string()];
    let answer = match answer["$ref"].as_str() {
        Some(name) => document.pointer(&name[1..]).expect("it is there"),
        None => answer,
    };
    assert!(!answer.is_null(), "{method} {path} {status} is not described");
    &answer["content"]["application/json"]["schema"]
}

#[tokio::test]
async fn every_answer_is_as_the_description_says() {
    let document: Value = ok(serde_json::from_str(include_str!("../../docs/openapi.json")));
    let nodes = Nodes::start(2).await;
    let [n1, n2] = &nodes.all[..] else { panic!("there are two") };
    let echo = service::echo().await;
    let config = client::Config { links: 1, name: Some("laptop".into()), ..n1.client() };
    let agent = n1.start_agent(config, &[("echo", Kind::Tcp, echo.address.to_string())]);
    ok(soon(agent.serve()).await);
    nodes.knows(1, "echo").await;
    let (_forwarder, port) = n2.forwarder("echo").await;
    let _flow = flow_to_echo(port).await;
    let id = agent.client().id().to_string();
    let unknown = "/api/v1/agents/00/disconnect".to_owned();
    for node in [n1, n2] {
        for (method, path, asked, body, status) in [
            ("get", "/api/v1/status", "/api/v1/status".to_owned(), "", 200),
            ("get", "/api/v1/nodes", "/api/v1/nodes".to_owned(), "", 200),
            ("get", "/api/v1/nodes/{id}", "/api/v1/nodes/n1".to_owned(), "", 200),
            ("get", "/api/v1/nodes/{id}", "/api/v1/nodes/n9".to_owned(), "", 404),
            ("get", "/api/v1/endpoints", "/api/v1/endpoints".to_owned(), "", 200),
            ("get", "/api/v1/agents", "/api/v1/agents".to_owned(), "", 200),
            ("get", "/api/v1/links", "/api/v1/links".to_owned(), "", 200),
            ("get", "/api/v1/flows", "/api/v1/flows".to_owned(), "", 200),
            ("get", "/api/v1/figures", "/api/v1/figures".to_owned(), "", 200),
            ("get", "/api/v1/flows", "/api/v1/flows?limit=-1".to_owned(), "", 400),
            ("post", "/api/v1/drain", "/api/v1/drain".to_owned(), "", 501),
            ("post", "/api/v1/log-level", "/api/v1/log-level".to_owned(), "{}", 501),
            ("post", "/api/v1/agents/{id}/disconnect", unknown.clone(), "", 404),
            ("get", "/status/upstream/endpoints", "/status/upstream/endpoints".to_owned(), "", 200),
            ("get", "/status/cluster/nodes", "/status/cluster/nodes".to_owned(), "", 200),
            ("get", "/status/cluster/nodes/local", "/status/cluster/nodes/local".to_owned(), "", 200),
            ("get", "/status/cluster/nodes/{id}", "/status/cluster/nodes/n2".to_owned(), "", 200),
        ] {
            let answer = ask(node.addresses.admin, &method.to_uppercase(), &asked, body, &[]).await;
            assert_eq!(answer.status.as_u16(), status, "{asked}: {}", answer.text());
            let schema = described(&document, method, path, status);
            let wrong = differences(&document, schema, &json(&answer), "answer");
            assert!(wrong.is_empty(), "{method} {asked}: {wrong:#?}");
        }
    }
    let parted = post(n1.addresses.admin, &format!("/api/v1/agents/{id}/disconnect"), "").await;
    let schema = described(&document, "post", "/api/v1/agents/{id}/disconnect", 202);
    assert_eq!(differences(&document, schema, &json(&parted), "answer"), [""; 0]);
}

#[tokio::test]
async fn operators_of_some_tenants_see_and_part_with_these_alone_at_every_node() {
    let issuer = Issuer::new();
    let nodes = Nodes::start(2).await;
    let port = issuer.port();
    for node in &nodes.all {
        let auth = node::Auth { edge: port.clone(), link: port.clone(), admin: port.clone() };
        node.node.as_ref().expect("it runs").replace_auth(&auth);
    }
    let service = service::mirror().await;
    let n2 = &nodes.all[1];
    let mut agents = Vec::new();
    for tenant in ["a", "b"] {
        let token = issuer.token(&serde_json::json!({ "adit": { "tenant": tenant } }));
        let token = Some(Token::fixed(Secret::new(token)));
        let config = client::Config { token, links: 1, ..n2.client() };
        let agent = n2.start_agent(config, &[(tenant, Kind::Http, service.address.to_string())]);
        ok(soon(agent.serve()).await);
        agents.push(agent);
    }
    let operator = |tenant: &str| {
        let claims = serde_json::json!({ "adit": { "tenant": tenant, "actions": ["admin"] } });
        format!("Bearer {}", issuer.token(&claims))
    };
    let (of_a, of_all) = (operator("a"), operator("*"));
    let [first, second] = [0, 1].map(|number| nodes.all[number].addresses.admin);
    let admin = async |admin: SocketAddr, method: &str, path: &str, who: &str| {
        ask(admin, method, path, r#"{"level": "info"}"#, &[("authorization", who)]).await
    };
    let tenants = async |at: SocketAddr, path: &str, list: &str, who: &str| -> Vec<String> {
        let answer = json(&admin(at, "GET", path, who).await);
        let rows = answer[list].as_array().unwrap_or_else(|| panic!("{path}: {answer}")).clone();
        rows.iter().filter_map(|row| row["tenant"].as_str().map(str::to_owned)).collect()
    };
    eventually("n1 knows both", async || {
        tenants(first, "/api/v1/endpoints", "endpoints", &of_all).await == ["a", "b"]
    })
    .await;
    for (at, node) in [(second, ""), (first, "?node=n2"), (first, "?x=1&node=n2")] {
        for list in ["endpoints", "agents", "links"] {
            let path = format!("/api/v1/{list}{node}");
            assert_eq!(tenants(at, &path, list, &of_a).await, ["a"], "{path}");
            assert_eq!(tenants(at, &path, list, &of_all).await, ["a", "b"], "{path}");
        }
        let page = "/api/v1/nodes/n2";
        assert_eq!(tenants(at, page, "agents", &of_a).await, ["a"], "{at}");
        let events = format!("/api/v1/recent{node}");
        assert_eq!(tenants(at, &events, "events", &of_a).await, ["a"], "{events}");
        let mut all = tenants(at, &events, "events", &of_all).await;
        all.sort();
        assert_eq!(all, ["a", "b"], "{events}");
        let what = json(&admin(at, "GET", &events, &of_all).await)["events"].to_string();
        assert!(what.contains("node_linked"), "{what}");
        let status = json(&admin(at, "GET", &format!("/api/v1/status{node}"), &of_a).await);
        assert_eq!(status["certificates"][0]["names"], serde_json::json!([]), "{status}");
        for path in ["drain", "log-level"] {
            let refused = admin(at, "POST", &format!("/api/v1/{path}{node}"), &of_a).await;
            assert_eq!(refusal(&refused), is(403, "tenant_not_permitted"), "{path}{node}");
        }
        let theirs = format!("/api/v1/agents/{}/disconnect{node}", agents[1].client().id());
        assert_eq!(refusal(&admin(at, "POST", &theirs, &of_a).await), is(404, "unknown_agent"));
    }
    let path = format!("/api/v1/agents/{}/disconnect?node=n2", agents[0].client().id());
    let nobody = post(first, &path, "").await;
    assert_eq!(refusal(&nobody), is(401, "missing_token"));
    let own = admin(first, "POST", &path, &of_a).await;
    assert_eq!((own.status.as_u16(), &json(&own)["node"]), (202, &"n2".into()), "{}", own.text());
    let mut state = agents[0].client().agent_state();
    let n1 = &nodes.all[0].config.node;
    ok(soon(state.wait_for(|state| state.nodes() == [n1])).await);
}

#[tokio::test]
async fn a_page_of_another_host_has_nothing_done() {
    let fabric = Fabric::start().await;
    let mirror = service::mirror().await;
    let agent = fabric.agent("web", Kind::Http, mirror.address).await;
    let admin = fabric.addresses.admin;
    let path = format!("/api/v1/agents/{}/disconnect", agent.client().id());
    let host = admin.to_string();
    for (origin, host) in [
        ("http://evil.example", host.as_str()),
        ("null", &host),
        ("http://127.0.0.1:1", &host),
        // A name that was made to lead here.
        ("http://evil.example:8002", "evil.example:8002"),
    ] {
        for path in [&path, "/api/v1/drain", "/api/v1/log-level", "/api/v1/drain?node=n2"] {
            let fields = [("origin", origin), ("host", host), ("content-type", "text/plain")];
            let refused = ask(admin, "POST", path, "", &fields).await;
            assert_eq!(refusal(&refused), is(403, "foreign_origin"), "{origin} {path}");
        }
        // What is told is kept from the page by its browser.
        let told = ask(admin, "GET", "/api/v1/links", "", &[("origin", origin), ("host", host)]).await;
        assert_eq!((told.status, told.headers.get("access-control-allow-origin")), (StatusCode::OK, None));
    }
    let links = json(&ask(admin, "GET", "/api/v1/links", "", &[]).await);
    assert_eq!(links["links"][0]["id"], 1, "it is the first link still");
    let own = format!("http://{host}");
    let done = ask(admin, "POST", &path, "", &[("origin", &own), ("host", &host)]).await;
    assert_eq!(done.status, StatusCode::ACCEPTED, "{}", done.text());
}

#[tokio::test]
async fn an_agent_that_is_parted_with_links_again_and_no_request_is_lost() {
    let fabric = Fabric::start().await;
    let mirror = service::mirror().await;
    let agent = fabric.agent("web", Kind::Http, mirror.address).await;
    let admin = fabric.addresses.admin;
    let link = async || json(&ask(admin, "GET", "/api/v1/links", "", &[]).await)["links"][0]["id"].clone();
    assert_eq!(link().await, 1);
    let load = Load::start(fabric.addresses.edge, &["GET", "POST"]);
    load.goes_on().await;
    let parted = post(admin, &format!("/api/v1/agents/{}/disconnect", agent.client().id()), "").await;
    let told = json(&parted);
    assert_eq!(
        (parted.status.as_u16(), &told["links"], &told["elsewhere"]),
        (202, &serde_json::json!([1]), &false.into())
    );
    eventually("it has another link", async || link().await == 2).await;
    load.goes_on().await;
    load.end().await;
    for unknown in [agent.client().id().to_string().replace(|_: char| true, "0"), "web".into()] {
        let none = post(admin, &format!("/api/v1/agents/{unknown}/disconnect"), "").await;
        assert_eq!(refusal(&none), is(404, "unknown_agent"), "{unknown}");
    }
}

#[tokio::test]
async fn an_agent_that_is_parted_with_goes_to_another_node_and_keeps_its_flow() {
    let nodes = Nodes::start(2).await;
    let echo = service::echo().await;
    let [n1, n2] = &nodes.all[..] else { panic!("there are two") };
    let config = client::Config { links: 1, ..n1.client() };
    let agent = n1.start_agent(config, &[("echo", Kind::Tcp, echo.address.to_string())]);
    ok(soon(agent.serve()).await);
    let (_forwarder, port) = n1.forwarder("echo").await;
    let mut flow = ok(TcpStream::connect(port).await);
    let mut use_flow = async || {
        ok(flow.write_all(b"1").await);
        ok(soon(flow.read_exact(&mut [0])).await);
    };
    use_flow().await;
    let path = format!("/api/v1/agents/{}/disconnect", agent.client().id());
    let told = json(&post(n1.addresses.admin, &path, "").await);
    assert_eq!(told["elsewhere"], true);
    let mut state = agent.client().agent_state();
    ok(soon(state.wait_for(|state| state.nodes() == [&n2.config.node])).await);
    use_flow().await;
    nodes.knows(0, "echo").await;
}

/// A node in a process of its own, at any ports.
fn process(folder: &std::path::Path, words: &[&str]) -> Process {
    let binds =
        ["--edge-bind", "--link-bind", "--admin-bind", "--peer-bind"].map(|bind| [bind, "127.0.0.1:0"]);
    Process::start(folder, &[&["node"], binds.as_flattened(), words].concat())
}

#[tokio::test]
async fn a_node_that_an_operator_drains_leaves_as_by_a_signal() {
    let folder = ok(tempfile::tempdir());
    let mut node = process(folder.path(), &["--drain-delay", "3s", "--grace-period", "20s"]);
    let admin = node.address("admin");
    let drained = post(admin, "/api/v1/drain", "").await;
    let told = json(&drained);
    assert_eq!((drained.status.as_u16(), &told["phase"]), (202, &"draining".into()), "{told}");
    assert_eq!((&told["drain_delay_s"], &told["grace_period_s"]), (&3.0.into(), &20.0.into()));
    eventually("it is not ready", async || match TcpStream::connect(admin).await {
        Ok(_) => ask(admin, "GET", "/ready", "", &[]).await.text() == "draining\n",
        Err(_) => true,
    })
    .await;
    assert_eq!(node.wait_in_time().await, Some(0));
    assert_eq!(node.logged("an operator has the node leave").len(), 1);
}

#[tokio::test]
async fn what_is_logged_changes_at_once_and_a_level_that_is_none_is_refused() {
    let folder = ok(tempfile::tempdir());
    let node = process(folder.path(), &["--log-level", "info"]);
    let (edge, admin) = (node.address("edge"), node.address("admin"));
    let debugged = || node.logged("a request failed").len();
    get(edge, "nobody", "/").await;
    let level = async |body: &str| post(admin, "/api/v1/log-level", body).await;
    let told = level(r#"{"level": "info,adit::edge=debug"}"#).await;
    assert_eq!((told.status, &json(&told)["level"]), (StatusCode::OK, &"info,adit::edge=debug".into()));
    assert_eq!(debugged(), 0, "what was before is not logged");
    get(edge, "nobody", "/").await;
    eventually("a debug line is logged", async || debugged() == 1).await;
    assert_eq!(refusal(&level(r#"{"level": "adit=loud"}"#).await), is(400, "invalid_level"));
    for wrong in ["", "debug", "{}", r#"{"level": 3}"#, r#"{"level": "info", "for": "1h"}"#] {
        assert_eq!(refusal(&level(wrong).await), is(400, "invalid_body"), "{wrong}");
    }
    assert_eq!(level(r#"{"level": "info"}"#).await.status, StatusCode::OK);
    get(edge, "nobody", "/").await;
    assert_eq!(level(r#"{"level": "info"}"#).await.status, StatusCode::OK);
    assert_eq!(debugged(), 1, "it is as before");
}
