//! Sends a request again, as it was or edited, by the way that a client's takes from the agent on: the endpoint's door, its
//! rewriting, a connection of the service. What becomes of it is an exchange like any other.

use std::{net::IpAddr, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1 as client;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::DuplexStream;

use super::{
    Inspected, Inspector, REPLAY, REPLAYS, Tap,
    shown::Shown,
    store::{Exchange, RequestHead, Store},
    tap::Replayed,
};
use crate::{
    agent::{
        Endpoint,
        door::Clients,
        http::{FIELDS, serve},
        proxied::Ends,
        rewrite::RESERVED,
    },
    protocol::{EndpointId, Kind},
    telemetry::trace::Tracer,
};

/// What is on its way between this and what serves the request, in bytes.
const PIPE: usize = 64 * 1024;

/// What is to be otherwise. A mask stands for what it hides.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Edits {
    method: Option<String>,
    target: Option<String>,
    /// All of them: those that are not named are not sent.
    headers: Option<Vec<(String, String)>>,
    body: Option<String>,
    /// The same for what is no text.
    body_base64: Option<String>,
}

/// Why a request is not sent again.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    #[error("there is no exchange {0}: it is too long ago, or has been cleared")]
    Gone(u64),
    #[error("exchange {0} has no request: the service was not reached, and the node had not sent it yet")]
    NoRequest(u64),
    #[error("exchange {0} switched to another protocol, which cannot be sent again")]
    Switched(u64),
    #[error("only {kept} of {length} bytes of the body were kept: give another body to send")]
    Cut { kept: usize, length: u64 },
    #[error("{0:?} is no method that can be sent, such as GET or POST")]
    Method(String),
    #[error(
        "{0:?} is no target of a request: begin it with / and write what is no ASCII, and blanks, as %20"
    )]
    Target(String),
    #[error("{0:?} is not the name of a header field")]
    Name(String),
    #[error("the value of {0} has a character that no header field has")]
    Value(HeaderName),
    #[error("body and body_base64 are both given: leave one of them out")]
    TwoBodies,
    #[error("body_base64 is no base64 with padding")]
    Base64,
    #[error("the agent does not serve {0} any more, or not as HTTP/1.1")]
    NotServed(EndpointId),
    #[error("{REPLAYS} replays are under way: wait for one to end, which takes {REPLAY:?} at most")]
    Busy,
}

impl ReplayError {
    pub(super) fn code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Gone(_) => (StatusCode::NOT_FOUND, "no_exchange"),
            Self::NoRequest(_) => (StatusCode::CONFLICT, "no_request"),
            Self::Switched(_) => (StatusCode::CONFLICT, "switched"),
            Self::Cut { .. } => (StatusCode::CONFLICT, "body_cut"),
            Self::NotServed(_) => (StatusCode::CONFLICT, "not_served"),
            Self::Busy => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            _ => (StatusCode::BAD_REQUEST, "invalid_request"),
        }
    }
}

/// Whether a field is of one connection, or frames a message: each connection has its own.
pub(super) fn is_of_connection(name: &HeaderName) -> bool {
    RESERVED.contains(name) || *name == header::EXPECT
}

/// Begins to send the request of an exchange again; the number of the new one.
pub(super) fn begin(inspector: &Inspector, of: u64, edits: Edits) -> Result<u64, ReplayError> {
    let exchange = inspector.with(|store| store.get(of)).ok_or(ReplayError::Gone(of))?;
    let request = request(&exchange, edits)?;
    let endpoint = inspector.serves(&exchange.endpoint);
    let endpoint = endpoint.filter(|endpoint| endpoint.kind == Kind::Http);
    let endpoint = endpoint.ok_or_else(|| ReplayError::NotServed(exchange.endpoint.clone()))?;
    let permit = Arc::clone(&inspector.0.replays).try_acquire_owned().map_err(|_| ReplayError::Busy)?;
    let id = inspector.with(Store::reserve);
    let inspected = Inspected {
        inspector: inspector.clone(),
        replay: Some(Replayed { id, of, known: Shown::of(&exchange).masks.secrets() }),
    };
    // It is there from now on, for whoever is told its number.
    let tap = inspected.wait(&endpoint, exchange.client, &request);
    let giving_up = inspector.clone();
    inspector.0.tasks.spawn(async move {
        let sent = send(inspected, tap, &endpoint, exchange.client, request);
        if tokio::time::timeout(REPLAY, sent).await.is_err() {
            tracing::debug!(endpoint = %endpoint.name, id, "a replay was given up");
        }
        giving_up.with(|store| store.give_up(id));
        drop(permit);
    });
    Ok(id)
}

