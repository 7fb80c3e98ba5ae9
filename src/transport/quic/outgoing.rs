//! What a side sends on a stream, and whose turn it is to write where a link takes no more for now.
//!
//! quinn keeps at most `send_window` bytes of a link. Once that is full it wakes all streams that wait for room, the last to
//! have come first, and whoever runs first takes what room there is: with 50 downloads on a link two of them have it all, and
//! a small answer waits for a second. So those who find no room stand in line, and only the [`HEADS`] first of them ask quinn
//! for it. Small writes pass the line by: they take little, and somebody waits for them.
//!
//! Whether a stream waits for room on the link or for its own reader is not to be known. One that gets none for [`PATIENCE`]
//! leaves the line and waits by itself, so that a reader who is gone holds nobody up for longer.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_util::sync::PollSemaphore;

use super::runtime::wrote;

/// How many ask for room at once.
const HEADS: usize = 2;

/// What is no small write any more, in bytes.
const SMALL: usize = 8 * 1024;

/// How long one that is first in line waits for room there.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long one stands in line at most, should those before it have forgotten what they wanted to write.
const LINE: Duration = Duration::from_secs(1);

/// The line of one link.
#[derive(Debug, Clone)]
pub(super) struct Line(Arc<Semaphore>);

impl Line {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(HEADS)))
    }

    fn is_full(&self) -> bool {
        self.0.available_permits() == 0
    }

    fn place(&self) -> Place {
        let line = PollSemaphore::new(Arc::clone(&self.0));
        Place::Waiting { line, patience: Box::pin(sleep(LINE)) }
    }
}

/// The sending half of a stream.
#[derive(Debug)]
pub(in crate::transport) struct Outgoing {
    stream: quinn::SendStream,
    line: Line,
    place: Place,
}

/// Where a stream stands that has something to write.
#[derive(Debug)]
enum Place {
    /// It has not found the link full.
    Free,
    /// In line, for as long as the timer runs.
    Waiting { line: PollSemaphore, patience: Pin<Box<Sleep>> },
    /// First in line, for as long as the timer runs.
    First { _permit: OwnedSemaphorePermit, patience: Pin<Box<Sleep>> },
    /// It waits by itself.
    Aside,
}

impl Outgoing {
    pub(super) fn new(stream: quinn::SendStream, line: Line) -> Self {
        Self { stream, line, place: Place::Free }
    }

    pub(in crate::transport) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, quinn::WriteError>> {
        // Those who are first would always be, if they did not queue up again behind the others.
        if matches!(self.place, Place::Free) && bytes.len() > SMALL && self.line.is_full() {
            self.place = self.line.place();
        }
        loop {
            if let Place::Waiting { line, patience } = &mut self.place {
                self.place = match line.poll_acquire(cx) {
                    Poll::Ready(Some(permit)) => {
                        Place::First { _permit: permit, patience: Box::pin(sleep(PATIENCE)) }
                    }
                    // It is never closed.
                    Poll::Ready(None) => Place::Aside,
                    Poll::Pending => {
                        ready!(patience.as_mut().poll(cx));
                        Place::Aside
                    }
                };
            }
            let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
            if written.is_ready() {
                wrote();
                self.place = Place::Free;
                return written;
            }
            match &mut self.place {
                Place::Free if bytes.len() > SMALL => {
                    self.place = self.line.place();
                }
                Place::First { patience, .. } => {
                    ready!(patience.as_mut().poll(cx));
                    self.place = Place::Aside;
                }
                Place::Free | Place::Waiting { .. } | Place::Aside => return Poll::Pending,
            }
        }
    }

    pub(in crate::transport) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_flush(Pin::new(&mut self.stream), cx)
    }
}

impl std::ops::Deref for Outgoing {
    type Target = quinn::SendStream;
    fn deref(&self) -> &quinn::SendStream {
        &self.stream
    }
}

impl std::ops::DerefMut for Outgoing {
    fn deref_mut(&mut self) -> &mut quinn::SendStream {
        &mut self.stream
    }
}
