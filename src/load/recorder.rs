//! What happened to the requests of one run: latencies, counts over time, errors by kind.
//!
//! All clients of a run share one recorder. A lock for each answer costs some 20 ns, which a histogram for each client and
//! their sum at the end would cost many times over in memory caches.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::report::{Latency, Slot};

/// Latencies are told apart down to this, in nanoseconds, and by three digits above it.
const LOWEST: u64 = 100;
/// Longer ones, in nanoseconds, count as this: ten minutes.
const HIGHEST: u64 = 600_000_000_000;
/// The length of a slot of the timeline while it is recorded.
const SLOT: Duration = Duration::from_millis(100);
/// Slots at most, an hour of them; what comes later counts in the last.
const SLOTS: usize = 36_000;
/// Kinds of errors that are told apart; all others count as one more.
const KINDS: usize = 32;
/// Of the timeline, when it is told.
const POINTS: usize = 120;

/// Notes what happens, from any number of clients.
#[derive(Debug)]
pub struct Recorder {
    start: Instant,
    record: Mutex<Record>,
}

#[derive(Debug)]
struct Record {
    latency: Histogram<u64>,
    slots: Vec<(u64, u64)>,
    errors: BTreeMap<String, u64>,
    failed: u64,
    bytes: u64,
    last: Instant,
    window: Window,
}

/// What happened since it was last asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// How many were answered as they should be.
    pub good: u64,
    /// How many failed.
    pub failed: u64,
    /// When the last one failed.
    pub last_failed: Option<Instant>,
    /// The longest latency of those that were good.
    pub slowest: Duration,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    /// Answered as they should be.
    pub good: u64,
    /// The rest.
    pub failed: u64,
    /// Of what was answered, in bytes, as [`Recorder::good`] was told.
    pub bytes: u64,
    /// From the start to the last outcome.
    pub elapsed: Duration,
    /// Of those that were good; `None` when there are none.
    pub latency: Option<Latency>,
    /// Rate over time.
    pub timeline: Vec<Slot>,
    /// How many failed, by kind.
    pub errors: BTreeMap<String, u64>,
}

impl Recorder {
    /// For a run that begins at `start`.
    pub fn new(start: Instant) -> Self {
        let latency = Histogram::new_with_bounds(LOWEST, HIGHEST, 3).expect("the bounds are in order");
        let record = Record {
            latency,
            slots: Vec::with_capacity(1024),
            errors: BTreeMap::new(),
            failed: 0,
            bytes: 0,
            last: start,
            window: Window::default(),
        };
        Self { start, record: Mutex::new(record) }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer that is as it should be and carried so many bytes, to what was due and what came `now`.
    pub fn good(&self, due: Instant, now: Instant, bytes: u64) {
        let latency = now.saturating_duration_since(due).as_nanos().min(u128::from(HIGHEST)) as u64;
        let slot = self.slot(now);
        let mut record = self.record();
        record.latency.saturating_record(latency);
        record.at(slot).0 += 1;
        record.bytes += bytes;
        record.last = record.last.max(now);
        record.window.good += 1;
        record.window.slowest = record.window.slowest.max(Duration::from_nanos(latency));
    }

    /// A request that came to nothing `now`, by the kind of what was wrong.
    pub fn failed(&self, now: Instant, kind: &str) {
        self.failed_times(now, kind, 1);
    }

    /// The same for several at once.
    pub fn failed_times(&self, now: Instant, kind: &str, times: u64) {
        if times == 0 {
            return;
        }
        let slot = self.slot(now);
        let mut record = self.record();
        record.failed += times;
        record.window.failed += times;
        record.window.last_failed = Some(now);
        record.at(slot).1 += times;
        record.last = record.last.max(now);
        let known = record.errors.contains_key(kind) || record.errors.len() < KINDS;
        let kind = if known { kind } else { "other" };
        match record.errors.get_mut(kind) {
            Some(count) => *count += times,
            None => drop(record.errors.insert(kind.to_owned(), times)),
        }
    }

    /// Outcomes so far: good, failed.
    pub fn counts(&self) -> (u64, u64) {
        let record = self.record();
        (record.latency.len(), record.failed)
    }

    /// What happened since the last call.
    pub fn window(&self) -> Window {
        std::mem::take(&mut self.record().window)
    }

    fn slot(&self, now: Instant) -> usize {
        let slot = now.saturating_duration_since(self.start).as_nanos() / SLOT.as_nanos();
        (slot as usize).min(SLOTS - 1)
    }

    /// What it came to so far.
    pub fn tally(&self) -> Tally {
        let record = self.record();
        let elapsed = record.last.saturating_duration_since(self.start);
        Tally {
            good: record.latency.len(),
            failed: record.failed,
            bytes: record.bytes,
            elapsed,
            latency: (!record.latency.is_empty()).then(|| latency(&record.latency)),
            timeline: timeline(&record.slots, elapsed),
            errors: record.errors.clone(),
        }
    }
}

impl Record {
    fn at(&mut self, slot: usize) -> &mut (u64, u64) {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, (0, 0));
        }
        &mut self.slots[slot]
    }
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    let milliseconds = |nanoseconds: u64| nanoseconds as f64 / 1e6;
    // The nines up to where one request stands for each.
    let mut quantiles: Vec<f64> = (0..20).map(|step| f64::from(step) / 20.0).collect();
    let mut rest = 0.05;
    while rest * histogram.len() as f64 >= 1.0 && rest > 1e-7 {
        quantiles.extend([1.0 - rest, 1.0 - rest / 2.5, 1.0 - rest / 5.0]);
        rest /= 10.0;
    }
    quantiles.extend([0.99, 0.999, 1.0]);
    quantiles.sort_by(f64::total_cmp);
    quantiles.dedup_by(|a, b| (*a - *b).abs() < 1e-9);
    let at = |quantile: f64| milliseconds(histogram.value_at_quantile(quantile));
    Latency {
        mean_ms: histogram.mean() / 1e6,
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        max_ms: milliseconds(histogram.max()),
        quantiles: quantiles.into_iter().map(|quantile| (quantile, at(quantile))).collect(),
    }
}

