//! The bodies of requests on their way to a service, and of responses on their way back.

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
use http::{Request, header};
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::{oneshot, watch};

use super::{
    http1::{self, Upgrade},
    http2,
};

/// How long a body that was announced with `Expect: 100-continue` is held back for a service that asks for it. Many never
/// do, and clients send it by themselves after a while (RFC 9110 §10.1.1).
const EXPECT: Duration = Duration::from_secs(1);

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body on its way to a service.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Whether a body that was announced with `Expect: 100-continue` is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Unknown,
    Yes,
    No,
}

/// Says whether a request's body is wanted, by which it is held back until then. It travels in the request's extensions.
#[derive(Debug, Clone)]
pub(super) struct Expectation(Arc<watch::Sender<Wanted>>);

impl Expectation {
    fn answer(&self, answer: Wanted) -> bool {
        self.0.send_if_modified(|wanted| {
            let unknown = *wanted == Wanted::Unknown;
            if unknown {
                *wanted = answer;
            }
            unknown
        })
    }

    /// The service has asked for the body.
    pub(super) fn go_on(&self) {
        self.answer(Wanted::Yes);
    }

    /// The service has responded. True when that was in place of asking: the request is never completed.
    pub(super) fn responded(&self) -> bool {
        self.answer(Wanted::No)
    }

    /// Waits until it is known whether the body is wanted, or time is up.
    async fn wanted(self) -> Wanted {
        let mut wanted = self.0.subscribe();
        // It is this that keeps the sender, so only the time can end the wait.
        drop(tokio::time::timeout(EXPECT, wanted.wait_for(|wanted| *wanted != Wanted::Unknown)).await);
        self.go_on();
        *wanted.borrow()
    }
}

/// What is known of a request's body from outside.
#[derive(Debug)]
pub(super) struct Track {
    /// Ends when the body does, or is dropped; nothing is ever sent on it.
    pub(super) sent: oneshot::Receiver<()>,
    /// Whether the body itself broke.
    pub(super) broken: Arc<AtomicBool>,
}

/// A request's body that tells when it has ended, by being dropped, and whether it broke.
struct Tracked {
    body: Body,
    broken: Arc<AtomicBool>,
    /// Until which it is held back.
    held: Option<Held>,
    _sent: oneshot::Sender<()>,
}

type Held = Pin<Box<dyn Future<Output = Wanted> + Send>>;

/// Tracks a request's body.
pub(super) fn track(mut request: Request<Body>) -> (Request<Body>, Track) {
    let (sent, ended) = oneshot::channel();
    let track = Track { sent: ended, broken: Arc::default() };
    let broken = Arc::clone(&track.broken);
    let expects = request.headers().get(header::EXPECT).is_some_and(|expect| {
        // The only expectation that there is (RFC 9110 §10.1.1).
        expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    });
    let held = expects.then(|| {
        let expectation = Expectation(Arc::new(watch::Sender::new(Wanted::Unknown)));
        request.extensions_mut().insert(expectation.clone());
        Box::pin(expectation.wanted()) as Held
    });
    (request.map(|body| Body::new(Tracked { body, broken, held, _sent: sent })), track)
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(held) = &mut self.held {
            match ready!(held.as_mut().poll(cx)) {
                Wanted::No => {
                    // The client learns by this that nobody reads it. It has no end, which would make the request complete.
                    self.body = Body::default();
                    self.held = Some(Box::pin(std::future::pending()));
                    return Poll::Pending;
                }
                Wanted::Yes | Wanted::Unknown => self.held = None,
            }
        }
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

/// A response's body on its way to the client. Dropped before its end, it lets the service know, so that it stops.
#[derive(Debug)]
pub struct ResponseBody(Inner);

#[derive(Debug)]
enum Inner {
    Http1(http1::ResponseBody),
    Http2(http2::ResponseBody),
}

impl From<http1::ResponseBody> for ResponseBody {
    fn from(body: http1::ResponseBody) -> Self {
        Self(Inner::Http1(body))
    }
}

impl From<http2::ResponseBody> for ResponseBody {
    fn from(body: http2::ResponseBody) -> Self {
        Self(Inner::Http2(body))
    }
}

impl ResponseBody {
    /// Keeps the flow counted after it has switched protocols (RFC 9110 §7.8).
    pub fn into_upgrade(self) -> Option<Upgrade> {
        match self.0 {
            Inner::Http1(body) => body.into_upgrade(),
            Inner::Http2(_) => None,
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().0 {
            Inner::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Inner::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Http1(body) => body.is_end_stream(),
            Inner::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Http1(body) => body.size_hint(),
            Inner::Http2(body) => body.size_hint(),
        }
    }
}
