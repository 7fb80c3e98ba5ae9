//! Piko's clients: those of TCP come by WebSocket, and what is Piko's own in a request of HTTP ends here.
//!
//! A flow is opened before the switch of protocols is agreed to, so that a client is told by a status why there is none. From
//! then on [`flow`] carries its bytes. Driven by `http`; it knows nothing of Piko's upstreams.

mod boundary;
mod clocks;
mod flow;

use std::{pin::pin, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{
        CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use hyper::upgrade::OnUpgrade;
use hyper_util::{rt::TokioIo, server::conn::auto};
use percent_encoding::percent_decode_str;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    Shared,
    activity::Exchange,
    body::Body,
    connection::Client,
    endpoint,
    error::Error,
    headers,
    http::{NOT_SERVED, RequestBody},
    lapse::Lapse,
    permit::Permit,
    proxied::Ends,
    socket::Socket,
    tcp,
    websocket::WebSocket,
};
use crate::{
    access_log,
    auth::Lapsed,
    protocol::{EndpointId, Kind},
    splice::{Broken, Counts},
    telemetry::trace::Context,
    upstream::{BoxError, OpenFlow, SendError},
};
use flow::Ended;

/// What Piko keeps for itself, and what of it is for TCP.
const PREFIX: &str = "/_piko/";
const TCP: &str = "/_piko/v1/tcp/";

/// Why a request for [`TCP`] is not one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("a TCP flow has the path {TCP}ENDPOINT, with nothing behind the endpoint's name")]
    Path,
    #[error("a TCP flow is asked for by GET, not {0}")]
    Method(Method),
    #[error(
        "a TCP flow is carried by WebSocket, version 13 (RFC 6455 §4.1), which this request does not ask for"
    )]
    NoWebSocket,
    #[error("a page of {0:?} may not open a TCP flow: it is not of this host")]
    Origin(String),
}

/// Whether a client speaks to Piko: it is to be told of errors in Piko's words.
pub(super) fn is_spoken<B>(request: &Request<B>) -> bool {
    request.uri().path().starts_with(PREFIX)
        || request.headers().keys().any(|name| name.as_str().starts_with("x-piko-"))
}

/// Whether a request is for a TCP flow and not for a service.
pub(super) fn is_tcp<B>(request: &Request<B>) -> bool {
    request.uri().path().starts_with(TCP)
}

/// The endpoint that the path names.
pub(super) fn endpoint<B>(request: &Request<B>) -> Result<EndpointId, Error> {
    let endpoint = request.uri().path().strip_prefix(TCP).unwrap_or_default();
    if endpoint.is_empty() || endpoint.contains('/') {
        return Err(Refusal::Path.into());
    }
    Ok(endpoint::named(&percent_decode_str(endpoint).decode_utf8_lossy())?)
}

/// Opens a flow to the endpoint that the path names, and answers that it is there. `websocket` is what is made of a request
/// of HTTP/2.
pub(super) async fn serve<B: RequestBody>(
    shared: &Arc<Shared>,
    client: Client,
    exchange: &Arc<Exchange>,
    mut request: Request<B>,
    host: Option<HeaderValue>,
    websocket: Option<WebSocket>,
    permit: Permit,
) -> Result<Response<Body>, Error> {
    if request.method() != Method::GET {
        return Err(Refusal::Method(request.method().clone()).into());
    }
    let is_http2 = websocket.is_some();
    let may_switch = is_http2 || (request.version() == Version::HTTP_11 && request.body().is_end_stream());
    let key = key(request.headers()).filter(|_| may_switch).ok_or(Refusal::NoWebSocket)?;
    let accept = derive_accept_key(key.as_bytes());
    check_origin(request.headers(), host.as_ref())?;
    let ends = Ends { client: client.address, server: client.connection.server };
    let pace = exchange.pace().cloned().unwrap_or_default();
    let trace = Context::of(request.headers()).map(|context| context.to_string());
    let flow = match tcp::open(shared, &permit.name, ends, &pace, (exchange.record(), trace)).await {
        Ok(flow) => flow,
        Err(error) => {
            shared.counters.connection("websocket", error.name());
            return Err(Error::of_send(SendError::Open(error), None));
        }
    };
    shared.counters.connection("websocket", "joined");

    let upgrade = hyper::upgrade::on(&mut request);
    let (edge, exchange) = (Arc::clone(shared), Arc::clone(exchange));
    exchange.record().switched(Some(Kind::Tcp));
    // A connection of its own kind by now, which the edge waits for as for any other.
    shared.connections.spawn(async move {
        // Its connection is not idle meanwhile.
        let record = exchange.record();
        let (name, counts) = (&permit.name, Counts::at(pace.waits()).counted(&edge.traffic.tcp));
        let _carrying = record.carrying(&counts);
        let lapse = Lapse::new(&edge, client.address, &permit, "a flow by WebSocket", record);
        let joined = join(upgrade, flow, lapse.told(permit.over()), &edge, &counts).await;
        let (ended, code) = ended(&joined);
        record.ended(ended, code);
        if let Err(error) = joined {
            tracing::debug!(
                endpoint = %name.endpoint,
                client = %client.address,
                error = crate::telemetry::report(&*error),
                "a WebSocket ended with an error"
            );
        }
        tracing::debug!(
            endpoint = %name.endpoint,
            client = %client.address,
            to_service = counts.left_to_right(),
            from_service = counts.right_to_left(),
            "a WebSocket has ended"
        );
    });

    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::try_from(accept).map_err(|_| Refusal::NoWebSocket)?);
    if let Some(websocket) = websocket {
        websocket.answered(&mut response)?;
    }
    Ok(response)
}

