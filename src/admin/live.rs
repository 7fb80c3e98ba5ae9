//! All that the dashboard shows, live: a stream of server-sent events for each who looks.
//!
//! One task makes the [`Board`], once for all viewers, and only while there are any: what this node sees, and what the others
//! have counted, whom it asks over their links. Each viewer has a task that tells it what has changed since it last took
//! something; a viewer that does not read holds up nobody, and has its place for a while only.

mod board;
mod nodes;
mod rates;
mod rows;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, FuturesUnordered},
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{Source, error, figures::Figures, operator::Operator};
use crate::{drain::Tasks, protocol::TenantId};
use board::Board;
use nodes::Peers;
use rates::{Opened, Samples};

/// How many may look at once.
const VIEWERS: usize = 32;

/// How often the board is made anew, and how often at least. The page takes a longer silence for a lost connection.
const EVERY: Duration = Duration::from_secs(1);
const AT_LEAST: Duration = Duration::from_secs(4);

/// How much longer than making the board the wait until the next one is, and what each node that is asked adds to it.
const REST: u32 = 10;
const FOR_EACH_NODE: Duration = Duration::from_millis(20);

/// How long a viewer that does not read keeps its place.
const STALLED: Duration = Duration::from_secs(30);

/// How long a viewer has to take the word that it is told no more.
const FAREWELL: Duration = Duration::from_millis(500);

/// The board of one node and those who look at it.
#[derive(Debug)]
pub(super) struct Live {
    source: Arc<Source>,
    board: watch::Sender<Board>,
    places: Arc<Semaphore>,
    wanted: Notify,
    tasks: Tasks,
}

impl Live {
    /// Nobody looks yet. The tasks that this begins are of `tasks`.
    pub(super) fn start(source: Arc<Source>, tasks: &Tasks) -> Arc<Self> {
        let live = Arc::new(Self {
            source,
            board: watch::Sender::new(Board::default()),
            places: Arc::new(Semaphore::new(VIEWERS)),
            wanted: Notify::new(),
            tasks: tasks.clone(),
        });
        tasks.spawn(Arc::clone(&live).run());
        live
    }

    async fn run(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.tasks.signalled() => return,
                () = self.wanted.notified() => {}
            }
            tokio::select! {
                () = self.tasks.signalled() => return,
                () = self.keep_up() => {}
            }
            self.board.send_modify(Board::clear);
        }
    }

    /// Keeps the board up to date for as long as somebody looks.
    async fn keep_up(&self) {
        let (mut own, mut peers, mut opened) = (Samples::default(), Peers::default(), Opened::default());
        // At most one question to each node.
        let mut asks = FuturesUnordered::new();
        let mut next = Instant::now();
        while self.board.receiver_count() > 0 {
            tokio::select! {
                Some(heard) = asks.next() => peers.heard(heard),
                () = sleep_until(next) => {
                    let began = Instant::now();
                    own.push(Figures::of(&self.source));
                    let nodes = self.source.peers.get().map_or_else(Vec::new, |cluster| cluster.peers());
                    asks.extend(peers.update(&nodes));
                    let (head, rows) = rows::all(&self.source, &own, &peers, &mut opened);
                    self.board.send_modify(|board| board.update(head, rows));
                    next = began + pause(nodes.len(), began.elapsed());
                }
            }
        }
    }

    /// Tells a viewer what changes, until it goes away, or may not look any more, or the node leaves.
    async fn tell(
        self: Arc<Self>,
        operator: Operator,
        mut board: watch::Receiver<Board>,
        to: mpsc::Sender<Bytes>,
        _place: OwnedSemaphorePermit,
    ) {
        let (code, why) = tokio::select! {
            () = told(&mut board, &to, |tenant| operator.sees(tenant)) => return,
            () = to.closed() => return,
            lapsed = operator.lapsed() => ("expired_token", lapsed.to_string()),
            () = self.tasks.signalled() => ("leaving", format!("the node {} has left", self.source.node)),
        };
        if let Ok(Ok(room)) = timeout(FAREWELL, to.reserve()).await {
            room.send(event("end", &serde_json::json!({ "code": code, "error": why }).to_string()));
        }
    }
}

