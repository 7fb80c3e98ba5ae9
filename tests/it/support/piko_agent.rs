//! Piko's agents as a node meets them: a WebSocket whose binary messages carry a yamux session, in which the node opens a
//! stream for each connection to the service. Written after the specification of hashicorp/yamux, and as strict as that is.

use std::{
    collections::HashMap,
    io::{self, ErrorKind::ConnectionReset},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use adit::drain::Tasks;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest, error::ProtocolError, protocol::CloseFrame},
};

use super::ok;

/// What either side may send on a stream before it is told of more.
const WINDOW: usize = 256 * 1024;

/// Streams that wait to be accepted; those above are reset.
const BACKLOG: usize = 256;

const HEADER: usize = 12;

const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const PING: u8 = 2;
const GO_AWAY: u8 = 3;

const SYN: u16 = 1;
const ACK: u16 = 2;
const FIN: u16 = 4;
const RST: u16 = 8;

/// How long an agent waits before it links again.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How frames are put into messages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Framing {
    /// The header in one and the payload in the next, as Piko does it.
    Apart,
    /// As many in one as there are.
    Packed,
    /// So many bytes in each, wherever a frame begins.
    Pieces(usize),
}

/// What becomes of a stream that the node opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It is joined to the service.
    Serve,
    /// It is reset.
    Refuse,
    /// It is never accepted.
    Ignore,
}

/// An agent of one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) endpoint: String,
    pub(crate) service: SocketAddr,
    pub(crate) tenant: Option<&'static str>,
    pub(crate) token: Option<String>,
    pub(crate) framing: Framing,
    pub(crate) manner: Manner,
    /// With TLS, by these roots.
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

impl Peer {
    pub(crate) fn of(endpoint: &str, service: SocketAddr) -> Self {
        Self {
            endpoint: endpoint.into(),
            service,
            tenant: None,
            token: None,
            framing: Framing::Apart,
            manner: Manner::Serve,
            tls: None,
        }
    }

    /// Links to a node.
    pub(crate) async fn link(&self, node: SocketAddr) -> Result<Session, tungstenite::Error> {
        let mut request = ok(format!("ws://{node}/piko/v1/upstream/{}", self.endpoint).into_client_request());
        if let Some(tenant) = self.tenant {
            request.headers_mut().insert("x-piko-tenant-id", ok(tenant.parse()));
        }
        if let Some(token) = &self.token {
            request.headers_mut().insert("authorization", ok(format!("Bearer {token}").parse()));
        }
        let stream = TcpStream::connect(node).await?;
        let stream: Box<dyn Io> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = ServerName::from(node.ip());
                Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?)
            }
        };
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        Ok(Session::start(self.clone(), socket))
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Io for S {}

type Socket = WebSocketStream<Box<dyn Io>>;

/// How a session has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// By a goodbye.
    Said(Option<CloseFrame>),
    /// By an end of the connection that says nothing.
    Eof,
    /// By a reset of the connection.
    Reset,
    /// Otherwise.
    Broken(String),
}

impl From<tungstenite::Error> for End {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Io(error) if error.kind() == ConnectionReset => Self::Reset,
            tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Eof,
            other => Self::Broken(other.to_string()),
        }
    }
}

/// One connection of an agent. Dropping it ends it, and those to the service with it.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    ended: watch::Receiver<Option<End>>,
    tasks: Tasks,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

#[derive(Debug)]
struct Shared {
    peer: Peer,
    frames: mpsc::Sender<Frame>,
    streams: Mutex<HashMap<u32, Arc<Stream>>>,
    away: AtomicBool,
    stopped: watch::Sender<bool>,
    pings: AtomicUsize,
    pongs: AtomicUsize,
    refused: AtomicUsize,
}

