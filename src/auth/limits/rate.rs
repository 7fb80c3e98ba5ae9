//! How often something may be done: so many times a second by each, with a burst.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};
use tokio::time::Instant;

/// The most keys that are counted apart by one [`Rate`].
pub(super) const MAX_KEYS: usize = 65_536;

/// How long after keys were looked through for those that can be forgotten the next look may be taken. It bounds what a flood
/// of keys costs.
pub(super) const BETWEEN_SWEEPS: Duration = Duration::from_secs(1);

/// A limit on how often each of many callers does something. Callers are told apart by keys, of which at most [`MAX_KEYS`] are
/// remembered: whoever has not called for long enough is forgotten, and while there are more than that, all further ones
/// share one count, so that a flood of keys neither takes memory nor shakes the limit off.
pub(super) struct Rate<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, Store<K>, Since, NoOpMiddleware<Duration>>,
    max_keys: usize,
    swept: Mutex<Option<Instant>>,
}

impl<K: Hash + Eq + Clone> Rate<K> {
    /// At most `per_second` times a second, and `burst` times at once.
    pub(super) fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        Self::with_keys(per_second, burst, MAX_KEYS)
    }

    fn with_keys(per_second: NonZeroU32, burst: NonZeroU32, max_keys: usize) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let store = Store { max_keys, kept: Mutex::default() };
        let limiter = RateLimiter::new(quota, store, Since(Instant::now()));
        Self { limiter, max_keys, swept: Mutex::new(None) }
    }

    /// Counts once for `key`, if it may.
    ///
    /// # Errors
    /// [`TooOften`] when it may not; nothing is counted then.
    pub(super) fn check(&self, key: &K) -> Result<(), TooOften> {
        if self.limiter.len() >= self.max_keys {
            self.sweep();
        }
        let now = self.limiter.clock().now();
        self.limiter.check_key(key).map_err(|until| TooOften { wait: until.wait_time_from(now) })
    }

    /// How many keys are remembered.
    pub(super) fn len(&self) -> usize {
        self.limiter.len()
    }

    fn sweep(&self) {
        let now = Instant::now();
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.is_none_or(|last| now >= last + BETWEEN_SWEEPS) {
            *swept = Some(now);
            self.limiter.retain_recent();
        }
    }
}

impl<K: Hash + Eq + Clone> fmt::Debug for Rate<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rate").field("keys", &self.len()).finish_non_exhaustive()
    }
}

/// Something was done too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too often: try again in {} s", self.retry_after())]
pub(super) struct TooOften {
    /// How long until it may be done again.
    pub(super) wait: Duration,
}

impl TooOften {
    /// The seconds of a `Retry-After` field (RFC 9110 §10.2.3): 1 at least.
    pub(super) fn retry_after(&self) -> u64 {
        let whole = self.wait.as_secs() + u64::from(self.wait.subsec_nanos() > 0);
        whole.max(1)
    }
}

/// By what clients are told apart: an address of IPv4, or the first 64 bits of one of IPv6, of which a host has as many as it
/// likes.
pub(super) fn client_key(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

/// The time since a limit was made.
struct Since(Instant);

impl Clock for Since {
    type Instant = Duration;
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// When each key has used up what it may do, as governor counts it.
struct Store<K> {
    max_keys: usize,
    kept: Mutex<Kept<K>>,
}

struct Kept<K> {
    keys: HashMap<K, Nanos>,
    /// That of all who are too many.
    rest: Option<Nanos>,
}

impl<K> Default for Kept<K> {
    fn default() -> Self {
        Self { keys: HashMap::new(), rest: None }
    }
}

impl<K: Hash + Eq + Clone> StateStore for Store<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = kept.keys.get_mut(key) {
            let (outcome, new) = measure(Some(*state))?;
            *state = new;
            return Ok(outcome);
        }
        if kept.keys.len() < self.max_keys {
            let (outcome, new) = measure(None)?;
            kept.keys.insert(key.clone(), new);
            return Ok(outcome);
        }
        let (outcome, new) = measure(kept.rest)?;
        kept.rest = Some(new);
        Ok(outcome)
    }
}

impl<K: Hash + Eq + Clone> ShrinkableKeyedStateStore<K> for Store<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.keys.retain(|_, state| *state > drop_below);
    }

    fn len(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).keys.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32, burst: u32, keys: usize) -> Rate<u32> {
        Rate::with_keys(per_second.try_into().unwrap(), burst.try_into().unwrap(), keys)
    }

    /// How many of `times` are let through.
    fn passed(rate: &Rate<u32>, key: u32, times: usize) -> usize {
        (0..times).filter(|_| rate.check(&key).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_has_its_burst_and_then_its_rate() {
        let rate = rate(10, 5, 100);
        assert_eq!(passed(&rate, 1, 50), 5);
        assert_eq!(passed(&rate, 2, 50), 5);
        let refused = rate.check(&1).unwrap_err();
        assert_eq!((refused.wait, refused.retry_after()), (Duration::from_millis(100), 1));
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(passed(&rate, 1, 50), 2);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(passed(&rate, 1, 50), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_keys_takes_no_memory_and_shakes_no_limit_off() {
        let rate = rate(1, 2, 100);
        assert_eq!(passed(&rate, 0, 9), 2);
        // Every one of them is new; those beyond the bound share one count.
        let through: usize = (1..10_000).map(|key| passed(&rate, key, 1)).sum();
        assert_eq!((through, rate.len()), (99 + 2, 100));
        assert_eq!(passed(&rate, 0, 9), 0, "whoever was limited stays so");
        // Once they have been silent for long enough they are forgotten, and there is room again.
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(passed(&rate, 77_777, 9), 2);
        assert_eq!(rate.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_not_looked_through_more_than_once_a_second() {
        let rate = rate(1000, 1, 10);
        (0..10).for_each(|key| assert!(rate.check(&key).is_ok()));
        assert!(rate.check(&10).is_ok(), "it has the shared count to itself");
        tokio::time::advance(Duration::from_millis(500)).await;
        // The others could be forgotten by now, but the last look was half a second ago.
        assert!(rate.check(&11).is_ok());
        assert_eq!(rate.len(), 10);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert!(rate.check(&12).is_ok());
        assert_eq!(rate.len(), 1);
    }

    #[test]
    fn the_wait_is_told_in_whole_seconds() {
        for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            assert_eq!(TooOften { wait: Duration::from_millis(millis) }.retry_after(), seconds);
        }
    }

    #[test]
    fn a_host_of_ipv6_is_one_client() {
        let key = |text: &str| client_key(text.parse().unwrap()).to_string();
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(key("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(key("192.0.2.1"), "192.0.2.1");
    }
}