/// The request that is to be sent.
fn request(exchange: &Exchange, edits: Edits) -> Result<Request<Bytes>, ReplayError> {
    let head = exchange.request.as_deref().ok_or(ReplayError::NoRequest(exchange.id))?;
    if head.headers.contains_key(header::UPGRADE) || head.method == Method::CONNECT {
        return Err(ReplayError::Switched(exchange.id));
    }
    let shown = Shown::of(exchange);
    let Edits { method, target, headers, body, body_base64 } = edits;
    let mut request = Request::new(Bytes::from(match (body, body_base64) {
        (Some(_), Some(_)) => return Err(ReplayError::TwoBodies),
        (Some(text), None) => shown.masks.restore(text.as_bytes()),
        (None, Some(base64)) => BASE64_STANDARD.decode(base64).map_err(|_| ReplayError::Base64)?,
        (None, None) if exchange.request_body.is_cut() => {
            let (kept, length) = (exchange.request_body.kept.len(), exchange.request_body.length);
            return Err(ReplayError::Cut { kept, length });
        }
        (None, None) => exchange.request_body.kept.clone(),
    }));
    *request.method_mut() = match method {
        Some(text) => match text.parse() {
            Ok(method) if method != Method::CONNECT => method,
            _ => return Err(ReplayError::Method(text)),
        },
        None => head.method.clone(),
    };
    *request.uri_mut() = match target {
        Some(text) => {
            let meant = Uri::try_from(shown.masks.restore(text.as_bytes()));
            meant.ok().filter(|uri| uri.authority().is_none()).ok_or(ReplayError::Target(text))?
        }
        None => head.target.clone(),
    };
    *request.headers_mut() = match headers {
        Some(edited) => edited_fields(&edited, head, &shown)?,
        None => head.headers.clone(),
    };
    for name in RESERVED.into_iter().chain([header::EXPECT]) {
        request.headers_mut().remove(name);
    }
    Ok(request)
}

/// Fields as they were meant. One that is as it was shown is as it was, to the byte.
fn edited_fields(
    edited: &[(String, String)],
    head: &RequestHead,
    shown: &Shown<'_>,
) -> Result<HeaderMap, ReplayError> {
    let as_shown = shown.request.as_ref().map_or(&[][..], |request| &request.message.fields);
    let mut fields = HeaderMap::new();
    for (name, text) in edited {
        let name: HeaderName = name.parse().map_err(|_| ReplayError::Name(name.clone()))?;
        let before = head.headers.values().zip(as_shown);
        let same =
            before.filter(|(_, shown)| shown.0 == name && shown.1 == *text).map(|(value, _)| value).next();
        let value = match same {
            Some(value) => value.clone(),
            None => HeaderValue::try_from(shown.masks.restore(text.as_bytes()))
                .map_err(|_| ReplayError::Value(name.clone()))?,
        };
        fields.append(name, value);
    }
    Ok(fields)
}

/// Sends a request as if a node had sent it on a flow of its own.
async fn send(
    inspected: Inspected,
    mut waiting: Tap,
    endpoint: &Endpoint,
    client: Option<IpAddr>,
    request: Request<Bytes>,
) {
    let connection = match endpoint.service.connect(Kind::Http, Ends::default()).await {
        Ok(connection) => connection,
        Err(error) => return waiting.fail(error.to_string()),
    };
    waiting.leave();
    let (near, far) = tokio::io::duplex(PIPE);
    // Whoever sends it again has sent no trace with it.
    let not_traced = Tracer::default();
    let served = serve(far, Clients::One(client), connection, endpoint, Some(inspected), &not_traced, None);
    let ((), asked) = tokio::join!(served, ask(near, request));
    if let Err(error) = asked {
        // The exchange says what was wrong.
        tracing::debug!(endpoint = %endpoint.name, %error, "a replay broke");
    }
}

