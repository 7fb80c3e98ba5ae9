//! What a token claims (RFC 7519 §4.1), whether that holds here and now, and what it grants.
//!
//! Pure. `verifier` reads claims only once the signature has been verified. A claim that cannot be understood is refused and
//! never passed over: what it meant to limit would be open otherwise. Claims of others are not looked at.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{Action, Grant, Hosts, Pattern, Refused, Tenants};
use crate::protocol::TenantId;

/// What a port demands of every token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The issuers (`iss`) that are taken; any, and none, when there is none here.
    pub issuers: Vec<String>,
    /// The audiences (`aud`) that this port is. A token that names audiences must name one of these, and when there is one
    /// here, every token must.
    pub audiences: Vec<String>,
    /// By how much the clock of whoever makes tokens may differ.
    pub skew: Duration,
    /// The tenant whose keys these are: tokens are for it, and may not name another. Without it, tokens name theirs.
    pub tenant: Option<TenantId>,
    /// The whole hosts that such a tenant's agents may have stand for their endpoints, whatever its tokens say.
    pub hosts: Vec<Hosts>,
}

impl Rules {
    /// The difference of clocks that is allowed for, unless told otherwise.
    pub const SKEW: Duration = Duration::from_secs(10);

    /// The largest difference that is allowed for, whatever is told.
    pub const MAX_SKEW: Duration = Duration::from_secs(24 * 60 * 60);
}

impl Default for Rules {
    fn default() -> Self {
        Self { issuers: Vec::new(), audiences: Vec::new(), skew: Self::SKEW, tenant: None, hosts: Vec::new() }
    }
}

/// The claims that are looked at.
#[derive(Debug)]
pub(super) struct Claims {
    sub: Option<String>,
    iss: Option<String>,
    aud: Option<OneOrMore>,
    exp: Option<Date>,
    nbf: Option<Date>,
    adit: Option<Adit>,
    piko: Option<Piko>,
}

/// What adit's tokens say of it. Unknown members are refused: a misspelt limit, or one of a newer version, would not hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Adit {
    #[serde(default)]
    endpoints: Option<Vec<Read<Pattern>>>,
    #[serde(default)]
    hosts: Option<Vec<Read<Hosts>>>,
    #[serde(default)]
    actions: Option<Vec<Read<Action>>>,
    #[serde(default)]
    tenant: Option<OneOrMore>,
}

/// What Piko's tokens say of it.
#[derive(Debug, Deserialize)]
struct Piko {
    #[serde(default)]
    endpoints: Vec<Read<Pattern>>,
}

impl Claims {
    /// Reads a token's payload.
    ///
    /// # Errors
    /// [`Refused::Claim`] when it is not JSON or a claim is not what it should be. It says which, and nothing of the token.
    pub(super) fn read(payload: &[u8]) -> Result<Self, Refused> {
        let value: serde_json::Value =
            serde_json::from_slice(payload).map_err(|_| Refused::Malformed("its claims are not JSON"))?;
        let serde_json::Value::Object(claims) = value else {
            return Err(Refused::Malformed("its claims are not a JSON object"));
        };
        // One by one, for the error to name the claim.
        fn claim<T: for<'de> Deserialize<'de>>(
            claims: &serde_json::Map<String, serde_json::Value>,
            name: &'static str,
        ) -> Result<Option<T>, Refused> {
            let value = claims.get(name).filter(|value| !value.is_null());
            value.map(T::deserialize).transpose().map_err(|_| Refused::Claim(name))
        }
        Ok(Self {
            sub: claim(&claims, "sub")?,
            iss: claim(&claims, "iss")?,
            aud: claim(&claims, "aud")?,
            exp: claim(&claims, "exp")?,
            nbf: claim(&claims, "nbf")?,
            adit: claim(&claims, "adit")?,
            piko: claim(&claims, "piko")?,
        })
    }

    /// What they grant at a port of these rules at `now`.
    ///
    /// # Errors
    /// The first rule that they break.
    pub(super) fn grant(self, rules: &Rules, now: SystemTime) -> Result<Grant, Refused> {
        let skew = rules.skew.min(Rules::MAX_SKEW);
        self.check_time(skew, now)?;
        self.check_origin(rules)?;
        let adit = self.adit.unwrap_or_default();
        let endpoints: Vec<Vec<Pattern>> = match (adit.endpoints, self.piko) {
            (Some(endpoints), _) => vec![Read::all(endpoints)],
            // To Piko, an empty list is none.
            (None, Some(Piko { endpoints })) if !endpoints.is_empty() => vec![Read::all(endpoints)],
            (None, _) => Vec::new(),
        };
        let actions = match adit.actions {
            Some(actions) => actions.into_iter().map(|read| read.0).collect(),
            None => Action::implied(!endpoints.is_empty()),
        };
        let named = adit.tenant.is_some() && rules.tenant.is_none();
        let mut hosts = match adit.hosts {
            Some(hosts) => vec![Read::all(hosts)],
            None => Grant::implied_hosts(named || !endpoints.is_empty()),
        };
        if rules.tenant.is_some() {
            hosts.push(rules.hosts.clone());
        }
        Ok(Grant {
            subject: self.sub.map(Into::into),
            tenants: tenants(adit.tenant, rules.tenant.as_ref())?,
            actions,
            endpoints,
            hosts,
            expires: self.exp.map(|date| date.plus(skew)),
        })
    }

