//! An agent keeps links to several nodes, finds them by itself, and never pays for one with another.
//!
//! The nodes here are spoken by hand: what they list, and when they leave, is the scenario.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use adit::{
    agent::Agent,
    client::{self, Client, Transport},
    drain::Tasks,
    net::HostPort,
    protocol::{
        Close, Code, Control, EndpointId, GoAway, GoAwayReason, Hello, Kind, NodeAddress, NodeId, Refusal,
        VERSION, Welcome,
    },
    tls::{self, Authority, ClientAuth, Trust},
    transport::{ControlReader, ControlWriter, Link, Settings, quic},
};
use tokio::sync::watch;

use crate::support::{
    Fabric, SOON,
    client::get,
    eventually,
    fabric::{LINK, identity},
    ok, service, soon,
};

/// What all nodes of a test have seen, in order, such as "a listen web".
#[derive(Debug, Default)]
struct Journal(Mutex<Vec<String>>);

impl Journal {
    fn add(&self, node: &NodeId, what: impl std::fmt::Display) {
        self.0.lock().expect("nobody panics with it").push(format!("{node} {what}"));
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().expect("nobody panics with it").clone()
    }

    fn count(&self, what: &str) -> usize {
        self.all().iter().filter(|seen| *seen == what).count()
    }

    /// How many links a node has.
    fn links(&self, node: &str) -> usize {
        self.count(&format!("{node} welcome")) - self.count(&format!("{node} closed"))
    }

    async fn has(&self, what: &str) {
        eventually(what, async || self.count(what) > 0).await;
    }
}

/// A node that does as its test says.
#[derive(Debug)]
struct Fake {
    address: SocketAddr,
    /// Frames for all of its links, each sent once.
    say: watch::Sender<Option<Control>>,
    /// Whether listens are acknowledged.
    acknowledges: watch::Sender<bool>,
    nodes: Arc<Mutex<Vec<NodeAddress>>>,
    hellos: Arc<AtomicUsize>,
    tasks: Tasks,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

fn id(name: &str) -> NodeId {
    ok(NodeId::new(name))
}

impl Fake {
    /// One that is called by these names in turn, for each link the next, and by the last for ever.
    fn start(
        authority: &Authority,
        host: &str,
        journal: &Arc<Journal>,
        names: &'static [&'static str],
    ) -> Self {
        let tls = ok(tls::server_config(&[identity(authority, &[host])], ClientAuth::None, &[LINK]));
        let any = ([127, 0, 0, 1], 0).into();
        let listener = ok(quic::Listener::bind(any, tls, None, &Settings::default()));
        let fake = Self {
            address: ok(listener.local_address()),
            say: watch::Sender::new(None),
            acknowledges: watch::Sender::new(true),
            nodes: Arc::default(),
            hellos: Arc::default(),
            tasks: Tasks::new(),
        };
        let (tasks, hellos, nodes) = (fake.tasks.clone(), Arc::clone(&fake.hellos), Arc::clone(&fake.nodes));
        let (say, acknowledges) = (fake.say.clone(), fake.acknowledges.clone());
        let journal = Arc::clone(journal);
        fake.tasks.spawn(async move {
            while let Some(incoming) = listener.accept().await {
                let Ok(link) = incoming.handshake(SOON).await else { continue };
                let Ok(stream) = link.accept().await else { continue };
                let (mut reader, mut writer) =
                    (ControlReader::new(stream.recv), ControlWriter::new(stream.send));
                let Ok(Control::Hello(hello)) = reader.next().await else { continue };
                let turn = hellos.fetch_add(1, Relaxed);
                let node = id(names[turn.min(names.len() - 1)]);
                if hello.avoid.contains(&node) {
                    journal.add(&node, "refused");
                    drop(writer.send(&Control::Refused(Refusal::new(Code::Elsewhere, "you have me"))).await);
                    writer.finish().await;
                    link.close(Close::Refused, "refused");
                    continue;
                }
                let nodes = nodes.lock().expect("nobody panics with it").clone();
                let cluster = "test".into();
                let welcome =
                    Welcome { version: VERSION, node: node.clone(), cluster, nodes, max_listens: 100 };
                journal.add(&node, "welcome");
                ok(writer.send(&Control::Welcome(welcome)).await);
                let serve = serve(
                    node,
                    Arc::clone(&journal),
                    link,
                    hello,
                    (reader, writer),
                    say.subscribe(),
                    acknowledges.subscribe(),
                );
                tasks.spawn(serve);
            }
        });
        fake
    }

    fn lists(&self, nodes: &[(&str, SocketAddr)]) {
        let list = nodes
            .iter()
            .map(|(node, address)| NodeAddress { node: id(node), address: address.to_string() })
            .collect();
        *self.nodes.lock().expect("nobody panics with it") = list;
    }

    fn say(&self, frame: Control) {
        self.say.send_replace(Some(frame));
    }

    fn say_list(&self) {
        let list = self.nodes.lock().expect("nobody panics with it").clone();
        self.say(Control::Nodes(list));
    }

