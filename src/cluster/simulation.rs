//! Whole clusters in virtual time: the pure cores of many nodes over links that are made, cut, mended and lost.
//!
//! A link is as the real one: both ends announce themselves when it is made; datagrams on it may be lost, frames of route
//! exchange wait until they can be delivered, one at a time; it is lost when nothing has come through for a while, and
//! the peer's routes are lost with it. Everything that happens follows from the seed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use super::{
    exchange::{Receiver, RouteLog, Sender},
    membership::{Effect, Member, Membership},
};
use crate::protocol::{AgentId, EndpointId, Kind, ListenOptions, NodeId, PeerRoute, RouteUpdate, TenantId};

/// Figures of a run, for whoever asks by `--nocapture`.
macro_rules! report {
    ($($text:tt)*) => {{
        #[allow(clippy::print_stderr, reason = "the figures are why some of these tests are run")]
        {
            eprintln!($($text)*);
        }
    }};
}

const LINK_LOST_AFTER: Duration = Duration::from_secs(5);
const SEEDS_DIALLED_EVERY: u32 = 5;
const MAINTAIN: Duration = Duration::from_secs(1);
const RESENT_AFTER: Duration = Duration::from_millis(200);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Live,
    Paused,
    Dead,
}

/// One end of a link.
struct Peer {
    link: u64,
    sender: Sender,
    /// The frame that is on its way: the next is not asked for before it has arrived.
    in_flight: bool,
    receiver: Receiver,
    /// What the receiver has told of.
    told: BTreeSet<PeerRoute>,
}

struct Node {
    state: State,
    membership: Membership,
    /// What the membership has told of.
    told: BTreeMap<NodeId, Member>,
    routes: RouteLog,
    peers: BTreeMap<usize, Peer>,
    dialling: BTreeSet<usize>,
    tick_at: Option<Instant>,
    /// Since when it looks after its links, so that it does so once; and how often it has.
    maintaining: u64,
    maintained: u32,
    /// Which side of a partition it is on.
    side: u8,
}

enum Event {
    Tick(usize),
    Maintain(usize, u64),
    Dialled(usize, usize),
    Datagram { link: u64, from: usize, to: usize, data: Bytes },
    Frame { link: u64, from: usize, to: usize, update: RouteUpdate },
    Check { link: u64, ends: (usize, usize) },
}

struct Entry(Instant, u64, Event);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

struct World {
    start: Instant,
    now: Instant,
    rng: SmallRng,
    nodes: Vec<Node>,
    /// Those whose addresses every node is started with.
    seeds: Vec<usize>,
    /// Pairs that cannot reach each other though both reach others.
    severed: BTreeSet<(usize, usize)>,
    events: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    links: u64,
    /// Share of datagrams that are lost, in percent.
    loss: u32,
    /// Who came up in whose view, and when.
    sightings: Vec<(Instant, usize, Member)>,
    datagrams: u64,
    bytes: u64,
}

fn name(node: usize) -> NodeId {
    NodeId::new(&format!("n{node}")).unwrap()
}

fn index(member: &Member) -> usize {
    member.node.as_str()[1..].parse().unwrap()
}

fn route(number: usize) -> PeerRoute {
    PeerRoute {
        tenant: TenantId::default(),
        endpoint: EndpointId::new(&format!("e{number}")).unwrap(),
        agent: AgentId::from_bits(number as u128),
        kind: Kind::Http,
        options: ListenOptions::default(),
    }
}

