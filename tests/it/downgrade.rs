//! A request of HTTP/2 that would mean something else in HTTP/1.1 is refused, or reaches the service as what it was: with
//! what the service received, byte by byte.

use tokio::io::AsyncWriteExt;

use crate::support::{
    eventually,
    frames::{
        CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, block, frame,
        request,
    },
    record::{End, Recorder},
};

type Fields<'a> = Vec<(&'a str, &'a str)>;

fn post<'a>(more: &[(&'a str, &'a str)]) -> Fields<'a> {
    request("POST", "/", more)
}

/// A request with one of its fields in another form.
fn with<'a>(name: &str, value: &'a str) -> Fields<'a> {
    let mut fields = post(&[]);
    let field = fields.iter_mut().find(|field| field.0 == name).expect("there is such a field");
    field.1 = value;
    fields
}

fn data(content: &str, flags: u8) -> Vec<u8> {
    frame(DATA, flags, 1, content.as_bytes())
}

/// Sends a request's fields and what follows them, or nothing: how it was answered, by a response, a reset of the stream, or
/// the end of the connection.
async fn ask(recorder: &Recorder, fields: &Fields<'_>, then: &[Vec<u8>]) -> u8 {
    let mut client = Client::connect(recorder.edge).await;
    let end = if then.is_empty() { END_STREAM } else { 0 };
    client.send(&frame(HEADERS, END_HEADERS | end, 1, &block(fields))).await;
    for frame in then {
        // It may be refused before all of it has been sent.
        drop(client.stream.write_all(frame).await);
    }
    loop {
        match client.next().await {
            Some(frame) if [HEADERS, RST_STREAM].contains(&frame.kind) => return frame.kind,
            Some(frame) if frame.kind != GOAWAY => {}
            _ => return GOAWAY,
        }
    }
}

