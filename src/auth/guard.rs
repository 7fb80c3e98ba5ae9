//! What one port asks of its callers: the policy, which can be exchanged while callers stand, and what is counted of those
//! that are refused.
//!
//! Owns the policy of its port. Asked by the port for each caller, and then for how long what it was granted lasts. It opens
//! and closes nothing itself, and takes no lock.

use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::{
    Action, Bearer, Caller, CertificateRules, Config, Denied, Doors, Grant, JwksCounters, JwksSets,
    NotPermitted, Refused, TenantRules, Tenants, Verifiers, bearer,
};
use crate::{
    drain::Tasks,
    protocol::{EndpointId, HostPattern, TenantId},
    telemetry::Metrics,
};

/// The longest that a clock is trusted to run as it should: a machine may have slept meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What one port asks of its callers. Nothing by default, which permits everything in whichever tenant is asked for.
#[derive(Debug, Clone, Default)]
pub struct PortConfig {
    /// The port's own keys, which vouch for whatever tenant a token names.
    pub keys: Option<Config>,
    /// Keys of tenants, each of which vouches for that tenant alone.
    pub tenants: Vec<(TenantId, Config)>,
    /// What the certificates of clients are for that TLS has verified.
    pub certificates: Option<CertificateRules>,
    /// Where a request says which tenant it is for.
    pub asked: TenantRules,
    /// What is demanded of those who are let in, before single endpoints.
    pub doors: Doors,
    /// Whether what relies on a credential outlives it. What is new needs a good one in any case.
    pub keep_expired: bool,
}

impl PortConfig {
    /// Whether callers must show credentials.
    pub fn asks(&self) -> bool {
        self.keys.is_some() || !self.tenants.is_empty() || self.certificates.is_some()
    }
}

#[derive(Debug)]
struct Policy {
    verifiers: Option<Verifiers>,
    certificates: Option<CertificateRules>,
    asked: TenantRules,
    doors: Doors,
    /// Whether what relies on a credential ends with it.
    ends: bool,
}

/// What a caller has shown.
#[derive(Clone, Copy, Default)]
pub struct Shown<'a> {
    /// Its token.
    pub token: Option<&'a str>,
    /// Its certificate, which TLS has verified.
    pub certificate: Option<&'a CertificateDer<'static>>,
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (token, certificate) = (self.token.is_some(), self.certificate.is_some());
        let mut shown = f.debug_struct("Shown");
        shown.field("token", &token).field("certificate", &certificate).finish_non_exhaustive()
    }
}

/// Why what was granted is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lapsed {
    /// Its time has come.
    #[error("the credentials have expired")]
    Expired,
    /// Its certificate is not taken any more.
    #[error("the client certificate is not taken any more")]
    Revoked,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    port: &'static str,
    reason: &'static str,
}

/// What all ports count, and what keeps their keys up to date.
#[derive(Debug, Clone)]
pub struct Guards {
    refused: Family<Labels, Counter>,
    sets: JwksSets,
}

impl Guards {
    /// Counts here; keys that are fetched are kept up to date by tasks of `tasks`.
    pub fn new(metrics: &Metrics, tasks: Tasks) -> Self {
        let refused = Family::default();
        metrics.register(|registry| {
            let help = "Callers that were refused for their credentials, by port and reason";
            registry.register("auth_refused", help, refused.clone());
        });
        Self { refused, sets: JwksSets::new(JwksCounters::new(metrics), tasks) }
    }

    /// The guard of a port of this name.
    pub fn guard(&self, port: &'static str, config: &PortConfig) -> Guard {
        let policy = ArcSwap::from_pointee(self.policy(config));
        Guard(Arc::new(Inner { port, policy, changed: watch::Sender::new(()), guards: self.clone() }))
    }

    fn policy(&self, config: &PortConfig) -> Policy {
        let verifier = |config: &Config| config.verifier(&self.sets);
        let tenants: Vec<_> =
            config.tenants.iter().map(|(tenant, config)| (tenant.clone(), verifier(config))).collect();
        let own = config.keys.as_ref().map(verifier);
        Policy {
            verifiers: (own.is_some() || !tenants.is_empty()).then(|| Verifiers::new(own, tenants)),
            certificates: config.certificates.clone(),
            asked: config.asked.clone(),
            doors: config.doors.clone(),
            ends: !config.keep_expired,
        }
    }
}

/// What stands at one port. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Guard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    port: &'static str,
    policy: ArcSwap<Policy>,
    changed: watch::Sender<()>,
    guards: Guards,
}

