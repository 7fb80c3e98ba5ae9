//! Packets of UDP associations: as a datagram, which names the stream that it belongs to, or on that stream, behind their
//! length.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest packet, in bytes: more than UDP carries (65,507 bytes over IPv4, 65,527 over IPv6), so none is too long.
pub const MAX_PACKET: usize = u16::MAX as usize;

/// A datagram of a stream: the stream's number as a variable-length integer (RFC 9000 §16), then the packet.
pub fn encode_datagram(stream: u64, packet: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + packet.len());
    match stream {
        0..=0x3f => out.put_u8(stream as u8),
        0x40..=0x3fff => out.put_u16(stream as u16 | 0x4000),
        0x4000..=0x3fff_ffff => out.put_u32(stream as u32 | 0x8000_0000),
        // Streams have numbers of 62 bits.
        _ => out.put_u64(stream | 0xc000_0000_0000_0000),
    }
    out.put_slice(packet);
    out.freeze()
}

/// The stream that a datagram belongs to, and its packet; nothing when it is too short to tell.
pub fn split_datagram(mut datagram: Bytes) -> Option<(u64, Bytes)> {
    let len = 1 << (datagram.first()? >> 6);
    if datagram.len() < len {
        return None;
    }
    let number = datagram.split_to(len).get_uint(len);
    Some((number & (u64::MAX >> (66 - 8 * len)), datagram))
}

/// A packet as it stands on a stream: two bytes of length (network order), then its bytes. Nothing when it is longer than
/// [`MAX_PACKET`].
pub fn encode_packet(packet: &[u8]) -> Option<Bytes> {
    let len = u16::try_from(packet.len()).ok()?;
    let mut out = BytesMut::with_capacity(2 + packet.len());
    out.put_u16(len);
    out.put_slice(packet);
    Some(out.freeze())
}

/// Takes one packet from the front of what has come on a stream, or `None` when it is not whole yet.
pub fn split_packet(buf: &mut BytesMut) -> Option<Bytes> {
    let [a, b, ..] = buf[..] else { return None };
    let len = usize::from(u16::from_be_bytes([a, b]));
    if buf.len() < 2 + len {
        buf.reserve(2 + len - buf.len());
        return None;
    }
    buf.advance(2);
    Some(buf.split_to(len).freeze())
}
