//! Exchanges in the form that browsers and other tools read: HTTP Archive 1.2.
//!
//! Pure. What the form has no place for is in members that begin with an underscore, as it demands.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{
    shown::{Content, Message, Request, Response, Shown, began, millis},
    store::Exchange,
};

/// The name of a file of it.
pub(super) const FILE: &str = "adit.har";

/// An archive of these, the oldest first. Those without a request have no place in it.
pub(super) fn archive(exchanges: &[Exchange]) -> Value {
    let entries: Vec<_> = exchanges.iter().filter_map(|exchange| entry(&Shown::of(exchange))).collect();
    json!({
        "log": {
            "version": "1.2",
            "creator": { "name": "adit", "version": env!("CARGO_PKG_VERSION") },
            "entries": entries,
        },
    })
}

fn entry(shown: &Shown<'_>) -> Option<Value> {
    let Shown { exchange, request, response, masks: _ } = shown;
    let request = request.as_ref()?;
    let times = &exchange.times;
    let [sent, answered, ended] = [times.sent, times.answered, times.ended].map(|time| time.map(millis));
    // A response may begin before its request has ended.
    let send = sent.or(answered).or(ended).unwrap_or_default().min(answered.unwrap_or(f64::MAX));
    let wait = answered.map_or(0.0, |answered| answered - send);
    let receive = ended.zip(answered).map_or(0.0, |(ended, answered)| ended - answered);
    let mut entry = json!({
        "startedDateTime": began(exchange),
        "time": send + wait + receive,
        "request": sent_part(request, exchange),
        "response": received_part(response.as_ref(), exchange),
        "cache": {},
        "timings": { "blocked": -1, "dns": -1, "connect": -1, "ssl": -1, "send": send, "wait": wait, "receive": receive },
        "_endpoint": exchange.endpoint.as_str(),
    });
    if let Some(of) = exchange.replay_of {
        entry["comment"] = format!("sent again by the inspector, as exchange {of} was").into();
    }
    if let Some(error) = &exchange.error {
        entry["_error"] = error.as_str().into();
    }
    Some(entry)
}

fn sent_part(request: &Request, exchange: &Exchange) -> Value {
    let Request { method, target, message } = request;
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        json!({ "name": decoded(name), "value": decoded(value) })
    });
    let mut part = json!({
        "method": method,
        "url": url(message, exchange, target),
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": fields(message),
        "queryString": pairs.collect::<Vec<_>>(),
        "headersSize": -1,
        "bodySize": exchange.request_body.length,
    });
    if exchange.request_body.length > 0 {
        let mut posted = json!({ "mimeType": message.kind });
        match &message.content {
            Content::Text(text) => posted["text"] = text.as_str().into(),
            // Only responses have a word for this.
            Content::Bytes(bytes) => {
                posted["text"] = "".into();
                posted["_base64"] = BASE64_STANDARD.encode(bytes).into();
            }
        }
        if exchange.request_body.is_cut() {
            posted["comment"] = cut(exchange.request_body.kept.len());
        }
        part["postData"] = posted;
    }
    part
}

/// A response that has not come is one with status 0.
fn received_part(response: Option<&Response>, exchange: &Exchange) -> Value {
    let mut content = json!({ "size": exchange.response_body.length, "mimeType": "" });
    let mut location = "";
    if let Some(Response { message, .. }) = response {
        content["mimeType"] = message.kind.as_str().into();
        match &message.content {
            Content::Text(text) => content["text"] = text.as_str().into(),
            Content::Bytes(bytes) => {
                content["text"] = BASE64_STANDARD.encode(bytes).into();
                content["encoding"] = "base64".into();
            }
        }
        if exchange.response_body.is_cut() {
            content["comment"] = cut(exchange.response_body.kept.len());
        }
        location = field(message, "location").unwrap_or_default();
    }
    json!({
        "status": response.map_or(0, |response| response.status),
        "statusText": response.map_or("", |response| &response.reason),
        "httpVersion": "HTTP/1.1",
        "cookies": [],
        "headers": response.map_or_else(Vec::new, |response| fields(&response.message)),
        "content": content,
        "redirectURL": location,
        "headersSize": -1,
        "bodySize": exchange.response_body.length,
    })
}

