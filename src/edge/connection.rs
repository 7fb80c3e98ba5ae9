//! A client's connection: accepted, with TLS where the port has it, and served until it ends or the edge leaves.

use std::{
    convert::Infallible,
    error::Error as _,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{Request, Version};
use hyper::{body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::{pki_types::CertificateDer, server::Acceptor};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::LazyConfigAcceptor;

use super::{
    Shared,
    activity::{Activity, Exchange, Overdue},
    admission::Admission,
    body::Received,
    headers::Forwarding,
    http::serve as answer,
    proxied::{self, Ends},
    sni,
    socket::Socket,
    tcp,
};
use crate::{
    drain::Tasks,
    net::{self, Connection},
    tls::ServerTls,
    upstream::{self, BoxError, Name},
};

/// How long a client has for its TLS handshake.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a client that was told that its connection ends has to end it.
const GOODBYE: Duration = Duration::from_secs(10);

/// How often an HTTP/2 connection is asked whether its client is still there, and how long it has to answer.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_ANSWER: Duration = Duration::from_secs(20);

/// What is behind a port of the edge.
#[derive(Clone)]
pub(super) enum Door {
    /// HTTP in the clear.
    Http,
    /// HTTP over TLS.
    Https(ServerTls),
    /// The endpoint that the client's TLS names.
    Sni,
    /// One endpoint.
    Tcp(Name),
}

/// A client, as its connection shows it.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) scheme: &'static str,
    /// The certificate that it has shown, which TLS has verified.
    pub(super) certificate: Option<Arc<CertificateDer<'static>>>,
    /// As services are told of it ahead of its requests.
    pub(super) connection: upstream::Client,
    /// As services are told of it in its requests.
    pub(super) forwarding: Arc<Forwarding>,
}

impl Client {
    pub(super) fn new(
        ends: Ends,
        scheme: &'static str,
        certificates: Vec<CertificateDer<'static>>,
        shared: &Shared,
    ) -> Self {
        let Ends { client: address, server } = ends;
        let number = shared.clients.fetch_add(1, Relaxed);
        let certificate = certificates.into_iter().next().map(Arc::new);
        Self {
            address,
            scheme,
            certificate,
            connection: upstream::Client { number, address, server },
            forwarding: Arc::new(Forwarding::new(address.ip(), scheme)),
        }
    }
}

/// hyper runs the streams of HTTP/2 as tasks; this makes them the edge's, and ends those that stall.
#[derive(Debug, Clone)]
struct Streams {
    shared: Arc<Shared>,
    /// The stream that was begun last: hyper hands its task over right after it has called the service.
    begun: Arc<Mutex<Option<Arc<Activity>>>>,
}

impl Streams {
    fn begun(&self, exchange: Option<&Exchange>) -> Option<Arc<Activity>> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut begun, exchange.map(|exchange| Arc::clone(exchange.bodies())))
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, task: F) {
        let Some(bodies) = self.begun(None).filter(|_| self.shared.limits.stall_timeout.is_some()) else {
            return self.shared.connections.spawn(task);
        };
        let shared = Arc::clone(&self.shared);
        self.shared.connections.spawn(async move {
            tokio::select! {
                () = task => {}
                // What is dropped is reset.
                overdue = bodies.overdue(&shared.limits) => shared.counters.refused(overdue.code()),
            }
        });
    }
}

/// Accepts connections until the edge leaves.
pub(super) async fn accept(listener: TcpListener, door: Door, shared: Arc<Shared>, accepting: Tasks) {
    loop {
        let (stream, address) = tokio::select! {
            accepted = net::accept(&listener) => accepted,
            () = accepting.signalled() => return,
        };
        if let Some(admission) = shared.admissions.admit() {
            let entered = enter(stream, address, admission, door.clone(), Arc::clone(&shared));
            shared.connections.spawn(entered);
        }
    }
}

