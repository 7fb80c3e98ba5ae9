//! TCP connections that are joined to flows as they are: those of plain ports, and what `sni` has found an endpoint for.
//!
//! Driven by `connection`. It never looks into the bytes.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::{Shared, entry, proxied::Ends};
use crate::{
    access_log::Record,
    auth::{Pace, Pass},
    protocol::{Hop, Kind, Open},
    splice::{Counts, Side, splice},
    telemetry,
    upstream::{Name, OpenFlow, OpenFlowError},
};

/// Serves a connection of a port for one endpoint. When that cannot be reached, the connection is reset, as a refused one
/// would be.
pub(super) async fn serve(stream: TcpStream, ends: Ends, name: Name, shared: &Shared) {
    let client = ends.client;
    let mut trace = None;
    let record = shared.access_log.flow(&shared.connections, client, Kind::Tcp, &mut trace);
    record.asks_for(&name);
    let opened = async {
        let pass = entry::enter(&shared.guard, &shared.callers, &name, client)?;
        let flow = open(shared, &name, ends, pass.pace(), (&record, trace)).await?;
        Ok::<_, entry::Refused>((flow, pass))
    };
    match opened.await {
        Ok((flow, pass)) => {
            shared.counters.connection("tcp", "joined");
            join(shared, stream, flow, &name, client, &pass, &record).await;
        }
        Err(refused) => {
            shared.counters.connection("tcp", refused.name());
            refused.log(client, Some(&name), &record);
            stream.reset(false);
        }
    }
}

/// Opens a flow for a client's connection, in this context.
pub(super) async fn open(
    shared: &Shared,
    name: &Name,
    ends: Ends,
    pace: &Pace,
    (record, trace): (&Record, Option<String>),
) -> Result<OpenFlow, OpenFlowError> {
    let open = Open {
        endpoint: name.endpoint.clone(),
        tenant: None,
        kind: Kind::Tcp,
        hop: Hop::Final,
        agent: None,
        client: Some(ends.client),
        server: ends.server,
        trace,
    };
    let opened = shared.upstreams.open(name, &open, pace, record.trail()).await;
    if let Some(counts) = shared.by_endpoint.of(name, || shared.upstreams.has(name)) {
        counts.connection(opened.is_ok());
    }
    opened
}

/// Joins a connection to its flow until both have ended.
pub(super) async fn join(
    shared: &Shared,
    side: impl Side,
    flow: OpenFlow,
    name: &Name,
    client: SocketAddr,
    pass: &Pass,
    record: &Record,
) {
    let counts = Counts::at(pass.pace().waits()).counted(&shared.traffic.tcp);
    let _carrying = record.carrying(&counts);
    let end = splice(side, flow.stream, &counts).await;
    record.joined(end.as_ref().copied());
    drop(flow.in_use);
    tracing::debug!(
        endpoint = %name,
        %client,
        to_service = counts.left_to_right(),
        from_service = counts.right_to_left(),
        broken = end.err().map(|broken| telemetry::report(&broken)),
        "a connection has ended"
    );
}
