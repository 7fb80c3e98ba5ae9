//! Services that speak HTTP/2: requests share connections, and each keeps to itself.

use crate::support::{
    client::{Http1, request},
    fabric::Web,
    http2, service,
};

#[tokio::test]
async fn a_request_reaches_a_service_of_http2_as_http2_has_it() {
    let service = http2::http(service::reflect).await;
    let web = Web::to_http2(service.address).await;
    let mut client = Http1::connect(web.edge).await;
    let answer = client.ask(request("POST", "web", "/a/b?c=d", "hello")).await;
    assert_eq!(
        answer.text(),
        "POST http://127.0.0.1/a/b?c=d HTTP/2.0\ncontent-length: 5\nforwarded: for=127.0.0.1;proto=http;host=127.0.0.1\n\
         x-adit-endpoint: web\nx-forwarded-for: 127.0.0.1\nx-forwarded-host: 127.0.0.1\nx-forwarded-proto: http\n\nhello"
    );
}
