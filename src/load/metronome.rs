//! Turns at a rate: hands out those of a [`Pace`] when they are due.
//!
//! The runtime's timers are good to a millisecond, which is more than what is measured. A thread of its own waits for the
//! clock, and lets clients go when their turn has come: up to a tenth of a millisecond late, which counts as latency.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use super::{Pace, Ticket};

/// The thread wakes no more often than this. What becomes due meanwhile goes together.
const BEAT: Duration = Duration::from_micros(100);

/// Where clients wait for their turns. Dropping it ends its thread.
#[derive(Debug)]
pub struct Turns {
    pace: Arc<Pace>,
    due: Arc<Semaphore>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Turns {
    /// For so many clients.
    ///
    /// # Errors
    /// When there is a rate and no thread can be had for it.
    pub fn new(pace: Pace, clients: usize) -> std::io::Result<Self> {
        let pace = Arc::new(pace);
        let (due, stop) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = match pace.rate() {
            None => None,
            Some(rate) => {
                let (pace, due, stop) = (Arc::clone(&pace), Arc::clone(&due), Arc::clone(&stop));
                let beat = move || beat(&pace, rate, &due, &stop, clients);
                Some(thread::Builder::new().name("metronome".into()).spawn(beat)?)
            }
        };
        Ok(Self { pace, due, stop, thread })
    }

    /// The next turn, once it has come; `None` when there are no more. Cancel safe.
    pub async fn next(&self) -> Option<Ticket> {
        if self.thread.is_some() {
            // It is never closed.
            self.due.acquire().await.ok()?.forget();
        }
        self.pace.next(Instant::now())
    }

    /// Whose turns they are.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has nothing to say.
            drop(thread.join());
        }
    }
}

fn beat(pace: &Pace, rate: f64, due: &Semaphore, stop: &AtomicBool, clients: usize) {
    let planned = pace.planned().unwrap_or(u64::MAX);
    let mut given = 0;
    while given < planned && !stop.load(Relaxed) {
        let elapsed = pace.start().elapsed().as_secs_f64();
        // Number 0 is due at once.
        let by_now = ((elapsed * rate) as u64 + 1).min(planned);
        // Clients that lag behind have enough to go on with; this keeps below the semaphore's own bound.
        due.add_permits(by_now.saturating_sub(given).min(1 << 32) as usize);
        given = given.max(by_now);
        let next = Duration::from_secs_f64(given as f64 / rate);
        thread::park_timeout(next.saturating_sub(pace.start().elapsed()).max(BEAT));
    }
    // Each client asks once more, and is told that there are none.
    due.add_permits(clients);
}

#[cfg(test)]
mod tests {
    use super::super::Plan;
    use super::*;

    #[tokio::test]
    async fn turns_come_at_their_rate_and_end() {
        let plan = Plan { requests: Some(20), duration: None, rate: Some(1000.0) };
        let turns = Turns::new(Pace::new(plan, Instant::now()), 1).unwrap();
        let mut numbers = Vec::new();
        while let Some(ticket) = turns.next().await {
            assert!(Instant::now() >= ticket.due, "none comes early");
            numbers.push(ticket.number);
        }
        assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn without_a_rate_a_turn_is_there_at_once() {
        let plan = Plan { requests: Some(2), duration: None, rate: None };
        let turns = Turns::new(Pace::new(plan, Instant::now()), 1).unwrap();
        assert!(turns.next().await.is_some() && turns.next().await.is_some() && turns.next().await.is_none());
    }

    #[tokio::test]
    async fn an_unfinished_run_ends_its_thread() {
        let plan = Plan { requests: None, duration: None, rate: Some(0.001) };
        let turns = Turns::new(Pace::new(plan, Instant::now()), 1).unwrap();
        assert_eq!(turns.next().await.map(|ticket| ticket.number), Some(0));
        drop(turns);
    }
}
