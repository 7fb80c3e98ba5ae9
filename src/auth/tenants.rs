//! Which tenant a caller acts in.
//!
//! Pure. Credentials say whose a caller is; a header field or a host only chooses among the tenants that they permit. At a port
//! without credentials it chooses freely: tenants are addresses there, and no boundary.

use std::{collections::BTreeMap, time::SystemTime};

use http::{HeaderMap, HeaderName};

use super::{Grant, NotPermitted, Refused, Rules, Verifier};
use crate::protocol::{HostPattern, TenantId};

/// Where a request may say which tenant it is for.
#[derive(Debug, Clone, Default)]
pub struct TenantRules {
    /// Header fields with the tenant's name; the first that is there counts.
    pub headers: Vec<HeaderName>,
    /// Domains below which hosts are `endpoint.tenant.domain` or `endpoint.domain`, in lower case.
    pub domains: Vec<String>,
}

/// What a host says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostNames<'a> {
    /// The first label.
    pub endpoint: &'a str,
    /// The second, where there is one.
    pub tenant: Option<&'a str>,
}

impl TenantRules {
    /// What a host without its port says, if it is one below a domain with one or two labels before that.
    pub fn of_host<'a>(&self, host: &'a str) -> Option<HostNames<'a>> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let below = |domain: &String| {
            let (rest, end) = host.split_at_checked(host.len().checked_sub(domain.len())?)?;
            end.eq_ignore_ascii_case(domain).then_some(rest)?.strip_suffix('.')
        };
        // The longest, so that a domain below another is not taken for a tenant's.
        let rest = self.domains.iter().filter_map(below).min_by_key(|rest| rest.len())?;
        let names = match rest.split_once('.') {
            Some((endpoint, tenant)) => HostNames { endpoint, tenant: Some(tenant) },
            None => HostNames { endpoint: rest, tenant: None },
        };
        let whole = |label: &str| !label.is_empty() && !label.contains('.');
        (whole(names.endpoint) && names.tenant.is_none_or(whole)).then_some(names)
    }

    /// Whether a whole host may stand for an endpoint of a tenant. Below these domains hosts say whose they are, so there a
    /// tenant has what is below its own name, and the default one what names no other.
    ///
    /// # Errors
    /// [`NotPermitted::HostOfTenants`].
    pub fn permits_host(&self, tenant: &TenantId, host: &HostPattern) -> Result<(), NotPermitted> {
        let key = host.key();
        let within = |domain: &&String| key == *domain || key.ends_with(&format!(".{domain}"));
        let above = |domain: &String| key.starts_with('.') && format!(".{domain}").ends_with(key);
        // The longest, as in `of_host`.
        let own = self.domains.iter().filter(within).max_by_key(|domain| domain.len()).is_none_or(|domain| {
            if *tenant == TenantId::default() {
                !key.starts_with('.') && self.of_host(key).is_none_or(|names| names.tenant.is_none())
            } else {
                key.ends_with(&format!(".{tenant}.{domain}"))
            }
        });
        if own && !self.domains.iter().any(above) {
            Ok(())
        } else {
            Err(NotPermitted::HostOfTenants(host.clone()))
        }
    }

    /// The tenant that a request asks for: its header's, else its host's, in lower case as hosts have no other.
    ///
    /// # Errors
    /// [`Refused::InvalidTenant`] when a field is there twice, or what stands in the place of a tenant is no name.
    pub fn asked(&self, headers: &HeaderMap, host: Option<&str>) -> Result<Option<TenantId>, Refused> {
        for name in &self.headers {
            let mut values = headers.get_all(name).iter();
            if let Some(value) = values.next() {
                let only = if values.next().is_none() { value.to_str().ok() } else { None };
                let tenant = only.and_then(|text| TenantId::new(text).ok());
                return tenant.map(Some).ok_or(Refused::InvalidTenant("the field is not one name"));
            }
        }
        let tenant = host.and_then(|host| self.of_host(host)).and_then(|names| names.tenant);
        let tenant = tenant.map(|tenant| TenantId::new(&tenant.to_ascii_lowercase()));
        tenant.transpose().map_err(|_| Refused::InvalidTenant("the host has none's name"))
    }
}

