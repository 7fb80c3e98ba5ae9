//! Flows and connections of services are used again from request to request, and that never costs a request, nor sends one
//! twice that must not be.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use adit::protocol::Kind;
use http::{Request, Response, StatusCode, header};
use tokio::{
    io::AsyncWriteExt,
    sync::{Barrier, mpsc},
    time::{Instant, sleep, timeout},
};

use crate::support::{
    Fabric, SOON,
    client::{Answer, Body, Http1, Http2, body, request},
    fabric::Web,
    ok,
    service::{self, Running, read_request},
    soon,
};

fn get() -> Request<Body> {
    request("GET", "web", "/", "")
}

fn post() -> Request<Body> {
    request("POST", "web", "/", "order")
}

fn assert_ok(answer: &Answer) {
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "ok"));
}

/// Answers each request with `ok`, and keeps its connections.
async fn keeper() -> Running {
    service::http(|_| async { Response::new(service::full("ok")) }).await
}

/// A service that closes connections which are idle for longer than `patience`, without saying so before, and those on which
/// it reads a request for `/die`, without an answer. Counts the requests that it has read.
async fn impatient(patience: Duration) -> (Running, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let running = service::tcp(move |mut stream| {
        let requests = Arc::clone(&counted);
        async move {
            let mut wait = SOON;
            while let Ok(Some(request)) = timeout(wait, read_request(&mut stream)).await {
                requests.fetch_add(1, Relaxed);
                if request.contains("/die") {
                    return;
                }
                ok(stream.write_all(service::OK).await);
                wait = patience;
            }
        }
    });
    (running.await, requests)
}

#[tokio::test]
async fn requests_in_turn_cost_the_service_one_connection() {
    let service = keeper().await;
    let web = Web::to(service.address).await;
    let mut one = Http1::connect(web.edge).await;
    for _ in 0..200 {
        assert_ok(&one.ask(get()).await);
    }
    assert_eq!(service.accepted(), 1);
    // Nor is a flow bound to the client's connection, or to its version of HTTP.
    let mut two = Http1::connect(web.edge).await;
    let three = Http2::connect(web.edge).await;
    for _ in 0..50 {
        assert_ok(&one.ask(get()).await);
        assert_ok(&two.ask(get()).await);
        let over_http2 = Request::get("http://web.example.com/").body(body(""));
        assert_ok(&three.ask(ok(over_http2)).await);
    }
    assert_eq!(service.accepted(), 1);
    for _ in 0..50 {
        let began = Instant::now();
        assert_ok(&two.ask(get()).await);
        let before = service.accepted();
        assert_ok(&one.ask(post()).await);
        // One that was used longer ago is not for a POST.
        let fresh = began.elapsed() < Duration::from_secs(1);
        assert!(!fresh || service.accepted() == before, "a POST takes it too");
    }
}

#[tokio::test]
async fn a_service_that_closes_after_each_response_costs_no_request() {
    let service = service::http(|_| async {
        let mut response = Response::new(service::full("ok"));
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        response
    })
    .await;
    let web = Web::to(service.address).await;
    let mut client = Http1::connect(web.edge).await;
    for number in 0..100 {
        let answer = client.ask(if number % 2 == 0 { get() } else { post() }).await;
        assert_ok(&answer);
        assert_eq!(answer.headers.get(header::CONNECTION), None, "it is for the service's hop alone");
    }
    assert_eq!(service.accepted(), 100);
}

#[tokio::test]
async fn a_service_that_closes_without_a_word_costs_no_get() {
    let (service, requests) = impatient(Duration::ZERO).await;
    let web = Web::to(service.address).await;
    let mut client = Http1::connect(web.edge).await;
    for _ in 0..200 {
        assert_ok(&client.ask(get()).await);
    }
    assert_eq!(requests.load(Relaxed), 200);
}

