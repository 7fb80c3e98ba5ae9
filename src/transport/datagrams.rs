//! The datagrams of one link, each for the stream whose number it begins with.
//!
//! Driven by a task of the link's owner, which hands each to its [`Inbox`] and never waits for one: what an inbox has no room
//! for is dropped and counted. Datagrams may overtake the first bytes of their stream, so a few for streams that have none
//! yet are held for a moment.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{task::coop, time::Instant};

use super::{Association, DatagramError, Link, Lost, Stream};
use crate::{
    protocol,
    splice::packets::{Budget, Dropped, OfLink, Receiver, Sender},
};

/// How many datagrams are held for streams that have no inbox yet, and how long. When there are more, the oldest goes.
const HELD: usize = 16;
const HOLD: Duration = Duration::from_secs(1);

/// How often it is looked how many datagrams a link itself has had no room for, which it tells nobody.
const LOOK: Duration = Duration::from_secs(1);

/// How soon again where some waited.
const AGAIN: Duration = Duration::from_millis(10);

/// What was taken of a link's datagrams, and what was missed.
#[derive(Debug)]
struct Intake {
    taken: u64,
    missed: u64,
    /// When to look next.
    look: Instant,
}

impl Intake {
    fn new(now: Instant) -> Self {
        Self { taken: 0, missed: 0, look: now + LOOK }
    }

    /// How many more have been missed than was known, when so many have come. Some may have been taken since they were counted.
    fn missed(&mut self, received: u64) -> u64 {
        let more = received.saturating_sub(self.taken + self.missed);
        self.missed += more;
        more
    }
}

/// The datagrams of a link. Clones are handles to the same ones.
#[derive(Debug, Clone)]
pub struct Datagrams(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Link,
    counters: OfLink,
    table: Mutex<Table>,
}

impl Datagrams {
    /// Those of a link, once they are run.
    pub fn new(link: Link, counters: OfLink) -> Self {
        let table = Mutex::new(Table::new(counters.clone()));
        Self(Arc::new(Inner { link, counters, table }))
    }

    /// Their link.
    pub fn link(&self) -> &Link {
        &self.0.link
    }

    /// Hands out what comes, until the link ends.
    pub async fn run(self) {
        let mut intake = Intake::new(Instant::now());
        while let Ok(datagram) = self.next(&mut intake).await {
            intake.taken += 1;
            self.table().deliver(datagram, Instant::now());
            // A peer that never stops sending must not have a thread for itself.
            coop::consume_budget().await;
        }
        self.missed(&mut intake, self.0.link.stats().received_datagrams);
    }

    /// The next that comes. What has come and found no room is counted meanwhile, once a while.
    async fn next(&self, intake: &mut Intake) -> Result<Bytes, Lost> {
        let link = &self.0.link;
        if Instant::now() >= intake.look {
            let received = link.stats().received_datagrams;
            let waits = link.datagram().now_or_never();
            intake.look = Instant::now() + if waits.is_some() { AGAIN } else { LOOK };
            match waits {
                // Only when none waits is it known how many never will.
                Some(datagram) => return datagram,
                None => self.missed(intake, received),
            }
        }
        link.datagram().await
    }

    /// Of so many none waits any more: those that were not taken have found no room.
    fn missed(&self, intake: &mut Intake, received: u64) {
        self.0.counters.drop_all(Dropped::QueueFull, intake.missed(received));
    }

    /// Sends a datagram of a stream.
    ///
    /// # Errors
    /// See [`DatagramError`].
    pub fn send(&self, stream: u64, packet: &[u8]) -> Result<(), DatagramError> {
        self.0.link.send_datagram(protocol::encode_datagram(stream, packet))
    }

    /// Takes the datagrams of a stream, those that have come early among them.
    pub fn inbox(&self, stream: u64) -> Inbox {
        Inbox { stream, queue: self.table().open(stream, Instant::now()), datagrams: self.clone() }
    }

    /// Makes a stream on which a UDP flow has been opened an association.
    pub fn associate(&self, stream: Stream) -> Association {
        Association::new(stream, self)
    }

