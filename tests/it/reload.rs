//! A node takes over what has changed of its configuration, at SIGHUP and when its files change, and loses nothing by it.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use adit::{
    auth::{Algorithm, JwksSource, KeysConfig, PortConfig, SigningKey},
    client,
    edge::{Http3, TlsConfig},
    node,
    protocol::{EndpointId, Kind, NodeId},
    tls::{self, Authority, ClientAuth, Fingerprint, Trust},
};
use http::StatusCode;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    Fabric,
    client::{Answer, Http1, get, metric, request},
    cluster::{Nodes, links},
    eventually,
    fabric::{identity, issue},
    load::Load,
    ok,
    process::{Process, restarted},
    service, soon,
    tokens::Issuer,
};

const HOST: &str = "web.example.com";

const ANY: &str = "127.0.0.1:0";

/// The folder of a node and its process.
struct Node {
    folder: TempDir,
    process: Process,
    edge: SocketAddr,
    tls: Option<SocketAddr>,
    tcp: Option<SocketAddr>,
    link: SocketAddr,
    admin: SocketAddr,
}

impl Node {
    /// A node with a file that has this in it beside its binds, once `prepare` has put what it names in the folder.
    fn start(prepare: impl FnOnce(&Path) -> String) -> Self {
        let folder = ok(tempfile::tempdir());
        let file = prepare(folder.path());
        ok(fs::write(folder.path().join("node.toml"), &file));
        let binds = ["--edge-bind", ANY, "--link-bind", ANY, "--admin-bind", ANY, "--peer-bind", ANY];
        let process =
            Process::start(folder.path(), &[&["node", "--config", "node.toml"], &binds[..]].concat());
        let edge = process.address("edge");
        let tls = file.contains("edge-tls-bind").then(|| process.address("edge"));
        let tcp = file.contains("tcp").then(|| process.address("tcp"));
        let (link, admin) = (process.address("link"), process.address("admin"));
        Self { folder, process, edge, tls, tcp, link, admin }
    }

