//! The body of an HTTP/3 request, as `http-body` wants it.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes};
use h3::{error::StreamError, server::RequestStream};
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::{Frame, SizeHint};

use super::quic::RecvStream;

/// What a client sends behind a request's head.
pub(super) struct RequestBody {
    stream: RequestStream<RecvStream, Bytes>,
    /// How many bytes are to come, where the request says so.
    left: Option<u64>,
    state: State,
    /// What came with the head.
    first: Option<Frame<Bytes>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Ended,
}

/// Why a request is malformed (RFC 9114 §4.1.2).
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("content-length is no single number")]
    Length,
    #[error("the body has not the length that content-length announced")]
    Mismatch,
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl RequestBody {
    /// The body of a request with these header fields.
    ///
    /// # Errors
    /// When they announce more than one length, or none that is a number.
    pub(super) fn new(
        stream: RequestStream<RecvStream, Bytes>,
        headers: &HeaderMap,
    ) -> Result<Self, BodyError> {
        let mut body = Self { stream, left: length(headers)?, state: State::Data, first: None };
        // A request without a body says so by the end of its stream, which has come with the head as a rule. Whoever passes
        // the request on wants to know that.
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Some(frame)) = body.poll(&mut cx) {
            body.first = Some(frame?);
        }
        Ok(body)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.state == State::Data {
            if let Some(mut data) = ready!(self.stream.poll_recv_data(cx))? {
                let data = data.copy_to_bytes(data.remaining());
                if let Some(left) = &mut self.left {
                    *left = left.checked_sub(data.len() as u64).ok_or(BodyError::Mismatch)?;
                }
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            self.state = State::Trailers;
        }
        if self.state == State::Trailers {
            let trailers = ready!(self.stream.poll_recv_trailers(cx))?;
            self.state = State::Ended;
            if self.left.is_some_and(|left| left > 0) {
                return Poll::Ready(Some(Err(BodyError::Mismatch)));
            }
            if let Some(trailers) = trailers {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        }
        Poll::Ready(None)
    }
}

/// The length that a request announces (RFC 9110 §8.6).
fn length(headers: &HeaderMap) -> Result<Option<u64>, BodyError> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(None) };
    if lengths.any(|other| other != length) {
        return Err(BodyError::Length);
    }
    // A sign, which `parse` would take, is no digit.
    let digits = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).map(Some).ok_or(BodyError::Length)
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => self.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Ended && self.first.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
        self.left.map_or_else(SizeHint::default, |left| SizeHint::with_exact(left.saturating_add(first)))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_length_is_one_number_without_a_sign() {
        let of = |values: &[&'static str]| {
            let fields = values.iter().map(|value| (CONTENT_LENGTH, HeaderValue::from_static(value)));
            length(&fields.collect::<HeaderMap>()).map_err(|error| error.to_string())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["5"]), Ok(Some(5)));
        for bad in [&["+5"][..], &["-1"], &[""], &["5, 5"], &["5", "6"], &["99999999999999999999"]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
