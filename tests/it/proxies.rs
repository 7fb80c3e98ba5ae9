//! Agents and forwarders, as users run them, whose only way out is an HTTP proxy.

use std::{fs, net::SocketAddr};

use adit::protocol::Kind;
use http::StatusCode;
use tokio::net::TcpStream;

use crate::support::{
    Fabric,
    client::{assert_counted, get},
    eventually, ok,
    process::Process,
    program::output,
    proxy::{Does, Proxy},
    service,
};

/// A name that the proxy alone resolves (RFC 6761).
const NODE: &str = "node.invalid:8001";

/// What a user and a password become (RFC 7617), the latter as it is written in a URL and as it is.
const BASIC: &str = "Basic dXNlcjpvcGVuQHNlc2FtZQ==";
const SECRETS: [&str; 3] = ["open%40sesame", "open@sesame", "dXNlcjpvcGVuQHNlc2FtZQ"];

/// A node, and a folder with its authority's certificate.
struct Setting {
    fabric: Fabric,
    folder: tempfile::TempDir,
}

impl Setting {
    async fn start() -> Self {
        let (fabric, folder) = (Fabric::start().await, ok(tempfile::tempdir()));
        let (cert, key) = (folder.path().join("authority.pem"), folder.path().join("authority.key"));
        ok(fabric.authority.pem().write(&cert, &key));
        Self { fabric, folder }
    }

    /// Runs `adit` with what all of its commands here have in common.
    fn run(&self, words: &[&str], environment: &[(&str, &str)]) -> Process {
        self.run_to(NODE, words, environment)
    }

    fn run_to(&self, connect: &str, words: &[&str], environment: &[(&str, &str)]) -> Process {
        // All that is logged, since no level of it may have a password.
        let common = ["--connect", connect, "--server-name", "localhost", "--ca", "authority.pem"];
        let words = [words, &common, &["--log-level", "debug,adit=trace"]].concat();
        Process::start_in(self.folder.path(), &words, environment)
    }

    async fn serves(&self, endpoint: &str) {
        let edge = self.fabric.addresses.edge;
        eventually("it is served", async || get(edge, endpoint, "/").await.status == StatusCode::OK).await;
    }
}

fn keeps_secrets(process: &Process) {
    for secret in SECRETS {
        assert_eq!(process.logged(secret), [""; 0]);
    }
}

/// The command line as every user of the host sees it.
#[cfg(target_os = "linux")]
fn seen(process: &Process) -> String {
    let line = ok(fs::read(format!("/proc/{}/cmdline", process.id())));
    String::from_utf8_lossy(&line).into_owned()
}

