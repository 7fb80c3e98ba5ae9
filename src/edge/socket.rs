//! A client's connection as HTTP reads and writes it: it tells the activity what passes, holds the place among the
//! connections, and is reset after a response that was broken off, since one of HTTP/1.0 that ends cleanly seems complete.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{activity::Activity, admission::Admission, heads::Heads};
use crate::{net::Connection, splice::Side};

#[derive(Debug)]
pub(super) struct Socket {
    /// Taken when the socket is.
    open: Option<(Connection, Admission)>,
    activity: Arc<Activity>,
    heads: Heads,
    blocked: bool,
    /// Whether HTTP has ended it.
    ended: bool,
}

impl Socket {
    pub(super) fn new(connection: Connection, admission: Admission, activity: Arc<Activity>) -> Self {
        Self {
            open: Some((connection, admission)),
            activity,
            heads: Heads::new(),
            blocked: false,
            ended: false,
        }
    }

    /// The connection itself, for what is no HTTP any more.
    pub(super) fn into_inner(mut self) -> Option<(Connection, Admission)> {
        self.open.take()
    }

    fn io(&mut self) -> io::Result<Pin<&mut Connection>> {
        let (connection, _) = self.open.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Pin::new(connection))
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.blocked = written.is_pending();
        self.activity.written(self.blocked);
        written
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some((connection, _)) = self.open.take() {
            connection.reset(self.ended || !self.activity.is_broken_off());
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.io()?.poll_read(cx, buf))?;
        let bytes = &buf.filled()[before..];
        if !bytes.is_empty() {
            let seen = self.heads.see(bytes);
            self.activity.read(seen);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.io()?.poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.io()?.poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.open.as_ref().is_some_and(|(connection, _)| connection.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.io()?.poll_flush(cx);
        // TLS writes here what it has accepted before.
        if self.blocked || flushed.is_pending() {
            self.blocked = flushed.is_pending();
            self.activity.written(self.blocked);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended = true;
        self.io()?.poll_shutdown(cx)
    }
}
