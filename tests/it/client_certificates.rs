//! Client certificates: what one is for, that it ends with its revocation, and that none or another's is refused.

use std::{net::SocketAddr, sync::Arc};

use adit::{
    auth::{CertificateRule, CertificateRules, PortConfig, Tenants},
    client::{self, Transport},
    edge::{Http3, TlsConfig},
    node,
    protocol::{ALPN_LINK, Close, Code, Control, Kind, Role, TenantId},
    tls::{self, Authority, ClientAuth, Identity, Trust},
    transport::{ControlReader, ControlWriter, Link, Lost, Settings, quic::Dialer},
};
use http::{StatusCode, header};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{
    Fabric, SOON,
    client::{Answer, Http1, request},
    eventually,
    fabric::{identity, linked_over},
    ok,
    raw::hello,
    service, soon,
    tokens::{Issuer, bearer},
};

fn rules() -> CertificateRules {
    let rule = |name: &str, tenant: &str, endpoints: Option<&str>| CertificateRule {
        name: ok(name.parse()),
        tenants: Tenants::one(ok(TenantId::new(tenant))),
        endpoints: endpoints.map(|pattern| vec![ok(pattern.parse())]),
        hosts: None,
    };
    let rules = vec![rule("*.acme.example", "acme", Some("web-*")), rule("ops.example", "default", None)];
    CertificateRules { rules, ..CertificateRules::default() }
}

fn port(rules: CertificateRules) -> PortConfig {
    PortConfig { certificates: Some(rules), ..PortConfig::default() }
}

/// The rules, and a list that denies a certificate.
fn denying(identity: &Identity) -> CertificateRules {
    CertificateRules { denied: ok(identity.fingerprint().to_string().parse()), ..rules() }
}

async fn with_links(authority: &Authority) -> Fabric {
    let clients = ClientAuth::Optional(vec![authority.certificate().clone()]);
    Fabric::with(|config| {
        config.link.clients = clients;
        config.auth.link = port(rules());
        config.auth.edge.asked.headers = vec![http::HeaderName::from_static("x-adit-tenant")];
    })
    .await
}

fn config(fabric: &Fabric, identity: Option<&Identity>) -> client::Config {
    let trust = Trust::Roots(vec![fabric.authority.certificate().clone()]);
    let config = fabric.client();
    client::Config { tls: ok(tls::client_config(&trust, identity, &[ALPN_LINK])), ..config }
}

