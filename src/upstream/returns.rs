//! Agents and forwarders that have lost their last link to this node lately, by which those that come back are known.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::session::Identity;
use crate::protocol::{AgentId, TenantId};

/// How long and how many are remembered. A process that restarts is another one.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);
const MOST: usize = 10_000;

/// A process by its tenant, its id and its role.
type Key = (TenantId, AgentId, &'static str);

/// When each has lost its last link.
#[derive(Debug, Default)]
pub(super) struct Departed(Mutex<Since>);

#[derive(Debug, Default)]
struct Since {
    since: BTreeMap<Key, Instant>,
    swept: Option<Instant>,
}

fn key(identity: &Identity) -> Key {
    (identity.tenant.clone(), identity.agent, identity.role_name())
}

impl Departed {
    /// It has no link any more. Beyond as many as are remembered, it is forgotten.
    pub(super) fn note(&self, identity: &Identity, now: Instant) {
        let mut this = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Not each time: all agents may go at once.
        if this.swept.is_none_or(|swept| now > swept + REMEMBERED / 10) {
            this.since.retain(|_, since| now.saturating_duration_since(*since) < REMEMBERED);
            this.swept = Some(now);
        }
        if this.since.len() < MOST {
            this.since.insert(key(identity), now);
        }
    }

    /// It has a link again; whether it had one a while ago.
    pub(super) fn is_back(&self, identity: &Identity, now: Instant) -> bool {
        let mut this = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = this.since.remove(&key(identity));
        since.is_some_and(|since| now.saturating_duration_since(since) < REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Role;

    fn agent(number: u128) -> Identity {
        let agent = AgentId::from_bits(number);
        Identity { role: Role::Agent, agent, name: None, tenant: TenantId::default() }
    }

    #[test]
    fn who_was_there_a_while_ago_is_back_once() {
        let (departed, now) = (Departed::default(), Instant::now());
        assert!(!departed.is_back(&agent(1), now));
        departed.note(&agent(1), now);
        assert!(!departed.is_back(&agent(2), now));
        let other = Identity { role: Role::Forwarder, ..agent(1) };
        assert!(!departed.is_back(&other, now), "the same id in another role");
        assert!(departed.is_back(&agent(1), now + REMEMBERED / 2));
        assert!(!departed.is_back(&agent(1), now + REMEMBERED / 2));
        departed.note(&agent(1), now);
        assert!(!departed.is_back(&agent(1), now + REMEMBERED), "that was long ago");
    }

    #[test]
    fn a_flood_of_processes_is_remembered_up_to_a_bound_and_forgotten_in_time() {
        let (departed, now) = (Departed::default(), Instant::now());
        for number in 0..MOST as u128 + 1000 {
            departed.note(&agent(number), now);
        }
        assert!(departed.is_back(&agent(0), now));
        assert!(!departed.is_back(&agent(MOST as u128), now));
        departed.note(&agent(7), now + REMEMBERED * 2);
        let count = departed.0.lock().unwrap().since.len();
        assert_eq!(count, 1);
    }
}
