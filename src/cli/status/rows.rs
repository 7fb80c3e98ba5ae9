//! What of a node's answers is shown, and how: a row for each thing. A newer node may say more, and an older one less.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::table::{Cell, table};

/// How many names one cell has room for.
const NAMES: usize = 3;

/// What has a table of its own.
pub(super) trait Row {
    /// The names of its columns.
    const HEAD: &'static [&'static str];
    /// What is said where there is none.
    const NONE: &'static str;

    fn cells(&self) -> Vec<Cell>;
}

/// The table of these.
pub(super) fn rows<R: Row>(all: &[R], colour: bool) -> String {
    table(R::NONE, R::HEAD, all.iter().map(Row::cells).collect(), colour)
}

/// As `/nodes` has it, and `/status` its peers.
#[derive(Debug, Deserialize)]
pub(super) struct Node {
    node: String,
    address: Option<String>,
    phase: String,
    #[serde(default)]
    this: bool,
    rtt_ms: Option<f64>,
    flows: Option<u64>,
    agent_links: u64,
    suspect: bool,
}

impl Row for Node {
    const HEAD: &'static [&'static str] = &["NODE", "ADDRESS", "RTT", "FLOWS", "AGENTS", "STATE"];
    const NONE: &'static str = "no other nodes";

    fn cells(&self) -> Vec<Cell> {
        vec![
            Cell::new(&self.node),
            Cell::of(self.address.as_ref()),
            Cell::of(self.rtt_ms.map(millis)),
            Cell::of(self.flows),
            Cell::new(self.agent_links),
            match (self.suspect, self.this) {
                (true, _) => Cell::new("suspect").looked_at(true, true),
                (false, true) => phase(&self.phase, ", this node"),
                (false, false) => phase(&self.phase, ""),
            },
        ]
    }
}

/// The phase of a node, with something behind it.
pub(super) fn phase(phase: &str, more: &str) -> Cell {
    Cell::new(format_args!("{phase}{more}")).looked_at(false, phase != "ready")
}

#[derive(Debug, Deserialize)]
pub(super) struct Link {
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

impl Row for Link {
    const HEAD: &'static [&'static str] = &[
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
    ];
    const NONE: &'static str = "no links";

