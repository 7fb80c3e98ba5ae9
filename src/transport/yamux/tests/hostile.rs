//! A peer that does what it must not: it is sent away, or gets nothing by it; and what it makes this side keep is bounded.

use proptest::prelude::*;

use super::*;

/// What a session may keep for its peer, in bytes.
fn kept(end: &End) -> usize {
    let session = lock(&end.session);
    let buffers = session.streams.values().map(|s| s.incoming.capacity() + s.outgoing.capacity());
    buffers.sum::<usize>() + session.answers.capacity() + session.header.capacity()
}

#[test]
fn a_flood_of_streams_costs_what_the_limit_says() {
    let end = End::new(Side::Server, Limits { peer: 100, own: 1 });
    let mut violation = None;
    'flood: for round in 0..100_u32 {
        let mut message = BytesMut::new();
        for id in 0..1000 {
            message.extend_from_slice(&header(
                Kind::WindowUpdate,
                Flags::SYN,
                (round * 1000 + id) * 2 + 1,
                0,
            ));
        }
        if let Err(error) = end.receive(message) {
            violation = Some(error);
            break 'flood;
        }
        assert_eq!(lock(&end.session).streams.len(), 100);
        assert!(kept(&end) <= 4 * ANSWERS, "{}", kept(&end));
    }
    assert_eq!(violation, Some(Violation::Flood), "refusals that nobody reads");
}

#[test]
fn streams_that_come_and_go_count_until_they_are_looked_at() {
    let mut end = End::new(Side::Server, Limits { peer: 100, own: 1 });
    for id in 0..1000 {
        end.receive(header(Kind::WindowUpdate, Flags(Flags::SYN.0 | Flags::RST.0), id * 2 + 1, 0))
            .expect("allowed");
        end.send();
    }
    assert_eq!(lock(&end.session).streams.len(), 100);
    assert!(now(end.shared.accept()).is_none(), "none of them is a stream");
    end.assert_empty();
}

#[test]
fn a_flood_of_pings_is_answered_as_long_as_the_answers_are_read() {
    let mut end = End::new(Side::Server, LIMITS);
    let mut pings = BytesMut::new();
    for number in 0..1000 {
        pings.extend_from_slice(&header(Kind::Ping, Flags::SYN, 0, number));
    }
    for _ in 0..200 {
        end.receive(pings.clone()).expect("they are answered");
        while end.send() > 0 {}
        let answers: Vec<u8> = end.wire.drain(..).collect();
        assert_eq!(answers.len(), pings.len());
        assert_eq!(answers[..HEADER], header(Kind::Ping, Flags::ACK, 0, 0)[..]);
        assert_eq!(answers[answers.len() - HEADER..], header(Kind::Ping, Flags::ACK, 0, 999)[..]);
    }
    let mut received = 0;
    let violation = loop {
        match end.receive(pings.clone()) {
            Ok(()) => received += pings.len(),
            Err(violation) => break violation,
        }
        assert!(received <= ANSWERS, "there is no bound");
    };
    assert_eq!(violation, Violation::Flood);
    assert!(kept(&end) <= 4 * ANSWERS, "{}", kept(&end));
    // Answers to answers there are none.
    let mut end = End::new(Side::Server, LIMITS);
    end.receive(header(Kind::Ping, Flags::ACK, 0, 1)).expect("allowed");
    assert_eq!(end.send(), 0);
}

