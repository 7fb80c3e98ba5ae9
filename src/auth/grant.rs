//! What a caller may do: the meaning of its credentials, whatever they were.
//!
//! Pure. Made by `verifier` from a token and by `certificates` from a client certificate; asked by whoever opens a link, a
//! listener or a flow. What it does not name it does not limit, but for tenants: who names none has the default one.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc, time::SystemTime};

use crate::protocol::{EndpointId, HostPattern, InvalidHost, InvalidId, TenantId};

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// To serve an endpoint, as agents do.
    Serve,
    /// To reach an endpoint, as clients and forwarders do.
    Connect,
    /// To see and change what a node does.
    Admin,
}

impl Action {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::Serve, Self::Connect, Self::Admin];

    /// What credentials permit that name no action. `admin` is about the node and so about all endpoints: credentials that are
    /// `limited` to some do not permit it unless they name it.
    pub fn implied(limited: bool) -> BTreeSet<Self> {
        let implied = |action: &Self| !limited || *action != Self::Admin;
        Self::ALL.into_iter().filter(implied).collect()
    }

    /// The name in a token.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Connect => "connect",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Action {
    type Err = UnknownAction;
    fn from_str(text: &str) -> Result<Self, UnknownAction> {
        Self::ALL.into_iter().find(|action| action.name() == text).ok_or(UnknownAction)
    }
}

/// A text is no [`Action`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected serve, connect or admin")]
pub struct UnknownAction;

/// Some endpoints: one by its name, those that begin with `prefix-*`, or all, `*`. Like names, without regard to case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    prefix: bool,
}

impl Pattern {
    /// Whether an endpoint is one of them.
    pub fn matches(&self, endpoint: &EndpointId) -> bool {
        match self.prefix {
            true => endpoint.as_str().starts_with(&*self.text),
            false => endpoint.as_str() == &*self.text,
        }
    }
}

impl FromStr for Pattern {
    type Err = InvalidId;

    /// Reads a name, or the beginning of one and `*`.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text == "*" {
            return Ok(Self { text: "".into(), prefix: true });
        }
        let (name, prefix) = match text.strip_suffix('*') {
            Some(beginning) => (beginning, true),
            None => (text, false),
        };
        Ok(Self { text: EndpointId::new(name)?.as_str().into(), prefix })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.prefix { "*" } else { "" })
    }
}

/// Whole hosts that an agent may have stand for its endpoints: one, those below one, `*.NAME`, or all, `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts(Option<HostPattern>);

impl Hosts {
    /// Whether all that the pattern stands for are among them.
    pub fn cover(&self, host: &HostPattern) -> bool {
        self.0.as_ref().is_none_or(|own| own.covers(host))
    }
}

impl FromStr for Hosts {
    type Err = InvalidHost;

    /// Reads a host name, `*.` and one, or `*`.
    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        if text == "*" { Ok(Self(None)) } else { HostPattern::new(text).map(|host| Self(Some(host))) }
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_ref().map_or("*", HostPattern::as_str))
    }
}

/// The tenants that a caller may act in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenants {
    /// Every one.
    Any,
    /// These, in order of preference; possibly none.
    Some(Vec<TenantId>),
}

impl Tenants {
    /// One alone.
    pub fn one(tenant: TenantId) -> Self {
        Self::Some(vec![tenant])
    }

    /// Whether this is one of them.
    pub fn contain(&self, tenant: &TenantId) -> bool {
        match self {
            Self::Any => true,
            Self::Some(list) => list.contains(tenant),
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Any, tenants) | (tenants, Self::Any) => tenants,
            (Self::Some(mut list), Self::Some(other)) => {
                list.retain(|tenant| other.contains(tenant));
                Self::Some(list)
            }
        }
    }
}

impl Default for Tenants {
    fn default() -> Self {
        Self::one(TenantId::default())
    }
}

/// What a caller may do, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whose it is, for logs: a token's `sub`, or a certificate's subject.
    pub subject: Option<Arc<str>>,
    /// Where it may act.
    pub tenants: Tenants,
    /// What it may do.
    pub actions: BTreeSet<Action>,
    /// Limits on the endpoints, each of which one of its patterns must match. No limit when there is none.
    pub endpoints: Vec<Vec<Pattern>>,
    /// Limits on the whole hosts that stand for endpoints, each of which one of its members must cover. As `endpoints`.
    pub hosts: Vec<Vec<Hosts>>,
    /// The first moment at which it holds no longer.
    pub expires: Option<SystemTime>,
}

impl Default for Grant {
    /// Everything, in the default tenant, for ever: what a port without authentication permits.
    fn default() -> Self {
        Self {
            subject: None,
            tenants: Tenants::default(),
            actions: Action::ALL.into(),
            endpoints: Vec::new(),
            hosts: Vec::new(),
            expires: None,
        }
    }
}

