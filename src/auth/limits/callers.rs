//! All limits of a node, and what each request, flow, link and endpoint has of its callers' shares.
//!
//! Driven by whoever lets something in, a step at a time as it learns who is there: the client's address before authentication,
//! the rest between that and routing, the agent that serves it once one is chosen. A set of limits is never changed: a new one
//! takes its place, and what has a share of the old one gives it back there. Where nothing is limited nothing is counted, and no
//! lock is taken.

use std::{
    hash::Hash,
    mem::take,
    net::IpAddr,
    num::{NonZeroU32, NonZeroU64},
    sync::Arc,
};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use tokio::time::Instant;

use super::{
    bytes::ByteRate,
    count::{Count, Held, TooMany},
    distinct::{Distinct, Has},
    limit::{Limit, Limited, Scope, What},
    pace::{ByteRates, Pace},
    rate::{Rate, TooOften, client_key},
};
use crate::{
    protocol::{AgentId, EndpointId, TenantId},
    telemetry::Metrics,
};

/// An agent's id says nothing beyond its tenant, and neither does an endpoint's name.
type Agent = (TenantId, AgentId);
type Endpoint = (TenantId, EndpointId);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    scope: &'static str,
    what: &'static str,
}

/// All limits of a node on its callers, whichever port they come by. Clones are handles to the same ones.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    set: Arc<ArcSwap<Set>>,
    counters: Family<Labels, Counter>,
}

#[derive(Debug, Default)]
struct Set {
    limits: Vec<Limit>,
    clients: Each<IpAddr>,
    agents: Each<Agent>,
    endpoints: Each<Endpoint>,
    tenants: Each<TenantId>,
}

impl Set {
    fn new(limits: &[Limit]) -> Self {
        Self {
            limits: limits.to_vec(),
            clients: Each::new(Scope::Client, limits),
            agents: Each::new(Scope::Agent, limits),
            endpoints: Each::new(Scope::Endpoint, limits),
            tenants: Each::new(Scope::Tenant, limits),
        }
    }
}

/// What a request or flow has of its callers' shares, until it is dropped.
#[derive(Debug, Default)]
pub struct Pass {
    client: Option<Held<IpAddr>>,
    agent: Option<Held<Agent>>,
    endpoint: Option<Held<Endpoint>>,
    tenant: Option<Held<TenantId>>,
    /// Those of its callers that are known so far.
    rates: Vec<Arc<ByteRate>>,
    pace: Pace,
}

impl Pass {
    /// How fast it may pass bytes on.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }
}

/// What a link has of its callers' shares, until it is dropped.
#[derive(Debug, Default)]
pub struct LinkPass {
    _client: Option<Held<IpAddr>>,
    tenant: Option<Held<TenantId>>,
}

/// What an endpoint that is served has of its servers' shares, until it is dropped.
#[derive(Debug, Default)]
pub struct ListenPass {
    _agent: Option<Has<Agent, EndpointId>>,
    _tenant: Option<Has<TenantId, EndpointId>>,
}

/// What a request or flow has of the share of the agent that serves it, until it is dropped.
#[derive(Debug, Default)]
pub struct Served {
    _held: Option<Held<Agent>>,
}

impl Limits {
    /// These limits, and counts of those whom they refuse; of two of the same kind the later counts.
    pub fn new(limits: &[Limit], metrics: &Metrics) -> Self {
        let this = Self::default();
        this.replace(limits);
        metrics.register(|registry| {
            let help = "Requests, flows, links and endpoints that were refused by a limit on callers";
            registry.register("limited", help, this.counters.clone());
        });
        this
    }

    /// Has these limits from now on. If they are others, they begin with nothing counted; what stands goes on.
    pub fn replace(&self, limits: &[Limit]) {
        if self.set.load().limits != limits {
            self.set.store(Arc::new(Set::new(limits)));
        }
    }

    /// Lets a request or flow of a client's address in, before anything else is asked of it.
    ///
    /// # Errors
    /// [`Limited`].
    pub fn client(&self, client: IpAddr) -> Result<Pass, Limited> {
        let mut pass = Pass::default();
        let key = || client_key(client);
        pass.client = self.noted(self.set.load().clients.enter(key, &mut pass.rates))?;
        Ok(pass)
    }

