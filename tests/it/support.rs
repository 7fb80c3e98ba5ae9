//! What the tests share: a fabric of nodes, agents and forwarders, services to reach, and clients to reach them with.

pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod http2;
pub(crate) mod middle;
pub(crate) mod raw;
pub(crate) mod fabric;
pub(crate) mod process;
pub(crate) mod service;
pub(crate) mod websocket;

use std::{
    fmt::Debug,
    future::Future,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

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

/// Waits until a count stands still, and gives it.
pub(crate) async fn standing(count: &AtomicU64) -> u64 {
    let mut last = (u64::MAX, 0);
    eventually("the count stands still", async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = count.load(Relaxed);
        last = (now, if now == last.0 { last.1 + 1 } else { 0 });
        // As long as anything flows, it does so many times a second.
        now > 0 && last.1 == 20
    })
    .await;
    last.0
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