/// Who verifies the tokens of a port: its own keys, which vouch for whatever tenant a token names, and keys of tenants, each of
/// which vouches for that tenant alone.
#[derive(Debug, Clone)]
pub struct Verifiers {
    own: Option<Verifier>,
    tenants: BTreeMap<TenantId, Verifier>,
}

/// Somebody whose credentials are good, in the tenant in which they act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// What they may do.
    pub grant: Grant,
    /// Where.
    pub tenant: TenantId,
}

impl Verifiers {
    /// Verifiers of a port. Those of tenants hold tokens to their tenant, whatever their rules say of it.
    pub fn new(own: Option<Verifier>, tenants: impl IntoIterator<Item = (TenantId, Verifier)>) -> Self {
        let held_to = |(tenant, verifier): (TenantId, Verifier)| {
            let rules = Rules { tenant: Some(tenant.clone()), ..verifier.rules().clone() };
            (tenant, verifier.with_rules(rules))
        };
        Self { own, tenants: tenants.into_iter().map(held_to).collect() }
    }

    /// Who shows this token, and asks for this tenant. Waits for newer keys as [`Verifier::verify_fresh`] does. Cancel safe.
    ///
    /// # Errors
    /// Why the token is not taken, or not for that tenant; [`Refused::UnknownTenant`] when nobody could vouch for it.
    pub async fn caller(
        &self,
        token: &str,
        asked: Option<&TenantId>,
        now: SystemTime,
    ) -> Result<Caller, Refused> {
        let of_tenant = asked.and_then(|tenant| self.tenants.get(tenant));
        let grant = match (of_tenant, &self.own) {
            (Some(theirs), own) => match (theirs.verify_fresh(token, now).await, own) {
                (Err(refused), Some(own)) if refused.is_of_another_key() => {
                    let outcome = own.verify_fresh(token, now).await;
                    // Of two that do not know its key, the one that was asked for says so.
                    outcome.map_err(|other| if other.is_of_another_key() { refused } else { other })?
                }
                (outcome, _) => outcome?,
            },
            (None, Some(own)) => own.verify_fresh(token, now).await?,
            (None, None) => return Err(Refused::UnknownTenant { asked: false }),
        };
        let tenant = grant.tenant(asked)?;
        Ok(Caller { grant, tenant })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        auth::{Action, Algorithm, Keys, NotPermitted, SigningKey, read_keys},
        protocol::EndpointId,
    };

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn rules() -> TenantRules {
        TenantRules {
            headers: vec![HeaderName::from_static("x-adit-tenant")],
            domains: vec!["example.com".into(), "eu.example.com".into()],
        }
    }

    #[test]
    fn hosts_below_a_domain_name_the_endpoint_and_perhaps_the_tenant() {
        let host = |host| {
            rules().of_host(host).map(|names| (names.endpoint.to_owned(), names.tenant.map(str::to_owned)))
        };
        let names =
            |endpoint: &str, tenant: Option<&str>| Some((endpoint.to_owned(), tenant.map(str::to_owned)));
        assert_eq!(host("web.example.com"), names("web", None));
        assert_eq!(host("web.acme.example.com"), names("web", Some("acme")));
        assert_eq!(host("Web.Acme.Example.COM."), names("Web", Some("Acme")));
        assert_eq!(host("web.eu.example.com"), names("web", None));
        assert_eq!(host("web.acme.eu.example.com"), names("web", Some("acme")));
        for none in
            ["example.com", ".example.com", "a.b.c.example.com", "webexample.com", "web.example.org", "", "."]
        {
            assert_eq!(host(none), None, "{none}");
        }
    }

