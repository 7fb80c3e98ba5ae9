//! Opening one flow to an agent, with retry at another while nothing has been passed on.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use super::{
    metrics::CodeLabel,
    open::What,
    registry::{Name, Upstreams},
    service::{InFlight, Tried, Upstream, Via},
    trail::Trail,
};
use crate::{
    auth::{Limited, Pace, Served},
    protocol::{AgentId, Code, Hop, Kind, Open, Refusal},
    transport::{self, Activity, AskError, Datagrams, FlowError, OpenError, Stream, Waiting},
};

/// How long to wait for room on a link.
const ROOM: Duration = Duration::from_secs(5);

/// How long to wait for an agent's answer: its own dial has 5 s, and each hop back waits 1 s longer.
const ANSWER: Duration = Duration::from_secs(6);
const HOP: Duration = Duration::from_secs(1);

/// How often a request that waits on a suspect link looks for another way.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// For how long further agents are tried at all, so that several that are silent do not add up without end.
pub(super) const TRY: Duration = Duration::from_secs(10);

/// How long an agent whose service refused a flow is passed over, and one that gave no answer.
pub(super) const SHUN_REFUSED: Duration = Duration::from_secs(1);
const SHUN_SILENT: Duration = Duration::from_secs(5);

/// A flow that an agent has joined to its service.
#[derive(Debug)]
pub struct OpenFlow {
    /// Its bytes.
    pub stream: Stream,
    /// The datagrams of its link.
    pub datagrams: Datagrams,
    /// Counted as in use until this is dropped.
    pub in_use: InUse,
}

/// Keeps a flow counted, on its upstream and on its link.
#[derive(Debug)]
pub struct InUse {
    in_flight: InFlight,
    _hold: TaskTrackerToken,
    http: Option<Http>,
}

/// A flow on which another node puts requests, which this one cannot see.
#[derive(Debug)]
struct Http {
    flow: u64,
    retired: CancellationToken,
    /// Somebody may wait for a response at any time.
    _waiting: Waiting,
}

impl InUse {
    /// Waits until the flow is to carry no further request. Cancel safe.
    pub async fn retired(&self) {
        match &self.http {
            Some(http) => http.retired.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(http) = &self.http {
            self.in_flight.upstream.idle.gone(http.flow);
        }
    }
}

/// Why no flow could be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenFlowError {
    /// No agent serves the endpoint.
    #[error("no agent serves the endpoint {0:?}")]
    NoUpstream(String),
    /// The agent refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The agent's link has no room.
    #[error("the agent's link carries as many flows as it permits")]
    Busy,
    /// The agent, or whoever asked, has as many as the node permits.
    #[error(transparent)]
    Limited(#[from] Limited),
    /// The agent did not answer.
    #[error("the agent did not answer within {0:?}")]
    Unanswered(Duration),
    /// The agent's link broke.
    #[error("the agent's link broke: {0}")]
    Lost(String),
}

impl OpenFlowError {
    /// Whether the agent itself has failed, so that another way to it would be in vain.
    pub(super) fn is_of_agent(&self) -> bool {
        match self {
            Self::Unanswered(_) | Self::Limited(_) => true,
            Self::Refused(refusal) => {
                !matches!(refusal.code, Code::Draining | Code::NotListening | Code::Busy)
            }
            Self::NoUpstream(_) | Self::Busy | Self::Lost(_) => false,
        }
    }

    /// Whether the cause is that an agent or a node is just leaving, so that another may come in its place.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::NoUpstream(_) | Self::Lost(_) => true,
            Self::Refused(refusal) => matches!(refusal.code, Code::Draining | Code::NotListening),
            Self::Busy | Self::Limited(_) | Self::Unanswered(_) => false,
        }
    }

    /// The code that it has on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::NoUpstream(_) => Code::NoUpstream,
            Self::Refused(refusal) => refusal.code,
            Self::Busy | Self::Limited(_) => Code::Busy,
            Self::Unanswered(_) => Code::UpstreamTimeout,
            Self::Lost(_) => Code::UpstreamUnreachable,
        }
    }

    /// The name that logs and metrics have for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Limited(limited) => limited.code(),
            other => other.code().name(),
        }
    }
}

