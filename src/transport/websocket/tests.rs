//! Links over a WebSocket in memory: with a link at its other end, and with a peer that says what it likes.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex},
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{super::Settings, Driver, Link, accepted, opened};
use crate::{
    drain::Tasks,
    net::websocket::{MAX_MESSAGE, config},
    protocol::{Close, Reset},
    transport::{Lost, OpenError, Stream},
};

const REMOTE: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// Longer than anything here takes, by a clock that may stand still.
const SOON: Duration = Duration::from_secs(60);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("in time")
}

type Socket<S = DuplexStream> = WebSocketStream<S>;

async fn socket<S: AsyncRead + AsyncWrite + Unpin>(io: S, role: Role) -> Socket<S> {
    WebSocketStream::from_raw_socket(io, role, Some(config())).await
}

async fn client(io: DuplexStream) -> (Link, Driver<DuplexStream>) {
    opened(socket(io, Role::Client).await, REMOTE, Vec::new(), &Settings::default())
}

async fn server(io: DuplexStream) -> (Link, Driver<DuplexStream>) {
    let (link, driver) = accepted(socket(io, Role::Server).await, REMOTE, Vec::new(), &Settings::default());
    link.set_max_flows(Settings::default().max_flows);
    (link, driver)
}

fn drive(driver: Driver<DuplexStream>, tasks: &Tasks) {
    tasks.spawn(async move {
        driver.run().await;
    });
}

/// Two links that face each other over a pipe of so many bytes.
async fn pair(pipe: usize, tasks: &Tasks) -> (Link, Link) {
    let (near, far) = duplex(pipe);
    let (client, client_driver) = client(near).await;
    let (server, server_driver) = server(far).await;
    drive(client_driver, tasks);
    drive(server_driver, tasks);
    (client, server)
}

/// A node's link with a peer that says what it likes, and what the peer is sent away for.
async fn faced(tasks: &Tasks) -> (Link, Socket, tokio::sync::oneshot::Receiver<Option<&'static str>>) {
    let (near, far) = duplex(64 * 1024);
    let (link, driver) = server(far).await;
    let (tell, told) = tokio::sync::oneshot::channel();
    tasks.spawn(async move {
        // Not everybody wants to know.
        _ = tell.send(driver.run().await);
    });
    let huge = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
    (link, WebSocketStream::from_raw_socket(near, Role::Client, Some(huge)).await, told)
}

/// The peer's goodbye, behind whatever else there is.
async fn goodbye(peer: &mut Socket) -> Option<CloseFrame> {
    soon(async {
        loop {
            if let Message::Close(frame) = peer.next().await.expect("a goodbye").expect("a goodbye") {
                return frame;
            }
        }
    })
    .await
}

async fn open(link: &Link) -> Stream {
    link.open(SOON).await.expect("there is room")
}

async fn said(stream: &mut Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    soon(stream.recv.read_to_end(&mut bytes)).await.expect("it ends");
    bytes
}

