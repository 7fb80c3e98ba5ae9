//! An exchange as it is shown: with masks in the place of secrets, and bodies as text where they are text.
//!
//! Pure, and the only way from what is kept to anybody who looks.

use std::{borrow::Cow, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, header};
use serde_json::{Value, json};

use super::{
    mask::Masks,
    store::{Body, Exchange},
};

/// An exchange with masks.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    pub(super) exchange: &'a Exchange,
    pub(super) request: Option<Request>,
    pub(super) response: Option<Response>,
    /// What the masks of the request stand for.
    pub(super) masks: Masks,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) message: Message,
}

#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) message: Message,
}

/// What requests and responses have in common.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) fields: Vec<(HeaderName, String)>,
    /// What its content is, in the words of its header.
    pub(super) kind: String,
    pub(super) content: Content,
}

/// What is kept of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    Text(String),
    Bytes(Vec<u8>),
}

impl<'a> Shown<'a> {
    pub(super) fn of(exchange: &'a Exchange) -> Self {
        let mut masks = Masks::knowing(&exchange.known);
        let request = exchange.request.as_ref().map(|head| Request {
            method: head.method.to_string(),
            target: masks.url(&head.target.to_string()),
            message: Message::of(&head.headers, &exchange.request_body, &mut masks, &head.hidden),
        });
        let response = exchange.response.as_ref().map(|head| Response {
            status: head.status.as_u16(),
            reason: reason(head.reason.as_deref(), head.status),
            message: Message::of(&head.headers, &exchange.response_body, &mut Masks::default(), &[]),
        });
        Self { exchange, request, response, masks }
    }

    /// A line of a list.
    pub(super) fn summary(exchange: &Exchange) -> Value {
        let request = exchange.request.as_ref();
        let response = exchange.response.as_ref();
        json!({
            "id": exchange.id,
            "revision": exchange.revision,
            "endpoint": exchange.endpoint.to_string(),
            "client": exchange.client,
            "replay_of": exchange.replay_of,
            "began": began(exchange),
            "state": exchange.state().name(),
            "error": exchange.error,
            "method": request.map(|head| head.method.as_str()),
            "target": request.map(|head| Masks::knowing(&exchange.known).url(&head.target.to_string())),
            "status": response.map(|head| head.status.as_u16()),
            "duration_ms": exchange.times.ended.map(millis),
            "response_bytes": exchange.response_body.length,
        })
    }

    /// All of it.
    pub(super) fn whole(&self) -> Value {
        let Self { exchange, request, response, masks } = self;
        let mut shown = Self::summary(exchange);
        shown["service"] = exchange.service.as_ref().into();
        shown["masked"] = (!masks.is_empty()).into();
        shown["times"] = json!({
            "sent_ms": exchange.times.sent.map(millis),
            "answered_ms": exchange.times.answered.map(millis),
            "ended_ms": exchange.times.ended.map(millis),
        });
        shown["carried"] = exchange
            .carried
            .map(|(to_service, from_service)| json!({ "to_service": to_service, "from_service": from_service }))
            .into();
        shown["request"] =
            request.as_ref().map(|request| request.message.view(&exchange.request_body)).into();
        let own = exchange.response.as_ref().is_some_and(|head| head.own);
        shown["response"] = response
            .as_ref()
            .map(|response| {
                let mut shown = response.message.view(&exchange.response_body);
                shown["reason"] = response.reason.as_str().into();
                shown["own"] = own.into();
                shown
            })
            .into();
        shown
    }

    /// Whether a text, in lower case, is anywhere in what is shown.
    pub(super) fn has(&self, text: &str) -> bool {
        let has = |shown: &str| shown.to_lowercase().contains(text);
        let request = self.request.as_ref();
        let messages = [
            request.map(|request| &request.message),
            self.response.as_ref().map(|response| &response.message),
        ];
        has(self.exchange.endpoint.as_str())
            || self.exchange.error.as_deref().is_some_and(has)
            || request.is_some_and(|request| has(&request.target) || has(&request.method))
            || messages.into_iter().flatten().any(|message| message.has(has))
    }
}

impl Message {
    fn of(headers: &HeaderMap, body: &Body, masks: &mut Masks, hidden: &[HeaderName]) -> Self {
        let fields =
            headers.iter().map(|(name, value)| (name.clone(), masks.field(name, value, hidden))).collect();
        let named = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = named(header::CONTENT_TYPE).to_owned();
        // What is compressed is no text that could be read, or masked.
        let is_plain = matches!(named(header::CONTENT_ENCODING), "" | "identity");
        let shown = if is_plain { masks.body(&kind, &body.kept) } else { Cow::from(&body.kept) };
        let content = Content::of(shown.into_owned(), body.is_cut());
        Self { fields, kind, content }
    }

