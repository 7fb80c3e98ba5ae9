//! The benchmark, by the real binary: tiny runs of each kind, and what it says of services that do not answer as they should.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use http::{Request, Response, StatusCode};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use crate::support::{body::Body, client::get, eventually, ok, process::Process, program::children, service};

/// A run takes a second or two where the machine has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a run printed, and its exit code.
struct Told {
    out: String,
    error: String,
    code: Option<i32>,
}

async fn bench(folder: &Path, line: &str) -> Told {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ADIT_")) {
        command.env_remove(name);
    }
    let command = command.arg("bench").args(line.split(' ')).current_dir(folder).stdin(Stdio::null());
    let output = ok(tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await);
    let output = ok(output);
    let text = |bytes: Vec<u8>| ok(String::from_utf8(bytes));
    Told { out: text(output.stdout), error: text(output.stderr), code: output.status.code() }
}

/// A run that must go well: the figures of its first run.
async fn figures(line: &str) -> BTreeMap<String, f64> {
    let folder = ok(tempfile::tempdir());
    let told = bench(folder.path(), &format!("{line} --json")).await;
    assert_eq!(told.code, Some(0), "{line}: {}{}", told.out, told.error);
    let report: Value = ok(serde_json::from_str(&told.out));
    assert_eq!(report["format"], 1);
    assert_eq!(report["runs"][0]["errors"], serde_json::json!({}), "{line}");
    let figures = report["runs"][0]["figures"].as_array().expect("there are figures").iter();
    figures
        .map(|figure| {
            let name = figure["name"].as_str().expect("it has a name").to_owned();
            (name, figure["value"].as_f64().expect("it has a value"))
        })
        .collect()
}

const SMALL: &str = "--clients 10 --endpoints 5 --upstreams 10";

#[tokio::test]
async fn requests_of_each_version_are_echoed_through_a_cluster_of_its_own() {
    for version in ["1", "2", "3"] {
        let figures = figures(&format!("http --requests 300 --http {version} {SMALL}")).await;
        assert_eq!(figures["requests"], 300.0, "HTTP/{version}: {figures:?}");
        assert!(figures["rate"] > 0.0 && figures["p50"] <= figures["max"], "HTTP/{version}: {figures:?}");
    }
}

#[tokio::test]
async fn requests_are_forwarded_and_sent_at_a_rate() {
    let line = format!("http --duration 1s --rate 200 --forwarded --nodes 3 --agents 3 {SMALL}");
    let figures = figures(&line).await;
    assert_eq!(figures["requests"], 200.0, "all that were due were sent: {figures:?}");
}

#[tokio::test]
async fn bytes_go_up_down_and_both_ways() {
    let one = figures("tcp --size 3000000 --direction up").await;
    assert_eq!(one["bytes carried"], 3_000_000.0);
    let both = figures("tcp --size 1000000 --direction both --streams 3 --via link --forwarded").await;
    assert_eq!((both["bytes carried"], both["hops of links"]), (6_000_000.0, 3.0));
    let other = figures("tcp --size 1000000 --transport websocket").await;
    assert_eq!(other["bytes carried"], 1_000_000.0);
    let timed = figures("tcp --duration 500ms").await;
    assert!(timed["rate"] > 0.0, "{timed:?}");
}

#[tokio::test]
async fn flows_are_opened_over_links_and_ports() {
    for via in ["link", "port"] {
        let figures = figures(&format!("connect --requests 200 --clients 10 --via {via}")).await;
        assert_eq!(figures["flows"], 200.0, "{via}: {figures:?}");
    }
}

