//! One HTTP request to an agent's service: on a flow that is open, or on a new one, and again elsewhere where that is safe.
//!
//! The rules of retry, after RFC 9110 §9.2.2: what was never sent, or was refused unprocessed, may be sent elsewhere, whatever
//! it is; what may have been delivered is sent again only when the method is idempotent and there is no body that has been
//! consumed. So a POST is never sent twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Request, Response, header};
use http_body::Body as _;
use tokio::time::Instant;

use super::{
    body::{Body, BoxError, ResponseBody, track},
    client::Client,
    flow::{OpenFlowError, TRY},
    http1, http2,
    idle::{FRESH, MAX_IDLE},
    open::What,
    registry::{Name, Upstreams},
    service::{Tried, Upstream},
    trail::Trail,
};
use crate::{
    auth::Pace,
    protocol::{Hop, Kind, Open},
};

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No flow could be opened.
    #[error(transparent)]
    Open(#[from] OpenFlowError),
    /// The flow broke before the response began. Whether the service has seen the request is not known.
    #[error("the service broke off before it responded: {0}")]
    Broken(#[source] BoxError),
    /// The request was to switch protocols, which needs HTTP/1.1, and the service speaks HTTP/2.
    #[error(
        "the service speaks HTTP/2, and not HTTP/1.1 as a switch of protocols, such as to WebSocket, needs: {0}"
    )]
    Switch(#[source] BoxError),
    /// The request itself broke: its client went away or sent a malformed body.
    #[error("the request's body broke")]
    Body(#[source] BoxError),
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
    /// of the request's body on, where there is one. The body of the response may take as long as it likes. The agent's rate of
    /// bytes becomes part of the pace. The way that it takes is left on the trail, if there is one.
    ///
    /// # Errors
    /// See [`SendError`]. Cancel safe: a request that is dropped resets its flow or its stream.
    pub async fn send(
        &self,
        name: &Name,
        request: Request<Body>,
        client: Client,
        timeout: Option<Duration>,
        pace: &Pace,
        trail: Option<&Trail>,
    ) -> Result<Response<ResponseBody>, SendError> {
        let replay = can_replay(&request);
        let (request, track) = track(request);
        let deadline = async {
            let Some(timeout) = timeout else { return std::future::pending().await };
            drop(track.sent.await);
            tokio::time::sleep(timeout).await;
            timeout
        };
        tokio::select! {
            response = self.attempts(name, request, (client, pace), (replay, &track.broken), trail) => response,
            timeout = deadline => Err(SendError::Timeout(timeout)),
        }
    }

    async fn attempts(
        &self,
        name: &Name,
        mut request: Request<Body>,
        (client, pace): (Client, &Pace),
        (mut replay, broken): (bool, &AtomicBool),
        trail: Option<&Trail>,
    ) -> Result<Response<ResponseBody>, SendError> {
        let mut tried = Tried::default();
        let mut failed: Option<SendError> = None;
        // A flow that was open may have been closed by its service meanwhile, and a service that leaves processes no more
        // requests; neither says anything about the agent. Such a failure does not count against it, once: the next flow is
        // one that is opened after it.
        let mut after: Option<Instant> = None;
        let began = Instant::now();
        let mut until = None;
        loop {
            let Some(upstream) =
                self.choose(name, &tried).filter(|_| failed.is_none() || began.elapsed() < TRY)
            else {
                let passing = failed.as_ref().is_none_or(SendError::is_passing);
                if passing && self.gap(name, &mut until).await {
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
            // Pings tell within 1.5 s whether it is the link that does not answer.
            let _waiting = upstream.via.vitals().wait();
            tried.way(&upstream);
            if let Some(trail) = trail {
                trail.leads_request(&upstream, request.headers_mut());
            }
            let switching = request.headers().contains_key(header::UPGRADE);
            let age = if request.method().is_idempotent() { MAX_IDLE } else { FRESH };
            let lease = tokio::select! {
                lease = self.lease(&upstream, (client, pace), switching, age, after) => lease,
                () = self.elsewhere(&upstream, name, &tried) => Err(OpenFlowError::Lost("it does not answer".into())),
            };
            let (lease, reused) = match lease {
                Ok(lease) => lease,
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
                    Err((error, unsent)) => match blame(error, &upstream, broken) {
                        SendError::Broken(error) if switching && upstream.speaks_http2() => {
                            return Err(SendError::Switch(error));
                        }
                        error => (error, unsent),
                    },
                },
                () = self.elsewhere(&upstream, name, &tried), if replay => {
                    (SendError::Open(OpenFlowError::Lost("it does not answer".into())), None)
                }
            };
            tracing::debug!(via = %upstream.via, %error, reused, "a request failed before its response");
            let unprocessed = unsent.is_some();
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
            if after.is_none() && (reused || unprocessed) && !upstream.is_silent() {
                after = Some(Instant::now());
                tried.again();
            } else {
                tried.failed(&upstream, matches!(error, SendError::Broken(_)));
            }
            failed = Some(error);
        }
    }

    /// A way for one request, and whether it has carried others before: on a flow that is open, or on a new one. With
    /// `after`, the flow must have been opened since then. A service that is told whose each connection is gets the requests
    /// of one client's connection alone on each.
    async fn lease(
        &self,
        upstream: &Arc<Upstream>,
        (client, pace): (Client, &Pace),
        switching: bool,
        age: Duration,
        after: Option<Instant>,
    ) -> Result<(Lease, bool), OpenFlowError> {
        let in_flight = self.begin(upstream, pace, What::request(client.address, switching))?;
        // Most services that speak HTTP/2 switch protocols over HTTP/1.1 alone.
        if upstream.speaks_http2() && !switching {
            let place = self.place(upstream, client, in_flight, after).await?;
            let reused = place.reused;
            if reused {
                self.inner.counters.reused.inc();
            }
            return Ok((Lease::Http2(place), reused));
        }
        let idle = if after.is_none() {
            upstream.idle.take(Instant::now(), age, client.number, upstream.options.proxy_protocol)
        } else {
            None
        };
        let reused = idle.is_some();
        let connection = match idle {
            Some(connection) => {
                self.inner.counters.reused.inc();
                connection
            }
            None => self.connect(upstream, client).await?,
        };
        Ok((Lease::Http1(http1::Lease::new(connection, client.number, in_flight)), reused))
    }
}

/// A way for one request.
#[derive(Debug)]
enum Lease {
    /// A flow of its own.
    Http1(http1::Lease),
    /// A place among others on a connection.
    Http2(http2::Place),
}

impl Lease {
    /// Sends a request; when it was certainly not delivered, the error has it.
    async fn send(
        self,
        request: Request<Body>,
    ) -> Result<Response<ResponseBody>, (BoxError, Option<Request<Body>>)> {
        match self {
            Self::Http1(lease) => lease.send(request).await,
            Self::Http2(place) => place.send(request).await,
        }
    }
}

/// What opens a flow for requests: for those of one client where its service is told of it, else for everybody's.
pub(super) fn open(upstream: &Upstream, kind: Kind, client: Client) -> Open {
    let told = Some(client).filter(|_| upstream.options.proxy_protocol);
    Open {
        endpoint: upstream.name.endpoint.clone(),
        tenant: None,
        kind,
        hop: Hop::Final,
        agent: None,
        client: told.map(|client| client.address),
        server: told.and_then(|client| client.server),
        trace: None,
    }
}

/// Whose fault it is that a request got no response.
fn blame(error: BoxError, upstream: &Upstream, broken: &AtomicBool) -> SendError {
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
