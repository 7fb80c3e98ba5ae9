//! Connections that switch to a protocol of their own.

use std::{future::Future, net::SocketAddr};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    ok,
    service::{self, Running, read_head},
    soon,
};

/// What such a service answers.
pub(crate) const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x-test\r\n\r\n";

/// A service that switches to a protocol of its own, and goes on with it.
pub(crate) async fn switching<F: Future<Output = ()> + Send + 'static>(
    first: &'static str,
    serve: impl Fn(TcpStream) -> F + Clone + Send + 'static,
) -> Running {
    service::tcp(move |mut stream| {
        let serve = serve.clone();
        async move {
            let head = read_head(&mut stream).await.expect("a request");
            assert!(
                head.contains("upgrade: x-test\r\n") && head.contains("connection: upgrade\r\n"),
                "{head}"
            );
            // In one packet.
            ok(stream.write_all(format!("{SWITCH}{first}").as_bytes()).await);
            serve(stream).await;
        }
    })
    .await
}

/// A connection that has switched to `x-test`, whose first bytes followed the request in the same packet.
pub(crate) async fn switched(edge: SocketAddr, first: &str) -> TcpStream {
    let mut client = ok(TcpStream::connect(edge).await);
    let request = "GET / HTTP/1.1\r\nhost: web.example.com\r\nConnection: Upgrade\r\nUpgrade: x-test\r\n\r\n";
    ok(client.write_all(format!("{request}{first}").as_bytes()).await);
    let head = soon(read_head(&mut client)).await.expect("a response");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: x-test\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
    client
}
