//! What the tests share: a fabric of nodes, agents and forwarders, services to reach, and clients to reach them with.

pub(crate) mod balancer;
pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod log;
pub(crate) mod http2;
pub(crate) mod load;
pub(crate) mod middle;
#[cfg(target_os = "linux")]
pub(crate) mod network;
pub(crate) mod peer;
pub(crate) mod piko;
pub(crate) mod piko_agent;
pub(crate) mod raw;
pub(crate) mod fabric;
pub(crate) mod postgres;
pub(crate) mod frames;
pub(crate) mod free;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod record;
pub(crate) mod service;
pub(crate) mod udp;
pub(crate) mod streams;
pub(crate) mod switch;
#[cfg(target_os = "linux")]
pub(crate) mod terminal;
pub(crate) mod tokens;
pub(crate) mod viewer;
pub(crate) mod websocket;

use std::{fmt::Debug, future::Future, time::Duration};

use bytes::Bytes;
use tokio::net::TcpStream;

pub(crate) use fabric::Fabric;

/// A generous bound on anything that must happen at all.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// Waits until something becomes true, and says what did not.
pub(crate) async fn eventually(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !is_true().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "not within {SOON:?}: {what}");
}

/// Waits for something that must end.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("it ends within the bound")
}

/// The value, or a failed test that shows the error.
pub(crate) fn ok<T, E: Debug>(result: Result<T, E>) -> T {
    result.expect("it works")
}

/// Ends a connection with a reset.
pub(crate) fn reset(stream: TcpStream) {
    // Closing with a zero linger sends RST instead of FIN.
    ok(stream.set_zero_linger());
}

/// The kind of error that an operation must end with.
pub(crate) fn kind<T: Debug>(result: std::io::Result<T>) -> std::io::ErrorKind {
    result.expect_err("it ends with an error").kind()
}

/// Bytes that no compression and no mistake in their order leaves as they are.
pub(crate) fn random(len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    rand::fill(&mut bytes[..]);
    bytes.into()
}
