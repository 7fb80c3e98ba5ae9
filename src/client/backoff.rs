//! How long to wait before the next attempt: exponential, with full jitter, so that a thousand agents that lost their node
//! at once do not come back at once.

use std::time::Duration;

/// A range of waits. The longest wait doubles from `first` to `longest` with each failure; each wait is a random part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait after the first failure.
    pub first: Duration,
    /// The longest wait of all.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), longest: Duration::from_secs(15) }
    }
}

impl Backoff {
    /// The wait after this many failures in a row before the present one, for a random `dice` from 0 to 1.
    pub fn wait(&self, failures: u32, dice: f64) -> Duration {
        let longest = self.first.saturating_mul(1 << failures.min(20)).min(self.longest);
        longest.mul_f64(dice.clamp(0.0, 1.0))
    }

    /// The same beyond `first`, for what is not to be asked at once even by chance.
    pub(super) fn wait_longer(&self, failures: u32, dice: f64) -> Duration {
        self.first + self.wait(failures, dice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_spread_over_all_of_it() {
        let backoff = Backoff::default();
        let ms = |failures, dice| backoff.wait(failures, dice).as_millis();
        assert_eq!([ms(0, 1.0), ms(1, 1.0), ms(2, 1.0), ms(7, 1.0)], [100, 200, 400, 12_800]);
        assert_eq!([ms(8, 1.0), ms(100, 1.0), ms(u32::MAX, 1.0)], [15_000; 3]);
        assert_eq!([ms(3, 0.0), ms(3, 0.5)], [0, 400]);
        let longer = |failures, dice| backoff.wait_longer(failures, dice).as_millis();
        assert_eq!([longer(0, 0.0), longer(0, 1.0), longer(100, 1.0)], [100, 200, 15_100]);
    }
}
