//! Joins two byte streams honestly, for TCP, upgraded connections and tunnelled flows alike.
//!
//! An end of stream on one side becomes an end of stream on the other while the opposite direction goes on (half-close); a
//! reset becomes a reset, never a clean end; bytes that were read are written before either. There is no time limit: a
//! silent join lives as long as both sides do. Driven by its caller's task; dropping the future resets both sides. [`packets`]
//! is the same for UDP.

mod pace;
pub mod packets;

use std::{
    io::{self, Cursor},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Chain, ReadHalf, WriteHalf},
    net::TcpStream,
};

use crate::{net::Connection, telemetry::Tally};
use pace::Pace;

/// What is read at once, in bytes: the per-chunk cost of a hop is paid per read.
const CHUNK: usize = 64 * 1024;

/// One side of a join.
pub trait Side: Send {
    /// What is read from it.
    type Read<'a>: AsyncRead + Unpin + Send
    where
        Self: 'a;
    /// What is written to it.
    type Write<'a>: AsyncWrite + Unpin + Send
    where
        Self: 'a;

    /// Both halves, to be driven at the same time.
    fn halves(&mut self) -> (Self::Read<'_>, Self::Write<'_>);

    /// Ends what has not ended, abruptly: the peer must see a reset. When `written` is true, all that was to be written has
    /// been, with an end of stream behind it, and must still arrive.
    fn reset(self, written: bool);
}

impl Side for TcpStream {
    type Read<'a> = tokio::net::tcp::ReadHalf<'a>;
    type Write<'a> = tokio::net::tcp::WriteHalf<'a>;

    fn halves(&mut self) -> (Self::Read<'_>, Self::Write<'_>) {
        self.split()
    }

    fn reset(self, written: bool) {
        if !written {
            // Closing with a zero linger sends RST instead of FIN.
            if let Err(error) = socket2::SockRef::from(&self).set_linger(Some(Duration::ZERO)) {
                tracing::debug!(%error, "cannot reset a TCP connection; it ends with FIN");
            }
        }
    }
}

impl Side for Connection {
    type Read<'a> = ReadHalf<&'a mut Self>;
    type Write<'a> = WriteHalf<&'a mut Self>;

    fn halves(&mut self) -> (Self::Read<'_>, Self::Write<'_>) {
        tokio::io::split(self)
    }

    fn reset(self, written: bool) {
        self.into_tcp().reset(written);
    }
}

/// A side of which some bytes have been read already.
#[derive(Debug)]
pub struct Prefixed<S> {
    /// What comes before all else that is read.
    pub prefix: Bytes,
    /// The side.
    pub side: S,
}

impl<S: Side> Side for Prefixed<S> {
    type Read<'a>
        = Chain<Cursor<Bytes>, S::Read<'a>>
    where
        Self: 'a;
    type Write<'a>
        = S::Write<'a>
    where
        Self: 'a;

    fn halves(&mut self) -> (Self::Read<'_>, Self::Write<'_>) {
        let (read, write) = self.side.halves();
        (Cursor::new(std::mem::take(&mut self.prefix)).chain(read), write)
    }

    fn reset(self, written: bool) {
        self.side.reset(written);
    }
}

/// Bytes carried so far, readable while the join runs, and the pace that it keeps to.
#[derive(Debug, Default)]
pub struct Counts {
    left_to_right: AtomicU64,
    right_to_left: AtomicU64,
    tally: Option<Tally>,
    pace: Pace,
}

/// A direction of a join.
#[derive(Debug, Clone, Copy)]
enum Way {
    ToRight,
    ToLeft,
}

/// Counts bytes of a join whose left side is the client's.
fn tell(tally: Option<&Tally>, way: Way, bytes: usize) {
    match (tally, way) {
        (Some(tally), Way::ToRight) => tally.received(bytes),
        (Some(tally), Way::ToLeft) => tally.sent(bytes),
        (None, _) => {}
    }
}

impl Counts {
    /// None yet, of a join that keeps to a pace, if there is one: told of bytes that were passed on either way, it says how
    /// long to wait before the next are, and of none how long before the first.
    pub fn at(pace: Option<impl Fn(usize) -> Duration + Send + Sync + 'static>) -> Self {
        Self { pace: Pace::new(pace), ..Self::default() }
    }

    /// The same, counted among the bytes of clients too, as they pass: the left side is the client's.
    #[must_use]
    pub fn counted(self, tally: &Tally) -> Self {
        Self { tally: Some(tally.clone()), ..self }
    }

