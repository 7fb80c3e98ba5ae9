//! A flow that a client has in binary messages of a WebSocket (RFC 6455), joined as honestly as WebSocket permits.
//!
//! The service's end of stream becomes a closing handshake (1000); that of the client (1000, 1001, or the end of its
//! connection between two messages, which is all that Piko's clients do) an end of stream for the service, whose remaining
//! bytes the client still gets. All else is a reset. [`splice`] joins; this is the side that speaks WebSocket, with the pings
//! that keep it alive. Messages are read by the library and written here: it would answer a closing frame at once, and take
//! nothing of the service's from then on.
//!
//! Memory is bounded by one message of the client's and one of the service's, and each waits for the other side to take it.

use std::{
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf},
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        error::ProtocolError,
        protocol::{
            CloseFrame, Role,
            frame::{
                Frame, FrameHeader,
                coding::{CloseCode, Data, OpCode},
            },
        },
    },
};

use super::{
    boundary::Boundary,
    clocks::{Clocks, GOODBYE, Next},
};
use crate::{
    auth::Lapsed,
    net::websocket::{Violation, config},
    splice::{Broken, Counts, Side, splice},
};

/// The most bytes of the service in one message; as many are read at once.
const MAX_PAYLOAD: usize = 64 * 1024;

/// What carries a WebSocket.
pub(super) trait Connection: AsyncRead + AsyncWrite + Side + Unpin {}

impl<S: AsyncRead + AsyncWrite + Side + Unpin> Connection for S {}

/// How a flow ended that did not come to its end in both directions.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the client broke the protocol: {0:?}")]
    Refused(Violation),
    #[error("the client answers no ping")]
    Silent,
    #[error("the client's connection broke")]
    Lost(#[source] io::Error),
    #[error(transparent)]
    Lapsed(Lapsed),
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl Ended {
    /// What it is counted as, if it is the client's doing.
    pub(super) fn code(&self) -> Option<&'static str> {
        match self {
            Self::Refused(Violation::Text) => Some("websocket_text"),
            Self::Refused(Violation::Oversized) => Some("websocket_oversized"),
            Self::Refused(Violation::Unmasked) => Some("websocket_unmasked"),
            Self::Refused(Violation::Protocol) => Some("websocket_protocol"),
            Self::Silent => Some("websocket_silent"),
            // It is counted where it is told.
            Self::Lapsed(_) => None,
            Self::Lost(_) | Self::Broken(_) => None,
        }
    }
}

/// Carries a flow until both directions have ended or one has broken, or until its client may not have it any more, which is
/// what `over` waits for. `read` is what has been read of the connection already. Dropping the future resets both.
pub(super) async fn carry<S: Connection>(
    connection: S,
    read: Bytes,
    service: impl Side,
    over: impl Future<Output = Lapsed>,
    counts: &Counts,
) -> Result<(), Ended> {
    let (from, to) = tokio::io::split(connection);
    let line = Arc::new(Line(Mutex::new(State::new(to))));
    let mut from = Incoming { from: Some(from), line: Arc::clone(&line), boundary: Boundary::default() };
    from.boundary.see(&read);
    let socket = WebSocketStream::from_partially_read(from, read.into(), Role::Server, Some(config())).await;
    let messages = Messages { socket, line: Arc::clone(&line), rest: Bytes::new(), ended: false };
    let over = async {
        let lapsed = over.await;
        line.state().answer = Some(goodbye(lapsed));
        Ended::Lapsed(lapsed)
    };
    let ended = tokio::select! {
        biased;
        ended = splice(WebSocket(messages), service, counts) => ended.map_err(Ended::from),
        lost = keep_alive(&line) => return Err(lost),
        lapsed = over => Err(lapsed),
    };
    let refused = line.state().refused;
    // Whoever does not take the goodbye in time goes without.
    drop(timeout(GOODBYE, farewell(&line)).await);
    match refused {
        Some(violation) => Err(Ended::Refused(violation)),
        None => ended,
    }
}

/// What a client is told whose credentials have ended: it broke no rule of WebSocket, but one of the edge's (1008).
fn goodbye(lapsed: Lapsed) -> CloseFrame {
    let reason = match lapsed {
        Lapsed::Expired => "expired",
        Lapsed::Revoked => "revoked",
    };
    CloseFrame { code: CloseCode::Policy, reason: reason.into() }
}

