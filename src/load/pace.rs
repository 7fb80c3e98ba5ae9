//! When the next request is due, and when there are no more.
//!
//! Without a rate (a closed loop) each client asks again as soon as it has its answer: a service that stands still is then
//! asked nothing, and the wait that others would have had is seen by nobody. With a rate (an open loop) request `n` is due
//! `n / rate` after the start, whatever became of those before it, and its latency counts from then: what waits for a free
//! client waits on the clock. That is the cure for coordinated omission.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// How much is asked, and how fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// So many requests at most.
    pub requests: Option<u64>,
    /// For so long: nothing that is due later is sent.
    pub duration: Option<Duration>,
    /// So many a second, above 0; as fast as the clients can where it is `None`.
    pub rate: Option<f64>,
}

/// One request's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Counts from 0.
    pub number: u64,
    /// When it is to be sent, and from when its latency counts.
    pub due: Instant,
}

/// Hands out the turns of one run to any number of clients.
#[derive(Debug)]
pub struct Pace {
    plan: Plan,
    start: Instant,
    taken: AtomicU64,
}

impl Pace {
    /// A run that begins at `start`.
    pub fn new(plan: Plan, start: Instant) -> Self {
        Self { plan, start, taken: AtomicU64::new(0) }
    }

    /// The rate, if there is one.
    pub fn rate(&self) -> Option<f64> {
        self.plan.rate
    }

    /// When the run began.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// The next turn, for a client that is free `now`; `None` when there are no more. What was due and had no client after
    /// twice the duration is given up, and is in [`Pace::unsent`].
    pub fn next(&self, now: Instant) -> Option<Ticket> {
        let elapsed = now.saturating_duration_since(self.start);
        if self.plan.duration.is_some_and(|duration| match self.plan.rate {
            None => elapsed >= duration,
            Some(_) => elapsed >= duration * 2,
        }) {
            return None;
        }
        let planned = self.planned();
        // Only one that is below the end is counted, so that the count says what was handed out.
        let taken = self.taken.fetch_update(Relaxed, Relaxed, |taken| {
            planned.is_none_or(|planned| taken < planned).then_some(taken + 1)
        });
        let number = taken.ok()?;
        let due = match self.plan.rate {
            Some(rate) => self.start + Duration::from_secs_f64(number as f64 / rate),
            None => now,
        };
        Some(Ticket { number, due })
    }

    /// How many there are to be, where that is known before the end.
    pub fn planned(&self) -> Option<u64> {
        let by_time = self.plan.duration.zip(self.plan.rate);
        let by_time = by_time.map(|(duration, rate)| (duration.as_secs_f64() * rate).ceil() as u64);
        match (self.plan.requests, by_time) {
            (Some(requests), Some(by_time)) => Some(requests.min(by_time)),
            (requests, by_time) => requests.or(by_time),
        }
    }

    /// How many have been handed out.
    pub fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// At the end: how many of those that were due at a rate no client was free for.
    pub fn unsent(&self) -> u64 {
        match (self.plan.rate, self.planned()) {
            (Some(_), Some(planned)) => planned.saturating_sub(self.taken()),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn plan(requests: Option<u64>, seconds: Option<u64>, rate: Option<f64>) -> (Pace, Instant) {
        let start = Instant::now();
        (Pace::new(Plan { requests, duration: seconds.map(Duration::from_secs), rate }, start), start)
    }

    #[test]
    fn a_closed_loop_is_due_when_a_client_is_free_and_ends_by_count_or_time() {
        let (pace, start) = plan(Some(2), None, None);
        let later = start + SECOND;
        assert_eq!(pace.next(later), Some(Ticket { number: 0, due: later }));
        assert_eq!(pace.next(later).map(|ticket| ticket.number), Some(1));
        assert_eq!(pace.next(later), None);
        assert_eq!((pace.taken(), pace.unsent()), (2, 0));

        let (pace, start) = plan(None, Some(1), None);
        assert!(pace.next(start + SECOND / 2).is_some());
        assert_eq!(pace.next(start + SECOND), None);
        assert_eq!((pace.planned(), pace.taken()), (None, 1));
    }

    #[test]
    fn an_open_loop_is_due_by_the_clock_alone() {
        let (pace, start) = plan(None, Some(2), Some(10.0));
        assert_eq!(pace.planned(), Some(20));
        let due: Vec<_> = (0..3).map(|_| pace.next(start + SECOND).unwrap().due - start).collect();
        assert_eq!(due, [Duration::ZERO, SECOND / 10, SECOND / 5]);
        // Late, yet within twice the time: it is sent all the same.
        assert!(pace.next(start + SECOND * 3).is_some());
        assert_eq!(pace.next(start + SECOND * 4), None);
        assert_eq!(pace.unsent(), 16);
    }
}
