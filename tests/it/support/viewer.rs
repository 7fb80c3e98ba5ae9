//! Somebody who reads a node's events, and keeps what they say as the dashboard does.

use std::{collections::BTreeMap, net::SocketAddr};

use http::{StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use super::{
    client::{Answer, Http1, request, whole},
    ok, soon,
    tokens::bearer,
};

/// A reader, and the rows that it has been told of.
#[derive(Debug)]
pub(crate) struct Viewer {
    _connection: Http1,
    body: Incoming,
    rest: String,
    rows: BTreeMap<(&'static str, String), Value>,
    /// The last event, as it came.
    pub(crate) last: Value,
}

impl Viewer {
    /// Looks at a node that asks for nothing.
    pub(crate) async fn at(admin: SocketAddr) -> Self {
        ok(Self::with(admin, "/api/v1/events", None).await.map_err(|refused| refused.text().to_owned()))
    }

    /// Looks, or is refused.
    pub(crate) async fn with(admin: SocketAddr, path: &str, token: Option<&str>) -> Result<Self, Answer> {
        let mut connection = Http1::connect(admin).await;
        let mut request = request("GET", "", path, "");
        if let Some(token) = token {
            request.headers_mut().insert(header::AUTHORIZATION, bearer(token));
        }
        let response = ok(soon(connection.send(request)).await);
        if response.status() != StatusCode::OK {
            return Err(whole(response).await);
        }
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let (rest, rows) = (String::new(), BTreeMap::new());
        Ok(Self { _connection: connection, body: response.into_body(), rest, rows, last: Value::Null })
    }

    /// The next event: its name and its data; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
        while !self.rest.contains("\n\n") {
            let frame = ok(soon(self.body.frame()).await?);
            self.rest.push_str(ok(std::str::from_utf8(&ok(frame.into_data()))));
        }
        let (event, rest) = self.rest.split_once("\n\n").expect("it is there");
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).expect("it has it");
        let (name, data) = (field("event: ").to_owned(), ok(serde_json::from_str(field("data: "))));
        self.rest = rest.to_owned();
        if name == "changes" {
            self.take(&data);
        }
        Some((name, data))
    }

    fn take(&mut self, changes: &Value) {
        if changes["full"] == true {
            self.rows.clear();
        }
        for kind in ["nodes", "links", "endpoints", "agents"] {
            for key in changes["gone"][kind].as_array().expect("a list") {
                let gone = self.rows.remove(&(kind, key.as_str().expect("a name").to_owned()));
                assert!(gone.is_some(), "{kind} {key} is gone, and was never told of");
            }
            for row in changes[kind].as_array().expect("a list") {
                let key = row["key"].as_str().expect("it has one").to_owned();
                self.rows.insert((kind, key), row.clone());
            }
        }
        self.last = changes.clone();
    }

    /// A row, or null.
    pub(crate) fn row(&self, kind: &'static str, key: &str) -> &Value {
        self.rows.get(&(kind, key.to_owned())).unwrap_or(&Value::Null)
    }

    /// The keys of a kind.
    pub(crate) fn keys(&self, kind: &'static str) -> Vec<&str> {
        self.rows.keys().filter(|(of, _)| *of == kind).map(|(_, key)| key.as_str()).collect()
    }

    /// Reads on until something is told.
    pub(crate) async fn until(&mut self, what: &str, mut is_told: impl FnMut(&Self) -> bool) {
        let told = soon(async {
            loop {
                let event = self.next().await;
                assert!(event.is_some_and(|(name, _)| name == "changes"), "the stream ends before: {what}");
                if is_told(self) {
                    return;
                }
            }
        });
        told.await;
    }
}