#[test]
fn answers_go_out_in_messages_that_the_peer_takes() {
    // `End::send` asserts the size of each.
    let mut pair = Pair::new();
    let mut pings = BytesMut::new();
    for number in 0..50_000 {
        pings.extend_from_slice(&header(Kind::Ping, Flags::SYN, 0, number));
    }
    pair.client.receive(pings).expect("allowed");
    // Nothing is opened, and nothing sent, before the peer has read.
    let (count, waker) = Count::new();
    let shared = pair.client.shared.clone();
    let mut open = Box::pin(shared.open());
    assert!(open.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let mut messages = 0;
    while pair.client.send() > 0 {
        messages += 1;
    }
    assert_eq!(messages, (50_000 * HEADER).div_ceil(MESSAGE));
    assert!(count.woken());
    assert!(matches!(open.as_mut().poll(&mut cx()), Poll::Ready(Ok(_))));
}

#[test]
fn more_than_a_window_ends_the_session() {
    let end = End::new(Side::Server, LIMITS);
    end.receive(data(Flags::SYN, 1, &vec![0; INITIAL_WINDOW as usize])).expect("as much as is allowed");
    assert_eq!(end.receive(data(Flags::default(), 1, b"x")), Err(Violation::Window(1)));
    // The length is enough: nothing of it is kept.
    let end = End::new(Side::Server, LIMITS);
    assert_eq!(end.receive(header(Kind::Data, Flags::SYN, 1, u32::MAX)), Err(Violation::Window(1)));
    // Nor may the peer give more than there are numbers for.
    let end = End::new(Side::Server, LIMITS);
    end.receive(header(Kind::WindowUpdate, Flags::SYN, 1, u32::MAX - INITIAL_WINDOW)).expect("allowed");
    assert_eq!(end.receive(header(Kind::WindowUpdate, Flags::default(), 1, 1)), Err(Violation::Window(1)));
}

#[test]
fn streams_that_are_not_the_peers_to_open_end_the_session() {
    for (side, id) in [(Side::Server, 0), (Side::Server, 2), (Side::Client, 1), (Side::Client, 0)] {
        for kind in [Kind::Data, Kind::WindowUpdate] {
            let end = End::new(side, LIMITS);
            assert_eq!(end.receive(header(kind, Flags::SYN, id, 0)), Err(Violation::Stream(id)));
        }
    }
    let end = End::new(Side::Server, LIMITS);
    end.receive(header(Kind::WindowUpdate, Flags::SYN, 5, 0)).expect("allowed");
    let again = end.receive(header(Kind::WindowUpdate, Flags::SYN, 5, 0));
    assert_eq!(again, Err(Violation::Stream(5)));
}

#[test]
fn frames_for_streams_that_are_not_there_change_nothing() {
    let mut pair = Pair::new();
    for id in [0, 2, 3, 99, u32::MAX] {
        for flags in [Flags::default(), Flags::ACK, Flags::FIN, Flags::RST] {
            pair.client.receive(header(Kind::WindowUpdate, flags, id, 5)).expect("allowed");
            pair.client.receive(data(flags, id, &[9; 3000])).expect("allowed");
        }
    }
    assert_eq!(pair.client.send(), 0);
    pair.client.assert_empty();
    assert!(kept(&pair.client) < 1024);
    let ((_send, recv), _peer) = pair.stream();
    assert!(read(&recv, 1).is_none(), "its first stream is as new");
}

#[test]
fn bytes_of_a_frame_cost_what_they_are_however_they_are_cut() {
    let end = End::new(Side::Server, LIMITS);
    end.receive(header(Kind::WindowUpdate, Flags::SYN, 1, 0)).expect("allowed");
    let (_send, recv) = end.accept();
    let mut total = 0;
    while total + (1 << 20) / (HEADER + 1) <= INITIAL_WINDOW as usize {
        // A message of 1 MiB, in which each frame has one byte.
        let mut message = BytesMut::with_capacity(1 << 20);
        while message.len() + HEADER < 1 << 20 {
            message.extend_from_slice(&data(Flags::default(), 1, b"x"));
            total += 1;
        }
        end.receive(message).expect("allowed");
        assert!(kept(&end) <= 4 * total + 1024, "{} for {total}", kept(&end));
    }
    assert_eq!(read_all(&recv).0.len(), total);
    assert!(kept(&end) < 1024, "an idle stream keeps no buffer");
}

#[test]
fn a_small_piece_does_not_keep_the_message_it_came_in() {
    let end = End::new(Side::Server, LIMITS);
    let mut message = data(Flags::SYN, 1, &[7; 2000]);
    message.extend_from_slice(&data(Flags::default(), 99, &vec![0; 1 << 20]));
    let message = message.freeze();
    end.receive(message.clone()).expect("allowed");
    assert!(message.is_unique(), "nothing of the message is kept");
    assert_eq!(lock(&end.session).unread, 2000);
}

#[test]
fn what_is_unread_on_all_streams_is_bounded_even_when_they_have_ended() {
    for flags in [Flags::default(), Flags::FIN] {
        let end = End::new(Side::Server, LIMITS);
        let window = INITIAL_WINDOW as usize;
        let streams = UNREAD / window + 50;
        let mut taken = Vec::new();
        for number in 0..streams {
            let id = number as u32 * 2 + 1;
            end.receive(header(Kind::WindowUpdate, Flags::SYN, id, 0)).expect("allowed");
            taken.push(end.accept());
            end.receive(data(flags, id, &vec![0; window])).expect("allowed");
            assert!(lock(&end.session).unread <= UNREAD);
        }
        let (whole, broken): (Vec<_>, Vec<_>) =
            taken.iter().map(|(_, recv)| read_all(recv)).partition(|(bytes, _)| !bytes.is_empty());
        assert!(whole.len() >= UNREAD / window - 1, "{}", whole.len());
        assert_eq!(whole.len() + broken.len(), streams);
        for (_, end) in broken {
            assert_eq!(end.map(kind), Some(Err(io::ErrorKind::ConnectionReset)));
        }
        lock(&end.session).end();
        drop(taken);
        end.assert_empty();
    }
}

#[test]
fn a_stream_that_is_not_read_is_not_written_to_without_bound() {
    let mut pair = Pair::new();
    let ((send, _recv), _peer) = pair.stream();
    let mut written = 0;
    for _ in 0..100 {
        written += write(&send, &vec![0; 1 << 20]);
        pair.pump();
    }
    assert_eq!(written, INITIAL_WINDOW as usize + SEND_BUFFER);
}

/// Frames that are mostly right.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let frame = (0..4_u8, 0..16_u16, 0..8_u32, prop_oneof![0..64_u32, 0..70_000_u32]).prop_map(
        |(kind, flags, stream, length)| {
            let mut bytes = vec![0, kind];
            bytes.extend(flags.to_be_bytes());
            bytes.extend(stream.to_be_bytes());
            bytes.extend(length.to_be_bytes());
            if kind == 0 {
                bytes.resize(HEADER + length as usize, 0xa5);
            }
            bytes
        },
    );
    prop::collection::vec(frame, 0..40).prop_map(|frames| frames.concat())
}

