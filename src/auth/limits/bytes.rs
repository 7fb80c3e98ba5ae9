//! How many bytes a second something may pass on. Pure: the time is an argument.

use std::{
    num::NonZeroU64,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A limit on bytes a second. What is passed on is counted afterwards and whole, however large it was, and whoever passed it
/// on waits until the debt is paid: nothing is ever cut or dropped for it. It saves up one second's worth while nothing passes.
#[derive(Debug)]
pub(super) struct ByteRate {
    per_second: NonZeroU64,
    /// The moment at which the debt is paid.
    paid: Mutex<Option<Instant>>,
}

impl ByteRate {
    /// What is saved up at most.
    const BURST: Duration = Duration::from_secs(1);

    /// At most so many bytes a second.
    pub(super) fn new(per_second: NonZeroU64) -> Self {
        Self { per_second, paid: Mutex::new(None) }
    }

    /// Counts `bytes` that were passed on at `now`: how long to wait before the next are.
    pub(super) fn passed(&self, bytes: usize, now: Instant) -> Duration {
        let cost = Duration::from_secs_f64(bytes as f64 / self.per_second.get() as f64);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        // Before there is a debt, there is what has been saved up.
        let saved = now.checked_sub(Self::BURST).unwrap_or(now);
        let due = paid.map_or(saved, |paid| paid.max(saved)) + cost;
        *paid = Some(due);
        due.saturating_duration_since(now)
    }

    /// Whether all that can be saved up has been, so that it can be forgotten.
    pub(super) fn is_rested(&self, now: Instant) -> bool {
        let paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        paid.is_none_or(|paid| paid + Self::BURST <= now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_second: u64) -> ByteRate {
        ByteRate::new(per_second.try_into().unwrap())
    }

    #[test]
    fn a_seconds_worth_passes_at_once_and_the_rest_at_the_rate() {
        let (rate, now) = (rate(1000), Instant::now() + Duration::from_secs(60));
        assert_eq!(rate.passed(1000, now), Duration::ZERO);
        assert_eq!(rate.passed(500, now), Duration::from_millis(500));
        assert_eq!(rate.passed(5000, now), Duration::from_millis(5500));
        let later = now + Duration::from_secs(60);
        assert_eq!(rate.passed(1000, later), Duration::ZERO, "no more than a second's worth is saved up");
        assert_eq!(rate.passed(1, later), Duration::from_millis(1));
    }

    proptest! {
        /// Whatever the sizes, whoever heeds the waits stays below the rate but for the burst.
        #[test]
        fn the_rate_holds_over_time(sizes in proptest::collection::vec(1..100_000_usize, 1..100)) {
            let (rate, start) = (rate(10_000), Instant::now() + Duration::from_secs(60));
            let (mut now, mut total) = (start, 0);
            for size in &sizes {
                total += size;
                now += rate.passed(*size, now);
            }
            let allowed = 10_000.0 * ((now - start).as_secs_f64() + 1.0);
            prop_assert!(total as f64 <= allowed * 1.000_001, "{total} in {:?}", now - start);
        }
    }
}