impl Guard {
    /// Asks this of callers from now on. What stands goes on, but for what relies on a certificate that is not taken any more.
    pub fn replace(&self, config: &PortConfig) {
        self.0.policy.store(Arc::new(self.0.guards.policy(config)));
        self.0.changed.send_replace(());
    }

    /// Whether callers must show credentials.
    pub fn asks(&self) -> bool {
        let policy = self.0.policy.load();
        policy.verifiers.is_some() || policy.certificates.is_some()
    }

    /// The token of a request, where the port takes any; it is not passed on. What is wrong with it may not matter to a caller
    /// whose certificate is good alone: that is `needless`.
    ///
    /// # Errors
    /// Those of [`bearer`]; they have been counted.
    pub fn bearer<'a>(
        &self,
        headers: &'a HeaderMap,
        needless: impl FnOnce(&Refused) -> bool,
    ) -> Result<Option<Bearer<'a>>, Refused> {
        if self.0.policy.load().verifiers.is_none() {
            return Ok(None);
        }
        match bearer(headers) {
            Err(refused) if needless(&refused) => Ok(None),
            outcome => self.counted(outcome).map(Some),
        }
    }

    /// The tenant that a request asks for, by a field or its host.
    ///
    /// # Errors
    /// [`Refused::InvalidTenant`] when what stands in the place of a tenant is no name; it has been counted.
    pub fn asked(&self, headers: &HeaderMap, host: Option<&str>) -> Result<Option<TenantId>, Refused> {
        self.counted(self.0.policy.load().asked.asked(headers, host))
    }

    /// Who shows this, and asks for this tenant. A token waits for newer keys if it must. Cancel safe.
    ///
    /// # Errors
    /// Why the credentials are not taken, or not for that tenant; it has been counted.
    pub async fn caller(&self, shown: Shown<'_>, asked: Option<&TenantId>) -> Result<Caller, Refused> {
        self.counted(self.judge(shown, asked).await)
    }

    /// Who shows this, if they may connect to an endpoint of a tenant. Nobody is told that it exists by being refused here, so
    /// it is not counted. Cancel safe.
    pub async fn client_of(
        &self,
        shown: Shown<'_>,
        tenant: &TenantId,
        endpoint: &EndpointId,
    ) -> Option<Caller> {
        let caller = self.judge(shown, Some(tenant)).await.ok()?;
        caller.grant.permits(Action::Connect, endpoint).is_ok().then_some(caller)
    }

    /// Whether a caller may do this at all.
    ///
    /// # Errors
    /// When not; it has been counted.
    pub fn may(&self, grant: &Grant, action: Action) -> Result<(), Refused> {
        self.counted(grant.may(action).map_err(Refused::from))
    }

    async fn judge(&self, shown: Shown<'_>, asked: Option<&TenantId>) -> Result<Caller, Refused> {
        let policy = self.0.policy.load_full();
        let of_certificate = match (&policy.certificates, shown.certificate) {
            (Some(rules), Some(certificate)) => Some(rules.grant(certificate)?),
            _ => None,
        };
        let grant = match (&policy.verifiers, shown.token, of_certificate) {
            (Some(verifiers), Some(token), of_certificate) => {
                let Caller { grant, tenant } = verifiers.caller(token, asked, SystemTime::now()).await?;
                let Some(of_certificate) = of_certificate else { return Ok(Caller { grant, tenant }) };
                grant.and(of_certificate)
            }
            (_, _, Some(of_certificate)) => of_certificate,
            (None, _, None) if policy.certificates.is_none() => {
                Grant { tenants: Tenants::Any, ..Grant::default() }
            }
            (None, _, None) => return Err(Refused::NoCertificate),
            (Some(_), None, None) => return Err(Refused::Missing),
        };
        let tenant = grant.tenant(asked)?;
        Ok(Caller { grant, tenant })
    }

    /// Whether the doors before an endpoint let a client in by its address.
    ///
    /// # Errors
    /// The first demand that is not met; it has been counted.
    pub fn check_address(
        &self,
        tenant: &TenantId,
        endpoint: &EndpointId,
        client: IpAddr,
    ) -> Result<(), Denied> {
        let checked = self.0.policy.load().doors.check_address(tenant, endpoint, client);
        checked.inspect_err(|denied| self.count(denied.code()))
    }

    /// Whether the doors before an endpoint let a request in, and the fields that were for them.
    ///
    /// # Errors
    /// The first demand that is not met; it has been counted.
    pub fn check_doors(
        &self,
        tenant: &TenantId,
        endpoint: &EndpointId,
        client: IpAddr,
        headers: &HeaderMap,
    ) -> Result<Vec<HeaderName>, Denied> {
        let checked = self.0.policy.load().doors.check(tenant, endpoint, client, headers);
        checked.inspect_err(|denied| self.count(denied.code()))
    }

    fn counted<T>(&self, outcome: Result<T, Refused>) -> Result<T, Refused> {
        outcome.inspect_err(|refused| self.count(refused.code()))
    }

    fn count(&self, reason: &'static str) {
        self.0.guards.refused.get_or_create(&Labels { port: self.0.port, reason }).inc();
    }

    async fn lapsed(&self, grant: &Grant, certificate: Option<&CertificateDer<'static>>) -> Lapsed {
        let mut changed = self.0.changed.subscribe();
        loop {
            let policy = self.0.policy.load_full();
            if let (Some(rules), Some(certificate)) = (&policy.certificates, certificate)
                && rules.grant(certificate).is_err()
            {
                return Lapsed::Revoked;
            }
            let left = match grant.expires.filter(|_| policy.ends) {
                Some(end) => match end.duration_since(SystemTime::now()) {
                    Ok(left) if left > Duration::ZERO => Some(left.min(LOOK_AGAIN)),
                    _ => return Lapsed::Expired,
                },
                None => None,
            };
            drop(policy);
            let expire = async {
                match left {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender is of `self`.
                _ = changed.changed() => {}
                () = expire => {}
            }
        }
    }
}

