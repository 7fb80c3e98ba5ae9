//! All that the dashboard shows, as rows of JSON, and what of it has changed since somebody looked last.
//!
//! Pure. There is one for all who look: each is told what is different for it alone, however often it has not looked, so
//! that nothing queues up for those who are slow.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::protocol::TenantId;

/// How many rows that are no more are remembered. Who has not looked since the oldest is told everything.
const REMEMBERED: usize = 10_000;

/// What a row is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Node,
    Link,
    Endpoint,
    Agent,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Node, Self::Link, Self::Endpoint, Self::Agent];

    /// What the list of them is called.
    pub(super) fn list(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Link => "links",
            Self::Endpoint => "endpoints",
            Self::Agent => "agents",
        }
    }
}

/// A row, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) kind: Kind,
    /// Tells it from others of its kind.
    pub(super) key: Arc<str>,
    /// Whose it is, if not everybody's.
    pub(super) tenant: Option<TenantId>,
    /// A JSON object that holds the key as well.
    pub(super) json: String,
}

/// A row that is shown.
#[derive(Debug)]
struct Shown {
    tenant: Option<TenantId>,
    json: String,
    /// The version in which it became what it is.
    since: u64,
    /// The version that had it last.
    seen: u64,
}

/// A row that is no more.
#[derive(Debug)]
struct Gone {
    kind: Kind,
    key: Arc<str>,
    tenant: Option<TenantId>,
    since: u64,
}

/// The board.
#[derive(Debug, Default)]
pub(super) struct Board {
    version: u64,
    /// Whether somebody keeps it up to date.
    current: bool,
    /// The fields of a JSON object that are no rows.
    head: String,
    rows: BTreeMap<(Kind, Arc<str>), Shown>,
    /// Oldest first.
    gone: VecDeque<Gone>,
    /// The last version of which it is not known any more what has gone since.
    forgotten: u64,
}

impl Board {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Whether there is something to tell to whoever has looked at this version last.
    pub(super) fn is_news(&self, seen: u64) -> bool {
        self.current && self.version > seen
    }

    /// Shows these rows, which are all, in a new version.
    pub(super) fn update(&mut self, head: String, rows: impl IntoIterator<Item = Row>) {
        self.version += 1;
        (self.head, self.current) = (head, true);
        let version = self.version;
        for Row { kind, key, tenant, json } in rows {
            let shown = self.rows.entry((kind, key));
            let shown = shown.or_insert_with(|| Shown { tenant, json: String::new(), since: 0, seen: 0 });
            if shown.json != json {
                (shown.json, shown.since) = (json, version);
            }
            shown.seen = version;
        }
        let gone = self.rows.extract_if(.., |_, shown| shown.seen < version);
        let gone = gone.map(|((kind, key), Shown { tenant, .. })| Gone { kind, key, tenant, since: version });
        self.gone.extend(gone);
        while self.gone.len() > REMEMBERED {
            self.forgotten = self.gone.pop_front().map_or(self.forgotten, |gone| gone.since - 1);
        }
    }

    /// Shows nothing, until it is brought up to date.
    pub(super) fn clear(&mut self) {
        *self = Self { version: self.version, forgotten: self.version, ..Self::default() };
    }

    /// What has changed since a version, of what is for whoever `sees` it: a JSON object.
    pub(super) fn since(&self, seen: u64, sees: impl Fn(&TenantId) -> bool) -> String {
        let full = seen <= self.forgotten;
        let seen = if full { 0 } else { seen };
        let is_for = |tenant: &Option<TenantId>| tenant.as_ref().is_none_or(&sees);
        let mut json = format!("{{\"version\":{},\"full\":{full}{}", self.version, self.head);
        for kind in Kind::ALL {
            let rows = self.rows.iter().filter(|((of, _), _)| *of == kind);
            let rows = rows.filter(|(_, shown)| shown.since > seen && is_for(&shown.tenant));
            list(&mut json, kind.list(), rows.map(|(_, shown)| shown.json.as_str()));
        }
        json.push_str(",\"gone\":{");
        for kind in Kind::ALL {
            let gone = self.gone.iter().filter(|gone| gone.kind == kind && gone.since > seen);
            let gone = gone.filter(|gone| !full && is_for(&gone.tenant));
            // One that has come back is shown above.
            let gone = gone.filter(|gone| !self.rows.contains_key(&(kind, Arc::clone(&gone.key))));
            list(&mut json, kind.list(), gone.map(|gone| quoted(&gone.key)));
        }
        json.push_str("}}");
        json
    }
}

