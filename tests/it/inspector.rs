//! What an agent's inspector shows and does: everything that went by, no secret, and no trace of itself in what it looks at.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
};

use adit::{
    agent::{self, Agent, HttpOptions, Rewrite},
    auth::Access,
    protocol::Kind,
};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Mutex, mpsc},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    cli::{adit, output, told},
    support::{
        Fabric,
        body::{self, channel},
        client::{Answer, Http1, Http2, get, over_http2, raw, request, request_of, sentence},
        eventually, ok,
        process::Process,
        program, random,
        service::{self, Running, read_request},
        soon,
        streams::breaking,
        websocket,
    },
};

const SECRET: &str = "hunter2";

/// A node, and an agent with an inspector that serves `web`.
struct Seen {
    edge: SocketAddr,
    at: SocketAddr,
    _agent: Agent,
    _fabric: Fabric,
}

impl Seen {
    async fn of(service: impl ToString) -> Self {
        Self::with(service, |_| {}).await
    }

    async fn with(service: impl ToString, change: impl FnOnce(&mut agent::Endpoint)) -> Self {
        let fabric = Fabric::start().await;
        let mut endpoint = fabric.endpoint("web", Kind::Http, service);
        change(&mut endpoint);
        let inspect = Some(([127, 0, 0, 1], 0).into());
        let config = agent::Config { inspect, ..agent::Config::new(fabric.client(), vec![endpoint]) };
        let agent = ok(Agent::start(config));
        ok(soon(agent.serve()).await);
        let at = agent.inspector().expect("there is an inspector");
        Self { edge: fabric.addresses.edge, at, _agent: agent, _fabric: fabric }
    }

    async fn ask(&self, request: Request<body::Body>) -> Answer {
        Http1::connect(self.edge).await.ask(request).await
    }

    async fn tells(&self, method: &str, path: &str, content: &str) -> Answer {
        Http1::connect(self.at).await.ask(request(method, "", path, content.to_owned())).await
    }

    async fn json(&self, path: &str) -> Value {
        let answer = self.tells("GET", path, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
        ok(serde_json::from_slice(&answer.body))
    }

    /// All of an exchange.
    async fn exchange(&self, id: u64) -> Value {
        self.json(&format!("/api/exchanges/{id}")).await
    }

    /// The same once it is over.
    async fn ended(&self, id: u64) -> Value {
        eventually(&format!("exchange {id} ends"), async || {
            let list = self.list("").await;
            list.iter().any(|exchange| exchange["id"] == id && exchange["duration_ms"].is_number())
        })
        .await;
        self.exchange(id).await
    }

    async fn list(&self, query: &str) -> Vec<Value> {
        let list = self.json(&format!("/api/exchanges{query}")).await;
        list["exchanges"].as_array().expect("a list").clone()
    }

    /// Sends an exchange's request again; the number of the new one.
    async fn again(&self, id: u64, edits: &Value) -> u64 {
        let answer = self.tells("POST", &format!("/api/exchanges/{id}/replay"), &edits.to_string()).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
        let sent: Value = ok(serde_json::from_slice(&answer.body));
        sent["id"].as_u64().expect("a number")
    }
}

/// The status, the code and the sentence of what the inspector refuses.
fn refused(answer: &Answer) -> (u16, String) {
    let told: Value = ok(serde_json::from_slice(&answer.body));
    assert!(told["error"].as_str().is_some_and(|error| error.contains(' ')), "{told}");
    (answer.status.as_u16(), told["code"].as_str().unwrap_or_default().to_owned())
}

fn field<'a>(message: &'a Value, name: &str) -> &'a str {
    let fields = message["headers"].as_array().expect("fields");
    let field = fields.iter().find(|field| field[0] == name);
    field.and_then(|field| field[1].as_str()).unwrap_or_default()
}