impl World {
    fn new(seed: u64, seeds: usize) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            rng: SmallRng::seed_from_u64(seed),
            nodes: Vec::new(),
            seeds: (0..seeds).collect(),
            severed: BTreeSet::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            links: 0,
            loss: 1,
            sightings: Vec::new(),
            datagrams: 0,
            bytes: 0,
        }
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse(Entry(self.now + after, self.sequence, event)));
    }

    fn latency(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(1..20))
    }

    fn reach(&self, a: usize, b: usize) -> bool {
        let live = |node: usize| self.nodes[node].state == State::Live;
        let severed = self.severed.contains(&(a.min(b), a.max(b)));
        live(a) && live(b) && self.nodes[a].side == self.nodes[b].side && !severed
    }

    // What operators and the world do.

    fn join(&mut self) -> usize {
        let node = self.nodes.len();
        let fresh = self.fresh(node, 1_000_000, 0);
        self.nodes.push(fresh);
        self.go(node);
        node
    }

    fn fresh(&mut self, node: usize, incarnation: u64, side: u8) -> Node {
        let me = Member { node: name(node), incarnation, address: format!("{}:8003", name(node)) };
        Node {
            state: State::Dead,
            membership: Membership::new(me, self.rng.random()),
            told: BTreeMap::new(),
            routes: RouteLog::new(),
            peers: BTreeMap::new(),
            dialling: BTreeSet::new(),
            tick_at: None,
            maintaining: 0,
            maintained: 0,
            side,
        }
    }

    fn go(&mut self, node: usize) {
        let maintaining = self.sequence;
        let this = &mut self.nodes[node];
        (this.state, this.tick_at, this.maintaining) = (State::Live, None, maintaining);
        self.at(Duration::ZERO, Event::Maintain(node, maintaining));
        self.settle(node);
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].state = State::Dead;
        self.check_links(node);
    }

    /// Starts a killed node again; its links of before are reset by the first packet that reaches it.
    fn restart(&mut self, node: usize, incarnation: u64) {
        assert_eq!(self.nodes[node].state, State::Dead);
        for peer in self.nodes[node].peers.keys().copied().collect::<Vec<_>>() {
            self.lose(node, peer);
        }
        self.nodes[node] = self.fresh(node, incarnation, self.nodes[node].side);
        self.go(node);
    }

    fn restart_later(&mut self, node: usize) {
        // As much later as the clock says.
        let milliseconds = self.now.duration_since(self.start).as_millis() as u64;
        let incarnation = self.nodes[node].membership.me().incarnation.max(1_000_000 + milliseconds) + 1;
        self.restart(node, incarnation);
    }

    fn pause(&mut self, node: usize) {
        self.nodes[node].state = State::Paused;
        self.check_links(node);
    }

    fn resume(&mut self, node: usize) {
        self.go(node);
    }

    fn leave(&mut self, node: usize) {
        let now = self.now;
        self.nodes[node].membership.leave(now);
        self.settle(node);
    }

    fn cut(&mut self, sides: impl Fn(usize) -> u8) {
        for node in 0..self.nodes.len() {
            self.nodes[node].side = sides(node);
            self.check_links(node);
        }
    }

    fn mend(&mut self) {
        self.severed.clear();
        self.cut(|_| 0);
    }

    fn sever(&mut self, a: usize, b: usize) {
        self.severed.insert((a.min(b), a.max(b)));
        self.check_links(a);
    }

    fn add_route(&mut self, node: usize, number: usize) {
        if self.nodes[node].routes.add(route(number)) {
            self.send_routes(node);
        }
    }

    fn remove_route(&mut self, node: usize, number: usize) {
        if self.nodes[node].routes.remove(&route(number)) {
            self.send_routes(node);
        }
    }

    // Links.

    fn check_links(&mut self, node: usize) {
        let links: Vec<_> =
            self.nodes[node].peers.iter().map(|(peer, end)| (end.link, (node, *peer))).collect();
        for (link, ends) in links {
            self.at(LINK_LOST_AFTER, Event::Check { link, ends });
        }
    }

    fn dial(&mut self, from: usize, to: usize) {
        let node = &mut self.nodes[from];
        if from != to && !node.peers.contains_key(&to) && node.dialling.insert(to) {
            let trip = self.latency() * 2;
            self.at(trip, Event::Dialled(from, to));
        }
    }

    fn dialled(&mut self, from: usize, to: usize) {
        self.nodes[from].dialling.remove(&to);
        if !self.reach(from, to) || self.nodes[from].peers.contains_key(&to) {
            return;
        }
        self.links += 1;
        for (end, other) in [(from, to), (to, from)] {
            let peer = Peer {
                link: self.links,
                sender: Sender::new(),
                in_flight: false,
                receiver: Receiver::new(),
                told: BTreeSet::new(),
            };
            self.nodes[end].peers.insert(other, peer);
        }
        for (end, other) in [(from, to), (to, from)] {
            let (now, member) = (self.now, self.nodes[other].membership.me());
            self.nodes[end].membership.announce(&member, now);
            self.settle(end);
            self.send_routes(end);
        }
    }

    fn lose(&mut self, a: usize, b: usize) {
        self.nodes[a].peers.remove(&b);
        self.nodes[b].peers.remove(&a);
    }

    fn has_link(&self, node: usize, peer: usize, link: u64) -> bool {
        self.nodes[node].peers.get(&peer).is_some_and(|end| end.link == link)
    }

    fn send_routes(&mut self, from: usize) {
        let Node { peers, routes, .. } = &mut self.nodes[from];
        let mut frames = Vec::new();
        for (&to, peer) in peers.iter_mut().filter(|(_, peer)| !peer.in_flight) {
            if let Some(update) = peer.sender.next(routes) {
                peer.in_flight = true;
                frames.push(Event::Frame { link: peer.link, from, to, update });
            }
        }
        for frame in frames {
            let latency = self.latency();
            self.at(latency, frame);
        }
    }

    /// Does what a node's membership wants done.
    fn settle(&mut self, from: usize) {
        for effect in self.nodes[from].membership.effects() {
            let told = &mut self.nodes[from].told;
            match effect {
                Effect::Send { to, data } => {
                    let to = index(&to);
                    assert_ne!(to, from);
                    if let Some(peer) = self.nodes[from].peers.get(&to) {
                        let link = peer.link;
                        self.datagrams += 1;
                        self.bytes += data.len() as u64;
                        let latency = self.latency();
                        self.at(latency, Event::Datagram { link, from, to, data });
                    } else {
                        self.dial(from, to);
                    }
                }
                Effect::Up(member) => {
                    assert_eq!(told.insert(member.node.clone(), member.clone()), None);
                    self.dial(from, index(&member));
                    self.sightings.push((self.now, from, member));
                }
                Effect::Replaced { old, new } => {
                    assert_eq!(told.insert(new.node.clone(), new.clone()), Some(old));
                    self.dial(from, index(&new));
                    self.sightings.push((self.now, from, new));
                }
                Effect::Down(member) => assert_eq!(told.remove(&member.node), Some(member)),
                Effect::Renewed(me) => assert_eq!(me.node, name(from)),
            }
        }
        let node = &mut self.nodes[from];
        if let Some(next) = node.membership.next_tick()
            && node.tick_at.is_none_or(|at| next < at)
        {
            node.tick_at = Some(next);
            let after = next.saturating_duration_since(self.now);
            self.at(after, Event::Tick(from));
        }
    }

    // Time.

    fn step(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Tick(node) => {
                if self.nodes[node].state == State::Live
                    && self.nodes[node].tick_at.is_some_and(|at| at <= now)
                {
                    self.nodes[node].tick_at = None;
                    self.nodes[node].membership.tick(now);
                    self.settle(node);
                }
            }
            Event::Maintain(node, since) => {
                if self.nodes[node].state != State::Live || self.nodes[node].maintaining != since {
                    return;
                }
                let turn = self.nodes[node].maintained;
                self.nodes[node].maintained += 1;
                let members = self.nodes[node].membership.members();
                members.iter().for_each(|member| self.dial(node, index(member)));
                if turn.is_multiple_of(SEEDS_DIALLED_EVERY) {
                    self.seeds.clone().into_iter().for_each(|seed| self.dial(node, seed));
                }
                self.at(MAINTAIN, Event::Maintain(node, since));
            }
            Event::Dialled(from, to) => self.dialled(from, to),
            Event::Datagram { link, from, to, data } => {
                let lost = self.rng.random_range(0..100) < self.loss;
                if !lost && self.has_link(to, from, link) && self.reach(from, to) {
                    self.nodes[to].membership.receive(&name(from), &data, now).unwrap();
                    self.settle(to);
                }
            }
            Event::Frame { link, from, to, update } => {
                if !self.has_link(to, from, link) {
                    return;
                }
                if !self.reach(from, to) {
                    self.at(RESENT_AFTER, Event::Frame { link, from, to, update });
                    return;
                }
                let peer = self.nodes[to].peers.get_mut(&from).unwrap();
                let changes = peer.receiver.apply(update).unwrap();
                changes.removed.iter().for_each(|gone| assert!(peer.told.remove(gone)));
                changes.added.into_iter().for_each(|new| assert!(peer.told.insert(new)));
                self.nodes[from].peers.get_mut(&to).unwrap().in_flight = false;
                self.send_routes(from);
            }
            Event::Check { link, ends: (a, b) } => {
                if self.has_link(a, b, link) && !self.reach(a, b) {
                    self.lose(a, b);
                }
            }
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse(next)) = self.events.peek()
            && next.0 <= end
            && let Some(Reverse(Entry(at, _, event))) = self.events.pop()
        {
            self.now = at;
            self.step(event);
        }
        self.now = end;
    }

    /// Why the views are not all the same and right; of routes it looks only at how many there are.
    fn disagreement(&self) -> Option<String> {
        let live = || (0..self.nodes.len()).filter(|node| self.nodes[*node].state == State::Live);
        for node in live() {
            let viewer = &self.nodes[node];
            let members = viewer.membership.members();
            assert!(members.iter().eq(viewer.told.values()), "what n{node} was told is not what it knows");
            let others: BTreeSet<_> = live().filter(|other| *other != node).map(name).collect();
            let seen: BTreeSet<_> = members.iter().map(|member| member.node.clone()).collect();
            if seen != others {
                let missing: Vec<_> = others.difference(&seen).collect();
                let ghosts: Vec<_> = seen.difference(&others).collect();
                return Some(format!("n{node} misses {missing:?} and still sees {ghosts:?}"));
            }
            if let Some(stale) =
                members.iter().find(|member| **member != self.nodes[index(member)].membership.me())
            {
                return Some(format!("n{node} sees {stale:?} in a former life"));
            }
            for other in live().filter(|other| *other != node) {
                let Some(peer) = viewer.peers.get(&other) else {
                    return Some(format!("n{node} has no link to n{other}"));
                };
                if !peer.receiver.complete() || self.nodes[other].routes.len() != peer.told.len() {
                    return Some(format!("n{node} does not know the routes of n{other}"));
                }
            }
            if let Some(ghost) = viewer.peers.keys().find(|peer| self.nodes[**peer].state != State::Live) {
                return Some(format!("n{node} still has a link to n{ghost}"));
            }
        }
        None
    }

    /// How long it takes until all views are the same and right, and stay so. (Soon after all is mended, a member may
    /// still be declared down for what was suspected before, and renew itself.)
    fn converge(&mut self, within: Duration) -> Duration {
        let (began, mut last, mut why) = (self.now, None, None);
        while self.now < began + within + secs(15) {
            if let Some(reason) = self.disagreement() {
                (last, why) = (Some(self.now), Some(reason));
            }
            self.run_for(Duration::from_millis(100));
        }
        let time = last.map_or(Duration::ZERO, |last| last - began);
        assert!(time <= within, "after {time:?}: {why:?}");
        for node in self.nodes.iter().filter(|node| node.state == State::Live) {
            for (peer, end) in &node.peers {
                assert!(end.told.iter().eq(end.receiver.routes()));
                assert!(end.told.iter().eq(self.nodes[*peer].routes.routes()));
            }
        }
        time
    }

    fn pick(&mut self, state: State) -> Option<usize> {
        let all: Vec<_> = (0..self.nodes.len()).filter(|node| self.nodes[*node].state == state).collect();
        (!all.is_empty()).then(|| all[self.rng.random_range(0..all.len())])
    }

    /// One operation of a script.
    fn operate(&mut self) {
        let operation = self.rng.random_range(0..100);
        match operation {
            0..8 if self.nodes.len() < 9 => {
                self.join();
            }
            8..16 => {
                if let Some(node) = self.pick(State::Live) {
                    self.kill(node);
                }
            }
            16..27 => {
                if let Some(node) = self.pick(State::Dead) {
                    self.restart_later(node);
                }
            }
            27..33 => {
                let (sides, splits) = (self.rng.random::<u64>(), self.rng.random_range(1..3_u32));
                self.cut(|node| ((sides >> (node * 2)) & u64::from(splits)) as u8);
            }
            33..38 => {
                let (a, b) =
                    (self.rng.random_range(0..self.nodes.len()), self.rng.random_range(0..self.nodes.len()));
                self.sever(a, b);
            }
            38..46 => self.mend(),
            46..51 => {
                if let Some(node) = self.pick(State::Live) {
                    self.pause(node);
                }
            }
            51..60 => {
                if let Some(node) = self.pick(State::Paused) {
                    self.resume(node);
                }
            }
            60..62 => {
                if let Some(node) = self.pick(State::Live) {
                    (0..1200).for_each(|number| self.add_route(node, number));
                }
            }
            _ => {
                for _ in 0..self.rng.random_range(1..30) {
                    let number = self.rng.random_range(0..1500);
                    if let Some(node) = self.pick(State::Live) {
                        if self.rng.random() {
                            self.add_route(node, number)
                        } else {
                            self.remove_route(node, number)
                        }
                    }
                }
            }
        }
    }
}