/// What both directions share: the way to the client, and the clocks.
struct Line<S>(Mutex<State<S>>);

struct State<S> {
    /// Taken by a reset.
    to: Option<WriteHalf<S>>,
    /// Where the client's bytes come from, once nobody listens to them.
    from: Option<ReadHalf<S>>,
    /// Frames on their way, and how much of them has been taken.
    frames: Vec<u8>,
    taken: usize,
    flushed: bool,
    /// The answer to the last ping: one is enough (RFC 6455 §5.5.3).
    pong: Option<Bytes>,
    closed: bool,
    refused: Option<Violation>,
    /// What is answered to a client that gives up (RFC 6455 §5.5.1), or said to one that may not go on.
    answer: Option<CloseFrame>,
    clocks: Clocks,
}

impl<S> Line<S> {
    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Connection> State<S> {
    fn new(to: WriteHalf<S>) -> Self {
        Self {
            to: Some(to),
            from: None,
            frames: Vec::new(),
            taken: 0,
            flushed: true,
            pong: None,
            closed: false,
            refused: None,
            answer: None,
            clocks: Clocks::new(Instant::now()),
        }
    }

    fn control(&mut self, frame: Frame) {
        // Writing to memory does not fail.
        drop(frame.format(&mut self.frames));
    }

    fn close(&mut self, frame: CloseFrame) {
        if !self.closed {
            self.control(Frame::close(Some(frame)));
            self.closed = true;
            self.clocks.close(Instant::now());
        }
    }

    /// Sends the frames that are there.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(to) = &mut self.to else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        loop {
            if self.taken == self.frames.len() {
                self.frames.clear();
                self.taken = 0;
                match self.pong.take() {
                    Some(pong) if !self.closed => drop(Frame::pong(pong).format(&mut self.frames)),
                    _ => return Poll::Ready(Ok(())),
                }
            }
            match Pin::new(&mut *to).poll_write(cx, &self.frames[self.taken..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(len)) => {
                    self.taken += len;
                    self.flushed = false;
                    self.clocks.sent(Instant::now());
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.clocks.wait();
                    return Poll::Pending;
                }
            }
        }
    }

    /// The same, and nothing of it waits for more.
    fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(cx))?;
        if let (Some(to), false) = (&mut self.to, self.flushed) {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

/// Sends pings, and whatever else nobody waits for; ends with the client that answers none. Driven by the same task as the
/// halves, each of which may leave the connection with its waker.
async fn keep_alive<S: Connection>(line: &Line<S>) -> Ended {
    let mut sleep = pin!(sleep_until(Instant::now()));
    std::future::poll_fn(|cx| {
        loop {
            let at = {
                let mut state = line.state();
                if let Poll::Ready(Err(error)) = state.poll_flushed(cx) {
                    return Poll::Ready(Ended::Lost(error));
                }
                let now = Instant::now();
                match state.clocks.next(now) {
                    Next::Ping => {
                        state.control(Frame::ping(Bytes::new()));
                        state.clocks.pinged(now);
                        continue;
                    }
                    Next::Lost => return Poll::Ready(Ended::Silent),
                    Next::At(at) => at,
                }
            };
            // Later is soon enough to find out that there was no need.
            if at < sleep.deadline() || sleep.is_elapsed() {
                sleep.as_mut().reset(at);
            }
            ready!(sleep.as_mut().poll(cx));
        }
    })
    .await
}

/// Says goodbye where there is still somebody to say it to, and lets it arrive: a connection that is closed with something
/// unread is reset, and what is under way is lost.
async fn farewell<S: Connection>(line: &Line<S>) -> io::Result<()> {
    let (frames, to, from) = {
        let mut state = line.state();
        let goodbye = state.refused.map(Violation::close).or_else(|| state.answer.take());
        if let Some(frame) = goodbye {
            state.close(frame);
        }
        let taken = state.taken;
        (state.frames.split_off(taken), state.to.take(), state.from.take())
    };
    if let Some(mut to) = to {
        to.write_all(&frames).await?;
        to.shutdown().await?;
    }
    if let Some(mut from) = from {
        let mut unread = vec![0; 16 * 1024];
        while from.read(&mut unread).await? > 0 {}
    }
    Ok(())
}

/// The side that is a WebSocket.
struct WebSocket<S>(Messages<S>);

impl<S: Connection> Side for WebSocket<S> {
    type Read<'a>
        = &'a mut Messages<S>
    where
        Self: 'a;
    type Write<'a>
        = Frames<S>
    where
        Self: 'a;

    fn halves(&mut self) -> (Self::Read<'_>, Self::Write<'_>) {
        let frames = Frames(Arc::clone(&self.0.line));
        (&mut self.0, frames)
    }

    fn reset(self, written: bool) {
        let Messages { socket, line, .. } = self.0;
        let from = socket.into_inner().from.take();
        let mut state = line.state();
        if written || state.refused.is_some() || state.answer.is_some() {
            state.from = from;
        } else if let (Some(from), Some(to)) = (from, state.to.take()) {
            from.unsplit(to).reset(false);
        }
    }
}

/// What the client sends, without its messages' bounds.
struct Messages<S> {
    socket: WebSocketStream<Incoming<S>>,
    line: Arc<Line<S>>,
    /// What is left of a message.
    rest: Bytes,
    ended: bool,
}

impl<S: Connection> Messages<S> {
    fn refuse(&self, violation: Violation) -> io::Error {
        self.line.state().refused = Some(violation);
        io::Error::new(io::ErrorKind::InvalidData, violation.name())
    }

    /// What a message makes of this direction; nothing when it carries no bytes.
    fn take(&mut self, message: Option<tungstenite::Result<Message>>) -> io::Result<()> {
        match message {
            Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
            Some(Ok(Message::Text(_))) => return Err(self.refuse(Violation::Text)),
            Some(Ok(Message::Ping(payload))) => self.line.state().pong = Some(payload),
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(frame))) => match frame {
                None | Some(CloseFrame { code: CloseCode::Normal | CloseCode::Away, .. }) => {
                    self.ended = true
                }
                Some(frame) => {
                    let error = format!("the client gave up with {}", frame.code);
                    self.line.state().answer = Some(frame);
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, error));
                }
            },
            Some(Err(tungstenite::Error::Io(error))) => return Err(error),
            Some(Err(tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                if !self.socket.get_ref().boundary.is_here() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.ended = true;
            }
            Some(Err(error)) => {
                return Err(match Violation::of(&error) {
                    Some(violation) => self.refuse(violation),
                    None => io::Error::other(error),
                });
            }
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }
}

