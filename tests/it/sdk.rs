//! The SDK: a program that serves, and one that dials, without a local port.

use std::{io::ErrorKind, time::Duration};

use adit::{
    client::{Client, DialError, ListenError, State},
    protocol::{Code, EndpointId, Kind, Refusal},
};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Fabric, client::get, eventually, kind, ok, random, soon};

fn name(endpoint: &str) -> EndpointId {
    ok(EndpointId::new(endpoint))
}

#[tokio::test]
async fn a_flow_is_a_stream_between_two_programs() {
    let fabric = Fabric::start().await;
    let (server, client) = (ok(Client::new(fabric.client())), ok(Client::new(fabric.client())));
    let mut listener = ok(soon(server.listen(name("talk"), Kind::Tcp)).await);
    let (endpoint, from) = (name("talk"), "192.0.2.1:7".parse().ok());
    let (dialled, accepted) = tokio::join!(client.dial_for(&endpoint, from), async {
        let incoming = soon(listener.accept()).await.expect("a flow comes");
        assert_eq!(incoming.open().endpoint, name("talk"));
        ok(incoming.accept().await)
    });
    let (mut here, mut there) = (ok(dialled), accepted);
    assert_eq!(there.client(), from, "the service is told who it is for");
    ok(here.write_all(b"ping").await);
    ok(here.shutdown().await);
    let mut heard = String::new();
    ok(soon(there.read_to_string(&mut heard)).await);
    assert_eq!(heard, "ping");
    ok(there.write_all(b"pong").await);
    ok(there.shutdown().await);
    heard.clear();
    ok(soon(here.read_to_string(&mut heard)).await);
    assert_eq!(heard, "pong");
}

#[tokio::test]
async fn a_flow_that_is_dropped_is_reset_and_never_looks_complete() {
    let fabric = Fabric::start().await;
    let client = ok(Client::new(fabric.client()));
    let mut listener = ok(soon(client.listen(name("talk"), Kind::Tcp)).await);
    let endpoint = name("talk");
    let (dialled, accepted) = tokio::join!(client.dial(&endpoint), async {
        ok(soon(listener.accept()).await.expect("a flow comes").accept().await)
    });
    let (mut here, mut there) = (ok(dialled), accepted);
    ok(here.write_all(b"half of it").await);
    drop(here);
    let mut heard = Vec::new();
    assert!(soon(there.read_to_end(&mut heard)).await.is_err());
}

