//! What operators have a node do.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{Source, error, operator::Operator};
use crate::{
    protocol::{AgentId, Phase, Role},
    telemetry::{Filter, InvalidFilter},
};

/// How long an agent has to move to another node, and then again how long what it has under way may take.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Serialize)]
struct Draining {
    node: String,
    phase: &'static str,
    links: usize,
    flows: usize,
    drain_delay_s: f64,
    grace_period_s: f64,
}

/// Starts what SIGTERM starts.
pub(super) async fn drain(
    State(source): State<Arc<Source>>,
    Extension(operator): Extension<Operator>,
) -> Response {
    if let Some(refused) = of_all(&operator, "a node is drained") {
        return refused;
    }
    if *source.phase.borrow() == Phase::Starting {
        let error = "the node is starting: ask again in a moment, or end its process";
        return error::answer(StatusCode::SERVICE_UNAVAILABLE, "starting", error);
    }
    if source.leave.receiver_count() == 0 {
        return unsupported("be drained");
    }
    tracing::info!(target: "adit::access", from = %operator.from, "an operator has the node leave");
    source.leave.send_replace(true);
    let draining = Draining {
        node: source.node.to_string(),
        phase: Phase::Draining.name(),
        links: source.upstreams.sessions().len(),
        flows: source.upstreams.open_count(),
        drain_delay_s: source.drain_delay.as_secs_f64(),
        grace_period_s: source.grace_period.as_secs_f64(),
    };
    (StatusCode::ACCEPTED, Json(draining)).into_response()
}

#[derive(Debug, Serialize)]
struct Disconnecting {
    node: String,
    agent: String,
    links: Vec<u64>,
    /// Whether it is asked to link to another node first.
    elsewhere: bool,
    within_s: f64,
}

/// Parts with an agent: it is to be linked to another node, or anew.
pub(super) async fn disconnect(
    State(source): State<Arc<Source>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
) -> Response {
    let agent: Option<AgentId> = id.parse().ok();
    let mut sessions = source.upstreams.sessions();
    sessions.retain(|session| {
        let identity = &session.identity;
        identity.role == Role::Agent && Some(identity.agent) == agent && operator.sees(&identity.tenant)
    });
    if sessions.is_empty() {
        let error = format!(
            "no agent with the id {id:?} is linked to the node {}: `adit status agents --json` has the ids, whole",
            source.node
        );
        return error::answer(StatusCode::NOT_FOUND, "unknown_agent", error);
    }
    let peers = source.peers.get().map_or_else(Vec::new, |cluster| cluster.peers());
    let elsewhere = peers.iter().any(|peer| !peer.is_draining() && !peer.vitals.is_suspect());
    tracing::info!(target: "adit::access", from = %operator.from, agent = id, elsewhere, "an operator parts with an agent");
    let links = sessions.iter().map(|session| session.id.0).collect();
    for session in sessions {
        let upstreams = source.upstreams.clone();
        source.tasks.spawn(async move { upstreams.part_with(&session, elsewhere, PATIENCE).await });
    }
    let within = if elsewhere { PATIENCE * 2 } else { PATIENCE };
    let node = source.node.to_string();
    let told = Disconnecting { node, agent: id, links, elsewhere, within_s: within.as_secs_f64() };
    (StatusCode::ACCEPTED, Json(told)).into_response()
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Level {
    level: String,
}

/// Logs other events from now on.
pub(super) async fn log_level(
    State(source): State<Arc<Source>>,
    Extension(operator): Extension<Operator>,
    body: Bytes,
) -> Response {
    if let Some(refused) = of_all(&operator, "what is logged is changed") {
        return refused;
    }
    let Some(log) = source.log.get() else { return unsupported("log otherwise") };
    let level: Level = match serde_json::from_slice(&body) {
        Ok(level) => level,
        Err(wrong) => {
            let error = format!("the body is not {{\"level\": \"LEVEL\"}}: {wrong}");
            return error::answer(StatusCode::BAD_REQUEST, "invalid_body", error);
        }
    };
    let filter: Result<Filter, InvalidFilter> = level.level.parse();
    match filter {
        Ok(filter) => {
            tracing::info!(target: "adit::access", from = %operator.from, level = level.level, "an operator changes what is logged");
            log.replace(filter);
            Json(level).into_response()
        }
        Err(invalid) => error::answer(StatusCode::BAD_REQUEST, "invalid_level", invalid),
    }
}

/// Refuses an operator of some tenants what is felt in all of them.
pub(super) fn of_all(operator: &Operator, what: &str) -> Option<Response> {
    let error = || {
        format!("{what} by operators of all tenants alone: the token must be for all (adit.tenant: \"*\")")
    };
    (!operator.is_of_all()).then(|| error::answer(StatusCode::FORBIDDEN, "tenant_not_permitted", error()))
}

fn unsupported(what: &str) -> Response {
    let error = format!("the program that this node is part of does not let operators have it {what}");
    error::answer(StatusCode::NOT_IMPLEMENTED, "unsupported", error)
}
