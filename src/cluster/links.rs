//! Links to every other node: accepted, dialled, and made again for as long as membership says that the node lives.

mod gossip;
mod seeds;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::{
    Config, Event, Node, Shared, StartError,
    faults::{Faults, SHUN},
    membership::Member,
    metrics::Counters,
    node::{self, ControlLoop, Fault},
};
use crate::{
    net::{self, HostPort},
    protocol::{ALPN_PEER, Close, Code, LinkId, NodeId, OLDEST_VERSION, Peer, PeerHello, Refusal, VERSION},
    telemetry::{self, Metrics, What},
    tls,
    transport::{Datagrams, FrameReader, FrameWriter, Link, LinkCounters, Lost, Settings, quic},
};

/// How long a peer has for its handshake, and then for its first frame.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// The longest wait before a member is dialled again.
const RETRY: Duration = Duration::from_secs(2);

/// How long one mention of a member makes it worth dialling. Membership mentions those that live all the time, and those
/// that it holds to be down every few seconds.
const KEEP: Duration = Duration::from_secs(15);

/// How long a link that another one replaces is kept, so that the other's routes have come before its own go.
const REPLACE: Duration = Duration::from_secs(2);

/// Sockets of the peer port.
pub(super) struct Opened {
    pub(super) listener: Arc<quic::Listener>,
    pub(super) dialer: Arc<quic::Dialer>,
    max_flows: u32,
}

pub(super) fn open(config: &Config, settings: &Settings) -> Result<Opened, StartError> {
    let (server, client) = tls(config)?;
    let secret = config.identity.derive_key(b"adit peer");
    Ok(Opened {
        listener: Arc::new(quic::Listener::bind(config.bind, server, Some(&secret), settings)?),
        dialer: Arc::new(quic::Dialer::new(client, settings)?),
        max_flows: settings.max_flows,
    })
}

/// What links are accepted with, and what they are dialled with.
pub(super) fn tls(config: &Config) -> Result<(rustls::ServerConfig, rustls::ClientConfig), tls::ConfigError> {
    let clients = tls::ClientAuth::Required(config.roots.clone());
    let server = tls::server_config(std::slice::from_ref(&config.identity), clients, &[ALPN_PEER])?;
    let trust = tls::Trust::Cluster(config.roots.clone());
    Ok((server, tls::client_config(&trust, Some(&config.identity), &[ALPN_PEER])?))
}

/// What accepts and dials.
struct Links {
    shared: Arc<Shared>,
    opened: Opened,
    last_link: AtomicU64,
    /// Members that a task is dialling.
    dialling: Mutex<HashSet<NodeId>>,
    faults: Faults,
    counters: Counters,
    carried: LinkCounters,
}

/// Starts the tasks of the peer port.
pub(super) fn run(
    shared: Arc<Shared>,
    opened: Opened,
    join: Vec<HostPort>,
    events: mpsc::Receiver<Event>,
    metrics: &Metrics,
    carried: LinkCounters,
) {
    let counters = Counters::new(metrics, &shared);
    let tasks = shared.tasks.clone();
    let links = Arc::new(Links {
        shared,
        opened,
        last_link: AtomicU64::new(0),
        dialling: Mutex::default(),
        faults: metrics.register(Faults::new),
        counters,
        carried,
    });
    tasks.spawn(Arc::clone(&links).accept());
    tasks.spawn(seeds::run(Arc::clone(&links), join));
    tasks.spawn(gossip::run(links, events));
}

/// Why a peer link did not come about.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    /// Whose, when it has said so.
    #[error("there is a link already, or it is this node itself")]
    Linked(Option<NodeId>),
    #[error("the peer refuses: {0}")]
    Refused(Refusal),
    #[error("refused: {0}")]
    Refuse(Refusal),
    #[error("{0}")]
    Failed(String),
}

