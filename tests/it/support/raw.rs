//! A link spoken by hand, frame by frame: an agent or forwarder that does what the SDK never would.

use adit::{
    protocol::{
        AgentId, Control, EndpointId, Hello, Kind, Listen, ListenOptions, OLDEST_VERSION, Role, VERSION,
    },
    tls::{self, Trust},
    transport::{ControlReader, ControlWriter, FrameError, Link, Settings, quic::Dialer},
};

use tokio::io::AsyncWriteExt;

use super::{Fabric, fabric::LINK, ok, soon};

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

impl Raw {
    /// Opens a link and its control stream; nothing is said yet.
    pub(crate) async fn open(fabric: &Fabric) -> Self {
        let trust = Trust::Roots(vec![fabric.authority.certificate().clone()]);
        let dialer = ok(Dialer::new(ok(tls::client_config(&trust, None, &[LINK])), &Settings::default()));
        let link = ok(soon(dialer.dial(fabric.addresses.link, "127.0.0.1")).await);
        let stream = ok(link.open(super::SOON).await);
        Self {
            link,
            reader: ControlReader::new(stream.recv),
            writer: ControlWriter::new(stream.send),
            _dialer: dialer,
        }
    }

    /// Opens a link and has it welcomed, and its listens acknowledged.
    pub(crate) async fn welcomed(fabric: &Fabric, hello: Hello) -> Self {
        let mut raw = Self::open(fabric).await;
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

    /// The next frame.
    pub(crate) async fn hear(&mut self) -> Result<Control, FrameError> {
        soon(self.reader.next()).await
    }
}
