//! TCP through a forwarder, a node and an agent.

use adit::protocol::Kind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Fabric, fabric::TcpPath, ok, service, soon};

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

#[tokio::test]
async fn many_connections_at_once_are_kept_apart() {
    let service = service::echo().await;
    let path = TcpPath::to(service.address).await;
    let talks = (0..100u32).map(async |number| {
        let mut stream = path.connect().await;
        for round in 0..10u32 {
            ok(stream.write_u64(u64::from(number) << 32 | u64::from(round)).await);
            let answer = ok(stream.read_u64().await);
            assert_eq!((answer >> 32, answer & 0xffff_ffff), (number.into(), round.into()));
        }
    });
    soon(futures_util::future::join_all(talks)).await;
    assert_eq!(service.accepted(), 100);
}

#[tokio::test]
async fn a_service_that_speaks_first_is_heard() {
    let service = service::tcp(|mut stream| async move {
        ok(stream.write_all(b"220 ready\r\n").await);
        std::future::pending().await
    })
    .await;
    let path = TcpPath::to(service.address).await;
    let mut greeting = [0; 11];
    ok(soon(path.connect().await.read_exact(&mut greeting)).await);
    assert_eq!(&greeting, b"220 ready\r\n");
}
