//! What a client serves: its listens, the same over every link, and the flows that arrive for them.
//!
//! [`Listens`] is the one truth; each link's session compares it with what it has announced there and sends the difference.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Association, Flow, association::Via};
use crate::{
    protocol::{self, Code, EndpointId, Kind, Listen, ListenOptions, Open, Refusal},
    transport::{self, Stream},
};

/// Flows that have arrived and wait for [`Listener::accept`]. When it is full, flows are refused as busy, and nodes try
/// another agent.
const BACKLOG: usize = 1024;

/// Why an endpoint is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// This client serves it already.
    #[error("this client serves {0} already")]
    Duplicate(EndpointId),
    /// A node refuses it, though not for want of a permission.
    #[error("the node refuses to let this agent serve {endpoint}")]
    Refused {
        /// The endpoint.
        endpoint: EndpointId,
        /// The node's reason.
        #[source]
        refusal: Refusal,
    },
    /// More hosts than one endpoint may have.
    #[error("{endpoint} has {hosts} hosts, at most {} are allowed", ListenOptions::MAX_HOSTS)]
    TooManyHosts {
        /// The endpoint.
        endpoint: EndpointId,
        /// How many.
        hosts: usize,
    },
    /// The client has been closed.
    #[error("the client is closed")]
    Closed,
}

/// Whether nodes send flows for a listen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    None,
    Listening,
    Refused(Refusal),
}

/// One listen.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) listen: Listen,
    flows: mpsc::Sender<Incoming>,
    answer: watch::Sender<Answer>,
    /// Its listener is to take what has arrived and then end.
    closed: CancellationToken,
    /// On how many links it has been announced and not yet withdrawn.
    links: watch::Sender<usize>,
}

impl Entry {
    pub(super) fn listening(&self) {
        self.answer.send_replace(Answer::Listening);
    }

    /// Notes a node's "no"; whether it is another than was last said of this.
    pub(super) fn refused(&self, refusal: Refusal) -> bool {
        let refused = Answer::Refused(refusal);
        self.answer.send_if_modified(|answer| {
            let changed = *answer != refused;
            *answer = refused;
            changed
        })
    }

    /// Notes that it stands on a link, until the answer is dropped.
    pub(super) fn announce(self: &Arc<Self>) -> Announced {
        self.links.send_modify(|links| *links += 1);
        Announced(Arc::clone(self))
    }

    /// Hands over a flow that has arrived, or refuses it.
    pub(super) async fn offer(&self, incoming: Incoming) {
        let (incoming, refusal) = match self.flows.try_send(incoming) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(incoming)) => {
                incoming.via.session().counters.backlog_full();
                (incoming, Refusal::new(Code::Busy, format!("{BACKLOG} flows wait at the agent already")))
            }
            Err(mpsc::error::TrySendError::Closed(incoming)) => {
                (incoming, not_listening(&self.listen.endpoint))
            }
        };
        incoming.refuse(refusal).await;
    }

    /// Waits until no link has it any more.
    async fn withdrawn(&self) {
        // The sender is borrowed for as long as the wait, which therefore cannot fail.
        drop(self.links.subscribe().wait_for(|links| *links == 0).await);
    }
}

/// A listen that stands on a link.
#[derive(Debug)]
pub(super) struct Announced(pub(super) Arc<Entry>);

impl Drop for Announced {
    fn drop(&mut self) {
        self.0.links.send_modify(|links| *links -= 1);
    }
}

pub(super) fn not_listening(endpoint: &EndpointId) -> Refusal {
    Refusal::new(Code::NotListening, format!("this agent does not serve {endpoint}"))
}