    fn cells(&self) -> Vec<Cell> {
        vec![
            Cell::new(self.id),
            Cell::new(&self.role),
            short(&self.agent),
            Cell::of(self.name.as_ref()),
            Cell::new(&self.address),
            Cell::new(&self.transport),
            Cell::new(&self.tenant),
            Cell::new(millis(self.rtt_ms)),
            Cell::new(self.flows),
            Cell::new(self.endpoints),
            Cell::new(age(self.age_s)),
            state(&self.state, self.suspect),
        ]
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Endpoint {
    tenant: String,
    endpoint: String,
    kind: String,
    #[serde(default)]
    hosts: Vec<String>,
    agents: u64,
    #[serde(default)]
    suspects: u64,
    #[serde(default)]
    nodes: Vec<String>,
    flows: u64,
}

impl Row for Endpoint {
    const HEAD: &'static [&'static str] =
        &["ENDPOINT", "KIND", "TENANT", "AGENTS", "FLOWS", "NODES", "HOSTS"];
    const NONE: &'static str = "no endpoints";

    fn cells(&self) -> Vec<Cell> {
        let (agents, suspects) = (self.agents, self.suspects);
        vec![
            Cell::new(&self.endpoint),
            Cell::new(&self.kind),
            Cell::new(&self.tenant),
            match suspects {
                0 => Cell::new(agents),
                _ => Cell::new(format_args!("{agents}, {suspects} suspect"))
                    .looked_at(suspects == agents, true),
            },
            Cell::new(self.flows),
            several(&self.nodes),
            // Whole: it is by them that clients come.
            Cell::of((!self.hosts.is_empty()).then(|| self.hosts.join(", "))),
        ]
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Agent {
    tenant: String,
    agent: String,
    name: Option<String>,
    addresses: Vec<String>,
    nodes: Vec<String>,
    links: Vec<u64>,
    endpoints: Vec<String>,
    flows: u64,
    rtt_ms: Option<f64>,
    age_s: Option<u64>,
    suspect: bool,
    state: Option<String>,
}

impl Row for Agent {
    const HEAD: &'static [&'static str] = &[
        "AGENT",
        "NAME",
        "TENANT",
        "NODES",
        "LINKS",
        "ADDRESS",
        "RTT",
        "FLOWS",
        "ENDPOINTS",
        "AGE",
        "STATE",
    ];
    const NONE: &'static str = "no agents";

    fn cells(&self) -> Vec<Cell> {
        let links: Vec<_> = self.links.iter().map(ToString::to_string).collect();
        vec![
            short(&self.agent),
            Cell::of(self.name.as_ref()),
            Cell::new(&self.tenant),
            several(&self.nodes),
            several(&links),
            several(&self.addresses),
            Cell::of(self.rtt_ms.map(millis)),
            Cell::new(self.flows),
            several(&self.endpoints),
            Cell::of(self.age_s.map(age)),
            // One without a link here is known by what other nodes say.
            state(self.state.as_deref().unwrap_or("elsewhere"), self.suspect),
        ]
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Flow {
    kind: String,
    tenant: String,
    endpoint: String,
    client: Option<String>,
    agent: String,
    link: Option<u64>,
    node: Option<String>,
    age_s: f64,
}

impl Row for Flow {
    const HEAD: &'static [&'static str] = &["KIND", "ENDPOINT", "TENANT", "CLIENT", "AGENT", "VIA", "AGE"];
    const NONE: &'static str = "no flows";

    fn cells(&self) -> Vec<Cell> {
        let via = match (self.link, &self.node) {
            (Some(link), _) => Some(format!("link {link}")),
            (None, node) => node.as_ref().map(|node| format!("node {node}")),
        };
        vec![
            Cell::new(&self.kind),
            Cell::new(&self.endpoint),
            Cell::new(&self.tenant),
            Cell::of(self.client.as_ref()),
            short(&self.agent),
            Cell::of(via),
            match self.age_s {
                short if short < 1.0 => Cell::new(millis(short * 1000.0)),
                // Whole seconds are enough.
                long => Cell::new(age(long as u64)),
            },
        ]
    }
}

/// Something that has happened.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    what: String,
    tenant: Option<String>,
    who: String,
    why: String,
    times: u64,
    age_s: u64,
}

impl Row for Event {
    const HEAD: &'static [&'static str] = &["AGO", "EVENT", "WHO", "TENANT", "TIMES", "WHY"];
    const NONE: &'static str = "nothing has happened of late";

    fn cells(&self) -> Vec<Cell> {
        let is_bad = matches!(&*self.what, "link_refused" | "node_gone" | "reload_refused");
        let is_odd = !matches!(&*self.what, "linked" | "node_linked" | "reload");
        vec![
            Cell::new(age(self.age_s)),
            Cell::new(self.what.replace('_', " ")).looked_at(is_bad, is_odd),
            Cell::new(&self.who),
            Cell::of(self.tenant.as_ref()),
            Cell::new(self.times),
            Cell::new(&self.why),
        ]
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Certificate {
    port: String,
    names: Vec<String>,
    not_after: i64,
}

/// How many days before its end a certificate should have been renewed.
const LATE: u64 = 7;

/// A line of when the certificates of a node's ports end.
pub(super) fn certificates(all: &[Certificate], now: SystemTime, colour: bool) -> String {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let one = |certificate: &Certificate| {
        let Certificate { port, names, not_after } = certificate;
        let left = not_after.saturating_sub(now);
        let time = rough(left.unsigned_abs());
        if left > 0 {
            let soon = left.unsigned_abs() < LATE * DAY;
            return Cell::new(format_args!("{port} in {time}")).looked_at(false, soon).render(colour);
        }
        let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
        Cell::new(format_args!("{port} ENDED {time} ago{names}")).looked_at(true, true).render(colour)
    };
    match all {
        [] => String::new(),
        all => format!("certificates end: {}\n", all.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}

const DAY: u64 = 24 * 3600;

/// A time as far as it matters.
fn rough(seconds: u64) -> String {
    match seconds {
        days if days >= 2 * DAY => format!("{}d", days / DAY),
        hours if hours >= 7200 => format!("{}h", hours / 3600),
        seconds => age(seconds),
    }
}

fn millis(ms: f64) -> String {
    format!("{ms:.1}ms")
}

/// Of what is days old, nobody asks for the minute.
pub(super) fn age(seconds: u64) -> String {
    if seconds >= DAY {
        return format!("{}d{}h", seconds / DAY, seconds % DAY / 3600);
    }
    humantime::format_duration(Duration::from_secs(seconds)).to_string().replace(' ', "")
}

/// Enough of an agent's id to tell agents apart; --json has all of it.
fn short(agent: &str) -> Cell {
    Cell::new(agent.chars().take(8).collect::<String>())
}

/// Where a link is in its life.
fn state(state: &str, suspect: bool) -> Cell {
    match suspect {
        true => Cell::new(format_args!("{state}, suspect")).looked_at(true, true),
        false => Cell::new(state).looked_at(false, !matches!(state, "up" | "elsewhere")),
    }
}

/// Some names, and how many others there are.
fn several(names: &[String]) -> Cell {
    match names.len() {
        0 => Cell::new('-'),
        1..=NAMES => Cell::new(names.join(", ")),
        all => Cell::new(format_args!("{} and {} more", names[..NAMES].join(", "), all - NAMES)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_end_soon_and_those_that_have_stand_out() {
        let one =
            |port: &str, not_after| Certificate { port: port.into(), names: vec!["a".into()], not_after };
        let day = i64::try_from(DAY).unwrap();
        let all = [one("edge", 400 * day), one("link", 6 * day), one("peer", -3 * 3600)];
        assert_eq!(
            certificates(&all, UNIX_EPOCH, true),
            "certificates end: edge in 400d, \u{1b}[33mlink in 6d\u{1b}[0m, \
             \u{1b}[31mpeer ENDED 3h ago (a)\u{1b}[0m\n"
        );
        assert_eq!(certificates(&[], UNIX_EPOCH, false), "");
    }

    #[test]
    fn an_age_is_as_exact_as_anybody_asks_for() {
        let told = [0, 61, DAY - 1, DAY, 40 * DAY + 3 * 3600 + 59].map(age);
        assert_eq!(told, ["0s", "1m1s", "23h59m59s", "1d0h", "40d3h"]);
    }
}