fn cluster(seed: u64, nodes: usize) -> World {
    let mut world = World::new(seed, nodes.min(3));
    for _ in 0..nodes {
        world.join();
    }
    world
}

#[test]
fn any_script_of_failures_converges_once_all_is_mended() {
    let mut times = Vec::new();
    for seed in 0..60 {
        let mut world = cluster(seed, 4);
        for _ in 0..60 {
            world.operate();
            let pause = Duration::from_millis(world.rng.random_range(0..3000));
            world.run_for(pause);
        }
        world.mend();
        while let Some(node) = world.pick(State::Paused) {
            world.resume(node);
        }
        // A cluster all of whose seeds are dead takes nobody in.
        if !world.seeds.iter().any(|seed| world.nodes[*seed].state == State::Live) {
            world.restart_later(0);
        }
        times.push((world.converge(secs(30)), seed));
    }
    times.sort();
    report!("converged after {:?} (median), {:?} (longest)", times[times.len() / 2], times[times.len() - 1]);
}

/// Everybody's view of one name.
fn seen_by(world: &World, node: usize) -> usize {
    let live = world.nodes.iter().filter(|other| other.state == State::Live);
    live.filter(|other| other.told.contains_key(&name(node))).count()
}

fn gone_after(world: &mut World, node: usize, within: Duration) -> Duration {
    let began = world.now;
    while seen_by(world, node) > 0 {
        assert!(world.now < began + within, "n{node} is still there after {within:?}");
        world.run_for(Duration::from_millis(100));
    }
    world.now - began
}

