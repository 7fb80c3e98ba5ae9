//! Packets that wait for somebody to take them. Each queue has its bounds, and all queues of one link or port share a
//! budget, so that a flood costs memory up to a limit. What does not fit is for the caller to count.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use tokio::sync::mpsc;

/// The most packets in one queue: what a fast sender sends while a busy process does something else.
const PACKETS: usize = 1024;

/// The same until its receiver takes the first. Old packets are of little use to anybody.
const PACKETS_AT_FIRST: usize = 16;

/// The most bytes in one queue, so that one association cannot use up what all share.
const BYTES: usize = 1 << 20;

/// The most bytes in all queues of a budget: as much as a link's streams may have under way.
const ALL_BYTES: usize = 16 << 20;

/// What a packet costs beside its bytes.
const OVERHEAD: usize = 64;

/// What the queues of one link or port share.
#[derive(Debug, Clone, Default)]
pub struct Budget(Arc<AtomicUsize>);

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Budget {
    /// An empty queue.
    pub fn queue(&self) -> (Sender, Receiver) {
        let (sender, receiver) = mpsc::channel(PACKETS);
        let account = Arc::new(Account {
            bytes: AtomicUsize::new(0),
            all: Arc::clone(&self.0),
            begun: AtomicBool::new(false),
        });
        (Sender { queue: sender, account: Arc::clone(&account) }, Receiver { queue: receiver, account })
    }
}

#[derive(Debug)]
struct Account {
    bytes: AtomicUsize,
    all: Arc<AtomicUsize>,
    /// The receiver has been asked for a packet.
    begun: AtomicBool,
}

/// A packet, and what it costs until it is taken or dropped.
#[derive(Debug)]
struct Waiting {
    packet: Bytes,
    _charge: Charge,
}

impl Waiting {
    /// The packet is copied: its own memory may be a small piece of something large.
    fn new(packet: &[u8], account: &Arc<Account>) -> Result<Self, Full> {
        let charge = Charge::new(packet.len() + OVERHEAD, account)?;
        Ok(Self { packet: Bytes::copy_from_slice(packet), _charge: charge })
    }
}

#[derive(Debug)]
struct Charge {
    cost: usize,
    account: Arc<Account>,
}

impl Charge {
    fn new(cost: usize, account: &Arc<Account>) -> Result<Self, Full> {
        let bytes = account.bytes.fetch_add(cost, Relaxed) + cost;
        let all = account.all.fetch_add(cost, Relaxed) + cost;
        // Too much is given back at once.
        let charge = Self { cost, account: Arc::clone(account) };
        if bytes > BYTES || all > ALL_BYTES { Err(Full) } else { Ok(charge) }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.bytes.fetch_sub(self.cost, Relaxed);
        self.account.all.fetch_sub(self.cost, Relaxed);
    }
}

/// Puts packets into a queue.
#[derive(Debug)]
pub struct Sender {
    queue: mpsc::Sender<Waiting>,
    account: Arc<Account>,
}

impl Sender {
    /// Lets a packet wait.
    ///
    /// # Errors
    /// When there is no room for it, or nobody to take it.
    pub fn push(&self, packet: &[u8]) -> Result<(), Full> {
        let waiting = self.queue.max_capacity() - self.queue.capacity();
        if waiting >= PACKETS_AT_FIRST && !self.account.begun.load(Relaxed) {
            return Err(Full);
        }
        self.queue.try_send(Waiting::new(packet, &self.account)?).map_err(|_| Full)
    }
}

/// Takes packets from a queue.
#[derive(Debug)]
pub struct Receiver {
    queue: mpsc::Receiver<Waiting>,
    account: Arc<Account>,
}

impl Receiver {
    /// The next packet; `None` when there is none and none can come. Cancel safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.account.begun.store(true, Relaxed);
        self.queue.recv().await.map(|waiting| waiting.packet)
    }

    /// The next packet if one waits.
    pub fn try_recv(&mut self) -> Option<Bytes> {
        self.queue.try_recv().ok().map(|waiting| waiting.packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(sender: &Sender, packet: &[u8]) -> usize {
        (0..10_000).take_while(|_| sender.push(packet).is_ok()).count()
    }

    #[tokio::test]
    async fn few_packets_wait_until_somebody_takes_them_and_more_from_then_on() {
        let (sender, mut receiver) = Budget::default().queue();
        assert_eq!(fill(&sender, b"x"), PACKETS_AT_FIRST);
        assert_eq!(receiver.recv().await.as_deref(), Some(&b"x"[..]));
        assert_eq!(fill(&sender, b"x"), PACKETS - PACKETS_AT_FIRST + 1);
    }

    #[tokio::test]
    async fn a_queue_and_all_queues_together_have_a_bound_in_bytes() {
        let budget = Budget::default();
        let packet = vec![7; 65_535];
        let mut queues: Vec<_> = (0..20).map(|_| budget.queue()).collect();
        let mut all = 0;
        for (sender, receiver) in &mut queues {
            assert_eq!(receiver.try_recv(), None);
            receiver.account.begun.store(true, Relaxed);
            let fits = fill(sender, &packet);
            assert!(fits <= BYTES / packet.len());
            all += fits;
        }
        assert!(all > 200 && all * packet.len() <= ALL_BYTES, "{all}");
        let (sender, _) = &queues[19];
        assert_eq!(sender.push(b"x"), Ok(()), "a little is left");
        assert_eq!(fill(sender, &packet), 0);
        // What is taken, and what nobody will take, makes room.
        assert!(queues[0].1.recv().await.is_some());
        queues.remove(1);
        let (sender, _) = &queues[18];
        assert!(fill(sender, &packet) > 2);
        drop(queues);
        assert_eq!(budget.0.load(Relaxed), 0);
    }
}
