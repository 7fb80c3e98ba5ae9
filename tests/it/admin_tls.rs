//! The admin port with TLS: who is let in, what those are told who do not speak as it does, and another certificate while it runs.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use adit::{
    admin::TlsConfig,
    auth::{CertificateRule, CertificateRules, PortConfig, Tenants},
    tls::{self, Authority, ClientAuth, Fingerprint, Identity, Trust},
};
use http::StatusCode;
use http_body_util::BodyExt;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    cli::{adit, told},
    support::{
        Fabric,
        client::{Answer, Http1, request},
        eventually,
        fabric::{identity, issue},
        ok,
        process::Process,
        program::output,
        soon,
    },
};

/// A folder with the authority's certificate, as `ca.pem`.
fn folder(authority: &Authority) -> TempDir {
    let folder = ok(tempfile::tempdir());
    ok(authority.pem().write(&folder.path().join("ca.pem"), &folder.path().join("ca.key")));
    folder
}

/// A node whose admin port has a certificate for these names, and asks for none.
async fn node(authority: &Authority, names: &[&str]) -> Fabric {
    let identity = identity(authority, names);
    Fabric::with(|config| config.admin.tls = Some(TlsConfig { identity, clients: ClientAuth::None })).await
}

/// What `adit status nodes` says of a port, and its exit code.
async fn status(folder: &Path, admin: String, words: &[&str]) -> String {
    told(&output(adit(folder, &[&["status", "nodes", "--admin", &admin], words].concat())).await)
}

async fn over_tls(admin: SocketAddr, identity: Option<&Identity>) -> TlsStream<TcpStream> {
    let connector = TlsConnector::from(Arc::new(ok(tls::client_config(&Trust::Insecure, identity, &[]))));
    let stream = ok(TcpStream::connect(admin).await);
    ok(soon(connector.connect(ok(ServerName::try_from("localhost")), stream)).await)
}

async fn get(admin: SocketAddr, identity: Option<&Identity>, path: &str) -> Answer {
    Http1::over(over_tls(admin, identity).await).await.ask(request("GET", "", path, "")).await
}

async fn shown(admin: SocketAddr) -> Fingerprint {
    let stream = over_tls(admin, None).await;
    Fingerprint::of(&stream.get_ref().1.peer_certificates().expect("it shows one")[0])
}

#[tokio::test]
async fn operators_come_by_tls_and_believe_whom_they_say() {
    let authority = ok(Authority::generate("operators' authority"));
    let fabric = node(&authority, &["127.0.0.1"]).await;
    let url = || format!("https://{}", fabric.addresses.admin);
    let folder = folder(&authority);
    let (here, nowhere) = (folder.path(), ok(tempfile::tempdir()));
    let good = status(here, url(), &["--ca", "ca.pem"]).await;
    assert!(good.contains("ready, this node") && good.ends_with("exit code 0"), "{good}");
    assert_eq!(status(here, url(), &["--certs", "."]).await, good, "ca.pem in --certs");
    let pin = fabric.config.admin.tls.as_ref().expect("it has one").identity.fingerprint().to_string();
    assert_eq!(status(here, url(), &["--pin", &pin]).await, good);
    assert_eq!(status(here, url(), &["--insecure"]).await, good);
    let title = told(&output(adit(here, &["status", "--admin", &url(), "--ca", "ca.pem"])).await);
    assert!(title.contains("admin in "), "when its certificate ends: {title}");
    let metrics = get(fabric.addresses.admin, None, "/metrics").await;
    assert!(metrics.text().contains("adit_certificate_not_after_timestamp_seconds{port=\"admin\"} "));

    let unknown = status(nowhere.path(), url(), &[]).await;
    assert!(unknown.contains("UnknownIssuer") && unknown.contains("--ca FILE"), "{unknown}");
    let other = self::folder(&ok(Authority::generate("another authority")));
    let wrong = status(other.path(), url(), &["--ca", "ca.pem"]).await;
    assert!(wrong.contains("invalid peer certificate") && wrong.ends_with("exit code 1"), "{wrong}");
    let pin = status(here, url(), &["--pin", &format!("sha256:{}", "0".repeat(64))]).await;
    assert!(pin.contains("which is not pinned"), "{pin}");
    let both = status(here, url(), &["--pin", &format!("sha256:{}", "0".repeat(64)), "--insecure"]).await;
    assert!(both.contains("--insecure") && both.contains("--pin") && both.ends_with("exit code 2"), "{both}");
}

