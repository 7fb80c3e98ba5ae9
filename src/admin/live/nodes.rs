//! What other nodes have counted: each is asked in turn, and what it says is kept for as long as it says something.

use std::{collections::BTreeMap, sync::Arc};

use super::rates::Samples;
use crate::{
    admin::figures::Figures,
    cluster::{Answer, AskError, Node, PeerStatus},
    protocol::Ask,
};

/// The nodes that this one is linked to.
#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<String, Peer>);

/// One of them.
#[derive(Debug)]
pub(super) struct Peer {
    /// What this node knows of it.
    pub(super) status: PeerStatus,
    /// What it has said of itself.
    pub(super) samples: Samples,
    /// Why it says nothing.
    pub(super) silent: Option<String>,
    asked: bool,
}

/// What a node answers.
pub(super) type Heard = (String, Result<Answer, AskError>);

impl Peers {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.0.values()
    }

    pub(super) fn get(&self, node: &str) -> Option<&Peer> {
        self.0.get(node)
    }

    /// Takes in which nodes there are now, and says which of them are to be asked: those that have no question to answer.
    pub(super) fn update(&mut self, nodes: &[Arc<Node>]) -> Vec<impl Future<Output = Heard> + Send + use<>> {
        let mut before = std::mem::take(&mut self.0);
        let mut asks = Vec::new();
        for node in nodes {
            let status = node.status();
            let name = status.node.clone();
            let mut peer = match before.remove(&name) {
                Some(peer) => Peer { status, ..peer },
                None => Peer { status, samples: Samples::default(), silent: None, asked: false },
            };
            if !std::mem::replace(&mut peer.asked, true) {
                asks.push(ask(Arc::clone(node)));
            }
            self.0.insert(name, peer);
        }
        asks
    }

    /// Takes in what one of them has said.
    pub(super) fn heard(&mut self, (node, answer): Heard) {
        let Some(peer) = self.0.get_mut(&node) else { return };
        peer.asked = false;
        match figures(&node, answer) {
            Ok(figures) => {
                peer.samples.push(figures);
                peer.silent = None;
            }
            Err(why) => {
                peer.samples.clear();
                peer.silent = Some(why);
            }
        }
    }
}

async fn ask(node: Arc<Node>) -> Heard {
    let ask = Ask { path: "/api/v1/figures".into(), act: false, body: bytes::Bytes::new(), tenants: None };
    (node.member.node.to_string(), node.ask(ask).await)
}

fn figures(node: &str, answer: Result<Answer, AskError>) -> Result<Figures, String> {
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!(
            "the node {node} tells no figures (status {}): it is of an older version, or is leaving",
            answer.status
        ));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|error| format!("the node {node} tells figures that make no sense here: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_answer_is_told_for_what_it_is() {
        let of = |status, body: &str| figures("n2", Ok(Answer { status, body: body.to_owned().into() }));
        assert!(of(200, &serde_json::to_string(&Figures::default()).unwrap()).is_ok());
        for (status, body, word) in
            [(404, "", "older version"), (200, "{}", "no sense"), (200, "", "no sense")]
        {
            let why = of(status, body).unwrap_err();
            assert!(why.contains("n2") && why.contains(word), "{why}");
        }
    }
}
