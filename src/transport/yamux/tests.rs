//! Two sessions that talk to each other, over wires that cut what they carry anywhere.

mod hostile;
mod paths;
mod random;

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::{Bytes, BytesMut};
use tokio::{io::ReadBuf, time::Instant};

use super::{
    Limits, NoStream, Output, Receiver, Sender, Session, Shared, Side, Violation,
    frame::{Flags, HEADER, Header, Kind},
    lock,
    session::{ANSWERS, MESSAGE, TURN, UNREAD},
    state::INITIAL_WINDOW,
    users::{BACKLOG, SEND_BUFFER, SEND_BUFFER_LEAST, UNSENT},
};

const LIMITS: Limits = Limits { peer: 1000, own: 1000 };

/// One side: the session, its users' handle, and what it has sent that has not arrived.
struct End {
    session: Arc<Mutex<Session>>,
    shared: Shared,
    wire: VecDeque<u8>,
}

impl End {
    fn new(side: Side, limits: Limits) -> Self {
        let session = Arc::new(Mutex::new(Session::new(side, limits)));
        Self { shared: Shared::new(Arc::clone(&session)), session, wire: VecDeque::new() }
    }

    /// Sends a message, if there is one; how many bytes it has.
    fn send(&mut self) -> usize {
        match lock(&self.session).poll_output(&mut cx()) {
            Poll::Ready(Output::Message(message)) => {
                assert!(message.len() <= MESSAGE + HEADER + TURN + HEADER, "{}", message.len());
                self.wire.extend(&message);
                message.len()
            }
            Poll::Ready(Output::Closed) | Poll::Pending => 0,
        }
    }

    fn receive(&self, bytes: impl Into<Bytes>) -> Result<(), Violation> {
        lock(&self.session).receive(bytes.into(), Instant::now())
    }

    fn open(&self) -> (Sender, Receiver) {
        now(self.shared.open()).expect("there is room").expect("it is open")
    }

    fn accept(&self) -> (Sender, Receiver) {
        now(self.shared.accept()).expect("one has arrived").expect("it is open")
    }

    /// Nothing is left of any stream.
    fn assert_empty(&self) {
        let session = lock(&self.session);
        let left = (session.streams.len(), session.own, session.peers, session.unacked);
        assert_eq!(left, (0, 0, 0, 0), "streams, own, peers, unacked");
        assert_eq!((session.unread, session.unsent, session.extra), (0, 0, 0), "unread, unsent, extra");
        assert!(session.arrived.is_empty() && session.ending.is_empty());
    }
}

/// Two sides.
struct Pair {
    client: End,
    server: End,
}

impl Pair {
    fn new() -> Self {
        Self::with(LIMITS)
    }

    fn with(limits: Limits) -> Self {
        Self { client: End::new(Side::Client, limits), server: End::new(Side::Server, limits) }
    }

    /// A stream that the client has opened and the server has taken.
    fn stream(&mut self) -> ((Sender, Receiver), (Sender, Receiver)) {
        let opened = self.client.open();
        self.pump();
        let accepted = self.server.accept();
        self.pump();
        (opened, accepted)
    }

    /// Moves all that either has to say, until they are silent.
    fn pump(&mut self) {
        loop {
            let mut moved = 0;
            for (from, to) in [(0, 1), (1, 0)] {
                let (from, to) = self.ends(from, to);
                while from.send() > 0 {
                    lock(&from.session).flushed();
                }
                moved += from.wire.len();
                let bytes: Vec<u8> = from.wire.drain(..).collect();
                to.receive(bytes).expect("both keep to the protocol");
            }
            if moved == 0 {
                return;
            }
        }
    }

    fn ends(&mut self, from: usize, _to: usize) -> (&mut End, &mut End) {
        if from == 0 { (&mut self.client, &mut self.server) } else { (&mut self.server, &mut self.client) }
    }
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// What a future has now, if it has something.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match std::pin::pin!(future).poll(&mut cx()) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Count {
    fn new() -> (Arc<Self>, Waker) {
        let count = Arc::new(Self::default());
        (Arc::clone(&count), count.into())
    }

