//! What streams get of a path: all of a long one, and a turn beside others.

use std::time::Duration;

use super::{super::state::State, *};
use crate::transport::yamux::users::{EXTRA, MAX_WINDOW};

const STEP: Duration = Duration::from_millis(1);

/// A way of 50 ms there and as much back, at 1 Gbit/s, on which the clients' streams send all they can for some time. How
/// many bytes arrive in the second half of it. Time is the runtime's, which stands still.
async fn carried(pair: &mut Pair, streams: &[(&Sender, &Receiver)], time: Duration) -> usize {
    const RATE: usize = 125_000;
    const DELAY: usize = 50;
    let bytes = vec![0; SEND_BUFFER];
    let mut there = VecDeque::from(vec![Vec::new(); DELAY]);
    let mut back = VecDeque::from(vec![Vec::new(); DELAY]);
    let mut arrived = 0;
    let steps = time.as_millis();
    for step in 0..steps {
        tokio::time::advance(STEP).await;
        loop {
            for (send, _) in streams {
                write(send, &bytes);
            }
            if pair.client.wire.len() >= RATE || pair.client.send() == 0 {
                break;
            }
        }
        let now = pair.client.wire.len().min(RATE);
        there.push_back(pair.client.wire.drain(..now).collect());
        pair.server.receive(there.pop_front().expect("as long as it was")).expect("allowed");
        for (_, recv) in streams {
            let (read, _) = read_all(recv);
            if step >= steps / 2 {
                arrived += read.len();
            }
        }
        while pair.server.send() > 0 {}
        back.push_back(pair.server.wire.drain(..).collect());
        pair.client.receive(back.pop_front().expect("as long as it was")).expect("allowed");
    }
    arrived
}

fn mbit(bytes: usize, time: Duration) -> f64 {
    bytes as f64 * 8.0 / time.as_secs_f64() / 1e6
}

#[tokio::test(start_paused = true)]
async fn one_stream_fills_a_long_path() {
    // The second half begins ten round trips after the first byte.
    let time = Duration::from_secs(2);
    let mut pair = Pair::new();
    let ((send, _r), (_s, recv)) = pair.stream();
    lock(&pair.server.session).set_rtt(Duration::from_millis(100));
    let grown = mbit(carried(&mut pair, &[(&send, &recv)], time).await, time / 2);
    assert_eq!(lock(&pair.server.session).extra, MAX_WINDOW - INITIAL_WINDOW);

    let mut pair = Pair::new();
    let ((send, _r), (_s, recv)) = pair.stream();
    // No path is that short, so that no window grows.
    lock(&pair.server.session).set_rtt(Duration::ZERO);
    let fixed = mbit(carried(&mut pair, &[(&send, &recv)], time).await, time / 2);
    assert!(grown >= 300.0, "{grown} Mbit/s");
    assert!((15.0..25.0).contains(&fixed), "{fixed} Mbit/s");
}

#[tokio::test(start_paused = true)]
async fn all_windows_together_grow_by_so_much_and_shrink_with_their_streams() {
    let mut pair = Pair::new();
    lock(&pair.server.session).set_rtt(Duration::from_secs(10));
    let streams: Vec<_> = (0..10).map(|_| pair.stream()).collect();
    let busy: Vec<_> = streams.iter().map(|((send, _), (_, recv))| (send, recv)).collect();
    carried(&mut pair, &busy, Duration::from_secs(2)).await;
    assert_eq!(lock(&pair.server.session).extra, EXTRA);
    drop(busy);
    drop(streams);
    pair.pump();
    pair.client.assert_empty();
    pair.server.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn the_window_of_a_slow_reader_stays() {
    let mut pair = Pair::new();
    let ((send, _r), (_s, recv)) = pair.stream();
    for _ in 0..100 {
        write(&send, &[0; 16 * 1024]);
        pair.pump();
        tokio::time::advance(Duration::from_millis(100)).await;
        read_all(&recv);
    }
    assert_eq!(lock(&pair.server.session).extra, 0);
}

#[test]
fn a_small_stream_gets_its_turn_beside_bulk() {
    let mut pair = Pair::new();
    let bulk: Vec<_> = (0..8).map(|_| pair.stream()).collect();
    let ((small, _r), (_s, recv)) = pair.stream();
    let bytes = vec![0; SEND_BUFFER];
    for _ in 0..20 {
        for ((send, _), _) in &bulk {
            write(send, &bytes);
        }
        // Those in bulk are under way; how many bytes are there before the small one's?
        pair.client.send();
        pair.client.wire.clear();
        write(&small, b"small");
        let mut before = 0;
        loop {
            let sent = pair.client.send();
            assert!(sent > 0, "it is in none of the messages");
            before += sent;
            let message: Vec<u8> = pair.client.wire.drain(..).collect();
            let found = message.windows(5).position(|bytes| bytes == b"small");
            pair.server.receive(message).expect("allowed");
            if found.is_some() {
                break;
            }
        }
        assert!(before <= bulk.len() * (TURN + HEADER) + MESSAGE + TURN, "{before}");
        assert_eq!(read_all(&recv).0, b"small");
        for (_, (_, recv)) in &bulk {
            read_all(recv);
        }
        while pair.server.send() > 0 {}
        let grants: Vec<u8> = pair.server.wire.drain(..).collect();
        pair.client.receive(grants).expect("allowed");
    }
}

#[test]
fn bulk_streams_get_the_same() {
    let mut pair = Pair::new();
    let streams: Vec<_> = (0..5).map(|_| pair.stream()).collect();
    let bytes = vec![0; SEND_BUFFER];
    for ((send, _), _) in &streams {
        write(send, &bytes);
    }
    let mut got = [0; 5];
    for _ in 0..10 {
        pair.client.send();
        let message: Vec<u8> = pair.client.wire.drain(..).collect();
        pair.server.receive(message).expect("allowed");
        for (got, (_, (_, recv))) in got.iter_mut().zip(&streams) {
            *got += read_all(recv).0.len();
        }
        let (least, most) = (got.iter().min().expect("five"), got.iter().max().expect("five"));
        assert!(most - least <= TURN, "{got:?}");
    }
}

#[test]
fn what_an_idle_stream_keeps() {
    let mut pair = Pair::with(Limits { peer: 10_000, own: 10_000 });
    let mut streams = Vec::new();
    for _ in 0..1000 {
        let ((send, recv), (peer_send, peer_recv)) = pair.stream();
        write(&send, &[1; 10_000]);
        pair.pump();
        read_all(&peer_recv);
        streams.push((send, recv, peer_send, peer_recv));
    }
    pair.pump();
    for end in [&pair.client, &pair.server] {
        let session = lock(&end.session);
        assert!(session.streams.values().all(|s| s.incoming.capacity() + s.outgoing.capacity() == 0));
        // A table is at most twice as large as it must be, and more while it is small.
        let each = size_of::<(u32, State)>();
        assert!(each <= 256, "{each}");
    }
}
