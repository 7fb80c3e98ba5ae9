//! A node's admin port, as those ask it who look by the command line: the flags that say which and with what, and a request.

use std::{fmt, fs, io, path::PathBuf, str::FromStr, sync::Arc};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
};
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{failure::Failure, http};
use crate::{
    client::{Address, InvalidAddress},
    config::{TrustArgs, server_name},
    drain::Tasks,
    net::Connection,
    protocol::Secret,
    tls,
};

/// Whom to ask, and with what.
#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    /// The admin port of the node to ask: what it was given as --admin-bind. With https:// before it, where it has a
    /// certificate (--admin-cert).
    #[arg(long, value_name = "HOST:PORT|URL", default_value = "127.0.0.1:8002")]
    admin: Url,
    /// Token to show to the node. In ADIT_TOKEN it stays out of the list of processes.
    #[arg(long, value_name = "TOKEN", hide_default_value = true)]
    token: Option<Secret>,
    /// The same from a file.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The name that the node's certificate must have, if not the host of --admin.
    #[arg(long, value_name = "NAME", value_parser = server_name, help_heading = "TLS (--admin https://...)")]
    server_name: Option<String>,
    #[command(flatten, next_help_heading = "TLS (--admin https://...)")]
    trust: TrustArgs,
}

/// Where an admin port is, and whether it is asked over TLS: not unless that is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url(Address);

impl FromStr for Url {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let address: Address = text.parse()?;
        Ok(Self(Address { tls: address.tls && text.contains("://"), ..address }))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { at, tls, base } = &self.0;
        write!(f, "{}{at}{base}", if *tls { "https://" } else { "" })
    }
}

/// An admin port.
#[derive(Debug)]
pub(super) struct Admin {
    url: Url,
    tls: Option<Tls>,
    authorization: Option<HeaderValue>,
}

/// How it is known.
struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a node does not answer.
#[derive(Debug, Deserialize)]
struct Told {
    error: String,
}

impl Admin {
    pub(super) fn new(args: &AdminArgs) -> Result<Self, Failure> {
        let url = args.admin.clone();
        let tls = url.0.tls.then(|| Tls::new(args)).transpose()?;
        let authorization = token(args)?.map(|token| bearer(&token)).transpose()?;
        Ok(Self { url, tls, authorization })
    }

    /// Where it is.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// What it answers to a request for this path, if that is what was asked for. The connection is of `tasks`.
    pub(super) async fn get(&self, tasks: &Tasks, path: &str) -> anyhow::Result<Response<Incoming>> {
        let Address { at, base, .. } = &self.url.0;
        let mut request = Request::get(format!("{base}{path}")).header(header::HOST, at.to_string());
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::<Bytes>::new())?;
        let stream = http::connect(at).await.context("is a node running, with this --admin-bind?")?;
        let connection = match &self.tls {
            None => Connection::Tcp(stream),
            Some(tls) => tls.over(stream).await.with_context(|| format!("TLS with {at} failed"))?,
        };
        let response =
            http::exchange(tasks, connection, request).await.map_err(|error| self.unheard(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.into_body().collect().await?.to_bytes();
        let told: Option<Told> = serde_json::from_slice(&body).ok();
        bail!("it answered {status}{}", told.map_or_else(String::new, |told| format!(": {}", told.error)));
    }

    /// What a request failed with to which nothing came that is an answer.
    fn unheard(&self, error: hyper::Error) -> anyhow::Error {
        let at = &self.url.0.at;
        // A port of TLS answers a request with an alert, or closes.
        let hint = match self.tls {
            None if error.is_parse() || error.is_incomplete_message() => {
                format!(" that is HTTP: if it speaks TLS (--admin-cert), say --admin https://{at}")
            }
            _ => "; is this an admin port?".into(),
        };
        anyhow!(error).context(format!("{at} gave no answer{hint}"))
    }
}

impl Tls {
    fn new(args: &AdminArgs) -> Result<Self, Failure> {
        let trust = args.trust.trust(&args.admin)?;
        let identity = args.trust.identity()?;
        let config =
            tls::client_config(&trust, identity.as_ref(), &[b"http/1.1"]).map_err(anyhow::Error::from)?;
        let name = args.server_name.clone().unwrap_or_else(|| args.admin.0.at.host.clone());
        let name = ServerName::try_from(name.clone()).map_err(|_| {
            Failure::Usage(anyhow!("--admin: {name:?} can be the name of no certificate: give --server-name"))
        })?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    async fn over(&self, stream: TcpStream) -> anyhow::Result<Connection> {
        let secured = self.connector.connect(self.name.clone(), stream).await;
        secured.map(|stream| Connection::Tls(Box::new(stream.into()))).map_err(|error| explained(&error))
    }
}

/// What a handshake failed with, and what to do about it.
fn explained(error: &io::Error) -> anyhow::Error {
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let text = tls::explain(&error.to_string());
    anyhow!(match of_tls {
        Some(rustls::Error::InvalidMessage(_)) => {
            "what answers speaks no TLS: is this an admin port, and has it a certificate (--admin-cert)? If not, leave https:// \
             out"
                .to_owned()
        }
        Some(rustls::Error::InvalidCertificate(
            rustls::CertificateError::NotValidForName
            | rustls::CertificateError::NotValidForNameContext { .. },
        )) => format!(
            "{text}; if it is the node that you mean, give a name of its certificate by --server-name"
        ),
        _ => text,
    })
}

fn token(args: &AdminArgs) -> anyhow::Result<Option<Secret>> {
    let Some(file) = &args.token_file else { return Ok(args.token.clone()) };
    if args.token.is_some() {
        bail!("--token and --token-file exclude each other: leave one of them out");
    }
    let text = fs::read_to_string(file)
        .with_context(|| format!("--token-file: {} cannot be read", file.display()))?;
    Ok(Some(Secret::new(text.trim())))
}

fn bearer(token: &Secret) -> anyhow::Result<HeaderValue> {
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
        .context("the token has characters that none has")?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_spoken_where_that_is_said() {
        let read = |text: &str| {
            let url: Url = text.parse().unwrap();
            (url.to_string(), url.0.tls)
        };
        assert_eq!(read("127.0.0.1:8002"), ("127.0.0.1:8002".into(), false));
        assert_eq!(read("http://n1.internal:8002/"), ("n1.internal:8002".into(), false));
        assert_eq!(read("https://n1.internal:8002"), ("https://n1.internal:8002".into(), true));
        assert_eq!(read("https://[::1]:8002"), ("https://[::1]:8002".into(), true));
        assert_eq!(read("https://ops.example/n1/"), ("https://ops.example:443/n1".into(), true));
        for bad in ["n1", "ftp://n1:1", "https://n1:1/?a=b", "https://"] {
            assert!(bad.parse::<Url>().is_err(), "{bad}");
        }
    }
}
