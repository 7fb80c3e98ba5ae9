//! The streams of a link. A half that is dropped before its end is reset, never finished: a cancelled flow must not look
//! like one that came to its end.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    quic::{Ingoing, Outgoing},
    yamux,
};
use crate::{protocol::Reset, splice::Side};

/// A bidirectional stream of a link.
#[derive(Debug)]
pub struct Stream {
    /// What this side sends.
    pub send: SendStream,
    /// What the peer sends.
    pub recv: RecvStream,
}

impl Stream {
    pub(super) fn quic(send: Outgoing, recv: Ingoing) -> Self {
        Self {
            send: SendStream { inner: Sender::Quic(send), ended: false, arrived: None },
            recv: RecvStream { inner: Receiver::Quic(recv) },
        }
    }

    pub(super) fn yamux(send: yamux::Sender, recv: yamux::Receiver) -> Self {
        Self {
            send: SendStream { inner: Sender::Yamux(send), ended: false, arrived: None },
            recv: RecvStream { inner: Receiver::Yamux(recv) },
        }
    }

    /// Waits until the peer has taken a stream on which no `Open` is answered. Over QUIC there is no such word. Cancel safe.
    ///
    /// # Errors
    /// When the peer has refused it, or the link has ended.
    pub async fn taken(&mut self) -> io::Result<()> {
        match &self.recv.inner {
            Receiver::Quic(_) => Ok(()),
            Receiver::Yamux(stream) => poll_fn(|cx| stream.poll_taken(cx)).await,
        }
    }

    /// The stream's number on its link, the same on both sides.
    pub fn id(&self) -> u64 {
        match &self.send.inner {
            Sender::Quic(stream) => stream.id().into(),
            Sender::Yamux(stream) => stream.id().into(),
        }
    }

    /// Gives up both directions.
    pub fn abandon(&mut self, code: Reset) {
        self.send.reset(code);
        self.recv.stop(code);
    }
}

impl Side for Stream {
    type Read<'a> = &'a mut RecvStream;
    type Write<'a> = &'a mut SendStream;

    fn halves(&mut self) -> (Self::Read<'_>, Self::Write<'_>) {
        (&mut self.recv, &mut self.send)
    }

    fn reset(mut self, written: bool) {
        if !written {
            self.send.reset(Reset::Broken);
        }
        self.recv.stop(Reset::Broken);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.recv).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_shutdown(cx)
    }
}

/// The half that this side sends.
#[derive(Debug)]
pub struct SendStream {
    inner: Sender,
    ended: bool,
    /// Ends once the peer has everything, after an end of stream.
    arrived: Option<Arrived>,
}

struct Arrived(Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>);

impl std::fmt::Debug for Arrived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Arrived")
    }
}

#[derive(Debug)]
enum Sender {
    Quic(Outgoing),
    Yamux(yamux::Sender),
}

impl SendStream {
    /// Abandons what has not arrived. Changes nothing once the peer has everything.
    pub fn reset(&mut self, code: Reset) {
        self.ended = true;
        match &mut self.inner {
            // An error says that the stream had ended already, which is what is wanted.
            Sender::Quic(stream) => drop(stream.reset((code as u32).into())),
            // Its resets have no code.
            Sender::Yamux(stream) => stream.reset(),
        }
    }

    /// Waits until the peer stops reading, or has everything after an end of stream. Cancel safe.
    pub async fn stopped(&mut self) {
        match &mut self.inner {
            // Whatever the answer, there is nothing left to wait for.
            Sender::Quic(stream) => drop(stream.stopped().await),
            Sender::Yamux(stream) => drop(poll_fn(|cx| stream.poll_finished(cx)).await),
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(Reset::Cancelled);
        }
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Sender::Quic(stream) => stream.poll_write(cx, buf).map_err(|error| match error {
                // The peer takes no more, which says nothing of what it sends: as a pipe whose reader is gone.
                quinn::WriteError::Stopped(_) => io::Error::new(io::ErrorKind::BrokenPipe, error),
                other => other.into(),
            }),
            Sender::Yamux(stream) => stream.poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Sender::Quic(stream) => stream.poll_flush(cx),
            // The driver sends it without being asked.
            Sender::Yamux(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Closing a link drops what is under way on it, so a flow has ended only when the peer has all of it: whoever waits
        // for flows before closing may rely on that.
        let arrived = match (&mut this.arrived, &mut this.inner) {
            (Some(arrived), _) => arrived,
            // What TCP has taken arrives before the goodbye of the link does.
            (None, Sender::Yamux(stream)) => {
                this.ended = true;
                return stream.poll_finish(cx);
            }
            (none @ None, Sender::Quic(stream)) => {
                ready!(Pin::new(&mut **stream).poll_shutdown(cx))?;
                this.ended = true;
                let stopped = stream.stopped();
                none.insert(Arrived(Box::pin(async move {
                    match stopped.await {
                        Ok(None) => Ok(()),
                        Ok(Some(_)) => Err(io::ErrorKind::BrokenPipe.into()),
                        Err(error) => Err(io::Error::new(io::ErrorKind::NotConnected, error)),
                    }
                })))
            }
        };
        arrived.0.as_mut().poll(cx)
    }
}

/// The half that the peer sends. Dropping it before its end tells the peer to stop.
#[derive(Debug)]
pub struct RecvStream {
    inner: Receiver,
}

#[derive(Debug)]
enum Receiver {
    Quic(Ingoing),
    Yamux(yamux::Receiver),
}

impl RecvStream {
    /// Tells the peer to stop sending.
    pub fn stop(&mut self, code: Reset) {
        match &mut self.inner {
            Receiver::Quic(stream) => stream.stop(code),
            Receiver::Yamux(stream) => stream.stop(),
        }
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Receiver::Quic(stream) => stream.poll_read(cx, buf),
            Receiver::Yamux(stream) => stream.poll_read(cx, buf),
        }
    }
}