    fn woken(&self) -> bool {
        self.0.swap(0, Relaxed) > 0
    }
}

/// Writes as much as is taken now; how much.
fn write(sender: &Sender, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len()
        && let Poll::Ready(len) = sender.poll_write(&mut cx(), &bytes[written..])
    {
        written += len.expect("it is open");
    }
    written
}

/// What can be read now, `Some(Ok(vec![]))` at the end.
fn read(receiver: &Receiver, len: usize) -> Option<io::Result<Vec<u8>>> {
    let mut bytes = vec![0; len];
    let mut buf = ReadBuf::new(&mut bytes);
    match receiver.poll_read(&mut cx(), &mut buf) {
        Poll::Ready(Ok(())) => {
            let len = buf.filled().len();
            bytes.truncate(len);
            Some(Ok(bytes))
        }
        Poll::Ready(Err(error)) => Some(Err(error)),
        Poll::Pending => None,
    }
}

/// All that can be read now, and how it ends, if it has.
fn read_all(receiver: &Receiver) -> (Vec<u8>, Option<io::Result<()>>) {
    let mut all = Vec::new();
    loop {
        match read(receiver, 64 * 1024) {
            None => return (all, None),
            Some(Ok(bytes)) if bytes.is_empty() => return (all, Some(Ok(()))),
            Some(Ok(bytes)) => all.extend(bytes),
            Some(Err(error)) => return (all, Some(Err(error))),
        }
    }
}

fn finish(sender: &Sender) -> Poll<io::Result<()>> {
    sender.poll_finish(&mut cx())
}

fn header(kind: Kind, flags: Flags, stream: u32, length: u32) -> BytesMut {
    let mut bytes = BytesMut::new();
    Header { kind, flags, stream, length }.encode(&mut bytes);
    bytes
}

fn data(flags: Flags, stream: u32, bytes: &[u8]) -> BytesMut {
    let mut frame = header(Kind::Data, flags, stream, bytes.len() as u32);
    frame.extend_from_slice(bytes);
    frame
}

fn kind<T>(result: io::Result<T>) -> Result<T, io::ErrorKind> {
    result.map_err(|error| error.kind())
}

