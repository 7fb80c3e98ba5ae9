//! The cluster as one node sees it: who is in it, links to all of them, and which endpoints they serve.
//!
//! `membership`, `exchange`, `table` and `rebalance` are pure; `links` and `node` drive them over QUIC. Driven by [`Handler`],
//! which `node` implements: what a peer serves goes to `upstream`, flows that a peer opens go to `relay`. It never chooses
//! an upstream and never touches a client.

mod ask;
pub mod exchange;
mod faults;
mod links;
pub mod membership;
mod metrics;
mod node;
pub mod rebalance;
#[cfg(test)]
mod simulation;
pub mod table;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, watch};

pub use ask::{Answer, AskError, answer};
pub use node::{Announcements, Node, PeerStatus};

use crate::{
    drain::{Aborted, Tasks},
    net::HostPort,
    protocol::{Close, Load, NodeAddress, NodeId, PeerRoute, Phase},
    telemetry::{Metrics, Queue, What},
    tls,
    transport::{LinkCounters, Settings, Stream, quic},
};
use membership::Member;

/// A future that a [`Handler`] gives away.
pub type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What becomes of what peers say and ask.
pub trait Handler: Send + Sync + fmt::Debug {
    /// A peer serves these.
    fn added(&self, peer: &Arc<Node>, routes: &[PeerRoute]);
    /// A peer serves these no more, or its link has ended.
    fn removed(&self, peer: &Arc<Node>, routes: &[PeerRoute]);
    /// No further request may be put on these flows, which this side has opened.
    fn retired(&self, peer: &Arc<Node>, flows: &[u64]);
    /// A peer opens a flow, or asks something for its operators.
    fn flow(&self, peer: &Arc<Node>, stream: Stream) -> BoxFuture;
    /// What all linked peers serve has been told.
    fn settled(&self);
    /// How busy this node is.
    fn load(&self) -> Load;
    /// Something has happened to a peer, or to who would be one, that operators may want to know later.
    fn happened(&self, what: What, who: String, why: String);
}

/// How a node takes part in its cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where peers link to, over UDP.
    pub bind: SocketAddr,
    /// Where peers reach it; the bound address when absent, and the bound port when its own is 0.
    pub advertise: Option<HostPort>,
    /// Names and addresses of nodes to find the cluster through.
    pub join: Vec<HostPort>,
    /// The node's certificate; one of its names must be the node's ([`tls::NODE_NAME`]).
    pub identity: tls::Identity,
    /// Who signs the cluster's certificates.
    pub roots: Vec<rustls::pki_types::CertificateDer<'static>>,
}