#[tokio::test]
async fn both_sides_open_streams_that_end_each_way_by_itself() {
    let tasks = Tasks::new();
    let (client, server) = pair(64 * 1024, &tasks).await;
    for (from, to) in [(&client, &server), (&server, &client)] {
        let mut asks = open(from).await;
        asks.send.write_all(b"question").await.expect("open");
        asks.send.shutdown().await.expect("open");
        let mut answers = soon(to.accept()).await.expect("open");
        soon(asks.taken()).await.expect("taken");
        assert_eq!(asks.id(), answers.id());
        assert_eq!(said(&mut answers).await, b"question");
        answers.send.write_all(b"answer").await.expect("open");
        answers.send.shutdown().await.expect("open");
        assert_eq!(said(&mut asks).await, b"answer");
    }
    let mut breaks = open(&client).await;
    breaks.send.write_all(b"some").await.expect("open");
    let mut broken = soon(server.accept()).await.expect("open");
    breaks.abandon(Reset::Cancelled);
    let error = soon(broken.recv.read_to_end(&mut Vec::new())).await.expect_err("a reset is no end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    tasks.abort();
}

#[tokio::test]
async fn a_node_takes_one_stream_until_it_is_told_otherwise() {
    let tasks = Tasks::new();
    let (near, far) = duplex(1024);
    let (client, client_driver) = client(near).await;
    let (server, driver) =
        accepted(socket(far, Role::Server).await, REMOTE, Vec::new(), &Settings::default());
    drive(client_driver, &tasks);
    drive(driver, &tasks);
    let _control = open(&client).await;
    let _accepted = soon(server.accept()).await.expect("open");
    let mut early = open(&client).await;
    soon(early.taken()).await.expect_err("it is refused");
    server.set_max_flows(2);
    let mut second = open(&client).await;
    let _accepted = soon(server.accept()).await.expect("open");
    soon(second.taken()).await.expect("taken");
    tasks.abort();
}

#[tokio::test]
async fn a_header_and_what_follows_leave_as_one_message() {
    let tasks = Tasks::new();
    let (link, mut peer, _told) = faced(&tasks).await;
    while !matches!(soon(peer.next()).await, Some(Ok(Message::Ping(_)))) {}
    let mut stream = open(&link).await;
    stream.send.write_all(b"header").await.expect("open");
    stream.send.write_all(b"payload").await.expect("open");
    let Some(Ok(Message::Binary(message))) = soon(peer.next()).await else { panic!("a message") };
    assert_eq!(message.len(), 12 + 12 + 13);
    assert!(message.ends_with(b"headerpayload"));
    tasks.abort();
}

/// Streams that are echoed by their peers, all at once, over pipes that hold next to nothing: whoever is not woken, or waits
/// for the other with its hands full, never comes to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_both_ways_at_once_over_a_narrow_pipe_comes_to_its_end() {
    for pipe in [50, 4096, 1 << 20] {
        let tasks = Tasks::new();
        let (client, server) = pair(pipe, &tasks).await;
        for link in [&client, &server] {
            let echoes = link.clone();
            let inner = tasks.clone();
            tasks.spawn(async move {
                while let Ok(mut stream) = echoes.accept().await {
                    inner.spawn(async move {
                        let (recv, send) = (&mut stream.recv, &mut stream.send);
                        tokio::io::copy(recv, send).await.expect("open");
                        send.shutdown().await.expect("open");
                    });
                }
            });
        }
        let all = Tasks::new();
        for number in 0..40_usize {
            let link = if number % 2 == 0 { client.clone() } else { server.clone() };
            let size = if number < 4 { 1 << 20 } else { number * 997 };
            all.spawn(async move {
                let mut stream = open(&link).await;
                let bytes: Vec<u8> = (0..size).map(|at| (at * 7 + number) as u8).collect();
                let mut back = Vec::new();
                let writes = async {
                    stream.send.write_all(&bytes).await?;
                    stream.send.shutdown().await
                };
                let (written, read) = tokio::join!(writes, stream.recv.read_to_end(&mut back));
                written.expect("open");
                read.expect("open");
                assert!(back == bytes, "stream {number}");
            });
        }
        soon(all.wait_empty()).await;
        tasks.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_link_lives_and_no_minute_of_it_is_silent() {
    let tasks = Tasks::new();
    let (client, server) = pair(64 * 1024, &tasks).await;
    for _ in 0..60 {
        let before = [&client, &server].map(|link| link.stats());
        sleep(Duration::from_secs(40)).await;
        for (link, before) in [&client, &server].into_iter().zip(before) {
            assert_eq!(link.lost(), None);
            // Of its own accord and in answer to the other.
            assert!(link.stats().sent_packets > before.sent_packets);
            assert!(link.stats().received_packets > before.received_packets);
        }
    }
    tasks.abort();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_nothing_is_lost_in_time() {
    let tasks = Tasks::new();
    let (link, mut peer, told) = faced(&tasks).await;
    // It answers for a minute, and is gone then.
    drop(timeout(SOON, async { while peer.next().await.is_some() {} }).await);
    assert_eq!(link.lost(), None);
    let gone = Instant::now();
    assert_eq!(link.closed().await, Lost::Idle);
    assert!(gone.elapsed() <= Duration::from_secs(30), "{:?}", gone.elapsed());
    assert_eq!(told.await, Ok(None));
    assert!(matches!(link.open(SOON).await, Err(OpenError::Lost(Lost::Idle))));
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_lost_although_it_speaks() {
    let tasks = Tasks::new();
    let (near, far) = duplex(1024);
    let (link, driver) = server(far).await;
    drive(driver, &tasks);
    let mut stream = open(&link).await;
    stream.send.write_all(&[0; 100_000]).await.expect("there is room");
    let (_near_reads, mut near) = tokio::io::split(near);
    let began = Instant::now();
    let speaks = async {
        loop {
            // A ping of a client, its mask zero.
            near.write_all(&[0x89, 0x80, 0, 0, 0, 0]).await.expect("it is read");
            sleep(Duration::from_secs(1)).await;
        }
    };
    let lost = tokio::select! {
        lost = link.closed() => lost,
        () = speaks => unreachable!("it speaks for ever"),
    };
    assert_eq!(lost, Lost::Idle);
    assert!(began.elapsed() <= Duration::from_secs(30), "{:?}", began.elapsed());
    let error = stream.send.write_all(b"x").await.expect_err("it has ended");
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
}

#[tokio::test(start_paused = true)]
async fn the_time_there_and_back_is_measured() {
    let tasks = Tasks::new();
    let (near, far) = duplex(64 * 1024);
    let (far_near, far_far) = duplex(64 * 1024);
    let (link, driver) = server(far_far).await;
    drive(driver, &tasks);
    let (client, client_driver) = client(near).await;
    drive(client_driver, &tasks);
    tasks.spawn(async move {
        let ((mut a_read, mut a_write), (mut b_read, mut b_write)) =
            (tokio::io::split(far), tokio::io::split(far_near));
        tokio::join!(late(&mut a_read, &mut b_write), late(&mut b_read, &mut a_write));
    });
    sleep(SOON).await;
    for link in [&link, &client] {
        let rtt = link.stats().rtt;
        assert!((80..=85).contains(&rtt.as_millis()), "{rtt:?}");
    }
    tasks.abort();
}

/// Hands on what comes, 40 ms later.
async fn late(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
    let mut buf = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buf).await {
        sleep(Duration::from_millis(40)).await;
        to.write_all(&buf[..len]).await.expect("open");
    }
}

#[tokio::test]
async fn a_goodbye_has_its_code_and_reason_on_the_other_side() {
    use Close::{Done, GraceEnded, Protocol, Refused, Superseded, Timeout};
    for close in [Done, Protocol, Refused, Superseded, Timeout, GraceEnded] {
        for by_client in [true, false] {
            let tasks = Tasks::new();
            let (client, server) = pair(64 * 1024, &tasks).await;
            let (from, to) = if by_client { (client, server) } else { (server, client) };
            from.close(close, "because");
            // The first holds.
            from.close(Done, "not because");
            assert_eq!(from.lost(), Some(Lost::Local));
            let code = close as u64;
            assert_eq!(soon(to.closed()).await, Lost::Peer { code, reason: "because".into() });
            assert!(matches!(soon(from.accept()).await, Err(Lost::Local)));
            assert!(soon(to.accept()).await.is_err());
            // Both drivers end.
            soon(tasks.wait_empty()).await;
        }
    }
}

#[tokio::test]
async fn codes_are_of_those_that_are_for_applications() {
    let tasks = Tasks::new();
    let (link, mut peer, _told) = faced(&tasks).await;
    link.close(Close::Superseded, "newer");
    let frame = goodbye(&mut peer).await.expect("a code");
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4003, "newer"));

    let (link, mut peer, _told) = faced(&tasks).await;
    let frame = CloseFrame { code: 4002.into(), reason: "no".into() };
    peer.close(Some(frame.clone())).await.expect("open");
    assert_eq!(soon(link.closed()).await, Lost::Peer { code: 2, reason: "no".into() });
    assert_eq!(goodbye(&mut peer).await, Some(frame), "it is answered");
}

#[tokio::test]
async fn a_goodbye_without_a_code_is_answered() {
    let tasks = Tasks::new();
    let (link, mut peer, told) = faced(&tasks).await;
    peer.close(None).await.expect("open");
    goodbye(&mut peer).await;
    assert!(matches!(soon(link.closed()).await, Lost::Other(_)));
    drop(peer);
    assert_eq!(soon(told).await, Ok(None));
}

#[tokio::test]
async fn a_reason_that_is_too_long_is_cut_between_characters() {
    for (reason, cut) in [
        ("x".repeat(200), "x".repeat(123)),
        ("ß".repeat(100), "ß".repeat(61)),
        (format!("x{}", "線".repeat(60)), format!("x{}", "線".repeat(40))),
        ("🚇".repeat(60), "🚇".repeat(30)),
    ] {
        let tasks = Tasks::new();
        let (link, mut peer, _told) = faced(&tasks).await;
        link.close(Close::Done, &reason);
        let frame = goodbye(&mut peer).await.expect("a code");
        assert_eq!(frame.reason.as_str(), cut);
    }
}

#[tokio::test]
async fn a_peer_that_breaks_websocket_is_sent_away_with_the_code_for_it() {
    // Unmasked: a frame of a server in the place of a client's.
    let raw = |bytes: &[u8]| Err(bytes.to_vec());
    let cases = [
        (Ok(Message::text("hello")), "text", 1003),
        (Ok(Message::binary(vec![0; MAX_MESSAGE + 1])), "oversized", 1009),
        (raw(&[0x82, 1, 0]), "unmasked", 1002),
        // Opcode 3 is none; a ping of more than 125 bytes; text that is none.
        (raw(&[0x83, 0x80, 0, 0, 0, 0]), "protocol", 1002),
        (raw(&[&[0x89, 0xfe, 0, 126][..], &[0; 130]].concat()), "protocol", 1002),
        (raw(&[0x81, 0x81, 0, 0, 0, 0, 0xff]), "text", 1003),
    ];
    for (said, violation, code) in cases {
        let tasks = Tasks::new();
        let (link, mut peer, told) = faced(&tasks).await;
        match said {
            // Nobody reads all of what is too large.
            Ok(message) => drop(timeout(Duration::from_secs(1), peer.send(message)).await),
            Err(bytes) => peer.get_mut().write_all(&bytes).await.expect("open"),
        }
        let frame = goodbye(&mut peer).await.expect("a code");
        assert_eq!(u16::from(frame.code), code, "{violation}");
        drop(peer);
        assert_eq!(soon(told).await, Ok(Some(violation)));
        assert_eq!(soon(link.closed()).await, Lost::Other(format!("the peer broke WebSocket: {violation}")));
    }
}

#[tokio::test]
async fn a_message_of_the_largest_size_is_taken() {
    let tasks = Tasks::new();
    let (link, mut peer, _told) = faced(&tasks).await;
    // A window update for a stream that is not there, again and again.
    let frame = [0, 1, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0];
    let mut message = frame.repeat(MAX_MESSAGE / frame.len() + 1);
    message.truncate(MAX_MESSAGE);
    peer.send(Message::binary(message)).await.expect("open");
    peer.send(Message::Ping("there?".into())).await.expect("open");
    while soon(peer.next()).await.expect("open").expect("open") != Message::Pong("there?".into()) {}
    assert_eq!(link.lost(), None);
    tasks.abort();
}

#[tokio::test]
async fn a_peer_that_breaks_yamux_is_told_why_it_is_sent_away() {
    for (bytes, reason) in [
        (&[0xff; 12][..], "version 255 of yamux is not known"),
        (&[0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0][..], "stream 2 was opened out of turn"),
        (&[0, 0, 0, 1, 0, 0, 0, 1, 0, 4, 0, 1][..], "stream 1 has more bytes than its window"),
    ] {
        let tasks = Tasks::new();
        let (link, mut peer, told) = faced(&tasks).await;
        peer.send(Message::binary(bytes.to_vec())).await.expect("open");
        let frame = goodbye(&mut peer).await.expect("a code");
        assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Protocol, reason));
        assert_eq!(soon(link.closed()).await, Lost::Other(reason.into()));
        drop(peer);
        assert_eq!(soon(told).await, Ok(Some("multiplexing")));
    }
}

