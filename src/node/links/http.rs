//! The link port's TCP side: HTTP/1.1, with TLS or without, of which only upgrades to WebSocket come to something.
//!
//! Whether TLS is spoken shows in the first byte (RFC 8446 §5.1): agents that come directly use it, balancers that have ended
//! it themselves need not. Links are handed to the [`Door`], as those over QUIC are; Piko's agents are served here.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::service_fn,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::server::create_response_with_body, protocol::Role as End},
};

use super::{Door, HANDSHAKE};
use crate::{
    auth::{self, Action, Limited, LinkPass, Shown, Standing},
    drain::Tasks,
    net::{Connection, Crowd, websocket as limits},
    protocol::{AgentId, Code, EndpointId, InvalidId, Role, TenantId},
    tls::ServerTls,
    transport::{Datagrams, websocket},
    upstream::{Identity, Session},
};

/// How many connections may be on their way to an upgrade, and how long each may be when there are so many, which is longer than
/// keys are fetched for; more wait to be accepted.
const HANDSHAKES: usize = 256;
const FAIR: Duration = Duration::from_secs(4);

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Where Piko's agents answer for an endpoint.
const PIKO: &str = "/piko/v1/upstream/";

/// The first byte of TLS.
const TLS_HANDSHAKE: u8 = 0x16;

/// Accepts connections until the port is closed.
pub(super) async fn accept(listener: TcpListener, tls: ServerTls, door: Arc<Door>, tasks: Tasks) {
    let handshakes = Crowd::new(HANDSHAKES, FAIR);
    loop {
        let (stream, client, place) = handshakes.accept(&listener).await;
        let (tls, door, of_link) = (tls.clone(), Arc::clone(&door), tasks.clone());
        tasks.spawn(async move {
            match place.hold(tokio::time::timeout(HANDSHAKE, upgrade(stream, client, &tls, &door))).await {
                Some(Ok(Some((asked, upgraded)))) => enter(asked, upgraded, client, &door, &of_link).await,
                Some(Ok(None)) => {}
                Some(Err(_)) => tracing::debug!(%client, "a connection to the link port asked for nothing"),
                None => {
                    tracing::debug!(%client, "a connection to the link port gave way to another one");
                    door.happened(
                        client,
                        format_args!("it asked for nothing for {FAIR:?}, and others waited"),
                    );
                }
            }
        });
    }
}

/// What an upgrade is for.
#[derive(Debug)]
enum Asked {
    /// A link.
    Link,
    /// The link of a Piko agent.
    Piko { endpoint: EndpointId, standing: Standing, pass: LinkPass },
}

/// Why there is no upgrade.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("there is nothing here but {} and {PIKO}ENDPOINT", websocket::PATH)]
    Path,
    #[error("this is for WebSocket (RFC 6455) alone: {0}")]
    Upgrade(String),
    #[error("the subprotocol of links is {}", websocket::SUBPROTOCOL)]
    Subprotocol,
    #[error("{0}")]
    Invalid(#[from] InvalidId),
    #[error("this node is leaving; link to another one")]
    Draining,
    #[error(transparent)]
    Limited(#[from] Limited),
    #[error(transparent)]
    Auth(#[from] auth::Refused),
}

impl Refused {
    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Path => (StatusCode::NOT_FOUND, "not_found"),
            Self::Upgrade(_) => (StatusCode::BAD_REQUEST, "upgrade_required"),
            Self::Subprotocol => (StatusCode::BAD_REQUEST, "invalid_subprotocol"),
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid_endpoint"),
            // Which agents of Piko try again, and balancers elsewhere.
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, Code::Draining.name()),
            Self::Limited(limited) => (StatusCode::TOO_MANY_REQUESTS, limited.code()),
            Self::Auth(refused) => (refused.status(), refused.code()),
        }
    }

    fn response(&self) -> Response<Full<Bytes>> {
        let (status, code) = self.status();
        let json = match self {
            // Only Piko's agents are asked before they are a link.
            Self::Auth(refused) => {
                serde_json::json!({ "error": refused.piko(), "code": code, "detail": refused.to_string() })
            }
            other => serde_json::json!({ "error": other.to_string(), "code": code }),
        };
        let text = json.to_string();
        let mut response = Response::new(Full::from(text + "\n"));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        match self {
            Self::Limited(limited) => {
                headers.insert(header::RETRY_AFTER, limited.retry_after().into());
            }
            Self::Auth(refused) => {
                if let Some(challenge) = refused.challenge() {
                    headers.insert(header::WWW_AUTHENTICATE, challenge);
                }
            }
            _ => {}
        }
        response
    }
}

/// Serves one request, which is to become a WebSocket.
async fn upgrade(
    stream: TcpStream,
    client: SocketAddr,
    tls: &ServerTls,
    door: &Door,
) -> Option<(Asked, Upgraded)> {
    let mut first = [0];
    let connection = match stream.peek(&mut first).await {
        Ok(1) if first[0] == TLS_HANDSHAKE => match TlsAcceptor::from(tls.current()).accept(stream).await {
            Ok(stream) => Connection::Tls(Box::new(stream.into())),
            Err(error) => {
                tracing::debug!(%client, %error, "a TLS handshake failed");
                door.happened(client, format_args!("the handshake failed: {error}"));
                return None;
            }
        },
        _ => Connection::Tcp(stream),
    };
    let certificate = connection.peer_certificates().into_iter().next().map(Arc::new);
    let asked = Mutex::new(None);
    let answer = async |mut request: Request<Incoming>| {
        let answer = match ask(&request, (client, certificate.as_ref()), door).await {
            Ok((what, response)) => {
                *asked.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((what, hyper::upgrade::on(&mut request)));
                response
            }
            Err(refused) => {
                let (path, (status, code)) = (request.uri().path(), refused.status());
                let status = status.as_u16();
                tracing::warn!(target: "adit::access", %client, path, status, code, %refused, "no link over WebSocket");
                door.refused(code);
                door.happened(client, &refused);
                refused.response()
            }
        };
        Ok::<_, Infallible>(answer)
    };
    let service = service_fn(answer);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%client, %error, "a connection to the link port ended with an error");
    }
    let (asked, upgraded): (Asked, OnUpgrade) = asked.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    Some((asked, upgraded.await.ok()?))
}

