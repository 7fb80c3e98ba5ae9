//! Spans as OTLP has them.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource as WireResource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode},
};
use prost::Message;

use super::Resource;
use crate::telemetry::trace::{Finished, Hop, Value};

/// Bits of `flags` beside those of the context (`SpanFlags`): it is known whether the parent is of another process, and it is.
const KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;

/// One request with these spans.
pub(super) fn request(resource: &Resource, spans: Vec<Finished>) -> Bytes {
    let attributes = vec![
        text("service.name", resource.service),
        text("service.instance.id", &resource.instance),
        text("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    };
    let scope_spans =
        ScopeSpans { scope: Some(scope), spans: spans.into_iter().map(span).collect(), ..Default::default() };
    let resource_spans = ResourceSpans {
        resource: Some(WireResource { attributes, ..Default::default() }),
        scope_spans: vec![scope_spans],
        ..Default::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec().into()
}

fn span(span: Finished) -> Span {
    let Finished { context, parent, remote, hop, name, began, took, attributes, error } = span;
    let began = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let kind = match hop {
        Hop::Edge => SpanKind::Server,
        Hop::Peer => SpanKind::Internal,
        Hop::Agent => SpanKind::Client,
    };
    let status = match error {
        // Of what has not failed nothing is said: whether all is well is for others to judge.
        None => Status::default(),
        Some(error) => Status { message: error.into(), code: StatusCode::Error.into() },
    };
    Span {
        trace_id: context.trace.bytes().into(),
        span_id: context.span.bytes().into(),
        parent_span_id: parent.map(|parent| parent.bytes().into()).unwrap_or_default(),
        flags: u32::from(context.sampled) | KNOWN | if remote && parent.is_some() { REMOTE } else { 0 },
        name: name.into(),
        kind: kind.into(),
        start_time_unix_nano: nanos(began),
        end_time_unix_nano: nanos(began + took),
        attributes: attributes.into_iter().map(|(name, value)| attribute(name, value)).collect(),
        status: Some(status),
        ..Default::default()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn text(name: &str, value: &str) -> KeyValue {
    attribute(name, value.into())
}

fn attribute(name: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => any_value::Value::StringValue(text),
        Value::Number(number) => any_value::Value::IntValue(number),
    };
    KeyValue { key: name.into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}
