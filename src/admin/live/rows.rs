//! The rows of the board: what this node sees, and what other nodes have said of themselves.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    board::{Kind, Row},
    nodes::Peers,
    rates::{Carried, Opened, Pace, Rates, Samples, rounded},
};
use crate::{
    admin::{Source, figures::PeerFigures},
    protocol::TenantId,
    upstream::{AgentStatus, EndpointStatus},
};

/// The most rows of a kind. Of those that are tenants', each tenant has its share.
const MOST: usize = 10_000;

/// In a larger cluster, links between other nodes are shown only when they are in trouble: their number grows with the square.
const ALL_LINKS: usize = 32;

/// From this share of packets on, the loss of a link is trouble.
const TROUBLE: f64 = 0.01;

/// How many endpoints of one agent its row names.
const NAMED: usize = 32;

/// What is shown above all rows.
#[derive(Debug, Serialize)]
struct Head<'a> {
    node: &'a str,
    cluster: &'a str,
    /// Of adit.
    release: &'static str,
    /// Those of the cluster; none until there are two figures of a node.
    rates: Option<Rates>,
    /// Whether there are rows that are not shown.
    more: bool,
}

#[derive(Debug, Default, Serialize)]
struct NodeRow<'a> {
    key: &'a str,
    phase: &'a str,
    this: bool,
    /// Whether others are linked to it and this node is not.
    unlinked: bool,
    suspect: bool,
    address: Option<String>,
    version: Option<&'a str>,
    up_s: Option<u64>,
    agent_links: Option<usize>,
    flows: Option<usize>,
    in_flight: Option<u64>,
    connections: Option<u64>,
    rates: Option<Rates>,
    /// Why it tells no figures.
    silent: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct LinkRow<'a> {
    key: String,
    nodes: [&'a str; 2],
    rtt_ms: f64,
    suspect: bool,
    /// The share of packets that were lost of late, either way; none where none were sent.
    loss: Option<f64>,
    bytes_s: f64,
}

#[derive(Debug, Serialize)]
struct EndpointRow<'a> {
    key: &'a str,
    #[serde(flatten)]
    status: EndpointStatus,
    /// Requests and flows that this node has opened to it, a second.
    opened_s: f64,
}

/// An agent, without what changes all the time and of which nobody learns anything.
#[derive(Debug, Serialize)]
struct AgentRow<'a> {
    key: &'a str,
    tenant: &'a str,
    agent: &'a str,
    name: Option<&'a str>,
    addresses: &'a [String],
    nodes: &'a BTreeSet<String>,
    /// The first of them.
    endpoints: Vec<&'a str>,
    endpoints_total: usize,
    flows: usize,
    rtt_ms: Option<f64>,
    suspect: bool,
    state: Option<&'static str>,
}

/// A link between two nodes, as far as it is known from either.
#[derive(Debug, Default)]
struct Pair {
    rtt_ms: Option<f64>,
    suspect: bool,
    carried: Carried,
}

/// All that is shown: the fields of the head, and the rows.
pub(super) fn all(source: &Source, own: &Samples, peers: &Peers, opened: &mut Opened) -> (String, Vec<Row>) {
    let mut rows = node_rows(source, own, peers);
    rows.extend(link_rows(source.node.as_str(), own, peers));
    let endpoints = source.upstreams.endpoint_status(&source.node);
    let agents = source.upstreams.agent_status(&source.node);
    let more = endpoints.len() > MOST || agents.len() > MOST;
    opened.turn(own.last().map_or(0.0, |figures| figures.up_s));
    let endpoints = shared(endpoints, MOST, |endpoint| &endpoint.tenant);
    rows.extend(endpoints.into_iter().map(|status| endpoint_row(status, opened)));
    rows.extend(shared(agents, MOST, |agent| &agent.tenant).iter().map(agent_row));
    let mut pace = Pace::default();
    let paces: Vec<_> =
        peers.iter().map(|peer| &peer.samples).chain([own]).filter_map(Samples::pace).collect();
    paces.iter().for_each(|one| pace.add(one));
    let head = Head {
        node: source.node.as_str(),
        cluster: &source.cluster,
        release: env!("CARGO_PKG_VERSION"),
        rates: (!paces.is_empty()).then(|| pace.rates()),
        more,
    };
    let head = json(&head);
    // The board's own fields come before these.
    (format!(",{}", &head[1..head.len() - 1]), rows)
}

