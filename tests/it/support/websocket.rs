//! WebSocket clients and services.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use hyper::{body::Incoming, ext::Protocol, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, client::IntoClientRequest, handshake::client::Response, protocol::Role},
};

use super::{
    body::full,
    client::{Http2, request},
    ok,
    service::{self, Running},
    soon,
};

/// Sends back each message, and takes part in the closing handshake.
pub(crate) async fn echo() -> Running {
    service::tcp(echo_over).await
}

/// The same on one connection.
pub(crate) async fn echo_over(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut socket = ok(tokio_tungstenite::accept_async(stream).await);
    while let Some(Ok(message)) = socket.next().await {
        if !message.is_close() {
            ok(socket.send(message).await);
        }
    }
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

/// Asks for a connection to a protocol over a stream of HTTP/2 (RFC 8441 §4).
pub(crate) async fn ask_http2(client: &Http2, protocol: &'static str) -> http::Response<Incoming> {
    ask_http2_at(client, protocol, "/socket").await
}

/// The same at another path.
pub(crate) async fn ask_http2_at(
    client: &Http2,
    protocol: &'static str,
    path: &str,
) -> http::Response<Incoming> {
    // What the edge permits is known once its SETTINGS are there.
    client.ask(ok(Request::get("http://nobody.test/").body(full("")))).await;
    let mut connect = request("CONNECT", "web", &format!("http://web.test{path}"), "");
    connect.headers_mut().remove("host");
    connect.headers_mut().insert("sec-websocket-version", ok("13".parse()));
    connect.headers_mut().insert("sec-websocket-protocol", ok("chat".parse()));
    connect.extensions_mut().insert(Protocol::from_static(protocol));
    ok(soon(client.send(connect)).await)
}

/// Opens a WebSocket over a stream of HTTP/2.
pub(crate) async fn connect_http2(client: &Http2) -> WebSocketStream<TokioIo<Upgraded>> {
    connect_http2_at(client, "/socket").await
}

/// The same at another path.
pub(crate) async fn connect_http2_at(client: &Http2, path: &str) -> WebSocketStream<TokioIo<Upgraded>> {
    let response = ask_http2_at(client, "websocket", path).await;
    assert_eq!(response.status(), StatusCode::OK);
    for field in ["connection", "upgrade", "sec-websocket-accept"] {
        assert!(!response.headers().contains_key(field), "{field}");
    }
    let stream = TokioIo::new(ok(soon(hyper::upgrade::on(response)).await));
    WebSocketStream::from_raw_socket(stream, Role::Client, None).await
}
