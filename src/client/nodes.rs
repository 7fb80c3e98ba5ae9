//! The nodes of the cluster, as nodes have told of them, and which of them could not be linked to of late.
//!
//! Pure but for the clock that it is handed. The newest list wins: nodes keep it up to date, so that one that is not in it
//! has left.

use std::collections::BTreeMap;

use tokio::{sync::watch, time::Instant};

use super::Backoff;
use crate::protocol::{NodeAddress, NodeId};

/// How many failures in a row the first one counts as. Somewhere else is tried first, and that takes a moment too.
const FIRST_FAILURE: u32 = 4;

/// What a client knows.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: watch::Sender<Known>,
}

#[derive(Debug, Default)]
struct Known {
    list: Vec<NodeAddress>,
    resting: BTreeMap<NodeId, Rest>,
}

/// A node that is left alone for a while.
#[derive(Debug, Clone, Copy)]
struct Rest {
    failures: u32,
    until: Instant,
}

impl Nodes {
    /// Takes in a node's list.
    pub(super) fn learn(&self, list: Vec<NodeAddress>) {
        self.known.send_if_modified(|known| {
            let changed = known.list != list;
            known.list = list;
            changed
        });
    }

    /// Tells of new lists.
    pub(super) fn changes(&self) -> Changes {
        Changes(self.known.subscribe())
    }

    /// Leaves a node alone for a while, which is longer with each failure in a row.
    pub(super) fn failed(&self, node: &NodeId, now: Instant, backoff: Backoff) {
        self.known.send_if_modified(|known| {
            // What is not listed is never chosen; leaving it out bounds what is remembered.
            let Known { list, resting } = known;
            resting.retain(|resting, _| list.iter().any(|listed| listed.node == *resting));
            if list.iter().any(|listed| listed.node == *node) {
                let failures =
                    resting.get(node).map_or(FIRST_FAILURE, |rest| rest.failures.saturating_add(1));
                resting.insert(node.clone(), Rest { failures, until: now + backoff.wait(failures, 1.0) });
            }
            false
        });
    }

    /// Forgets a node's failures.
    pub(super) fn succeeded(&self, node: &NodeId) {
        self.known.send_if_modified(|known| {
            known.resting.remove(node);
            false
        });
    }

    /// The nodes that are not taken.
    pub(super) fn free(&self, taken: impl Fn(&NodeId) -> bool) -> Vec<NodeId> {
        let known = self.known.borrow();
        known.list.iter().map(|listed| &listed.node).filter(|node| !taken(node)).cloned().collect()
    }

    /// A node to link to: any that is neither taken nor left alone, by a random `dice` from 0 to 1.
    pub(super) fn choose(
        &self,
        now: Instant,
        taken: impl Fn(&NodeId) -> bool,
        dice: f64,
    ) -> Option<NodeAddress> {
        let known = self.known.borrow();
        let rests = |node: &NodeId| known.resting.get(node).is_some_and(|rest| rest.until > now);
        let fit = |listed: &&NodeAddress| !taken(&listed.node) && !rests(&listed.node);
        let count = known.list.iter().filter(fit).count();
        let index = (dice * count as f64) as usize;
        known.list.iter().filter(fit).nth(index.min(count.saturating_sub(1))).cloned()
    }
}

/// New lists, as they come.
#[derive(Debug)]
pub(super) struct Changes(watch::Receiver<Known>);

impl Changes {
    /// Waits for the next one. Cancel safe.
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // There will be none.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn list(names: &[&str]) -> Vec<NodeAddress> {
        names.iter().map(|name| NodeAddress { node: id(name), address: format!("{name}:8001") }).collect()
    }

    fn chosen(nodes: &Nodes, now: Instant, taken: &[&str], dice: f64) -> Option<String> {
        let taken: Vec<_> = taken.iter().map(|name| id(name)).collect();
        nodes.choose(now, |node| taken.contains(node), dice).map(|node| node.node.to_string())
    }

    #[test]
    fn any_node_that_is_not_taken_is_chosen() {
        let (nodes, now) = (Nodes::default(), Instant::now());
        assert_eq!(chosen(&nodes, now, &[], 0.5), None);
        nodes.learn(list(&["a", "b", "c", "d"]));
        let all = [0.0, 0.4, 0.7, 1.0].map(|dice| chosen(&nodes, now, &["b"], dice).unwrap());
        assert_eq!(all, ["a", "c", "d", "d"]);
        assert_eq!(nodes.free(|node| node.as_str() < "c"), [id("c"), id("d")]);
        assert_eq!(chosen(&nodes, now, &["a", "b", "c", "d"], 0.5), None);
        nodes.learn(list(&["e"]));
        assert_eq!(chosen(&nodes, now, &[], 0.0).as_deref(), Some("e"));
    }

    #[test]
    fn a_node_that_fails_is_left_alone_longer_each_time_until_it_succeeds() {
        let (nodes, now, backoff) = (Nodes::default(), Instant::now(), Backoff::default());
        nodes.learn(list(&["a"]));
        let rests = |ms| chosen(&nodes, now + Duration::from_millis(ms), &[], 0.0).is_none();
        for (longest, after) in [(1_599, 1_600), (3_199, 3_200), (6_399, 6_400)] {
            nodes.failed(&id("a"), now, backoff);
            assert!(rests(longest) && !rests(after), "{longest}");
        }
        nodes.succeeded(&id("a"));
        nodes.failed(&id("a"), now, backoff);
        assert!(rests(1_599) && !rests(1_600));
        nodes.succeeded(&id("a"));
        assert!(!rests(0));
    }

    #[test]
    fn failures_of_nodes_that_are_not_listed_are_not_remembered() {
        let (nodes, now) = (Nodes::default(), Instant::now());
        nodes.learn(list(&["a"]));
        nodes.failed(&id("a"), now, Backoff::default());
        nodes.failed(&id("unheard-of"), now, Backoff::default());
        nodes.learn(list(&["b"]));
        nodes.failed(&id("b"), now, Backoff::default());
        assert_eq!(nodes.known.borrow().resting.len(), 1);
    }
}
