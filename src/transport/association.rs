//! A UDP association on a link: packets, each in a datagram where one fits and on the stream where none does, so that no
//! packet is lost for being large. It lives as long as its stream.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{DatagramError, Datagrams, Inbox, RecvStream, SendStream, Stream};
use crate::{
    protocol::{self, MAX_PACKET},
    splice::packets::{Dropped, Side, Sink, Source},
};

/// An association. Dropping it breaks it: its stream is reset.
#[derive(Debug)]
pub struct Association {
    /// The packets that this side sends.
    pub send: PacketSender,
    /// The packets that the peer sends.
    pub recv: PacketReceiver,
}

impl Association {
    pub(super) fn new(stream: Stream, datagrams: &Datagrams) -> Self {
        let id = stream.id();
        Self {
            recv: PacketReceiver { inbox: datagrams.inbox(id), stream: stream.recv, buf: BytesMut::new() },
            send: PacketSender { id, stream: stream.send, rest: Bytes::new(), datagrams: datagrams.clone() },
        }
    }
}

impl Side for Association {
    fn halves(&mut self) -> (impl Source, impl Sink) {
        (&mut self.recv, &mut self.send)
    }

    async fn end(self) {
        let Self { send, recv } = self;
        drop(recv);
        if let Err(error) = send.end().await {
            tracing::debug!(%error, "the other side of an association went away first");
        }
    }
}

/// What one side of an association sends.
#[derive(Debug)]
pub struct PacketSender {
    id: u64,
    stream: SendStream,
    /// What the stream has not taken yet of a packet.
    rest: Bytes,
    datagrams: Datagrams,
}

impl PacketSender {
    /// Sends a packet, which may be lost. One that is too large for a datagram waits for room on the stream; one that finds
    /// no room among the datagrams is dropped and counted. Cancel safe but for that packet, which may be sent or not.
    ///
    /// # Errors
    /// When the association or its link has ended, or the packet has more than [`MAX_PACKET`] bytes.
    pub async fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        match self.datagrams.send(self.id, packet) {
            Ok(()) => self.datagrams.counters().all.datagram.inc(),
            Err(DatagramError::Full) => {
                self.datagrams.counters().drop(Dropped::LinkFull);
                return Ok(());
            }
            Err(DatagramError::Lost) => return Err(io::ErrorKind::NotConnected.into()),
            Err(DatagramError::TooLarge) => {
                let Some(packet) = protocol::encode_packet(packet) else {
                    let text = format!("a packet has {MAX_PACKET} bytes at most");
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
                };
                // Of one whose sending was cancelled.
                self.stream.write_all_buf(&mut self.rest).await?;
                self.rest = packet;
                self.stream.write_all_buf(&mut self.rest).await?;
                self.datagrams.counters().all.stream.inc()
            }
        };
        Ok(())
    }

    /// Ends the association, and returns when the peer knows.
    ///
    /// # Errors
    /// When the peer has ended it first, or the link has ended.
    pub async fn end(mut self) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.rest).await?;
        self.stream.shutdown().await
    }
}

impl Sink for &mut PacketSender {
    async fn send(&mut self, packet: Bytes) -> io::Result<()> {
        PacketSender::send(self, &packet).await
    }
}

/// What the peer of an association sends.
#[derive(Debug)]
pub struct PacketReceiver {
    inbox: Inbox,
    stream: RecvStream,
    /// What has come of a packet on the stream.
    buf: BytesMut,
}

impl PacketReceiver {
    /// The next packet; `None` when the peer has ended the association. Cancel safe.
    ///
    /// # Errors
    /// When the association or its link has broken.
    pub async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(packet) = protocol::split_packet(&mut self.buf) {
                return Ok(Some(packet));
            }
            tokio::select! {
                biased;
                packet = self.inbox.recv() => return Ok(Some(packet)),
                read = self.stream.read_buf(&mut self.buf) => match read? {
                    0 if self.buf.is_empty() => return Ok(self.inbox.try_recv()),
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    _ => {}
                },
            }
        }
    }
}

impl Source for &mut PacketReceiver {
    async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        PacketReceiver::recv(self).await
    }
}
