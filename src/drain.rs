//! Ownership of tasks: every task belongs to a [`Tasks`], which signals it, counts it out and, at a deadline, aborts it.
//!
//! Used by every module that runs something beside its caller. It never decides when to stop; its owner does.

use std::{future::Future, time::Duration};

use tokio_util::{
    future::FutureExt,
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// A group of tasks that stop together. Clones are handles to the same group.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    signal: CancellationToken,
    abort: CancellationToken,
}

/// Tasks that had not ended at the deadline and were aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{left} tasks had not ended after {after:?} and were aborted")]
pub struct Aborted {
    /// How many.
    pub left: usize,
    /// The deadline that they were given.
    pub after: Duration,
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a task in this group, at an await point of which it is dropped when the group is aborted.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where tasks are spawned, with this group as their owner"
    )]
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // An async block would have room for the task twice: as what it has captured, and as what it waits for.
        let task = task.with_cancellation_token_owned(self.abort.clone());
        tokio::spawn(self.tracker.track_future(task));
    }

    /// Something other than a task that the group waits for until it is dropped, such as an open flow.
    pub fn hold(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// Asks the tasks to finish. They go on until they have.
    pub fn signal(&self) {
        self.signal.cancel();
    }

    /// Waits until the group has been asked to finish. Cancel safe.
    pub async fn signalled(&self) {
        self.signal.cancelled().await;
    }

    /// Whether the group has been asked to finish.
    pub fn is_signalled(&self) -> bool {
        self.signal.is_cancelled()
    }

    /// Whether what was left of it has been dropped.
    pub fn is_aborted(&self) -> bool {
        self.abort.is_cancelled()
    }

    /// How many tasks and holds there are.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Asks all tasks to finish and waits for them, at most until the deadline; then aborts what is left.
    ///
    /// # Errors
    /// [`Aborted`] when something was left.
    pub async fn finish(&self, deadline: Duration) -> Result<(), Aborted> {
        self.signal();
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok() {
            return Ok(());
        }
        let left = self.tracker.len();
        self.abort();
        Err(Aborted { left, after: deadline })
    }

    /// Waits until nothing is in the group, without asking anything to finish. Cancel safe.
    pub async fn wait_empty(&self) {
        // A tracker only waits once it is closed, which changes nothing else: tasks may still join.
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Drops all tasks at their next await point.
    pub fn abort(&self) {
        self.signal.cancel();
        self.abort.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tasks_that_heed_the_signal_are_waited_for() {
        let tasks = Tasks::new();
        let inner = tasks.clone();
        tasks.spawn(async move {
            inner.signalled().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
        assert_eq!(tasks.finish(Duration::from_secs(6)).await, Ok(()));
        assert!(tasks.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_do_not_are_aborted_and_counted() {
        let tasks = Tasks::new();
        tasks.spawn(pending());
        let hold = tasks.hold();
        let after = Duration::from_secs(6);
        assert_eq!(tasks.finish(after).await, Err(Aborted { left: 2, after }));
        drop(hold);
        tasks.tracker.wait().await;
    }
}