/// Slots are put together until they are few enough to be drawn. A last one that is short goes with the one before it.
fn timeline(slots: &[(u64, u64)], elapsed: Duration) -> Vec<Slot> {
    let together = slots.len().div_ceil(POINTS).max(1);
    let whole = (SLOT * together as u32).as_secs_f64();
    let elapsed = elapsed.as_secs_f64();
    let count = ((elapsed / whole).round() as usize).max(1);
    let sum = |slots: &[(u64, u64)]| slots.iter().fold((0, 0), |sum, slot| (sum.0 + slot.0, sum.1 + slot.1));
    let slot = |index: usize| {
        let from = index * together;
        let last = index + 1 == count;
        let end = if last { slots.len() } else { (from + together).min(slots.len()) };
        let (good, failed) = sum(slots.get(from..end).unwrap_or_default());
        let from_s = index as f64 * whole;
        let seconds = if last { (elapsed - from_s).max(1e-3) } else { whole };
        Slot { from_s, good_per_s: good as f64 / seconds, failed_per_s: failed as f64 / seconds }
    };
    if slots.is_empty() { Vec::new() } else { (0..count).map(slot).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::{Pace, Plan};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn latencies_counts_and_errors_add_up() {
        let start = Instant::now();
        let recorder = Recorder::new(start);
        for ms in 1..=1000 {
            recorder.good(start, start + MS * ms, 10);
        }
        recorder.failed(start + MS * 1500, "status 502");
        recorder.failed_times(start + MS * 1500, "closed", 2);
        recorder.failed_times(start + MS * 9999, "nothing", 0);
        let tally = recorder.tally();
        assert_eq!((tally.good, tally.failed, tally.bytes), (1000, 3, 10_000));
        assert_eq!(tally.elapsed, MS * 1500);
        let window = recorder.window();
        assert_eq!((window.good, window.failed, window.slowest), (1000, 3, MS * 1000));
        assert_eq!(window.last_failed, Some(start + MS * 1500));
        assert_eq!(recorder.window(), Window::default(), "each is told of once");
        let latency = tally.latency.unwrap();
        let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.002;
        assert!(near(latency.p50_ms, 500.0) && near(latency.p99_ms, 990.0), "{latency:?}");
        assert!(near(latency.p999_ms, 999.0) && near(latency.max_ms, 1000.0), "{latency:?}");
        assert!(latency.quantiles.is_sorted(), "{latency:?}");
        assert_eq!(tally.errors, BTreeMap::from([("closed".into(), 2), ("status 502".into(), 1)]));
        let total: f64 = tally.timeline.iter().map(|slot| slot.good_per_s * 0.1).sum();
        assert!(near(total, 1000.0), "{total}");
    }

    #[test]
    fn nothing_at_all_has_no_latency() {
        let tally = Recorder::new(Instant::now()).tally();
        assert_eq!((tally.good, tally.latency, tally.timeline.len()), (0, None, 0));
    }

    #[test]
    fn kinds_of_errors_are_bounded() {
        let start = Instant::now();
        let recorder = Recorder::new(start);
        for kind in 0..100 {
            recorder.failed(start, &kind.to_string());
        }
        let errors = recorder.tally().errors;
        assert_eq!((errors.len(), errors["other"]), (KINDS + 1, 100 - KINDS as u64));
    }

    #[test]
    fn a_long_run_is_told_in_few_points() {
        let start = Instant::now();
        let recorder = Recorder::new(start);
        for second in 0..600 {
            recorder.good(start, start + MS * 1000 * second, 0);
        }
        let timeline = recorder.tally().timeline;
        assert!(timeline.len() <= POINTS && timeline.len() > POINTS / 2, "{}", timeline.len());
    }

    /// A service that answers in 1 ms, and stands still for a second once. One client asks it for ten seconds.
    fn stalled(rate: Option<f64>) -> Latency {
        let start = Instant::now();
        let pace = Pace::new(Plan { requests: None, duration: Some(MS * 10_000), rate }, start);
        let recorder = Recorder::new(start);
        let (stall, stalled_until) = (start + MS * 5000, start + MS * 6000);
        let mut now = start;
        while let Some(ticket) = pace.next(now) {
            let sent = now.max(ticket.due);
            let served = if sent >= stall { sent.max(stalled_until) } else { sent };
            now = served + MS;
            recorder.good(ticket.due, now, 0);
        }
        assert_eq!(pace.unsent(), 0);
        recorder.tally().latency.unwrap()
    }

    #[test]
    fn an_open_loop_does_not_omit_what_a_stall_costs() {
        let (closed, open) = (stalled(None), stalled(Some(500.0)));
        // In a closed loop one request of nine thousand saw the second in which nobody was served.
        assert!(closed.p99_ms < 2.0 && closed.p999_ms < 2.0 && closed.max_ms > 900.0, "{closed:?}");
        // At 500 a second, 500 were due meanwhile, and as many again until the queue was gone: a fifth of all.
        assert!(open.p50_ms < 2.0 && open.p90_ms > 400.0 && open.p99_ms > 900.0, "{open:?}");
    }
}
