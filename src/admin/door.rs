//! The port's door: connections of operators, with TLS where the port has a certificate.
//!
//! Driven by [`Admin`](super::Admin). Handshakes are made beside each other, so many at most; when there are more, the oldest
//! give way. A connection on which no request comes is closed. So who says nothing holds up nobody, and stays nowhere.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Router, extract::ConnectInfo};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{
    drain::Tasks,
    net::{Connection, Crowd, Place},
    tls::ServerTls,
};

/// How long an operator has for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many handshakes are made at once, and how long each may take when there are so many.
const HANDSHAKES: usize = 64;
const FAIR: Duration = Duration::from_millis(500);

/// How long a connection may be without a request whose head is whole: longer than scrapes are usually apart, so that one
/// connection does for many.
const SILENCE: Duration = Duration::from_secs(75);

/// Who has come in.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    pub(super) address: SocketAddr,
    /// The certificate that was shown, which TLS has verified.
    pub(super) certificate: Option<Arc<CertificateDer<'static>>>,
}

/// Lets operators in until the port is closed. Each connection is a task of its own.
pub(super) async fn accept(listener: TcpListener, tls: Option<ServerTls>, router: Router, tasks: Tasks) {
    let places = Crowd::new(HANDSHAKES, FAIR);
    loop {
        let (stream, address, place) = tokio::select! {
            accepted = places.accept(&listener) => accepted,
            () = tasks.signalled() => return,
        };
        let (tls, router, group) = (tls.clone(), router.clone(), tasks.clone());
        tasks.spawn(async move {
            let connection = match tls {
                Some(tls) => secure(stream, address, tls.current(), place).await,
                None => {
                    // There is no handshake to be made in it.
                    drop(place);
                    Some(Connection::Tcp(stream))
                }
            };
            if let Some(connection) = connection {
                serve(connection, address, router, &group).await;
            }
        });
    }
}

async fn secure(
    stream: TcpStream,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    place: Place,
) -> Option<Connection> {
    let handshake = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(stream));
    match place.hold(handshake).await {
        Some(Ok(Ok(stream))) => return Some(Connection::Tls(Box::new(stream.into()))),
        Some(Ok(Err(error))) => tracing::debug!(%address, %error, "a TLS handshake of an operator failed"),
        Some(Err(_)) => {
            tracing::debug!(%address, "a TLS handshake of an operator was not done after {HANDSHAKE:?}");
        }
        None => tracing::debug!(%address, "a TLS handshake of an operator gave way to another one"),
    }
    None
}

/// Serves a connection until it ends, or finishes what is under way when the port is closed.
async fn serve(connection: Connection, address: SocketAddr, router: Router, tasks: &Tasks) {
    let certificate = connection.peer_certificates().into_iter().next().map(Arc::new);
    let router = router.layer(Extension(ConnectInfo(Visitor { address, certificate })));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = tasks.signalled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "an operator's connection ended with an error");
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncReadExt,
        time::{Instant, timeout},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        tasks.spawn(accept(listener, None, Router::new(), tasks.clone()));
        let mut silent = TcpStream::connect(address).await.unwrap();
        let (began, mut told) = (Instant::now(), Vec::new());
        timeout(SILENCE * 2, silent.read_to_end(&mut told)).await.unwrap().unwrap();
        assert!(told.is_empty() && began.elapsed() > SILENCE / 2, "{:?} {told:?}", began.elapsed());
        tasks.abort();
    }
}
