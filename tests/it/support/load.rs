//! A steady load of requests, of which none may fail.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use adit::drain::Tasks;
use http::StatusCode;
use http_body_util::BodyExt;

use super::{
    client::{Http1, request},
    eventually,
};

const CLIENTS: usize = 4;

/// Clients of one edge that ask, one request after the other, until they are stopped.
#[derive(Debug)]
pub(crate) struct Load {
    tasks: Tasks,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    failed: Vec<String>,
    slowest: Duration,
    /// Clients that have ended as they should: one that panics would otherwise seem to be content.
    ended: usize,
}

impl Load {
    /// Asks for the endpoint `web`, by these methods in turn.
    pub(crate) fn start(edge: SocketAddr, methods: &[&'static str]) -> Self {
        Self::of(edge, methods, &["web".into()])
    }

    /// The same for several endpoints, one after the other.
    pub(crate) fn of(edge: SocketAddr, methods: &[&'static str], endpoints: &[String]) -> Self {
        let load = Self {
            tasks: Tasks::new(),
            stop: Arc::default(),
            answered: Arc::default(),
            seen: Arc::default(),
        };
        for (client, method) in methods.iter().cycle().take(CLIENTS).copied().enumerate() {
            let (stop, answered) = (Arc::clone(&load.stop), Arc::clone(&load.answered));
            let (seen, endpoints) = (Arc::clone(&load.seen), endpoints.to_vec());
            load.tasks.spawn(async move {
                let mut connection = Http1::connect(edge).await;
                let run = rand::random::<u32>();
                for (number, endpoint) in endpoints.iter().cycle().enumerate() {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let content =
                        if method == "POST" { format!("{run}-{client}-{number}") } else { String::new() };
                    let started = Instant::now();
                    let outcome = ask(&mut connection, method, endpoint, content).await;
                    {
                        let mut seen = lock(&seen);
                        seen.slowest = seen.slowest.max(started.elapsed());
                        match outcome {
                            Ok(()) => drop(answered.fetch_add(1, Relaxed)),
                            Err(error) => seen.failed.push(format!("{method} {endpoint}: {error}")),
                        }
                    }
                    if connection.is_closed() {
                        connection = Http1::connect(edge).await;
                    }
                    // A hundred or two a second: the load is there to meet each moment, not to fill the machine.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                lock(&seen).ended += 1;
            });
        }
        load
    }

    pub(crate) async fn goes_on(&self) {
        let before = self.answered.load(Relaxed);
        eventually("requests go on", async || self.answered.load(Relaxed) > before + 100).await;
    }

    /// Ends the load: how many were answered, none having failed, and how long the slowest took.
    #[expect(clippy::print_stdout, reason = "figures for whoever runs this with --nocapture")]
    pub(crate) async fn end(self) -> (usize, Duration) {
        self.stop.store(true, Relaxed);
        self.tasks.wait_empty().await;
        let Seen { failed, slowest, ended } = &*lock(&self.seen);
        let answered = self.answered.load(Relaxed);
        assert!(
            failed.is_empty(),
            "{} of {} failed: {:?}",
            failed.len(),
            answered + failed.len(),
            &failed[..failed.len().min(5)]
        );
        assert_eq!(*ended, CLIENTS, "a client has panicked");
        println!("{answered} requests answered, none failed, the slowest after {slowest:?}");
        (answered, *slowest)
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().expect("nobody panics with it")
}

/// Asks, and says what was wrong with the answer.
async fn ask(connection: &mut Http1, method: &str, endpoint: &str, content: String) -> Result<(), String> {
    let response = connection.send(request(method, endpoint, "/", content)).await;
    let response = response.map_err(|error| error.to_string())?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    if status == StatusCode::OK { Ok(()) } else { Err(String::from_utf8_lossy(&body).into_owned()) }
}
