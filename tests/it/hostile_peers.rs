//! Nodes that break the protocol between nodes, or have no business there, are refused or closed; each fault is logged once
//! and counted however often it comes, and the node goes on serving.

use std::time::Duration;

use adit::{
    cluster::membership::{Effect, Member, Membership},
    protocol::{
        ALPN_LINK, ALPN_PEER, Close, Code, Flow, Kind, Peer, PeerHello, Phase, Refusal, VERSION,
        encode_datagram,
    },
    tls::{Authority, Identity, NODE_NAME},
    transport::{self, Lost, OpenError},
};
use bytes::Bytes;
use http::StatusCode;
use tokio::{io::AsyncWriteExt, net::UdpSocket, time::Instant};

use crate::support::{
    Fabric, SOON,
    client::{get, metric},
    cluster::Nodes,
    eventually,
    fabric::identity,
    log::Log,
    ok,
    peer::{RawPeer, dial, hello, route},
    process::Process,
    service, soon,
};

async fn still_serves(node: &Fabric) {
    let service = service::mirror().await;
    let _agent = node.agent("web", Kind::Http, service.address).await;
    assert_eq!(get(node.addresses.edge, "web", "/").await.status, StatusCode::OK);
}

async fn refusals(node: &Fabric) -> u64 {
    metric(node.addresses.admin, "adit_peer_refusals_total").await
}

/// Waits until so many have been counted, and checks that of all of them there is one line, with this text.
async fn told_once(node: &Fabric, log: &Log, counted: u64, text: &str) {
    eventually(text, async || refusals(node).await >= counted).await;
    assert_eq!(refusals(node).await, counted);
    assert_eq!(log.lines(text).len(), 1, "{text}: {:?}", log.lines("a peer link"));
}

