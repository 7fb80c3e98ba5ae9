//! Tokens of agents and forwarders are renewed on links that stand, and one that a node does not take ends nobody.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use adit::{
    agent::Agent,
    client::{self, Backoff, BoxError, Client, Token},
    drain::Tasks,
    net::HostPort,
    protocol::{
        Close, Code, Control, EndpointId, Hello, Kind, NodeId, Refusal, Role, Secret, VERSION, Welcome,
    },
    tls::{self, ClientAuth},
    transport::{ControlReader, ControlWriter, Link, Settings, quic},
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Fabric, SOON,
    client::{get, metric},
    eventually,
    fabric::{LINK, forwarder_of, identity},
    log::Log,
    ok,
    process::Process,
    service, soon,
    tokens::{Issuer, in_seconds},
};

const MS: Duration = Duration::from_millis(1);

/// Who makes tokens, and the file that they are in.
struct Tokens {
    issuer: Issuer,
    folder: tempfile::TempDir,
}

impl Tokens {
    fn new() -> Self {
        Self { issuer: Issuer::new(), folder: ok(tempfile::tempdir()) }
    }

    /// A token that ends in so long and is for these endpoints.
    fn token(&self, life: Duration, endpoints: &[&str]) -> String {
        let end = in_seconds(life.as_secs_f64());
        self.issuer.token(&json!({ "exp": end, "adit": { "endpoints": endpoints } }))
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// Puts a token in the file, as whoever renews it should: there is never half of one.
    fn put(&self, token: &str) {
        let new = self.folder.path().join("token.new");
        ok(fs::write(&new, format!("{token}\n")));
        ok(fs::rename(new, self.file()));
    }

    /// A node whose link port takes these tokens.
    async fn node(&self) -> Fabric {
        Fabric::with(|config| config.auth.link = self.issuer.port()).await
    }
}

fn with_token(client: client::Config, token: Token) -> client::Config {
    client::Config { token: Some(token), ..client }
}

/// How often a node has refused a caller of its link port for this reason.
async fn refused(fabric: &Fabric, reason: &str) -> u64 {
    metric(fabric.addresses.admin, &format!("adit_auth_refused_total{{port=\"link\",reason=\"{reason}\"}}"))
        .await
}

/// Serves all that an agent has, however long it takes.
fn serve(agent: Agent) -> Tasks {
    let tasks = Tasks::new();
    tasks.spawn(async move {
        ok(agent.serve().await);
        std::future::pending::<()>().await;
    });
    tasks
}

/// Whether a flow passes a byte there and back.
async fn lives(stream: &mut tokio::net::TcpStream) -> bool {
    stream.write_all(b"x").await.is_ok() && matches!(soon(stream.read(&mut [0])).await, Ok(1))
}

#[tokio::test]
async fn a_flow_outlives_the_token_that_it_was_opened_with() {
    let tokens = Tokens::new();
    let fabric = tokens.node().await;
    let echo = service::echo().await;
    tokens.put(&tokens.token(5 * 1000 * MS, &["echo"]));
    let client = || with_token(fabric.client(), Token::file(tokens.file()));
    let _agent = serve(fabric.start_agent(client(), &[("echo", Kind::Tcp, echo.address.to_string())]));
    let first_ends = SystemTime::now() + 5 * 1000 * MS;
    let (forwarder, port) = forwarder_of(client(), "echo", adit::forward::PortKind::Tcp).await;
    let mut stream = None;
    eventually("the endpoint is served", async || {
        let mut tried = ok(tokio::net::TcpStream::connect(port).await);
        let lives = lives(&mut tried).await;
        stream = lives.then_some(tried);
        lives
    })
    .await;
    let mut stream = stream.expect("it is there");
    tokens.put(&tokens.token(3600 * 1000 * MS, &["echo"]));
    // The scenario is that the first token ends; the flow is asked all the while.
    while SystemTime::now() < first_ends + 1000 * MS {
        assert!(lives(&mut stream).await, "the flow goes on");
        tokio::time::sleep(50 * MS).await;
    }
    assert_eq!(metric(fabric.addresses.admin, "adit_links{role=\"agent\",transport=\"quic\"}").await, 1);
    let status = get(fabric.addresses.admin, "", "/api/v1/status").await;
    let status: serde_json::Value = ok(serde_json::from_slice(&status.body));
    for link in status["links"].as_array().expect("there are links") {
        assert!(link["id"].as_u64().is_some_and(|id| id <= 2), "these are the first two links: {status}");
    }
    drop(forwarder);
}

#[tokio::test]
async fn a_link_whose_token_ends_is_closed_with_that_reason_and_comes_back_with_a_good_token() {
    let log = Log::of_this_thread();
    let tokens = Tokens::new();
    let fabric = tokens.node().await;
    let echo = service::echo().await;
    tokens.put(&tokens.token(3 * 1000 * MS, &["echo"]));
    let client = with_token(fabric.client(), Token::file(tokens.file()));
    let _agent = serve(fabric.start_agent(client, &[("echo", Kind::Tcp, echo.address.to_string())]));
    let serves = || fabric.node.as_ref().expect("it runs").serves("echo");
    eventually("it is served", async || serves()).await;
    eventually("it is served no more", async || !serves()).await;
    eventually("the reason is told", async || {
        !log.lines("the link must be replaced")
            .iter()
            .any(|line| !line.contains("the credentials have expired"))
            && !log.lines("the node refuses the link").is_empty()
    })
    .await;
    assert_eq!(log.lines("the link must be replaced").len(), 1);
    assert_eq!(log.lines("there is no new token").len(), 1, "{:?}", log.lines("there is no new token"));
    // Nobody asks the node more often than every ten seconds for nothing.
    assert_eq!(refused(&fabric, "expired_token").await, 1);
    tokens.put(&tokens.token(3600 * 1000 * MS, &["echo"]));
    eventually("it is served again", async || serves()).await;
    assert_eq!(refused(&fabric, "expired_token").await, 1, "the old token was shown once");
    assert_eq!(log.lines("no link; trying on slowly").len(), 1);
    assert_eq!(log.lines("ey").iter().filter(|line| line.contains("eyJ")).count(), 0, "no token is logged");
}

#[tokio::test]
async fn an_agent_that_is_refused_goes_on_and_is_served_as_soon_as_its_token_is_another() {
    let log = Log::of_this_thread();
    let (tokens, stranger) = (Tokens::new(), Tokens::new());
    let fabric = tokens.node().await;
    tokens.put(&stranger.token(3600 * 1000 * MS, &["web"]));
    let web = service::mirror().await;
    let client = with_token(fabric.client(), Token::file(tokens.file()));
    let _agent = serve(fabric.start_agent(client, &[("web", Kind::Http, web.address.to_string())]));
    eventually("it is refused", async || refused(&fabric, "unknown_key").await == 1).await;
    let told =
        |code: &str| log.lines("no link; trying on slowly").iter().filter(|line| line.contains(code)).count();
    eventually("it is told", async || told("unauthenticated") == 1).await;

    // It is a good one, though not to serve anything.
    let of_client = json!({ "adit": { "actions": ["connect"] } });
    tokens.put(&tokens.issuer.token(&of_client));
    eventually("it is refused for another reason", async || told("forbidden") == 1).await;
    assert_eq!(told("unauthenticated"), 1, "each reason is told once");
    tokens.put(&tokens.token(3600 * 1000 * MS, &["web"]));
    eventually("it is served", async || fabric.node.as_ref().expect("it runs").serves("web")).await;
    assert_eq!(get(fabric.addresses.edge, "web", "/").await.status, 200);
}

#[tokio::test]
async fn an_endpoint_that_the_token_is_not_for_is_served_once_it_is_and_the_others_meanwhile() {
    let log = Log::of_this_thread();
    let tokens = Tokens::new();
    let fabric = tokens.node().await;
    tokens.put(&tokens.token(3600 * 1000 * MS, &["one"]));
    let web = service::mirror().await;
    let client = with_token(fabric.client(), Token::file(tokens.file()));
    let endpoints = ["one", "two"].map(|name| (name, Kind::Http, web.address.to_string()));
    let _agent = serve(fabric.start_agent(client, &endpoints));
    let serves = |endpoint| fabric.node.as_ref().expect("it runs").serves(endpoint);
    eventually("the one is served", async || serves("one")).await;
    eventually("the other is refused", async || refused(&fabric, "endpoint_not_permitted").await > 0).await;
    tokens.put(&tokens.token(3500 * 1000 * MS, &["one", "two"]));
    eventually("both are served", async || serves("one") && serves("two")).await;
    assert_eq!(log.lines("the node refuses an endpoint").len(), 1);
    assert!(log.lines("the link must be replaced").is_empty(), "the link stands");
}

/// A node that is spoken by hand: it welcomes a link and then leaves it to the test.
struct Scripted {
    fabric: Fabric,
    listener: quic::Listener,
    address: SocketAddr,
}

/// The node's end of a link that has said `Hello`.
struct Opened {
    link: Link,
    hello: Hello,
    reader: ControlReader,
    writer: ControlWriter,
}

impl Scripted {
    async fn start() -> Self {
        // For its authority alone.
        let fabric = Fabric::start().await;
        let tls =
            ok(tls::server_config(&[identity(&fabric.authority, &["127.0.0.1"])], ClientAuth::None, &[LINK]));
        let listener = ok(quic::Listener::bind(([127, 0, 0, 1], 0).into(), tls, None, &Settings::default()));
        let address = ok(listener.local_address());
        Self { fabric, listener, address }
    }

