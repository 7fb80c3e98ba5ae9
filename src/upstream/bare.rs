//! Links of Piko's agents: one endpoint each, no control stream, and streams that carry their bytes from the first one on.
//!
//! A node cannot ask such an agent to move: it comes back, through whatever balances its cluster, when its connection is
//! reset, and only then. It has one connection, so a move is a gap, which other nodes wait out.

use std::{sync::Arc, time::Duration};

use super::{Upstreams, session::Session};
use crate::protocol::{Close, Code, EndpointId, Kind, Listen, ListenOptions, Refusal};

impl Upstreams {
    /// Serves an endpoint by a bare link until the link ends. Once the agent says that it takes no new streams, those under
    /// way finish.
    ///
    /// # Errors
    /// When this node serves as many endpoints as one may.
    pub async fn run_bare(&self, session: Arc<Session>, endpoint: EndpointId) -> Result<(), Refusal> {
        if self.announcements().is_full() {
            return Err(Refusal::new(Code::Busy, "this node serves as many endpoints as one may"));
        }
        self.add_link(&session);
        let bare = Bare { upstreams: self.clone(), session };
        // Services of any kind are behind it; HTTP is what most requests are.
        let listen = Listen { id: 0, endpoint, kind: Kind::Http, options: ListenOptions::default() };
        bare.session.serve(0, self.listen(&bare.session, listen)?);
        let link = &bare.session.link;
        let why = tokio::select! {
            () = link.away() => {
                bare.session.leave(self);
                link.closed().await
            }
            lost = link.closed() => lost,
        };
        tracing::info!(link = %bare.session.id, %why, "a link of a Piko agent has ended");
        Ok(())
    }

    /// Takes bare links from their agents, so that those come back at another node: after what is under way, or after the
    /// patience.
    pub async fn part_with_bare(&self, patience: Duration) {
        let sessions = self.sessions();
        let parted = sessions.iter().filter(|session| session.bare).map(|session| async move {
            session.leave(self);
            if let Err(aborted) = session.finish(patience).await {
                tracing::info!(link = %session.id, %aborted, "a Piko agent is cut off from what is under way");
            }
        });
        futures_util::future::join_all(parted).await;
    }
}

/// However it ends, the link ends with it: also when its task is dropped with the node.
struct Bare {
    upstreams: Upstreams,
    session: Arc<Session>,
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.session.leave(&self.upstreams);
        self.upstreams.remove_link(&self.session);
        self.session.link.close(Close::Done, "the link has ended");
        self.session.flows.abort();
    }
}
