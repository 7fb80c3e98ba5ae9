//! What the services of TCP understand, and the clients that speak it: an echo, a sink, a source.
//!
//! A client begins with nine bytes: what it wants, then a number, big-endian. To `e` all that follows is sent back. To `u` all
//! that follows is read, and at its end the number of its bytes is answered, in eight. To `b` the same is read, and at the same
//! time as many bytes are sent as the number says; [`ENDLESS`] is for as long as the client sends. But for an echo, what is
//! sent is always the same pattern, from its beginning, and whoever gets it checks that.

use std::{
    io,
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How much is read and written at once.
const CHUNK: usize = 64 << 10;

/// The pattern repeats after this, a prime, so that no chunk that is lost or doubled goes unseen.
const PERIOD: usize = 65_521;

/// As many bytes as there is time for.
const ENDLESS: u64 = u64::MAX;

/// Which way bytes go, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the service.
    Up,
    /// From it.
    Down,
    /// Both at once.
    Both,
}

/// Why a stream is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Other bytes came than were sent.
    #[error("other bytes came than were sent")]
    WrongBytes,
    /// Fewer or more came.
    #[error("{came} bytes came of {sent}")]
    Count {
        /// What came.
        came: u64,
        /// What was sent.
        sent: u64,
    },
}

impl StreamError {
    /// A word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io(_) => "broken off",
            Self::WrongBytes => "wrong bytes",
            Self::Count { .. } => "bytes missing",
        }
    }
}

/// How much a client moves, each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// What there is time for.
    Until(Instant),
}

impl Amount {
    /// Whether no more is to be sent after so many bytes.
    fn is_enough(self, sent: u64) -> bool {
        match self {
            Self::Bytes(bytes) => sent >= bytes,
            Self::Until(end) => Instant::now() >= end,
        }
    }

    fn left(self, sent: u64) -> usize {
        match self {
            Self::Bytes(bytes) => (bytes - sent).min(CHUNK as u64) as usize,
            Self::Until(_) => CHUNK,
        }
    }
}

/// One period of the pattern, and as much of the next as a chunk can reach into it.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    // Marsaglia's xorshift: no two places in a period look alike.
    let mut state = 0x9e37_79b9_u32;
    let mut next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    let period: Vec<u8> = (0..PERIOD).map(&mut next).collect();
    period.iter().copied().cycle().take(PERIOD + CHUNK).collect()
});

/// The pattern from a place in the stream on.
fn pattern(from: u64, len: usize) -> &'static [u8] {
    &PATTERN[(from % PERIOD as u64) as usize..][..len]
}

/// Answers one connection of a client to its end.
pub(super) async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), StreamError> {
    let wants = stream.read_u8().await?;
    let bytes = stream.read_u64().await?;
    let (mut read, mut write) = tokio::io::split(stream);
    match wants {
        b'e' => {
            let mut buffer = vec![0; 4 << 10];
            loop {
                let len = read.read(&mut buffer).await?;
                if len == 0 {
                    break;
                }
                write.write_all(&buffer[..len]).await?;
            }
        }
        b'u' => {
            let came = take(&mut read, &AtomicU64::new(0)).await?;
            write.write_u64(came).await?;
        }
        b'b' => {
            let ended = AtomicBool::new(false);
            let up = async {
                take(&mut read, &AtomicU64::new(0)).await?;
                ended.store(true, Relaxed);
                Ok::<_, StreamError>(())
            };
            let down = async {
                let mut sent = 0;
                while sent < bytes && !(bytes == ENDLESS && ended.load(Relaxed)) {
                    let len = (bytes - sent).min(CHUNK as u64) as usize;
                    write.write_all(pattern(sent, len)).await?;
                    sent += len as u64;
                }
                Ok(write.shutdown().await?)
            };
            return tokio::try_join!(up, down).map(drop);
        }
        _ => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
    }
    Ok(write.shutdown().await?)
}

/// Asks for an echo of what follows.
///
/// # Errors
/// When the stream has broken.
pub(super) async fn ask_echo(stream: &mut (impl AsyncWrite + Unpin), first: &[u8]) -> io::Result<()> {
    let mut head = Vec::with_capacity(9 + first.len());
    head.push(b'e');
    head.extend_from_slice(&0_u64.to_be_bytes());
    head.extend_from_slice(first);
    stream.write_all(&head).await
}

