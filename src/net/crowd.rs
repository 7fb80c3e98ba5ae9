//! Places for strangers: for connections that have shown nothing yet, and may never do.
//!
//! Whoever accepts connections owns a [`Crowd`] and has each enter it until it is somebody. There are so many places; those
//! who come while all are taken wait their turn, as honest ones in a hurry should. But who has been there for a while without
//! being done gives its place to who comes: strangers who say nothing hold up nobody for longer than that.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
    time::Instant,
};

/// So many places, each of which is its holder's for so long at least.
#[derive(Debug)]
pub struct Crowd {
    places: usize,
    fair: Duration,
    /// Those inside, the oldest first, some that have left among them.
    inside: Mutex<VecDeque<Stranger>>,
    left: Arc<Notify>,
}

#[derive(Debug)]
struct Stranger {
    since: Instant,
    /// Closed once the place is left. Dropped to take it back.
    keeps: oneshot::Sender<Infallible>,
}

impl Crowd {
    /// One without anybody.
    pub fn new(places: usize, fair: Duration) -> Self {
        Self { places, fair, inside: Mutex::default(), left: Arc::default() }
    }

    /// Takes a place that is free, or that of the oldest if that has had it for long enough; else says when that will be.
    pub fn try_enter(&self) -> Result<Place, Instant> {
        let now = Instant::now();
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.retain(|stranger| !stranger.keeps.is_closed());
        if inside.len() >= self.places
            && let Some(oldest) = inside.front()
        {
            let until = oldest.since + self.fair;
            if now < until {
                return Err(until);
            }
            inside.pop_front();
        }
        let (keeps, wanted) = oneshot::channel();
        inside.push_back(Stranger { since: now, keeps });
        Ok(Place { wanted, _left: Left(Arc::clone(&self.left)) })
    }

    /// Waits for a place. Cancel safe.
    async fn enter(&self) -> Place {
        loop {
            match self.try_enter() {
                Ok(place) => return place,
                Err(until) => drop(tokio::time::timeout_at(until, self.left.notified()).await),
            }
        }
    }

    /// Accepts the next connection, and waits for a place for it. What has been accepted is closed if this is dropped meanwhile.
    pub async fn accept(&self, listener: &TcpListener) -> (TcpStream, SocketAddr, Place) {
        let (stream, address) = super::accept(listener).await;
        (stream, address, self.enter().await)
    }

    /// Whether more than half of the places are taken.
    pub fn is_dense(&self) -> bool {
        let inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.iter().filter(|stranger| !stranger.keeps.is_closed()).count() > self.places / 2
    }
}

/// A place in a [`Crowd`]. Dropping it leaves.
#[derive(Debug)]
pub struct Place {
    wanted: oneshot::Receiver<Infallible>,
    // After the receiver, so that who is woken finds it closed.
    _left: Left,
}

impl Place {
    /// Does this in the place; `None` if the place went to somebody else meanwhile.
    pub async fn hold<T>(mut self, what: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = what => Some(done),
            _ = &mut self.wanted => None,
        }
    }
}

#[derive(Debug)]
struct Left(Arc<Notify>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const FAIR: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn who_comes_waits_for_who_leaves() {
        let crowd = Crowd::new(2, FAIR);
        let (first, second) = (crowd.enter().await, crowd.enter().await);
        let began = Instant::now();
        let (third, ()) = tokio::join!(crowd.enter(), async {
            tokio::time::sleep(FAIR / 2).await;
            drop(second);
        });
        assert_eq!(began.elapsed(), FAIR / 2);
        assert_eq!(first.hold(ready("done")).await, Some("done"));
        assert_eq!(third.hold(ready("done")).await, Some("done"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_gives_way_once_it_has_had_its_time() {
        let crowd = Crowd::new(2, FAIR);
        let (silent, later) = (crowd.enter().await, crowd.enter().await);
        let began = Instant::now();
        let (gave_way, third) = tokio::join!(silent.hold(pending::<()>()), crowd.enter());
        assert_eq!((gave_way, began.elapsed()), (None, FAIR));
        // Its time is over too, but nobody wants its place.
        tokio::time::sleep(FAIR).await;
        assert_eq!(later.hold(ready(())).await, Some(()));
        drop(third);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_left_is_free_though_its_time_is_not_over() {
        let crowd = Crowd::new(1, FAIR);
        for _ in 0..3 {
            let place = crowd.try_enter().expect("it is free");
            assert_eq!(crowd.try_enter().err(), Some(Instant::now() + FAIR));
            drop(place);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_dense_with_more_than_half_of_what_it_holds() {
        let crowd = Crowd::new(4, FAIR);
        let mut places = Vec::new();
        for dense in [false, false, true, true] {
            places.push(crowd.enter().await);
            assert_eq!(crowd.is_dense(), dense);
        }
        places.truncate(2);
        assert!(!crowd.is_dense());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_forgotten_of_many_who_wait_at_once() {
        let crowd = Crowd::new(3, FAIR);
        let all = (0..20).map(|_| async { crowd.enter().await.hold(tokio::time::sleep(FAIR / 4)).await });
        let began = Instant::now();
        let done = futures_util::future::join_all(all).await;
        assert!(done.iter().all(Option::is_some), "{done:?}");
        // Three at a time, none of which waits longer than for the three before.
        assert_eq!(began.elapsed(), 7 * FAIR / 4);
    }
}
