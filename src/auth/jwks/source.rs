//! Where a JWK Set is had from, and one fetch of it: bounded in size and, by its caller, in time. Redirects are not followed:
//! who may name the keys is what the operator wrote down, and nobody that it points to.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::Settings;
use crate::{
    auth::{InvalidJwks, KeySet, read_jwks},
    net::{self, HostPort},
    tls::{self, Trust},
};

/// The most bytes of a set.
const MAX_SET: usize = 256 * 1024;

/// How long a file counts as fresh, and how soon it may be read again when it is asked for: often, as that costs next to
/// nothing.
const FILE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));

/// Where a JWK Set is had from. Two are equal that ask the same place and believe the same servers.
#[derive(Debug, Clone, PartialEq)]
pub struct Source(Arc<Place>);

#[derive(Debug)]
enum Place {
    File(PathBuf),
    Http { uri: Uri, host: HostPort, tls: Option<Tls> },
}

#[derive(Debug)]
struct Tls {
    name: ServerName<'static>,
    trust: Trust,
    config: Arc<ClientConfig>,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(one), Self::File(other)) => one == other,
            (Self::Http { uri, tls, .. }, Self::Http { uri: other, tls: others, .. }) => {
                uri == other && tls.as_ref().map(|tls| &tls.trust) == others.as_ref().map(|tls| &tls.trust)
            }
            _ => false,
        }
    }
}

/// A set, and how long its source says that it is fresh.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) keys: KeySet,
    pub(super) fresh: Option<Duration>,
}

impl Source {
    /// Reads `https://…`, `http://…` or `file:…`. Servers of `https` are judged by `trust`.
    ///
    /// # Errors
    /// When it is none of these, or TLS cannot be set up.
    pub fn new(url: &str, trust: &Trust) -> Result<Self, InvalidSource> {
        if let Some(path) = url.strip_prefix("file:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path {
                "" => Err(InvalidSource::NoPath),
                path => Ok(Self(Arc::new(Place::File(path.into())))),
            };
        }
        let uri: Uri = url.parse().map_err(|_| InvalidSource::Form)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(InvalidSource::Form);
        };
        if authority.as_str().contains('@') {
            return Err(InvalidSource::Credentials);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let (port, tls) = match scheme {
            "http" => (80, None),
            "https" => {
                let name = ServerName::try_from(host.clone()).map_err(|_| InvalidSource::Form)?;
                let config = tls::client_config(trust, None, &[b"http/1.1"])?;
                (443, Some(Tls { name, trust: trust.clone(), config: Arc::new(config) }))
            }
            _ => return Err(InvalidSource::Form),
        };
        let host = HostPort { host, port: authority.port_u16().unwrap_or(port) };
        Ok(Self(Arc::new(Place::Http { uri, host, tls })))
    }

    /// The settings that hold for this source.
    pub(super) fn settings(&self, given: Settings) -> Settings {
        match &*self.0 {
            Place::Http { .. } => given,
            Place::File(_) => {
                Settings { shortest: given.shortest.min(FILE.0), between: given.between.min(FILE.1), ..given }
            }
        }
    }

    /// Fetches the set. Dropping the future gives the fetch up.
    pub(super) async fn fetch(&self) -> Result<Fetched, FetchError> {
        match &*self.0 {
            Place::File(path) => {
                let mut json = Vec::new();
                let file = tokio::fs::File::open(path).await.map_err(FetchError::File)?;
                file.take(MAX_SET as u64 + 1).read_to_end(&mut json).await.map_err(FetchError::File)?;
                if json.len() > MAX_SET {
                    return Err(FetchError::TooLarge);
                }
                Ok(Fetched { keys: read_jwks(&json, true)?, fresh: Some(FILE.0) })
            }
            Place::Http { uri, host, tls } => {
                let addresses = host.resolve().await.map_err(FetchError::Resolve)?;
                let stream = net::connect(&addresses).await.map_err(FetchError::Connect)?;
                match tls {
                    None => get(stream, uri).await,
                    Some(Tls { name, config, .. }) => {
                        let connector = TlsConnector::from(Arc::clone(config));
                        let stream = connector.connect(name.clone(), stream).await;
                        get(stream.map_err(FetchError::Tls)?, uri).await
                    }
                }
            }
        }
    }
}

