//! Clients of HTTP: each keeps one connection and asks one thing after the other, at a [`Pace`](super::Pace).
//!
//! A client and its connection are one task, so that a request needs no other one to wake. Requests are put together from
//! parts that are made once, and bodies are slices of one block.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, TlsStream};

use super::{Clients, Recorder, Ticket, Turns, http3};
use crate::{
    drain::Tasks,
    net::{self, Connection, HostPort},
    telemetry,
};

/// The block that bodies are slices of is so much longer than they are.
const SPARE: usize = 4096;

/// A client that cannot connect waits so long before it tries again.
const AGAIN: Duration = Duration::from_millis(10);

/// The version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS by prior knowledge.
    Http2,
    /// HTTP/3.
    Http3,
}

/// Where a client connects to.
#[derive(Debug, Clone)]
pub struct Target {
    /// A server.
    pub address: HostPort,
    /// For TLS: whom to trust, with the ALPN of the version, and the server's name.
    pub tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
}

impl Target {
    /// Its addresses. Names under `localhost` are this host's own (RFC 6761 §6.3), which not every resolver knows.
    pub(super) async fn resolve(&self) -> Result<Vec<SocketAddr>, net::ResolveError> {
        if is_local(&self.address.host) {
            let port = self.address.port;
            return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
        }
        self.address.resolve().await
    }
}

fn is_local(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.rsplit_once('.').is_some_and(|(_, last)| last.eq_ignore_ascii_case("localhost"))
}

/// What is asked, but for its body.
#[derive(Debug, Clone)]
pub struct Template {
    /// The method.
    pub method: Method,
    /// The target: with a host for HTTP/2 and HTTP/3, without for HTTP/1.1.
    pub uri: Uri,
    /// All headers but those of the body.
    pub headers: HeaderMap,
}

/// What goes up, and what is to come down.
#[derive(Debug, Clone)]
pub enum Body {
    /// Nothing goes up, and whatever comes is taken.
    None,
    /// Bytes of a size, to be sent back. They differ from request to request.
    Echo(Echo),
}

/// Where the bytes of echoes come from.
#[derive(Debug, Clone)]
pub struct Echo {
    block: Bytes,
    size: usize,
}

impl Echo {
    /// Bodies of so many bytes.
    pub fn new(size: usize) -> Self {
        let mut block = vec![0; size + SPARE];
        rand::fill(&mut block[..]);
        Self { block: block.into(), size }
    }

    fn slice(&self, number: u64) -> Bytes {
        // Odd, so that all places have their turn.
        let from = (number.wrapping_mul(2_654_435_761) % SPARE as u64) as usize;
        self.block.slice(from..from + self.size)
    }
}

/// What the clients of a run do.
#[derive(Debug)]
pub struct Load {
    /// Client `i` is one of number `i` modulo their count.
    pub targets: Vec<Target>,
    /// Request `n` is one of number `n` modulo their count.
    pub templates: Vec<Template>,
    /// What is sent.
    pub body: Body,
    /// How.
    pub version: Version,
    /// How many clients.
    pub clients: usize,
    /// How long a request may take.
    pub patience: Duration,
}

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection could be made, and why.
    Connect(String),
    /// The connection ended before the request was sent.
    Stale,
    /// The connection ended before the response had.
    Closed,
    /// The answer was no success.
    Status(StatusCode, Option<String>),
    /// Other bytes came back than were sent.
    WrongBytes,
    /// It took too long.
    TimedOut,
    /// Anything else.
    Protocol,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "cannot connect: {why}"),
            Self::Stale | Self::Closed => f.write_str("closed"),
            Self::Status(status, None) => write!(f, "status {}", status.as_u16()),
            Self::Status(status, Some(code)) => write!(f, "status {} {code}", status.as_u16()),
            Self::WrongBytes => f.write_str("wrong bytes"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Protocol => f.write_str("protocol error"),
        }
    }
}

impl From<hyper::Error> for Fault {
    fn from(error: hyper::Error) -> Self {
        tracing::debug!(%error, "a request failed");
        if error.is_canceled() {
            Self::Stale
        } else if error.is_parse() || error.is_user() {
            Self::Protocol
        } else {
            Self::Closed
        }
    }
}

