//! `adit status`: what a node's admin port tells, as tables.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request,
    body::Bytes,
    header::{self, HeaderValue},
};
use serde::Deserialize;

use super::{failure::Failure, http, process, say};
use crate::{drain::Tasks, net::HostPort, protocol::Secret};

/// How long a node has to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Show the links and endpoints of a node.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// The admin port of the node to ask: what it was given as --admin-bind.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8002")]
    admin: HostPort,
    /// Token to show to the node. In ADIT_TOKEN it stays out of the list of processes.
    #[arg(long, value_name = "TOKEN", hide_default_value = true)]
    token: Option<Secret>,
    /// The same from a file.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print what the node answers, for programs.
    #[arg(long)]
    json: bool,
}

/// What is shown of a node's answer. A newer node may say more.
#[derive(Debug, Deserialize)]
struct Status {
    node: String,
    cluster: String,
    phase: String,
    version: String,
    #[serde(default)]
    peers: Vec<Peer>,
    links: Vec<Link>,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Peer {
    node: String,
    address: String,
    phase: String,
    rtt_ms: f64,
    flows: u64,
    agent_links: u64,
    suspect: bool,
}

#[derive(Debug, Deserialize)]
struct Link {
    id: u64,
    role: String,
    agent: String,
    name: Option<String>,
    address: String,
    transport: String,
    tenant: String,
    rtt_ms: f64,
    flows: u64,
    endpoints: u64,
    age_s: u64,
    suspect: bool,
    state: String,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    tenant: String,
    endpoint: String,
    kind: String,
    #[serde(default)]
    hosts: Vec<String>,
    agents: u64,
    flows: u64,
}

impl StatusArgs {
    fn token(&self) -> anyhow::Result<Option<Secret>> {
        let Some(file) = &self.token_file else { return Ok(self.token.clone()) };
        if self.token.is_some() {
            bail!("--token and --token-file exclude each other: leave one of them out");
        }
        let text = fs::read_to_string(file)
            .with_context(|| format!("--token-file: {} cannot be read", file.display()))?;
        Ok(Some(Secret::new(text.trim())))
    }
}

pub(super) fn run(args: &StatusArgs) -> Result<(), Failure> {
    process::block_on(async {
        let token = args.token()?;
        let body = tokio::time::timeout(PATIENCE, ask(&args.admin, token.as_ref()))
            .await
            .unwrap_or_else(|_| bail!("it did not answer within {PATIENCE:?}"))
            .with_context(|| {
                format!("no status from {} (is a node running, with this --admin-bind?)", args.admin)
            })?;
        if args.json {
            say(String::from_utf8_lossy(&body).trim_end());
            return Ok(());
        }
        let status: Status = serde_json::from_slice(&body)
            .with_context(|| format!("{} answered something that is no status of a node", args.admin))?;
        say(status.render().trim_end());
        Ok(())
    })
}

async fn ask(admin: &HostPort, token: Option<&Secret>) -> anyhow::Result<Bytes> {
    let tasks = Tasks::new();
    let mut request = Request::get("/api/v1/status").header(header::HOST, admin.to_string());
    if let Some(token) = token {
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .context("the token has characters that none has")?;
        bearer.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, bearer);
    }
    let response = http::send(&tasks, admin, request.body(Empty::<Bytes>::new())?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        let told: Option<Told> = serde_json::from_slice(&body).ok();
        bail!("it answered {status}{}", told.map_or_else(String::new, |told| format!(": {}", told.error)));
    }
    Ok(body)
}

/// Why a node does not answer.
#[derive(Debug, Deserialize)]
struct Told {
    error: String,
}