impl<S: Connection> AsyncRead for Messages<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.rest.is_empty() && !this.ended {
            this.line.state().clocks.listen(true, Instant::now());
            let message = ready!(this.socket.poll_next_unpin(cx));
            this.take(message)?;
        }
        this.line.state().clocks.listen(false, Instant::now());
        let len = this.rest.len().min(buf.remaining());
        buf.put_slice(&this.rest[..len]);
        this.rest.advance(len);
        Poll::Ready(Ok(()))
    }
}

/// What the client gets: each write is one message.
struct Frames<S>(Arc<Line<S>>);

impl<S: Connection> AsyncWrite for Frames<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.state();
        ready!(state.poll_sent(cx))?;
        let payload = &buf[..buf.len().min(MAX_PAYLOAD)];
        let header = FrameHeader { opcode: OpCode::Data(Data::Binary), ..FrameHeader::default() };
        // Writing to memory does not fail.
        drop(header.format(payload.len() as u64, &mut state.frames));
        state.frames.extend_from_slice(payload);
        match state.poll_sent(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What does not go out now is flushed, or waited for by the next.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(payload.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.state().poll_flushed(cx)
    }

    /// Ends the messages; the connection goes on, for what the client still sends.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.state();
        state.close(CloseFrame { code: CloseCode::Normal, reason: "".into() });
        state.poll_flushed(cx)
    }
}

/// What the library reads from. What it writes, which are answers to pings and to the closing frame, goes nowhere.
struct Incoming<S> {
    /// Taken by a reset.
    from: Option<ReadHalf<S>>,
    line: Arc<Line<S>>,
    boundary: Boundary,
}

