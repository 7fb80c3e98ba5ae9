//! Whether ports let somebody in without credentials whom that was not meant for.
//!
//! Asked before a node starts, of where its ports are to be, and before what runs is to ask for
//! something else of callers, of where they are.

use std::net::SocketAddr;

use super::Auth;

/// Where the ports are.
#[derive(Debug, Clone, Copy)]
pub struct Exposure {
    /// Links.
    pub link: SocketAddr,
    /// Whether there is a port for TLS that is passed on unopened.
    pub sni: bool,
    /// Operators.
    pub admin: SocketAddr,
}

/// A port that lets in whom it should not, for all that is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exposed {
    /// Others than processes of this machine may serve and reach everything.
    #[error(
        "the link port {0} can be reached from other machines, and asks nobody who they are: give --link-auth-key-file, \
         --link-auth-jwks or --link-client-ca, bind it to 127.0.0.1, or say --allow-anonymous if whoever reaches it may serve \
         and reach everything"
    )]
    Link(SocketAddr),
    /// A port that lets in whom another one asks for credentials.
    #[error(
        "--edge-sni-bind lets whoever reaches it in without credentials, which the edge asks for: leave it out, or say \
         --allow-anonymous if that is meant"
    )]
    Sni,
}

impl Exposure {
    /// Whether these ports may ask this of callers.
    ///
    /// # Errors
    /// The first port that is [`Exposed`], unless that is `allowed`.
    pub fn check(&self, auth: &Auth, allowed: bool) -> Result<(), Exposed> {
        if !allowed {
            if !auth.link.asks() && !self.link.ip().is_loopback() {
                return Err(Exposed::Link(self.link));
            }
            if auth.edge.asks() && self.sni {
                return Err(Exposed::Sni);
            }
        }
        Ok(())
    }

    /// Logs what else an operator should know of it.
    pub fn tell(&self, auth: &Auth) {
        if !auth.edge.asks() {
            tracing::info!(
                "the edge asks for no credentials: whoever reaches it reaches every endpoint{}",
                if auth.link.asks() {
                    ", of every tenant: tenants are addresses there, not a boundary"
                } else {
                    ""
                }
            );
        }
        if !auth.admin.asks() && !self.admin.ip().is_loopback() {
            tracing::warn!(
                bind = %self.admin,
                "whoever reaches the admin port sees what this node does: give --admin-auth-key-file or --admin-auth-jwks, or \
                 bind it to 127.0.0.1"
            );
        }
    }
}