    fn tls(&self) -> SocketAddr {
        self.tls.expect("its file says so")
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn agent(&self, endpoints: &[(&str, &str, SocketAddr)]) -> Process {
        let mut file = format!("connect = '{}'\ninsecure = true\n", self.link);
        for (name, kind, address) in endpoints {
            file += &format!("[[endpoint]]\nname = '{name}'\nkind = '{kind}'\naddress = '{address}'\n");
        }
        ok(fs::write(self.path("agent.toml"), file));
        Process::start(self.folder.path(), &["agent", "run", "--config", "agent.toml"])
    }

    /// How often the configuration was read again, with this outcome.
    async fn reloads(&self, outcome: &str) -> u64 {
        metric(self.admin, &format!("adit_reloads_total{{outcome=\"{outcome}\"}}")).await
    }

    async fn reloaded(&self, outcome: &str, times: u64) {
        let what = format!("a configuration is {outcome}, {times} in all");
        eventually(&what, async || self.reloads(outcome).await >= times).await;
    }
}

/// Puts another certificate in the place of one, as an issuer does: each file is there as a whole.
fn renew(authority: &Authority, folder: &Path, name: &str) {
    let new = |end: &str| folder.join(format!("new.{end}"));
    issue(authority, &[HOST], &new("pem"), &new("key"));
    for end in ["key", "pem"] {
        ok(fs::rename(new(end), folder.join(format!("{name}.{end}"))));
    }
}

fn fingerprint(path: &Path) -> Fingerprint {
    Fingerprint::of(&ok(tls::load_certificates(path))[0])
}

async fn over_tls(edge: SocketAddr) -> TlsStream<TcpStream> {
    let connector = TlsConnector::from(Arc::new(ok(tls::client_config(&Trust::Insecure, None, &[]))));
    let stream = ok(TcpStream::connect(edge).await);
    ok(soon(connector.connect(ok(ServerName::try_from(HOST)), stream)).await)
}

/// The certificates that new clients of the edge are shown, over TCP and over QUIC.
async fn shown(edge: SocketAddr) -> [Fingerprint; 2] {
    let tcp = over_tls(edge).await.get_ref().1.peer_certificates().expect("it shows one")[0].clone();
    let tls = ok(tls::client_config(&Trust::Insecure, None, &[b"h3"]));
    let crypto = ok(quinn::crypto::rustls::QuicClientConfig::try_from(tls));
    let mut endpoint = ok(quinn::Endpoint::client(([127, 0, 0, 1], 0).into()));
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let connection = ok(soon(ok(endpoint.connect(edge, HOST))).await);
    let quic = connection.peer_identity().expect("it shows one");
    let quic = quic.downcast::<Vec<CertificateDer<'static>>>().expect("it is of rustls");
    [Fingerprint::of(&tcp), Fingerprint::of(&quic[0])]
}

/// Sends a byte through a flow and back.
async fn goes_on(flow: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    let mut byte = [0];
    ok(flow.write_all(b"1").await);
    ok(soon(flow.read_exact(&mut byte)).await);
}

async fn with_token(edge: SocketAddr, token: &str, tenant: &str) -> Answer {
    let mut request = request("GET", "web", "/", "");
    request.headers_mut().insert("x-adit-tenant", ok(tenant.parse()));
    request.headers_mut().insert("authorization", ok(format!("Bearer {token}").parse()));
    Http1::connect(edge).await.ask(request).await
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_clients_and_no_request_or_flow_is_lost() {
    let authority = ok(Authority::generate("test authority"));
    let node = Node::start(|folder| {
        issue(&authority, &[HOST], &folder.join("edge.pem"), &folder.join("edge.key"));
        format!("edge-tls-bind = '{ANY}'\nedge-cert = 'edge.pem'\nedge-key = 'edge.key'\ntcp = '0=echo'\n")
    });
    let before = fingerprint(&node.path("edge.pem"));
    let (web, echo) = (service::mirror().await, service::echo().await);
    let agent = node.agent(&[("web", "http", web.address), ("echo", "tcp", echo.address)]);
    agent.line_with("serving echo");
    let (tls, tcp) = (node.tls(), node.tcp.expect("its file says so"));
    let mut flow = ok(TcpStream::connect(tcp).await);
    goes_on(&mut flow).await;
    let mut kept = Http1::over(over_tls(tls).await).await;
    assert_eq!(kept.ask(request("GET", "web", "/", "")).await.status, StatusCode::OK);
    assert_eq!(shown(tls).await, [before; 2]);
    let load = Load::start(node.edge, &["GET", "POST"]);
    load.goes_on().await;

    renew(&authority, node.folder.path(), "edge");
    let after = fingerprint(&node.path("edge.pem"));
    node.reloaded("applied", 1).await;
    assert_eq!(shown(tls).await, [after; 2]);
    assert_ne!(before, after);
    load.goes_on().await;

    // At once, when somebody says so.
    renew(&authority, node.folder.path(), "edge");
    node.process.signal("HUP");
    node.reloaded("applied", 2).await;
    assert_eq!(shown(tls).await, [fingerprint(&node.path("edge.pem")); 2]);
    goes_on(&mut flow).await;
    assert_eq!(kept.ask(request("GET", "web", "/", "")).await.status, StatusCode::OK);
    load.goes_on().await;
    load.end().await;
    let told = node.process.logged("holds from now on");
    assert!(
        told[0].contains("a file has changed") && told[0].contains("--edge-cert, --edge-key"),
        "{told:?}"
    );
    assert!(told[1].contains("SIGHUP"), "{told:?}");
    assert_eq!(node.reloads("refused").await, 0);
}

#[tokio::test]
async fn what_is_wrong_is_refused_whole_and_what_was_before_holds() {
    let (authority, other) = (ok(Authority::generate("one")), ok(Authority::generate("other")));
    let file = format!(
        "edge-tls-bind = '{ANY}'\nedge-cert = 'edge.pem'\nedge-key = 'edge.key'\nlog-level = 'info'\n"
    );
    let node = Node::start(|folder| {
        issue(&authority, &[HOST], &folder.join("edge.pem"), &folder.join("edge.key"));
        file.clone()
    });
    let tls = node.tls();
    let before = fingerprint(&node.path("edge.pem"));

    // A certificate without its key, and beside it what would be good.
    issue(&other, &[HOST], &node.path("other.pem"), &node.path("other.key"));
    ok(fs::write(node.path("node.toml"), file.replace("info", "debug")));
    ok(fs::rename(node.path("other.pem"), node.path("edge.pem")));
    node.reloaded("refused", 1).await;
    let told = node.process.logs("is refused").await;
    assert!(told.contains("the key in edge.key does not match the certificate in edge.pem"), "{told}");
    assert_eq!(shown(tls).await, [before; 2]);
    assert_eq!(node.process.logged("DEBUG"), [""; 0]);

    // Nothing has changed: it is not tried again, until somebody says so.
    node.process.signal("HUP");
    node.reloaded("refused", 2).await;
    ok(fs::write(node.path("node.toml"), "edge-cert = ["));
    node.reloaded("refused", 3).await;
    node.process.logs("node.toml, line 1: this is not TOML").await;
    ok(fs::write(node.path("node.toml"), "edge-crt = 'a'"));
    node.reloaded("refused", 4).await;
    node.process.logs("unknown key `edge-crt`: did you mean `edge-cert`?").await;
    ok(fs::remove_file(node.path("node.toml")));
    node.reloaded("refused", 5).await;
    assert_eq!(shown(tls).await, [before; 2]);
    assert_eq!((node.reloads("applied").await, node.reloads("refused").await), (0, 5));

    // What is right again holds, with all that came meanwhile.
    ok(fs::rename(node.path("other.key"), node.path("edge.key")));
    ok(fs::write(node.path("node.toml"), file.replace("info", "debug")));
    node.reloaded("applied", 1).await;
    assert_eq!(shown(tls).await, [fingerprint(&node.path("edge.pem")); 2]);
    eventually("details are logged", async || {
        get(node.edge, "web", "/").await;
        !node.process.logged("DEBUG").is_empty()
    })
    .await;
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_the_rest_holds() {
    let node = Node::start(|_| "log-level = 'info'\nrequest-timeout = '30s'\n".into());
    node.process.signal("HUP");
    node.reloaded("unchanged", 1).await;
    let file = "log-level = 'warn'\nrequest-timeout = '20s'\ntcp = '0=db'\n";
    ok(fs::write(node.path("node.toml"), file));
    let told = node.process.logs("needs a restart").await;
    assert!(told.contains("needs a restart: --request-timeout, --tcp"), "{told}");
    node.reloaded("applied", 1).await;
    let logged = node.process.logged("INFO").len();
    // It is said again for as long as it is so.
    node.process.signal("HUP");
    node.reloaded("unchanged", 2).await;
    eventually("it is said again", async || node.process.logged("needs a restart").len() == 2).await;
    assert_eq!(node.process.logged("INFO").len(), logged, "information is logged no more");
}

#[tokio::test]
async fn keys_and_tenants_change_while_a_node_runs() {
    let [old, new, acme] = [0; 3].map(|_| Issuer::new());
    let node = Node::start(|folder| {
        ok(fs::write(folder.join("edge.pub"), old.public_pem()));
        ok(fs::write(folder.join("tenants.toml"), ""));
        "edge-auth-key-file = 'edge.pub'\ntenants = 'tenants.toml'\n".into()
    });
    let web = service::mirror().await;
    let agent = node.agent(&[("web", "http", web.address)]);
    agent.line_with("serving web");
    let status = async |issuer: &Issuer| {
        let tenant = if std::ptr::eq(issuer, &raw const acme) { "acme" } else { "default" };
        with_token(node.edge, &issuer.token(&json!({})), tenant).await.status
    };
    assert_eq!(status(&old).await, StatusCode::OK);
    assert_eq!(status(&new).await, StatusCode::UNAUTHORIZED);
    ok(fs::write(node.path("edge.pub"), new.public_pem()));
    node.reloaded("applied", 1).await;
    assert_eq!(status(&old).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(&new).await, StatusCode::OK);

    // A file that another one names.
    ok(fs::write(node.path("tenants.toml"), "[acme]\nkey-file = 'acme.pub'\n"));
    node.reloaded("refused", 1).await;
    node.process.logs("acme.pub cannot be read").await;
    assert_eq!(status(&acme).await, StatusCode::UNAUTHORIZED);
    ok(fs::write(node.path("acme.pub"), acme.public_pem()));
    node.reloaded("applied", 2).await;
    // It is known now, and nobody serves its tenant.
    assert_eq!(status(&acme).await, StatusCode::BAD_GATEWAY);
    assert_eq!(status(&new).await, StatusCode::OK);
}

#[tokio::test]
async fn limits_change_while_a_node_runs_and_those_that_stay_go_on_counting() {
    let file = |most: u32, more: &str| format!("tcp = '0=echo'\nlimit = ['client.flows={most}']\n{more}");
    let node = Node::start(|_| file(1, ""));
    let (web, echo) = (service::mirror().await, service::echo().await);
    let agent = node.agent(&[("web", "http", web.address), ("echo", "tcp", echo.address)]);
    agent.line_with("serving echo");
    let mut flow = ok(TcpStream::connect(node.tcp.expect("its file says so")).await);
    goes_on(&mut flow).await;
    let status = async || get(node.edge, "web", "/").await.status;
    assert_eq!(status().await, StatusCode::TOO_MANY_REQUESTS);
    ok(fs::write(node.path("node.toml"), file(1, "tenant-domain = 'example.com'\n")));
    node.reloaded("applied", 1).await;
    assert_eq!(status().await, StatusCode::TOO_MANY_REQUESTS, "the flow counts as before");
    ok(fs::write(node.path("node.toml"), file(2, "")));
    node.reloaded("applied", 2).await;
    assert_eq!(status().await, StatusCode::OK);
    ok(fs::write(node.path("node.toml"), file(0, "")));
    node.reloaded("refused", 1).await;
    assert_eq!(status().await, StatusCode::OK);
    goes_on(&mut flow).await;
}

#[tokio::test]
async fn ports_are_not_opened_to_everybody_where_they_are() {
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| {
        config.auth.link = issuer.port();
        config.edge.sni = Some(ok(ANY.parse()));
        config.link.bind = ok("0.0.0.0:0".parse());
        config.link.advertise = Some(ok("127.0.0.1:1".parse()));
    })
    .await;
    let node = fabric.node.as_ref().expect("it runs");
    let mut config = fabric.config.clone();
    config.allow_anonymous = false;
    // Where the ports would be after a restart is of no help.
    config.link.bind = ok(ANY.parse());
    config.edge.sni = None;
    let refused = |config: &node::Config| match node.reload(config) {
        Err(node::StartError::Exposed(exposed)) => exposed,
        other => panic!("{other:?}"),
    };
    config.auth.link = PortConfig::default();
    assert!(matches!(refused(&config), node::Exposed::Link(address) if address.ip().is_unspecified()));
    config.auth.link = issuer.port();
    config.auth.edge = issuer.port();
    assert_eq!(refused(&config), node::Exposed::Sni);
    config.allow_anonymous = true;
    ok(node.reload(&config));
}

#[tokio::test]
async fn fetched_keys_outlive_a_reload_while_their_source_is_down() {
    let folder = ok(tempfile::tempdir());
    let key = ok(SigningKey::generate(Algorithm::Es256));
    let set = folder.path().join("keys.json");
    ok(fs::write(&set, ok(key.jwks())));
    let source = ok(JwksSource::new(&format!("file:{}", set.display()), &Trust::Insecure));
    let port = |issuer: &[&str]| {
        let mut keys = Issuer::new().config();
        keys.keys = KeysConfig::Jwks(source.clone(), adit::auth::JwksSettings::default());
        keys.rules.issuers = issuer.iter().map(|name| (*name).into()).collect();
        PortConfig { keys: Some(keys), ..PortConfig::default() }
    };
    let fabric = Fabric::with(|config| config.auth.edge = port(&[])).await;
    let web = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, web.address).await;
    let status = async || {
        with_token(fabric.addresses.edge, &ok(key.sign(&json!({ "iss": "us" }))), "default").await.status
    };
    eventually("the keys are there", async || status().await == StatusCode::OK).await;
    ok(fs::remove_file(&set));
    let mut config = fabric.config.clone();
    for (issuer, expected) in [("them", StatusCode::UNAUTHORIZED), ("us", StatusCode::OK)] {
        config.auth.edge = port(&[issuer]);
        ok(fabric.node.as_ref().expect("it runs").reload(&config));
        assert_eq!(status().await, expected);
    }
}

/// The authority of client certificates changes, and what a client could resume with it.
#[tokio::test]
async fn clients_of_another_authority_are_asked_for_from_then_on() {
    let (one, other) = (ok(Authority::generate("one")), ok(Authority::generate("other")));
    let own = identity(&one, &["client.example"]);
    let of = |authority: &Authority| ClientAuth::Required(vec![authority.certificate().clone()]);
    let fabric = Fabric::with(|config| {
        config.edge.tls = Some(TlsConfig {
            bind: ([127, 0, 0, 1], 0).into(),
            identities: vec![identity(&one, &[HOST])],
            clients: of(&one),
            http3: Http3::Off,
        });
    })
    .await;
    let edge = fabric.addresses.edge_tls.expect("it has one");
    let tls = Arc::new(ok(tls::client_config(&Trust::Insecure, Some(&own), &[b"http/1.1"])));
    let ask = async || {
        let stream = ok(TcpStream::connect(edge).await);
        let connector = TlsConnector::from(Arc::clone(&tls));
        let mut stream = ok(connector.connect(ok(ServerName::try_from(HOST)), stream).await);
        // In TLS 1.3 a client learns only behind its handshake that it was refused.
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut byte = [0];
        match asked {
            Ok(()) => soon(stream.read_exact(&mut byte)).await.map(drop),
            Err(error) => Err(error),
        }
    };
    ok(ask().await);
    let mut config = fabric.config.clone();
    config.edge.tls.as_mut().expect("it has one").clients = of(&other);
    ok(fabric.node.as_ref().expect("it runs").reload(&config));
    let refused = ask().await.expect_err("it is refused").to_string();
    assert!(refused.contains("UnknownCA") || refused.contains("DecryptError"), "{refused}");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_changes_nothing() {
    let authority = ok(Authority::generate("test authority"));
    let with = |clients| TlsConfig {
        bind: ([127, 0, 0, 1], 0).into(),
        identities: vec![identity(&authority, &[HOST])],
        clients,
        http3: Http3::Bound,
    };
    let fabric = Fabric::with(|config| config.edge.tls = Some(with(ClientAuth::None))).await;
    let edge = fabric.addresses.edge_tls.expect("it has one");
    let before = shown(edge).await;
    let node = fabric.node.as_ref().expect("it runs");
    let mut config = fabric.config.clone();
    config.edge.tls = Some(with(ClientAuth::None));
    config.link.clients = ClientAuth::Required(Vec::new());
    node.reload(&config).expect_err("there is no authority");
    assert_eq!(shown(edge).await, before);
    config.link.clients = ClientAuth::None;
    ok(node.reload(&config));
    assert_ne!(shown(edge).await, before);
}

#[tokio::test]
async fn nodes_of_another_authority_are_linked_to_once_it_is_trusted_and_links_stay() {
    let nodes = Nodes::start(2).await;
    let echo = service::echo().await;
    let (agent, without) = nodes.agent_elsewhere("echo", Kind::Tcp, echo.address).await;
    let (_forwarder, port) = nodes.all[without].forwarder("echo").await;
    let mut flow = ok(TcpStream::connect(port).await);
    goes_on(&mut flow).await;

    let newer = Arc::new(ok(Authority::generate("newer authority")));
    let third = |peer: Option<SocketAddr>| {
        let join: Vec<_> = peer.into_iter().collect();
        let newer = Arc::clone(&newer);
        let older = nodes.all[0].authority.certificate().clone();
        Fabric::of(Arc::clone(&newer), move |config: &mut node::Config| {
            config.node = ok(NodeId::new("n3"));
            let mut links = links(&newer, "n3", &join);
            links.roots.push(older);
            config.cluster_links = Some(links);
        })
    };
    let third = third(nodes.all[0].addresses.peer).await;
    eventually("a node of an unknown authority is refused", async || {
        let metrics = get(nodes.all[0].addresses.admin, "", "/metrics").await;
        metrics
            .text()
            .lines()
            .any(|line| line.starts_with("adit_peer_refusals_total") && !line.ends_with(" 0"))
    })
    .await;
    for (number, fabric) in nodes.all.iter().enumerate() {
        let mut config = fabric.config.clone();
        let cluster = config.cluster_links.as_mut().expect("it has one");
        cluster.identity = links(&newer, &format!("n{}", number + 1), &[]).identity;
        cluster.roots.push(newer.certificate().clone());
        ok(fabric.node.as_ref().expect("it runs").reload(&config));
    }
    nodes.sees(0, 2).await;
    nodes.sees(1, 2).await;
    goes_on(&mut flow).await;
    drop((third, agent));
}

/// An agent's trust is reloaded with its node's certificate: the link stands, and the next one is believed.
#[tokio::test]
async fn an_agent_believes_the_authority_that_its_file_holds_now() {
    let (one, other) = (ok(Authority::generate("one")), ok(Authority::generate("other")));
    let names = ["localhost", "127.0.0.1"];
    let mut node = Node::start(|folder| {
        ok(one.pem().write(&folder.join("trusted.pem"), &folder.join("trusted.key")));
        issue(&one, &names, &folder.join("link.pem"), &folder.join("link.key"));
        "link-cert = 'link.pem'\nlink-key = 'link.key'\n".into()
    });
    let echo = service::echo().await;
    let address = echo.address.to_string();
    let link = node.link.to_string();
    let agent = Process::start(
        node.folder.path(),
        &[
            &[
                "agent",
                "tcp",
                "echo",
                &address,
                "--connect",
                &link,
                "--transport",
                "quic",
                "--ca",
                "trusted.pem",
            ],
            // The node that comes has another key, and so cannot reset the link of the one before.
            &["--keep-alive", "500ms", "--idle-timeout", "2s"][..],
        ]
        .concat(),
    );
    agent.line_with("serving echo");
    let config = client::Config::new(ok(link.parse()), &Trust::Insecure);
    let client = ok(client::Client::new(ok(config)));
    let mut flow = ok(soon(client.dial(&ok(EndpointId::new("echo")))).await);
    goes_on(&mut flow).await;

    ok(other.pem().write(&node.path("newer.pem"), &node.path("newer.key")));
    ok(fs::rename(node.path("newer.pem"), node.path("trusted.pem")));
    for end in ["key", "pem"] {
        ok(fs::remove_file(node.path(&format!("link.{end}"))));
    }
    issue(&other, &names, &node.path("link.pem"), &node.path("link.key"));
    agent.logs("holds from now on").await;
    node.reloaded("applied", 1).await;
    goes_on(&mut flow).await;

    // The node ends without a goodbye; in its place comes one that has the newer certificate alone.
    node.process.signal("KILL");
    node.process.wait();
    let (_again, admin) = restarted(
        node.folder.path(),
        &[
            "node",
            "--config",
            "node.toml",
            "--link-bind",
            &link,
            "--edge-bind",
            ANY,
            "--admin-bind",
            ANY,
            "--peer-bind",
            ANY,
        ],
        "admin",
    )
    .await;
    eventually("the agent is linked", async || {
        get(admin, "", "/api/v1/status").await.text().contains("\"echo\"")
    })
    .await;
}

/// A terminal that closes sends the same signal as whoever wants a configuration to be read again (checked where `script`
/// is installed, which makes one).
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_node_whose_terminal_closes_leaves() {
    let folder = ok(tempfile::tempdir());
    let screen = folder.path().join("screen");
    let adit = env!("CARGO_BIN_EXE_adit");
    // However this ends, the node does.
    let line = format!(
        "timeout --foreground 60 {adit} node --edge-bind {ANY} --link-bind {ANY} --admin-bind {ANY} --peer-bind {ANY}"
    );
    let terminal = std::process::Command::new("script")
        .args(["-q", "-f", "-c", &line])
        .arg(&screen)
        .current_dir(folder.path())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn();
    let Ok(mut terminal) = terminal else { return };
    let admin = || -> Option<SocketAddr> {
        let shown = String::from_utf8_lossy(&fs::read(&screen).ok()?).into_owned();
        shown.lines().find_map(|line| line.trim().strip_prefix("admin  http://")?.parse().ok())
    };
    eventually("the node says where it is", async || admin().is_some()).await;
    let admin = admin().expect("it was there");
    assert_eq!(get(admin, "", "/ready").await.status, StatusCode::OK);
    ok(terminal.kill());
    ok(terminal.wait());
    eventually("the node has left", async || TcpStream::connect(admin).await.is_err()).await;
}
