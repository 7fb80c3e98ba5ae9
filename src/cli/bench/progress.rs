//! A bar while it runs, on a terminal alone.

use std::{
    future::Future,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::load::{Plan, Recorder};

/// How often it moves.
const TICK: Duration = Duration::from_millis(200);

/// The bar of one run. It vanishes with it.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    prefix: String,
}

impl Progress {
    pub(super) fn new(run: u32, runs: u32) -> Self {
        let prefix = if runs > 1 { format!("run {run} of {runs}: ") } else { String::new() };
        // It draws on standard error, and nothing where that is no terminal.
        let bar = ProgressBar::new(1000);
        let style = ProgressStyle::with_template("{msg:40} [{bar:30}] {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        Self { bar, prefix }
    }

    /// What is being done.
    pub(super) fn says(&self, what: &str) {
        self.bar.set_message(format!("{}{what}", self.prefix));
    }

    /// Says something that stays, also where there is no terminal.
    pub(super) fn notes(&self, what: &str) {
        self.bar.suspend(|| drop(writeln!(io::stderr().lock(), "adit: {what}")));
    }

    /// The share and the word of a run of so many of something that goes by a plan.
    pub(super) fn of(
        &self,
        what: &str,
        recorder: &Recorder,
        plan: &Plan,
        elapsed: Duration,
    ) -> (f64, String) {
        let (good, failed) = recorder.counts();
        let by_count = plan.requests.map(|requests| (good + failed) as f64 / requests as f64);
        let by_time = plan.duration.map(|duration| elapsed.as_secs_f64() / duration.as_secs_f64());
        let rate = good as f64 / elapsed.as_secs_f64().max(0.001);
        let failed = if failed > 0 { format!(", {failed} FAILED") } else { String::new() };
        (by_count.or(by_time).unwrap_or(0.0), format!("{good} {what}, {rate:.0}/s{failed}"))
    }

    /// Does something while its share of all and its word are shown.
    pub(super) async fn during<T>(
        &self,
        work: impl Future<Output = T>,
        mut now: impl FnMut(Duration) -> (f64, String),
    ) -> T {
        let started = Instant::now();
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => {
                    let (share, says) = now(started.elapsed());
                    self.bar.set_position((share.clamp(0.0, 1.0) * 1000.0) as u64);
                    self.says(&says);
                }
            }
        }
    }

    /// Waits, and shows how much of that is over.
    pub(super) async fn wait(&self, time: Duration, says: &str) {
        let share = |elapsed: Duration| (elapsed.as_secs_f64() / time.as_secs_f64(), says.to_owned());
        self.during(tokio::time::sleep(time), share).await;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
