//! What a node tells, read for as long as somebody takes it; when the connection is lost, it is made again and again.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::{sync::mpsc, time::timeout};

use super::{board::Changes, events::Events};
use crate::{
    cli::operator::{Admin, Url},
    client::Backoff,
    drain::Tasks,
};

const PATH: &str = "/api/v1/events";

/// How long a node has to begin its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The node tells something every few seconds; the connection is lost when it does not for so long.
const SILENCE: Duration = Duration::from_secs(15);

/// How long it waits before it connects again.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(8) };

/// What is heard of the node.
#[derive(Debug)]
pub(super) enum Heard {
    Changes(Box<Changes>),
    /// Nothing more until it is connected to again, and why.
    Lost(String),
}

/// The first connection, and how to make others.
#[derive(Debug)]
pub(super) struct Feed {
    admin: Admin,
    stream: Stream,
}

/// One connection.
#[derive(Debug)]
struct Stream {
    body: Incoming,
    events: Events,
    tasks: Tasks,
}

/// Why the node tells no more.
#[derive(Debug, Deserialize)]
struct End {
    error: String,
}

impl Feed {
    /// Connects.
    pub(super) async fn open(admin: Admin) -> anyhow::Result<Self> {
        let stream = Stream::open(&admin).await?;
        Ok(Self { admin, stream })
    }

    pub(super) fn url(&self) -> &Url {
        self.admin.url()
    }

    /// Tells what is heard, until nobody wants to know it any more.
    pub(super) async fn run(self, to: mpsc::Sender<Heard>) {
        let Self { admin, stream } = self;
        tokio::select! {
            () = to.closed() => {}
            () = tell(&admin, stream, &to) => {}
        }
    }
}

async fn tell(admin: &Admin, first: Stream, to: &mpsc::Sender<Heard>) {
    let mut next = Ok(first);
    let mut failures = 0;
    loop {
        let why = match next {
            Ok(mut stream) => loop {
                match stream.next().await {
                    Ok(changes) => {
                        failures = 0;
                        // Who has gone is noticed where this is called.
                        drop(to.send(Heard::Changes(Box::new(changes))).await);
                    }
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        drop(to.send(Heard::Lost(format!("{why:#}"))).await);
        tokio::time::sleep(AGAIN.wait(failures, rand::random())).await;
        failures = failures.saturating_add(1);
        next = Stream::open(admin).await;
    }
}

impl Stream {
    async fn open(admin: &Admin) -> anyhow::Result<Self> {
        let tasks = Tasks::new();
        let opened = timeout(PATIENCE, admin.get(&tasks, PATH)).await;
        let response = opened
            .unwrap_or_else(|_| bail!("it did not answer within {PATIENCE:?}"))
            .with_context(|| format!("no events from {}", admin.url()))?;
        Ok(Self { body: response.into_body(), events: Events::default(), tasks })
    }

    /// What has changed.
    async fn next(&mut self) -> anyhow::Result<Changes> {
        timeout(SILENCE, self.read())
            .await
            .unwrap_or_else(|_| Err(anyhow!("the node has said nothing for {SILENCE:?}")))
    }

    async fn read(&mut self) -> anyhow::Result<Changes> {
        loop {
            if let Some(event) = self.events.next() {
                let event = event?;
                match event.name.as_str() {
                    "changes" => {
                        return serde_json::from_str(&event.data)
                            .context("the node tells what this version of adit does not understand");
                    }
                    "end" => {
                        let end: End = serde_json::from_str(&event.data)?;
                        bail!(end.error);
                    }
                    // A newer node may tell more.
                    _ => continue,
                }
            }
            let Some(frame) = self.body.frame().await else { bail!("the node has closed the connection") };
            // Trailers say nothing here.
            if let Ok(bytes) = frame.context("the connection broke")?.into_data() {
                self.events.push(&bytes);
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}
