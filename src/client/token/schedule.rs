//! When a token is got. Pure: the time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::super::Backoff;

/// The longest that a token is left alone. It bounds what a claim can say.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How long to wait before another try, where the last one gave no token that will do.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(2), longest: Duration::from_secs(60) };

/// When the next token is due.
#[derive(Debug)]
pub(super) struct Schedule {
    /// How often to look for another one all the while.
    look: Option<Duration>,
    /// The last try.
    last: Option<Instant>,
    /// From when on another token is needed.
    due: Option<Instant>,
    /// When to try once more, after one that came to nothing.
    again: Option<Instant>,
    /// In a row, of tries that gave none, or the same one where another was needed.
    failures: u32,
    /// In a row, of tokens that a node has refused.
    refusals: u32,
    /// The present token is one of these.
    refused: bool,
}

impl Schedule {
    pub(super) fn new(look: Option<Duration>) -> Self {
        Self { look, last: None, due: None, again: None, failures: 0, refusals: 0, refused: false }
    }

    /// When to try next; never before the first try, which a link asks for.
    pub(super) fn next(&self) -> Option<Instant> {
        let look = self.last.zip(self.look).map(|(last, look)| last + look);
        [look, self.again.or(self.due)].into_iter().flatten().min()
    }

    /// Whether another token is needed now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Whether the present token will do for one more link without asking for another.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.look.is_none() && self.due.is_some_and(|due| now < due)
    }

    /// Whether a node has refused the present token.
    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }

    /// There is another token, which lives so long, if it ends at all. The one after it is due after 80 to 90 hundredths of
    /// that, by a random `dice` from 0 to 1, so that agents do not come all at once.
    pub(super) fn renewed(&mut self, now: Instant, life: Option<Duration>, dice: f64) {
        if !self.refused {
            self.refusals = 0;
        }
        self.due = life.map(|life| now + life.min(LONGEST).mul_f64(0.8 + 0.1 * dice.clamp(0.0, 1.0)));
        (self.last, self.again, self.failures, self.refused) = (Some(now), None, 0, false);
    }

    /// A try has given the same token as before, and no other is needed yet.
    pub(super) fn looked(&mut self, now: Instant) {
        (self.last, self.again, self.failures) = (Some(now), None, 0);
    }

    /// A try has given no token, or the same as before where another is needed. The next one comes after a while.
    pub(super) fn failed(&mut self, now: Instant, dice: f64) {
        (self.last, self.again) = (Some(now), Some(now + AGAIN.wait(self.failures, dice)));
        self.failures += 1;
    }

    /// A node has refused the present token: another one is needed, though not at once each time.
    pub(super) fn refused(&mut self, now: Instant, dice: f64) {
        if !self.refused {
            (self.due, self.again) = (Some(now), Some(now + AGAIN.wait(self.refusals, dice)));
            self.refusals += 1;
            self.refused = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// In how many seconds the next try is.
    fn next(schedule: &Schedule, now: Instant) -> Option<u64> {
        schedule.next().map(|next| (next - now).as_secs())
    }

    #[test]
    fn a_token_is_renewed_ahead_of_its_end() {
        let (mut schedule, now) = (Schedule::new(None), Instant::now());
        assert_eq!((schedule.next(), schedule.is_fresh(now)), (None, false));
        for (dice, due) in [(0.0, 80), (0.5, 85), (1.0, 90)] {
            schedule.renewed(now, Some(100 * S), dice);
            assert_eq!(next(&schedule, now), Some(due));
            assert!(schedule.is_fresh(now) && !schedule.is_fresh(now + 90 * S));
            assert!(!schedule.is_due(now) && schedule.is_due(now + 90 * S));
        }
        schedule.renewed(now, Some(Duration::MAX), 1.0);
        assert_eq!(next(&schedule, now), Some(24 * 3600 * 9 / 10));
        schedule.renewed(now, Some(Duration::ZERO), 1.0);
        assert!(schedule.is_due(now));
        schedule.renewed(now, None, 1.0);
        assert_eq!((schedule.next(), schedule.is_fresh(now)), (None, false), "each link asks");
    }

    #[test]
    fn a_try_that_fails_is_repeated_after_longer_and_longer() {
        let (mut schedule, mut now) = (Schedule::new(None), Instant::now());
        schedule.renewed(now, Some(100 * S), 0.0);
        now += 80 * S;
        for wait in [2, 4, 8, 16, 32, 60, 60] {
            schedule.failed(now, 1.0);
            assert_eq!(next(&schedule, now), Some(wait));
            now += wait as u32 * S;
        }
        schedule.renewed(now, Some(10 * S), 0.0);
        now += 8 * S;
        schedule.failed(now, 1.0);
        assert_eq!(next(&schedule, now), Some(2));
        let mut never = Schedule::new(None);
        never.failed(now, 1.0);
        assert_eq!(next(&never, now), Some(2), "there was never one");
    }

    #[test]
    fn a_source_that_may_be_looked_at_is() {
        let (mut schedule, mut now) = (Schedule::new(Some(3 * S)), Instant::now());
        schedule.renewed(now, Some(100 * S), 0.0);
        for _ in 0..5 {
            assert_eq!((next(&schedule, now), schedule.is_fresh(now)), (Some(3), false));
            now += 3 * S;
            schedule.looked(now);
        }
        schedule.failed(now, 0.5);
        assert_eq!(next(&schedule, now), Some(1), "it is not there just now");
        schedule.looked(now);
        assert_eq!(next(&schedule, now), Some(3));
        schedule.renewed(now, Some(S), 0.0);
        assert_eq!(next(&schedule, now), Some(0), "it is due before the next look");
    }

    #[test]
    fn a_token_that_is_refused_has_another_be_got_and_each_such_takes_longer() {
        let (mut schedule, mut now) = (Schedule::new(None), Instant::now());
        for wait in [2, 4, 8, 16, 32, 60, 60] {
            schedule.renewed(now, Some(1000 * S), 0.0);
            schedule.refused(now, 1.0);
            schedule.refused(now, 1.0);
            assert_eq!((next(&schedule, now), schedule.is_fresh(now)), (Some(wait), false));
            assert!(schedule.is_refused() && schedule.is_due(now));
            now += wait as u32 * S;
        }
        schedule.renewed(now, Some(1000 * S), 0.0);
        schedule.renewed(now, Some(1000 * S), 0.0);
        schedule.refused(now, 1.0);
        assert_eq!(next(&schedule, now), Some(2), "one was taken meanwhile");
    }
}
