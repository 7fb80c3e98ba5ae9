//! Flows that arrive on links, from forwarders: each is joined to a flow of an agent that serves its endpoint.
//!
//! Driven by `node`, which hands over each forwarder's link. It never parses what it carries.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    protocol::{Code, DecodeError, Flow, Hop, Kind, Open, Refusal},
    splice::{Counts, splice},
    telemetry,
    transport::{self, FlowError, Stream},
    upstream::{Name, Session, Upstreams},
};

/// How long a flow has to say what it is for.
const FIRST_FRAME: Duration = Duration::from_secs(10);

/// Joins forwarders to agents. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Relay {
    upstreams: Upstreams,
    draining: Arc<AtomicBool>,
}

impl Relay {
    /// Joins to these agents.
    pub fn new(upstreams: Upstreams) -> Self {
        Self { upstreams, draining: Arc::default() }
    }

    /// Refuses new flows from now on, so that their openers ask another node; those that are open go on.
    pub fn refuse_new(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Serves the flows that a forwarder opens, until its link ends.
    pub async fn serve(&self, session: Arc<Session>) {
        while let Ok(stream) = session.link.accept().await {
            let (relay, hold, from) = (self.clone(), session.flows.hold(), Arc::clone(&session));
            // As many at once as the link permits streams.
            session.flows.spawn(async move { relay.flow(stream, &from, hold).await });
        }
    }

    async fn flow(&self, mut stream: Stream, from: &Session, _hold: TaskTrackerToken) {
        let open = match tokio::time::timeout(FIRST_FRAME, transport::read_flow(&mut stream.recv)).await {
            Ok(Ok(Flow::Open(open))) => self.check(open, from),
            Ok(Ok(_)) => Err(Refusal::new(Code::Invalid, "a flow begins with Open")),
            Ok(Err(FlowError::Decode(error @ DecodeError::Unknown { .. }))) => {
                Err(Refusal::new(Code::Unsupported, error.to_string()))
            }
            Ok(Err(FlowError::Decode(error))) => Err(Refusal::new(Code::Invalid, error.to_string())),
            Ok(Err(FlowError::Io(error))) => {
                return tracing::debug!(%error, "a flow went away before it began");
            }
            Err(_) => Err(Refusal::new(Code::Invalid, format!("no Open within {FIRST_FRAME:?}"))),
        };
        let open = match open {
            Ok(open) => open,
            Err(refusal) => return transport::refuse(stream, refusal).await,
        };
        let name = Name { tenant: from.identity.tenant.clone(), endpoint: open.endpoint.clone() };
        let opened = tokio::select! {
            opened = self.upstreams.open(&name, &open) => opened,
            // Whoever asked has gone.
            () = stream.send.stopped() => return,
        };
        let flow = match opened {
            Ok(flow) => flow,
            Err(error) => {
                let message = match &error {
                    crate::upstream::OpenFlowError::Refused(refusal) => refusal.message.clone(),
                    other => other.to_string(),
                };
                return transport::refuse(stream, Refusal::new(error.code(), message)).await;
            }
        };
        if let Err(error) = transport::write_flow(&mut stream, &Flow::Opened).await {
            return tracing::debug!(%error, "a flow went away before it began");
        }
        let counts = Counts::default();
        let end = splice(stream, flow.stream, &counts).await;
        drop(flow.in_use);
        tracing::debug!(
            endpoint = %name.endpoint,
            link = %from.id,
            to_service = counts.left_to_right(),
            from_service = counts.right_to_left(),
            broken = end.err().map(|broken| telemetry::report(&broken)),
            "a flow has ended"
        );
    }

    /// The flow to ask an agent for, if this one may be joined at all.
    fn check(&self, open: Open, from: &Session) -> Result<Open, Refusal> {
        if self.draining.load(Relaxed) {
            return Err(Refusal::new(Code::Draining, "this node is leaving; another one must be asked"));
        }
        if let Kind::Other(kind) = open.kind {
            return Err(Refusal::new(Code::Unsupported, format!("this node knows no flows of kind {kind}")));
        }
        match &open.tenant {
            Some(tenant) if *tenant != from.identity.tenant => {
                return Err(Refusal::new(Code::Forbidden, format!("the link is not of the tenant {tenant}")));
            }
            _ => {}
        }
        Ok(Open { tenant: None, kind: Kind::Tcp, hop: Hop::Final, ..open })
    }
}
