//! Who is in the cluster, by SWIM with suspicion: what the crate foca decides, made a pure state machine.
//!
//! [`Membership`] owns this node's view of all members and foca's timers. The cluster's task drives it: datagrams of peer
//! links and the time go in, [`Effect`]s come out. It opens no link, reads no clock and draws chance from one seed.
//!
//! Who was declared down is never forgotten by time, only beyond [`MAX_MEMBERS`] names: a node that was away for long comes
//! back with the dead still alive in its list, and who had forgotten them would take them in again and pass them on. But they
//! are called for a day and no longer.

use std::{
    collections::{BTreeMap, HashMap},
    mem::discriminant,
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use bytes::{Buf, Bytes};
use foca::{
    Codec, Config, Error, Foca, Header, Identity, NoCustomBroadcast, Notification, PeriodicParams,
    PostcardCodec, Runtime, State, Timer,
};
use rand::{SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::protocol::NodeId;

/// The longest message, so that a QUIC datagram carries it on any path.
pub const MAX_DATAGRAM: usize = 1100;

/// The most members that are remembered, down ones included.
pub const MAX_MEMBERS: usize = 4096;

/// The longest address, `host:port`, in bytes.
const MAX_ADDRESS: usize = 261;

/// How often some of those that are down are called, in case they are back.
const RECALL_PERIOD: Duration = Duration::from_secs(5);

/// For how long they are. In a cluster whose nodes have a new name with each start the dead would be dialled for ever; a split
/// that lasts longer heals through the seeds, which are.
const RECALL_FOR: Duration = Duration::from_secs(24 * 3600);

/// A node in one of its lives. Of two with the same name the one of the higher incarnation is the later life.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "(String, u64, String)", try_from = "(&'de str, u64, &'de str)")]
pub struct Member {
    /// Its name.
    pub node: NodeId,
    /// Which of the lives of that name: higher is later.
    pub incarnation: u64,
    /// Where peers reach it, `host:port`.
    pub address: String,
}

impl Identity for Member {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { incarnation: self.incarnation.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> NodeId {
        self.node.clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        // The address only makes it an order: all nodes must decide alike.
        (self.incarnation, &self.address) > (adversary.incarnation, &adversary.address)
    }
}

impl From<Member> for (String, u64, String) {
    fn from(member: Member) -> Self {
        (member.node.to_string(), member.incarnation, member.address)
    }
}

impl TryFrom<(&str, u64, &str)> for Member {
    type Error = InvalidMessage;
    fn try_from((node, incarnation, address): (&str, u64, &str)) -> Result<Self, InvalidMessage> {
        if address.is_empty() || address.len() > MAX_ADDRESS {
            return Err(InvalidMessage::Malformed);
        }
        let node = NodeId::new(node).map_err(|_| InvalidMessage::Malformed)?;
        Ok(Self { node, incarnation, address: address.to_owned() })
    }
}

/// What is to be done, or has become known. For each name, the events are `Up`, any number of `Replaced`, then `Down`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send this datagram over the link to that node; without a link, open one and let the datagram go.
    Send {
        /// Whom to.
        to: Member,
        /// At most [`MAX_DATAGRAM`] bytes.
        data: Bytes,
    },
    /// A member is there.
    Up(Member),
    /// A member has left or is taken for dead.
    Down(Member),
    /// A member has entered a new life without having been seen down: it was restarted, or has renewed itself.
    Replaced {
        /// Its life before.
        old: Member,
        /// Its life now.
        new: Member,
    },
    /// This node had been declared down and goes on under a new incarnation.
    Renewed(Member),
}

/// Why a datagram is not a message of a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// It is longer than any message.
    #[error("message of {0} bytes, at most {MAX_DATAGRAM} are allowed")]
    TooLong(usize),
    /// It does not say what a message says.
    #[error("malformed message")]
    Malformed,
    /// It claims to come from another node than that of its link.
    #[error("a message of {0}, which is another node")]
    Foreign(NodeId),
    /// It names further members when there are as many as there may be.
    #[error("more than {MAX_MEMBERS} members")]
    TooManyMembers,
}

fn config() -> Config {
    let size = |size| NonZeroUsize::new(size).unwrap_or(NonZeroUsize::MIN);
    let often = |millis, members| {
        Some(PeriodicParams { frequency: Duration::from_millis(millis), num_members: size(members) })
    };
    Config {
        probe_period: Duration::from_secs(1),
        probe_rtt: Duration::from_millis(400),
        num_indirect_probes: size(3),
        max_transmissions: NonZeroU8::MIN.saturating_add(9),
        suspect_to_down_after: Duration::from_secs(3),
        remove_down_after: None,
        max_packet_size: size(MAX_DATAGRAM),
        notify_down_members: true,
        periodic_announce: often(10_000, 1),
        // foca calls nobody once all are down, which is when it matters most: see `Membership::recall`.
        periodic_announce_to_down_members: None,
        periodic_gossip: often(200, 3),
    }
}

/// What foca has asked for.
#[derive(Debug, Default)]
struct Outbox {
    /// By when they are due; those of one instant run in the order in which they were asked for.
    timers: BTreeMap<(Instant, u64), Timer<Member>>,
    sequence: u64,
    live: BTreeMap<NodeId, Member>,
    effects: Vec<Effect>,
    renewed: bool,
}

struct Handle<'a> {
    outbox: &'a mut Outbox,
    now: Instant,
}

