//! Moves a link's messages: the one task that reads and writes its WebSocket.
//!
//! Reading and writing go on side by side, so that two peers that both have much to say never wait for each other. Both
//! sides ping when nothing has come for a while: balancers see no idle connection, and a peer that is gone is noticed.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    task::coop,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{CLOSE_CODES, Common, yamux};
#[cfg(feature = "server")]
use crate::{net::Connection, splice};
use crate::{
    net::websocket::Violation,
    transport::{Lost, Settings},
};

/// How long the round-trip time of a busy link is believed.
const MEASURED: Duration = Duration::from_secs(30);

/// How long a peer has to answer a goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// What is read at most behind a violation, in bytes, so that the goodbye is not lost with a reset of the connection.
const LINGER: u64 = 4 << 20;

/// The longest reason in a goodbye, in bytes (RFC 6455 §5.5 leaves 125 with the code).
const REASON: usize = 123;

/// Drives a link. Dropping it breaks the link.
#[derive(Debug)]
pub struct Driver<S> {
    socket: WebSocketStream<S>,
    shared: Shared,
}

#[derive(Debug)]
struct Shared {
    session: Arc<Mutex<yamux::Session>>,
    common: Arc<Common>,
    keep_alive: Duration,
    idle_timeout: Duration,
    began: Instant,
    /// When something came last, in milliseconds since it began.
    heard: AtomicU64,
}

/// However its driver ends, the link is over.
impl Drop for Shared {
    fn drop(&mut self) {
        self.common.lose(Lost::Other("its task was dropped".into()));
        yamux::lock(&self.session).end();
    }
}

/// Why a link is over.
#[derive(Debug)]
enum End {
    /// This side has closed it.
    Closed,
    /// The peer has said goodbye.
    Peer(Option<CloseFrame>),
    /// The peer does what it must not.
    Violation(Violation),
    /// The peer's session is none.
    Session(yamux::Violation),
    /// The connection broke.
    Broken(tungstenite::Error),
    /// Nothing came, or nothing could be sent, for too long.
    Idle,
}

impl End {
    fn violation(&self) -> Option<&'static str> {
        match self {
            Self::Violation(violation) => Some(violation.name()),
            Self::Session(_) => Some("multiplexing"),
            Self::Closed | Self::Peer(_) | Self::Broken(_) | Self::Idle => None,
        }
    }
}

type Reader<S> = SplitStream<WebSocketStream<S>>;
type Writer<S> = SplitSink<WebSocketStream<S>, Message>;

impl<S> Driver<S> {
    pub(super) fn new(
        socket: WebSocketStream<S>,
        session: Arc<Mutex<yamux::Session>>,
        common: Arc<Common>,
        settings: &Settings,
    ) -> Self {
        let shared = Shared {
            session,
            common,
            keep_alive: settings.keep_alive,
            idle_timeout: settings.idle_timeout,
            began: Instant::now(),
            heard: AtomicU64::new(0),
        };
        Self { socket, shared }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Moves messages until the link ends, and takes leave. What the peer was sent away for, if it was.
    pub async fn run(self) -> Option<&'static str> {
        let Self { socket, shared } = self;
        let (mut socket, end) = shared.run(socket).await?;
        shared.take_leave(&mut socket, &end).await;
        end.violation()
    }
}

#[cfg(feature = "server")]
impl Driver<Connection> {
    /// The same for a peer that comes back only when its connection breaks: that is reset in the place of a goodbye, once the
    /// peer has all that was sent. One that has taken its leave is not to come back.
    pub async fn run_abruptly(self) -> Option<&'static str> {
        let Self { socket, shared } = self;
        let (mut socket, end) = shared.run(socket).await?;
        let has_left = yamux::lock(&shared.session).has_peer_left();
        if matches!(end, End::Closed) && !has_left {
            // A peer that is gone needs no last word.
            drop(timeout(GOODBYE, has_all(&mut socket)).await);
            splice::Side::reset(socket.into_inner(), false);
        } else {
            shared.take_leave(&mut socket, &end).await;
        }
        end.violation()
    }
}