    fn client(&self, token: Token) -> client::Config {
        let mut config = with_token(self.fabric.client(), token);
        config.connect = HostPort { host: "127.0.0.1".into(), port: self.address.port() }.into();
        config.links = 1;
        config
    }

    /// The next link, its `Hello` read and not answered.
    async fn asked(&self) -> Opened {
        let link = ok(soon(self.listener.accept()).await.expect("a link comes").handshake(SOON).await);
        let stream = ok(soon(link.accept()).await);
        let (mut reader, writer) = (ControlReader::new(stream.recv), ControlWriter::new(stream.send));
        match ok(soon(reader.next()).await) {
            Control::Hello(hello) => Opened { link, hello, reader, writer },
            other => panic!("{other:?}"),
        }
    }

    async fn welcomed(&self) -> Opened {
        let mut opened = self.asked().await;
        let welcome = Welcome {
            version: VERSION,
            node: ok(NodeId::new("scripted")),
            cluster: "test".into(),
            nodes: Vec::new(),
            max_listens: 9,
        };
        opened.say(Control::Welcome(welcome)).await;
        for listen in opened.hello.listens.clone() {
            opened.say(Control::Listening(listen.id)).await;
        }
        opened
    }
}

impl Opened {
    async fn say(&mut self, frame: Control) {
        ok(self.writer.send(&frame).await);
    }

