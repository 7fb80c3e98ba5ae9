//! What joins the cluster to the rest of the node: peers' routes and flows, and agents that should move to another node.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::Rebalance;
use crate::{
    admin::Answers,
    cluster::{self, BoxFuture, Cluster, Handler, rebalance::shed},
    protocol::{GoAway, GoAwayReason, Load, PeerRoute, Phase, Role},
    relay::Relay,
    telemetry::What,
    transport::Stream,
    upstream::{Session, State, Upstreams},
};

/// Passes on what peers say and ask.
#[derive(Debug)]
pub(super) struct Glue {
    pub(super) upstreams: Upstreams,
    pub(super) relay: Relay,
    /// What this node tells others for their operators.
    pub(super) answers: Answers,
}

impl Handler for Glue {
    fn added(&self, peer: &Arc<cluster::Node>, routes: &[PeerRoute]) {
        self.upstreams.peer_added(peer, routes);
    }

    fn removed(&self, peer: &Arc<cluster::Node>, routes: &[PeerRoute]) {
        self.upstreams.peer_removed(peer, routes);
    }

    fn retired(&self, peer: &Arc<cluster::Node>, flows: &[u64]) {
        self.upstreams.peer_retired(peer, flows);
    }

    fn flow(&self, peer: &Arc<cluster::Node>, stream: Stream) -> BoxFuture {
        let (relay, answers, peer) = (self.relay.clone(), self.answers.clone(), Arc::clone(peer));
        Box::pin(async move {
            if let Some((ask, stream)) = relay.serve_node(stream, &peer).await {
                let answer = answers.to(&peer.member.node, ask).await;
                cluster::answer(stream, answer).await;
            }
        })
    }

    fn settled(&self) {
        self.upstreams.settle();
    }

    fn load(&self) -> Load {
        self.upstreams.load()
    }

    fn happened(&self, what: What, who: String, why: String) {
        self.upstreams.recent().note(what, None, who, why);
    }
}

/// The first incarnation of a node that starts now: later than that of any life before.
pub(super) fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Asks agents to move, while this node has more than its share.
pub(super) async fn rebalance(
    config: Rebalance,
    cluster: Arc<Cluster>,
    upstreams: Upstreams,
    phase: watch::Receiver<Phase>,
) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if *phase.borrow() != Phase::Ready {
            continue;
        }
        let others: Vec<_> = cluster
            .peers()
            .iter()
            .filter(|peer| !peer.is_draining())
            .map(|peer| peer.agent_links())
            .collect();
        let sessions = upstreams.sessions();
        // A bare link moves only by being cut.
        let own: Vec<_> = sessions.iter().filter(|session| takes_flows(session) && !session.bare).collect();
        let staying: Vec<_> = own.iter().filter(|session| !session.is_shed()).collect();
        let moving = own.len() - staying.len();
        let excess = shed(own.len(), moving, &others, config.threshold, config.minimum, config.rate);
        let away = GoAway {
            reason: GoAwayReason::Rebalance,
            deadline: Duration::from_secs(3600),
            smear: Duration::from_secs(1),
        };
        for session in staying.into_iter().take(excess) {
            session.shed(away).await;
            tracing::info!(link = %session.id, own = own.len(), "an agent is asked to move to a node with fewer links");
        }
    }
}

/// Waits until no agent takes new flows over this node any more.
pub(super) async fn until_agents_have_moved(upstreams: &Upstreams) {
    while upstreams.sessions().iter().any(|session| takes_flows(session)) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether this is an agent's link that takes new flows.
fn takes_flows(session: &Session) -> bool {
    session.identity.role == Role::Agent && session.state() == State::Up
}
