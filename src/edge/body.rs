//! The bodies of requests as hyper has them, and of responses: a service's, streamed, or one that adit made itself.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Version};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::{
    auth::Lapsed,
    upstream::{BoxError, ResponseBody},
};

/// A request's body.
#[derive(Debug)]
pub(super) struct Received {
    body: Incoming,
    version: Version,
}

impl Received {
    pub(super) fn new(request: Request<Incoming>) -> Request<Self> {
        let version = request.version();
        request.map(|body| Self { body, version })
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).map(|frame| frame.map_err(Into::into));
        // hyper takes a stream that is reset with NO_ERROR for one that has ended. Of a request it is half.
        if frame.is_none() && self.version == Version::HTTP_2 && !self.body.is_end_stream() {
            return Poll::Ready(Some(Err("the request's stream was reset".into())));
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

/// A response's body.
#[derive(Debug)]
pub(super) enum Body {
    /// From the service.
    Upstream(ResponseBody),
    /// From the service, for as long as what lets the client have it lasts.
    Lasting(Box<Lasting>),
    /// From adit.
    Full(Full<Bytes>),
}

/// A body that breaks off when something is over.
pub(super) struct Lasting {
    body: ResponseBody,
    lapsed: Pin<Box<dyn Future<Output = Lapsed> + Send>>,
}

impl std::fmt::Debug for Lasting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lasting").field("body", &self.body).finish_non_exhaustive()
    }
}

impl Body {
    pub(super) fn lasting(body: ResponseBody, lapsed: impl Future<Output = Lapsed> + Send + 'static) -> Self {
        Self::Lasting(Box::new(Lasting { body, lapsed: Box::pin(lapsed) }))
    }

    pub(super) fn full(text: String) -> Self {
        Self::Full(Full::new(text.into()))
    }

    pub(super) fn empty() -> Self {
        Self::Full(Full::default())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Upstream(body) => Pin::new(body).poll_frame(cx),
            Self::Lasting(lasting) => match lasting.lapsed.as_mut().poll(cx) {
                Poll::Ready(lapsed) => Poll::Ready(Some(Err(lapsed.into()))),
                Poll::Pending => Pin::new(&mut lasting.body).poll_frame(cx),
            },
            Self::Full(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upstream(body) => body.is_end_stream(),
            Self::Lasting(lasting) => lasting.body.is_end_stream(),
            Self::Full(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream(body) => body.size_hint(),
            Self::Lasting(lasting) => lasting.body.size_hint(),
            Self::Full(body) => body.size_hint(),
        }
    }
}
