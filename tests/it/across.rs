//! What holds on one node holds across two and three, for clients of a node that no agent is linked to, and for agents and
//! forwarders that are linked over WebSocket.

use adit::client::Transport;
use http::StatusCode;

use crate::{
    half_close, lasting, piko_edge, streaming,
    support::{
        client::{Http1, Http2, over_http2, request},
        fabric::{Web, linked_over},
        service,
    },
    timeouts, upgrade,
};

/// Runs a check over two nodes and over three at the same time, and then over two with links over WebSocket.
async fn across(check: impl AsyncFn(usize)) {
    tokio::join!(check(2), check(3));
    linked_over(Transport::WebSocket, check(2)).await;
}

#[tokio::test]
async fn either_version_of_http_is_served() {
    across(async |nodes| {
        let service = service::mirror().await;
        serves_either_version(&Web::over(nodes, service.address).await).await;
    })
    .await;
}

/// Asks a service that tells what it gets, by both versions, on connections that are kept.
pub(crate) async fn serves_either_version(web: &Web) {
    let (mut http1, http2) = (Http1::connect(web.edge).await, Http2::connect(web.edge).await);
    for content in ["", "hello", "again"] {
        let asked = || request("POST", "web", "/path?query", content);
        for answer in [http1.ask(asked()).await, http2.ask(over_http2(asked())).await] {
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            assert!(answer.text().starts_with("POST /path?query HTTP/1.1\n"), "{}", answer.text());
            assert!(answer.text().ends_with(&format!("\n\n{content}")), "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn bodies_stream_both_ways_with_their_trailers() {
    across(streaming::both_bodies_stream).await;
    across(streaming::trailers_pass).await;
    across(streaming::bodiless_responses_keep_their_flow).await;
    across(streaming::events_arrive_one_by_one).await;
}

#[tokio::test]
async fn who_does_not_read_stops_who_sends() {
    across(streaming::an_unread_response_stops_the_service).await;
    across(streaming::an_unread_request_stops_the_client).await;
}

#[tokio::test]
async fn what_breaks_in_the_middle_never_seems_complete() {
    across(streaming::a_broken_response_is_an_error).await;
    across(streaming::a_response_of_a_lost_agent_is_an_error).await;
    across(streaming::a_client_that_has_gone_is_noticed).await;
    across(streaming::a_broken_request_is_an_error).await;
}

#[tokio::test]
async fn websockets_and_other_switched_connections_are_byte_streams() {
    across(upgrade::websocket_messages_pass).await;
    across(upgrade::websockets_pass_over_http2).await;
    across(upgrade::bytes_right_behind_the_switch_arrive).await;
    across(upgrade::each_direction_ends_by_itself).await;
    across(upgrade::a_reset_is_passed_on).await;
}

#[tokio::test]
async fn each_direction_of_a_tcp_flow_ends_by_itself_and_every_byte_arrives() {
    across(half_close::a_client_may_end_first).await;
    across(half_close::a_service_may_end_first).await;
    across(half_close::both_directions_run).await;
    across(half_close::every_byte_arrives).await;
}

#[tokio::test]
async fn a_reset_of_a_tcp_flow_is_a_reset_at_its_other_end() {
    across(half_close::a_client_may_reset).await;
    across(half_close::a_reset_stops_the_service).await;
    across(half_close::a_service_may_reset).await;
    across(half_close::a_killed_service_never_seems_to_have_finished).await;
    across(half_close::a_lost_agent_or_forwarder_is_an_error).await;
}

#[tokio::test]
async fn pikos_tcp_clients_are_served_as_well() {
    across(piko_edge::megabytes_pass).await;
    across(piko_edge::either_side_may_close_first).await;
    across(piko_edge::broken_clients_are_resets).await;
    across(piko_edge::broken_services_are_resets).await;
}

/// The fault that this project exists to end: a TCP connection through two nodes died with the time-out of HTTP requests.
#[tokio::test]
async fn no_flow_ends_with_the_request_time_out() {
    across(lasting::flows_live_on).await;
    across(piko_edge::flows_live_on).await;
}

#[tokio::test]
async fn the_request_time_out_is_for_response_headers_alone() {
    across(async |nodes| {
        tokio::join!(
            timeouts::slow_bodies_live_on(nodes),
            timeouts::late_headers_are_a_504(nodes),
            timeouts::the_time_runs_from_the_requests_end(nodes),
        );
    })
    .await;
}
