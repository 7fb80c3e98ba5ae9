//! A UDP port and its clients. UDP has no connections: an address that a packet comes from is a client, and has one
//! association until that is idle.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::net::UdpSocket;

use super::{
    Counters, Dropped, Side, Sink, Source,
    queue::{self, Budget},
    service::{MAX_PACKET, is_of_a_packet, settle},
};
use crate::net;

/// How many clients a port may have at once: as many as a link carries flows. Packets of further ones are dropped, so that
/// a flood from forged addresses keeps out new clients and harms none that is there.
const CLIENTS: usize = 4096;

/// For how long the packets of a client whose endpoint cannot be reached are dropped before it is tried again.
const REST: Duration = Duration::from_secs(1);

/// A UDP port that waits for clients.
#[derive(Debug)]
pub struct UdpPort {
    socket: Arc<UdpSocket>,
    clients: Arc<Clients>,
    budget: Budget,
    counters: Counters,
    buf: Vec<u8>,
}

/// The clients of a port, and where their packets wait.
#[derive(Debug, Default)]
struct Clients(Mutex<HashMap<SocketAddr, queue::Sender>>);

impl Clients {
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, queue::Sender>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UdpPort {
    /// Binds a port.
    ///
    /// # Errors
    /// When it is taken.
    pub fn bind(address: SocketAddr, counters: Counters) -> io::Result<Self> {
        let socket = Arc::new(UdpSocket::from_std(net::bind_udp(address)?)?);
        Ok(Self {
            socket,
            clients: Arc::default(),
            budget: Budget::default(),
            counters,
            buf: vec![0; MAX_PACKET],
        })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves the port, for ever: `welcome` gets each client, which is an address that has no association, until `closed` has
    /// come to its end; those that are there are served on.
    pub async fn serve(mut self, closed: impl Future<Output = ()>, mut welcome: impl FnMut(UdpClient)) {
        let accept = async {
            loop {
                let (len, from) = self.recv().await;
                if let Some(client) = self.take(len, from, CLIENTS) {
                    welcome(client);
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = closed => {}
        }
        loop {
            let (len, from) = self.recv().await;
            drop(self.take(len, from, 0));
        }
    }

    async fn recv(&mut self) -> (usize, SocketAddr) {
        loop {
            match self.socket.recv_from(&mut self.buf).await {
                Ok(received) => return received,
                Err(error) if is_of_a_packet(&error) => {
                    tracing::debug!(%error, "a packet to a client was not delivered");
                    self.counters.drop(Dropped::Undelivered);
                }
                Err(error) => {
                    tracing::error!(%error, "cannot receive packets; trying again in 1 s");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Hands over the packet that has come; a new client, if it is from one and `most` are not there yet.
    fn take(&self, len: usize, from: SocketAddr, most: usize) -> Option<UdpClient> {
        let packet = &self.buf[..len];
        let mut clients = self.clients.lock();
        if let Some(queue) = clients.get(&from) {
            if queue.push(packet).is_err() {
                self.counters.drop(Dropped::QueueFull);
            }
            return None;
        }
        if clients.len() >= most {
            self.counters.drop(Dropped::TooManyClients);
            return None;
        }
        let (queue, waiting) = self.budget.queue();
        if queue.push(packet).is_err() {
            self.counters.drop(Dropped::QueueFull);
            return None;
        }
        clients.insert(from, queue);
        Some(UdpClient {
            from,
            waiting,
            socket: Arc::clone(&self.socket),
            clients: Arc::clone(&self.clients),
            counters: self.counters.clone(),
        })
    }
}

/// A client of a port. When it is dropped, the next packet from its address begins another.
#[derive(Debug)]
pub struct UdpClient {
    /// As the socket has it: a port for both IPv4 and IPv6 has both as IPv6.
    from: SocketAddr,
    waiting: queue::Receiver,
    socket: Arc<UdpSocket>,
    clients: Arc<Clients>,
    counters: Counters,
}

impl UdpClient {
    /// Its address.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.from.ip().to_canonical(), self.from.port())
    }

    /// Drops its packets for a while: its endpoint cannot be reached, and asking again for each packet would not help.
    pub async fn discard(mut self) {
        let discard = async {
            while self.waiting.recv().await.is_some() {
                self.counters.drop(Dropped::Unreachable);
            }
        };
        // It ends with the time alone: the port keeps the queue open.
        drop(tokio::time::timeout(REST, discard).await);
    }
}

impl Side for UdpClient {
    fn halves(&mut self) -> (impl Source, impl Sink) {
        let Self { from, waiting, socket, counters, .. } = self;
        (Receiving(waiting), Sending { socket, to: *from, counters })
    }

    async fn end(self) {}
}

impl Drop for UdpClient {
    fn drop(&mut self) {
        self.clients.lock().remove(&self.from);
    }
}

struct Receiving<'a>(&'a mut queue::Receiver);

impl Source for Receiving<'_> {
    async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        Ok(self.0.recv().await)
    }
}

struct Sending<'a> {
    socket: &'a UdpSocket,
    to: SocketAddr,
    counters: &'a Counters,
}

impl Sink for Sending<'_> {
    async fn send(&mut self, packet: Bytes) -> io::Result<()> {
        settle(self.socket.send_to(&packet, self.to).await.map(drop), self.counters);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn port() -> UdpPort {
        UdpPort::bind(([127, 0, 0, 1], 0).into(), Counters::default()).unwrap()
    }

    fn address(number: usize) -> SocketAddr {
        (Ipv4Addr::from_bits(u32::try_from(number).unwrap()), 7).into()
    }

    #[tokio::test]
    async fn a_flood_from_many_addresses_keeps_out_new_clients_and_harms_none_that_is_there() {
        let port = port();
        let mut clients: Vec<_> =
            (0..CLIENTS).filter_map(|number| port.take(1, address(number), CLIENTS)).collect();
        assert_eq!(clients.len(), CLIENTS);
        for number in 0..10_000 {
            assert!(port.take(1, address(CLIENTS + number), CLIENTS).is_none());
        }
        assert_eq!(port.counters.dropped(Dropped::TooManyClients), 10_000);
        assert!(port.take(1, address(9), CLIENTS).is_none());
        assert_eq!(port.counters.dropped(Dropped::QueueFull), 0);
        clients.pop();
        assert!(port.take(1, address(CLIENTS), CLIENTS).is_some(), "there is room for one");
    }

    #[tokio::test]
    async fn a_client_that_has_gone_begins_anew() {
        let port = port();
        let first = port.take(1, address(1), CLIENTS).unwrap();
        assert!(port.take(1, address(1), CLIENTS).is_none());
        drop(first);
        assert!(port.take(1, address(1), CLIENTS).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn packets_for_an_endpoint_that_cannot_be_reached_are_dropped_for_a_while_and_counted() {
        let port = port();
        let client = port.take(1, address(1), CLIENTS).unwrap();
        assert!(port.take(1, address(1), CLIENTS).is_none());
        client.discard().await;
        assert_eq!(port.counters.dropped(Dropped::Unreachable), 2);
        assert!(port.take(1, address(1), CLIENTS).is_some(), "then it is tried again");
    }
}