impl<S: Connection> AsyncRead for Incoming<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let Some(from) = &mut self.from else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        ready!(Pin::new(from).poll_read(cx, buf))?;
        let bytes = &buf.filled()[before..];
        if !bytes.is_empty() {
            self.boundary.see(bytes);
            self.line.state().clocks.heard(Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> Drop for Incoming<S> {
    fn drop(&mut self) {
        let mut state = self.line.state();
        // Whoever is told something must have the time to read it.
        if state.answer.is_some() && state.from.is_none() {
            state.from = self.from.take();
        }
    }
}

impl<S: Connection> AsyncWrite for Incoming<S> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicU32, sync::atomic::Ordering::Relaxed, time::Duration};

    use tokio::io::{DuplexStream, duplex};

    use super::*;

    /// One end of a connection in memory; counts its resets.
    struct End(DuplexStream, Arc<AtomicU32>);

    impl Side for End {
        type Read<'a> = ReadHalf<&'a mut DuplexStream>;
        type Write<'a> = WriteHalf<&'a mut DuplexStream>;

        fn halves(&mut self) -> (Self::Read<'_>, Self::Write<'_>) {
            tokio::io::split(&mut self.0)
        }

        fn reset(self, written: bool) {
            if !written {
                self.1.fetch_add(1, Relaxed);
            }
        }
    }

    impl AsyncRead for End {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for End {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// Carries a flow of a client and a service while they do something: how it ended, when, and how many sides were reset.
    async fn carried<F: Future<Output = ()>>(
        what: impl FnOnce(DuplexStream, DuplexStream) -> F,
    ) -> (Option<Ended>, Duration, u32) {
        let resets = Arc::default();
        let (client, connection) = duplex(1000);
        let (flow, service) = duplex(1000);
        let (connection, flow) = (End(connection, Arc::clone(&resets)), End(flow, Arc::clone(&resets)));
        let (started, counts) = (Instant::now(), Counts::default());
        let carrying = async {
            let ended = carry(connection, Bytes::new(), flow, std::future::pending(), &counts).await;
            (ended.err(), started.elapsed())
        };
        let ((ended, took), ()) = tokio::join!(carrying, what(client, service));
        (ended, took, resets.load(Relaxed))
    }

    const PING: [u8; 2] = [0x89, 0];
    const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];

    async fn expect(stream: &mut DuplexStream, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(got, bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_pinged_and_given_up_by_a_reset() {
        let (ended, took, resets) = carried(async |mut client, service| {
            for _ in 0..2 {
                expect(&mut client, &PING).await;
            }
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            drop(service);
        })
        .await;
        assert!(matches!(ended, Some(Ended::Silent)), "{ended:?}");
        assert_eq!((took.as_secs(), resets), (60, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_answers_stays_for_as_long_as_it_wants() {
        let (ended, took, resets) = carried(async |mut client, mut service| {
            for _ in 0..100 {
                expect(&mut client, &PING).await;
                client.write_all(&PONG).await.unwrap();
            }
            service.write_all(b"x").await.unwrap();
            expect(&mut client, &[0x82, 1, b'x']).await;
            service.shutdown().await.unwrap();
            expect(&mut client, &[0x88, 2, 3, 0xe8]).await;
            client.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(service.read(&mut [0]).await.unwrap(), 0);
        })
        .await;
        assert!(ended.is_none(), "{ended:?}");
        assert_eq!((took.as_secs(), resets), (2000, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_take_what_it_is_sent_is_slow_and_not_lost() {
        let (ended, took, _) = carried(async |mut client, mut service| {
            service.write_all(&[7; 1500]).await.unwrap();
            service.shutdown().await.unwrap();
            tokio::time::sleep(Duration::from_secs(3600)).await;
            let mut all = Vec::new();
            while !all.ends_with(&[0x88, 2, 3, 0xe8]) {
                all.push(client.read_u8().await.unwrap());
            }
            assert!(all.iter().filter(|byte| **byte == 7).count() >= 1500);
            drop(client);
        })
        .await;
        assert!(ended.is_none(), "{ended:?}");
        assert_eq!(took.as_secs(), 3600);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_answer_the_goodbye_is_left_soon() {
        let (ended, took, _) = carried(async |mut client, mut service| {
            service.shutdown().await.unwrap();
            expect(&mut client, &[0x88, 2, 3, 0xe8]).await;
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        })
        .await;
        assert!(matches!(ended, Some(Ended::Silent)), "{ended:?}");
        assert_eq!(took.as_secs(), 10);
    }
}
