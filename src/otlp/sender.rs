//! Takes spans out of the queue, many at a time, and has the receiver take them.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    Counters, Receiver, Resource, encode,
    receiver::{Connection, ExportError},
};
use crate::{
    drain::Tasks,
    telemetry::{
        self,
        trace::{Finished, Queue},
    },
};

/// How many spans a request has at most, and how long the first of them waits for others: what SDKs of OpenTelemetry do, but
/// that spans are seen sooner.
const BATCH: usize = 512;
const WAIT: Duration = Duration::from_secs(1);

/// How long the receiver has to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// After how long spans are sent again that may be taken later, and again. Then they are dropped.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// Sends what is in the queue until whoever owns this leaves, and then what is still there.
pub(super) async fn send(
    receiver: Receiver,
    resource: Resource,
    mut queue: Queue,
    counters: Counters,
    tasks: Tasks,
) {
    let connections = Tasks::new();
    let mut sender = Sender {
        connection: Connection::new(receiver, connections.clone()),
        resource,
        counters,
        tasks,
        failing: false,
    };
    let mut batch = Vec::new();
    while sender.fill(&mut queue, &mut batch).await {
        sender.send(std::mem::take(&mut batch)).await;
    }
    connections.abort();
}

struct Sender {
    connection: Connection,
    resource: Resource,
    counters: Counters,
    /// Signalled when the process leaves.
    tasks: Tasks,
    /// Whether the last spans were not taken, so that a receiver that is gone is one line of the log.
    failing: bool,
}

impl Sender {
    /// Waits for spans; false when there are none and will be none.
    async fn fill(&self, queue: &mut Queue, batch: &mut Vec<Finished>) -> bool {
        tokio::select! {
            biased;
            received = queue.recv_many(batch, BATCH) => if received == 0 { return false },
            // None that comes later is waited for.
            () = self.tasks.signalled() => queue.close(),
        }
        let more =
            async { while batch.len() < BATCH && queue.recv_many(batch, BATCH - batch.len()).await > 0 {} };
        tokio::select! {
            _ = timeout(WAIT, more) => {}
            () = self.tasks.signalled() => {}
        }
        true
    }

    async fn send(&mut self, batch: Vec<Finished>) {
        let spans = batch.len() as u64;
        if spans == 0 {
            return;
        }
        let request = encode::request(&self.resource, batch);
        let mut again = AGAIN.into_iter();
        let refused = loop {
            let error = match timeout(ANSWER, self.connection.export(request.clone())).await {
                Ok(Ok(refused)) => break refused.min(spans),
                Ok(Err(error)) => Some(error),
                Err(_) => None,
            };
            let passing = error.as_ref().is_none_or(ExportError::is_passing);
            self.failed(error.as_ref());
            let pause = again.next().filter(|_| passing && !self.tasks.is_signalled());
            let Some(pause) = pause else { break spans };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.tasks.signalled() => {}
            }
        };
        if refused == 0 && std::mem::take(&mut self.failing) {
            tracing::info!("spans are taken again");
        }
        self.counters.exported.inc_by(spans - refused);
        self.counters.dropped.inc_by(refused);
    }

    fn failed(&mut self, error: Option<&ExportError>) {
        let error = error.map_or_else(
            || format!("the receiver did not answer within {ANSWER:?}"),
            |error| telemetry::report(error),
        );
        if self.failing {
            return tracing::debug!(error, "spans are still not taken");
        }
        self.failing = true;
        tracing::warn!(error, "spans are not taken: those that cannot wait are dropped and counted");
    }
}