#[tokio::test]
async fn the_name_must_be_one_of_the_certificate() {
    let authority = ok(Authority::generate("operators' authority"));
    let fabric = node(&authority, &["n1.internal"]).await;
    let (folder, url) = (folder(&authority), format!("https://{}", fabric.addresses.admin));
    let other = status(folder.path(), url.clone(), &["--ca", "ca.pem"]).await;
    assert!(other.contains("not valid for name") && other.contains("--server-name"), "{other}");
    let good = status(folder.path(), url, &["--ca", "ca.pem", "--server-name", "n1.internal"]).await;
    assert!(good.ends_with("exit code 0"), "{good}");
}

#[tokio::test]
async fn who_speaks_otherwise_than_the_port_is_told_how_it_speaks() {
    let authority = ok(Authority::generate("operators' authority"));
    let (secure, plain) = (node(&authority, &["127.0.0.1"]).await, Fabric::start().await);
    let folder = folder(&authority);
    let (secure, plain) = (secure.addresses.admin, plain.addresses.admin);
    let to_tls = status(folder.path(), secure.to_string(), &[]).await;
    assert!(to_tls.contains(&format!("say --admin https://{secure}")), "{to_tls}");
    let to_plain = status(folder.path(), format!("https://{plain}"), &["--ca", "ca.pem"]).await;
    assert!(to_plain.contains("speaks no TLS") && to_plain.contains("leave https:// out"), "{to_plain}");
    let nobody = crate::support::service::refusing();
    let none = status(folder.path(), format!("https://{nobody}"), &["--ca", "ca.pem"]).await;
    assert!(none.contains("is a node running"), "{none}");
}

#[tokio::test]
async fn who_says_nothing_holds_up_nobody() {
    let authority = ok(Authority::generate("operators' authority"));
    let fabric = node(&authority, &["127.0.0.1"]).await;
    let admin = fabric.addresses.admin;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(ok(TcpStream::connect(admin).await));
    }
    // Sooner than those who are silent have to end their handshakes.
    let answer = tokio::time::timeout(Duration::from_secs(8), get(admin, None, "/health")).await;
    assert_eq!(ok(answer).status, StatusCode::OK);
    drop(silent);
}

#[tokio::test]
async fn the_dashboard_and_its_events_come_by_tls() {
    let authority = ok(Authority::generate("operators' authority"));
    let fabric = node(&authority, &["localhost"]).await;
    let page = get(fabric.addresses.admin, None, "/dashboard").await;
    let policy = page.headers["content-security-policy"].to_str();
    assert!(page.status.is_success() && ok(policy).contains("connect-src 'self'"));
    let mut connection = Http1::over(over_tls(fabric.addresses.admin, None).await).await;
    let mut events = ok(soon(connection.send(request("GET", "", "/api/v1/events", ""))).await).into_body();
    for _ in 0..2 {
        let event = ok(ok(soon(events.frame()).await.expect("there are more")).into_data());
        assert!(event.starts_with(b"event: changes\n"));
    }
}