/// What somebody stands on who has been let in: credentials that end, or are renewed.
#[derive(Debug)]
pub struct Standing {
    guard: Guard,
    tenant: TenantId,
    grant: watch::Sender<Grant>,
    certificate: Option<Arc<CertificateDer<'static>>>,
}

impl Standing {
    /// That of a caller with this certificate, if it has shown one.
    pub fn new(guard: &Guard, caller: Caller, certificate: Option<Arc<CertificateDer<'static>>>) -> Self {
        let Caller { grant, tenant } = caller;
        Self { guard: guard.clone(), tenant, grant: watch::Sender::new(grant), certificate }
    }

    /// The tenant to act in.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Whether something may be done to an endpoint. Where what stands outlives its credentials, nothing new may.
    ///
    /// # Errors
    /// Why not; it has been counted.
    pub fn permits(&self, action: Action, endpoint: &EndpointId) -> Result<(), Refused> {
        let grant = self.grant.borrow();
        let permitted = match grant.expires {
            Some(end) if SystemTime::now() >= end => Err(Refused::Expired),
            _ => grant.permits(action, endpoint).map_err(Refused::from),
        };
        self.guard.counted(permitted)
    }

    /// Whether something may be asked for in a tenant.
    ///
    /// # Errors
    /// When that is another; it has been counted.
    pub fn is_of(&self, tenant: &TenantId) -> Result<(), Refused> {
        let is_own = *tenant == self.tenant;
        self.guard.counted(if is_own { Ok(()) } else { Err(NotPermitted::Tenant(tenant.clone()).into()) })
    }

    /// Whether whole hosts may stand for an endpoint that is served.
    ///
    /// # Errors
    /// Why one may not; it has been counted.
    pub fn permits_hosts(&self, hosts: &[HostPattern]) -> Result<(), Refused> {
        let policy = self.guard.0.policy.load();
        let permitted = |host| {
            policy.asked.permits_host(&self.tenant, host)?;
            self.grant.borrow().permits_host(host)
        };
        self.guard.counted(hosts.iter().try_for_each(permitted).map_err(Refused::from))
    }

    /// Stands on another token from now on, for the same tenant. Cancel safe.
    ///
    /// # Errors
    /// Why that is not taken; what there was is still good, for as long as it is.
    pub async fn renew(&self, token: &str) -> Result<(), Refused> {
        let shown = Shown { token: Some(token), certificate: self.certificate.as_deref() };
        let Caller { grant, .. } = self.guard.caller(shown, Some(&self.tenant)).await?;
        self.grant.send_replace(grant);
        Ok(())
    }

    /// Whether it ends some time.
    pub fn ends(&self) -> bool {
        self.certificate.is_some() || self.grant.borrow().expires.is_some()
    }

    /// Waits until it has ended, and what relies on it ends with it: it has expired, or its certificate is not taken any more.
    /// Cancel safe.
    pub async fn lapsed(&self) -> Lapsed {
        let mut grant = self.grant.subscribe();
        loop {
            let current = grant.borrow_and_update().clone();
            tokio::select! {
                lapsed = self.guard.lapsed(&current, self.certificate.as_deref()) => return lapsed,
                // The sender is of `self`.
                _ = grant.changed() => {}
            }
        }
    }
}