    fn check_time(&self, skew: Duration, now: SystemTime) -> Result<(), Refused> {
        if self.exp.as_ref().is_some_and(|date| now >= date.plus(skew)) {
            return Err(Refused::Expired);
        }
        // The skew is put on the other side, for times near the epoch.
        if self.nbf.as_ref().is_some_and(|date| now + skew < date.plus(Duration::ZERO)) {
            return Err(Refused::NotYetValid);
        }
        Ok(())
    }

    fn check_origin(&self, rules: &Rules) -> Result<(), Refused> {
        match &self.iss {
            _ if rules.issuers.is_empty() => {}
            None => return Err(Refused::Issuer { given: false }),
            Some(issuer) if rules.issuers.contains(issuer) => {}
            Some(_) => return Err(Refused::Issuer { given: true }),
        }
        match &self.aud {
            None if rules.audiences.is_empty() => Ok(()),
            None => Err(Refused::Audience { given: false }),
            // Whoever is not among the audiences must not take the token (RFC 7519 §4.1.3).
            Some(OneOrMore(given)) if given.iter().any(|one| rules.audiences.contains(one)) => Ok(()),
            Some(_) => Err(Refused::Audience { given: true }),
        }
    }
}

/// The tenants of a token whose claim is this and whose key belongs to that tenant.
fn tenants(claim: Option<OneOrMore>, of_key: Option<&TenantId>) -> Result<Tenants, Refused> {
    let claimed = match claim {
        None => return Ok(of_key.map_or_else(Tenants::default, |tenant| Tenants::one(tenant.clone()))),
        Some(OneOrMore(names)) if names == ["*"] => Tenants::Any,
        Some(OneOrMore(names)) => {
            let read: Result<_, _> = names.iter().map(|name| TenantId::new(name)).collect();
            Tenants::Some(read.map_err(|_| Refused::Claim("adit.tenant"))?)
        }
    };
    match of_key {
        None if claimed == Tenants::Some(Vec::new()) => Err(Refused::Claim("adit.tenant")),
        None => Ok(claimed),
        Some(tenant) if claimed.contain(tenant) => Ok(Tenants::one(tenant.clone())),
        Some(_) => Err(Refused::UnknownTenant { asked: true }),
    }
}

/// A text, or a list of texts.
#[derive(Debug)]
struct OneOrMore(Vec<String>);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            One(String),
            More(Vec<String>),
        }
        Ok(Self(match Either::deserialize(deserializer)? {
            Either::One(one) => vec![one],
            Either::More(more) => more,
        }))
    }
}

/// A value that is read from a text.
#[derive(Debug)]
struct Read<T>(T);

impl<T> Read<T> {
    fn all(list: Vec<Self>) -> Vec<T> {
        list.into_iter().map(|read| read.0).collect()
    }
}

impl<'de, T: std::str::FromStr> Deserialize<'de> for Read<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|_| D::Error::custom("it is not one"))
    }
}

/// A NumericDate: seconds since the epoch, possibly with a fraction (RFC 7519 §2).
#[derive(Debug)]
struct Date(Duration);

/// The year 9999 ends here, in seconds; what is beyond is as good as never and fits no clock.
const LAST: f64 = 253_402_300_799.0;

impl Date {
    fn plus(&self, skew: Duration) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0 + skew
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if !seconds.is_finite() {
            return Err(D::Error::custom("it is no date"));
        }
        Ok(Self(Duration::from_secs_f64(seconds.clamp(0.0, LAST))))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::protocol::{EndpointId, HostPattern};

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn grant(claims: Value, rules: &Rules, now: u64) -> Result<Grant, Refused> {
        Claims::read(claims.to_string().as_bytes())?.grant(rules, at(now))
    }

    fn rules() -> Rules {
        Rules { skew: Duration::from_secs(5), ..Rules::default() }
    }

    fn permits(claims: Value, action: Action, endpoint: &str) -> bool {
        let grant = grant(claims, &rules(), 1000).unwrap();
        grant.permits(action, &EndpointId::new(endpoint).unwrap()).is_ok()
    }

