//! All rows that a node has told of, kept as it says what is new, different or gone. Pure.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;

use super::tables::{Agent, Cell, Endpoint, Link, Node, Row, Table};

/// An event of the node: what has changed, or everything. A newer node may say more.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Changes {
    full: bool,
    #[serde(flatten)]
    head: Head,
    nodes: Vec<Node>,
    links: Vec<Link>,
    endpoints: Vec<Endpoint>,
    agents: Vec<Agent>,
    gone: Gone,
}

/// What is said of the cluster as a whole.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Head {
    pub(super) node: String,
    pub(super) cluster: String,
    pub(super) release: String,
    /// None until the node has counted for a while.
    pub(super) rates: Option<Rates>,
    /// Whether there are rows that are not told.
    pub(super) more: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Rates {
    pub(super) requests_s: f64,
    pub(super) errors_s: f64,
    pub(super) sent_bytes_s: f64,
    pub(super) received_bytes_s: f64,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
}

/// The keys of rows that are no more.
#[derive(Debug, Default, Deserialize)]
struct Gone {
    nodes: Vec<String>,
    links: Vec<String>,
    endpoints: Vec<String>,
    agents: Vec<String>,
}

/// A row as it is shown.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) cells: Vec<Cell>,
    /// All that is in its cells, in lower case: what it is found by.
    found: String,
}

impl Shown {
    fn new(row: &impl Row) -> Arc<Self> {
        let cells = row.cells();
        let texts: Vec<_> = cells.iter().map(|cell| cell.text.to_lowercase()).collect();
        Arc::new(Self { cells, found: texts.join(" ") })
    }

    /// Whether all of these words, in lower case, are in it.
    pub(super) fn has<'a>(&self, mut words: impl Iterator<Item = &'a str>) -> bool {
        words.all(|word| self.found.contains(word))
    }
}

/// The rows of a table by their keys.
type Rows = BTreeMap<String, Arc<Shown>>;

/// What is known of the cluster. Clones share their rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Board {
    pub(super) head: Head,
    nodes: Rows,
    endpoints: Rows,
    agents: Rows,
    links: Rows,
}

impl Board {
    /// Takes in what has changed.
    pub(super) fn take(&mut self, changes: Changes) {
        let Changes { full, head, nodes, links, endpoints, agents, gone } = changes;
        if full {
            *self = Self::default();
        }
        self.head = head;
        update(&mut self.nodes, &nodes, &gone.nodes);
        update(&mut self.links, &links, &gone.links);
        update(&mut self.endpoints, &endpoints, &gone.endpoints);
        update(&mut self.agents, &agents, &gone.agents);
    }

    pub(super) fn rows(&self, of: Table) -> &BTreeMap<String, Arc<Shown>> {
        match of {
            Table::Nodes => &self.nodes,
            Table::Endpoints => &self.endpoints,
            Table::Agents => &self.agents,
            Table::Links => &self.links,
        }
    }
}

fn update(rows: &mut Rows, changed: &[impl Row], gone: &[String]) {
    for key in gone {
        rows.remove(key);
    }
    rows.extend(changed.iter().map(|row| (row.key().to_owned(), Shown::new(row))));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn changes(full: bool, nodes: &[&str], gone: &[&str]) -> Changes {
        let row = |key: &&str| json!({ "key": key, "phase": "ready", "this": false, "suspect": false });
        let json = json!({
            "version": 1, "full": full, "node": "n1", "cluster": "adit", "release": "0.1.0", "rates": null, "more": false,
            "nodes": nodes.iter().map(row).collect::<Vec<_>>(), "links": [], "endpoints": [], "agents": [],
            "gone": {"nodes": gone, "links": [], "endpoints": [], "agents": []}, "news": 1,
        });
        serde_json::from_value(json).unwrap()
    }

    fn keys(board: &Board) -> Vec<&str> {
        board.rows(Table::Nodes).keys().map(String::as_str).collect()
    }

    #[test]
    fn rows_come_and_go_and_a_full_board_takes_the_place_of_the_one_before() {
        let mut board = Board::default();
        board.take(changes(true, &["n1", "n2"], &[]));
        board.take(changes(false, &["n3"], &["n2"]));
        assert_eq!(keys(&board), ["n1", "n3"]);
        let before = board.clone();
        board.take(changes(true, &["n9"], &[]));
        assert_eq!((keys(&board), keys(&before)), (vec!["n9"], vec!["n1", "n3"]));
    }

    #[test]
    fn a_row_is_found_by_any_of_its_cells() {
        let mut board = Board::default();
        board.take(changes(true, &["North-1"], &[]));
        let row = &board.rows(Table::Nodes)["North-1"];
        assert!(row.has(["north", "ready"].into_iter()) && row.has(std::iter::empty()));
        assert!(!row.has(["north", "draining"].into_iter()));
    }
}
