//! One HTTP request to an agent's service: on a flow that is open, or on a new one, and again elsewhere where that is safe.
//!
//! The rules of retry, after RFC 9110 §9.2.2: what was never sent may be sent elsewhere, whatever it is; what may have been
//! delivered is sent again only when the method is idempotent and there is no body that has been consumed. So a POST is
//! never sent twice.

use std::{
    pin::Pin,
    sync::Arc,
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
    flow::OpenFlowError,
    pool::{Connection, FRESH, MAX_IDLE},
    registry::{InFlight, Name, Upstream, Upstreams},
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
        let request = request.map(|body| Body::new(Tracked { body, _sent: sent }));
        let deadline = async {
            // It ends when the body does, or is dropped; nothing is ever sent on it.
            drop(body_sent.await);
            tokio::time::sleep(timeout).await;
        };
        tokio::select! {
            response = self.attempts(name, request, replay) => response,
            () = deadline => Err(SendError::Timeout(timeout)),
        }
    }

    async fn attempts(
        &self,
        name: &Name,
        mut request: Request<Body>,
        mut replay: bool,
    ) -> Result<Response<ResponseBody>, SendError> {
        let mut tried = Vec::new();
        let mut failed: Option<SendError> = None;
        // A flow that was idle may have been closed by its service meanwhile, which says nothing about the agent: such a
        // failure does not count against it, but happens once, since the next flow is then a fresh one.
        let mut reuse = true;
        while let Some(upstream) = self.choose(name, &tried) {
            if failed.is_some() {
                self.inner.counters.retries.inc();
            }
            let in_flight = upstream.begin();
            // Pings tell within 1.5 s whether it is the link that does not answer.
            let _waiting = upstream.session.vitals.wait();
            let age = if request.method().is_idempotent() { MAX_IDLE } else { FRESH };
            let pooled = if reuse { upstream.pool.take(Instant::now(), age) } else { None };
            let reused = pooled.is_some();
            tried.push(upstream.session.identity.agent);
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
                Ok(connection) => Lease { connection: Some(connection), in_flight },
                Err(error) => {
                    tracing::debug!(link = %upstream.session.id, %error, "an agent gave no flow");
                    failed = Some(error.into());
                    continue;
                }
            };
            let spare = replay.then(|| copy(&request));
            let (error, unsent) = tokio::select! {
                sent = lease.send(request) => match sent {
                    Ok(response) => return Ok(response),
                    Err(failure) => failure,
                },
                () = self.elsewhere(&upstream, name, &tried), if replay => {
                    (SendError::Open(OpenFlowError::Lost("it does not answer".into())), None)
                }
            };
            tracing::debug!(link = %upstream.session.id, %error, reused, "a request failed before its response");
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
            failed = Some(error);
            if reused {
                reuse = false;
                tried.pop();
            }
        }
        Err(failed.unwrap_or_else(|| OpenFlowError::NoUpstream(name.endpoint.to_string()).into()))
    }

    /// Opens a flow for HTTP.
    async fn connect(&self, upstream: &Arc<Upstream>, name: &Name) -> Result<Connection, OpenFlowError> {
        let open = Open {
            endpoint: name.endpoint.clone(),
            tenant: None,
            kind: Kind::Http,
            hop: Hop::Final,
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
        upstream.session.flows.spawn(async move {
            // Whoever sends a request learns how it ends.
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(flow, %error, "an HTTP flow ended");
            }
            drop(hold);
        });
        upstream.pool.opened(flow);
        Ok(Connection { sender, flow })
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

/// A flow that carries one request. Unless it is given back, it is closed.
#[derive(Debug)]
struct Lease {
    connection: Option<Connection>,
    in_flight: InFlight,
}

impl Lease {
    /// Sends a request; when it was never sent, the error has it.
    async fn send(
        mut self,
        request: Request<Body>,
    ) -> Result<Response<ResponseBody>, (SendError, Option<Request<Body>>)> {
        let Some(connection) = &mut self.connection else {
            return Err((OpenFlowError::Lost("the flow is gone".into()).into(), Some(request)));
        };
        match connection.sender.try_send_request(request).await {
            Ok(response) => {
                let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                Ok(response.map(|body| ResponseBody::new(body, self, switching)))
            }
            Err(mut error) => {
                let unsent = error.take_message();
                let error = error.into_error();
                // What hyper calls a user's error is one of the request's body.
                let error = if error.is_user() { SendError::Body(error) } else { SendError::Broken(error) };
                Err((error, unsent))
            }
        }
    }

    /// The response is complete: the flow may carry the next request.
    fn give_back(mut self) {
        let Some(connection) = self.connection.take() else { return };
        let upstream = Arc::clone(&self.in_flight.0);
        if upstream.pool.give_back(Instant::now(), connection) {
            let tasks = upstream.session.flows.clone();
            tasks.spawn(async move {
                // Ends when nothing is idle; the next flow to become so starts another.
                while upstream.pool.sweep(Instant::now()) {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.in_flight.0.pool.gone(connection.flow);
        }
    }
}

/// Tells when it has ended, by being dropped or polled to its end.
struct Tracked {
    body: Body,
    _sent: oneshot::Sender<()>,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
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
