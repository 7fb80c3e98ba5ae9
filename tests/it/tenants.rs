//! Tenants are apart: nobody reaches, serves or sees what is another's, at any node, whatever they ask for.

use adit::{
    agent::Agent,
    client::{self, Token},
    forward::PortKind,
    protocol::{Code, Control, Kind, Role, Secret, TenantId},
};
use http::{HeaderValue, StatusCode, header};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::support::{
    Fabric,
    client::{Http1, request},
    cluster::Nodes,
    eventually,
    fabric::forwarder_of,
    ok,
    raw::{Raw, hello, listen},
    service::{self, Running},
    soon,
    tokens::{Issuer, bearer},
};

const TENANTS: [&str; 3] = ["default", "a", "b"];
const ENDPOINTS: [&str; 3] = ["web", "web-1", "db"];

/// Where a caller says which tenant it asks for.
#[derive(Debug, Clone, Copy)]
enum By {
    Nothing,
    Field(&'static str),
    Host(&'static str),
}

/// Somebody with a token, who asks for something.
#[derive(Debug)]
struct Caller {
    tenants: Option<Vec<&'static str>>,
    endpoints: Option<Vec<&'static str>>,
    endpoint: &'static str,
    by: By,
}

impl Caller {
    fn random(rng: &mut StdRng) -> Self {
        let some = |rng: &mut StdRng, least: usize, of: &[&'static str]| {
            let number = rng.random_range(least..=of.len());
            of.sample(rng, number).copied().collect::<Vec<_>>()
        };
        let tenant = *TENANTS.choose(rng).unwrap();
        Self {
            tenants: rng.random_bool(0.8).then(|| some(rng, 1, &TENANTS)),
            endpoints: rng.random_bool(0.5).then(|| some(rng, 0, &["web", "web-*", "db", "*"])),
            endpoint: ENDPOINTS.choose(rng).unwrap(),
            by: *[By::Nothing, By::Field(tenant), By::Host(tenant)].choose(rng).unwrap(),
        }
    }

    fn claims(&self) -> Value {
        let mut adit = serde_json::Map::new();
        if let Some(tenants) = &self.tenants {
            adit.insert("tenant".into(), json!(tenants));
        }
        if let Some(endpoints) = &self.endpoints {
            adit.insert("endpoints".into(), json!(endpoints));
        }
        json!({ "adit": adit })
    }

    /// The tenant that it comes to, if any; said apart from how a node finds it.
    fn tenant(&self) -> Option<&'static str> {
        let own = self.tenants.clone().unwrap_or_else(|| vec!["default"]);
        match self.by {
            By::Nothing => own.first().copied(),
            By::Field(asked) | By::Host(asked) => own.contains(&asked).then_some(asked),
        }
    }

    fn may(&self) -> bool {
        let matches = |pattern: &&str| match pattern.strip_suffix('*') {
            Some(beginning) => self.endpoint.starts_with(beginning),
            None => self.endpoint == *pattern,
        };
        self.endpoints.as_ref().is_none_or(|patterns| patterns.iter().any(matches))
    }

    async fn ask(&self, edge: std::net::SocketAddr, token: &str) -> (StatusCode, String) {
        let mut request = request("GET", self.endpoint, "/", "");
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, bearer(token));
        match self.by {
            By::Nothing => {}
            By::Field(tenant) => drop(headers.insert("x-adit-tenant", ok(tenant.parse()))),
            By::Host(tenant) => {
                headers.remove("x-adit-endpoint");
                // As clients say it at another port than the usual one.
                let host = format!("{}.{tenant}.tunnel.example.com:8000", self.endpoint);
                headers.insert(header::HOST, ok(host.parse()));
            }
        }
        let answer = soon(Http1::connect(edge).await.ask(request)).await;
        (answer.status, answer.text().to_owned())
    }
}

/// A service that says whose it is.
async fn saying(what: String) -> Running {
    service::http(move |_| {
        let what = what.clone();
        async move { http::Response::new(crate::support::client::body(what)) }
    })
    .await
}

async fn serve(node: &Fabric, issuer: &Issuer, tenant: &str, endpoint: &str) -> (Agent, Running) {
    let service = saying(format!("{tenant}/{endpoint}")).await;
    let claims = json!({ "adit": { "tenant": tenant, "endpoints": [endpoint], "actions": ["serve"] } });
    let config = client::Config {
        token: Some(Token::fixed(Secret::new(issuer.token(&claims)))),
        links: 1,
        ..node.client()
    };
    let agent = node.start_agent(config, &[(endpoint, Kind::Http, service.address.to_string())]);
    ok(soon(agent.serve()).await);
    (agent, service)
}

