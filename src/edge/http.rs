//! One request: match, route, send, relay.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header, uri::Authority};
use http_body_util::{BodyExt, Limited};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::{rt::TokioIo, server::conn::auto};
use tokio::{
    io::{ReadHalf, WriteHalf},
    time::Instant,
};

use super::{
    Shared, body::Body, connection::Client, endpoint::endpoint, error::Error, headers, websocket::WebSocket,
};
use crate::{
    net::Connection,
    protocol::TenantId,
    splice::{Counts, Prefixed, Side, splice},
    transport::Stream,
    upstream::{self, Name, ResponseBody, Upgrade},
};

/// The body of a request, whichever version of HTTP it came by.
pub(super) trait RequestBody:
    http_body::Body<Data = Bytes, Error: Into<upstream::BoxError>> + Send + 'static
{
}

impl<B: http_body::Body<Data = Bytes, Error: Into<upstream::BoxError>> + Send + 'static> RequestBody for B {}

/// Answers a request, whatever happens.
pub(super) async fn serve<B: RequestBody>(
    shared: &Arc<Shared>,
    client: Client,
    request: Request<B>,
) -> Response<Body> {
    let started = Instant::now();
    let (version, method, uri) = (request.version(), request.method().clone(), request.uri().clone());
    let grpc = headers::grpc(request.headers());
    let _in_flight = shared.counters.begin();
    let (status, mut response) = match forward(shared, client, request).await {
        Ok(response) => (response.status(), response),
        Err(error) => {
            tracing::debug!(client = %client.address, %method, %uri, %error, "a request failed");
            (error.status().0, error.response(grpc))
        }
    };
    shared.counters.answered(version, status, started.elapsed());
    if shared.closing.load(Relaxed)
        && version < Version::HTTP_2
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn forward<B: RequestBody>(
    shared: &Arc<Shared>,
    client: Client,
    mut request: Request<B>,
) -> Result<Response<Body>, Error> {
    let websocket = WebSocket::asked(&mut request)?;
    check(shared, &request)?;
    let host = host(&request)?;
    let name = Name {
        tenant: TenantId::default(),
        endpoint: endpoint(request.headers(), host.as_ref().and_then(|host| host.to_str().ok()))?,
    };
    let switching = websocket.is_some()
        || (request.version() == Version::HTTP_11 && headers::upgrade(request.headers()).is_some());
    let client_side = switching.then(|| hyper::upgrade::on(&mut request));

    rewrite(&mut request, client, host, switching);
    // A call of gRPC has the deadline that its client gives it and keeps itself, and its response may begin with its first
    // message, whenever that is.
    let timeout = headers::grpc(request.headers()).is_none().then_some(shared.limits.request_timeout);
    let max_body = shared.limits.max_body_bytes;
    let request = request.map(|body| match max_body {
        Some(max) => upstream::Body::new(Limited::new(body, usize::try_from(max).unwrap_or(usize::MAX))),
        None => upstream::Body::new(body.map_err(Into::into)),
    });
    let mut response = shared
        .upstreams
        .send(&name, request, timeout)
        .await
        .map_err(|error| Error::of_send(error, max_body))?;

    let service_side =
        (response.status() == StatusCode::SWITCHING_PROTOCOLS).then(|| hyper::upgrade::on(&mut response));
    headers::strip_hop_by_hop(response.headers_mut());
    response.headers_mut().remove(headers::ERROR);
    *response.version_mut() = Version::HTTP_11;
    if let Some(websocket) = websocket {
        websocket.answered(&mut response)?;
    }
    match (client_side, service_side) {
        (Some(client_side), Some(service_side)) => Ok(switch(shared, client_side, service_side, response)),
        // RFC 9110 §15.2.2: such a client would wait for the response that follows.
        (None, Some(_)) => Err(Error::Switched),
        (_, None) => Ok(response.map(Body::Upstream)),
    }
}

/// What must hold before anybody is asked.
fn check<B: RequestBody>(shared: &Shared, request: &Request<B>) -> Result<(), Error> {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(Error::Host);
    }
    let (size, max) = (headers::size(request.headers()), shared.limits.max_header_bytes);
    if size > max {
        return Err(Error::HeadersTooLarge { size, max });
    }
    if let Some(max) = shared.limits.max_body_bytes
        && request.body().size_hint().lower() > max
    {
        return Err(Error::BodyTooLarge { max });
    }
    Ok(())
}

