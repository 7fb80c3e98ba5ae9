//! What commands that stay have in common: the runtime, signals, logs, the limit of open files.

use std::future::Future;

use anyhow::{Context as _, anyhow};

use super::failure::Failure;
use crate::{config::LogArgs, telemetry};

/// Starts logging as the flags say.
pub(super) fn log(args: &LogArgs) -> Result<(), Failure> {
    Ok(telemetry::init(args.format, &args.level)?)
}

/// Runs a command to its end.
pub(super) fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads of the runtime")?;
    let result = runtime.block_on(command);
    // A name that is still being resolved must not hold up the end.
    runtime.shutdown_background();
    result
}

/// SIGINT and SIGTERM, from when it is made.
pub(super) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    pub(super) fn new() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    #[cfg(not(unix))]
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self {})
    }

    /// The next signal. Cancel safe.
    pub(super) async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        drop(tokio::signal::ctrl_c().await);
    }

    /// Leaves: waits for what is under way, at most until the next signal.
    pub(super) async fn leave<E>(&mut self, drain: impl Future<Output = Result<(), E>>) -> Result<(), Failure>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        tracing::info!("leaving; a second signal ends this at once");
        tokio::select! {
            drained = drain => Ok(drained.context("not everything could finish within --grace-period")?),
            () = self.next() => Err(anyhow!("a second signal came: what was under way is cut").into()),
        }
    }
}

/// Every connection is an open file, and the usual limit of 1024 is soon reached.
pub(super) fn raise_file_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => tracing::debug!(files, "the limit of open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
}