impl Shared {
    async fn run<S>(&self, socket: WebSocketStream<S>) -> Option<(WebSocketStream<S>, End)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut writer, mut reader) = socket.split();
        let end = tokio::select! {
            end = self.read(&mut reader) => end,
            end = self.write(&mut writer) => end,
            () = self.silence() => End::Idle,
        };
        self.common.lose(match &end {
            End::Closed => Lost::Local,
            End::Peer(frame) => lost(frame.as_ref()),
            End::Violation(violation) => {
                Lost::Other(format!("the peer broke WebSocket: {}", violation.name()))
            }
            End::Session(violation) => Lost::Other(violation.to_string()),
            End::Broken(error) => Lost::Other(error.to_string()),
            End::Idle => Lost::Idle,
        });
        yamux::lock(&self.session).end();
        // They are halves of one socket, so this does not fail.
        reader.reunite(writer).ok().map(|socket| (socket, end))
    }

    async fn read<S>(&self, reader: &mut Reader<S>) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let counts = &self.common.counts;
        while let Some(message) = reader.next().await {
            let message = match message {
                Ok(message) => message,
                Err(error) => return Violation::of(&error).map_or(End::Broken(error), End::Violation),
            };
            self.heard.store(self.now(), Relaxed);
            counts.received.fetch_add(1, Relaxed);
            counts.received_bytes.fetch_add(message.len() as u64, Relaxed);
            match message {
                Message::Binary(bytes) => {
                    let received = yamux::lock(&self.session).receive(bytes, Instant::now());
                    if let Err(violation) = received {
                        return End::Session(violation);
                    }
                }
                Message::Pong(sent) => self.measure(&sent),
                Message::Text(_) => return End::Violation(Violation::Text),
                Message::Close(frame) => return End::Peer(frame),
                // It has been answered.
                Message::Ping(_) | Message::Frame(_) => {}
            }
            // A peer that never stops sending must not have a thread for itself.
            coop::consume_budget().await;
        }
        End::Peer(None)
    }

    async fn write<S>(&self, writer: &mut Writer<S>) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let counts = &self.common.counts;
        let mut measured = None;
        loop {
            let message = tokio::select! {
                output = poll_fn(|cx| yamux::lock(&self.session).poll_output(cx)) => match output {
                    yamux::Output::Message(bytes) => Message::Binary(bytes),
                    yamux::Output::Closed => return End::Closed,
                },
                () = self.ping_due(measured) => {
                    measured = Some(Instant::now());
                    Message::Ping(self.micros().to_be_bytes().to_vec().into())
                }
            };
            counts.sent.fetch_add(1, Relaxed);
            counts.sent_bytes.fetch_add(message.len() as u64, Relaxed);
            match timeout(self.idle_timeout, writer.send(message)).await {
                Ok(Ok(())) => yamux::lock(&self.session).flushed(),
                Ok(Err(error)) => return End::Broken(error),
                Err(_) => return End::Idle,
            }
        }
    }

    /// Waits until the next ping is due: at once at first, when nothing has come, or when the last is long ago.
    async fn ping_due(&self, last: Option<Instant>) {
        let Some(last) = last else { return };
        loop {
            let silent = self.heard().max(last) + self.keep_alive;
            let due = silent.min(last + MEASURED);
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    /// Waits until nothing has come for the idle time-out.
    async fn silence(&self) {
        loop {
            let end = self.heard() + self.idle_timeout;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }

    fn heard(&self) -> Instant {
        self.began + Duration::from_millis(self.heard.load(Relaxed))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Takes the round-trip time from the answer to a ping.
    fn measure(&self, sent: &[u8]) {
        let Ok(sent) = sent.try_into().map(u64::from_be_bytes) else { return };
        if let Some(rtt) = self.micros().checked_sub(sent) {
            self.common.counts.rtt_us.store(rtt, Relaxed);
            yamux::lock(&self.session).set_rtt(Duration::from_micros(rtt));
        }
    }

    async fn take_leave<S>(&self, socket: &mut WebSocketStream<S>, end: &End)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let farewell = match end {
            // A peer that is gone needs no last word.
            End::Broken(_) | End::Idle => return,
            // The answer to it waits to be sent.
            End::Peer(_) => None,
            End::Closed => Some(self.goodbye()),
            End::Violation(violation) => Some(violation.close()),
            End::Session(violation) => {
                let reason = violation.to_string();
                Some(CloseFrame { code: CloseCode::Protocol, reason: reason.into() })
            }
        };
        drop(timeout(GOODBYE, take_leave(socket, farewell, matches!(end, End::Closed))).await);
    }

    fn goodbye(&self) -> CloseFrame {
        let (code, mut reason) = self.common.goodbye().take().unwrap_or_default();
        while reason.len() > REASON {
            reason.pop();
        }
        let code = CLOSE_CODES.saturating_add(code as u16);
        CloseFrame { code: code.into(), reason: reason.into() }
    }
}

/// What a peer's goodbye means.
fn lost(frame: Option<&CloseFrame>) -> Lost {
    let Some(frame) = frame else { return Lost::Other("the connection was closed without a goodbye".into()) };
    let code = u16::from(frame.code);
    Lost::Peer {
        code: code.checked_sub(CLOSE_CODES).unwrap_or(code).into(),
        reason: frame.reason.as_str().to_owned(),
    }
}

/// Says goodbye. Where it is this side that ends the link, the peer reads on until it has heard so: what was sent before
/// arrives.
async fn take_leave<S>(
    socket: &mut WebSocketStream<S>,
    farewell: Option<CloseFrame>,
    heard: bool,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let said = match farewell {
        Some(_) => socket.close(farewell).await,
        None => socket.flush().await,
    };
    if said.is_err() {
        return Ok(());
    }
    if heard {
        while let Some(Ok(_)) = socket.next().await {}
        return Ok(());
    }
    let connection = socket.get_mut();
    connection.shutdown().await?;
    tokio::io::copy(&mut connection.take(LINGER), &mut tokio::io::sink()).await?;
    Ok(())
}

/// Waits until the peer has read all that was sent.
#[cfg(feature = "server")]
async fn has_all<S>(socket: &mut WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let question = tungstenite::Bytes::from_static(b"all?");
    if socket.send(Message::Ping(question.clone())).await.is_err() {
        return;
    }
    while let Some(Ok(message)) = socket.next().await {
        if message == Message::Pong(question.clone()) {
            return;
        }
    }
}
