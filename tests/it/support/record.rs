//! A service that keeps each byte that it gets, as it came.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use adit::{agent::Agent, protocol::Kind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Fabric,
    client::get,
    cluster::Nodes,
    eventually,
    service::{self, Running},
};

/// One request, which has its connection for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) bytes: String,
    pub(crate) end: End,
}

/// How a request's connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Open,
    Closed,
    Reset,
}

impl Record {
    /// The request in one line: its own, its fields in order, and its body as it was framed. Of the edge's own fields there
    /// must be one each, and they are left out.
    pub(crate) fn plain(&self, host: &str) -> String {
        let (head, body) = self.bytes.split_once("\r\n\r\n").expect("a head is complete");
        let mut lines: Vec<&str> = head.split("\r\n").collect();
        assert!(lines.iter().all(|line| !line.contains(['\r', '\n'])), "{head:?}");
        for own in [
            "x-forwarded-for: 127.0.0.1".to_owned(),
            "x-forwarded-proto: http".to_owned(),
            format!("x-forwarded-host: {host}"),
            format!("forwarded: for=127.0.0.1;proto=http;host={host}"),
        ] {
            let count = lines.len();
            lines.retain(|line| *line != own);
            assert_eq!(count - lines.len(), 1, "{own} in {head:?}");
        }
        lines[1..].sort_unstable();
        format!("{} || {body}", lines.join(" | "))
    }
}

/// The service as the endpoint `web`, what it has got so far, and an edge that ends by itself whatever waits for more.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) edge: SocketAddr,
    records: Arc<Mutex<Vec<Arc<Mutex<Record>>>>>,
    _service: Running,
    _agent: Agent,
    _nodes: Vec<Fabric>,
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        Self::behind(vec![Fabric::with(impatient).await]).await
    }

    /// The same, for what is whole and so waits for nothing: an edge that gives it more time than it needs anywhere.
    pub(crate) async fn patient() -> Self {
        let patient = |config: &mut adit::node::Config| {
            let limits = &mut config.edge.limits;
            limits.head_timeout = Duration::from_secs(2);
            limits.idle_timeout = Duration::from_secs(2);
            limits.stall_timeout = Some(Duration::from_secs(4));
        };
        Self::behind(vec![Fabric::with(patient).await]).await
    }

    /// The same, behind another node than the one that it is asked through.
    pub(crate) async fn behind_another_node() -> Self {
        Self::behind(Nodes::with(2, impatient).await.all).await
    }

    async fn behind(nodes: Vec<Fabric>) -> Self {
        let records = Arc::<Mutex<Vec<_>>>::default();
        let kept = Arc::clone(&records);
        let service = service::tcp(move |stream| {
            let record = Arc::new(Mutex::new(Record { bytes: String::new(), end: End::Open }));
            kept.lock().unwrap().push(Arc::clone(&record));
            keep(stream, record)
        })
        .await;
        let (first, last) = (nodes.first().expect("there is one"), nodes.last().expect("there is one"));
        let agent = first.agent("web", Kind::Http, service.address).await;
        let edge = last.addresses.edge;
        eventually("the endpoint is served", async || get(edge, "web", "/").await.status == 200).await;
        let recorder = Self { edge, records, _service: service, _agent: agent, _nodes: nodes };
        recorder.take().await;
        recorder
    }

    /// Whether something has come that ends like this.
    pub(crate) fn has(&self, end: &str) -> bool {
        self.records.lock().unwrap().iter().any(|record| record.lock().unwrap().bytes.ends_with(end))
    }

    /// All that has come since this was asked last, once each connection has ended.
    pub(crate) async fn take(&self) -> Vec<Record> {
        let records = std::mem::take(&mut *self.records.lock().unwrap());
        eventually("the service's connections have ended", async || {
            records.iter().all(|record| record.lock().unwrap().end != End::Open)
        })
        .await;
        records.iter().map(|record| record.lock().unwrap().clone()).collect()
    }
}

fn impatient(config: &mut adit::node::Config) {
    let limits = &mut config.edge.limits;
    limits.head_timeout = Duration::from_millis(300);
    limits.idle_timeout = Duration::from_millis(300);
    limits.stall_timeout = Some(Duration::from_millis(700));
}

/// Reads to the end, and answers once there is a whole request; what comes behind it is kept as well.
async fn keep(mut stream: TcpStream, record: Arc<Mutex<Record>>) {
    let mut chunk = [0; 4096];
    let mut answered = false;
    loop {
        let read = stream.read(&mut chunk).await;
        let complete = {
            let mut record = record.lock().unwrap();
            match read {
                Ok(0) => return record.end = End::Closed,
                Err(_) => return record.end = End::Reset,
                // Nothing here sends what is no text.
                Ok(len) => record.bytes += &String::from_utf8_lossy(&chunk[..len]),
            }
            is_complete(&record.bytes)
        };
        if complete && !answered {
            answered = true;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            // Its client may have gone, which the next read tells.
            drop(stream.write_all(answer).await);
        }
    }
}

/// Whether a request is complete for whoever believes only what is plain: a length, or chunks as hyper writes them.
fn is_complete(bytes: &str) -> bool {
    let Some((head, body)) = bytes.split_once("\r\n\r\n") else { return false };
    let field = |name| head.lines().find_map(|line: &str| line.strip_prefix(name));
    match (field("content-length: "), field("transfer-encoding: ")) {
        (_, Some(_)) => body.starts_with("0\r\n") || body.contains("\r\n0\r\n"),
        (Some(length), None) => length.parse().is_ok_and(|length: usize| body.len() >= length),
        (None, None) => true,
    }
}
