//! What of a node is exchanged while it runs: certificates, authorities, keys, rules, tenants and limits, for callers to come.
//!
//! Driven by whoever has read a configuration again. First everything is made ready, which may fail and changes nothing; then
//! all of it is exchanged, which cannot fail. Connections, links and flows that stand are never touched, but for those that
//! rely on a certificate which is not taken any more.

use super::{Auth, Config, Exposure, Node, StartError, links};
use crate::{
    admin,
    auth::Limit,
    cluster, edge,
    telemetry::{Outcome, What},
};

/// All of a configuration that can be exchanged and might be found to be of no use.
struct Ready {
    edge: Option<edge::Handshakes>,
    link: links::Handshakes,
    admin: admin::Handshakes,
    peers: Option<cluster::Credentials>,
}

impl Ready {
    fn new(config: &Config) -> Result<Self, StartError> {
        Ok(Self {
            edge: config.edge.tls.as_ref().map(edge::Handshakes::new).transpose()?,
            link: links::Handshakes::new(&config.link)?,
            admin: admin::Handshakes::new(&config.admin)?,
            peers: config.cluster_links.as_ref().map(cluster::Credentials::new).transpose()?,
        })
    }
}

/// Whether a node could start with this, as far as that shows without binding a port.
///
/// # Errors
/// Those of [`Node::start`].
pub fn check(config: &Config) -> Result<(), StartError> {
    Ready::new(config).map(drop)
}

impl Node {
    /// Exchanges what can be: the certificates of the edge, the link port, the admin port and the peer port, the authorities
    /// that clients' and peers' certificates are judged by, what callers are asked for, and their limits. Of all else the
    /// configuration is not looked at.
    ///
    /// # Errors
    /// When something in it cannot be used; then nothing is exchanged.
    pub fn reload(&self, config: &Config) -> Result<(), StartError> {
        let ready = Ready::new(config)?;
        // Where the ports are, and not where they would be after a restart.
        let exposure = Exposure {
            link: self.addresses.link,
            sni: self.addresses.edge_sni.is_some(),
            admin: self.addresses.admin,
        };
        exposure.check(&config.auth, config.allow_anonymous)?;
        self.admin.check(&ready.admin)?;
        exposure.tell(&config.auth);
        if let Some(handshakes) = ready.edge {
            self.edge.replace(handshakes);
        }
        self.links.replace(ready.link);
        self.admin.replace(ready.admin);
        self.certificates.replace(config);
        if let (Some(cluster), Some(credentials)) = (&self.cluster, ready.peers) {
            cluster.replace(credentials);
        }
        self.replace_auth(&config.auth);
        self.replace_limits(&config.limits);
        Ok(())
    }

    /// Asks this of callers from now on. What stands goes on, but for what relies on a certificate that is not taken any more.
    pub fn replace_auth(&self, auth: &Auth) {
        self.guards.edge.replace(&auth.edge);
        self.guards.link.replace(&auth.link);
        self.guards.admin.replace(&auth.admin);
    }

    /// Has these limits on callers from now on. What stands goes on, and is not counted by others than before.
    pub fn replace_limits(&self, limits: &[Limit]) {
        self.limits.replace(limits);
    }

    /// Counts a configuration that was read again.
    pub fn count_reload(&self, outcome: Outcome) {
        let what = if outcome == Outcome::Refused { What::ReloadRefused } else { What::Reload };
        self.reloads.count(outcome);
        self.upstreams.recent().note(what, None, "the configuration", outcome.name());
    }
}