impl Runtime<Member> for Handle<'_> {
    fn notify(&mut self, notification: Notification<'_, Member>) {
        let Outbox { live, effects, renewed, .. } = &mut *self.outbox;
        match notification {
            Notification::MemberUp(member) => {
                live.insert(member.node.clone(), member.clone());
                effects.push(Effect::Up(member.clone()));
            }
            Notification::MemberDown(member) => {
                live.remove(&member.node);
                effects.push(Effect::Down(member.clone()));
            }
            // foca also tells it of those that are down, whom nobody has to know about.
            Notification::Rename(old, new) => {
                if let Some(member) = live.get_mut(&old.node) {
                    member.clone_from(new);
                    effects.push(Effect::Replaced { old: old.clone(), new: new.clone() });
                }
            }
            Notification::Rejoin(me) => {
                *renewed = true;
                effects.push(Effect::Renewed(me.clone()));
            }
            Notification::Defunct | Notification::Active | Notification::Idle => {}
        }
    }

    fn send_to(&mut self, to: Member, data: &[u8]) {
        self.outbox.effects.push(Effect::Send { to, data: Bytes::copy_from_slice(data) });
    }

    fn submit_after(&mut self, timer: Timer<Member>, after: Duration) {
        let Outbox { timers, sequence, .. } = &mut *self.outbox;
        // Of each periodic timer there is one. foca tells those of before by a number of 8 bits, which comes round.
        if !matches!(timer, Timer::ChangeSuspectToDown { .. } | Timer::RemoveDown(_)) {
            timers.retain(|_, other| discriminant(other) != discriminant(&timer));
        }
        *sequence += 1;
        timers.insert((self.now + after, *sequence), timer);
    }
}

type Swim = Foca<Member, PostcardCodec, SmallRng, NoCustomBroadcast>;

/// This node's view of the cluster.
#[derive(Debug)]
pub struct Membership {
    foca: Swim,
    outbox: Outbox,
    /// When those that are down are called next, where in the list that is, and since when each has been on it.
    recall: Option<Instant>,
    recalled: usize,
    recalling: HashMap<NodeId, Instant>,
    /// When this node was last renewed, and how often in quick succession.
    renewal: Option<Instant>,
    renewals: u32,
    left: bool,
}

impl Membership {
    /// A cluster of one, until a link is made and announced.
    pub fn new(me: Member, seed: u64) -> Self {
        Self {
            foca: Foca::new(me, config(), SmallRng::seed_from_u64(seed), PostcardCodec),
            outbox: Outbox::default(),
            recall: None,
            recalled: 0,
            recalling: HashMap::new(),
            renewal: None,
            renewals: 0,
            left: false,
        }
    }

    /// This node, as it is now: renewing changes it.
    pub fn me(&self) -> Member {
        self.foca.identity().clone()
    }

    /// The others that are up, by name.
    pub fn members(&self) -> Vec<Member> {
        self.outbox.live.values().cloned().collect()
    }

