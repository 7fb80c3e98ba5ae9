//! A request that two parsers may read otherwise is refused, or reaches the service only as one that nobody can: with what
//! the service received, byte by byte.
//!
//! The tables have the known cases as raw bytes of HTTP/1.1; for HTTP/2, see `downgrade.rs`.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    eventually, ok,
    record::{End, Recorder},
    soon,
};

/// The statuses of the responses in some bytes.
fn statuses(bytes: &str) -> String {
    let responses = bytes.split("HTTP/1.").skip(1).filter_map(|response| response.get(2..5));
    let statuses = responses.filter(|status| status.parse::<u16>().is_ok());
    statuses.collect::<Vec<_>>().join(" ")
}

/// A request in HTTP/1.1, the statuses it is answered with, and what the service receives.
type Case<'a> = (&'a str, String, &'a str, &'a [&'a str]);

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: web.test\r\n{fields}\r\n{body}")
}

fn get_with(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: web.test\r\n{fields}connection: close\r\n\r\n")
}

fn line(line: &str) -> String {
    format!("{line}\r\nhost: web.test\r\nconnection: close\r\n\r\n")
}

/// What follows a request, and must be taken for a request of its own or for nothing.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\n\r\n";

const EMPTY: &str = "POST / HTTP/1.1 | host: web.test | transfer-encoding: chunked || 0\r\n\r\n";
const CHUNKS: &str =
    "POST / HTTP/1.1 | host: web.test | transfer-encoding: chunked || 5\r\nhello\r\n0\r\n\r\n";
const FIVE: &str = "POST / HTTP/1.1 | content-length: 5 | host: web.test || hello";
const PLAIN: &str = "GET / HTTP/1.1 | host: web.test || ";
const SEPARATE: &str = "GET /smuggled HTTP/1.1 | host: web.test || ";

