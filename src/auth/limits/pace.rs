//! How fast callers may pass bytes on, each at a rate of its own, and the pace of one flow, which keeps to all of its callers'.

use std::{
    collections::HashMap,
    hash::Hash,
    num::NonZeroU64,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    bytes::ByteRate,
    rate::{BETWEEN_SWEEPS, MAX_KEYS},
};

/// A rate for each of many callers, of which at most [`MAX_KEYS`] are remembered: whoever has passed nothing on for long enough
/// is forgotten, and while there are more than that, all further ones share one rate.
#[derive(Debug)]
pub(super) struct ByteRates<K> {
    per_second: NonZeroU64,
    max_keys: usize,
    kept: Mutex<Kept<K>>,
}

#[derive(Debug)]
struct Kept<K> {
    rates: HashMap<K, Arc<ByteRate>>,
    /// That of all who are too many.
    rest: Arc<ByteRate>,
    swept: Option<Instant>,
}

impl<K: Hash + Eq> ByteRates<K> {
    pub(super) fn new(per_second: NonZeroU64) -> Self {
        Self::with_keys(per_second, MAX_KEYS)
    }

    fn with_keys(per_second: NonZeroU64, max_keys: usize) -> Self {
        let rest = Arc::new(ByteRate::new(per_second));
        Self { per_second, max_keys, kept: Mutex::new(Kept { rates: HashMap::new(), rest, swept: None }) }
    }

    /// The rate of a caller, which all of its flows share.
    pub(super) fn of(&self, key: K, now: Instant) -> Arc<ByteRate> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rate) = kept.rates.get(&key) {
            return Arc::clone(rate);
        }
        if kept.rates.len() >= self.max_keys && kept.swept.is_none_or(|last| now >= last + BETWEEN_SWEEPS) {
            kept.swept = Some(now);
            kept.rates.retain(|_, rate| Arc::strong_count(rate) > 1 || !rate.is_rested(now));
        }
        if kept.rates.len() >= self.max_keys {
            return Arc::clone(&kept.rest);
        }
        let rate = Arc::new(ByteRate::new(self.per_second));
        kept.rates.insert(key, Arc::clone(&rate));
        rate
    }
}

/// How fast one flow may pass bytes on. Clones are the same one. By default, as fast as it can.
#[derive(Debug, Clone, Default)]
pub struct Pace(Option<Arc<Rates>>);

#[derive(Debug)]
struct Rates {
    callers: Vec<Arc<ByteRate>>,
    /// That of the agent which serves it, once there is one.
    server: Mutex<Option<Arc<ByteRate>>>,
}

impl Pace {
    /// At the slowest of these rates, and of that of the agent that will serve it, if agents have rates.
    pub(super) fn new(callers: Vec<Arc<ByteRate>>, agents_have: bool) -> Self {
        let rates = Rates { callers, server: Mutex::default() };
        Self((agents_have || !rates.callers.is_empty()).then(|| Arc::new(rates)))
    }

    /// What [`Pace::passed`] is, for whoever knows no paces; nothing where there is no limit to it.
    pub fn waits(&self) -> Option<impl Fn(usize) -> Duration + Send + Sync + use<>> {
        let this = Some(self.clone()).filter(|this| this.0.is_some())?;
        Some(move |bytes| this.passed(bytes))
    }

    #[cfg(test)]
    pub(super) fn is_free(&self) -> bool {
        self.0.is_none()
    }

    /// An agent serves it, in the place of the one before.
    pub(super) fn served_at(&self, rate: Option<Arc<ByteRate>>) {
        if let Some(rates) = &self.0 {
            *rates.server.lock().unwrap_or_else(PoisonError::into_inner) = rate;
        }
    }

    /// Counts `bytes` that were passed on: how long to wait before the next are. None at all tells how long those that passed
    /// before have left to wait.
    pub fn passed(&self, bytes: usize) -> Duration {
        let Some(rates) = &self.0 else { return Duration::ZERO };
        let now = Instant::now();
        let server = rates.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        rates.callers.iter().chain(&server).map(|rate| rate.passed(bytes, now)).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rates(keys: usize) -> ByteRates<usize> {
        ByteRates::with_keys(NonZeroU64::new(1000).unwrap(), keys)
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_flow_passes_on_the_next_of_the_same_caller_waits_for() {
        let rates = rates(9);
        let pace = |key| Pace::new(vec![rates.of(key, Instant::now())], false);
        assert_eq!(pace(1).passed(3000), 2 * SECOND);
        tokio::time::advance(SECOND).await;
        assert_eq!((pace(1).passed(0), pace(2).passed(0)), (SECOND, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_rate_is_kept_to() {
        let (slow, fast) = (rates(9), ByteRates::new(NonZeroU64::new(10_000).unwrap()));
        let now = Instant::now();
        let pace = Pace::new(vec![fast.of(1, now)], true);
        assert_eq!(pace.passed(10_000), Duration::ZERO);
        pace.served_at(Some(slow.of(1, now)));
        assert_eq!(pace.passed(10_000), 9 * SECOND);
        pace.served_at(None);
        assert_eq!(pace.passed(0), SECOND);
        assert!(Pace::new(Vec::new(), false).is_free() && Pace::default().is_free());
        assert_eq!(Pace::default().passed(usize::MAX), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_callers_takes_no_memory_and_shakes_no_rate_off() {
        let rates = rates(10);
        let pass = |key| rates.of(key, Instant::now()).passed(2000, Instant::now());
        assert!((0..10).all(|key| pass(key) == SECOND));
        assert_eq!((pass(10), pass(11)), (SECOND, 3 * SECOND), "these share one");
        assert_eq!(pass(0), 3 * SECOND, "whoever was limited stays so");
        tokio::time::advance(3 * SECOND).await;
        let held = rates.of(1, Instant::now());
        assert_eq!(pass(12), SECOND, "those that have rested are forgotten");
        assert!(rates.kept.lock().unwrap().rates.len() < 10);
        assert!(Arc::ptr_eq(&held, &rates.of(1, Instant::now())), "and not those that are in use");
    }
}