impl Grant {
    /// Whether the action may be done at all.
    ///
    /// # Errors
    /// [`NotPermitted::Action`].
    pub fn may(&self, action: Action) -> Result<(), NotPermitted> {
        if self.actions.contains(&action) { Ok(()) } else { Err(NotPermitted::Action(action)) }
    }

    /// Whether the action may be done to an endpoint, in whichever of its tenants.
    ///
    /// # Errors
    /// [`NotPermitted::Action`] or [`NotPermitted::Endpoint`].
    pub fn permits(&self, action: Action, endpoint: &EndpointId) -> Result<(), NotPermitted> {
        self.may(action)?;
        let within = |limit: &Vec<Pattern>| limit.iter().any(|pattern| pattern.matches(endpoint));
        if self.endpoints.iter().all(within) { Ok(()) } else { Err(NotPermitted::Endpoint(endpoint.clone())) }
    }

    /// Whether an endpoint that is served may have a whole host stand for it.
    ///
    /// # Errors
    /// [`NotPermitted::Host`].
    pub fn permits_host(&self, host: &HostPattern) -> Result<(), NotPermitted> {
        let within = |limit: &Vec<Hosts>| limit.iter().any(|hosts| hosts.cover(host));
        if self.hosts.iter().all(within) { Ok(()) } else { Err(NotPermitted::Host(host.clone())) }
    }

    /// The limits on hosts of credentials that name none, where whoever made them thought of tenants or of some endpoints
    /// alone: none is theirs. Hosts are shared by all tenants and come before endpoints' names, so that whoever may have any
    /// has the requests of others.
    pub fn implied_hosts(limited: bool) -> Vec<Vec<Hosts>> {
        if limited { vec![Vec::new()] } else { Vec::new() }
    }

    /// The tenant to act in: the one that is `asked` for, by a header or a host, if it is one of the caller's; when none is
    /// asked for, the caller's first.
    ///
    /// # Errors
    /// [`NotPermitted::Tenant`] when it asks for another, [`NotPermitted::NoTenant`] when it has none.
    pub fn tenant(&self, asked: Option<&TenantId>) -> Result<TenantId, NotPermitted> {
        match (asked, &self.tenants) {
            (Some(asked), tenants) if tenants.contain(asked) => Ok(asked.clone()),
            (Some(asked), _) => Err(NotPermitted::Tenant(asked.clone())),
            (None, Tenants::Any) => Ok(TenantId::default()),
            (None, Tenants::Some(list)) => list.first().cloned().ok_or(NotPermitted::NoTenant),
        }
    }

    /// What both permit: a token that came over a connection with a client certificate.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            subject: self.subject.or(other.subject),
            tenants: self.tenants.and(other.tenants),
            actions: &self.actions & &other.actions,
            endpoints: [self.endpoints, other.endpoints].concat(),
            hosts: [self.hosts, other.hosts].concat(),
            expires: match (self.expires, other.expires) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            },
        }
    }
}

