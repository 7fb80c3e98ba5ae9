//! A peer link spoken by hand, frame by frame: another node that does what a real one never would.

use adit::{
    protocol::{
        ALPN_PEER, AgentId, EndpointId, Kind, ListenOptions, OLDEST_VERSION, Peer, PeerHello, PeerRoute,
        Phase, RouteUpdate, TenantId, VERSION,
    },
    tls::{self, Identity, NODE_NAME, Trust},
    transport::{
        FrameError, FrameReader, FrameWriter, Link, Settings,
        quic::{DialError, Dialer},
    },
};
use tokio::io::AsyncWriteExt;

use super::{Fabric, fabric::identity, ok, soon};

/// A link to a node's peer port, and its control stream.
#[derive(Debug)]
pub(crate) struct RawPeer {
    pub(crate) link: Link,
    pub(crate) reader: FrameReader<Peer>,
    pub(crate) writer: FrameWriter<Peer>,
    _dialer: Dialer,
}

/// What a node of the cluster says first. Nobody is at its addresses.
pub(crate) fn hello(node: &str) -> PeerHello {
    PeerHello {
        version: VERSION,
        oldest: OLDEST_VERSION,
        node: ok(node.parse()),
        cluster: "test".into(),
        incarnation: 1,
        peer_address: "127.0.0.1:1".into(),
        link_address: "127.0.0.1:1".into(),
        phase: Phase::Ready,
    }
}

/// A route of an endpoint and an agent with these numbers.
pub(crate) fn route(endpoint: usize, agent: usize) -> PeerRoute {
    PeerRoute {
        tenant: TenantId::default(),
        endpoint: ok(EndpointId::new(&format!("endpoint-{endpoint}"))),
        agent: AgentId::from_bits(agent as u128),
        kind: Kind::Http,
        options: ListenOptions::default(),
    }
}

/// Makes a link to a node's peer port, whoever answers there, with these certificates and this protocol.
pub(crate) async fn dial(
    node: &Fabric,
    identity: Option<&Identity>,
    alpn: &[u8],
) -> Result<(Dialer, Link), DialError> {
    let tls = ok(tls::client_config(&Trust::Insecure, identity, &[alpn]));
    let dialer = ok(Dialer::new(tls, &Settings::default()));
    let link = soon(dialer.dial(node.addresses.peer.expect("it has a peer port"), "adit-peer")).await?;
    Ok((dialer, link))
}

impl RawPeer {
    /// Opens a link as the node of this name, and its control stream; nothing is said yet.
    pub(crate) async fn open(node: &Fabric, name: &str) -> Self {
        let identity = identity(&node.authority, &[&format!("{NODE_NAME}{name}")]);
        let (dialer, link) = ok(dial(node, Some(&identity), ALPN_PEER).await);
        let stream = ok(link.open(super::SOON).await);
        Self {
            link,
            reader: FrameReader::new(stream.recv),
            writer: FrameWriter::new(stream.send),
            _dialer: dialer,
        }
    }

    /// Opens a link and has it welcomed.
    pub(crate) async fn welcomed(node: &Fabric, name: &str) -> Self {
        let mut raw = Self::open(node, name).await;
        raw.say(Peer::Hello(hello(name))).await;
        match raw.hear().await {
            Ok(Peer::Welcome(_)) => raw,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn say(&mut self, frame: Peer) {
        ok(self.writer.send(&frame).await);
    }

    /// Writes bytes that may be no frame on the control stream.
    pub(crate) async fn say_raw(&mut self, bytes: &[u8]) {
        ok(self.writer.get_mut().write_all(bytes).await);
    }

    /// The next frame.
    pub(crate) async fn hear(&mut self) -> Result<Peer, FrameError> {
        soon(self.reader.next()).await
    }

    /// The first of the next frames that is what is looked for. A node also tells its routes, phase and load.
    pub(crate) async fn hear_of<T>(&mut self, is: impl Fn(&Peer) -> Option<T>) -> T {
        loop {
            let frame = ok(self.hear().await);
            if let Some(found) = is(&frame) {
                return found;
            }
        }
    }

    /// Tells routes as one snapshot, until all have been told or the link is closed.
    pub(crate) async fn announce(&mut self, routes: impl Iterator<Item = PeerRoute>) {
        let mut routes = routes.peekable();
        let mut snapshot = true;
        while self.link.lost().is_none() && routes.peek().is_some() {
            let added: Vec<_> = routes.by_ref().take(RouteUpdate::MAX_ROUTES).collect();
            let more = routes.peek().is_some();
            let update = RouteUpdate { snapshot, more, sequence: 1, added, removed: Vec::new() };
            // The link may be closed while this is written.
            drop(self.writer.send(&Peer::Routes(update)).await);
            snapshot = false;
        }
    }
}
