//! New flows: each is opened, sends a few bytes to an echo, and ends when they are back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Clients, Recorder, Turns, Way, stream::ask_echo};
use crate::drain::Tasks;

/// What is sent.
const FIRST: [u8; 8] = *b"adit/seq";

/// What the clients of a run do.
#[derive(Debug)]
pub struct Flows {
    /// Client `i` goes by way number `i` modulo their count.
    pub ways: Vec<Way>,
    /// How many are opened at once.
    pub clients: usize,
    /// How long one may take.
    pub patience: Duration,
}

impl Flows {
    /// Runs all clients to the end of their turns. A latency is the time to the first byte: until what was sent is back.
    /// Dropping the future ends them at once.
    pub async fn run(self: &Arc<Self>, turns: Arc<Turns>, recorder: &Arc<Recorder>) {
        let tasks = Clients(Tasks::new());
        for index in 0..self.clients {
            let (flows, turns, recorder) = (Arc::clone(self), Arc::clone(&turns), Arc::clone(recorder));
            tasks.0.spawn(async move {
                let way = &flows.ways[index % flows.ways.len()];
                while let Some(ticket) = turns.next().await {
                    let one = tokio::time::timeout(flows.patience, one(way, ticket.due, &recorder)).await;
                    if let Err(kind) = one.unwrap_or_else(|_| Err("timed out".into())) {
                        recorder.failed(Instant::now(), &kind);
                    }
                }
            });
        }
        tasks.0.wait_empty().await;
        recorder.failed_times(
            Instant::now(),
            "not sent in time: the rate is too high",
            turns.pace().unsent(),
        );
    }
}

async fn one(way: &Way, due: Instant, recorder: &Recorder) -> Result<(), String> {
    let mut flow = way.open().await.map_err(|error| error.kind())?;
    let broken = |error: std::io::Error| {
        tracing::debug!(%error, "a flow broke");
        "closed".to_owned()
    };
    ask_echo(&mut flow, &FIRST).await.map_err(broken)?;
    let mut back = [0; FIRST.len()];
    flow.read_exact(&mut back).await.map_err(broken)?;
    let now = Instant::now();
    flow.shutdown().await.map_err(broken)?;
    let rest = flow.read(&mut [0; 1]).await.map_err(broken)?;
    if back != FIRST || rest > 0 {
        return Err("wrong bytes".into());
    }
    recorder.good(due, now, FIRST.len() as u64 * 2);
    Ok(())
}
