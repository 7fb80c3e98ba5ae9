//! One request over a connection of HTTP/2 that others share: opening the connection, sending the request on a stream of its
//! own, and the bodies of both directions.
//!
//! It uses h2 and not hyper's client above it, which does not say which requests were refused unprocessed, takes more
//! requests than the service allows and lets them wait, and takes a stream that is reset without an error for a complete
//! one. A request that is given up resets its stream and nothing else.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::poll_fn};
use h2::{
    Reason, RecvStream,
    client::{Builder, Connection, SendRequest},
};
use http::{
    HeaderName, Request, Response, StatusCode, Uri,
    header::{CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE},
    request,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::{Body as _, Frame, SizeHint};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use super::{
    body::{self, Body, BoxError, Expectation},
    client::Client,
    flow::{OpenFlowError, SHUN_REFUSED},
    http::open,
    registry::{Name, Upstreams},
    service::{InFlight, Upstream},
    shared::{Found, Handle, Outcome, STREAMS},
    upload::{Failure, Upload},
};
use crate::{
    protocol::{Code, Kind, Refusal},
    transport::Stream,
};

/// How much of a response may be under way, in bytes: 100 ms at 160 Mbit/s. A client that does not read its response costs
/// so much memory.
const WINDOW: u32 = 2 << 20;

/// The same for a connection: with a full window for each of its streams, such clients never hold up others.
const CONNECTION_WINDOW: u32 = WINDOW * STREAMS as u32;

/// The most bytes of a response's header fields, and of its trailers.
const MAX_FIELDS: u32 = 256 * 1024;

/// Streams that were given up are remembered so long and so many, for what was under way on them to be ignored. What comes
/// for a forgotten one is answered by a reset, and a connection with too many of those is closed, for all who use it.
const REMEMBER: Duration = Duration::from_secs(10);
const REMEMBERED: usize = 4096;
const MAX_LATE: usize = 65_536;

/// How long a service has to begin HTTP/2 on a new connection.
const BEGIN: Duration = Duration::from_secs(5);

/// How long a connection that nobody uses has for its goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// How long a request looks for a place: connections may fill or end as fast as they are opened.
const PLACE: Duration = Duration::from_secs(10);

/// Fields that mean nothing in HTTP/2, and make a message malformed (RFC 9113 §8.2.2).
pub(super) const NOT_IN_HTTP_2: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

impl Upstreams {
    /// Finds a place for a request on a connection, or opens one.
    pub(super) async fn place(
        &self,
        upstream: &Arc<Upstream>,
        client: Client,
        in_flight: InFlight,
        after: Option<Instant>,
    ) -> Result<Place, OpenFlowError> {
        let until = Instant::now() + PLACE;
        let owner = upstream.owner(client);
        loop {
            let mut outcome = match upstream.shared.find(owner, after) {
                Found::Place(handle, reused) => {
                    let scheme = if upstream.kind == Kind::Http2Tls { Scheme::HTTPS } else { Scheme::HTTP };
                    return Ok(Place { handle, in_flight, reused, scheme, waiting: None });
                }
                Found::Opening(outcome) => outcome,
                Found::Nothing(tell) => {
                    let outcome = tell.subscribe();
                    // Others wait for it as well, so it does not depend on this request's client.
                    let opening = self.clone().share(Arc::clone(upstream), client, tell);
                    upstream.via.flows().spawn(opening);
                    outcome
                }
            };
            match outcome.wait_for(Option::is_some).await {
                Err(_) => return Err(OpenFlowError::Lost("its link ended".into())),
                Ok(outcome) => {
                    if let Some(Err(error)) = &*outcome {
                        return Err(error.clone());
                    }
                }
            }
            if Instant::now() > until {
                return Err(OpenFlowError::Busy);
            }
        }
    }

    /// Opens a connection for those who wait for it, and keeps it until it ends.
    async fn share(self, upstream: Arc<Upstream>, client: Client, tell: watch::Sender<Outcome>) {
        let (mut connection, sender, flow, hold) = match self.begin_http2(&upstream, client).await {
            Ok(begun) => begun,
            Err(error) => {
                tell.send_replace(Some(Err(error)));
                return;
            }
        };
        let unused = CancellationToken::new();
        let handle = Handle { sender, flow, _last: Arc::new(unused.clone().drop_guard()) };
        let owner = upstream.owner(client);
        upstream.shared.opened(handle, owner, Instant::now());
        tell.send_replace(Some(Ok(())));
        drop(tell);
        let unused = async {
            while let Some(again) = upstream.shared.look(flow, Instant::now()) {
                tokio::time::sleep_until(again).await;
            }
            unused.cancelled().await;
        };
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = unused => tokio::time::timeout(GOODBYE, &mut connection).await.unwrap_or(Ok(())),
        };
        // Whoever has a stream on it learns how that ends.
        if let Err(error) = ended {
            tracing::debug!(flow, %error, "an HTTP/2 flow ended");
        }
        drop(hold);
    }

    /// Opens a flow and waits until the service has begun HTTP/2 on it.
    async fn begin_http2(&self, upstream: &Arc<Upstream>, client: Client) -> Result<Begun, OpenFlowError> {
        let (stream, hold) = self.open_at(upstream, open(upstream, upstream.kind, client)).await?;
        let flow = stream.id();
        let begin = async {
            let (sender, mut connection) = Builder::new()
                .enable_push(false)
                .initial_window_size(WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(MAX_FIELDS)
                .initial_max_send_streams(UNKNOWN)
                .reset_stream_duration(REMEMBER)
                .max_concurrent_reset_streams(REMEMBERED)
                .max_local_error_reset_streams(Some(MAX_LATE))
                .handshake(stream)
                .await?;
            // Its SETTINGS say how many requests it takes (RFC 9113 §3.4), and that it is HTTP/2 which it speaks.
            poll_fn(|cx| match connection.poll_unpin(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(BoxError::from(error))),
                Poll::Ready(Ok(())) => Poll::Ready(Err("it closed the connection".into())),
                Poll::Pending if connection.max_concurrent_send_streams() == UNKNOWN => Poll::Pending,
                Poll::Pending => Poll::Ready(Ok(())),
            })
            .await?;
            Ok::<_, BoxError>((connection, sender, flow, hold))
        };
        let (code, why) = match tokio::time::timeout(BEGIN, begin).await {
            Ok(Ok(begun)) => return Ok(begun),
            Ok(Err(error)) => match upstream.via.link().lost() {
                Some(lost) => return Err(OpenFlowError::Lost(lost.to_string())),
                None => (Code::UpstreamUnreachable, error.to_string()),
            },
            Err(_) => (Code::UpstreamTimeout, format!("it has said nothing for {BEGIN:?}")),
        };
        self.shun(upstream, SHUN_REFUSED);
        Err(Refusal::new(code, format!("the service does not speak HTTP/2: {why}")).into())
    }
}

