//! Parting with an agent that an operator wants elsewhere.

use std::time::Duration;

use super::{registry::Upstreams, session::Session};
use crate::protocol::{GoAway, GoAwayReason};

impl Upstreams {
    /// Parts with an agent's link. Where there is an `elsewhere`, the agent is asked to link there, which loses nothing, and has
    /// the patience to do so. If it has not gone by then, or where there is none, the link takes no new flow, and is closed as
    /// soon as it has none, or after the patience; the agent comes back by itself.
    pub async fn part_with(&self, session: &Session, elsewhere: bool, patience: Duration) {
        let (link, agent) = (session.id, session.identity.agent);
        if elsewhere && !session.bare {
            let away = GoAway { reason: GoAwayReason::Rebalance, deadline: patience, smear: Duration::ZERO };
            session.shed(away).await;
            if tokio::time::timeout(patience, session.link.closed()).await.is_ok() {
                return;
            }
            tracing::info!(%link, %agent, "an agent has not moved to another node as it was asked to");
        }
        session.leave(self);
        if let Err(aborted) = session.finish(patience).await {
            tracing::info!(%link, %agent, %aborted, "an agent is cut off from what was under way");
        }
    }
}
