//! WebSocket clients and services.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, client::IntoClientRequest, handshake::client::Response},
};

use super::{
    ok,
    service::{self, Running},
};

/// Sends back each message, and takes part in the closing handshake.
pub(crate) async fn echo() -> Running {
    service::tcp(|stream| async move {
        let mut socket = ok(tokio_tungstenite::accept_async(stream).await);
        while let Some(Ok(message)) = socket.next().await {
            if !message.is_close() {
                ok(socket.send(message).await);
            }
        }
    })
    .await
}

/// Opens a WebSocket to an endpoint's service.
pub(crate) async fn connect(
    edge: SocketAddr,
    endpoint: &str,
) -> Result<(WebSocketStream<TcpStream>, Response), tungstenite::Error> {
    connect_over(ok(TcpStream::connect(edge).await), endpoint).await
}

/// The same over a connection that stands.
pub(crate) async fn connect_over<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    endpoint: &str,
) -> Result<(WebSocketStream<S>, Response), tungstenite::Error> {
    let mut request = ok("ws://127.0.0.1/socket".into_client_request());
    request.headers_mut().insert("x-adit-endpoint", ok(endpoint.parse()));
    tokio_tungstenite::client_async(request, stream).await
}