async fn close_code(link: &transport::Link) -> u64 {
    match soon(link.closed()).await {
        Lost::Peer { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_has_no_certificate_of_the_cluster_is_turned_away_by_tls() {
    let log = Log::of_this_thread();
    let node = Nodes::one().await;
    let named = |authority: &Authority| identity(authority, &[&format!("{NODE_NAME}n2")]);
    let stranger = named(&ok(Authority::generate("another authority")));
    let member = named(&node.authority);
    // The alerts of RFC 8446 §6: certificate_required, unknown_ca, no_application_protocol.
    let cases: [(Option<&Identity>, &[u8], u8, &str); 3] = [
        (None, ALPN_PEER, 116, "peer sent no certificates"),
        (Some(&stranger), ALPN_PEER, 48, "invalid peer certificate: UnknownIssuer"),
        (Some(&member), ALPN_LINK, 120, "peer doesn't support any known protocol"),
    ];
    let mut counted = 0;
    for (identity, alpn, alert, logged) in cases {
        for _ in 0..3 {
            // Those whose own part of the handshake was in order are told after it (RFC 8446 §4.4.2).
            let told = match dial(&node, identity, alpn).await {
                Ok((_dialer, link)) => soon(link.closed()).await.to_string(),
                Err(error) => error.to_string(),
            };
            assert!(told.contains(&format!("error {alert}:")), "{alert} is not in: {told}");
            counted += 1;
        }
        told_once(&node, &log, counted, logged).await;
    }
    still_serves(&node).await;
}

#[tokio::test]
async fn who_is_not_who_or_where_it_should_be_is_refused_with_a_reason() {
    let log = Log::of_this_thread();
    let node = Nodes::one().await;
    let _live = RawPeer::welcomed(&node, "n3").await;
    type Change = fn(&mut PeerHello);
    let cases: [(&str, Change, Code, &str); 6] = [
        ("n2", |hello| hello.cluster = "elsewhere".into(), Code::Forbidden, r#"not "elsewhere""#),
        (
            "n2",
            |hello| (hello.version, hello.oldest) = (VERSION + 2, VERSION + 1),
            Code::UnsupportedVersion,
            "this node speaks versions 1 to 1 between nodes",
        ),
        ("n2", |hello| hello.node = ok("n4".parse()), Code::Forbidden, r#"not for the node "n4""#),
        ("n1", |_| {}, Code::Forbidden, r#"another live node of the name "n1""#),
        (
            "n3",
            |hello| (hello.incarnation, hello.peer_address) = (2, "127.0.0.1:2".into()),
            Code::Forbidden,
            r#"another live node of the name "n3""#,
        ),
        // The same node once more. It is no fault, and nobody has to know.
        ("n3", |_| {}, Code::Superseded, ""),
    ];
    let mut counted = 0;
    for (certificate, change, code, text) in cases {
        for _ in 0..3 {
            let mut raw = RawPeer::open(&node, certificate).await;
            let mut hello = hello(certificate);
            change(&mut hello);
            raw.say(Peer::Hello(hello)).await;
            match raw.hear().await {
                Ok(Peer::Refused(refusal)) => {
                    assert_eq!(refusal.code, code);
                    assert!(refusal.message.contains(text), "{refusal}");
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(close_code(&raw.link).await, Close::Refused as u64);
            counted += u64::from(code != Code::Superseded);
        }
        if code == Code::Superseded {
            assert_eq!(refusals(&node).await, counted);
        } else {
            told_once(&node, &log, counted, text).await;
        }
    }
    let mut newer = hello("n2");
    newer.version = VERSION + 1;
    let mut raw = RawPeer::open(&node, "n2").await;
    raw.say(Peer::Hello(newer)).await;
    assert!(
        matches!(raw.hear().await, Ok(Peer::Welcome(_))),
        "a newer node that speaks this version is welcome"
    );
    still_serves(&node).await;
}

#[tokio::test]
async fn a_peer_link_that_begins_with_anything_but_hello_is_closed() {
    let log = Log::of_this_thread();
    let node = Nodes::one().await;
    let mut nowhere = hello("n2");
    nowhere.peer_address.clear();
    let hello = wire(&Peer::Hello(nowhere));
    let cases: [(&[u8], &str); 4] = [
        (&wire(&Peer::Ping(1)), "a peer link begins with Hello"),
        (&[0x30, 0xff, 0xff, 0xff], "16777215 bytes"),
        (&[0x30, 0, 0, 3, 0xff, 0xff, 0xff], "malformed"),
        (&hello, "peer address is empty"),
    ];
    let mut counted = 0;
    for (bytes, text) in cases {
        for _ in 0..3 {
            let mut raw = RawPeer::open(&node, "n2").await;
            raw.say_raw(bytes).await;
            assert_eq!(close_code(&raw.link).await, Close::Protocol as u64, "{text}");
            counted += 1;
        }
        told_once(&node, &log, counted, text).await;
    }
    let udp = ok(UdpSocket::bind("127.0.0.1:0").await);
    let peer = node.addresses.peer.expect("it has a peer port");
    for size in [0, 1, 20, 1200, 1400] {
        for fill in [0x00, 0x40, 0xc0, 0xff] {
            ok(udp.send_to(&vec![fill; size], peer).await);
        }
    }
    still_serves(&node).await;
}

/// A frame as it is on the wire.
fn wire(frame: &Peer) -> Bytes {
    let mut buf = bytes::BytesMut::new();
    adit::protocol::encode(frame, &mut buf);
    buf.freeze()
}

#[tokio::test]
async fn peers_that_say_nothing_are_closed_in_time_and_hold_nobody_up() {
    let log = Log::of_this_thread();
    let node = Nodes::one().await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(RawPeer::open(&node, "n2").await);
    }
    let second = silent[0].link.open(Duration::from_millis(200)).await;
    assert_eq!(second.err(), Some(OpenError::Busy), "one stream until Hello has been read");
    let _other = RawPeer::welcomed(&node, "n3").await;
    still_serves(&node).await;
    for raw in &silent {
        assert_eq!(close_code(&raw.link).await, Close::Timeout as u64);
    }
    told_once(&node, &log, 20, "no Hello in time").await;
}

#[tokio::test]
async fn a_peer_that_sends_garbage_is_closed_and_gets_no_other_link_for_a_while() {
    let log = Log::of_this_thread();
    let node = Nodes::one().await;
    let mut raw = RawPeer::welcomed(&node, "n2").await;
    raw.say_raw(&[0x7e, 0, 0, 2, 1, 2]).await;
    let named = raw.hear_of(|frame| match frame {
        Peer::Unsupported(kind) => Some(*kind),
        _ => None,
    });
    assert_eq!(named.await, 0x7e, "what a newer node might say is named and skipped");
    raw.say_raw(&[0x32, 0, 0, 2, 0xff, 0xff]).await;
    assert_eq!(close_code(&raw.link).await, Close::Protocol as u64);
    let closed = Instant::now();
    told_once(&node, &log, 1, "a peer link was closed for what the peer had sent").await;
    let mut tries = 0;
    let welcomed = async {
        loop {
            let mut raw = RawPeer::open(&node, "n2").await;
            raw.say(Peer::Hello(hello("n2"))).await;
            match raw.hear().await {
                Ok(Peer::Welcome(_)) => return,
                Ok(Peer::Refused(refusal)) => assert_eq!(refusal.code, Code::Busy, "{refusal}"),
                other => panic!("{other:?}"),
            }
            tries += 1;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    soon(welcomed).await;
    assert!(closed.elapsed() > Duration::from_secs(9), "{:?}", closed.elapsed());
    told_once(&node, &log, 1 + tries, "the last link of this node was closed for what it had sent").await;
    still_serves(&node).await;
}

#[tokio::test]
async fn a_peer_that_makes_links_and_no_use_of_them_is_no_news_and_one_that_does_not_want_them_is_once() {
    let log = Log::of_this_thread();
    let node = Nodes::one().await;
    let peers = async || metric(node.addresses.admin, "adit_peers").await;
    for (code, reason) in
        [(Close::Done, "done"), (Close::Refused, "your name is wrong"), (Close::Protocol, "your frame is")]
    {
        for _ in 0..3 {
            let raw = RawPeer::welcomed(&node, "n2").await;
            eventually("it is linked", async || peers().await == 1).await;
            raw.link.close(code, reason);
            eventually("it is closed", async || peers().await == 0).await;
        }
        assert_eq!(log.lines(reason).len(), usize::from(code != Close::Done), "{:?}", log.lines("n2"));
    }
    assert!(log.lines("linked to a peer").is_empty());
    let mut raw = RawPeer::welcomed(&node, "n2").await;
    raw.announce(std::iter::once(route(1, 1))).await;
    eventually("it is of use", async || log.lines("linked to a peer peer=n2").len() == 1).await;
    raw.link.close(Close::Done, "done");
    eventually("its end is told", async || log.lines("a peer link was closed peer=n2").len() == 1).await;
    assert_eq!(refusals(&node).await, 0, "it is the peer that refuses");
}

/// What a node that nobody has linked to would say to `to`, as one datagram.
fn message(from: &str, to: &Member) -> Bytes {
    let me = Member { node: ok(from.parse()), incarnation: 1, address: "127.0.0.1:1".into() };
    let (mut membership, now) = (Membership::new(me, 1), Instant::now());
    membership.announce(to, now);
    let sent = membership.effects().into_iter().find_map(|effect| match effect {
        Effect::Send { data, .. } => Some(data),
        _ => None,
    });
    sent.expect("it announces itself")
}

#[tokio::test]
async fn datagrams_that_are_no_message_of_the_links_node_are_dropped_and_the_link_goes_on() {
    let log = Log::of_this_thread();
    let node = Nodes::one().await;
    let mut raw = RawPeer::open(&node, "n2").await;
    raw.say(Peer::Hello(hello("n2"))).await;
    let Ok(Peer::Welcome(welcome)) = raw.hear().await else { panic!("it is welcome") };
    let n1 = Member { node: welcome.node, incarnation: welcome.incarnation, address: welcome.peer_address };
    let invalid = async || metric(node.addresses.admin, "adit_membership_invalid_total").await;
    let cases =
        [(Bytes::from_static(&[0xff; 90]), "malformed message"), (message("n9", &n1), "a message of n9")];
    let mut sent = 0;
    // Membership's are those of the control stream, which is the first.
    let send = |data: &[u8]| raw.link.send_datagram(encode_datagram(0, data)).is_ok();
    for (data, text) in cases {
        for _ in 0..30 {
            eventually("there is room", async || send(&data)).await;
            sent += 1;
        }
        eventually(text, async || invalid().await == sent).await;
        assert_eq!(log.lines(text).len(), 1, "{:?}", log.lines(text));
    }
    assert!(send(&message("n2", &n1)));
    eventually("its own message is heard", async || {
        !log.lines("a node is in the cluster peer=n2").is_empty()
    })
    .await;
    assert!(log.lines("a node is in the cluster peer=n9").is_empty());
    assert_eq!((invalid().await, raw.link.lost()), (sent, None));
    still_serves(&node).await;
}

#[tokio::test]
async fn a_phase_that_goes_back_and_forth_is_heard_once() {
    let log = Log::of_this_thread();
    let node = Nodes::one().await;
    let mut raw = RawPeer::welcomed(&node, "n2").await;
    for _ in 0..500 {
        for phase in [Phase::Draining, Phase::Ready] {
            raw.say(Peer::Phase(phase)).await;
        }
    }
    raw.say(Peer::Ping(7)).await;
    raw.hear_of(|frame| (*frame == Peer::Pong(7)).then_some(())).await;
    assert_eq!(log.lines("a peer has changed its phase").len(), 1);
    assert!(log.lines("a peer has changed its phase")[0].contains("draining"));
}

#[tokio::test]
async fn flows_of_a_peer_that_say_nothing_are_bounded_in_number_and_time() {
    const FLOWS: u32 = 8;
    let nodes = Nodes::with(1, |config| config.link.settings.max_flows = FLOWS).await;
    let node = &nodes.all[0];
    let raw = RawPeer::welcomed(node, "n2").await;
    let mut flows = Vec::new();
    for _ in 1..FLOWS {
        let mut flow = ok(raw.link.open(SOON).await);
        // The peer learns of a stream by its first byte.
        ok(flow.send.write_all(&[0x20]).await);
        flows.push(flow);
    }
    let more = raw.link.open(Duration::from_millis(200)).await;
    assert_eq!(more.err(), Some(OpenError::Busy), "the control stream is one of them");
    still_serves(node).await;
    for flow in &mut flows {
        match soon(transport::read_flow(&mut flow.recv)).await {
            Ok(Flow::Refused(Refusal { code: Code::Invalid, message })) => {
                assert!(message.contains("no Open within"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    drop(flows);
    ok(raw.link.open(SOON).await);
    assert_eq!(raw.link.lost(), None, "its other flows are not to blame");
}

/// Certificates of clusters, as `adit certs` makes them in folders of their own.
struct Certificates(tempfile::TempDir);

impl Certificates {
    async fn of(clusters: &[(&str, &[&str])]) -> Self {
        let made = Self(ok(tempfile::tempdir()));
        for (cluster, nodes) in clusters {
            made.run(&["ca", "--certs", cluster, "--name", cluster]).await;
            for node in *nodes {
                made.run(&["node", "127.0.0.1", "--node-id", node, "--certs", cluster, "--out", node]).await;
            }
        }
        made
    }

    async fn run(&self, words: &[&str]) {
        let mut adit = Process::start(self.0.path(), &[&["certs"], words].concat());
        assert_eq!(adit.wait_in_time().await, Some(0), "{words:?}");
    }

    /// Starts a node with a certificate of a cluster.
    fn node(&self, name: &str, cluster: &str, more: &[&str]) -> Process {
        let path = |file: &str| format!("{cluster}/{file}");
        let (cert, key, ca) = (path(&format!("{name}.pem")), path(&format!("{name}.key")), path("ca.pem"));
        let mut words = vec!["node", "--node-id", name];
        for port in ["--edge-bind", "--link-bind", "--admin-bind", "--peer-bind"] {
            words.extend([port, "127.0.0.1:0"]);
        }
        words.extend(["--link-cert", &cert, "--link-key", &key]);
        words.extend(["--peer-cert", &cert, "--peer-key", &key, "--peer-ca", &ca]);
        Process::start(self.0.path(), &[&words, more].concat())
    }
}

#[tokio::test]
async fn clusters_that_refuse_each_other_say_so_once_on_both_sides() {
    let certificates = Certificates::of(&[("ours", &["n1", "n2"]), ("theirs", &["n3"])]).await;
    let ours = certificates.node("n1", "ours", &[]);
    let admin = ours.address("admin");
    let peer = ours.address("peer").to_string();
    let join = ["--join", &peer];
    let _member = certificates.node("n2", "ours", &join);
    eventually("two nodes are linked", async || metric(admin, "adit_peers").await == 1).await;
    let cases: [(&str, Process, &str); 4] = [
        (
            "another --cluster-id",
            certificates.node("n2", "ours", &[&join[..], &["--cluster-id", "elsewhere"]].concat()),
            "give both nodes the same --cluster-id",
        ),
        (
            "another authority",
            certificates.node("n3", "theirs", &join),
            "invalid peer certificate: UnknownIssuer",
        ),
        (
            "the name of the node itself",
            certificates.node("n1", "ours", &join),
            r#"there is another live node of the name \"n1\""#,
        ),
        (
            "the name of a node that it is linked to",
            certificates.node("n2", "ours", &join),
            r#"there is another live node of the name \"n2\""#,
        ),
    ];
    // A seed is tried again after 2.5 s to 5 s: when it has been twelve times for all four, each has come again.
    let refused = async || metric(admin, "adit_peer_refusals_total").await >= 12;
    eventually("all have been refused again and again", refused).await;
    for (what, other, text) in cases {
        for (side, node) in [("ours", &ours), ("theirs", &other)] {
            assert_eq!(node.logged(text).len(), 1, "{what}, {side}: {:?}", node.logged(""));
        }
    }
    assert_eq!(metric(admin, "adit_peers").await, 1);
}