fn sightings_since(world: &World, since: Instant, node: usize) -> impl Iterator<Item = &Member> {
    let sightings =
        world.sightings.iter().filter(move |(at, _, member)| *at > since && member.node == name(node));
    sightings.map(|(_, _, member)| member)
}

#[test]
fn a_killed_node_is_down_everywhere_within_eight_seconds() {
    let mut longest = Duration::ZERO;
    for seed in 0..40 {
        let mut world = cluster(seed, 2 + seed as usize % 6);
        world.converge(secs(15));
        world.kill(1);
        longest = longest.max(gone_after(&mut world, 1, secs(8)));
        world.converge(secs(6));
    }
    report!("gone after {longest:?} (longest)");
}

#[test]
fn lost_datagrams_take_nobody_down() {
    for (nodes, loss) in [(2, 2), (3, 2), (10, 5)] {
        let mut world = cluster(9, nodes);
        world.loss = loss;
        world.converge(secs(15));
        let before = world.sightings.len();
        world.run_for(secs(1800));
        assert_eq!(world.sightings.len(), before, "{nodes} nodes, {loss} % lost");
    }
}

#[test]
fn a_node_killed_for_good_stays_gone_for_hours() {
    let mut world = cluster(1, 3);
    world.loss = 2;
    world.converge(secs(15));
    world.kill(2);
    gone_after(&mut world, 2, secs(8));
    let gone = world.now;
    for hour in 0..6 {
        world.run_for(secs(40 * 60));
        match hour % 3 {
            0 => world.cut(|node| node as u8),
            1 => world.pause(0),
            _ => world.kill(1),
        }
        world.run_for(secs(60));
        match hour % 3 {
            0 => world.mend(),
            1 => world.resume(0),
            _ => world.restart_later(1),
        }
        world.run_for(secs(19 * 60));
        assert_eq!(world.disagreement(), None);
    }
    assert_eq!(sightings_since(&world, gone, 2).count(), 0);
}

