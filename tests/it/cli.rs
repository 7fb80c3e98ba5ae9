//! The command line: what it says of itself, how it takes its configuration, and how it fails.
//!
//! Everything but the layers is tested on the real program, started in a folder of its own without any `ADIT_` variable.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    net::{TcpListener, UdpSocket},
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::{Duration, SystemTime},
};

use adit::{
    agent::{HttpOptions, Rewrite},
    auth::{self, Action, Grant, Keys, Rules, Tenants, Verifier},
    config::{self, NodeArgs, ParseError, RunAgentArgs},
    protocol::TenantId,
};
use clap::Parser;
use http::HeaderValue;

use crate::support::{process::Process, service::refusing};

/// The program, in `folder`, with logs of errors alone.
pub(crate) fn adit(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ADIT_") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).env_remove("COLUMNS").env("ADIT_LOG_LEVEL", "error").args(words);
    command
}

pub(crate) fn output(command: &mut Command) -> Output {
    command.output().expect("the program can be started")
}

/// The exit code and all that was printed.
pub(crate) fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let code = output.status.code().map_or_else(|| "none".into(), |code| code.to_string());
    format!("{}{}\nexit code {code}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn help_of_every_command_fits_80_columns_and_is_as_reviewed() {
    let folder = tempfile::tempdir().unwrap();
    for (name, words) in [
        ("help", vec![]),
        ("help_demo", vec!["demo"]),
        ("help_node", vec!["node"]),
        ("help_node_check", vec!["node", "check"]),
        ("help_agent", vec!["agent"]),
        ("help_agent_http", vec!["agent", "http"]),
        ("help_agent_tcp", vec!["agent", "tcp"]),
        ("help_agent_udp", vec!["agent", "udp"]),
        ("help_agent_run", vec!["agent", "run"]),
        ("help_agent_check", vec!["agent", "check"]),
        ("help_forward", vec!["forward"]),
        ("help_forward_tcp", vec!["forward", "tcp"]),
        ("help_forward_udp", vec!["forward", "udp"]),
        ("help_forward_run", vec!["forward", "run"]),
        ("help_forward_check", vec!["forward", "check"]),
        ("help_bench", vec!["bench"]),
        ("help_bench_http", vec!["bench", "http"]),
        ("help_bench_tcp", vec!["bench", "tcp"]),
        ("help_bench_connect", vec!["bench", "connect"]),
        ("help_bench_udp", vec!["bench", "udp"]),
        ("help_bench_idle", vec!["bench", "idle"]),
        ("help_bench_failover", vec!["bench", "failover"]),
        ("help_bench_cluster", vec!["bench", "cluster"]),
        ("help_bench_compare", vec!["bench", "compare"]),
        ("help_status", vec!["status"]),
        ("help_status_flows", vec!["status", "flows"]),
        ("help_status_node", vec!["status", "node"]),
        ("help_top", vec!["top"]),
        ("help_certs", vec!["certs"]),
        ("help_token", vec!["token"]),
        ("help_token_key", vec!["token", "key"]),
        ("help_completions", vec!["completions"]),
    ] {
        let mut command = adit(folder.path(), &words);
        // Its default is shown, as the environment would set it.
        let output = output(command.env_remove("ADIT_LOG_LEVEL").arg("--help"));
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{name}");
        let longest = help.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(80), "{name} has {longest:?} columns:\n{help}");
        insta::assert_snapshot!(name, help);
    }
}

