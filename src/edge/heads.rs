//! Finds where heads begin and end in the bytes that a client sends, so that a slow head is told from an idle connection.
//!
//! HTTP/1.1 needs no more than to know that it is HTTP/1.1: whatever comes while no request is open belongs to a head. In
//! HTTP/2 the frames say. Fed with what is read, in pieces of any size; it keeps none of it and refuses nothing.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The frames that heads come in, and the flag of a head's last (RFC 9113 §6.2, §6.10).
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// How far a client's bytes have been followed.
#[derive(Debug)]
pub(super) enum Heads {
    /// So many bytes of the preface of HTTP/2 have come, and nothing else.
    Unknown(usize),
    Http1,
    Http2(Frames),
}

/// What the last bytes have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// They are part of a head unless a request is open.
    Http1,
    /// They end within a head.
    Within,
    /// They do not.
    Outside,
}

/// The frames of HTTP/2, by their headers alone.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The header of the frame that comes, as far as it is there (RFC 9113 §4.1).
    header: [u8; 9],
    have: usize,
    /// How much of its payload is still to come.
    payload: usize,
    within: bool,
}

impl Heads {
    pub(super) const fn new() -> Self {
        Self::Unknown(0)
    }

    /// Follows the next bytes, of which there are some.
    pub(super) fn see(&mut self, mut bytes: &[u8]) -> Seen {
        if let Self::Unknown(have) = self {
            let expected = &PREFACE[*have..];
            let len = expected.len().min(bytes.len());
            if bytes[..len] != expected[..len] {
                *self = Self::Http1;
            } else if len < expected.len() {
                *have += len;
                // Whatever it is going to be, it is not complete.
                return Seen::Within;
            } else {
                bytes = &bytes[len..];
                *self = Self::Http2(Frames::default());
            }
        }
        match self {
            Self::Http2(frames) => frames.see(bytes),
            Self::Unknown(_) | Self::Http1 => Seen::Http1,
        }
    }
}

impl Frames {
    fn see(&mut self, mut bytes: &[u8]) -> Seen {
        while !bytes.is_empty() {
            if self.have < self.header.len() {
                let len = bytes.len().min(self.header.len() - self.have);
                self.header[self.have..][..len].copy_from_slice(&bytes[..len]);
                self.have += len;
                bytes = &bytes[len..];
                if self.have < self.header.len() {
                    break;
                }
                let [a, b, c, kind, ..] = self.header;
                self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
                self.within |= kind == HEADERS;
            }
            let len = bytes.len().min(self.payload);
            self.payload -= len;
            bytes = &bytes[len..];
            if self.payload == 0 {
                let [_, _, _, kind, flags, ..] = self.header;
                self.within &= !(matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0);
                self.have = 0;
            }
        }
        if self.within { Seen::Within } else { Seen::Outside }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0, 0, payload as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(9 + payload, 0xff);
        frame
    }

    /// What is seen after each byte, run by run.
    fn follow(bytes: &[u8]) -> Vec<(Seen, usize)> {
        let mut heads = Heads::new();
        let mut runs: Vec<(Seen, usize)> = Vec::new();
        for byte in bytes {
            let seen = heads.see(&[*byte]);
            match runs.last_mut() {
                Some((last, count)) if *last == seen => *count += 1,
                _ => runs.push((seen, 1)),
            }
        }
        runs
    }

    #[test]
    fn what_is_no_preface_is_http1() {
        assert_eq!(follow(b"GET / HTTP/1.1\r\n"), [(Seen::Http1, 16)]);
        assert_eq!(follow(b"PRI * HTTP/1.1"), [(Seen::Within, 11), (Seen::Http1, 3)]);
    }

    #[test]
    fn a_head_of_http2_lasts_until_its_last_frame_has_come() {
        let settings = frame(4, 0, 12);
        let bytes = [
            PREFACE,
            &settings,
            &frame(HEADERS, 0, 10),
            &frame(CONTINUATION, 0, 0),
            &frame(CONTINUATION, END_HEADERS, 5),
            &frame(0, END_HEADERS, 20),
        ]
        .concat();
        let outside = 1 + settings.len() + 8;
        let within = 1 + 10 + 9 + 9 + 4;
        assert_eq!(
            follow(&bytes),
            // A header of four bytes says what kind it is, but nothing is certain before it is whole.
            [(Seen::Within, 23), (Seen::Outside, outside), (Seen::Within, within), (Seen::Outside, 1 + 29)]
        );
        // The same in one piece.
        let mut heads = Heads::new();
        assert_eq!(heads.see(&bytes), Seen::Outside);
        assert_eq!(heads.see(&frame(HEADERS, 0, 3)), Seen::Within);
        assert_eq!(heads.see(&frame(CONTINUATION, END_HEADERS, 0)), Seen::Outside);
    }
}