/// Tells what changes, for as long as it is taken. What changes while the last event waits is told in one with what follows.
async fn told(
    board: &mut watch::Receiver<Board>,
    to: &mpsc::Sender<Bytes>,
    sees: impl Fn(&TenantId) -> bool,
) {
    let mut seen = 0;
    loop {
        // The board outlives its viewers.
        drop(board.wait_for(|board| board.is_news(seen)).await);
        let Ok(Ok(room)) = timeout(STALLED, to.reserve()).await else { return };
        let board = board.borrow_and_update();
        // Nobody may have kept it up to date since.
        if board.is_news(seen) {
            room.send(event("changes", &board.since(seen, &sees)));
            seen = board.version();
        }
    }
}

/// How long the board stays as it is: the more there is to do for it, the longer.
fn pause(nodes: usize, spent: Duration) -> Duration {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    EVERY.max(spent.saturating_mul(REST)).max(FOR_EACH_NODE.saturating_mul(nodes)).min(AT_LEAST)
}

/// An event as HTML has them (§9.2.5); the text has no line break.
fn event(name: &str, text: &str) -> Bytes {
    format!("event: {name}\ndata: {text}\n\n").into()
}

/// The stream of what changes, from all that there is on.
pub(super) async fn events(
    State(live): State<Arc<Live>>,
    Extension(operator): Extension<Operator>,
    uri: Uri,
) -> Response {
    let query = uri.query().unwrap_or_default();
    let other = query.split('&').find_map(|pair| pair.strip_prefix("node="));
    if let Some(node) = other.filter(|node| *node != live.source.node.as_str()) {
        let error = format!(
            "the stream is of the cluster as the node {} sees it: for what {node:?} sees, ask that one's admin port",
            live.source.node
        );
        return error::answer(StatusCode::BAD_REQUEST, "not_of_another", error);
    }
    let Ok(place) = Arc::clone(&live.places).try_acquire_owned() else {
        let error = format!(
            "{VIEWERS} pages or programs look at the node {} already: close one, or look at another node",
            live.source.node
        );
        return error::answer(StatusCode::SERVICE_UNAVAILABLE, "too_many_viewers", error);
    };
    // One event that has been written, and none behind it.
    let (to, from) = mpsc::channel(1);
    let board = live.board.subscribe();
    live.wanted.notify_one();
    live.tasks.spawn(Arc::clone(&live).tell(operator, board, to, place));
    let events = stream::unfold(from, async |mut from: mpsc::Receiver<Bytes>| {
        let event = from.recv().await?;
        Some((Ok::<_, Infallible>(event), from))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, Body::from_stream(events)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_viewer_that_does_not_read_has_one_event_waiting_and_loses_its_place() {
        let board = watch::Sender::new(Board::default());
        let (to, mut from) = mpsc::channel(1);
        let mut receiver = board.subscribe();
        let mut telling = std::pin::pin!(told(&mut receiver, &to, |_| true));
        let mut goes_on = async || {
            tokio::select! {
                biased;
                () = &mut telling => panic!("it has lost its place already"),
                () = tokio::task::yield_now() => {}
            }
        };
        let update = || board.send_modify(|board| board.update(String::new(), []));
        for _ in 0..100 {
            update();
            goes_on().await;
        }
        let mut version = || {
            let event = from.try_recv().ok()?;
            let text = std::str::from_utf8(&event).unwrap().strip_prefix("event: changes\ndata: ").unwrap();
            serde_json::from_str::<serde_json::Value>(text).unwrap()["version"].as_u64()
        };
        assert_eq!((version(), version()), (Some(1), None));
        goes_on().await;
        assert_eq!((version(), version()), (Some(100), None), "nothing has queued up");
        update();
        goes_on().await;
        update();
        let stalls = Instant::now();
        telling.await;
        assert_eq!(stalls.elapsed(), STALLED);
    }

    #[test]
    fn the_more_there_is_to_do_the_less_often_it_is_done() {
        let ms = Duration::from_millis;
        assert_eq!(pause(0, ms(1)), EVERY);
        assert_eq!(pause(2, ms(99)), EVERY);
        assert_eq!(pause(2, ms(200)), ms(2000));
        assert_eq!(pause(100, ms(1)), ms(2000));
        assert_eq!(pause(10_000, ms(1000)), AT_LEAST);
        assert_eq!(pause(10_000, ms(5000)), AT_LEAST, "a page takes a longer silence for a lost connection");
    }
}
