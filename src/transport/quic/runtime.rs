//! The runtime that quinn runs on: tokio's, but a link's driver lets those go first who have something to write.
//!
//! A driver is woken by the first write on its link, and tokio would run it next, in the middle of others that are about to
//! write as well: 50 requests at a time were 50 packets, each with a system call of its own and a wake-up of the peer. One
//! turn later they are one packet or a few, which leave in one call: a node and an agent need a quarter less processor time for
//! a request. Where no others write the turn would cost a lone request some microseconds, and perhaps the wake-up of another
//! worker; so a driver waits for it only as long as it often finds more than one write when it runs.

use std::{
    cell::Cell,
    future::Future,
    io,
    net::UdpSocket,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};

/// tokio, with drivers that wait for a turn.
#[derive(Debug)]
pub(super) struct Batching;

impl Runtime for Batching {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, driver: Driver) {
        TokioRuntime.spawn(Box::pin(LastInTurn { driver, crowd: 0, waits: false }));
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How often in a row a driver must find a lone write before it takes its link for a quiet one.
const CROWD: u8 = 16;

thread_local! {
    /// How many writes on links this thread has seen since it last ran a driver.
    static WRITES: Cell<usize> = const { Cell::new(0) };
}

/// Says that something was written on a link.
pub(super) fn wrote() {
    WRITES.set(WRITES.get().saturating_add(1));
}

/// A driver that, woken, runs after all that were ready before it. Those of sockets and of HTTP/3 are such too, as quinn
/// begins all alike; what is written on links decides for them as well.
struct LastInTurn {
    driver: Driver,
    /// How often it still expects to find several writes.
    crowd: u8,
    /// Whether it has been woken and waits for its turn.
    waits: bool,
}

impl Future for LastInTurn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.waits = self.crowd > 0 && !self.waits;
        if self.waits {
            // tokio queues a task that wakes itself behind all others.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match WRITES.take() {
            0 => {}
            1 => self.crowd = self.crowd.saturating_sub(1),
            _ => self.crowd = CROWD,
        }
        self.driver.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        task::Waker,
    };

    use tokio::{
        sync::{Notify, watch},
        task::JoinSet,
    };

    use super::*;

    /// How much was written when a driver ran for the second time, with ten writers ready of which the first wakes it; the
    /// first time it has found so many writes.
    async fn found(first: usize) -> usize {
        let (written, woken) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (told, mut runs) = watch::channel(Vec::new());
        let driver = {
            let (written, woken) = (Arc::clone(&written), Arc::clone(&woken));
            async move {
                for _ in 0..3 {
                    told.send_modify(|runs| runs.push(written.load(Relaxed)));
                    woken.notified().await;
                }
            }
        };
        Batching.spawn(Box::pin(driver));
        runs.wait_for(|runs| runs.len() == 1).await.unwrap();
        let mut tasks = JoinSet::new();
        let wakes = Arc::clone(&woken);
        tasks.spawn(async move {
            (0..first).for_each(|_| wrote());
            wakes.notify_one();
        });
        runs.wait_for(|runs| runs.len() == 2).await.unwrap();
        // Writers that a task of the worker begins are ready together. It waits for none: it would run between them.
        tasks.spawn(async move {
            let mut writers = JoinSet::new();
            for _ in 0..10 {
                let (written, woken) = (Arc::clone(&written), Arc::clone(&woken));
                writers.spawn(async move {
                    wrote();
                    written.fetch_add(1, Relaxed);
                    woken.notify_one();
                });
            }
            writers.detach_all();
        });
        let found = runs.wait_for(|runs| runs.len() == 3).await.unwrap()[2];
        tasks.join_all().await;
        found
    }

    /// On one worker: with more, another could run the driver meanwhile.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_driver_that_finds_several_writes_runs_after_those_who_are_ready() {
        assert_eq!(found(2).await, 10);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_driver_that_finds_a_lone_write_runs_at_once() {
        assert_eq!(found(1).await, 1);
    }

    /// So that a link on which one at a time asks is not held up for what it was once.
    #[test]
    fn a_driver_forgets_that_it_found_several_writes() {
        let mut driver = LastInTurn { driver: Box::pin(pending()), crowd: 0, waits: false };
        let mut cx = Context::from_waker(Waker::noop());
        let mut waits = |writes: usize| {
            (0..writes).for_each(|_| wrote());
            assert_eq!(Pin::new(&mut driver).poll(&mut cx), Poll::Pending);
            let waited = driver.waits;
            if waited {
                assert_eq!(Pin::new(&mut driver).poll(&mut cx), Poll::Pending);
            }
            waited
        };
        assert_eq!([waits(1), waits(2), waits(1), waits(0)], [false, false, true, true]);
        let still = (0..100).take_while(|_| waits(1)).count();
        assert_eq!((still, waits(3), waits(1)), (usize::from(CROWD) - 1, false, true));
    }

    #[tokio::test]
    async fn a_driver_that_wakes_itself_goes_on() {
        let done = Arc::new(Notify::new());
        let driver = {
            let (done, mut left) = (Arc::clone(&done), 3);
            poll_fn(move |cx| {
                if left == 0 {
                    done.notify_one();
                    return Poll::Ready(());
                }
                left -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            })
        };
        Batching.spawn(Box::pin(driver));
        done.notified().await;
    }
}
