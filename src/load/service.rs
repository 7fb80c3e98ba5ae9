//! The services behind the agents: they send back what they get, on ports of loopback that the system chooses.
//!
//! They run in the generator's process, so that it needs no other program, and what they cost is part of its own figure.

use std::{convert::Infallible, io, net::SocketAddr};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::coop,
};

use super::stream;
use crate::{drain::Tasks, net};

/// The longest packet of UDP.
const PACKET: usize = 65_535;

/// What a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1: answers each request with its body.
    Http,
    /// TCP, by the first bytes of each connection: see `stream`.
    Tcp,
    /// UDP: sends each packet back.
    Udp,
}

/// Services, each on a port of its own. Dropping this ends them.
#[derive(Debug)]
pub struct Services {
    /// Their ports.
    pub addresses: Vec<SocketAddr>,
    tasks: Tasks,
}

impl Services {
    /// Starts so many.
    ///
    /// # Errors
    /// When there are no ports to be had.
    pub async fn start(count: usize, speaks: Speaks) -> io::Result<Self> {
        let mut services = Self { addresses: Vec::with_capacity(count), tasks: Tasks::new() };
        for _ in 0..count {
            let address = match speaks {
                Speaks::Http => services.listen(http).await?,
                Speaks::Tcp => services.listen(tcp).await?,
                Speaks::Udp => services.packets().await?,
            };
            services.addresses.push(address);
        }
        Ok(services)
    }

    async fn listen<F>(
        &self,
        serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
    ) -> io::Result<SocketAddr>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, tasks) = (listener.local_addr()?, self.tasks.clone());
        self.tasks.spawn(async move {
            loop {
                let (stream, _) = net::accept(&listener).await;
                tasks.spawn(serve(stream));
            }
        });
        Ok(address)
    }

    async fn packets(&self) -> io::Result<SocketAddr> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        self.tasks.spawn(async move {
            let mut packet = vec![0; PACKET];
            loop {
                // Errors are those of packets sent before (RFC 1122 §4.1.3.3): their senders are gone.
                if let Ok((len, from)) = socket.recv_from(&mut packet).await
                    && let Err(error) = socket.try_send_to(&packet[..len], from)
                {
                    tracing::debug!(%error, "a packet was not sent back");
                }
                coop::consume_budget().await;
            }
        });
        Ok(address)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

async fn http(stream: tokio::net::TcpStream) {
    let echo = service_fn(|request: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), echo).await;
    if let Err(error) = connection {
        tracing::debug!(%error, "a connection to a service broke");
    }
}

async fn tcp(stream: tokio::net::TcpStream) {
    if let Err(error) = stream::serve(stream).await {
        tracing::debug!(%error, "a connection to a service broke");
    }
}
