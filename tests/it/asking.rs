//! What one node asks another for its operators, on the wire: who may ask, what is answered, and what becomes of answers that
//! do not come.

use adit::{
    protocol::{Ask, Code, Flow, Kind, Role},
    transport::{self, Stream},
};
use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Fabric, SOON,
    client::{Answer, get},
    cluster::Nodes,
    eventually, ok,
    peer::RawPeer,
    raw::{Raw, hello},
    service, soon,
};

fn ask(path: &str, tenants: Option<&[&str]>) -> Ask {
    let tenants = tenants.map(|all| all.iter().map(|tenant| ok(tenant.parse())).collect());
    Ask { path: path.into(), act: false, body: Bytes::new(), tenants }
}

/// Asks, and gives the status and the JSON of the answer.
async fn answer(link: &transport::Link, ask: Ask) -> (u16, Value) {
    let mut stream = ok(link.open(SOON).await);
    ok(transport::write_flow(&mut stream, &Flow::Ask(ask)).await);
    let status = match ok(soon(transport::read_flow(&mut stream.recv)).await) {
        Flow::Answer(status) => status,
        other => panic!("{other:?}"),
    };
    let mut body = Vec::new();
    ok(soon(stream.recv.read_to_end(&mut body)).await);
    (status, ok(serde_json::from_slice(&body)))
}

#[tokio::test]
async fn a_node_answers_another_for_itself_alone_and_holds_to_the_tenants() {
    let node = Nodes::one().await;
    let service = service::mirror().await;
    let _agent = node.agent("web", Kind::Http, service.address).await;
    let peer = RawPeer::welcomed(&node, "n2").await;
    let links = async |tenants| {
        let (status, told) = answer(&peer.link, ask("/api/v1/links", tenants)).await;
        assert_eq!(status, 200, "{told}");
        told["links"].as_array().map(Vec::len)
    };
    assert_eq!(links(None).await, Some(1));
    assert_eq!(links(Some(&["default", "a"])).await, Some(1));
    assert_eq!(links(Some(&["a"])).await, Some(0));
    assert_eq!(links(Some(&[])).await, Some(0));
    // A third node is for whoever asks to ask: here that would be the one that asks.
    let (status, told) = answer(&peer.link, ask("/api/v1/nodes/n2", None)).await;
    assert_eq!((status, &told["code"]), (404, &"unknown_node".into()));
    let (status, told) = answer(&peer.link, ask("/api/v1/status?node=n2", None)).await;
    assert_eq!((status, &told["node"]), (200, &"n1".into()));
    // What is no path, and what is open to all but no part of the API.
    let (status, told) = answer(&peer.link, ask("no path at all", None)).await;
    assert_eq!((status, &told["code"]), (400, &"invalid_path".into()));
    let mut stream = ok(peer.link.open(SOON).await);
    ok(transport::write_flow(&mut stream, &Flow::Ask(ask("/metrics", None))).await);
    assert_eq!(ok(soon(transport::read_flow(&mut stream.recv)).await), Flow::Answer(404));
}

#[tokio::test]
async fn who_is_no_node_is_refused_whatever_it_asks() {
    let node = Fabric::start().await;
    let link = Raw::welcomed(&node, hello(Role::Forwarder, 7, &[])).await;
    let mut stream = ok(link.link.open(SOON).await);
    ok(transport::write_flow(&mut stream, &Flow::Ask(ask("/api/v1/links", None))).await);
    match ok(soon(transport::read_flow(&mut stream.recv)).await) {
        Flow::Refused(refusal) => assert_eq!(refusal.code, Code::Unsupported),
        other => panic!("{other:?}"),
    }
}

/// The stream on which the node asks its peer n2, whom an operator asks for, and that operator's answer once it has come.
async fn asked(node: &Fabric, peer: &RawPeer, reply: impl AsyncFnOnce(Stream)) -> Answer {
    let reply = async {
        let mut stream = ok(soon(peer.link.accept()).await);
        let first = ok(soon(transport::read_flow(&mut stream.recv)).await);
        assert_eq!(first, Flow::Ask(ask("/api/v1/links", None)));
        reply(stream).await;
    };
    let (answer, ()) = tokio::join!(get(node.addresses.admin, "", "/api/v1/links?node=n2"), reply);
    answer
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_told_for_what_it_is() {
    let node = Nodes::one().await;
    let peer = RawPeer::welcomed(&node, "n2").await;
    let told = |answer: &Answer, status: u16, code: &str| {
        let json: Value = ok(serde_json::from_slice(&answer.body));
        assert_eq!((answer.status.as_u16(), &json["code"]), (status, &code.into()), "{json}");
        assert!(json["error"].as_str().is_some_and(|error| error.contains("node n2")), "{json}");
    };
    // As a node answers that does not know the frame.
    let refuse = async |stream: Stream, code: Code| {
        let refusal = adit::protocol::Refusal::new(code, "frame 0x22 is not known to this version");
        transport::refuse(stream, refusal).await;
    };
    let older = asked(&node, &peer, async |stream| refuse(stream, Code::Unsupported).await).await;
    told(&older, 501, "unsupported");
    let unwilling = asked(&node, &peer, async |stream| refuse(stream, Code::Draining).await).await;
    told(&unwilling, 502, "node_refuses");
    let other = asked(&node, &peer, async |mut stream| {
        ok(transport::write_flow(&mut stream, &Flow::Opened).await);
        // What the node does with its side then is its own affair.
        drop(soon(stream.send.shutdown()).await);
    });
    told(&other.await, 502, "answer_garbled");
    let endless = asked(&node, &peer, async |mut stream| {
        ok(transport::write_flow(&mut stream, &Flow::Answer(200)).await);
        // The node stops reading some time. What it has not read by then would be lost with a stream that is dropped earlier.
        drop(soon(stream.send.write_all(&vec![b' '; 9 << 20])).await);
        soon(stream.send.stopped()).await;
    });
    told(&endless.await, 502, "answer_too_long");
    let good = asked(&node, &peer, async |mut stream| {
        ok(transport::write_flow(&mut stream, &Flow::Answer(418)).await);
        ok(stream.send.write_all(b"{}").await);
        ok(soon(stream.send.shutdown()).await);
    });
    let good = good.await;
    assert_eq!((good.status.as_u16(), good.text()), (418, "{}"));
    let mut kept = None;
    let silent = asked(&node, &peer, async |stream| kept = Some(stream)).await;
    // Membership may give such a node up before its time is over.
    match silent.status.as_u16() {
        504 => told(&silent, 504, "node_silent"),
        _ => told(&silent, 502, "node_lost"),
    }
    peer.link.close(adit::protocol::Close::Done, "it is enough");
    eventually("it is not known any more", async || {
        get(node.addresses.admin, "", "/api/v1/links?node=n2").await.status == 404
    })
    .await;
}
