//! UDP flows at an agent: each association has a socket of its own, by which the service tells clients apart.

use std::sync::Arc;

use super::{
    Endpoint, door,
    metrics::Counters,
    server::deny,
    span::{FlowSpan, UNREACHED},
};
use crate::{
    client::{Client, Incoming},
    protocol::{Kind, Refusal},
    splice::packets::{self, Activity},
    telemetry::{self, trace::Tracer},
};

/// Joins one association to a new socket.
pub(super) async fn join(
    incoming: Incoming,
    endpoint: Arc<Endpoint>,
    client: Client,
    counters: Counters,
    tracer: Tracer,
) {
    if let Err(denied) = door::check_flow(&endpoint.door, incoming.open()) {
        return deny(incoming, denied, &counters).await;
    }
    let activity = Activity::default().counted(counters.tally(Kind::Udp));
    let carried = || (activity.bytes_left_to_right(), activity.bytes_right_to_left());
    let span = FlowSpan::begin(Some(&tracer), incoming.open(), &endpoint, carried);
    let service = match endpoint.service.associate(client.packets().clone()).await {
        Ok(service) => service,
        Err(error) => {
            counters.unreached(error.code());
            tracing::warn!(endpoint = %endpoint.name, %error, "the service cannot be reached");
            span.end(Some(UNREACHED));
            return incoming.refuse(Refusal::new(error.code(), error.to_string())).await;
        }
    };
    let association = match incoming.associate().await {
        Ok(association) => association,
        Err(error) => {
            span.end(None);
            return tracing::debug!(endpoint = %endpoint.name, %error, "an association went away before it began");
        }
    };
    let client = association.client();
    let _open = counters.open(Kind::Udp);
    let idle = association.idle(&activity, endpoint.udp_idle, std::future::pending());
    let end = packets::join(association, service, &activity, idle).await;
    span.end(None);
    tracing::debug!(
        endpoint = %endpoint.name,
        client = client.map(tracing::field::display),
        to_service = activity.left_to_right(),
        from_service = activity.right_to_left(),
        broken = end.err().map(|broken| telemetry::report(&broken)),
        "an association has ended"
    );
}
