//! The runtime that quinn runs on: tokio's, but a link's driver lets those go first who have something to write.
//!
//! A driver is woken by the first write on its link, and tokio would run it next, in the middle of others that are about to
//! write as well: 50 requests at a time were 50 packets, each with a system call of its own and a wake-up of the peer. One
//! turn later they are one packet or a few, which leave in one call: a node and an agent need two thirds of the processor
//! time for a request. One that has the link to itself waits for a pass through the scheduler, some microseconds.

use std::{
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
        TokioRuntime.spawn(Box::pin(LastInTurn { driver, woken: false }));
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A driver that, woken, runs after all that were ready before it.
struct LastInTurn {
    driver: Driver,
    /// Whether it has been woken and waits for its turn.
    woken: bool,
}

impl Future for LastInTurn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.woken = !self.woken;
        if self.woken {
            // tokio queues a task that wakes itself behind all others.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.driver.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
    };

    use tokio::{
        sync::{Notify, watch},
        task::JoinSet,
    };

    use super::*;

    /// On one worker: with more, another could run the driver meanwhile.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_driver_runs_after_those_who_were_ready_when_it_was_woken() {
        let (written, woken) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (seen, mut first) = watch::channel(None);
        let driver = {
            let (written, woken) = (Arc::clone(&written), Arc::clone(&woken));
            async move {
                seen.send_replace(Some(0));
                woken.notified().await;
                seen.send_replace(Some(written.load(Relaxed)));
            }
        };
        Batching.spawn(Box::pin(driver));
        first.wait_for(|seen| *seen == Some(0)).await.unwrap();
        // Writers that a task of the worker begins are ready together. It waits for none: it would run between them.
        let mut beginner = JoinSet::new();
        beginner.spawn(async move {
            let mut writers = JoinSet::new();
            for _ in 0..10 {
                let (written, woken) = (Arc::clone(&written), Arc::clone(&woken));
                writers.spawn(async move {
                    written.fetch_add(1, Relaxed);
                    woken.notify_one();
                });
            }
            writers
        });
        let writers = beginner.join_next().await.unwrap().unwrap();
        assert_eq!(*first.wait_for(|seen| *seen != Some(0)).await.unwrap(), Some(10));
        writers.join_all().await;
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
