//! One stream: what waits to be sent, what has come and is not read, and how far each direction has got.

use std::{io, task::Waker};

use bytes::{Buf, BytesMut};
use tokio::{io::ReadBuf, time::Instant};

/// What each side may send on a stream before it is told otherwise; the specification's.
pub(super) const INITIAL_WINDOW: u32 = 256 * 1024;

/// How far the direction that this side sends has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Send {
    Open,
    /// The end is to follow what waits.
    Finishing,
    /// The end is in a message.
    Sent,
    /// And the message has been handed to the system.
    Done,
    /// What is written goes nowhere, for this reason.
    Broken(io::ErrorKind),
}

/// How far the direction that the peer sends has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recv {
    Open,
    /// What is unread is the rest.
    Done,
    /// What is unread is followed by this error.
    Broken(io::ErrorKind),
}

#[derive(Debug)]
pub(super) struct State {
    /// This side has opened it.
    pub(super) own: bool,
    /// The opener's peer has taken it.
    pub(super) acked: bool,
    /// It waits for its turn to be sent from.
    pub(super) queued: bool,

    pub(super) send: Send,
    pub(super) outgoing: BytesMut,
    /// What the peer takes yet, in bytes.
    pub(super) credit: u32,
    pub(super) writer: Option<Waker>,
    pub(super) writer_gone: bool,

    pub(super) recv: Recv,
    pub(super) incoming: BytesMut,
    /// What the peer may send yet, in bytes.
    pub(super) window: u32,
    /// The most that it may have under way.
    pub(super) size: u32,
    /// Read since it was last told of more.
    pub(super) consumed: u32,
    /// Read since then, by which the window grows.
    pub(super) used: u32,
    pub(super) since: Instant,
    pub(super) reader: Option<Waker>,
    /// Nobody reads any more.
    pub(super) stopped: bool,
    pub(super) reader_gone: bool,
}

impl State {
    pub(super) fn new(own: bool, now: Instant) -> Self {
        Self {
            own,
            acked: !own,
            queued: false,
            send: Send::Open,
            outgoing: BytesMut::new(),
            credit: INITIAL_WINDOW,
            writer: None,
            writer_gone: false,
            recv: Recv::Open,
            incoming: BytesMut::new(),
            window: INITIAL_WINDOW,
            size: INITIAL_WINDOW,
            consumed: 0,
            used: 0,
            since: now,
            reader: None,
            stopped: false,
            reader_gone: false,
        }
    }

    /// Whether there is something that the peer takes.
    pub(super) fn has_work(&self) -> bool {
        if self.outgoing.is_empty() { self.send == Send::Finishing } else { self.credit > 0 }
    }

    /// Whether this side has nothing more to send.
    pub(super) fn sent_all(&self) -> bool {
        !matches!(self.send, Send::Open | Send::Finishing)
    }

    /// Whether neither side nor a user knows of it any more.
    pub(super) fn is_over(&self) -> bool {
        self.reader_gone
            && self.writer_gone
            && self.recv != Recv::Open
            && matches!(self.send, Send::Done | Send::Broken(_))
    }

    /// Ends what has not ended. What has come may still be read, unless it is the peer who breaks off.
    pub(super) fn break_off(&mut self, recv: io::ErrorKind, send: io::ErrorKind) {
        if self.recv == Recv::Open {
            self.recv = Recv::Broken(recv);
        }
        if !matches!(self.send, Send::Done | Send::Broken(_)) {
            self.send = Send::Broken(send);
        }
        self.wake();
    }

    /// Reads as much as there is room for; how much.
    pub(super) fn read(&mut self, buf: &mut ReadBuf<'_>) -> usize {
        let len = self.incoming.len().min(buf.remaining());
        buf.put_slice(&self.incoming[..len]);
        self.incoming.advance(len);
        if self.incoming.is_empty() {
            // An idle stream keeps no buffer.
            self.incoming = BytesMut::new();
        }
        len
    }

    /// Throws away what has come; how much it was.
    pub(super) fn discard_incoming(&mut self) -> usize {
        std::mem::take(&mut self.incoming).len()
    }

    /// Throws away what was to be sent; how much it was.
    pub(super) fn discard_outgoing(&mut self) -> usize {
        std::mem::take(&mut self.outgoing).len()
    }

    pub(super) fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}
