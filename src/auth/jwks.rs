//! Keys that are kept up to date: a JWK Set that one task fetches ahead of its end, and at once when a token names a key that
//! is not in it. Readers take no lock.
//!
//! What does not come, or is no set, changes nothing: the last good one is kept for as long as it takes.

mod schedule;
mod sets;
mod source;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::KeySet;
use crate::{
    drain::Tasks,
    telemetry::{self, Metrics},
};
use schedule::Schedule;
pub use sets::Sets;
use source::{FetchError, Fetched};
pub use source::{InvalidSource, Source};

/// How often a set is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long a set is fresh when its source does not say.
    pub lifetime: Duration,
    /// The shortest time for which it is taken to be fresh, whatever the source says.
    pub shortest: Duration,
    /// The longest.
    pub longest: Duration,
    /// At most one fetch in this time is made for keys that are not known.
    pub between: Duration,
    /// How long one fetch may take.
    pub timeout: Duration,
    /// The wait after a failure, twice as long after each further one, up to a minute.
    pub retry: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(60 * 60),
            shortest: Duration::from_secs(60),
            longest: Duration::from_secs(24 * 60 * 60),
            between: Duration::from_secs(10),
            timeout: Duration::from_secs(10),
            retry: Duration::from_secs(1),
        }
    }
}

/// What is counted of all sources of a process.
#[derive(Debug, Clone)]
pub struct JwksCounters(Family<Labels, Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

impl JwksCounters {
    /// Registers them, once in a process.
    pub fn new(metrics: &Metrics) -> Self {
        let fetches = Family::default();
        metrics.register(|registry| {
            registry.register("jwks_fetches", "Fetches of JWK Sets, by outcome", fetches.clone());
        });
        Self(fetches)
    }

    fn count(&self, outcome: &'static str) {
        self.0.get_or_create(&Labels { outcome }).inc();
    }
}

/// A set of keys that is kept up to date until the last clone of this is dropped.
#[derive(Debug, Clone)]
pub struct Jwks {
    shared: Arc<Shared>,
    _stop: Arc<DropGuard>,
}

#[derive(Debug, Default)]
struct Shared {
    keys: ArcSwapOption<KeySet>,
    asked: Notify,
    /// Counts what was done about being asked: a fetch that has ended, or none because the last was a moment ago.
    answers: watch::Sender<u64>,
}

impl Jwks {
    /// The longest that a caller waits for newer keys.
    pub const PATIENCE: Duration = Duration::from_secs(3);

    /// Fetches the set at once and from then on, in a task that ends with `tasks` or with the last clone.
    pub fn start(source: Source, settings: Settings, counters: JwksCounters, tasks: &Tasks) -> Self {
        let settings = source.settings(settings);
        let shared = Arc::new(Shared::default());
        let stop = CancellationToken::new();
        let keeper = Keeper {
            schedule: Schedule::new(settings, Instant::now()),
            shared: Arc::clone(&shared),
            source,
            settings,
            counters,
            failing: false,
        };
        let (ended, signal) = (stop.clone(), tasks.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = signal.signalled() => {}
                () = keeper.run() => {}
            }
        });
        Self { shared, _stop: Arc::new(stop.drop_guard()) }
    }

    /// The newest good set; nothing until there has been one.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.shared.keys.load_full()
    }

    /// Asks for a newer set, and waits until it has come, cannot be had, or is refused because one was fetched a moment ago;
    /// for [`Jwks::PATIENCE`] at most. All who ask meanwhile share one fetch. Cancel safe.
    pub async fn renewed(&self) {
        let mut answers = self.shared.answers.subscribe();
        self.shared.asked.notify_one();
        // What came is for the caller to look at, and whether it did.
        let _ = tokio::time::timeout(Self::PATIENCE, answers.changed()).await;
    }
}

/// The owner of a source.
struct Keeper {
    source: Source,
    settings: Settings,
    schedule: Schedule,
    shared: Arc<Shared>,
    counters: JwksCounters,
    failing: bool,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(self.schedule.due()) => self.fetch().await,
                () = self.shared.asked.notified() => {
                    if self.schedule.may_be_asked(Instant::now()) {
                        self.fetch().await;
                    }
                }
            }
            self.shared.answers.send_modify(|answers| *answers += 1);
        }
    }

    async fn fetch(&mut self) {
        self.schedule.began(Instant::now());
        let limit = self.settings.timeout;
        let fetched = tokio::time::timeout(limit, self.source.fetch()).await;
        match fetched.unwrap_or(Err(FetchError::Timeout(limit))) {
            Ok(Fetched { keys, fresh }) => {
                self.counters.count("fetched");
                if std::mem::take(&mut self.failing) {
                    tracing::info!(source = %self.source, "the keys that verify tokens can be had again");
                }
                tracing::debug!(source = %self.source, keys = keys.len(), "keys fetched");
                self.shared.keys.store(Some(Arc::new(keys)));
                self.schedule.succeeded(Instant::now(), fresh, rand::random());
            }
            Err(error) => {
                self.counters.count("failed");
                let reason = telemetry::report(&error);
                // Once, however long it lasts; the counter has all.
                if !std::mem::replace(&mut self.failing, true) {
                    let kept = self.shared.keys.load().is_some();
                    let so = if kept { "the last ones are used on" } else { "no token can be verified" };
                    tracing::warn!(source = %self.source, %reason, "the keys that verify tokens cannot be had: {so}");
                } else {
                    tracing::debug!(source = %self.source, %reason, "keys could not be fetched again");
                }
                self.schedule.failed(Instant::now());
            }
        }
    }
}
