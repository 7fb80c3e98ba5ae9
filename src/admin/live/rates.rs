//! Rates of a node, and of the cluster, out of what nodes have counted at several times. Pure: times are those of the figures.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;

use crate::admin::figures::{Figures, PeerFigures, Within};

/// How many figures of a node are kept: what is rare, such as a loss, is looked for over all of them.
const KEPT: usize = 11;

/// What a node has counted, the newest last.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<Figures>);

/// What has happened at one node or at several.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Pace {
    requests_s: f64,
    errors_s: f64,
    sent_bytes_s: f64,
    received_bytes_s: f64,
    /// Requests by how long they waited, the quickest first.
    waits: Vec<Within>,
}

/// The same, as it is told.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Rates {
    /// Requests answered, a second.
    requests_s: f64,
    /// Those with a status of 500 and more.
    errors_s: f64,
    /// Bytes to agents and forwarders, a second.
    sent_bytes_s: f64,
    /// Bytes from them.
    received_bytes_s: f64,
    /// How long half of the requests waited at most for their response's head.
    p50_ms: Option<f64>,
    /// How long 99 in 100 did.
    p99_ms: Option<f64>,
}

/// What has gone one way over a link between nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Carried {
    pub(super) sent_packets: u64,
    pub(super) lost_packets: u64,
    pub(super) bytes_s: f64,
}

/// How many requests and flows each endpoint was given, when last asked and before.
#[derive(Debug, Default)]
pub(super) struct Opened {
    before: HashMap<String, u64>,
    last: HashMap<String, u64>,
    up_s: f64,
    seconds: f64,
}

impl Opened {
    /// All that is asked from now on is of this time, in seconds since the node's start.
    pub(super) fn turn(&mut self, up_s: f64) {
        self.before = std::mem::take(&mut self.last);
        self.seconds = up_s - self.up_s;
        self.up_s = up_s;
    }

    /// How many an endpoint was given a second, between the last two times, which has been given so many. Of one that was not
    /// there before, or has lost an agent and what that was given, nothing is known.
    pub(super) fn rate(&mut self, endpoint: &str, opened: u64) -> f64 {
        self.last.insert(endpoint.to_owned(), opened);
        let before = self.before.get(endpoint);
        before.map_or(0.0, |before| rounded(per(opened, *before, self.seconds), 10.0))
    }
}

impl Samples {
    /// Takes in the newest. Those of an earlier life of the node are of no use beside it.
    pub(super) fn push(&mut self, figures: Figures) {
        if self.last().is_some_and(|last| figures.up_s <= last.up_s) {
            self.0.clear();
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(figures);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn last(&self) -> Option<&Figures> {
        self.0.back()
    }

    /// What has happened between the last two, and what requests have waited since the first.
    pub(super) fn pace(&self) -> Option<Pace> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let before = self.0.get(self.0.len().checked_sub(2)?)?;
        let seconds = last.up_s - before.up_s;
        let a_second = |count: fn(&Figures) -> u64| per(count(last), count(before), seconds);
        Some(Pace {
            requests_s: a_second(|figures| figures.counts.requests.values().sum()),
            errors_s: a_second(|figures| figures.counts.requests.get("5xx").copied().unwrap_or(0)),
            sent_bytes_s: a_second(|figures| figures.counts.sent_bytes),
            received_bytes_s: a_second(|figures| figures.counts.received_bytes),
            waits: since(&last.counts.headers, &first.counts.headers),
        })
    }

    /// What the node has sent over its link to another, since the first figures that have the same link.
    pub(super) fn carried(&self, peer: &str) -> Option<Carried> {
        let of = |figures: &Figures| -> Option<(f64, PeerFigures)> {
            let link = figures.peers.iter().find(|link| link.node == peer)?;
            Some((figures.up_s, link.clone()))
        };
        let (now, last) = of(self.0.back()?)?;
        let earlier = self.0.iter().filter_map(of);
        // Counts of another link than the last, which it has taken the place of, begin where they like.
        let (then, first) = earlier
            .filter(|(_, link)| link.sent_packets <= last.sent_packets)
            .min_by(|a, b| a.0.total_cmp(&b.0))?;
        Some(Carried {
            sent_packets: last.sent_packets.saturating_sub(first.sent_packets),
            lost_packets: last.lost_packets.saturating_sub(first.lost_packets),
            bytes_s: per(last.sent_bytes, first.sent_bytes, now - then),
        })
    }
}

impl Carried {
    /// Both ways together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            sent_packets: self.sent_packets + other.sent_packets,
            lost_packets: self.lost_packets + other.lost_packets,
            bytes_s: self.bytes_s + other.bytes_s,
        }
    }

    /// The share that was lost, if anything was sent.
    pub(super) fn loss(self) -> Option<f64> {
        (self.sent_packets > 0).then(|| self.lost_packets as f64 / self.sent_packets as f64)
    }
}

