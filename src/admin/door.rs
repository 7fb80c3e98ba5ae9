//! The port's door: connections of operators, with TLS where the port has a certificate.
//!
//! Handshakes are made beside each other, so many at most, and each has a deadline: who says nothing holds up nobody.

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
    net::{self, Connection},
    tls::ServerTls,
};

/// How long an operator has for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many handshakes are made at once. Others wait to be accepted.
const HANDSHAKES: usize = 64;

/// Where operators come in.
pub(super) struct Door {
    listener: TcpListener,
    tls: Option<ServerTls>,
    handshakes: FuturesUnordered<BoxFuture<'static, Option<(Connection, SocketAddr)>>>,
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
        Self { listener, tls, handshakes: FuturesUnordered::new() }
    }
}

impl Listener for Door {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            tokio::select! {
                (stream, address) = net::accept(&self.listener), if self.handshakes.len() < HANDSHAKES => {
                    let Some(tls) = &self.tls else { return (Connection::Tcp(stream), address) };
                    self.handshakes.push(Box::pin(secure(stream, address, tls.current())));
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
) -> Option<(Connection, SocketAddr)> {
    match tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) => Some((Connection::Tls(Box::new(stream.into())), address)),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a TLS handshake of an operator failed");
            None
        }
        Err(_) => {
            tracing::debug!(%address, "a TLS handshake of an operator was not done after {HANDSHAKE:?}");
            None
        }
    }
}

impl Connected<IncomingStream<'_, Door>> for Visitor {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        let certificate = stream.io().peer_certificates().into_iter().next().map(Arc::new);
        Self { address: *stream.remote_addr(), certificate }
    }
}