/// All listens of a client.
#[derive(Debug, Clone, Default)]
pub(super) struct Listens {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Mutex<Entries>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Entries {
    last: u64,
    by_id: BTreeMap<u64, Arc<Entry>>,
    by_endpoint: BTreeMap<EndpointId, u64>,
}

impl Listens {
    fn with<T>(&self, change: impl FnOnce(&mut Entries) -> T) -> T {
        change(&mut self.inner.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn add(
        &self,
        endpoint: EndpointId,
        kind: Kind,
        options: ListenOptions,
    ) -> Result<Listener, ListenError> {
        let hosts = options.hosts.len();
        if hosts > ListenOptions::MAX_HOSTS {
            return Err(ListenError::TooManyHosts { endpoint, hosts });
        }
        let (sender, flows) = mpsc::channel(BACKLOG);
        let entry = self.with(|entries| {
            if entries.by_endpoint.contains_key(&endpoint) {
                return Err(ListenError::Duplicate(endpoint.clone()));
            }
            entries.last += 1;
            let id = entries.last;
            let entry = Arc::new(Entry {
                listen: Listen { id, endpoint: endpoint.clone(), kind, options },
                flows: sender,
                answer: watch::Sender::new(Answer::None),
                links: watch::Sender::new(0),
                closed: CancellationToken::new(),
            });
            entries.by_endpoint.insert(endpoint, id);
            entries.by_id.insert(id, Arc::clone(&entry));
            Ok(entry)
        })?;
        self.inner.changed.send_replace(());
        Ok(Listener { entry, flows, listens: self.clone() })
    }

    fn remove(&self, entry: &Entry) {
        self.with(|entries| {
            if entries.by_id.remove(&entry.listen.id).is_some() {
                entries.by_endpoint.remove(&entry.listen.endpoint);
            }
        });
        self.inner.changed.send_replace(());
    }

    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.with(|entries| entries.by_id.values().map(Arc::clone).collect())
    }

    /// How many there are, and how many of them no node has agreed to.
    pub(super) fn standing(&self) -> (usize, usize) {
        let all = self.all();
        let waiting = all.iter().filter(|entry| *entry.answer.borrow() != Answer::Listening).count();
        (all.len(), waiting)
    }

    pub(super) fn of_endpoint(&self, endpoint: &EndpointId) -> Option<Arc<Entry>> {
        self.with(|entries| {
            let id = entries.by_endpoint.get(endpoint)?;
            entries.by_id.get(id).map(Arc::clone)
        })
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.inner.changed.subscribe()
    }

    /// Withdraws everything and waits until every node has said that no flow will come any more.
    pub(super) async fn close(&self, patience: Duration) {
        let all = self.all();
        for entry in &all {
            self.remove(entry);
        }
        let withdrawn = async {
            for entry in &all {
                entry.withdrawn().await;
            }
        };
        if tokio::time::timeout(patience.min(WITHDRAW), withdrawn).await.is_err() {
            tracing::warn!("a node has not acknowledged that endpoints are served no more");
        }
        for entry in &all {
            entry.closed.cancel();
        }
    }
}

/// How long a node has to acknowledge that a listen has ended.
const WITHDRAW: Duration = Duration::from_secs(5);

/// An endpoint that is being served. Dropping it ends that; flows that have been accepted go on.
#[derive(Debug)]
pub struct Listener {
    entry: Arc<Entry>,
    flows: mpsc::Receiver<Incoming>,
    listens: Listens,
}

impl Listener {
    /// Waits for a node's first answer that is final. Whether this client may serve the endpoint is not: its token may be
    /// renewed, and what a node permits may change.
    pub(super) async fn ready(&mut self) -> Result<(), ListenError> {
        let is_final = |answer: &Answer| match answer {
            Answer::None => false,
            Answer::Refused(refusal) => !matches!(refusal.code, Code::Unauthenticated | Code::Forbidden),
            Answer::Listening => true,
        };
        let mut answer = self.entry.answer.subscribe();
        let answer = answer.wait_for(is_final).await;
        match answer.as_deref() {
            Ok(Answer::Refused(refusal)) => Err(ListenError::Refused {
                endpoint: self.entry.listen.endpoint.clone(),
                refusal: refusal.clone(),
            }),
            Ok(_) => Ok(()),
            Err(_) => Err(ListenError::Closed),
        }
    }

    /// The next flow that a node opens; `None` once the listener is closed and all that had arrived are taken. Cancel safe.
    pub async fn accept(&mut self) -> Option<Incoming> {
        tokio::select! {
            biased;
            incoming = self.flows.recv() => incoming,
            () = self.entry.closed.cancelled() => {
                self.flows.close();
                self.flows.recv().await
            }
        }
    }

    /// The endpoint that is served.
    pub fn endpoint(&self) -> &EndpointId {
        &self.entry.listen.endpoint
    }

    /// Ends serving: returns once every node has acknowledged that no flow will come any more, at most 5 s later. Flows
    /// that had arrived by then are still to be taken by [`Listener::accept`], which answers `None` behind the last.
    pub async fn close(&mut self) {
        self.listens.remove(&self.entry);
        if tokio::time::timeout(WITHDRAW, self.entry.withdrawn()).await.is_err() {
            tracing::warn!(endpoint = %self.endpoint(), "a node has not acknowledged that an endpoint is served no more");
        }
        self.entry.closed.cancel();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.listens.remove(&self.entry);
    }
}

/// A flow that a node has opened and this side has not answered. Dropping it resets it.
#[derive(Debug)]
pub struct Incoming {
    open: Open,
    stream: Stream,
    via: Via,
}

impl Incoming {
    pub(super) fn new(open: Open, stream: Stream, via: Via) -> Self {
        Self { open, stream, via }
    }

    /// What was asked for.
    pub fn open(&self) -> &Open {
        &self.open
    }

    /// Joins it: the other end's bytes may come from now on.
    ///
    /// # Errors
    /// When the flow or its link has gone, or the flow is one of UDP.
    pub async fn accept(mut self) -> io::Result<Flow> {
        self.opened(self.open.kind != Kind::Udp).await?;
        Ok(Flow::new(self.stream, self.open.client, self.via))
    }

    /// Joins a UDP flow, which comes only where [`Kind::Udp`] is listened for: the other end's packets may come from now on.
    ///
    /// # Errors
    /// When the flow or its link has gone, or the flow is none of UDP.
    pub async fn associate(mut self) -> io::Result<Association> {
        self.opened(self.open.kind == Kind::Udp).await?;
        Ok(Association::new(self.stream, self.open.client, self.via))
    }

    async fn opened(&mut self, fits: bool) -> io::Result<()> {
        if !fits {
            let text = format!("a flow of kind {} is joined another way", self.open.kind.name());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        transport::write_flow(&mut self.stream, &protocol::Flow::Opened).await
    }

    /// Refuses it, with the promise that none of its bytes was passed on: the node may offer it to another agent.
    pub async fn refuse(self, refusal: Refusal) {
        self.via.session().counters.flow_refused(&refusal);
        transport::refuse(self.stream, refusal).await;
    }
}