/// A link by hand, and what answers its `Hello`.
async fn link(fabric: &Fabric, identity: Option<&Identity>, endpoint: &str) -> (Link, Result<(), Code>) {
    let tls = config(fabric, identity).tls;
    let dialer = ok(Dialer::new(tls, &Settings::default()));
    let link = ok(soon(dialer.dial(fabric.addresses.link, "127.0.0.1")).await);
    let stream = ok(link.open(SOON).await);
    let (mut reader, mut writer) = (ControlReader::new(stream.recv), ControlWriter::new(stream.send));
    ok(writer.send(&Control::Hello(hello(Role::Agent, 1, &[endpoint]))).await);
    let outcome = match soon(reader.next()).await {
        Ok(Control::Refused(refusal)) => Err(refusal.code),
        Ok(Control::Welcome(_)) => match soon(reader.next()).await {
            Ok(Control::Listening(_)) => Ok(()),
            Ok(Control::ListenRefused(_, refusal)) => Err(refusal.code),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    // Streams that are dropped are reset, and end the link.
    std::mem::forget((reader, writer, dialer));
    (link, outcome)
}

#[tokio::test]
async fn a_certificate_of_an_agent_says_its_tenant_and_its_endpoints() {
    let authority = ok(Authority::generate("clients"));
    let fabric = with_links(&authority).await;
    let acme = identity(&authority, &["agent.acme.example"]);
    let stranger = identity(&authority, &["agent.other.example"]);
    for (identity, endpoint, expected) in [
        (Some(&acme), "web-1", Ok(())),
        (Some(&acme), "db", Err(Code::Forbidden)),
        (Some(&stranger), "web-1", Err(Code::Forbidden)),
        (None, "web-1", Err(Code::Unauthenticated)),
    ] {
        assert_eq!(link(&fabric, identity, endpoint).await.1, expected, "{endpoint}");
    }
    // Another authority's is refused by TLS, before anything is said.
    let forged = identity(&ok(Authority::generate("others")), &["agent.acme.example"]);
    let dialer = ok(Dialer::new(config(&fabric, Some(&forged)).tls, &Settings::default()));
    let dialled = soon(dialer.dial(fabric.addresses.link, "127.0.0.1")).await;
    if let Ok(link) = dialled {
        assert!(matches!(soon(link.closed()).await, Lost::Peer { .. } | Lost::Other(_)));
    }
    for transport in [Transport::Quic, Transport::WebSocket] {
        linked_over(transport, async {
            let service = service::mirror().await;
            let agent = fabric.start_agent(
                config(&fabric, Some(&acme)),
                &[("web-2", Kind::Http, service.address.to_string())],
            );
            ok(soon(agent.serve()).await);
            let answer = crate::support::client::get(fabric.addresses.edge, "web-2", "/").await;
            assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "it is of another tenant");
            let mut theirs = request("GET", "web-2", "/", "");
            theirs.headers_mut().insert("x-adit-tenant", ok("acme".parse()));
            let answer = soon(Http1::connect(fabric.addresses.edge).await.ask(theirs)).await;
            assert_eq!(answer.status, StatusCode::OK);
        })
        .await;
    }
}

#[tokio::test]
async fn a_link_ends_when_its_certificate_is_denied_and_others_stay() {
    let authority = ok(Authority::generate("clients"));
    let fabric = with_links(&authority).await;
    let [denied, other] = ["a.acme.example", "b.acme.example"].map(|name| identity(&authority, &[name]));
    let (lost, first) = link(&fabric, Some(&denied), "web-1").await;
    assert_eq!(first, Ok(()));
    // Of another agent, or it would take the other's place.
    let agent = fabric.start_agent(config(&fabric, Some(&other)), &[("web-2", Kind::Http, "1".into())]);
    ok(soon(agent.serve()).await);
    let mut state = agent.client().agent_state();
    state.mark_unchanged();

    let auth = node::Auth { link: port(denying(&denied)), ..node::Auth::default() };
    fabric.node.as_ref().expect("it runs").replace_auth(&auth);
    let lost = soon(lost.closed()).await;
    // A goodbye that congestion control holds back is not sent later: then the node knows nothing of the link any more.
    let said = matches!(lost, Lost::Peer { code, .. } if code == Close::Expired as u64);
    assert!(said || lost == Lost::Reset, "{lost:?}");
    assert_eq!(link(&fabric, Some(&denied), "web-1").await.1, Err(Code::Forbidden));
    assert!(!ok(state.has_changed()), "{:?}", state.borrow());
}

async fn ask(
    edge: SocketAddr,
    server: &Authority,
    identity: Option<&Identity>,
    token: Option<&str>,
) -> Answer {
    let trust = Trust::Roots(vec![server.certificate().clone()]);
    let tls = ok(tls::client_config(&trust, identity, &[b"http/1.1"]));
    let name = ok(ServerName::try_from("edge.example"));
    let stream = ok(TcpStream::connect(edge).await);
    let stream = ok(soon(TlsConnector::from(Arc::new(tls)).connect(name, stream)).await);
    let mut request = request("GET", "web-1", "/", "");
    if let Some(token) = token {
        request.headers_mut().insert(header::AUTHORIZATION, bearer(token));
    }
    soon(Http1::over(stream).await.ask(request)).await
}

#[tokio::test]
async fn a_certificate_of_a_client_is_good_alone_and_limits_a_token_beside_it() {
    let (server, authority) = (ok(Authority::generate("server")), ok(Authority::generate("clients")));
    let issuer = Issuer::new();
    let fabric = Fabric::with(|config| {
        config.edge.tls = Some(TlsConfig {
            bind: ([127, 0, 0, 1], 0).into(),
            identities: vec![identity(&server, &["edge.example"])],
            clients: ClientAuth::Optional(vec![authority.certificate().clone()]),
            http3: Http3::Off,
        });
        config.auth.edge = PortConfig { certificates: Some(rules()), ..issuer.port() };
    })
    .await;
    let service = service::mirror().await;
    let _agent = fabric.agent("web-1", Kind::Http, service.address).await;
    let edge = fabric.addresses.edge_tls.expect("it was asked for");
    let [ops, acme, stranger] =
        ["ops.example", "a.acme.example", "a.other.example"].map(|name| identity(&authority, &[name]));
    let [all, other] =
        [json!({}), json!({ "adit": { "endpoints": ["db"] } })].map(|claims| issuer.token(&claims));
    for (certificate, token, expected) in [
        (Some(&ops), None, 200),
        (Some(&ops), Some(&all), 200),
        (None, Some(&all), 200),
        (None, None, 401),
        (Some(&ops), Some(&other), 403),
        (Some(&stranger), Some(&all), 403),
        // Theirs is another tenant, which has no such endpoint.
        (Some(&acme), None, 502),
        (Some(&acme), Some(&all), 403),
    ] {
        let answer = ask(edge, &server, certificate, token.map(String::as_str)).await;
        assert_eq!(answer.status.as_u16(), expected, "{token:?}: {}", answer.text());
    }
    let auth = node::Auth { edge: port(denying(&ops)), ..node::Auth::default() };
    fabric.node.as_ref().expect("it runs").replace_auth(&auth);
    eventually("it is denied", async || {
        ask(edge, &server, Some(&ops), None).await.status == StatusCode::FORBIDDEN
    })
    .await;
}
