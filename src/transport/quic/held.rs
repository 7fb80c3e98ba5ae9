//! What has come on a link's streams and is not read, and how it is kept from holding up everybody else.
//!
//! What has come and is not read counts against the window of its stream and against that of the link (RFC 9000 §4.1). A client
//! that stops reading fills the first, and when enough of them fill the second, nothing comes for anybody. So the second is for
//! many of the first; and when the peer says that it is blocked nevertheless (DATA_BLOCKED, §19.12), the stream whose reader
//! takes least of what is there is cut, one after another, until the link moves again.
//!
//! One [`Keeper`] for a socket looks at those of its links on which something is not read, and at no others. A [`Ledger`]
//! decides, for each link.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::Notify,
};

use crate::{drain::Tasks, protocol::Reset};

/// How often a link is looked at.
const TICK: Duration = Duration::from_millis(500);

/// For how many ticks something must have been there for a reader, without a break, before its stream may be cut.
const PATIENCE: u32 = 2;

/// Why a stream ended that was cut.
#[derive(Debug, thiserror::Error)]
#[error("cut: its reader took too little of what was there, and others had no room on the link")]
struct Cut;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks after the links of one socket. Dropping it ends that, and nothing else.
#[derive(Debug)]
pub(super) struct Keeper {
    /// Of each link, in bytes.
    window: u32,
    watch: Arc<Watch>,
    tasks: Tasks,
}

/// What links and their keeper share.
#[derive(Debug)]
struct Watch {
    /// Now, in ticks; never 0.
    now: AtomicU32,
    /// Links on which something has been read since the keeper left them.
    come: Mutex<Vec<Weak<Shared>>>,
    woken: Notify,
}

impl Keeper {
    /// `window`: of each link, in bytes. Must be called inside a tokio runtime.
    pub(super) fn start(window: u32) -> Self {
        let watch = Arc::new(Watch { now: AtomicU32::new(1), come: Mutex::default(), woken: Notify::new() });
        let tasks = Tasks::new();
        tasks.spawn(Arc::clone(&watch).run());
        Self { window, watch, tasks }
    }

