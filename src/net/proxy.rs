//! A way out through an HTTP proxy: CONNECT (RFC 9110 §9.3.6).

use std::{fmt, io, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{HostPort, InvalidHostPort, ResolveError};

/// The longest answer of a proxy, in bytes.
const MAX_ANSWER: usize = 16 * 1024;

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    at: HostPort,
    /// What `Proxy-Authorization` says, if anything; never shown.
    authorization: Option<String>,
}

/// Why a text is no proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProxy {
    /// Its scheme is not known.
    #[error("a proxy is http://[USER:PASSWORD@]HOST:PORT; {0:?} is another scheme")]
    Scheme(String),
    /// Its address is none.
    #[error("a proxy is http://[USER:PASSWORD@]HOST:PORT")]
    Address(#[source] InvalidHostPort),
}

/// Why a proxy makes no connection.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Its name has no address.
    #[error("the proxy has no address")]
    Resolve(#[from] ResolveError),
    /// It does not answer.
    #[error("cannot connect to the proxy {proxy}")]
    Connect {
        /// The proxy.
        proxy: HostPort,
        /// Why.
        source: io::Error,
    },
    /// It wants to know who asks.
    #[error("the proxy {proxy} wants a user and a password (407): --proxy http://USER:PASSWORD@{proxy}")]
    Unauthorized {
        /// The proxy.
        proxy: HostPort,
    },
    /// It does not take who asks.
    #[error(
        "the proxy {proxy} does not take this user and password (407); %40 is an @ in them, and Basic is all that is known \
         here"
    )]
    Credentials {
        /// The proxy.
        proxy: HostPort,
    },
    /// It refuses.
    #[error("the proxy {proxy} makes no connection to {to}: it answers {status}{}", refusal(*.status))]
    Refused {
        /// The proxy.
        proxy: HostPort,
        /// What was to be connected to.
        to: HostPort,
        /// The status.
        status: u16,
    },
    /// What it answers is not HTTP.
    #[error("the proxy {proxy} does not answer as an HTTP proxy does")]
    Answer {
        /// The proxy.
        proxy: HostPort,
    },
}

impl Proxy {
    /// A connection to a host that the proxy finds. Cancel safe.
    ///
    /// # Errors
    /// When the proxy makes none. It has no time limit of its own.
    pub async fn connect(&self, to: &HostPort) -> Result<TcpStream, ProxyError> {
        let failed = |source| ProxyError::Connect { proxy: self.at.clone(), source };
        let mut stream = super::connect(&self.at.resolve().await?).await.map_err(failed)?;
        let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
        if let Some(authorization) = &self.authorization {
            request += &format!("Proxy-Authorization: {authorization}\r\n");
        }
        request += "\r\n";
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        match self.answer(&mut stream).await.map_err(failed)? {
            Some(200..=299) => Ok(stream),
            Some(407) if self.authorization.is_some() => {
                Err(ProxyError::Credentials { proxy: self.at.clone() })
            }
            Some(407) => Err(ProxyError::Unauthorized { proxy: self.at.clone() }),
            Some(status) => Err(ProxyError::Refused { proxy: self.at.clone(), to: to.clone(), status }),
            None => Err(ProxyError::Answer { proxy: self.at.clone() }),
        }
    }

    /// The status that the proxy answers, unless it is no answer.
    async fn answer(&self, stream: &mut TcpStream) -> io::Result<Option<u16>> {
        let mut answer = Vec::new();
        while answer.len() < MAX_ANSWER {
            // To the byte: what follows is for whoever uses the connection.
            answer.push(stream.read_u8().await?);
            if !answer.ends_with(b"\n") {
                continue;
            }
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut headers);
            match response.parse(&answer) {
                Ok(httparse::Status::Complete(_)) => return Ok(response.code),
                Ok(httparse::Status::Partial) => {}
                Err(_) => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// What a status of a refusal means to whoever reads it.
fn refusal(status: u16) -> &'static str {
    match status {
        403 => "; its rules must permit CONNECT to that host and port",
        _ => "",
    }
}

impl FromStr for Proxy {
    type Err = InvalidProxy;

    fn from_str(text: &str) -> Result<Self, InvalidProxy> {
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => return Err(InvalidProxy::Scheme(scheme.into())),
            None => text,
        };
        let rest = rest.trim_end_matches('/');
        let (user, at) = rest.rsplit_once('@').map_or((None, rest), |(user, at)| (Some(user), at));
        let at = at.parse().map_err(InvalidProxy::Address)?;
        let authorization = user.map(|user| {
            let decoded: Vec<u8> = percent_decode_str(user).collect();
            format!("Basic {}", STANDARD.encode(decoded))
        });
        Ok(Self { at, authorization })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.at)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_proxy_is_read_and_never_shows_its_password() {
        let proxy: Proxy = "http://user:p%40ss:w@proxy.example.com:3128/".parse().unwrap();
        assert_eq!(proxy.authorization.as_deref(), Some("Basic dXNlcjpwQHNzOnc="));
        assert_eq!(
            format!("{proxy} {proxy:?}"),
            "http://proxy.example.com:3128 Proxy(http://proxy.example.com:3128)"
        );
        assert_eq!("proxy:1".parse::<Proxy>().unwrap().authorization, None);
        assert_eq!("socks5://a:1".parse::<Proxy>(), Err(InvalidProxy::Scheme("socks5".into())));
        assert!(matches!("http://proxy".parse::<Proxy>(), Err(InvalidProxy::Address(_))));
    }

    /// What is asked of a proxy that answers so, and what comes of it.
    async fn ask(answer: &'static str) -> (String, Result<String, ProxyError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy: Proxy = format!("http://u:p@{}", listener.local_addr().unwrap()).parse().unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        };
        let to = "node.example.com:443".parse().unwrap();
        let connect = async {
            let mut stream = proxy.connect(&to).await?;
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await.unwrap();
            Ok(rest)
        };
        tokio::join!(serve, connect)
    }

    #[tokio::test]
    async fn a_proxy_is_told_where_to_and_by_whom_and_what_follows_its_answer_is_kept() {
        let (asked, got) = ask("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nhello").await;
        assert_eq!(
            asked,
            "CONNECT node.example.com:443 HTTP/1.1\r\nHost: node.example.com:443\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
        );
        assert_eq!(got.unwrap(), "hello");
    }

    #[tokio::test]
    async fn refusals_are_told_apart() {
        assert!(matches!(ask("HTTP/1.0 407 No\r\n\r\n").await.1, Err(ProxyError::Credentials { .. })));
        let refused = ask("HTTP/1.1 403 Forbidden\r\n\r\n").await.1;
        assert!(matches!(refused, Err(ProxyError::Refused { status: 403, .. })));
        assert!(matches!(ask("SSH-2.0-x\r\n").await.1, Err(ProxyError::Answer { .. })));
        assert!(matches!(ask("HTTP/1.1").await.1, Err(ProxyError::Connect { .. })));
    }
}