/// Asks as a node does, and reads all of the response.
async fn ask(near: DuplexStream, request: Request<Bytes>) -> Result<(), hyper::Error> {
    let io = TokioIo::new(near);
    let (mut sender, connection) = client::Builder::new().max_headers(FIELDS).handshake(io).await?;
    let read = async move {
        let mut body = sender.send_request(request.map(Full::new)).await?.into_body();
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok(())
    };
    tokio::try_join!(read, connection).map(drop)
}

#[cfg(test)]
mod tests {
    use super::{
        super::store::{BODY, tests::exchange},
        *,
    };

    fn edits(json: &str) -> Edits {
        serde_json::from_str(json).unwrap()
    }

    fn lines(request: &Request<Bytes>) -> Vec<String> {
        let mut lines = vec![format!("{} {}", request.method(), request.uri())];
        let field = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        lines.extend(request.headers().iter().map(field));
        lines
    }

    fn hook() -> Exchange {
        let fields = [
            ("host", "web"),
            ("authorization", "Bearer hunter2"),
            ("x-strange", "\u{fc}"),
            ("content-type", "application/json"),
            ("content-length", "22"),
            ("connection", "close"),
            ("expect", "100-continue"),
        ];
        exchange("POST", "/hook?token=hunter2", &fields, br#"{"password":"hunter2"}"#)
    }

    #[test]
    fn without_edits_it_is_as_it_was_but_for_what_is_of_its_connection() {
        let request = request(&hook(), Edits::default()).unwrap();
        assert_eq!(
            lines(&request),
            [
                "POST /hook?token=hunter2",
                "host: web",
                "authorization: Bearer hunter2",
                "x-strange: \u{fc}",
                "content-type: application/json",
            ]
        );
        assert_eq!(request.into_body(), r#"{"password":"hunter2"}"#);
    }

    #[test]
    fn what_is_edited_is_as_it_was_meant() {
        let request = request(&hook(), edits(
            r#"{
                "method": "PUT",
                "target": "/other?token=[secret-1]&a=1",
                "headers": [["host", "web"], ["authorization", "Bearer [secret-2]"], ["X-New", "a [secret-2]"],
                            ["content-length", "7"], ["x-strange", "ü"]],
                "body": "{\"password\":\"[secret-3]\",\"more\":1}"
            }"#,
        ))
        .unwrap();
        assert_eq!(
            lines(&request),
            [
                "PUT /other?token=hunter2&a=1",
                "host: web",
                "authorization: Bearer hunter2",
                "x-new: a hunter2",
                "x-strange: \u{fc}",
            ]
        );
        assert_eq!(request.into_body(), r#"{"password":"hunter2","more":1}"#);
        let request = super::request(&hook(), edits(r#"{"body_base64":"AP8="}"#)).unwrap();
        assert_eq!(request.into_body(), &b"\0\xff"[..]);
    }

    #[test]
    fn what_cannot_be_sent_is_refused_by_name() {
        for (json, part) in [
            (r#"{"method":"CONNECT"}"#, "CONNECT"),
            (r#"{"method":"a b"}"#, "a b"),
            (r#"{"target":"http://evil.example/"}"#, "http://evil.example/"),
            (r#"{"target":"/a b"}"#, "/a b"),
            (r#"{"headers":[["a b","c"]]}"#, "a b"),
            (r#"{"headers":[["x-a","b\nx-evil: 1"]]}"#, "x-a"),
            (r#"{"body":"a","body_base64":"AA=="}"#, "both"),
            (r#"{"body_base64":"A"}"#, "base64"),
        ] {
            let error = request(&hook(), edits(json)).unwrap_err();
            assert!(error.to_string().contains(part), "{json}: {error}");
            assert_eq!(error.code().0, StatusCode::BAD_REQUEST);
        }
        assert!(serde_json::from_str::<Edits>(r#"{"path":"/"}"#).is_err(), "an unknown member is no edit");

        let cut = exchange("POST", "/", &[], &[b'x'; BODY + 1]);
        assert!(matches!(request(&cut, Edits::default()), Err(ReplayError::Cut { kept: BODY, .. })));
        assert!(request(&cut, edits(r#"{"body":"short"}"#)).is_ok());
        let switched = exchange("GET", "/", &[("upgrade", "websocket")], b"");
        assert!(matches!(request(&switched, Edits::default()), Err(ReplayError::Switched(1))));
        let mut unreached = hook();
        unreached.request = None;
        assert!(matches!(request(&unreached, Edits::default()), Err(ReplayError::NoRequest(1))));
    }
}
