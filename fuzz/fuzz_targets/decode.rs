//! Whatever the bytes, decoding never panics, takes exactly the frames it reads, and what it reads can be written and read
//! again. Run with `cargo +nightly fuzz run decode`.

#![no_main]

use std::fmt::Debug;

use adit::protocol::{Control, DecodeError, Flow, Frame, decode, encode};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fn all<F: Frame + Debug>(bytes: &[u8]) {
    let mut buf = BytesMut::from(bytes);
    loop {
        let before = buf.len();
        match decode::<F>(&mut buf) {
            Ok(None) | Err(DecodeError::TooLong { .. }) => return assert_eq!(buf.len(), before),
            Ok(Some(frame)) => again(&frame),
            Err(DecodeError::Unknown { .. } | DecodeError::Malformed { .. }) => {}
        }
        assert!(buf.len() < before);
    }
}

/// Skipped fields are gone and empty texts are absent, so the bytes may differ from those that came, but only once.
fn again<F: Frame + Debug>(frame: &F) {
    let (mut first, mut second) = (BytesMut::new(), BytesMut::new());
    encode(frame, &mut first);
    let read = decode::<F>(&mut first.clone()).expect("what was written is valid").expect("and whole");
    encode(&read, &mut second);
    assert_eq!(first, second, "{frame:?} became {read:?}");
}

fuzz_target!(|bytes: &[u8]| {
    all::<Control>(bytes);
    all::<Flow>(bytes);
});
