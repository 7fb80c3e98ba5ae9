//! A session as a state machine: messages and time in, messages out, and the streams between them.
//!
//! It never does I/O. The driver hands it what arrives and sends what it gives; users read and write streams and are woken.
//! Fairness: streams that have something to send take turns of [`TURN`] bytes. Windows begin at the specification's 256 KiB
//! and grow to [`MAX_WINDOW`] where the path is long enough to need it. What a peer can make this side keep is bounded,
//! whatever it sends; see the constants.

use std::{
    collections::{HashMap, VecDeque},
    io,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{io::ReadBuf, time::Instant};

use super::{
    frame::{Flags, HEADER, Header, Kind, Malformed},
    state::{Recv, Send, State},
};

/// How much a stream's window grows to, in bytes: 100 ms at 300 Mbit/s, as over QUIC.
const MAX_WINDOW: u32 = 4 << 20;

/// How much the windows of all streams together grow beyond what each begins with, in bytes.
const EXTRA: u32 = 16 << 20;

/// What may be unread on all streams together, in bytes. Above it the stream of which most is unread is reset: the others are
/// not to wait for it.
const UNREAD: usize = 64 << 20;

/// How many streams are opened that the peer has not taken yet; more wait. hashicorp/yamux resets what is above.
const BACKLOG: usize = 256;

/// What a stream may have waiting to be sent, in bytes: as long as all together have less than `UNSENT`, and otherwise.
const SEND_BUFFER: usize = 256 * 1024;
const UNSENT: usize = 8 << 20;
const SEND_BUFFER_LEAST: usize = 16 * 1024;

/// How much of a stream is sent before it is the next one's turn, in bytes.
const TURN: usize = 16 * 1024;

/// From which size on a message is sent as it is, in bytes.
const MESSAGE: usize = 64 * 1024;

/// What may wait of answers to the peer, in bytes: window updates of all streams fit in many times. A peer that asks and does
/// not read the answers is sent away.
const ANSWERS: usize = 1 << 20;

/// The highest number of a stream.
const LAST_STREAM: u32 = u32::MAX - 1;

/// Which side this is: clients open streams of odd numbers, servers of even ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum Side {
    /// It opened the connection.
    Client,
    /// It accepted it.
    Server,
}

/// How many streams there may be at once.
#[derive(Debug, Clone, Copy)]
pub(in crate::transport) struct Limits {
    /// Of the peer; those above are reset.
    pub(in crate::transport) peer: u32,
    /// Of this side; more wait.
    pub(in crate::transport) own: u32,
}

/// What a peer must not do; it ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::transport) enum Violation {
    /// Something that is no frame.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A stream that is not the peer's to open, or is open.
    #[error("stream {0} was opened out of turn")]
    Stream(u32),
    /// More bytes than the window had.
    #[error("stream {0} has more bytes than its window")]
    Window(u32),
    /// Answers are not read.
    #[error("the peer does not read the answers that it asks for")]
    Flood,
}

/// Why there is no stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::transport) enum NoStream {
    /// The session has ended.
    #[error("the session has ended")]
    Ended,
    /// The peer takes no new ones.
    #[error("the peer takes no new streams")]
    Away,
    /// Every number has been used.
    #[error("the session has used up its stream numbers")]
    Exhausted,
}

/// What is next for the driver.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::transport) enum Output {
    /// A message to send.
    Message(Bytes),
    /// The session was closed by this side.
    Closed,
}

/// A session.
#[derive(Debug)]
pub(in crate::transport) struct Session {
    side: Side,
    limits: Limits,
    streams: HashMap<u32, State>,
    next: u32,
    /// Of the peer, not accepted yet.
    arrived: VecDeque<u32>,
    own: u32,
    peers: u32,
    unacked: usize,

    header: BytesMut,
    body: Option<Body>,
    answers: BytesMut,
    /// Streams that have something to send, in the order of their turns.
    turns: VecDeque<u32>,
    /// Streams whose end is in the last message.
    ending: Vec<u32>,

    unread: usize,
    unsent: usize,
    extra: u32,
    rtt: Duration,