impl Session {
    fn start(peer: Peer, socket: Socket) -> Self {
        let (frames, queue) = mpsc::channel(64);
        let (backlog, mut opened) = mpsc::channel::<Arc<Stream>>(BACKLOG);
        let shared = Arc::new(Shared {
            peer,
            frames,
            streams: Mutex::default(),
            away: AtomicBool::default(),
            stopped: watch::Sender::new(false),
            pings: AtomicUsize::default(),
            pongs: AtomicUsize::default(),
            refused: AtomicUsize::default(),
        });
        let (end, ended) = watch::channel(None);
        let tasks = Tasks::new();
        let driven = Arc::clone(&shared);
        tasks.spawn(async move {
            let how = driven.drive(socket, queue, backlog).await;
            for (_, stream) in driven.streams().drain() {
                stream.flow.send_modify(|flow| flow.broken = true);
            }
            end.send_replace(Some(how));
        });
        let (serving, of_stream) = (Arc::clone(&shared), tasks.clone());
        tasks.spawn(async move {
            while serving.peer.manner == Manner::Serve
                && let Some(stream) = opened.recv().await
            {
                let shared = Arc::clone(&serving);
                of_stream.spawn(async move { shared.join(&stream).await });
            }
            // The backlog must not seem to be gone.
            std::future::pending::<()>().await;
        });
        Self { shared, ended, tasks }
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) -> End {
        let mut ended = self.ended.clone();
        let end = super::soon(ended.wait_for(Option::is_some)).await;
        ok(end).clone().expect("it was waited for")
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Takes no new streams from now on; those that are open go on.
    pub(crate) async fn go_away(&self) {
        self.shared.away.store(true, Relaxed);
        self.shared.send(Frame::new(GO_AWAY, 0, 0, 0)).await;
    }

    /// Asks whether the node is there, by yamux's own ping.
    pub(crate) async fn ping(&self) {
        let before = self.pongs();
        self.shared.send(Frame::new(PING, SYN, 0, 7)).await;
        super::eventually("the ping is answered", async || self.pongs() > before).await;
    }

    fn pongs(&self) -> usize {
        self.shared.pongs.load(Relaxed)
    }

    /// How many pings of WebSocket have come.
    pub(crate) fn pings(&self) -> usize {
        self.shared.pings.load(Relaxed)
    }

    /// How many streams it has refused.
    pub(crate) fn refused(&self) -> usize {
        self.shared.refused.load(Relaxed)
    }

    /// How many streams are open.
    pub(crate) fn streams(&self) -> usize {
        self.shared.streams().len()
    }

    /// Reads and writes nothing from now on, as a process that has been stopped.
    pub(crate) fn stop(&self) {
        self.shared.stopped.send_replace(true);
    }

    /// Sends bytes that may be no frame.
    pub(crate) async fn say(&self, bytes: &'static [u8]) {
        let (header, payload) = bytes.split_first_chunk().expect("there is a header's worth");
        self.shared.send(Frame { header: *header, payload: Bytes::from_static(payload) }).await;
    }
}

/// A frame to be sent.
#[derive(Debug)]
struct Frame {
    header: [u8; HEADER],
    payload: Bytes,
}

impl Frame {
    fn new(kind: u8, flags: u16, stream: u32, length: u32) -> Self {
        let mut header = [0, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut rest = &mut header[2..];
        rest.put_u16(flags);
        rest.put_u32(stream);
        rest.put_u32(length);
        Self { header, payload: Bytes::new() }
    }

    fn data(stream: u32, payload: Bytes) -> Self {
        Self { payload: payload.clone(), ..Self::new(DATA, 0, stream, ok(payload.len().try_into())) }
    }

    fn bytes(&self) -> Bytes {
        [&self.header[..], &self.payload].concat().into()
    }
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, HashMap<u32, Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, frame: Frame) {
        // Once the session has ended there is nobody to send to.
        drop(self.frames.send(frame).await);
    }

    async fn drive(
        &self,
        socket: Socket,
        mut queue: mpsc::Receiver<Frame>,
        backlog: mpsc::Sender<Arc<Stream>>,
    ) -> End {
        let (mut writer, mut reader) = socket.split();
        let transmit = async {
            while let Some(frame) = queue.recv().await {
                self.until_stopped().await;
                for message in messages(self.peer.framing, frame, &mut queue) {
                    writer.feed(Message::Binary(message)).await?;
                }
                writer.flush().await?;
            }
            Ok::<_, tungstenite::Error>(None)
        };
        let receive = async {
            let mut buffer = BytesMut::new();
            while let Some(message) = reader.next().await {
                self.until_stopped().await;
                match message? {
                    Message::Binary(bytes) => buffer.extend_from_slice(&bytes),
                    Message::Ping(_) => drop(self.pings.fetch_add(1, Relaxed)),
                    Message::Close(frame) => return Ok(frame),
                    Message::Pong(_) => {}
                    other => panic!("a node sends no {other:?}"),
                }
                self.take_in(&mut buffer, &backlog).await;
            }
            Ok(None)
        };
        let ended = tokio::select! {
            ended = transmit => ended,
            ended = receive => ended,
        };
        ended.map_or_else(End::from, End::Said)
    }