/// Why good credentials do not permit something: which part of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPermitted {
    /// They are not for this.
    #[error("the action `{0}` is not permitted (adit.actions)")]
    Action(Action),
    /// They are for other endpoints. Whether the endpoint exists is not said.
    #[error("the endpoint {0} is not permitted (adit.endpoints)")]
    Endpoint(EndpointId),
    /// They are for other hosts.
    #[error("the host {0} is not permitted (adit.hosts)")]
    Host(HostPattern),
    /// The host belongs to the names of tenants' endpoints, and of another tenant.
    #[error(
        "the host {0} is not of this tenant, below the domain whose hosts name tenants (--tenant-domain)"
    )]
    HostOfTenants(HostPattern),
    /// They are of another tenant.
    #[error("the tenant {0} is not permitted (adit.tenant)")]
    Tenant(TenantId),
    /// They are of no tenant at all: a token and a certificate of different ones.
    #[error("the credentials have no tenant in common (adit.tenant)")]
    NoTenant,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn endpoint(name: &str) -> EndpointId {
        EndpointId::new(name).unwrap()
    }

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn patterns_are_names_or_beginnings() {
        for (pattern, yes, no) in [
            ("web", "web", "web-1"),
            ("WEB", "web", "we"),
            ("web-*", "web-", "web"),
            ("web-*", "web-1", "xweb-1"),
            ("w*", "W", "v"),
        ] {
            let read: Pattern = pattern.parse().unwrap();
            assert!(read.matches(&endpoint(yes)), "{pattern} {yes}");
            assert!(!read.matches(&endpoint(no)), "{pattern} {no}");
            assert_eq!(read.to_string(), pattern.to_lowercase());
        }
        assert!("*".parse::<Pattern>().unwrap().matches(&endpoint("anything")));
        for bad in ["", "**", "a*b", "*a", "a b", "web/*", "?"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_grant_without_limits_permits_everything_in_the_default_tenant() {
        let grant = Grant::default();
        for action in Action::ALL {
            assert_eq!(grant.permits(action, &endpoint("web")), Ok(()));
        }
        assert_eq!(grant.tenant(None), Ok(TenantId::default()));
        let other = TenantId::new("other").unwrap();
        assert_eq!(grant.tenant(Some(&other)), Err(NotPermitted::Tenant(other)));
    }

    #[test]
    fn admin_is_implied_only_by_what_is_not_limited_to_some_endpoints() {
        assert_eq!(Action::implied(false), Action::ALL.into());
        assert_eq!(Action::implied(true), [Action::Serve, Action::Connect].into());
    }

    #[test]
    fn refusals_say_which_part_of_the_credentials() {
        let grant = Grant {
            endpoints: vec![patterns(&["web", "api-*"])],
            actions: [Action::Connect].into(),
            ..Grant::default()
        };
        assert_eq!(grant.permits(Action::Connect, &endpoint("api-7")), Ok(()));
        let refused = grant.permits(Action::Connect, &endpoint("db")).unwrap_err();
        assert_eq!(refused.to_string(), "the endpoint db is not permitted (adit.endpoints)");
        let refused = grant.permits(Action::Serve, &endpoint("web")).unwrap_err();
        assert_eq!(refused.to_string(), "the action `serve` is not permitted (adit.actions)");
    }

    fn tenants() -> impl Strategy<Value = Tenants> {
        let names = proptest::sample::subsequence(vec!["a", "b", "c", "default"], 0..=4);
        let some = names.prop_shuffle().prop_map(|names| {
            Tenants::Some(names.into_iter().map(|name| TenantId::new(name).unwrap()).collect())
        });
        prop_oneof![1 => Just(Tenants::Any), 6 => some]
    }

    fn grants() -> impl Strategy<Value = Grant> {
        let limit = proptest::sample::subsequence(vec!["a", "b", "ab", "a*", "b-*", "*"], 0..=3);
        let limits = proptest::collection::vec(limit.prop_map(|texts| patterns(&texts)), 0..3);
        let actions = proptest::sample::subsequence(Action::ALL.to_vec(), 0..=3);
        (tenants(), limits, actions, proptest::option::of(0..100_u64)).prop_map(
            |(tenants, endpoints, actions, expires)| Grant {
                hosts: Vec::new(),
                subject: None,
                tenants,
                endpoints,
                actions: actions.into_iter().collect(),
                expires: expires.map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s)),
            },
        )
    }

    const NAMES: [&str; 6] = ["a", "b", "ab", "b-1", "c", "abc"];

    proptest! {
        /// Nobody gets a tenant that is not theirs, whatever they ask for.
        #[test]
        fn a_tenant_is_always_one_of_the_callers(
            grant in grants(), asked in proptest::option::of(proptest::sample::select(vec!["a", "b", "c", "d", "default"])),
        ) {
            let asked = asked.map(|name| TenantId::new(name).unwrap());
            match grant.tenant(asked.as_ref()) {
                Ok(tenant) => {
                    prop_assert!(grant.tenants.contain(&tenant));
                    prop_assert!(asked.is_none_or(|asked| asked == tenant));
                }
                Err(_) => match (asked, &grant.tenants) {
                    (Some(asked), tenants) => prop_assert!(!tenants.contain(&asked)),
                    (None, tenants) => prop_assert_eq!(tenants, &Tenants::Some(Vec::new())),
                },
            }
        }

        /// Two credentials together permit exactly what each of them does.
        #[test]
        fn both_permit_what_each_permits(one in grants(), other in grants()) {
            let both = one.clone().and(other.clone());
            for action in Action::ALL {
                for name in NAMES {
                    let permits = |grant: &Grant| grant.permits(action, &endpoint(name)).is_ok();
                    prop_assert_eq!(permits(&both), permits(&one) && permits(&other), "{} {}", action, name);
                }
            }
            for tenant in ["a", "b", "c", "d", "default"] {
                let tenant = TenantId::new(tenant).unwrap();
                let has = |grant: &Grant| grant.tenants.contain(&tenant);
                prop_assert_eq!(has(&both), has(&one) && has(&other));
            }
            let ends = [one.expires, other.expires].into_iter().flatten().min();
            prop_assert_eq!(both.expires, ends);
        }
    }
}