    /// Goes on with it for its tenant and its endpoint, once they are known, and so knows its pace.
    ///
    /// # Errors
    /// [`Limited`].
    pub fn endpoint(&self, pass: &mut Pass, tenant: &TenantId, endpoint: &EndpointId) -> Result<(), Limited> {
        pass.tenant = self.noted(self.set.load().tenants.enter(|| tenant.clone(), &mut pass.rates))?;
        let key = || (tenant.clone(), endpoint.clone());
        pass.endpoint = self.noted(self.set.load().endpoints.enter(key, &mut pass.rates))?;
        pass.pace = Pace::new(take(&mut pass.rates), self.set.load().agents.bytes.is_some());
        Ok(())
    }

    /// Goes on with a flow of a forwarder.
    ///
    /// # Errors
    /// [`Limited`].
    pub fn forwarder(&self, pass: &mut Pass, tenant: &TenantId, agent: AgentId) -> Result<(), Limited> {
        let key = || (tenant.clone(), agent);
        pass.agent = self.noted(self.set.load().agents.enter(key, &mut pass.rates))?;
        Ok(())
    }

    /// Has an agent serve a request or flow with this pace, if it may have one more.
    ///
    /// # Errors
    /// [`Limited`]: another agent may be asked.
    pub fn serve(&self, pace: &Pace, tenant: &TenantId, agent: AgentId) -> Result<Served, Limited> {
        let mut rates = Vec::new();
        let held = self.noted(self.set.load().agents.enter(|| (tenant.clone(), agent), &mut rates))?;
        pace.served_at(rates.pop());
        Ok(Served { _held: held })
    }

    /// Lets a link of a client's address in, before anything else is asked of it.
    ///
    /// # Errors
    /// [`Limited`].
    pub fn link(&self, client: IpAddr) -> Result<LinkPass, Limited> {
        let key = client_key(client);
        self.noted(self.set.load().clients.once(|| key))?;
        Ok(LinkPass { _client: self.noted(self.set.load().clients.link(|| key))?, tenant: None })
    }

    /// Goes on with it for its tenant, once that is known.
    ///
    /// # Errors
    /// [`Limited`].
    pub fn link_of(&self, pass: &mut LinkPass, tenant: &TenantId) -> Result<(), Limited> {
        pass.tenant = self.noted(self.set.load().tenants.link(|| tenant.clone()))?;
        Ok(())
    }

    /// Has an agent serve one more endpoint.
    ///
    /// # Errors
    /// [`Limited`].
    pub fn listen(
        &self,
        tenant: &TenantId,
        agent: AgentId,
        endpoint: &EndpointId,
    ) -> Result<ListenPass, Limited> {
        let of_agent = self.noted(self.set.load().agents.serve(|| (tenant.clone(), agent), endpoint))?;
        let of_tenant = self.noted(self.set.load().tenants.serve(|| tenant.clone(), endpoint))?;
        Ok(ListenPass { _agent: of_agent, _tenant: of_tenant })
    }

    fn noted<T>(&self, outcome: Result<T, Limited>) -> Result<T, Limited> {
        if let Err(limited) = &outcome {
            let limit = limited.limit();
            let labels = Labels { scope: limit.scope().name(), what: limit.what().name() };
            self.counters.get_or_create(&labels).inc();
        }
        outcome
    }
}

/// The limits of one scope, which are the same for each of its callers.
#[derive(Debug)]
struct Each<K: Hash + Eq + Clone> {
    links: Option<(Limit, Count<K>)>,
    flows: Option<(Limit, Count<K>)>,
    requests: Option<(Limit, Rate<K>)>,
    bytes: Option<ByteRates<K>>,
    endpoints: Option<(Limit, Distinct<K, EndpointId>)>,
}

impl<K: Hash + Eq + Clone> Default for Each<K> {
    fn default() -> Self {
        Self { links: None, flows: None, requests: None, bytes: None, endpoints: None }
    }
}

impl<K: Hash + Eq + Clone> Each<K> {
    fn new(scope: Scope, limits: &[Limit]) -> Self {
        let mut this = Self::default();
        for limit in limits.iter().filter(|limit| limit.scope() == scope) {
            let (limit, most) = (*limit, limit.most());
            match limit.what() {
                What::Links => this.links = Some((limit, Count::new(size(most)))),
                What::Flows => this.flows = Some((limit, Count::new(size(most)))),
                What::Requests => {
                    let most = NonZeroU32::try_from(most).unwrap_or(NonZeroU32::MAX);
                    this.requests = Some((limit, Rate::new(most, most)));
                }
                What::Bytes => this.bytes = Some(ByteRates::new(most)),
                What::Endpoints => this.endpoints = Some((limit, Distinct::new(size(most)))),
            }
        }
        this
    }

