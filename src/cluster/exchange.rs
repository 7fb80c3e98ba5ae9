//! Route exchange with one peer: what to send it, and what it has told.
//!
//! [`RouteLog`] owns this node's routes and their latest changes; each peer link has a [`Sender`] that reads it and a
//! [`Receiver`] for the other direction. The link's tasks drive them: they ask for the next frame when the one before has
//! been written, so a slow peer queues nothing and costs at most one snapshot at a time. Nothing here reads, writes or
//! waits.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    ops::Bound,
};

use rpds::RedBlackTreeSetSync;

use crate::protocol::{ListenOptions, PeerRoute, RouteUpdate};

/// The most routes that one node has, with their hosts: it takes no more, and who is told of more closes the link. Each costs
/// all others about a kilobyte.
pub const MAX_ROUTES: usize = 250_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Added,
    Removed,
}

/// This node's own routes and a bounded log of their changes, shared by the senders of all peers.
#[derive(Debug)]
pub struct RouteLog {
    /// Persistent, so that a snapshot on its way to a peer is a copy that costs nothing and never changes.
    routes: RedBlackTreeSetSync<PeerRoute>,
    /// How much room they take together.
    weight: usize,
    /// The latest changes; the last of them has the number `sequence`, each before it one less.
    changes: VecDeque<(PeerRoute, Change)>,
    limit: usize,
    sequence: u64,
}

impl Default for RouteLog {
    fn default() -> Self {
        Self {
            routes: RedBlackTreeSetSync::new_sync(),
            weight: 0,
            changes: VecDeque::new(),
            limit: Self::MAX_CHANGES,
            sequence: 0,
        }
    }
}

impl RouteLog {
    /// How many changes are kept for peers to catch up by; whoever is further behind gets a snapshot.
    pub const MAX_CHANGES: usize = 4096;

    /// No route yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a route. False when it was there, or there are as many as there may be.
    pub fn add(&mut self, route: PeerRoute) -> bool {
        if self.is_full() || self.routes.contains(&route) {
            return false;
        }
        self.weight += route.weight();
        self.routes.insert_mut(route.clone());
        self.record(route, Change::Added);
        true
    }

    /// Removes a route. False when it was not there.
    pub fn remove(&mut self, route: &PeerRoute) -> bool {
        let removed = self.routes.remove_mut(route);
        if removed {
            self.weight -= route.weight();
            self.record(route.clone(), Change::Removed);
        }
        removed
    }

    /// The number of the last change.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// All routes, in order.
    pub fn routes(&self) -> impl Iterator<Item = &PeerRoute> {
        self.routes.iter()
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.routes.size()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Whether there are as many as there may be.
    pub fn is_full(&self) -> bool {
        self.weight >= MAX_ROUTES
    }

    fn record(&mut self, route: PeerRoute, change: Change) {
        if self.changes.len() == self.limit {
            self.changes.pop_front();
        }
        self.changes.push_back((route, change));
        self.sequence += 1;
    }

    /// The changes after the one of this number, or none when the log does not reach back that far.
    fn since(&self, sequence: u64) -> Option<impl Iterator<Item = &(PeerRoute, Change)>> {
        let behind = usize::try_from(self.sequence.checked_sub(sequence)?).ok()?;
        Some(self.changes.range(self.changes.len().checked_sub(behind)?..))
    }
}

/// A snapshot on its way.
#[derive(Debug)]
struct Outgoing {
    routes: RedBlackTreeSetSync<PeerRoute>,
    sequence: u64,
    /// The last route that was sent.
    after: Option<PeerRoute>,
}

/// What one peer has been sent.
#[derive(Debug, Default)]
pub struct Sender {
    /// The number of the last change that the peer has been sent, none before the first snapshot.
    sent: Option<u64>,
    snapshot: Option<Outgoing>,
}

impl Sender {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next frame for the peer, none when it is up to date. Each frame that is given counts as sent.
    pub fn next(&mut self, log: &RouteLog) -> Option<RouteUpdate> {
        if self.snapshot.is_none() {
            if let Some(caught_up) = self.catch_up(log) {
                return caught_up;
            }
            self.snapshot =
                Some(Outgoing { routes: log.routes.clone(), sequence: log.sequence, after: None });
        }
        let mut outgoing = self.snapshot.take()?;
        let begins = outgoing.after.is_none();
        let from = outgoing.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = outgoing.routes.range((from, Bound::Unbounded)).peekable();
        let (mut added, mut room) = (Vec::new(), RouteUpdate::MAX_ROUTES);
        while let Some(route) = rest.next_if(|route| route.weight() <= room) {
            room -= route.weight();
            added.push(route.clone());
        }
        let more = rest.peek().is_some();
        let sequence = outgoing.sequence;
        if more {
            outgoing.after = added.last().cloned();
            self.snapshot = Some(outgoing);
        } else {
            self.sent = Some(sequence);
        }
        Some(RouteUpdate { snapshot: begins, more, sequence, added, removed: Vec::new() })
    }

