//! A link spoken by hand, frame by frame: an agent or forwarder that does what the SDK never would.

use std::net::SocketAddr;

use adit::{
    protocol::{
        AgentId, Control, EndpointId, Flow, Hello, Hop, Kind, Listen, ListenOptions, NodeAddress,
        OLDEST_VERSION, Open, Role, VERSION,
    },
    tls::{self, Trust},
    transport::{self, ControlReader, ControlWriter, FrameError, Link, Settings, Stream, quic::Dialer},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Fabric, fabric::LINK, ok, service::OK, soon};

/// A link and its control stream.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) link: Link,
    pub(crate) reader: ControlReader,
    pub(crate) writer: ControlWriter,
    _dialer: Dialer,
}

pub(crate) fn hello(role: Role, agent: u128, endpoints: &[&str]) -> Hello {
    Hello {
        version: VERSION,
        oldest: OLDEST_VERSION,
        role,
        agent: AgentId::from_bits(agent),
        name: None,
        tenant: None,
        token: None,
        listens: endpoints.iter().zip(1..).map(|(name, id)| listen(id, name)).collect(),
        avoid: Vec::new(),
    }
}

pub(crate) fn listen(id: u64, endpoint: &str) -> Listen {
    Listen { id, endpoint: ok(EndpointId::new(endpoint)), kind: Kind::Tcp, options: ListenOptions::default() }
}

/// What a forwarder asks for first on a flow.
pub(crate) fn opening(kind: Kind, endpoint: &str) -> Open {
    Open {
        endpoint: ok(EndpointId::new(endpoint)),
        tenant: None,
        kind,
        hop: Hop::First,
        agent: None,
        client: None,
        server: None,
        trace: None,
    }
}

impl Raw {
    /// Opens a link and its control stream; nothing is said yet.
    pub(crate) async fn open(fabric: &Fabric) -> Self {
        Self::open_at(fabric, fabric.addresses.link).await
    }

    /// The same through something in between.
    async fn open_at(fabric: &Fabric, address: SocketAddr) -> Self {
        let trust = Trust::Roots(vec![fabric.authority.certificate().clone()]);
        let dialer = ok(Dialer::new(ok(tls::client_config(&trust, None, &[LINK])), &Settings::default()));
        let link = ok(soon(dialer.dial(address, "127.0.0.1")).await);
        let stream = ok(link.open(super::SOON).await);
        Self {
            link,
            reader: ControlReader::new(stream.recv),
            writer: ControlWriter::new(stream.send),
            _dialer: dialer,
        }
    }

    /// Where a node says that all nodes are.
    pub(crate) async fn told_nodes(fabric: &Fabric) -> Vec<NodeAddress> {
        let mut raw = Self::open(fabric).await;
        raw.say(Control::Hello(hello(Role::Forwarder, 1, &[]))).await;
        match raw.hear().await {
            Ok(Control::Welcome(welcome)) => welcome.nodes,
            other => panic!("{other:?}"),
        }
    }

    /// Opens a link and has it welcomed, and its listens acknowledged.
    pub(crate) async fn welcomed(fabric: &Fabric, hello: Hello) -> Self {
        Self::welcomed_at(fabric, fabric.addresses.link, hello).await
    }

    /// The same through something in between.
    pub(crate) async fn welcomed_at(fabric: &Fabric, address: SocketAddr, hello: Hello) -> Self {
        let mut raw = Self::open_at(fabric, address).await;
        let listens = hello.listens.len();
        raw.say(Control::Hello(hello)).await;
        assert!(matches!(raw.hear().await, Ok(Control::Welcome(_))));
        for _ in 0..listens {
            assert!(matches!(raw.hear().await, Ok(Control::Listening(_))));
        }
        raw
    }

    pub(crate) async fn say(&mut self, frame: Control) {
        ok(self.writer.send(&frame).await);
    }

    /// Writes bytes that may be no frame on the control stream.
    pub(crate) async fn say_raw(&mut self, bytes: &[u8]) {
        ok(self.writer.get_mut().write_all(bytes).await);
    }

    /// Opens a link whose control stream carries these bytes and nothing else.
    pub(crate) async fn garbage(fabric: &Fabric, bytes: &[u8]) -> Link {
        let mut raw = Self::open(fabric).await;
        raw.say_raw(bytes).await;
        let Self { link, reader, writer, _dialer } = raw;
        // Streams that are dropped are reset, and the bytes with them.
        std::mem::forget((reader, writer, _dialer));
        link
    }

    /// The next flow that the node opens, joined, with the first bytes of its request taken.
    pub(crate) async fn asked(&self) -> Stream {
        let mut stream = ok(soon(self.link.accept()).await);
        assert!(matches!(soon(transport::read_flow(&mut stream.recv)).await, Ok(Flow::Open(_))));
        ok(transport::write_flow(&mut stream, &Flow::Opened).await);
        assert!(ok(soon(stream.recv.read(&mut vec![0; 4096])).await) > 0);
        stream
    }

    /// The same, answered.
    pub(crate) async fn answered(&self) -> Stream {
        let mut stream = self.asked().await;
        ok(stream.send.write_all(OK).await);
        stream
    }

    /// The next frame.
    pub(crate) async fn hear(&mut self) -> Result<Control, FrameError> {
        soon(self.reader.next()).await
    }
}
