//! What a client sends arrives at the service as it was, and the response at the client, whatever the versions of HTTP on
//! both sides.

use std::{
    io,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    ext::ReasonPhrase,
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, TestCaseError, TestRunner},
};
use tokio::runtime::Runtime;

use crate::support::{
    body::Body,
    client::{Client, request_of},
    fabric::Web,
    http2, ok,
    service::{self, Running},
    soon,
};

/// The parts of a message that are nobody's business on the way.
#[derive(Debug, Clone, PartialEq)]
struct Message {
    fields: Vec<(HeaderName, HeaderValue)>,
    pieces: Vec<Vec<u8>>,
    /// Whether its length is said beforehand.
    length: bool,
    trailers: Vec<(HeaderName, HeaderValue)>,
}

/// What arrives of one.
#[derive(Debug, PartialEq)]
struct Arrived {
    fields: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Message {
    /// As it is expected to arrive.
    fn arrived(&self) -> Arrived {
        let trailers = HeaderMap::from_iter(self.trailers.clone());
        Arrived {
            fields: HeaderMap::from_iter(self.fields.clone()),
            body: self.pieces.concat().into(),
            trailers: Some(trailers).filter(|trailers| !trailers.is_empty()),
        }
    }

    /// The header fields as they are sent, with those that say how the body comes.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.fields {
            headers.append(name.clone(), value.clone());
        }
        for (name, _) in &self.trailers {
            headers.append(header::TRAILER, name.clone().into());
        }
        if self.length {
            headers.insert(header::CONTENT_LENGTH, self.pieces.concat().len().into());
        }
        headers
    }

    fn body(&self) -> Body {
        let trailers = HeaderMap::from_iter(self.trailers.clone());
        let trailers = Some(trailers).filter(|trailers| !trailers.is_empty()).map(Frame::trailers);
        let pieces = self.pieces.iter().cloned().map(Bytes::from).map(Frame::data);
        let frames: Vec<io::Result<_>> = pieces.chain(trailers).map(Ok).collect();
        if frames.is_empty() { service::full("") } else { Body::new(StreamBody::new(stream::iter(frames))) }
    }
}

/// Reads a message whole, and leaves out the fields that others have added.
async fn arrived(headers: &HeaderMap, body: Incoming) -> Result<Arrived, hyper::Error> {
    let all = soon(body.collect()).await?;
    let ours = |name: &HeaderName| name.as_str().starts_with("x-test-");
    let mut fields = HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| ours(name)) {
        fields.append(name.clone(), value.clone());
    }
    let trailers = all.trailers().cloned();
    Ok(Arrived { fields, trailers, body: all.to_bytes() })
}

#[derive(Debug, Clone)]
struct Exchange {
    method: Method,
    target: String,
    request: Message,
    status: StatusCode,
    reason: String,
    response: Message,
}

fn fields(count: usize) -> impl Strategy<Value = Vec<(HeaderName, HeaderValue)>> {
    let name = "x-test-[a-d]{1,2}".prop_map(|name| ok(HeaderName::try_from(name)));
    // Whatever a value may hold: visible characters, spaces and tabs within, and bytes above them.
    let value =
        vec(prop_oneof![8 => 0x21_u8..0x7f, 1 => Just(b' '), 1 => Just(b'\t'), 1 => 0x80_u8..], 0..30)
            .prop_map(|value| ok(HeaderValue::from_bytes(value.trim_ascii())));
    vec((name, value), 0..count)
}

