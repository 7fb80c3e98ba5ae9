//! When a WebSocket is due a ping, and when its client counts as lost.
//!
//! Told of bytes by [`super::flow`], and asked for the time of what is next. It ends nothing itself.

use std::time::Duration;

use tokio::time::Instant;

/// After how long without a byte one way or the other there is a ping: balancers cut what is idle for 60 s, each side by its
/// own clock.
const PING_EVERY: Duration = Duration::from_secs(20);

/// After how long a client that sends nothing, not even an answer to pings, is lost. Three pings.
const SILENCE: Duration = Duration::from_secs(60);

/// The same for one that was told that its WebSocket has ended.
pub(super) const GOODBYE: Duration = Duration::from_secs(10);

/// What has passed, and when.
#[derive(Debug)]
pub(super) struct Clocks {
    heard: Instant,
    sent: Instant,
    pinged: Instant,
    /// Whether the client is listened to. While what it sent cannot be passed on, nothing can be heard.
    listening: bool,
    /// Whether something waits for the client to take it. It is slow then, and the kernel finds out whether it is gone.
    waiting: bool,
    closed: bool,
}

/// What is next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A ping, now.
    Ping,
    /// Nothing more: the client is lost.
    Lost,
    /// Whatever is due then.
    At(Instant),
}

impl Clocks {
    pub(super) fn new(now: Instant) -> Self {
        Self { heard: now, sent: now, pinged: now, listening: false, waiting: false, closed: false }
    }

    /// The client is listened to, or is not until further notice.
    pub(super) fn listen(&mut self, listening: bool, now: Instant) {
        if listening && !self.listening {
            self.heard = now;
        }
        self.listening = listening;
    }

    /// The client has sent something.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// The client's connection has taken something.
    pub(super) fn sent(&mut self, now: Instant) {
        self.sent = now;
        if self.waiting {
            // There is room again because the client has read.
            self.heard = now;
            self.waiting = false;
        }
    }

    /// The client's connection takes nothing for now.
    pub(super) fn wait(&mut self) {
        self.waiting = true;
    }

    pub(super) fn pinged(&mut self, now: Instant) {
        self.pinged = now;
    }

    /// A closing frame has been sent: there are no pings any more, and little patience.
    pub(super) fn close(&mut self, now: Instant) {
        self.closed = true;
        self.heard = now;
    }

    pub(super) fn next(&self, now: Instant) -> Next {
        if self.waiting {
            return Next::At(now + PING_EVERY);
        }
        let lost = self.heard + if self.closed { GOODBYE } else { SILENCE };
        if self.listening && lost <= now {
            return Next::Lost;
        }
        let ping = self.pinged.max(self.heard.min(self.sent)) + PING_EVERY;
        match (self.listening, self.closed) {
            (_, false) if ping <= now => Next::Ping,
            (true, false) => Next::At(lost.min(ping)),
            (false, false) => Next::At(ping),
            (true, true) => Next::At(lost),
            (false, true) => Next::At(now + PING_EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// When there are pings, and when the client is lost, in seconds; `what` happens in each second.
    fn run(seconds: u32, mut what: impl FnMut(&mut Clocks, u32, Instant)) -> (Vec<u32>, Option<u32>) {
        let start = Instant::now();
        let mut clocks = Clocks::new(start);
        clocks.listen(true, start);
        let mut pings = Vec::new();
        for second in 0..=seconds {
            let now = start + second * S;
            what(&mut clocks, second, now);
            match clocks.next(now) {
                Next::Ping => {
                    pings.push(second);
                    clocks.pinged(now);
                    clocks.sent(now);
                }
                Next::Lost => return (pings, Some(second)),
                Next::At(at) => assert!(at > now),
            }
        }
        (pings, None)
    }

    #[test]
    fn a_silent_client_is_asked_and_given_up() {
        assert_eq!(run(100, |_, _, _| {}), (vec![20, 40], Some(60)));
    }

    #[test]
    fn a_client_that_answers_is_asked_for_ever() {
        let answers = |clocks: &mut Clocks, second: u32, now| {
            if second % 20 == 1 {
                clocks.heard(now);
            }
        };
        let (pings, lost) = run(600, answers);
        assert!(pings.len() >= 28, "{pings:?}");
        assert_eq!(lost, None);
    }

    #[test]
    fn whoever_only_sends_or_only_gets_is_asked_too() {
        let (pings, lost) = run(100, |clocks, _, now| clocks.heard(now));
        assert_eq!((pings, lost), (vec![20, 40, 60, 80, 100], None));
        let (pings, lost) = run(100, |clocks, _, now| clocks.sent(now));
        assert_eq!((pings, lost), (vec![20, 40], Some(60)));
    }

    #[test]
    fn a_client_that_is_slow_or_not_listened_to_is_not_lost() {
        let (pings, lost) = run(600, |clocks, second, _| {
            if second == 1 {
                clocks.wait();
            }
        });
        assert_eq!((pings, lost), (vec![], None));
        let (pings, lost) = run(100, |clocks, second, now| {
            if second == 1 {
                clocks.listen(false, now);
            }
        });
        assert_eq!((pings, lost), (vec![20, 40, 60, 80, 100], None));
        // And has all of its time when that is over.
        let (_, lost) = run(600, |clocks, second, now| match second {
            1 => clocks.wait(),
            300 => clocks.sent(now),
            _ => {}
        });
        assert_eq!(lost, Some(360));
    }

    #[test]
    fn a_client_that_was_told_of_the_end_has_less_time_and_is_not_asked() {
        let (pings, lost) = run(600, |clocks, second, now| {
            if second == 5 {
                clocks.close(now);
            }
        });
        assert_eq!((pings, lost), (vec![], Some(15)));
    }
}