    /// What is to be done since this was last asked, in order.
    pub fn effects(&mut self) -> Vec<Effect> {
        let mut effects = std::mem::take(&mut self.outbox.effects);
        // foca keeps this node's former lives among the members that are down, and would talk to them.
        let me = &self.foca.identity().node;
        effects.retain(|effect| !matches!(effect, Effect::Send { to, .. } if to.node == *me));
        effects
    }

    /// Makes this node known to one that a link has been made to, whatever was thought of it before.
    pub fn announce(&mut self, to: &Member, now: Instant) {
        // Whoever holds the other to be down may go on silently under a new incarnation until it is called.
        self.recalling.insert(to.node.clone(), now);
        self.call(to, now);
    }

    fn call(&mut self, to: &Member, now: Instant) {
        self.run(now, |foca, handle| foca.announce(to.clone(), handle));
    }

    /// Takes in a datagram of the link to a node. Nobody passes on what another has said: an indirect probe is a message of
    /// its own at each hop.
    ///
    /// # Errors
    /// When it is not a message of that node, or names more members than there may be. It has then changed nothing.
    pub fn receive(&mut self, from: &NodeId, data: &[u8], now: Instant) -> Result<(), InvalidMessage> {
        self.check(from, data)?;
        let mut result = Ok(());
        self.run(now, |foca, handle| {
            result = foca.handle_data(data, handle).map_err(|_| InvalidMessage::Malformed);
            Ok(())
        });
        self.forget(now);
        result
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        while let Some(next) = self.outbox.timers.first_entry().filter(|next| next.key().0 <= now) {
            let timer = next.remove();
            if !self.is_refuted(&timer) {
                self.run(now, |foca, handle| foca.handle_timer(timer, handle));
            }
        }
        if self.recall.is_some_and(|at| at <= now) {
            self.recall = Some(now + RECALL_PERIOD);
            self.recall(now);
        }
    }

    /// Whether this is the end of a suspicion that was refuted in time. foca then leaves the member up, but tells it that
    /// it is down: it would renew itself after each lost datagram.
    fn is_refuted(&self, timer: &Timer<Member>) -> bool {
        let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer else { return false };
        let suspected = foca::Member::new(member_id.clone(), *incarnation, State::Suspect);
        self.foca.iter_membership_state().all(|member| *member != suspected)
    }

    /// When [`Membership::tick`] has something to do.
    pub fn next_tick(&self) -> Option<Instant> {
        self.outbox.timers.keys().map(|(at, _)| *at).take(1).chain(self.recall).min()
    }

    /// Says goodbye to every member. Nothing is said, heard or due afterwards.
    pub fn leave(&mut self, now: Instant) {
        // foca tells as many as it probes indirectly, so for once that is all.
        let all = NonZeroUsize::new(self.outbox.live.len()).unwrap_or(NonZeroUsize::MIN);
        self.run(now, |foca, mut handle| {
            let max_transmissions = NonZeroU8::MAX;
            foca.set_config(Config { num_indirect_probes: all, max_transmissions, ..config() })?;
            foca.leave_cluster(&mut handle)
        });
        // The members will tell each other, and this node, that it is down: it must not come back to deny it.
        self.left = true;
        self.recall = None;
        self.outbox.timers.clear();
    }

