//! One of the links that an uplink keeps: opens it, replaces it before it breaks where that can be (a node that leaves, a
//! link that does not answer), and reopens it whatever ended it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    ConnectError, Shared,
    backoff::Backoff,
    reach::{Address, Goal, Transport},
    session::{self, Left, Session, Target},
    uplink::Links,
};
use crate::{
    net::HostPort,
    protocol::{Code, NodeAddress, NodeId, Role, Secret},
    telemetry,
    transport::Link,
};

/// How long a link must have lived for its loss to be the first in a row. A node that welcomes and closes at once is backed
/// off from like one that is not there.
const STABLE: Duration = Duration::from_secs(10);

/// How long the flows of a link that has been replaced may go on at most: the node that left ends them earlier if it must.
const MOVE: Duration = Duration::from_secs(24 * 3600);

/// How long a listed node has to answer. Its address may be one that only other nodes reach, and then the client's own way
/// to the cluster must not wait long.
const LISTED: Duration = Duration::from_secs(3);

/// After how many failures in a row a node that has said goodbye will do, if it lets itself be used.
const RETURN: u32 = 5;

/// How many times longer the waits grow while there is another link. One more is no emergency.
const PATIENCE: u32 = 20;

/// The same while nodes tell of no other that there could be a link to: they say when there is one.
const ALONE: u32 = 240;

/// Over how long clients spread when a node appears that they have waited for.
const SPREAD: Duration = Duration::from_secs(1);

/// How to look for a node.
#[derive(Debug)]
enum Way {
    /// At the address of one that nodes have told of.
    Listed(NodeAddress),
    /// By the name that the client was given, whoever answers to it.
    Name,
}

/// The task of one link.
#[derive(Debug)]
pub(super) struct Slot {
    index: usize,
    shared: Arc<Shared>,
    role: Role,
    links: Arc<Links>,
    /// In a row, of attempts and of links that did not last.
    failures: u32,
    /// In a row, of attempts for want of credentials that the node takes.
    refusals: u32,
    /// How often the name was tried; the next time begins with the next of its addresses.
    names: usize,
    /// The last attempt was at a listed node and failed, so it is the name's turn.
    name_next: bool,
    /// What was logged last.
    last_error: String,
    /// The same of credentials, on which the wait for other nodes has no bearing.
    last_refusal: String,
    /// Links whose flows finish as soon as another stands in their place.
    former: Vec<Arc<Session>>,
}

impl Slot {
    pub(super) fn new(index: usize, shared: Arc<Shared>, role: Role, links: Arc<Links>) -> Self {
        Self {
            index,
            shared,
            role,
            links,
            failures: 0,
            refusals: 0,
            names: 0,
            name_next: false,
            last_error: String::new(),
            last_refusal: String::new(),
            former: Vec::new(),
        }
    }