impl Pace {
    /// Takes in what has happened at another node.
    pub(super) fn add(&mut self, other: &Self) {
        self.requests_s += other.requests_s;
        self.errors_s += other.errors_s;
        self.sent_bytes_s += other.sent_bytes_s;
        self.received_bytes_s += other.received_bytes_s;
        let bounds = |waits: &[Within]| waits.iter().map(|within| within.seconds).collect::<Vec<_>>();
        if self.waits.is_empty() {
            self.waits.clone_from(&other.waits);
        } else if bounds(&self.waits) == bounds(&other.waits) {
            for (own, theirs) in self.waits.iter_mut().zip(&other.waits) {
                own.requests += theirs.requests;
            }
        }
    }

    pub(super) fn rates(&self) -> Rates {
        let ms = |share| quantile(&self.waits, share).map(|seconds| rounded(seconds * 1000.0, 100.0));
        Rates {
            requests_s: rounded(self.requests_s, 10.0),
            errors_s: rounded(self.errors_s, 10.0),
            sent_bytes_s: self.sent_bytes_s.round(),
            received_bytes_s: self.received_bytes_s.round(),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
        }
    }
}

/// To so many parts of one.
pub(super) fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

fn per(last: u64, before: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { last.saturating_sub(before) as f64 / seconds } else { 0.0 }
}

/// What has been counted since.
fn since(last: &[Within], first: &[Within]) -> Vec<Within> {
    let before =
        |bound| first.iter().find(|within| within.seconds == bound).map_or(0, |within| within.requests);
    let counted = |within: &Within| {
        let requests = within.requests.saturating_sub(before(within.seconds));
        Within { requests, ..*within }
    };
    last.iter().map(counted).collect()
}