fn node_rows(source: &Source, own: &Samples, peers: &Peers) -> Vec<Row> {
    let this = NodeRow {
        key: source.node.as_str(),
        phase: source.phase.borrow().name(),
        this: true,
        address: source.peers.get().map(|cluster| cluster.advertised()),
        agent_links: usize::try_from(source.upstreams.load().agent_links).ok(),
        ..NodeRow::default()
    };
    let linked = peers.iter().map(|peer| {
        let status = &peer.status;
        let row = NodeRow {
            key: &status.node,
            phase: status.phase,
            suspect: status.suspect,
            address: Some(status.address.clone()),
            agent_links: Some(status.agent_links),
            silent: peer.silent.as_deref(),
            ..NodeRow::default()
        };
        row.of(&peer.samples)
    });
    let mut rows: Vec<_> = std::iter::once(this.of(own)).chain(linked).collect();
    for (node, by) in unlinked(source.node.as_str(), peers).into_iter().take(MOST) {
        let by = by.into_iter().collect::<Vec<_>>().join(", ");
        let silent = format!("the node {} has no link to it; {by} has", source.node);
        let silent = Some(silent.as_str());
        let row = NodeRow { key: node, phase: "unknown", unlinked: true, silent, ..NodeRow::default() };
        rows.push(row.of(&Samples::default()));
    }
    rows
}

/// Nodes that only others are linked to, and which others.
fn unlinked<'a>(this: &str, peers: &'a Peers) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut unlinked = BTreeMap::<_, BTreeSet<_>>::new();
    for peer in peers.iter() {
        for other in peer.samples.last().iter().flat_map(|figures| &figures.peers) {
            if other.node != this && peers.get(&other.node).is_none() {
                unlinked.entry(other.node.as_str()).or_default().insert(peer.status.node.as_str());
            }
        }
    }
    unlinked
}

impl NodeRow<'_> {
    /// The row of a node that has counted this.
    fn of(self, samples: &Samples) -> Row {
        let figures = samples.last();
        let counts = figures.map(|figures| &figures.counts);
        let row = NodeRow {
            version: figures.map(|figures| figures.version.as_str()),
            up_s: figures.map(|figures| figures.up_s as u64),
            flows: figures.map(|figures| figures.flows),
            in_flight: counts.map(|counts| counts.in_flight),
            connections: counts.map(|counts| counts.connections),
            rates: samples.pace().map(|pace| pace.rates()),
            ..self
        };
        Row { kind: Kind::Node, key: row.key.into(), tenant: None, json: json(&row) }
    }
}

fn link_rows(this: &str, own: &Samples, peers: &Peers) -> Vec<Row> {
    let mut pairs = BTreeMap::<[&str; 2], Pair>::new();
    let others = peers.iter().map(|peer| (peer.status.node.as_str(), &peer.samples));
    for (node, samples) in others.chain([(this, own)]) {
        for link in samples.last().iter().flat_map(|figures| &figures.peers) {
            let mut names = [node, link.node.as_str()];
            names.sort_unstable();
            let carried = samples.carried(&link.node).unwrap_or_default();
            pairs.entry(names).or_default().told(link, carried);
        }
    }
    let all = peers.iter().count() < ALL_LINKS;
    let shown = |(nodes, pair): &([&str; 2], Pair)| {
        all || nodes.contains(&this) || pair.suspect || pair.carried.loss() >= Some(TROUBLE)
    };
    pairs.into_iter().filter(shown).take(MOST).map(|(nodes, pair)| link_row(nodes, &pair)).collect()
}

impl Pair {
    /// Takes in what one of the two says.
    fn told(&mut self, link: &PeerFigures, carried: Carried) {
        self.rtt_ms = Some(self.rtt_ms.map_or(link.rtt_ms, |rtt| rtt.min(link.rtt_ms)));
        self.suspect |= link.suspect;
        self.carried = self.carried.and(carried);
    }
}

