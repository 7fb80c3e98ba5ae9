//! The demo's checks: real traffic through the tunnel, each kind once, and what came of it in a line.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures_util::{FutureExt, future::BoxFuture};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    http::request::Builder,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::super::{http, say};
use crate::{drain::Tasks, net::HostPort};

/// How long each check has. All of them take milliseconds where nothing is wrong.
const PATIENCE: Duration = Duration::from_secs(15);

/// What `/echo` is sent, in bytes.
const UPLOAD: usize = 1 << 20;

/// Runs all checks and tells of each. Whether all passed.
pub(super) async fn run(edge: SocketAddr, forwarded: SocketAddr) -> bool {
    let to =
        Edge { tasks: Tasks::new(), address: HostPort { host: edge.ip().to_string(), port: edge.port() } };
    let checks: [(&str, BoxFuture<'_, anyhow::Result<String>>); 6] = [
        ("GET / by the header x-adit-endpoint", to.by_header().boxed()),
        ("GET / by the host hello.localhost", to.by_host().boxed()),
        ("POST /echo, 1 MiB up and down", to.upload().boxed()),
        ("GET /events, the first of a stream", to.events().boxed()),
        ("GET / for an endpoint nobody serves", to.nobody().boxed()),
        ("TCP through the forwarder, half-closed", tcp(forwarded).boxed()),
    ];
    say("\nTraffic through the tunnel:\n");
    let mut passed = true;
    for (name, check) in checks {
        let started = Instant::now();
        let result = tokio::time::timeout(PATIENCE, check).await;
        let took = started.elapsed().as_millis();
        match result.unwrap_or_else(|_| bail!("nothing came within {PATIENCE:?}")) {
            Ok(detail) => say(format_args!("ok      {name:<40} {detail} in {took} ms")),
            Err(error) => {
                passed = false;
                say(format_args!("FAILED  {name:<40} {error:#}"));
            }
        }
    }
    to.tasks.abort();
    passed
}

/// A node's edge.
struct Edge {
    tasks: Tasks,
    address: HostPort,
}

impl Edge {
    async fn by_header(&self) -> anyhow::Result<String> {
        self.page(
            Request::get("/").header("host", self.address.to_string()).header("x-adit-endpoint", "hello"),
        )
        .await
    }

    async fn by_host(&self) -> anyhow::Result<String> {
        self.page(Request::get("/").header("host", format!("hello.localhost:{}", self.address.port))).await
    }

    async fn page(&self, request: Builder) -> anyhow::Result<String> {
        let response = self.send(request, Empty::<Bytes>::new()).await?;
        let status = response.status();
        let page = response.into_body().collect().await?.to_bytes();
        let page = String::from_utf8_lossy(&page);
        ensure!(status == StatusCode::OK, "the answer is {status}: {page}");
        ensure!(page.contains("x-forwarded-for"), "the service was not told the client's address");
        Ok("200".into())
    }

    async fn upload(&self) -> anyhow::Result<String> {
        let sent: Bytes = (0..UPLOAD).map(|index| (index * 31 % 251) as u8).collect();
        let response = self.send(self.hello("POST", "/echo"), Full::new(sent.clone())).await?;
        ensure!(response.status() == StatusCode::OK, "the answer is {}", response.status());
        let back = response.into_body().collect().await?.to_bytes();
        ensure!(back.len() == sent.len(), "{} bytes of {} came back", back.len(), sent.len());
        ensure!(back == sent, "other bytes came back than were sent");
        Ok("200, the same bytes".into())
    }

    async fn events(&self) -> anyhow::Result<String> {
        let response = self.send(self.hello("GET", "/events"), Empty::<Bytes>::new()).await?;
        ensure!(response.status() == StatusCode::OK, "the answer is {}", response.status());
        let mut body = response.into_body();
        let mut text = String::new();
        while !text.contains("\n\n") {
            let frame = body.frame().await.context("the stream ended before its first event")??;
            text.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap_or(&Bytes::new())));
        }
        ensure!(text.contains("data: second 0"), "the first event is {text:?}");
        Ok("200, an event".into())
    }

    async fn nobody(&self) -> anyhow::Result<String> {
        let request =
            Request::get("/").header("host", self.address.to_string()).header("x-adit-endpoint", "nobody");
        let response = self.send(request, Empty::<Bytes>::new()).await?;
        ensure!(response.status() == StatusCode::BAD_GATEWAY, "the answer is {}, not 502", response.status());
        let code = response.headers().get("x-adit-error").context("the answer has no x-adit-error")?;
        Ok(format!("502 {}", String::from_utf8_lossy(code.as_bytes())))
    }

    fn hello(&self, method: &str, path: &str) -> Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("x-adit-endpoint", "hello")
    }

    async fn send<B>(&self, request: Builder, body: B) -> anyhow::Result<Response<Incoming>>
    where
        B: hyper::body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
    {
        http::send(&self.tasks, &self.address, request.body(body)?).await
    }
}

/// All of what is sent comes back after this side has said that it will send no more.
async fn tcp(forwarded: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(forwarded).await.context("cannot connect to the forwarder")?;
    let sent = b"hello through the tunnel\n";
    stream.write_all(sent).await?;
    stream.shutdown().await?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.context("the connection broke")?;
    ensure!(back == sent, "{:?} came back", String::from_utf8_lossy(&back));
    Ok(format!("{} bytes and the end", back.len()))
}
