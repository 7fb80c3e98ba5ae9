//! One open flow.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{association::Via, session::Session};
use crate::{
    splice::Side,
    transport::{RecvStream, SendStream, Stream},
};

/// A flow that has been joined: bytes to and from the other end.
///
/// `shutdown` ends this side's bytes while the other goes on (half-close). Dropping a flow before that resets it, so that
/// the other end never takes half of something for all of it.
#[derive(Debug)]
pub struct Flow {
    stream: Stream,
    client: Option<SocketAddr>,
    via: Via,
}

/// Tells the other end of a flow for requests to put no further one on it; what is under way goes on.
#[derive(Debug)]
pub struct Retirement {
    flow: u64,
    session: Arc<Session>,
}

impl Retirement {
    /// Tells it. Cancel safe: it may not have been told.
    pub async fn tell(&self) {
        self.session.retire(self.flow).await;
    }
}

impl Flow {
    pub(super) fn new(stream: Stream, client: Option<SocketAddr>, via: Via) -> Self {
        Self { stream, client, via }
    }

    /// For when what serves this flow is to get no further request over it.
    pub fn retirement(&self) -> Retirement {
        Retirement { flow: self.id(), session: Arc::clone(self.via.session()) }
    }

    /// The address of the client at the far edge, where it is known.
    pub fn client(&self) -> Option<SocketAddr> {
        self.client
    }

    /// The flow's number on its link, the same on both sides.
    pub fn id(&self) -> u64 {
        self.stream.id()
    }
}

impl AsyncRead for Flow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Flow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Side for Flow {
    type Read<'a> = &'a mut RecvStream;
    type Write<'a> = &'a mut SendStream;

    fn halves(&mut self) -> (Self::Read<'_>, Self::Write<'_>) {
        self.stream.halves()
    }

    fn reset(self, written: bool) {
        self.stream.reset(written);
    }
}
