//! One request: match, route, send, relay.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt, Limited};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::{rt::TokioIo, server::conn::auto};
use tokio::{
    io::{ReadHalf, WriteHalf},
    time::Instant,
};

use super::{
    Shared,
    activity::{Exchange, Watched},
    body::Body,
    by_endpoint::Counts as EndpointCounts,
    connection::Client,
    endpoint::endpoint,
    error::{Error, Tongue},
    headers,
    lapse::Lapse,
    meaning,
    permit::{Permit, permit},
    piko,
    socket::Socket,
    websocket::WebSocket,
};
use crate::{
    access_log::{self, Ended, Head},
    auth::Pace,
    splice::{Broken, Counts, Prefixed, Side, splice},
    transport::Stream,
    upstream::{self, ResponseBody, Upgrade},
};

/// The body of a request, whichever version of HTTP it came by.
pub(super) trait RequestBody:
    http_body::Body<Data = Bytes, Error: Into<upstream::BoxError>> + Send + Unpin + 'static
{
}

impl<B: http_body::Body<Data = Bytes, Error: Into<upstream::BoxError>> + Send + Unpin + 'static> RequestBody
    for B
{
}

/// Answers a request, whatever happens.
pub(super) async fn serve<B: RequestBody>(
    shared: &Arc<Shared>,
    client: Client,
    exchange: &Arc<Exchange>,
    mut request: Request<B>,
) -> Response<Watched<Body>> {
    let started = Instant::now();
    let (version, method, uri) = (request.version(), request.method().clone(), request.uri().clone());
    let (address, scheme) = (client.address, client.scheme);
    let host = host(&request);
    let tongue = Tongue::of(&request);
    let head = Head { method: &method, host: host.as_ref(), target: &uri, version, scheme };
    let fields = request.headers_mut();
    exchange.keep(shared.access_log.request(&shared.connections, address, started, head, fields));
    exchange.count(&shared.traffic.http);
    let _in_flight = shared.counters.begin();
    let mut counts = None;
    let forwarded = forward(shared, client, exchange, request, host.clone(), &mut counts).await;
    let (status, mut response) = match forwarded {
        Ok(response) => (response.status(), response),
        Err(error) => {
            let (status, code) = error.status();
            // Of the target only the path: queries hold secrets.
            if error.is_of_caller() {
                tracing::info!(
                    target: "adit::access", client = %address, %method, host = host.as_ref().and_then(|host| host.to_str().ok()),
                    path = uri.path(), protocol = access_log::protocol(version),
                    status = status.as_u16(), code, %error, "a request was refused"
                );
                exchange.record().silence();
            } else {
                tracing::debug!(client = %address, %method, path = uri.path(), %error, "a request failed");
                exchange.record().ended(error.ended(), Some(code));
            }
            if status.is_client_error() {
                shared.counters.refused(code);
            }
            (status, error.response(tongue))
        }
    };
    let after = started.elapsed();
    shared.counters.answered(version, status, after);
    if let Some(counts) = counts {
        counts.answered(status);
    }
    exchange.record().answered(status, after);
    if shared.closing.load(Relaxed)
        && version < Version::HTTP_2
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(alt_svc) = &shared.alt_svc
        && scheme == "https"
        && version < Version::HTTP_3
    {
        // What a service says of itself is about its own ports, which no client can reach.
        response.headers_mut().insert(header::ALT_SVC, alt_svc.clone());
    }
    response.map(|body| exchange.download(body))
}