#[test]
fn headers_are_those_of_the_specification() {
    let bytes = header(Kind::WindowUpdate, Flags(Flags::SYN.0 | Flags::FIN.0), 0x0102_0304, 0x0506_0708);
    assert_eq!(&bytes[..], [0, 1, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8]);
    for (kind, number) in [(Kind::Data, 0), (Kind::WindowUpdate, 1), (Kind::Ping, 2), (Kind::GoAway, 3)] {
        let bytes = header(kind, Flags::RST, 7, 9);
        assert_eq!(bytes[1], number);
        let bytes = bytes[..].try_into().expect("12 bytes");
        assert_eq!(
            Header::decode(&bytes).expect("a header"),
            Header { kind, flags: Flags::RST, stream: 7, length: 9 }
        );
    }
    assert_eq!(
        (Flags::SYN.0, Flags::ACK.0, Flags::FIN.0, Flags::RST.0),
        (1, 2, 4, 8),
        "flags of the specification"
    );
    let end = End::new(Side::Server, LIMITS);
    let error = end.receive(vec![1; HEADER]).expect_err("version 1");
    assert_eq!(error.to_string(), "version 1 of yamux is not known");
    let end = End::new(Side::Server, LIMITS);
    let error = end.receive(vec![0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).expect_err("type 4");
    assert_eq!(error.to_string(), "a frame of type 4 is not known");
}

#[test]
fn a_stream_carries_bytes_both_ways_and_ends_each_way_by_itself() {
    let mut pair = Pair::new();
    let ((send, recv), (peer_send, peer_recv)) = pair.stream();
    assert_eq!((send.id(), peer_send.id()), (1, 1));
    assert_eq!(write(&send, b"question"), 8);
    assert!(finish(&send).is_pending());
    pair.pump();
    assert!(matches!(finish(&send), Poll::Ready(Ok(()))));
    let (bytes, end) = read_all(&peer_recv);
    assert_eq!(bytes, b"question");
    assert!(matches!(end, Some(Ok(()))));
    assert!(read(&recv, 10).is_none(), "the other direction is open");

    assert_eq!(write(&peer_send, b"answer"), 6);
    assert!(finish(&peer_send).is_pending());
    pair.pump();
    let (bytes, end) = read_all(&recv);
    assert_eq!(bytes, b"answer");
    assert!(matches!(end, Some(Ok(()))));
    drop((send, recv, peer_send, peer_recv));
    pair.client.assert_empty();
    pair.server.assert_empty();
    assert_eq!(pair.client.send() + pair.server.send(), 0, "nothing more is to be said");
}

#[test]
fn either_side_opens_and_numbers_are_odd_and_even() {
    let mut pair = Pair::new();
    let numbers = |end: &End| [end.open(), end.open()].map(|(send, _)| send.id());
    assert_eq!(numbers(&pair.client), [1, 3]);
    assert_eq!(numbers(&pair.server), [2, 4]);
    pair.pump();
    // They were broken off before they could be taken.
    assert!(now(pair.client.shared.accept()).is_none());
    assert!(now(pair.server.shared.accept()).is_none());
    pair.client.assert_empty();
    pair.server.assert_empty();
}

#[test]
fn numbers_run_out_and_do_not_start_again() {
    for (side, last) in [(Side::Client, u32::MAX - 4), (Side::Server, u32::MAX - 3)] {
        let end = End::new(side, LIMITS);
        lock(&end.session).next = last;
        assert_eq!(end.open().0.id(), last);
        assert_eq!(now(end.shared.open()).map(|opened| opened.err()), Some(Some(NoStream::Exhausted)));
    }
}

#[test]
fn the_peer_is_told_of_a_stream_at_once_and_of_its_being_taken() {
    let mut pair = Pair::new();
    let (_send, recv) = pair.client.open();
    assert!(recv.poll_taken(&mut cx()).is_pending());
    pair.pump();
    assert!(recv.poll_taken(&mut cx()).is_pending(), "it has arrived, nobody has taken it");
    let (count, waker) = Count::new();
    assert!(recv.poll_taken(&mut Context::from_waker(&waker)).is_pending());
    let taken = pair.server.accept();
    pair.pump();
    assert!(count.woken());
    assert!(matches!(recv.poll_taken(&mut cx()), Poll::Ready(Ok(()))));
    drop(taken);
}

#[test]
fn a_reset_is_no_end_on_either_side() {
    let mut pair = Pair::new();
    let ((send, recv), (peer_send, peer_recv)) = pair.stream();
    write(&send, b"some");
    pair.pump();
    // An end that is asked for and has not left is taken back.
    assert!(finish(&send).is_pending());
    send.reset();
    pair.pump();
    assert_eq!(kind(read(&peer_recv, 9).expect("it has ended")), Err(io::ErrorKind::ConnectionReset));
    assert_eq!(kind(read(&recv, 9).expect("it has ended")), Err(io::ErrorKind::ConnectionReset));
    let Poll::Ready(written) = peer_send.poll_write(&mut cx(), b"x") else { panic!("it has ended") };
    assert_eq!(kind(written), Err(io::ErrorKind::BrokenPipe));
    drop((send, recv, peer_send, peer_recv));
    pair.client.assert_empty();
    pair.server.assert_empty();
}

#[test]
fn a_half_that_is_dropped_before_its_end_breaks_the_stream_off() {
    let mut pair = Pair::new();
    let ((send, recv), (peer_send, peer_recv)) = pair.stream();
    write(&send, b"some");
    drop(send);
    pair.pump();
    assert_eq!(kind(read(&peer_recv, 9).expect("it has ended")), Err(io::ErrorKind::ConnectionReset));
    drop((recv, peer_send, peer_recv));
    pair.client.assert_empty();
    pair.server.assert_empty();
}

#[test]
fn an_end_that_is_asked_for_is_sent_after_its_half_is_dropped() {
    let mut pair = Pair::new();
    let ((send, recv), (peer_send, peer_recv)) = pair.stream();
    write(&send, b"all of it");
    assert!(finish(&send).is_pending());
    drop(send);
    pair.pump();
    let (bytes, end) = read_all(&peer_recv);
    assert_eq!(bytes, b"all of it");
    assert!(matches!(end, Some(Ok(()))));
    assert!(finish(&peer_send).is_pending());
    pair.pump();
    drop((recv, peer_send, peer_recv));
    pair.client.assert_empty();
    pair.server.assert_empty();
}

#[test]
fn two_users_that_both_have_stopped_reading_come_to_their_ends() {
    let mut pair = Pair::new();
    let ((send, recv), (peer_send, peer_recv)) = pair.stream();
    drop((recv, peer_recv));
    for _ in 0..20 {
        for send in [&send, &peer_send] {
            assert!(write(send, &[1; 100_000]) > 0, "more than the window that there was at first");
        }
        pair.pump();
    }
    assert!(finish(&send).is_pending());
    assert!(finish(&peer_send).is_pending());
    drop((send, peer_send));
    pair.pump();
    pair.client.assert_empty();
    pair.server.assert_empty();
}

#[test]
fn reading_no_more_lets_the_own_end_arrive_and_then_stops_the_peer() {
    let mut pair = Pair::new();
    let ((send, recv), (peer_send, peer_recv)) = pair.stream();
    write(&peer_send, &[1; 1000]);
    pair.pump();
    recv.stop();
    assert_eq!(lock(&pair.client.session).unread, 0);
    write(&send, b"no, thanks");
    pair.pump();
    assert!(write(&peer_send, b"more") > 0, "a reset is for both directions, so it waits for the own end");
    pair.pump();
    assert_eq!(lock(&pair.client.session).unread, 0, "what still comes is thrown away");
    assert!(finish(&send).is_pending());
    let (count, waker) = Count::new();
    assert!(peer_send.poll_finished(&mut Context::from_waker(&waker)).is_pending());
    pair.pump();
    assert!(count.woken());
    let Poll::Ready(stopped) = peer_send.poll_finished(&mut cx()) else { panic!("it is told") };
    assert_eq!(kind(stopped), Err(io::ErrorKind::BrokenPipe));
    let (bytes, end) = read_all(&peer_recv);
    assert_eq!(bytes, b"no, thanks", "a reset behind the end takes nothing back");
    assert!(matches!(end, Some(Ok(()))));
    drop((send, recv, peer_send, peer_recv));
    pair.client.assert_empty();
    pair.server.assert_empty();
}

#[test]
fn what_has_been_sent_whole_is_not_taken_back() {
    let mut pair = Pair::new();
    let ((send, recv), (peer_send, peer_recv)) = pair.stream();
    write(&send, b"whole");
    assert!(finish(&send).is_pending());
    pair.client.send();
    send.reset();
    drop(recv);
    pair.pump();
    let (bytes, end) = read_all(&peer_recv);
    assert_eq!(bytes, b"whole");
    assert!(matches!(end, Some(Ok(()))));
    drop((send, peer_send, peer_recv));
    pair.pump();
    pair.client.assert_empty();
    pair.server.assert_empty();
}

#[test]
fn an_end_is_done_when_its_message_is_out_of_the_drivers_hands() {
    let mut pair = Pair::new();
    let ((send, _recv), _peer) = pair.stream();
    write(&send, b"last");
    let (count, waker) = Count::new();
    assert!(send.poll_finish(&mut Context::from_waker(&waker)).is_pending());
    assert!(pair.client.send() > 0);
    assert!(send.poll_finish(&mut Context::from_waker(&waker)).is_pending(), "the message may be stuck");
    count.woken();
    lock(&pair.client.session).flushed();
    assert!(count.woken());
    assert!(matches!(finish(&send), Poll::Ready(Ok(()))));
    let Poll::Ready(written) = send.poll_write(&mut cx(), b"more") else { panic!("nothing to wait for") };
    assert_eq!(kind(written), Err(io::ErrorKind::BrokenPipe));
}

#[test]
fn an_end_travels_in_a_frame_of_its_own() {
    // hashicorp/yamux takes an end that comes with bytes to be before them.
    let mut pair = Pair::new();
    let ((send, _recv), _peer) = pair.stream();
    write(&send, b"1234");
    assert!(finish(&send).is_pending());
    pair.client.send();
    let sent: Vec<u8> = pair.client.wire.drain(..).collect();
    let mut expected = data(Flags::default(), 1, b"1234");
    expected.extend_from_slice(&header(Kind::WindowUpdate, Flags::FIN, 1, 0));
    assert_eq!(sent, expected, "both in one message");
}

#[test]
fn an_end_with_bytes_comes_after_them() {
    let end = End::new(Side::Server, LIMITS);
    end.receive(data(Flags(Flags::SYN.0 | Flags::FIN.0), 1, b"all")).expect("allowed");
    let (_send, recv) = end.accept();
    let (bytes, ended) = read_all(&recv);
    assert_eq!(bytes, b"all");
    assert!(matches!(ended, Some(Ok(()))));
}

#[test]
fn frames_may_be_cut_anywhere() {
    let mut script = header(Kind::WindowUpdate, Flags::SYN, 1, 10);
    script.extend_from_slice(&data(Flags::default(), 1, b"hello"));
    script.extend_from_slice(&header(Kind::Ping, Flags::SYN, 0, 77));
    script.extend_from_slice(&data(Flags::FIN, 1, b", world"));
    script.extend_from_slice(&header(Kind::GoAway, Flags::default(), 0, 0));
    for first in 0..=script.len() {
        for second in first..=script.len() {
            let end = End::new(Side::Server, LIMITS);
            let (a, rest) = script.split_at(first);
            let (b, c) = rest.split_at(second - first);
            for piece in [a, b, c] {
                end.receive(Bytes::copy_from_slice(piece)).expect("allowed");
            }
            let (_send, recv) = end.accept();
            let (bytes, ended) = read_all(&recv);
            assert_eq!(bytes, b"hello, world");
            assert!(matches!(ended, Some(Ok(()))));
            assert!(lock(&end.session).is_away());
        }
    }
}

#[test]
fn a_goodbye_of_the_peer_lets_streams_finish_in_both_directions() {
    let mut pair = Pair::new();
    let ((send, recv), (peer_send, peer_recv)) = pair.stream();
    let second = pair.server.open();
    pair.pump();
    let (away, waker) = Count::new();
    let mut waits = Box::pin(pair.client.shared.away());
    assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    pair.client.receive(header(Kind::GoAway, Flags::default(), 0, 0)).expect("allowed");
    assert!(away.woken());
    assert!(waits.as_mut().poll(&mut cx()).is_ready());
    drop(waits);
    assert_eq!(now(pair.client.shared.open()).map(|opened| opened.err()), Some(Some(NoStream::Away)));
    // What goes on, and what the peer has opened before.
    let (other_send, other_recv) = pair.client.accept();
    for (from, to) in [(&send, &peer_recv), (&peer_send, &recv), (&other_send, &second.1)] {
        write(from, &[7; 100_000]);
        assert!(finish(from).is_pending());
        pair.pump();
        let (bytes, end) = read_all(to);
        assert_eq!(bytes.len(), 100_000);
        assert!(matches!(end, Some(Ok(()))));
    }
    drop((send, recv, peer_send, peer_recv, other_send, other_recv, second));
    pair.pump();
    pair.client.assert_empty();
    pair.server.assert_empty();
}

#[test]
fn opening_waits_for_room_and_one_who_gives_up_leaves_nothing() {
    let mut pair = Pair::with(Limits { peer: 10, own: 2 });
    let (first, _second) = (pair.client.open(), pair.client.open());
    let (count, waker) = Count::new();
    let shared = pair.client.shared.clone();
    let mut third = Box::pin(shared.open());
    for _ in 0..10_000 {
        assert!(now(shared.open()).is_none());
    }
    assert!(third.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let mut fourth = Box::pin(shared.open());
    assert!(fourth.as_mut().poll(&mut cx()).is_pending());
    pair.pump();
    drop(first);
    assert!(count.woken());
    // Whoever is woken and gives up hands the room on.
    drop(third);
    assert!(fourth.as_mut().poll(&mut cx()).is_ready());
}

#[test]
fn no_more_streams_are_opened_than_the_peers_backlog_takes() {
    let mut pair = Pair::new();
    let mut opened: Vec<_> = (0..BACKLOG).map(|_| pair.client.open()).collect();
    let (count, waker) = Count::new();
    let shared = pair.client.shared.clone();
    let mut more = Box::pin(shared.open());
    assert!(more.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    pair.pump();
    let taken = pair.server.accept();
    pair.pump();
    assert!(count.woken());
    let Poll::Ready(Ok(more)) = more.as_mut().poll(&mut cx()) else { panic!("there is room") };
    opened.push(more);
    drop((opened, taken));
    pair.pump();
    // Those that were reset before anybody took them are no streams.
    assert!(now(pair.server.shared.accept()).is_none());
    pair.client.assert_empty();
    pair.server.assert_empty();
}

#[test]
fn each_of_several_who_accept_gets_a_stream() {
    let mut pair = Pair::new();
    let wakers = [Count::new(), Count::new()];
    let mut accepts = wakers.each_ref().map(|_| Box::pin(pair.server.shared.accept()));
    for (accept, (_, waker)) in accepts.iter_mut().zip(&wakers) {
        assert!(accept.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    }
    let opened = [pair.client.open(), pair.client.open()];
    let (from, to) = (&mut pair.client, &pair.server);
    from.send();
    to.receive(from.wire.drain(..).collect::<Vec<u8>>()).expect("allowed");
    for (accept, (count, _)) in accepts.iter_mut().zip(&wakers) {
        assert!(count.woken());
        assert!(matches!(accept.as_mut().poll(&mut cx()), Poll::Ready(Ok(_))));
    }
    drop(opened);
}

#[test]
fn streams_above_the_limit_are_refused() {
    let mut pair = Pair::with(Limits { peer: 2, own: 10 });
    let opened: Vec<_> = (0..3).map(|_| pair.client.open()).collect();
    pair.pump();
    let taken = opened[2].1.poll_taken(&mut cx());
    let Poll::Ready(taken) = taken else { panic!("it was refused") };
    assert_eq!(kind(taken), Err(io::ErrorKind::ConnectionReset));
    lock(&pair.server.session).set_peer_limit(3);
    let fourth = pair.client.open();
    pair.pump();
    assert!(fourth.1.poll_taken(&mut cx()).is_pending());
    drop((opened, fourth));
    pair.pump();
    assert!(now(pair.server.shared.accept()).is_none());
    pair.client.assert_empty();
    pair.server.assert_empty();
}

#[test]
fn what_waits_to_be_sent_is_bounded_for_each_stream_and_for_all() {
    let pair = Pair::new();
    let streams: Vec<_> = (0..100).map(|_| pair.client.open()).collect();
    let bytes = vec![0; 1 << 20];
    for (number, (send, _)) in streams.iter().enumerate() {
        let written = write(send, &bytes);
        let expected = if number < UNSENT / SEND_BUFFER { SEND_BUFFER } else { SEND_BUFFER_LEAST };
        assert_eq!(written, expected, "stream {number}");
    }
    drop(streams);
    assert_eq!(lock(&pair.client.session).unsent, 0);
}

#[test]
fn a_writer_is_woken_when_there_is_room_and_a_reader_when_something_comes() {
    let mut pair = Pair::new();
    let ((send, _recv), (_peer_send, peer_recv)) = pair.stream();
    let (written, write_waker) = Count::new();
    let (come, read_waker) = Count::new();
    let (driver, driver_waker) = Count::new();
    let mut buf = [0; 16];
    assert!(
        peer_recv.poll_read(&mut Context::from_waker(&read_waker), &mut ReadBuf::new(&mut buf)).is_pending()
    );
    assert!(lock(&pair.client.session).poll_output(&mut Context::from_waker(&driver_waker)).is_pending());
    write(&send, &vec![0; SEND_BUFFER]);
    assert!(driver.woken());
    assert!(send.poll_write(&mut Context::from_waker(&write_waker), b"x").is_pending());
    pair.client.send();
    assert!(written.woken());
    assert!(!come.woken());
    pair.pump();
    assert!(come.woken());
    // The window is used up: what is written waits, and goes when the peer has read.
    assert_eq!(write(&send, &vec![0; SEND_BUFFER]), SEND_BUFFER);
    pair.pump();
    assert_eq!(lock(&pair.client.session).unsent, SEND_BUFFER);
    assert!(send.poll_write(&mut Context::from_waker(&write_waker), b"x").is_pending());
    read_all(&peer_recv);
    pair.pump();
    assert!(written.woken());
    assert_eq!(lock(&pair.client.session).unsent, 0);
}

#[test]
fn an_end_of_the_session_is_an_error_and_what_has_come_can_be_read() {
    let mut pair = Pair::new();
    let ((send, recv), (peer_send, peer_recv)) = pair.stream();
    let unaccepted = pair.client.open();
    write(&peer_send, b"before");
    pair.pump();
    write(&send, b"lost");
    let (count, waker) = Count::new();
    let mut accept = Box::pin(pair.client.shared.accept());
    assert!(accept.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    lock(&pair.client.session).end();
    assert!(count.woken());
    assert!(matches!(accept.as_mut().poll(&mut cx()), Poll::Ready(Err(NoStream::Ended))));
    drop(accept);
    let (bytes, end) = read_all(&recv);
    assert_eq!(bytes, b"before");
    assert_eq!(end.map(kind), Some(Err(io::ErrorKind::NotConnected)));
    let Poll::Ready(written) = send.poll_write(&mut cx(), b"x") else { panic!("it has ended") };
    assert_eq!(kind(written), Err(io::ErrorKind::NotConnected));
    assert!(matches!(now(pair.client.shared.open()), Some(Err(NoStream::Ended))));
    lock(&pair.server.session).end();
    drop((send, recv, peer_send, peer_recv, unaccepted));
    pair.client.assert_empty();
    pair.server.assert_empty();
}

#[test]
fn the_last_handle_closes_the_session() {
    let End { session, shared, .. } = End::new(Side::Client, LIMITS);
    let (send, recv) = now(shared.open()).expect("room").expect("open");
    drop((shared, send));
    while let Poll::Ready(output) = lock(&session).poll_output(&mut cx()) {
        assert!(matches!(output, Output::Message(_)), "a stream is left");
    }
    let (count, waker) = Count::new();
    assert!(lock(&session).poll_output(&mut Context::from_waker(&waker)).is_pending());
    drop(recv);
    assert!(count.woken());
    assert_eq!(lock(&session).poll_output(&mut cx()), Poll::Ready(Output::Closed));
}
