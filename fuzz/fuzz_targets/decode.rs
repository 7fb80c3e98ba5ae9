//! Whatever the bytes, decoding never panics, takes exactly the frames it reads, and what it reads can be written and read
//! again. Run with `cargo +nightly fuzz run decode`.

#![no_main]

use std::fmt::Debug;

use adit::protocol::{
    Control, DecodeError, Flow, Frame, decode, encode, encode_datagram, encode_packet, split_datagram,
    split_packet,
};
use bytes::{Bytes, BytesMut};
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

fn packets(bytes: &[u8]) {
    if let Some((stream, packet)) = split_datagram(Bytes::copy_from_slice(bytes)) {
        assert_eq!(split_datagram(encode_datagram(stream, &packet)), Some((stream, packet)));
    }
    let mut buf = BytesMut::from(bytes);
    let mut again = BytesMut::new();
    while let Some(packet) = split_packet(&mut buf) {
        again.extend_from_slice(&encode_packet(&packet).expect("it had a length"));
    }
    again.extend_from_slice(&buf);
    assert_eq!(again, bytes);
}

fuzz_target!(|bytes: &[u8]| {
    all::<Control>(bytes);
    all::<Flow>(bytes);
    packets(bytes);
});
