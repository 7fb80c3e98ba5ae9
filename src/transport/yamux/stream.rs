//! What users hold of a session: handles to it and to the halves of its streams.
//!
//! All share one lock, as those of a QUIC connection do; it is held for the copy of some bytes at most.

use std::{
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::{io::ReadBuf, sync::Notify, time::Instant};

use super::{NoStream, Session, session::Waiting};

/// A session, for its users. When the last handle and the last stream are dropped, it is closed.
#[derive(Debug, Clone)]
pub(in crate::transport) struct Shared(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    session: Arc<Mutex<Session>>,
    waiting: Arc<Waiting>,
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
        let waiting = Arc::clone(&lock(&session).waiting);
        Self(Arc::new(Handle { session, waiting }))
    }

    pub(in crate::transport) fn lock(&self) -> MutexGuard<'_, Session> {
        lock(&self.0.session)
    }

    /// Opens a stream as soon as there is room for it. Cancel safe.
    ///
    /// # Errors
    /// When there will be none.
    pub(in crate::transport) async fn open(&self) -> Result<(Sender, Receiver), NoStream> {
        let id = self.when(&self.0.waiting.room, |session| session.open(Instant::now()).transpose()).await?;
        Ok(self.stream(id))
    }

    /// The next stream of the peer. Cancel safe.
    ///
    /// # Errors
    /// When the session has ended.
    pub(in crate::transport) async fn accept(&self) -> Result<(Sender, Receiver), NoStream> {
        let id = self.when(&self.0.waiting.arrived, |session| session.accept().transpose()).await?;
        Ok(self.stream(id))
    }

    /// Waits until the peer takes no new streams, or the session has ended. Cancel safe.
    pub(in crate::transport) async fn away(&self) {
        self.when(&self.0.waiting.away, |session| session.is_away().then_some(())).await;
    }

    /// Waits until there is something to be had of the session, looking again after each event.
    async fn when<T>(&self, event: &Notify, mut look: impl FnMut(&mut Session) -> Option<T>) -> T {
        loop {
            let mut notified = pin!(event.notified());
            // Before the look: what happens after it is not to be missed.
            notified.as_mut().enable();
            if let Some(found) = look(&mut self.lock()) {
                return found;
            }
            notified.await;
        }
    }

    /// The halves of a stream that has been opened or accepted.
    fn stream(&self, id: u32) -> (Sender, Receiver) {
        (Sender { session: self.clone(), id }, Receiver { session: self.clone(), id })
    }
}

/// The half that this side sends. Dropping it before its end is asked for breaks the stream off.
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

/// The half that the peer sends. Dropping it is reading no more.
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
