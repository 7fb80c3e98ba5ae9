//! A request's body on its stream of HTTP/2, at the pace of the service, and kept for a while in case that it has to be sent
//! again.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use h2::{Reason, SendStream};
use http::{
    HeaderMap,
    header::{HOST, TE},
};
use http_body::{Body as _, Frame};
use http_body_util::{BodyStream, StreamBody};

use super::{
    body::{Body, BoxError},
    http2::NOT_IN_HTTP_2,
};

/// How much of a request's body is kept until its response begins, in bytes, so that it can be sent again if the service
/// refuses it unprocessed.
const KEEP: usize = 64 * 1024;

/// Why a request's body does not go on.
pub(super) enum Failure {
    /// Its stream has ended, on the other side or with the connection.
    Stream(h2::Error),
    /// The body broke.
    Body(BoxError),
}

/// A request's body on its way to the service.
pub(super) struct Upload {
    body: Body,
    stream: SendStream<Bytes>,
    /// What waits for room.
    chunk: Option<Bytes>,
    pub(super) ended: bool,
    /// What has been taken from the body, as long as it may have to be sent again.
    kept: Option<Kept>,
}

#[derive(Default)]
struct Kept {
    data: Vec<Bytes>,
    size: usize,
    trailers: Option<HeaderMap>,
    /// Whether there is more in the body.
    whole: bool,
}

impl Upload {
    pub(super) fn new(body: Body, stream: SendStream<Bytes>) -> Self {
        let ended = body.is_end_stream();
        let kept = Some(Kept { whole: ended, ..Kept::default() });
        let mut this = Self { body, stream, chunk: None, ended, kept };
        if ended {
            this.end();
        }
        this
    }

    /// Keeps nothing more: the request is being processed.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// Lets go of the body, whose end others wait for.
    fn end(&mut self) {
        self.ended = true;
        self.body = Body::default();
    }

    /// The body as it was, if all that has been taken from it was kept.
    pub(super) fn take_back(self) -> Option<Body> {
        let kept = self.kept?;
        let trailers = kept.trailers.map(Frame::trailers);
        let taken: Vec<_> = kept.data.into_iter().map(Frame::data).chain(trailers).map(Ok).collect();
        Some(match (taken.is_empty(), kept.whole) {
            (true, _) => self.body,
            (false, true) => Body::new(StreamBody::new(stream::iter(taken))),
            (false, false) => {
                Body::new(StreamBody::new(stream::iter(taken).chain(BodyStream::new(self.body))))
            }
        })
    }

    /// Takes what comes next from the body, and keeps it as well.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let next = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(kept) = &mut self.kept {
            kept.whole = next.is_none() || self.body.is_end_stream();
            if let Some(Ok(frame)) = &next {
                if let Some(data) = frame.data_ref() {
                    // A piece costs something however small it is.
                    kept.size += data.len() + size_of::<Bytes>();
                    kept.data.push(data.clone());
                }
                kept.trailers = frame.trailers_ref().cloned();
            }
            if kept.size > KEEP {
                self.kept = None;
            }
        }
        Poll::Ready(next.map(|next| next.map_err(Failure::Body)))
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            // The service may end the stream while there is nothing to send.
            if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                return Poll::Ready(Err(Failure::Stream(reset.map_or_else(|error| error, Into::into))));
            }
            if let Some(chunk) = &self.chunk {
                while !chunk.is_empty() && self.stream.capacity() == 0 {
                    match ready!(self.stream.poll_capacity(cx)) {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Poll::Ready(Err(Failure::Stream(error))),
                        // It has ended, as sending tells.
                        None => break,
                    }
                }
            }
            if let Some(chunk) = self.chunk.take() {
                let last = self.body.is_end_stream();
                self.stream.send_data(chunk, last).map_err(Failure::Stream)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            let Some(frame) = ready!(self.poll_next(cx)).transpose()? else {
                let sent = self.stream.send_data(Bytes::new(), true);
                return Poll::Ready(sent.map_err(Failure::Stream));
            };
            match frame.into_data() {
                Ok(data) => {
                    // Room is asked for once there is something to send, since other streams lack it as long as it is kept.
                    self.stream.reserve_capacity(1);
                    self.chunk = Some(data);
                }
                Err(frame) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    for field in NOT_IN_HTTP_2.iter().chain([&HOST, &TE]) {
                        trailers.remove(field);
                    }
                    return Poll::Ready(self.stream.send_trailers(trailers).map_err(Failure::Stream));
                }
            }
        }
    }
}

impl Future for Upload {
    type Output = Result<(), Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let end = ready!(self.poll_all(cx));
        self.end();
        if let Err(Failure::Body(_)) = end {
            self.stream.send_reset(Reason::CANCEL);
        }
        Poll::Ready(end)
    }
}
