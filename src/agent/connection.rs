//! A service's connection in the hands of an HTTP library, which drops what it gives up.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};

use crate::{net::Connection, splice::Side, telemetry::Tally};

/// A connection to a service. Dropped before this side has ended it, it is reset, so that the service never takes half of
/// something for all of it.
#[derive(Debug)]
pub(super) struct Dialled {
    connection: Connection,
    ended: bool,
    /// Where its bytes are counted: what the service reads has come from clients, and what it writes goes to them.
    tally: Option<Tally>,
}

impl Dialled {
    pub(super) fn new(connection: Connection, tally: Option<Tally>) -> Self {
        Self { connection, ended: false, tally }
    }

    fn written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Some(tally), Poll::Ready(Ok(bytes))) = (&self.tally, &written) {
            tally.received(*bytes);
        }
        written
    }
}

impl Drop for Dialled {
    fn drop(&mut self) {
        if !self.ended
            && let Err(error) = self.connection.tcp().set_zero_linger()
        {
            tracing::debug!(%error, "cannot reset a TCP connection; it ends with FIN");
        }
    }
}

impl AsyncRead for Dialled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.connection).poll_read(cx, buf);
        if let Some(tally) = &self.tally {
            tally.sent(buf.filled().len() - before);
        }
        read
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.connection).poll_write(cx, buf);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.connection).poll_write_vectored(cx, bufs);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = ready!(Pin::new(&mut self.connection).poll_shutdown(cx));
        self.ended |= shut.is_ok();
        Poll::Ready(shut)
    }
}

impl Side for Dialled {
    type Read<'a> = ReadHalf<&'a mut Self>;
    type Write<'a> = WriteHalf<&'a mut Self>;

    fn halves(&mut self) -> (Self::Read<'_>, Self::Write<'_>) {
        tokio::io::split(self)
    }

    fn reset(mut self, written: bool) {
        self.ended = written;
    }
}
