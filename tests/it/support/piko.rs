//! Clients of TCP as Piko's are: a WebSocket whose binary messages are a byte stream.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, protocol::CloseFrame, protocol::frame::coding::CloseCode},
};

use super::{ok, soon};

/// A client's connection to an endpoint.
#[derive(Debug)]
pub(crate) struct Piko<S>(pub(crate) WebSocketStream<S>);

/// How the node ended a connection.
#[derive(Debug)]
pub(crate) enum End {
    /// With a closing frame.
    Close(u16),
    /// Without.
    Broken(tungstenite::Error),
}

impl Piko<TcpStream> {
    pub(crate) async fn connect(edge: SocketAddr, endpoint: &str) -> Self {
        ok(Self::try_connect(edge, endpoint).await)
    }

    pub(crate) async fn try_connect(edge: SocketAddr, endpoint: &str) -> Result<Self, tungstenite::Error> {
        Self::over(ok(TcpStream::connect(edge).await), endpoint).await
    }

    /// The connection itself, for what no client should do with it.
    pub(crate) fn into_inner(self) -> TcpStream {
        self.0.into_inner()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Piko<S> {
    /// The same over a connection that stands.
    pub(crate) async fn over(stream: S, endpoint: &str) -> Result<Self, tungstenite::Error> {
        let url = format!("ws://127.0.0.1/_piko/v1/tcp/{endpoint}");
        let (socket, _) = soon(tokio_tungstenite::client_async(url, stream)).await?;
        Ok(Self(socket))
    }

    /// Sends bytes in messages of at most so many.
    pub(crate) async fn send(&mut self, bytes: &Bytes, size: usize) {
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let message = rest.split_to(size.min(rest.len()));
            ok(self.0.feed(Message::binary(message)).await);
        }
        ok(self.0.flush().await);
    }

    /// Begins the closing handshake, and goes on reading.
    pub(crate) async fn close(&mut self, code: u16) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
        ok(self.0.send(Message::Close(Some(frame))).await);
    }

    /// The next bytes, or how the node ended it.
    pub(crate) async fn next(&mut self) -> Result<Bytes, End> {
        loop {
            match soon(self.0.next()).await {
                Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
                Some(Ok(Message::Close(frame))) => {
                    return Err(End::Close(frame.map_or(1005, |frame| frame.code.into())));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) => panic!("{other:?}"),
                Some(Err(error)) => return Err(End::Broken(error)),
                None => return Err(End::Broken(tungstenite::Error::ConnectionClosed)),
            }
        }
    }

    /// So many bytes.
    pub(crate) async fn exactly(&mut self, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < len {
            all.extend_from_slice(&self.next().await.expect("there is more"));
        }
        assert_eq!(all.len(), len);
        all
    }

    /// All bytes, and how the node ended it.
    pub(crate) async fn all(&mut self) -> (Vec<u8>, End) {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Ok(bytes) => all.extend_from_slice(&bytes),
                Err(end) => return (all, end),
            }
        }
    }
}

impl End {
    /// The code of the closing frame.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Close(code) => *code,
            Self::Broken(error) => panic!("no closing frame: {error:?}"),
        }
    }

    /// Whether it was a reset of the connection.
    pub(crate) fn is_reset(&self) -> bool {
        matches!(self, Self::Broken(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset)
    }
}

/// A frame of a client as it is on the wire, masked with zeros.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | ok(u8::try_from(payload.len())), 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// Writes bytes as they are.
pub(crate) async fn write(stream: &mut TcpStream, bytes: &[u8]) {
    ok(stream.write_all(bytes).await);
}
