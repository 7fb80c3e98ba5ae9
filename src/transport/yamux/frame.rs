//! The header of a frame: version, type, flags, stream, length, 12 bytes in network order. The specification is that of
//! hashicorp/yamux; Piko's agents speak it.

use bytes::{Buf, BufMut, BytesMut};

/// Bytes of a header.
pub(super) const HEADER: usize = 12;

const VERSION: u8 = 0;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes of a stream follow, as many as the length says.
    Data,
    /// The length is how many bytes more the peer may send on the stream.
    WindowUpdate,
    /// The length is to be sent back.
    Ping,
    /// The sender opens no stream and takes none any more; the length says why.
    GoAway,
}

/// What else a frame says of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Flags(pub(super) u16);

impl Flags {
    /// The stream begins, or the ping is a question.
    pub(super) const SYN: Self = Self(1);
    /// The stream is accepted, or the ping is the answer.
    pub(super) const ACK: Self = Self(2);
    /// Nothing follows on the stream from this side.
    pub(super) const FIN: Self = Self(4);
    /// The stream is broken off in both directions.
    pub(super) const RST: Self = Self(8);

    pub(super) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) flags: Flags,
    /// Zero for the session itself.
    pub(super) stream: u32,
    pub(super) length: u32,
}

/// Bytes that are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::transport) enum Malformed {
    #[error("version {0} of yamux is not known")]
    Version(u8),
    #[error("a frame of type {0} is not known")]
    Kind(u8),
}

impl Header {
    pub(super) fn encode(self, out: &mut BytesMut) {
        out.put_u8(VERSION);
        out.put_u8(match self.kind {
            Kind::Data => 0,
            Kind::WindowUpdate => 1,
            Kind::Ping => 2,
            Kind::GoAway => 3,
        });
        out.put_u16(self.flags.0);
        out.put_u32(self.stream);
        out.put_u32(self.length);
    }

    pub(super) fn decode(bytes: &[u8; HEADER]) -> Result<Self, Malformed> {
        let mut bytes = bytes.as_slice();
        let version = bytes.get_u8();
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let kind = match bytes.get_u8() {
            0 => Kind::Data,
            1 => Kind::WindowUpdate,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            other => return Err(Malformed::Kind(other)),
        };
        let flags = Flags(bytes.get_u16());
        Ok(Self { kind, flags, stream: bytes.get_u32(), length: bytes.get_u32() })
    }
}