#[tokio::test]
async fn a_certificate_of_an_operator_says_whose_things_are_for_it() {
    let authority = ok(Authority::generate("operators' authority"));
    let own = identity(&authority, &["127.0.0.1"]);
    let rule = |name: &str, tenants: Tenants, limited: bool| CertificateRule {
        name: ok(name.parse()),
        tenants,
        endpoints: limited.then(|| vec![ok("web".parse())]),
        hosts: None,
    };
    let rules = vec![
        rule("ops.example", Tenants::Any, false),
        rule("some.example", Tenants::default(), false),
        rule("agent.example", Tenants::Any, true),
    ];
    let clients = ClientAuth::Optional(vec![authority.certificate().clone()]);
    let fabric = Fabric::with(|config| {
        config.admin.tls = Some(TlsConfig { identity: own, clients });
        let certificates = Some(CertificateRules { rules, ..CertificateRules::default() });
        config.auth.admin = PortConfig { certificates, ..PortConfig::default() };
    })
    .await;
    let admin = fabric.addresses.admin;
    let answers = async |name: Option<&str>, path: &str| {
        let identity = name.map(|name| identity(&authority, &[name]));
        let answer = get(admin, identity.as_ref(), path).await;
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        (answer.status.as_u16(), json["code"].as_str().unwrap_or_default().to_owned())
    };
    let is = |status, code: &str| (status, code.to_owned());
    assert_eq!(answers(None, "/health").await, is(200, ""));
    assert_eq!(answers(None, "/api/v1/nodes").await, is(403, "missing_certificate"));
    assert_eq!(answers(Some("nobody.example"), "/api/v1/nodes").await, is(403, "unknown_certificate"));
    assert_eq!(answers(Some("agent.example"), "/api/v1/nodes").await, is(403, "action_not_permitted"));
    assert_eq!(answers(Some("some.example"), "/api/v1/nodes").await, is(200, ""));
    assert_eq!(answers(Some("ops.example"), "/api/v1/nodes").await, is(200, ""));

    let folder = folder(&authority);
    issue(&authority, &["ops.example"], &folder.path().join("ops.pem"), &folder.path().join("ops.key"));
    let shown = ["--ca", "ca.pem", "--cert", "ops.pem", "--key", "ops.key"];
    let good = status(folder.path(), format!("https://{admin}"), &shown).await;
    assert!(good.ends_with("exit code 0"), "{good}");
    let without = status(folder.path(), format!("https://{admin}"), &shown[..2]).await;
    assert!(without.contains("403") && without.ends_with("exit code 1"), "{without}");
}

#[tokio::test]
async fn another_certificate_is_shown_while_it_runs_and_who_reads_is_not_cut() {
    let authority = ok(Authority::generate("operators' authority"));
    let folder = folder(&authority);
    let path = |name: &str| folder.path().join(name);
    issue(&authority, &["localhost"], &path("admin.pem"), &path("admin.key"));
    let file = "admin-cert = 'admin.pem'\nadmin-key = 'admin.key'\n";
    ok(fs::write(path("node.toml"), file));
    let any = "127.0.0.1:0";
    let binds = ["--edge-bind", any, "--link-bind", any, "--admin-bind", any, "--peer-bind", any];
    let arguments = [&["node", "--config", "node.toml"], &binds[..]].concat();
    let node = Process::start(folder.path(), &arguments);
    let line = node.line_with("admin ");
    let admin: SocketAddr =
        ok(line.trim_start_matches("admin").trim().trim_start_matches("https://").parse());
    let fingerprint = || Fingerprint::of(&ok(tls::load_certificates(&path("admin.pem")))[0]);
    let (before, mut kept) = (fingerprint(), Http1::over(over_tls(admin, None).await).await);
    assert_eq!(shown(admin).await, before);
    assert!(kept.ask(request("GET", "", "/ready", "")).await.status.is_success());

    issue(&authority, &["localhost"], &path("new.pem"), &path("new.key"));
    ok(fs::rename(path("new.key"), path("admin.key")));
    ok(fs::rename(path("new.pem"), path("admin.pem")));
    node.signal("HUP");
    let after = fingerprint();
    eventually("the new one is shown", async || shown(admin).await == after).await;
    assert_ne!(before, after);
    assert!(kept.ask(request("GET", "", "/ready", "")).await.status.is_success(), "it is not cut");

    // The port cannot speak otherwise than it did.
    ok(fs::write(path("node.toml"), ""));
    node.signal("HUP");
    node.logs("--admin-cert cannot go while it runs: restart the node").await;
    assert_eq!(shown(admin).await, after);
}

#[tokio::test]
async fn half_of_what_tls_needs_is_refused_at_the_start() {
    let folder = folder(&ok(Authority::generate("operators' authority")));
    let check = async |words: &[&str]| {
        told(&output(adit(folder.path(), &[&["node", "check"], words].concat())).await)
    };
    let half = check(&["--admin-cert", "ca.pem"]).await;
    assert!(half.contains("--admin-cert needs --admin-key") && half.ends_with("exit code 2"), "{half}");
    let clients = check(&["--admin-client-ca", "ca.pem"]).await;
    assert!(clients.contains("--admin-client-ca needs --admin-cert"), "{clients}");
    let good = check(&["--admin-cert", "ca.pem", "--admin-key", "ca.key"]).await;
    assert!(good.contains("admin  https://127.0.0.1:8002") && good.ends_with("exit code 0"), "{good}");
}
