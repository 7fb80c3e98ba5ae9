//! A client's connection: accepted, with TLS where the port has it, and served until it ends or the edge leaves.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::{rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{Shared, body::Received, http};
use crate::{
    drain::Tasks,
    net::{self, Connection},
};

/// How long a client has for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a client has from one request's end to the next request's complete head.
const NEXT_HEAD: Duration = Duration::from_secs(60);

/// How many fields a request may have; hyper allows 100 otherwise. Their bytes are what is limited.
const FIELDS: usize = 256;

/// How many requests one HTTP/2 connection may have open.
const STREAMS: u32 = 256;

/// How often an HTTP/2 connection is asked whether its client is still there, and how long it has to answer.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_ANSWER: Duration = Duration::from_secs(20);

/// A client, as its connection shows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) scheme: &'static str,
}

/// hyper runs the streams of HTTP/2 as tasks; this makes them the edge's.
#[derive(Debug, Clone)]
struct Owned(Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Owned {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// Accepts connections until the edge leaves.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    accepting: Tasks,
) {
    loop {
        let (stream, address) = tokio::select! {
            accepted = net::accept(&listener) => accepted,
            () = accepting.signalled() => return,
        };
        // As many at once as the process may have files open.
        shared.connections.spawn(connect(stream, address, tls.clone(), Arc::clone(&shared)));
    }
}

async fn connect(stream: TcpStream, address: SocketAddr, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let Some(tls) = tls else {
        return serve(Connection::Tcp(stream), Client { address, scheme: "http" }, shared).await;
    };
    let handshake = async {
        // The semaphore is never closed, so there is a permit sooner or later, or the deadline comes.
        let _permit = shared.handshakes.acquire().await;
        tls.accept(stream).await
    };
    match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => {
            serve(Connection::Tls(Box::new(stream.into())), Client { address, scheme: "https" }, shared)
                .await;
        }
        Ok(Err(error)) => tracing::debug!(client = %address, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(client = %address, "a TLS handshake was not done after {HANDSHAKE:?}"),
    }
}

async fn serve(io: Connection, client: Client, shared: Arc<Shared>) {
    let begun = Arc::<AtomicBool>::default();
    let first = Arc::clone(&begun);
    let executor = Owned(shared.connections.clone());
    let mut builder = auto::Builder::new(executor);
    // Room for a head over the limit, so that the limit is answered with the reason.
    let head = shared.limits.max_header_bytes.saturating_mul(2).max(16 * 1024);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(NEXT_HEAD)
        .max_buf_size(head)
        .max_headers(FIELDS)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER)
        .max_concurrent_streams(STREAMS)
        .enable_connect_protocol()
        .max_header_list_size(u32::try_from(head).unwrap_or(u32::MAX));
    let tasks = shared.connections.clone();
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        first.store(true, Relaxed);
        async move { Ok::<_, Infallible>(http::serve(&shared, client, Received::new(request)).await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    tokio::pin!(connection);
    // hyper has no timer before it knows which version is spoken.
    let silent = async {
        tokio::time::sleep(NEXT_HEAD).await;
        if begun.load(Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = silent => return tracing::debug!(client = %client.address, "a connection asked for nothing"),
        () = tasks.signalled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(client = %client.address, %error, "a connection ended with an error");
    }
}
