//! How clients come to an endpoint of TCP or UDP: by a port of a node, or by a link of their own.

use std::net::SocketAddr;

use tokio::net::{TcpStream, UdpSocket};
use tokio_util::either::Either;

use crate::{
    client::{Association, Client, DialError, Flow},
    net,
    protocol::EndpointId,
    telemetry,
};

/// A way.
#[derive(Debug, Clone)]
pub enum Way {
    /// A port of a node, `--tcp` or `--udp`.
    Port(SocketAddr),
    /// A link, as forwarders have.
    Link(Client, EndpointId),
}

/// Why there is no flow.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Dial(#[from] DialError),
}

impl OpenError {
    /// What was wrong in a word, and why.
    pub(super) fn kind(&self) -> String {
        let why = telemetry::report(self);
        match self {
            Self::Dial(DialError::Refused(_) | DialError::Busy) => format!("refused: {why}"),
            Self::Io(_) | Self::Dial(_) => format!("cannot connect: {why}"),
        }
    }
}

/// What packets go over.
pub(super) enum Packets {
    Socket(UdpSocket),
    Association(Box<Association>),
}

impl Way {
    /// A stream of bytes to the service.
    pub(super) async fn open(&self) -> Result<Either<TcpStream, Flow>, OpenError> {
        Ok(match self {
            Self::Port(address) => Either::Left(net::connect(&[*address]).await?),
            Self::Link(client, endpoint) => Either::Right(client.dial(endpoint).await?),
        })
    }

    /// The same for packets.
    pub(super) async fn associate(&self) -> Result<Packets, OpenError> {
        Ok(match self {
            Self::Port(address) => {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(address).await?;
                Packets::Socket(socket)
            }
            Self::Link(client, endpoint) => Packets::Association(Box::new(client.associate(endpoint).await?)),
        })
    }
}
