//! `adit top`, on a terminal of its own: what it shows, what it does when the node is gone, and how it leaves the terminal.

use adit::{client, protocol::Kind};

use crate::{
    cli::{adit, told},
    support::{
        Fabric,
        client::get,
        cluster::Nodes,
        eventually, ok,
        program::{output, tool},
        service, soon,
        terminal::Terminal,
        tokens::{Issuer, in_seconds},
    },
};

const SIZE: (u16, u16) = (120, 20);

/// The first number in what follows a name on the screen.
fn number_after(screen: &Terminal, name: &str) -> Option<f64> {
    let line = screen.lines().into_iter().find(|line| line.trim_start().starts_with(name))?;
    line.trim_start()[name.len()..].split_whitespace().next()?.replace(',', "").parse().ok()
}

#[tokio::test]
async fn the_cluster_is_shown_as_it_moves_and_says_so_when_the_node_is_gone() {
    if tool("setsid").is_none() {
        return;
    }
    let mut nodes = Nodes::start(2).await;
    let service = service::mirror().await;
    let named = |name: &str| client::Config { links: 1, name: Some(name.into()), ..nodes.all[0].client() };
    let serve = |name: &str| {
        nodes.all[0].start_agent(named("lap\u{1b}[2Jtop"), &[(name, Kind::Http, service.address.to_string())])
    };
    let agents = [serve("web"), serve("quiet")];
    for agent in &agents {
        ok(soon(agent.serve()).await);
    }
    let admin = nodes.all[0].addresses.admin.to_string();
    let mut screen = Terminal::start(SIZE, &["top", "--admin", &admin], &[]);
    let before = screen.modes();
    screen.shows("node n1 of cluster test").await;
    screen.shows("n1 (this)").await;
    assert_ne!(screen.modes(), before, "it draws on a screen of its own");
    screen.until("both nodes", |screen| screen.with("ready").len() == 2).await;
    // Escape sequences of others' choosing are text that is not there.
    screen.press("3");
    screen.until("two agents", |screen| screen.with("lap?[2Jtop").len() == 2).await;
    screen.press("4");
    screen.shows("BYTES/S").await;
    screen
        .until("the link", |screen| {
            screen.with("up").iter().any(|line| line.split_whitespace().take(3).eq(["n1", "n2", "up"]))
        })
        .await;

    screen.press("2");
    screen.until("the endpoints, at rest", |screen| number_after(screen, "quiet ") == Some(0.0)).await;
    let edge = nodes.edge(0);
    eventually("requests move the rate", async || {
        for _ in 0..20 {
            assert!(get(edge, "web", "/").await.status.is_success());
        }
        number_after(&screen, "web ").is_some_and(|rate| rate > 1.0)
    })
    .await;
    let busiest =
        screen.lines().into_iter().find(|line| line.starts_with("web ") || line.starts_with("quiet "));
    assert!(busiest.is_some_and(|line| line.starts_with("web ")), "the most asked is the first");
    screen.until("it comes to rest", |screen| number_after(screen, "web ") == Some(0.0)).await;

    screen.press("/quiet\r");
    screen
        .until("the filter", |screen| screen.with("web").is_empty() && screen.with("quiet").len() == 2)
        .await;
    screen.press("\x1b1");
    screen.shows("n1 (this)").await;

    nodes.all[0].kill();
    screen.shows("connection lost").await;
    screen.shows("LOST").await;
    assert!(!screen.with("n1 (this)").is_empty(), "what it was stays");
    nodes.all[0].restart().await;
    screen
        .until("it is live again", |screen| {
            !screen.with("live").is_empty() && screen.with("connection lost").is_empty()
        })
        .await;

    screen.press("q");
    assert_eq!(screen.end().await, Some(0));
    screen.until("it is as it was", |screen| screen.modes() == before).await;
}

#[tokio::test]
async fn the_terminal_is_given_back_whatever_ends_it() {
    if tool("setsid").is_none() {
        return;
    }
    let fabric = Fabric::start().await;
    let admin = fabric.addresses.admin.to_string();
    for how in ["TERM", "INT", "HUP", "QUIT", "Ctrl-C", "Escape"] {
        let mut screen = Terminal::start((80, 24), &["top", "--admin", &admin], &[]);
        let before = screen.modes();
        screen.shows("live").await;
        assert_ne!(screen.modes(), before);
        match how {
            "Ctrl-C" => screen.press("\x03"),
            "Escape" => screen.press("\x1b"),
            signal => {
                let id = screen.child.id().to_string();
                let sent = std::process::Command::new("kill").args([&format!("-{signal}"), &id]).status();
                assert!(ok(sent).success());
            }
        }
        assert_eq!(screen.end().await, Some(0), "{how}");
        screen.until(how, |screen| screen.modes() == before).await;
    }
}

#[tokio::test]
async fn colours_are_left_out_where_they_are_not_wanted() {
    if tool("setsid").is_none() {
        return;
    }
    let fabric = Fabric::start().await;
    let admin = fabric.addresses.admin.to_string();
    let coloured = async |environment: &[(&str, &str)]| {
        let mut screen = Terminal::start((80, 24), &["top", "--admin", &admin], environment);
        screen.shows("live").await;
        // The first thing that is coloured there is a filter.
        screen.press("/x");
        screen.shows("filter: x_").await;
        let written = screen.written();
        screen.press("\x03");
        assert_eq!(screen.end().await, Some(0));
        written.contains("\x1b[38;5;3;")
    };
    assert!(coloured(&[]).await);
    assert!(!coloured(&[("NO_COLOR", "1")]).await);
}

#[tokio::test]
async fn what_is_wrong_is_told_before_the_terminal_is_taken() {
    let folder = ok(tempfile::tempdir());
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| config.auth.admin = issuer.port()).await;
    let admin = fabric.addresses.admin.to_string();
    let piped = told(&output(adit(folder.path(), &["top", "--admin", &admin])).await);
    assert!(piped.contains("adit status --watch") && piped.contains("exit code 2"), "{piped}");
    if tool("setsid").is_none() {
        return;
    }
    let mut screen = Terminal::start(SIZE, &["top", "--admin", &admin], &[]);
    let before = screen.modes();
    assert_eq!(screen.end().await, Some(1));
    screen.shows("401").await;
    assert_eq!(screen.modes(), before);
    let token = issuer.token(&serde_json::json!({"exp": in_seconds(600.0), "adit": {"actions": ["admin"]}}));
    let mut screen = Terminal::start(SIZE, &["top", "--admin", &admin], &[("ADIT_TOKEN", &token)]);
    screen.shows("live").await;
    screen.press("q");
    assert_eq!(screen.end().await, Some(0));
}