impl fmt::Display for Source {
    /// The place without a query, which may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Place::File(path) => write!(f, "file:{}", path.display()),
            Place::Http { uri, host, .. } => {
                write!(f, "{}://{host}{}", uri.scheme_str().unwrap_or_default(), uri.path())
            }
        }
    }
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    uri: &Uri,
) -> Result<Fetched, FetchError> {
    let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(header::USER_AGENT, concat!("adit/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Request)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(FetchError::Http)?;
        let (head, body) = response.into_parts();
        if head.status.is_redirection() {
            return Err(FetchError::Redirect(head.status));
        } else if head.status != StatusCode::OK {
            return Err(FetchError::Status(head.status));
        }
        let body = Limited::new(body, MAX_SET).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { FetchError::TooLarge } else { FetchError::Body(error) }
        })?;
        Ok(Fetched { keys: read_jwks(&body.to_bytes(), false)?, fresh: freshness(&head.headers) })
    };
    // The connection has to be driven, and may end before all that it brought is read.
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    tokio::select! {
        fetched = &mut exchange => fetched,
        _ = &mut connection => exchange.await,
    }
}

/// How long a response is fresh, by itself (RFC 9111 §4.2.1, §4.2.3).
fn freshness(headers: &HeaderMap) -> Option<Duration> {
    let mut fresh = None;
    for field in headers.get_all(header::CACHE_CONTROL) {
        for directive in field.to_str().ok()?.split(',') {
            let directive = directive.trim();
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
                return Some(Duration::ZERO);
            } else if name.eq_ignore_ascii_case("max-age") {
                fresh = fresh.or_else(|| value.trim_matches('"').parse().ok());
            }
        }
    }
    let age = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.parse::<u64>().ok());
    fresh.map(|fresh: u64| Duration::from_secs(fresh.saturating_sub(age.unwrap_or(0))))
}

/// Why a text is no [`Source`].
#[derive(Debug, thiserror::Error)]
pub enum InvalidSource {
    /// It is no URL of a kind that is understood.
    #[error("expected https://HOST/PATH, http://HOST/PATH or file:PATH")]
    Form,
    /// A file without a path.
    #[error("file: needs a path, as in file:/etc/adit/jwks.json")]
    NoPath,
    /// A name and a password in the URL.
    #[error("a URL with a name or a password in it is not taken: keys to verify with are public")]
    Credentials,
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] tls::ConfigError),
}

/// Why a set could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the file cannot be read")]
    File(#[source] io::Error),
    #[error(transparent)]
    Resolve(net::ResolveError),
    #[error("it cannot be connected to")]
    Connect(#[source] io::Error),
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    #[error("the URL makes no request")]
    Request,
    #[error("it gave no answer of HTTP")]
    Http(#[source] hyper::Error),
    #[error("its answer broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("it answered {0}, and redirects are not followed: give the URL that it leads to")]
    Redirect(StatusCode),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("its answer has more than {MAX_SET} bytes")]
    TooLarge,
    #[error(transparent)]
    Invalid(#[from] InvalidJwks),
    #[error("it did not answer within {0:?}")]
    Timeout(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_and_shown_without_what_may_be_secret() {
        let trust = Trust::Platform { extra: Vec::new() };
        let shown = |url: &str| Source::new(url, &trust).map(|source| source.to_string());
        for (url, expected) in [
            ("https://id.example.com/keys?key=secret", "https://id.example.com:443/keys"),
            ("http://[::1]:8080", "http://[::1]:8080/"),
            ("file:/etc/jwks.json", "file:/etc/jwks.json"),
            ("file:///etc/jwks.json", "file:/etc/jwks.json"),
            ("file:jwks.json", "file:jwks.json"),
        ] {
            assert_eq!(shown(url).unwrap(), expected);
        }
        for bad in
            ["", "/etc/jwks.json", "ftp://a/b", "https://", "file:", "https://u:p@host/", "id.example.com"]
        {
            assert!(shown(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_read_more_often_than_a_server_is_asked() {
        let trust = Trust::Platform { extra: Vec::new() };
        let given = Settings::default();
        let settings = |url: &str| Source::new(url, &trust).unwrap().settings(given);
        assert_eq!(settings("http://localhost/"), given);
        let file = settings("file:jwks.json");
        assert_eq!((file.shortest, file.between), FILE);
    }

    #[test]
    fn freshness_is_what_is_left_of_max_age() {
        let of = |fields: &[(&'static str, &'static str)]| {
            let headers = fields.iter().map(|(name, value)| {
                (header::HeaderName::from_static(name), header::HeaderValue::from_static(value))
            });
            freshness(&headers.collect()).map(|fresh| fresh.as_secs())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("cache-control", "public")]), None);
        assert_eq!(of(&[("cache-control", "public, Max-Age=600")]), Some(600));
        assert_eq!(of(&[("cache-control", "max-age=\"60\""), ("age", "10")]), Some(50));
        assert_eq!(of(&[("cache-control", "max-age=60"), ("age", "100")]), Some(0));
        assert_eq!(of(&[("cache-control", "max-age=60, no-cache")]), Some(0));
        assert_eq!(of(&[("cache-control", "max-age=soon")]), None);
    }
}