#[test]
fn who_slept_through_a_death_does_not_raise_the_dead() {
    for seed in 0..10 {
        let mut world = cluster(seed, 5);
        world.converge(secs(15));
        world.pause(1);
        world.kill(2);
        world.run_for(secs(3600));
        assert_eq!(seen_by(&world, 2), 0);
        let gone = world.now;
        world.resume(1);
        gone_after(&mut world, 2, secs(12));
        world.converge(secs(15));
        assert_eq!(sightings_since(&world, gone, 2).count(), 0);
    }
}

#[test]
fn a_partition_of_hours_heals_within_seconds() {
    for sides in [[0, 0, 1], [0, 1, 2]] {
        let mut world = cluster(2, 3);
        world.converge(secs(15));
        world.add_route(0, 1);
        world.cut(|node| sides[node]);
        world.run_for(Duration::from_millis(36_001_300));
        world.add_route(2, 2);
        world.mend();
        let time = world.converge(secs(15));
        report!("healed after {time:?}");
    }
}

#[test]
fn a_split_that_outlasts_all_calls_heals_through_the_seeds() {
    let mut world = cluster(3, 3);
    world.seeds = vec![1];
    world.converge(secs(15));
    world.cut(|node| node as u8);
    world.run_for(secs(48 * 3600));
    world.mend();
    let time = world.converge(secs(15));
    report!("healed after {time:?}");
}

