//! Every port and every kind of credential: what the caller is told, what is logged, what is counted.

use std::net::SocketAddr;

use adit::{
    auth::{self, Algorithm, Rules},
    protocol::{Code, Control, Kind, Role, Secret, TenantId},
};
use aws_lc_rs::hmac;
use http::{Request, StatusCode, header};
use serde_json::{Value, json};

use crate::support::{
    Fabric,
    client::{Answer, Body, Http1, Http2, body, over_http2, request},
    log::Log,
    ok,
    raw::{Raw, hello},
    service,
    tokens::{Issuer, bearer, forged, in_seconds},
};

/// What a port says to a caller: a status, and the code in its body; those of links have the code of their refusal.
type Told = (u16, String);

/// Where callers come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Edge,
    PikoTcp,
    Link,
    PikoAgent,
    Admin,
}

impl Port {
    const ALL: [Self; 5] = [Self::Edge, Self::PikoTcp, Self::Link, Self::PikoAgent, Self::Admin];

    /// The name that is counted.
    fn name(self) -> &'static str {
        match self {
            Self::Edge | Self::PikoTcp => "edge",
            Self::Link | Self::PikoAgent => "link",
            Self::Admin => "admin",
        }
    }

    /// What its log says of a refusal.
    fn logs(self) -> &'static str {
        match self {
            Self::Edge | Self::PikoTcp => "a request was refused",
            Self::Link => "a link was refused",
            Self::PikoAgent => "no link over WebSocket",
            Self::Admin => "an operator was refused",
        }
    }

    async fn ask(self, fabric: &Fabric, token: Option<&str>, tenant: Option<&str>) -> Told {
        let addresses = &fabric.addresses;
        let websocket = |path: &str| {
            let mut request = request("GET", "web", path, "");
            for (name, value) in [
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ] {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            request
        };
        match self {
            Self::Edge => http(addresses.edge, request("GET", "web", "/", ""), token, tenant).await,
            Self::PikoTcp => http(addresses.edge, websocket("/_piko/v1/tcp/web"), token, tenant).await,
            Self::PikoAgent => http(addresses.link, websocket("/piko/v1/upstream/web"), token, tenant).await,
            Self::Admin => {
                http(addresses.admin, request("GET", "", "/api/v1/status", ""), token, tenant).await
            }
            Self::Link => {
                let mut raw = Raw::open(fabric).await;
                let mut hello = hello(Role::Agent, 1, &["web"]);
                hello.token = token.map(Secret::new);
                hello.tenant = tenant.map(|tenant| ok(TenantId::new(tenant)));
                raw.say(Control::Hello(hello)).await;
                match raw.hear().await {
                    Ok(Control::Welcome(_)) => (200, String::new()),
                    Ok(Control::Refused(refusal)) => match refusal.code {
                        Code::Unauthenticated => (401, refusal.message),
                        Code::Forbidden => (403, refusal.message),
                        other => panic!("{other}: {refusal}"),
                    },
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

async fn http(at: SocketAddr, mut request: Request<Body>, token: Option<&str>, tenant: Option<&str>) -> Told {
    let headers = request.headers_mut();
    if let Some(token) = token {
        headers.insert(header::AUTHORIZATION, bearer(token));
    }
    if let Some(tenant) = tenant {
        headers.insert("x-adit-tenant", ok(tenant.parse()));
        headers.insert("x-piko-tenant-id", ok(tenant.parse()));
    }
    let answer = ask(at, request).await;
    if answer.status == StatusCode::UNAUTHORIZED {
        let challenge = answer.headers.get(header::WWW_AUTHENTICATE).expect("it says what to bring");
        assert!(ok(challenge.to_str()).starts_with("Bearer realm=\"adit\""), "{challenge:?}");
    }
    let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.status.as_u16(), json["code"].as_str().unwrap_or_default().to_owned())
}

async fn ask(at: SocketAddr, request: Request<Body>) -> Answer {
    let mut client = Http1::connect(at).await;
    let response = ok(client.send(request).await);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Answer { status: response.status(), headers: response.headers().clone(), body: "".into() };
    }
    crate::support::client::whole(response).await
}

async fn refused(fabric: &Fabric, admin: &str, port: &str, reason: &str) -> u64 {
    let mut request = request("GET", "", "/metrics", "");
    request.headers_mut().insert(header::AUTHORIZATION, bearer(admin));
    let metrics = ask(fabric.addresses.admin, request).await;
    let name = format!("adit_auth_refused_total{{port=\"{port}\",reason=\"{reason}\"}} ");
    metrics.text().lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| ok(count.parse()))
}

#[tokio::test]
async fn each_port_judges_each_credential_logs_it_and_counts_it() {
    let (issuer, stranger) = (Issuer::of(Algorithm::Rs256), Issuer::of(Algorithm::Rs256));
    let posing = Issuer::of(Algorithm::Rs256).posing_as(&issuer);
    let mut port = issuer.port();
    if let Some(auth::Config { rules, .. }) = &mut port.keys {
        *rules = Rules { issuers: vec!["us".into()], audiences: vec!["adit".into()], ..rules.clone() };
    }
    let auth = adit::node::Auth { edge: port.clone(), link: port.clone(), admin: port };
    let fabric = Fabric::with(|config| config.auth = auth).await;
    let good = json!({ "iss": "us", "aud": "adit", "exp": in_seconds(600.0), "adit": { "actions": ["serve", "connect", "admin"] } });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        issuer.token(&claims)
    };
    let agent_token = Some(adit::client::Token::fixed(Secret::new(issuer.token(&good))));
    let service = service::mirror().await;
    let config = adit::client::Config { token: agent_token, ..fabric.client() };
    let agent = fabric.start_agent(config, &[("web", Kind::Http, service.address.to_string())]);
    ok(crate::support::soon(agent.serve()).await);

    // The algorithm of the token, and the public key, which everybody has, as its secret.
    let confused = {
        let header = json!({ "alg": "HS256", "kid": issuer.id(), "typ": "JWT" });
        let unsigned = forged(&header, &good, b"");
        let text = unsigned.trim_end_matches('.');
        let key = hmac::Key::new(hmac::HMAC_SHA256, issuer.public_pem().as_bytes());
        forged(&header, &good, hmac::sign(&key, text.as_bytes()).as_ref())
    };
    let admin = issuer.token(&good);
    let log = Log::of_this_thread();
    for (what, token, tenant, status, reason) in [
        ("none", None, None, 401, "missing_token"),
        ("good", Some(issuer.token(&good)), None, 200, ""),
        ("expired", Some(with("exp", in_seconds(-60.0))), None, 401, "expired_token"),
        ("not yet", Some(with("nbf", in_seconds(60.0))), None, 401, "token_not_yet_valid"),
        ("wrong key", Some(posing.token(&good)), None, 401, "bad_signature"),
        ("unknown key", Some(stranger.token(&good)), None, 401, "unknown_key"),
        ("wrong audience", Some(with("aud", json!("them"))), None, 401, "wrong_audience"),
        ("wrong issuer", Some(with("iss", json!("them"))), None, 401, "wrong_issuer"),
        ("alg none", Some(forged(&json!({ "alg": "none" }), &good, b"")), None, 401, "unsupported_algorithm"),
        ("public key as secret", Some(confused), None, 401, "unsupported_algorithm"),
        ("huge", Some(with("more", json!("x".repeat(9000)))), None, 401, "token_too_long"),
        ("no token", Some("hunter2".into()), None, 401, "malformed_token"),
        ("odd claim", Some(with("adit", json!({ "endpoint": ["web"] }))), None, 401, "invalid_claim"),
        ("other tenant", Some(issuer.token(&good)), Some("acme"), 403, "tenant_not_permitted"),
        (
            "other endpoint",
            Some(with("adit", json!({ "endpoints": ["db"], "actions": ["serve", "connect"] }))),
            None,
            403,
            "endpoint_not_permitted",
        ),
        ("no action", Some(with("adit", json!({ "actions": [] }))), None, 403, "action_not_permitted"),
    ] {
        for port in Port::ALL {
            // Operators are asked neither for a tenant nor for an endpoint; a link may be, and its endpoint is refused later.
            match (port, what) {
                (Port::Admin, "other tenant" | "other endpoint") | (Port::Link, "other endpoint") => continue,
                _ => {}
            }
            let before = refused(&fabric, &admin, port.name(), reason).await;
            let (told, code) = port.ask(&fabric, token.as_deref(), tenant).await;
            // Nobody serves TCP there, and a switch of protocols is as good as an answer.
            let expected = match (port, status) {
                (Port::PikoTcp | Port::PikoAgent, 200) => 101,
                (_, status) => status,
            };
            assert_eq!(told, expected, "{what} at {port:?}: {code}");
            if reason.is_empty() {
                continue;
            }
            if port != Port::Link {
                assert_eq!(code, reason, "{what} at {port:?}");
            }
            assert_eq!(refused(&fabric, &admin, port.name(), reason).await, before + 1, "{what} at {port:?}");
            let lines = log.lines(port.logs());
            let line = lines.last().unwrap_or_else(|| panic!("{what} at {port:?} is not in the log"));
            // A link is told the sentence alone.
            let code = if port == Port::Link { code } else { format!("code=\"{reason}\"") };
            for says in ["adit::access", "client=127.0.0.1:", &code] {
                assert!(line.contains(says), "{what} at {port:?}: {line}");
            }
        }
        if let Some(token) = &token {
            assert_eq!(log.lines(token), Vec::<String>::new(), "a credential is in the log");
        }
    }
}

#[tokio::test]
async fn only_health_and_readiness_are_open_to_operators_without_credentials() {
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| config.auth.admin = issuer.port()).await;
    let get = async |path: &str, token: Option<&str>| {
        http(fabric.addresses.admin, request("GET", "", path, ""), token, None).await.0
    };
    for path in ["/health", "/ready"] {
        assert_eq!(get(path, None).await, 200, "{path}");
    }
    let token = issuer.token(&json!({}));
    for path in ["/metrics", "/api/v1/status", "/status/cluster/nodes", "/status/upstream/endpoints"] {
        assert_eq!((get(path, None).await, get(path, Some(&token)).await), (401, 200), "{path}");
    }
    let limited = issuer.token(&json!({ "adit": { "endpoints": ["web"] } }));
    assert_eq!(get("/metrics", Some(&limited)).await, 403);
}

