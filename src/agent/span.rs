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

/// Why a flow has failed that never reached its service, one that its service has reset, and one that did not come to its end.
pub(super) const UNREACHED: &str = "service not reached";
pub(super) const BROKE: &str = "service broke off";
const CUT: &str = "flow was cut";

impl Spanned {
    /// The span of something that this endpoint is to serve.
    pub(super) fn new(span: Option<Span>, endpoint: &Endpoint) -> Option<Self> {
        let span = span.filter(Span::is_sampled)?;
        Some(Self { span, endpoint: endpoint.name.clone(), service: endpoint.service.address().clone() })
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
}

/// The span of a flow under way, which ends when this is dropped, however the flow ends.
#[derive(Debug)]
pub(super) struct FlowSpan<F: Fn() -> (u64, u64)> {
    /// Of a flow that carries requests there is none: they have.
    span: Option<Spanned>,
    transport: &'static str,
    /// How many bytes it has carried, to the service and from it.
    carried: F,
    error: Option<&'static str>,
}

impl<F: Fn() -> (u64, u64)> FlowSpan<F> {
    /// None of its own has a flow without a tracer, and one that carries requests.
    pub(super) fn begin(tracer: Option<&Tracer>, open: &Open, endpoint: &Endpoint, carried: F) -> Self {
        let tracer = tracer.filter(|_| !open.kind.is_http());
        let span = tracer.and_then(|tracer| tracer.flow(Hop::Agent, &mut open.trace.clone()));
        let transport = if open.kind == Kind::Udp { "udp" } else { "tcp" };
        Self { span: Spanned::new(span, endpoint), transport, carried, error: Some(CUT) }
    }

    /// The flow has come to its end, which is an error or is none.
    pub(super) fn end(mut self, error: Option<&'static str>) {
        self.error = error;
    }
}

impl<F: Fn() -> (u64, u64)> Drop for FlowSpan<F> {
    fn drop(&mut self) {
        let Some(span) = self.span.take() else { return };
        let (to_service, from_service) = (self.carried)();
        let told = vec![
            ("network.transport", self.transport.into()),
            ("adit.sent_bytes", from_service.into()),
            ("adit.received_bytes", to_service.into()),
        ];
        span.end(self.transport, told, self.error);
    }
}
