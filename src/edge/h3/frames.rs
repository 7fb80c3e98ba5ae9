//! A bound on what HTTP/3 frames may announce (RFC 9114 §7.1), as a pure function of a stream's bytes.
//!
//! h3 collects every frame but DATA whole before it looks at it, unknown ones too, however long it is. This stands before it
//! and refuses a stream at the frame's header. It never changes a byte.

/// The frame whose payload is passed on as it comes (RFC 9114 §7.2.1).
const DATA: u64 = 0x00;

/// A unidirectional stream of this type carries frames (RFC 9114 §6.2.1).
const CONTROL: u64 = 0x00;

/// A frame that is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("frame 0x{kind:x} announces {len} bytes, at most {max} are allowed")]
pub(super) struct TooLong {
    kind: u64,
    len: u64,
    max: u64,
}

/// Reads the headers of a stream's frames as the bytes go by.
#[derive(Debug)]
pub(super) struct Frames {
    state: State,
    number: Number,
    max: u64,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// The type of a unidirectional stream comes next.
    Stream,
    /// A frame's type comes next.
    Type,
    /// The length of a frame of this type comes next.
    Length(u64),
    /// So many bytes of a frame are left.
    Payload(u64),
    /// What follows has no frames.
    Unframed,
}

impl Frames {
    /// The frames of a request stream, none but DATA of which may be longer than `max` bytes.
    pub(super) fn of_request(max: u64) -> Self {
        Self { state: State::Type, number: Number::default(), max }
    }

    /// Those of a unidirectional stream, which begins with its type.
    pub(super) fn of_unidirectional(max: u64) -> Self {
        Self { state: State::Stream, ..Self::of_request(max) }
    }

    /// Takes note of the next bytes.
    ///
    /// # Errors
    /// When a frame is too long.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        while let Some((first, rest)) = bytes.split_first() {
            if let State::Unframed = self.state {
                return Ok(());
            }
            if let State::Payload(left) = self.state {
                let skipped = left.min(bytes.len() as u64);
                bytes = &bytes[usize::try_from(skipped).unwrap_or(bytes.len())..];
                self.state = if left == skipped { State::Type } else { State::Payload(left - skipped) };
                continue;
            }
            bytes = rest;
            let Some(number) = self.number.take(*first) else { continue };
            self.state = match self.state {
                State::Stream if number == CONTROL => State::Type,
                State::Stream => State::Unframed,
                State::Type => State::Length(number),
                State::Length(kind) if kind != DATA && number > self.max => {
                    return Err(TooLong { kind, len: number, max: self.max });
                }
                State::Length(_) if number == 0 => State::Type,
                State::Length(_) => State::Payload(number),
                same => same,
            };
        }
        Ok(())
    }
}

/// A variable-length integer (RFC 9000 §16) that comes byte by byte.
#[derive(Debug, Default)]
struct Number {
    value: u64,
    left: usize,
    begun: bool,
}

impl Number {
    fn take(&mut self, byte: u8) -> Option<u64> {
        if self.begun {
            self.value = self.value << 8 | u64::from(byte);
            self.left -= 1;
        } else {
            *self = Self { value: u64::from(byte & 0x3f), left: (1 << (byte >> 6)) - 1, begun: true };
        }
        if self.left > 0 {
            return None;
        }
        self.begun = false;
        Some(self.value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADERS: u8 = 0x01;

    /// A frame of 300 bytes of payload, whose length takes two bytes.
    fn frame(kind: u8) -> Vec<u8> {
        [vec![kind, 0x41, 0x2c], vec![0xff; 300]].concat()
    }

    #[test]
    fn only_data_may_be_longer_than_the_bound() {
        let stream = [frame(0), frame(HEADERS), vec![0x21, 0], frame(0)].concat();
        assert_eq!(Frames::of_request(300).pass(&stream), Ok(()));
        let refused = TooLong { kind: 1, len: 300, max: 299 };
        assert_eq!(Frames::of_request(299).pass(&stream), Err(refused));
        assert_eq!(Frames::of_request(299).pass(&frame(0)), Ok(()));
        // Of a grease type (RFC 9114 §7.2.8), with the longest length there is.
        let greedy = [0x21, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(Frames::of_request(1 << 20).pass(&greedy).is_err());
    }

    #[test]
    fn of_unidirectional_streams_the_control_stream_alone_has_frames() {
        let long = frame(0x04);
        assert!(Frames::of_unidirectional(9).pass(&[&[0][..], &long].concat()).is_err());
        assert!(Frames::of_unidirectional(300).pass(&[&[0][..], &long].concat()).is_ok());
        assert!(Frames::of_unidirectional(9).pass(&[&[2][..], &long].concat()).is_ok());
    }

    proptest! {
        #[test]
        fn the_bytes_may_come_in_any_pieces(cuts in proptest::collection::vec(0usize..910, 0..8)) {
            let stream = [frame(0), frame(HEADERS), frame(HEADERS + 2)].concat();
            let mut cuts = cuts;
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            for (max, fits) in [(300, true), (299, false)] {
                let mut frames = Frames::of_request(max);
                let pieces = cuts.windows(2).map(|cut| &stream[cut[0].min(stream.len())..cut[1].min(stream.len())]);
                let passed: Result<Vec<()>, _> = pieces.map(|piece| frames.pass(piece)).collect();
                prop_assert_eq!(passed.is_ok(), fits);
            }
        }
    }
}