    #[test]
    fn below_a_domain_of_tenants_hosts_are_those_of_the_tenant() {
        let permitted = |name: &str, host: &str| {
            rules().permits_host(&tenant(name), &HostPattern::new(host).unwrap()).is_ok()
        };
        for (name, host) in [
            ("acme", "web.acme.example.com"),
            ("acme", "*.acme.example.com"),
            ("acme", "a.b.acme.eu.example.com"),
            ("acme", "acme.org"),
            ("acme", "*.org"),
            ("acme", "myexample.com"),
            ("default", "web.example.com"),
            ("default", "web.eu.example.com"),
            ("default", "example.com"),
            ("default", "*.example.org"),
        ] {
            assert!(permitted(name, host), "{name} {host}");
        }
        for (name, host) in [
            ("evil", "web.acme.example.com"),
            ("evil", "*.acme.example.com"),
            ("evil", "*.example.com"),
            ("evil", "*.com"),
            ("evil", "example.com"),
            ("evil", "web.example.com"),
            // The endpoint `evil` of the default tenant.
            ("evil", "evil.example.com"),
            ("eu", "web.eu.example.com"),
            ("default", "web.acme.example.com"),
            ("default", "*.example.com"),
            ("default", "*.com"),
            ("default", "*.acme.example.com"),
        ] {
            assert!(!permitted(name, host), "{name} {host}");
        }
    }

    #[test]
    fn the_header_asks_before_the_host() {
        let ask = |values: &[&str], host| {
            let field = |value: &&str| (HeaderName::from_static("x-adit-tenant"), value.parse().unwrap());
            let headers = values.iter().map(field).collect();
            rules().asked(&headers, host)
        };
        assert_eq!(ask(&[], None), Ok(None));
        assert_eq!(ask(&[], Some("web.Acme.example.com")), Ok(Some(tenant("acme"))));
        assert_eq!(ask(&["b"], Some("web.acme.example.com")), Ok(Some(tenant("b"))));
        for bad in [&["a", "b"][..], &["a b"], &[""]] {
            assert!(matches!(ask(bad, None), Err(Refused::InvalidTenant(_))), "{bad:?}");
        }
        assert!(matches!(ask(&[], Some("web.a!b.example.com")), Err(Refused::InvalidTenant(_))));
        // A field that is not the configured one says nothing.
        let silent = TenantRules { headers: Vec::new(), ..rules() };
        let headers =
            [(HeaderName::from_static("x-adit-tenant"), "b".parse().unwrap())].into_iter().collect();
        assert_eq!(silent.asked(&headers, None), Ok(None));
    }

    /// The port's own keys, and those of the tenants `a` and `b`.
    struct Port {
        verifiers: Verifiers,
        signers: [SigningKey; 3],
    }

    impl Port {
        fn new() -> Self {
            let signers = [(); 3].map(|()| SigningKey::generate(Algorithm::Hs256).unwrap());
            let verifier = |signer: &SigningKey| {
                let keys = read_keys(signer.jwks().unwrap().as_bytes()).unwrap();
                Verifier::new(Keys::Fixed(Arc::new(keys)), Rules::default())
            };
            let of_tenants = [("a", &signers[1]), ("b", &signers[2])];
            let of_tenants = of_tenants.map(|(name, signer)| (tenant(name), verifier(signer)));
            Self { verifiers: Verifiers::new(Some(verifier(&signers[0])), of_tenants), signers }
        }

        fn caller(&self, signer: usize, claims: &Value, asked: Option<&TenantId>) -> Result<Caller, Refused> {
            let token = self.signers[signer].sign(claims).unwrap();
            let caller = self.verifiers.caller(&token, asked, SystemTime::UNIX_EPOCH);
            futures_util::FutureExt::now_or_never(caller).expect("keys that are there are not waited for")
        }
    }