#[test]
fn no_command_and_unknown_commands_are_usage_errors() {
    let folder = tempfile::tempdir().unwrap();
    for words in [&[][..], &["agent"], &["nod"], &["node", "--edge-bnd", "127.0.0.1:0"], &["agent", "run"]] {
        assert_eq!(output(&mut adit(folder.path(), words)).status.code(), Some(2), "{words:?}");
    }
    let version = output(&mut adit(folder.path(), &["--version"]));
    assert_eq!(told(&version), format!("adit {}\nexit code 0", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_are_printed_for_every_shell() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = output(&mut adit(folder.path(), &["completions", shell]));
        assert!(output.status.success() && told(&output).contains("edge-bind"), "{shell}");
    }
}

/// Runs each line, with `FILE` written first, and gives what was told.
fn mistakes(lines: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("text.pem"), "this is no PEM\n").unwrap();
    let cut = "-----BEGIN CERTIFICATE-----\nMIIB!\n-----END CERTIFICATE-----\n";
    fs::write(folder.path().join("damaged.pem"), cut).unwrap();
    let mut all = String::new();
    for (line, file) in lines {
        fs::write(folder.path().join("adit.toml"), file).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        all += &format!("$ adit {line}\n");
        for line in file.lines() {
            all += &format!("> {line}\n");
        }
        all += &format!("{}\n\n", told(&output(&mut adit(folder.path(), &words))));
    }
    all
}