/// What a request asks for, and the answer if it gets that.
async fn ask<B>(
    request: &Request<B>,
    (client, certificate): (SocketAddr, Option<&Arc<CertificateDer<'static>>>),
    door: &Door,
) -> Result<(Asked, Response<Full<Bytes>>), Refused> {
    let path = request.uri().path();
    // A balancer may leave what it was told to go by before it.
    let asked = if path.ends_with(websocket::PATH) {
        Asked::Link
    } else if let Some((_, endpoint)) = path.rsplit_once(PIKO) {
        let endpoint = EndpointId::new(&percent_decode_str(endpoint).decode_utf8_lossy())?;
        let tenant = request.headers().get("x-piko-tenant-id").map(|tenant| {
            // What is no text has characters that no tenant has.
            TenantId::new(&String::from_utf8_lossy(tenant.as_bytes()))
        });
        if door.is_draining() {
            return Err(Refused::Draining);
        }
        let callers = &door.welcomer.callers;
        let mut pass = callers.link(client.ip())?;
        let standing = door.authenticate_piko(request.headers(), tenant.transpose()?, certificate).await?;
        standing.permits(Action::Serve, &endpoint)?;
        callers.link_of(&mut pass, standing.tenant())?;
        Asked::Piko { endpoint, standing, pass }
    } else {
        return Err(Refused::Path);
    };
    let mut response = create_response_with_body(request, Full::default)
        .map_err(|error| Refused::Upgrade(error.to_string()))?;
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    match asked {
        Asked::Link if offered.any(|name| name.trim() == websocket::SUBPROTOCOL) => {
            let chosen = HeaderValue::from_static(websocket::SUBPROTOCOL);
            response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, chosen);
        }
        Asked::Link => return Err(Refused::Subprotocol),
        Asked::Piko { .. } => {}
    }
    Ok((asked, response))
}

impl Door {
    /// What a Piko agent stands on, which shows its token as clients of HTTP do.
    async fn authenticate_piko(
        &self,
        headers: &HeaderMap,
        tenant: Option<TenantId>,
        certificate: Option<&Arc<CertificateDer<'static>>>,
    ) -> Result<Standing, auth::Refused> {
        let guard = &self.welcomer.guard;
        let needless =
            |refused: &auth::Refused| certificate.is_some() && matches!(refused, auth::Refused::Missing);
        let token = guard.bearer(headers, needless)?.map(|bearer| bearer.token);
        let shown = Shown { token, certificate: certificate.map(|certificate| &**certificate) };
        let caller = guard.caller(shown, tenant.as_ref()).await?;
        Ok(Standing::new(guard, caller, certificate.cloned()))
    }
}

async fn enter(asked: Asked, upgraded: Upgraded, client: SocketAddr, door: &Door, tasks: &Tasks) {
    let Ok(parts) = upgraded.downcast::<TokioIo<Connection>>() else {
        return tracing::error!(%client, "an upgraded connection is not of the kind that was served");
    };
    let connection = parts.io.into_inner();
    if let Asked::Piko { .. } = asked
        && let Err(error) = connection.tcp().set_zero_linger()
    {
        // Whatever ends this process, the system is to reset the connection: the agent comes back only then.
        tracing::debug!(%client, %error, "a Piko agent will not come back if this node is killed");
    }
    let certificates = connection.peer_certificates();
    let socket = WebSocketStream::from_partially_read(
        connection,
        parts.read_buf.to_vec(),
        End::Server,
        Some(limits::config()),
    )
    .await;
    let (link, driver) = websocket::accepted(socket, client, certificates, &door.welcomer.settings);
    let count = door.violations.clone();
    match asked {
        Asked::Link => {
            tasks.spawn(async move { count.note(client, driver.run().await) });
            door.enter(link, client, tasks).await;
        }
        Asked::Piko { endpoint, standing, pass: _pass } => {
            tasks.spawn(async move { count.note(client, driver.run_abruptly().await) });
            let upstreams = &door.welcomer.upstreams;
            let identity = Identity {
                role: Role::Agent,
                // It has none of its own; each connection is one.
                agent: AgentId::from_bits(rand::random()),
                name: Some("piko".into()),
                tenant: standing.tenant().clone(),
            };
            let agent = identity.agent;
            let session = Session::bare(
                upstreams.next_link(),
                identity,
                standing,
                Datagrams::new(link, upstreams.packets().of_link("agent")),
            );
            tracing::info!(link = %session.id, %client, %agent, %endpoint, "a Piko agent serves an endpoint");
            if let Err(refusal) = upstreams.run_bare(session, endpoint).await {
                let code = refusal.code.name();
                tracing::warn!(target: "adit::access", %client, code, %refusal, "a Piko agent's endpoint is refused");
            }
        }
    }
}