    away: bool,
    ended: bool,
    closed: bool,
    driver: Option<Waker>,
    acceptor: Option<Waker>,
    /// Those who wait to open a stream, or for the peer's goodbye; each is polled again by whoever else wakes it.
    waiting: Vec<Waker>,
}

/// A data frame of which some is to come.
#[derive(Debug, Clone, Copy)]
struct Body {
    stream: u32,
    left: usize,
    flags: Flags,
}

impl Session {
    pub(in crate::transport) fn new(side: Side, limits: Limits) -> Self {
        Self {
            side,
            limits,
            streams: HashMap::new(),
            next: if side == Side::Client { 1 } else { 2 },
            arrived: VecDeque::new(),
            own: 0,
            peers: 0,
            unacked: 0,
            header: BytesMut::new(),
            body: None,
            answers: BytesMut::new(),
            turns: VecDeque::new(),
            ending: Vec::new(),
            unread: 0,
            unsent: 0,
            extra: 0,
            rtt: Duration::from_millis(100),
            away: false,
            ended: false,
            closed: false,
            driver: None,
            acceptor: None,
            waiting: Vec::new(),
        }
    }

    // ---- The driver's side.

    /// Takes in a message. Frames may begin in one and end in another: to the peer they are one stream of bytes.
    ///
    /// # Errors
    /// When it is none that a peer may send; then the session is over.
    pub(in crate::transport) fn receive(&mut self, message: Bytes, now: Instant) -> Result<(), Violation> {
        let size = message.len();
        let mut rest = message;
        while !rest.is_empty() {
            if let Some(mut body) = self.body.take() {
                let piece = rest.split_to(body.left.min(rest.len()));
                body.left -= piece.len();
                self.deliver(body.stream, piece, size);
                if body.left > 0 {
                    self.body = Some(body);
                } else {
                    self.finish(body.stream, body.flags);
                }
                continue;
            }
            let missing = HEADER - self.header.len();
            self.header.extend_from_slice(&rest.split_to(missing.min(rest.len())));
            if let Ok(header) = <&[u8; HEADER]>::try_from(&self.header[..]) {
                let header = Header::decode(header)?;
                self.header.clear();
                self.frame(header, now)?;
            }
        }
        if self.answers.len() > ANSWERS {
            return Err(Violation::Flood);
        }
        Ok(())
    }

    /// What is to be sent, as soon as there is something. Cancel safe.
    pub(in crate::transport) fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Output> {
        if let Some(message) = self.message() {
            return Poll::Ready(Output::Message(message));
        }
        if self.closed {
            return Poll::Ready(Output::Closed);
        }
        self.driver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// What is to be sent now: answers first, then each stream in its turn.
    fn message(&mut self) -> Option<Bytes> {
        let mut message = self.answers.split();
        while message.len() < MESSAGE
            && let Some(id) = self.turns.pop_front()
        {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.queued = false;
            let len = stream.outgoing.len().min(stream.credit as usize).min(TURN);
            if len > 0 {
                let header =
                    Header { kind: Kind::Data, flags: Flags::default(), stream: id, length: len as u32 };
                message.reserve(HEADER + len);
                header.encode(&mut message);
                message.extend_from_slice(&stream.outgoing.split_to(len));
                stream.credit -= len as u32;
                self.unsent -= len;
                stream.wake_writer();
            }
            if stream.outgoing.is_empty() {
                // An idle stream keeps no buffer.
                stream.outgoing = BytesMut::new();
                if stream.send == Send::Finishing {
                    // hashicorp/yamux takes an end that comes with bytes to be before them.
                    let end = Header { kind: Kind::WindowUpdate, flags: Flags::FIN, stream: id, length: 0 };
                    end.encode(&mut message);
                    stream.send = Send::Sent;
                    self.ending.push(id);
                }
            }
            self.take_turn(id);
        }
        (!message.is_empty()).then(|| message.freeze())
    }

    /// All messages so far are in the hands of the system.
    pub(in crate::transport) fn flushed(&mut self) {
        for id in std::mem::take(&mut self.ending) {
            if let Some(stream) = self.streams.get_mut(&id) {
                if stream.send == Send::Sent {
                    stream.send = Send::Done;
                }
                stream.wake_writer();
                self.settle(id);
            }
        }
    }

    /// How long the path takes there and back, by which windows grow.
    pub(in crate::transport) fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt;
    }

