//! Finds where messages end in the bytes that a client sends, so that a connection that ends between two is told from one
//! that breaks off within one: Piko's clients end theirs without a closing handshake.
//!
//! Fed with what is read, in pieces of any size; it keeps none of it and refuses nothing.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::{FrameHeader, coding::OpCode};

/// How far a client's bytes have been followed.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    /// The header of the frame that comes, as far as it is there: 14 bytes at most (RFC 6455 §5.2).
    header: Vec<u8>,
    /// How much of its payload is still to come.
    payload: u64,
    /// Whether a message goes on with a further frame.
    within: bool,
}

impl Boundary {
    /// Follows the next bytes.
    pub(super) fn see(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            if self.payload > 0 {
                let len = bytes.len().min(usize::try_from(self.payload).unwrap_or(usize::MAX));
                self.payload -= len as u64;
                bytes = &bytes[len..];
                continue;
            }
            self.header.push(*first);
            bytes = rest;
            match FrameHeader::parse(&mut Cursor::new(&self.header)) {
                Ok(Some((header, payload))) => {
                    self.header.clear();
                    self.payload = payload;
                    if let OpCode::Data(_) = header.opcode {
                        self.within = !header.is_final;
                    }
                }
                Ok(None) => {}
                // Whoever reads the messages refuses it.
                Err(_) => {
                    self.header.clear();
                    self.within = true;
                }
            }
        }
    }

    /// Whether no message has begun that has not ended.
    pub(super) fn is_here(&self) -> bool {
        self.header.is_empty() && self.payload == 0 && !self.within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After which bytes a message has ended.
    fn ends(bytes: &[u8]) -> Vec<usize> {
        let mut boundary = Boundary::default();
        let mut ends = Vec::new();
        for (at, byte) in bytes.iter().enumerate() {
            boundary.see(&[*byte]);
            if boundary.is_here() {
                ends.push(at + 1);
            }
        }
        // The same in one piece.
        let mut whole = Boundary::default();
        whole.see(bytes);
        assert_eq!(whole.is_here(), ends.last() == Some(&bytes.len()));
        ends
    }

    #[test]
    fn a_message_ends_with_its_last_frame() {
        let masked = |first: u8, len: u8| {
            let mut frame = vec![first, 0x80 | len, 1, 2, 3, 4];
            frame.resize(6 + usize::from(len), 0xff);
            frame
        };
        assert_eq!(ends(&masked(0x82, 5)), [11]);
        assert_eq!(ends(&masked(0x82, 0)), [6]);
        // A ping between two fragments ends nothing.
        let fragments = [masked(0x02, 1), masked(0x89, 2), masked(0x00, 1), masked(0x80, 1), masked(0x82, 1)];
        assert_eq!(ends(&fragments.concat()), [7 + 8 + 7 + 7, 7 + 8 + 7 + 7 + 7]);
    }

    #[test]
    fn long_payloads_are_followed_to_their_end() {
        let mut frame = vec![0x82, 0x80 | 126, 1, 0, 1, 2, 3, 4];
        frame.resize(8 + 256, 0);
        assert_eq!(ends(&frame), [264]);
        let mut frame = vec![0x82, 0x80 | 127, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4];
        frame.resize(14 + 65_536, 0);
        assert_eq!(ends(&frame), [65_550]);
    }

    #[test]
    fn what_is_no_frame_has_no_end() {
        assert!(ends(&[0x83, 0x80, 1, 2, 3, 4]).is_empty());
    }
}