impl Links {
    async fn accept(self: Arc<Self>) {
        while let Some(incoming) = self.opened.listener.accept().await {
            let links = Arc::clone(&self);
            self.shared.tasks.spawn(async move {
                // Without its port, which is another one for each link.
                let from = incoming.remote_address().ip();
                match links.accepted(incoming).await {
                    Ok(()) | Err(LinkError::Linked(_)) => {}
                    Err(error) => {
                        let why = format!("on the port of nodes: {error}");
                        links.shared.handler.happened(What::LinkRefused, from.to_string(), why);
                        links.faults.refused(from, error);
                    }
                }
            });
        }
    }

    async fn accepted(self: &Arc<Self>, incoming: quic::Incoming) -> Result<(), LinkError> {
        let link =
            incoming.handshake(HANDSHAKE).await.map_err(|error| LinkError::Failed(error.to_string()))?;
        let first = tokio::time::timeout(HANDSHAKE, async {
            let stream = link.accept().await.map_err(|lost| lost.to_string())?;
            let (mut reader, writer) = (FrameReader::new(stream.recv), FrameWriter::new(stream.send));
            match reader.next().await {
                Ok(Peer::Hello(hello)) => Ok((hello, reader, writer)),
                Ok(_) => Err("a peer link begins with Hello".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        });
        let (hello, reader, mut writer) = match first.await {
            Ok(Ok(opened)) => opened,
            Ok(Err(reason)) => {
                link.close(Close::Protocol, &reason);
                return Err(LinkError::Failed(reason));
            }
            Err(_) => {
                link.close(Close::Timeout, "no Hello in time");
                return Err(LinkError::Failed("no Hello in time".into()));
            }
        };
        if let Err(refusal) = self.admit(&hello, &link, false) {
            // The other side goes away first at its pleasure.
            drop(writer.send(&Peer::Refused(refusal.clone())).await);
            writer.finish().await;
            link.close(Close::Refused, "refused");
            let quiet = refusal.code == Code::Superseded;
            return Err(if quiet { LinkError::Linked(Some(hello.node)) } else { LinkError::Refuse(refusal) });
        }
        link.set_max_flows(self.opened.max_flows);
        writer
            .send(&Peer::Welcome(self.hello()))
            .await
            .map_err(|error| LinkError::Failed(error.to_string()))?;
        self.linked(&hello, link, false, reader, writer);
        Ok(())
    }

    /// Dials an address; who answers is known only then.
    async fn dial(self: &Arc<Self>, address: SocketAddr) -> Result<NodeId, LinkError> {
        let failed = |error: String| LinkError::Failed(error);
        // Nodes are known by the name in their certificate, which is looked at below; this one is only for SNI.
        let link =
            self.opened.dialer.dial(address, "adit-peer").await.map_err(|error| failed(error.to_string()))?;
        let opened = tokio::time::timeout(HANDSHAKE, async {
            let stream = link.open(HANDSHAKE).await.map_err(|error| error.to_string())?;
            let (mut reader, mut writer) = (FrameReader::new(stream.recv), FrameWriter::new(stream.send));
            writer.send(&Peer::Hello(self.hello())).await.map_err(|error| error.to_string())?;
            let answer = reader.next().await;
            // What the TLS handshake refused late comes as the link's end (RFC 8446 §4.4.2: after the client's finish).
            answer
                .map(|answer| (answer, reader, writer))
                .map_err(|error| link.lost().map_or_else(|| error.to_string(), |lost| lost.to_string()))
        });
        let opened = opened.await.map_err(|_| failed("no answer to Hello in time".into()))?;
        let (answer, reader, writer) = opened.map_err(failed)?;
        let welcome = match answer {
            Peer::Welcome(welcome) => welcome,
            Peer::Refused(refusal) if refusal.code == Code::Superseded => {
                return Err(LinkError::Linked(None));
            }
            Peer::Refused(refusal) => return Err(LinkError::Refused(refusal)),
            _ => return Err(failed("it answered Hello with something else".into())),
        };
        if let Err(refusal) = self.admit(&welcome, &link, true) {
            link.close(Close::Refused, &refusal.message);
            let known = refusal.code == Code::Superseded;
            return Err(if known {
                LinkError::Linked(Some(welcome.node))
            } else {
                LinkError::Refuse(refusal)
            });
        }
        let node = welcome.node.clone();
        self.linked(&welcome, link, true, reader, writer);
        Ok(node)
    }

    fn hello(&self) -> PeerHello {
        let me = self.shared.me();
        PeerHello {
            version: VERSION,
            oldest: OLDEST_VERSION,
            node: me.node,
            cluster: self.shared.cluster.clone(),
            incarnation: me.incarnation,
            peer_address: me.address,
            link_address: self.shared.link_address.clone(),
            phase: *self.shared.phase.borrow(),
        }
    }

    /// Whether a link to this node may be. `Superseded` says that there is a better one already.
    fn admit(&self, hello: &PeerHello, link: &Link, dialled: bool) -> Result<(), Refusal> {
        let shared = &self.shared;
        if hello.version.min(VERSION) < hello.oldest.max(OLDEST_VERSION) {
            let text = format!("this node speaks versions {OLDEST_VERSION} to {VERSION} between nodes");
            return Err(Refusal::new(Code::UnsupportedVersion, text));
        }
        if hello.cluster != shared.cluster {
            let text = format!(
                "this is the cluster {:?}, not {:?}; give both nodes the same --cluster-id",
                shared.cluster, hello.cluster
            );
            return Err(Refusal::new(Code::Forbidden, text));
        }
        let of_node = link.peer_certificates().first().map(|leaf| tls::is_of_node(leaf, hello.node.as_str()));
        if !matches!(of_node, Some(Ok(true))) {
            let text = format!(
                "the certificate is not for the node {:?}: it needs the name {}{}",
                hello.node.as_str(),
                tls::NODE_NAME,
                hello.node
            );
            return Err(Refusal::new(Code::Forbidden, text));
        }
        if self.faults.is_shunned(&hello.node) {
            let text = format!("the last link of this node was closed for what it had sent, within {SHUN:?}");
            return Err(Refusal::new(Code::Busy, text));
        }
        let me = shared.me();
        if hello.node == me.node {
            if hello.incarnation == me.incarnation {
                return Err(Refusal::new(Code::Superseded, "this is the node itself"));
            }
            return Err(duplicate(&hello.node));
        }
        let peers = shared.peers();
        let Some(current) = peers.get(&hello.node) else { return Ok(()) };
        if current.vitals.is_suspect() || current.link.lost().is_some() {
            return Ok(());
        }
        let same_life = hello.incarnation == current.member.incarnation;
        // A node that was held to be gone has a later incarnation in the same life, at the same address.
        if !same_life && hello.peer_address != current.member.address {
            return Err(duplicate(&hello.node));
        }
        // Of two links made at once both sides keep the one that the lower name has dialled.
        let lower_dialled = |dialled: bool| (me.node < hello.node) == dialled;
        if same_life && lower_dialled(dialled) && !lower_dialled(current.dialled) {
            Ok(())
        } else {
            Err(Refusal::new(Code::Superseded, "the two nodes are linked already"))
        }
    }

    /// Takes a link into use.
    fn linked(
        self: &Arc<Self>,
        hello: &PeerHello,
        link: Link,
        dialled: bool,
        reader: FrameReader<Peer>,
        writer: FrameWriter<Peer>,
    ) {
        let shared = &self.shared;
        let id = LinkId(self.last_link.fetch_add(1, Relaxed) + 1);
        let meter = self.carried.meters.meter("node", &link);
        let datagrams = Datagrams::new(link, self.carried.packets.of_link("node"));
        let node = Node::new(id, hello, datagrams, dialled);
        let old = shared.peers().insert(hello.node.clone(), Arc::clone(&node));
        if let Some(old) = old {
            shared.tasks.spawn(async move {
                if !old.vitals.is_suspect() {
                    tokio::time::sleep(REPLACE).await;
                }
                // What is left after a day is nobody's any more.
                if let Err(aborted) = old.finish(Duration::from_secs(24 * 3600)).await {
                    tracing::warn!(peer = %old.member.node, %aborted, "a replaced peer link was cut");
                }
            });
        }
        self.counters.peers.inc();
        shared.members_changed();
        shared.tasks.spawn(node::datagrams(Arc::clone(&node), Arc::clone(shared)));
        shared.tasks.spawn(node::flows(Arc::clone(&node), Arc::clone(&shared.handler)));
        let (links, member) = (Arc::clone(self), node.member.clone());
        let run = ControlLoop::new(Arc::clone(&node), Arc::clone(shared), self.counters.routes.clone());
        shared.tasks.spawn(async move {
            let event = Event::Linked(member.clone());
            if links.shared.membership.send(event).await.is_err() {
                return;
            }
            let ended = run.run(reader, writer).await;
            drop(meter);
            links.counters.peers.dec();
            links.ended(&node, ended);
            links.keep(member);
        });
    }

    /// Takes note of why a link has ended. One that the peer had made no use of is no news: it may make the next at once.
    fn ended(&self, node: &Node, ended: Result<Lost, Fault>) {
        let peer = &node.member.node;
        let why = match &ended {
            // Why this side has closed it is told by whoever did.
            Ok(Lost::Local) => None,
            Ok(lost) => Some(lost.to_string()),
            Err(fault) => Some(fault.to_string()),
        };
        // One of two that were made at once is no loss.
        if let Some(why) = why.filter(|_| node.is_complete() && !self.has_link(peer)) {
            self.shared.handler.happened(What::NodeLinkEnded, format!("node {peer}"), why);
        }
        match ended {
            Err(fault) => self.faults.closed(peer, fault),
            Ok(lost @ Lost::Peer { code, .. })
                if code == Close::Refused as u64 || code == Close::Protocol as u64 =>
            {
                self.faults.warn(peer, lost, "a peer does not want the link");
            }
            Ok(why @ (Lost::Local | Lost::Peer { .. })) if node.is_complete() => {
                tracing::info!(%peer, %why, "a peer link was closed");
            }
            Ok(why @ (Lost::Local | Lost::Peer { .. })) => {
                tracing::debug!(%peer, %why, "a peer link was closed at once");
            }
            Ok(why) => tracing::warn!(%peer, %why, "a peer link is lost"),
        }
    }

    /// Dials a member for a while, until there is a link to it.
    fn keep(self: &Arc<Self>, member: Member) {
        if self.faults.is_shunned(&member.node) {
            return;
        }
        let first = self.dialling.lock().unwrap_or_else(PoisonError::into_inner).insert(member.node.clone());
        if !first {
            return;
        }
        let links = Arc::clone(self);
        self.shared.tasks.spawn(async move {
            let mut wait = Duration::from_millis(50);
            let end = Instant::now() + KEEP;
            while Instant::now() < end && !links.has_link(&member.node) {
                tokio::time::sleep(wait.mul_f64(rand::random())).await;
                wait = (wait * 2).min(RETRY);
                match links.dial_name(&member.address).await {
                    Ok(()) => {}
                    Err(error @ LinkError::Refuse(_)) => links.faults.refused(&member.node, error),
                    Err(error @ LinkError::Refused(_)) => {
                        links.faults.warn(&member.node, error, "a member does not want a link");
                    }
                    Err(error) => {
                        tracing::debug!(peer = %member.node, %error, "a member cannot be linked to");
                    }
                }
            }
            links.dialling.lock().unwrap_or_else(PoisonError::into_inner).remove(&member.node);
        });
    }

    fn has_link(&self, node: &NodeId) -> bool {
        self.shared.peers().get(node).is_some_and(|peer| !peer.vitals.is_suspect())
    }

    async fn dial_name(self: &Arc<Self>, address: &str) -> Result<(), LinkError> {
        let address: HostPort = address.parse().map_err(|error| LinkError::Failed(format!("{error}")))?;
        let addresses =
            address.resolve().await.map_err(|error| LinkError::Failed(telemetry::report(&error)))?;
        let dialled = net::first_of(&addresses, |address| self.dial(address)).await;
        dialled.map(drop).map_err(|error| error.unwrap_or_else(|| LinkError::Failed("no address".into())))
    }
}

fn duplicate(node: &NodeId) -> Refusal {
    let text =
        format!("there is another live node of the name {:?}; give each its own --node-id", node.as_str());
    Refusal::new(Code::Forbidden, text)
}
