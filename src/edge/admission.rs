//! How many connections of clients there are, whichever door they came by, and the refusal of more.

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::metrics::Counters;

/// The places for connections.
#[derive(Debug)]
pub(super) struct Admissions {
    places: Arc<Semaphore>,
    counters: Counters,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub(super) struct Admission {
    open: Gauge,
    _place: OwnedSemaphorePermit,
}

impl Admissions {
    pub(super) fn new(max: Option<usize>, counters: Counters) -> Self {
        let places = max.unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(places)), counters }
    }

    /// A place for a connection that has been accepted. Without one it is to be closed at once: left in the listener's queue
    /// it would look healthy to a balancer, and keep its client from trying another node.
    pub(super) fn admit(&self) -> Option<Admission> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.counters.refused("too_many_connections");
            return None;
        };
        let open = self.counters.connections.clone();
        open.inc();
        Some(Admission { open, _place: place })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.open.dec();
    }
}