    /// Ends all that is open. What has come may still be read.
    pub(in crate::transport) fn end(&mut self) {
        self.ended = true;
        let ids: Vec<_> = self.streams.keys().copied().collect();
        for id in ids {
            if let Some(stream) = self.streams.get_mut(&id) {
                self.unsent -= stream.outgoing.len();
                stream.outgoing.clear();
                stream.break_off(io::ErrorKind::NotConnected, io::ErrorKind::NotConnected);
                self.settle(id);
            }
        }
        self.arrived.clear();
        self.turns.clear();
        for waker in self.waiting.drain(..).chain(self.acceptor.take()) {
            waker.wake();
        }
    }

    // ---- Frames.

    fn frame(&mut self, header: Header, now: Instant) -> Result<(), Violation> {
        let Header { kind, flags, stream: id, length } = header;
        match kind {
            Kind::Ping => {
                if flags.has(Flags::SYN) {
                    self.answer(Header { flags: Flags::ACK, ..header });
                }
                return Ok(());
            }
            Kind::GoAway => {
                self.away = true;
                self.wake_waiting();
                return Ok(());
            }
            Kind::Data | Kind::WindowUpdate => {}
        }
        if flags.has(Flags::SYN) {
            self.arrive(id, now)?;
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            if flags.has(Flags::ACK) && !std::mem::replace(&mut stream.acked, true) {
                self.unacked -= 1;
                stream.wake_reader();
                self.wake_waiting();
            }
            let stream = self.streams.get_mut(&id);
            match (kind, stream) {
                (Kind::Data, Some(stream)) => {
                    stream.window = stream.window.checked_sub(length).ok_or(Violation::Window(id))?;
                }
                (_, Some(stream)) => {
                    stream.credit = stream.credit.checked_add(length).ok_or(Violation::Window(id))?;
                    self.take_turn(id);
                }
                (_, None) => {}
            }
        }
        if kind == Kind::Data && length > 0 {
            // Bytes of a stream that is gone are under way for a while.
            self.body = Some(Body { stream: id, left: length as usize, flags });
        } else {
            self.finish(id, flags);
        }
        Ok(())
    }

    /// The peer opens a stream.
    fn arrive(&mut self, id: u32, now: Instant) -> Result<(), Violation> {
        let of_peer = id != 0 && id.is_multiple_of(2) == (self.side == Side::Client);
        if !of_peer || self.streams.contains_key(&id) {
            return Err(Violation::Stream(id));
        }
        if self.peers >= self.limits.peer || self.ended {
            self.answer(Header { kind: Kind::WindowUpdate, flags: Flags::RST, stream: id, length: 0 });
            return Ok(());
        }
        self.peers += 1;
        self.streams.insert(id, State::new(false, now));
        self.arrived.push_back(id);
        if let Some(waker) = self.acceptor.take() {
            waker.wake();
        }
        Ok(())
    }

    fn deliver(&mut self, id: u32, piece: Bytes, message: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.stopped || stream.recv != Recv::Open {
            return;
        }
        self.unread += piece.len();
        stream.incoming.push(piece, message);
        stream.wake_reader();
        if self.unread > UNREAD {
            let most = self.streams.iter().max_by_key(|(_, stream)| stream.incoming.len());
            if let Some(id) = most.map(|(id, _)| *id) {
                self.break_off(id);
            }
        }
    }

