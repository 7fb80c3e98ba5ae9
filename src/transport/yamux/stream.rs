//! What users hold of a session: handles to it and to the halves of its streams.
//!
//! All share one lock, as those of a QUIC connection do; it is held for the copy of some bytes at most.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::{io::ReadBuf, time::Instant};

use super::Session;

/// A session, for its users. When the last handle and the last stream are dropped, it is closed.
#[derive(Debug, Clone)]
pub(in crate::transport) struct Shared(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    session: Arc<Mutex<Session>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        lock(&self.session).close();
    }
}

pub(in crate::transport) fn lock(session: &Mutex<Session>) -> MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Shares a session with its driver.
    pub(in crate::transport) fn new(session: Arc<Mutex<Session>>) -> Self {
        Self(Arc::new(Handle { session }))
    }

    pub(in crate::transport) fn lock(&self) -> MutexGuard<'_, Session> {
        lock(&self.0.session)
    }

    /// The halves of a stream that has been opened or accepted.
    pub(in crate::transport) fn stream(&self, id: u32) -> (Sender, Receiver) {
        (Sender { session: self.clone(), id }, Receiver { session: self.clone(), id })
    }
}

/// The half that this side sends.
#[derive(Debug)]
pub(in crate::transport) struct Sender {
    session: Shared,
    id: u32,
}

impl Sender {
    pub(in crate::transport) fn id(&self) -> u32 {
        self.id
    }

    pub(in crate::transport) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.session.lock().poll_write(self.id, cx, buf)
    }

    /// Ends the stream, and waits until the end is in the hands of the system.
    pub(in crate::transport) fn poll_finish(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.lock().poll_finish(self.id, cx)
    }

    /// Waits until the peer stops reading, or the end is in the hands of the system.
    pub(in crate::transport) fn poll_finished(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.lock().poll_finished(self.id, cx)
    }

    /// Breaks the stream off in both directions, unless everything has been sent.
    pub(in crate::transport) fn reset(&self) {
        self.session.lock().reset(self.id);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.session.lock().drop_writer(self.id);
    }
}

/// The half that the peer sends.
#[derive(Debug)]
pub(in crate::transport) struct Receiver {
    session: Shared,
    id: u32,
}

impl Receiver {
    pub(in crate::transport) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.session.lock().poll_read(self.id, cx, buf, Instant::now())
    }

    /// Waits until the peer has taken the stream.
    pub(in crate::transport) fn poll_taken(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.lock().poll_taken(self.id, cx)
    }

    /// Reads no more.
    pub(in crate::transport) fn stop(&self) {
        self.session.lock().stop(self.id);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.session.lock().drop_reader(self.id);
    }
}
