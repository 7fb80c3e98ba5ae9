//! h3's view of a QUIC connection, over quinn.
//!
//! Owns what the edge needs to be sure of on each stream: a half that is dropped before its end is reset, an end counts once
//! the client has everything, and no frame makes h3 collect more than its bound. (h3-quinn has none of the three, and panics
//! when a stream is stopped while it is read.) It knows nothing of requests.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::{Stream, stream};
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
};
use quinn::VarInt;

use super::frames::Frames;

/// What is read at once, in bytes: no more than a stream's window.
const CHUNK: usize = 1 << 20;

type Streams<T> = Pin<Box<dyn Stream<Item = Result<T, quinn::ConnectionError>> + Send + Sync>>;

type Arrived = Pin<Box<dyn Future<Output = Result<Option<VarInt>, quinn::StoppedError>> + Send + Sync>>;

/// A connection to a client.
pub(super) struct Connection {
    opener: Opener,
    requests: Streams<(quinn::SendStream, quinn::RecvStream)>,
    unidirectional: Streams<quinn::RecvStream>,
    max_frame: u64,
}

impl Connection {
    /// No frame but DATA may be longer than `max_frame` bytes.
    pub(super) fn new(connection: quinn::Connection, max_frame: u64) -> Self {
        let requests = stream::unfold(connection.clone(), |connection| async {
            Some((connection.accept_bi().await, connection))
        });
        let unidirectional = stream::unfold(connection.clone(), |connection| async {
            Some((connection.accept_uni().await, connection))
        });
        Self {
            opener: Opener::new(connection),
            requests: Box::pin(requests),
            unidirectional: Box::pin(unidirectional),
            max_frame,
        }
    }
}

impl quic::Connection<Bytes> for Connection {
    type RecvStream = RecvStream;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RecvStream, ConnectionErrorIncoming>> {
        let frames = Frames::of_unidirectional(self.max_frame);
        next(&mut self.unidirectional, cx).map_ok(|stream| RecvStream { stream, frames })
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RequestStream, ConnectionErrorIncoming>> {
        let frames = Frames::of_request(self.max_frame);
        next(&mut self.requests, cx).map_ok(|(send, stream)| RequestStream {
            send: SendStream::new(send),
            recv: RecvStream { stream, frames },
        })
    }

    fn opener(&self) -> Opener {
        Opener::new(self.opener.connection.clone())
    }
}

impl quic::OpenStreams<Bytes> for Connection {
    type BidiStream = RequestStream;
    type SendStream = SendStream;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<RequestStream, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        self.opener.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.opener.close(code, reason);
    }
}

/// Opens a server's own streams.
pub(super) struct Opener {
    connection: quinn::Connection,
    opening: Streams<quinn::SendStream>,
}

impl Opener {
    fn new(connection: quinn::Connection) -> Self {
        let opening = stream::unfold(connection.clone(), |connection| async {
            Some((connection.open_uni().await, connection))
        });
        Self { connection, opening: Box::pin(opening) }
    }
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = RequestStream;
    type SendStream = SendStream;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<RequestStream, StreamErrorIncoming>> {
        // RFC 9114 §6.1: there is no use for them.
        Poll::Ready(Err(lost(ConnectionErrorIncoming::InternalError("a server opens no request".into()))))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        next(&mut self.opening, cx).map_ok(SendStream::new).map_err(lost)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(varint(code.value()), reason);
    }
}

/// A request and its response.
pub(super) struct RequestStream {
    send: SendStream,
    recv: RecvStream,
}

impl RequestStream {
    /// Ends once the client has given the response up, has all of it, or is gone.
    pub(super) fn given_up(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.send.stream.stopped();
        // Whatever the answer, there is nothing left to wait for.
        async move { drop(stopped.await) }
    }
}

impl quic::BidiStream<Bytes> for RequestStream {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    fn split(self) -> (SendStream, RecvStream) {
        (self.send, self.recv)
    }
}

impl quic::SendStream<Bytes> for RequestStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl quic::RecvStream for RequestStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.recv.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

