//! Where spans are sent to, and one request there. A connection is kept from request to request.

use std::{fmt, io, str::FromStr, sync::Arc};

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Bytes,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::InvalidReceiver;
use crate::{
    drain::Tasks,
    net::{self, HostPort},
    tls::{self, Trust},
};

/// The path of traces, below whatever path the URL has.
const PATH: &str = "/v1/traces";

/// The most bytes of an answer.
const MAX_ANSWER: usize = 64 * 1024;

/// Who takes spans.
#[derive(Clone)]
pub struct Receiver {
    host: HostPort,
    authority: String,
    path: String,
    tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&self.to_string()).finish()
    }
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.host, self.path)
    }
}

impl FromStr for Receiver {
    type Err = InvalidReceiver;

    /// Reads the URL below which the receiver is, as `OTEL_EXPORTER_OTLP_ENDPOINT` has it; or that of traces itself.
    fn from_str(url: &str) -> Result<Self, InvalidReceiver> {
        let uri: Uri = url.parse().map_err(|_| InvalidReceiver::Form)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(InvalidReceiver::Form);
        };
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(InvalidReceiver::Secret);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let (port, tls) = match scheme {
            "http" => (80, None),
            "https" => {
                let name = ServerName::try_from(host.clone()).map_err(|_| InvalidReceiver::Form)?;
                let trust = Trust::Platform { extra: Vec::new() };
                (443, Some((name, Arc::new(tls::client_config(&trust, None, &[b"http/1.1"])?))))
            }
            _ => return Err(InvalidReceiver::Form),
        };
        let below = uri.path().trim_end_matches('/');
        let path = if below.ends_with(PATH) { below.to_owned() } else { format!("{below}{PATH}") };
        let host = HostPort { host, port: authority.port_u16().unwrap_or(port) };
        Ok(Self { host, authority: authority.to_string(), path, tls })
    }
}

/// Why spans were not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    #[error(transparent)]
    Resolve(#[from] net::ResolveError),
    #[error("the receiver cannot be connected to")]
    Connect(#[source] io::Error),
    #[error("TLS with the receiver failed")]
    Tls(#[source] io::Error),
    #[error("the receiver gave no answer of HTTP")]
    Http(#[from] hyper::Error),
    #[error("the receiver answered {0}")]
    Status(StatusCode),
    #[error("the receiver's URL makes no request")]
    Request(#[from] http::Error),
    #[error("the receiver's answer is not what OTLP says, or has more than {MAX_ANSWER} bytes")]
    Answer,
}

impl ExportError {
    /// Whether the same may be taken a little later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status.as_u16(), 429 | 502..=504),
            Self::Resolve(_) | Self::Connect(_) | Self::Tls(_) | Self::Http(_) => true,
            Self::Request(_) | Self::Answer => false,
        }
    }
}

type Sender = SendRequest<Full<Bytes>>;

/// A connection to a receiver, made when it is needed.
#[derive(Debug)]
pub(super) struct Connection {
    receiver: Receiver,
    open: Option<Sender>,
    tasks: Tasks,
}

impl Connection {
    /// Tasks drive the connection.
    pub(super) fn new(receiver: Receiver, tasks: Tasks) -> Self {
        Self { receiver, open: None, tasks }
    }

    /// Sends one request; how many of its spans were not taken. Dropping the future gives the connection up.
    pub(super) async fn export(&mut self, spans: Bytes) -> Result<u64, ExportError> {
        if let Some(mut kept) = self.open.take()
            && kept.ready().await.is_ok()
        {
            match self.ask(kept, spans.clone()).await {
                // It was closed meanwhile, as the receiver may do at any time.
                Err(ExportError::Http(_)) => {}
                answered => return answered,
            }
        }
        let new = self.connect().await?;
        self.ask(new, spans).await
    }

    async fn ask(&mut self, mut sender: Sender, spans: Bytes) -> Result<u64, ExportError> {
        let request = Request::post(self.receiver.path.as_str())
            .header(header::HOST, &self.receiver.authority)
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::USER_AGENT, concat!("adit/", env!("CARGO_PKG_VERSION")))
            .body(Full::from(spans))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        if head.status != StatusCode::OK {
            return Err(ExportError::Status(head.status));
        }
        let answer = Limited::new(body, MAX_ANSWER).collect().await.map_err(|_| ExportError::Answer)?;
        let answer =
            ExportTraceServiceResponse::decode(answer.to_bytes()).map_err(|_| ExportError::Answer)?;
        self.open = Some(sender);
        let refused = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(refused).unwrap_or(0))
    }

    async fn connect(&self) -> Result<Sender, ExportError> {
        let addresses = self.receiver.host.resolve().await?;
        let stream = net::connect(&addresses).await.map_err(ExportError::Connect)?;
        match &self.receiver.tls {
            None => self.begin(stream).await,
            Some((name, config)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                self.begin(connector.connect(name.clone(), stream).await.map_err(ExportError::Tls)?).await
            }
        }
    }

    async fn begin(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Sender, ExportError> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn(async move {
            // Whoever sends on it learns how it ends; it ends when nobody can send on it any more.
            drop(connection.await);
        });
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_is_a_url_below_which_traces_are_taken() {
        for (url, shown) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector/", "http://collector:80/v1/traces"),
            ("http://[::1]:4318/otlp/", "http://[::1]:4318/otlp/v1/traces"),
            ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces"),
        ] {
            assert_eq!(url.parse::<Receiver>().unwrap().to_string(), shown);
        }
        for bad in ["", "collector:4318", "grpc://collector:4317", "/v1/traces", "http://"] {
            assert!(matches!(bad.parse::<Receiver>(), Err(InvalidReceiver::Form)), "{bad}");
        }
        for secret in ["http://ann:hunter2@collector", "http://collector/?key=hunter2"] {
            let error = secret.parse::<Receiver>().unwrap_err();
            assert!(matches!(error, InvalidReceiver::Secret) && !error.to_string().contains("hunter2"));
        }
    }
}
