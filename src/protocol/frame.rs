//! Framing: one byte of type, three bytes of length (network order), then a protobuf message of that length.
//!
//! The type stands outside the message so that a frame of a newer version can be named and skipped without being read.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The length of what stands before each frame's body, in bytes.
pub const HEADER_LEN: usize = 4;

/// A set of frames that may stand on one kind of stream.
pub trait Frame: Sized {
    /// The longest body, in bytes. A longer one is an error before any of it is read.
    const MAX_BODY: usize;

    /// The frame's type and body.
    fn to_parts(&self) -> (u8, Vec<u8>);

    /// Reads a body of the given type; `None` for a type that this version does not know.
    ///
    /// # Errors
    /// A sentence on what is wrong with the body.
    fn from_parts(kind: u8, body: Bytes) -> Option<Result<Self, String>>;
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The announced length is over the bound. The stream cannot be read any further.
    #[error("frame 0x{kind:02x} announces {len} bytes, at most {max} are allowed")]
    TooLong {
        /// The frame's type.
        kind: u8,
        /// The announced length in bytes.
        len: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// The type is not known here. The frame was skipped, and reading may go on.
    #[error("frame 0x{kind:02x} is not known to this version")]
    Unknown {
        /// The frame's type.
        kind: u8,
    },
    /// The body is not what its type promises. The frame was skipped.
    #[error("frame 0x{kind:02x} is malformed: {reason}")]
    Malformed {
        /// The frame's type.
        kind: u8,
        /// What is wrong with it.
        reason: String,
    },
}

/// Appends a frame to `out`.
///
/// Frames are built from bounded parts, so a body never passes its bound; were one ever to, the receiver would refuse it.
pub fn encode<F: Frame>(frame: &F, out: &mut BytesMut) {
    let (kind, body) = frame.to_parts();
    debug_assert!(body.len() <= F::MAX_BODY, "frame 0x{kind:02x} of {} bytes", body.len());
    out.reserve(HEADER_LEN + body.len());
    out.put_u8(kind);
    out.put_uint(body.len() as u64, 3);
    out.put_slice(&body);
}

/// Takes one frame from the front of `buf`, or `None` when it is not whole yet.
///
/// # Errors
/// See [`DecodeError`]: after `Unknown` and `Malformed` the frame is gone from `buf` and the next can be read.
pub fn decode<F: Frame>(buf: &mut BytesMut) -> Result<Option<F>, DecodeError> {
    let [kind, a, b, c, ..] = buf[..] else { return Ok(None) };
    let len = u32::from_be_bytes([0, a, b, c]) as usize;
    if len > F::MAX_BODY {
        return Err(DecodeError::TooLong { kind, len, max: F::MAX_BODY });
    }
    if buf.len() < HEADER_LEN + len {
        buf.reserve(HEADER_LEN + len - buf.len());
        return Ok(None);
    }
    buf.advance(HEADER_LEN);
    match F::from_parts(kind, buf.split_to(len).freeze()) {
        None => Err(DecodeError::Unknown { kind }),
        Some(Err(reason)) => Err(DecodeError::Malformed { kind, reason }),
        Some(Ok(frame)) => Ok(Some(frame)),
    }
}