#[tokio::test]
async fn a_service_sees_no_credential_that_was_for_the_edge_and_each_that_was_not() {
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| config.auth.edge = issuer.port()).await;
    let service = service::http(async |request: Request<hyper::body::Incoming>| {
        let seen = ["authorization", "x-adit-authorization", "x-piko-authorization", "x-piko-forward"];
        let seen = seen.map(|name| request.headers().get(name).map_or("-", |value| ok(value.to_str())));
        http::Response::new(body(seen.join(" ")))
    })
    .await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let (token, basic) = (format!("Bearer {}", issuer.token(&json!({}))), "Basic YTpi");
    let both = [("x-adit-authorization", token.as_str()), ("authorization", basic)];
    for (fields, expected) in [
        (&[("authorization", token.as_str())][..], "- - - -"),
        (&both, "Basic YTpi - - -"),
        (&[("x-piko-authorization", token.as_str()), ("authorization", basic)], "Basic YTpi - - -"),
        (&[("authorization", token.as_str()), ("x-piko-forward", "true")], "- - - -"),
    ] {
        let mut request = request("GET", "web", "/", "");
        for (name, value) in fields {
            request.headers_mut().insert(*name, ok(value.parse()));
        }
        let answer = ask(fabric.addresses.edge, request).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, expected), "{fields:?}");
    }
    // An edge that asks for nothing passes on what is there, but for what only a node reads.
    let open = Fabric::start().await;
    let _agent = open.agent("web", Kind::Http, service.address).await;
    let mut request = request("GET", "web", "/", "");
    for (name, value) in both {
        request.headers_mut().insert(name, ok(value.parse()));
    }
    assert_eq!(ask(open.addresses.edge, request).await.text(), "Basic YTpi - - -");
}