#[tokio::test]
async fn what_was_finished_before_a_link_is_closed_arrives() {
    let bytes = vec![7; 200_000];
    for by_client in [true, false] {
        let tasks = Tasks::new();
        let (client, server) = pair(1000, &tasks).await;
        let (from, to) = if by_client { (client, server) } else { (server, client) };
        let mut sends = open(&from).await;
        let finishes = async {
            sends.send.write_all(&bytes).await.expect("open");
            sends.send.shutdown().await.expect("open");
            from.close(Close::Done, "");
        };
        let reads = async {
            let mut receives = soon(to.accept()).await.expect("open");
            // As late as can be: the link may be gone by then.
            soon(to.closed()).await;
            said(&mut receives).await
        };
        let ((), read) = tokio::join!(finishes, reads);
        assert!(read == bytes, "{}", read.len());
        tasks.abort();
    }
}

#[tokio::test]
async fn the_last_handle_closes_the_link_and_a_stream_is_one() {
    let tasks = Tasks::new();
    let (client, server) = pair(1000, &tasks).await;
    let other = client.clone();
    let stream = open(&client).await;
    drop((client, other));
    let mut accepted = soon(server.accept()).await.expect("open");
    assert_eq!(server.lost(), None);
    drop(stream);
    assert_eq!(soon(server.closed()).await, Lost::Peer { code: 0, reason: String::new() });
    soon(accepted.recv.read_to_end(&mut Vec::new())).await.expect_err("a reset is no end");
    soon(tasks.wait_empty()).await;
}

#[tokio::test]
async fn a_driver_that_is_dropped_breaks_its_link() {
    let tasks = Tasks::new();
    let (client, server) = pair(1000, &tasks).await;
    let mut streams = [open(&client).await, soon(server.accept()).await.expect("open")];
    tasks.abort();
    soon(tasks.wait_empty()).await;
    for link in [&client, &server] {
        assert!(matches!(link.lost(), Some(Lost::Other(_))), "{:?}", link.lost());
        soon(link.accept()).await.expect_err("it has ended");
        assert!(matches!(link.open(SOON).await, Err(OpenError::Lost(Lost::Other(_)))));
    }
    for stream in &mut streams {
        let error = stream.recv.read_u8().await.expect_err("it has ended");
        assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
        let error = stream.send.write_all(b"x").await.expect_err("it has ended");
        assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_no_goodbye() {
    let tasks = Tasks::new();
    let (link, peer, told) = faced(&tasks).await;
    drop(peer);
    assert!(matches!(soon(link.closed()).await, Lost::Other(_)));
    assert_eq!(soon(told).await, Ok(None));
}