    fn leave(&self) {
        let (reason, deadline) = (GoAwayReason::Stopping, Duration::from_secs(60));
        self.say(Control::GoAway(GoAway { reason, deadline, smear: Duration::ZERO }));
    }
}

async fn serve(
    node: NodeId,
    journal: Arc<Journal>,
    link: Link,
    hello: Hello,
    (mut reader, mut writer): (ControlReader, ControlWriter),
    mut say: watch::Receiver<Option<Control>>,
    mut acknowledges: watch::Receiver<bool>,
) {
    let mut unanswered = Vec::new();
    for listen in hello.listens {
        journal.add(&node, format_args!("listen {}", listen.endpoint));
        unanswered.push(listen.id);
    }
    say.mark_unchanged();
    loop {
        if *acknowledges.borrow_and_update() {
            for listen in unanswered.drain(..) {
                drop(writer.send(&Control::Listening(listen)).await);
            }
        }
        tokio::select! {
            frame = reader.next() => match frame {
                Ok(Control::Listen(listen)) => {
                    journal.add(&node, format_args!("listen {}", listen.endpoint));
                    unanswered.push(listen.id);
                }
                Ok(Control::Unlisten(listen)) => drop(writer.send(&Control::Unlistened(listen)).await),
                Ok(Control::GoAway(_)) => journal.add(&node, "goodbye"),
                Ok(_) => {}
                Err(_) => break,
            },
            Ok(()) = say.changed() => {
                let frame = say.borrow_and_update().clone().expect("it was said");
                drop(writer.send(&frame).await);
            }
            Ok(()) = acknowledges.changed() => {}
            _ = link.closed() => break,
        }
    }
    journal.add(&node, "closed");
}

/// Nodes that all list all.
fn fakes<const N: usize>(
    authority: &Authority,
    journal: &Arc<Journal>,
    names: [&'static [&'static str]; N],
) -> [Fake; N] {
    let fakes = names.map(|names| Fake::start(authority, "127.0.0.1", journal, names));
    for fake in &fakes {
        let all: Vec<_> = fakes.iter().zip(names).map(|(fake, names)| (names[0], fake.address)).collect();
        fake.lists(&all);
    }
    fakes
}

fn config(authority: &Authority, host: &str, port: u16) -> client::Config {
    let trust = Trust::Roots(vec![authority.certificate().clone()]);
    let connect = HostPort { host: host.into(), port };
    // What is faked is of UDP.
    client::Config { transport: Transport::Quic, ..ok(client::Config::new(connect.into(), &trust)) }
}

fn client(authority: &Authority, fake: &Fake) -> Client {
    ok(Client::new(config(authority, "127.0.0.1", fake.address.port())))
}

async fn listen(client: &Client, endpoint: &str) -> client::Listener {
    ok(soon(client.listen(ok(EndpointId::new(endpoint)), Kind::Tcp)).await)
}

fn authority() -> Authority {
    ok(Authority::generate("test authority"))
}

#[tokio::test]
async fn an_agent_that_is_told_of_two_nodes_serves_everything_through_both() {
    let (authority, journal) = (authority(), Arc::default());
    let [a, _b] = fakes(&authority, &journal, [&["a"], &["b"]]);
    let client = client(&authority, &a);
    let _web = listen(&client, "web").await;
    journal.has("a listen web").await;
    journal.has("b listen web").await;
    let _db = listen(&client, "db").await;
    journal.has("a listen db").await;
    journal.has("b listen db").await;
    let mut state = client.agent_state();
    let both = ok(soon(state.wait_for(|state| state.nodes().len() == 2)).await).clone();
    assert_eq!(both.nodes(), [&id("a"), &id("b")]);
    ok(soon(client.close(SOON)).await);
    eventually("both are closed", async || journal.links("a") + journal.links("b") == 0).await;
}

#[tokio::test]
async fn an_agent_links_to_a_third_node_before_it_lets_go_of_one_that_leaves() {
    let (authority, journal) = (authority(), Arc::default());
    let [a, b] = fakes(&authority, &journal, [&["a"], &["b"]]);
    let client = client(&authority, &a);
    let _web = listen(&client, "web").await;
    journal.has("b listen web").await;

    let c = Fake::start(&authority, "127.0.0.1", &journal, &["c"]);
    c.acknowledges.send_replace(false);
    a.lists(&[("a", a.address), ("b", b.address), ("c", c.address)]);
    c.lists(&[("a", a.address), ("b", b.address), ("c", c.address)]);
    a.say_list();
    let mut state = client.agent_state();
    // The fake holds one frame at a time. That it has written this one shows when its next answer has come.
    let _db = listen(&client, "db").await;
    a.leave();
    journal.has("c listen web").await;
    // This span is the scenario: the third node has not acknowledged the endpoint, so the first is not left.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((journal.count("a goodbye"), journal.count("a closed")), (0, 0), "{:?}", journal.all());
    c.acknowledges.send_replace(true);
    journal.has("a closed").await;
    assert_eq!(
        (journal.links("a"), journal.links("b"), journal.links("c")),
        (0, 1, 1),
        "{:?}",
        journal.all()
    );
    assert_eq!(a.hellos.load(Relaxed), 1, "a node that leaves is not asked again");
    let linked = ok(soon(state.wait_for(|state| state.nodes().len() == 2)).await).clone();
    assert_eq!(linked.nodes(), [&id("c"), &id("b")]);
}

