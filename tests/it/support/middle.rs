//! Something between a link's two ends that drops its packets, or changes the address that they come from.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use adit::drain::Tasks;
use tokio::{net::UdpSocket, sync::watch};

use super::ok;

/// Passes the packets of one link on to a node.
#[derive(Debug)]
pub(crate) struct Middle {
    pub(crate) address: SocketAddr,
    cut: Arc<AtomicBool>,
    outside: watch::Sender<Arc<UdpSocket>>,
    tasks: Tasks,
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

async fn socket() -> Arc<UdpSocket> {
    Arc::new(ok(UdpSocket::bind("127.0.0.1:0").await))
}

impl Middle {
    pub(crate) async fn start(node: SocketAddr) -> Self {
        Self::at(ok(UdpSocket::bind("127.0.0.1:0").await), node).await
    }

    /// One to which a client sends by this socket.
    pub(crate) async fn at(inside: UdpSocket, node: SocketAddr) -> Self {
        let middle = Self {
            address: ok(inside.local_addr()),
            cut: Arc::default(),
            outside: watch::Sender::new(socket().await),
            tasks: Tasks::new(),
        };
        let (cut, outside) = (Arc::clone(&middle.cut), middle.outside.subscribe());
        let mut changes = middle.outside.subscribe();
        middle.tasks.spawn(async move {
            let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
            let mut client = None;
            loop {
                let current = Arc::clone(&outside.borrow());
                tokio::select! {
                    Ok((len, from)) = inside.recv_from(&mut up) => {
                        client = Some(from);
                        if !cut.load(Relaxed) {
                            drop(current.send_to(&up[..len], node).await);
                        }
                    }
                    Ok((len, _)) = current.recv_from(&mut down) => {
                        if let Some(client) = client && !cut.load(Relaxed) {
                            drop(inside.send_to(&down[..len], client).await);
                        }
                    }
                    _ = changes.changed() => {}
                }
            }
        });
        middle
    }

    /// Drops everything from now on, or no more.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.store(cut, Relaxed);
    }

    /// Packets come from another port from now on, as behind a NAT that has forgotten.
    pub(crate) async fn change_address(&self) {
        self.outside.send_replace(socket().await);
    }
}
