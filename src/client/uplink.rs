//! Keeps one link to the cluster, for ever: opens it, replaces it before it breaks where that can be (a node that leaves, a
//! link that does not answer), and reopens it whatever ended it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, Once, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    Shared,
    session::{self, Left, Session},
};
use crate::{
    net,
    protocol::{NodeId, Refusal, Role},
    telemetry,
    transport::{FrameError, OpenError, quic},
};

/// How long a link must have lived for its loss to be the first in a row. A node that welcomes and closes at once is backed
/// off from like one that is not there.
const STABLE: Duration = Duration::from_secs(10);

/// Why no link could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error(transparent)]
    Resolve(#[from] net::ResolveError),
    /// The name has no address that can be tried.
    #[error("there is no address to connect to")]
    NoAddress,
    /// No address answered as it should.
    #[error(transparent)]
    Dial(quic::DialError),
    /// The node refuses the link.
    #[error("the node refuses the link: {0}")]
    Refused(Refusal),
    /// The node answered nothing.
    #[error("the node has not answered Hello within {0:?}")]
    NoWelcome(Duration),
    /// The node answered something else.
    #[error("the node answered Hello with {0}")]
    Unexpected(String),
    /// The link broke.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The control stream broke.
    #[error("the control stream failed: {0}")]
    Frame(#[from] FrameError),
}

/// How a client stands with its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing has asked for a link yet.
    Idle,
    /// There is no link; it is being opened.
    Connecting {
        /// Why the last attempt, or the last link, failed.
        error: Option<String>,
    },
    /// There is a link.
    Connected {
        /// The node at its other end.
        node: NodeId,
        /// That node's address.
        address: SocketAddr,
    },
}

/// A link that is kept.
#[derive(Debug)]
pub(super) struct Uplink {
    shared: Arc<Shared>,
    role: Role,
    started: Once,
    kept: Arc<Kept>,
}

#[derive(Debug)]
struct Kept {
    state: watch::Sender<State>,
    current: watch::Sender<Option<Arc<Session>>>,
    /// Every session that may still have flows, the current one among them.
    all: Mutex<Vec<Weak<Session>>>,
}

impl Uplink {
    pub(super) fn new(shared: Arc<Shared>, role: Role) -> Self {
        let kept = Kept {
            state: watch::Sender::new(State::Idle),
            current: watch::Sender::new(None),
            all: Mutex::default(),
        };
        Self { shared, role, started: Once::new(), kept: Arc::new(kept) }
    }

    /// Opens the link, unless that has been done.
    pub(super) fn start(&self) {
        self.started.call_once(|| {
            self.kept.state.send_replace(State::Connecting { error: None });
            self.shared.tasks.spawn(keep(Arc::clone(&self.shared), self.role, Arc::clone(&self.kept)));
        });
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.kept.state.subscribe()
    }

    /// A session that takes flows, as soon as there is one. Cancel safe.
    pub(super) async fn session(&self) -> Arc<Session> {
        let mut current = self.kept.current.subscribe();
        loop {
            let usable =
                current.wait_for(|session| session.as_ref().is_some_and(|session| session.is_up())).await;
            if let Ok(Some(session)) = usable.as_deref() {
                return Arc::clone(session);
            }
        }
    }

    /// Lets the flows of all links finish, at most until the deadline, and closes the links. How many flows were cut.
    pub(super) async fn finish(&self, deadline: Duration) -> usize {
        self.shared.tasks.signal();
        let sessions = self.kept.sessions();
        let finished = sessions.iter().map(|session| session.finish(deadline));
        futures_util::future::join_all(finished).await.into_iter().sum()
    }
}

impl Kept {
    fn sessions(&self) -> Vec<Arc<Session>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }

    fn add(&self, session: &Arc<Session>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|session| session.strong_count() > 0);
        all.push(Arc::downgrade(session));
    }
}

/// The task of an uplink.
async fn keep(shared: Arc<Shared>, role: Role, kept: Arc<Kept>) {
    let mut failures = 0;
    let mut last_error = String::new();
    let mut previous: Option<Arc<Session>> = None;
    loop {
        let opened = tokio::select! {
            opened = session::open(&shared, role) => opened,
            () = shared.tasks.signalled() => return,
        };
        let wait = match opened {
            Ok(session) => {
                kept.add(&session);
                if let Some(old) = previous.take() {
                    // Made before broken: what the old link carries finishes on it.
                    shared.tasks.spawn(async move {
                        let cut = old.finish(MOVE).await;
                        tracing::debug!(node = %old.node, cut, "the replaced link is closed");
                    });
                }
                let address = session.link.remote_address();
                tracing::info!(node = %session.node, %address, ?role, "linked");
                kept.state.send_replace(State::Connected { node: session.node.clone(), address });
                kept.current.send_replace(Some(Arc::clone(&session)));
                let since = Instant::now();
                let left = tokio::select! {
                    left = session.left() => left,
                    () = shared.tasks.signalled() => return,
                };
                kept.current.send_replace(None);
                if since.elapsed() >= STABLE {
                    failures = 0;
                }
                last_error.clear();
                let (why, wait) = match left {
                    Left::GoAway(away) => {
                        previous = Some(session);
                        ("the node is leaving".into(), away.smear.mul_f64(rand::random()))
                    }
                    Left::Suspect => {
                        previous = Some(session);
                        ("the link does not answer".into(), Duration::ZERO)
                    }
                    Left::Ended(why) => {
                        failures += 1;
                        (why, shared.config.backoff.wait(failures - 1, rand::random()))
                    }
                };
                tracing::warn!(why, ?role, "the link must be replaced");
                kept.state.send_replace(State::Connecting { error: Some(why) });
                wait
            }
            Err(error) => {
                let text = telemetry::report(&error);
                if text == last_error {
                    tracing::debug!(error = text, failures, "still no link");
                } else {
                    tracing::warn!(error = text, connect = %shared.config.connect, "no link; trying on");
                    last_error.clone_from(&text);
                }
                kept.state.send_replace(State::Connecting { error: Some(text) });
                failures += 1;
                shared.config.backoff.wait(failures - 1, rand::random())
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shared.tasks.signalled() => return,
        }
    }
}

/// How long the flows of a link that has been replaced may go on at most: the node that left ends them earlier if it must.
const MOVE: Duration = Duration::from_secs(24 * 3600);