#[test]
fn a_split_cluster_finds_itself_again_without_any_seed() {
    for seed in 0..20 {
        let mut world = cluster(seed, 4);
        world.converge(secs(15));
        world.seeds.clear();
        world.cut(|node| node as u8);
        world.run_for(secs(600) + Duration::from_millis(700 * seed));
        assert!(world.nodes.iter().all(|node| node.told.is_empty()));
        world.mend();
        world.converge(secs(15));
    }
}

#[test]
fn a_restarted_node_rejoins_and_its_old_life_never_returns() {
    for (seed, down_for) in [(1, 0), (2, 1), (3, 5), (4, 60), (5, 0), (6, 2)] {
        let mut world = cluster(seed, 3);
        world.add_route(1, 1);
        world.converge(secs(15));
        world.kill(1);
        world.run_for(secs(down_for));
        world.restart_later(1);
        let (since, life) = (world.now, world.nodes[1].membership.me().incarnation);
        let time = world.converge(secs(10));
        report!("rejoined after {time:?}");
        world.run_for(secs(600));
        assert!(sightings_since(&world, since, 1).count() >= 2);
        assert!(sightings_since(&world, since, 1).all(|member| member.incarnation >= life));
        assert!(world.nodes[0].peers[&1].told.is_empty(), "the routes of the old life are gone");
    }
}

#[test]
fn a_node_whose_clock_went_back_outranks_its_former_life() {
    for seed in 0..10 {
        let mut world = cluster(seed, 4);
        world.converge(secs(15));
        world.kill(1);
        world.run_for(secs(20));
        world.restart(1, 7);
        let time = world.converge(secs(15));
        assert!(world.nodes[1].membership.me().incarnation > 1_000_000);
        report!("outranked after {time:?}");
    }
}

#[test]
fn a_node_that_leaves_is_gone_at_once_and_stays_gone() {
    for nodes in [2, 3, 9] {
        let mut world = cluster(3, nodes);
        world.loss = 0;
        world.converge(secs(15));
        world.leave(1);
        world.run_for(Duration::from_millis(50));
        assert_eq!(seen_by(&world, 1), 0);
        let gone = world.now;
        // Its links are still there: it hears what is said of it.
        world.run_for(secs(30));
        world.kill(1);
        world.run_for(secs(60));
        assert_eq!(sightings_since(&world, gone, 1).count(), 0);
        assert_eq!(world.disagreement(), None);
    }
}

#[test]
fn a_cluster_at_rest_says_little() {
    let mut world = cluster(4, 20);
    world.converge(secs(20));
    let before = (world.datagrams, world.bytes, world.sightings.len());
    world.run_for(secs(60));
    assert_eq!(world.sightings.len(), before.2);
    let per_node = |total: u64| total as f64 / 60.0 / 20.0;
    let (datagrams, bytes) = (per_node(world.datagrams - before.0), per_node(world.bytes - before.1));
    report!("at rest each node sends {datagrams:.1} datagrams, {bytes:.0} bytes a second");
    assert!(datagrams < 10.0 && bytes < 1000.0);
}

fn converge_from_nothing(nodes: usize) {
    let mut world = World::new(5, 3);
    for node in 0..nodes {
        world.join();
        world.add_route(node, node);
    }
    let began = world.now;
    while let Some(why) = world.disagreement() {
        assert!(world.now < began + secs(30), "{why}");
        world.run_for(secs(1));
    }
    report!("{nodes} nodes know each other after {:?}", world.now - began);
}

#[test]
fn sixty_nodes_that_start_at_once_know_each_other_within_seconds() {
    converge_from_nothing(60);
}

#[test]
#[ignore = "20,000 links: 20 s of work unless optimised"]
fn two_hundred_nodes_that_start_at_once_know_each_other_within_seconds() {
    converge_from_nothing(200);
}