#[tokio::test]
async fn nobody_reaches_or_sees_what_is_not_theirs_on_one_node_and_across_two() {
    let issuer = Issuer::new();
    let nodes = Nodes::with(2, |config| config.upstream_wait = std::time::Duration::ZERO).await;
    for node in &nodes.all {
        let auth = adit::node::Auth { edge: issuer.port(), link: issuer.port(), admin: issuer.port() };
        node.node.as_ref().expect("it runs").replace_auth(&auth);
    }
    let seed = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut served = Vec::new();
    let mut agents = Vec::new();
    for tenant in TENANTS {
        for endpoint in ENDPOINTS {
            if rng.random_bool(0.7) {
                let node = nodes.all.choose(&mut rng).unwrap();
                agents.push(serve(node, &issuer, tenant, endpoint).await);
                served.push(format!("{tenant}/{endpoint}"));
            }
        }
    }
    let operator = |claims: Value| bearer(&issuer.token(&claims));
    let listed = async |node: usize, operator: &HeaderValue, what: &str| {
        let mut request = request("GET", "", "/api/v1/status", "");
        request.headers_mut().insert(header::AUTHORIZATION, operator.clone());
        let answer = soon(Http1::connect(nodes.all[node].addresses.admin).await.ask(request)).await;
        let status: Value = ok(serde_json::from_str(answer.text()));
        let list = status[what].as_array().expect("it is a list").clone();
        let name = |entry: &Value| {
            format!(
                "{}/{}",
                entry["tenant"].as_str().unwrap(),
                entry["endpoint"].as_str().unwrap_or_default()
            )
        };
        let mut names: Vec<_> = list.iter().map(name).collect();
        names.sort();
        names
    };
    served.sort();
    let all = operator(json!({ "adit": { "tenant": "*", "actions": ["admin"] } }));
    for node in 0..2 {
        eventually("a node knows all", async || listed(node, &all, "endpoints").await == served).await;
        for tenant in TENANTS {
            let one = operator(json!({ "adit": { "tenant": tenant, "actions": ["admin"] } }));
            let own = |name: &&String| name.split('/').next() == Some(tenant);
            let theirs: Vec<_> = served.iter().filter(own).cloned().collect();
            assert_eq!(listed(node, &one, "endpoints").await, theirs, "{tenant}, seed {seed}");
            assert!(listed(node, &one, "links").await.iter().all(|link| link == &format!("{tenant}/")));
        }
    }
    for _ in 0..400 {
        let caller = Caller::random(&mut rng);
        let token = issuer.token(&caller.claims());
        let (status, text) = caller.ask(nodes.edge(rng.random_range(0..2)), &token).await;
        let expected = match caller.tenant() {
            Some(tenant) if caller.may() => {
                let name = format!("{tenant}/{}", caller.endpoint);
                if served.contains(&name) {
                    (StatusCode::OK, name)
                } else {
                    (StatusCode::BAD_GATEWAY, text.clone())
                }
            }
            _ => (StatusCode::FORBIDDEN, text.clone()),
        };
        assert_eq!((status, text), expected, "{caller:?}, seed {seed}");
    }
}