/// Adds a list of JSON to an object that is being written.
fn list<T: AsRef<str>>(json: &mut String, name: &str, items: impl Iterator<Item = T>) {
    let comma = if json.ends_with('{') { "" } else { "," };
    json.push_str(&format!("{comma}\"{name}\":["));
    for (number, item) in items.enumerate() {
        if number > 0 {
            json.push(',');
        }
        json.push_str(item.as_ref());
    }
    json.push(']');
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn row(kind: Kind, key: &str, value: u32) -> Row {
        Row { kind, key: key.into(), tenant: None, json: json!({ "key": key, "value": value }).to_string() }
    }

    fn of(tenant: &str, row: Row) -> Row {
        Row { tenant: Some(tenant.parse().unwrap()), ..row }
    }

    fn board(versions: &[&[Row]]) -> Board {
        let mut board = Board::default();
        for rows in versions {
            board.update(",\"node\":\"n1\"".into(), rows.to_vec());
        }
        board
    }

    /// What is told: the keys and values of what has changed, and the keys of what has gone.
    fn told(board: &Board, seen: u64, sees: &str) -> (Vec<String>, Vec<String>, bool) {
        let json = board.since(seen, |tenant| sees == "*" || tenant.as_str() == sees);
        let json: Value = serde_json::from_str(&json).unwrap();
        let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let lists = Kind::ALL.map(Kind::list);
        let changed = lists.iter().flat_map(|list| items(&json[list]));
        let changed =
            changed.map(|row| format!("{} {}", row["key"].as_str().unwrap(), row["value"])).collect();
        let gone = lists.iter().flat_map(|list| items(&json["gone"][list]));
        let gone = gone.map(|key| key.as_str().unwrap().to_owned()).collect();
        (changed, gone, json["full"].as_bool().unwrap())
    }

    fn is(changed: &[&str], gone: &[&str], full: bool) -> (Vec<String>, Vec<String>, bool) {
        let owned = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect();
        (owned(changed), owned(gone), full)
    }

    #[test]
    fn each_is_told_what_has_changed_since_it_looked() {
        let (n1, n2, web) =
            (row(Kind::Node, "n1", 1), row(Kind::Node, "n2", 1), row(Kind::Endpoint, "web", 1));
        let changed = row(Kind::Node, "n2", 2);
        let board = board(&[&[n1.clone(), n2.clone(), web], &[n1.clone(), n2], &[n1, changed]]);
        assert_eq!(told(&board, 0, "*"), is(&["n1 1", "n2 2"], &[], true));
        assert_eq!(told(&board, 1, "*"), is(&["n2 2"], &["web"], false));
        assert_eq!(told(&board, 2, "*"), is(&["n2 2"], &[], false));
        assert_eq!(told(&board, 3, "*"), is(&[], &[], false));
        assert!(board.is_news(2) && !board.is_news(3));
    }

    #[test]
    fn what_has_come_back_is_not_gone() {
        let n1 = row(Kind::Node, "n1", 1);
        let board = board(&[std::slice::from_ref(&n1), &[], std::slice::from_ref(&n1)]);
        assert_eq!(told(&board, 1, "*"), is(&["n1 1"], &[], false));
    }

    #[test]
    fn tenants_are_told_of_their_own_rows_and_of_what_is_everybodys() {
        let rows = [
            row(Kind::Node, "n1", 1),
            of("a", row(Kind::Agent, "a/1", 1)),
            of("b", row(Kind::Agent, "b/1", 1)),
        ];
        let board = board(&[&rows, &[]]);
        assert_eq!(told(&board, 1, "a"), is(&[], &["n1", "a/1"], false));
        let mut first = Board::default();
        first.update(String::new(), rows);
        assert_eq!(told(&first, 0, "a"), is(&["n1 1", "a/1 1"], &[], true));
        assert_eq!(told(&first, 0, "*"), is(&["n1 1", "a/1 1", "b/1 1"], &[], true));
    }

    #[test]
    fn who_has_not_looked_for_too_long_is_told_everything() {
        let many: Vec<_> = (0..=REMEMBERED).map(|agent| row(Kind::Agent, &agent.to_string(), 1)).collect();
        let n1 = row(Kind::Node, "n1", 1);
        let mut board = board(&[std::slice::from_ref(&n1), &many, std::slice::from_ref(&n1)]);
        assert_eq!(board.gone.len(), REMEMBERED);
        assert_eq!(told(&board, 2, "*"), is(&["n1 1"], &[], true), "not all that has gone is known");
        board.update(String::new(), [n1]);
        assert_eq!(told(&board, 3, "*"), is(&[], &[], false));
    }

    #[test]
    fn what_is_kept_up_to_date_no_more_is_told_to_nobody() {
        let n1 = row(Kind::Node, "n1", 1);
        let mut board = board(&[std::slice::from_ref(&n1)]);
        board.clear();
        assert!(!board.is_news(0));
        board.update(String::new(), [n1]);
        assert!(board.is_news(0) && board.is_news(1));
        assert_eq!(told(&board, 1, "*"), is(&["n1 1"], &[], true));
    }

    #[test]
    fn keys_of_whatever_kind_are_told_as_json() {
        let odd = "a \"quoted\" \\ key";
        let board = board(&[&[row(Kind::Link, odd, 1)], &[]]);
        assert_eq!(told(&board, 1, "*"), is(&[], &[odd], false));
    }
}
