//! By which addresses others are told to reach this node, where nobody has said and its ports are bound to any address of
//! the host.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use crate::net::{self, HostPort};

/// How long all names of seeds may take to be resolved here. They are resolved again for as long as the node lives.
const RESOLVE: Duration = Duration::from_secs(2);

/// Addresses that documents have and nobody else (RFC 5737, RFC 3849): the default route leads to them.
const WORLD: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

/// What is known of the ways out of this host.
#[derive(Debug, Default)]
pub(super) struct Ways {
    seeds: Vec<SocketAddr>,
}

impl Ways {
    /// Resolves the seeds, as far as that can be done now.
    pub(super) async fn to(seeds: &[HostPort]) -> Self {
        let all = futures_util::future::join_all(seeds.iter().map(HostPort::resolve));
        let found = tokio::time::timeout(RESOLVE, all).await.unwrap_or_default();
        Self { seeds: found.into_iter().filter_map(Result::ok).flatten().collect() }
    }

    /// For agents and forwarders, who may be anywhere.
    pub(super) fn link(&self, bound: SocketAddr) -> HostPort {
        told(bound, WORLD.iter().chain(&self.seeds), "--advertise-link")
    }

    /// For other nodes, who are where the seeds are.
    pub(super) fn peer(&self, bound: SocketAddr) -> HostPort {
        told(bound, self.seeds.iter().chain(&WORLD), "--advertise-peer")
    }
}

fn told<'a>(
    bound: SocketAddr,
    towards: impl Iterator<Item = &'a SocketAddr>,
    flag: &'static str,
) -> HostPort {
    let host = match bound.ip() {
        any if any.is_unspecified() => {
            // A port on [::] is one for IPv4 as well.
            let mut towards = towards.filter(|towards| any.is_ipv6() || towards.is_ipv4());
            towards.find_map(|towards| net::source(*towards).ok()).unwrap_or_else(|| {
                tracing::warn!(
                    %bound,
                    "no route leads from this host to others, so they are told its loopback address; say with {flag} where \
                     they reach it"
                );
                if any.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
            })
        }
        one => one,
    };
    HostPort { host: host.to_string(), port: bound.port() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(seeds: &[&str]) -> Ways {
        Ways { seeds: seeds.iter().map(|seed| seed.parse().unwrap()).collect() }
    }

    #[test]
    fn a_bound_address_is_told_as_it_is() {
        for bound in ["127.0.0.1:8001", "192.0.2.7:8001", "[2001:db8::7]:8001"] {
            let bound: SocketAddr = bound.parse().unwrap();
            let ways = ways(&["127.0.0.1:8003"]);
            assert_eq!(
                [ways.link(bound), ways.peer(bound)].map(|told| told.to_string()),
                [bound.to_string(), bound.to_string()]
            );
        }
    }

    #[test]
    fn peers_are_told_the_address_that_leads_to_the_seeds() {
        let any: SocketAddr = "0.0.0.0:8003".parse().unwrap();
        assert_eq!(ways(&["127.0.0.1:8003"]).peer(any).to_string(), "127.0.0.1:8003");
        // One that cannot be used from here does not hide the next.
        assert_eq!(ways(&["[::1]:8003", "127.0.0.1:8003"]).peer(any).to_string(), "127.0.0.1:8003");
        let any: SocketAddr = "[::]:8003".parse().unwrap();
        assert_eq!(ways(&["127.0.0.1:8003"]).peer(any).to_string(), "127.0.0.1:8003");
    }

    #[test]
    fn nobody_is_told_any_address() {
        for any in ["0.0.0.0:8001", "[::]:8001"] {
            let any: SocketAddr = any.parse().unwrap();
            for told in [ways(&[]).link(any), ways(&[]).peer(any)] {
                let host: IpAddr = told.host.parse().unwrap();
                assert!(!host.is_unspecified() && (host.is_ipv4() || any.is_ipv6()), "{told}");
                assert_eq!(told.port, 8001);
            }
        }
    }
}
