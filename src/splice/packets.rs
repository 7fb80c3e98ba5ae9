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
use tokio::time::Instant;

pub use counters::{Associated, Counters, Dropped};
pub use port::{UdpClient, UdpPort};
pub use queue::{Budget, Full, Receiver, Sender};
pub use service::UdpService;

use super::Broken;

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

/// Packets carried so far and when the last was, readable while the join runs.
#[derive(Debug)]
pub struct Activity {
    began: Instant,
    /// In milliseconds.
    last: AtomicU64,
    left_to_right: AtomicU64,
    right_to_left: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            left_to_right: AtomicU64::new(0),
            right_to_left: AtomicU64::new(0),
        }
    }
}

impl Activity {
    /// Packets taken from the left side.
    pub fn left_to_right(&self) -> u64 {
        self.left_to_right.load(Relaxed)
    }

    /// Packets taken from the right side.
    pub fn right_to_left(&self) -> u64 {
        self.right_to_left.load(Relaxed)
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

    fn count(&self, direction: &AtomicU64) {
        direction.fetch_add(1, Relaxed);
        self.last.store(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX), Relaxed);
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
            ended = pump(left_source, right_sink, || activity.count(&activity.left_to_right)) => {
                ended.map_err(|error| error.name(Broken::Left, Broken::Right))?;
            }
            ended = pump(right_source, left_sink, || activity.count(&activity.right_to_left)) => {
                ended.map_err(|error| error.name(Broken::Right, Broken::Left))?;
            }
            () = until => {}
        }
    }
    tokio::join!(left.end(), right.end());
    Ok(())
}

async fn pump(mut from: impl Source, mut to: impl Sink, count: impl Fn()) -> Result<(), super::PumpError> {
    while let Some(packet) = from.recv().await.map_err(super::PumpError::Read)? {
        count();
        to.send(packet).await.map_err(super::PumpError::Write)?;
    }
    Ok(())
}
