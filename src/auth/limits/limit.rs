//! What can be limited, for whom: the one table of it, and what whoever reaches a limit is told.

use std::{fmt, num::NonZeroU64, time::Duration};

use super::rate::TooOften;

/// Whose share a limit bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// An address that clients come from; of IPv6, its first 64 bits.
    Client,
    /// The process on a link: an agent or a forwarder.
    Agent,
    /// An endpoint, by its tenant and name.
    Endpoint,
    /// A tenant.
    Tenant,
}

/// What it bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    /// Links that are open at once.
    Links,
    /// Requests in flight, TCP flows, WebSockets and UDP associations that are open at once.
    Flows,
    /// New requests, flows and links a second.
    Requests,
    /// Bytes a second, both ways together.
    Bytes,
    /// Endpoints that are served at once.
    Endpoints,
}

/// What there is to be limited for each. A link is of one process, which has one at a node but while a newer takes its place;
/// only agents and their tenants serve; and an endpoint has no links.
const TABLE: [(Scope, &[What]); 4] = [
    (Scope::Client, &[What::Links, What::Flows, What::Requests, What::Bytes]),
    (Scope::Agent, &[What::Flows, What::Requests, What::Bytes, What::Endpoints]),
    (Scope::Endpoint, &[What::Flows, What::Requests, What::Bytes]),
    (Scope::Tenant, &[What::Links, What::Flows, What::Requests, What::Bytes, What::Endpoints]),
];

/// One limit of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    scope: Scope,
    what: What,
    most: NonZeroU64,
}

/// There is no such limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no limit {name:?}; there are {}", names())]
pub struct UnknownLimit {
    name: String,
}

impl Limit {
    /// At most so many for each; `name` is `SCOPE.WHAT`.
    ///
    /// # Errors
    /// When the table has no such limit.
    pub fn new(name: &str, most: NonZeroU64) -> Result<Self, UnknownLimit> {
        let mut all = all();
        let (scope, what) = all
            .find(|(scope, what)| name == format!("{scope}.{what}"))
            .ok_or_else(|| UnknownLimit { name: name.into() })?;
        Ok(Self { scope, what, most })
    }

    /// Whose share it bounds.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// What it bounds.
    pub fn what(&self) -> What {
        self.what
    }

    /// How many there may be.
    pub fn most(&self) -> NonZeroU64 {
        self.most
    }
}

fn all() -> impl Iterator<Item = (Scope, What)> {
    TABLE.into_iter().flat_map(|(scope, whats)| whats.iter().map(move |what| (scope, *what)))
}

fn names() -> String {
    all().map(|(scope, what)| format!("{scope}.{what}")).collect::<Vec<_>>().join(", ")
}

impl Scope {
    /// Its name, in flags and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Agent => "agent",
            Self::Endpoint => "endpoint",
            Self::Tenant => "tenant",
        }
    }

    fn one(self) -> &'static str {
        match self {
            Self::Client => "one client address",
            Self::Agent => "one agent or forwarder",
            Self::Endpoint => "one endpoint",
            Self::Tenant => "one tenant",
        }
    }
}

impl What {
    /// Its name, in flags and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Links => "links",
            Self::Flows => "flows",
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::Endpoints => "endpoints",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    limit: Limit,
    /// Until it may be tried again, where that is known.
    wait: Option<TooOften>,
}

impl Limited {
    pub(super) fn new(limit: Limit, wait: Option<TooOften>) -> Self {
        Self { limit, wait }
    }

    /// The limit.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self.limit.what {
            What::Links => "too_many_links",
            What::Flows => "too_many_flows",
            // A rate of bytes delays, and refuses nobody.
            What::Requests | What::Bytes => "too_many_requests",
            What::Endpoints => "too_many_endpoints",
        }
    }

    /// The seconds of a `Retry-After` field (RFC 9110 §10.2.3): 1 at least, and where nobody knows when something ends.
    pub fn retry_after(&self) -> u64 {
        self.wait.unwrap_or(TooOften { wait: Duration::ZERO }).retry_after()
    }
}

impl std::error::Error for Limited {}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limit { scope, what, most } = self.limit;
        let (how, when) = match (what, self.wait) {
            (What::Requests | What::Bytes, _) => (" a second", format!("in {} s", self.retry_after())),
            _ => (" at once", "when one has ended".into()),
        };
        write!(f, "{scope}.{what} is limited to {most}{how} for {}: try again {when}", scope.one())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(name: &str) -> Limit {
        Limit::new(name, NonZeroU64::new(5).unwrap()).unwrap()
    }

    #[test]
    fn what_there_is_can_be_named_and_nothing_else() {
        let (all, names) = (all().collect::<Vec<_>>(), names());
        assert_eq!(all.len(), 16);
        for (name, (scope, what)) in names.split(", ").zip(all) {
            assert_eq!((limit(name).scope(), limit(name).what()), (scope, what));
        }
        for name in [
            "client.endpoints",
            "agent.links",
            "endpoint.links",
            "endpoint.endpoints",
            "clients.flows",
            "client",
            "",
        ] {
            let error = Limit::new(name, NonZeroU64::MIN).unwrap_err().to_string();
            assert!(error.contains(&format!("{name:?}")) && error.contains(&names), "{error}");
        }
    }

    #[test]
    fn whoever_reaches_a_limit_is_told_which_and_when_to_try_again() {
        let wait = TooOften { wait: Duration::from_millis(1500) };
        let requests = Limited::new(limit("client.requests"), Some(wait));
        assert_eq!(
            requests.to_string(),
            "client.requests is limited to 5 a second for one client address: try again in 2 s"
        );
        assert_eq!((requests.code(), requests.retry_after()), ("too_many_requests", 2));
        let links = Limited::new(limit("tenant.links"), None);
        assert_eq!(
            links.to_string(),
            "tenant.links is limited to 5 at once for one tenant: try again when one has ended"
        );
        assert_eq!((links.code(), links.retry_after()), ("too_many_links", 1));
    }
}
