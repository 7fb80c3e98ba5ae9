//! The tables: which columns each has, and the cells of a row as the node tells it. Pure.

use serde::Deserialize;

use super::text;
use crate::cli::plain::plain;

/// How many names one cell has room for.
const NAMES: usize = 3;

/// What there is a table of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Nodes,
    Endpoints,
    Agents,
    Links,
}

/// A column. Those that say most come first, since a narrow terminal has no room for the last.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Whether its cells are numbers, of which the largest matter most.
    pub(super) is_number: bool,
}

const fn words(title: &'static str) -> Column {
    Column { title, is_number: false }
}

const fn number(title: &'static str) -> Column {
    Column { title, is_number: true }
}

const NODES: &[Column] = &[
    words("NODE"),
    words("STATE"),
    number("REQ/S"),
    number("ERR/S"),
    number("50%"),
    number("99%"),
    number("AGENTS"),
    number("FLOWS"),
    number("SENT/S"),
    number("RECV/S"),
    number("UP"),
    words("ADDRESS"),
    words("SAYS"),
];

const ENDPOINTS: &[Column] = &[
    words("ENDPOINT"),
    number("OPENED/S"),
    number("FLOWS"),
    number("AGENTS"),
    number("SUSPECT"),
    words("KIND"),
    words("TENANT"),
    words("NODES"),
    words("HOSTS"),
];

const AGENTS: &[Column] = &[
    words("AGENT"),
    words("STATE"),
    number("FLOWS"),
    number("RTT"),
    words("ENDPOINTS"),
    words("NODES"),
    words("TENANT"),
    words("ADDRESS"),
    words("ID"),
];

const LINKS: &[Column] =
    &[words("NODE"), words("NODE"), words("STATE"), number("RTT"), number("LOST"), number("BYTES/S")];

impl Table {
    pub(super) const ALL: [Self; 4] = [Self::Nodes, Self::Endpoints, Self::Agents, Self::Links];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Endpoints => "endpoints",
            Self::Agents => "agents",
            Self::Links => "links",
        }
    }

    pub(super) fn columns(self) -> &'static [Column] {
        match self {
            Self::Nodes => NODES,
            Self::Endpoints => ENDPOINTS,
            Self::Agents => AGENTS,
            Self::Links => LINKS,
        }
    }

    /// What it is sorted by at first: endpoints by how much they are asked, agents by how much they have to do.
    pub(super) fn sorted_by(self) -> usize {
        match self {
            Self::Nodes | Self::Links => 0,
            Self::Endpoints => 1,
            Self::Agents => 2,
        }
    }
}

/// How much a cell wants to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    /// It may need a look.
    Odd,
    /// It needs one soon.
    Bad,
}

/// One cell. What it says is mostly another process' text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    /// What it is sorted by, in a column of numbers.
    pub(super) number: Option<f64>,
    pub(super) look: Look,
}

impl Cell {
    fn words(text: &str) -> Self {
        Self { text: plain(text), number: None, look: Look::Plain }
    }

    fn number(number: Option<f64>, say: impl FnOnce(f64) -> String) -> Self {
        Self { text: number.map_or_else(|| "-".into(), say), number, look: Look::Plain }
    }

    fn count(number: Option<u64>) -> Self {
        Self {
            number: number.map(|number| number as f64),
            ..Self::words(&number.map_or_else(|| "-".into(), text::count))
        }
    }

    fn state(text: &str, is_bad: bool, is_odd: bool) -> Self {
        Self::words(text).looked_at(is_bad, is_odd)
    }

    fn looked_at(self, is_bad: bool, is_odd: bool) -> Self {
        let look = match (is_bad, is_odd) {
            (true, _) => Look::Bad,
            (false, true) => Look::Odd,
            (false, false) => Look::Plain,
        };
        Self { look, ..self }
    }

    /// Some names, and how many others there are, of so many.
    fn several(names: &[String], all: usize) -> Self {
        let shown = &names[..names.len().min(NAMES)];
        Self::words(&match all.saturating_sub(shown.len()) {
            _ if all == 0 => "-".into(),
            0 => shown.join(", "),
            more => format!("{} and {more} more", shown.join(", ")),
        })
    }
}

