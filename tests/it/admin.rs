//! The operators' port.

use adit::protocol::Kind;
use http::StatusCode;

use crate::support::{Fabric, client::get, ok, service};

#[tokio::test]
async fn health_readiness_and_metrics_are_told() {
    let fabric = Fabric::start().await;
    let admin = fabric.addresses.admin;
    for path in ["/health", "/ready"] {
        assert_eq!(get(admin, "", path).await.status, StatusCode::OK, "{path}");
    }
    let service = service::mirror().await;
    let _agent = fabric.agent("web", Kind::Http, service.address).await;
    for path in ["/", "/", "/"] {
        assert_eq!(get(fabric.addresses.edge, "web", path).await.status, StatusCode::OK);
    }
    get(fabric.addresses.edge, "nobody", "/").await;
    let metrics = get(admin, "", "/metrics").await;
    for line in [
        "adit_requests_total{protocol=\"h1\",status=\"2xx\"} 3",
        "adit_requests_total{protocol=\"h1\",status=\"5xx\"} 1",
        "adit_links{role=\"agent\"} 1",
        "adit_endpoints 1",
        "adit_flows_opened_total 1",
        "adit_flows_reused_total 2",
        "adit_retries_total 0",
        "# EOF",
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "{line} in\n{}", metrics.text());
    }
}

#[tokio::test]
async fn status_shows_links_and_endpoints() {
    let fabric = Fabric::start().await;
    let service = service::echo().await;
    let mut config = fabric.client();
    config.name = Some("laptop".into());
    let agent = fabric.start_agent(config, &[("echo", Kind::Tcp, service.address.to_string())]);
    ok(agent.serve().await);
    let status = get(fabric.addresses.admin, "", "/api/v1/status").await;
    let json: serde_json::Value = ok(serde_json::from_slice(&status.body));
    assert_eq!((json["node"].as_str(), json["phase"].as_str()), (Some("n1"), Some("ready")));
    let link = &json["links"][0];
    assert_eq!((link["role"].as_str(), link["name"].as_str()), (Some("agent"), Some("laptop")));
    assert_eq!(link["agent"].as_str(), Some(agent.client().id().to_string().as_str()));
    assert_eq!((link["endpoints"].as_u64(), link["state"].as_str()), (Some(1), Some("up")));
    let endpoint = &json["endpoints"][0];
    assert_eq!((endpoint["endpoint"].as_str(), endpoint["kind"].as_str()), (Some("echo"), Some("tcp")));
    assert_eq!(endpoint["agents"].as_u64(), Some(1));
}