impl Load {
    /// Runs all clients to the end of their turns. Dropping the future ends them at once.
    pub async fn run(self: &Arc<Self>, turns: Arc<Turns>, recorder: &Arc<Recorder>) {
        let clients = Clients(Tasks::new());
        for index in 0..self.clients {
            let (load, turns, recorder) = (Arc::clone(self), Arc::clone(&turns), Arc::clone(recorder));
            // Its connections' tasks are not among those that are waited for.
            let tasks = Tasks::new();
            clients.0.spawn(async move {
                let mut client =
                    Client { load: &load, target: index % load.targets.len(), connection: None, tasks };
                while let Some(ticket) = turns.next().await {
                    client.turn(ticket, &recorder).await;
                }
            });
        }
        clients.0.wait_empty().await;
        recorder.failed_times(
            Instant::now(),
            "not sent in time: the rate is too high",
            turns.pace().unsent(),
        );
    }
}

/// One client.
struct Client<'a> {
    load: &'a Load,
    target: usize,
    connection: Option<Http>,
    tasks: Tasks,
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

impl Client<'_> {
    async fn turn(&mut self, ticket: Ticket, recorder: &Recorder) {
        let asked = tokio::time::timeout(self.load.patience, self.ask(ticket.number)).await;
        match asked.unwrap_or(Err(Fault::TimedOut)) {
            Ok(bytes) => recorder.good(ticket.due, Instant::now(), bytes),
            Err(fault) => {
                recorder.failed(Instant::now(), &fault.to_string());
                self.connection = None;
                if matches!(fault, Fault::Connect(_)) {
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Asks, on a new connection if there is none; once more if the one there was had ended before.
    async fn ask(&mut self, number: u64) -> Result<u64, Fault> {
        if let Some(connection) = &mut self.connection {
            match connection.ask(self.load, number).await {
                Err(Fault::Stale) => {}
                asked => return asked,
            }
        }
        let target = &self.load.targets[self.target];
        let made = Http::connect(target, self.load.version, &self.tasks).await;
        let made = made.map_err(|error| Fault::Connect(telemetry::report(&error)))?;
        self.connection.insert(made).ask(self.load, number).await
    }
}

/// One connection.
enum Http {
    /// HTTP/1.1 and HTTP/2.
    Hyper {
        sender: Sender,
        /// Drives the connection; `None` once it has ended.
        driver: Option<Driver>,
    },
    /// HTTP/3.
    Quic(http3::Connection),
}

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

enum Sender {
    Http1(conn::http1::SendRequest<Full<Bytes>>),
    Http2(conn::http2::SendRequest<Full<Bytes>>),
}

/// Runs what a connection of HTTP/2 has beside it.
#[derive(Clone)]
struct Beside(Tasks);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Beside {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

impl Http {
    async fn connect(target: &Target, version: Version, tasks: &Tasks) -> Result<Self, ConnectError> {
        match version {
            Version::Http1 | Version::Http2 => Self::over_tcp(target, version, tasks).await,
            Version::Http3 => http3::Connection::to(target, tasks).await.map(Self::Quic),
        }
    }

    async fn over_tcp(target: &Target, version: Version, tasks: &Tasks) -> Result<Self, ConnectError> {
        let addresses = target.resolve().await?;
        let stream = net::connect(&addresses).await?;
        let stream = match &target.tls {
            None => Connection::Tcp(stream),
            Some((tls, name)) => {
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name.clone(), stream).await?;
                Connection::Tls(Box::new(TlsStream::Client(stream)))
            }
        };
        let io = TokioIo::new(stream);
        let (sender, driver): (_, Driver) = if version == Version::Http1 {
            let (sender, driver) = conn::http1::handshake(io).await?;
            (Sender::Http1(sender), Box::pin(driver))
        } else {
            let (sender, driver) = conn::http2::handshake(Beside(tasks.clone()), io).await?;
            (Sender::Http2(sender), Box::pin(driver))
        };
        Ok(Self::Hyper { sender, driver: Some(driver) })
    }

    /// Asks, and checks what comes. Returns the bytes that were carried, both ways.
    async fn ask(&mut self, load: &Load, number: u64) -> Result<u64, Fault> {
        let template = &load.templates[(number % load.templates.len() as u64) as usize];
        let body = match &load.body {
            Body::None => None,
            Body::Echo(echo) => Some(echo.slice(number)),
        };
        match self {
            Self::Quic(connection) => connection.ask(template, body).await,
            Self::Hyper { sender, driver } => {
                let mut answer = pin!(sender.ask(template, body));
                if let Some(running) = driver {
                    tokio::select! {
                        biased;
                        asked = &mut answer => return asked,
                        // What it has read already is still to be taken.
                        _ended = running => *driver = None,
                    }
                }
                answer.await
            }
        }
    }
}

impl Sender {
    async fn ask(&mut self, template: &Template, body: Option<Bytes>) -> Result<u64, Fault> {
        let mut request = Request::new(Full::new(body.clone().unwrap_or_default()));
        request.method_mut().clone_from(&template.method);
        request.uri_mut().clone_from(&template.uri);
        request.headers_mut().clone_from(&template.headers);
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await.map_err(|_| Fault::Stale)?;
                sender.send_request(request).await?
            }
            Self::Http2(sender) => {
                sender.ready().await.map_err(|_| Fault::Stale)?;
                sender.send_request(request).await?
            }
        };
        check(response, body.as_ref()).await
    }
}

async fn check(response: Response<Incoming>, expected: Option<&Bytes>) -> Result<u64, Fault> {
    let fault = fault(&response);
    let mut body = response.into_body();
    let mut checker = Checker::new(expected);
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        if let Ok(data) = frame.map_err(|_| Fault::Closed)?.into_data() {
            checker.take(&data);
        }
    }
    fault.map_or_else(|| checker.end(), Err)
}

