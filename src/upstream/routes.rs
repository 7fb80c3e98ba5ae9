//! One version of all that is known of who serves what: the routes of each endpoint, and the endpoint of each mapped host.
//!
//! Both change together, so that no host outlives the routes that it came with. Pure: it knows no link and chooses nothing.

use std::{collections::HashSet, sync::Arc};

use crate::{
    cluster::table::{Name, Table},
    protocol::HostPattern,
};

/// What a route has to say of itself.
pub(super) trait Route {
    /// Its endpoint.
    fn name(&self) -> &Name;
    /// The hosts that stand for it.
    fn hosts(&self) -> &[HostPattern];
    /// Whether its agent is linked to this node.
    fn is_local(&self) -> bool;
}

/// One version. Clones share everything.
#[derive(Debug)]
pub(super) struct Routes<R> {
    serving: Table<Name, Arc<R>>,
    /// By [`HostPattern::key`]. The first claim is the one that counts.
    hosts: Table<Arc<str>, Claim<R>>,
}

/// What maps a host to an endpoint.
#[derive(Debug)]
enum Claim<R> {
    /// This node's configuration.
    Configured(Name),
    /// An agent.
    Route(Arc<R>),
}

impl<R> Clone for Claim<R> {
    fn clone(&self) -> Self {
        match self {
            Self::Configured(name) => Self::Configured(name.clone()),
            Self::Route(route) => Self::Route(Arc::clone(route)),
        }
    }
}

impl<R: Route> Claim<R> {
    fn name(&self) -> &Name {
        match self {
            Self::Configured(name) => name,
            Self::Route(route) => route.name(),
        }
    }

    fn is(&self, route: &Arc<R>) -> bool {
        matches!(self, Self::Route(claim) if Arc::ptr_eq(claim, route))
    }

    /// The order in which claims count: the configuration, then the lowest name, so that all nodes decide alike.
    fn rank(&self) -> (bool, &Name) {
        (matches!(self, Self::Route(_)), self.name())
    }
}

impl<R> Clone for Routes<R> {
    fn clone(&self) -> Self {
        Self { serving: self.serving.clone(), hosts: self.hosts.clone() }
    }
}

impl<R: Route> Routes<R> {
    /// No route, and the hosts of the configuration.
    pub(super) fn new(configured: impl IntoIterator<Item = (HostPattern, Name)>) -> Self {
        let hosts = configured.into_iter().fold(Table::default(), |hosts, (host, name)| {
            Table::with(&hosts, &host.key().into(), |_| vec![Claim::Configured(name)])
        });
        Self { serving: Table::default(), hosts }
    }

    /// The routes of an endpoint.
    pub(super) fn get(&self, name: &Name) -> &[Arc<R>] {
        self.serving.get(name)
    }

