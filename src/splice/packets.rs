//! Joins two flows of packets: what [`splice`](super::splice) is to bytes, for UDP.
//!
//! Owns the join, the queues that packets wait in, the UDP sockets at both ends of the way, and the counts of what was
//! passed on and what was dropped. A packet is passed on whole or not at all, and waits for nobody but its own association.
//! Driven by its caller's task.

mod counters;
mod port;
mod queue;
mod service;

use std::{
    future::Future,
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

pub use counters::{Associated, Counters, Dropped, OfLink};
pub use port::{UdpClient, UdpPort};
pub use queue::{Budget, Full, Receiver, Sender};
pub use service::UdpService;

use super::{Broken, Way, pace::Pace, tell};
use crate::telemetry::Tally;

/// Where packets come from.
pub trait Source: Send {
    /// The next packet, or `None` when the other side has ended the association. Cancel safe.
    fn recv(&mut self) -> impl Future<Output = io::Result<Option<Bytes>>> + Send;
}

/// Where packets go to.
pub trait Sink: Send {
    /// Passes a packet on, or drops and counts it. An error says that none will be passed on any more. When it is cancelled,
    /// the packet may be lost, and no other.
    fn send(&mut self, packet: Bytes) -> impl Future<Output = io::Result<()>> + Send;
}

/// One side of a join. Dropping it breaks the association; [`Side::end`] ends it.
pub trait Side: Send {
    /// Both directions, to be driven at the same time.
    fn halves(&mut self) -> (impl Source, impl Sink);

    /// Ends the association: takes nothing any more from the moment it is called, and returns when the peer knows.
    fn end(self) -> impl Future<Output = ()> + Send;
}

/// Packets carried so far and when the last was, readable while the join runs, and the pace that it keeps to.
#[derive(Debug)]
pub struct Activity {
    began: Instant,
    /// In milliseconds.
    last: AtomicU64,
    left_to_right: Passed,
    right_to_left: Passed,
    passed: Notify,
    tally: Option<Tally>,
    pace: Pace,
}

/// What has passed in one direction.
#[derive(Debug, Default)]
struct Passed {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            left_to_right: Passed::default(),
            right_to_left: Passed::default(),
            passed: Notify::new(),
            tally: None,
            pace: Pace::default(),
        }
    }
}

impl Activity {
    /// Nothing yet, of a join that keeps to a pace, if there is one, as [`Counts::at`](super::Counts::at) has it. Packets that
    /// come faster wait in the queue of their source, and are dropped and counted once that is full.
    pub fn at(pace: Option<impl Fn(usize) -> Duration + Send + Sync + 'static>) -> Self {
        Self { pace: Pace::new(pace), ..Self::default() }
    }

    /// The same, counted among the bytes of clients too, as they pass: the left side is the client's.
    #[must_use]
    pub fn counted(self, tally: &Tally) -> Self {
        Self { tally: Some(tally.clone()), ..self }
    }

    /// Packets taken from the left side.
    pub fn left_to_right(&self) -> u64 {
        self.left_to_right.packets.load(Relaxed)
    }

    /// Packets taken from the right side.
    pub fn right_to_left(&self) -> u64 {
        self.right_to_left.packets.load(Relaxed)
    }

    /// The bytes of packets taken from the left side.
    pub fn bytes_left_to_right(&self) -> u64 {
        self.left_to_right.bytes.load(Relaxed)
    }

    /// The bytes of packets taken from the right side.
    pub fn bytes_right_to_left(&self) -> u64 {
        self.right_to_left.bytes.load(Relaxed)
    }

    /// Waits until a packet passes. For one caller at a time.
    pub async fn passed(&self) {
        self.passed.notified().await;
    }

