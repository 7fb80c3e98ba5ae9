//! The one HTTP request at a time that those who look at a node and the demo's checks make.

use anyhow::{Context as _, anyhow};
use http_body::Body;
use hyper::{Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{
    drain::Tasks,
    net::{self, Connection, HostPort},
};

/// Sends a request over a connection of its own, which `tasks` keep until the response has ended.
pub(super) async fn send<B>(
    tasks: &Tasks,
    address: &HostPort,
    request: Request<B>,
) -> anyhow::Result<Response<Incoming>>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let stream = connect(address).await?;
    let answer = exchange(tasks, Connection::Tcp(stream), request).await;
    answer.map_err(|error| anyhow!(error).context(format!("{address} gave no answer")))
}

pub(super) async fn connect(address: &HostPort) -> anyhow::Result<TcpStream> {
    let addresses = address.resolve().await?;
    net::connect(&addresses).await.with_context(|| format!("cannot connect to {address}"))
}

/// Sends a request over a connection, which `tasks` keep until the response has ended.
pub(super) async fn exchange<B>(
    tasks: &Tasks,
    stream: Connection,
    request: Request<B>,
) -> hyper::Result<Response<Incoming>>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tasks.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection broke");
        }
    });
    sender.send_request(request).await
}