    /// All endpoints and their routes, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &[Arc<R>])> {
        self.serving.iter()
    }

    /// How many endpoints have a route.
    pub(super) fn len(&self) -> usize {
        self.serving.len()
    }

    /// A new version, in which the routes of one endpoint have changed.
    #[must_use]
    pub(super) fn with(&self, name: &Name, change: impl FnOnce(&[Arc<R>]) -> Vec<Arc<R>>) -> Self {
        let serving = self.serving.with(name, change);
        let (before, after) = (self.serving.get(name), serving.get(name));
        let mut hosts = self.hosts.clone();
        for gone in mapped(before, after) {
            for host in gone.hosts() {
                hosts = hosts.with(&host.key().into(), |claims| {
                    claims.iter().filter(|claim| !claim.is(gone)).cloned().collect()
                });
            }
        }
        for new in mapped(after, before) {
            for host in new.hosts() {
                let claim = Claim::Route(Arc::clone(new));
                hosts = hosts.with(&host.key().into(), |claims| {
                    let at = claims.partition_point(|other| other.rank() <= claim.rank());
                    [&claims[..at], &[claim], &claims[at..]].concat()
                });
            }
        }
        Self { serving, hosts }
    }

    /// The endpoint that a host in lower case is mapped to: by the host itself, else by the nearest wildcard above it.
    pub(super) fn of_host(&self, host: &str) -> Option<&Name> {
        HostPattern::keys_for(host).find_map(|key| self.hosts.get(key).first()).map(Claim::name)
    }

    /// Whether any host is mapped.
    pub(super) fn maps_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// Another endpoint that a host is mapped to by this node's configuration or an agent that is linked to it.
    pub(super) fn taken(&self, host: &HostPattern, by: &Name) -> Option<&Name> {
        let here = |claim: &&Claim<R>| match claim {
            Claim::Configured(_) => true,
            Claim::Route(route) => route.is_local(),
        };
        self.hosts.get(host.key()).iter().filter(here).map(Claim::name).find(|name| *name != by)
    }

    /// When an endpoint claims a host that it did not claim before, and another does too: the one that counts.
    pub(super) fn contested(&self, host: &HostPattern, name: &Name, before: &Self) -> Option<&Name> {
        let claims = |routes: &'_ Self, own: bool| {
            routes.hosts.get(host.key()).iter().any(|claim| (claim.name() == name) == own)
        };
        let begins = claims(self, true) && !claims(before, true);
        let counts = self.hosts.get(host.key()).first().map(Claim::name);
        counts.filter(|_| begins && claims(self, false))
    }
}