    fn view(&self, body: &Body) -> Value {
        let fields: Vec<_> = self.fields.iter().map(|(name, value)| [name.as_str(), value]).collect();
        let (text, base64) = match &self.content {
            Content::Text(text) => (Some(text), None),
            Content::Bytes(bytes) => (None, Some(BASE64_STANDARD.encode(bytes))),
        };
        json!({
            "headers": fields,
            "body": {
                "length": body.length,
                "kept": body.kept.len(),
                "cut": body.is_cut(),
                "complete": body.complete,
                "type": self.kind,
                "text": text,
                "base64": base64,
            },
        })
    }

    fn has(&self, has: impl Fn(&str) -> bool) -> bool {
        let in_text = match &self.content {
            Content::Text(text) => has(text),
            Content::Bytes(_) => false,
        };
        in_text || self.fields.iter().any(|(name, value)| has(name.as_str()) || has(value))
    }
}

impl Content {
    /// Text, where that is all it is. One that is cut may end in the middle of a character.
    fn of(bytes: Vec<u8>, cut: bool) -> Self {
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text,
            Err(error) if cut && error.error_len().is_none() => {
                std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(_) => return Self::Bytes(bytes),
        };
        let strange = |char: char| char.is_control() && !matches!(char, '\t' | '\n' | '\r');
        if text.contains(strange) { Self::Bytes(bytes) } else { Self::Text(text.to_owned()) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

fn reason(said: Option<&str>, status: http::StatusCode) -> String {
    said.or_else(|| status.canonical_reason()).unwrap_or_default().to_owned()
}

/// When it began, as RFC 3339 has it.
pub(super) fn began(exchange: &Exchange) -> String {
    humantime::format_rfc3339_millis(exchange.began).to_string()
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::{
        super::store::{
            BODY,
            tests::{answered, exchange},
        },
        *,
    };

    #[test]
    fn secrets_are_in_nothing_that_is_shown() {
        let form = [("content-type", "application/json"), ("cookie", "a=hunter2"), ("x-door", "hunter2")];
        let mut exchange = exchange("POST", "/?token=hunter2", &form, br#"{"password":"hunter2"}"#);
        let head = std::sync::Arc::get_mut(exchange.request.as_mut().unwrap()).unwrap();
        head.hidden.push("x-door".parse().unwrap());
        let fields = [("set-cookie", "a=hunter2; Path=/"), ("content-type", "application/json")];
        let exchange = answered(exchange, 200, &fields, br#"{"access_token":"hunter2"}"#);
        let shown = Shown::of(&exchange);
        let all = format!("{} {} {shown:?}", shown.whole(), Shown::summary(&exchange));
        assert!(!all.contains("hunter2"), "{all}");
        assert!(!shown.has("hunter2") && shown.has("[secret-1]") && shown.has("path=/"));
    }

    #[test]
    fn text_is_shown_as_text_and_all_else_as_bytes() {
        let text = |bytes: &[u8], cut| match Content::of(bytes.to_vec(), cut) {
            Content::Text(text) => Some(text),
            Content::Bytes(_) => None,
        };
        assert_eq!(text("a\tü\r\n".as_bytes(), false).as_deref(), Some("a\tü\r\n"));
        assert_eq!(text(b"", false).as_deref(), Some(""));
        assert_eq!(text(b"a\0", false), None);
        assert_eq!(text(b"\x1f\x8b", false), None);
        assert_eq!(text(b"a\xc3", false), None);
        assert_eq!(text(b"a\xc3", true).as_deref(), Some("a"), "the rest of the character is cut off");
        assert_eq!(text(b"a\xc3b", true), None);
    }

    #[test]
    fn a_compressed_body_is_bytes_whatever_its_type_says() {
        let fields = [("content-type", "application/json"), ("content-encoding", "gzip")];
        let exchange = exchange("POST", "/", &fields, b"\x1f\x8b\x08\x00");
        let shown = Shown::of(&exchange).whole();
        assert_eq!(shown["request"]["body"]["base64"], "H4sIAA==");
        assert_eq!(shown["request"]["body"]["text"], Value::Null);
    }

    #[test]
    fn a_body_that_is_cut_says_so() {
        let exchange = exchange("POST", "/", &[], &[b'x'; BODY + 1]);
        let shown = Shown::of(&exchange).whole();
        let body = &shown["request"]["body"];
        assert_eq!(
            (&body["cut"], &body["length"], &body["kept"]),
            (&true.into(), &(BODY + 1).into(), &BODY.into())
        );
    }
}