#[test]
fn mistakes_on_the_line_name_the_thing_and_the_fix() {
    let told = mistakes(&[
        ("agent http web 3000 --cert cert.pem", ""),
        ("agent http web 3000 --key key.pem", ""),
        ("agent http web 3000 --ca absent.pem", ""),
        ("agent http web 3000 --ca text.pem", ""),
        ("agent http web 3000 --ca damaged.pem", ""),
        ("agent http web 3000 --insecure --ca text.pem", ""),
        ("agent http web/site 3000", ""),
        ("agent http web ftp://host", ""),
        ("agent http web http://host/path", ""),
        ("agent http web 3000 --upstream-ca text.pem", ""),
        ("agent http web 3000 --header x-tenant:7", ""),
        ("agent http web 3000 --header host=app", ""),
        ("agent http web 3000 --strip-header Transfer-Encoding", ""),
        ("agent http web 3000 --host-header http://app", ""),
        ("agent http web 3000 --response-header-timeout 0s", ""),
        ("agent http web 3000 --inspect 0.0.0.0:4040", ""),
        ("agent http web 3000 --inspect localhost:4040", ""),
        ("agent http web 3000 --insecure --inspect 4040 --h2c", ""),
        ("agent tcp web 3000 --access-log", ""),
        ("agent tcp web 3000 --pin sha256:abcd", ""),
        ("agent tcp web 3000 --pin abcd", ""),
        ("agent tcp web 3000 --connect localhost", ""),
        ("agent tcp web 3000 --server-name node:8001", ""),
        ("agent tcp web 3000 --keep-alive 10s", ""),
        ("agent tcp web 3000 --keep-alive 5", ""),
        ("forward tcp 70000 db", ""),
        ("agent udp dns tls://host:53", ""),
        ("node --udp 53=dns", ""),
        ("node --udp 127.0.0.1:53=d/n/s", ""),
        ("node --edge-bind localhost:8000", ""),
        ("node --edge-cert text.pem --edge-tls-bind 127.0.0.1:0", ""),
        ("node --edge-cert text.pem --edge-key text.pem", ""),
        ("node --link-cert text.pem", ""),
        ("node --link-cert text.pem --link-key text.pem", ""),
        ("node --node-id a/b", ""),
        ("node --tcp 5432", ""),
        ("node --tcp localhost:5432=db", ""),
        ("node --tcp 5432=d/b/c", ""),
        ("node --host app.customer.com", ""),
        ("node --host https://app.customer.com=web", ""),
        ("node --host a.example=web --host A.example=other", ""),
        ("agent http web 3000 --host 10.0.0.1", ""),
        ("agent http web 3000 --proxy-protocol 2", ""),
        ("node --edge-proxy-protocol balancer", ""),
        ("node --limit client.endpoints=5", ""),
        ("node --limit requests=5", ""),
        ("node --limit client.requests=none", ""),
        ("node --limit client.requests=0", ""),
        ("node --limit tenant.bytes=10mb", ""),
        ("node --limit client.flows=5 --limit client.flows=6", ""),
        ("node --config absent.toml", ""),
        ("certs show absent.pem", ""),
        ("token", ""),
        ("token --key absent.key", ""),
        ("token --key text.pem", ""),
        ("token --key damaged.pem", ""),
        ("token --secret hunter2", ""),
        ("token --secret hunter2 --key text.pem", ""),
        ("token --secret base64:?", ""),
        ("token --secret 0123456789abcdef0123456789abcdef --alg ES256", ""),
        ("token --secret 0123456789abcdef0123456789abcdef --alg none", ""),
        ("token --secret 0123456789abcdef0123456789abcdef --expires 0s", ""),
        ("token --secret 0123456789abcdef0123456789abcdef --endpoint we*b", ""),
        ("token --secret 0123456789abcdef0123456789abcdef --action delete", ""),
        ("token --secret 0123456789abcdef0123456789abcdef --tenant a/b", ""),
        ("token --secret 0123456789abcdef0123456789abcdef --tenant a --tenant *", ""),
        ("token key", ""),
        ("token key --out . --name a/b", ""),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn a_key_is_made_once_and_its_tokens_are_verified_with_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &str| output(&mut adit(folder.path(), &words.split(' ').collect::<Vec<_>>()));
    for (algorithm, public) in [("EdDSA", "pub"), ("ES512", "pub"), ("HS256", "key")] {
        let make = format!("token key --out keys --name {algorithm} --alg {algorithm}");
        assert!(run(&make).status.success(), "{algorithm}");
        let path = |extension: &str| folder.path().join(format!("keys/{algorithm}.{extension}"));
        let before = fs::read(path("key")).unwrap();
        let again = told(&run(&make));
        assert!(again.contains("is not overwritten") && again.ends_with("exit code 2"), "{again}");
        assert_eq!(fs::read(path("key")).unwrap(), before);
        #[cfg(unix)]
        for (extension, private) in [("key", true), ("jwks.json", algorithm == "HS256")] {
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &fs::metadata(path(extension)).unwrap().permissions(),
            );
            assert_eq!(mode & 0o077 == 0, private, "{algorithm} {extension}");
        }
        let line = format!(
            "token --key keys/{algorithm}.key --endpoint web --action connect --tenant acme --host *.acme.org --audience edge \
             --audience other --issuer us --subject ann --expires 5m"
        );
        let made = run(&line);
        assert!(made.status.success() && made.stderr.is_empty(), "{}", told(&made));
        let token = String::from_utf8(made.stdout).unwrap();
        let rules = Rules {
            issuers: vec!["us".into()],
            audiences: vec!["edge".into()],
            skew: Duration::ZERO,
            ..Rules::default()
        };
        for file in [path(public), path("jwks.json")] {
            let keys = Keys::Fixed(Arc::new(auth::load_keys(&file).unwrap()));
            let now = SystemTime::now();
            let grant = Verifier::new(keys, rules.clone()).verify(token.trim_end(), now).unwrap();
            assert_eq!(grant.subject.as_deref(), Some("ann"));
            assert_eq!(grant.tenant(None).unwrap().as_str(), "acme");
            assert_eq!(grant.actions, [Action::Connect].into());
            assert!(grant.permits(Action::Connect, &"web".parse().unwrap()).is_ok());
            assert!(grant.permits(Action::Connect, &"db".parse().unwrap()).is_err());
            assert!(grant.permits_host(&"www.acme.org".parse().unwrap()).is_ok());
            assert!(grant.permits_host(&"acme.org".parse().unwrap()).is_err());
            let left = grant.expires.unwrap().duration_since(now).unwrap();
            assert!(left <= Duration::from_secs(300) && left > Duration::from_secs(200), "{left:?}");
        }
    }
    let keys = auth::read_keys(b"0123456789abcdef0123456789abcdef").unwrap();
    let verifier = Verifier::new(Keys::Fixed(Arc::new(keys)), Rules::default());
    let some = ["acme", "other"].map(|name| TenantId::new(name).unwrap());
    for (more, tenants) in [
        ("", Tenants::default()),
        (" --tenant acme --tenant other", Tenants::Some(some.to_vec())),
        (" --tenant *", Tenants::Any),
    ] {
        let secret =
            format!("token --secret 0123456789abcdef0123456789abcdef --expires never --kid one{more}");
        let token = String::from_utf8(run(&secret).stdout).unwrap();
        let grant = verifier.verify(token.trim_end(), SystemTime::now()).unwrap();
        assert_eq!(grant.tenants, tenants, "{more}");
        assert!(!more.is_empty() || grant == Grant::default());
    }
}

#[test]
fn mistakes_in_the_file_name_the_file_and_the_key() {
    let told = mistakes(&[
        ("node --config adit.toml", "edge-bnd = \"127.0.0.1:0\""),
        ("node --config adit.toml", "edge_bind = \"localhost\""),
        ("node --config adit.toml", "request-timeout = 30"),
        ("node --config adit.toml", "max-body-bytes = \"1 MiB\""),
        ("node --config adit.toml", "limit = [\"client.flows=5\", \"agent.links=2\"]"),
        ("node --config adit.toml", "admin-bind = [\"127.0.0.1:0\"]"),
        ("node --config adit.toml", "tcp = [\"5432=db\", \"db\"]"),
        ("node --config adit.toml", "node-id = \"n1\"\nedge-bind 127.0.0.1:0"),
        ("node --config adit.toml", "config = \"other.toml\""),
        ("node --config adit.toml", "log-format = \"xml\""),
        ("agent run --config adit.toml", "connect = \"127.0.0.1:8001\""),
        ("agent run --config adit.toml", "insecure = \"yes\"\n[[endpoint]]\nname = \"web\"\naddress = 3000"),
        ("agent run --config adit.toml", "[[endpoint]]\nname = \"web\""),
        ("agent run --config adit.toml", "[[endpoint]]\nname = \"web\"\nadress = 3000"),
        ("agent run --config adit.toml", "[[endpoint]]\nname = \"web\"\naddress = 3000\nkind = \"sctp\""),
        (
            "agent run --config adit.toml",
            "[[endpoint]]\nname = \"dns\"\naddress = 53\nkind = \"udp\"\nhealth-check = \"tcp\"",
        ),
        (
            "agent run --config adit.toml",
            "[[endpoint]]\nname = \"dns\"\naddress = 53\nkind = \"udp\"\nproxy-protocol = \"v2\"",
        ),
        (
            "agent run --config adit.toml",
            "[[endpoint]]\nname = \"db\"\nkind = \"tcp\"\naddress = 5432\nstrip-header = \"cookie\"",
        ),
        (
            "agent run --config adit.toml",
            "[[endpoint]]\nname = \"web\"\naddress = 3000\nheader = [\"x-tenant=7\", \"te=trailers\"]",
        ),
        (
            "agent run --config adit.toml",
            "[[endpoint]]\nname = \"a\"\naddress = 3000\n[[endpoint]]\nname = \"a b\"\naddress = 3000",
        ),
        (
            "agent run --config adit.toml",
            "[[endpoint]]\nname = \"a\"\naddress = 3000\n[[endpoint]]\nname = \"A\"\naddress = 3001",
        ),
        ("forward run --config adit.toml", "connect = \"127.0.0.1:8001\""),
        ("forward run --config adit.toml", "[[port]]\nlisten = 5432\nendpoint = \"d b\""),
        ("forward run --config adit.toml", "[[port]]\nlisten = 53\nendpoint = \"dns\"\nkind = \"sctp\""),
        ("forward run --config adit.toml", "[[port]]\nlisten = 53\nendpoint = \"dns\"\nudp-idle = \"5\""),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let folder = tempfile::tempdir().unwrap();
    let output = output(adit(folder.path(), &["node"]).env("ADIT_REQUEST_TIMEOUT", "30"));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        told(&output).starts_with("adit: ADIT_REQUEST_TIMEOUT in the environment: \"30\""),
        "{}",
        told(&output)
    );
}

#[test]
fn a_taken_port_is_named_with_its_flag() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let taken_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken_udp = taken_udp.local_addr().unwrap().to_string();
    for (flag, port) in [("--edge-bind", &taken), ("--admin-bind", &taken), ("--link-bind", &taken_udp)] {
        for command in ["node", "demo"] {
            let mut words = vec![command];
            if command == "node" {
                words.extend(["--peer-bind", "127.0.0.1:0"]);
            }
            for bind in ["--edge-bind", "--link-bind", "--admin-bind"] {
                words.extend([bind, if bind == flag { port } else { "127.0.0.1:0" }]);
            }
            let output = output(&mut adit(folder.path(), &words));
            let told = told(&output);
            assert_eq!(output.status.code(), Some(2), "{told}");
            assert!(told.contains(port) && told.contains(flag) && told.contains("another port"), "{told}");
        }
    }
    let (tcp, udp) = (format!("{taken}=db"), format!("{taken_udp}=dns"));
    let free =
        ["--edge-bind", "--link-bind", "--admin-bind", "--peer-bind"].map(|bind| [bind, "127.0.0.1:0"]);
    let node = |flag, port| [&["node", flag, port], free.as_flattened()].concat();
    for (words, port) in [
        (node("--tcp", &tcp), &taken),
        (node("--udp", &udp), &taken_udp),
        (vec!["forward", "tcp", &taken, "db"], &taken),
        (vec!["forward", "udp", &taken_udp, "db"], &taken_udp),
    ] {
        let output = output(&mut adit(folder.path(), &words));
        let told = told(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(port.as_str()) && told.contains("another port"), "{told}");
    }
}

#[test]
fn status_says_when_no_node_answers() {
    let folder = tempfile::tempdir().unwrap();
    let free = refusing().to_string();
    let output = output(&mut adit(folder.path(), &["status", "--admin", &free]));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told(&output).contains("is a node running") && told(&output).contains(&free),
        "{}",
        told(&output)
    );
}