    /// One more request or flow, which is to keep to the rate of bytes.
    fn enter(&self, key: impl Fn() -> K, rates: &mut Vec<Arc<ByteRate>>) -> Result<Option<Held<K>>, Limited> {
        self.once(&key)?;
        let held = one(self.flows.as_ref(), &key)?;
        rates.extend(self.bytes.as_ref().map(|bytes| bytes.of(key(), Instant::now())));
        Ok(held)
    }

    /// One more of whatever is new.
    fn once(&self, key: impl Fn() -> K) -> Result<(), Limited> {
        let Some((limit, rate)) = &self.requests else { return Ok(()) };
        rate.check(&key()).map_err(|wait: TooOften| Limited::new(*limit, Some(wait)))
    }

    fn link(&self, key: impl Fn() -> K) -> Result<Option<Held<K>>, Limited> {
        one(self.links.as_ref(), key)
    }

    fn serve(
        &self,
        key: impl Fn() -> K,
        endpoint: &EndpointId,
    ) -> Result<Option<Has<K, EndpointId>>, Limited> {
        let Some((limit, distinct)) = &self.endpoints else { return Ok(None) };
        distinct.take(&key(), endpoint).map(Some).map_err(|TooMany { .. }| Limited::new(*limit, None))
    }
}

fn one<K: Hash + Eq + Clone>(
    count: Option<&(Limit, Count<K>)>,
    key: impl Fn() -> K,
) -> Result<Option<Held<K>>, Limited> {
    let Some((limit, count)) = count else { return Ok(None) };
    count.take(&key()).map(Some).map_err(|TooMany { .. }| Limited::new(*limit, None))
}