/// How long that share waited at most, as if those between two bounds had waited evenly; the last bound where it was longer.
fn quantile(waits: &[Within], share: f64) -> Option<f64> {
    let all = waits.last().map(|within| within.requests).filter(|all| *all > 0)?;
    let wanted = share * all as f64;
    let (mut bound, mut below) = (0.0, 0);
    for Within { seconds, requests } in waits {
        let Some(seconds) = *seconds else { break };
        if *requests as f64 >= wanted {
            let within = requests.saturating_sub(below).max(1) as f64;
            return Some(bound + (seconds - bound) * ((wanted - below as f64) / within));
        }
        (bound, below) = (seconds, *requests);
    }
    Some(bound)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::admin::figures::Counts;

    fn waits(counts: [u64; 3]) -> Vec<Within> {
        let bounds = [Some(0.1), Some(0.2), None];
        bounds.into_iter().zip(counts).map(|(seconds, requests)| Within { seconds, requests }).collect()
    }

    fn figures(up_s: f64, [good, bad]: [u64; 2], headers: [u64; 3]) -> Figures {
        let requests = BTreeMap::from([("2xx".to_owned(), good), ("5xx".to_owned(), bad)]);
        let counts = Counts { requests, headers: waits(headers), ..Counts::default() };
        Figures { up_s, counts, ..Figures::default() }
    }

    fn peer(up_s: f64, sent: u64, lost: u64) -> Figures {
        let link = PeerFigures {
            node: "n2".into(),
            sent_packets: sent,
            lost_packets: lost,
            sent_bytes: sent * 1000,
            ..PeerFigures::default()
        };
        Figures { up_s, peers: vec![link], ..Figures::default() }
    }

    fn samples(all: impl IntoIterator<Item = Figures>) -> Samples {
        let mut samples = Samples::default();
        all.into_iter().for_each(|figures| samples.push(figures));
        samples
    }

    #[test]
    fn rates_are_of_the_last_two_and_waits_of_all() {
        let one = samples([figures(10.0, [100, 0], [100, 100, 100])]);
        assert_eq!(one.pace(), None, "one figure tells no rate");
        let three = samples([
            figures(10.0, [100, 0], [100, 100, 100]),
            figures(11.0, [150, 0], [100, 150, 150]),
            figures(13.0, [250, 10], [200, 260, 260]),
        ]);
        let pace = three.pace().unwrap();
        assert_eq!((pace.requests_s, pace.errors_s), (55.0, 5.0));
        assert_eq!(pace.waits, waits([100, 160, 160]));
    }

    #[test]
    fn a_node_that_has_been_started_again_begins_anew() {
        let again = samples([figures(10.0, [100, 0], [0; 3]), figures(0.5, [2, 0], [0; 3])]);
        assert_eq!(again.pace(), None);
        assert_eq!(again.last().map(|last| last.up_s), Some(0.5));
    }

    #[test]
    fn so_many_figures_are_kept_and_no_more() {
        let many = samples((0..100_u32).map(|second| figures(second.into(), [0; 2], [second.into(); 3])));
        assert_eq!(many.0.len(), KEPT);
        assert_eq!(many.pace().unwrap().waits, waits([KEPT as u64 - 1; 3]));
    }

    #[test]
    fn an_endpoint_is_given_what_it_had_not_a_moment_ago() {
        let mut opened = Opened::default();
        opened.turn(10.0);
        assert_eq!(opened.rate("web", 1000), 0.0, "nobody knows since when");
        opened.turn(12.0);
        assert_eq!((opened.rate("web", 1005), opened.rate("new", 7)), (2.5, 0.0));
        opened.turn(13.0);
        assert_eq!((opened.rate("web", 3), opened.rate("new", 8)), (0.0, 1.0), "an agent has gone");
        opened.turn(14.0);
        assert_eq!(opened.rate("new", 8), 0.0);
        opened.turn(15.0);
        assert_eq!(opened.rate("web", 9000), 0.0, "it was gone in between");
    }

    #[test]
    fn a_quantile_lies_between_its_bounds() {
        assert_eq!(quantile(&waits([0; 3]), 0.5), None);
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&waits([10, 10, 10]), 0.5), Some(0.05));
        assert_eq!(quantile(&waits([0, 10, 10]), 1.0), Some(0.2));
        let found = quantile(&waits([50, 100, 100]), 0.75).unwrap();
        assert!((found - 0.15).abs() < 1e-9, "{found}");
        assert_eq!(quantile(&waits([0, 0, 10]), 0.5), Some(0.2), "no more is known than that it was longer");
    }

    #[test]
    fn the_cluster_is_the_sum_of_its_nodes() {
        let pace = |[requests, errors]: [u64; 2], headers| {
            let zero = figures(0.0, [0; 2], [0; 3]);
            samples([zero, figures(1.0, [requests, errors], headers)]).pace().unwrap()
        };
        let mut all = Pace::default();
        all.add(&pace([10, 0], [10, 10, 10]));
        all.add(&pace([0, 10], [0, 10, 10]));
        let rates = all.rates();
        assert_eq!((rates.requests_s, rates.errors_s), (20.0, 10.0));
        assert_eq!((rates.p50_ms, rates.p99_ms), (Some(100.0), Some(198.0)));
        // A node whose bounds are others has its rates counted, and its waits left out.
        let other =
            Pace { requests_s: 5.0, waits: vec![Within { seconds: None, requests: 7 }], ..Pace::default() };
        all.add(&other);
        assert_eq!((all.rates().requests_s, all.rates().p50_ms), (25.0, Some(100.0)));
    }

    #[test]
    fn what_a_link_has_lost_is_told_over_all_figures_of_the_same_link() {
        let carried = |all: &[Figures]| samples(all.to_vec()).carried("n2").unwrap();
        let lost = carried(&[peer(0.0, 100, 0), peer(1.0, 200, 5), peer(2.0, 300, 10)]);
        assert_eq!((lost.loss(), lost.bytes_s), (Some(0.05), 100_000.0));
        // Another link has taken the place of the first.
        let anew = carried(&[peer(0.0, 1000, 500), peer(1.0, 10, 0), peer(2.0, 20, 1)]);
        assert_eq!((anew.loss(), anew.bytes_s), (Some(0.1), 10_000.0));
        assert_eq!(carried(&[peer(0.0, 100, 0)]).loss(), None);
        assert_eq!(samples([peer(0.0, 100, 0)]).carried("n3"), None);
        let both = lost.and(Carried { sent_packets: 200, lost_packets: 0, bytes_s: 1.0 });
        assert_eq!((both.loss(), both.bytes_s), (Some(0.025), 100_001.0));
    }
}