#[tokio::test]
async fn a_refusal_reaches_whoever_dialled() {
    let fabric = Fabric::start().await;
    let client = ok(Client::new(fabric.client()));
    assert!(matches!(
        soon(client.dial(&name("nobody"))).await,
        Err(DialError::Refused(Refusal { code: Code::NoUpstream, .. }))
    ));
    let mut listener = ok(soon(client.listen(name("shy"), Kind::Tcp)).await);
    let endpoint = name("shy");
    let (dialled, ()) = tokio::join!(client.dial(&endpoint), async {
        let incoming = soon(listener.accept()).await.expect("a flow comes");
        incoming.refuse(Refusal::new(Code::Forbidden, "not today")).await;
    });
    match dialled {
        Err(DialError::Refused(refusal)) => {
            assert_eq!((refusal.code, refusal.message.as_str()), (Code::Forbidden, "not today"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_listener_that_is_closed_or_dropped_serves_no_more() {
    let fabric = Fabric::start().await;
    let client = ok(Client::new(fabric.client()));
    let mut listener = ok(soon(client.listen(name("web"), Kind::Tcp)).await);
    assert_eq!(
        client.listen(name("web"), Kind::Tcp).await.err(),
        Some(ListenError::Duplicate(name("web"))),
        "one client serves an endpoint once"
    );
    soon(listener.close()).await;
    let unserved = get(fabric.addresses.edge, "web", "/").await;
    assert_eq!((unserved.status, unserved.error().0.as_str()), (StatusCode::BAD_GATEWAY, "no_upstream"));
    assert!(soon(listener.accept()).await.is_none());

    let listener = ok(soon(client.listen(name("web"), Kind::Tcp)).await);
    drop(listener);
    eventually("a dropped listener serves no more", async || {
        get(fabric.addresses.edge, "web", "/").await.error().0 == "no_upstream"
    })
    .await;
}

#[tokio::test]
async fn a_client_that_closes_says_so_and_its_listeners_end() {
    let fabric = Fabric::start().await;
    let client = ok(Client::new(fabric.client()));
    let mut listener = ok(soon(client.listen(name("web"), Kind::Tcp)).await);
    let mut state = client.agent_state();
    assert!(
        matches!(&*state.borrow_and_update(), state @ State::Connected { .. } if state.nodes()[0].as_str() == "n1")
    );
    let started = std::time::Instant::now();
    ok(client.close(Duration::from_secs(60)).await);
    assert!(started.elapsed() < Duration::from_secs(30), "nothing was open, so nothing was waited for");
    assert!(soon(listener.accept()).await.is_none());
    assert_eq!(get(fabric.addresses.edge, "web", "/").await.error().0, "no_upstream");
}

#[tokio::test]
async fn hundreds_of_endpoints_are_served_over_one_link() {
    let fabric = Fabric::start().await;
    let client = ok(Client::new(fabric.client()));
    let listens = (0..600).map(|number| {
        let client = client.clone();
        async move { client.listen(name(&format!("e{number}")), Kind::Tcp).await }
    });
    let listeners = ok(soon(futures_util::future::try_join_all(listens)).await);
    assert_eq!(listeners.len(), 600);
    let status = get(fabric.addresses.admin, "", "/api/v1/status").await;
    let json: serde_json::Value = ok(serde_json::from_slice(&status.body));
    assert_eq!(json["endpoints"].as_array().map(Vec::len), Some(600));
    assert_eq!(json["links"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_program_that_answers_and_leaves_at_once_loses_nothing_of_its_answer() {
    let fabric = Fabric::start().await;
    for _ in 0..5 {
        let (server, client) = (ok(Client::new(fabric.client())), ok(Client::new(fabric.client())));
        let mut listener = ok(soon(server.listen(name("once"), Kind::Tcp)).await);
        let answer = async {
            let mut flow = ok(soon(listener.accept()).await.expect("a flow comes").accept().await);
            ok(flow.write_all(&vec![7; 3_000_000]).await);
            ok(flow.shutdown().await);
            drop(flow);
            ok(server.close(Duration::from_secs(10)).await);
        };
        let ask = async {
            let mut flow = ok(client.dial(&name("once")).await);
            let mut all = Vec::new();
            ok(soon(flow.read_to_end(&mut all)).await);
            all.len()
        };
        let (asked, ()) = tokio::join!(ask, answer);
        assert_eq!(asked, 3_000_000);
    }
}

#[tokio::test]
async fn an_association_is_packets_between_two_programs() {
    let fabric = Fabric::start().await;
    let (server, client) = (ok(Client::new(fabric.client())), ok(Client::new(fabric.client())));
    let mut listener = ok(soon(server.listen(name("talk"), Kind::Udp)).await);
    let (endpoint, from) = (name("talk"), "192.0.2.1:7".parse().ok());
    let (dialled, accepted) = tokio::join!(client.associate_for(&endpoint, from), async {
        ok(soon(listener.accept()).await.expect("a flow comes").associate().await)
    });
    let (mut here, mut there) = (ok(dialled), accepted);
    assert_eq!(there.client(), from, "the service is told who it is for");
    for size in [0, 5, 60_000, 65_535] {
        let packet = random(size);
        ok(here.send(&packet).await);
        assert_eq!(ok(soon(there.recv()).await).as_ref(), Some(&packet));
        ok(there.send(&packet).await);
        assert_eq!(ok(soon(here.recv()).await).as_ref(), Some(&packet));
    }
    let too_long = here.send(&[0; 65_536]).await;
    assert_eq!(kind(too_long), ErrorKind::InvalidInput);
    tokio::join!(soon(here.end()), async {
        assert_eq!(ok(soon(there.recv()).await), None, "it has ended well");
        drop(there);
    });
}

#[tokio::test]
async fn an_association_that_is_dropped_breaks() {
    let fabric = Fabric::start().await;
    let client = ok(Client::new(fabric.client()));
    let mut listener = ok(soon(client.listen(name("talk"), Kind::Udp)).await);
    let endpoint = name("talk");
    let (dialled, accepted) = tokio::join!(client.associate(&endpoint), async {
        ok(soon(listener.accept()).await.expect("a flow comes").associate().await)
    });
    let (here, mut there) = (ok(dialled), accepted);
    drop(here);
    assert!(soon(there.recv()).await.is_err());
}

#[tokio::test]
async fn sending_that_is_cancelled_loses_that_packet_at_most() {
    let fabric = Fabric::start().await;
    let client = ok(Client::new(fabric.client()));
    let mut listener = ok(soon(client.listen(name("talk"), Kind::Udp)).await);
    let endpoint = name("talk");
    let (dialled, accepted) = tokio::join!(client.associate(&endpoint), async {
        ok(soon(listener.accept()).await.expect("a flow comes").associate().await)
    });
    let (mut here, mut there) = (ok(dialled), accepted);
    // Until the stream takes no more, and a packet is cut in the middle.
    let mut sent: u32 = 0;
    loop {
        let packet = [&sent.to_be_bytes()[..], &[7; 50_000]].concat();
        match tokio::time::timeout(Duration::from_millis(300), here.send(&packet)).await {
            Ok(done) => ok(done),
            Err(_) => break,
        }
        sent += 1;
    }
    let receive = async {
        let mut expected = 0..=sent + 1;
        loop {
            let packet = ok(soon(there.recv()).await).expect("it goes on");
            let (number, rest) = packet.split_first_chunk().expect("it has a number");
            assert!(rest == [7; 50_000]);
            assert_eq!(Some(u32::from_be_bytes(*number)), expected.next());
            if expected.is_empty() {
                return;
            }
        }
    };
    let last = [&(sent + 1).to_be_bytes()[..], &[7; 50_000]].concat();
    let (done, ()) = tokio::join!(soon(here.send(&last)), receive);
    ok(done);
}
