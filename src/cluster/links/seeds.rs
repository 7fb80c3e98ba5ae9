//! Looks for nodes at the addresses of the seeds, for as long as the node lives: a split cluster heals by itself.
//!
//! A name may stand for every node of the cluster, this one among them, and for other nodes tomorrow. So names are resolved
//! each time, all their addresses are tried, and those that lead to nodes which are linked are left alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream};

use super::{LinkError, Links};
use crate::{net::HostPort, protocol::NodeId, telemetry};

/// How often seeds are looked at.
const EVERY: Duration = Duration::from_secs(5);

/// How many addresses are dialled at once. One that does not answer takes seconds, and must not hold up the others.
const AT_ONCE: usize = 16;

const NO_PEER: &str = "no peer there yet; trying on";

/// Runs until the node leaves.
pub(super) async fn run(links: Arc<Links>, join: Vec<HostPort>) {
    let mut seeds = Seeds::default();
    loop {
        let due = seeds.due(resolve(&links, &join).await, &linked(&links));
        let dials = due.into_iter().map(|address| {
            let links = &links;
            async move { (address, links.dial(address).await) }
        });
        let mut dials = stream::iter(dials).buffer_unordered(AT_ONCE);
        while let Some((address, dialled)) = dials.next().await {
            match dialled {
                Ok(node) | Err(LinkError::Linked(Some(node))) => seeds.leads_to(address, [node]),
                Err(LinkError::Linked(None)) => seeds.leads_to(address, linked(&links).into_keys()),
                Err(error @ LinkError::Refuse(_)) => links.faults.refused(address, error),
                Err(error) => links.faults.warn(address, error, NO_PEER),
            }
        }
        tokio::time::sleep(EVERY.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
    }
}

/// All addresses that the names have now.
async fn resolve(links: &Links, join: &[HostPort]) -> BTreeSet<SocketAddr> {
    let mut addresses = BTreeSet::new();
    for (name, resolved) in join.iter().zip(join_all(join.iter().map(HostPort::resolve)).await) {
        match resolved {
            Ok(found) => addresses.extend(found),
            Err(error) => links.faults.warn(name, telemetry::report(&error), NO_PEER),
        }
    }
    addresses
}

/// The peers that answer, and where each says that it is.
fn linked(links: &Links) -> BTreeMap<NodeId, String> {
    let peers = links.shared.peers();
    let answering = peers.values().filter(|peer| !peer.vitals.is_suspect());
    answering.map(|peer| (peer.member.node.clone(), peer.member.address.clone())).collect()
}

/// What is known of the seeds' addresses.
#[derive(Debug, Default)]
struct Seeds {
    /// Where an address has led: to this node, or to one of them. Whoever refuses a second link, as this node does when it
    /// is its own seed, does not say who it is.
    led: HashMap<SocketAddr, Vec<NodeId>>,
}

impl Seeds {
    /// Those of the addresses that may lead to a node which is not linked.
    fn due(&mut self, addresses: BTreeSet<SocketAddr>, linked: &BTreeMap<NodeId, String>) -> Vec<SocketAddr> {
        self.led.retain(|address, _| addresses.contains(address));
        let told: BTreeSet<_> = linked.values().collect();
        let is_known = |address: &SocketAddr| {
            let led = self.led.get(address);
            told.contains(&address.to_string())
                || led.is_some_and(|nodes| nodes.iter().all(|node| linked.contains_key(node)))
        };
        addresses.into_iter().filter(|address| !is_known(address)).collect()
    }

    /// An address leads to one of these.
    fn leads_to(&mut self, address: SocketAddr, nodes: impl IntoIterator<Item = NodeId>) {
        let nodes: Vec<_> = nodes.into_iter().collect();
        // Without any link, the refusal comes from this node itself, or from one that has not noticed the loss of its own.
        if !nodes.is_empty() {
            self.led.insert(address, nodes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(hosts: &[u8]) -> BTreeSet<SocketAddr> {
        hosts.iter().map(|host| SocketAddr::from(([10, 0, 0, *host], 8003))).collect()
    }

    fn address(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 8003))
    }

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    /// Nodes and the last part of the addresses that they tell.
    fn linked(nodes: &[(&str, u8)]) -> BTreeMap<NodeId, String> {
        nodes.iter().map(|(node, host)| (id(node), address(*host).to_string())).collect()
    }

    fn due(seeds: &mut Seeds, hosts: &[u8], nodes: &[(&str, u8)]) -> Vec<u8> {
        let due = seeds.due(addresses(hosts), &linked(nodes));
        due.into_iter().map(|address| address.to_string().as_bytes()[7] - b'0').collect()
    }

    #[test]
    fn every_address_is_dialled_until_it_has_led_somewhere() {
        let mut seeds = Seeds::default();
        assert_eq!(due(&mut seeds, &[1, 2, 3], &[]), [1, 2, 3]);
        seeds.leads_to(address(2), [id("n2")]);
        // It tells another address than that by which it was found.
        assert_eq!(due(&mut seeds, &[1, 2, 3], &[("n2", 9)]), [1, 3]);
        // When its link is lost, it may be somebody else.
        assert_eq!(due(&mut seeds, &[1, 2, 3], &[]), [1, 2, 3]);
    }

    #[test]
    fn where_a_linked_node_says_that_it_is_nobody_is_looked_for() {
        assert_eq!(due(&mut Seeds::default(), &[1, 2, 3], &[("n2", 2), ("n3", 3)]), [1]);
    }

    #[test]
    fn a_node_among_its_own_seeds_is_left_alone_while_all_others_are_linked() {
        let (mut seeds, both) = (Seeds::default(), [("n2", 2), ("n3", 3)]);
        // While it is alone, it cannot tell itself from a node that still holds on to a link which is lost.
        seeds.leads_to(address(1), []);
        assert_eq!(due(&mut seeds, &[1, 2, 3], &[]), [1, 2, 3]);
        seeds.leads_to(address(1), linked(&both).into_keys());
        assert_eq!(due(&mut seeds, &[1, 2, 3], &both), [] as [u8; 0]);
        assert_eq!(due(&mut seeds, &[1, 2, 3], &both[..1]), [1, 3]);
    }

    #[test]
    fn an_address_that_a_name_has_no_longer_is_forgotten() {
        let (mut seeds, nodes) = (Seeds::default(), [("n2", 9)]);
        seeds.leads_to(address(2), [id("n2")]);
        assert_eq!(due(&mut seeds, &[3], &nodes), [3]);
        assert_eq!(due(&mut seeds, &[2, 3], &nodes), [2, 3]);
    }
}
