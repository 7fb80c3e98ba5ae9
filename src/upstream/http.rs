//! One HTTP request to an agent's service: on a flow that is open, or on a new one, and again elsewhere where that is safe.
//!
//! The rules of retry, after RFC 9110 §9.2.2: what was never sent may be sent elsewhere, whatever it is; what may have been
//! delivered is sent again only when the method is idempotent and there is no body that has been consumed. So a POST is
//! never sent twice.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{sync::oneshot, time::Instant};

use super::{
    flow::{OpenFlowError, TRY},
    pool::{Connection, FRESH, GivenUp, MAX_IDLE},
    registry::{InFlight, Name, Tried, Upstream, Upstreams},
};
use crate::protocol::{Hop, Kind, Open};

/// How many fields a response may have; hyper allows 100 otherwise.
const FIELDS: usize = 256;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body on its way to a service.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No flow could be opened.
    #[error(transparent)]
    Open(#[from] OpenFlowError),
    /// The flow broke before the response began. Whether the service has seen the request is not known.
    #[error("the service broke off before it responded: {0}")]
    Broken(#[source] hyper::Error),
    /// The request itself broke: its client went away or sent a malformed body.
    #[error("the request's body broke")]
    Body(#[source] hyper::Error),
    /// No response headers in time.
    #[error("the service has not begun to respond within {0:?} of the request's end")]
    Timeout(Duration),
}

impl SendError {
    /// Whether the cause is that an agent or a node is just leaving, so that another may come in its place.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Open(error) if error.is_passing())
    }
}

impl Upstreams {
    /// Sends a request to the endpoint's service and waits for the response's headers, at most `timeout` from the last byte
    /// of the request's body on. The body of the response may take as long as it likes.
    ///
    /// # Errors
    /// See [`SendError`]. Cancel safe: a request that is dropped resets its flow.
    pub async fn send(
        &self,
        name: &Name,
        request: Request<Body>,
        timeout: Duration,
    ) -> Result<Response<ResponseBody>, SendError> {
        let (sent, body_sent) = oneshot::channel();
        let replay = can_replay(&request);
        let broken = Arc::<AtomicBool>::default();
        let request = {
            let broken = Arc::clone(&broken);
            request.map(|body| Body::new(Tracked { body, broken, _sent: sent }))
        };
        let deadline = async {
            // It ends when the body does, or is dropped; nothing is ever sent on it.
            drop(body_sent.await);
            tokio::time::sleep(timeout).await;
        };
        tokio::select! {
            response = self.attempts(name, request, replay, &broken) => response,
            () = deadline => Err(SendError::Timeout(timeout)),
        }
    }

    async fn attempts(
        &self,
        name: &Name,
        mut request: Request<Body>,
        mut replay: bool,
        broken: &AtomicBool,
    ) -> Result<Response<ResponseBody>, SendError> {
        let mut tried = Tried::default();
        let mut failed: Option<SendError> = None;
        // A flow that was idle may have been closed by its service meanwhile, which says nothing about the agent: such a
        // failure does not count against it, but happens once, since the next flow is then a fresh one.
        let mut reuse = true;
        let began = Instant::now();
        let until = began + self.inner.wait;
        loop {
            let Some(upstream) =
                self.choose(name, &tried).filter(|_| failed.is_none() || began.elapsed() < TRY)
            else {
                let passing = failed.as_ref().is_none_or(SendError::is_passing);
                if passing && self.gap(name, until).await {
                    tried.clear();
                    continue;
                }
                return Err(
                    failed.unwrap_or_else(|| OpenFlowError::NoUpstream(name.endpoint.to_string()).into())
                );
            };
            if failed.is_some() {
                self.inner.counters.retries.inc();
            }
            let in_flight = upstream.begin();
            // Pings tell within 1.5 s whether it is the link that does not answer.
            let _waiting = upstream.via.vitals().wait();
            let age = if request.method().is_idempotent() { MAX_IDLE } else { FRESH };
            let pooled = if reuse { upstream.pool.take(Instant::now(), age) } else { None };
            let reused = pooled.is_some();
            tried.way(&upstream);
            let connection = match pooled {
                Some(connection) => {
                    self.inner.counters.reused.inc();
                    Ok(connection)
                }
                None => tokio::select! {
                    connection = self.connect(&upstream, name) => connection,
                    () = self.elsewhere(&upstream, name, &tried) => Err(OpenFlowError::Lost("it does not answer".into())),
                },
            };
            let lease = match connection {
                Ok(connection) => Lease { connection, in_flight },
                Err(error) => {
                    tracing::debug!(via = %upstream.via, %error, "an agent gave no flow");
                    tried.failed(&upstream, error.is_of_agent());
                    failed = Some(error.into());
                    continue;
                }
            };
            let spare = replay.then(|| copy(&request));
            let (error, unsent) = tokio::select! {
                sent = lease.send(request) => match sent {
                    Ok(response) => return Ok(response),
                    Err((error, unsent)) => (blame(error, &upstream, broken), unsent),
                },
                () = self.elsewhere(&upstream, name, &tried), if replay => {
                    (SendError::Open(OpenFlowError::Lost("it does not answer".into())), None)
                }
            };
            tracing::debug!(via = %upstream.via, %error, reused, "a request failed before its response");
            request = match unsent {
                Some(request) => request,
                None => {
                    // Delivered twice at most: a request that kills its service must not be taken to all of them.
                    replay = false;
                    match spare {
                        Some(spare) => spare,
                        None => return Err(error),
                    }
                }
            };
            if reused && !upstream.is_silent() {
                reuse = false;
                tried.again();
            } else {
                tried.failed(&upstream, matches!(error, SendError::Broken(_)));
            }
            failed = Some(error);
        }
    }

    /// Opens a flow for HTTP.
    async fn connect(&self, upstream: &Arc<Upstream>, name: &Name) -> Result<Connection, OpenFlowError> {
        let open = Open {
            endpoint: name.endpoint.clone(),
            tenant: None,
            kind: Kind::Http,
            hop: Hop::Final,
            agent: None,
            client: None,
            trace: None,
        };
        let (stream, hold) = self.open_at(upstream, open).await?;
        let flow = stream.id();
        let (sender, connection) = http1::Builder::new()
            .max_headers(FIELDS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| OpenFlowError::Lost(error.to_string()))?;
        let given_up = GivenUp::default();
        let connection = {
            let (cancelled, upstream) = (given_up.token.clone(), Arc::clone(upstream));
            async move {
                tokio::select! {
                    // Asked first: giving a request up also lets the connection end, with a clean end of stream, and a
                    // service that hangs would hold it for ever.
                    biased;
                    () = cancelled.cancelled() => {}
                    // Whoever sends a request learns how it ends.
                    ended = connection.with_upgrades() => if let Err(error) = ended {
                        tracing::debug!(flow, %error, "an HTTP flow ended");
                    },
                }
                upstream.pool.gone(flow);
                drop(hold);
            }
        };
        upstream.via.flows().spawn(connection);
        upstream.pool.opened(flow);
        Ok(Connection { sender, flow, given_up })
    }
}

/// Whose fault it is that a request got no response.
fn blame(error: hyper::Error, upstream: &Upstream, broken: &AtomicBool) -> SendError {
    if broken.load(Relaxed) {
        SendError::Body(error)
    } else if let Some(lost) = upstream.via.link().lost() {
        OpenFlowError::Lost(lost.to_string()).into()
    } else {
        SendError::Broken(error)
    }
}

/// Whether a request may be sent again after it may have been delivered.
fn can_replay(request: &Request<Body>) -> bool {
    request.method().is_idempotent() && request.body().is_end_stream()
}

/// A request without a body, again.
fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::default());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

