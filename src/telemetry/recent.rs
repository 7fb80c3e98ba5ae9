//! What has happened of late, for operators who come to look when it is over: links that have ended and why, nodes that are gone,
//! links that were refused.
//!
//! Whoever notices something notes it here. Of each kind only the newest are kept, so that a flood of one leaves the others, and
//! the same again counts up what is there already.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use super::Metrics;

/// How many of a kind are kept.
const KEPT: usize = 64;

/// How much of a reason is kept, in characters: peers have their say in it.
const LONGEST: usize = 256;

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// An agent or a forwarder has a link.
    Linked,
    /// Such a link has ended.
    LinkEnded,
    /// Somebody wanted a link and did not get it.
    LinkRefused,
    /// This node has a link to another.
    NodeLinked,
    /// Such a link has ended.
    NodeLinkEnded,
    /// The cluster holds a node to be gone.
    NodeGone,
    /// A node, this one or another, is leaving.
    Draining,
    /// The configuration was read again.
    Reload,
    /// The same, but it is wrong, and the former one holds.
    ReloadRefused,
}

impl What {
    /// Everything that there is.
    pub const ALL: [Self; 9] = [
        Self::Linked,
        Self::LinkEnded,
        Self::LinkRefused,
        Self::NodeLinked,
        Self::NodeLinkEnded,
        Self::NodeGone,
        Self::Draining,
        Self::Reload,
        Self::ReloadRefused,
    ];

    /// Whether somebody who looks for a fault would want to know.
    pub fn is_of_note(self) -> bool {
        !matches!(self, Self::Linked | Self::NodeLinked | Self::Reload)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linked => "linked",
            Self::LinkEnded => "link_ended",
            Self::LinkRefused => "link_refused",
            Self::NodeLinked => "node_linked",
            Self::NodeLinkEnded => "node_link_ended",
            Self::NodeGone => "node_gone",
            Self::Draining => "draining",
            Self::Reload => "reload",
            Self::ReloadRefused => "reload_refused",
        }
    }
}

/// One thing that has happened, once or several times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub what: What,
    /// Whose it is, if it is one tenant's. What is nobody's is for operators of all tenants.
    pub tenant: Option<Arc<str>>,
    /// Of whom.
    pub who: String,
    /// Why, or what else there is to say.
    pub why: String,
    /// How often.
    pub times: u64,
    /// When, for the last time.
    pub last: Instant,
}

/// A reason without its numbers: times and counts are others each time.
fn shape(why: &str) -> impl Iterator<Item = char> + '_ {
    why.chars().filter(|c| !c.is_ascii_digit())
}

/// Makes room: the oldest goes of the tenant that has the most, so that none pushes out what is of others.
fn forget(kind: &mut VecDeque<Event>) {
    let mut count: BTreeMap<Option<Arc<str>>, usize> = BTreeMap::new();
    for event in kind.iter() {
        *count.entry(event.tenant.clone()).or_default() += 1;
    }
    let most = count.into_iter().max_by_key(|(_, count)| *count).map(|(tenant, _)| tenant);
    if let Some(place) = most.and_then(|tenant| kind.iter().position(|event| event.tenant == tenant)) {
        kind.remove(place);
    }
}

/// What has happened of late. Clones are handles to the same.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    kept: Arc<Mutex<BTreeMap<What, VecDeque<Event>>>>,
    counts: Family<Labels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    what: &'static str,
}

impl Recent {
    /// Nothing yet; what happens is counted as well.
    pub fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        let help = "What has happened of what operators are told for a while, by what it is";
        metrics.register(|registry| registry.register("events", help, this.counts.clone()));
        for what in What::ALL.map(What::name) {
            drop(this.counts.get_or_create(&Labels { what }));
        }
        this
    }

    /// Takes down what has happened, now.
    pub fn note(&self, what: What, tenant: Option<&str>, who: impl Into<String>, why: impl Into<String>) {
        self.note_at(what, tenant, who.into(), why.into(), Instant::now());
    }

    fn note_at(&self, what: What, tenant: Option<&str>, who: String, mut why: String, now: Instant) {
        if let Some((end, _)) = why.char_indices().nth(LONGEST) {
            why.replace_range(end.., "…");
        }
        self.counts.get_or_create(&Labels { what: what.name() }).inc();
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = all.entry(what).or_default();
        let same = |event: &Event| {
            event.who == who && event.tenant.as_deref() == tenant && shape(&event.why).eq(shape(&why))
        };
        let times = match kind.iter().position(same).and_then(|place| kind.remove(place)) {
            Some(event) => event.times + 1,
            None => 1,
        };
        if kind.len() == KEPT {
            forget(kind);
        }
        kind.push_back(Event { what, tenant: tenant.map(Arc::from), who, why, times, last: now });
    }

    /// All of it that is for somebody, the newest first.
    pub fn events(&self, sees: impl Fn(Option<&str>) -> bool) -> Vec<Event> {
        let all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events: Vec<_> =
            all.values().flatten().filter(|event| sees(event.tenant.as_deref())).cloned().collect();
        drop(all);
        events.sort_by_key(|event| std::cmp::Reverse(event.last));
        events
    }
}