/// What the head of a response says was wrong.
pub(super) fn fault<B>(response: &Response<B>) -> Option<Fault> {
    let status = response.status();
    let code = response.headers().get("x-adit-error").and_then(|code| code.to_str().ok());
    (!status.is_success()).then(|| Fault::Status(status, code.map(str::to_owned)))
}

/// Compares a response's body with what was sent, as it comes.
pub(super) struct Checker<'a> {
    expected: Option<&'a [u8]>,
    came: usize,
    good: bool,
}

impl<'a> Checker<'a> {
    pub(super) fn new(expected: Option<&'a Bytes>) -> Self {
        Self { expected: expected.map(|bytes| &bytes[..]), came: 0, good: true }
    }

    pub(super) fn take(&mut self, data: &[u8]) {
        if let Some(expected) = self.expected {
            self.good &= expected.get(self.came..self.came + data.len()) == Some(data);
        }
        self.came += data.len();
    }

    /// The bytes that went both ways.
    pub(super) fn end(self) -> Result<u64, Fault> {
        let sent = self.expected.map_or(0, <[u8]>::len);
        let whole = self.expected.is_none() || sent == self.came;
        if self.good && whole { Ok((sent + self.came) as u64) } else { Err(Fault::WrongBytes) }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Resolve(#[from] net::ResolveError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Quic(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_under_localhost_are_local() {
        assert!(["web.localhost", "a.b.LocalHost", "web.localhost."].into_iter().all(is_local));
        assert!(!["localhost", "localhost.example.com", "web.notlocalhost", ""].into_iter().any(is_local));
    }

    #[test]
    fn echoes_are_checked_byte_for_byte() {
        let echo = Echo::new(100);
        let sent = echo.slice(7);
        let came = |parts: &[&[u8]]| {
            let mut checker = Checker::new(Some(&sent));
            parts.iter().for_each(|part| checker.take(part));
            checker.end()
        };
        assert_eq!(came(&[&sent[..40], &sent[40..]]), Ok(200));
        assert_eq!(came(&[&sent[..40]]), Err(Fault::WrongBytes), "too short");
        assert_eq!(came(&[&sent, b"x"]), Err(Fault::WrongBytes), "too long");
        assert_eq!(came(&[&echo.slice(8)]), Err(Fault::WrongBytes), "another request's");
        let mut checker = Checker::new(None);
        checker.take(b"anything");
        assert_eq!(checker.end(), Ok(8), "where nothing is expected, anything is good");
    }
}
