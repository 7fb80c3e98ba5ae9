//! Bulk: some streams that carry as much as they can.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{Amount, Clients, Direction, Recorder, Slot, Way, carry};
use crate::drain::Tasks;

/// A run in which no byte has moved for so long is given up.
const STALL: Duration = Duration::from_secs(30);

/// How often the rate is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What is carried.
#[derive(Debug)]
pub struct Bulk {
    /// Stream `i` goes by way number `i` modulo their count.
    pub ways: Vec<Way>,
    /// How many at once.
    pub streams: usize,
    /// Which way.
    pub direction: Direction,
    /// How much each carries.
    pub amount: Amount,
}

impl Bulk {
    /// Carries all of it. Bytes are counted into `counted` as they move, and each stream's end is told to the recorder. Returns
    /// the rate over time, in 10⁹ bits a second. Dropping the future ends the streams.
    pub async fn run(&self, counted: &Arc<AtomicU64>, recorder: &Arc<Recorder>) -> Vec<Slot> {
        let tasks = Clients(Tasks::new());
        for index in 0..self.streams {
            let (way, counted, recorder) =
                (self.ways[index % self.ways.len()].clone(), Arc::clone(counted), Arc::clone(recorder));
            let (direction, amount) = (self.direction, self.amount);
            tasks.0.spawn(async move {
                let start = Instant::now();
                let outcome = match way.open().await {
                    Err(error) => Err((format!("{error:?}"), error.kind())),
                    Ok(stream) => carry(stream, direction, amount, &counted)
                        .await
                        .map_err(|error| (error.to_string(), error.kind().to_owned())),
                };
                match outcome {
                    Ok(()) => recorder.good(start, Instant::now(), 0),
                    Err((error, kind)) => {
                        tracing::debug!(error, "a stream failed");
                        recorder.failed(Instant::now(), &kind);
                    }
                }
            });
        }
        let mut slots = Vec::new();
        tokio::select! {
            () = tasks.0.wait_empty() => {}
            () = watch(counted, &mut slots) => recorder.failed(Instant::now(), "stalled"),
        }
        slots
    }
}

/// Notes the rate until nothing moves any more.
async fn watch(counted: &AtomicU64, slots: &mut Vec<Slot>) {
    let start = Instant::now();
    let mut ticks = tokio::time::interval(LOOK);
    let (mut before, mut looked, mut moved) = (counted.load(Relaxed), start, start);
    ticks.tick().await;
    while moved.elapsed() < STALL {
        ticks.tick().await;
        let (count, now) = (counted.load(Relaxed), Instant::now());
        if count > before {
            moved = now;
        }
        let seconds = (now - looked).as_secs_f64();
        let gigabits = (count - before) as f64 * 8e-9 / seconds.max(1e-3);
        slots.push(Slot { from_s: (looked - start).as_secs_f64(), good_per_s: gigabits, failed_per_s: 0.0 });
        (before, looked) = (count, now);
    }
}
