//! How QUIC is set up on both sides. Every figure has its reason beside it.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use quinn::{
    EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
    congestion::{BbrConfig, CubicConfig},
};
use quinn_proto::HashedConnectionIdGenerator;

use crate::transport::{Congestion, Settings};

/// The largest packet that path MTU discovery probes for, in bytes. With segmentation offload ten packets leave in one
/// system call of at most 65,507 bytes, so more than 6,550 would turn that off or fail.
const MAX_MTU: u16 = 6500;

/// How much one stream may have under way, in bytes: 100 ms at 300 Mbit/s.
pub(super) const STREAM_WINDOW: u32 = 4 << 20;

/// What a side keeps of what it sent until the peer has it, in bytes.
const SEND_WINDOW: u64 = 8 << 20;

/// The round-trip time that a new link assumes. QUIC's 333 ms (RFC 9002 §6.2.2) paces a link of 1 ms for its first second
/// as if it were a satellite's; a path slower than this repeats a packet or two of its handshake.
const INITIAL_RTT: Duration = Duration::from_millis(50);

/// A stream count that QUIC can carry (RFC 9000 §4.6 allows up to 2^60).
pub(super) fn streams(count: u32) -> VarInt {
    VarInt::from_u32(count)
}

/// What both sides of a link use. `peer_streams`: how many streams the peer may open.
pub(super) fn transport(settings: &Settings, peer_streams: u32, keep_alive: bool) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MAX_MTU);
    // RFC 9000 §10.1 carries it as milliseconds in 62 bits: what does not fit is no limit.
    let idle = IdleTimeout::try_from(settings.idle_timeout).ok();
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(idle)
        .keep_alive_interval(keep_alive.then_some(settings.keep_alive))
        .max_concurrent_bidi_streams(streams(peer_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(settings.window))
        .send_window(SEND_WINDOW)
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu));
    match settings.congestion {
        Congestion::Cubic => config.congestion_controller_factory(Arc::new(CubicConfig::default())),
        Congestion::Bbr => config.congestion_controller_factory(Arc::new(BbrConfig::default())),
    };
    config
}

/// What an endpoint uses for all its links. With a `secret` the key of stateless resets (RFC 9000 §10.3) and of connection
/// ids follow from it, so that a process that restarts with the same secret resets the links of its former life at their
/// first packet, instead of leaving their peers to the idle time-out.
pub(super) fn endpoint(secret: Option<&[u8; 32]>) -> EndpointConfig {
    let mut config = match secret {
        None => EndpointConfig::default(),
        Some(secret) => {
            let derive = |label: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), label);
            let reset = hmac::Key::new(hmac::HMAC_SHA256, derive(b"adit quic reset").as_ref());
            let mut id_key = [0; 8];
            id_key.copy_from_slice(&derive(b"adit quic connection id").as_ref()[..8]);
            let id_key = u64::from_be_bytes(id_key);
            let mut config = EndpointConfig::new(Arc::new(reset));
            config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
            config
        }
    };
    if let Err(error) = config.max_udp_payload_size(MAX_MTU) {
        tracing::debug!(%error, "packets stay at QUIC's default size");
    }
    config
}
