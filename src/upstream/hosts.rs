//! Whole host names that stand for endpoints: looked up for clients, and kept to one endpoint each.

use std::collections::BTreeSet;

use super::{
    registry::{Name, Upstreams},
    routes::{Route, Routes},
    service::Upstream,
};
use crate::protocol::{Code, Refusal};

impl Upstreams {
    /// The endpoint that a whole host name is mapped to, before its first label is looked at. Reads without a lock.
    pub fn of_host(&self, host: &str) -> Option<Name> {
        let routes = self.inner.routes.load();
        if routes.maps_hosts() { routes.of_host(&host.to_ascii_lowercase()).cloned() } else { None }
    }

    /// Says when a host is mapped to another endpoint as well, by an agent of another node or by this node's configuration.
    pub(super) fn warn_of_contested(&self, name: &Name, before: &Routes<Upstream>) {
        let routes = self.inner.routes.load();
        let hosts: BTreeSet<_> = routes.get(name).iter().flat_map(|upstream| upstream.hosts()).collect();
        for host in hosts {
            if let Some(counts) = routes.contested(host, name, before) {
                let (endpoint, counts) = (&name.endpoint, &counts.endpoint);
                tracing::warn!(%host, %endpoint, %counts, "two endpoints claim a host");
            }
        }
    }

    /// Refuses hosts that are mapped to another endpoint here already.
    pub(super) fn check_hosts(&self, upstream: &Upstream) -> Result<(), Refusal> {
        for host in upstream.hosts() {
            if let Some(other) = self.inner.routes.load().taken(host, &upstream.name) {
                let other = match other.tenant == upstream.name.tenant {
                    true => format!("the endpoint {}", other.endpoint),
                    false => "an endpoint of another tenant".into(),
                };
                return Err(Refusal::new(
                    Code::Invalid,
                    format!("the host {host} is mapped to {other} already"),
                ));
            }
        }
        Ok(())
    }
}
