//! Drives a link's [`Pulse`]: who waits on the link, and whether it is suspect, shared with everybody who uses it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    Link, PING_AFTER, SUSPECT_AFTER,
    pulse::{Action, Pulse, TICK},
};
use crate::splice::packets::Activity;

/// How long a link is watched behind a packet: until it would be suspect, and a look more.
const WATCHED: Duration = PING_AFTER.saturating_add(SUSPECT_AFTER).saturating_add(TICK.saturating_mul(2));

/// Whether a link answers, for those who use it.
#[derive(Debug)]
pub struct Vitals {
    waiting: AtomicUsize,
    woken: Notify,
    /// Read for each flow; `changed` is for those who wait.
    suspect: AtomicBool,
    changed: watch::Sender<bool>,
}

impl Default for Vitals {
    fn default() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            woken: Notify::new(),
            suspect: AtomicBool::new(false),
            changed: watch::Sender::new(false),
        }
    }
}

impl Vitals {
    /// Whether the link is suspect: it gets no new flow while another can be had.
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Relaxed)
    }

    /// Waits until the link is suspect. Cancel safe.
    pub async fn suspected(&self) {
        // The sender lives as long as this borrow of it, so the wait cannot fail.
        drop(self.changed.subscribe().wait_for(|suspect| *suspect).await);
    }

    fn set(&self, suspect: bool) {
        self.suspect.store(suspect, Relaxed);
        self.changed.send_replace(suspect);
    }

    /// Has the link watched behind each packet of an association, until it is known to answer or not: packets that nobody
    /// acknowledges should not go there for as long as the idle time-out. Never ends.
    pub async fn watch(self: &Arc<Self>, activity: &Activity) {
        loop {
            activity.passed().await;
            let _waiting = self.wait();
            activity.silent(WATCHED).await;
        }
    }

    /// Says that somebody waits for the peer, until the answer is dropped.
    pub fn wait(self: &Arc<Self>) -> Waiting {
        if self.waiting.fetch_add(1, Relaxed) == 0 {
            self.woken.notify_one();
        }
        Waiting(Arc::clone(self))
    }
}

/// Somebody waits for the peer.
#[derive(Debug)]
pub struct Waiting(Arc<Vitals>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// Watches one link; owned by the task that runs its control stream.
#[derive(Debug)]
pub struct Monitor {
    vitals: Arc<Vitals>,
    pulse: Pulse,
    next: Instant,
}

impl Monitor {
    /// Watches a link that has just answered.
    pub fn new(link: &Link, vitals: Arc<Vitals>) -> Self {
        let now = Instant::now();
        Self { vitals, pulse: Pulse::new(now, link.stats().received_packets), next: now }
    }

    /// Waits until a `Ping` is to be sent, and gives its number. While nobody waits on the link it costs nothing. Cancel
    /// safe.
    pub async fn ping(&mut self, link: &Link) -> u64 {
        loop {
            let waiting = self.vitals.waiting.load(Relaxed) > 0;
            if !self.pulse.needs_ticks(waiting) {
                self.vitals.woken.notified().await;
                continue;
            }
            tokio::time::sleep_until(self.next).await;
            let now = Instant::now();
            self.next = now + TICK;
            let waiting = self.vitals.waiting.load(Relaxed) > 0;
            match self.pulse.tick(now, link.stats().received_packets, waiting) {
                Action::None => {}
                Action::Ping(number) => return number,
                Action::Suspect => self.vitals.set(true),
                Action::Clear => self.vitals.set(false),
            }
        }
    }
}
