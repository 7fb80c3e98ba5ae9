//! When keys are fetched. Pure: the time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::Settings;

/// The longest wait after a failure.
const MAX_RETRY: Duration = Duration::from_secs(60);

/// When the next fetch is due, and whether one may be made before.
#[derive(Debug)]
pub(super) struct Schedule {
    settings: Settings,
    due: Instant,
    last: Option<Instant>,
    failures: u32,
}

impl Schedule {
    /// The first fetch is due at once.
    pub(super) fn new(settings: Settings, now: Instant) -> Self {
        Self { settings, due: now, last: None, failures: 0 }
    }

    /// When the next fetch is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Whether a fetch may be made now because somebody has shown a key that is not known.
    pub(super) fn may_be_asked(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now >= last + self.settings.between)
    }

    /// A fetch begins.
    pub(super) fn began(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// A fetch has succeeded. The keys are fresh for as long as the source `said`, within bounds; the next fetch is made ahead
    /// of that, after 70 to 90 hundredths of it by a random `dice` from 0 to 1, so that nodes do not come all at once.
    pub(super) fn succeeded(&mut self, now: Instant, said: Option<Duration>, dice: f64) {
        let Settings { lifetime, shortest, longest, .. } = self.settings;
        let fresh = said.unwrap_or(lifetime).clamp(shortest, longest.max(shortest));
        self.failures = 0;
        self.due = now + fresh.mul_f64(0.7 + 0.2 * dice.clamp(0.0, 1.0));
    }

    /// A fetch has failed. The next is made soon, and later with each failure in a row.
    pub(super) fn failed(&mut self, now: Instant) {
        let wait = self.settings.retry.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        self.due = now + wait.min(MAX_RETRY);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn start() -> (Schedule, Instant) {
        let now = Instant::now();
        (Schedule::new(Settings::default(), now), now)
    }

    #[test]
    fn what_the_source_says_counts_within_bounds_and_is_not_exhausted() {
        let (mut schedule, now) = start();
        assert_eq!(schedule.due(), now);
        for (said, dice, expected) in [
            (None, 0.0, 2520 * S),
            (None, 1.0, 3240 * S),
            (Some(600 * S), 0.0, 420 * S),
            (Some(Duration::ZERO), 0.0, 42 * S),
            (Some(Duration::MAX), 0.0, 60480 * S),
        ] {
            schedule.succeeded(now, said, dice);
            let wait = (schedule.due() - now).as_millis();
            assert!(wait.abs_diff(expected.as_millis()) <= 1, "{said:?}: {wait} ms");
        }
    }

    #[test]
    fn failures_are_followed_sooner_and_then_later() {
        let (mut schedule, now) = start();
        let mut waits = Vec::new();
        for _ in 0..9 {
            schedule.failed(now);
            waits.push((schedule.due() - now).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        schedule.succeeded(now, None, 0.0);
        schedule.failed(now);
        assert_eq!(schedule.due(), now + S);
    }

    proptest! {
        /// Whatever is asked and whenever, no more fetches are made on demand than one in `between`.
        #[test]
        fn a_flood_of_unknown_keys_makes_few_fetches(gaps in proptest::collection::vec(0..2000_u64, 1..400)) {
            let (mut schedule, start) = start();
            schedule.began(start);
            let (mut now, mut fetches) = (start, 0);
            for gap in gaps {
                now += Duration::from_millis(gap);
                if schedule.may_be_asked(now) {
                    schedule.began(now);
                    fetches += 1;
                }
            }
            prop_assert!(fetches <= (now - start).as_secs() / Settings::default().between.as_secs());
        }
    }
}
