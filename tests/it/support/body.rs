//! Bodies, of requests and of responses.

use std::{convert::Infallible, io, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::{ok, soon};

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A whole body.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Body::new(Full::new(bytes.into()).map_err(|never: Infallible| match never {}))
}

/// Sends a body piece by piece. Dropping it ends the body well.
#[derive(Debug, Clone)]
pub(crate) struct Sender(mpsc::Sender<io::Result<Frame<Bytes>>>);

impl Sender {
    pub(crate) async fn data(&self, bytes: impl Into<Bytes>) {
        assert!(self.try_data(bytes).await, "somebody reads the body");
    }

    /// False when nobody reads the body any more.
    pub(crate) async fn try_data(&self, bytes: impl Into<Bytes>) -> bool {
        self.0.send(Ok(Frame::data(bytes.into()))).await.is_ok()
    }

    pub(crate) async fn trailers(self, fields: http::HeaderMap) {
        ok(self.0.send(Ok(Frame::trailers(fields))).await);
    }

    /// Breaks the body off.
    pub(crate) async fn fail(self) {
        ok(self.0.send(Err(io::Error::other("broken off on purpose"))).await);
    }
}

/// A body that is sent piece by piece, one piece at a time.
pub(crate) fn channel() -> (Sender, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<_>| {
        receiver.recv().await.map(|frame| (frame, receiver))
    });
    (Sender(sender), Body::new(StreamBody::new(frames)))
}

/// The same piece again and again, a while before each.
pub(crate) fn trickle(count: u32, every: Duration, piece: impl Into<Bytes>) -> Body {
    let piece = piece.into();
    let frames = stream::unfold(0, move |sent| {
        let piece = piece.clone();
        async move {
            if sent == count {
                return None;
            }
            tokio::time::sleep(every).await;
            Some((Ok(Frame::data(piece)), sent + 1))
        }
    });
    Body::new(StreamBody::new(frames))
}

/// The next piece of a body, or its end.
pub(crate) async fn next<B>(body: &mut B) -> Option<Result<Bytes, B::Error>>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    loop {
        match soon(body.frame()).await?.map(|frame| frame.into_data().unwrap_or_default()) {
            Ok(piece) if piece.is_empty() => {}
            piece => return Some(piece),
        }
    }
}
