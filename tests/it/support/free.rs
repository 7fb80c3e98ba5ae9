//! Ports of this machine that nobody has.

use tokio::net::{TcpListener, UdpSocket};

use super::ok;

/// A port at which this test has both UDP and TCP: another test may have the TCP port of the number that this one got for UDP.
pub(crate) async fn both() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = ok(UdpSocket::bind("127.0.0.1:0").await);
        match TcpListener::bind(ok(udp.local_addr())).await {
            Ok(tcp) => return (udp, tcp),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse),
        }
    }
    panic!("of a hundred ports for UDP, none was free for TCP");
}
