//! What users do with a session and its streams, through the handles of `stream`.

use std::{
    io,
    task::{Context, Poll},
};

use tokio::{io::ReadBuf, time::Instant};

use super::{
    frame::{Flags, Header, Kind},
    session::{MESSAGE, NoStream, Session},
    state::{Recv, Send, State},
};

/// How much a stream's window grows to, in bytes: 100 ms at 300 Mbit/s, and what is not granted at any time.
pub(super) const MAX_WINDOW: u32 = 5 << 20;

/// How much the windows of all streams together grow beyond what each begins with, in bytes.
pub(super) const EXTRA: u32 = 20 << 20;

/// How many streams are opened that the peer has not taken yet; more wait. hashicorp/yamux resets what is above.
pub(super) const BACKLOG: usize = 256;

/// What a stream may have waiting to be sent, in bytes: as long as all together have less than `UNSENT`, and otherwise.
pub(super) const SEND_BUFFER: usize = 256 * 1024;
pub(super) const UNSENT: usize = 8 << 20;
pub(super) const SEND_BUFFER_LEAST: usize = 16 * 1024;

/// The highest number of a stream.
const LAST_STREAM: u32 = u32::MAX - 1;

impl Session {
    /// Opens a stream, if there is room for one now; its number.
    ///
    /// # Errors
    /// When there will be none.
    pub(super) fn open(&mut self, now: Instant) -> Result<Option<u32>, NoStream> {
        if self.ended {
            return Err(NoStream::Ended);
        }
        if self.away {
            return Err(NoStream::Away);
        }
        if self.next > LAST_STREAM - 2 {
            return Err(NoStream::Exhausted);
        }
        if self.own >= self.limits.own || self.unacked >= BACKLOG || self.answers.len() >= MESSAGE {
            return Ok(None);
        }
        let id = self.next;
        self.next += 2;
        self.own += 1;
        self.unacked += 1;
        self.streams.insert(id, State::new(true, now));
        // At once: it may be the peer who speaks first.
        self.answer(Header { kind: Kind::WindowUpdate, flags: Flags::SYN, stream: id, length: 0 });
        Ok(Some(id))
    }

    /// The next stream of the peer, if there is one. Those that it has broken off by now are none.
    ///
    /// # Errors
    /// When the session has ended.
    pub(super) fn accept(&mut self) -> Result<Option<u32>, NoStream> {
        if self.ended {
            return Err(NoStream::Ended);
        }
        while let Some(id) = self.arrived.pop_front() {
            if self.streams.get(&id).is_some_and(|stream| !matches!(stream.recv, Recv::Broken(_))) {
                self.answer(Header { kind: Kind::WindowUpdate, flags: Flags::ACK, stream: id, length: 0 });
                return Ok(Some(id));
            }
            self.abandon(id);
        }
        Ok(None)
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

    /// Whether the peer takes no new streams, or the session has ended.
    pub(super) fn is_away(&self) -> bool {
        self.away || self.ended
    }

    /// Whether the peer has said that it takes no new streams.
    #[cfg(feature = "server")]
    pub(in crate::transport) fn has_peer_left(&self) -> bool {
        self.away
    }

    /// Asks the peer for an answer, which is nothing but one.
    pub(in crate::transport) fn ping(&mut self, number: u64) {
        // What is sent back need not differ from ping to ping.
        self.answer(Header { kind: Kind::Ping, flags: Flags::SYN, stream: 0, length: number as u32 });
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
        let read = stream.read(buf);
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
        if stream.recv != Recv::Open {
            return;
        }
        stream.consumed += read;
        stream.used += read;
        let mut grown = 0;
        if stream.used >= stream.size / 2 {
            if now.saturating_duration_since(stream.since) < self.rtt * 2 {
                grown = stream.size.min(MAX_WINDOW - stream.size).min(EXTRA - self.extra);
            }
            stream.used = 0;
            stream.since = now;
        }
        // Often: what has been read and not granted is window that nobody has.
        if grown == 0 && stream.consumed < stream.size / 8 {
            return;
        }
        stream.size += grown;
        stream.consumed += grown;
        self.extra += grown;
        self.tell_window(id);
    }

    /// Lets the peer send as much more as was thrown away. Were it held up instead, two users that both have stopped reading
    /// would wait for each other.
    pub(super) fn forgo(&mut self, id: u32, len: usize) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.recv == Recv::Open) else {
            return;
        };
        // A window is what there can be of it.
        stream.consumed += u32::try_from(len).unwrap_or(u32::MAX);
        if stream.consumed >= stream.size / 8 {
            self.tell_window(id);
        }
    }

    fn tell_window(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let length = std::mem::take(&mut stream.consumed);
        stream.window += length;
        self.answer(Header { kind: Kind::WindowUpdate, flags: Flags::default(), stream: id, length });
    }

    /// Breaks a stream off in both directions, unless everything has been sent.
    pub(super) fn reset(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|stream| !stream.sent_all()) {
            self.break_off(id);
        }
    }

    pub(super) fn break_off(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.recv == Recv::Open {
            self.unread -= stream.discard_incoming();
        }
        self.unsent -= stream.discard_outgoing();
        stream.break_off(io::ErrorKind::ConnectionReset, io::ErrorKind::ConnectionReset);
        self.answer(Header { kind: Kind::WindowUpdate, flags: Flags::RST, stream: id, length: 0 });
        self.settle(id);
    }

    /// Reads no more. What still comes is thrown away, and the peer is told once this side has sent everything: a reset is for
    /// both directions.
    pub(super) fn stop(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.stopped = true;
        let unread = stream.discard_incoming();
        self.unread -= unread;
        self.forgo(id, unread);
        self.settle(id);
    }

    pub(super) fn drop_reader(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.reader_gone = true;
        }
        self.stop(id);
    }

    /// Writes no more, and breaks the stream off unless its end has been asked for.
    pub(super) fn drop_writer(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.writer_gone = true;
        if stream.send == Send::Open {
            self.break_off(id);
        } else {
            self.settle(id);
        }
    }

    /// Forgets a stream that nobody has taken and that has ended.
    pub(super) fn abandon(&mut self, id: u32) {
        self.drop_reader(id);
        self.drop_writer(id);
    }
}

/// A stream is there for as long as a user has it.
fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}
