//! Flows that arrive on links, from forwarders and from other nodes: each is joined to a flow of an agent that serves its
//! endpoint.
//!
//! Driven by `node`, which hands over each forwarder's link and each flow of a node. It never parses what it carries.

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    access_log::{AccessLog, Ended, Record},
    auth::{Action, Limited, Limits, Pace, Pass},
    cluster,
    protocol::{Ask, Code, DecodeError, Flow, Hop, Kind, Open, Refusal},
    splice::{
        Counts,
        packets::{self, Activity},
        splice,
    },
    telemetry::{self, Traffic},
    transport::{self, Datagrams, FlowError, Stream},
    upstream::{Identity, Name, OpenFlow, OpenFlowError, Session, Upstreams},
};

/// How long a flow has to say what it is for.
const FIRST_FRAME: Duration = Duration::from_secs(10);

/// Joins forwarders to agents. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Relay {
    upstreams: Upstreams,
    callers: Limits,
    access_log: AccessLog,
    /// Bytes of forwarders' clients. Those of other nodes' are counted there.
    traffic: Traffic,
    draining: Arc<AtomicBool>,
}

impl Relay {
    /// Joins to these agents, for forwarders within these limits.
    pub fn new(upstreams: Upstreams, callers: Limits, access_log: AccessLog, traffic: Traffic) -> Self {
        Self { upstreams, callers, access_log, traffic, draining: Arc::default() }
    }

