//! TCP through a forwarder, a node and an agent.

use adit::protocol::Kind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Fabric, ok, service, soon};

#[tokio::test]
async fn bytes_reach_the_service_and_come_back() {
    let fabric = Fabric::start().await;
    let service = service::echo().await;
    let _agent = fabric.agent("echo", Kind::Tcp, service.address).await;
    let (_forwarder, port) = fabric.forwarder("echo").await;
    let mut stream = ok(TcpStream::connect(port).await);
    ok(stream.write_all(b"hello").await);
    let mut answer = [0; 5];
    ok(soon(stream.read_exact(&mut answer)).await);
    assert_eq!(&answer, b"hello");
}