    pub(super) fn counters(&self) -> &OfLink {
        &self.0.counters
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where datagrams go, by the number of their stream.
#[derive(Debug)]
struct Table {
    inboxes: HashMap<u64, Sender>,
    /// Oldest first.
    held: VecDeque<Held>,
    budget: Budget,
    counters: OfLink,
}

#[derive(Debug)]
struct Held {
    since: Instant,
    stream: u64,
    packet: Bytes,
}

impl Table {
    fn new(counters: OfLink) -> Self {
        Self { inboxes: HashMap::new(), held: VecDeque::new(), budget: Budget::default(), counters }
    }

    fn deliver(&mut self, datagram: Bytes, now: Instant) {
        let Some((stream, packet)) = protocol::split_datagram(datagram) else {
            return self.counters.drop(Dropped::NoAssociation);
        };
        if let Some(inbox) = self.inboxes.get(&stream) {
            return push(inbox, &packet, &self.counters);
        }
        self.expire(now);
        if self.held.len() == HELD {
            self.held.pop_front();
            self.counters.drop(Dropped::NoAssociation);
        }
        // Its own memory may be a small piece of something large.
        self.held.push_back(Held { since: now, stream, packet: Bytes::copy_from_slice(&packet) });
    }

    fn open(&mut self, stream: u64, now: Instant) -> Receiver {
        let (inbox, queue) = self.budget.queue();
        self.expire(now);
        self.held.retain(|held| {
            let early = held.stream == stream;
            if early {
                push(&inbox, &held.packet, &self.counters);
            }
            !early
        });
        self.inboxes.insert(stream, inbox);
        queue
    }

    fn expire(&mut self, now: Instant) {
        while self.held.front().is_some_and(|held| now.saturating_duration_since(held.since) > HOLD) {
            self.held.pop_front();
            self.counters.drop(Dropped::NoAssociation);
        }
    }
}

fn push(inbox: &Sender, packet: &[u8], counters: &OfLink) {
    if inbox.push(packet).is_err() {
        counters.drop(Dropped::QueueFull);
    }
}

/// The datagrams of one stream. When it is dropped, they belong to nobody.
#[derive(Debug)]
pub struct Inbox {
    stream: u64,
    queue: Receiver,
    datagrams: Datagrams,
}

impl Inbox {
    /// The next datagram; it waits for ever when none comes. Cancel safe.
    pub async fn recv(&mut self) -> Bytes {
        match self.queue.recv().await {
            Some(packet) => packet,
            // The table keeps the other end for as long as this is borrowed.
            None => std::future::pending().await,
        }
    }

    /// The next datagram if one is there.
    pub(super) fn try_recv(&mut self) -> Option<Bytes> {
        self.queue.try_recv()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.datagrams.table().inboxes.remove(&self.stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::PacketCounters;

    fn datagram(stream: u64, packet: &str) -> Bytes {
        protocol::encode_datagram(stream, packet.as_bytes())
    }

    fn all(queue: &mut Receiver) -> Vec<String> {
        let packets = std::iter::from_fn(|| queue.try_recv());
        packets.map(|packet| String::from_utf8(packet.to_vec()).unwrap()).collect()
    }

    fn table() -> (Table, PacketCounters) {
        let counters = PacketCounters::default();
        (Table::new(counters.of_link("agent")), counters)
    }

    #[test]
    fn what_has_come_and_was_never_taken_is_missed_and_counted_once() {
        let mut intake = Intake::new(Instant::now());
        intake.taken = 5;
        assert_eq!(intake.missed(5), 0);
        intake.taken = 10;
        assert_eq!(intake.missed(8), 0, "two have come after they were counted");
        assert_eq!([intake.missed(13), intake.missed(13)], [3, 0]);
        intake.taken = 12;
        assert_eq!([intake.missed(20), intake.missed(21)], [5, 1]);
        assert_eq!(intake.missed, 9);
    }

    #[test]
    fn each_datagram_goes_to_its_stream_alone() {
        let (mut table, counters) = table();
        let now = Instant::now();
        let (mut four, mut eight) = (table.open(4, now), table.open(8, now));
        for (stream, packet) in [(4, "a"), (8, "b"), (4, ""), (4, "c")] {
            table.deliver(datagram(stream, packet), now);
        }
        assert_eq!(
            (all(&mut four), all(&mut eight)),
            (vec!["a".into(), "".into(), "c".into()], vec!["b".into()])
        );
        assert_eq!(counters.dropped(Dropped::NoAssociation), 0);
    }

    #[test]
    fn a_stream_that_is_never_emptied_holds_up_no_other() {
        let (mut table, counters) = table();
        let now = Instant::now();
        let (_full, mut other) = (table.open(4, now), table.open(8, now));
        for _ in 0..10_000 {
            table.deliver(datagram(4, "x"), now);
        }
        table.deliver(datagram(8, "y"), now);
        assert_eq!(all(&mut other), ["y"]);
        assert!(counters.dropped(Dropped::QueueFull) > 9_000);
    }

    #[test]
    fn datagrams_that_come_before_their_stream_wait_for_it_a_moment() {
        let (mut table, counters) = table();
        let start = Instant::now();
        table.deliver(datagram(4, "too early"), start);
        let later = start + HOLD * 2 / 3;
        table.deliver(datagram(8, "first"), later);
        table.deliver(datagram(12, "of another"), later);
        table.deliver(datagram(8, "second"), later);
        let end = start + HOLD * 4 / 3;
        assert_eq!(all(&mut table.open(4, end)), [""; 0]);
        assert_eq!(counters.dropped(Dropped::NoAssociation), 1);
        assert_eq!(all(&mut table.open(8, end)), ["first", "second"]);
        assert_eq!(table.held.len(), 1);
    }

    #[test]
    fn a_flood_for_streams_that_are_not_there_holds_little_and_the_latest() {
        let (mut table, counters) = table();
        let now = Instant::now();
        for number in 0..1000 {
            table.deliver(datagram(number * 4, "x"), now);
        }
        table.deliver(Bytes::from_static(&[0xc0]), now);
        assert_eq!(table.held.len(), HELD);
        assert_eq!(counters.dropped(Dropped::NoAssociation), 1000 - HELD as u64 + 1);
        assert_eq!(all(&mut table.open(999 * 4, now)), ["x"]);
        assert_eq!(all(&mut table.open(0, now)), [""; 0]);
    }
}