#[tokio::test]
async fn an_agent_and_a_forwarder_link_through_a_proxy_that_wants_a_password() {
    let setting = Setting::start().await;
    let proxy = Proxy::start(Does::Leads(setting.fabric.addresses.link), Some(BASIC)).await;
    let url = format!("http://user:open%40sesame@{}", proxy.address);
    let (web, count) = (service::mirror().await, service::count().await);
    let agent = setting.run(&["agent", "http", "web", &web.address.to_string(), "--proxy", &url], &[]);
    setting.serves("web").await;

    let _agent = setting.fabric.agent("tcp", Kind::Tcp, count.address).await;
    let forwarder = setting.run(&["forward", "tcp", "127.0.0.1:0", "tcp"], &[("ADIT_PROXY", &url)]);
    let line = forwarder.line_with("tcp ");
    let port = line.split_whitespace().nth(1).expect("an address follows");
    assert_counted(ok(TcpStream::connect(port).await), 1 << 20).await;

    for process in [&agent, &forwarder] {
        process.logs(r#""transport":"websocket""#).await;
        keeps_secrets(process);
    }
    #[cfg(target_os = "linux")]
    assert!(!seen(&forwarder).contains("sesame"), "{}", seen(&forwarder));
    let asked = proxy.asked();
    assert!(asked.len() >= 2, "{asked:?}");
    assert!(asked.contains(&format!("CONNECT {NODE} HTTP/1.1")), "{asked:?}");
}

#[tokio::test]
async fn the_environment_names_the_proxy_and_the_hosts_that_need_none() {
    let setting = Setting::start().await;
    let link = setting.fabric.addresses.link;
    let used = Proxy::start(Does::Leads(link), Some(BASIC)).await;
    let url = format!("http://user:open%40sesame@{}", used.address);
    let served = service::mirror().await;
    let line = ["agent", "http", "proxied", &served.address.to_string()];
    let agent = setting.run(&line, &[("HTTPS_PROXY", &url), ("NO_PROXY", "example.com,10.0.0.1")]);
    setting.serves("proxied").await;
    keeps_secrets(&agent);
    assert!(!used.asked().is_empty());

    let unused = Proxy::start(Does::Answers(403), None).await;
    let url = format!("http://{}", unused.address);
    let line = ["agent", "http", "direct", &served.address.to_string(), "--transport", "websocket"];
    let variables = [("https_proxy", url.as_str()), ("no_proxy", "example.com, 127.0.0.1")];
    let _agent = setting.run_to(&link.to_string(), &line, &variables);
    setting.serves("direct").await;
    assert_eq!(unused.asked(), [""; 0]);
}

#[tokio::test]
async fn what_is_wrong_at_a_proxy_is_logged_with_its_cure() {
    let setting = Setting::start().await;
    let link = setting.fabric.addresses.link;
    let picky = Proxy::start(Does::Leads(link), Some(BASIC)).await;
    let strict = Proxy::start(Does::Answers(403), None).await;
    let (picky, strict, nobody) = (picky.address, strict.address, service::refusing());
    let told = async |proxy: SocketAddr, user: &str| {
        let url = format!("http://{user}{proxy}");
        let line = ["agent", "http", "web", "9", "--proxy", &url, "--transport", "websocket"];
        let agent = setting.run(&line, &[]);
        let line = agent.logs("no link").await;
        assert_eq!(agent.logged("other-secret"), [""; 0]);
        line
    };
    for (proxy, user, text) in [
        (
            picky,
            "",
            format!(
                "the proxy {picky} wants a user and a password (407): --proxy http://USER:PASSWORD@{picky}"
            ),
        ),
        (
            picky,
            "user:other-secret@",
            format!("the proxy {picky} does not take this user and password (407)"),
        ),
        (strict, "", format!("the proxy {strict} makes no connection to {NODE}: it answers 403")),
        (nobody, "user:other-secret@", format!("cannot connect to the proxy {nobody}")),
    ] {
        let line = told(proxy, user).await;
        assert!(line.contains(&text), "{line}");
    }
}

#[tokio::test]
async fn a_proxy_that_cannot_be_used_is_no_place_for_its_password() {
    let setting = Setting::start().await;
    let bad = "socks5://user:open%40sesame@proxy:1080";
    for (name, told) in [("ADIT_PROXY", "--proxy"), ("HTTPS_PROXY", "HTTPS_PROXY")] {
        let mut agent = setting.run(&["agent", "http", "web", "9"], &[(name, bad)]);
        let line = agent.logs(&format!("{told} cannot be used")).await;
        assert!(line.contains("socks5"), "{line}");
        assert_eq!(agent.wait_in_time().await, Some(2));
        keeps_secrets(&agent);
    }
    // QUIC goes past it.
    let web = service::mirror().await.address.to_string();
    let line = ["agent", "http", "web", &web, "--transport", "quic"];
    let link = setting.fabric.addresses.link.to_string();
    setting.run_to(&link, &line, &[("HTTPS_PROXY", bad)]).logs(r#""transport":"quic""#).await;

    let mut help = std::process::Command::new(env!("CARGO_BIN_EXE_adit"));
    help.args(["agent", "http", "--help"]).env("ADIT_PROXY", "http://user:open%40sesame@proxy:3128");
    let help = String::from_utf8_lossy(&output(help).await.stdout).into_owned();
    assert!(help.contains("--proxy") && !help.contains("sesame"), "{help}");
}
