//! The bodies of responses: a service's, streamed, or one that adit made itself.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::Full;

use crate::upstream::{BoxError, ResponseBody};

/// A response's body.
#[derive(Debug)]
pub(super) enum Body {
    /// From the service.
    Upstream(ResponseBody),
    /// From adit.
    Full(Full<Bytes>),
}

impl Body {
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
            Self::Full(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upstream(body) => body.is_end_stream(),
            Self::Full(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream(body) => body.size_hint(),
            Self::Full(body) => body.size_hint(),
        }
    }
}
