//! A session as a state machine: messages and time in, messages out, and the streams between them.
//!
//! It never does I/O. The driver hands it what arrives and sends what it gives; users read and write streams and are woken.
//! Fairness: streams that have something to send take turns of [`TURN`] bytes. Windows begin at the specification's 256 KiB
//! and grow to [`MAX_WINDOW`] where the path is long enough to need it. What a peer can make this side keep is bounded,
//! whatever it sends; see the constants. What users do with it is in `users`.
//!
//! [`MAX_WINDOW`]: super::users::MAX_WINDOW

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{sync::Notify, time::Instant};

use super::{
    frame::{Flags, HEADER, Header, Kind, Malformed},
    state::{Recv, Send, State},
};

/// What may be unread on all streams together, in bytes. Above it the stream of which most is unread is reset, even one that
/// has all there is to read: the others are not to wait for it.
pub(super) const UNREAD: usize = 64 << 20;

/// How much of a stream is sent before it is the next one's turn, in bytes.
pub(super) const TURN: usize = 16 * 1024;

/// From which size on a message is sent as it is, in bytes.
pub(super) const MESSAGE: usize = 64 * 1024;

/// What may wait of answers to the peer, in bytes: window updates of all streams fit in many times. A peer that asks and does
/// not read the answers is sent away; with more than a message of them this side opens nothing.
pub(super) const ANSWERS: usize = 1 << 20;

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
    pub(super) side: Side,
    pub(super) limits: Limits,
    pub(super) streams: HashMap<u32, State>,
    pub(super) next: u32,
    /// Of the peer, not accepted yet.
    pub(super) arrived: VecDeque<u32>,
    pub(super) own: u32,
    pub(super) peers: u32,
    pub(super) unacked: usize,

    pub(super) header: BytesMut,
    pub(super) body: Option<Body>,
    pub(super) answers: BytesMut,
    /// Streams that have something to send, in the order of their turns.
    pub(super) turns: VecDeque<u32>,
    /// Streams whose end is in the last message.
    pub(super) ending: Vec<u32>,

    pub(super) unread: usize,
    pub(super) unsent: usize,
    pub(super) extra: u32,
    pub(super) rtt: Duration,

    pub(super) away: bool,
    pub(super) ended: bool,
    pub(super) closed: bool,
    driver: Option<Waker>,
    pub(super) waiting: Arc<Waiting>,
}

/// Those who wait for the session as a whole. What has changed is to be found out under its lock.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// There may be room for one stream more of this side.
    pub(super) room: Notify,
    /// The peer has opened a stream.
    pub(super) arrived: Notify,
    /// The peer takes no new streams, or the session has ended.
    pub(super) away: Notify,
}

/// A data frame of which some is to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Body {
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
            waiting: Arc::default(),
        }
    }

    // ---- The driver's side.

    /// Takes in a message. Frames may begin in one and end in another: to the peer they are one stream of bytes.
    ///
    /// # Errors
    /// When it is none that a peer may send; then the session is over.
    pub(in crate::transport) fn receive(&mut self, message: Bytes, now: Instant) -> Result<(), Violation> {
        let mut rest = message;
        while !rest.is_empty() {
            if let Some(mut body) = self.body.take() {
                let piece = rest.split_to(body.left.min(rest.len()));
                body.left -= piece.len();
                self.deliver(body.stream, &piece);
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
        let mut message = self.answered();
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

    /// The answers that go into one message. What is behind those that do not fit waits: a stream begins with one.
    fn answered(&mut self) -> BytesMut {
        if self.answers.len() < MESSAGE {
            return std::mem::take(&mut self.answers);
        }
        let answers = self.answers.split_to(MESSAGE);
        if self.answers.len() < MESSAGE {
            self.waiting.room.notify_waiters();
        }
        answers
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
                self.unsent -= stream.discard_outgoing();
                stream.break_off(io::ErrorKind::NotConnected, io::ErrorKind::NotConnected);
                self.settle(id);
            }
        }
        for id in std::mem::take(&mut self.arrived) {
            self.abandon(id);
        }
        self.turns.clear();
        self.waiting.room.notify_waiters();
        self.waiting.arrived.notify_waiters();
        self.waiting.away.notify_waiters();
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
                self.waiting.room.notify_waiters();
                self.waiting.away.notify_waiters();
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
                self.waiting.room.notify_one();
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
        self.waiting.arrived.notify_one();
        Ok(())
    }

    fn deliver(&mut self, id: u32, piece: &[u8]) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.recv != Recv::Open {
            return;
        }
        if stream.stopped {
            return self.forgo(id, piece.len());
        }
        self.unread += piece.len();
        // A copy, whatever its size: as a part of what was read from the connection it would keep all of that.
        stream.incoming.extend_from_slice(piece);
        stream.wake_reader();
        if self.unread > UNREAD {
            let most = self.streams.iter_mut().max_by_key(|(_, stream)| stream.incoming.len());
            if let Some((&id, stream)) = most {
                self.unread -= stream.discard_incoming();
                stream.recv = Recv::Broken(io::ErrorKind::ConnectionReset);
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
                self.unread -= stream.discard_incoming();
            }
            self.unsent -= stream.discard_outgoing();
            stream.break_off(io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe);
        }
        self.settle(id);
    }

    pub(super) fn answer(&mut self, header: Header) {
        if !self.ended {
            header.encode(&mut self.answers);
            self.wake_driver();
        }
    }

    // ---- For both sides.

    /// Puts a stream that has something to send behind those that wait for their turn.
    pub(super) fn take_turn(&mut self, id: u32) {
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
    pub(super) fn settle(&mut self, id: u32) {
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
        self.waiting.room.notify_one();
    }

    pub(super) fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }
}