    #[test]
    fn time_has_two_ends_and_a_skew_on_each() {
        let claims = || json!({ "exp": 1000, "nbf": 500 });
        assert_eq!(grant(claims(), &rules(), 494), Err(Refused::NotYetValid));
        assert_eq!(grant(claims(), &rules(), 495).unwrap().expires, Some(at(1005)));
        assert!(grant(claims(), &rules(), 1004).is_ok());
        assert_eq!(grant(claims(), &rules(), 1005), Err(Refused::Expired));
        assert_eq!(grant(json!({}), &rules(), 0).unwrap().expires, None);
        // Fractions, and dates that no clock reaches.
        assert_eq!(grant(json!({ "exp": 999.5 }), &rules(), 1005), Err(Refused::Expired));
        assert!(grant(json!({ "exp": 1e300 }), &rules(), 1000).unwrap().expires.is_some());
        assert_eq!(grant(json!({ "exp": -1 }), &rules(), 1000), Err(Refused::Expired));
        assert_eq!(grant(json!({ "nbf": 1e300 }), &rules(), 1000), Err(Refused::NotYetValid));
        let endless = Rules { skew: Duration::MAX, ..rules() };
        assert!(grant(json!({ "exp": 1e300, "nbf": 1000 }), &endless, 1000).is_ok());
        assert_eq!(grant(json!({ "exp": 1 }), &endless, 90_000), Err(Refused::Expired));
    }

    #[test]
    fn issuer_and_audience_are_held_to_when_they_are_asked_for() {
        let rules =
            Rules { issuers: vec!["us".into()], audiences: vec!["edge".into(), "all".into()], ..rules() };
        let with = |iss: Value, aud: Value| grant(json!({ "iss": iss, "aud": aud }), &rules, 0).err();
        assert_eq!(with(json!("us"), json!("edge")), None);
        assert_eq!(with(json!("us"), json!(["other", "all"])), None);
        assert_eq!(with(json!("them"), json!("edge")), Some(Refused::Issuer { given: true }));
        assert_eq!(with(Value::Null, json!("edge")), Some(Refused::Issuer { given: false }));
        assert_eq!(with(json!("us"), json!("other")), Some(Refused::Audience { given: true }));
        assert_eq!(with(json!("us"), json!([])), Some(Refused::Audience { given: true }));
        assert_eq!(with(json!("us"), Value::Null), Some(Refused::Audience { given: false }));
        assert_eq!(with(json!("US"), json!("edge")), Some(Refused::Issuer { given: true }));
    }

    #[test]
    fn a_token_for_others_is_not_taken_by_a_port_without_a_name() {
        let for_others = grant(json!({ "aud": "other" }), &rules(), 0);
        assert_eq!(for_others, Err(Refused::Audience { given: true }));
    }

    #[test]
    fn endpoints_that_are_not_named_are_all_and_an_empty_list_is_none() {
        use Action::{Admin, Connect, Serve};
        assert!(permits(json!({}), Admin, "web"));
        assert!(permits(json!({ "adit": {} }), Serve, "web"));
        assert!(permits(json!({ "adit": { "endpoints": ["web", "api-*"] } }), Serve, "api-1"));
        assert!(!permits(json!({ "adit": { "endpoints": ["web", "api-*"] } }), Connect, "db"));
        assert!(!permits(json!({ "adit": { "endpoints": ["web"] } }), Admin, "web"));
        assert!(!permits(json!({ "adit": { "endpoints": [] } }), Connect, "web"));
        assert!(!permits(json!({ "adit": { "actions": ["connect"] } }), Serve, "web"));
        assert!(!permits(json!({ "adit": { "actions": [] } }), Connect, "web"));
        assert!(permits(json!({ "adit": { "endpoints": ["web"], "actions": ["admin"] } }), Admin, "web"));
    }

    #[test]
    fn piko_tokens_mean_what_they_mean_to_piko() {
        use Action::Connect;
        assert!(permits(json!({ "piko": { "endpoints": ["web"] } }), Connect, "web"));
        assert!(!permits(json!({ "piko": { "endpoints": ["web"] } }), Connect, "db"));
        assert!(permits(json!({ "piko": { "endpoints": [] } }), Connect, "db"));
        assert!(permits(json!({ "piko": { "more": 1 } }), Connect, "db"));
        // What is said in adit's terms counts.
        let both = json!({ "piko": { "endpoints": ["web"] }, "adit": { "endpoints": ["db"] } });
        assert!(permits(both.clone(), Connect, "db") && !permits(both, Connect, "web"));
        let limited = json!({ "piko": { "endpoints": ["web"] }, "adit": { "actions": ["connect"] } });
        assert!(!permits(limited, Connect, "db"));
    }

