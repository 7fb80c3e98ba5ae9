//! HTTP through one node: both versions, what a proxy changes and what it leaves.

use adit::protocol::Kind;
use http::{Request, StatusCode, header};

use crate::support::{
    Fabric,
    client::{Http1, Http2, body, get, request},
    ok, service,
};

#[tokio::test]
async fn a_request_reaches_the_service_and_its_response_comes_back() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let mut client = Http1::connect(fabric.addresses.edge).await;
    let answer = client.ask(request("POST", "web", "/a/b?c=d", "hello")).await;
    assert_eq!(answer.status, StatusCode::OK);
    let client_ip = "127.0.0.1";
    assert_eq!(
        answer.text(),
        format!(
            "POST /a/b?c=d HTTP/1.1\ncontent-length: 5\nforwarded: for={client_ip};proto=http;host=127.0.0.1\n\
             host: 127.0.0.1\nx-adit-endpoint: web\nx-forwarded-for: {client_ip}\nx-forwarded-host: 127.0.0.1\n\
             x-forwarded-proto: http\n\nhello"
        )
    );
}

#[tokio::test]
async fn the_host_names_the_endpoint() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let mut client = Http1::connect(fabric.addresses.edge).await;
    let by_host = ok(Request::get("/").header(header::HOST, "Web.example.com:80").body(body("")));
    let answer = client.ask(by_host).await;
    assert!(answer.text().contains("host: Web.example.com:80"), "Host is kept: {}", answer.text());
    // An absolute target's host rules over the Host field (RFC 9112 §3.2.2).
    let absolute = ok(Request::get("http://web.test/x").header(header::HOST, "other.test").body(body("")));
    let answer = client.ask(absolute).await;
    assert!(answer.text().starts_with("GET /x HTTP/1.1\n"), "{}", answer.text());
    assert!(answer.text().contains("host: web.test"), "{}", answer.text());
}

#[tokio::test]
async fn http2_by_prior_knowledge_is_understood_on_the_plain_port() {
    let fabric = Fabric::start().await;
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let client = Http2::connect(fabric.addresses.edge).await;
    let by_host = ok(Request::post("http://web.example.com/x").body(body("hello")));
    let answer = client.ask(by_host).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.text().starts_with("POST /x HTTP/1.1\n"), "{}", answer.text());
    assert!(answer.text().contains("host: web.example.com\n"), "{}", answer.text());
    assert!(answer.text().ends_with("\n\nhello"), "{}", answer.text());
    let unknown = client.ask(ok(Request::get("http://nobody.example.com/").body(body("")))).await;
    assert_eq!((unknown.status, unknown.error().0.as_str()), (StatusCode::BAD_GATEWAY, "no_upstream"));
}

#[tokio::test]
async fn ipv6_endpoints_and_services_work_like_ipv4() {
    let fabric = Fabric::with(|config| {
        let any = ([0u16, 0, 0, 0, 0, 0, 0, 1], 0).into();
        (config.edge.bind, config.link.bind, config.admin) = (any, any, any);
    })
    .await;
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    let answer = get(fabric.addresses.edge, "web", "/").await;
    assert!(answer.text().contains("forwarded: for=\"[::1]\""), "{}", answer.text());
}