impl Event {
    /// How long ago it was, for the last time.
    pub fn age(&self) -> Duration {
        self.last.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_kind_are_kept_and_the_same_again_is_counted() {
        let (recent, began) = (Recent::default(), Instant::now());
        let at = |second: u64| began + Duration::from_secs(second);
        recent.note_at(What::NodeGone, None, "n2".into(), "silent".into(), at(0));
        for second in 1..=1000 {
            recent.note_at(
                What::LinkRefused,
                None,
                format!("192.0.2.{}", second % 100),
                "no".into(),
                at(second),
            );
        }
        for (second, why) in [(2000, "ended 7 s ago"), (2001, "ended 18 s ago")] {
            recent.note_at(What::LinkRefused, None, "192.0.2.99".into(), why.into(), at(second));
        }
        let events = recent.events(|_| true);
        assert_eq!(events.len(), KEPT + 1);
        let told =
            |event: &Event| (event.what, event.who.clone(), event.why.clone(), event.times, event.last);
        let again = (What::LinkRefused, "192.0.2.99".into(), "ended 18 s ago".into(), 2, at(2001));
        assert_eq!(told(&events[0]), again);
        assert_eq!(told(&events[KEPT]), (What::NodeGone, "n2".into(), "silent".into(), 1, at(0)));
        assert!(events.is_sorted_by_key(|event| std::cmp::Reverse(event.last)));
    }

    #[test]
    fn a_tenant_sees_its_own_and_pushes_nothing_of_others_out() {
        let recent = Recent::default();
        recent.note(What::LinkEnded, Some("mine"), "a", "silent");
        recent.note(What::LinkEnded, None, "n2", "silent");
        for number in 0..1000 {
            recent.note(What::LinkEnded, Some("loud"), format!("agent {number:x}"), "again");
        }
        let who = |sees: &dyn Fn(Option<&str>) -> bool| {
            recent.events(sees).into_iter().map(|event| event.who).collect::<Vec<_>>()
        };
        assert_eq!(who(&|tenant| tenant == Some("mine")), ["a"]);
        assert_eq!(who(&|tenant| tenant.is_none()), ["n2"]);
        assert_eq!(who(&|_| true).len(), KEPT);
    }

    #[test]
    fn all_that_happens_is_counted_though_little_of_it_is_kept() {
        let metrics = Metrics::default();
        let recent = Recent::new(&metrics);
        for number in 0..1000 {
            recent.note(What::LinkRefused, None, format!("client {number:x}"), "no");
        }
        recent.note(What::Draining, None, "this node", "1 min at most");
        let scrape = metrics.encode();
        let events: Vec<_> = scrape.lines().filter(|line| line.starts_with("adit_events_total")).collect();
        assert_eq!(events.len(), What::ALL.len(), "{events:?}");
        for line in [
            r#"adit_events_total{what="link_refused"} 1000"#,
            r#"adit_events_total{what="draining"} 1"#,
            r#"adit_events_total{what="node_gone"} 0"#,
        ] {
            assert!(events.contains(&line), "{line} in {events:?}");
        }
    }

    #[test]
    fn a_reason_is_cut_where_it_is_longer_than_anybody_reads() {
        let recent = Recent::default();
        recent.note(What::LinkRefused, None, "192.0.2.1", "ü".repeat(5000));
        assert_eq!(recent.events(|_| true)[0].why.chars().count(), LONGEST + 1);
    }
}