/// What is a row of a table.
pub(super) trait Row {
    /// What tells it from others.
    fn key(&self) -> &str;
    /// As many as its table has columns.
    fn cells(&self) -> Vec<Cell>;
}

/// A node. Of one that tells no figures, little is known.
#[derive(Debug, Deserialize)]
pub(super) struct Node {
    key: String,
    phase: String,
    this: bool,
    #[serde(default)]
    unlinked: bool,
    suspect: bool,
    address: Option<String>,
    version: Option<String>,
    up_s: Option<u64>,
    agent_links: Option<u64>,
    flows: Option<u64>,
    rates: Option<super::board::Rates>,
    silent: Option<String>,
}

impl Row for Node {
    fn key(&self) -> &str {
        &self.key
    }

    fn cells(&self) -> Vec<Cell> {
        let rates = self.rates.as_ref();
        let of = |rate: fn(&super::board::Rates) -> f64| rates.map(rate);
        let name = if self.this { format!("{} (this)", self.key) } else { self.key.clone() };
        let state = match (self.unlinked, self.suspect) {
            (true, _) => "unlinked",
            (_, true) => "suspect",
            _ => self.phase.as_str(),
        };
        let errors = of(|rates| rates.errors_s);
        vec![
            Cell::words(&name),
            Cell::state(state, self.unlinked || self.suspect, state != "ready"),
            Cell::number(of(|rates| rates.requests_s), text::rate),
            Cell::number(errors, text::rate).looked_at(false, errors > Some(0.0)),
            Cell::number(rates.and_then(|rates| rates.p50_ms), text::ms),
            Cell::number(rates.and_then(|rates| rates.p99_ms), text::ms),
            Cell::count(self.agent_links),
            Cell::count(self.flows),
            Cell::number(of(|rates| rates.sent_bytes_s), text::bytes),
            Cell::number(of(|rates| rates.received_bytes_s), text::bytes),
            Cell::number(self.up_s.map(|up| up as f64), |up| text::age(up as u64)),
            Cell::words(self.address.as_deref().unwrap_or("-")),
            match (&self.silent, &self.version) {
                (Some(silent), _) => Cell::state(silent, false, true),
                (None, Some(version)) => Cell::words(&format!("adit {version}")),
                (None, None) => Cell::words("-"),
            },
        ]
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Endpoint {
    key: String,
    tenant: String,
    endpoint: String,
    kind: String,
    hosts: Vec<String>,
    agents: u64,
    suspects: u64,
    nodes: Vec<String>,
    flows: u64,
    /// An older node does not tell it.
    opened_s: Option<f64>,
}

impl Row for Endpoint {
    fn key(&self) -> &str {
        &self.key
    }

    fn cells(&self) -> Vec<Cell> {
        vec![
            Cell::words(&self.endpoint),
            Cell::number(self.opened_s, text::rate),
            Cell::count(Some(self.flows)),
            Cell::count(Some(self.agents)),
            Cell::count(Some(self.suspects))
                .looked_at(self.suspects > 0 && self.suspects == self.agents, self.suspects > 0),
            Cell::words(&self.kind),
            Cell::words(&self.tenant),
            Cell::several(&self.nodes, self.nodes.len()),
            Cell::several(&self.hosts, self.hosts.len()),
        ]
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Agent {
    key: String,
    tenant: String,
    agent: String,
    name: Option<String>,
    addresses: Vec<String>,
    nodes: Vec<String>,
    endpoints: Vec<String>,
    endpoints_total: usize,
    flows: u64,
    rtt_ms: Option<f64>,
    suspect: bool,
    state: Option<String>,
}

impl Row for Agent {
    fn key(&self) -> &str {
        &self.key
    }

    fn cells(&self) -> Vec<Cell> {
        let id: String = self.agent.chars().take(8).collect();
        // One without a link to this node is known by what other nodes say.
        let state = self.state.as_deref().unwrap_or("elsewhere");
        let shown = if self.suspect { format!("{state}, suspect") } else { state.to_owned() };
        vec![
            Cell::words(self.name.as_deref().unwrap_or(&id)),
            Cell::state(&shown, self.suspect, !matches!(state, "up" | "elsewhere")),
            Cell::count(Some(self.flows)),
            Cell::number(self.rtt_ms, text::ms),
            Cell::several(&self.endpoints, self.endpoints_total),
            Cell::several(&self.nodes, self.nodes.len()),
            Cell::words(&self.tenant),
            Cell::several(&self.addresses, self.addresses.len()),
            Cell::words(&id),
        ]
    }
}

/// From here on, the loss of a link may need a look.
const TROUBLE: f64 = 0.01;

/// A link between two nodes.
#[derive(Debug, Deserialize)]
pub(super) struct Link {
    key: String,
    nodes: [String; 2],
    rtt_ms: f64,
    suspect: bool,
    loss: Option<f64>,
    bytes_s: f64,
}

impl Row for Link {
    fn key(&self) -> &str {
        &self.key
    }

    fn cells(&self) -> Vec<Cell> {
        let [one, other] = &self.nodes;
        vec![
            Cell::words(one),
            Cell::words(other),
            Cell::state(if self.suspect { "suspect" } else { "up" }, self.suspect, false),
            Cell::number(Some(self.rtt_ms), text::ms),
            Cell::number(self.loss, text::share).looked_at(false, self.loss >= Some(TROUBLE)),
            Cell::number(Some(self.bytes_s), text::bytes),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(cells: &[Cell]) -> Vec<&str> {
        cells.iter().map(|cell| cell.text.as_str()).collect()
    }

    #[test]
    fn each_row_has_a_cell_for_each_column_and_steers_no_terminal() {
        let node: Node = serde_json::from_value(json!({
            "key": "n2", "phase": "draining", "this": false, "unlinked": false, "suspect": false, "address": "a:1",
            "version": null, "up_s": null, "agent_links": 3, "flows": null, "rates": null, "silent": "it is\u{1b}[2J old",
        }))
        .unwrap();
        let cells = node.cells();
        assert_eq!(
            texts(&cells),
            ["n2", "draining", "-", "-", "-", "-", "3", "-", "-", "-", "-", "a:1", "it is?[2J old"]
        );
        assert_eq!((cells.len(), cells[1].look, cells[0].look), (NODES.len(), Look::Odd, Look::Plain));
        let endpoint: Endpoint = serde_json::from_value(json!({
            "key": "default/web", "tenant": "default", "endpoint": "we\u{202e}b", "kind": "http", "hosts": [], "agents": 2,
            "suspects": 2, "nodes": ["n1", "n2", "n3", "n4"], "flows": 1234, "opened_s": 2.5,
        }))
        .unwrap();
        let cells = endpoint.cells();
        assert_eq!(
            texts(&cells),
            ["we?b", "2.5", "1,234", "2", "2", "http", "default", "n1, n2, n3 and 1 more", "-"]
        );
        assert_eq!((cells.len(), cells[4].look), (ENDPOINTS.len(), Look::Bad));
        let agent: Agent = serde_json::from_value(json!({
            "key": "default/0011", "tenant": "default", "agent": "00112233445566", "name": null, "addresses": ["a:1"],
            "nodes": ["n1"], "endpoints": ["a", "b", "c", "d"], "endpoints_total": 40, "flows": 0, "rtt_ms": 0.5,
            "suspect": true, "state": "up",
        }))
        .unwrap();
        let cells = agent.cells();
        assert_eq!(
            texts(&cells),
            [
                "00112233",
                "up, suspect",
                "0",
                "0.50ms",
                "a, b, c and 37 more",
                "n1",
                "default",
                "a:1",
                "00112233"
            ]
        );
        assert_eq!((cells.len(), cells[1].look), (AGENTS.len(), Look::Bad));
        let link: Link = serde_json::from_value(json!({
            "key": "n1 n2", "nodes": ["n1", "n2"], "rtt_ms": 1.0, "suspect": false, "loss": 0.02, "bytes_s": 1500.0,
        }))
        .unwrap();
        let cells = link.cells();
        assert_eq!(texts(&cells), ["n1", "n2", "up", "1.0ms", "2.0%", "1.5kB"]);
        assert_eq!((cells.len(), cells[4].look), (LINKS.len(), Look::Odd));
    }
}
