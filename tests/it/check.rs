//! `check`: says what would run, ends as starting would, opens no port and makes no file.

use std::{fs, net::TcpListener, path::Path};

use adit::tls::{Authority, NODE_NAME};

use crate::{
    cli::{adit, output, told},
    support::{fabric::issue, ok},
};

/// What a command tells, without the days on which certificates end.
fn tells(folder: &Path, words: &str) -> String {
    let told = told(&output(&mut adit(folder, &words.split(' ').collect::<Vec<_>>())));
    let days = |line: &str| match line.split_once(", until ") {
        Some((before, _)) => format!("{before}, until DAY"),
        None => line.to_owned(),
    };
    let lines: Vec<_> = told.lines().map(days).collect();
    format!("$ adit {words}\n{}\n\n", lines.join("\n"))
}

fn files(folder: &Path) -> Vec<String> {
    let entries = ok(fs::read_dir(folder));
    let mut names: Vec<_> =
        entries.map(|entry| ok(entry).file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_would_run_is_told_in_a_few_lines() {
    let folder = ok(tempfile::tempdir());
    let file = |name: &str| folder.path().join(name);
    let authority = ok(Authority::generate("test authority"));
    ok(authority.pem().write(&file("ca.pem"), &file("ca.key")));
    issue(&authority, &["a.example", "b.example"], &file("edge.pem"), &file("edge.key"));
    issue(&authority, &["n1.example", &format!("{NODE_NAME}n1")], &file("node.pem"), &file("node.key"));
    ok(fs::write(file("secret"), "hunter2hunter2hunter2hunter2hunter2"));
    // What is taken is not looked at.
    let taken = ok(TcpListener::bind("127.0.0.1:0"));
    let node = format!(
        "node-id = 'n1'\ncerts = '.'\nedge-bind = '{}'\nedge-tls-bind = '127.0.0.1:8443'\nedge-cert = 'edge.pem'\n\
         edge-key = 'edge.key'\nedge-client-ca = 'ca.pem'\nadmin-auth-key-file = 'secret'\n\
         link-auth-key-file = 'secret'\nlink-client-ca = 'ca.pem'\ntcp = '5432=db'\nudp = '127.0.0.1:53=dns'\n",
        ok(taken.local_addr())
    );
    ok(fs::write(file("node.toml"), node));
    let agent = "connect = 'https://node.example.com/base'\ntoken = 'hunter2'\ninspect = 4040\nadmin-bind = 8005\n[[endpoint]]\nname = 'web'\naddress = 3000\n\
                 basic-auth = ['ann:hunter2']\n[[endpoint]]\nname = 'db'\nkind = 'tcp'\naddress = 'tls://db:5432'\n\
                 upstream-ca = 'ca.pem'\n";
    ok(fs::write(file("agent.toml"), agent));
    ok(fs::write(file("forward.toml"), "[[port]]\nlisten = 5432\nendpoint = 'db'\ntransport = 'quic'\n"));
    ok(fs::write(file("forward.toml"), "transport = 'quic'\n[[port]]\nlisten = 5432\nendpoint = 'db'\n"));
    let before = files(folder.path());
    let all: String = [
        "node check --config node.toml",
        "agent check --config agent.toml",
        "forward check --config forward.toml",
    ]
    .map(|words| tells(folder.path(), words))
    .concat();
    assert_eq!(files(folder.path()), before);
    insta::assert_snapshot!(all.replace(&ok(taken.local_addr()).to_string(), "EDGE"));
}

#[test]
fn certificates_that_starting_would_make_are_told_and_not_made() {
    let folder = ok(tempfile::tempdir());
    let told = tells(folder.path(), "node check --join other:8003 --edge-tls-bind 127.0.0.1:0");
    let made: Vec<_> = told.lines().filter(|line| line.starts_with("make")).collect();
    let file = |name: &str| format!("make   certs/{name}, for development: it is not there yet");
    assert_eq!(made, ["ca.key", "ca.pem", "node.key", "node.pem"].map(file), "{told}");
    assert!(told.contains("\npeer   quic://") && told.ends_with("exit code 0\n\n"), "{told}");
    assert_eq!(files(folder.path()), [""; 0]);
}

#[test]
fn a_check_ends_as_starting_would() {
    let folder = ok(tempfile::tempdir());
    let file = |name: &str| folder.path().join(name);
    let (authority, other) = (ok(Authority::generate("one")), ok(Authority::generate("other")));
    issue(&authority, &["a.example"], &file("a.pem"), &file("a.key"));
    issue(&other, &["a.example"], &file("b.pem"), &file("b.key"));
    ok(fs::create_dir(file("half")));
    ok(fs::copy(file("a.pem"), file("half/node.pem")));
    ok(fs::write(file("text"), "no PEM\n"));
    ok(fs::write(file("unknown.toml"), "edge-bnd = '127.0.0.1:0'\nconect = 'a:1'\n"));
    ok(fs::write(file("tenants.toml"), "[acme]\nkey-file = 'absent'\n"));
    ok(fs::write(
        file("twice.toml"),
        "endpoint = [{ name = 'a', address = 1 }, { name = 'a', address = 2 }]\n",
    ));
    ok(fs::write(
        file("tls.toml"),
        "[[endpoint]]\nname = 'a'\naddress = 'tls://db:1'\nupstream-ca = 'text'\n",
    ));
    let long = "x".repeat(1000);
    ok(fs::write(file("long.toml"), format!("name = '{long}'\n[[endpoint]]\nname = 'a'\naddress = 1\n")));
    let mut told_all = String::new();
    for (run, check) in
        [("node", "node check"), ("agent run", "agent check"), ("forward run", "forward check")]
    {
        let all: &[&str] = match run {
            "node" => &[
                "--config unknown.toml",
                "--config absent.toml",
                "--certs half",
                "--link-cert a.pem --link-key b.key",
                "--link-cert a.pem",
                "--edge-tls-bind 127.0.0.1:0 --edge-cert text --edge-key a.key",
                "--join other:8003 --peer-ca b.pem --peer-cert a.pem --peer-key a.key --node-id n1",
                "--host a.example=web --host A.example=other",
                "--link-bind 0.0.0.0:0",
                "--tenants tenants.toml",
                "--edge-auth-issuer us",
                "--log-level a=b=c",
            ],
            "agent run" => &[
                "--config unknown.toml",
                "--config twice.toml",
                "--config tls.toml",
                "--config twice.toml --cert a.pem",
                "--config long.toml",
            ],
            _ => &["--config unknown.toml", "--config twice.toml"],
        };
        for flags in all {
            let run = tells(folder.path(), &format!("{run} {flags}"));
            let checked = tells(folder.path(), &format!("{check} {flags}"));
            let without_line = |told: &str| told.lines().skip(1).collect::<Vec<_>>().join("\n");
            assert_eq!(without_line(&checked), without_line(&run), "{flags}");
            assert!(checked.contains("exit code 2"), "{checked}");
            told_all += &checked;
        }
    }
    insta::assert_snapshot!(told_all.replace(&long, "LONG"));
}