impl Upstreams {
    /// Opens a flow to an agent of the endpoint. Until one has answered that it is joined, nothing has been passed on, so
    /// every failure is tried at the next agent; and while there is a gap, the next agent is waited for. The agent's rate of
    /// bytes becomes part of the pace. The way that it takes is left on the trail, if there is one.
    ///
    /// # Errors
    /// That of the last agent that was tried. Cancel safe.
    pub async fn open(
        &self,
        name: &Name,
        open: &Open,
        pace: &Pace,
        trail: Option<&Trail>,
    ) -> Result<OpenFlow, OpenFlowError> {
        let began = Instant::now();
        let mut until = None;
        let mut tried = Tried::default();
        let mut failed = None;
        loop {
            while let Some(upstream) = self.choose(name, &tried).filter(|_| began.elapsed() < TRY) {
                if failed.is_some() {
                    self.inner.counters.retries.inc();
                }
                tried.way(&upstream);
                if let Some(trail) = trail {
                    trail.leads(&upstream);
                }
                let opened = tokio::select! {
                    opened = async {
                        let in_flight = self.begin(&upstream, pace, open.into())?;
                        self.join(&upstream, open, in_flight).await
                    } => opened,
                    () = self.elsewhere(&upstream, name, &tried) => {
                        Err(OpenFlowError::Lost("it does not answer".into()))
                    }
                };
                match opened {
                    Ok(flow) => return Ok(flow),
                    Err(error) => {
                        tracing::debug!(via = %upstream.via, %error, "an agent gave no flow");
                        tried.failed(&upstream, error.is_of_agent());
                        failed = Some(error);
                    }
                }
            }
            if failed.as_ref().is_some_and(|error| !error.is_passing()) || !self.gap(name, &mut until).await {
                return Err(failed.unwrap_or_else(|| OpenFlowError::NoUpstream(name.endpoint.to_string())));
            }
            tried.clear();
        }
    }

    /// Opens a flow to one agent that is linked to this node, for a peer that has chosen it. Limits are the peer's affair: it
    /// has let the flow in.
    ///
    /// # Errors
    /// When it is not linked here any more, or gives no flow.
    pub async fn open_local(
        &self,
        name: &Name,
        agent: AgentId,
        open: &Open,
    ) -> Result<OpenFlow, OpenFlowError> {
        let gone = || {
            Refusal::new(
                Code::NotListening,
                format!("the agent does not serve {} here any more", name.endpoint),
            )
        };
        let upstream = self.local(name, agent).ok_or_else(gone)?;
        let entered = self.inner.open.enter(open.into(), &upstream);
        self.join(&upstream, open, upstream.begin(Served::default(), entered)).await
    }

    /// Counts a request or flow with this pace for an agent, if it may have one more.
    pub(super) fn begin(
        &self,
        upstream: &Arc<Upstream>,
        pace: &Pace,
        what: What,
    ) -> Result<InFlight, Limited> {
        let served = self.inner.limits.serve(pace, &upstream.name.tenant, upstream.agent)?;
        Ok(upstream.begin(served, self.inner.open.enter(what, upstream)))
    }

    async fn join(
        &self,
        upstream: &Arc<Upstream>,
        open: &Open,
        in_flight: InFlight,
    ) -> Result<OpenFlow, OpenFlowError> {
        let (stream, hold) = self.open_at(upstream, open.clone()).await?;
        let http = open.kind.is_http().then(|| Http {
            flow: stream.id(),
            retired: upstream.idle.joined(stream.id()),
            _waiting: upstream.via.vitals().wait(),
        });
        let datagrams = upstream.via.datagrams().clone();
        Ok(OpenFlow { stream, datagrams, in_use: InUse { in_flight, _hold: hold, http } })
    }