    /// The next token that it is shown.
    async fn token(&mut self) -> String {
        let shown = async {
            loop {
                match ok(self.reader.next().await) {
                    Control::Token(token) => return token.expose().to_owned(),
                    Control::Ping(number) => ok(self.writer.send(&Control::Pong(number)).await),
                    other => panic!("{other:?}"),
                }
            }
        };
        soon(shown).await
    }

    async fn refuse(&mut self, why: &str) {
        self.say(Control::Refused(Refusal::new(Code::Unauthenticated, why))).await;
    }

    fn shown(&self) -> &str {
        self.hello.token.as_ref().map_or("", Secret::expose)
    }
}

/// Tokens with these words in turn, each of which ends in so long; and how often one was asked for.
fn counted(life: Duration) -> (Token, Arc<AtomicUsize>) {
    let (tokens, asked) = (Tokens::new(), Arc::<AtomicUsize>::default());
    let counter = Arc::clone(&asked);
    let source = move || {
        let number = counter.fetch_add(1, Relaxed);
        let token = tokens.token(life, &[&format!("n{number}")]);
        async move { Ok::<_, BoxError>(Secret::new(token)) }
    };
    (Token::from_source(source), asked)
}

#[tokio::test]
async fn a_program_renews_by_a_closure_ahead_of_the_end_on_both_kinds_of_links() {
    for role in [Role::Agent, Role::Forwarder] {
        let node = Scripted::start().await;
        let (token, asked) = counted(4 * 1000 * MS);
        let client = ok(Client::new(node.client(token)));
        assert_eq!(asked.load(Relaxed), 0, "nothing is asked for before a link is");
        let tasks = Tasks::new();
        let (user, name) = (client.clone(), ok(EndpointId::new("web")));
        tasks.spawn(async move {
            match role {
                Role::Agent => {
                    let _listener = ok(user.listen(name, Kind::Tcp).await);
                    std::future::pending().await
                }
                Role::Forwarder => drop(user.forwarder_state()),
            }
        });
        let mut opened = node.welcomed().await;
        assert_eq!(opened.hello.role, role);
        let mut last = opened.shown().to_owned();
        for _ in 0..2 {
            let started = SystemTime::now();
            let token = opened.token().await;
            assert_ne!(token, last);
            assert!(ok(started.elapsed()) < 4 * 1000 * MS, "it comes before the last one ends");
            last = token;
        }
        assert_eq!(opened.link.lost(), None);
        tasks.abort();
    }
}

#[tokio::test]
async fn a_node_that_refuses_a_new_token_keeps_the_link_and_is_shown_others() {
    let log = Log::of_this_thread();
    let node = Scripted::start().await;
    let (token, asked) = counted(2 * 1000 * MS);
    let client = ok(Client::new(node.client(token)));
    drop(client.forwarder_state());
    let mut opened = node.welcomed().await;
    let mut shown = vec![opened.shown().to_owned()];
    for why in ["the key is new", "the key is new", "the key is old"] {
        shown.push(opened.token().await);
        opened.refuse(why).await;
    }
    shown.push(opened.token().await);
    let all = shown.len();
    shown.sort();
    shown.dedup();
    assert_eq!(shown.len(), all, "each is another");
    assert_eq!(opened.link.lost(), None, "the link stands");
    assert!(asked.load(Relaxed) >= all);
    assert_eq!(log.lines("the key is new").len(), 1, "{:?}", log.lines("the key"));
    assert_eq!(log.lines("the key is old").len(), 1);
    assert!(log.lines("the key is new")[0].contains("WARN"));

    // Then the old one ends, and the link with it; what comes after it is one more.
    opened.link.close(Close::Expired, "the credentials have expired");
    let next = node.welcomed().await;
    assert!(!shown.contains(&next.shown().to_owned()), "a token is got for the new link");
}

#[tokio::test]
async fn a_fixed_token_that_is_refused_is_shown_again_slowly() {
    let log = Log::of_this_thread();
    let node = Scripted::start().await;
    let mut config = node.client(Token::fixed(Secret::new("fixed")));
    assert!(config.refused.first >= 10 * 1000 * MS && config.refused.longest <= 60 * 1000 * MS, "by default");
    config.refused = Backoff { first: 1500 * MS, longest: 1 * MS };
    let client = ok(Client::new(config));
    drop(client.forwarder_state());
    let mut last: Option<SystemTime> = None;
    for code in [Code::Unauthenticated, Code::Unauthenticated, Code::Forbidden, Code::Forbidden] {
        let mut opened = node.asked().await;
        assert_eq!(opened.shown(), "fixed");
        assert!(last.is_none_or(|last| ok(last.elapsed()) >= 1500 * MS), "not at once");
        last = Some(SystemTime::now());
        opened.say(Control::Refused(Refusal::new(code, "no"))).await;
        opened.writer.finish().await;
        opened.link.close(Close::Refused, "no");
    }
    node.asked().await;
    let told =
        |code: Code| log.lines("trying on slowly").iter().filter(|line| line.contains(code.name())).count();
    assert_eq!(
        (told(Code::Unauthenticated), told(Code::Forbidden)),
        (1, 1),
        "each reason once, not each try"
    );
}

/// Runs `adit` in the folder of a node, with a link to it.
fn run(folder: &Path, link: SocketAddr, words: &[&str]) -> Process {
    Process::start(folder, &[words, &["--connect", &link.to_string()]].concat())
}

#[tokio::test]
async fn tokens_come_from_a_file_or_a_command_on_the_line_and_are_never_shown() {
    let tokens = Tokens::new();
    let folder = tokens.folder.path();
    let any = "127.0.0.1:0";
    ok(fs::write(folder.join("token.pub"), tokens.issuer.public_pem()));
    let node = Process::start(
        folder,
        &[
            "node",
            "--edge-bind",
            any,
            "--link-bind",
            any,
            "--admin-bind",
            any,
            "--peer-bind",
            any,
            "--link-auth-key-file",
            "token.pub",
            "--link-auth-skew=0s",
        ],
    );
    let (edge, link) = (node.address("edge"), node.address("link"));
    let echo = service::mirror().await;
    let service = echo.address.to_string();
    let first = tokens.token(4 * 1000 * MS, &["*"]);
    tokens.put(&first);
    let by_file = run(folder, link, &["agent", "http", "by-file", &service, "--token-file", "token"]);
    let command = "echo mind the gap >&2; cat token";
    let by_command =
        run(folder, link, &["agent", "http", "by-command", &service, "--token-command", command]);
    for endpoint in ["by-file", "by-command"] {
        eventually("it is served", async || get(edge, endpoint, "/").await.status == 200).await;
    }
    let second = tokens.token(3600 * 1000 * MS, &["*"]);
    tokens.put(&second);
    for agent in [&by_file, &by_command] {
        eventually("it has the other token", async || agent.logged("there is a new token").len() == 2).await;
    }
    by_command.logs("mind the gap").await;
    for agent in [&by_file, &by_command] {
        assert_eq!(agent.logged("the link must be replaced"), [""; 0]);
        assert!([&first, &second].iter().all(|token| agent.logged(token).is_empty()));
    }
    let two = ["agent", "http", "web", &service, "--token-file", "token", "--token-command", "cat token"];
    let mut wrong = run(folder, link, &two);
    assert_eq!(wrong.wait_in_time().await, Some(2));
    wrong.logs("--token-file and --token-command exclude each other").await;
}