#[tokio::test]
async fn the_tenant_of_a_link_is_that_of_its_token_and_no_other() {
    let issuer = Issuer::new();
    let nodes = Nodes::with(2, |config| config.auth.link = issuer.port()).await;
    let (first, second) = (&nodes.all[0], &nodes.all[1]);
    let token = |tenant: &str| Some(Secret::new(issuer.token(&json!({ "adit": { "tenant": tenant } }))));
    // It asks for another, and is refused; it asks for none, and has its own.
    for (asked, refused) in [(Some("b"), true), (Some("a"), false), (None, false)] {
        let mut raw = Raw::open(first).await;
        let mut hello = hello(Role::Agent, 1, &["tcp"]);
        (hello.token, hello.tenant) = (token("a"), asked.map(|tenant| ok(TenantId::new(tenant))));
        raw.say(Control::Hello(hello)).await;
        match raw.hear().await {
            Ok(Control::Refused(refusal)) => assert!(refused && refusal.code == Code::Forbidden, "{refusal}"),
            other => assert!(!refused && matches!(other, Ok(Control::Welcome(_))), "{asked:?}: {other:?}"),
        }
    }
    // Two tenants have an endpoint of one name, at the same node.
    let mut agents = Vec::new();
    for tenant in ["a", "b"] {
        let says = tenant.as_bytes()[0];
        let service = service::tcp(move |mut stream| async move {
            ok(tokio::io::AsyncWriteExt::write_all(&mut stream, &[says]).await);
        })
        .await;
        let config = client::Config { token: token(tenant).map(Token::fixed), links: 1, ..first.client() };
        let agent = first.start_agent(config, &[("tcp", Kind::Tcp, service.address.to_string())]);
        ok(soon(agent.serve()).await);
        agents.push((agent, service));
    }
    for node in [first, second] {
        for tenant in ["a", "b", "default"] {
            let config = client::Config { token: token(tenant).map(Token::fixed), ..node.client() };
            let (_forwarder, port) = forwarder_of(config, "tcp", PortKind::Tcp).await;
            let mut said = Vec::new();
            let expected = if tenant == "default" { "" } else { tenant };
            eventually("a flow comes to an end as it should", async || {
                said.clear();
                let mut stream = ok(TcpStream::connect(port).await);
                let end = soon(stream.read_to_end(&mut said)).await;
                // A refused flow is a reset; the other node may hear of an endpoint a moment later.
                said == expected.as_bytes() && (end.is_err() == expected.is_empty())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn whole_hosts_are_no_way_into_another_tenant_and_tell_nothing_of_it() {
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| {
        config.auth = adit::node::Auth { edge: issuer.port(), link: issuer.port(), ..Default::default() };
        config.upstream_wait = std::time::Duration::ZERO;
    })
    .await;
    let _acme = serve(&fabric, &issuer, "acme", "web").await;
    let service = saying("evil/web".into()).await;
    let token = |hosts: Option<&[&str]>| {
        Secret::new(issuer.token(&json!({ "adit": { "tenant": "evil", "hosts": hosts } })))
    };
    for (number, (hosts, host)) in [
        (Some(&["*"][..]), "web.acme.tunnel.example.com"),
        (Some(&["*"]), "*.acme.tunnel.example.com"),
        (Some(&["*"]), "*.example.com"),
        (Some(&["evil.org"]), "shop.example.org"),
        (None, "shop.example.org"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut first = hello(Role::Agent, number as u128 + 1, &[]);
        first.token = Some(token(hosts));
        let mut raw = Raw::welcomed(&fabric, first).await;
        let mut mapped = listen(1, "web");
        mapped.options.hosts = vec![ok(host.parse())];
        raw.say(Control::Listen(mapped)).await;
        match raw.hear().await {
            Ok(Control::ListenRefused(1, refusal)) => assert_eq!(refusal.code, Code::Forbidden, "{refusal}"),
            other => panic!("{hosts:?} {host}: {other:?}"),
        }
    }
    let mut endpoint = fabric.endpoint("web", Kind::Http, service.address);
    endpoint.hosts = vec![ok("shop.example.org".parse())];
    let token = Some(Token::fixed(token(Some(&["*.example.org"]))));
    let client = client::Config { token, links: 1, ..fabric.client() };
    let evil = ok(Agent::start(adit::agent::Config::new(client, vec![endpoint])));
    ok(soon(evil.serve()).await);

    let ask = async |tenants: &[&str], host: &str| {
        let mut request = request("GET", "web", "/", "");
        let headers = request.headers_mut();
        headers.remove("x-adit-endpoint");
        headers.insert(header::HOST, ok(host.parse()));
        headers
            .insert(header::AUTHORIZATION, bearer(&issuer.token(&json!({ "adit": { "tenant": tenants } }))));
        let answer = soon(Http1::connect(fabric.addresses.edge).await.ask(request)).await;
        (answer.status, answer.text().to_owned())
    };
    assert_eq!(ask(&["evil"], "shop.example.org").await, (StatusCode::OK, "evil/web".into()));
    let acme = (StatusCode::OK, "acme/web".to_owned());
    assert_eq!(ask(&["evil", "acme"], "web.acme.tunnel.example.com:8000").await, acme);
    assert_eq!(ask(&["acme"], "web.example.net").await, acme);
    let unknown = ask(&["acme"], "shop.example.net").await;
    assert_eq!(unknown.0, StatusCode::BAD_GATEWAY);
    assert_eq!(ask(&["acme"], "shop.example.org").await, unknown, "the mapping is told to nobody else");
}

#[tokio::test]
async fn without_credentials_tenants_are_addresses() {
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| {
        config.auth.link = issuer.port();
        config.auth.edge.asked = issuer.port().asked;
        config.edge.tcp =
            vec![adit::edge::Port { bind: ([127, 0, 0, 1], 0).into(), endpoint: ok("a/web".parse()) }];
    })
    .await;
    let _agent = serve(&fabric, &issuer, "a", "web").await;
    let edge = fabric.addresses.edge;
    for (host, field, expected) in [
        ("web.a.tunnel.example.com", None, 200),
        ("web.tunnel.example.com", Some("a"), 200),
        ("web.tunnel.example.com", None, 502),
        ("web.b.tunnel.example.com", None, 502),
        ("web.tunnel.example.com", Some("a b"), 400),
    ] {
        let mut request = request("GET", "web", "/", "");
        request.headers_mut().remove("x-adit-endpoint");
        request.headers_mut().insert(header::HOST, ok(host.parse()));
        if let Some(tenant) = field {
            request.headers_mut().insert("x-adit-tenant", ok(tenant.parse()));
        }
        let answer = soon(Http1::connect(edge).await.ask(request)).await;
        assert_eq!(answer.status.as_u16(), expected, "{host} {field:?}: {}", answer.text());
    }
    let port = fabric.addresses.tcp[0].bind;
    let answer = soon(Http1::connect(port).await.ask(request("GET", "", "/", ""))).await;
    assert_eq!(answer.text(), "a/web");
}
