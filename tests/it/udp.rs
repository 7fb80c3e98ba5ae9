//! UDP: packets arrive whole, at the right service and the right client, whatever their size; what is dropped is counted;
//! and associations end by themselves and begin anew.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use adit::{
    client,
    edge::udp::Port,
    forward::PortKind,
    protocol::{Flow, Kind, Role},
    splice::packets::Dropped,
    transport::{self, DatagramError},
};
use http::StatusCode;
use tokio::{io::AsyncWriteExt, net::UdpSocket, time::sleep};

use crate::support::{
    Fabric, SOON,
    client::{get, sentence},
    cluster::Nodes,
    eventually,
    fabric::forwarder_of,
    middle::Middle,
    ok, random,
    raw::{Raw, hello, opening},
    service, soon,
    udp::{Client, Echo, UDP, UdpPath, metric},
};

/// Of every size that matters: empty, of a DNS question, around the limits of datagrams, and the largest there is.
const SIZES: [usize; 12] = [0, 1, 33, 512, 1200, 1420, 1500, 6500, 9000, 60_000, 65_507, 0];

const MS: Duration = Duration::from_millis(1);

async fn echoes_every_size(client: &Client) {
    for size in SIZES {
        let packet = random(size);
        assert!(client.ask(&packet).await == packet, "{size} bytes");
    }
}

#[tokio::test]
async fn packets_of_any_size_reach_the_service_and_come_back() {
    let echo = Echo::start().await;
    let path = UdpPath::to(echo.address).await;
    echoes_every_size(&path.client().await).await;
    assert_eq!(echo.clients(), 1, "one client has one association");
}

#[tokio::test]
async fn packets_of_any_size_cross_nodes() {
    let nodes = Nodes::start(2).await;
    let echo = Echo::start().await;
    let _agent = nodes.all[1].agent("udp", Kind::Udp, echo.address).await;
    let (_forwarder, port) = nodes.all[0].forwarder_of("udp", UDP).await;
    echoes_every_size(&Client::of(port).await).await;
    assert_eq!(echo.clients(), 1);
    assert!(metric(nodes.all[0].addresses.admin, "adit_udp_packets_total{by=\"stream\"}").await > 0);
}

#[tokio::test]
async fn many_clients_that_ask_at_once_each_get_their_own_answers() {
    let echo = Echo::start().await;
    let path = UdpPath::to(echo.address).await;
    let clients = (0..100_u32).map(async |number| {
        let client = path.client().await;
        for round in 0..5_u32 {
            let question = [number.to_be_bytes(), round.to_be_bytes()].concat();
            assert_eq!(client.ask(&question).await, question);
        }
    });
    soon(futures_util::future::join_all(clients)).await;
    assert_eq!(echo.clients(), 100);
}

#[tokio::test]
async fn a_stream_of_packets_as_large_as_wireguards_loses_few_and_repeats_none() {
    const PACKETS: u32 = 5000;
    let echo = Echo::start().await;
    let path = UdpPath::to(echo.address).await;
    let client = path.client().await;
    // The path's limit is known by then.
    echoes_every_size(&client).await;
    let body = random(1420 - 4);
    let send = async {
        for number in 0..PACKETS {
            client.send(&[&number.to_be_bytes()[..], &body].concat()).await;
            if number % 10 == 0 {
                sleep(MS).await;
            }
        }
    };
    let receive = async {
        let mut seen = BTreeSet::new();
        let mut buf = vec![0; 2000];
        while let Ok(len) = tokio::time::timeout(Duration::from_secs(1), client.0.recv(&mut buf)).await {
            let (number, rest) = buf[..ok(len)].split_first_chunk().expect("it has a number");
            assert!(rest == body, "packets arrive as they were sent");
            assert!(seen.insert(u32::from_be_bytes(*number)), "none arrives twice");
        }
        seen.len()
    };
    let ((), arrived) = tokio::join!(send, receive);
    assert!(arrived as u32 > PACKETS * 9 / 10, "{arrived}");
    assert_eq!(echo.clients(), 1);
    let admin = path.fabric.addresses.admin;
    let by_datagram = metric(admin, "adit_udp_packets_total{by=\"datagram\"}").await;
    assert!(by_datagram > 2 * u64::from(PACKETS) * 9 / 10, "{by_datagram} went by datagrams");
}