/// A connection that can be used, its flow, and what keeps that counted.
type Begun = (Connection<Stream, Bytes>, SendRequest<Bytes>, u64, TaskTrackerToken);

/// How many requests a service takes before it has said so: a number that it cannot say.
const UNKNOWN: usize = usize::MAX - 1;

/// A place for one request on a connection.
#[derive(Debug)]
pub(super) struct Place {
    handle: Handle,
    in_flight: InFlight,
    /// Whether the connection has carried requests before.
    pub(super) reused: bool,
    scheme: Scheme,
    /// Since when it waits for a response.
    waiting: Option<Instant>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.in_flight.upstream.shared.leave(self.handle.flow, Instant::now(), self.waiting);
    }
}

impl Place {
    /// Sends a request; when it was certainly not processed, the error has it (RFC 9113 §8.7).
    pub(super) async fn send(
        mut self,
        request: Request<Body>,
    ) -> Result<Response<body::ResponseBody>, (BoxError, Option<Request<Body>>)> {
        let (parts, body) = request.into_parts();
        let sent = match head(&parts, self.scheme.clone(), &self.in_flight.upstream.name) {
            Ok(sent) => sent,
            Err(error) => return Err((error.into(), None)),
        };
        let mut sender = self.handle.sender.clone();
        let (mut response, stream) = match sender.send_request(sent, body.is_end_stream()) {
            Ok(sent) => sent,
            Err(error) => {
                self.retire();
                return Err((error.into(), Some(Request::from_parts(parts, body))));
            }
        };
        self.waiting = Some(Instant::now());
        let mut upload = Upload::new(body, stream);
        let expectation = parts.extensions.get::<Expectation>();
        let response = poll_fn(|cx| {
            while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
                if let Some(expectation) = expectation
                    && interim.status() == StatusCode::CONTINUE
                {
                    expectation.go_on();
                }
            }
            if let Poll::Ready(response) = response.poll_unpin(cx) {
                return Poll::Ready(response.map_err(Failure::Stream));
            }
            match upload.poll_unpin(cx) {
                // How the stream ended is told by the response.
                Poll::Pending | Poll::Ready(Ok(()) | Err(Failure::Stream(_))) => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            }
        })
        .await;
        match response {
            Ok(response) => {
                self.waiting = None;
                self.in_flight.upstream.shared.heard(self.handle.flow, Instant::now());
                let unwanted = expectation.is_some_and(Expectation::responded);
                let upload = Some(upload).filter(|upload| !upload.ended && !unwanted);
                Ok(response.map(|body| ResponseBody::new(body, self, upload).into()))
            }
            Err(Failure::Stream(error)) if is_unprocessed(&error) => {
                self.retire();
                let unsent = upload.take_back().map(|body| Request::from_parts(parts, body));
                Err((error.into(), unsent))
            }
            Err(Failure::Stream(error)) => Err((error.into(), None)),
            Err(Failure::Body(error)) => Err((error, None)),
        }
    }

    /// Lets no further request on the connection.
    fn retire(&self) {
        self.in_flight.upstream.shared.retire(&[self.handle.flow]);
    }
}

