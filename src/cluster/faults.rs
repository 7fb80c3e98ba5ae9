//! What is held against peers that are refused, or that send what cannot be right.
//!
//! `links` tells it of every fault. All are counted. The first of its kind is logged as a warning, the same again only for
//! debugging, so that neither a peer that tries again for days nor a flood of strangers fills the log. It closes nothing.

use std::{
    collections::{HashMap, HashSet},
    fmt::Display,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tokio::time::Instant;

use crate::{protocol::NodeId, telemetry};

/// How long a fault that goes on is said once: logs are cut and thrown away.
const REPEAT: Duration = Duration::from_secs(3600);

/// How many different faults are said in that time. Strangers choose their addresses, and peers their words.
const MAX_LINES: usize = 128;

/// How long a peer whose link was closed for what it had sent gets no other: it would only send it again.
pub(super) const SHUN: Duration = Duration::from_secs(10);

/// What is held against peers.
#[derive(Debug)]
pub(super) struct Faults {
    said: Mutex<Said>,
    /// Peers that get no link for now, and until when.
    shunned: Mutex<HashMap<NodeId, Instant>>,
    refused: Counter,
    invalid: Counter,
}

/// What has been logged lately.
#[derive(Debug, Default)]
struct Said {
    lines: HashSet<(String, String)>,
    since: Option<Instant>,
}

/// What is new about a fault.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// All of it.
    Fault,
    /// That it is one more than are said.
    Full,
    /// Nothing.
    Old,
}

impl Faults {
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self {
            said: Mutex::default(),
            shunned: Mutex::default(),
            refused: telemetry::counter(
                registry,
                "peer_refusals",
                "Peer links that were refused, or closed for what the peer sent",
            ),
            invalid: telemetry::counter(
                registry,
                "membership_invalid",
                "Datagrams of peers that are no message of theirs",
            ),
        }
    }

    /// A peer has been refused a link.
    pub(super) fn refused(&self, peer: impl Display, error: impl Display) {
        self.refused.inc();
        self.warn(peer, error, "a peer link did not come about");
    }

    /// A peer's link has been closed for what it had sent.
    pub(super) fn closed(&self, peer: &NodeId, error: impl Display) {
        let now = Instant::now();
        let mut shunned = self.shunned();
        shunned.retain(|_, until| *until > now);
        shunned.insert(peer.clone(), now + SHUN);
        drop(shunned);
        self.refused.inc();
        self.warn(peer, error, "a peer link was closed for what the peer had sent");
    }

    /// A datagram of a peer has been dropped.
    pub(super) fn dropped(&self, peer: &NodeId, error: impl Display) {
        self.invalid.inc();
        self.warn(peer, error, "a datagram of a peer was dropped");
    }

    /// Whether a peer gets no link for now.
    pub(super) fn is_shunned(&self, node: &NodeId) -> bool {
        self.shunned().get(node).is_some_and(|until| *until > Instant::now())
    }

    /// Logs what is wrong with a peer, once, however often it is told.
    pub(super) fn warn(&self, peer: impl Display, error: impl Display, what: &'static str) {
        let line = (peer.to_string(), error.to_string());
        let news = self.said.lock().unwrap_or_else(PoisonError::into_inner).news(line, Instant::now());
        match news {
            News::Fault => tracing::warn!(%peer, %error, "{what}"),
            News::Full => {
                tracing::warn!(%peer, %error, "{what}; for the rest of the hour, other faults are only counted")
            }
            News::Old => tracing::debug!(%peer, %error, "{what}"),
        }
    }

    fn shunned(&self) -> MutexGuard<'_, HashMap<NodeId, Instant>> {
        self.shunned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    fn news(&mut self, line: (String, String), now: Instant) -> News {
        if self.since.is_none_or(|since| now >= since + REPEAT) {
            self.since = Some(now);
            self.lines.clear();
        }
        let said = self.lines.len();
        if said > MAX_LINES || !self.lines.insert(line) {
            News::Old
        } else if said < MAX_LINES {
            News::Fault
        } else {
            News::Full
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(peer: usize, error: &str) -> (String, String) {
        (peer.to_string(), error.to_owned())
    }

    #[test]
    fn a_fault_is_news_once_an_hour() {
        let (mut said, now) = (Said::default(), Instant::now());
        for (peer, error) in [(1, "a"), (2, "a"), (1, "b")] {
            assert_eq!(said.news(line(peer, error), now), News::Fault);
        }
        assert_eq!(said.news(line(1, "a"), now + REPEAT - Duration::from_secs(1)), News::Old);
        assert_eq!(said.news(line(1, "a"), now + REPEAT), News::Fault);
    }

    #[test]
    fn a_flood_of_faults_is_cut_off_with_a_word() {
        let (mut said, now) = (Said::default(), Instant::now());
        let news: Vec<_> = (0..10_000).map(|peer| said.news(line(peer, "a"), now)).collect();
        let count = |which: News| news.iter().filter(|news| **news == which).count();
        assert_eq!((count(News::Fault), count(News::Full)), (MAX_LINES, 1));
        assert_eq!(said.lines.len(), MAX_LINES + 1);
        assert_eq!(said.news(line(1, "a"), now + REPEAT), News::Fault);
    }
}