    /// Waits until nothing has passed, in either direction, for so long.
    pub async fn silent(&self, time: Duration) {
        loop {
            let due = self.began + Duration::from_millis(self.last.load(Relaxed)) + time;
            if Instant::now() >= due {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    /// Waits until the association is idle: silent for `time`, or for a moment once `leaving` has come to its end.
    pub async fn idle(&self, time: Duration, leaving: impl Future<Output = ()>) {
        tokio::select! {
            () = self.silent(time) => {}
            () = async {
                leaving.await;
                self.silent(LEAVING.min(time)).await;
            } => {}
        }
    }

    fn count(&self, way: Way, bytes: usize) {
        let direction = match way {
            Way::ToRight => &self.left_to_right,
            Way::ToLeft => &self.right_to_left,
        };
        tell(self.tally.as_ref(), way, bytes);
        direction.packets.fetch_add(1, Relaxed);
        direction.bytes.fetch_add(bytes as u64, Relaxed);
        self.last.store(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX), Relaxed);
        self.passed.notify_one();
    }
}

/// How long an association must be silent to be ended by a process, or on a link, that is to be left. Its next packet begins
/// another one elsewhere.
const LEAVING: Duration = Duration::from_secs(5);

/// Joins two sides until one has ended or broken, or `until` has come to its end. Then it ends both.
///
/// # Errors
/// [`Broken`] when a side failed; both are broken by then.
pub async fn join<L: Side, R: Side>(
    mut left: L,
    mut right: R,
    activity: &Activity,
    until: impl Future<Output = ()>,
) -> Result<(), Broken> {
    {
        let (left_source, left_sink) = left.halves();
        let (right_source, right_sink) = right.halves();
        tokio::select! {
            ended = pump(left_source, right_sink, activity, Way::ToRight) => {
                ended.map_err(|error| error.name(Broken::Left, Broken::Right))?;
            }
            ended = pump(right_source, left_sink, activity, Way::ToLeft) => {
                ended.map_err(|error| error.name(Broken::Right, Broken::Left))?;
            }
            () = until => {}
        }
    }
    tokio::join!(left.end(), right.end());
    Ok(())
}

async fn pump(
    mut from: impl Source,
    mut to: impl Sink,
    activity: &Activity,
    way: Way,
) -> Result<(), super::PumpError> {
    activity.pace.passed(0).await;
    while let Some(packet) = from.recv().await.map_err(super::PumpError::Read)? {
        let len = packet.len();
        activity.count(way, len);
        to.send(packet).await.map_err(super::PumpError::Write)?;
        activity.pace.passed(len).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{future::pending, io::ErrorKind, sync::Arc};

    use tokio::sync::mpsc;

    use super::*;

    /// A side made of channels. Its sink is stuck while the channel is full; its source fails at "break".
    struct Made {
        from: mpsc::Receiver<Bytes>,
        to: mpsc::Sender<Bytes>,
        ended: Arc<()>,
    }

    /// A side, what feeds it, what it passes on, and what is held for as long as it has not been ended or dropped.
    fn made() -> (Made, mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>, Arc<()>) {
        let ((feed, from), (to, passed)) = (mpsc::channel(8), mpsc::channel(8));
        let ended = Arc::default();
        (Made { from, to, ended: Arc::clone(&ended) }, feed, passed, ended)
    }

    struct From<'a>(&'a mut mpsc::Receiver<Bytes>);

    impl Source for From<'_> {
        async fn recv(&mut self) -> io::Result<Option<Bytes>> {
            let packet = self.0.recv().await;
            if packet.as_deref() == Some(b"break") {
                Err(ErrorKind::ConnectionReset.into())
            } else {
                Ok(packet)
            }
        }
    }

    struct To<'a>(&'a mpsc::Sender<Bytes>);

    impl Sink for To<'_> {
        async fn send(&mut self, packet: Bytes) -> io::Result<()> {
            self.0.send(packet).await.map_err(|_| ErrorKind::BrokenPipe.into())
        }
    }

    impl Side for Made {
        fn halves(&mut self) -> (impl Source, impl Sink) {
            (From(&mut self.from), To(&self.to))
        }

        async fn end(self) {
            drop(self.ended);
        }
    }

    #[tokio::test]
    async fn a_direction_that_is_stuck_does_not_hold_up_the_other() {
        let ((left, feed_left, mut left_gets, _), (right, feed_right, _right_gets, _)) = (made(), made());
        let activity = Activity::default();
        let talk = async {
            while tokio::time::timeout(Duration::from_millis(50), feed_left.send("x".into())).await.is_ok() {}
            for _ in 0..100 {
                feed_right.send("y".into()).await.unwrap();
                assert_eq!(left_gets.recv().await.as_deref(), Some(&b"y"[..]));
            }
        };
        tokio::select! {
            _ = join(left, right, &activity, pending()) => panic!("nobody has ended it"),
            () = talk => {}
        }
        assert_eq!(activity.right_to_left(), 100);
    }

    #[tokio::test]
    async fn an_end_ends_both_sides_and_a_break_is_named() {
        for (last, breaks) in [(None, false), (Some("break"), true)] {
            let ((left, feed_left, _, left_held), (right, _feed, mut right_gets, right_held)) =
                (made(), made());
            feed_left.send("a".into()).await.unwrap();
            if let Some(last) = last {
                feed_left.send(last.into()).await.unwrap();
            }
            drop(feed_left);
            let joined = join(left, right, &Activity::default(), pending()).await;
            assert_eq!(matches!(joined, Err(Broken::Left(_))), breaks);
            assert_eq!(right_gets.recv().await.as_deref(), Some(&b"a"[..]));
            assert_eq!((Arc::strong_count(&left_held), Arc::strong_count(&right_held)), (1, 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn packets_keep_to_the_pace_and_none_is_lost_for_it() {
        let ((left, feed, _gets, _), (right, _feed, mut right_gets, _)) = (made(), made());
        let activity = Activity::at(Some(|bytes| Duration::from_secs(bytes as u64)));
        let began = Instant::now();
        let talk = async {
            for _ in 0..3 {
                feed.send("xx".into()).await.unwrap();
            }
            for waited in [0, 2, 4] {
                right_gets.recv().await.unwrap();
                assert_eq!(began.elapsed().as_secs(), waited);
            }
        };
        tokio::select! {
            _ = join(left, right, &activity, pending()) => panic!("nobody has ended it"),
            () = talk => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_last_packet_and_less_is_enough_once_somebody_leaves() {
        let activity = Activity::default();
        let began = Instant::now();
        let packets = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                activity.count(Way::ToRight, 1);
            }
        };
        tokio::join!(activity.idle(Duration::from_secs(60), pending()), packets);
        assert_eq!(began.elapsed().as_secs(), 560);
        activity.count(Way::ToLeft, 1);
        let leaving = tokio::time::sleep(Duration::from_secs(2));
        activity.idle(Duration::from_secs(60), leaving).await;
        assert_eq!(began.elapsed().as_secs(), 560 + LEAVING.as_secs());
    }
}
