//! A flow of HTTP whose requests are looked at: for the endpoint's door, for rewriting, for the access log, for the inspector,
//! for spans, or for a limit on the wait for responses.
//!
//! One flow is served over one connection of the service, so that its keep-alive, its order and its end stay those of the
//! service's connection. Driven by `agent` in the place of a plain splice, which is all that other flows get. Bodies stream
//! through it as they are: it neither decodes nor buffers them.

use std::{
    pin::{Pin, pin},
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{Either, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self as client, SendRequest},
    server::conn::http1 as server,
    service::service_fn,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Endpoint,
    access::Access,
    connection::Dialled,
    door::{self, Clients},
    inspect::{Inspected, Sending, Tap},
    metrics::Counters,
    rewrite::Rewrite,
    span::Spanned,
};
use crate::{
    auth::{self, Denied},
    client::Flow,
    net::Connection,
    protocol::EndpointId,
    splice::{Counts, Prefixed, splice},
    telemetry::{
        Tally,
        trace::{Hop, Tracer},
    },
};

/// How many fields a message may have: those of a client's request, at most 256, those that the node adds and those that
/// are set here.
pub(super) const FIELDS: usize = 512;

/// What is done with an endpoint's requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpOptions {
    /// Changes to their headers.
    pub rewrite: Rewrite,
    /// Whether each is told to the log.
    pub access_log: bool,
    /// How long the service has to begin its response, from the last byte of the request on. No limit when absent.
    pub response_timeout: Option<Duration>,
}

impl HttpOptions {
    /// Whether there is nothing to do, so that requests need not be looked at.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is done with requests that are looked at for the door alone.
static NOTHING: HttpOptions = HttpOptions {
    rewrite: Rewrite { strip: Vec::new(), set: Vec::new(), host: None },
    access_log: false,
    response_timeout: None,
};

/// Why a request that was let in gets no response of the service. But for one that is late, the flow is reset, so that the
/// node tells its client as of any service that breaks.
#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    #[error("the service broke off before it responded")]
    Service(#[from] hyper::Error),
    #[error("the service has not begun to respond within {0:?} of the request's end")]
    Late(Duration),
    #[error("the flow's last request got no response")]
    Over,
}

/// Serves a flow's requests over a connection of the service, until either has ended. A flow that is none of a link's carries
/// no request to switch protocols.
pub(super) async fn serve<F>(
    flow: F,
    clients: Clients,
    connection: Connection,
    served: &Endpoint,
    inspected: Option<Inspected>,
    tracer: &Tracer,
    counting: Option<(&Counters, &Tally)>,
) where
    F: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Endpoint { name: endpoint, door, http: options, .. } = served;
    let io = TokioIo::new(Dialled::new(connection, counting.map(|(_, tally)| tally.clone())));
    let (sender, connection) = match client::Builder::new().max_headers(FIELDS).handshake(io).await {
        Ok(ready) => ready,
        Err(error) => return tracing::debug!(%endpoint, %error, "a connection of the service cannot be used"),
    };
    let (closed, given_up) = (CancellationToken::new(), CancellationToken::new());
    let switched = Mutex::default();
    let exchanges = Exchanges {
        served,
        endpoint,
        door,
        inspected,
        tracer,
        clients,
        options: options.as_ref().unwrap_or(&NOTHING),
        sender: Mutex::new(Some(sender)),
        switched: &switched,
        given_up: &given_up,
        counters: counting.map(|(counters, _)| counters),
    };
    let service_side = async {
        tokio::select! {
            // Asked first: once a request is given up, hyper would end the connection as if all were well.
            biased;
            () = given_up.cancelled() => {}
            // Whoever sends a request learns how it ends.
            ended = connection.with_upgrades() => if let Err(error) = ended {
                tracing::debug!(%endpoint, %error, "a connection of the service broke");
            },
        }
        closed.cancel();
    };
    let flow_side = async {
        // With it goes the sender, and so the service's connection ends when the flow has.
        let exchanges = exchanges;
        let serve = service_fn(|request| exchanges.serve(request));
        let served = server::Builder::new()
            .max_headers(FIELDS)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(flow), serve)
            .with_upgrades();
        let mut served = pin!(served);
        let ended = tokio::select! {
            // A response that has come goes on as it is.
            biased;
            ended = served.as_mut() => ended,
            () = closed.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%endpoint, error = crate::telemetry::report(&error), "a flow broke");
            given_up.cancel();
        }
    };
    tokio::join!(flow_side, service_side);
    if let Some(switched) = take(&switched)
        && let Err(error) = switched.join().await
    {
        tracing::debug!(%endpoint, error = crate::telemetry::report(&*error), "an upgraded flow ended with an error");
    }
}

