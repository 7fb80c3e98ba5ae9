//! Links of Piko's agents: one endpoint each, no control stream, and streams that carry their bytes from the first one on.
//!
//! A node cannot ask such an agent to move: it comes back, through whatever balances its cluster, when its connection is
//! reset, and only then. It has one connection, so a move is a gap, which other nodes wait out.

use std::{sync::Arc, time::Duration};

use super::{
    Upstreams,
    session::{Happened, Session},
};
use crate::{
    protocol::{Close, Code, EndpointId, Kind, Listen, ListenOptions, Refusal},
    transport::Monitor,
};

/// How often it is looked whether a link has become idle.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Upstreams {
    /// Serves an endpoint by a bare link until the link ends. Once the agent says that it takes no new streams, those under
    /// way finish, and the link ends with the last.
    ///
    /// # Errors
    /// When this node serves as many endpoints as one may.
    pub async fn run_bare(&self, session: Arc<Session>, endpoint: EndpointId) -> Result<(), Refusal> {
        if self.announcements().is_full() {
            return Err(Refusal::new(Code::Busy, "this node serves as many endpoints as one may"));
        }
        self.add_link(&session);
        let _meter = self.meter(&session);
        let bare = Bare { upstreams: self.clone(), session };
        // Services of any kind are behind it; HTTP is what most requests are.
        let listen = Listen { id: 0, endpoint, kind: Kind::Http, options: ListenOptions::default() };
        let (upstream, pass) = self.listen(&bare.session, listen)?;
        bare.session.serve(0, upstream, pass);
        let happened = Happened::new(self, &bare.session);
        let link = &bare.session.link;
        let mut monitor = Monitor::new(link, Arc::clone(&bare.session.vitals));
        let left = async {
            link.away().await;
            bare.session.leave(self);
            bare.session.flows.wait_empty().await;
            // Its agent may never do so: those that stop listening leave their connection open.
            link.close(Close::Done, "nothing is under way any more");
        };
        let lapsed = bare.session.standing.lapsed();
        tokio::pin!(left, lapsed);
        let why = loop {
            tokio::select! {
                number = monitor.ping(link) => link.ping(number),
                () = &mut left => break link.closed().await,
                lapsed = &mut lapsed => {
                    link.close(Close::Expired, &lapsed.to_string());
                    break link.closed().await;
                }
                lost = link.closed() => break lost,
            }
        };
        happened.ended(&why.to_string());
        tracing::info!(link = %bare.session.id, %why, "a link of a Piko agent has ended");
        Ok(())
    }

    /// Takes bare links from their agents, so that those come back at another node: as soon as nothing is under way, or after
    /// the patience. Until shortly before that they take what is new: nobody else does, and nobody waits for longer.
    pub async fn part_with_bare(&self, patience: Duration) {
        // The agent needs the rest of the wait to come back.
        let gap = (self.inner.wait / 2).min(patience);
        let sessions = self.sessions();
        let parted = sessions.iter().filter(|session| session.bare).map(|session| async move {
            let idle = async {
                while session.in_flight() > 0 {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            };
            if tokio::time::timeout(patience - gap, idle).await.is_err() {
                tracing::debug!(link = %session.id, "a Piko agent is never without work");
            }
            session.leave(self);
            if let Err(aborted) = session.finish(gap).await {
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