/// A request's head as HTTP/2 has it (RFC 9113 §8.3.1).
fn head(parts: &request::Parts, scheme: Scheme, name: &Name) -> Result<Request<()>, http::Error> {
    let mut headers = parts.headers.clone();
    // One of HTTP/1.0 need not name a host, and an empty one is none.
    let authority = match headers.remove(HOST).filter(|host| !host.is_empty()) {
        Some(host) => Authority::try_from(host.as_bytes())?,
        None => Authority::try_from(name.endpoint.to_string())?,
    };
    for field in &NOT_IN_HTTP_2 {
        headers.remove(field);
    }
    let target = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(target).build()?;
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Whether a request that failed was not processed at all: its stream was refused, or is above the last one that the service
/// says goodbye for.
fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

/// The error of a response's stream, which the edge passes on as it is. One that says that there is none would look like a
/// clean end there, which it is only behind a complete response (RFC 9113 §8.1).
fn broken(error: h2::Error) -> h2::Error {
    if error.reason() == Some(Reason::NO_ERROR) { Reason::INTERNAL_ERROR.into() } else { error }
}

/// A response's body. Dropped before its end, it resets the stream, once the request's body has ended as well.
#[derive(Debug)]
pub(super) struct ResponseBody {
    stream: RecvStream,
    data_ended: bool,
    /// Not there after the end.
    place: Option<Arc<Place>>,
}

impl ResponseBody {
    fn new(stream: RecvStream, place: Place, upload: Option<Upload>) -> Self {
        let place = Arc::new(place);
        let mut this = Self { stream, data_ended: false, place: Some(Arc::clone(&place)) };
        if let Some(mut upload) = upload {
            upload.forget();
            // It need not wait for whoever reads the response, and may outlast that.
            place.in_flight.upstream.via.flows().clone().spawn(async move {
                // How it ended is told by the response.
                drop(upload.await);
                drop(place);
            });
        }
        this.finish();
        this
    }

    /// Leaves the place to others when the response is there.
    fn finish(&mut self) {
        if self.stream.is_end_stream() {
            self.place = None;
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // An error says that the stream is gone, as the next frame does.
                    self.stream.flow_control().release_capacity(data.len()).ok();
                    self.finish();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(broken(error)))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).map_err(broken)?;
        self.finish();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // The length, where there is one, stands in the header fields.
        SizeHint::default()
    }
}
