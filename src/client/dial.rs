//! Opens flows to endpoints.

use std::{net::SocketAddr, time::Duration};

use super::{association::Via, uplink::Uplink};
use crate::{
    protocol::{Code, EndpointId, Hop, Kind, Open, Refusal},
    transport::{self, AskError, OpenError, Stream},
};

/// How long to wait for a link, and for room on it.
const LINK: Duration = Duration::from_secs(10);

/// How long to wait for the answer: the agent's own dial has 5 s, and each hop back waits 1 s longer, of which there are at
/// most two.
const ANSWER: Duration = Duration::from_secs(8);

/// How often a node that is leaving may send a dial on to the next.
const MOVES: usize = 3;

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no link.
    #[error("no link to a node within {0:?}")]
    NoLink(Duration),
    /// The link carries as many flows as its node permits.
    #[error("the node permits no further flow on this link")]
    Busy,
    /// The cluster refuses: there is no such endpoint, or its service cannot be reached.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nothing answered.
    #[error("no answer within {0:?}")]
    Unanswered(Duration),
    /// The link broke before the answer.
    #[error("the link broke before the answer")]
    Broken(#[source] AskError),
}

pub(super) async fn dial(
    uplink: &Uplink,
    endpoint: &EndpointId,
    kind: Kind,
    client: Option<SocketAddr>,
) -> Result<(Stream, Via), DialError> {
    let open = Open {
        endpoint: endpoint.clone(),
        tenant: None,
        kind,
        hop: Hop::First,
        agent: None,
        client,
        server: None,
        trace: None,
    };
    let mut moves = 0;
    loop {
        let session =
            tokio::time::timeout(LINK, uplink.session()).await.map_err(|_| DialError::NoLink(LINK))?;
        let via = Via::new(&session);
        let _waiting = session.vitals.wait();
        let mut stream = match session.link.open(LINK).await {
            Ok(stream) => stream,
            Err(OpenError::Busy) => return Err(DialError::Busy),
            // It was never asked: the next link will be. The uplink learns of the loss a moment later than this does.
            Err(OpenError::Lost(_)) => {
                session.left().await;
                continue;
            }
        };
        match tokio::time::timeout(ANSWER, transport::ask(&mut stream, open.clone())).await {
            Ok(Ok(())) => return Ok((stream, via)),
            Ok(Err(AskError::Refused(refusal))) if refusal.code == Code::Draining && moves < MOVES => {
                moves += 1;
                // The goodbye that sends this client elsewhere is on its way, or has come.
                drop(tokio::time::timeout(LINK, session.left()).await);
            }
            Ok(Err(AskError::Refused(refusal))) => return Err(DialError::Refused(refusal)),
            Ok(Err(error)) => return Err(DialError::Broken(error)),
            Err(_) => return Err(DialError::Unanswered(ANSWER)),
        }
    }
}