async fn forward<B: RequestBody>(
    shared: &Arc<Shared>,
    client: Client,
    exchange: &Arc<Exchange>,
    mut request: Request<B>,
    host: Option<HeaderValue>,
    counts: &mut Option<Arc<EndpointCounts>>,
) -> Result<Response<Body>, Error> {
    let mut pass = shared.callers.client(client.address.ip())?;
    let websocket = WebSocket::asked(&mut request)?;
    check(shared, &request)?;
    let text = host.as_ref().and_then(|host| host.to_str().ok());
    let is_piko = piko::is_tcp(&request);
    let (mapped, named) = match is_piko {
        true => (None, piko::endpoint(&request)),
        false => {
            let target = endpoint(request.headers(), text, |host| shared.upstreams.of_host(host));
            (target.mapped, target.named.map_err(Error::from))
        }
    };
    let permit = permit(shared, &client, &mut request, text, mapped, named).await?;
    *counts = shared.by_endpoint.of(&permit.name, || shared.upstreams.has(&permit.name));
    let record = exchange.record();
    record.asks_for(&permit.name);
    // What was for the edge has been taken out.
    record.shows(request.headers());
    shared.callers.endpoint(&mut pass, &permit.name.tenant, &permit.name.endpoint)?;
    let pace = exchange.admit(pass);
    if is_piko {
        return piko::serve(shared, client, exchange, request, host, websocket, permit).await;
    }
    let switching = websocket.is_some()
        || (request.version() == Version::HTTP_11 && headers::upgrade(request.headers()).is_some());
    let client_side = switching.then(|| hyper::upgrade::on(&mut request));

    rewrite(&mut request, &client, host, switching);
    // A call of gRPC has the deadline that its client gives it and keeps itself, and its response may begin with its first
    // message, whenever that is.
    let limits = &shared.limits;
    let timeout = headers::grpc(request.headers()).is_none().then_some(limits.request_timeout);
    let request = request.map(|body| {
        let body = exchange.upload(body);
        match limits.max_body_bytes {
            Some(max) => upstream::Body::new(Limited::new(body, usize::try_from(max).unwrap_or(usize::MAX))),
            None => upstream::Body::new(body.map_err(Into::into)),
        }
    });
    let sent = shared.upstreams.send(&permit.name, request, client.connection, timeout, pace, record.trail());
    let mut response = tokio::select! {
        sent = sent => sent.map_err(|error| Error::of_send(error, limits.max_body_bytes))?,
        () = exchange.upload_stalled(limits.stall_timeout.unwrap_or(Duration::MAX)) => return Err(Error::Stalled),
        lapsed = permit.over() => return Err(Error::Lapsed(lapsed)),
    };

    let service_side =
        (response.status() == StatusCode::SWITCHING_PROTOCOLS).then(|| hyper::upgrade::on(&mut response));
    headers::strip_hop_by_hop(response.headers_mut());
    response.headers_mut().remove(headers::ERROR);
    *response.version_mut() = Version::HTTP_11;
    if let Some(websocket) = websocket {
        websocket.answered(&mut response)?;
    }
    match (client_side, service_side) {
        (Some(client_side), Some(service_side)) => {
            Ok(switch(shared, (client.address, exchange), permit, client_side, service_side, response))
        }
        // RFC 9110 §15.2.2: such a client would wait for the response that follows.
        (None, Some(_)) => Err(Error::Switched),
        (_, None) => Ok(response.map(|body| {
            let Some(lapsed) = permit.lapsed() else { return Body::Upstream(body) };
            let lapse = Lapse::new(shared, client.address, &permit, "a response", record);
            Body::lasting(body, lapse.told(lapsed))
        })),
    }
}

/// What must hold before anybody is asked.
fn check<B: RequestBody>(shared: &Shared, request: &Request<B>) -> Result<(), Error> {
    meaning::check(request)?;
    shared.limits.check(request)
}

/// The host that the request is for: that of an absolute target before the `Host` field (RFC 9112 §3.2.2); in HTTP/2 it
/// comes as `:authority`.
fn host<B>(request: &Request<B>) -> Option<HeaderValue> {
    match request.uri().authority() {
        // Whoever has a password in the target does not want it passed on.
        Some(authority) => {
            let authority = authority.as_str();
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            HeaderValue::from_str(host).ok()
        }
        None => request.headers().get(header::HOST).cloned(),
    }
}

