//! What there is to see: for each view the path that is asked, and the tables that become of the answer.

use std::time::SystemTime;

use anyhow::Context as _;
use serde::{Deserialize, de::DeserializeOwned};

use super::rows::{Agent, Certificate, Endpoint, Event, Flow, Link, Node, age, certificates, phase, rows};
use crate::protocol::NodeId;

#[derive(Debug)]
pub(super) enum View {
    /// A node's peers, links and endpoints.
    All,
    Nodes,
    Endpoints,
    Agents,
    Links,
    Flows {
        /// How many at most.
        most: u16,
    },
    /// What has happened of late.
    Recent,
    /// One node in full.
    Node(NodeId),
}

#[derive(Debug, Deserialize)]
struct Status {
    node: String,
    cluster: String,
    phase: String,
    version: String,
    #[serde(default)]
    certificates: Vec<Certificate>,
    #[serde(default)]
    recent: Vec<Event>,
    #[serde(default)]
    peers: Vec<Node>,
    links: Vec<Link>,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Page {
    #[serde(flatten)]
    status: Status,
    address: Option<String>,
    edge: Option<String>,
    uptime_s: u64,
    agents: Vec<Agent>,
    flows: u64,
}

#[derive(Debug, Deserialize)]
struct Nodes {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Endpoints {
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Agents {
    agents: Vec<Agent>,
}

#[derive(Debug, Deserialize)]
struct Links {
    links: Vec<Link>,
}

#[derive(Debug, Deserialize)]
struct Recent {
    events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
struct Flows {
    total: u64,
    flows: Vec<Flow>,
}

fn read<T: DeserializeOwned>(answer: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(answer).context("the answer is none of a node's admin port")
}

impl View {
    /// The path to ask, of a node, or by it of another.
    pub(super) fn path(&self, node: Option<&NodeId>) -> String {
        let mut query = Vec::new();
        let path = match self {
            Self::All => "status".to_owned(),
            Self::Nodes => "nodes".to_owned(),
            Self::Endpoints => "endpoints".to_owned(),
            Self::Agents => "agents".to_owned(),
            Self::Links => "links".to_owned(),
            Self::Flows { most } => {
                query.push(format!("limit={most}"));
                "flows".to_owned()
            }
            Self::Recent => "recent".to_owned(),
            Self::Node(id) => format!("nodes/{id}"),
        };
        query.extend(node.map(|node| format!("node={node}")));
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        format!("/api/v1/{path}{query}")
    }

    /// The tables of an answer.
    pub(super) fn render(&self, answer: &[u8], colour: bool) -> anyhow::Result<String> {
        Ok(match self {
            Self::All => read::<Status>(answer)?.render(colour),
            Self::Nodes => rows(&read::<Nodes>(answer)?.nodes, colour),
            Self::Endpoints => rows(&read::<Endpoints>(answer)?.endpoints, colour),
            Self::Agents => rows(&read::<Agents>(answer)?.agents, colour),
            Self::Links => rows(&read::<Links>(answer)?.links, colour),
            Self::Flows { .. } => read::<Flows>(answer)?.render(colour),
            Self::Recent => rows(&read::<Recent>(answer)?.events, colour),
            Self::Node(_) => read::<Page>(answer)?.render(colour),
        })
    }
}

/// What a status has of what has happened, which is no good news: where there is none, other things may have happened.
fn news(recent: &[Event], colour: bool) -> String {
    match recent {
        [] => "nothing that needs a look: `adit status recent` has the rest\n".to_owned(),
        recent => rows(recent, colour),
    }
}

impl Status {
    fn title(&self, colour: bool) -> String {
        let Self { node, cluster, version, .. } = self;
        let phase = phase(&self.phase, "").render(colour);
        let certificates = certificates(&self.certificates, SystemTime::now(), colour);
        format!("node {node} of cluster {cluster}, {phase}, adit {version}\n{certificates}")
    }

