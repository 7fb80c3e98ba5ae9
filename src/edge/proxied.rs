//! Whose connection it is: that of the socket's other end or, where a listed balancer has that, of whom its PROXY protocol
//! header names.
//!
//! Driven by `connection`, before anything else is read. From listed addresses the header is required, from all others it is
//! never read: whoever could choose would choose whom to be.

use std::{io, net::SocketAddr};

use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader};
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::{Shared, connection::HANDSHAKE};

/// The longest header, in bytes. Balancers that end TLS may send a client's certificate in one.
const MAX_HEADER: usize = 4096;

/// The longest of version 1, which is a line. The crate takes a longer one if it comes at once.
const MAX_LINE: usize = 107;

/// What is read: what else balancers say of a connection is skipped.
const READ: ParseConfig = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };

/// Both ends of a client's connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) client: SocketAddr,
    /// Where the client connected to, if that is known.
    pub(super) server: Option<SocketAddr>,
}

/// Finds out whose connection it is; nothing when its balancer does not say so.
pub(super) async fn ends(stream: &mut TcpStream, peer: SocketAddr, shared: &Shared) -> Option<Ends> {
    let own = Ends { client: peer, server: stream.local_addr().ok() };
    if !shared.balancers.iter().any(|network| network.contains(&peer.ip())) {
        return Some(own);
    }
    match tokio::time::timeout(HANDSHAKE, read(stream)).await.unwrap_or(Err(HeaderError::Late)) {
        Ok(Some(proxied)) => {
            let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
            let (client, server) = (canonical(proxied.source), Some(canonical(proxied.destination)));
            Some(Ends { client, server })
        }
        // The balancer's own, as for a health check.
        Ok(None) => Some(own),
        Err(error) => {
            tracing::debug!(balancer = %peer, %error, "a connection was refused");
            shared.counters.refused("proxy_header");
            None
        }
    }
}

/// Reads a header and not a byte more: what follows is the client's.
async fn read(stream: &mut TcpStream) -> Result<Option<ProxiedAddress>, HeaderError> {
    let mut bytes = vec![0; MAX_HEADER];
    let mut had = 0;
    while had < MAX_HEADER {
        let has = had + stream.peek(&mut bytes[had..]).await?;
        if has == had {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match ProxyHeader::parse(&bytes[..has], READ) {
            Ok((_, len)) if bytes[0] == b'P' && len > MAX_LINE => return Err(HeaderError::TooLong),
            Ok((header, len)) => {
                let proxied = header.proxied_address().cloned();
                stream.read_exact(&mut bytes[had..len]).await?;
                return Ok(proxied);
            }
            Err(proxy_header::Error::BufferTooShort) => {}
            Err(error) => return Err(HeaderError::Malformed(error)),
        }
        stream.read_exact(&mut bytes[had..has]).await?;
        had = has;
    }
    Err(HeaderError::TooLong)
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
enum HeaderError {
    #[error("it does not begin with a PROXY protocol header: {0}")]
    Malformed(proxy_header::Error),
    #[error("its PROXY protocol header is longer than {MAX_HEADER} bytes, or {MAX_LINE} in version 1")]
    TooLong,
    #[error("its PROXY protocol header was not there within {HANDSHAKE:?}")]
    Late,
    #[error("it broke before its PROXY protocol header: {0}")]
    Io(#[from] io::Error),
}
