//! A UDP service: a socket that is connected to it, one an association.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bytes::{Bytes, BytesMut};
use tokio::net::UdpSocket;

use super::{Counters, Dropped, Side, Sink, Source};
use crate::net;

/// The longest packet of UDP, in bytes.
pub(super) const MAX_PACKET: usize = u16::MAX as usize;

/// A socket that only the packets of one peer reach.
#[derive(Debug)]
pub struct UdpService {
    socket: UdpSocket,
    counters: Counters,
    buf: BytesMut,
}

impl UdpService {
    /// A socket on a port of the system's choice.
    ///
    /// # Errors
    /// When there is none, or the address cannot be reached from here.
    pub async fn connect(address: SocketAddr, counters: Counters) -> io::Result<Self> {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::from_std(net::bind_udp(any)?)?;
        socket.connect(address).await?;
        Ok(Self { socket, counters, buf: BytesMut::new() })
    }
}

impl Side for UdpService {
    fn halves(&mut self) -> (impl Source, impl Sink) {
        let Self { socket, counters, buf } = self;
        let (socket, counters) = (&*socket, &*counters);
        (Receiving { socket, counters, buf }, Sending { socket, counters })
    }

    async fn end(self) {}
}

struct Receiving<'a> {
    socket: &'a UdpSocket,
    counters: &'a Counters,
    buf: &'a mut BytesMut,
}

impl Source for Receiving<'_> {
    async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            // The packet before has been passed on, so this is the same memory again.
            self.buf.reserve(MAX_PACKET);
            match self.socket.recv_buf(&mut *self.buf).await {
                Ok(_) => return Ok(Some(self.buf.split().freeze())),
                Err(error) if is_of_a_packet(&error) => note(&error, self.counters),
                Err(error) => return Err(error),
            }
        }
    }
}

struct Sending<'a> {
    socket: &'a UdpSocket,
    counters: &'a Counters,
}

impl Sink for Sending<'_> {
    async fn send(&mut self, packet: Bytes) -> io::Result<()> {
        let mut sent = self.socket.send(&packet).await;
        if let Err(error) = &sent
            && error.kind() == ErrorKind::ConnectionRefused
        {
            // The system tells of an earlier packet in place of sending this one (udp(7)).
            note(error, self.counters);
            sent = self.socket.send(&packet).await;
        }
        settle(sent.map(drop), self.counters);
        Ok(())
    }
}

/// Whether a socket goes on after an error, which tells of one packet.
pub(super) fn is_of_a_packet(error: &io::Error) -> bool {
    use ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable,
        PermissionDenied,
    };
    matches!(
        error.kind(),
        ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkUnreachable
            | PermissionDenied
    )
}

fn note(error: &io::Error, counters: &Counters) {
    tracing::debug!(%error, "a packet was not delivered");
    counters.drop(Dropped::Undelivered);
}

/// Counts what became of a packet.
pub(super) fn settle(sent: io::Result<()>, counters: &Counters) {
    match sent {
        Ok(()) => {
            counters.socket.inc();
        }
        Err(error) => note(&error, counters),
    }
}
