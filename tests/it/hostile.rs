//! Peers that break the protocol are refused or closed, and the node goes on serving.

use std::time::Duration;

use adit::{
    protocol::{Close, Code, Control, Flow, Kind, Role, VERSION},
    transport::{self, AskError, FrameError, Lost},
};
use http::StatusCode;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket},
};

use crate::support::{
    Fabric, SOON,
    client::get,
    ok,
    raw::{Raw, hello, listen, opening},
    service, soon,
};

async fn still_serves(fabric: &Fabric) {
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    assert_eq!(get(fabric.addresses.edge, "web", "/").await.status, StatusCode::OK);
}

fn closed_with(lost: &Lost) -> Option<u64> {
    match lost {
        Lost::Peer { code, .. } => Some(*code),
        _ => None,
    }
}

#[tokio::test]
async fn a_link_that_begins_with_anything_but_hello_is_closed() {
    let fabric = Fabric::start().await;
    let mut raw = Raw::open(&fabric).await;
    raw.say(Control::Ping(1)).await;
    assert_eq!(closed_with(&soon(raw.link.closed()).await), Some(Close::Protocol as u64));

    let raw = Raw::open(&fabric).await;
    // The writer is of no use for what is no frame; this node allows one stream, so the link must be opened by hand.
    drop(raw);
    let garbage = Raw::garbage(&fabric, &[0x01, 0xff, 0xff, 0xff, 0, 0]).await;
    assert_eq!(closed_with(&soon(garbage.closed()).await), Some(Close::Protocol as u64));
    let garbage = Raw::garbage(&fabric, &[0x01, 0, 0, 3, 0xff, 0xff, 0xff]).await;
    assert_eq!(closed_with(&soon(garbage.closed()).await), Some(Close::Protocol as u64));
    still_serves(&fabric).await;
}

#[tokio::test]
async fn a_link_that_says_nothing_is_closed_in_time() {
    let fabric = Fabric::start().await;
    let raw = Raw::open(&fabric).await;
    assert_eq!(closed_with(&soon(raw.link.closed()).await), Some(Close::Timeout as u64));
}