/// Routes with hosts that are in the one list and not in the other.
fn mapped<'a, R: Route>(some: &'a [Arc<R>], others: &[Arc<R>]) -> Vec<&'a Arc<R>> {
    let some = some.iter().filter(|route| !route.hosts().is_empty());
    let others: HashSet<_> =
        others.iter().filter(|route| !route.hosts().is_empty()).map(Arc::as_ptr).collect();
    some.filter(|route| !others.contains(&Arc::as_ptr(route))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::{EndpointId, TenantId};

    #[derive(Debug)]
    struct Made {
        name: Name,
        hosts: Vec<HostPattern>,
        local: bool,
    }

    impl Route for Made {
        fn name(&self) -> &Name {
            &self.name
        }

        fn hosts(&self) -> &[HostPattern] {
            &self.hosts
        }

        fn is_local(&self) -> bool {
            self.local
        }
    }

    fn name(endpoint: &str) -> Name {
        Name { tenant: TenantId::default(), endpoint: EndpointId::new(endpoint).unwrap() }
    }

    fn host(text: &str) -> HostPattern {
        HostPattern::new(text).unwrap()
    }

    fn made(endpoint: &str, hosts: &[&str], local: bool) -> Arc<Made> {
        let hosts = hosts.iter().map(|text| host(text)).collect();
        Arc::new(Made { name: name(endpoint), hosts, local })
    }

    fn add(routes: &Routes<Made>, route: &Arc<Made>) -> Routes<Made> {
        routes.with(&route.name, |before| [before, &[Arc::clone(route)]].concat())
    }

    fn remove(routes: &Routes<Made>, route: &Arc<Made>) -> Routes<Made> {
        routes.with(&route.name, |before| {
            before.iter().filter(|other| !Arc::ptr_eq(other, route)).cloned().collect()
        })
    }

    fn of<'a>(routes: &'a Routes<Made>, host: &str) -> Option<&'a str> {
        routes.of_host(host).map(|name| name.endpoint.as_str())
    }

    #[test]
    fn the_host_itself_comes_first_and_then_the_nearest_wildcard() {
        let near = made("near", &["*.b.example"], true);
        let routes = Routes::new([(host("*.example"), name("far"))]);
        let routes = add(&add(&routes, &near), &made("exact", &["a.b.example"], true));
        for (asked, found) in [
            ("a.b.example", Some("exact")),
            ("x.b.example", Some("near")),
            ("x.a.b.example", Some("near")),
            ("b.example", Some("far")),
            ("example", None),
            ("b.example.com", None),
            ("", None),
        ] {
            assert_eq!(of(&routes, asked), found, "{asked}");
        }
        assert_eq!(of(&remove(&routes, &near), "x.b.example"), Some("far"));
    }

    #[test]
    fn a_host_goes_with_the_last_route_that_has_it() {
        let (one, two) = (made("a", &["a.example"], true), made("a", &["a.example"], false));
        let routes = add(&add(&Routes::new([]), &one), &two);
        let routes = remove(&routes, &one);
        assert_eq!(of(&routes, "a.example"), Some("a"));
        let routes = remove(&routes, &two);
        assert!(of(&routes, "a.example").is_none() && !routes.maps_hosts());
    }

    #[test]
    fn of_two_endpoints_the_lowest_name_counts_whatever_came_first() {
        let (a, b) = (made("a", &["x.example"], false), made("b", &["x.example"], false));
        for order in [[&a, &b], [&b, &a]] {
            let routes = order.into_iter().fold(Routes::new([]), |routes, route| add(&routes, route));
            assert_eq!(of(&routes, "x.example"), Some("a"));
            assert_eq!(of(&remove(&routes, &a), "x.example"), Some("b"));
        }
        let routes = Routes::new([(host("x.example"), name("c"))]);
        assert_eq!(of(&add(&routes, &a), "x.example"), Some("c"), "but the configuration comes first");
    }

    #[test]
    fn what_is_taken_is_what_this_node_itself_has_mapped() {
        let routes = Routes::new([(host("c.example"), name("c"))]);
        let routes = add(&routes, &made("a", &["a.example"], true));
        let routes = add(&routes, &made("r", &["r.example"], false));
        let taken = |text: &str, by| routes.taken(&host(text), &name(by)).map(|name| name.endpoint.as_str());
        assert_eq!(taken("c.example", "x"), Some("c"));
        assert_eq!(taken("a.example", "x"), Some("a"));
        assert_eq!(taken("a.example", "a"), None);
        assert_eq!(taken("r.example", "x"), None, "a peer's agent may be about to leave");
        assert_eq!(taken("*.example", "x"), None);
    }

    #[test]
    fn a_host_is_contested_once_for_each_endpoint() {
        let contested = |before: &Routes<Made>, new: &str| {
            let route = made(new, &["x.example"], false);
            let after = add(before, &route);
            let counts = after.contested(&host("x.example"), &route.name, before).map(ToOwned::to_owned);
            (after, counts.map(|name| name.endpoint.to_string()))
        };
        let (routes, counts) = contested(&Routes::new([]), "b");
        assert_eq!(counts, None);
        let (routes, counts) = contested(&routes, "b");
        assert_eq!(counts, None);
        let (routes, counts) = contested(&routes, "a");
        assert_eq!(counts.as_deref(), Some("a"));
        let (routes, counts) = contested(&routes, "b");
        assert_eq!(counts, None, "it is known");
        assert_eq!(contested(&routes, "c").1.as_deref(), Some("a"));
    }

    proptest! {
        /// Whatever comes and goes, a host is mapped exactly while a route has it, to the lowest name of those.
        #[test]
        fn hosts_follow_their_routes(steps in prop::collection::vec((0_usize..4, 0_usize..3, any::<bool>()), 0..100)) {
            let mut routes = Routes::new([]);
            let mut held: Vec<Arc<Made>> = Vec::new();
            for (endpoint, host, comes) in steps {
                let (endpoint, host) = (format!("e{endpoint}"), format!("h{host}.example"));
                if comes {
                    let route = made(&endpoint, &[&host], true);
                    routes = add(&routes, &route);
                    held.push(route);
                } else if let Some(at) = held.iter().position(|route| route.name == name(&endpoint)) {
                    routes = remove(&routes, &held.remove(at));
                }
                for host in 0..3 {
                    let host = format!("h{host}.example");
                    let lowest = held.iter().filter(|route| route.hosts[0].as_str() == host).map(|route| &route.name).min();
                    prop_assert_eq!(routes.of_host(&host), lowest);
                }
            }
        }
    }
}
