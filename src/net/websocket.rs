//! WebSocket (RFC 6455) as all of adit speaks it: binary messages of bounded size, no extensions, and the close code for
//! whoever does otherwise.

use tokio_tungstenite::tungstenite::{
    Error,
    error::ProtocolError,
    protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
};

/// The largest message, and the largest frame of one, in bytes.
pub const MAX_MESSAGE: usize = 1 << 20;

/// What is read from the connection at once, in bytes. A WebSocket has as much for itself from its first moment on.
const READ_BUFFER: usize = 16 * 1024;

/// Up to which size messages wait for each other before they are written, in bytes; flushing does not wait.
const WRITE_BUFFER: usize = 16 * 1024;

/// Sizes. There are no extensions, permessage-deflate (RFC 7692) among them: what is tunnelled is mostly encrypted or
/// compressed already, and its memory is not worth the rest.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + 2 * MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// What a peer must not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A text message where only bytes are carried.
    Text,
    /// A message or a frame above [`MAX_MESSAGE`].
    Oversized,
    /// A frame of a client that is not masked (RFC 6455 §5.1).
    Unmasked,
    /// Anything else that is no WebSocket.
    Protocol,
}

impl Violation {
    /// What an error of reading says about the peer; nothing when it says something about the connection.
    pub fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Capacity(_) => Some(Self::Oversized),
            Error::Protocol(ProtocolError::UnmaskedFrameFromClient) => Some(Self::Unmasked),
            Error::Protocol(
                ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing,
            ) => None,
            Error::Protocol(_) => Some(Self::Protocol),
            Error::Utf8(_) => Some(Self::Text),
            _ => None,
        }
    }

    /// Its name, for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Oversized => "oversized",
            Self::Unmasked => "unmasked",
            Self::Protocol => "protocol",
        }
    }

    /// The goodbye that it gets (RFC 6455 §7.4.1).
    pub fn close(self) -> CloseFrame {
        let (code, reason) = match self {
            Self::Text => (CloseCode::Unsupported, "only binary messages are understood"),
            Self::Oversized => (CloseCode::Size, "a message has 1 MiB at most"),
            Self::Unmasked => (CloseCode::Protocol, "frames of a client are masked"),
            Self::Protocol => (CloseCode::Protocol, "this is not WebSocket"),
        };
        CloseFrame { code, reason: reason.into() }
    }
}
