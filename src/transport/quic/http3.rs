//! How QUIC is set up for HTTP/3 clients, which may be anywhere and anybody. Every figure has its reason beside it.

use std::time::Duration;

use quinn::{IdleTimeout, TransportConfig, VarInt};

/// How often an HTTP/3 client is asked whether it is still there, and after how long without an answer it is not.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const IDLE: Duration = Duration::from_secs(60);

/// Unidirectional streams of an HTTP/3 client: its control stream, two for QPACK, and some that mean nothing (RFC 9114 §6.2).
const UNIDIRECTIONAL: u32 = 8;

/// What an HTTP/3 client may have under way, on one stream and on all, in bytes. Anybody may be one, so it is less than a
/// link has.
const STREAM_WINDOW: u32 = 1 << 20;
pub(super) const WINDOW: u32 = 4 << 20;

/// What the edge uses for HTTP/3 clients, which may be anywhere: all else as RFC 9000 and RFC 9002 recommend.
pub(super) fn transport(requests: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_bidi_streams(VarInt::from_u32(requests))
        .max_concurrent_uni_streams(VarInt::from_u32(UNIDIRECTIONAL))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(WINDOW.into())
        .datagram_receive_buffer_size(None);
    config
}
