//! What an agent's spans say. They are of the side towards the service, whose own come below them.

use tokio::time::Instant;

use super::Endpoint;
use crate::{
    net::HostPort,
    protocol::{EndpointId, Kind, Open},
    telemetry::trace::{Attribute, Hop, Span, Tracer},
};

/// A request or a flow of an endpoint, whose span somebody will hear of.
#[derive(Debug)]
pub(super) struct Spanned {
    span: Span,
    endpoint: EndpointId,
    service: HostPort,
}

/// Why a flow has failed that never reached its service, and one that its service has reset.
pub(super) const UNREACHED: &str = "service not reached";
pub(super) const BROKE: &str = "service broke off";

impl Spanned {
    /// The span of something that this endpoint is to serve.
    pub(super) fn new(span: Option<Span>, endpoint: &Endpoint) -> Option<Self> {
        let span = span.filter(Span::is_sampled)?;
        Some(Self { span, endpoint: endpoint.name.clone(), service: endpoint.service.address().clone() })
    }

    /// The span of a flow. One that carries requests has none: they have.
    pub(super) fn flow(tracer: &Tracer, open: &Open, endpoint: &Endpoint) -> Option<Self> {
        let span = (!open.kind.is_http()).then(|| tracer.flow(Hop::Agent, &mut open.trace.clone())).flatten();
        Self::new(span, endpoint)
    }

    /// It has ended now, with this to be said beside whose it was.
    pub(super) fn end(self, name: &'static str, told: Vec<Attribute>, error: Option<&'static str>) {
        let Self { span, endpoint, service } = self;
        span.end(Instant::now(), || {
            let whose = vec![
                ("adit.endpoint", endpoint.to_string().into()),
                ("server.address", service.host.into()),
                ("server.port", service.port.into()),
            ];
            (name, [whose, told].concat(), error)
        });
    }

    /// The same of a flow that has carried so many bytes.
    pub(super) fn end_flow(
        self,
        kind: Kind,
        to_service: u64,
        from_service: u64,
        error: Option<&'static str>,
    ) {
        let transport = if kind == Kind::Udp { "udp" } else { "tcp" };
        let told = vec![
            ("network.transport", transport.into()),
            ("adit.sent_bytes", from_service.into()),
            ("adit.received_bytes", to_service.into()),
        ];
        self.end(transport, told, error);
    }
}