#[tokio::test]
async fn an_association_that_is_idle_ends_and_the_next_packet_begins_another() {
    let fabric = Fabric::start().await;
    let echo = Echo::start().await;
    let _agent = fabric.agent("udp", Kind::Udp, echo.address).await;
    let (_forwarder, port) = fabric.forwarder_of("udp", PortKind::Udp { idle: 1500 * MS }).await;
    let client = Client::of(port).await;
    let began = Instant::now();
    while began.elapsed() < 3000 * MS {
        assert_eq!(client.ask(b"here").await, b"here");
        sleep(100 * MS).await;
    }
    assert_eq!(echo.clients(), 1, "it was never idle");
    let admin = fabric.addresses.admin;
    eventually("the association has ended", async || metric(admin, "adit_udp_associations").await == 0).await;
    assert_eq!(client.ask(b"again").await, b"again");
    assert_eq!(echo.clients(), 2);
}

#[tokio::test]
async fn an_agent_that_restarts_is_found_by_the_next_packets() {
    let echo = Echo::start().await;
    let UdpPath { agent, forwarder: _forwarder, port, fabric } = UdpPath::to(echo.address).await;
    let client = Client::of(port).await;
    assert_eq!(client.ask(b"before").await, b"before");
    drop(agent);
    client.send(b"lost").await;
    let _agent = fabric.agent("udp", Kind::Udp, echo.address).await;
    answers_again(&client).await;
    assert!(echo.clients() > 1, "it has another association");
}