#[tokio::test]
async fn malformed_http2_never_reaches_the_service() {
    let recorder = Recorder::start().await;
    let smuggled = "x\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: web.test";
    let mut cases: Vec<(Fields<'_>, Vec<Vec<u8>>)> = Vec::new();
    for length in ["+5", "-5", "5, 5", "5 ", "0x5", "", "x", "18446744073709551616"] {
        cases.push((post(&[("content-length", length)]), vec![data("hello", END_STREAM)]));
    }
    // Lengths that differ, from each other and from what is sent.
    cases.push((post(&[("content-length", "5"), ("content-length", "6")]), vec![data("hello", END_STREAM)]));
    cases.push((post(&[("content-length", "5")]), vec![]));
    // Fields of HTTP/1.1's connections.
    for field in [
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("connection", "keep-alive"),
        ("connection", "transfer-encoding"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        // Names and values that would end their line.
        ("x", "y\r\nx-more: z"),
        ("x", "y\nx-more: z"),
        ("x", "y\rz"),
        ("x", "y\0z"),
        ("x\r\nx-more: z\r\ny", "z"),
        ("x: y", "z"),
        ("x:", "z"),
        ("x y", "z"),
        ("x\0", "z"),
        ("", "z"),
        // In HTTP/2 they are in small letters.
        ("Content-Length", "5"),
        ("Transfer-Encoding", "chunked"),
        ("X", "y"),
        // What is said before the fields, after them.
        (":path", "/smuggled"),
        (":authority", "other.test"),
        (":status", "200"),
        (":unknown", "x"),
        // Hosts beside the authority.
        ("host", "a b"),
        ("host", smuggled),
    ] {
        cases.push((post(&[field]), vec![]));
        cases.push((post(&[field]), vec![data("hello", END_STREAM)]));
    }
    cases.push((post(&[("host", "web.test"), ("host", "other.test")]), vec![]));
    for path in [
        "/ HTTP/1.1\r\nx: y",
        "/a b",
        "/\t",
        "/\r",
        "/\n",
        "/\0",
        "/\x7f",
        "",
        "a",
        "web.test",
        "*",
        "*x",
        "http://web.test/",
    ] {
        cases.push((with(":path", path), vec![]));
    }
    for method in ["GET / HTTP/1.1\r\nx: y\r\n\r\nGET", "GET ", " GET", "GE T", "GET\r\n", "GE\0T", "", "G(T"]
    {
        cases.push((with(":method", method), vec![]));
    }
    for authority in
        [smuggled, "web test", "web.test/x", "web.test#x", "web.test\r\n", "[::1", "web.test:x:1"]
    {
        cases.push((with(":authority", authority), vec![]));
    }
    for scheme in ["http\r\nx: y", "http ", "http://web.test/?"] {
        cases.push((with(":scheme", scheme), vec![]));
    }
    for missing in [":method", ":scheme", ":path"] {
        let mut fields = post(&[]);
        fields.retain(|field| field.0 != missing);
        cases.push((fields, vec![]));
    }
    let twice = |field| [&[field][..], &post(&[])].concat();
    cases.push((twice((":path", "/smuggled")), vec![]));
    cases.push((twice((":method", "GET")), vec![]));

    let mut faults = Vec::new();
    for (fields, then) in &cases {
        let answered = ask(&recorder, fields, then).await;
        let found: Vec<String> = recorder.take().await.into_iter().map(|record| record.bytes).collect();
        if !found.is_empty() {
            faults.push(format!("{fields:?} was answered by {answered} and received as {found:?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

const HEAD: &str = "POST / HTTP/1.1 | ";
const HOST: &str = "host: 127.0.0.1";

#[tokio::test]
async fn http2_reaches_the_service_with_one_length() {
    let recorder = Recorder::patient().await;
    let five = format!("{HEAD}content-length: 5 | {HOST} || hello");
    let chunked = |body: &str| format!("{HEAD}{HOST} | transfer-encoding: chunked || {body}");
    let plain = || format!("{HEAD}{HOST} || ");
    let hello = || vec![data("hello", END_STREAM)];
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: web.test\r\n\r\n";
    let cases: Vec<(Fields<'_>, Vec<Vec<u8>>, String)> = vec![
        (post(&[]), vec![], plain()),
        (post(&[("content-length", "0")]), vec![], format!("{HEAD}content-length: 0 | {HOST} || ")),
        (post(&[("content-length", "5")]), hello(), five.clone()),
        (post(&[("content-length", "0005")]), hello(), five.clone()),
        (post(&[("content-length", "5"), ("content-length", "5")]), hello(), five.clone()),
        (post(&[]), hello(), chunked("5\r\nhello\r\n0\r\n\r\n")),
        (post(&[]), vec![data("", END_STREAM)], chunked("0\r\n\r\n")),
        // What looks like framing is content.
        (
            post(&[]),
            vec![data(smuggled, END_STREAM)],
            chunked(&format!("{:X}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len())),
        ),
        // Trailers say nothing about framing, and none that were not announced are passed on.
        (
            post(&[]),
            vec![
                data("hello", 0),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("content-length", "3"), ("x", "y")])),
            ],
            chunked("5\r\nhello\r\n0\r\n\r\n"),
        ),
        // A host beside the authority is not believed, nor passed on.
        (post(&[("host", "other.test")]), vec![], plain()),
        (with(":authority", "user:secret@127.0.0.1"), vec![], plain()),
        (post(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3")]), vec![], {
            format!("{HEAD}cookie: a=1; b=2; c=3 | {HOST} | x: y || ")
        }),
        (post(&[("te", "trailers")]), vec![], format!("{HEAD}{HOST} | te: trailers || ")),
    ];
    let mut faults = Vec::new();
    for (fields, then, expected) in &cases {
        let answered = ask(&recorder, fields, then).await;
        let found: Vec<String> =
            recorder.take().await.iter().map(|record| record.plain("127.0.0.1")).collect();
        if answered != HEADERS || found != [&**expected] {
            faults.push(format!("{fields:?} was answered by {answered} and received as {found:?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test]
async fn a_body_that_breaks_its_promise_resets_the_services_request() {
    let recorder = Recorder::patient().await;
    let length = || post(&[("content-length", "10")]);
    for (what, fields, then) in [
        ("too little", length(), data("", END_STREAM)),
        ("too much", length(), data("and more than that", END_STREAM)),
        ("too much, going on", length(), data("and more than that", 0)),
        ("given up", length(), frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())),
        ("a broken frame", length(), frame(CONTINUATION, 0, 1, b"")),
        ("trailers too early", length(), frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x", "y")]))),
        ("given up, chunked", post(&[]), frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())),
        ("no trailers", post(&[]), frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("te", "gzip")]))),
    ] {
        let mut client = Client::connect(recorder.edge).await;
        let head = frame(HEADERS, END_HEADERS, 1, &block(&fields));
        client.send(&[head, data("hello", 0)].concat()).await;
        let arrived = async || recorder.has("\r\n\r\nhello") || recorder.has("5\r\nhello\r\n");
        eventually("the service has what came", arrived).await;
        client.send(&then).await;
        let records = recorder.take().await;
        let [record] = &records[..] else { panic!("{what}: {records:?}") };
        assert!(record.end == End::Reset && !record.bytes.ends_with("\r\n0\r\n\r\n"), "{what}: {record:?}");
    }
}
