//! The inspector: the last requests of an agent's web services and what became of them, to look at and to send again, at a
//! local address of its own.
//!
//! `http` and `server` tell it what goes by, through a [`Tap`]; [`store`] keeps it within bounds, and whatever is shown goes
//! through [`shown`], which masks secrets. Without `--inspect` there is none, and requests are not even read for it. It never
//! has an exchange wait, and changes nothing of one.

mod api;
mod curl;
mod filter;
mod guard;
mod har;
mod mask;
mod replay;
mod shown;
mod store;
mod tap;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::{Semaphore, watch};

pub(super) use tap::{Inspected, Sending, Tap};

use super::{Endpoint, Orders};
use crate::{drain::Tasks, net, protocol::EndpointId};
use store::Store;

/// How many replays may be under way.
const REPLAYS: usize = 8;

/// How long a replay may take altogether, since nobody waits for it who would go away.
const REPLAY: Duration = Duration::from_secs(60);

/// How long those who look have to be told that the agent leaves.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why there is no inspector.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on TCP {address} for the inspector (--inspect)")]
pub struct InspectError {
    address: SocketAddr,
    source: io::Error,
}

/// What is seen of exchanges. Clones are handles to the same.
#[derive(Debug, Clone)]
pub(super) struct Inspector(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Exchanges of another run have the same numbers.
    started: SystemTime,
    /// Held for an instant, never across an await.
    store: Mutex<Store>,
    /// The number of the store's last change.
    changed: watch::Sender<u64>,
    /// The endpoints, as they are served now.
    orders: Orders,
    replays: Arc<Semaphore>,
    viewers: Arc<Semaphore>,
    /// Of the one who reads through all that is kept.
    reader: Arc<Semaphore>,
    /// Those who look, and replays.
    tasks: Tasks,
}

impl Inspector {
    fn new(orders: Orders) -> Self {
        Self(Arc::new(Shared {
            started: SystemTime::now(),
            store: Mutex::default(),
            changed: watch::Sender::new(0),
            orders,
            replays: Arc::new(Semaphore::new(REPLAYS)),
            viewers: Arc::new(Semaphore::new(api::VIEWERS)),
            reader: Arc::new(Semaphore::new(1)),
            tasks: Tasks::new(),
        }))
    }

    fn with<T>(&self, what: impl FnOnce(&mut Store) -> T) -> T {
        let (done, revision) = {
            let mut store = self.0.store.lock().unwrap_or_else(PoisonError::into_inner);
            (what(&mut store), store.revision())
        };
        // Changes may be told out of order; the newest stays.
        self.0.changed.send_if_modified(|told| {
            let newer = revision > *told;
            *told = revision.max(*told);
            newer
        });
        done
    }

    /// An endpoint as it is served now, if it is.
    fn serves(&self, name: &EndpointId) -> Option<Arc<Endpoint>> {
        let orders = self.0.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.get(name)?.borrow().clone()
    }

    /// What is served now, and whether it is looked at.
    fn endpoints(&self) -> Vec<serde_json::Value> {
        let orders = self.0.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let served = orders.values().filter_map(|wanted| wanted.borrow().clone());
        let told = served.map(|endpoint| {
            serde_json::json!({
                "name": endpoint.name.as_str(),
                "service": endpoint.service.to_string(),
                "inspected": endpoint.reads_requests(true),
            })
        });
        told.collect()
    }
}

/// A running inspector. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Inspecting {
    pub(super) inspector: Inspector,
    pub(super) address: SocketAddr,
}

impl Inspecting {
    /// Must be called inside a tokio runtime.
    pub(super) fn start(address: SocketAddr, orders: Orders) -> Result<Self, InspectError> {
        let (listener, address) = net::listen(address).map_err(|source| InspectError { address, source })?;
        let inspector = Inspector::new(orders);
        let (router, tasks) = (api::router(&inspector), inspector.0.tasks.clone());
        let signal = tasks.clone();
        tasks.spawn(async move {
            let serve =
                axum::serve(listener, router).with_graceful_shutdown(async move { signal.signalled().await });
            if let Err(error) = serve.await {
                tracing::error!(%error, "the inspector has failed");
            }
        });
        tracing::info!("the inspector shows requests at http://{address}/ to whoever reaches that");
        Ok(Self { inspector, address })
    }

    /// Ends it.
    pub(super) async fn close(&self) {
        if let Err(aborted) = self.inspector.0.tasks.finish(GOODBYE).await {
            tracing::debug!(%aborted, "the inspector was left in the middle of something");
        }
    }
}

impl Drop for Inspecting {
    fn drop(&mut self) {
        self.inspector.0.tasks.abort();
    }
}