/// The requests of one flow.
struct Exchanges<'a> {
    served: &'a Endpoint,
    endpoint: &'a EndpointId,
    door: &'a auth::Access,
    inspected: Option<Inspected>,
    tracer: &'a Tracer,
    clients: Clients,
    options: &'a HttpOptions,
    /// Not there while a request waits for its response.
    sender: Mutex<Option<SendRequest<Sent>>>,
    switched: &'a Mutex<Option<Switched>>,
    /// Resets the service's connection.
    given_up: &'a CancellationToken,
    /// Where requests are counted.
    counters: Option<&'a Counters>,
}

impl Exchanges<'_> {
    async fn serve(&self, mut request: Request<Incoming>) -> Result<Response<Answer>, ExchangeError> {
        let began = Instant::now();
        let client = self.clients.client(request.headers());
        let denied = door::check_request(self.door, client, request.headers()).err();
        let span = Spanned::new(self.tracer.request(Hop::Agent, request.headers_mut()), self.served);
        // Who is refused is told in any case.
        let line = self.options.access_log || denied.is_some();
        let told = line || span.is_some();
        let mut access = told.then(|| Access::new(self.endpoint, client, &request, line, span));
        let mut tap = self.inspected.as_ref().map(|inspected| inspected.begin(self.served, client, &request));
        let flow = hyper::upgrade::on(&mut request);
        let has_body = !request.body().is_end_stream();
        let mut response = match denied {
            Some(denied) => self.deny(denied, has_body),
            None => match self.ask(request, tap.as_ref().map(Tap::sending)).await {
                Ok(response) => {
                    if let Some(counters) = self.counters {
                        counters.responded(response.status(), began.elapsed());
                    }
                    response.map(Either::Left)
                }
                Err(error @ ExchangeError::Late(_)) => self.give_up(&error),
                Err(error) => {
                    if let Some(tap) = &mut tap {
                        tap.fail(error.to_string());
                    }
                    return Err(error);
                }
            },
        };
        if let Some(tap) = &tap {
            tap.answered(&response, matches!(response.body(), Either::Right(_)));
        }
        if let Some(access) = &mut access {
            access.status = Some(response.status());
            access.denied = denied;
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let service = hyper::upgrade::on(&mut response);
            put(self.switched, Switched { flow, service, access: access.take(), tap: tap.take() });
        }
        if is_last(&response) {
            response.headers_mut().append(header::CONNECTION, HeaderValue::from_static("close"));
        }
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|body| Answer::new(body, access, tap)))
    }

    /// Passes a request on that the door has let in, without what was for the door.
    async fn ask(
        &self,
        mut request: Request<Incoming>,
        sending: Option<Sending>,
    ) -> Result<Response<Incoming>, ExchangeError> {
        let headers = request.headers_mut();
        for name in self.door.consumed() {
            headers.remove(name);
        }
        self.options.rewrite.apply(headers);
        self.send(request, sending).await
    }

    /// Sends a request and waits for the response's header.
    async fn send(
        &self,
        request: Request<Incoming>,
        sending: Option<Sending>,
    ) -> Result<Response<Incoming>, ExchangeError> {
        let mut sender = take(&self.sender).ok_or(ExchangeError::Over)?;
        let (sent, body_sent) = oneshot::channel();
        let request = request.map(|body| Sent { body, sending, _sent: sent });
        let responding = async {
            // The service may still be reading the last request, though it has answered that.
            sender.ready().await?;
            sender.send_request(request).await
        };
        let late = async {
            // It ends when the body does, or is dropped; nothing is ever sent on it.
            drop(body_sent.await);
            match self.options.response_timeout {
                Some(timeout) => {
                    tokio::time::sleep(timeout).await;
                    timeout
                }
                None => std::future::pending().await,
            }
        };
        let response = tokio::select! {
            response = responding => response?,
            waited = late => return Err(ExchangeError::Late(waited)),
        };
        put(&self.sender, sender);
        Ok(response)
    }

    /// Answers a request that is not let in. Nothing of it has gone to the service, whose connection stands; a body that is
    /// not read ends the flow.
    fn deny(&self, denied: Denied, has_body: bool) -> Response<Content> {
        if let Some(counters) = self.counters {
            counters.denied(denied);
        }
        let mut response = own(denied.status(), denied.code(), &denied, has_body);
        if let Some(challenge) = door::challenge(denied, self.endpoint) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }

    /// Answers in the place of the service, in the words of a node whose own time is over.
    fn give_up(&self, error: &ExchangeError) -> Response<Content> {
        self.given_up.cancel();
        tracing::debug!(endpoint = %self.endpoint, %error, "a request was given up");
        own(StatusCode::GATEWAY_TIMEOUT, "response_timeout", error, true)
    }
}