/// Makes of the client's request the one that the service gets.
fn rewrite<B: RequestBody>(
    request: &mut Request<B>,
    client: &Client,
    host: Option<HeaderValue>,
    switching: bool,
) {
    if request.version() >= Version::HTTP_2 {
        headers::join_cookies(request.headers_mut());
    }
    *request.version_mut() = Version::HTTP_11;
    let target = request.uri().path_and_query().cloned().map_or_else(Uri::default, Uri::from);
    *request.uri_mut() = target;
    let (has_body, length) = (!request.body().is_end_stream(), request.body().size_hint().exact());
    let headers = request.headers_mut();
    headers::strip_hop_by_hop(headers);
    headers::strip_own(headers);
    if !switching {
        headers.remove(header::UPGRADE);
        headers.remove(header::CONNECTION);
    }
    // What is sent on is the length that was understood, once and in plain digits, however it was written.
    if headers.remove(header::CONTENT_LENGTH).is_some()
        && let Some(length) = length
    {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    if has_body && !headers.contains_key(header::CONTENT_LENGTH) {
        // Without either, hyper sends no body for methods that seldom have one.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    client.forwarding.tell(headers, host.as_ref());
    if let Some(host) = host {
        headers.insert(header::HOST, host);
    }
}

/// Joins client and service once both have switched protocols.
fn switch(
    shared: &Shared,
    (address, exchange): (SocketAddr, &Arc<Exchange>),
    permit: Permit,
    client: OnUpgrade,
    service: OnUpgrade,
    response: Response<ResponseBody>,
) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let upgrade = body.into_upgrade();
    let exchange = Arc::clone(exchange);
    exchange.record().switched(None);
    let lapse = Lapse::new(shared, address, &permit, "a switched connection", exchange.record());
    let traffic = shared.traffic.http.clone();
    // A connection of its own kind by now, which the edge waits for as for any other.
    shared.connections.spawn(async move {
        // Their connection is not idle meanwhile.
        let counts = Counts::at(exchange.pace().and_then(Pace::waits)).counted(&traffic);
        let record = exchange.record();
        let _carrying = record.carrying(&counts);
        let joined = tokio::select! {
            joined = join(client, service, upgrade, &counts) => joined,
            // What it speaks is not known here: it can only be reset.
            lapsed = lapse.told(permit.over()) => Err(lapsed.into()),
        };
        if let Err(error) = &joined {
            tracing::debug!(
                error = crate::telemetry::report(&**error),
                "an upgraded connection ended with an error"
            );
        }
        match joined.as_ref().map_err(|error| error.downcast_ref::<Broken>()) {
            Ok(()) => record.joined(Ok(())),
            Err(Some(broken)) => record.joined(Err(broken)),
            // It has gone before it had switched.
            Err(None) => record.ended(Ended::Client, None),
        }
    });
    Response::from_parts(parts, Body::empty())
}

async fn join(
    client: OnUpgrade,
    service: OnUpgrade,
    _in_use: Option<Upgrade>,
    counts: &Counts,
) -> Result<(), upstream::BoxError> {
    let (client, service) = tokio::try_join!(client, service)?;
    let service = service.downcast::<TokioIo<Stream>>().map_err(unexpected)?;
    let service = Prefixed { prefix: service.read_buf, side: service.io.into_inner() };
    match auto::upgrade::downcast::<TokioIo<Socket>>(client) {
        Ok(client) => {
            let (side, _admission) = client.io.into_inner().into_inner().ok_or(NOT_SERVED)?;
            let client = Prefixed { prefix: client.read_buf, side };
            Ok(splice(client, service, counts).await?)
        }
        Err(client) => Ok(splice(TokioIo::new(client), service, counts).await?),
    }
}

pub(super) const NOT_SERVED: &str = "an upgraded connection is not of the kind that was served";

fn unexpected(_: Upgraded) -> upstream::BoxError {
    NOT_SERVED.into()
}

/// A stream of HTTP/2 that a client has made a connection of.
impl Side for TokioIo<Upgraded> {
    type Read<'a> = ReadHalf<&'a mut Self>;
    type Write<'a> = WriteHalf<&'a mut Self>;

    fn halves(&mut self) -> (Self::Read<'_>, Self::Write<'_>) {
        tokio::io::split(self)
    }

    fn reset(self, _: bool) {
        // hyper has no way to reset it: it ends, and what it carries says whether that is complete, as WebSocket does.
    }
}