#[tokio::test]
async fn status_shows_its_token_and_says_why_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &[&str], variables: &[(&str, &str)]| {
        let mut command = adit(folder.path(), words);
        told(&output(command.envs(variables.iter().copied())))
    };
    run(&["token", "key", "--out", "keys"], &[]);
    let token = run(&["token", "--key", "keys/token.key"], &[]);
    let token = token.strip_suffix("\nexit code 0").unwrap();
    fs::write(folder.path().join("token"), format!("{token}\n")).unwrap();
    let binds =
        ["--edge-bind", "--link-bind", "--admin-bind", "--peer-bind"].map(|bind| [bind, "127.0.0.1:0"]);
    let key = ["--admin-auth-key-file", "keys/token.pub"];
    let node = Process::start(folder.path(), &[&["node"], binds.as_flattened(), &key[..]].concat());
    let admin = node.address("admin").to_string();
    let status = ["status", "--admin", &admin];
    let with_file = [&status[..], &["--token-file", "token"]].concat();
    for told in [run(&with_file, &[]), run(&status, &[("ADIT_TOKEN", token)])] {
        assert!(told.contains("ready") && told.ends_with("exit code 0"), "{told}");
    }
    let refused = run(&status, &[]);
    assert!(refused.contains("401") && refused.contains("no token was given"), "{refused}");
    let both = run(&with_file, &[("ADIT_TOKEN", token)]);
    assert!(both.contains("exclude each other"), "{both}");
}

