//! How fast a join passes on. Whoever waits here reads nothing meanwhile, so that its peer is slowed down, and no byte waits in
//! memory.

use std::{fmt, time::Duration};

/// Told of bytes that were passed on, it says how long to wait before the next are.
type Passed = dyn Fn(usize) -> Duration + Send + Sync;

/// The pace of both directions of a join together. By default, there is no limit to it.
#[derive(Default)]
pub(super) struct Pace(Option<Box<Passed>>);

impl Pace {
    pub(super) fn new(passed: Option<impl Fn(usize) -> Duration + Send + Sync + 'static>) -> Self {
        Self(passed.map(|passed| Box::new(passed) as Box<Passed>))
    }

    /// Waits until more may be passed on, now that so many bytes have been. Cancel safe: they have been counted by then.
    pub(super) async fn passed(&self, bytes: usize) {
        let Some(passed) = &self.0 else { return };
        let wait = passed(bytes);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Pace" } else { "no Pace" })
    }
}