#[tokio::test]
async fn versions_that_do_not_overlap_are_refused_and_newer_ones_that_do_are_welcome() {
    let fabric = Fabric::start().await;
    let mut raw = Raw::open(&fabric).await;
    let mut newer = hello(Role::Agent, 1, &[]);
    (newer.version, newer.oldest) = (VERSION + 2, VERSION + 1);
    raw.say(Control::Hello(newer.clone())).await;
    match raw.hear().await {
        Ok(Control::Refused(refusal)) => {
            assert_eq!(refusal.code, Code::UnsupportedVersion);
            assert!(refusal.message.contains("1 to 1"), "{refusal}");
        }
        other => panic!("{other:?}"),
    }
    let mut raw = Raw::open(&fabric).await;
    newer.oldest = VERSION;
    raw.say(Control::Hello(newer)).await;
    match raw.hear().await {
        Ok(Control::Welcome(welcome)) => assert_eq!(welcome.version, VERSION),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_unknown_frame_is_named_and_skipped() {
    let fabric = Fabric::start().await;
    let mut raw = Raw::welcomed(&fabric, hello(Role::Agent, 1, &[])).await;
    // What a newer version might send: this one answers it in kind, so it is as good a stand-in as any.
    raw.say_raw(&[0x7e, 0, 0, 2, 1, 2]).await;
    assert_eq!(raw.hear().await.ok(), Some(Control::Unsupported(0x7e)));
    raw.say(Control::Ping(9)).await;
    assert_eq!(raw.hear().await.ok(), Some(Control::Pong(9)));
}

#[tokio::test]
async fn a_malformed_frame_ends_the_link() {
    let fabric = Fabric::start().await;
    let mut raw = Raw::welcomed(&fabric, hello(Role::Agent, 1, &[])).await;
    raw.say_raw(&[0x06, 0, 0, 2, 0xff, 0xff]).await;
    assert!(matches!(raw.hear().await, Err(FrameError::Io(_) | FrameError::Ended)));
    assert_eq!(closed_with(&soon(raw.link.closed()).await), Some(Close::Protocol as u64));
    still_serves(&fabric).await;
}

#[tokio::test]
async fn listens_are_bounded_and_only_for_agents() {
    let fabric = Fabric::start().await;
    let mut forwarder = Raw::welcomed(&fabric, hello(Role::Forwarder, 1, &[])).await;
    forwarder.say(Control::Listen(listen(1, "web"))).await;
    assert!(
        matches!(forwarder.hear().await, Ok(Control::ListenRefused(1, refusal)) if refusal.code == Code::Unsupported)
    );

    let mut agent = Raw::welcomed(&fabric, hello(Role::Agent, 2, &["web"])).await;
    agent.say(Control::Listen(listen(2, "web"))).await;
    assert!(
        matches!(agent.hear().await, Ok(Control::ListenRefused(2, refusal)) if refusal.code == Code::Invalid)
    );
    for id in 3..=10_001 {
        agent.say(Control::Listen(listen(id, &format!("e{id}")))).await;
        assert!(matches!(agent.hear().await, Ok(Control::Listening(_))), "{id}");
    }
    agent.say(Control::Listen(listen(10_002, "one-too-many"))).await;
    assert!(
        matches!(agent.hear().await, Ok(Control::ListenRefused(_, refusal)) if refusal.code == Code::Busy)
    );
    agent.say(Control::Unlisten(3)).await;
    assert!(matches!(agent.hear().await, Ok(Control::Unlistened(3))));
    agent.say(Control::Listen(listen(3, "e3"))).await;
    assert!(matches!(agent.hear().await, Ok(Control::Listening(3))));
}

#[tokio::test]
async fn flows_that_do_not_begin_with_open_are_refused() {
    let fabric = Fabric::start().await;
    let raw = Raw::welcomed(&fabric, hello(Role::Forwarder, 1, &[])).await;
    for (bytes, code) in [
        (&[0x21, 0, 0, 0][..], Code::Invalid),
        (&[0x7e, 0, 0, 0], Code::Unsupported),
        (&[0x20, 0, 0, 2, 0xff, 0xff], Code::Invalid),
        (&[0x20, 0xff, 0xff, 0xff], Code::Invalid),
    ] {
        let mut stream = ok(raw.link.open(SOON).await);
        ok(stream.send.write_all(bytes).await);
        match soon(transport::read_flow(&mut stream.recv)).await {
            Ok(Flow::Refused(refusal)) => assert_eq!(refusal.code, code, "{bytes:02x?}: {refusal}"),
            other => panic!("{bytes:02x?}: {other:?}"),
        }
    }
    let open = |endpoint| opening(Kind::Tcp, endpoint);
    let mut stream = ok(raw.link.open(SOON).await);
    match soon(transport::ask(&mut stream, open("nobody"))).await {
        Err(AskError::Refused(refusal)) => assert_eq!(refusal.code, Code::NoUpstream),
        other => panic!("{other:?}"),
    }
    let mut foreign = open("nobody");
    foreign.tenant = Some(ok("other".parse()));
    let mut stream = ok(raw.link.open(SOON).await);
    match soon(transport::ask(&mut stream, foreign)).await {
        Err(AskError::Refused(refusal)) => assert_eq!(refusal.code, Code::Forbidden),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_agent_may_open_no_flow() {
    let fabric = Fabric::start().await;
    let raw = Raw::welcomed(&fabric, hello(Role::Agent, 1, &[])).await;
    let opened = raw.link.open(Duration::from_millis(200)).await;
    assert_eq!(opened.err(), Some(transport::OpenError::Busy));
}

#[tokio::test]
async fn an_agent_that_answers_with_garbage_or_not_at_all_fails_that_flow_alone() {
    let fabric = Fabric::start().await;
    let bad = Raw::welcomed(&fabric, hello(Role::Agent, 1, &["web"])).await;
    let edge = fabric.addresses.edge;
    let answer = async {
        let mut stream = ok(bad.link.accept().await);
        assert!(matches!(transport::read_flow(&mut stream.recv).await, Ok(Flow::Open(_))));
        ok(stream.send.write_all(&[0x20, 0, 0, 0]).await);
        // Held until the node has given up on it, so that it is not a reset that fails the flow.
        soon(stream.send.stopped()).await;
    };
    let (failed, ()) = tokio::join!(get(edge, "web", "/"), answer);
    assert_eq!((failed.status, failed.error().0.as_str()), (StatusCode::BAD_GATEWAY, "invalid"));

    let silent = async {
        let mut stream = ok(bad.link.accept().await);
        drop(transport::read_flow(&mut stream.recv).await);
        soon(stream.send.stopped()).await;
    };
    let (failed, ()) = tokio::join!(get(edge, "web", "/"), silent);
    assert_eq!((failed.status, failed.error().0.as_str()), (StatusCode::BAD_GATEWAY, "upstream_timeout"));

    let reset = async {
        let stream = ok(bad.link.accept().await);
        drop(stream);
    };
    let (failed, ()) = tokio::join!(get(edge, "web", "/"), reset);
    assert_eq!((failed.status, failed.error().0.as_str()), (StatusCode::BAD_GATEWAY, "upstream_unreachable"));
    assert!(bad.link.lost().is_none(), "the link is not to blame");
}

#[tokio::test]
async fn packets_of_garbage_and_clients_that_say_nothing_hold_nobody_up() {
    let fabric = Fabric::start().await;
    let udp = ok(UdpSocket::bind("127.0.0.1:0").await);
    for size in [0, 1, 20, 1200, 1400] {
        for fill in [0x00, 0x40, 0xc0, 0xff] {
            ok(udp.send_to(&vec![fill; size], fabric.addresses.link).await);
        }
    }
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(ok(TcpStream::connect(fabric.addresses.edge).await));
    }
    still_serves(&fabric).await;
}