#[test]
fn a_node_does_not_let_in_without_credentials_whom_that_was_not_meant_for() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |words: &[&str]| {
        let output = output(&mut adit(folder.path(), &[&["node"], words].concat()));
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        told(&output)
    };
    let secret = "a secret of thirty-two bytes or more";
    let link = refused(&["--link-bind", "0.0.0.0:0"]);
    assert!(link.contains("--link-auth-key-file") && link.contains("--allow-anonymous"), "{link}");
    let sni = refused(&["--edge-auth-key", secret, "--edge-sni-bind", "127.0.0.1:0"]);
    assert!(
        sni.contains("--edge-sni-bind") && sni.contains("--allow-anonymous") && !sni.contains(secret),
        "{sni}"
    );
    let plain = refused(&["--edge-client-ca", "ca.pem"]);
    assert!(plain.contains("ca.pem cannot be read") || plain.contains("--edge-tls-bind"), "{plain}");
    // Each is what it says: with the word, or with credentials, the node is configured.
    for words in [
        &["--link-bind", "0.0.0.0:0", "--allow-anonymous"][..],
        &["--link-bind", "0.0.0.0:0", "--link-auth-key", secret],
        &["--edge-auth-key", secret, "--edge-sni-bind", "127.0.0.1:0", "--allow-anonymous"],
    ] {
        node(folder.path(), words, &[]);
    }
}