    /// The next frame of changes, or none when only a snapshot can help.
    fn catch_up(&mut self, log: &RouteLog) -> Option<Option<RouteUpdate>> {
        let mut sent = self.sent?;
        // A route's first and last change in this batch. Adds and removes of one route take turns: when the two differ,
        // the peer's view of it is right as it is.
        let mut batch: BTreeMap<&PeerRoute, (Change, Change)> = BTreeMap::new();
        let mut room = RouteUpdate::MAX_ROUTES;
        for (route, change) in log.since(sent)? {
            match batch.entry(route) {
                Entry::Occupied(mut ends) => ends.get_mut().1 = *change,
                Entry::Vacant(vacant) => {
                    let Some(left) = room.checked_sub(route.weight()) else { break };
                    room = left;
                    vacant.insert((*change, *change));
                }
            }
            sent += 1;
        }
        self.sent = Some(sent);
        let lasting = |wanted: Change| {
            let lasting = batch.iter().filter(move |(_, ends)| **ends == (wanted, wanted));
            lasting.map(|(route, _)| (*route).clone()).collect::<Vec<_>>()
        };
        let (added, removed) = (lasting(Change::Added), lasting(Change::Removed));
        if added.is_empty() && removed.is_empty() {
            // Everything so far cancels out; what follows may not.
            return if sent < log.sequence { self.catch_up(log) } else { Some(None) };
        }
        Some(Some(RouteUpdate { snapshot: false, more: false, sequence: sent, added, removed }))
    }
}

/// Why a peer's update cannot be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// Changes came before any snapshot.
    #[error("route changes came before the first snapshot")]
    NoSnapshot,
    /// Its number is not above the one that came before.
    #[error("route update {got} came after {held}")]
    Backwards {
        /// The number that was held.
        held: u64,
        /// The number that came.
        got: u64,
    },
    /// The peer has more routes than any node may have.
    #[error("more than {limit} routes and hosts")]
    TooManyRoutes {
        /// The bound.
        limit: usize,
    },
}

/// How a peer's routes have changed. A route may be in both, as when a service now speaks something else: what is removed
/// comes before what is added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Routes that there are now.
    pub added: Vec<PeerRoute>,
    /// Routes that there are no more.
    pub removed: Vec<PeerRoute>,
}

/// Routes, and how much room they take.
#[derive(Debug, Default)]
struct Weighed {
    routes: BTreeSet<PeerRoute>,
    weight: usize,
}

impl Weighed {
    fn insert(&mut self, route: PeerRoute) -> bool {
        let weight = route.weight();
        let new = self.routes.insert(route);
        self.weight += if new { weight } else { 0 };
        new
    }

    fn remove(&mut self, route: &PeerRoute) -> bool {
        let removed = self.routes.remove(route);
        self.weight -= if removed { route.weight() } else { 0 };
        removed
    }
}

/// What one peer has told.
#[derive(Debug)]
pub struct Receiver {
    held: Weighed,
    /// The number up to which `held` holds, none before the first snapshot.
    sequence: Option<u64>,
    /// A snapshot that is still arriving.
    arriving: Option<Weighed>,
    limit: usize,
}

