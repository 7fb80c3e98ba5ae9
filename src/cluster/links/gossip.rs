//! Runs membership over the peer links: what it hears, when its timers are due, and what it wants done.

use std::sync::{Arc, PoisonError};

use tokio::{sync::mpsc, time::Instant};

use super::{
    super::{
        Event,
        membership::{Effect, Membership},
        node::CONTROL_STREAM,
    },
    Links,
};
use crate::{protocol::Close, telemetry::What};

/// Runs until the node leaves.
pub(super) async fn run(links: Arc<Links>, mut events: mpsc::Receiver<Event>) {
    let mut membership = Membership::new(links.shared.me(), rand::random());
    loop {
        let timer = async {
            match membership.next_tick() {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = events.recv() => match event {
                Some(event) => Some(event),
                None => return,
            },
            () = timer => None,
        };
        let now = Instant::now();
        let mut left = None;
        match event {
            None => membership.tick(now),
            Some(Event::Heard { from, data }) => {
                links.counters.membership.received(data.len());
                if let Err(error) = membership.receive(&from, &data, now) {
                    links.faults.dropped(&from, error);
                }
            }
            Some(Event::Linked(member)) => membership.announce(&member, now),
            Some(Event::Leave(said)) => {
                membership.leave(now);
                left = Some(said);
            }
        }
        for effect in membership.effects() {
            links.effect(effect);
        }
        if let Some(said) = left {
            // Whoever asked may have given up waiting.
            if said.send(()).is_err() {
                tracing::debug!("nobody waits for the goodbye any more");
            }
            return;
        }
    }
}

impl Links {
    fn effect(self: &Arc<Self>, effect: Effect) {
        match effect {
            Effect::Send { to, data } => {
                let peer = self.shared.peers().get(&to.node).cloned();
                let sent = peer.is_some_and(|peer| peer.datagrams.send(CONTROL_STREAM, &data).is_ok());
                if sent {
                    self.counters.membership.sent(data.len());
                } else {
                    self.counters.dropped.inc();
                    self.keep(to);
                }
            }
            Effect::Up(member) => {
                self.counters.members.inc();
                tracing::info!(peer = %member.node, address = member.address, "a node is in the cluster");
                if !self.has_link(&member.node) {
                    self.keep(member);
                }
            }
            Effect::Down(member) => {
                self.counters.members.dec();
                tracing::warn!(peer = %member.node, "a node is gone from the cluster");
                let why = "it has left, or does not answer";
                self.shared.handler.happened(What::NodeGone, format!("node {}", member.node), why.into());
                let peer = self.shared.peers().get(&member.node).cloned();
                // A link that answers knows better than rumour, which will be refuted.
                if let Some(peer) = peer.filter(|peer| peer.vitals.is_suspect()) {
                    peer.link.close(Close::Timeout, "gone from the cluster");
                }
            }
            Effect::Replaced { old, new } => {
                tracing::info!(peer = %new.node, old = old.incarnation, new = new.incarnation, "a node has restarted");
            }
            Effect::Renewed(me) => {
                tracing::warn!(
                    incarnation = me.incarnation,
                    "the cluster had held this node to be gone; it is back"
                );
                *self.shared.me.lock().unwrap_or_else(PoisonError::into_inner) = me;
            }
        }
    }
}