#[test]
fn the_demo_carries_traffic_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let free = "127.0.0.1:0";
    let words = ["demo", "--edge-bind", free, "--link-bind", free, "--admin-bind", free, "--exit"];
    let output = output(&mut adit(folder.path(), &words));
    let told = told(&output);
    assert!(output.status.success(), "{told}");
    assert_eq!(told.matches("\nok ").count(), 6, "{told}");
}

#[derive(Debug, Parser)]
struct NodeLine {
    #[command(flatten)]
    node: NodeArgs,
}

/// The node that a line makes, with these variables. Its certificates are in `folder`.
fn node(folder: &Path, words: &[&str], variables: &[(&str, &str)]) -> adit::node::Config {
    let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
    let certs = format!("--certs={}", folder.join("certs").display());
    let line = ["adit", &certs].into_iter().chain(words.iter().copied()).map(OsString::from);
    let line: NodeLine = config::parse(line, |name| variables.get(name).map(OsString::from), &[]).unwrap();
    line.node.into_config().unwrap()
}

#[test]
fn flags_beat_the_environment_which_beats_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("adit.toml");
    fs::write(
        &file,
        "request-timeout = \"3s\"\nnode_id = \"file\"\ngrace-period = \"3s\"\nidle-timeout = \"30s\"",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let variables = [("ADIT_CONFIG", file), ("ADIT_NODE_ID", "variable"), ("ADIT_GRACE_PERIOD", "2s")];
    let node = node(folder.path(), &["--grace-period=1s"], &variables);
    assert_eq!(node.grace_period, Duration::from_secs(1), "the flag, over the variable and the file");
    assert_eq!(node.node.as_str(), "variable", "the variable, over the file");
    assert_eq!(node.edge.limits.request_timeout, Duration::from_secs(3), "the file, over the default");
    assert_eq!(node.link.settings.idle_timeout, Duration::from_secs(30), "the file, over the default");
    assert_eq!(node.link.settings.keep_alive, Duration::from_secs(5), "the default");
    assert_eq!(node.cluster, "adit", "the default");
}

#[test]
fn lists_are_lists_in_the_file_and_commas_in_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    node(folder.path(), &[], &[]);
    let file = folder.path().join("adit.toml");
    let certs = folder.path().join("certs");
    let (cert, key) = (certs.join("node.pem"), certs.join("node.key"));
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    fs::write(
        &file,
        format!(
            "edge-tls-bind = '127.0.0.1:0'\nedge-cert = ['{cert}', '{cert}']\nedge-key = ['{key}', '{key}']"
        ),
    )
    .unwrap();
    let file = format!("--config={}", file.display());
    let identities = |node: adit::node::Config| node.edge.tls.unwrap().identities.len();
    assert_eq!(identities(node(folder.path(), &[&file], &[])), 2);
    let (certs, keys) = (format!("{cert},{cert},{cert}"), format!("{key},{key},{key}"));
    let variables = [("ADIT_EDGE_CERT", certs.as_str()), ("ADIT_EDGE_KEY", keys.as_str())];
    assert_eq!(identities(node(folder.path(), &[&file], &variables)), 3);
    let one = [file.as_str(), "--edge-cert", cert, "--edge-key", key];
    assert_eq!(identities(node(folder.path(), &one, &variables)), 1);
    let balancers = [("ADIT_EDGE_PROXY_PROTOCOL", "10.0.0.0/8, 2001:db8::1")];
    let balancers = node(folder.path(), &[], &balancers).edge.balancers;
    let balancers: Vec<_> = balancers.iter().map(ToString::to_string).collect();
    assert_eq!(balancers, ["10.0.0.0/8", "2001:db8::1/128"]);
    let hosts = node(folder.path(), &[], &[("ADIT_HOST", "a.example=web, *.a.example=other")]).hosts;
    let hosts: Vec<_> = hosts.iter().map(|(host, endpoint)| format!("{host} {endpoint}")).collect();
    assert_eq!(hosts, ["*.a.example other", "a.example web"]);
}