impl Default for Receiver {
    fn default() -> Self {
        // A node that is not full takes one route more, whatever that has of hosts.
        let limit = MAX_ROUTES + ListenOptions::MAX_HOSTS;
        Self { held: Weighed::default(), sequence: None, arriving: None, limit }
    }
}

impl Receiver {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a frame. The frames of a snapshot change nothing until the last, which yields the difference to what was
    /// known: no route goes missing while it arrives.
    ///
    /// # Errors
    /// When the peer does not keep to the protocol. The link is then of no more use; the routes stay as they were.
    pub fn apply(&mut self, update: RouteUpdate) -> Result<Changes, ExchangeError> {
        let begun = update.snapshot || self.arriving.is_some();
        match self.sequence {
            None if !begun => return Err(ExchangeError::NoSnapshot),
            // A snapshot may repeat a number: that is how a node answers who asks it again.
            Some(held) if update.sequence < held || (update.sequence == held && !begun) => {
                return Err(ExchangeError::Backwards { held, got: update.sequence });
            }
            _ => {}
        }
        if update.snapshot {
            self.arriving = Some(Weighed::default());
        }
        let held = self.arriving.as_ref().unwrap_or(&self.held).weight;
        let weight = |routes: &[PeerRoute]| routes.iter().map(PeerRoute::weight).sum::<usize>();
        // What is removed makes room. A peer that removes what it does not have passes the limit by one frame.
        if held + weight(&update.added).saturating_sub(weight(&update.removed)) > self.limit {
            return Err(ExchangeError::TooManyRoutes { limit: self.limit });
        }
        let (more, sequence) = (update.more, update.sequence);
        let mut changes = Changes::default();
        if let Some(mut arriving) = self.arriving.take() {
            for route in update.added {
                arriving.insert(route);
            }
            if more {
                self.arriving = Some(arriving);
            } else {
                changes.removed = self.held.routes.difference(&arriving.routes).cloned().collect();
                changes.added = arriving.routes.difference(&self.held.routes).cloned().collect();
                self.held = arriving;
            }
        } else {
            changes.removed = update.removed.into_iter().filter(|route| self.held.remove(route)).collect();
            changes.added =
                update.added.into_iter().filter(|route| self.held.insert(route.clone())).collect();
        }
        if !more {
            self.sequence = Some(sequence);
        }
        Ok(changes)
    }

    /// The peer's routes, in order.
    pub fn routes(&self) -> impl Iterator<Item = &PeerRoute> {
        self.held.routes.iter()
    }

    /// How many routes the peer has.
    pub fn len(&self) -> usize {
        self.held.routes.len()
    }

    /// Whether the peer has no route.
    pub fn is_empty(&self) -> bool {
        self.held.routes.is_empty()
    }