/// The host that the request is for: that of an absolute target before the `Host` field (RFC 9112 §3.2.2); in HTTP/2 it
/// comes as `:authority`.
fn host<B>(request: &Request<B>) -> Result<Option<HeaderValue>, Error> {
    if let Some(authority) = request.uri().authority() {
        // Whoever has a password in the target does not want it passed on.
        let authority = authority.as_str();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        return HeaderValue::from_str(host).map(Some).map_err(|_| Error::InvalidHost);
    }
    let host = request.headers().get(header::HOST);
    // An empty one is valid (RFC 9110 §7.2).
    let valid = host.is_none_or(|host| host.is_empty() || is_host(host.as_bytes()));
    if valid { Ok(host.cloned()) } else { Err(Error::InvalidHost) }
}

fn is_host(host: &[u8]) -> bool {
    !host.contains(&b'@') && Authority::try_from(host).is_ok()
}

/// Makes of the client's request the one that the service gets.
fn rewrite<B: RequestBody>(
    request: &mut Request<B>,
    client: Client,
    host: Option<HeaderValue>,
    switching: bool,
) {
    if request.version() >= Version::HTTP_2 {
        headers::join_cookies(request.headers_mut());
    }
    *request.version_mut() = Version::HTTP_11;
    let target = request.uri().path_and_query().cloned().map_or_else(Uri::default, Uri::from);
    *request.uri_mut() = target;
    let has_body = !request.body().is_end_stream();
    let headers = request.headers_mut();
    headers::strip_hop_by_hop(headers);
    if !switching {
        headers.remove(header::UPGRADE);
        headers.remove(header::CONNECTION);
    }
    if has_body && !headers.contains_key(header::CONTENT_LENGTH) {
        // Without either, hyper sends no body for methods that seldom have one.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    headers::forwarded(
        headers,
        client.address,
        client.scheme,
        host.as_ref().and_then(|host| host.to_str().ok()),
    );
    if let Some(host) = host {
        headers.insert(header::HOST, host);
    }
}

/// Joins client and service once both have switched protocols.
fn switch(
    shared: &Shared,
    client: OnUpgrade,
    service: OnUpgrade,
    response: Response<ResponseBody>,
) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let upgrade = body.into_upgrade();
    // A connection of its own kind by now, which the edge waits for as for any other.
    shared.connections.spawn(async move {
        if let Err(error) = join(client, service, upgrade).await {
            tracing::debug!(
                error = crate::telemetry::report(&*error),
                "an upgraded connection ended with an error"
            );
        }
    });
    Response::from_parts(parts, Body::empty())
}

async fn join(
    client: OnUpgrade,
    service: OnUpgrade,
    _in_use: Option<Upgrade>,
) -> Result<(), upstream::BoxError> {
    let (client, service) = tokio::try_join!(client, service)?;
    let service = service.downcast::<TokioIo<Stream>>().map_err(unexpected)?;
    let service = Prefixed { prefix: service.read_buf, side: service.io.into_inner() };
    let counts = Counts::default();
    match auto::upgrade::downcast::<TokioIo<Connection>>(client) {
        Ok(client) => {
            let client = Prefixed { prefix: client.read_buf, side: client.io.into_inner() };
            Ok(splice(client, service, &counts).await?)
        }
        Err(client) => Ok(splice(Http2Stream(TokioIo::new(client)), service, &counts).await?),
    }
}

fn unexpected(_: Upgraded) -> upstream::BoxError {
    "an upgraded connection is not of the kind that was served".into()
}

/// A stream of HTTP/2 that a client has made a connection of.
struct Http2Stream(TokioIo<Upgraded>);

impl Side for Http2Stream {
    type Read<'a> = ReadHalf<&'a mut TokioIo<Upgraded>>;
    type Write<'a> = WriteHalf<&'a mut TokioIo<Upgraded>>;

    fn halves(&mut self) -> (Self::Read<'_>, Self::Write<'_>) {
        tokio::io::split(&mut self.0)
    }

    fn reset(self, _: bool) {
        // hyper has no way to reset it: it ends, and what it carries says whether that is complete, as WebSocket does.
    }
}