impl Status {
    fn render(&self) -> String {
        let Self { node, cluster, phase, version, peers, links, endpoints } = self;
        let mut text = format!("node {node} of cluster {cluster}, {phase}, adit {version}\n\n");
        text.push_str(&table(
            "no other nodes",
            &["NODE", "ADDRESS", "RTT", "FLOWS", "AGENTS", "STATE"],
            peers.iter().map(Peer::row),
        ));
        text.push('\n');
        text.push_str(&table(
            "no links",
            &[
                "LINK",
                "ROLE",
                "AGENT",
                "NAME",
                "ADDRESS",
                "OVER",
                "TENANT",
                "RTT",
                "FLOWS",
                "ENDPOINTS",
                "AGE",
                "STATE",
            ],
            links.iter().map(Link::row),
        ));
        text.push('\n');
        text.push_str(&table(
            "no endpoints",
            &["ENDPOINT", "KIND", "TENANT", "AGENTS", "FLOWS", "HOSTS"],
            endpoints.iter().map(Endpoint::row),
        ));
        text
    }
}

impl Peer {
    fn row(&self) -> Vec<String> {
        vec![
            self.node.clone(),
            self.address.clone(),
            format!("{:.1}ms", self.rtt_ms),
            self.flows.to_string(),
            self.agent_links.to_string(),
            if self.suspect { "suspect".into() } else { self.phase.clone() },
        ]
    }
}

impl Link {
    fn row(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.role.clone(),
            // Enough to tell agents apart; --json has all of it.
            self.agent.chars().take(8).collect(),
            self.name.clone().unwrap_or_else(|| "-".into()),
            self.address.clone(),
            self.transport.clone(),
            self.tenant.clone(),
            format!("{:.1}ms", self.rtt_ms),
            self.flows.to_string(),
            self.endpoints.to_string(),
            humantime::format_duration(Duration::from_secs(self.age_s)).to_string().replace(' ', ""),
            if self.suspect { format!("{}, suspect", self.state) } else { self.state.clone() },
        ]
    }
}

impl Endpoint {
    fn row(&self) -> Vec<String> {
        vec![
            self.endpoint.clone(),
            self.kind.clone(),
            self.tenant.clone(),
            self.agents.to_string(),
            self.flows.to_string(),
            if self.hosts.is_empty() { "-".into() } else { self.hosts.join(", ") },
        ]
    }
}

/// Columns as wide as their widest cell. A label is another process' text, so nothing of it may steer the terminal.
fn table(empty: &str, head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let plain = |cell: String| cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> =
        std::iter::once(head).chain(rows.map(|row| row.into_iter().map(plain).collect())).collect();
    if rows.len() == 1 {
        return format!("{empty}\n");
    }
    let width =
        |column: usize| rows.iter().map(|row: &Vec<String>| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_becomes_aligned_tables() {
        let status: Status = serde_json::from_str(
            r#"{"node": "n1", "cluster": "adit", "phase": "ready", "version": "0.1.0", "news": 1,
                "links": [{"id": 1, "role": "agent", "agent": "00112233445566778899aabbccddeeff", "name": "lap\u001btop",
                    "address": "1.2.3.4:5", "transport": "quic", "tenant": "default", "rtt_ms": 0.42, "flows": 3,
                    "endpoints": 2, "age_s": 3672, "suspect": true, "state": "up"}],
                "endpoints": [{"tenant": "default", "endpoint": "web", "kind": "http", "agents": 1, "flows": 2,
                    "hosts": ["a.example", "*.b.example"]}],
                "peers": [{"node": "n2", "address": "1.2.3.5:6", "phase": "draining", "rtt_ms": 1.0, "flows": 4,
                    "agent_links": 7, "suspect": false}]}"#,
        )
        .unwrap();
        assert_eq!(
            status.render(),
            "node n1 of cluster adit, ready, adit 0.1.0\n\n\
             NODE  ADDRESS    RTT    FLOWS  AGENTS  STATE\n\
             n2    1.2.3.5:6  1.0ms  4      7       draining\n\n\
             LINK  ROLE   AGENT     NAME     ADDRESS    OVER  TENANT   RTT    FLOWS  ENDPOINTS  AGE      STATE\n\
             1     agent  00112233  lap?top  1.2.3.4:5  quic  default  0.4ms  3      2          1h1m12s  up, suspect\n\
             \nENDPOINT  KIND  TENANT   AGENTS  FLOWS  HOSTS\n\
             web       http  default  1       2      a.example, *.b.example\n"
        );
    }
}