fn message(with_body: bool) -> impl Strategy<Value = Message> {
    let pieces = vec(vec(any::<u8>(), 1..5000), 0..if with_body { 5 } else { 1 });
    (fields(8), pieces, any::<bool>(), fields(3)).prop_map(move |(fields, pieces, length, trailers)| {
        Message {
            fields,
            length: length && with_body,
            // HTTP/1.1 has trailers only where the length is not said, and there must be something that they trail.
            trailers: if length || pieces.is_empty() { Vec::new() } else { trailers },
            pieces,
        }
    })
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let method = select(vec!["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "REPORT"]);
    let status = prop_oneof![Just(200), Just(204), Just(304), 200_u16..600];
    let target = "/[!-~&&[^#\"<>\\\\^`{|}?]]{0,20}(\\?[!-~&&[^#\"<>\\\\^`{|}]]{0,20})?";
    (method, status, "Quite [ -~]{0,20}", target, any::<u8>()).prop_flat_map(
        |(method, status, reason, target, sends)| {
            let empty = method == "HEAD" || [204, 304].contains(&status);
            let parts = (message(method != "GET" || sends < 64), message(!empty));
            parts.prop_map(move |(request, response)| Exchange {
                method: ok(method.parse()),
                target: target.clone(),
                request,
                status: ok(StatusCode::from_u16(status)),
                reason: reason.trim_end().into(),
                response,
            })
        },
    )
}

/// What a service was asked: the method, the target, the rest.
type Seen = (Method, String, Arrived);

/// A service that answers as it is told, and tells what it was asked.
struct Stage {
    next: Arc<Mutex<Option<Exchange>>>,
    seen: Arc<Mutex<Option<Seen>>>,
    _service: Running,
    web: Web,
    http2: bool,
}

impl Stage {
    async fn new(nodes: usize, http2: bool) -> Self {
        let (next, seen) = (Arc::<Mutex<Option<Exchange>>>::default(), Arc::<Mutex<Option<Seen>>>::default());
        let (told, tell) = (Arc::clone(&next), Arc::clone(&seen));
        let serve = move |request: Request<Incoming>| {
            let (told, tell) = (Arc::clone(&told), Arc::clone(&tell));
            async move {
                let Exchange { status, reason, response, .. } = ok(told.lock()).clone().expect("it is told");
                let (head, body) = request.into_parts();
                let target = head.uri.path_and_query().map_or("", |target| target.as_str()).to_owned();
                let arrived = ok(arrived(&head.headers, body).await);
                *ok(tell.lock()) = Some((head.method, target, arrived));
                let mut answer = Response::new(response.body());
                *answer.status_mut() = status;
                *answer.headers_mut() = response.headers();
                answer.extensions_mut().insert(ok(ReasonPhrase::try_from(reason)));
                answer
            }
        };
        let service = if http2 { http2::http(serve).await } else { service::http(serve).await };
        let web = Web::of(nodes, http2, service.address).await;
        Self { next, seen, _service: service, web, http2 }
    }

    async fn check(&self, client: &mut Client, exchange: Exchange) -> Result<(), TestCaseError> {
        *ok(self.next.lock()) = Some(exchange.clone());
        let Exchange { method, target, request: sent, status, reason, response } = exchange;
        let mut request = request_of(method.as_str(), "web", &target, sent.body());
        request.headers_mut().extend(sent.headers());
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        if matches!(client, Client::Http1(_)) && !sent.pieces.is_empty() && !sent.length {
            // hyper's client sends no body for methods that seldom have one, unless it is told so.
            request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let answer = client.send(request).await;
        let (head, body) = answer.map_err(|error| TestCaseError::fail(format!("{error:?}")))?.into_parts();
        let answered = arrived(&head.headers, body).await;
        let seen = ok(self.seen.lock()).take();
        prop_assert_eq!(seen, Some((method, target, sent.arrived())));
        prop_assert_eq!(head.status, status);
        if matches!(client, Client::Http1(_)) && !self.http2 {
            let phrase = head.extensions.get::<ReasonPhrase>().expect("it is unusual");
            prop_assert_eq!(phrase.as_bytes(), reason.as_bytes());
        }
        prop_assert_eq!(ok(answered), response.arrived());
        Ok(())
    }
}

/// Random requests and responses over one connection, through one node and across two.
fn run(client_http2: bool, service_http2: bool) {
    for nodes in [1, 2] {
        run_over(nodes, client_http2, service_http2);
    }
}

fn run_over(nodes: usize, client_http2: bool, service_http2: bool) {
    let runtime = ok(Runtime::new());
    let stage = runtime.block_on(Stage::new(nodes, service_http2));
    let [http1, http2] = runtime.block_on(Client::both(stage.web.edge));
    let client = std::cell::RefCell::new(if client_http2 { http2 } else { http1 });
    let mut runner = TestRunner::new(Config { cases: 128, failure_persistence: None, ..Config::default() });
    let ran =
        runner.run(&exchange(), |exchange| runtime.block_on(stage.check(&mut client.borrow_mut(), exchange)));
    ran.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn any_exchange_passes_unchanged_from_http1_to_http1() {
    run(false, false);
}

#[test]
fn any_exchange_passes_unchanged_from_http1_to_http2() {
    run(false, true);
}

#[test]
fn any_exchange_passes_unchanged_from_http2_to_http1() {
    run(true, false);
}

#[test]
fn any_exchange_passes_unchanged_from_http2_to_http2() {
    run(true, true);
}
