//! How PostgreSQL begins TLS: the client asks with `SSLRequest` and waits for an `S`, instead of beginning at once.
//!
//! Driven by `sni`. Which service a client wants is only in what it sends behind the `S`. So the node agrees in the
//! service's place, and has the service agree once it knows which.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// Its length, 8, and its number, 80877103: no version of the protocol ("SSLRequest" in PostgreSQL's Message Formats).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The same for GSSAPI, which a client with a Kerberos ticket asks for first.
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// Whether a client speaks PostgreSQL. If so, it begins TLS after this; if not, nothing of it has been read.
pub(super) async fn answer(client: &mut TcpStream) -> io::Result<bool> {
    let mut first = [0];
    if client.peek(&mut first).await? == 1 && first[0] != SSL_REQUEST[0] {
        return Ok(false);
    }
    loop {
        let mut request = [0; 8];
        client.read_exact(&mut request).await?;
        match request {
            SSL_REQUEST => {
                client.write_all(b"S").await?;
                return Ok(true);
            }
            GSS_REQUEST => client.write_all(b"N").await?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "neither TLS nor a request for it")),
        }
    }
}

/// Has a service agree to TLS.
pub(super) async fn ask(service: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    service.write_all(&SSL_REQUEST).await?;
    service.flush().await?;
    match service.read_u8().await? {
        b'S' => Ok(()),
        other => Err(io::Error::other(format!("it answered {:?}", char::from(other)))),
    }
}
