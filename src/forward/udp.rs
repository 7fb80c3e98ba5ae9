//! UDP ports: each client's address has an association until that is idle or breaks; the next packet begins another.

use std::{sync::Arc, time::Duration};

use crate::{
    client::Client,
    drain::Tasks,
    protocol::EndpointId,
    splice::packets::{self, Activity, UdpClient, UdpPort},
    telemetry::{self, Tally, Traffic},
};

/// Serves a port's clients; once the forwarder leaves, those that are there.
pub(super) async fn serve(
    port: UdpPort,
    (endpoint, client, traffic): (Arc<EndpointId>, Client, Traffic),
    accepting: Tasks,
    flows: Tasks,
    idle: Duration,
) {
    let welcome = |from: UdpClient| {
        let (endpoint, client, leaving) = (Arc::clone(&endpoint), client.clone(), flows.clone());
        let tally = traffic.udp.clone();
        // The port bounds its clients.
        flows.spawn(async move { join(from, (&endpoint, &client, &tally), &leaving, idle).await });
    };
    port.serve(accepting.signalled(), welcome).await;
}

/// Joins one client to a new association.
async fn join(
    from: UdpClient,
    (endpoint, client, tally): (&EndpointId, &Client, &Tally),
    leaving: &Tasks,
    idle: Duration,
) {
    let address = from.address();
    let association = match client.associate_for(endpoint, Some(address)).await {
        Ok(association) => association,
        Err(error) => {
            tracing::warn!(%endpoint, client = %address, error = telemetry::report(&error), "packets are dropped");
            return from.discard().await;
        }
    };
    let activity = Activity::default().counted(tally);
    let (idle, deserted) =
        (association.idle(&activity, idle, leaving.signalled()), association.deserted(&activity));
    let over = async {
        tokio::select! {
            () = idle => {}
            () = deserted => {}
        }
    };
    let end = packets::join(from, association, &activity, over).await;
    tracing::debug!(
        %endpoint,
        client = %address,
        to_service = activity.left_to_right(),
        from_service = activity.right_to_left(),
        broken = end.err().map(|broken| telemetry::report(&broken)),
        "an association has ended"
    );
}