    /// Refuses new flows from now on, so that their openers ask another node; those that are open go on.
    pub fn refuse_new(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Serves the flows that a forwarder opens, until its link ends.
    pub async fn serve(&self, session: Arc<Session>) {
        while let Ok(stream) = session.link.accept().await {
            let (relay, from) = (self.clone(), Arc::clone(&session));
            // As many at once as the link permits streams.
            session.flows.spawn(async move { relay.flow(stream, &from).await });
        }
    }

    /// Serves one flow that another node has opened here for an agent that it has chosen. It goes no further than that. A
    /// question for this node is no flow, and is given back.
    pub async fn serve_node(&self, mut stream: Stream, from: &cluster::Node) -> Option<(Ask, Stream)> {
        match first_frame(&mut stream).await {
            Ok(First::Open(open)) => self.serve_open(stream, open, from).await,
            Ok(First::Ask(ask)) => return Some((ask, stream)),
            Err(Some(refusal)) => transport::refuse(stream, refusal).await,
            Err(None) => {}
        }
        None
    }

    async fn serve_open(&self, stream: Stream, mut open: Open, from: &cluster::Node) {
        let agent = match (open.hop, open.agent, open.kind) {
            _ if self.draining.load(Relaxed) => Err(draining()),
            (_, _, Kind::Other(kind)) => Err(unknown(kind)),
            (Hop::Final, Some(agent), _) => Ok(agent),
            _ => Err(Refusal::new(Code::Invalid, "a node opens a flow for the last hop and names the agent")),
        };
        let agent = match agent {
            Ok(agent) => agent,
            Err(refusal) => return transport::refuse(stream, refusal).await,
        };
        let name = Name { tenant: open.tenant.clone().unwrap_or_default(), endpoint: open.endpoint.clone() };
        // It is in the log of the node that has let its client in. So are the spans of its requests, if it carries any.
        let record = match open.kind.is_http() {
            true => Record::NONE,
            false => {
                let peer = from.link.remote_address();
                self.access_log.passing(&from.flows, peer, open.kind, &mut open.trace)
            }
        };
        record.asks_for(&name);
        let opening = self.upstreams.open_local(&name, agent, &open);
        let pace = &Pace::default();
        self.join(stream, &from.datagrams, Some(from), &name, open.kind, (opening, pace, &record)).await;
    }

    async fn flow(&self, mut stream: Stream, from: &Session) {
        let open = match first_frame(&mut stream).await {
            Ok(First::Open(open)) => self.enter(open, from),
            Ok(First::Ask(_)) => Err(Refusal::new(Code::Unsupported, "only nodes ask each other")),
            Err(Some(refusal)) => Err(refusal),
            Err(None) => return,
        };
        let (mut open, pass) = match open {
            Ok(entered) => entered,
            Err(refusal) => {
                let Identity { agent, tenant, .. } = &from.identity;
                let (client, code) = (from.link.remote_address(), refusal.code.name());
                tracing::info!(
                    target: "adit::access", link = %from.id, %client, forwarder = %agent, %tenant, code, %refusal,
                    "a flow was refused"
                );
                return transport::refuse(stream, refusal).await;
            }
        };
        let name = Name { tenant: from.identity.tenant.clone(), endpoint: open.endpoint.clone() };
        let client = open.client.unwrap_or_else(|| from.link.remote_address());
        let record = self.access_log.flow(&from.flows, client, open.kind, &mut open.trace);
        record.asks_for(&name);
        record.brought_by(from.identity.agent);
        let opening = self.upstreams.open(&name, &open, pass.pace(), record.trail());
        self.join(stream, &from.datagrams, None, &name, open.kind, (opening, pass.pace(), &record)).await;
    }

    /// Joins a flow, of a node or of a forwarder, to one of an agent, once that has been opened.
    async fn join(
        &self,
        mut stream: Stream,
        datagrams: &Datagrams,
        node: Option<&cluster::Node>,
        name: &Name,
        kind: Kind,
        (opening, pace, record): (impl Future<Output = Result<OpenFlow, OpenFlowError>>, &Pace, &Record),
    ) {
        let opened = tokio::select! {
            opened = opening => opened,
            // Whoever asked has gone.
            () = stream.send.stopped() => return,
        };
        let flow = match opened {
            Ok(flow) => flow,
            Err(error) => {
                let limited = matches!(error, OpenFlowError::Limited(_));
                record.ended(if limited { Ended::Refused } else { Ended::Unreachable }, Some(error.name()));
                let message = match &error {
                    OpenFlowError::Refused(refusal) => refusal.message.clone(),
                    other => other.to_string(),
                };
                return transport::refuse(stream, Refusal::new(error.code(), message)).await;
            }
        };
        if let Err(error) = transport::write_flow(&mut stream, &Flow::Opened).await {
            return tracing::debug!(%error, "a flow went away before it began");
        }
        let (to_service, from_service, end) = if kind == Kind::Udp {
            let _open = self.upstreams.packets().associate();
            let (left, right) = (datagrams.associate(stream), flow.datagrams.associate(flow.stream));
            let mut activity = Activity::at(pace.waits());
            if node.is_none() {
                activity = activity.counted(&self.traffic.udp);
            }
            let _carrying = record.carrying(&activity);
            let deserted = async {
                self.upstreams.deserted(&flow.in_use, &activity).await;
                record.ended(Ended::Silent, None);
            };
            let end = packets::join(left, right, &activity, deserted).await;
            (activity.left_to_right(), activity.right_to_left(), end)
        } else {
            let (mut counts, number) = (Counts::at(pace.waits()), stream.id());
            if node.is_none() {
                counts = counts.counted(&self.traffic.tcp);
            }
            let _carrying = record.carrying(&counts);
            // Only the node that puts requests on it knows when it is idle, and so when to close it.
            let pass_on = async {
                flow.in_use.retired().await;
                if let Some(node) = node {
                    node.retire(number);
                }
                pending::<Infallible>().await
            };
            let end = tokio::select! {
                end = splice(stream, flow.stream, &counts) => end,
                never = pass_on => match never {},
            };
            (counts.left_to_right(), counts.right_to_left(), end)
        };
        record.joined(end.as_ref().copied());
        drop(flow.in_use);
        tracing::debug!(
            endpoint = %name.endpoint,
            kind = kind.name(),
            to_service,
            from_service,
            broken = end.err().map(|broken| telemetry::report(&broken)),
            "a flow has ended"
        );
    }

    /// The flow to ask an agent for, if this one may be joined at all: limits, permission, and then what is asked for.
    fn enter(&self, open: Open, from: &Session) -> Result<(Open, Pass), Refusal> {
        let limited = |limited: Limited| Refusal::new(Code::Busy, limited.to_string());
        let Identity { agent, tenant, .. } = &from.identity;
        let mut pass = self.callers.client(from.link.remote_address().ip()).map_err(limited)?;
        self.callers.forwarder(&mut pass, tenant, *agent).map_err(limited)?;
        let open = self.check(open, from)?;
        self.callers.endpoint(&mut pass, tenant, &open.endpoint).map_err(limited)?;
        Ok((open, pass))
    }

    fn check(&self, open: Open, from: &Session) -> Result<Open, Refusal> {
        if self.draining.load(Relaxed) {
            return Err(draining());
        }
        if let Kind::Other(kind) = open.kind {
            return Err(unknown(kind));
        }
        // Nobody is told of endpoints that are not theirs.
        let own = open.tenant.as_ref().map_or(Ok(()), |tenant| from.standing.is_of(tenant));
        own.and_then(|()| from.standing.permits(Action::Connect, &open.endpoint))
            .map_err(|refused| refused.refusal())?;
        // Whether a service speaks HTTP is its own affair, and its agent's.
        let kind = if open.kind == Kind::Udp { Kind::Udp } else { Kind::Tcp };
        Ok(Open { tenant: None, kind, hop: Hop::Final, ..open })
    }
}

fn draining() -> Refusal {
    Refusal::new(Code::Draining, "this node is leaving; another one must be asked")
}

fn unknown(kind: u32) -> Refusal {
    Refusal::new(Code::Unsupported, format!("this node knows no flows of kind {kind}"))
}

/// What a stream begins with.
enum First {
    Open(Open),
    Ask(Ask),
}

/// What a flow is for, or why it is refused; nothing when it has gone away.
async fn first_frame(stream: &mut Stream) -> Result<First, Option<Refusal>> {
    match tokio::time::timeout(FIRST_FRAME, transport::read_flow(&mut stream.recv)).await {
        Ok(Ok(Flow::Open(open))) => Ok(First::Open(open)),
        Ok(Ok(Flow::Ask(ask))) => Ok(First::Ask(ask)),
        Ok(Ok(_)) => Err(Some(Refusal::new(Code::Invalid, "a flow begins with Open"))),
        Ok(Err(FlowError::Decode(error @ DecodeError::Unknown { .. }))) => {
            Err(Some(Refusal::new(Code::Unsupported, error.to_string())))
        }
        Ok(Err(FlowError::Decode(error))) => Err(Some(Refusal::new(Code::Invalid, error.to_string()))),
        Ok(Err(FlowError::Io(error))) => {
            tracing::debug!(%error, "a flow went away before it began");
            Err(None)
        }
        Err(_) => Err(Some(Refusal::new(Code::Invalid, format!("no Open within {FIRST_FRAME:?}")))),
    }
}
