//! Frames on streams. A control stream is read through a buffer, so that waiting for a frame can be cancelled; a flow's
//! first frame is read to the byte, so that what follows is the flow's.

use std::{io, marker::PhantomData, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{RecvStream, SendStream, Stream};
use crate::protocol::{Control, DecodeError, Flow, Frame, HEADER_LEN, Open, Refusal, Reset, decode, encode};

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The bytes are not a frame.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The stream ended.
    #[error("the stream ended")]
    Ended,
    /// The stream or its link broke.
    #[error("the stream broke")]
    Io(#[from] io::Error),
    /// The peer does not take what is written.
    #[error("the peer has not read its control stream for {0:?}")]
    Stuck(Duration),
}

/// Reads the control stream of an agent's or a forwarder's link.
pub type ControlReader = FrameReader<Control>;

/// Writes the control stream of an agent's or a forwarder's link.
pub type ControlWriter = FrameWriter<Control>;

/// Reads a control stream.
#[derive(Debug)]
pub struct FrameReader<F> {
    recv: RecvStream,
    buf: BytesMut,
    last: usize,
    frames: PhantomData<fn() -> F>,
}

impl<F: Frame> FrameReader<F> {
    /// Reads from a stream's receiving half.
    pub fn new(recv: RecvStream) -> Self {
        Self { recv, buf: BytesMut::new(), last: 0, frames: PhantomData }
    }

    /// The next frame. Cancel safe.
    ///
    /// # Errors
    /// After [`DecodeError::Unknown`] the next frame can be read; all else ends the stream.
    pub async fn next(&mut self) -> Result<F, FrameError> {
        loop {
            let before = self.buf.len();
            if let Some(frame) = decode(&mut self.buf)? {
                self.last = before - self.buf.len();
                return Ok(frame);
            }
            if self.recv.read_buf(&mut self.buf).await? == 0 {
                return Err(FrameError::Ended);
            }
        }
    }

    /// How long the last frame was, in bytes.
    pub fn last_len(&self) -> usize {
        self.last
    }
}

/// Writes a control stream.
#[derive(Debug)]
pub struct FrameWriter<F> {
    send: SendStream,
    last: usize,
    frames: PhantomData<fn() -> F>,
}

impl<F: Frame> FrameWriter<F> {
    /// How long the peer may leave a frame unread before the link is given up. It is bounded by the stream's window, so
    /// only a peer that hangs makes this wait at all.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Writes to a stream's sending half.
    pub fn new(send: SendStream) -> Self {
        Self { send, last: 0, frames: PhantomData }
    }

    /// How long the last frame was, in bytes.
    pub fn last_len(&self) -> usize {
        self.last
    }

    /// The stream itself, for what is not a frame.
    pub fn get_mut(&mut self) -> &mut SendStream {
        &mut self.send
    }

    /// Writes a frame. Not cancel safe: part of it may have been written.
    ///
    /// # Errors
    /// When the stream broke, or the peer does not read.
    pub async fn send(&mut self, frame: &F) -> Result<(), FrameError> {
        let mut buf = BytesMut::new();
        encode(frame, &mut buf);
        self.last = buf.len();
        match tokio::time::timeout(Self::PATIENCE, self.send.write_all(&buf)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(FrameError::Stuck(Self::PATIENCE)),
        }
    }

    /// Ends the stream and waits, a moment at most, until the peer has all of it.
    pub async fn finish(mut self) {
        if self.send.shutdown().await.is_ok() {
            // A peer that is gone needs no last word.
            drop(tokio::time::timeout(Duration::from_secs(1), self.send.stopped()).await);
        }
    }
}

/// Why a flow's first frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// It is not a frame of a flow.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The stream broke or ended before it.
    #[error("the flow broke before its first frame")]
    Io(#[from] io::Error),
}

/// Reads a flow's first frame, and not a byte more.
///
/// # Errors
/// When the stream ends, breaks, or carries something else. Not cancel safe: the flow is to be given up then.
pub async fn read_flow(recv: &mut RecvStream) -> Result<Flow, FlowError> {
    let mut buf = BytesMut::with_capacity(256);
    buf.put_bytes(0, HEADER_LEN);
    recv.read_exact(&mut buf).await?;
    let len = usize::from(buf[1]) << 16 | usize::from(buf[2]) << 8 | usize::from(buf[3]);
    if len > Flow::MAX_BODY {
        return Err(DecodeError::TooLong { kind: buf[0], len, max: Flow::MAX_BODY }.into());
    }
    buf.put_bytes(0, len);
    recv.read_exact(&mut buf[HEADER_LEN..]).await?;
    let kind = buf[0];
    let body: Bytes = buf.split_off(HEADER_LEN).freeze();
    match Flow::from_parts(kind, body) {
        Some(Ok(flow)) => Ok(flow),
        Some(Err(reason)) => Err(DecodeError::Malformed { kind, reason }.into()),
        None => Err(DecodeError::Unknown { kind }.into()),
    }
}

/// Writes a flow's first frame.
///
/// # Errors
/// When the stream broke.
pub async fn write_flow(stream: &mut Stream, flow: &Flow) -> io::Result<()> {
    let mut buf = BytesMut::new();
    encode(flow, &mut buf);
    stream.send.write_all(&buf).await
}

/// Refuses a flow that the peer opened: says why, ends this side, and asks the peer to send no more. Returns once the peer
/// has the answer, or a moment later.
pub async fn refuse(mut stream: Stream, refusal: Refusal) {
    let said = async {
        write_flow(&mut stream, &Flow::Refused(refusal)).await?;
        stream.send.shutdown().await
    };
    match said.await {
        Ok(()) => {
            stream.recv.stop(Reset::Refused);
            // The link may close right behind this; the answer should not be lost with it.
            drop(tokio::time::timeout(Duration::from_secs(1), stream.send.stopped()).await);
        }
        Err(error) => tracing::debug!(%error, "a flow went away before it was refused"),
    }
}

/// Asks the peer for a flow and waits for its answer.
///
/// # Errors
/// See [`AskError`]. Cancel safe: the stream is reset.
pub async fn ask(stream: &mut Stream, open: Open) -> Result<(), AskError> {
    write_flow(stream, &Flow::Open(open)).await.map_err(FlowError::Io)?;
    match read_flow(&mut stream.recv).await? {
        Flow::Opened => Ok(()),
        Flow::Refused(refusal) => Err(AskError::Refused(refusal)),
        Flow::Open(_) | Flow::Ask(_) | Flow::Answer(_) => Err(AskError::Answer),
    }
}

/// Why a flow was not opened.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The peer refused it; nothing of it was passed on.
    #[error(transparent)]
    Refused(Refusal),
    /// The flow broke before the answer.
    #[error(transparent)]
    Broken(#[from] FlowError),
    /// The peer answered with something that is no answer.
    #[error("the peer answered Open with neither Opened nor Refused")]
    Answer,
}
