//! The port's door: connections of operators, with TLS where the port has a certificate.
//!
//! Handshakes are made beside each other, so many at most, and each has a deadline. When there are more, the oldest is given up:
//! who says nothing holds up nobody.

use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    net::{self, Connection},
    tls::ServerTls,
};

/// How long an operator has for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many handshakes are made at once.
const HANDSHAKES: usize = 64;

/// Where operators come in.
pub(super) struct Door {
    listener: TcpListener,
    tls: Option<ServerTls>,
    handshakes: FuturesUnordered<BoxFuture<'static, Option<(Connection, SocketAddr)>>>,
    /// What keeps each of them going, the oldest first, some that are done among them.
    kept: VecDeque<oneshot::Sender<()>>,
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
        Self { listener, tls, handshakes: FuturesUnordered::new(), kept: VecDeque::new() }
    }
}

impl Door {
    /// Makes room for a handshake, which lasts no longer than what this answers.
    fn keep(&mut self) -> oneshot::Receiver<()> {
        self.kept.retain(|handshake| !handshake.is_closed());
        if self.kept.len() >= HANDSHAKES {
            self.kept.pop_front();
        }
        let (keep, kept) = oneshot::channel();
        self.kept.push_back(keep);
        kept
    }
}

impl Listener for Door {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            tokio::select! {
                (stream, address) = net::accept(&self.listener) => {
                    let Some(tls) = &self.tls else { return (Connection::Tcp(stream), address) };
                    let tls = tls.current();
                    let kept = self.keep();
                    self.handshakes.push(Box::pin(secure(stream, address, tls, kept)));
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
    kept: oneshot::Receiver<()>,
) -> Option<(Connection, SocketAddr)> {
    let handshake = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(stream));
    let done = tokio::select! {
        done = handshake => done,
        _ = kept => {
            tracing::debug!(%address, "a TLS handshake of an operator was given up for another one");
            return None;
        }
    };
    match done {
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