/// Lets a session have whatever it is, with users that do all they can; nothing breaks, and the bounds hold.
fn survives(side: Side, bytes: &[u8], cut: usize) {
    let mut end = End::new(side, Limits { peer: 3, own: 3 });
    let mut streams = vec![end.open()];
    for piece in bytes.chunks(cut) {
        let received = end.receive(Bytes::copy_from_slice(piece));
        while let Some(Ok(stream)) = now(end.shared.accept()) {
            streams.push(stream);
        }
        for (send, recv) in &streams {
            drop(send.poll_write(&mut cx(), &[1; 100]));
            drop(read(recv, 1000));
        }
        if streams.len() > 2 {
            streams.remove(0);
        }
        end.send();
        lock(&end.session).flushed();
        assert!(lock(&end.session).streams.len() <= 6);
        assert!(kept(&end) <= 6 * 4 * (INITIAL_WINDOW as usize + SEND_BUFFER) + 4 * ANSWERS);
        if received.is_err() {
            break;
        }
    }
    lock(&end.session).end();
    drop(streams);
    end.assert_empty();
}

proptest! {
    #[test]
    fn random_bytes_break_nothing(bytes in prop::collection::vec(any::<u8>(), 0..500), cut in 1..100_usize) {
        survives(Side::Server, &bytes, cut);
        survives(Side::Client, &bytes, cut);
    }

    #[test]
    fn frames_without_sense_break_nothing(bytes in frames(), cut in 1..200_000_usize) {
        survives(Side::Server, &bytes, cut);
        survives(Side::Client, &bytes, cut);
    }

    #[test]
    fn flipped_bits_break_nothing(
        mut bytes in frames(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..20),
        cut in 1..5000_usize,
    ) {
        if !bytes.is_empty() {
            for (at, bit) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
        }
        survives(Side::Server, &bytes, cut);
        survives(Side::Client, &bytes, cut);
    }
}