    #[test]
    fn hosts_are_those_that_are_named_and_none_of_a_token_that_is_limited_otherwise() {
        let of = |adit: Value, tenant: Option<&str>, theirs: &[&str], host: &str| {
            let rules = Rules {
                tenant: tenant.map(|name| TenantId::new(name).unwrap()),
                hosts: theirs.iter().map(|text| text.parse().unwrap()).collect(),
                ..rules()
            };
            let host = HostPattern::new(host).unwrap();
            grant(json!({ "adit": adit }), &rules, 0).unwrap().permits_host(&host).is_ok()
        };
        let own = |adit: Value, host: &str| of(adit, None, &[], host);
        assert!(own(json!({}), "a.com") && own(json!({ "actions": ["serve"] }), "*.com"));
        assert!(!own(json!({ "endpoints": ["web"] }), "a.com") && !own(json!({ "tenant": "a" }), "a.com"));
        for limited in [json!(["a.com", "*.b.com"]), json!(["*.b.com", "a.com"])] {
            let adit = json!({ "tenant": "a", "endpoints": ["web"], "hosts": limited });
            assert!(
                own(adit.clone(), "a.com") && own(adit.clone(), "x.b.com") && own(adit.clone(), "*.y.b.com")
            );
            assert!(!own(adit.clone(), "b.com") && !own(adit.clone(), "x.a.com") && !own(adit, "*.com"));
        }
        assert!(
            own(json!({ "tenant": "a", "hosts": ["*"] }), "*.com") && !own(json!({ "hosts": [] }), "a.com")
        );
        // Keys of a tenant vouch for the hosts that the node's file names.
        assert!(!of(json!({ "hosts": ["*"] }), Some("a"), &[], "a.com"));
        assert!(of(json!({}), Some("a"), &["a.com"], "a.com"));
        assert!(of(json!({ "tenant": "a" }), Some("a"), &["a.com"], "a.com"));
        assert!(!of(json!({ "endpoints": ["web"] }), Some("a"), &["a.com"], "a.com"));
        assert!(!of(json!({ "hosts": ["b.com"] }), Some("a"), &["a.com", "b.com"], "a.com"));
    }

    #[test]
    fn the_tenant_is_the_tokens_within_that_of_the_key() {
        let tenant = |name: &str| TenantId::new(name).unwrap();
        let tenants = |claim: Value, of_key: Option<&str>| {
            let rules = Rules { tenant: of_key.map(tenant), ..rules() };
            grant(json!({ "adit": { "tenant": claim } }), &rules, 0).map(|grant| grant.tenants)
        };
        assert_eq!(tenants(Value::Null, None), Ok(Tenants::one(TenantId::default())));
        assert_eq!(tenants(json!("a"), None), Ok(Tenants::one(tenant("a"))));
        assert_eq!(tenants(json!(["a", "b"]), None), Ok(Tenants::Some(vec![tenant("a"), tenant("b")])));
        assert_eq!(tenants(json!("*"), None), Ok(Tenants::Any));
        assert_eq!(tenants(Value::Null, Some("a")), Ok(Tenants::one(tenant("a"))));
        assert_eq!(tenants(json!("a"), Some("a")), Ok(Tenants::one(tenant("a"))));
        assert_eq!(tenants(json!("*"), Some("a")), Ok(Tenants::one(tenant("a"))));
        assert_eq!(tenants(json!("b"), Some("a")), Err(Refused::UnknownTenant { asked: true }));
        for bad in [json!([]), json!("a b"), json!(["a", "*"]), json!(7)] {
            let refused = tenants(bad.clone(), None).unwrap_err();
            assert!(matches!(refused, Refused::Claim("adit.tenant" | "adit")), "{bad}: {refused}");
        }
    }

    #[test]
    fn a_claim_that_is_not_understood_is_refused_by_its_name() {
        for (claims, name) in [
            (json!({ "exp": "tomorrow" }), "exp"),
            (json!({ "nbf": [1] }), "nbf"),
            (json!({ "iss": 7 }), "iss"),
            (json!({ "aud": { "a": 1 } }), "aud"),
            (json!({ "adit": { "endpoint": ["web"] } }), "adit"),
            (json!({ "adit": { "endpoints": "web" } }), "adit"),
            (json!({ "adit": { "endpoints": ["a/b"] } }), "adit"),
            (json!({ "adit": { "actions": ["delete"] } }), "adit"),
            (json!({ "adit": ["web"] }), "adit"),
            (json!({ "piko": { "endpoints": [7] } }), "piko"),
        ] {
            assert_eq!(grant(claims.clone(), &rules(), 0), Err(Refused::Claim(name)), "{claims}");
        }
        for not_claims in ["", "7", "[]", "{", "null", "\u{0}"] {
            let refused = Claims::read(not_claims.as_bytes()).err();
            assert!(matches!(refused, Some(Refused::Malformed(_))), "{not_claims:?}");
        }
    }
}
