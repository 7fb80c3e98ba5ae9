//! Whether a link still answers, as a pure state machine: time and packet counts in, pings and suspicion out.
//!
//! QUIC alone notices a peer that was killed or hangs only at the idle time-out, and shortening that cuts every flow at each
//! blip. So a link on which somebody waits is pinged when nothing has arrived for [`PING_AFTER`], and is *suspect*, not
//! lost, when nothing has arrived for [`SUSPECT_AFTER`] behind the ping. Any packet clears it.

use std::time::Duration;

use tokio::time::Instant;

/// How long nothing may arrive, while somebody waits, before a ping is sent.
pub const PING_AFTER: Duration = Duration::from_millis(500);

/// How long nothing may arrive after a ping before the link is suspect.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(1);

/// How often a driver should call [`Pulse::tick`] while [`Pulse::needs_ticks`].
pub(super) const TICK: Duration = Duration::from_millis(250);

/// What the driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    None,
    /// Send a `Ping` with this number.
    Ping(u64),
    /// Treat the link as suspect from now on.
    Suspect,
    /// The link answers again.
    Clear,
}

/// The state of one link.
#[derive(Debug)]
pub(super) struct Pulse {
    received: u64,
    heard: Instant,
    watched: bool,
    asked: Option<Instant>,
    number: u64,
    suspect: bool,
}

impl Pulse {
    /// A link that has just answered.
    pub(super) fn new(now: Instant, received: u64) -> Self {
        Self { received, heard: now, watched: false, asked: None, number: 0, suspect: false }
    }

    /// Whether time matters: somebody waits, or the link is suspect.
    pub(super) fn needs_ticks(&self, waiting: bool) -> bool {
        waiting || self.suspect
    }

    /// Takes note of the packets received so far, and of whether somebody waits for some.
    pub(super) fn tick(&mut self, now: Instant, received: u64, waiting: bool) -> Action {
        if received != self.received {
            self.received = received;
            self.heard = now;
            self.asked = None;
            self.watched = waiting;
            if self.suspect {
                self.suspect = false;
                return Action::Clear;
            }
            return Action::None;
        }
        if !self.needs_ticks(waiting) {
            self.watched = false;
            self.asked = None;
            return Action::None;
        }
        if !self.watched {
            // Silence before somebody waited says nothing: an idle link is silent between keep-alives.
            self.watched = true;
            self.heard = now;
            return Action::None;
        }
        match self.asked {
            None if now - self.heard >= PING_AFTER => self.ping(now),
            Some(asked) if now - asked >= SUSPECT_AFTER => {
                if self.suspect {
                    // Asked again, so that a link that mends is heard of at once.
                    self.ping(now)
                } else {
                    self.suspect = true;
                    self.asked = Some(now);
                    Action::Suspect
                }
            }
            _ => Action::None,
        }
    }

    fn ping(&mut self, now: Instant) -> Action {
        self.asked = Some(now);
        self.number += 1;
        Action::Ping(self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks for a while with a constant packet count; what happened, and when (ms).
    fn run(pulse: &mut Pulse, start: Instant, ms: u64, received: u64, waiting: bool) -> Vec<(u64, Action)> {
        (0..=ms / 250)
            .map(|tick| tick * 250)
            .map(|at| (at, pulse.tick(start + Duration::from_millis(at), received, waiting)))
            .filter(|(_, action)| *action != Action::None)
            .collect()
    }

    #[test]
    fn a_silent_link_is_pinged_then_suspect_then_pinged_until_it_answers() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, 7);
        let seen = run(&mut pulse, start, 3500, 7, true);
        assert_eq!(
            seen,
            [
                (500, Action::Ping(1)),
                (1500, Action::Suspect),
                (2500, Action::Ping(2)),
                (3500, Action::Ping(3))
            ]
        );
        assert!(pulse.needs_ticks(false), "a suspect link is watched until it clears");
        assert_eq!(pulse.tick(start + Duration::from_secs(4), 8, false), Action::Clear);
        assert!(!pulse.needs_ticks(false));
    }

    #[test]
    fn nobody_waiting_means_no_ping_and_old_silence_does_not_count() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, 7);
        assert_eq!(run(&mut pulse, start, 60_000, 7, false), []);
        let later = start + Duration::from_secs(60);
        assert_eq!(pulse.tick(later, 7, true), Action::None);
        assert_eq!(pulse.tick(later + Duration::from_millis(250), 7, true), Action::None);
        assert_eq!(pulse.tick(later + PING_AFTER, 7, true), Action::Ping(1));
    }

    #[test]
    fn a_busy_link_is_never_pinged() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, 0);
        for tick in 1..400 {
            assert_eq!(pulse.tick(start + TICK * tick, tick.into(), true), Action::None);
        }
    }
}