    /// Keeps the link until the client is closed.
    pub(super) async fn keep(mut self) {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            () = self.run() => {}
            () = shared.tasks.signalled() => {}
        }
    }

    async fn run(&mut self) {
        loop {
            let mut session = self.linked().await;
            let since = Instant::now();
            let left = loop {
                tokio::select! {
                    biased;
                    left = session.left() => break left,
                    () = session.settled(), if !self.former.is_empty() => self.let_go(),
                    opened = self.quic_again(&session) => {
                        self.links.lost(self.index, "quic");
                        session = self.welcomed(opened);
                    }
                }
            };
            if since.elapsed() >= STABLE {
                self.failures = 0;
                self.shared.nodes.succeeded(&session.node);
            }
            self.last_error.clear();
            self.last_refusal.clear();
            let (reason, why, wait) = match left {
                Left::GoAway(away) => {
                    ("leaving", "the node is leaving".into(), away.smear.mul_f64(rand::random()))
                }
                Left::Suspect => {
                    self.rest(&session.node);
                    ("silent", "the link does not answer".into(), Duration::ZERO)
                }
                Left::Ended(why) => {
                    self.rest(&session.node);
                    ("ended", why, self.failed())
                }
            };
            self.links.lost(self.index, reason);
            tracing::warn!(why, node = %session.node, role = ?self.role, "the link must be replaced");
            self.links.note(Some(why));
            tokio::time::sleep(wait).await;
        }
    }

    /// Looks for a node until one has welcomed this client.
    async fn linked(&mut self) -> Arc<Session> {
        let links = Arc::clone(&self.links);
        let mut turn = None;
        loop {
            if turn.is_none() {
                turn = Some(links.dialling().await);
            }
            if let Some(session) = links.of(self.index).filter(|session| session.is_up()) {
                self.links.not_lost(self.index);
                tracing::info!(node = %session.node, "the link answers again");
                links.note(None);
                return session;
            }
            let none = links.of(self.index).is_none_or(|session| session.has_ended());
            if none && self.failures == 0 && links.any_up() && self.alone() {
                turn = None;
                let wait = self.failed();
                self.pause(wait, true).await;
                continue;
            }
            let way = self.choose();
            let token = self.token().await;
            let shown = token.as_ref().ok().cloned().flatten();
            let opened = match token {
                Ok(token) => self.dial(&way, self.shared.config.transport, token).await,
                Err(error) => Err(error),
            };
            let error = match opened {
                Ok(opened) => return self.welcomed(opened),
                Err(error) => error,
            };
            if let Way::Listed(listed) = &way {
                self.rest(&listed.node);
            }
            self.name_next = matches!(way, Way::Listed(_));
            self.names += usize::from(!self.name_next);
            self.tell(&error);
            if self.covered() {
                self.former.extend(links.put(self.index, None));
                self.let_go();
            }
            let alone = self.alone();
            let wait = self.wait_after(&error);
            // While there is no link at all, one slot looks for all of them.
            if links.any_up() {
                turn = None;
            }
            tokio::select! {
                () = self.pause(wait, alone) => {}
                () = self.other_token(shown), if error.is_of_credentials() => {}
            }
        }
    }

    fn choose(&self) -> Way {
        if self.name_next {
            return Way::Name;
        }
        let avoid = self.avoid();
        let listed = self.shared.nodes.choose(Instant::now(), |node| avoid.contains(node), rand::random());
        listed.map_or(Way::Name, Way::Listed)
    }

    fn avoid(&self) -> Vec<NodeId> {
        self.links.avoid(self.index, self.failures >= RETURN)
    }

    /// Listed nodes that this slot might have a link to.
    fn free(&self) -> Vec<NodeId> {
        let avoid = self.avoid();
        self.shared.nodes.free(|node| avoid.contains(node))
    }

    /// Whether nodes have told of themselves, and of none that other slots are not linked to. Who tells of none at all may be
    /// one of several behind a name.
    fn alone(&self) -> bool {
        // A node that has said goodbye may be back before its old link has ended.
        let others = self.links.avoid(self.index, true);
        let free = self.shared.nodes.free(|node| others.contains(node));
        free.is_empty() && !self.shared.nodes.free(|_| false).is_empty()
    }

    /// The token to show. Got before a node is dialled, which does not wait long for its first frame.
    async fn token(&self) -> Result<Option<Secret>, ConnectError> {
        self.shared.tokens.for_link().await.map_err(ConnectError::Token)
    }

    /// Waits until there is another token than this one.
    async fn other_token(&self, than: Option<Secret>) {
        if self.shared.tokens.changes().wait_for(|token| *token != than).await.is_err() {
            // There will be none.
            std::future::pending().await
        }
    }

    async fn dial(
        &self,
        way: &Way,
        transport: Transport,
        token: Option<Secret>,
    ) -> Result<session::Opened, ConnectError> {
        let config = &self.shared.config;
        let open = async |address: &Address, names: &[&str], listed| {
            let target = Target { goal: Goal { address, names, turn: self.names }, transport, listed };
            session::open(&self.shared, self.role, target, self.avoid(), token.clone()).await
        };
        let host = config.connect.at.host.as_str();
        match way {
            Way::Name => open(&config.connect, &[config.server_name.as_deref().unwrap_or(host)], None).await,
            Way::Listed(listed) => {
                let address = Address::from(listed.address.parse::<HostPort>()?);
                // Without --server-name, the certificate may be for the node's own name, or for the one name of all nodes,
                // which is all that this client was told to trust. Either must come from the same authorities, and a node
                // that they vouch for has told of the address.
                let names = match &config.server_name {
                    Some(name) => vec![name.as_str()],
                    None if address.at.host == host => vec![host],
                    None => vec![address.at.host.as_str(), host],
                };
                open(&address, &names, Some((&listed.node, LISTED))).await
            }
        }
    }

    /// Tries to have a link over QUIC in the place of one over WebSocket, until there is one. The first stays until then.
    async fn quic_again(&self, session: &Session) -> session::Opened {
        let config = &self.shared.config;
        if config.transport != Transport::Auto || matches!(session.link, Link::Quic(_)) {
            return std::future::pending().await;
        }
        for tries in 0.. {
            tokio::time::sleep(config.quic_again.wait(tries, rand::random())).await;
            let _turn = self.links.dialling().await;
            // The way by which nodes are told of may be the one that has UDP, or the way in may.
            let way = if tries % 2 == 0 { Way::Name } else { self.choose() };
            // No other slot can look for a node meanwhile, so it has not as long as a link that is needed.
            let dialled = async { self.dial(&way, Transport::Quic, self.token().await?).await };
            match tokio::time::timeout(LISTED, dialled).await {
                Ok(Ok(opened)) => {
                    tracing::info!(node = %opened.session.node, "UDP goes through: moving from WebSocket to QUIC");
                    return opened;
                }
                Ok(Err(error)) => {
                    tracing::debug!(error = telemetry::report(&error), tries, "still no link over QUIC");
                }
                Err(_) => tracing::debug!(tries, "still no answer over QUIC"),
            }
        }
        std::future::pending().await
    }

    /// Puts a new link in its place.
    fn welcomed(&mut self, opened: session::Opened) -> Arc<Session> {
        let session = Arc::clone(&opened.session);
        (self.name_next, self.refusals) = (false, 0);
        if let Some(reason) = self.links.replaced(self.index) {
            self.shared.counters.reconnected(reason);
        }
        self.last_error.clear();
        self.last_refusal.clear();
        let (node, address, transport) =
            (&session.node, session.link.remote_address(), session.link.transport());
        match &opened.why {
            None => tracing::info!(%node, %address, transport, role = ?self.role, "linked"),
            Some(why) => {
                tracing::info!(%node, %address, transport, why, role = ?self.role, "linked, though not over QUIC");
            }
        }
        self.former.retain(|former| !former.has_ended());
        self.former.extend(self.links.put(self.index, Some(Arc::clone(&session))));
        // Only now may the node's answers be heard: whoever waits for one finds this link in its place.
        opened.run();
        session
    }

    /// Lets the flows of former links finish.
    fn let_go(&mut self) {
        for old in self.former.drain(..).filter(|old| !old.has_ended()) {
            self.shared.tasks.spawn(async move {
                let cut = old.finish(MOVE).await;
                tracing::debug!(node = %old.node, cut, "the replaced link is closed");
            });
        }
    }

    /// Whether the node of this slot's link has said goodbye, there is no other for it, and other slots' links serve
    /// everything: then the link is not kept for the node to wait for.
    fn covered(&self) -> bool {
        let leaving = self.links.of(self.index).is_some_and(|session| session.is_leaving());
        leaving && self.free().is_empty() && self.links.others_up(self.index)
    }

    fn rest(&self, node: &NodeId) {
        self.shared.nodes.failed(node, Instant::now(), self.shared.config.backoff);
    }

    /// Counts a failure, and says how long to wait.
    fn failed(&mut self) -> Duration {
        let (backoff, linked) = (self.shared.config.backoff, self.links.any_up());
        self.failures += 1;
        waits(backoff, linked, linked && self.alone()).wait(self.failures - 1, rand::random())
    }

    /// The same for a certain failure. A node that does not take the credentials is not asked often.
    fn wait_after(&mut self, error: &ConnectError) -> Duration {
        let wait = self.failed();
        if !error.is_of_credentials() {
            return wait;
        }
        self.refusals += 1;
        self.shared.config.refused.wait_longer(self.refusals - 1, rand::random())
    }

    fn tell(&mut self, error: &ConnectError) {
        self.shared.counters.link_failed(error.reason());
        let text = telemetry::report(error);
        let elsewhere = match error {
            ConnectError::Linked(_) => true,
            ConnectError::Refused(refusal) => refusal.code == Code::Elsewhere,
            _ => false,
        };
        if elsewhere || text == self.last_error || text == self.last_refusal {
            tracing::debug!(error = text, failures = self.failures, "still no link to another node");
        } else if error.is_of_credentials() {
            let connect = &self.shared.config.connect;
            tracing::warn!(error = text, %connect, "no link; trying on slowly, and at once with another token");
            self.last_refusal.clone_from(&text);
        } else {
            tracing::warn!(error = text, connect = %self.shared.config.connect, "no link; trying on");
            self.last_error.clone_from(&text);
        }
        self.links.note(Some(text));
    }

    /// Waits, or until a node can be linked to that could not before, or, where there was none, nodes tell of one.
    async fn pause(&self, wait: Duration, alone: bool) {
        let appears = async {
            let (mut lists, mut links) = (self.shared.nodes.changes(), self.links.now());
            let mut before = self.free();
            while !alone || self.alone() {
                tokio::select! {
                    () = lists.next() => {}
                    () = self.links.changed(&mut links) => {}
                }
                let free = self.free();
                if free.iter().any(|node| !before.contains(node)) {
                    break;
                }
                before = free;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = appears => tokio::time::sleep(SPREAD.min(wait).mul_f64(rand::random())).await,
        }
    }
}

/// How long to wait for a link beside another one that is `linked`, or for the only one; `alone` when no node is known to which
/// it could be.
fn waits(backoff: Backoff, linked: bool, alone: bool) -> Backoff {
    let Backoff { first, longest } = backoff;
    match (linked, alone) {
        (false, _) => backoff,
        (true, false) => Backoff { first, longest: longest.saturating_mul(PATIENCE) },
        // A cluster of one node would be asked for another by each of its agents.
        (true, true) => {
            let long = longest.saturating_mul(ALONE);
            Backoff { first: long, longest: long }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_link_is_looked_for_soon_and_one_more_with_patience() {
        let most = |linked, alone, failures| waits(Backoff::default(), linked, alone).wait(failures, 1.0);
        let ms = Duration::from_millis;
        assert_eq!(
            [most(false, false, 0), most(false, true, 0), most(false, true, 20)],
            [ms(100), ms(100), ms(15_000)]
        );
        assert_eq!([most(true, false, 0), most(true, false, 20)], [ms(100), ms(300_000)]);
        assert_eq!([most(true, true, 0), most(true, true, 20)], [ms(3_600_000); 2]);
    }
}
