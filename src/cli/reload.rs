//! Reads the configuration again, on SIGHUP and when one of its files has changed, and has what runs take it over.
//!
//! What is wrong is refused whole. What has changed is told by flags and by what is in their files, so that each change is
//! either taken over or named as one that needs a restart. It ends with what it reloads.

use std::{convert::Infallible, path::PathBuf, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use super::{Command, failure::Failure, process::Hangups};
use crate::{
    config::{Given, LogArgs, Read, Watch},
    telemetry::{Filter, Log, Outcome},
};

/// How often files are looked at. A change is taken over after it has been seen twice.
const LOOK: Duration = Duration::from_secs(2);

/// The one flag that is not of what runs.
const LOG_LEVEL: &str = "--log-level";

/// What runs, as far as its configuration can be exchanged.
pub(super) trait Reload {
    /// The flags of its command.
    type Args: Send + 'static;
    /// What they say.
    type Config: Send + 'static;

    /// The flags of its command, which the process was started with.
    fn args(command: Command) -> Option<Self::Args>;
    /// How it logs.
    fn log(args: &Self::Args) -> &LogArgs;
    /// Reads all that the flags name, and makes nothing.
    fn config(args: Self::Args) -> Result<Self::Config, Failure>;
    /// Whether [`Reload::reload`] takes over what a flag says.
    fn takes(flag: &str) -> bool;
    /// Takes the configuration over, or fails and changes nothing.
    fn reload(&self, config: Self::Config) -> Result<(), Failure>;
    /// Counts what became of a configuration.
    fn count(&self, outcome: Outcome);
}

/// What is known of the configuration that holds.
#[derive(Debug)]
pub(super) struct Reloader {
    watch: Watch,
    holds: Given,
    log: Log,
}

/// A configuration that was read again.
struct Again<C> {
    given: Given,
    filter: Filter,
    config: C,
}

impl Reloader {
    /// Reads the command line once more, now that its files are known: what they say from then on is not missed.
    pub(super) fn new<R: Reload>(given: &Given, log: Log) -> Result<(Self, R::Args), Failure> {
        let mut watch = Watch::default();
        watch.follow(given);
        let Read { line, given } = line::<R>()?;
        Ok((Self { watch, holds: given, log }, line))
    }

    /// Files that starting has made are part of what it was started with.
    pub(super) fn made(&mut self, files: &[PathBuf]) {
        if !files.is_empty() {
            self.watch.made(files);
            self.holds.made(files);
        }
    }

    /// Takes over what changes, for ever.
    pub(super) async fn run<R: Reload>(mut self, running: &R, mut hangups: Hangups) -> Infallible {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                () = hangups.next() => true,
                _ = look.tick() => false,
            };
            // Files may be on a disk that does not answer.
            let (this, again) = blocking(move || {
                let again = (asked || self.watch.look()).then(|| self.again::<R>());
                (self, again)
            })
            .await;
            self = this;
            let Some(again) = again else { continue };
            let why = if asked { "SIGHUP" } else { "a file has changed" };
            match again.and_then(|again| self.take(again, running, why)) {
                Ok(outcome) => running.count(outcome),
                Err(refused) => {
                    tracing::error!(why, error = %refused, "the configuration was read again and is refused: the one before holds");
                    running.count(Outcome::Refused);
                }
            }
        }
    }

    fn again<R: Reload>(&mut self) -> Result<Again<R::Config>, Failure> {
        self.watch.settle();
        // Files are known from before they are read, those too that are named only now.
        self.watch.follow(&line::<R>()?.given);
        let Read { line, given } = line::<R>()?;
        let filter = R::log(&line).level.parse()?;
        Ok(Again { given, filter, config: R::config(line)? })
    }

    fn take<R: Reload>(
        &mut self,
        again: Again<R::Config>,
        running: &R,
        why: &str,
    ) -> Result<Outcome, Failure> {
        let Again { given, filter, config } = again;
        let changes = given.changes(&self.holds);
        let (taken, left): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|flag| flag == LOG_LEVEL || R::takes(flag));
        if taken.iter().any(|flag| flag != LOG_LEVEL) {
            running.reload(config)?;
        }
        let changed = taken.join(", ");
        if taken.is_empty() {
            tracing::info!(
                why,
                "the configuration was read again: nothing in it has changed that can be taken over"
            );
        } else {
            tracing::info!(why, changed, "the configuration was read again, and holds from now on");
        }
        if !left.is_empty() {
            tracing::warn!("needs a restart: {}", left.join(", "));
        }
        if taken.iter().any(|flag| flag == LOG_LEVEL) {
            self.log.replace(filter);
        }
        self.holds.adopt(&taken, &given);
        Ok(if taken.is_empty() { Outcome::Unchanged } else { Outcome::Applied })
    }
}

/// The command line with its environment and its file, as they are now.
fn line<R: Reload>() -> Result<Read<R::Args>, Failure> {
    let Read { line, given } = super::read()?;
    let line = R::args(line.command).ok_or_else(|| anyhow::anyhow!("this is not the command that runs"))?;
    Ok(Read { line, given })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // It is never aborted.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