    /// Whether the first snapshot has come.
    pub fn complete(&self) -> bool {
        self.sequence.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::{AgentId, EndpointId, HostPattern, Kind, TenantId};

    fn route(number: usize) -> PeerRoute {
        PeerRoute {
            tenant: TenantId::default(),
            endpoint: EndpointId::new(&format!("endpoint-{number:06}")).unwrap(),
            agent: AgentId::from_bits(number as u128),
            kind: Kind::Http,
            options: ListenOptions::default(),
        }
    }

    /// A route with as many hosts as its number is from a multiple of eight.
    fn mapped(number: usize) -> PeerRoute {
        let host = |label| HostPattern::new(&format!("h{label}.e{number}.example")).unwrap();
        PeerRoute {
            options: ListenOptions { hosts: (0..number % 8).map(host).collect(), ..ListenOptions::default() },
            ..route(number)
        }
    }

    fn log_of(numbers: std::ops::Range<usize>) -> RouteLog {
        let mut log = RouteLog::new();
        for number in numbers {
            assert!(log.add(route(number)));
        }
        log
    }

    /// Sends until the peer is up to date, and counts the frames.
    fn exchange(log: &RouteLog, sender: &mut Sender, receiver: &mut Receiver) -> usize {
        std::iter::from_fn(|| sender.next(log)).map(|update| receiver.apply(update).unwrap()).count()
    }

    fn same(log: &RouteLog, receiver: &Receiver) -> bool {
        log.routes().eq(receiver.routes())
    }

    fn snapshot(sequence: u64, more: bool, numbers: std::ops::Range<usize>) -> RouteUpdate {
        RouteUpdate { snapshot: true, more, sequence, added: numbers.map(route).collect(), removed: vec![] }
    }

    #[test]
    fn a_new_peer_gets_a_snapshot_even_of_nothing() {
        let (log, mut sender, mut receiver) = (RouteLog::new(), Sender::new(), Receiver::new());
        assert!(!receiver.complete());
        assert_eq!(exchange(&log, &mut sender, &mut receiver), 1);
        assert!(receiver.complete());
        assert!(receiver.is_empty());
    }

    #[test]
    fn a_snapshot_of_exactly_full_frames_has_no_empty_one() {
        for (routes, frames) in [(511, 1), (512, 1), (513, 2), (1024, 2), (1025, 3)] {
            let (log, mut sender, mut receiver) = (log_of(0..routes), Sender::new(), Receiver::new());
            assert_eq!(exchange(&log, &mut sender, &mut receiver), frames, "{routes}");
            assert!(same(&log, &receiver));
        }
    }

    #[test]
    fn hosts_take_the_room_of_routes() {
        let most = ListenOptions::MAX_HOSTS;
        let host = |label| HostPattern::new(&format!("h{label}.example")).unwrap();
        let options = ListenOptions { hosts: (0..most).map(host).collect(), proxy_protocol: true };
        let heavy = |number| PeerRoute { options: options.clone(), ..route(number) };
        let (mut log, mut sender, mut receiver) = (RouteLog::new(), Sender::new(), Receiver::new());
        (0..31).for_each(|number| assert!(log.add(heavy(number))));
        assert_eq!(exchange(&log, &mut sender, &mut receiver), 3, "15 are 495 routes and hosts");
        (31..62).for_each(|number| assert!(log.add(heavy(number))));
        assert_eq!(exchange(&log, &mut sender, &mut receiver), 3, "changes too");
        assert!(same(&log, &receiver));
    }

    #[test]
    fn changes_during_a_snapshot_follow_it() {
        let (mut log, mut sender, mut receiver) = (log_of(0..1300), Sender::new(), Receiver::new());
        receiver.apply(sender.next(&log).unwrap()).unwrap();
        // One that was sent, one that was not, one before and one behind.
        assert!(log.remove(&route(7)) && log.remove(&route(1200)));
        assert!(log.add(PeerRoute { kind: Kind::Tcp, ..route(3) }) && log.add(route(2000)));
        let frames: Vec<_> = std::iter::from_fn(|| sender.next(&log)).collect();
        assert_eq!(frames.iter().map(|frame| frame.sequence).collect::<Vec<_>>(), [1300, 1300, 1304]);
        assert_eq!(frames.iter().map(|frame| frame.more).collect::<Vec<_>>(), [true, false, false]);
        for frame in frames {
            receiver.apply(frame).unwrap();
        }
        assert!(same(&log, &receiver));
    }

    #[test]
    fn a_route_that_comes_and_goes_between_two_frames_is_not_sent() {
        let (mut log, mut sender, mut receiver) = (log_of(0..1), Sender::new(), Receiver::new());
        exchange(&log, &mut sender, &mut receiver);
        assert!(log.add(route(1)) && log.remove(&route(1)));
        assert!(log.remove(&route(0)) && log.add(route(0)));
        assert_eq!(sender.next(&log), None);
        assert!(log.remove(&route(0)) && log.add(route(0)) && log.remove(&route(0)));
        let update = sender.next(&log).unwrap();
        assert_eq!((update.added, update.removed, update.sequence), (vec![], vec![route(0)], 8));
        assert_eq!(sender.next(&log), None);
    }

    #[test]
    fn a_peer_that_fell_behind_the_log_gets_one_snapshot() {
        let (mut log, mut sender, mut receiver) = (log_of(0..3), Sender::new(), Receiver::new());
        exchange(&log, &mut sender, &mut receiver);
        for _ in 0..RouteLog::MAX_CHANGES / 2 {
            assert!(log.add(route(9)) && log.remove(&route(9)));
        }
        assert_eq!(exchange(&log, &mut sender, &mut receiver), 0, "it is still within reach");
        assert!(log.add(route(3)));
        for _ in 0..RouteLog::MAX_CHANGES / 2 {
            assert!(log.add(route(9)) && log.remove(&route(9)));
        }
        let update = sender.next(&log).unwrap();
        assert!(update.snapshot && !update.more);
        let changes = receiver.apply(update).unwrap();
        assert_eq!(changes, Changes { added: vec![route(3)], removed: vec![] });
        assert_eq!(sender.next(&log), None);
    }

    #[test]
    fn nothing_is_missing_while_a_snapshot_arrives() {
        let mut receiver = Receiver::new();
        receiver.apply(snapshot(5, false, 0..3)).unwrap();
        assert_eq!(receiver.apply(snapshot(9, true, 2..4)).unwrap(), Changes::default());
        assert_eq!(receiver.len(), 3);
        let last = RouteUpdate { snapshot: false, ..snapshot(9, false, 4..5) };
        let changes = receiver.apply(last).unwrap();
        assert_eq!(changes, Changes { added: vec![route(3), route(4)], removed: vec![route(0), route(1)] });
        assert!(receiver.routes().eq([route(2), route(3), route(4)].iter()));
    }

    #[test]
    fn a_peer_that_breaks_the_order_is_refused() {
        let change = |sequence| RouteUpdate { snapshot: false, ..snapshot(sequence, false, 0..1) };
        let mut receiver = Receiver::new();
        assert_eq!(receiver.apply(change(1)), Err(ExchangeError::NoSnapshot));
        receiver.apply(snapshot(5, false, 0..1)).unwrap();
        assert_eq!(receiver.apply(change(5)), Err(ExchangeError::Backwards { held: 5, got: 5 }));
        assert_eq!(
            receiver.apply(snapshot(4, false, 0..0)),
            Err(ExchangeError::Backwards { held: 5, got: 4 })
        );
        receiver.apply(snapshot(5, false, 0..0)).unwrap();
        receiver.apply(change(6)).unwrap();
        assert_eq!(receiver.len(), 1);
    }

    #[test]
    fn a_node_that_has_all_it_may_have_can_still_exchange_some_for_others() {
        let (mut log, mut sender, mut receiver) = (log_of(0..MAX_ROUTES), Sender::new(), Receiver::new());
        assert!(!log.add(route(MAX_ROUTES)), "it takes no more");
        exchange(&log, &mut sender, &mut receiver);
        for number in 0..100 {
            assert!(log.remove(&route(number)) && log.add(route(MAX_ROUTES + number)));
        }
        assert_eq!(exchange(&log, &mut sender, &mut receiver), 1);
        assert!(same(&log, &receiver));
    }

    #[test]
    fn hosts_count_towards_what_a_node_may_have() {
        let options =
            ListenOptions { hosts: vec![HostPattern::new("a.example").unwrap(); 9], proxy_protocol: false };
        let heavy = |number| PeerRoute { options: options.clone(), ..route(number) };
        let mut log = RouteLog::new();
        (0..MAX_ROUTES / 10).for_each(|number| assert!(log.add(heavy(number))));
        assert!(log.is_full() && !log.add(route(MAX_ROUTES)));
        assert!(log.remove(&heavy(0)) && !log.is_full());

        let mut receiver = Receiver { limit: 30, ..Receiver::new() };
        let told = |numbers: std::ops::Range<usize>| numbers.map(heavy).collect();
        receiver.apply(RouteUpdate { added: told(0..3), ..snapshot(1, false, 0..0) }).unwrap();
        let more = RouteUpdate { snapshot: false, added: told(3..4), ..snapshot(2, false, 0..0) };
        assert_eq!(receiver.apply(more.clone()), Err(ExchangeError::TooManyRoutes { limit: 30 }));
        receiver.apply(RouteUpdate { removed: told(0..1), ..more }).unwrap();
        assert_eq!(receiver.len(), 3);
    }

    #[test]
    fn removing_what_is_not_there_makes_no_room() {
        let mut receiver = Receiver { limit: 10, ..Receiver::new() };
        receiver.apply(snapshot(1, false, 0..10)).unwrap();
        let mut sequence = 1;
        let mut swap = |receiver: &mut Receiver| {
            sequence += 1;
            let (added, removed) =
                ((100..105).map(|number| route(sequence as usize * 1000 + number)), 500..505);
            let removed = removed.map(route).collect();
            receiver.apply(RouteUpdate {
                snapshot: false,
                more: false,
                sequence,
                added: added.collect(),
                removed,
            })
        };
        assert!(swap(&mut receiver).is_ok());
        assert_eq!(swap(&mut receiver), Err(ExchangeError::TooManyRoutes { limit: 10 }));
    }

    #[test]
    fn a_peer_with_too_many_routes_is_refused() {
        let mut receiver = Receiver { limit: 10, ..Receiver::new() };
        receiver.apply(snapshot(1, true, 0..8)).unwrap();
        let next = RouteUpdate { snapshot: false, ..snapshot(1, false, 8..11) };
        assert_eq!(receiver.apply(next), Err(ExchangeError::TooManyRoutes { limit: 10 }));
        let mut receiver = Receiver { limit: 10, ..Receiver::new() };
        receiver.apply(snapshot(1, false, 0..8)).unwrap();
        let next = RouteUpdate { snapshot: false, ..snapshot(2, false, 8..11) };
        assert_eq!(receiver.apply(next), Err(ExchangeError::TooManyRoutes { limit: 10 }));
        assert_eq!(receiver.len(), 8);
    }

    proptest! {
        /// Whenever frames are taken, each that ends something leaves the peer with exactly the routes of that number,
        /// and the changes that it is told of are the true ones.
        #[test]
        fn a_peer_always_ends_with_the_routes_of_the_log(
            steps in prop::collection::vec((0_u8..10, 0_usize..700), 1..1000),
            burst in 0_usize..2, limit in 1_usize..200,
        ) {
            let mut log = RouteLog { limit, ..RouteLog::new() };
            (0..burst * 600).for_each(|number| assert!(log.add(mapped(number))));
            let (mut sender, mut receiver) = (Sender::new(), Receiver::new());
            let mut told = BTreeSet::new();
            let mut versions = BTreeMap::from([(log.sequence(), log.routes.clone())]);
            let mut take = |sender: &mut Sender, log: &RouteLog, versions: &BTreeMap<u64, RedBlackTreeSetSync<_>>| {
                let Some(update) = sender.next(log) else { return false };
                let ends = (!update.more).then_some(update.sequence);
                let weight = update.added.iter().chain(&update.removed).map(PeerRoute::weight).sum::<usize>();
                assert!(weight <= RouteUpdate::MAX_ROUTES);
                let changes = receiver.apply(update).unwrap();
                for gone in &changes.removed {
                    assert!(told.remove(gone));
                }
                for new in &changes.added {
                    assert!(told.insert(new.clone()));
                }
                assert!(told.iter().eq(receiver.routes()));
                if let Some(sequence) = ends {
                    assert!(versions[&sequence].iter().eq(receiver.routes()));
                }
                true
            };
            for (step, number) in steps {
                match step {
                    0 => { take(&mut sender, &log, &versions); }
                    1..6 => { log.add(mapped(number)); }
                    _ => { log.remove(&mapped(number)); }
                }
                versions.insert(log.sequence(), log.routes.clone());
            }
            while take(&mut sender, &log, &versions) {}
            prop_assert!(same(&log, &receiver));
        }
    }
}