    pub(super) fn held(&self, connection: &quinn::Connection) -> Held {
        Held(Arc::new(Shared {
            connection: connection.clone(),
            window: self.window,
            watch: Arc::clone(&self.watch),
            watched: AtomicBool::new(false),
            streams: Mutex::default(),
            ledger: Mutex::default(),
            cut: AtomicU64::new(0),
        }))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

impl Watch {
    async fn run(self: Arc<Self>) {
        let mut links: Vec<Weak<Shared>> = Vec::new();
        loop {
            links.append(&mut locked(&self.come));
            if links.is_empty() {
                self.woken.notified().await;
                continue;
            }
            tokio::time::sleep(TICK).await;
            let now = self.now.fetch_add(1, Relaxed) + 1;
            for link in std::mem::take(&mut links) {
                if link.upgrade().is_some_and(|link| link.tick(now)) {
                    links.push(link);
                }
                // There may be thousands of links, and others have work to do.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// What is not read of one link. Clones are handles to the same.
#[derive(Debug, Clone)]
pub(super) struct Held(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connection: quinn::Connection,
    window: u32,
    watch: Arc<Watch>,
    /// The keeper has this link, or is about to.
    watched: AtomicBool,
    /// Taken as streams begin and end, and by the keeper.
    streams: Mutex<HashMap<u64, Weak<Mutex<Reader>>>>,
    ledger: Mutex<Ledger>,
    /// How many streams have been cut.
    cut: AtomicU64,
}

/// A stream as its reader and the keeper share it: the keeper takes it for an instant at each tick.
#[derive(Debug)]
struct Reader {
    /// None once it is cut.
    stream: Option<quinn::RecvStream>,
    /// The tick at which the reader found something after it had to wait; 0 while it waits. In between there may be more.
    since: u32,
    /// How much it has taken, in bytes, and how much of that before the last tick.
    taken: u64,
    before: u64,
}

impl Held {
    /// How many streams have been cut.
    pub(super) fn cut(&self) -> u64 {
        self.0.cut.load(Relaxed)
    }

    pub(super) fn stream(&self, stream: quinn::RecvStream) -> Ingoing {
        let id = stream.id().into();
        let reader = Arc::new(Mutex::new(Reader { stream: Some(stream), since: 0, taken: 0, before: 0 }));
        // Without its control stream, which is the first, there would be no link.
        if id > 0 {
            locked(&self.0.streams).insert(id, Arc::downgrade(&reader));
        }
        Ingoing { id, reader, link: self.clone() }
    }
}

impl Shared {
    /// Has the keeper look at this link, if it does not yet.
    fn watch(this: &Arc<Self>) {
        if !this.watched.load(Relaxed) && !this.watched.swap(true, Relaxed) {
            locked(&this.watch.come).push(Arc::downgrade(this));
            this.watch.woken.notify_one();
        }
    }

    /// Looks at the link, and says whether to look again.
    fn tick(&self, now: u32) -> bool {
        // Whoever finds something from here on either is seen below or sees that the keeper has gone.
        self.watched.store(false, Relaxed);
        let mut slow = self.slow(now);
        let rests = slow.is_none();
        let stats = self.connection.stats();
        let action = locked(&self.ledger).look(stats.frame_rx.data_blocked, stats.frame_rx.stream);
        if action == Action::Cut {
            self.cut_one(slow.take().unwrap_or_default());
        }
        if action != Action::Nothing {
            // The peer is told of all the room that there is: otherwise only when it is an eighth of the window.
            self.connection.set_receive_window(self.window.saturating_sub(1).into());
            self.connection.set_receive_window(self.window.into());
        }
        let stays = !rests || action != Action::Nothing;
        // Somebody may have told the keeper of it again meanwhile.
        stays && !self.watched.swap(true, Relaxed)
    }

    /// The streams that have something for their readers, those first that have taken least since the last tick; none if there
    /// are none, also of those who are only slow for now.
    fn slow(&self, now: u32) -> Option<Vec<Arc<Mutex<Reader>>>> {
        let streams: Vec<_> = locked(&self.streams).values().filter_map(Weak::upgrade).collect();
        let mut found = false;
        let mut slow = Vec::new();
        for stream in streams {
            let mut reader = locked(&stream);
            let taken = reader.taken - reader.before;
            reader.before = reader.taken;
            found |= reader.since > 0;
            if reader.since > 0 && now - reader.since >= PATIENCE {
                let key = (taken, reader.since);
                drop(reader);
                slow.push((key, stream));
            }
        }
        slow.sort_by_key(|(key, _)| *key);
        found.then(|| slow.into_iter().map(|(_, stream)| stream).collect())
    }

    /// Cuts the first of which there is something to be had.
    fn cut_one(&self, slow: Vec<Arc<Mutex<Reader>>>) {
        if slow.into_iter().any(|stream| locked(&stream).cut()) {
            self.cut.fetch_add(1, Relaxed);
            tracing::info!(
                peer = %self.connection.remote_address(),
                "cut a flow whose reader takes too little, since others had no room on the link"
            );
        }
    }
}

impl Reader {
    /// Cuts the stream if there is something unread. Its reader is not waiting, so nobody is to be woken.
    fn cut(&mut self) -> bool {
        // It may have come back meanwhile.
        let Some(stream) = self.stream.as_mut().filter(|_| self.since > 0) else { return false };
        let mut byte = [0];
        let mut first = ReadBuf::new(&mut byte);
        match AsyncRead::poll_read(Pin::new(stream), &mut Context::from_waker(Waker::noop()), &mut first) {
            // It will ask itself.
            Poll::Pending => {
                self.since = 0;
                return false;
            }
            // The end is told again to who asks again.
            Poll::Ready(Ok(())) if first.filled().is_empty() => {
                self.since = 0;
                return false;
            }
            Poll::Ready(Ok(())) => drop(stream.stop((Reset::Cancelled as u32).into())),
            // An error is not told twice, so its reader is told of the cut instead.
            Poll::Ready(Err(_)) => {}
        }
        (self.stream, self.since) = (None, 0);
        true
    }
}

/// The receiving half of a stream. Dropping it before its end tells the peer to stop.
#[derive(Debug)]
pub(in crate::transport) struct Ingoing {
    id: u64,
    reader: Arc<Mutex<Reader>>,
    link: Held,
}

impl Ingoing {
    pub(in crate::transport) fn stop(&mut self, code: Reset) {
        if let Some(stream) = &mut locked(&self.reader).stream {
            // An error says that the stream had ended already, which is what is wanted.
            drop(stream.stop((code as u32).into()));
        }
    }

    pub(in crate::transport) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut reader = locked(&self.reader);
        let Some(stream) = &mut reader.stream else {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, Cut)));
        };
        let before = buf.filled().len();
        let polled = AsyncRead::poll_read(Pin::new(stream), cx, buf);
        let taken = buf.filled().len() - before;
        reader.taken += taken as u64;
        // At the end of the stream, as after an error, nothing is left.
        reader.since = match (taken, reader.since) {
            (0, _) => 0,
            (_, 0) => self.link.0.watch.now.load(Relaxed),
            (_, since) => since,
        };
        let waits = reader.since == 0;
        drop(reader);
        if !waits {
            Shared::watch(&self.link.0);
        }
        polled
    }
}

impl Drop for Ingoing {
    fn drop(&mut self) {
        locked(&self.link.0.streams).remove(&self.id);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Nothing,
    /// Tell the peer of all the room that there is.
    Tell,
    /// The same, with a stream less.
    Cut,
}

/// Judges whether a link is blocked.
#[derive(Debug, Default)]
struct Ledger {
    /// How often the peer has said so, which it does once for each end of its window.
    blocked: u64,
    /// How many pieces of streams have come.
    pieces: u64,
    /// For how many ticks it has been.
    waits: u32,
    /// For how many of these something has come and it has not said so again.
    moves: u32,
}

impl Ledger {
    fn look(&mut self, blocked: u64, pieces: u64) -> Action {
        let (said, moved) = (blocked != self.blocked, pieces != self.pieces);
        (self.blocked, self.pieces) = (blocked, pieces);
        if !said && self.waits == 0 {
            return Action::Nothing;
        }
        self.moves = if said || !moved { 0 } else { self.moves + 1 };
        // One piece may have been under way.
        if self.moves > 1 {
            (self.waits, self.moves) = (0, 0);
            return Action::Nothing;
        }
        self.waits += 1;
        if self.waits == 1 { Action::Tell } else { Action::Cut }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{
        super::{
            QuicLink,
            tests::{SOON, pair},
        },
        *,
    };
    use crate::transport::{Link, Settings, Stream, quic::tuning::STREAM_WINDOW};

    const MIB: u32 = 1 << 20;

    #[test]
    fn a_peer_that_says_it_is_blocked_is_told_of_all_room_and_then_given_some_until_it_moves_again() {
        let mut ledger = Ledger::default();
        let mut look = |blocked, pieces| ledger.look(blocked, pieces);
        assert_eq!(look(0, 100), Action::Nothing);
        assert_eq!([look(1, 150), look(1, 150), look(1, 150)], [Action::Tell, Action::Cut, Action::Cut]);
        assert_eq!(look(2, 160), Action::Cut, "it is blocked again");
        assert_eq!(look(2, 170), Action::Cut, "that may have been under way");
        assert_eq!([look(2, 180), look(2, 180), look(2, 180)], [Action::Nothing; 3]);
        assert_eq!([look(3, 190), look(3, 200), look(3, 210)], [Action::Tell, Action::Cut, Action::Nothing]);
    }

    /// A link whose flows may have so much unread together, as the one who sends has it and the one who reads.
    async fn link(window: u32) -> (QuicLink, QuicLink, impl Sized) {
        let reading = Settings { window, ..Settings::default() };
        let (Link::Quic(sender), Link::Quic(reader), dialer, listener) =
            pair(&Settings::default(), &reading).await
        else {
            panic!("it is a link over QUIC");
        };
        reader.connection.set_max_concurrent_bi_streams(100_u32.into());
        // Stands for the control stream, which is never cut.
        let first = sender.open(SOON).await.unwrap();
        (sender, reader, (first, dialer, listener))
    }

    /// A stream on which the sender has written all that the reader's window takes, of which the reader has had a byte.
    async fn filled(sender: &QuicLink, reader: &QuicLink) -> (Stream, Stream) {
        let mut sent = sender.open(SOON).await.unwrap();
        let piece = vec![7; 64 * 1024];
        let stands = async {
            while let Ok(written) = tokio::time::timeout(TICK, sent.send.write(&piece)).await {
                written.unwrap();
            }
        };
        let read = async {
            let mut read = accepted(reader).await;
            read.recv.read_exact(&mut [0]).await.unwrap();
            read
        };
        let ((), read) = tokio::join!(stands, read);
        (sent, read)
    }

    /// The next stream on which something has come.
    async fn accepted(reader: &QuicLink) -> Stream {
        let first = quinn::StreamId::new(quinn::Side::Client, quinn::Dir::Bi, 0).into();
        loop {
            let stream = reader.accept().await.unwrap();
            if stream.id() > first {
                return stream;
            }
        }
    }

    /// Has a stream carry more than the window of one.
    async fn carry(sender: &QuicLink, reader: &QuicLink) {
        let mut sent = sender.open(SOON).await.unwrap();
        let whole = vec![3; STREAM_WINDOW as usize + 1];
        let write = async {
            sent.send.write_all(&whole).await.unwrap();
            sent.send.shutdown().await.unwrap();
        };
        let read = async {
            let mut got = Vec::new();
            accepted(reader).await.recv.read_to_end(&mut got).await.unwrap();
            got
        };
        let both = async { tokio::join!(write, read).1 };
        let got = tokio::time::timeout(SOON, both).await.expect("others hold it up");
        assert_eq!(got.len(), whole.len());
    }

    #[tokio::test]
    async fn streams_that_nobody_reads_hold_up_no_other_and_are_cut_only_when_there_is_no_room() {
        let (sender, reader, _ends) = link(16 * MIB).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(filled(&sender, &reader).await);
            carry(&sender, &reader).await;
        }
        assert_eq!(reader.held.cut(), 0, "there is room");
        for _ in 0..6 {
            held.push(filled(&sender, &reader).await);
            carry(&sender, &reader).await;
        }
        let cut = reader.held.cut();
        assert!((5..9).contains(&cut), "of nine of which three have room, {cut} were cut");
        // Each of them learns of it, and the others have all.
        let mut learnt = 0;
        for (mut sent, mut read) in held {
            let mut got = Vec::new();
            let end = async { sent.send.shutdown().await };
            match tokio::join!(end, read.recv.read_to_end(&mut got)) {
                (Ok(()), Ok(len)) => assert!(len > MIB as usize, "{len}"),
                (_, Err(error)) => {
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                    learnt += 1;
                }
                (Err(error), Ok(_)) => panic!("a stream that was read to its end was cut: {error}"),
            }
        }
        assert_eq!(learnt, cut);
    }

    #[tokio::test]
    async fn of_those_who_read_the_slowest_is_cut_and_who_has_nothing_to_read_is_not() {
        let (sender, reader, _ends) = link(8 * MIB).await;
        // It has had all that there is, and has not come back.
        let mut idle = sender.open(SOON).await.unwrap();
        idle.send.write_all(b"x").await.unwrap();
        let mut idle = (accepted(&reader).await, idle);
        idle.0.recv.read_exact(&mut [0]).await.unwrap();
        let (_slow_sent, mut slow) = filled(&sender, &reader).await;
        let (_swift_sent, mut swift) = filled(&sender, &reader).await;
        let mut some = vec![0; 16 * 1024];
        let swift = async {
            loop {
                swift.recv.read_exact(&mut some).await.expect("the swifter one is not cut");
                tokio::time::sleep(TICK / 10).await;
            }
        };
        let slow = async {
            while slow.recv.read_exact(&mut [0]).await.is_ok() {
                tokio::time::sleep(TICK / 10).await;
            }
        };
        let slow = async { tokio::time::timeout(SOON, slow).await.expect("the slower one is cut") };
        let others = async { tokio::join!(slow, carry(&sender, &reader)) };
        tokio::select! {
            _ = others => {}
            () = swift => {}
        }
        assert_eq!(reader.held.cut(), 1);
        idle.1.send.write_all(b"y").await.unwrap();
        idle.0.recv.read_exact(&mut [0]).await.unwrap();
    }

    #[tokio::test]
    async fn the_keeper_leaves_links_on_which_everything_is_read() {
        let (sender, reader, _ends) = link(16 * MIB).await;
        carry(&sender, &reader).await;
        let shared = &reader.held.0;
        let left = async {
            while shared.watched.load(Relaxed) || !locked(&shared.watch.come).is_empty() {
                tokio::time::sleep(TICK).await;
            }
        };
        tokio::time::timeout(SOON, left).await.unwrap();
        let now = shared.watch.now.load(Relaxed);
        tokio::time::sleep(4 * TICK).await;
        assert_eq!(shared.watch.now.load(Relaxed), now, "it sleeps");
    }
}