    #[test]
    fn keys_of_a_tenant_vouch_for_that_tenant_alone() {
        let port = Port::new();
        let (a, b) = (tenant("a"), tenant("b"));
        let of = |signer, claim: Value, asked| {
            port.caller(signer, &json!({ "adit": { "tenant": claim } }), asked).map(|caller| caller.tenant)
        };
        // The port's own keys vouch for what the token names.
        assert_eq!(of(0, json!("a"), None), Ok(a.clone()));
        assert_eq!(of(0, json!("a"), Some(&a)), Ok(a.clone()));
        assert_eq!(of(0, json!("a"), Some(&b)), Err(NotPermitted::Tenant(b.clone()).into()));
        assert_eq!(of(0, json!("*"), Some(&b)), Ok(b.clone()));
        assert_eq!(of(0, Value::Null, Some(&a)), Err(NotPermitted::Tenant(a.clone()).into()));
        assert_eq!(of(0, Value::Null, None), Ok(TenantId::default()));
        // A tenant's keys are only asked when the tenant is.
        assert_eq!(of(1, Value::Null, Some(&a)), Ok(a.clone()));
        assert_eq!(of(1, json!("*"), Some(&a)), Ok(a.clone()));
        assert_eq!(of(1, json!("b"), Some(&a)), Err(Refused::UnknownTenant { asked: true }));
        assert_eq!(of(1, json!("b"), Some(&b)), Err(Refused::UnknownKey));
        assert_eq!(of(1, Value::Null, None), Err(Refused::UnknownKey));
        let none = Verifiers::new(None, []);
        let nobody =
            futures_util::FutureExt::now_or_never(none.caller("a.b.c", Some(&a), SystemTime::UNIX_EPOCH));
        assert_eq!(nobody, Some(Err(Refused::UnknownTenant { asked: false })));
        let sentence = Refused::UnknownTenant { asked: false }.to_string();
        assert!(
            sentence.contains("no tenant is asked for") && !sentence.contains("than its key"),
            "{sentence}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Random tenants, endpoints and callers: whoever gets in is in a tenant that both the token and its key are for, is the
        /// one that was asked for if one was, and reaches the endpoints that the token names and no other.
        #[test]
        fn nobody_is_granted_what_is_not_theirs(
            signer in 0..3_usize,
            claim in proptest::option::of(proptest::sample::select(vec!["a", "b", "c", "*"])),
            asked in proptest::option::of(proptest::sample::select(vec!["a", "b", "c", "default"])),
            named in proptest::option::of(proptest::sample::subsequence(vec!["web", "api-1", "api-2", "db"], 0..4)),
            wanted in proptest::sample::select(vec!["web", "api-1", "api-2", "db"]),
        ) {
            thread_local!(static PORT: Port = Port::new());
            let claims = json!({ "adit": { "tenant": claim, "endpoints": named } });
            let asked = asked.map(tenant);
            let caller = PORT.with(|port| port.caller(signer, &claims, asked.as_ref()));
            // Who the caller is, said in another way: key and claim each leave some tenants.
            let of_key = |name: &str| match signer { 0 => true, 1 => name == "a", _ => name == "b" };
            let of_claim = |name: &str| match claim {
                Some("*") => true,
                Some(claim) => name == claim,
                None => if signer == 0 { name == "default" } else { of_key(name) },
            };
            match &caller {
                Ok(caller) => {
                    let name = caller.tenant.as_str();
                    prop_assert!(of_key(name) && of_claim(name), "{name}");
                    prop_assert!(asked.as_ref().is_none_or(|asked| *asked == caller.tenant));
                    let reached = caller.grant.permits(Action::Connect, &EndpointId::new(wanted).unwrap()).is_ok();
                    prop_assert_eq!(reached, named.is_none_or(|named| named.contains(&wanted)));
                }
                // Nobody is kept out of what is theirs, when they ask for it.
                Err(refused) => if let Some(asked) = &asked {
                    let theirs = of_key(asked.as_str()) && of_claim(asked.as_str());
                    prop_assert!(!theirs, "{refused}");
                },
            }
        }
    }
}
