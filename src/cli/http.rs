//! The one HTTP request at a time that `status` and the demo's checks make.

use anyhow::{Context as _, anyhow};
use http_body::Body;
use hyper::{Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;

use crate::{
    drain::Tasks,
    net::{self, HostPort},
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
    let addresses = address.resolve().await?;
    let stream = net::connect(&addresses).await.with_context(|| format!("cannot connect to {address}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tasks.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection broke");
        }
    });
    sender
        .send_request(request)
        .await
        .map_err(|error| anyhow!(error).context(format!("{address} gave no answer")))
}