/// The key of a request for a WebSocket (RFC 6455 §4.2.1); nothing when it is no such request.
fn key(headers: &HeaderMap) -> Option<&str> {
    let is_websocket = headers::upgrade(headers)?.as_bytes().eq_ignore_ascii_case(b"websocket");
    let is_version = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let key = headers.get(SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    let is_key = STANDARD.decode(key).is_ok_and(|key| key.len() == 16);
    (is_websocket && is_version && is_key).then_some(key)
}

/// Refuses pages of other hosts: a browser asks nobody before it opens a WebSocket, and says only whose page it is (RFC 6455
/// §10.2). What is no browser says nothing.
fn check_origin(headers: &HeaderMap, host: Option<&HeaderValue>) -> Result<(), Refusal> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let page = Uri::try_from(origin.as_bytes()).ok();
    let page = page.as_ref().and_then(Uri::authority).map(|authority| authority.as_str().as_bytes());
    let host = host.or_else(|| headers.get(HOST)).map(HeaderValue::as_bytes);
    match (page, host) {
        (Some(page), Some(host)) if page.eq_ignore_ascii_case(host) => Ok(()),
        _ => Err(Refusal::Origin(String::from_utf8_lossy(origin.as_bytes()).into_owned())),
    }
}

/// How a flow has ended, for its record.
fn ended(joined: &Result<(), BoxError>) -> (access_log::Ended, Option<&'static str>) {
    let Err(error) = joined else { return (access_log::Ended::Complete, None) };
    match error.downcast_ref() {
        Some(Ended::Broken(Broken::Right(_))) => (access_log::Ended::Service, None),
        Some(ended @ Ended::Refused(_)) => (access_log::Ended::Refused, ended.code()),
        Some(ended) => (access_log::Ended::Client, ended.code()),
        // It has gone before it had switched.
        None => (access_log::Ended::Client, None),
    }
}

/// Carries a flow once the client has switched protocols, until that is `over`.
async fn join(
    upgrade: OnUpgrade,
    flow: OpenFlow,
    over: impl Future<Output = Lapsed>,
    shared: &Shared,
    counts: &Counts,
) -> Result<(), BoxError> {
    let OpenFlow { stream, in_use: _in_use, .. } = flow;
    let mut over = pin!(over);
    let upgraded = tokio::select! {
        upgraded = upgrade => upgraded?,
        lapsed = over.as_mut() => return Err(lapsed.into()),
    };
    let ended = match auto::upgrade::downcast::<TokioIo<Socket>>(upgraded) {
        Ok(parts) => {
            let (connection, _admission) = parts.io.into_inner().into_inner().ok_or(NOT_SERVED)?;
            flow::carry(connection, parts.read_buf, stream, over, counts).await
        }
        Err(upgraded) => flow::carry(TokioIo::new(upgraded), Bytes::new(), stream, over, counts).await,
    };
    if let Some(code) = ended.as_ref().err().and_then(Ended::code) {
        shared.counters.refused(code);
    }
    Ok(ended?)
}
