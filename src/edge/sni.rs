//! TLS that is passed on unopened: the name that a client asks for (SNI, RFC 6066 §3) says which endpoint it is for, and the
//! service's own certificate answers.
//!
//! Driven by `connection`. It reads the first message (ClientHello) with rustls, and all of it goes on to the service; it
//! has no key, and never answers but with an alert.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Shared,
    endpoint::{self, EndpointError, Target},
    entry, postgres,
    proxied::Ends,
    tcp,
};
use crate::{
    access_log::{Ended, Record},
    auth::Pass,
    protocol::{Code, Kind},
    splice::{Prefixed, Side},
    upstream::{Name, OpenFlow},
};

/// How long a client has to say which name it asks for, and a service that speaks PostgreSQL to agree to TLS.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many bytes of a client are kept until it has said it. A ClientHello with post-quantum keys has 2 kB.
const MAX_HELLO: usize = 16 * 1024;

/// The fatal alert `unrecognized_name` as a record of TLS (RFC 8446 §6.2).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Serves a connection that is to begin with TLS.
pub(super) async fn serve(mut stream: TcpStream, ends: Ends, shared: &Shared) {
    let client = ends.client;
    let mut trace = None;
    let record = shared.access_log.flow(&shared.connections, client, Kind::Tcp, &mut trace);
    match open(&mut stream, ends, shared, (&record, trace)).await {
        Ok(Opened { name, flow, hello, pass }) => {
            shared.counters.connection("sni", "joined");
            let side = Prefixed { prefix: hello, side: stream };
            tcp::join(shared, side, flow, &name, client, &pass, &record).await;
        }
        Err(refused) => {
            shared.counters.connection("sni", refused.outcome());
            match &refused {
                Refused::Entry(refused) => refused.log(client, None, &record),
                other => {
                    record.ended(Ended::Service, Some(other.outcome()));
                    tracing::debug!(%client, error = %other, "a TLS connection was refused");
                }
            }
            if !refused.is_of_name() {
                return stream.reset(false);
            }
            let told = async {
                stream.write_all(&UNRECOGNIZED_NAME).await?;
                stream.shutdown().await
            };
            if !matches!(tokio::time::timeout(PATIENCE, told).await, Ok(Ok(()))) {
                tracing::debug!(%client, "it went away before it was told");
            }
        }
    }
}

/// A flow to the endpoint that a client asks for.
struct Opened {
    name: Name,
    flow: OpenFlow,
    /// What was read of the client, which is for the service.
    hello: Bytes,
    pass: Pass,
}

async fn open(
    stream: &mut TcpStream,
    ends: Ends,
    shared: &Shared,
    (record, trace): (&Record, Option<String>),
) -> Result<Opened, Refused> {
    let pass = shared.callers.client(ends.client.ip()).map_err(entry::Refused::from)?;
    let asked = async {
        let postgres = postgres::answer(stream).await?;
        let (host, hello) = read(stream).await?;
        Ok((postgres, host, hello))
    };
    let (postgres, host, hello) =
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or(Err(Refused::Silent))?;
    let host = host.ok_or(Refused::Nameless)?;
    let Target { mapped, named } = endpoint::of_host(&host, |host| shared.upstreams.of_host(host));
    let name = match mapped {
        Some(name) => name,
        None => {
            // What a host cannot say as a tenant it does not say at all: there is no field that could.
            let asked = shared.guard.asked(&HeaderMap::new(), Some(&host)).ok().flatten();
            Name { tenant: asked.unwrap_or_default(), endpoint: named? }
        }
    };
    record.asks_for(&name);
    let pass = entry::admit(&shared.guard, &shared.callers, pass, &name, ends.client)?;
    let mut flow =
        tcp::open(shared, &name, ends, pass.pace(), (record, trace)).await.map_err(entry::Refused::from)?;
    if postgres {
        let agreed = tokio::time::timeout(PATIENCE, postgres::ask(&mut flow.stream)).await;
        agreed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(Refused::Service)?;
    }
    Ok(Opened { name, flow, hello, pass })
}

/// The name that a client asks for, and all that was read of it meanwhile.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Option<String>, Bytes), Refused> {
    let mut acceptor = Acceptor::default();
    let mut all = BytesMut::new();
    while all.len() < MAX_HELLO {
        let before = all.len();
        all.reserve(2048);
        if stream.read_buf(&mut all).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut new = &all[before..];
        while !new.is_empty() {
            acceptor.read_tls(&mut new)?;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(hello)) => {
                    let host = hello.client_hello().server_name().map(str::to_owned);
                    return Ok((host, all.freeze()));
                }
                Err((error, _)) => return Err(Refused::NotTls(error)),
            }
        }
    }
    Err(Refused::TooLong)
}

/// Why a connection is not passed on.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it has not said which name it asks for within {PATIENCE:?}")]
    Silent,
    #[error("its first message has more than {MAX_HELLO} bytes")]
    TooLong,
    #[error("it broke before it had said which name it asks for: {0}")]
    Broken(#[from] io::Error),
    #[error("it does not begin with TLS: {0}")]
    NotTls(rustls::Error),
    #[error("it asks for no name (SNI)")]
    Nameless,
    #[error("the name that it asks for is of no endpoint: {0}")]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Entry(#[from] entry::Refused),
    #[error("the service does not agree to TLS as PostgreSQL does: {0}")]
    Service(io::Error),
}

impl Refused {
    /// Whether there is nobody of that name.
    fn is_of_name(&self) -> bool {
        match self {
            Self::Nameless | Self::Endpoint(_) => true,
            Self::Entry(entry::Refused::Open(error)) => error.code() == Code::NoUpstream,
            _ => false,
        }
    }

    /// What is counted.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::TooLong => "too_long",
            Self::Broken(_) => "broken",
            Self::NotTls(_) => "not_tls",
            Self::Nameless | Self::Endpoint(_) => "no_name",
            Self::Entry(refused) => refused.name(),
            Self::Service(_) => "upstream_tls",
        }
    }
}