/// What the edge sends. Dropped before its end, it is reset.
pub(super) struct SendStream {
    stream: quinn::SendStream,
    waiting: Option<WriteBuf<Bytes>>,
    /// Ends once the client has everything, after the end of the stream.
    arrived: Option<Arrived>,
    ended: bool,
}

impl SendStream {
    fn new(stream: quinn::SendStream) -> Self {
        Self { stream, waiting: None, arrived: None, ended: false }
    }
}

impl quic::SendStream<Bytes> for SendStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(data) = &mut self.waiting {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, data.chunk()));
            data.advance(written.map_err(of_write)?);
            if !data.has_remaining() {
                self.waiting = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.waiting = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        ready!(self.poll_ready(cx))?;
        // A connection that closes drops what is under way, so that the end counts only when the client has everything.
        let arrived = match &mut self.arrived {
            Some(arrived) => arrived,
            none => {
                self.stream.finish().map_err(unknown)?;
                self.ended = true;
                none.insert(Box::pin(self.stream.stopped()))
            }
        };
        Poll::Ready(match ready!(arrived.as_mut().poll(cx)) {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(StreamErrorIncoming::StreamTerminated { error_code: code.into() }),
            Err(error) => Err(unknown(error)),
        })
    }

    fn reset(&mut self, code: u64) {
        self.ended = true;
        // An error says that the stream had ended already, which is what is wanted.
        drop(self.stream.reset(varint(code)));
    }

    fn send_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if !self.ended {
            quic::SendStream::reset(self, Code::H3_INTERNAL_ERROR.value());
        }
    }
}

/// What the client sends. Dropped before its end, it tells the client to stop, which is no error (RFC 9114 §4.1).
pub(super) struct RecvStream {
    stream: quinn::RecvStream,
    frames: Frames,
}

impl quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        // The future holds nothing between one poll and the next.
        let read = ready!(pin!(self.stream.read_chunk(CHUNK, true)).poll(cx));
        let Some(chunk) = read.map_err(of_read)? else { return Poll::Ready(Ok(None)) };
        if let Err(error) = self.frames.pass(&chunk.bytes) {
            self.stop_sending(Code::H3_EXCESSIVE_LOAD.value());
            return Poll::Ready(Err(unknown(error)));
        }
        Poll::Ready(Ok(Some(chunk.bytes)))
    }

    fn stop_sending(&mut self, code: u64) {
        // An error says that the stream had ended already, which is what is wanted.
        drop(self.stream.stop(varint(code)));
    }

    fn recv_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        quic::RecvStream::stop_sending(self, Code::H3_NO_ERROR.value());
    }
}

/// A connection has streams for as long as it lives; its end is an error.
fn next<T>(streams: &mut Streams<T>, cx: &mut Context<'_>) -> Poll<Result<T, ConnectionErrorIncoming>> {
    Poll::Ready(match ready!(streams.as_mut().poll_next(cx)) {
        Some(stream) => stream.map_err(of_connection),
        None => Err(ConnectionErrorIncoming::InternalError("no stream will come any more".into())),
    })
}

/// HTTP/3's codes are all that it is called with (RFC 9114 §8.1), and fit.
fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn id(id: quinn::StreamId) -> StreamId {
    // Both count to 2^62.
    h3::proto::varint::VarInt::from_u64(id.into()).unwrap_or(h3::proto::varint::VarInt::MAX).into()
}

fn unknown(error: impl std::error::Error + Send + Sync + 'static) -> StreamErrorIncoming {
    StreamErrorIncoming::Unknown(Box::new(error))
}

fn lost(connection_error: ConnectionErrorIncoming) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error }
}

fn of_connection(error: quinn::ConnectionError) -> ConnectionErrorIncoming {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into() }
        }
        quinn::ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

fn of_write(error: quinn::WriteError) -> StreamErrorIncoming {
    match error {
        quinn::WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into() },
        quinn::WriteError::ConnectionLost(error) => lost(of_connection(error)),
        other => unknown(other),
    }
}

fn of_read(error: quinn::ReadError) -> StreamErrorIncoming {
    match error {
        quinn::ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into() },
        quinn::ReadError::ConnectionLost(error) => lost(of_connection(error)),
        other => unknown(other),
    }
}