fn size(most: NonZeroU64) -> usize {
    usize::try_from(most.get()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(limits: &[(&str, u64)]) -> Limits {
        let limit = |(name, most): &(&str, u64)| Limit::new(name, NonZeroU64::new(*most).unwrap()).unwrap();
        Limits::new(&limits.iter().map(limit).collect::<Vec<_>>(), &Metrics::default())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn endpoint(name: &str) -> EndpointId {
        EndpointId::new(name).unwrap()
    }

    fn agent(bits: u128) -> AgentId {
        AgentId::from_bits(bits)
    }

    /// Lets a flow of a forwarder in as far as it gets.
    fn flow(limits: &Limits, from: &str, agent: AgentId, of: &str, to: &str) -> Result<Pass, Limited> {
        let mut pass = limits.client(address(from))?;
        limits.forwarder(&mut pass, &tenant(of), agent)?;
        limits.endpoint(&mut pass, &tenant(of), &endpoint(to))?;
        Ok(pass)
    }

    fn name<T>(outcome: Result<T, Limited>) -> String {
        let limit = outcome.err().expect("it is limited").limit();
        format!("{}.{}", limit.scope(), limit.what())
    }

    #[test]
    fn each_scope_has_its_flows_counted_apart_and_given_back() {
        for (limit, same, other) in [
            ("client.flows", ("2001:db8::1", agent(2), "b", "b"), ("2001:db8:0:1::1", agent(1), "a", "a")),
            ("agent.flows", ("::2", agent(1), "a", "b"), ("2001:db8::1", agent(1), "b", "a")),
            ("endpoint.flows", ("::2", agent(2), "a", "a"), ("2001:db8::1", agent(1), "b", "a")),
            ("tenant.flows", ("::2", agent(2), "a", "b"), ("2001:db8::1", agent(1), "b", "a")),
        ] {
            let limits = limits(&[(limit, 1)]);
            let try_flow = |(from, agent, of, to)| flow(&limits, from, agent, of, to);
            let first = try_flow(("2001:db8::1:1", agent(1), "a", "a")).unwrap();
            assert_eq!(name(try_flow(same)), limit);
            let _other = try_flow(other).unwrap();
            drop(first);
            let _again = try_flow(same).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_have_a_seconds_worth_at_once_and_then_their_rate() {
        for limit in ["client.requests", "agent.requests", "endpoint.requests", "tenant.requests"] {
            let limits = limits(&[(limit, 10)]);
            let passed = || (0..50).filter(|_| flow(&limits, "::1", agent(1), "a", "a").is_ok()).count();
            assert_eq!(passed(), 10);
            assert_eq!(name(flow(&limits, "::1", agent(1), "a", "a")), limit);
            tokio::time::advance(Duration::from_millis(350)).await;
            assert_eq!(passed(), 3);
            let elsewhere = flow(&limits, "::1:0:0:0:1", agent(2), "b", "b");
            assert!(elsewhere.is_ok(), "others have their own");
        }
    }

    #[test]
    fn links_are_counted_by_address_and_tenant_and_as_something_new() {
        let limits = limits(&[("client.links", 2), ("tenant.links", 1), ("client.requests", 4)]);
        let link = |from, of| {
            let mut pass = limits.link(address(from))?;
            limits.link_of(&mut pass, &tenant(of)).map(|()| pass)
        };
        let (_one, two) = (link("::1", "a").unwrap(), link("::1", "b").unwrap());
        assert_eq!(name(link("::1", "c")), "client.links");
        assert_eq!(name(link("192.0.2.1", "b")), "tenant.links");
        drop(two);
        let _three = link("::1", "b").unwrap();
        assert_eq!(name(limits.link(address("::1"))), "client.requests");
    }

    #[test]
    fn an_endpoint_counts_once_for_its_agent_and_its_tenant() {
        let limits = limits(&[("agent.endpoints", 2), ("tenant.endpoints", 3)]);
        let listen = |by, name| limits.listen(&tenant("a"), agent(by), &endpoint(name));
        let _served =
            [listen(1, "one"), listen(1, "one"), listen(2, "one"), listen(1, "two")].map(Result::unwrap);
        assert_eq!(name(listen(1, "three")), "agent.endpoints");
        let three = listen(2, "three").unwrap();
        assert_eq!(name(listen(3, "four")), "tenant.endpoints");
        drop(three);
        assert!(listen(3, "four").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flow_keeps_to_the_slowest_rate_of_all_its_callers_and_its_server() {
        let slow = Duration::from_secs(9);
        for limit in ["client.bytes", "agent.bytes", "endpoint.bytes", "tenant.bytes"] {
            let limits = limits(&[(limit, 1000)]);
            let pass = flow(&limits, "::1", agent(1), "a", "a").unwrap();
            assert_eq!(pass.pace().passed(10_000), slow, "{limit}");
            let other = flow(&limits, "::1:0:0:0:1", agent(2), "b", "b").unwrap();
            assert_eq!(other.pace().passed(0), Duration::ZERO, "{limit}");
            drop(limits.serve(other.pace(), &tenant("a"), agent(1)).unwrap());
            assert_eq!(other.pace().passed(0), if limit == "agent.bytes" { slow } else { Duration::ZERO });
        }
    }

    #[test]
    fn the_agent_that_serves_has_its_share_as_well() {
        let limits = limits(&[("agent.flows", 1)]);
        let serve = |by| limits.serve(&Pace::default(), &tenant("a"), agent(by));
        let served = serve(1).unwrap();
        assert_eq!(name(serve(1)), "agent.flows");
        let _other = serve(2).unwrap();
        drop(served);
        assert!(serve(1).is_ok());
    }

    #[test]
    fn what_is_limited_is_counted_by_limit() {
        let limits = limits(&[("client.flows", 1)]);
        let pass = limits.client(address("::1")).unwrap();
        assert!(limits.client(address("::1")).is_err() && limits.client(address("::2")).is_err());
        let labels = Labels { scope: "client", what: "flows" };
        assert_eq!(limits.counters.get_or_create(&labels).get(), 2);
        drop(pass);
    }

    #[test]
    fn nothing_is_limited_or_remembered_by_default() {
        let limits = Limits::default();
        for _ in 0..1000 {
            let pass = flow(&limits, "::1", agent(1), "a", "a").unwrap();
            assert!(pass.pace().is_free() && pass.rates.capacity() == 0);
        }
    }

    #[test]
    fn what_stands_when_limits_are_replaced_counts_in_the_old_ones() {
        let limit = |most| [Limit::new("client.flows", NonZeroU64::new(most).unwrap()).unwrap()];
        let limits = Limits::new(&limit(2), &Metrics::default());
        let first = limits.client(address("::1")).unwrap();
        limits.replace(&limit(1));
        let _second = limits.client(address("::1")).unwrap();
        drop(first);
        assert!(limits.client(address("::1")).is_err());
        limits.replace(&limit(1));
        assert!(limits.client(address("::1")).is_err(), "the same limits go on as they are");
        limits.replace(&[]);
        assert!(limits.client(address("::1")).is_ok());
    }
}