/// Moves an amount over a stream, and returns when all of it has arrived. Bytes are counted into `counted` as the stream
/// takes or gives them, both ways.
///
/// # Errors
/// See [`StreamError`].
pub async fn carry(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    direction: Direction,
    amount: Amount,
    counted: &AtomicU64,
) -> Result<(), StreamError> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut head = [0; 9];
    head[0] = if direction == Direction::Up { b'u' } else { b'b' };
    let expected = match amount {
        Amount::Bytes(bytes) => bytes,
        Amount::Until(_) => ENDLESS,
    };
    head[1..].copy_from_slice(&expected.to_be_bytes());
    write.write_all(&head).await?;
    let up = async {
        let mut sent = 0;
        match (direction, amount) {
            (Direction::Down, Amount::Bytes(_)) => {}
            (Direction::Down, Amount::Until(end)) => tokio::time::sleep_until(end.into()).await,
            (Direction::Up | Direction::Both, amount) => {
                while !amount.is_enough(sent) {
                    let chunk = pattern(sent, amount.left(sent));
                    write.write_all(chunk).await?;
                    sent += chunk.len() as u64;
                    counted.fetch_add(chunk.len() as u64, Relaxed);
                }
            }
        }
        write.shutdown().await?;
        Ok::<_, StreamError>(sent)
    };
    let down = async {
        match direction {
            Direction::Up => Ok(read.read_u64().await?),
            Direction::Down | Direction::Both => take(&mut read, counted).await,
        }
    };
    let (sent, came) = tokio::try_join!(up, down)?;
    let sent = match (direction, amount) {
        (Direction::Up, _) => sent,
        (_, Amount::Bytes(bytes)) => bytes,
        (_, Amount::Until(_)) => came,
    };
    if came == sent { Ok(()) } else { Err(StreamError::Count { came, sent }) }
}

/// Reads the pattern to the end: how many bytes came.
async fn take(read: &mut (impl AsyncRead + Unpin), counted: &AtomicU64) -> Result<u64, StreamError> {
    let mut buffer = vec![0; CHUNK];
    let mut came = 0;
    loop {
        let len = read.read(&mut buffer).await?;
        if len == 0 {
            return Ok(came);
        }
        if buffer[..len] != *pattern(came, len) {
            return Err(StreamError::WrongBytes);
        }
        came += len as u64;
        counted.fetch_add(len as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn carried(direction: Direction, amount: Amount) -> u64 {
        let (client, service) = tokio::io::duplex(10_000);
        let counted = AtomicU64::new(0);
        let (served, carried) = tokio::join!(serve(service), carry(client, direction, amount, &counted));
        served.unwrap();
        carried.unwrap();
        counted.into_inner()
    }

    #[tokio::test]
    async fn an_amount_arrives_whole_each_way() {
        assert_eq!(carried(Direction::Up, Amount::Bytes(200_001)).await, 200_001);
        assert_eq!(carried(Direction::Down, Amount::Bytes(200_001)).await, 200_001);
        assert_eq!(carried(Direction::Both, Amount::Bytes(200_001)).await, 400_002);
        for direction in [Direction::Up, Direction::Down, Direction::Both] {
            assert!(carried(direction, Amount::Until(Instant::now() + Duration::from_millis(20))).await > 0);
        }
    }

    #[tokio::test]
    async fn what_is_changed_or_missing_is_seen() {
        for (kind, spoil) in [("wrong bytes", 1_u8), ("bytes missing", 0)] {
            let (client, mut service) = tokio::io::duplex(10_000);
            let counted = AtomicU64::new(0);
            let liar = async {
                service.read_exact(&mut [0; 9]).await.unwrap();
                let mut data = pattern(0, 1000).to_vec();
                data[999] ^= spoil;
                service.write_all(&data).await.unwrap();
                service.shutdown().await.unwrap();
                drop(service);
            };
            let asked = carry(client, Direction::Down, Amount::Bytes(1001), &counted);
            let (asked, ()) = tokio::join!(asked, liar);
            assert_eq!(asked.unwrap_err().kind(), kind);
        }
    }
}