#[derive(Debug, Parser)]
struct AgentLine {
    #[command(flatten)]
    agent: RunAgentArgs,
}

#[test]
fn endpoints_of_the_file_are_read_as_their_command_would() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    fs::write(
        &file,
        "insecure = true\nkeep-alive = '1s'\nconnect = 'node.example:1'\n\
         [[endpoint]]\nname = 'Web'\naddress = 3000\nhost = ['App.customer.com', '*.customer.com']\n\
         [[endpoint]]\nname = 'db'\nkind = 'tcp'\naddress = 'tls://[::1]:5432'\nupstream_insecure = true\n",
    )
    .unwrap();
    let words = ["adit", "--config", file.to_str().unwrap()].map(OsString::from);
    let line: AgentLine = config::parse(words, |_| None, &[]).unwrap();
    let config = line.agent.into_config().unwrap();
    let shown = config
        .endpoints
        .iter()
        .map(|endpoint| format!("{} {:?} {}", endpoint.name, endpoint.kind, endpoint.service));
    assert_eq!(shown.collect::<Vec<_>>(), ["web Http 127.0.0.1:3000", "db Tcp tls://[::1]:5432"]);
    let hosts = config.endpoints[0].hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(hosts, ["app.customer.com", "*.customer.com"]);
    assert_eq!(config.client.connect.to_string(), "node.example:1");
    assert_eq!(config.client.settings.keep_alive, Duration::from_secs(1));
}

#[test]
fn options_for_requests_are_keys_of_an_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    fs::write(
        &file,
        "insecure = true\n[[endpoint]]\nname = 'plain'\naddress = 3000\n[[endpoint]]\nname = 'web'\n\
         address = 'http://app'\nhost-header = 'service'\nheader = ['x-a=1,2', 'x-b=3']\nstrip_header = 'cookie'\n\
         access-log = true\nresponse-header-timeout = '5s'\n",
    )
    .unwrap();
    let words = ["adit", "--config", file.to_str().unwrap()].map(OsString::from);
    let line: AgentLine = config::parse(words, |_| None, &[]).unwrap();
    let config = line.agent.into_config().unwrap();
    assert_eq!(config.endpoints[0].http, None, "nothing to look at");
    let rewrite = Rewrite {
        strip: vec!["cookie".parse().unwrap()],
        set: vec!["x-a=1,2".parse().unwrap(), "x-b=3".parse().unwrap()],
        host: Some(HeaderValue::from_static("app")),
    };
    let response_timeout = Some(Duration::from_secs(5));
    let options = HttpOptions { rewrite, access_log: true, response_timeout };
    assert_eq!(config.endpoints[1].http, Some(options));
}

#[test]
fn a_header_of_the_environment_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = adit(folder.path(), &["agent", "http", "--help"]);
    let help = told(&output(command.env("ADIT_HEADER", "authorization=hunter2")));
    assert!(help.contains("--header <NAME=VALUE>") && !help.contains("hunter2"), "{help}");
}

#[test]
fn a_token_of_the_environment_is_never_shown() {
    let variable = |name: &str| (name == "ADIT_TOKEN").then(|| OsString::from("hunter2"));
    let help = ["adit", "--help"].map(OsString::from);
    let Err(ParseError::Line(help)) = config::parse::<AgentLine>(help, variable, &[]) else {
        panic!("help is no configuration");
    };
    assert!(help.to_string().contains("--token") && !help.to_string().contains("hunter2"), "{help}");
    let line: AgentLine =
        config::parse(["adit", "--config=/dev/null"].map(OsString::from), variable, &[]).unwrap();
    assert!(!format!("{line:?}").contains("hunter2"), "{line:?}");
}