/// Why a node cannot take part in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The peer port does not open.
    #[error("the peer port does not open (--peer-bind)")]
    Bind(#[from] quic::BindError),
    /// There is no socket to dial from.
    #[error("no link to peers can be opened")]
    Dial(#[from] quic::DialError),
    /// The certificates cannot be used.
    #[error("the peer port's certificates cannot be used")]
    Tls(#[from] tls::ConfigError),
    /// The bound address is not told.
    #[error("the peer port's address is not known")]
    Address(#[source] io::Error),
}

/// What all parts of a cluster's view share.
struct Shared {
    node: NodeId,
    cluster: String,
    me: Mutex<Member>,
    link_address: String,
    phase: watch::Receiver<Phase>,
    announcements: Arc<Announcements>,
    handler: Arc<dyn Handler>,
    membership: mpsc::Sender<Event>,
    /// What found no room there.
    full: Counter,
    peers: Mutex<HashMap<NodeId, Arc<Node>>>,
    members: watch::Sender<Arc<[NodeAddress]>>,
    tasks: Tasks,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("node", &self.node).finish_non_exhaustive()
    }
}

/// What membership is told.
#[derive(Debug)]
enum Event {
    /// A datagram of a peer's link.
    Heard {
        /// Whose link it is.
        from: NodeId,
        /// What should be a message of that node.
        data: Bytes,
    },
    /// A link to this member has been made.
    Linked(Member),
    /// This node leaves; answered once it has said so.
    Leave(tokio::sync::oneshot::Sender<()>),
}

impl Shared {
    fn peers(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<Node>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn me(&self) -> Member {
        self.me.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Brings the list of nodes for agents up to date.
    fn members_changed(&self) {
        let own = NodeAddress { node: self.node.clone(), address: self.link_address.clone() };
        let peers = self.peers();
        let others = peers.values().filter(|peer| !peer.is_draining() && !peer.vitals.is_suspect());
        let mut all: Vec<_> = others
            .map(|peer| NodeAddress { node: peer.member.node.clone(), address: peer.link_address.clone() })
            .chain([own])
            .take(NodeAddress::MAX_NODES)
            .collect();
        drop(peers);
        all.sort_by(|a, b| a.node.cmp(&b.node));
        self.members.send_if_modified(|members| {
            let changed = **members != *all;
            if changed {
                *members = all.into();
            }
            changed
        });
    }

    /// A peer's first snapshot has come.
    fn settled(&self) {
        if self.peers().values().all(|peer| peer.is_complete()) {
            self.handler.settled();
        }
        self.members_changed();
    }

    fn unlinked(&self, node: &Arc<Node>) {
        let mut peers = self.peers();
        if peers.get(&node.member.node).is_some_and(|current| Arc::ptr_eq(current, node)) {
            peers.remove(&node.member.node);
        }
        drop(peers);
        self.members_changed();
    }
}

/// A running view of the cluster.
#[derive(Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
    listener: Arc<quic::Listener>,
    dialer: Arc<quic::Dialer>,
    address: SocketAddr,
}

/// The certificates of a [`Config`], which have been found to be fit for links.
#[derive(Debug)]
pub struct Credentials {
    server: quic::ServerCrypto,
    client: quic::ClientCrypto,
}

impl Credentials {
    /// Those of a configuration.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn new(config: &Config) -> Result<Self, StartError> {
        let (server, client) = links::tls(config)?;
        let server = server.try_into().map_err(quic::BindError::from)?;
        Ok(Self { server, client: client.try_into().map_err(quic::DialError::from)? })
    }
}

/// What a node tells of itself to its peers, beside its certificate.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its name.
    pub node: NodeId,
    /// Its cluster's name.
    pub cluster: String,
    /// Which of the lives of that name this is: higher is later.
    pub incarnation: u64,
    /// Where agents and forwarders reach it.
    pub link_address: String,
    /// Where it is in its life.
    pub phase: watch::Receiver<Phase>,
}

impl Cluster {
    /// Opens the peer port and begins to look for the others.
    ///
    /// # Errors
    /// When the port is taken, or the certificates cannot be used.
    pub fn start(
        config: Config,
        own: Own,
        settings: &Settings,
        announcements: Arc<Announcements>,
        handler: Arc<dyn Handler>,
        metrics: &Metrics,
        carried: LinkCounters,
    ) -> Result<Self, StartError> {
        let opened = links::open(&config, settings)?;
        metrics.queue_full(Queue::Handshakes, opened.listener.turned_away());
        let full = Counter::default();
        metrics.queue_full(Queue::Membership, &full);
        let address = opened.listener.local_address().map_err(StartError::Address)?;
        let advertised = match config.advertise {
            Some(HostPort { host, port: 0 }) => HostPort { host, port: address.port() }.to_string(),
            Some(given) => given.to_string(),
            None => address.to_string(),
        };
        let (membership, events) = mpsc::channel(1024);
        let me = Member { node: own.node.clone(), incarnation: own.incarnation, address: advertised };
        let shared = Arc::new(Shared {
            node: own.node,
            cluster: own.cluster,
            me: Mutex::new(me),
            link_address: own.link_address,
            phase: own.phase,
            announcements,
            handler,
            membership,
            full,
            peers: Mutex::default(),
            members: watch::Sender::new(Arc::from([])),
            tasks: Tasks::new(),
        });
        shared.members_changed();
        let (listener, dialer) = (Arc::clone(&opened.listener), Arc::clone(&opened.dialer));
        links::run(Arc::clone(&shared), opened, config.join, events, metrics, carried);
        Ok(Self { shared, listener, dialer, address })
    }

    /// Makes links with these from now on. Those that stand are not touched.
    pub fn replace(&self, credentials: Credentials) {
        self.listener.replace(credentials.server);
        self.dialer.replace(credentials.client);
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where peers are told to reach this node.
    pub fn advertised(&self) -> String {
        self.shared.me().address
    }

    /// The nodes that agents may link to, as they change.
    pub fn members(&self) -> watch::Receiver<Arc<[NodeAddress]>> {
        self.shared.members.subscribe()
    }

    /// The peers that are linked now.
    pub fn peers(&self) -> Vec<Arc<Node>> {
        let mut peers: Vec<_> = self.shared.peers().values().cloned().collect();
        peers.sort_by(|a, b| a.member.node.cmp(&b.member.node));
        peers
    }

    /// Leaves: waits until the flows of all peer links have ended, at most until the deadline, says goodbye and closes.
    ///
    /// # Errors
    /// When flows were left, which are cut.
    pub async fn leave(&self, deadline: Duration) -> Result<(), Aborted> {
        let peers = self.peers();
        let idle = peers.iter().map(|peer| async {
            tokio::select! {
                _ = peer.link.closed() => Ok(()),
                finished = peer.flows.finish(deadline) => finished,
            }
        });
        let finished = futures_util::future::join_all(idle).await;
        let (said, goodbye) = tokio::sync::oneshot::channel();
        if self.shared.membership.send(Event::Leave(said)).await.is_ok() {
            // Nobody answers when the task is gone already, and then there is nobody to say goodbye.
            drop(goodbye.await);
        }
        self.shared.tasks.signal();
        self.listener.close(Close::Done, "the node has left").await;
        let cut: usize = finished.into_iter().filter_map(Result::err).map(|aborted| aborted.left).sum();
        self.shared.tasks.abort();
        if cut == 0 { Ok(()) } else { Err(Aborted { left: cut, after: deadline }) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shared.tasks.abort();
    }
}
