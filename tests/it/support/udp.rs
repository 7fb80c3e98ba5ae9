//! UDP services and clients.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use adit::{
    agent::Agent,
    drain::Tasks,
    forward::{Forwarder, PortKind},
    protocol::Kind,
};
use tokio::net::UdpSocket;

use super::{Fabric, fabric::UDP_IDLE, ok, soon};

/// What a UDP port takes where a test does not say for how long.
pub(crate) const UDP: PortKind = PortKind::Udp { idle: UDP_IDLE };

/// A service that sends each packet back. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    /// Whom packets came from.
    clients: Arc<Mutex<BTreeSet<SocketAddr>>>,
    tasks: Tasks,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

impl Echo {
    pub(crate) async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().expect("it is an address")).await
    }

    pub(crate) async fn at(address: SocketAddr) -> Self {
        let socket = ok(UdpSocket::bind(address).await);
        let echo = Self { address: ok(socket.local_addr()), clients: Arc::default(), tasks: Tasks::new() };
        let clients = Arc::clone(&echo.clients);
        echo.tasks.spawn(async move {
            let mut buf = vec![0; 65_535];
            loop {
                let (len, from) = ok(socket.recv_from(&mut buf).await);
                ok(clients.lock()).insert(from);
                ok(socket.send_to(&buf[..len], from).await);
            }
        });
        echo
    }

    /// How many clients it has seen: as many as there were associations.
    pub(crate) fn clients(&self) -> usize {
        ok(self.clients.lock()).len()
    }
}

/// A client's socket that is connected to a port.
#[derive(Debug)]
pub(crate) struct Client(pub(crate) UdpSocket);

impl Client {
    pub(crate) async fn of(port: SocketAddr) -> Self {
        let socket = ok(UdpSocket::bind("127.0.0.1:0").await);
        ok(socket.connect(port).await);
        Self(socket)
    }

    pub(crate) async fn send(&self, packet: &[u8]) {
        assert_eq!(ok(self.0.send(packet).await), packet.len());
    }

    pub(crate) async fn recv(&self) -> Vec<u8> {
        let mut buf = vec![0; 65_535];
        let len = ok(soon(self.0.recv(&mut buf)).await);
        buf.truncate(len);
        buf
    }

    /// Sends a packet and waits for what comes back.
    pub(crate) async fn ask(&self, packet: &[u8]) -> Vec<u8> {
        self.send(packet).await;
        self.recv().await
    }
}

/// A UDP service behind a forwarder, a node and an agent, as the endpoint `udp`.
#[derive(Debug)]
pub(crate) struct UdpPath {
    pub(crate) agent: Agent,
    pub(crate) forwarder: Forwarder,
    pub(crate) port: SocketAddr,
    pub(crate) fabric: Fabric,
}

impl UdpPath {
    pub(crate) async fn to(service: SocketAddr) -> Self {
        let fabric = Fabric::start().await;
        let agent = fabric.agent("udp", Kind::Udp, service).await;
        let (forwarder, port) = fabric.forwarder_of("udp", UDP).await;
        Self { agent, forwarder, port, fabric }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::of(self.port).await
    }
}

/// The sample of a metric, 0 while there is none.
pub(crate) async fn metric(admin: SocketAddr, name: &str) -> u64 {
    let metrics = super::client::get(admin, "", "/metrics").await;
    let sample = metrics.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    sample.map_or(0, |count| ok(count.parse()))
}