fn link_row(nodes: [&str; 2], pair: &Pair) -> Row {
    let row = LinkRow {
        // No name has a space in it.
        key: nodes.join(" "),
        nodes,
        rtt_ms: rounded(pair.rtt_ms.unwrap_or(0.0), 100.0),
        suspect: pair.suspect,
        loss: pair.carried.loss().map(|loss| rounded(loss, 10_000.0)),
        bytes_s: pair.carried.bytes_s.round(),
    };
    Row { kind: Kind::Link, key: row.key.as_str().into(), tenant: None, json: json(&row) }
}

fn endpoint_row(status: EndpointStatus, opened: &mut Opened) -> Row {
    let key = name(&status.tenant, &status.endpoint);
    let tenant = Some(status.tenant.clone());
    let opened_s = opened.rate(&key, status.opened);
    let json = json(&EndpointRow { key: &key, status, opened_s });
    Row { kind: Kind::Endpoint, key: key.into(), tenant, json }
}

fn agent_row(agent: &AgentStatus) -> Row {
    let key = name(&agent.tenant, &agent.agent);
    let row = AgentRow {
        key: &key,
        tenant: agent.tenant.as_str(),
        agent: &agent.agent,
        name: agent.name.as_deref(),
        addresses: &agent.addresses,
        nodes: &agent.nodes,
        endpoints: agent.endpoints.iter().take(NAMED).map(String::as_str).collect(),
        endpoints_total: agent.endpoints.len(),
        flows: agent.flows,
        rtt_ms: agent.rtt_ms.map(|rtt| rounded(rtt, 10.0)),
        suspect: agent.suspect,
        state: agent.state,
    };
    let json = json(&row);
    Row { kind: Kind::Agent, key: key.into(), tenant: Some(agent.tenant.clone()), json }
}

/// So many at most, with as many of each tenant as can be had when none has more than others that want more.
fn shared<T>(all: Vec<T>, most: usize, tenant: impl Fn(&T) -> &TenantId) -> Vec<T> {
    if all.len() <= most {
        return all;
    }
    let mut of_each = BTreeMap::<TenantId, usize>::new();
    for one in &all {
        *of_each.entry(tenant(one).clone()).or_default() += 1;
    }
    let mut sizes: Vec<_> = of_each.values().copied().collect();
    sizes.sort_unstable();
    // The small ones leave their rest to those who come after them.
    let (mut room, mut share) = (most, 0);
    for (place, size) in sizes.iter().enumerate() {
        share = room / (sizes.len() - place);
        if *size > share {
            break;
        }
        room -= size;
    }
    let mut had = BTreeMap::<TenantId, usize>::new();
    let mut has_room = |one: &T| {
        let had = had.entry(tenant(one).clone()).or_default();
        *had += 1;
        *had <= share.max(1)
    };
    all.into_iter().filter(|one| has_room(one)).take(most).collect()
}

/// What tells it from others, of all tenants.
fn name(tenant: &TenantId, name: &str) -> String {
    format!("{tenant}/{name}")
}

/// Rows have nothing that JSON could not say.
fn json(row: &impl Serialize) -> String {
    serde_json::to_string(row).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tenant_crowds_out_another() {
        let of = |sizes: &[(&str, usize)], most| {
            let all = sizes.iter().flat_map(|(tenant, size)| {
                let tenant: TenantId = tenant.parse().unwrap();
                std::iter::repeat_n(tenant, *size)
            });
            let kept = shared(all.collect(), most, |tenant| tenant);
            sizes
                .iter()
                .map(|(name, _)| kept.iter().filter(|tenant| tenant.as_str() == *name).count())
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&[("a", 30), ("b", 5), ("c", 5)], 40), [30, 5, 5]);
        assert_eq!(of(&[("a", 300), ("b", 5), ("c", 5)], 40), [30, 5, 5]);
        assert_eq!(of(&[("a", 300), ("b", 200), ("c", 4)], 40), [18, 18, 4]);
        assert_eq!(of(&[("a", 300), ("b", 200), ("c", 100)], 30), [10, 10, 10]);
        assert_eq!(of(&[("a", 300)], 30), [30]);
        assert_eq!(of(&[("a", 2), ("b", 2), ("c", 2)], 2), [1, 1, 0], "fewer than one each");
    }
}
