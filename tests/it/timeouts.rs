//! The request time-out is for response headers alone, and runs from the last byte of the request's body. Nothing else that
//! was asked is ever cut by a timer, unless an operator wants it so (see `slow.rs`).
//!
//! Whatever takes seconds here runs beside the others, inside one test.

use std::time::Duration;

use adit::node;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep};

use crate::support::{
    body::{self, trickle},
    client::{Answer, Http1, Http2, over_http2, request, request_of, whole},
    fabric::Web,
    ok, service,
};

const MS: Duration = Duration::from_millis(1);

/// What all tests here set the time-out to.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(1);

/// Gives a node that time-out.
pub(crate) fn short(config: &mut node::Config) {
    config.edge.limits.request_timeout = TIMEOUT;
}

/// `/events`, `/download` and `/pause` answer slowly after their head; any other path reads the request to its end, waits
/// for as many milliseconds as it says, and answers with the number of bytes.
async fn slow_service() -> service::Running {
    service::http(|request: Request<Incoming>| async move {
        match request.uri().path() {
            "/events" => Response::new(trickle(8, 500 * MS, "data: tick\n\n")),
            "/download" => Response::new(trickle(100, 100 * MS, vec![7; 1000])),
            "/pause" => Response::new(trickle(1, 3000 * MS, "at last")),
            path => {
                let wait = path[1..].parse().unwrap_or(0);
                let body =
                    request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                sleep(wait * MS).await;
                Response::new(service::full(body.len().to_string()))
            }
        }
    })
    .await
}

#[tokio::test]
async fn what_has_begun_to_answer_lives_on_however_slow_and_so_does_an_upload() {
    slow_bodies_live_on(1).await;
}

pub(crate) async fn slow_bodies_live_on(nodes: usize) {
    let service = slow_service().await;
    let web = Web::over_with(nodes, short, service.address).await;
    tokio::join!(
        a_silent_response(&web),
        a_stream_of_events(&web),
        a_slow_download(&web),
        a_slow_upload(&web),
        a_slow_upload_over_http2(&web),
    );
}

async fn a_silent_response(web: &Web) {
    let answer = Http1::connect(web.edge).await.ask(request("GET", "web", "/pause", "")).await;
    assert_eq!(answer.text(), "at last");
}

/// Each event must come when it is sent, not when there are more.
async fn a_stream_of_events(web: &Web) {
    let started = Instant::now();
    let mut client = Http1::connect(web.edge).await;
    let mut events = ok(client.send(request("GET", "web", "/events", "")).await).into_body();
    for number in 1..=8 {
        let event = ok(body::next(&mut events).await.expect("the stream goes on"));
        assert_eq!(event, "data: tick\n\n");
        let late = started.elapsed().saturating_sub(number * 500 * MS);
        assert!(late < 1500 * MS, "event {number} came {late:?} late");
    }
    assert!(body::next(&mut events).await.is_none());
}

async fn a_slow_download(web: &Web) {
    let answer = Http1::connect(web.edge).await.ask(request("GET", "web", "/download", "")).await;
    assert_eq!(answer.body.len(), 100_000);
}

fn slow_upload() -> Request<body::Body> {
    request_of("POST", "web", "/0", trickle(100, 100 * MS, vec![7; 1000]))
}

async fn a_slow_upload(web: &Web) {
    let answer = Http1::connect(web.edge).await.ask(slow_upload()).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "100000"));
}

async fn a_slow_upload_over_http2(web: &Web) {
    let answer = Http2::connect(web.edge).await.ask(over_http2(slow_upload())).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "100000"));
}

fn assert_late(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    let (code, sentence) = answer.error();
    assert_eq!(code, "response_timeout");
    assert!(sentence.contains("within 1s"), "{sentence}");
}

#[tokio::test]
async fn late_response_headers_are_a_504_in_time_and_only_of_their_request() {
    late_headers_are_a_504(1).await;
}

pub(crate) async fn late_headers_are_a_504(nodes: usize) {
    let service = slow_service().await;
    let web = Web::over_with(nodes, short, service.address).await;
    let mut client = Http1::connect(web.edge).await;
    let started = Instant::now();
    assert_late(&client.ask(request("GET", "web", "/5000", "")).await);
    let took = started.elapsed();
    assert!(took >= TIMEOUT && took < 4 * TIMEOUT, "{took:?}");
    // The client's connection and the service go on.
    let answer = client.ask(request("GET", "web", "/0", "")).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn the_time_runs_from_the_last_byte_of_the_requests_body() {
    the_time_runs_from_the_requests_end(1).await;
}

pub(crate) async fn the_time_runs_from_the_requests_end(nodes: usize) {
    let service = slow_service().await;
    let web = Web::over_with(nodes, short, service.address).await;
    let upload =
        |wait: u32| request_of("POST", "web", &format!("/{wait}"), trickle(25, 100 * MS, "0123456789"));
    let over_http1 = async |wait| Http1::connect(web.edge).await.ask(upload(wait)).await;
    let http2 = Http2::connect(web.edge).await;
    let over_http2 = async |wait| whole(ok(http2.send(over_http2(upload(wait))).await)).await;
    let answers = tokio::join!(over_http1(200), over_http1(1500), over_http2(200), over_http2(1500));
    assert_eq!((answers.0.status, answers.0.text()), (StatusCode::OK, "250"));
    assert_late(&answers.1);
    assert_eq!((answers.2.status, answers.2.text()), (StatusCode::OK, "250"));
    assert_late(&answers.3);
}
