//! UDP sockets with room for bursts.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Once,
};

use socket2::{Domain, Protocol, Socket, Type};

/// What is asked for each direction, in bytes. Linux's default of 208 KiB lost thousands of packets a second to bursts.
const BUFFER: usize = 4 << 20;

/// Binds a UDP socket with large buffers, ready for an asynchronous runtime; `[::]` takes IPv4 too.
///
/// # Errors
/// When the port is taken.
pub fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    enlarge(&socket);
    Ok(socket.into())
}

/// Asks for large buffers and says once, with the cure, when the kernel gives less.
fn enlarge(socket: &Socket) {
    static WARNED: Once = Once::new();
    let asked = socket.set_recv_buffer_size(BUFFER).and_then(|()| socket.set_send_buffer_size(BUFFER));
    let given = socket.recv_buffer_size().and_then(|recv| Ok(recv.min(socket.send_buffer_size()?)));
    match (asked, given) {
        // Linux reports twice what it gives, for its own bookkeeping; others report what they give.
        (Ok(()), Ok(given)) if given >= BUFFER => {}
        (_, given) => WARNED.call_once(|| {
            tracing::warn!(
                asked = BUFFER,
                given = given.unwrap_or_default(),
                "the kernel gives smaller UDP buffers than asked for, and bursts may be lost; \
                 on Linux: sysctl -w net.core.rmem_max={BUFFER} net.core.wmem_max={BUFFER}"
            );
        }),
    }
}