    /// Stands still once it has been stopped.
    async fn until_stopped(&self) {
        if *self.stopped.borrow() {
            std::future::pending::<()>().await;
        }
    }

    /// Takes in the frames that are whole.
    async fn take_in(&self, buffer: &mut BytesMut, backlog: &mpsc::Sender<Arc<Stream>>) {
        while let Some(mut header) = buffer.get(..HEADER) {
            assert_eq!(header.get_u8(), 0, "the version");
            let (kind, flags) = (header.get_u8(), header.get_u16());
            let (id, length) = (header.get_u32(), header.get_u32());
            let size = if kind == DATA { length as usize } else { 0 };
            if buffer.len() < HEADER + size {
                return;
            }
            buffer.advance(HEADER);
            let payload = buffer.split_to(size).freeze();
            match kind {
                PING if flags == SYN => self.send(Frame::new(PING, ACK, 0, length)).await,
                PING => drop(self.pongs.fetch_add(1, Relaxed)),
                DATA | WINDOW_UPDATE => {
                    if flags & SYN != 0 && !self.open(id, backlog) {
                        self.refused.fetch_add(1, Relaxed);
                        self.send(Frame::new(WINDOW_UPDATE, RST, id, 0)).await;
                    }
                    let stream = self.streams().get(&id).cloned();
                    if let Some(stream) = stream {
                        let more = if kind == DATA { 0 } else { length as usize };
                        stream.heard(flags, more, &payload);
                    }
                }
                other => panic!("a node sends no frame of type {other}"),
            }
        }
    }

    /// Takes note of a stream that the node opens, unless it is refused.
    fn open(&self, id: u32, backlog: &mpsc::Sender<Arc<Stream>>) -> bool {
        assert!(id > 0 && id.is_multiple_of(2), "{id} is no stream of a server");
        if self.away.load(Relaxed) || self.peer.manner == Manner::Refuse {
            return false;
        }
        let stream = Arc::new(Stream { id, flow: watch::Sender::default() });
        let taken = backlog.try_send(Arc::clone(&stream)).is_ok();
        if taken {
            assert!(self.streams().insert(id, stream).is_none(), "{id} is open already");
        }
        taken
    }