#[tokio::test]
async fn a_node_that_restarts_is_found_by_the_next_packets() {
    let echo = Echo::start().await;
    let UdpPath { agent: _agent, forwarder: _forwarder, port, mut fabric } = UdpPath::to(echo.address).await;
    let client = Client::of(port).await;
    assert_eq!(client.ask(b"before").await, b"before");
    fabric.kill();
    fabric.restart().await;
    answers_again(&client).await;
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_left_for_one_that_does() {
    for nodes in [1, 2] {
        let nodes = Nodes::start(nodes).await;
        let (near, far) = (&nodes.all[0], &nodes.all[nodes.all.len() - 1]);
        let (first, second) = (Echo::start().await, Echo::start().await);
        let middle = Middle::start(far.addresses.link).await;
        let endpoint = [("udp", Kind::Udp, first.address.to_string())];
        let silent = far.start_agent(client::Config { links: 1, ..far.client_at(middle.address) }, &endpoint);
        ok(soon(silent.serve()).await);
        let (_forwarder, port) = near.forwarder_of("udp", UDP).await;
        let client = Client::of(port).await;
        answers_again(&client).await;
        let _agent = near.agent("udp", Kind::Udp, second.address).await;
        middle.cut(true);
        let cut = Instant::now();
        answers_again(&client).await;
        assert!(cut.elapsed() < Duration::from_secs(12), "long before the link is lost: {:?}", cut.elapsed());
        assert_eq!((first.clients(), second.clients()), (1, 1));
    }
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_left_for_one_that_does() {
    let nodes = Nodes::start(2).await;
    let echo = Echo::start().await;
    let _agent = nodes.all[1].agent("udp", Kind::Udp, echo.address).await;
    let middle = Middle::start(nodes.all[0].addresses.link).await;
    let client = nodes.all[0].client_at(middle.address);
    let (_forwarder, port) = forwarder_of(client, "udp", UDP).await;
    let client = Client::of(port).await;
    answers_again(&client).await;
    middle.cut(true);
    let cut = Instant::now();
    answers_again(&client).await;
    assert!(cut.elapsed() < Duration::from_secs(12), "long before the link is lost: {:?}", cut.elapsed());
}

/// Sends until an answer comes.
async fn answers_again(client: &Client) {
    eventually("answers come again", async || {
        let question = random(20);
        client.send(&question).await;
        // What answers an earlier one says nothing.
        let answered = async { while client.recv().await != question {} };
        tokio::time::timeout(100 * MS, answered).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_service_that_is_not_there_breaks_nothing_and_is_found_once_it_is() {
    // A port at which nobody is and that nobody else is given meanwhile: a socket that is connected elsewhere has it, and what
    // anybody else sends there is refused.
    let held = ok(UdpSocket::bind("127.0.0.1:0").await);
    ok(held.connect("127.0.0.1:1").await);
    let address = ok(held.local_addr());
    let path = UdpPath::to(address).await;
    let client = path.client().await;
    let counters = path.agent.client().packets().clone();
    eventually("the system tells that packets are refused", async || {
        client.send(b"anybody?").await;
        counters.dropped(Dropped::Undelivered) > 2
    })
    .await;
    assert_eq!(metric(path.fabric.addresses.admin, "adit_udp_associations").await, 1, "it stands");
    drop(held);
    let echo = Echo::at(address).await;
    answers_again(&client).await;
    assert_eq!(echo.clients(), 1);
}

#[tokio::test]
async fn a_flow_of_the_wrong_kind_is_refused_with_the_kind_that_is_right() {
    let fabric = Fabric::start().await;
    let (echo, mirror) = (Echo::start().await, service::mirror().await);
    let _udp = fabric.agent("udp", Kind::Udp, echo.address).await;
    let _web = fabric.agent("web", Kind::Http, mirror.address).await;
    let answer = get(fabric.addresses.edge, "udp", "/").await;
    assert!(sentence(&answer, 502, "unsupported").contains("udp"), "{}", answer.text());
    let (forwarder, port) = fabric.forwarder_of("web", UDP).await;
    let client = Client::of(port).await;
    client.send(b"GET / HTTP/1.1\r\n\r\n").await;
    let counters = forwarder.client().packets();
    eventually("it is dropped", async || counters.dropped(Dropped::Unreachable) == 1).await;
    assert_eq!(get(fabric.addresses.edge, "web", "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn packets_wait_for_an_answer_that_is_late_and_no_more_than_a_few() {
    let fabric = Fabric::start().await;
    let mut hello = hello(Role::Agent, 1, &["udp"]);
    hello.listens[0].kind = Kind::Udp;
    let agent = Raw::welcomed(&fabric, hello).await;
    let (forwarder, port) = fabric.forwarder_of("udp", UDP).await;
    let client = Client::of(port).await;
    let packets: Vec<_> = (0..100_u8).map(|number| [number]).collect();
    client.send(&packets[0]).await;
    let mut stream = ok(soon(agent.link.accept()).await);
    assert!(
        matches!(transport::read_flow(&mut stream.recv).await, Ok(Flow::Open(open)) if open.kind == Kind::Udp)
    );
    for packet in &packets[1..] {
        client.send(packet).await;
    }
    let counters = forwarder.client().packets();
    eventually("most are dropped", async || counters.dropped(Dropped::QueueFull) == 84).await;
    ok(transport::write_flow(&mut stream, &Flow::Opened).await);
    for packet in &packets[..16] {
        let datagram = ok(soon(agent.link.datagram()).await);
        assert_eq!(&datagram[..], &[&[stream.id() as u8][..], packet].concat());
    }
}

#[tokio::test]
async fn a_forwarder_that_leaves_ends_what_is_silent_and_waits_for_what_is_not() {
    let echo = Echo::start().await;
    let UdpPath { agent: _agent, forwarder, port, fabric: _fabric } = UdpPath::to(echo.address).await;
    let (silent, talking) = (Client::of(port).await, Client::of(port).await);
    for client in [&silent, &talking] {
        assert_eq!(client.ask(b"once").await, b"once");
    }
    let talk = async {
        for _ in 0..60 {
            assert_eq!(talking.ask(b"still here").await, b"still here");
            sleep(100 * MS).await;
        }
    };
    let began = Instant::now();
    let (drained, ()) = tokio::join!(forwarder.drain(Duration::from_secs(60)), talk);
    ok(drained);
    // Long before either is idle by the time-out.
    assert!(began.elapsed() > Duration::from_secs(6) && began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(echo.clients(), 2);
}

#[tokio::test]
async fn a_plain_port_of_a_node_needs_no_forwarder() {
    let endpoint = ok("udp".parse());
    let any = ([127, 0, 0, 1], 0).into();
    let fabric = Fabric::with(|config| config.udp.ports = vec![Port { listen: any, endpoint }]).await;
    let echo = Echo::start().await;
    let port = fabric.node.as_ref().expect("it runs").udp_ports()[0].listen;
    let client = Client::of(port).await;
    // Nobody serves the endpoint yet.
    client.send(b"lost").await;
    let admin = fabric.addresses.admin;
    let lost = "adit_udp_dropped_total{reason=\"unreachable\"}";
    eventually("the packet is dropped and counted", async || metric(admin, lost).await == 1).await;
    let _agent = fabric.agent("udp", Kind::Udp, echo.address).await;
    answers_again(&client).await;
    echoes_every_size(&Client::of(port).await).await;
    assert_eq!(echo.clients(), 2);
    assert_eq!(metric(admin, "adit_udp_associations").await, 2);
}

#[tokio::test]
async fn an_agent_that_leaves_ends_the_silent_associations() {
    let echo = Echo::start().await;
    let UdpPath { agent, forwarder: _forwarder, port, fabric: _fabric } = UdpPath::to(echo.address).await;
    let client = Client::of(port).await;
    assert_eq!(client.ask(b"once").await, b"once");
    ok(soon(agent.drain(Duration::from_secs(60))).await);
}

#[tokio::test]
async fn a_node_that_leaves_ends_the_silent_associations_of_its_ports() {
    let endpoint = ok("udp".parse());
    let any = ([127, 0, 0, 1], 0).into();
    let mut fabric = Fabric::with(|config| config.udp.ports = vec![Port { listen: any, endpoint }]).await;
    let echo = Echo::start().await;
    let _agent = fabric.agent("udp", Kind::Udp, echo.address).await;
    let node = fabric.node.take().expect("it runs");
    let client = Client::of(node.udp_ports()[0].listen).await;
    assert_eq!(client.ask(b"once").await, b"once");
    ok(soon(node.drain()).await);
}

/// What a hostile forwarder sends; the node's admin port.
async fn flooded(fabric: &Fabric, datagrams: impl Iterator<Item = Vec<u8>>) -> Raw {
    let raw = Raw::welcomed(fabric, hello(Role::Forwarder, 1, &[])).await;
    for datagram in datagrams {
        // What the link has no room for is as good as lost on the way.
        let _ = raw.link.send_datagram(datagram.into());
        tokio::task::yield_now().await;
    }
    raw
}

#[tokio::test]
async fn datagrams_that_belong_to_nothing_are_dropped_and_counted() {
    let fabric = Fabric::start().await;
    let short = [vec![], vec![0x40], vec![0xc0, 1, 2, 3]].into_iter();
    let unknown =
        (0..2000_u32).map(|number| [&(number | 0x8000_0000).to_be_bytes()[..], &[7; 1000]].concat());
    let raw = flooded(&fabric, short.chain(unknown)).await;
    let admin = fabric.addresses.admin;
    let dropped = "adit_udp_dropped_total{reason=\"no_association\"}";
    eventually("they are dropped", async || metric(admin, dropped).await > 100).await;
    assert!(raw.link.lost().is_none(), "the link lives on");

    // The control stream's are nobody's on a forwarder's link, and the next association works.
    let _ = raw.link.send_datagram(vec![0, 1, 2, 3].into());
    let echo = Echo::start().await;
    let _agent = fabric.agent("udp", Kind::Udp, echo.address).await;
    let (_forwarder, port) = fabric.forwarder_of("udp", UDP).await;
    echoes_every_size(&Client::of(port).await).await;
}

#[tokio::test]
async fn what_is_too_large_for_a_datagram_takes_the_stream_also_while_the_link_is_full() {
    let fabric = Fabric::start().await;
    let raw = Raw::welcomed(&fabric, hello(Role::Forwarder, 1, &[])).await;
    // Nothing leaves before this task waits.
    let full = (0..10_000).find_map(|_| raw.link.send_datagram(vec![4; 1000].into()).err());
    assert_eq!(full, Some(DatagramError::Full));
    assert_eq!(raw.link.send_datagram(vec![4; 60_000].into()), Err(DatagramError::TooLarge));
}

#[tokio::test]
async fn datagrams_that_overtake_their_stream_arrive_all_the_same() {
    let fabric = Fabric::start().await;
    let echo = Echo::start().await;
    let _agent = fabric.agent("udp", Kind::Udp, echo.address).await;
    let raw = Raw::welcomed(&fabric, hello(Role::Forwarder, 1, &[])).await;
    let mut stream = ok(raw.link.open(SOON).await);
    for packet in [b"one", b"two"] {
        ok(raw.link.send_datagram([&[stream.id() as u8][..], packet].concat().into()));
    }
    sleep(50 * MS).await;
    ok(soon(transport::ask(&mut stream, opening(Kind::Udp, "udp"))).await);
    for packet in [b"one", b"two"] {
        assert_eq!(&ok(soon(raw.link.datagram()).await)[1..], packet);
    }
}

#[tokio::test]
async fn an_association_that_takes_nothing_holds_up_no_other() {
    let fabric = Fabric::start().await;
    let echo = Echo::start().await;
    let _agent = fabric.agent("udp", Kind::Udp, echo.address).await;
    let mut silent = hello(Role::Agent, 1, &["silent"]);
    silent.listens[0].kind = Kind::Udp;
    let silent = Raw::welcomed(&fabric, silent).await;
    let raw = Raw::welcomed(&fabric, hello(Role::Forwarder, 2, &[])).await;

    // Large packets fill what the silent agent's stream may have under way, and then the queue in front of it.
    let mut stuck = ok(raw.link.open(SOON).await);
    let accept = async {
        let mut stream = ok(soon(silent.link.accept()).await);
        assert!(matches!(transport::read_flow(&mut stream.recv).await, Ok(Flow::Open(_))));
        ok(transport::write_flow(&mut stream, &Flow::Opened).await);
        stream
    };
    let (opened, _unread) = tokio::join!(transport::ask(&mut stuck, opening(Kind::Udp, "silent")), accept);
    ok(opened);
    let large = ok(adit::protocol::encode_packet(&[7; 60_000]).ok_or("it is too long"));
    let fill = async { while stuck.send.write_all(&large).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(2), fill).await.is_err(), "it stalls");
    for _ in 0..1000 {
        let _ = raw.link.send_datagram([&[stuck.id() as u8][..], &[7; 1000]].concat().into());
        tokio::task::yield_now().await;
    }

    let mut stream = ok(raw.link.open(SOON).await);
    ok(soon(transport::ask(&mut stream, opening(Kind::Udp, "udp"))).await);
    let question = [&[stream.id() as u8][..], b"hello"].concat();
    ok(raw.link.send_datagram(question.clone().into()));
    assert_eq!(&ok(soon(raw.link.datagram()).await)[..], question);
    let admin = fabric.addresses.admin;
    let dropped = "adit_udp_dropped_total{reason=\"queue_full\"}";
    eventually("what nobody takes is dropped", async || metric(admin, dropped).await > 0).await;
}