async fn enter(
    mut stream: TcpStream,
    address: SocketAddr,
    admission: Admission,
    door: Door,
    shared: Arc<Shared>,
) {
    let Some(ends) = proxied::ends(&mut stream, address, &shared).await else { return };
    match door {
        Door::Http => {
            let client = Client::new(ends, "http", Vec::new(), &shared);
            serve(Connection::Tcp(stream), admission, client, shared).await;
        }
        Door::Https(tls) => secure(stream, ends, admission, tls, shared).await,
        Door::Sni => sni::serve(stream, ends, &shared).await,
        Door::Tcp(endpoint) => tcp::serve(stream, ends, endpoint, &shared).await,
    }
}

async fn secure(stream: TcpStream, ends: Ends, admission: Admission, tls: ServerTls, shared: Arc<Shared>) {
    let handshake = async {
        let asked = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let answering = {
            // The semaphore is never closed, so there is a permit sooner or later, or the deadline comes.
            let _permit = shared.handshakes.acquire().await;
            asked.into_stream(tls.current())
        };
        answering.await
    };
    match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => {
            let connection = Connection::Tls(Box::new(stream.into()));
            let client = Client::new(ends, "https", connection.peer_certificates(), &shared);
            serve(connection, admission, client, shared).await;
        }
        Ok(Err(error)) => tracing::debug!(client = %ends.client, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(client = %ends.client, "a TLS handshake was not done after {HANDSHAKE:?}"),
    }
}

async fn serve(connection: Connection, admission: Admission, client: Client, shared: Arc<Shared>) {
    let activity = Activity::new();
    let socket = Socket::new(connection, admission, Arc::clone(&activity));
    let streams = Streams { shared: Arc::clone(&shared), begun: Arc::default() };
    let mut builder = auto::Builder::new(streams.clone());
    let (head_bytes, head_fields) = shared.limits.head_room();
    builder
        .http1()
        .header_read_timeout(None)
        .max_buf_size(head_bytes)
        .max_headers(head_fields)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER)
        .max_concurrent_streams(shared.limits.max_streams)
        .enable_connect_protocol()
        .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX));
    let service = {
        let (shared, activity, client) = (Arc::clone(&shared), Arc::clone(&activity), client.clone());
        service_fn(move |request: Request<Incoming>| {
            let exchange = if request.version() < Version::HTTP_2 {
                Exchange::alone(&activity)
            } else {
                let exchange = Exchange::stream(&activity);
                streams.begun(Some(&exchange));
                exchange
            };
            let (shared, client) = (Arc::clone(&shared), client.clone());
            async move { Ok::<_, Infallible>(answer(&shared, client, &exchange, Received::new(request)).await) }
        })
    };
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(socket), service);
    tokio::pin!(connection);
    let mut leaving = false;
    loop {
        let overdue = async {
            if leaving {
                tokio::time::sleep(GOODBYE).await;
            }
            activity.overdue(&shared.limits).await
        };
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(client = %client.address, %error, "a connection ended with an error");
                    if let Some(reason) = refusal(&error) {
                        shared.counters.refused(reason);
                    }
                }
                return;
            }
            overdue = overdue => if leaving || overdue != Overdue::Idle {
                tracing::debug!(client = %client.address, %overdue, "a connection is cut");
                return shared.counters.refused(overdue.code());
            },
            () = shared.connections.signalled(), if !leaving => {}
        }
        leaving = true;
        connection.as_mut().graceful_shutdown();
    }
}

/// What a client did that the HTTP library ended its connection for.
fn refusal(error: &BoxError) -> Option<&'static str> {
    let error = error.downcast_ref::<hyper::Error>()?;
    if error.is_parse_too_large() {
        Some("head_too_large")
    } else if error.is_parse() {
        Some("malformed")
    } else {
        let error = error.source()?.downcast_ref::<h2::Error>().filter(|error| error.is_library())?;
        Some(if error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) { "flood" } else { "malformed" })
    }
}