#[tokio::test]
async fn ambiguous_http1_is_refused_or_made_plain() {
    let hello = |fields: &str| post(fields, "hello");
    let both = |fields: &str| post(fields, &format!("0\r\n\r\n{SMUGGLED}"));
    let mut cases: Vec<Case<'_>> = vec![
        // A length beside a transfer coding: the coding rules, and what follows is not believed.
        ("CL.TE", both("content-length: 4\r\ntransfer-encoding: chunked\r\n"), "200", &[EMPTY]),
        ("TE.CL", both("transfer-encoding: chunked\r\ncontent-length: 4\r\n"), "200", &[EMPTY]),
        ("TE.CL, 0", both("transfer-encoding: chunked\r\ncontent-length: 0\r\n"), "200", &[EMPTY]),
        ("CL.TE, bad", both("transfer-encoding: chunked\r\ncontent-length: x\r\n"), "200", &[EMPTY]),
        // Lengths.
        ("one length", hello("content-length: 5\r\nconnection: close\r\n"), "200", &[FIVE]),
        ("what follows", hello("content-length: 5\r\n") + SMUGGLED, "200 200", &[FIVE, SEPARATE]),
        ("twice", hello("content-length: 5\r\ncontent-length: 5\r\nconnection: close\r\n"), "200", &[FIVE]),
        ("leading zeros", hello("content-length: 0005\r\nconnection: close\r\n"), "200", &[FIVE]),
        ("spaces around", hello("content-length: \t 5 \t\r\nconnection: close\r\n"), "200", &[FIVE]),
        (
            "named by Connection",
            hello("content-length: 5\r\nconnection: close, content-length\r\n"),
            "200",
            &[CHUNKS],
        ),
        // Codings.
        ("in capitals", both("Transfer-Encoding: CHUNKED\r\n"), "200 200", &[EMPTY, SEPARATE]),
        (
            "a body, chunked",
            post("transfer-encoding: chunked\r\nconnection: close\r\n", "2\r\nhe\r\n003\r\nllo\r\n0\r\n\r\n"),
            "200",
            &[
                "POST / HTTP/1.1 | host: web.test | transfer-encoding: chunked || 2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            ],
        ),
        (
            "another name",
            get_with("transfer_encoding: chunked\r\n"),
            "200",
            &["GET / HTTP/1.1 | host: web.test | transfer_encoding: chunked || "],
        ),
        // Lines that end with LF alone are lines, here and in what is sent on.
        (
            "bare LF",
            "POST / HTTP/1.1\nhost: web.test\ncontent-length: 5\nconnection: close\n\nhello".into(),
            "200",
            &[FIVE],
        ),
        (
            "LF before a coding",
            both("x: y\ntransfer-encoding: chunked\r\n"),
            "200 200",
            &["POST / HTTP/1.1 | host: web.test | transfer-encoding: chunked | x: y || 0\r\n\r\n", SEPARATE],
        ),
        // Targets and hosts.
        ("empty lines before", format!("\r\n\r\n{}", get_with("")), "200", &[PLAIN]),
        (
            "absolute",
            line("GET http://user:secret@web.test/x HTTP/1.1"),
            "200",
            &["GET /x HTTP/1.1 | host: web.test || "],
        ),
        ("a fragment", line("GET /x#y HTTP/1.1"), "200", &["GET /x HTTP/1.1 | host: web.test || "]),
        ("OPTIONS *", line("OPTIONS * HTTP/1.1"), "200", &["OPTIONS * HTTP/1.1 | host: web.test || "]),
        ("HTTP/1.0", "GET / HTTP/1.0\r\nhost: web.test\r\n\r\n".into(), "200", &[PLAIN]),
    ];
    for length in [
        "+5",
        "-5",
        "0x5",
        "5,5",
        "5, 5",
        "5 5",
        "5;5",
        "5.0",
        "5a",
        "",
        "\"5\"",
        "18446744073709551616",
        "٥",
    ] {
        cases.push((length, hello(&format!("content-length: {length}\r\n")), "400", &[]));
    }
    for (first, second) in [("5", "6"), ("6", "5"), ("5", "x"), ("0", "5")] {
        let lengths = format!("content-length: {first}\r\ncontent-length: {second}\r\n");
        cases.push(("two lengths", hello(&lengths), "400", &[]));
    }
    for coding in [
        "xchunked",
        "chunkedx",
        "chunked, identity",
        "identity, chunked",
        "gzip, chunked",
        "chunked, chunked",
        "identity",
        "chunked;q=1",
        "chunked,",
        ",chunked",
        "\"chunked\"",
        "chun ked",
        "chunked\u{b}",
        "\u{b}chunked",
        "chunked\u{0}",
        "chunked\rx",
        "\u{a0}chunked",
        "",
    ] {
        cases.push((coding, both(&format!("transfer-encoding: {coding}\r\n")), "400", &[]));
    }
    for fields in [
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        // White space where there must be none, and lines that are folded.
        "transfer-encoding : chunked\r\n",
        "transfer-encoding\t: chunked\r\n",
        " transfer-encoding: chunked\r\n",
        "transfer-encoding:\r\n chunked\r\n",
        "transfer-encoding: chunked\r\n ,identity\r\n",
        "x: y\r\n\ttransfer-encoding: chunked\r\n",
        "content-length : 5\r\n",
        "content-length:\r\n 5\r\n",
        // Names and values that are none.
        "x: y\rtransfer-encoding: chunked\r\n",
        "x: y\u{0}z\r\n",
        "x\u{0}: y\r\n",
        "x y: z\r\n",
        "x(y): z\r\n",
        "x\r: y\r\n",
        ": y\r\n",
        "no colon\r\n",
        "é: y\r\n",
        "x: \u{7f}\r\n",
    ] {
        cases.push((fields, both(fields), "400", &[]));
    }
    for host in ["web.test", "other.test"] {
        cases.push(("a second host", get_with(&format!("host: {host}\r\n")), "400", &[]));
    }
    for host in [
        "web.test, other.test",
        "web.test,other.test",
        "web.test/x",
        "user@web.test",
        "web test",
        "web.test:x:1",
    ] {
        cases.push((
            host,
            format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"),
            "400",
            &[],
        ));
    }
    for bad in [
        "GE(T / HTTP/1.1",
        "G\u{0}T / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / x HTTP/1.1",
        "GET /",
        "GET / HTTP/1.1 x",
        "GET / HTTP/1.1x",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / HTTP/0.9",
        "GET / http/1.1",
        "GET / XTTP/1.1",
        "GET /\u{0} HTTP/1.1",
        "GET /\r HTTP/1.1",
        "GET /\u{7f} HTTP/1.1",
        " GET / HTTP/1.1",
        "/ HTTP/1.1",
        "GET web.test HTTP/1.1",
        "GET web.test:80 HTTP/1.1",
        "GET * HTTP/1.1",
        "GET x/y HTTP/1.1",
        "GET http:// HTTP/1.1",
        "GET http://a b/ HTTP/1.1",
        "GET http://[::1/ HTTP/1.1",
    ] {
        cases.push((bad, line(bad), "400", &[]));
    }
    let coded = "POST / HTTP/1.0\r\nhost: web.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    cases.push(("HTTP/1.0 with a coding", coded.into(), "400", &[]));

    for recorder in [Recorder::start().await, Recorder::behind_another_node().await] {
        let mut faults = Vec::new();
        for (what, bytes, expected, received) in &cases {
            let answer = tell(recorder.edge, bytes).await;
            let found: Vec<String> =
                recorder.take().await.iter().map(|record| record.plain("web.test")).collect();
            if statuses(&answer) != *expected || found != *received {
                faults.push(format!(
                    "{what:?}: {bytes:?}\n  was answered {answer:?},\n  received as {found:?}"
                ));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}

/// Writes bytes as they are, and reads until the connection ends, however it does.
async fn tell(edge: SocketAddr, bytes: &str) -> String {
    let mut stream = ok(TcpStream::connect(edge).await);
    ok(stream.write_all(bytes.as_bytes()).await);
    let mut all = Vec::new();
    drop(soon(stream.read_to_end(&mut all)).await);
    String::from_utf8_lossy(&all).into_owned()
}

const STARTED: &str = "POST / HTTP/1.1 | host: web.test | transfer-encoding: chunked || 5\r\nhello\r\n";

/// Sends a chunk, and more once the service has it.
async fn continued(recorder: &Recorder, more: &str) -> (String, Vec<(String, End)>) {
    let mut stream = ok(TcpStream::connect(recorder.edge).await);
    ok(stream.write_all(post("transfer-encoding: chunked\r\n", "5\r\nhello\r\n").as_bytes()).await);
    eventually("the service has the first chunk", async || recorder.has("5\r\nhello\r\n")).await;
    ok(stream.write_all(more.as_bytes()).await);
    let mut all = Vec::new();
    drop(soon(stream.read_to_end(&mut all)).await);
    let records = recorder.take().await;
    let found = records.iter().map(|record| (record.plain("web.test"), record.end)).collect();
    (String::from_utf8_lossy(&all).into_owned(), found)
}

#[tokio::test]
async fn a_chunk_that_is_wrong_resets_the_services_request() {
    let recorder = Recorder::start().await;
    let mut faults = Vec::new();
    for bad in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5.\r\nhello\r\n0\r\n\r\n",
        "\"5\"\r\nhello\r\n0\r\n\r\n",
        "5_\r\nhello\r\n0\r\n\r\n",
        // Sizes of which a shorter integer keeps a part.
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        // Lines that do not end as they must.
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5;x\nhello\r\n0\r\n\r\n",
        "5;x\ry\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        ";x\r\nhello\r\n0\r\n\r\n",
        "\u{0}\r\nhello\r\n0\r\n\r\n",
        // Chunks that are longer or shorter than they say.
        "4\r\nhello\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhelloGET /smuggled HTTP/1.1\r\nhost: web.test\r\n\r\n",
        // Trailers that are none, and an end that does not come.
        "0\r\nx y: z\r\n\r\n",
        "0\r\n: z\r\n\r\n",
        "0\r\nx\r\n\r\n",
        "0\r\nx: y\rz\r\n\r\n",
        "0\r\nx: \u{0}\r\n\r\n",
        "0\r\n x: y\r\n\r\n",
        "0\r\nx : y\r\n\r\n",
        "0\n\n",
        "0\r\n\n",
        "0\r\n",
        "0",
        "5\r\nhel",
        "",
    ] {
        let (answer, found) = continued(&recorder, bad).await;
        let refused = ["400", "408"].contains(&&*statuses(&answer));
        // Of a chunk that is too short, what came of it is no fault yet.
        let received = |(text, end): &(String, End)| text.starts_with(STARTED) && *end == End::Reset;
        let ended = found.iter().any(|(text, _)| text.ends_with("0\r\n\r\n"));
        if !refused || found.len() != 1 || !received(&found[0]) || ended {
            faults.push(format!("{bad:?}\n  was answered {answer:?},\n  received as {found:?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test]
async fn a_chunk_that_is_odd_is_framed_anew() {
    let recorder = Recorder::start().await;
    let mut faults = Vec::new();
    for odd in [
        "5 \r\nworld\r\n0\r\n\r\n",
        "5\t\r\nworld\r\n0\r\n\r\n",
        "0000000005\r\nworld\r\n0\r\n\r\n",
        "5;a=b;c=\"d\"\r\nworld\r\n000;last\r\n\r\n",
        "5;\r\nworld\r\n0\r\n\r\n",
        "5 ; a\r\nworld\r\n0\r\n\r\n",
        // Fields for the message as a whole come too late in a trailer.
        "5\r\nworld\r\n0\r\ncontent-length: 3\r\ntransfer-encoding: identity\r\nhost: other.test\r\nx: y\r\n\r\n",
    ] {
        let (answer, found) = continued(&recorder, &format!("{odd}{SMUGGLED}")).await;
        let found: Vec<_> = found.into_iter().map(|(text, _)| text).collect();
        let whole = format!("{STARTED}5\r\nworld\r\n0\r\n\r\n");
        if statuses(&answer) != "200 200" || found != [&*whole, SEPARATE] {
            faults.push(format!("{odd:?}\n  was answered {answer:?},\n  received as {found:?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