#[tokio::test]
async fn packets_come_back() {
    for via in ["link", "port"] {
        let figures = figures(&format!("udp --requests 500 --rate 500 --clients 5 --via {via}")).await;
        assert_eq!(figures["packets sent"], 500.0, "{via}: {figures:?}");
        assert!(figures["lost"] < 0.5 && figures["came twice"] == 0.0, "{via}: {figures:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn idle_links_are_weighed() {
    let figures = figures("idle --agents 20 --endpoints 40 --duration 1s").await;
    assert_eq!(figures["links"], 20.0);
    assert!(figures["memory of the node"] > figures["memory of the node without links"], "{figures:?}");
}

#[tokio::test]
async fn nodes_are_killed_and_drained_under_load() {
    let figures = figures("failover --rate 50 --clients 5 --duration 10s").await;
    assert_eq!((figures["requests"], figures["failed"]), (500.0, 0.0), "{figures:?}");
    assert!(figures.contains_key("n2 killed: failed for") && figures.contains_key("n3 drained: failed"));
    assert!(figures.contains_key("n2 killed: slowest answer after that"), "{figures:?}");
}

#[tokio::test]
async fn a_cluster_converges() {
    let figures = figures("cluster --nodes 3 --endpoints 50 --duration 1s").await;
    assert!(figures["time until every node knew every endpoint"] > 0.0, "{figures:?}");
    assert!(figures["bytes between nodes per endpoint and other node"] > 0.0, "{figures:?}");
}

/// What a run says that measures a service by its URL; it must fail.
async fn failing(address: std::net::SocketAddr, words: &str) -> String {
    let folder = ok(tempfile::tempdir());
    let line = format!("http --requests 20 --clients 2 --url http://{address}/ {words}");
    let told = bench(folder.path(), line.trim_end()).await;
    assert_eq!(told.code, Some(1), "{}{}", told.out, told.error);
    assert!(told.out.contains("FAILED"), "{}", told.out);
    told.error
}

#[tokio::test]
async fn whatever_answers_is_measured_and_a_wrong_answer_fails_the_run_by_its_kind() {
    let echo = service::http(|request: Request<hyper::body::Incoming>| async {
        Response::new(Body::new(http_body_util::BodyExt::map_err(request.into_body(), std::io::Error::other)))
    })
    .await;
    let good =
        figures(&format!("http --requests 50 --clients 5 --url http://{}/ --echo", echo.address)).await;
    assert_eq!(good["requests"], 50.0);

    let wrong = service::http(|_| async { Response::new(service::full("other bytes")) }).await;
    let told = failing(wrong.address, "--echo").await;
    assert!(told.contains("20 wrong bytes"), "{told}");
    let got = figures(&format!("http --requests 20 --clients 2 --url http://{}/", wrong.address)).await;
    assert_eq!(got["requests"], 20.0, "without --echo it is not compared");

    let ill = service::http(|_| async {
        let mut response = Response::new(service::full("no"));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
    .await;
    let told = failing(ill.address, "").await;
    assert!(told.contains("20 status 500"), "{told}");

    let rude = service::tcp(|mut stream| async move {
        let asked = stream.read(&mut [0; 4096]).await;
        drop(asked);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await);
    })
    .await;
    let told = failing(rude.address, "").await;
    assert!(told.contains("20 closed"), "{told}");

    let silent = service::tcp(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let told = failing(silent.address, "--timeout 200ms").await;
    assert!(told.contains("20 timed out"), "{told}");

    let told = failing(service::refusing(), "").await;
    assert!(told.contains("20 cannot connect: ") && told.contains("refused"), "{told}");
}

#[tokio::test]
async fn requests_bear_the_headers_that_were_given_to_a_name_under_localhost() {
    let picky = service::http(|request: Request<hyper::body::Incoming>| async move {
        let has = |name: &str, value: &str| request.headers().get(name).is_some_and(|given| given == value);
        let mut response = Response::new(service::full("asked"));
        if !(has("x-adit-endpoint", "web") && has("host", "web.example.com:81")) {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        response
    })
    .await;
    // Words are parted at spaces, and none is needed behind a colon.
    let headers = "--header x-adit-endpoint:web --header Host:web.example.com:81";
    let url = format!("http://web.localhost:{}/", picky.address.port());
    let got = figures(&format!("http --requests 20 --clients 2 --url {url} {headers}")).await;
    assert_eq!(got["requests"], 20.0);
}

#[tokio::test]
async fn a_rate_that_cannot_be_kept_fails_the_run() {
    let slow = service::http(|_| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Response::new(service::full("late"))
    })
    .await;
    let folder = ok(tempfile::tempdir());
    let url = format!("http://{}/", slow.address);
    let told = bench(folder.path(), &format!("http --duration 1s --rate 100 --clients 1 --url {url}")).await;
    assert_eq!(told.code, Some(1), "{}", told.out);
    assert!(told.error.contains("not sent in time"), "{}", told.error);
}

#[tokio::test]
async fn a_real_cluster_is_measured_through_agents_of_its_own() {
    let folder = ok(tempfile::tempdir());
    let free = "127.0.0.1:0";
    let binds = ["--edge-bind", "--link-bind", "--admin-bind", "--peer-bind"].map(|bind| [bind, free]);
    let node = Process::start(folder.path(), &[&["node"], binds.as_flattened()].concat());
    let (edge, link, admin) = (node.address("edge"), node.address("link"), node.address("admin"));
    let line = format!("http --requests 200 {SMALL} --edge http://{edge} --link {link}");
    let told = bench(folder.path(), &line).await;
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.error);
    assert!(told.out.contains("requests") && told.out.contains("200"), "{}", told.out);
    has_no_link(admin).await;
    let told = bench(folder.path(), &format!("connect --requests 50 --clients 5 --link {link}")).await;
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.error);
    has_no_link(admin).await;
}

/// What has said goodbye is gone long before a link without packets is given up.
async fn has_no_link(admin: std::net::SocketAddr) {
    eventually("all links have ended", async || {
        let status: Value = ok(serde_json::from_slice(&get(admin, "", "/api/v1/status").await.body));
        status["links"].as_array().is_some_and(Vec::is_empty)
    })
    .await;
}

#[tokio::test]
async fn results_of_different_benchmarks_are_not_compared() {
    let folder = ok(tempfile::tempdir());
    let lines = [("a.json", format!("http --requests 100 {SMALL}")), ("b.json", "tcp --size 1000".into())];
    for (file, line) in lines {
        let told = bench(folder.path(), &format!("{line} --json")).await;
        assert_eq!(told.code, Some(0), "{}", told.error);
        ok(std::fs::write(folder.path().join(file), told.out));
    }
    let told = bench(folder.path(), "compare a.json b.json").await;
    assert_eq!((told.code, told.out.as_str()), (Some(2), ""));
    assert!(told.error.contains("a.json is of `adit bench http`"), "{}", told.error);
    assert!(told.error.contains("b.json of `adit bench tcp`"), "{}", told.error);
}

#[tokio::test]
async fn results_are_compared_and_shown_as_one_page_that_fetches_nothing() {
    let folder = ok(tempfile::tempdir());
    let file = |name: &str| folder.path().join(name);
    for name in ["a", "b"] {
        let line = format!("http --duration 1s --runs 3 --json --report {name}.html {SMALL}");
        let told = bench(folder.path(), &line).await;
        assert_eq!(told.code, Some(0), "{}", told.error);
        ok(std::fs::write(file(&format!("{name}.json")), told.out));
    }
    let page = ok(std::fs::read_to_string(file("a.html")));
    assert_eq!((page.matches("<svg").count(), page.matches("<polyline").count()), (2, 6), "{page}");
    for fetch in ["http://", "https://", "src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(fetch), "{fetch}");
    }
    let told = bench(folder.path(), "compare a.json b.json").await;
    assert_eq!(told.code, Some(0), "{}", told.error);
    let rate = told.out.lines().find(|line| line.starts_with("rate ")).expect("rates are compared");
    assert!(!rate.contains("too few"), "three runs each are enough: {rate}");
    let told = bench(folder.path(), "compare a.json a.html").await;
    assert_eq!(told.code, Some(2));
    assert!(told.error.contains("a.html is no result"), "{}", told.error);
}

#[tokio::test]
async fn what_cannot_be_measured_is_a_usage_error() {
    let folder = ok(tempfile::tempdir());
    for (line, says) in [
        ("http --forwarded --nodes 1", "needs a node to forward to"),
        ("http --endpoints 10 --upstreams 5", "each needs one"),
        ("http --endpoints 1 --upstreams 3", "--agents 3"),
        ("http --requests 1 --duration 1s", "cannot be used with"),
        ("http --url 127.0.0.1:80", "a whole URL"),
        ("http --link 127.0.0.1:8001", "--edge"),
        ("http --header x-adit-endpoint:web", "--url"),
        ("http --url http://127.0.0.1/ --header web", "NAME: VALUE"),
        ("http --url http://127.0.0.1/ --header Content-Length:5", "--size"),
        ("tcp --link 127.0.0.1:8001 --via port", "by its link"),
        ("idle --agents 10 --endpoints 5", "fewer --endpoints"),
        ("udp --size 8", "24"),
    ] {
        let told = bench(folder.path(), line).await;
        assert_eq!(told.code, Some(2), "{line}: {}", told.error);
        assert!(told.error.contains(says), "{line}: {}", told.error);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn its_processes_end_with_it_however_it_ends() {
    for signal in ["INT", "KILL"] {
        let folder = ok(tempfile::tempdir());
        let mut bench =
            Process::start(folder.path(), &["bench", "http", "--duration", "10m", "--clients", "2"]);
        let id = bench.id();
        eventually("a node and two agents run", async || children(id).len() == 3).await;
        let started = children(id);
        bench.signal(signal);
        let code = bench.wait_in_time().await;
        assert_eq!(code, (signal == "INT").then_some(1), "{signal}");
        eventually("they have ended", async || !started.iter().any(|id| is_adit(*id))).await;
    }
}

/// Whether it runs, and its number is not another program's by now.
#[cfg(target_os = "linux")]
fn is_adit(id: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/status"))
        .is_ok_and(|status| status.starts_with("Name:\tadit\n") && !status.contains("State:\tZ"))
}