#[tokio::test]
async fn a_service_sees_none_of_adits_own_fields_whoever_sent_them() {
    let fabric = Fabric::start().await;
    let service = service::http(async |request: Request<hyper::body::Incoming>| {
        let mut seen: Vec<_> = request.headers().keys().map(|name| name.as_str().to_owned()).collect();
        seen.retain(|name| name.starts_with("x-adit") || name.starts_with("x-piko"));
        seen.sort();
        http::Response::new(body(seen.join(" ")))
    })
    .await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let ask = |more: &[(&'static str, &'static str)]| {
        let mut request = request("GET", "web", "/", "");
        let own = ["x-adit-tenant", "x-adit-error", "x-adit-foo", "x-adit-", "x-adit", "x-piko-endpoint"];
        for (name, value) in own.map(|name| (name, "default")).iter().chain(more) {
            request.headers_mut().append(*name, ok(value.parse()));
        }
        request
    };
    let upgrade = [("connection", "upgrade"), ("upgrade", "x-test")];
    let edge = fabric.addresses.edge;
    for (how, answer) in [
        ("HTTP/1.1", Http1::connect(edge).await.ask(ask(&[])).await),
        ("an upgrade", Http1::connect(edge).await.ask(ask(&upgrade)).await),
        ("HTTP/2", Http2::connect(edge).await.ask(over_http2(ask(&[]))).await),
    ] {
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "x-adit x-piko-endpoint"), "{how}");
    }
}

#[tokio::test]
async fn nobody_is_told_whether_an_endpoint_exists_that_is_not_theirs() {
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| {
        config.auth.edge = issuer.port();
        config.upstream_wait = std::time::Duration::ZERO;
    })
    .await;
    let service = service::mirror().await;
    let _agent = fabric.agent("there", Kind::Http, service.address).await;
    let token = issuer.token(&json!({ "adit": { "endpoints": ["web"] } }));
    let mut told = Vec::new();
    for endpoint in ["there", "absent"] {
        let mut request = request("GET", endpoint, "/", "");
        request.headers_mut().insert(header::AUTHORIZATION, bearer(&token));
        let answer = ask(fabric.addresses.edge, request).await;
        told.push((answer.status, answer.text().replace(endpoint, "ENDPOINT")));
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0].0, StatusCode::FORBIDDEN);
}