    fn passed(&self, way: Way, bytes: usize) {
        let count = match way {
            Way::ToRight => &self.left_to_right,
            Way::ToLeft => &self.right_to_left,
        };
        count.fetch_add(bytes as u64, Relaxed);
        tell(self.tally.as_ref(), way, bytes);
    }

    /// Bytes written to the right side.
    pub fn left_to_right(&self) -> u64 {
        self.left_to_right.load(Relaxed)
    }

    /// Bytes written to the left side.
    pub fn right_to_left(&self) -> u64 {
        self.right_to_left.load(Relaxed)
    }
}

/// A join that ended other than by an end of stream in both directions.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Reading from, or writing to, the left side failed.
    #[error("the left side broke")]
    Left(#[source] io::Error),
    /// Reading from, or writing to, the right side failed.
    #[error("the right side broke")]
    Right(#[source] io::Error),
}

/// Resets a side that is dropped before it has ended, so that a cancelled join never looks like a finished one.
struct Guard<S: Side> {
    side: Option<S>,
    written: bool,
}

impl<S: Side> Drop for Guard<S> {
    fn drop(&mut self) {
        if let Some(side) = self.side.take() {
            side.reset(self.written);
        }
    }
}

/// Joins two sides until both directions have ended, or one has broken.
///
/// # Errors
/// [`Broken`] when a side failed; both have been reset by then.
pub async fn splice<L: Side, R: Side>(left: L, right: R, counts: &Counts) -> Result<(), Broken> {
    let mut left = Guard { side: Some(left), written: false };
    let mut right = Guard { side: Some(right), written: false };
    let (Some(left_side), Some(right_side)) = (&mut left.side, &mut right.side) else {
        return Ok(());
    };
    let (left_read, left_write) = left_side.halves();
    let (right_read, right_write) = right_side.halves();
    let to_right = async {
        let end = pump(left_read, right_write, counts, Way::ToRight).await;
        right.written = end.is_ok();
        refused(end).map_err(|broken| broken.name(Broken::Left, Broken::Right))
    };
    let to_left = async {
        let end = pump(right_read, left_write, counts, Way::ToLeft).await;
        left.written = end.is_ok();
        refused(end).map_err(|broken| broken.name(Broken::Right, Broken::Left))
    };
    let (right_refused, left_refused) = tokio::try_join!(to_right, to_left)?;
    if let Some(error) = right_refused {
        return Err(Broken::Right(error));
    }
    if let Some(error) = left_refused {
        return Err(Broken::Left(error));
    }
    // Both directions have ended cleanly: the sides close as they are dropped.
    drop((left.side.take(), right.side.take()));
    Ok(())
}

enum PumpError {
    Read(io::Error),
    Write(io::Error),
}

impl PumpError {
    fn name(self, read: fn(io::Error) -> Broken, write: fn(io::Error) -> Broken) -> Broken {
        match self {
            Self::Read(error) => read(error),
            Self::Write(error) => write(error),
        }
    }
}

/// A side that takes no more bytes may still have some to give: it has closed after its last byte, and all of them must
/// arrive. So a write that fails for that reason does not end the opposite direction, whose own end follows.
fn refused(end: Result<(), PumpError>) -> Result<Option<io::Error>, PumpError> {
    match end {
        Ok(()) => Ok(None),
        // A reset that finds no end of stream before it is another kind.
        Err(PumpError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    counts: &Counts,
    way: Way,
) -> Result<(), PumpError> {
    let mut chunk = vec![0; FIRST_CHUNK];
    counts.pace.passed(0).await;
    loop {
        let len = from.read(&mut chunk).await.map_err(PumpError::Read)?;
        if len == 0 {
            return to.shutdown().await.map_err(PumpError::Write);
        }
        to.write_all(&chunk[..len]).await.map_err(PumpError::Write)?;
        to.flush().await.map_err(PumpError::Write)?;
        counts.passed(way, len);
        counts.pace.passed(len).await;
        if len == chunk.len() && len < CHUNK {
            chunk = vec![0; CHUNK];
        }
    }
}

/// What a join starts with, in bytes. One that fills it is bulk and gets [`CHUNK`].
const FIRST_CHUNK: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        sync::Arc,
        task::{Context, Poll},
    };

    use tokio::io::ReadBuf;

    use super::*;

    /// A side made of any reader and writer; remembers how it ended.
    struct Made<R, W> {
        read: R,
        write: W,
        reset: Arc<std::sync::Mutex<Option<bool>>>,
    }

    impl<R: AsyncRead + Unpin + Send, W: AsyncWrite + Unpin + Send> Side for Made<R, W> {
        type Read<'a>
            = &'a mut R
        where
            Self: 'a;
        type Write<'a>
            = &'a mut W
        where
            Self: 'a;

        fn halves(&mut self) -> (&mut R, &mut W) {
            (&mut self.read, &mut self.write)
        }

        fn reset(self, written: bool) {
            *self.reset.lock().unwrap() = Some(written);
        }
    }

    /// Fails each write in the same way.
    struct Failing(io::ErrorKind);

    impl AsyncWrite for Failing {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(self.0.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.0.into()))
        }
    }

    /// One byte, and then nothing for ever.
    struct One(bool);

    impl AsyncRead for One {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Pending;
            }
            buf.put_slice(b"x");
            Poll::Ready(Ok(()))
        }
    }

    /// A client sends a byte to a service that fails to take it, while 100,000 bytes of the service are under way: how many
    /// of them the client gets, and how its side was reset.
    async fn send_in_vain(failure: io::ErrorKind) -> (usize, Option<bool>) {
        let (mut gets, to_client) = tokio::io::duplex(1000);
        let (from_service, mut feed) = tokio::io::duplex(1000);
        let reset = Arc::default();
        let left = Made { read: One(false), write: to_client, reset: Arc::clone(&reset) };
        let right = Made { read: from_service, write: Failing(failure), reset: Arc::default() };
        let feeding = async move {
            let written = feed.write_all(&[7; 100_000]).await;
            drop(feed);
            written
        };
        let reading = async {
            let mut all = Vec::new();
            gets.read_to_end(&mut all).await.unwrap();
            all.len()
        };
        let counts = Counts::default();
        let (joined, _, got) = tokio::join!(splice(left, right, &counts), feeding, reading);
        assert!(matches!(joined, Err(Broken::Right(_))));
        let reset = *reset.lock().unwrap();
        (got, reset)
    }

    #[tokio::test]
    async fn what_a_closed_side_has_sent_arrives_though_it_takes_no_more() {
        assert_eq!(send_in_vain(io::ErrorKind::BrokenPipe).await, (100_000, Some(true)));
    }

    #[tokio::test(start_paused = true)]
    async fn both_directions_keep_to_the_pace_and_read_nothing_meanwhile() {
        let reset = || Arc::new(std::sync::Mutex::new(None));
        let ((mut client, left), (mut service, right)) = (tokio::io::duplex(1000), tokio::io::duplex(1000));
        let side = |stream| {
            let (read, write) = tokio::io::split(stream);
            Made { read, write, reset: reset() }
        };
        let passed = Arc::new(AtomicU64::new(0));
        let pace = {
            let passed = Arc::clone(&passed);
            // The first waits for what others have passed; then a second for each kB.
            move |bytes| {
                passed.fetch_add(bytes as u64, Relaxed);
                Duration::from_secs(if bytes == 0 { 5 } else { bytes as u64 / 1000 })
            }
        };
        let (counts, began) = (Counts::at(Some(pace)), tokio::time::Instant::now());
        let talk = async {
            let (mut all, mut answer) = (Vec::new(), Vec::new());
            let sent = async {
                client.write_all(&[1; 10_000]).await.unwrap();
                client.shutdown().await.unwrap();
                let sent = began.elapsed().as_secs();
                client.read_to_end(&mut answer).await.unwrap();
                sent
            };
            let service = async {
                service.read_to_end(&mut all).await.unwrap();
                service.write_all(&[2; 2000]).await.unwrap();
                service.shutdown().await.unwrap();
            };
            let (sent, ()) = tokio::join!(sent, service);
            (sent, all.len(), answer.len())
        };
        let (end, (sent, received, answered)) = tokio::join!(splice(side(left), side(right), &counts), talk);
        end.unwrap();
        assert_eq!((received, answered, passed.load(Relaxed)), (10_000, 2000, 12_000));
        // The last kB is in the client's buffer, and the one before it on its way.
        assert_eq!((sent, began.elapsed().as_secs()), (5 + 8, 5 + 10 + 2));
    }

    #[tokio::test]
    async fn a_reset_ends_the_opposite_direction_at_once() {
        assert_eq!(send_in_vain(io::ErrorKind::ConnectionReset).await, (0, Some(false)));
    }
}
