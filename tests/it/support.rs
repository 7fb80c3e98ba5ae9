//! What the tests share: a fabric of nodes, agents and forwarders, services to reach, and clients to reach them with.

pub(crate) mod client;
pub(crate) mod fabric;
pub(crate) mod service;

use std::{fmt::Debug, future::Future, time::Duration};

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
