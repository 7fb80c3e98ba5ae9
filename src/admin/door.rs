//! The port's door: connections of operators, with TLS where the port has a certificate.
//!
//! Handshakes are made beside each other, so many at most, and each has a deadline. When there are more, the oldest give way:
//! who says nothing holds up nobody.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{
    net::{self, Connection, Crowd, Place},
    tls::ServerTls,
};

/// How long an operator has for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many handshakes are made at once, and how long each may take when there are so many.
const HANDSHAKES: usize = 64;
const FAIR: Duration = Duration::from_millis(500);

/// Where operators come in.
pub(super) struct Door {
    listener: TcpListener,
    tls: Option<ServerTls>,
    handshakes: FuturesUnordered<BoxFuture<'static, Option<(Connection, SocketAddr)>>>,
    places: Crowd,
}

/// Who has come in.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    pub(super) address: SocketAddr,
    /// The certificate that was shown, which TLS has verified.
    pub(super) certificate: Option<Arc<CertificateDer<'static>>>,
}

impl Door {
    pub(super) fn new(listener: TcpListener, tls: Option<ServerTls>) -> Self {
        Self { listener, tls, handshakes: FuturesUnordered::new(), places: Crowd::new(HANDSHAKES, FAIR) }
    }
}

impl Listener for Door {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let Some(tls) = &self.tls else {
                let (stream, address) = net::accept(&self.listener).await;
                return (Connection::Tcp(stream), address);
            };
            let next = async {
                let place = self.places.enter().await;
                (net::accept(&self.listener).await, place)
            };
            tokio::select! {
                ((stream, address), place) = next => {
                    self.handshakes.push(Box::pin(secure(stream, address, tls.current(), place)));
                }
                Some(done) = self.handshakes.next() => if let Some(entered) = done {
                    return entered;
                },
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn secure(
    stream: TcpStream,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    place: Place,
) -> Option<(Connection, SocketAddr)> {
    let handshake = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(stream));
    match place.hold(handshake).await {
        Some(Ok(Ok(stream))) => return Some((Connection::Tls(Box::new(stream.into())), address)),
        Some(Ok(Err(error))) => tracing::debug!(%address, %error, "a TLS handshake of an operator failed"),
        Some(Err(_)) => {
            tracing::debug!(%address, "a TLS handshake of an operator was not done after {HANDSHAKE:?}");
        }
        None => tracing::debug!(%address, "a TLS handshake of an operator gave way to another one"),
    }
    None
}

impl Connected<IncomingStream<'_, Door>> for Visitor {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        let certificate = stream.io().peer_certificates().into_iter().next().map(Arc::new);
        Self { address: *stream.remote_addr(), certificate }
    }
}
