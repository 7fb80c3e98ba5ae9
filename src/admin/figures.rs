//! What a node counts, as one document: two of them, some time apart, tell rates.
//!
//! Its counters are read as a scrape has them, so that what the dashboard shows is what Prometheus sees. Its links to other
//! nodes are told one by one, which metrics never are.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State, response::IntoResponse};
use serde::{Deserialize, Serialize};

use super::Source;
use crate::cluster::Node;

/// What a node has counted since its start, and what it has now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    /// The node.
    pub(super) node: String,
    /// Of adit.
    pub(super) version: String,
    /// Seconds since it was started, by the clock that its counts go by.
    pub(super) up_s: f64,
    #[serde(flatten)]
    pub(super) counts: Counts,
    /// How many requests and flows are open.
    pub(super) flows: usize,
    /// Its links to other nodes.
    pub(super) peers: Vec<PeerFigures>,
}

/// What is read from its metrics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Requests answered, by class of status.
    pub(super) requests: BTreeMap<String, u64>,
    /// How many of them had their response's head within each bound, the least first.
    pub(super) headers: Vec<Within>,
    /// Requests whose response has not begun.
    pub(super) in_flight: u64,
    /// Connections of clients that are open.
    pub(super) connections: u64,
    /// Bytes to agents and forwarders.
    pub(super) sent_bytes: u64,
    /// Bytes from them.
    pub(super) received_bytes: u64,
}

/// How many took no longer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Within {
    /// Seconds; none for all that there were.
    pub(super) seconds: Option<f64>,
    pub(super) requests: u64,
}

/// A link to another node, as one of the two sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct PeerFigures {
    pub(super) node: String,
    pub(super) rtt_ms: f64,
    pub(super) suspect: bool,
    pub(super) sent_packets: u64,
    pub(super) lost_packets: u64,
    pub(super) sent_bytes: u64,
}

impl Figures {
    /// Those of this node.
    pub(super) fn of(source: &Source) -> Self {
        let peers = source.peers.get().map_or_else(Vec::new, |cluster| cluster.peers());
        let mut peers: Vec<_> = peers.iter().map(|peer| PeerFigures::of(peer)).collect();
        peers.sort_by(|a, b| a.node.cmp(&b.node));
        Self {
            node: source.node.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            up_s: source.started.elapsed().as_secs_f64(),
            counts: Counts::read(&source.metrics.encode()),
            flows: source.upstreams.open_count(),
            peers,
        }
    }
}

impl PeerFigures {
    fn of(peer: &Node) -> Self {
        let (status, stats) = (peer.status(), peer.link.stats());
        Self {
            node: status.node,
            rtt_ms: status.rtt_ms,
            suspect: status.suspect,
            sent_packets: stats.sent_packets,
            lost_packets: stats.lost_packets,
            sent_bytes: stats.sent_bytes,
        }
    }
}

impl Counts {
    /// Those of a scrape.
    fn read(scrape: &str) -> Self {
        let mut counts = Self::default();
        for Series { name, labels, value } in scrape.lines().filter_map(Series::read) {
            let label = |name: &str| label(labels, name);
            match name {
                "adit_requests_total" => {
                    if let Some(class) = label("status") {
                        *counts.requests.entry(class.into()).or_default() += value;
                    }
                }
                "adit_response_headers_seconds_bucket" => {
                    let seconds =
                        label("le").and_then(|le| le.parse().ok()).filter(|le: &f64| le.is_finite());
                    counts.headers.push(Within { seconds, requests: value });
                }
                "adit_requests_in_flight" => counts.in_flight = value,
                "adit_edge_connections" => counts.connections = value,
                "adit_link_bytes_total" if label("role") != Some("node") => match label("direction") {
                    Some("sent") => counts.sent_bytes += value,
                    _ => counts.received_bytes += value,
                },
                _ => {}
            }
        }
        counts
    }
}

/// A line of a scrape.
struct Series<'a> {
    name: &'a str,
    labels: &'a str,
    value: u64,
}

impl<'a> Series<'a> {
    /// That of a line which counts something.
    fn read(line: &'a str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        Some(Self { name, labels, value: value.parse().ok()? })
    }
}

/// The value of a label. Those that are asked for have none with a quote in it.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = labels.trim_end_matches('}').split(',');
    pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

pub(super) async fn figures(State(source): State<Arc<Source>>) -> impl IntoResponse {
    Json(Figures::of(&source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_a_scrape() {
        let counts = Counts::read(
            "# HELP adit_requests Requests answered.\n\
             # TYPE adit_requests counter\n\
             adit_requests_total{protocol=\"h1\",status=\"2xx\"} 3\n\
             adit_requests_total{protocol=\"h2\",status=\"2xx\"} 4\n\
             adit_requests_total{protocol=\"h2\",status=\"5xx\"} 1\n\
             adit_requests_in_flight 2\n\
             adit_edge_connections 5\n\
             adit_response_headers_seconds_sum 1.5\n\
             adit_response_headers_seconds_count 8\n\
             adit_response_headers_seconds_bucket{le=\"0.0005\"} 6\n\
             adit_response_headers_seconds_bucket{le=\"+Inf\"} 8\n\
             adit_link_bytes_total{role=\"agent\",transport=\"quic\",direction=\"sent\"} 10\n\
             adit_link_bytes_total{role=\"forwarder\",transport=\"quic\",direction=\"sent\"} 1\n\
             adit_link_bytes_total{role=\"node\",transport=\"quic\",direction=\"sent\"} 1000\n\
             adit_link_bytes_total{role=\"agent\",transport=\"websocket\",direction=\"received\"} 7\n\
             # EOF\n",
        );
        assert_eq!(counts.requests, BTreeMap::from([("2xx".into(), 7), ("5xx".into(), 1)]));
        let within = |seconds, requests| Within { seconds, requests };
        assert_eq!(counts.headers, [within(Some(0.0005), 6), within(None, 8)]);
        assert_eq!((counts.in_flight, counts.connections), (2, 5));
        assert_eq!((counts.sent_bytes, counts.received_bytes), (11, 7));
    }
}