fn with(mut request: Request<body::Body>, fields: &[(&'static str, &'static str)]) -> Request<body::Body> {
    for (name, value) in fields {
        request.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    request
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn an_exchange_is_shown_with_its_headers_times_and_bodies() {
    let service = service::mirror().await;
    let seen = Seen::of(service.address).await;
    assert_eq!(seen.list("").await, [] as [Value; 0]);
    let answer = seen.ask(with(request("POST", "web", "/hook?a=b", r#"{"c":1}"#), &[JSON])).await;
    let shown = seen.ended(1).await;
    assert_eq!(
        (&shown["method"], &shown["target"], &shown["status"]),
        (&"POST".into(), &"/hook?a=b".into(), &200.into())
    );
    assert_eq!(
        (&shown["state"], &shown["error"], &shown["replay_of"]),
        (&"done".into(), &Value::Null, &Value::Null)
    );
    assert_eq!((&shown["client"], &shown["endpoint"]), (&"127.0.0.1".into(), &"web".into()));
    assert_eq!(shown["request"]["body"]["text"], r#"{"c":1}"#);
    assert_eq!(field(&shown["request"], "content-type"), "application/json");
    assert_eq!(shown["response"]["body"]["text"], answer.text());
    assert_eq!(field(&shown["response"], "content-length"), answer.body.len().to_string());
    let time = |name: &str| shown["times"][name].as_f64().expect("a time");
    assert!(time("sent_ms") <= time("answered_ms") && time("answered_ms") <= time("ended_ms"), "{shown}");
    assert_eq!(shown["duration_ms"], shown["times"]["ended_ms"]);

    seen.ask(request("GET", "web", "/other", "")).await;
    let newest_first: Vec<_> = seen.list("").await.iter().map(|exchange| exchange["id"].clone()).collect();
    assert_eq!(newest_first, [json!(2), json!(1)]);
    for (query, ids) in [
        ("?method=post", vec![1]),
        ("?status=2xx&path=/other", vec![2]),
        ("?text=%22c%22", vec![1]),
        ("?status=404", vec![]),
    ] {
        let found: Vec<_> =
            seen.list(query).await.iter().map(|exchange| exchange["id"].as_u64().unwrap_or(0)).collect();
        assert_eq!(found, ids, "{query}");
    }
    assert_eq!(
        refused(&seen.tells("GET", "/api/exchanges?colour=red", "").await),
        (400, "invalid_filter".into())
    );
    assert_eq!(seen.tells("DELETE", "/api/exchanges", "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(seen.list("").await, [] as [Value; 0]);
    assert_eq!(refused(&seen.tells("GET", "/api/exchanges/1", "").await), (404, "no_exchange".into()));
    assert_eq!(
        refused(&seen.tells("POST", "/api/exchanges/1/replay", "").await),
        (404, "no_exchange".into())
    );
}

#[tokio::test]
async fn no_secret_is_shown_and_each_reaches_the_service_also_when_it_is_sent_again() {
    let service = service::http(async |request| {
        let mut response = service::reflect(request).await;
        response.headers_mut().insert(header::SET_COOKIE, HeaderValue::from_static("a=hunter2; Path=/"));
        response
    })
    .await;
    let seen = Seen::with(service.address, |endpoint| {
        endpoint.door = Access { headers: vec![ok("x-door=hunter2".parse())], ..Access::default() };
        let rewrite = Rewrite { set: vec![ok("x-for-service=hunter2-too".parse())], ..Rewrite::default() };
        endpoint.http = Some(HttpOptions { rewrite, ..HttpOptions::default() });
    })
    .await;
    let content = r#"{"password":"hunter2","name":"ann"}"#;
    let fields = [
        JSON,
        ("authorization", "Bearer hunter2"),
        ("cookie", "a=hunter2"),
        ("x-api-key", "hunter2"),
        ("x-door", "hunter2"),
    ];
    let answer = seen.ask(with(request("POST", "web", "/?token=hunter2&a=1", content), &fields)).await;
    let sent_as = |answer: &str| {
        for part in [
            "/?token=hunter2&a=1",
            "\nauthorization: Bearer hunter2\n",
            "\ncookie: a=hunter2\n",
            "\nx-api-key: hunter2\n",
            content,
            "\nx-for-service: hunter2-too\n",
        ] {
            assert!(answer.contains(part), "{part:?} in {answer}");
        }
        assert!(!answer.contains("x-door"), "it was for the door");
    };
    sent_as(answer.text());
    seen.ended(1).await;

    // The mirror has sent it all back in its body, which says nothing of what is secret in it; so look at a request alone.
    let shown = seen.exchange(1).await;
    assert!(shown["request"].to_string().contains(r#"\"name\":\"ann\""#), "{shown}");
    assert!(!shown["request"].to_string().contains(SECRET), "{}", shown["request"]);
    assert_eq!(shown["target"], "/?token=[secret-1]&a=1");
    assert_eq!(field(&shown["response"], "set-cookie"), "a=[secret-1]; Path=/");
    let curl = seen.tells("GET", "/api/exchanges/1/curl", "").await;
    let list = seen.tells("GET", "/api/exchanges", "").await;
    for text in [curl.text(), list.text()] {
        assert!(text.contains("[secret-1]") && !text.contains(SECRET), "{text}");
    }
    let har = seen.json("/api/har").await;
    assert!(!har["log"]["entries"][0]["request"].to_string().contains(SECRET), "{har}");

    let same = seen.again(1, &json!({})).await;
    sent_as(seen.ended(same).await["response"]["body"]["text"].as_str().expect("a text"));
    // Edited as it is shown, what is hidden is sent as it was.
    let fields: Vec<_> = shown["request"]["headers"].as_array().expect("fields").clone();
    let edits = json!({
        "target": format!("{}&b=2", shown["target"].as_str().expect("a target")),
        "headers": fields,
        "body": shown["request"]["body"]["text"],
    });
    let edited = seen.again(1, &edits).await;
    let edited = seen.ended(edited).await;
    let answer = edited["response"]["body"]["text"].as_str().expect("a text");
    sent_as(answer);
    assert!(answer.starts_with("POST /?token=hunter2&a=1&b=2 "), "{answer}");
}

#[tokio::test]
async fn a_replay_is_sent_as_it_is_edited_by_the_way_of_clients() {
    let service = service::mirror().await;
    let seen = Seen::with(service.address, |endpoint| {
        endpoint.door = Access { headers: vec![ok("x-door=hunter2".parse())], ..Access::default() };
        let rewrite = Rewrite { set: vec![ok("x-tenant=7".parse())], ..Rewrite::default() };
        endpoint.http = Some(HttpOptions { rewrite, ..HttpOptions::default() });
    })
    .await;
    seen.ask(with(request("POST", "web", "/hook", "first"), &[("x-door", SECRET)])).await;
    seen.ended(1).await;
    let id = seen
        .again(1, &json!({
            "method": "PUT",
            "target": "/other?a=b",
            "headers": [["host", "edited.example"], ["X-Edited", "yes"], ["content-length", "999"], ["x-door", "[secret-1]"]],
            "body": "second",
        }))
        .await;
    let shown = seen.ended(id).await;
    assert_eq!((&shown["replay_of"], &shown["status"]), (&1.into(), &200.into()), "{shown}");
    assert_eq!(
        shown["response"]["body"]["text"],
        "PUT /other?a=b HTTP/1.1\ncontent-length: 6\nhost: edited.example\nx-edited: yes\nx-tenant: 7\n\nsecond"
    );
    assert_eq!(service.accepted(), 2, "a replay has a connection of its own");
    // A door that was shut stays shut.
    let id = seen.again(1, &json!({ "headers": [["host", "a"]] })).await;
    let shown = seen.ended(id).await;
    assert_eq!((&shown["status"], &shown["response"]["own"]), (&403.into(), &true.into()), "{shown}");
    // A method without a body has none, and one of many kilobytes arrives.
    let id = seen.again(1, &json!({ "method": "GET", "body": "" })).await;
    let shown = seen.ended(id).await;
    assert!(
        shown["response"]["body"]["text"]
            .as_str()
            .is_some_and(|text| text.starts_with("GET /hook") && text.ends_with("\n\n")),
        "{shown}"
    );
    let id = seen.again(1, &json!({ "body": "x".repeat(1 << 20) })).await;
    let shown = seen.ended(id).await;
    assert_eq!(shown["request"]["body"]["length"], 1 << 20);
    for (edits, code) in [
        (r#"{"method":"a b"}"#, "invalid_request"),
        (r#"{"path":"/"}"#, "invalid_body"),
        ("[", "invalid_body"),
    ] {
        let answer = seen.tells("POST", "/api/exchanges/1/replay", edits).await;
        assert_eq!(refused(&answer), (400, code.into()), "{edits}");
    }
    let answer = seen
        .tells("POST", "/api/exchanges/1/replay", &json!({ "body": "x".repeat(3 << 20) }).to_string())
        .await;
    assert_eq!(refused(&answer), (413, "invalid_body".into()));
}

#[tokio::test]
async fn bodies_are_seen_while_they_stream_and_only_their_beginning_is_kept() {
    let (sender, upload) = channel();
    let (answers, download) = channel();
    let download = Arc::new(Mutex::new(Some(download)));
    let service = service::http(move |request: Request<hyper::body::Incoming>| {
        let download = Arc::clone(&download);
        async move {
            let body = download.lock().await.take();
            if let Some(body) = body {
                return http::Response::new(body);
            }
            let length = ok(request.into_body().collect().await).to_bytes().len();
            http::Response::new(service::full(length.to_string()))
        }
    })
    .await;
    let seen = Seen::of(service.address).await;
    let mut client = Http1::connect(seen.edge).await;
    let mut response = ok(soon(client.send(request("GET", "web", "/events", ""))).await).into_body();
    answers.data("first").await;
    assert_eq!(ok(body::next(&mut response).await.expect("it has begun")), "first");
    eventually("what has come is shown", async || {
        seen.exchange(1).await["response"]["body"]["text"] == "first"
    })
    .await;
    let shown = seen.exchange(1).await;
    assert_eq!((&shown["state"], &shown["duration_ms"]), (&"answering".into(), &Value::Null));
    assert_eq!(shown["response"]["body"]["complete"], false);
    for _ in 0..10 {
        answers.data(random(200_000)).await;
    }
    drop(answers);
    ok(soon(response.collect()).await);
    let shown = seen.ended(1).await;
    let body = &shown["response"]["body"];
    assert_eq!(
        (&body["length"], &body["kept"], &body["cut"], &body["complete"]),
        (&2_000_005.into(), &65_536.into(), &true.into(), &true.into())
    );

    let mut client = Http1::connect(seen.edge).await;
    let sending = async {
        sender.data("x".repeat(100_000)).await;
        eventually("what was sent is shown", async || {
            let list = seen.list("?method=POST").await;
            list.first().is_some_and(|exchange| exchange["state"] == "waiting")
        })
        .await;
        drop(sender);
    };
    let (answer, ()) = tokio::join!(client.ask(request_of("POST", "web", "/", upload)), sending);
    assert_eq!(answer.text(), "100000", "all of it has arrived");
    let shown = seen.ended(2).await;
    assert_eq!(
        (&shown["request"]["body"]["length"], &shown["request"]["body"]["cut"]),
        (&100_000.into(), &true.into())
    );
    assert_eq!(refused(&seen.tells("POST", "/api/exchanges/2/replay", "").await), (409, "body_cut".into()));
    let id = seen.again(2, &json!({ "body": "short" })).await;
    assert_eq!(seen.ended(id).await["response"]["body"]["text"], "5");
}

#[tokio::test]
async fn responses_of_any_kind_pass_as_they_do_where_nobody_looks() {
    const RESPONSES: [&str; 7] = [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 299 Fine By Me\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n",
        // What is compressed stays so.
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x0b\x08\x01",
    ];
    let service = service::tcp(|mut stream| async move {
        while let Some(head) = read_request(&mut stream).await {
            let number: usize = ok(head.split(['/', ' ']).nth(2).expect("a path").parse());
            let response = RESPONSES[number];
            let sent = if head.starts_with("HEAD ") {
                response.split_inclusive("\r\n\r\n").next().unwrap_or_default()
            } else {
                response
            };
            ok(stream.write_all(sent.as_bytes()).await);
        }
    })
    .await;
    let (seen, unseen) = (Seen::of(service.address).await, Fabric::start().await);
    let _plain = unseen.agent("web", Kind::Http, service.address).await;
    for (number, response) in RESPONSES.into_iter().enumerate() {
        for method in ["GET", "HEAD", "POST"] {
            let ask = async |edge| {
                let request = format!(
                    "{method} /{number} HTTP/1.1\r\nhost: web.localhost\r\nte: trailers\r\nconnection: close\r\n\r\n"
                );
                let answer = raw(edge, request.as_bytes()).await;
                answer
                    .split("\r\n")
                    .filter(|line| !line.to_ascii_lowercase().starts_with("date:"))
                    .collect::<Vec<_>>()
                    .join("\r\n")
            };
            assert_eq!(ask(seen.edge).await, ask(unseen.addresses.edge).await, "{method} of {response:?}");
        }
    }
    let list = seen.list("").await;
    assert_eq!(list.len(), RESPONSES.len() * 3);
    assert!(list.iter().all(|exchange| exchange["state"] == "done"), "{list:?}");
    let compressed = seen.exchange(19).await;
    assert_eq!(
        (&compressed["response"]["body"]["base64"], &compressed["response"]["body"]["text"]),
        (&"HwsIAQ==".into(), &Value::Null)
    );
    assert_eq!(seen.exchange(4).await["response"]["reason"], "Fine By Me");
}

#[tokio::test]
async fn without_an_inspector_requests_are_not_read() {
    // What is read loses what the HTTP library does not pass on: trailers that nobody has announced.
    let service = service::tcp(|mut stream| async move {
        while read_request(&mut stream).await.is_some() {
            ok(stream
                .write_all(
                    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n",
                )
                .await);
        }
    })
    .await;
    let trailers = async |edge: SocketAddr| {
        let client = Http2::connect(edge).await;
        let response =
            ok(soon(client.send(over_http2(with(request("GET", "web", "/", ""), &[("te", "trailers")]))))
                .await);
        ok(soon(response.into_body().collect()).await).trailers().is_some()
    };
    let fabric = Fabric::start().await;
    let agent = fabric.agent("web", Kind::Http, service.address).await;
    assert!(agent.inspector().is_none());
    assert!(trailers(fabric.addresses.edge).await);
    let seen = Seen::of(service.address).await;
    assert!(!trailers(seen.edge).await, "this test finds out whether requests are read");
}

#[tokio::test]
async fn a_websocket_is_shown_as_one_without_what_it_carries() {
    let service = websocket::echo().await;
    let seen = Seen::of(service.address).await;
    let (mut socket, _) = ok(websocket::connect(seen.edge, "web").await);
    ok(socket.send(Message::text(SECRET)).await);
    assert_eq!(ok(soon(socket.next()).await.expect("it is open")), Message::text(SECRET));
    let shown = seen.exchange(1).await;
    assert_eq!((&shown["state"], &shown["status"]), (&"open".into(), &101.into()), "{shown}");
    assert_eq!(field(&shown["response"], "upgrade"), "websocket");
    ok(socket.close(None).await);
    while soon(socket.next()).await.is_some() {}
    drop(socket);
    let shown = seen.ended(1).await;
    assert_eq!(shown["state"], "done", "{shown}");
    // A masked frame of seven bytes and one that closes; the same without masks.
    assert_eq!(shown["carried"], json!({ "to_service": 13 + 6, "from_service": 9 + 2 }));
    assert!(!shown.to_string().contains(SECRET));
    assert_eq!(refused(&seen.tells("POST", "/api/exchanges/1/replay", "").await), (409, "switched".into()));
}

#[tokio::test]
async fn what_reaches_no_service_or_breaks_is_shown_with_what_was_wrong() {
    let seen = Seen::of(service::refusing()).await;
    let answer = seen.ask(request("POST", "web", "/", "hello")).await;
    sentence(&answer, 502, "upstream_refused");
    let shown = seen.ended(1).await;
    assert_eq!(
        (&shown["state"], &shown["method"], &shown["request"]),
        (&"failed".into(), &Value::Null, &Value::Null)
    );
    assert!(
        shown["error"].as_str().is_some_and(|error| error.contains("cannot connect to 127.0.0.1:")),
        "{shown}"
    );
    for path in ["replay", "curl"] {
        let method = if path == "replay" { "POST" } else { "GET" };
        assert_eq!(
            refused(&seen.tells(method, &format!("/api/exchanges/1/{path}"), "").await),
            (409, "no_request".into())
        );
    }

    let closing = service::tcp(|mut stream| async move {
        read_request(&mut stream).await;
    })
    .await;
    let seen = Seen::of(closing.address).await;
    let answer = seen.ask(request("POST", "web", "/closes", "hello")).await;
    sentence(&answer, 502, "upstream_broken");
    let shown = seen.ended(1).await;
    assert_eq!(
        (&shown["state"], &shown["method"], &shown["status"]),
        (&"failed".into(), &"POST".into(), &Value::Null)
    );
    assert_eq!(shown["error"], "the service broke off before it responded");
    // So is a replay when the service is not there.
    let address = closing.address;
    drop(closing);
    eventually("the port is closed", async || TcpStream::connect(address).await.is_err()).await;
    let id = seen.again(1, &json!({})).await;
    let shown = seen.ended(id).await;
    assert_eq!(
        (&shown["state"], &shown["method"], &shown["request"]["body"]["text"]),
        (&"failed".into(), &"POST".into(), &"hello".into())
    );
    assert!(shown["error"].as_str().is_some_and(|error| error.contains("cannot connect")), "{shown}");

    let (breaking, now) = breaking().await;
    let seen = Seen::of(breaking.address).await;
    let mut client = Http1::connect(seen.edge).await;
    let mut response = ok(soon(client.send(request("GET", "web", "/length", ""))).await).into_body();
    assert_eq!(ok(body::next(&mut response).await.expect("half a response")), "half");
    now.notify_one();
    assert!(body::next(&mut response).await.is_some_and(|end| end.is_err()));
    let shown = seen.ended(1).await;
    assert_eq!(
        (&shown["state"], &shown["status"], &shown["response"]["body"]["text"]),
        (&"failed".into(), &200.into(), &"half".into())
    );
    assert_eq!(shown["error"], "the service broke off in the middle of its response");
}

#[tokio::test]
async fn a_client_that_goes_away_is_shown() {
    let service = service::tcp(|mut stream| async move {
        read_request(&mut stream).await;
        // Whatever comes: the connection ends when the client has gone.
        drop(stream.read(&mut [0]).await);
    })
    .await;
    let seen = Seen::of(service.address).await;
    let mut client = Http1::connect(seen.edge).await;
    tokio::select! {
        _ = client.send(request("GET", "web", "/", "")) => panic!("nobody answers"),
        () = eventually("it is there", async || !seen.list("").await.is_empty()) => {}
    }
    drop(client);
    let shown = seen.ended(1).await;
    assert!(
        shown["error"].as_str().is_some_and(|error| error.starts_with("the client went away")),
        "{shown}"
    );
}

#[tokio::test]
async fn no_page_of_another_origin_and_no_foreign_name_is_answered() {
    let service = service::mirror().await;
    let seen = Seen::of(service.address).await;
    seen.ask(request("POST", "web", "/", "hello")).await;
    seen.ended(1).await;
    let asks = async |method: &str, path: &str, fields: &[(&'static str, &str)]| {
        let mut request = request(method, "", path, "");
        for (name, value) in fields {
            request.headers_mut().insert(*name, ok(HeaderValue::from_str(value)));
        }
        Http1::connect(seen.at).await.ask(request).await
    };
    let replay = "/api/exchanges/1/replay";
    let own = format!("http://{}", seen.at);
    for (method, path, fields, code) in [
        ("GET", "/", &[("host", "evil.example")][..], "foreign_host"),
        ("GET", "/api/exchanges", &[("host", "evil.example")], "foreign_host"),
        ("POST", replay, &[("host", "evil.example")], "foreign_host"),
        ("POST", replay, &[("origin", "http://evil.example")], "foreign_origin"),
        ("POST", replay, &[("origin", "null")], "foreign_origin"),
        ("POST", replay, &[("sec-fetch-site", "cross-site")], "foreign_origin"),
        ("DELETE", "/api/exchanges", &[("origin", "http://127.0.0.1:1")], "foreign_origin"),
        ("GET", "/api/exchanges/1", &[("sec-fetch-site", "cross-site")], "foreign_origin"),
        ("GET", "/api/events", &[("sec-fetch-site", "same-site")], "foreign_origin"),
    ] {
        let answer = asks(method, path, fields).await;
        assert_eq!(refused(&answer), (403, code.into()), "{method} {path} {fields:?}");
        assert!(!answer.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }
    assert_eq!((seen.list("").await.len(), service.accepted()), (1, 1), "nothing was done");
    let host = seen.at.to_string();
    let own = [("host", host.as_str()), ("origin", own.as_str()), ("sec-fetch-site", "same-origin")];
    assert_eq!(asks("POST", replay, &own).await.status, StatusCode::ACCEPTED);
    for (method, path, status) in [
        ("GET", "/", 200),
        ("GET", "/app.js", 200),
        ("GET", "/absent", 404),
        ("PUT", "/api/exchanges", 405),
        ("GET", "/api/exchanges/x", 404),
    ] {
        let answer = asks(method, path, &[]).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}");
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap_or_default();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    }
}

#[tokio::test]
async fn whoever_looks_is_told_of_each_change() {
    let service = service::mirror().await;
    let seen = Seen::of(service.address).await;
    let mut client = Http1::connect(seen.at).await;
    let events = ok(soon(client.send(request("GET", "", "/api/events", ""))).await);
    assert_eq!(events.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut events = events.into_body();
    let mut told = String::new();
    let mut next = async || {
        while !told.contains("\n\n") {
            told += &String::from_utf8_lossy(&ok(body::next(&mut events).await.expect("it goes on")));
        }
        let (event, rest) = told
            .split_once("\n\n")
            .map(|(event, rest)| (event.to_owned(), rest.to_owned()))
            .unwrap_or_default();
        told = rest;
        event.strip_prefix("data: ").and_then(|number| number.parse::<u64>().ok())
    };
    assert_eq!(next().await, Some(0), "at once, for who has just come");
    seen.ask(request("GET", "web", "/", "")).await;
    let mut last = next().await;
    assert!(last > Some(0));
    let ended = seen.json("/api/exchanges").await["revision"].as_u64();
    while last < ended {
        last = next().await;
    }
}

#[tokio::test]
async fn those_who_look_are_bounded() {
    let seen = Seen::of("127.0.0.1:9").await;
    let look = async || {
        let mut client = Http1::connect(seen.at).await;
        let events = ok(soon(client.send(request("GET", "", "/api/events", ""))).await);
        (events.status().as_u16(), client, events)
    };
    let mut looking = Vec::new();
    for _ in 0..32 {
        let (status, client, events) = look().await;
        assert_eq!(status, 200);
        looking.push((client, events));
    }
    assert_eq!(refused(&seen.tells("GET", "/api/events", "").await), (503, "too_many_viewers".into()));
    drop(looking.pop());
    eventually("there is a place again", async || look().await.0 == 200).await;
}

/// A service that tells what has come: the line, the fields in order, the body.
async fn telling() -> (Running, mpsc::Receiver<(String, Vec<u8>)>) {
    let (tells, told) = mpsc::channel(8);
    let service = service::http(move |request: Request<hyper::body::Incoming>| {
        let tells = tells.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = ok(body.collect().await).to_bytes().to_vec();
            ok(tells
                .send((format!("{} {}\n{}", head.method, head.uri, service::fields(&head.headers)), body))
                .await);
            http::Response::new(service::full("ok"))
        }
    });
    (service.await, told)
}

#[tokio::test]
async fn the_command_for_a_shell_sends_what_came() {
    if program::tool("curl").is_none() {
        return;
    }
    let folder = ok(tempfile::tempdir());
    let script = folder.path().join("script");
    let (service, mut told) = telling().await;
    let seen = Seen::of(service.address).await;
    let quotes = "it's \"all\" $HOME `id` \\n\n@\r\n";
    let long = "'".repeat(60_000);
    let binary: Vec<u8> = (0..=255).collect();
    let bodies: [(&str, &str, &[u8]); 9] = [
        ("GET", "/", b""),
        ("GET", "/a'b/$(id)/%20/[1]{2}/../x?q=a'b&c=d;e", b""),
        ("HEAD", "/head", b""),
        ("DELETE", "/delete", b""),
        ("POST", "/", b""),
        ("POST", "/quotes", quotes.as_bytes()),
        ("PUT", "/at", b"@/etc/passwd"),
        ("POST", "/binary", &binary),
        ("POST", "/long", long.as_bytes()),
    ];
    for (number, (method, path, content)) in (1..).zip(bodies) {
        let fields = [
            ("x-quote", "it's; $x \"y\""),
            ("x-empty", ""),
            ("user-agent", "test/1"),
            ("x-twice", "1"),
            ("x-twice", "2"),
        ];
        let mut request = with(request(method, "web", path, content.to_vec()), &fields);
        if number == 2 {
            request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("text/html"));
        }
        assert_eq!(seen.ask(request).await.status, StatusCode::OK);
        let came = soon(told.recv()).await.expect("the service tells");
        seen.ended(number).await;
        let command = seen.tells("GET", &format!("/api/exchanges/{number}/curl"), "").await;
        // As somebody would paste it: an argument of a program must be shorter.
        ok(fs::write(&script, command.text()));
        let mut shell = Command::new("sh");
        shell.arg(&script).stdin(Stdio::null());
        let ran = soon(program::output(shell)).await;
        assert!(ran.status.success(), "{}: {}", String::from_utf8_lossy(&ran.stderr), command.text());
        let sent = soon(told.recv()).await.expect("the service tells");
        assert_eq!(sent.0, came.0, "{}", command.text());
        assert!(sent.1 == came.1, "{method} {path}: {:?}", String::from_utf8_lossy(&sent.1));
    }
}

#[tokio::test]
async fn exchanges_are_exported_as_the_filter_asks() {
    let service = service::mirror().await;
    let seen = Seen::of(service.address).await;
    seen.ask(request("GET", "web", "/one", "")).await;
    seen.ask(request("POST", "web", "/two", "hello")).await;
    seen.ended(1).await;
    seen.ended(2).await;
    let all = seen.tells("GET", "/api/har", "").await;
    assert_eq!(all.headers[header::CONTENT_DISPOSITION], "attachment; filename=\"adit.har\"");
    let urls = |archive: &Value| -> Vec<String> {
        let entries = archive["log"]["entries"].as_array().expect("entries");
        entries.iter().map(|entry| entry["request"]["url"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(
        urls(&ok(serde_json::from_slice(&all.body))),
        ["http://127.0.0.1/one", "http://127.0.0.1/two"]
    );
    let posts = seen.json("/api/har?method=POST").await;
    assert_eq!(urls(&posts), ["http://127.0.0.1/two"]);
    assert_eq!(posts["log"]["entries"][0]["request"]["postData"]["text"], "hello");
}

#[tokio::test]
async fn many_replays_are_bounded() {
    let (held, hold) = mpsc::channel::<()>(1);
    let hold = Arc::new(Mutex::new(hold));
    let service = service::http(move |request: Request<hyper::body::Incoming>| {
        let hold = Arc::clone(&hold);
        async move {
            if request.headers().contains_key("x-hold") {
                hold.lock().await.recv().await;
            }
            http::Response::new(service::full("ok"))
        }
    })
    .await;
    let seen = Seen::of(service.address).await;
    seen.ask(request("GET", "web", "/", "")).await;
    seen.ended(1).await;
    let edits = json!({ "headers": [["host", "a"], ["x-hold", "1"]] });
    for _ in 0..8 {
        seen.again(1, &edits).await;
    }
    assert_eq!(refused(&seen.tells("POST", "/api/exchanges/1/replay", "").await), (429, "busy".into()));
    drop(held);
    for id in 2..=9 {
        assert_eq!(seen.ended(id).await["status"], 200);
    }
    let id = seen.again(1, &json!({})).await;
    assert_eq!(seen.ended(id).await["status"], 200);
}

#[tokio::test]
async fn the_flag_opens_it_on_this_machine_alone_and_a_reload_leaves_it() {
    let folder = ok(tempfile::tempdir());
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let write = |inspect: &str, names: &[&str]| {
        let table = |name: &&str| format!("[[endpoint]]\nname = '{name}'\naddress = '{}'\n", service.address);
        let tables: String = names.iter().map(table).collect();
        let text = format!(
            "connect = '{}'\ninsecure = true\nlinks = 1\ninspect = '{inspect}'\n{tables}",
            fabric.addresses.link
        );
        ok(fs::write(folder.path().join("new"), text));
        ok(fs::rename(folder.path().join("new"), folder.path().join("agent.toml")));
    };
    write("127.0.0.1:0", &["web"]);
    let agent = Process::start(folder.path(), &["agent", "run", "--config", "agent.toml"]);
    let line = agent.printed("inspect ").await;
    let at: SocketAddr = ok(line.trim_start_matches("inspect http://").trim_end_matches('/').parse());
    assert!(at.ip().is_loopback());
    agent.logs(&format!("the inspector shows requests at http://{at}/")).await;
    // Only what has come since counts, and an endpoint that comes later is looked at too.
    write("4040", &["web", "later"]);
    agent.signal("HUP");
    agent.logs("needs a restart: --inspect").await;
    let edge = fabric.addresses.edge;
    eventually("it is served", async || get(edge, "later", "/").await.status == StatusCode::OK).await;
    let mut ask = request("GET", "", "/api/exchanges?endpoint=later", "");
    *ask.method_mut() = Method::GET;
    let list: Value = ok(serde_json::from_slice(&Http1::connect(at).await.ask(ask).await.body));
    assert_eq!(list["exchanges"][0]["status"], 200, "{list}");

    for (flags, part) in [
        (vec!["--inspect", "0.0.0.0:4040"], "for this machine alone"),
        (vec!["--inspect", "localhost:4040"], "such as 127.0.0.1:4040"),
        (vec!["--inspect", "4040", "--h2c"], "--inspect is for services that speak HTTP/1.1"),
        (vec!["--inspect", &at.to_string()], "for the inspector (--inspect)"),
    ] {
        let words = [&["agent", "http", "web", "3000", "--insecure"], flags.as_slice()].concat();
        let told = told(&output(&mut adit(folder.path(), &words)));
        assert!(told.contains(part), "{flags:?}: {told}");
    }
}