    /// Waits until an upstream is suspect while another one, that answers, can be asked instead. Never ends otherwise: where
    /// there is nobody else, who is silent may still come back in time. That an agent has left says nothing: it finishes
    /// what it has.
    pub(super) async fn elsewhere(&self, upstream: &Upstream, name: &Name, tried: &Tried) {
        loop {
            upstream.suspected().await;
            if self.answers_elsewhere(name, tried) {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until the link of a UDP flow does not answer while another agent can be asked: the flow is to be ended then, since
    /// its client's next packet begins another. Meanwhile the link is watched behind the flow's packets.
    pub async fn deserted(&self, flow: &InUse, activity: &Activity) {
        let upstream = &flow.in_flight.upstream;
        let mut tried = Tried::default();
        tried.way(upstream);
        let deserted = async {
            loop {
                upstream.suspected().await;
                if self.answers_elsewhere(&upstream.name, &tried) {
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::select! {
            () = deserted => {}
            () = upstream.via.vitals().watch(activity) => {}
        }
    }

    fn answers_elsewhere(&self, name: &Name, tried: &Tried) -> bool {
        self.choose(name, tried).is_some_and(|other| !other.is_suspect())
    }

    /// Opens a flow to one agent.
    pub(super) async fn open_at(
        &self,
        upstream: &Arc<Upstream>,
        mut open: Open,
    ) -> Result<(Stream, TaskTrackerToken), OpenFlowError> {
        let via = &upstream.via;
        if via.is_bare() && open.kind == Kind::Udp {
            // A packet would reach the service as bytes, its length in front.
            let text = "the endpoint is served by a Piko agent, and those know no UDP";
            return Err(self.refused(upstream, Refusal::new(Code::Unsupported, text)));
        }
        open.hop = Hop::Final;
        let kind = open.kind.name();
        if let Via::Node(_) = via {
            open.tenant = Some(upstream.name.tenant.clone());
            open.agent = Some(upstream.agent);
        } else {
            (open.tenant, open.agent) = (None, None);
        }
        let hold = via.flows().hold();
        // Pings tell within 1.5 s whether it is the link that does not answer.
        let _waiting = via.vitals().wait();
        let mut stream = via.link().open(ROOM).await.map_err(|error| match error {
            OpenError::Busy => OpenFlowError::Busy,
            OpenError::Lost(lost) => OpenFlowError::Lost(lost.to_string()),
        })?;
        let patience = match via {
            Via::Agent(_) => ANSWER,
            Via::Node(_) => ANSWER + HOP,
        };
        let asked = async {
            if via.is_bare() {
                // That the agent takes the stream is all the answer there is.
                return Ok(stream.taken().await.map_err(FlowError::Io)?);
            }
            transport::ask(&mut stream, open).await
        };
        match tokio::time::timeout(patience, asked).await {
            Ok(Ok(())) => {
                if let Some(opened) = self.inner.counters.opened.get(kind) {
                    opened.inc();
                }
                Ok((stream, hold))
            }
            Ok(Err(AskError::Refused(refusal))) => Err(self.refused(upstream, refusal)),
            Ok(Err(error @ (AskError::Answer | AskError::Broken(FlowError::Decode(_))))) => {
                self.shun(upstream, SHUN_SILENT);
                Err(OpenFlowError::Refused(Refusal::new(Code::Invalid, error.to_string())))
            }
            Ok(Err(AskError::Broken(FlowError::Io(error)))) => Err(OpenFlowError::Lost(
                via.link().lost().map_or_else(|| error.to_string(), |lost| lost.to_string()),
            )),
            Err(_) => {
                self.shun(upstream, SHUN_SILENT);
                Err(OpenFlowError::Unanswered(patience))
            }
        }
    }

    fn refused(&self, upstream: &Upstream, refusal: Refusal) -> OpenFlowError {
        self.inner.counters.refusals.get_or_create(&CodeLabel { code: refusal.code.name() }).inc();
        match refusal.code {
            // An agent that does not know what is asked for, or whose door is shut to one client, is as good as before for
            // all others.
            Code::Unsupported | Code::Forbidden => {}
            Code::Busy | Code::Draining | Code::NotListening => {}
            _ => self.shun(upstream, SHUN_REFUSED),
        }
        OpenFlowError::Refused(refusal)
    }
}