fn cut(kept: usize) -> Value {
    format!("only the first {kept} bytes were kept").into()
}

fn fields(message: &Message) -> Vec<Value> {
    message.fields.iter().map(|(name, value)| json!({ "name": name.as_str(), "value": value })).collect()
}

fn field<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
}

/// What the client asked for, as far as that is known: its host is in the request.
fn url(message: &Message, exchange: &Exchange, target: &str) -> String {
    if !target.starts_with('/') {
        return target.into();
    }
    match field(message, "host") {
        Some(host) => {
            let scheme =
                field(message, "x-forwarded-proto").filter(|scheme| *scheme == "https").unwrap_or("http");
            format!("{scheme}://{host}{target}")
        }
        None => format!("{}{target}", exchange.service),
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{
        super::store::tests::{answered, exchange},
        *,
    };

    /// What HTTP Archive 1.2 demands of an object: its members, with their types; a question mark for those that may be
    /// missing. Others must begin with an underscore.
    fn has(object: &Value, members: &str) {
        let object = object.as_object().unwrap_or_else(|| panic!("{object} is no object"));
        let mut known = BTreeSet::new();
        for member in members.split(' ') {
            let (name, kind) = member.split_once(':').unwrap();
            let (kind, optional) = match kind.strip_suffix('?') {
                Some(kind) => (kind, true),
                None => (kind, false),
            };
            known.insert(name);
            let Some(value) = object.get(name) else {
                assert!(optional, "{name} is missing in {object:?}");
                continue;
            };
            let fits = match kind {
                "string" => value.is_string(),
                "integer" => value.is_i64() || value.is_u64(),
                "number" => value.is_number(),
                "array" => value.is_array(),
                "object" => value.is_object(),
                other => panic!("no type {other}"),
            };
            assert!(fits, "{name} is no {kind}: {value}");
        }
        let strange: Vec<_> =
            object.keys().filter(|name| !known.contains(name.as_str()) && !name.starts_with('_')).collect();
        assert!(strange.is_empty(), "{strange:?} is not in the form");
    }

    fn each(array: &Value, members: &str) {
        array.as_array().unwrap().iter().for_each(|object| has(object, members));
    }

    /// Whether an archive is one, by http://www.softwareishard.com/blog/har-12-spec/.
    fn is_valid(archive: &Value) {
        has(archive, "log:object");
        let log = &archive["log"];
        has(log, "version:string creator:object browser:object? pages:array? entries:array comment:string?");
        assert_eq!(log["version"], "1.2");
        has(&log["creator"], "name:string version:string comment:string?");
        for entry in log["entries"].as_array().unwrap() {
            has(
                entry,
                "pageref:string? startedDateTime:string time:number request:object response:object cache:object \
                 timings:object serverIPAddress:string? connection:string? comment:string?",
            );
            assert!(humantime::parse_rfc3339(entry["startedDateTime"].as_str().unwrap()).is_ok());
            let (request, response, timings) = (&entry["request"], &entry["response"], &entry["timings"]);
            has(
                request,
                "method:string url:string httpVersion:string cookies:array headers:array queryString:array \
                 postData:object? headersSize:integer bodySize:integer comment:string?",
            );
            assert!(request["url"].as_str().unwrap().parse::<http::Uri>().is_ok());
            each(&request["headers"], "name:string value:string comment:string?");
            each(&request["queryString"], "name:string value:string comment:string?");
            if let Some(posted) = request.get("postData") {
                has(posted, "mimeType:string params:array? text:string comment:string?");
            }
            has(
                response,
                "status:integer statusText:string httpVersion:string cookies:array headers:array content:object \
                 redirectURL:string headersSize:integer bodySize:integer comment:string?",
            );
            each(&response["headers"], "name:string value:string comment:string?");
            has(
                &response["content"],
                "size:integer compression:integer? mimeType:string text:string? encoding:string? comment:string?",
            );
            has(
                timings,
                "blocked:number? dns:number? connect:number? send:number wait:number receive:number ssl:number? \
                 comment:string?",
            );
            let taken: f64 =
                ["send", "wait", "receive"].map(|part| timings[part].as_f64().unwrap()).iter().sum();
            assert!(
                (taken - entry["time"].as_f64().unwrap()).abs() < 1e-6,
                "the time is the sum of its parts"
            );
            assert!(["send", "wait", "receive"].iter().all(|part| timings[part].as_f64().unwrap() >= 0.0));
        }
    }

    #[test]
    fn an_archive_has_the_form() {
        let fields =
            [("host", "web.example"), ("content-type", "text/plain"), ("x-forwarded-proto", "https")];
        let post = answered(
            exchange("POST", "/a?b=c%20d&token=hunter2", &fields, b"hello"),
            302,
            &[("location", "/next?token=hunter2"), ("content-type", "text/html")],
            b"<p>",
        );
        let binary = answered(exchange("PUT", "/", &[("host", "a")], b"\0\xff"), 200, &[], b"\0\xff");
        let waiting = exchange("OPTIONS", "*", &[], b"");
        let mut early = answered(exchange("POST", "/", &[("host", "a")], b""), 200, &[], b"");
        early.times.sent = early.times.ended;
        let mut unreached = exchange("GET", "/", &[], b"");
        unreached.request = None;
        unreached.error = Some("cannot connect".into());
        let archive = archive(&[post, binary, waiting, early, unreached]);
        is_valid(&archive);
        assert!(!archive.to_string().contains("hunter2"));
        let entries = archive["log"]["entries"].as_array().unwrap();
        assert_eq!(entries.len(), 4);
        let [post, binary, waiting, early] = entries.as_slice() else { panic!() };
        assert_eq!(post["request"]["url"], "https://web.example/a?b=c%20d&token=[secret-1]");
        assert_eq!(post["request"]["queryString"][0], json!({ "name": "b", "value": "c d" }));
        assert_eq!(post["request"]["postData"], json!({ "mimeType": "text/plain", "text": "hello" }));
        assert_eq!(post["response"]["redirectURL"], "/next?token=[secret-1]");
        assert_eq!(
            post["timings"],
            json!({
                "blocked": -1, "dns": -1, "connect": -1, "ssl": -1, "send": 1.0, "wait": 19.0, "receive": 280.0,
            })
        );
        assert_eq!(binary["response"]["content"]["encoding"], "base64");
        assert_eq!(binary["response"]["content"]["text"], "AP8=");
        assert_eq!((&waiting["response"]["status"], &waiting["time"]), (&0.into(), &0.0.into()));
        assert_eq!(early["time"], 300.0);
    }

    #[test]
    fn the_checks_find_what_is_not_of_the_form() {
        let fails = |change: fn(&mut Value)| {
            let mut archive =
                archive(&[answered(exchange("GET", "/", &[("host", "a")], b""), 200, &[], b"")]);
            change(&mut archive["log"]["entries"][0]);
            std::panic::catch_unwind(|| is_valid(&archive)).is_err()
        };
        assert!(!fails(|_| {}));
        assert!(fails(|entry| entry["cache"] = Value::Null));
        assert!(fails(|entry| entry["strange"] = 1.into()));
        assert!(fails(|entry| entry["time"] = 7.into()));
        assert!(fails(|entry| entry["response"]["status"] = "200".into()));
        assert!(fails(|entry| drop(entry["request"].as_object_mut().unwrap().remove("cookies"))));
    }
}