    /// What a frame says about the end of a stream, after all else.
    fn finish(&mut self, id: u32, flags: Flags) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if flags.has(Flags::FIN) && stream.recv == Recv::Open {
            stream.recv = Recv::Done;
            stream.wake_reader();
        }
        if flags.has(Flags::RST) {
            if stream.recv == Recv::Open {
                self.unread -= stream.incoming.clear();
            }
            self.unsent -= stream.outgoing.len();
            stream.outgoing.clear();
            stream.break_off(io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe);
        }
        self.settle(id);
    }

    fn answer(&mut self, header: Header) {
        if !self.ended {
            header.encode(&mut self.answers);
            self.wake_driver();
        }
    }

    // ---- The users' side.

    /// Opens a stream; its number. Cancel safe.
    ///
    /// # Errors
    /// When there will be none.
    pub(in crate::transport) fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Poll<Result<u32, NoStream>> {
        if self.ended {
            return Poll::Ready(Err(NoStream::Ended));
        }
        if self.away {
            return Poll::Ready(Err(NoStream::Away));
        }
        if self.next > LAST_STREAM - 2 {
            return Poll::Ready(Err(NoStream::Exhausted));
        }
        if self.own >= self.limits.own || self.unacked >= BACKLOG {
            self.wait(cx);
            return Poll::Pending;
        }
        let id = self.next;
        self.next += 2;
        self.own += 1;
        self.unacked += 1;
        self.streams.insert(id, State::new(true, now));
        // At once: it may be the peer who speaks first.
        self.answer(Header { kind: Kind::WindowUpdate, flags: Flags::SYN, stream: id, length: 0 });
        Poll::Ready(Ok(id))
    }

    /// The next stream of the peer. Cancel safe.
    ///
    /// # Errors
    /// When the session has ended.
    pub(in crate::transport) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<u32, NoStream>> {
        if self.ended {
            return Poll::Ready(Err(NoStream::Ended));
        }
        let Some(id) = self.arrived.pop_front() else {
            self.acceptor = Some(cx.waker().clone());
            return Poll::Pending;
        };
        self.answer(Header { kind: Kind::WindowUpdate, flags: Flags::ACK, stream: id, length: 0 });
        Poll::Ready(Ok(id))
    }

    /// Waits until the peer has taken a stream of this side. Cancel safe.
    ///
    /// # Errors
    /// When it has refused it, or the session has ended.
    pub(in crate::transport) fn poll_taken(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = self.streams.get_mut(&id) else { return gone() };
        match (stream.acked, stream.recv) {
            (true, _) => Poll::Ready(Ok(())),
            (false, Recv::Broken(kind)) => Poll::Ready(Err(kind.into())),
            (false, Recv::Open | Recv::Done) => {
                stream.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Waits until the peer takes no new streams, or the session has ended. Cancel safe.
    pub(in crate::transport) fn poll_away(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.away || self.ended {
            return Poll::Ready(());
        }
        self.wait(cx);
        Poll::Pending
    }

    /// Sets how many streams the peer may have open.
    pub(in crate::transport) fn set_peer_limit(&mut self, streams: u32) {
        self.limits.peer = streams;
    }

    /// Has the driver close the connection, once what is in its hands has been sent.
    pub(in crate::transport) fn close(&mut self) {
        self.closed = true;
        self.end();
        self.wake_driver();
    }

    pub(super) fn poll_write(
        &mut self,
        id: u32,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(stream) = self.streams.get_mut(&id) else { return gone() };
        match stream.send {
            Send::Open => {}
            Send::Broken(kind) => return Poll::Ready(Err(kind.into())),
            Send::Finishing | Send::Sent | Send::Done => {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
        }
        let limit = if self.unsent < UNSENT { SEND_BUFFER } else { SEND_BUFFER_LEAST };
        let len = limit.saturating_sub(stream.outgoing.len()).min(buf.len());
        if len == 0 && !buf.is_empty() {
            stream.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        stream.outgoing.extend_from_slice(&buf[..len]);
        self.unsent += len;
        self.take_turn(id);
        Poll::Ready(Ok(len))
    }

    /// Ends the direction that this side sends, and waits until the end is in the hands of the system.
    pub(super) fn poll_finish(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = self.streams.get_mut(&id) else { return gone() };
        if stream.send == Send::Open {
            stream.send = Send::Finishing;
            self.take_turn(id);
        }
        self.poll_finished(id, cx)
    }

    /// Waits until the peer stops reading, or the end is in the hands of the system.
    pub(super) fn poll_finished(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = self.streams.get_mut(&id) else { return gone() };
        match stream.send {
            Send::Done => Poll::Ready(Ok(())),
            Send::Broken(kind) => Poll::Ready(Err(kind.into())),
            Send::Open | Send::Finishing | Send::Sent => {
                stream.writer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(super) fn poll_read(
        &mut self,
        id: u32,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        now: Instant,
    ) -> Poll<io::Result<()>> {
        let Some(stream) = self.streams.get_mut(&id) else { return gone() };
        let read = stream.incoming.read(buf);
        if read > 0 {
            self.unread -= read;
            self.grant(id, read as u32, now);
            return Poll::Ready(Ok(()));
        }
        match stream.recv {
            _ if buf.remaining() == 0 => Poll::Ready(Ok(())),
            Recv::Done => Poll::Ready(Ok(())),
            Recv::Broken(kind) => Poll::Ready(Err(kind.into())),
            Recv::Open => {
                stream.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Lets the peer send as much more as was read, once that is worth a frame; and more than before, when it has used half
    /// of what it may within two round trips: then it is the window that holds it up.
    fn grant(&mut self, id: u32, read: u32, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.consumed += read;
        if stream.recv != Recv::Open || stream.consumed < stream.size / 2 {
            return;
        }
        let quick = now.saturating_duration_since(stream.granted) < self.rtt * 2;
        let grown = if quick { stream.size.min(MAX_WINDOW - stream.size).min(EXTRA - self.extra) } else { 0 };
        let length = stream.consumed + grown;
        stream.size += grown;
        self.extra += grown;
        stream.window += length;
        stream.consumed = 0;
        stream.granted = now;
        self.answer(Header { kind: Kind::WindowUpdate, flags: Flags::default(), stream: id, length });
    }

    /// Breaks a stream off in both directions, unless everything has been sent.
    pub(super) fn reset(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|stream| !stream.sent_all()) {
            self.break_off(id);
        }
    }

    fn break_off(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.recv == Recv::Open {
            self.unread -= stream.incoming.clear();
        }
        self.unsent -= stream.outgoing.len();
        stream.outgoing.clear();
        stream.break_off(io::ErrorKind::ConnectionReset, io::ErrorKind::ConnectionReset);
        self.answer(Header { kind: Kind::WindowUpdate, flags: Flags::RST, stream: id, length: 0 });
        self.settle(id);
    }

    /// Reads no more. A peer that still sends is stopped by its window, and is told once this side has sent everything: a
    /// reset is for both directions.
    pub(super) fn stop(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.stopped = true;
        self.unread -= stream.incoming.clear();
        self.settle(id);
    }

    pub(super) fn drop_reader(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.reader_gone = true;
        }
        self.stop(id);
    }

    pub(super) fn drop_writer(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.writer_gone = true;
        }
        self.settle(id);
    }

    // ---- Between the two.

    /// Puts a stream that has something to send behind those that wait for their turn.
    fn take_turn(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.queued
            && stream.has_work()
        {
            stream.queued = true;
            self.turns.push_back(id);
            self.wake_driver();
        }
    }

    /// Tells the peer of a stream that nobody reads, once nothing else is to be told; forgets one that is over.
    fn settle(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.stopped && stream.recv == Recv::Open && stream.sent_all() {
            stream.recv = Recv::Broken(io::ErrorKind::ConnectionReset);
            self.answer(Header { kind: Kind::WindowUpdate, flags: Flags::RST, stream: id, length: 0 });
        }
        let Some(stream) = self.streams.get(&id).filter(|stream| stream.is_over()) else { return };
        self.extra -= stream.size - super::state::INITIAL_WINDOW;
        if stream.own {
            self.own -= 1;
            self.unacked -= usize::from(!stream.acked);
        } else {
            self.peers -= 1;
        }
        self.streams.remove(&id);
        self.wake_waiting();
    }

    fn wait(&mut self, cx: &Context<'_>) {
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
    }

    fn wake_waiting(&mut self) {
        for waker in self.waiting.drain(..) {
            waker.wake();
        }
    }

    fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }
}

/// A stream is there for as long as a user has it.
fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}
