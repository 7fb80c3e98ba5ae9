//! An agent takes over the endpoints of its file: new ones come, others go, and those that stay are served on.

use std::{fs, net::SocketAddr, path::Path};

use adit::protocol::Kind;
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Fabric,
    client::{Http1, get, request},
    eventually,
    load::Load,
    ok,
    process::Process,
    service, soon,
};

fn write(folder: &Path, link: SocketAddr, tables: &[String]) {
    let tables = tables.join("\n");
    let text = format!("connect = '{link}'\ntransport = 'quic'\ninsecure = true\nlinks = 1\n{tables}\n");
    // As a whole, as editors do.
    ok(fs::write(folder.join("new"), text));
    ok(fs::rename(folder.join("new"), folder.join("agent.toml")));
}

fn table(name: &str, kind: &str, service: &service::Running, more: &str) -> String {
    format!("[[endpoint]]\nname = '{name}'\nkind = '{kind}'\naddress = '{}'\n{more}", service.address)
}

async fn goes_on(flow: &mut TcpStream) {
    let mut byte = [0];
    ok(flow.write_all(b"1").await);
    ok(soon(flow.read_exact(&mut byte)).await);
}

#[tokio::test]
async fn endpoints_come_and_go_and_others_are_served_on() {
    let fabric = Fabric::start().await;
    let folder = ok(tempfile::tempdir());
    let (web, echo) = (service::mirror().await, service::echo().await);
    let link = fabric.addresses.link;
    let with = |tables: &[String]| write(folder.path(), link, tables);
    with(&[table("web", "http", &web, ""), table("echo", "tcp", &echo, "")]);
    let serves = |endpoint: &str| fabric.node.as_ref().expect("it runs").serves(endpoint);
    let agent = Process::start(folder.path(), &["agent", "run", "--config", "agent.toml"]);
    eventually("it is served", async || serves("web") && serves("echo")).await;
    let (_forwarder, port) = fabric.forwarder("echo").await;
    let mut flow = ok(TcpStream::connect(port).await);
    goes_on(&mut flow).await;
    let load = Load::start(fabric.addresses.edge, &["GET", "POST"]);
    load.goes_on().await;

    with(&[table("web", "http", &web, ""), table("new", "http", &web, "")]);
    eventually("the new one is served and the old one is not", async || serves("new") && !serves("echo"))
        .await;
    let answer = get(fabric.addresses.edge, "new", "/").await;
    assert_eq!(answer.status, StatusCode::OK);
    goes_on(&mut flow).await;
    load.goes_on().await;

    // What has gone may come back, at once.
    with(&[table("web", "http", &web, "")]);
    agent.signal("HUP");
    eventually("it has gone", async || !serves("new")).await;
    with(&[table("web", "http", &web, ""), table("echo", "tcp", &echo, ""), table("new", "http", &web, "")]);
    agent.signal("HUP");
    eventually("both are back", async || serves("new") && serves("echo")).await;
    goes_on(&mut flow).await;
    load.goes_on().await;
    load.end().await;
}

#[tokio::test]
async fn an_endpoint_moves_to_another_service_and_tells_other_hosts_without_a_failed_request() {
    let fabric = Fabric::start().await;
    let folder = ok(tempfile::tempdir());
    let (one, other) = (service::mirror().await, service::mirror().await);
    let link = fabric.addresses.link;
    let with = |table: String| write(folder.path(), link, &[table]);
    with(table("web", "http", &one, ""));
    let agent = Process::start(folder.path(), &["agent", "run", "--config", "agent.toml"]);
    eventually("it is served", async || get(fabric.addresses.edge, "web", "/").await.status == 200).await;
    let load = Load::start(fabric.addresses.edge, &["GET", "POST"]);
    load.goes_on().await;

    with(table("web", "http", &other, ""));
    agent.signal("HUP");
    eventually("the other service is asked", async || other.accepted() > 0).await;
    load.goes_on().await;
    assert_eq!(agent.logged("\"serving\"").len(), 1, "nodes need not know");

    // With it goes what is done with requests, and a check of its health.
    let more =
        "header = ['x-new=1']\nhealth-check = '/'\nhealth-interval = '50ms'\nhost = 'app.customer.com'\n";
    with(table("web", "http", &other, more));
    agent.signal("HUP");
    eventually("the host is known", async || {
        let mut request = request("GET", "", "/", "");
        request.headers_mut().remove("x-adit-endpoint");
        request.headers_mut().insert("host", ok("app.customer.com".parse()));
        let answer = Http1::connect(fabric.addresses.edge).await.ask(request).await;
        answer.status == StatusCode::OK && answer.text().contains("x-new: 1")
    })
    .await;
    load.goes_on().await;
    load.end().await;

    // A door that is put before it holds for connections of clients and flows of nodes that were there before.
    let mut kept = Http1::connect(fabric.addresses.edge).await;
    assert_eq!(kept.ask(request("GET", "web", "/", "")).await.status, StatusCode::OK);
    with(table("web", "http", &other, "require-header = 'x-door=hunter2'\n"));
    agent.signal("HUP");
    eventually("the door is closed", async || {
        kept.ask(request("GET", "web", "/", "")).await.status == StatusCode::FORBIDDEN
    })
    .await;
    assert_eq!(agent.logged("hunter2"), [""; 0]);
}

#[tokio::test]
async fn a_wrong_file_is_refused_whole() {
    let fabric = Fabric::start().await;
    let folder = ok(tempfile::tempdir());
    let web = service::mirror().await;
    let link = fabric.addresses.link;
    write(folder.path(), link, &[table("web", "http", &web, "")]);
    let agent = Process::start(folder.path(), &["agent", "run", "--config", "agent.toml"]);
    let serves = |endpoint: &str| fabric.node.as_ref().expect("it runs").serves(endpoint);
    eventually("it is served", async || serves("web")).await;
    let tables = [table("new", "http", &web, ""), table("bad", "udp", &web, "h2c = true\n")];
    write(folder.path(), link, &tables);
    let told = agent.logs("is refused").await;
    assert!(told.contains("--h2c") && told.contains("a file has changed"), "{told}");
    assert!(serves("web") && !serves("new"));
    write(folder.path(), link, &tables[..1]);
    eventually("it is right again", async || serves("new") && !serves("web")).await;
}

#[tokio::test]
async fn an_agent_that_is_not_linked_yet_is_reloaded_too() {
    let fabric = Fabric::start().await;
    let web = service::mirror().await;
    let mut config =
        adit::agent::Config::new(fabric.client(), vec![fabric.endpoint("old", Kind::Http, web.address)]);
    let stranger = ok(adit::tls::Authority::generate("stranger"));
    let trust = adit::tls::Trust::Roots(vec![stranger.certificate().clone()]);
    let mut lost = config.clone();
    lost.client.tls = ok(adit::tls::client_config(&trust, None, &[adit::protocol::ALPN_LINK]));
    let agent = ok(adit::agent::Agent::start(lost));
    config.endpoints = vec![fabric.endpoint("web", Kind::Http, web.address)];
    let reloaded = ok(agent.reload(config));
    assert_eq!((reloaded.added.len(), reloaded.removed.len()), (1, 1));
    ok(soon(agent.serve()).await);
    eventually("it is served", async || get(fabric.addresses.edge, "web", "/").await.status == 200).await;
    assert!(!fabric.node.as_ref().expect("it runs").serves("old"));
}