/// A flow that carries one request. Unless it is given back, it is reset.
#[derive(Debug)]
struct Lease {
    connection: Connection,
    in_flight: InFlight,
}

impl Lease {
    /// Sends a request; when it was never sent, the error has it.
    async fn send(
        mut self,
        request: Request<Body>,
    ) -> Result<Response<ResponseBody>, (hyper::Error, Option<Request<Body>>)> {
        match self.connection.sender.try_send_request(request).await {
            Ok(response) => {
                let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                Ok(response.map(|body| ResponseBody::new(body, self, switching)))
            }
            Err(mut error) => {
                let unsent = error.take_message();
                Err((error.into_error(), unsent))
            }
        }
    }

    /// The response is complete: the flow may carry the next request.
    fn give_back(self) {
        let Self { connection, in_flight } = self;
        let upstream = Arc::clone(&in_flight.0);
        if upstream.pool.give_back(Instant::now(), connection) {
            let tasks = upstream.via.flows().clone();
            tasks.spawn(async move {
                // Ends when nothing is idle; the next flow to become so starts another.
                while upstream.pool.sweep(Instant::now()) {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
    }
}

/// Tells when it has ended, by being dropped, and whether it broke.
struct Tracked {
    body: Body,
    broken: Arc<AtomicBool>,
    _sent: oneshot::Sender<()>,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Err(_)) = &frame {
            self.broken.store(true, Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body on its way to the client. Read to its end, it gives its flow back; dropped before, it resets it, so
/// that the service stops.
#[derive(Debug)]
pub struct ResponseBody {
    body: Incoming,
    lease: Option<Lease>,
}

/// What keeps a flow that has switched protocols counted.
#[derive(Debug)]
pub struct Upgrade {
    _lease: Lease,
}

impl ResponseBody {
    fn new(body: Incoming, lease: Lease, switching: bool) -> Self {
        let mut this = Self { body, lease: Some(lease) };
        if this.body.is_end_stream() && !switching {
            this.finish();
        }
        this
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    /// Keeps the flow counted after it has switched protocols (RFC 9110 §7.8).
    pub fn into_upgrade(self) -> Option<Upgrade> {
        self.lease.map(|lease| Upgrade { _lease: lease })
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.finish();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
