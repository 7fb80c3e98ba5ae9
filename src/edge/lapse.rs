//! What was open when the credentials ended that it relied on. It is cut, and that is in the access log and counted like what
//! is refused, since its client may know no reason.
//!
//! Driven by `http`, `piko` and the bodies of responses, which do the cutting.

use std::net::SocketAddr;

use super::{Shared, error::Error, metrics::Counters, permit::Permit};
use crate::{
    access_log::{Ended, Record},
    auth::Lapsed,
    upstream::Name,
};

/// What there is to say of something that is open, should it be cut.
#[derive(Debug)]
pub(super) struct Lapse {
    counters: Counters,
    client: SocketAddr,
    name: Name,
    what: &'static str,
    record: Record,
}

impl Lapse {
    /// That of what a client has by a permit.
    pub(super) fn new(
        shared: &Shared,
        client: SocketAddr,
        permit: &Permit,
        what: &'static str,
        record: &Record,
    ) -> Self {
        let (counters, name, record) = (shared.counters.clone(), permit.name.clone(), record.clone());
        Self { counters, client, name, what, record }
    }

    /// Waits until the credentials have ended, and says so.
    pub(super) async fn told(self, lapsed: impl Future<Output = Lapsed>) -> Lapsed {
        let lapsed = lapsed.await;
        let Self { counters, client, name: Name { tenant, endpoint }, what, record } = self;
        let (_, code) = Error::Lapsed(lapsed).status();
        counters.refused(code);
        record.ended(Ended::Lapsed, Some(code));
        // What has a line of its own has no second one.
        if !record.has_line() {
            tracing::info!(
                target: "adit::access", %client, %endpoint, %tenant, what, code, %lapsed, "what was open was cut"
            );
        }
        lapsed
    }
}
