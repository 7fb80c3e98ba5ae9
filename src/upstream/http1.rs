//! One request over a flow of HTTP/1.1, which carries no other meanwhile.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::{
    body::{self, Body, BoxError, Expectation},
    client::{Client, logs_in},
    flow::OpenFlowError,
    http::open,
    idle::{Connection, GivenUp},
    registry::Upstreams,
    service::{InFlight, Upstream},
};
use crate::protocol::Kind;

/// How many fields a response may have; hyper allows 100 otherwise.
const FIELDS: usize = 256;

impl Upstreams {
    /// Opens a flow for requests of HTTP/1.1.
    pub(super) async fn connect(
        &self,
        upstream: &Arc<Upstream>,
        client: Client,
    ) -> Result<Connection, OpenFlowError> {
        let (stream, hold) = self.open_at(upstream, open(upstream, Kind::Http, client)).await?;
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
                upstream.idle.gone(flow);
                drop(hold);
            }
        };
        upstream.via.flows().spawn(connection);
        upstream.idle.opened(flow);
        let owner = upstream.owner(client);
        Ok(Connection { sender, flow, owner, given_up })
    }
}

/// A flow that carries one request. Unless it is given back, it is reset.
#[derive(Debug)]
pub(super) struct Lease {
    connection: Connection,
    /// The client's connection that the request came by.
    client: u64,
    in_flight: InFlight,
    /// Its request has been responded to and is never completed.
    spent: bool,
}

impl Lease {
    pub(super) fn new(connection: Connection, client: u64, in_flight: InFlight) -> Self {
        Self { connection, client, in_flight, spent: false }
    }

    /// Sends a request; when it was never sent, the error has it.
    pub(super) async fn send(
        mut self,
        mut request: Request<Body>,
    ) -> Result<Response<body::ResponseBody>, (BoxError, Option<Request<Body>>)> {
        let expectation = request.extensions().get::<Expectation>().cloned();
        if let Some(expectation) = expectation.clone() {
            hyper::ext::on_informational(&mut request, move |interim| {
                if interim.status() == StatusCode::CONTINUE {
                    expectation.go_on();
                }
            });
        }
        let begun = logs_in(request.headers());
        match self.connection.sender.try_send_request(request).await {
            Ok(response) => {
                if begun || logs_in(response.headers()) {
                    self.connection.owner = Some(self.client);
                }
                let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                self.spent = expectation.is_some_and(|expectation| expectation.responded());
                Ok(response.map(|body| ResponseBody::new(body, self, switching).into()))
            }
            Err(mut error) => {
                let unsent = error.take_message();
                Err((error.into_error().into(), unsent))
            }
        }
    }

    /// The response is complete: the flow may carry the next request.
    fn give_back(self) {
        let Self { connection, client: _, in_flight, spent } = self;
        if spent {
            return;
        }
        let upstream = Arc::clone(&in_flight.upstream);
        if upstream.idle.give_back(Instant::now(), connection) {
            let tasks = upstream.via.flows().clone();
            tasks.spawn(async move {
                // Ends when nothing is idle; the next flow to become so starts another.
                while upstream.idle.sweep(Instant::now()) {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
    }
}

/// A response's body. Read to its end, it gives its flow back; dropped before, it resets it.
#[derive(Debug)]
pub(super) struct ResponseBody {
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

    pub(super) fn into_upgrade(self) -> Option<Upgrade> {
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