    /// Joins a stream to a connection of its own to the service.
    async fn join(&self, stream: &Stream) {
        self.send(Frame::new(WINDOW_UPDATE, ACK, stream.id, 0)).await;
        let Ok(service) = TcpStream::connect(self.peer.service).await else {
            // Streams of Go's have no reset.
            self.send(Frame::new(WINDOW_UPDATE, FIN, stream.id, 0)).await;
            return drop(self.streams().remove(&stream.id));
        };
        let mut service = Service { stream: service, ended: false };
        let (mut from, mut to) = service.stream.split();
        let down = async {
            let mut consumed = 0;
            loop {
                let bytes = stream.read().await?;
                if bytes.is_empty() {
                    return to.shutdown().await;
                }
                to.write_all(&bytes).await?;
                consumed += bytes.len();
                if consumed >= WINDOW / 2 {
                    let more = std::mem::take(&mut consumed);
                    stream.flow.send_modify(|flow| flow.window += more);
                    self.send(Frame::new(WINDOW_UPDATE, 0, stream.id, ok(more.try_into()))).await;
                }
            }
        };
        let up = async {
            let mut chunk = vec![0; 32 * 1024];
            loop {
                let len = from.read(&mut chunk).await?;
                if len == 0 {
                    self.send(Frame::new(WINDOW_UPDATE, FIN, stream.id, 0)).await;
                    return Ok(());
                }
                let mut bytes = Bytes::copy_from_slice(&chunk[..len]);
                while !bytes.is_empty() {
                    let room = stream.room().await?.min(bytes.len());
                    stream.flow.send_modify(|flow| flow.credit -= room);
                    self.send(Frame::data(stream.id, bytes.split_to(room))).await;
                }
            }
        };
        // A node that resets a stream may do so when the service has sent its end already.
        let broken = async { stream.broken().await };
        let joined = tokio::select! {
            joined = async { tokio::try_join!(down, up) } => joined.map(drop),
            () = broken => Err(ConnectionReset.into()),
        };
        service.ended = joined.is_ok();
        if joined.is_err() && !stream.flow.borrow().broken {
            self.send(Frame::new(WINDOW_UPDATE, RST, stream.id, 0)).await;
        }
        self.streams().remove(&stream.id);
    }
}

/// A connection to the service, which is reset unless it has come to its end.
struct Service {
    stream: TcpStream,
    ended: bool,
}

impl Drop for Service {
    fn drop(&mut self) {
        if !self.ended {
            ok(self.stream.set_zero_linger());
        }
    }
}

/// A frame, and where they are packed those behind it, as messages.
fn messages(framing: Framing, frame: Frame, queue: &mut mpsc::Receiver<Frame>) -> Vec<Bytes> {
    match framing {
        Framing::Apart if frame.payload.is_empty() => vec![frame.bytes()],
        Framing::Apart => vec![Bytes::copy_from_slice(&frame.header), frame.payload],
        Framing::Packed => {
            let mut message = BytesMut::from(&frame.bytes()[..]);
            while message.len() < 512 * 1024
                && let Ok(next) = queue.try_recv()
            {
                message.extend_from_slice(&next.bytes());
            }
            vec![message.freeze()]
        }
        Framing::Pieces(size) => frame.bytes().chunks(size).map(Bytes::copy_from_slice).collect(),
    }
}

/// A stream that the node has opened.
#[derive(Debug)]
struct Stream {
    id: u32,
    flow: watch::Sender<Flow>,
}

#[derive(Debug)]
struct Flow {
    incoming: BytesMut,
    /// Nothing follows.
    ended: bool,
    /// It was reset, or the session is gone.
    broken: bool,
    /// What the node may send yet, in bytes.
    window: usize,
    /// What it takes yet, in bytes.
    credit: usize,
}

impl Default for Flow {
    fn default() -> Self {
        Self { incoming: BytesMut::new(), ended: false, broken: false, window: WINDOW, credit: WINDOW }
    }
}

impl Stream {
    /// Takes in a frame. As in Go, its end comes before its bytes.
    fn heard(&self, flags: u16, more: usize, payload: &[u8]) {
        self.flow.send_modify(|flow| {
            flow.ended |= flags & FIN != 0;
            flow.broken |= flags & RST != 0;
            flow.credit += more;
            flow.window = flow.window.checked_sub(payload.len()).expect("the node keeps to the window");
            if !flow.ended {
                flow.incoming.extend_from_slice(payload);
            }
        });
    }

    /// What has come; nothing at the end.
    async fn read(&self) -> io::Result<Bytes> {
        self.until(|flow| !flow.incoming.is_empty() || flow.ended).await?;
        let mut read = Bytes::new();
        self.flow.send_modify(|flow| read = flow.incoming.split().freeze());
        Ok(read)
    }

    /// How much the node takes, once it takes anything.
    async fn room(&self) -> io::Result<usize> {
        self.until(|flow| flow.credit > 0).await?;
        Ok(self.flow.borrow().credit)
    }

    async fn until(&self, is_true: impl Fn(&Flow) -> bool) -> io::Result<()> {
        let mut flow = self.flow.subscribe();
        let found = ok(flow.wait_for(|flow| flow.broken || is_true(flow)).await);
        if found.broken { Err(ConnectionReset.into()) } else { Ok(()) }
    }

    /// Waits until it is reset.
    async fn broken(&self) {
        drop(self.until(|_| false).await);
    }
}

/// An agent that comes back as Piko's of version 0.9 do: when its connection was reset, or could not be made, and only then.
#[derive(Debug)]
pub(crate) struct Agent {
    ends: watch::Receiver<Vec<End>>,
    tasks: Tasks,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

impl Agent {
    /// Links to one of these nodes after the other, as behind a balancer.
    pub(crate) fn start(peer: Peer, nodes: Vec<SocketAddr>) -> Self {
        let (end, ends) = watch::channel(Vec::new());
        let tasks = Tasks::new();
        tasks.spawn(async move {
            for node in nodes.iter().copied().cycle() {
                if let Ok(session) = peer.link(node).await {
                    let mut ended = session.ended.clone();
                    let how = ok(ended.wait_for(Option::is_some).await).clone().expect("it was waited for");
                    end.send_modify(|ends| ends.push(how.clone()));
                    if how != End::Reset {
                        return;
                    }
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        });
        Self { ends, tasks }
    }

    /// How its connections so far have ended.
    pub(crate) fn ends(&self) -> Vec<End> {
        self.ends.borrow().clone()
    }
}