/// The closing reaches the node while the flow still counts as fresh: what was never sent is sent on another.
#[tokio::test]
async fn a_flow_that_is_found_closed_costs_no_post() {
    let (service, requests) = impatient(Duration::ZERO).await;
    let web = Web::to(service.address).await;
    let mut client = Http1::connect(web.edge).await;
    for _ in 0..8 {
        assert_ok(&client.ask(post()).await);
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(requests.load(Relaxed), 8);
}

/// Its service may be about to close the old one. A request that may be sent again still takes that.
#[tokio::test]
async fn a_post_after_a_pause_takes_a_fresh_flow() {
    let (service, requests) = impatient(SOON).await;
    let web = Web::to(service.address).await;
    let mut client = Http1::connect(web.edge).await;
    let pause = Duration::from_millis(1200);
    for (request, connections) in [(post(), 1), (get(), 1), (post(), 2), (post(), 3)] {
        assert_ok(&client.ask(request).await);
        assert_eq!(service.accepted(), connections);
        sleep(pause).await;
    }
    assert_eq!(requests.load(Relaxed), 4);
}

#[tokio::test]
async fn posts_with_pauses_cost_nothing_at_a_service_that_closes_idle_connections() {
    let (service, requests) = impatient(Duration::from_millis(1500)).await;
    let web = Web::to(service.address).await;
    let mut client = Http1::connect(web.edge).await;
    for _ in 0..3 {
        assert_ok(&client.ask(post()).await);
        sleep(Duration::from_millis(1600)).await;
    }
    assert_eq!((requests.load(Relaxed), service.accepted()), (3, 3));
}

/// A service that drops such a request after reading it: how often it was delivered, over a flow that was idle before.
async fn deliveries_of(method: &str, content: &'static str) -> usize {
    let (service, requests) = impatient(SOON).await;
    let web = Web::to(service.address).await;
    let mut client = Http1::connect(web.edge).await;
    assert_ok(&client.ask(get()).await);
    let answer = client.ask(request(method, "web", "/die", content)).await;
    assert_eq!(
        (answer.status, answer.error().0.as_str()),
        (StatusCode::BAD_GATEWAY, "upstream_broken"),
        "{method}"
    );
    let delivered = requests.load(Relaxed) - 1;
    assert_ok(&client.ask(post()).await);
    delivered
}

#[tokio::test]
async fn what_may_have_been_delivered_is_sent_again_only_where_that_is_safe() {
    assert_eq!(deliveries_of("POST", "order").await, 1);
    assert_eq!(deliveries_of("POST", "").await, 1);
    assert_eq!(deliveries_of("PATCH", "").await, 1);
    // Idempotent, but its body is gone.
    assert_eq!(deliveries_of("PUT", "content").await, 1);
    assert_eq!(deliveries_of("PUT", "").await, 2);
    assert_eq!(deliveries_of("DELETE", "").await, 2);
    assert_eq!(deliveries_of("GET", "").await, 2);
}

#[tokio::test]
async fn a_get_that_kills_its_service_is_not_taken_to_all_of_them() {
    let fabric = Fabric::start().await;
    let (service, requests) = impatient(SOON).await;
    let mut agents = Vec::new();
    for _ in 0..4 {
        agents.push(fabric.agent("web", Kind::Http, service.address).await);
    }
    let answer = Http1::connect(fabric.addresses.edge).await.ask(request("GET", "web", "/die", "")).await;
    assert_eq!((answer.status, answer.error().0.as_str()), (StatusCode::BAD_GATEWAY, "upstream_broken"));
    assert_eq!(requests.load(Relaxed), 2);
}

#[tokio::test]
async fn idle_flows_are_closed_after_four_seconds() {
    let (ends, mut ended) = mpsc::channel(8);
    let service = service::tcp(move |mut stream| {
        let ends = ends.clone();
        async move {
            let mut idle_since = None;
            while read_request(&mut stream).await.is_some() {
                ok(stream.write_all(service::OK).await);
                idle_since = Some(Instant::now());
            }
            ok(ends.send(idle_since.map(|since: Instant| since.elapsed())).await);
        }
    })
    .await;
    let web = Web::to(service.address).await;
    let get = async || assert_ok(&Http1::connect(web.edge).await.ask(get()).await);
    tokio::join!(get(), get(), get());
    for _ in 0..service.accepted() {
        let idle = soon(ended.recv()).await.expect("the service reports").expect("it was asked");
        assert!(idle >= Duration::from_millis(3900) && idle < Duration::from_secs(7), "{idle:?}");
    }
}

#[tokio::test]
async fn an_agent_whose_service_refuses_costs_no_request_while_another_serves() {
    let fabric = Fabric::start().await;
    let service = keeper().await;
    let _bad = fabric.agent("web", Kind::Http, service::refusing()).await;
    let _good = fabric.agent("web", Kind::Http, service.address).await;
    // Each on its own connection, some at once, so that flows are opened all the time.
    for _ in 0..10 {
        let asked = (0..10).map(async |number| {
            let request = if number % 2 == 0 { get() } else { post() };
            Http1::connect(fabric.addresses.edge).await.ask(request).await
        });
        futures_util::future::join_all(asked).await.iter().for_each(assert_ok);
    }
}

#[tokio::test]
async fn requests_spread_over_all_agents_of_an_endpoint() {
    let fabric = Fabric::start().await;
    // None is answered before all have come.
    let all = Arc::new(Barrier::new(50));
    let service = async || {
        let all = Arc::clone(&all);
        service::http(move |_| {
            let all = Arc::clone(&all);
            async move {
                all.wait().await;
                Response::new(service::full("ok"))
            }
        })
        .await
    };
    let services = [service().await, service().await];
    let _agents = [
        fabric.agent("web", Kind::Http, services[0].address).await,
        fabric.agent("web", Kind::Http, services[1].address).await,
    ];
    let client = Http2::connect(fabric.addresses.edge).await;
    let asked = (0..50).map(|_| client.ask(ok(Request::get("http://web.example.com/").body(body("")))));
    soon(futures_util::future::join_all(asked)).await.iter().for_each(assert_ok);
    let taken = services.map(|service| service.accepted());
    assert_eq!(taken.iter().sum::<usize>(), 50);
    assert!(taken.iter().all(|taken| *taken >= 15), "{taken:?}");
}