    fn render(&self, colour: bool) -> String {
        let tables = [
            self.title(colour),
            rows(&self.peers, colour),
            rows(&self.links, colour),
            rows(&self.endpoints, colour),
            news(&self.recent, colour),
        ];
        tables.join("\n")
    }
}

impl Page {
    fn render(&self, colour: bool) -> String {
        let Self { status, address, edge, uptime_s, agents, flows } = self;
        let at = |what: &str, address: &Option<String>| {
            address.as_ref().map_or_else(String::new, |address| format!(", {what} at {address}"))
        };
        let about = format!(
            "up for {}, open flows: {flows}{}{}\n",
            age(*uptime_s),
            at("nodes", address),
            at("clients", edge)
        );
        let tables = [
            status.title(colour) + &about,
            rows(&status.peers, colour),
            rows(agents, colour),
            rows(&status.links, colour),
            rows(&status.endpoints, colour),
            news(&status.recent, colour),
        ];
        tables.join("\n")
    }
}

impl Flows {
    fn render(&self, colour: bool) -> String {
        let mut text = rows(&self.flows, colour);
        let shown = self.flows.len() as u64;
        if shown < self.total {
            text.push_str(&format!("and {} more that are younger (--max)\n", self.total - shown));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_becomes_aligned_tables() {
        let status = r#"{"node": "n1", "cluster": "adit", "phase": "ready", "version": "0.1.0", "news": 1,
            "links": [{"id": 1, "role": "agent", "agent": "00112233445566778899aabbccddeeff", "name": "lap\u001btop",
                "address": "1.2.3.4:5", "transport": "quic", "tenant": "default", "rtt_ms": 0.42, "flows": 3,
                "endpoints": 2, "age_s": 3672, "suspect": true, "state": "up"}],
            "endpoints": [{"tenant": "default", "endpoint": "web", "kind": "http", "agents": 1, "flows": 2,
                "hosts": ["a.example", "*.b.example"]},
                {"tenant": "default", "endpoint": "db", "kind": "tcp", "agents": 3, "suspects": 1, "flows": 0,
                "nodes": ["n1", "n2", "n3", "n4"]}],
            "peers": [{"node": "n2", "address": "1.2.3.5:6", "phase": "draining", "rtt_ms": 1.0, "flows": 4,
                "agent_links": 7, "suspect": false}],
            "recent": [{"what": "link_ended", "tenant": "default", "who": "agent 00112233 (laptop)", "times": 2,
                "why": "no packet", "age_s": 5},
                {"what": "node_gone", "tenant": null, "who": "node n3", "times": 1, "why": "silent", "age_s": 61}]}"#;
        assert_eq!(
            View::All.render(status.as_bytes(), false).unwrap(),
            "node n1 of cluster adit, ready, adit 0.1.0\n\n\
             NODE  ADDRESS    RTT    FLOWS  AGENTS  STATE\n\
             n2    1.2.3.5:6  1.0ms  4      7       draining\n\n\
             LINK  ROLE   AGENT     NAME     ADDRESS    OVER  TENANT   RTT    FLOWS  ENDPOINTS  AGE      STATE\n\
             1     agent  00112233  lap?top  1.2.3.4:5  quic  default  0.4ms  3      2          1h1m12s  up, suspect\n\
             \nENDPOINT  KIND  TENANT   AGENTS        FLOWS  NODES                  HOSTS\n\
             web       http  default  1             2      -                      a.example, *.b.example\n\
             db        tcp   default  3, 1 suspect  0      n1, n2, n3 and 1 more  -\n\n\
             AGO   EVENT       WHO                      TENANT   TIMES  WHY\n\
             5s    link ended  agent 00112233 (laptop)  default  2      no packet\n\
             1m1s  node gone   node n3                  -        1      silent\n"
        );
    }

    #[test]
    fn a_status_without_bad_news_says_where_the_good_is() {
        let status = r#"{"node": "n1", "cluster": "adit", "phase": "ready", "version": "0.1.0", "links": [],
            "endpoints": []}"#;
        let text = View::All.render(status.as_bytes(), false).unwrap();
        assert!(text.ends_with("nothing that needs a look: `adit status recent` has the rest\n"));
        let nothing = View::Recent.render(br#"{"node": "n1", "events": []}"#, false).unwrap();
        assert_eq!(nothing, "nothing has happened of late\n");
    }

    #[test]
    fn what_needs_a_look_is_coloured_and_nothing_else() {
        let nodes = r#"{"node": "n1", "nodes": [
            {"node": "n1", "address": null, "phase": "ready", "this": true, "rtt_ms": null, "flows": null,
                "agent_links": 0, "suspect": false},
            {"node": "n2", "address": "a:1", "phase": "draining", "this": false, "rtt_ms": 1, "flows": 0,
                "agent_links": 0, "suspect": false},
            {"node": "n3", "address": "a:2", "phase": "ready", "this": false, "rtt_ms": 1, "flows": 0,
                "agent_links": 0, "suspect": true}]}"#;
        assert_eq!(
            View::Nodes.render(nodes.as_bytes(), true).unwrap(),
            "NODE  ADDRESS  RTT    FLOWS  AGENTS  STATE\n\
             n1    -        -      -      0       ready, this node\n\
             n2    a:1      1.0ms  0      0       \u{1b}[33mdraining\u{1b}[0m\n\
             n3    a:2      1.0ms  0      0       \u{1b}[31msuspect\u{1b}[0m\n"
        );
    }

    #[test]
    fn flows_that_are_not_shown_are_counted() {
        let flows = r#"{"node": "n1", "total": 12, "flows": [
            {"kind": "tcp", "tenant": "default", "endpoint": "db", "client": "1.2.3.4:5", "agent": "00112233445566",
                "link": 3, "node": null, "age_s": 0.25},
            {"kind": "shared", "tenant": "default", "endpoint": "web", "client": null, "agent": "00112233445566",
                "link": null, "node": "n2", "age_s": 61.5}]}"#;
        assert_eq!(
            View::Flows { most: 2 }.render(flows.as_bytes(), false).unwrap(),
            "KIND    ENDPOINT  TENANT   CLIENT     AGENT     VIA      AGE\n\
             tcp     db        default  1.2.3.4:5  00112233  link 3   250.0ms\n\
             shared  web       default  -          00112233  node n2  1m1s\n\
             and 10 more that are younger (--max)\n"
        );
    }

    #[test]
    fn the_path_names_the_node_that_is_meant() {
        let n2 = NodeId::new("n2").unwrap();
        assert_eq!(View::All.path(None), "/api/v1/status");
        assert_eq!(View::Links.path(Some(&n2)), "/api/v1/links?node=n2");
        assert_eq!(View::Flows { most: 5 }.path(Some(&n2)), "/api/v1/flows?limit=5&node=n2");
        assert_eq!(View::Node(n2).path(None), "/api/v1/nodes/n2");
    }
}