    fn run(&mut self, now: Instant, run: impl FnOnce(&mut Swim, Handle<'_>) -> Result<(), Error>) {
        if self.left {
            return;
        }
        self.recall.get_or_insert(now + RECALL_PERIOD);
        let result = run(&mut self.foca, Handle { outbox: &mut self.outbox, now });
        if let Err(error) = result.and_then(|()| self.revive(now)) {
            tracing::debug!(%error, "membership");
        }
    }

    /// Does what foca leaves to be done when it has renewed this node.
    ///
    /// Renewing adds one to the incarnation. Where the cluster knows a former life of a much higher one (this host's clock
    /// has gone back), each of these is declared down as well, so further ones double what they add. At most 2^32 (50 days
    /// in milliseconds): a quarrel with another node of the same name must not use up the numbers.
    fn revive(&mut self, now: Instant) -> Result<(), Error> {
        if !std::mem::take(&mut self.outbox.renewed) {
            return Ok(());
        }
        // So soon after another, the other has not helped.
        let vain = self.renewal.is_some_and(|last| now < last + Duration::from_secs(1));
        self.renewals = if vain { self.renewals + 1 } else { 0 };
        self.renewal = Some(now);
        let mut me = self.me();
        let leap = (1 << self.renewals.min(32)) - 1;
        if leap > 0
            && let Some(incarnation) = me.incarnation.checked_add(leap)
        {
            me.incarnation = incarnation;
            self.foca.change_identity(me.clone(), Handle { outbox: &mut self.outbox, now })?;
            self.outbox.effects.push(Effect::Renewed(me));
        }
        // A renewed foca sleeps until it hears from somebody, even when it knows members.
        self.foca.apply_many(std::iter::empty(), true, Handle { outbox: &mut self.outbox, now })
    }

    fn down(&self) -> impl Iterator<Item = &Member> {
        let all = self.foca.iter_membership_state();
        all.filter(|member| member.state() == State::Down).map(foca::Member::id)
    }

    /// Calls three of those that are down, each in its turn.
    fn recall(&mut self, now: Instant) {
        let since = |member: &Member| self.recalling.get(&member.node).copied().unwrap_or(now);
        let mut down: Vec<_> = self.down().cloned().collect();
        self.recalling = down.iter().map(|member| (member.node.clone(), since(member))).collect();
        let recalling = &self.recalling;
        down.retain(|member| recalling.get(&member.node).is_some_and(|since| now < *since + RECALL_FOR));
        down.sort_by(|a, b| a.node.cmp(&b.node));
        let count = down.len().min(3);
        let turn = self.recalled % down.len().max(1);
        self.recalled = turn + count;
        for member in down.iter().cycle().skip(turn).take(count) {
            self.call(member, now);
        }
    }

    /// Refuses what is not exactly a message, and what would make the list of members grow beyond its bound.
    fn check(&self, from: &NodeId, data: &[u8]) -> Result<(), InvalidMessage> {
        if data.len() > MAX_DATAGRAM {
            return Err(InvalidMessage::TooLong(data.len()));
        }
        let malformed = |_| InvalidMessage::Malformed;
        let mut rest = data;
        let header: Header<Member> = PostcardCodec.decode_header(&mut rest).map_err(malformed)?;
        if header.src.node != *from {
            return Err(InvalidMessage::Foreign(header.src.node));
        }
        let mut named = vec![header.src];
        for _ in 0..if rest.len() < 2 { 0 } else { rest.get_u16() } {
            let member: foca::Member<Member> = PostcardCodec.decode_member(&mut rest).map_err(malformed)?;
            named.push(member.id().clone());
        }
        if !rest.is_empty() {
            return Err(InvalidMessage::Malformed);
        }
        let full = self.foca.num_members() + named.len() > MAX_MEMBERS;
        if full && !named.iter().all(|member| self.outbox.live.contains_key(&member.node)) {
            return Err(InvalidMessage::TooManyMembers);
        }
        Ok(())
    }

    /// Forgets some that are down when too many are remembered.
    fn forget(&mut self, now: Instant) {
        let surplus = self.foca.iter_membership_state().len().saturating_sub(MAX_MEMBERS);
        for member in self.down().take(surplus).cloned().collect::<Vec<_>>() {
            self.run(now, |foca, handle| foca.handle_timer(Timer::RemoveDown(member), handle));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(node: &str, incarnation: u64) -> Member {
        Member { node: NodeId::new(node).unwrap(), incarnation, address: format!("{node}:8003") }
    }

    fn sent(membership: &mut Membership) -> Vec<Bytes> {
        let sends = membership.effects().into_iter();
        sends
            .filter_map(|effect| if let Effect::Send { data, .. } = effect { Some(data) } else { None })
            .collect()
    }

    /// A message of one member to another that names others, as foca would write it.
    fn message(from: &Member, to: &Member, named: &[foca::Member<Member>]) -> Vec<u8> {
        let header =
            Header { src: from.clone(), src_incarnation: 0, dst: to.clone(), message: foca::Message::Gossip };
        let mut data = Vec::new();
        PostcardCodec.encode_header(&header, &mut data).unwrap();
        data.extend_from_slice(&u16::try_from(named.len()).unwrap().to_be_bytes());
        named.iter().for_each(|member| PostcardCodec.encode_member(member, &mut data).unwrap());
        data
    }

    #[test]
    fn a_message_is_taken_only_when_all_of_it_is_valid() {
        let (now, me, other) = (Instant::now(), member("me", 1), member("other", 1));
        let mut membership = Membership::new(me.clone(), 1);
        let named = |address: &str| Member { address: address.to_owned(), ..member("third", 1) };
        let good = message(&other, &me, &[foca::Member::alive(named("host:1"))]);
        let cases = [
            (vec![0; MAX_DATAGRAM + 1], InvalidMessage::TooLong(MAX_DATAGRAM + 1)),
            (vec![], InvalidMessage::Malformed),
            ([&good[..], &[0]].concat(), InvalidMessage::Malformed),
            (good[..good.len() - 1].to_vec(), InvalidMessage::Malformed),
            (message(&other, &me, &[foca::Member::alive(named(""))]), InvalidMessage::Malformed),
            (
                message(&other, &me, &[foca::Member::alive(named(&"a".repeat(262)))]),
                InvalidMessage::Malformed,
            ),
            (message(&member("me", 9), &me, &[]), InvalidMessage::Foreign(me.node.clone())),
            (message(&member("third", 1), &me, &[]), InvalidMessage::Foreign(member("third", 1).node)),
        ];
        for (data, error) in cases {
            assert_eq!(membership.receive(&other.node, &data, now), Err(error));
            assert!(membership.members().is_empty() && membership.effects().is_empty());
        }
        membership.receive(&other.node, &good, now).unwrap();
        assert_eq!(membership.members(), [other, named("host:1")]);
    }

    #[test]
    fn no_more_members_are_remembered_than_may_be() {
        let (now, me, other) = (Instant::now(), member("me", 1), member("other", 1));
        let mut membership = Membership::new(me.clone(), 1);
        let flood = |membership: &mut Membership, kind: &str, down: bool| {
            (0..MAX_MEMBERS).step_by(16).try_for_each(|first| {
                let named: Vec<_> =
                    (first..first + 16).map(|number| member(&format!("{kind}{number}"), 1)).collect();
                let state = if down { foca::Member::down } else { foca::Member::alive };
                let named: Vec<_> = named.into_iter().map(state).collect();
                membership.receive(&other.node, &message(&other, &me, &named), now)
            })
        };
        assert_eq!(flood(&mut membership, "dead", true), Ok(()));
        assert_eq!(membership.foca.iter_membership_state().len(), MAX_MEMBERS);
        assert_eq!(membership.members().len(), 1);
        assert_eq!(flood(&mut membership, "live", false), Err(InvalidMessage::TooManyMembers));
        assert!(membership.foca.iter_membership_state().len() <= MAX_MEMBERS);
        assert_eq!(
            membership.receive(&other.node, &message(&member("other", 1), &member("me", 1), &[]), now),
            Ok(())
        );
    }

    #[test]
    fn the_longest_names_fit_into_a_datagram() {
        let now = Instant::now();
        let long = |last: &str| Member {
            node: NodeId::new(&format!("{}{last}", "n".repeat(63))).unwrap(),
            incarnation: u64::MAX - 9,
            address: "a".repeat(MAX_ADDRESS),
        };
        let mut nodes = ["1", "2"].map(|last| Membership::new(long(last), 1));
        nodes[0].announce(&long("2"), now);
        for turn in 0..4 {
            for data in sent(&mut nodes[turn % 2]) {
                nodes[(turn + 1) % 2].receive(&long(["1", "2"][turn % 2]).node, &data, now).unwrap();
            }
        }
        assert_eq!(nodes[0].members(), [long("2")]);
        assert_eq!(nodes[1].members(), [long("1")]);
        // Nobody answers: a third is asked for help, which takes three names in one message.
        let help = foca::Member::alive(long("3"));
        nodes[0].receive(&long("2").node, &message(&long("2"), &long("1"), &[help]), now).unwrap();
        for second in 1..9 {
            nodes[0].tick(now + Duration::from_millis(second * 500));
            assert!(sent(&mut nodes[0]).iter().all(|data| data.len() <= MAX_DATAGRAM));
        }
    }

    #[test]
    fn after_goodbye_nothing_is_said_or_due() {
        let (now, me, other) = (Instant::now(), member("me", 1), member("other", 1));
        let mut membership = Membership::new(me.clone(), 1);
        membership.receive(&other.node, &message(&other, &me, &[]), now).unwrap();
        membership.effects();
        membership.leave(now);
        assert_eq!(sent(&mut membership).len(), 1);
        membership
            .receive(&other.node, &message(&other, &me, &[foca::Member::down(me.clone())]), now)
            .unwrap();
        membership.announce(&other, now);
        membership.tick(now + Duration::from_secs(60));
        assert_eq!((membership.effects(), membership.next_tick()), (vec![], None));
        assert_eq!(membership.me(), me);
    }

    #[test]
    fn a_node_never_calls_its_own_former_lives() {
        let (now, me, other) = (Instant::now(), member("me", 2), member("other", 1));
        let mut membership = Membership::new(me.clone(), 1);
        let former = foca::Member::down(member("me", 1));
        membership
            .receive(
                &other.node,
                &message(&other, &me, &[former, foca::Member::down(member("dead", 1))]),
                now,
            )
            .unwrap();
        membership.effects();
        membership.tick(now + RECALL_PERIOD);
        let called: Vec<_> = membership
            .effects()
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Send { to, .. } if to != other => Some(to),
                _ => None,
            })
            .collect();
        assert_eq!(called, [member("dead", 1)]);
    }

    #[test]
    fn the_dead_are_called_for_a_day_and_stay_dead() {
        let (mut now, me, dead) = (Instant::now(), member("me", 1), member("dead", 1));
        let mut membership = Membership::new(me.clone(), 1);
        let hear = |membership: &mut Membership, from: &Member, named, now| {
            membership.receive(&from.node, &message(from, &me, &[named]), now).unwrap();
        };
        hear(&mut membership, &member("other", 1), foca::Member::down(dead.clone()), now);
        let mut called = |membership: &mut Membership, hours: u64| {
            membership.effects();
            let until = now + Duration::from_secs(hours * 3600);
            while let Some(next) = membership.next_tick().filter(|next| *next <= until) {
                membership.tick(next);
            }
            now = until;
            let calls = membership.effects().into_iter();
            calls.filter(|effect| matches!(effect, Effect::Send { to, .. } if *to == dead)).count()
        };
        assert!(called(&mut membership, 23) > 23 * 3600 / 10);
        assert!(called(&mut membership, 2) > 0);
        assert_eq!(called(&mut membership, 24), 0);
        let back = member("away", 1);
        hear(&mut membership, &back, foca::Member::alive(member("dead", 1)), now);
        assert_eq!(membership.members(), [back]);
    }

    #[test]
    fn who_was_declared_down_goes_on_in_a_new_life() {
        let (now, me, other) = (Instant::now(), member("me", 1), member("other", 1));
        let told = Header {
            src: other.clone(),
            src_incarnation: 0,
            dst: me.clone(),
            message: foca::Message::TurnUndead,
        };
        let mut turn_undead = Vec::new();
        PostcardCodec.encode_header(&told, &mut turn_undead).unwrap();
        for data in [message(&other, &me, &[foca::Member::down(me.clone())]), turn_undead] {
            let mut membership = Membership::new(me.clone(), 1);
            membership.receive(&other.node, &data, now).unwrap();
            assert_eq!(membership.me(), member("me", 2));
            assert!(membership.effects().contains(&Effect::Renewed(member("me", 2))));
            membership.tick(now + Duration::from_secs(1));
            assert!(!sent(&mut membership).is_empty(), "it probes again, though nobody has answered");
        }
    }

    proptest! {
        #[test]
        fn no_datagram_does_harm(
            noise in prop::collection::vec(any::<u8>(), 0..200),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let (now, me, other) = (Instant::now(), member("me", 1), member("other", 1));
            let mut membership = Membership::new(me.clone(), 1);
            let _ = membership.receive(&other.node, &noise, now);
            let mut data = message(&other, &me, &[foca::Member::alive(member("x", 3)), foca::Member::down(me.clone())]);
            edits.iter().for_each(|(at, byte)| { let at = at.index(data.len()); data[at] = *byte; });
            let _ = membership.receive(&other.node, &data, now);
            membership.tick(now + Duration::from_secs(1));
            membership.tick(now + Duration::from_secs(9));
            prop_assert_eq!(membership.me().node, me.node);
        }
    }
}