/// A response of the agent's own, perhaps the last of its flow.
fn own(status: StatusCode, code: &str, error: &dyn std::error::Error, last: bool) -> Response<Content> {
    let text = serde_json::json!({ "error": error.to_string(), "code": code }).to_string() + "\n";
    let length = text.len().into();
    let mut response = Response::new(Either::Right(Full::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, length);
    if last {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Held for an instant, never across an await.
fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn put<T>(slot: &Mutex<Option<T>>, value: T) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
}

/// Whether the service's connection ends with this response, of which the node must know: it would use the flow again.
fn is_last<B: http_body::Body>(response: &Response<B>) -> bool {
    let headers = response.headers();
    let framed =
        [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].iter().any(|name| headers.contains_key(name));
    let old = response.version() < Version::HTTP_11 && !connection_says(headers, "keep-alive");
    old || !framed && !response.body().is_end_stream()
}

fn connection_says(headers: &HeaderMap, token: &str) -> bool {
    let mut values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

/// A response's body: the service's, or one that the agent made.
type Content = Either<Incoming, Full<Bytes>>;

/// A request's body; it is dropped when all of it has been sent.
struct Sent {
    body: Incoming,
    sending: Option<Sending>,
    _sent: oneshot::Sender<()>,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { body, sending, .. } = &mut *self;
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        if let Some(sending) = sending {
            if let Some(data) = data_of(&frame) {
                sending.send(data);
            }
            if is_last_of_body(&frame) || body.is_end_stream() {
                sending.complete();
            }
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

/// What a frame of a body has of its content.
fn data_of<E>(frame: &Option<Result<Frame<Bytes>, E>>) -> Option<&Bytes> {
    frame.as_ref()?.as_ref().ok()?.data_ref()
}

/// Whether nothing comes behind it, for which nobody may ask.
fn is_last_of_body<E>(frame: &Option<Result<Frame<Bytes>, E>>) -> bool {
    match frame {
        Some(Ok(frame)) => frame.is_trailers(),
        Some(Err(_)) => false,
        None => true,
    }
}

/// A response's body on its way to the node, with what is to be told of it.
struct Answer {
    body: Content,
    access: Option<Access>,
    tap: Option<Tap>,
}

impl Answer {
    fn new(body: Content, access: Option<Access>, tap: Option<Tap>) -> Self {
        let mut answer = Self { body, access, tap };
        answer.note(&[], false);
        answer
    }

    /// Some of the body has gone by, and perhaps its end.
    fn note(&mut self, data: &[u8], ended: bool) {
        let ended = ended || self.body.is_end_stream();
        if let Some(access) = &mut self.access {
            access.bytes += data.len() as u64;
            access.complete |= ended;
        }
        if let Some(tap) = &mut self.tap {
            tap.receive(data);
            if ended {
                tap.complete();
            }
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = <Content as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Err(_)) = frame {
            if let Some(tap) = &mut self.tap {
                tap.fail("the service broke off in the middle of its response");
            }
        } else {
            self.note(data_of(&frame).map_or(&[], |data| data), is_last_of_body(&frame));
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

/// Both sides of an exchange that has switched protocols (RFC 9110 §7.8).
struct Switched {
    flow: OnUpgrade,
    service: OnUpgrade,
    access: Option<Access>,
    tap: Option<Tap>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Switched {
    /// Joins them.
    async fn join(mut self) -> Result<(), BoxError> {
        let (flow, service) = tokio::try_join!(self.flow, self.service)?;
        let flow = flow.downcast::<TokioIo<Flow>>().map_err(unexpected)?;
        let service = service.downcast::<TokioIo<Dialled>>().map_err(unexpected)?;
        let flow = Prefixed { prefix: flow.read_buf, side: flow.io.into_inner() };
        let service = Prefixed { prefix: service.read_buf, side: service.io.into_inner() };
        let counts = Counts::default();
        let joined = splice(flow, service, &counts).await;
        if let Some(access) = &mut self.access {
            access.bytes = counts.right_to_left();
            access.complete = joined.is_ok();
        }
        if let Some(tap) = &mut self.tap {
            tap.carried(counts.left_to_right(), counts.right_to_left());
            match &joined {
                Ok(()) => tap.complete(),
                Err(broken) => tap.fail(broken.to_string()),
            }
        }
        Ok(joined?)
    }
}

fn unexpected(_: Upgraded) -> BoxError {
    "an upgraded connection is not of the kind that was served".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_told_when_the_services_connection_ends_with_a_response() {
        let last = |version, fields: &[(&'static str, &'static str)], body: &'static str| {
            let mut response = Response::new(Full::<Bytes>::from(body));
            *response.version_mut() = version;
            for (name, value) in fields {
                response.headers_mut().append(*name, HeaderValue::from_static(value));
            }
            is_last(&response)
        };
        let (new, old) = (Version::HTTP_11, Version::HTTP_10);
        assert!(!last(new, &[("content-length", "2")], "ok"));
        assert!(!last(new, &[("transfer-encoding", "chunked")], "ok"));
        assert!(!last(new, &[], ""), "204 and 304 are not framed");
        assert!(last(new, &[], "until the end"));
        assert!(last(old, &[("content-length", "2")], "ok"));
        assert!(!last(old, &[("content-length", "2"), ("connection", "X-A, Keep-Alive")], "ok"));
        assert!(last(old, &[("connection", "keep-alive")], "until the end"));
    }
}