#[tokio::test]
async fn a_node_that_leaves_is_let_go_when_the_other_is_all_there_is_and_used_again_when_it_is_back() {
    let (authority, journal) = (authority(), Arc::default());
    let [a, _b] = fakes(&authority, &journal, [&["a"], &["b"]]);
    let client = client(&authority, &a);
    let _web = listen(&client, "web").await;
    journal.has("b listen web").await;
    a.leave();
    journal.has("a closed").await;
    eventually("it is back", async || journal.count("a listen web") == 2).await;
    assert_eq!((journal.links("a"), journal.links("b")), (1, 1), "{:?}", journal.all());
    assert_eq!(journal.count("b closed"), 0);
}

#[tokio::test]
async fn a_link_to_a_node_that_dies_is_replaced_and_the_other_one_stays() {
    let (authority, journal) = (authority(), Arc::default());
    let [a, b, c] = fakes(&authority, &journal, [&["a"], &["b"], &["c"]]);
    let client = client(&authority, &a);
    let _web = listen(&client, "web").await;
    let mut state = client.agent_state();
    let two = ok(soon(state.wait_for(|state| state.nodes().len() == 2)).await).clone();
    let (dies, stays) = if *two.nodes()[1] == id("b") { (b, "c listen web") } else { (c, "b listen web") };
    drop(dies);
    journal.has(stays).await;
    assert_eq!((journal.links("a"), a.hellos.load(Relaxed)), (1, 1), "{:?}", journal.all());
}

#[tokio::test]
async fn behind_one_name_an_agent_asks_until_another_node_answers() {
    let nowhere = ok(tokio::net::UdpSocket::bind("127.0.0.1:0").await);
    // The second node is not listed, or where nothing answers: both times only the name leads there.
    for unreachable in [None, Some(("b", ok(nowhere.local_addr())))] {
        let (authority, journal) = (authority(), Arc::default());
        let balancer = Fake::start(&authority, "127.0.0.1", &journal, &["a", "a", "a", "b"]);
        balancer.lists(unreachable.as_slice());
        let client = client(&authority, &balancer);
        let _web = listen(&client, "web").await;
        journal.has("b listen web").await;
        assert_eq!(journal.count("a refused"), 2);
        assert_eq!((journal.links("a"), journal.links("b")), (1, 1), "{:?}", journal.all());
    }
}

#[tokio::test]
async fn a_cluster_of_one_node_is_not_asked_for_another_before_it_tells_of_one() {
    let (authority, journal) = (authority(), Arc::default());
    let [a] = fakes(&authority, &journal, [&["a"]]);
    let client = client(&authority, &a);
    let _web = listen(&client, "web").await;
    // This span is the scenario: an agent that looked for a second node would ask within 100 ms, and again and again.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(a.hellos.load(Relaxed), 1);
    assert_eq!((journal.count("a welcome"), journal.links("a")), (1, 1), "{:?}", journal.all());

    // But when a second node comes, it is not left waiting.
    let b = Fake::start(&authority, "127.0.0.1", &journal, &["b"]);
    a.lists(&[("a", a.address), ("b", b.address)]);
    a.say_list();
    journal.has("b listen web").await;
}

#[tokio::test]
async fn a_node_sends_an_agent_that_has_it_already_elsewhere_and_the_link_stays_as_it_is() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let agent: Agent = fabric.agent("web", Kind::Http, service.address).await;
    for _ in 0..20 {
        let status = get(fabric.addresses.admin, "", "/api/v1/status").await;
        let json: serde_json::Value = ok(serde_json::from_slice(&status.body));
        assert_eq!(json["links"].as_array().map(Vec::len), Some(1), "{json}");
        assert_eq!(json["links"][0]["state"], "up");
        assert_eq!(get(fabric.addresses.edge, "web", "/").await.status, 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(agent.client().agent_state().borrow().nodes().len(), 1);
}

#[tokio::test]
async fn a_listed_node_may_show_a_certificate_for_the_name_that_all_nodes_have() {
    let (authority, journal) = (authority(), Arc::default());
    let nodes = ["a", "b"].map(|name| {
        let names: &'static [&'static str] = if name == "a" { &["a"] } else { &["b"] };
        Fake::start(&authority, "localhost", &journal, names)
    });
    for node in &nodes {
        node.lists(&[("a", nodes[0].address), ("b", nodes[1].address)]);
    }
    let client = ok(Client::new(config(&authority, "localhost", nodes[0].address.port())));
    let _web = listen(&client, "web").await;
    journal.has("b listen web").await;
}
