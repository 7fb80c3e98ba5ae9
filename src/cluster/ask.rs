//! What operators ask of one node and another knows: asked over the link between the two, and answered on the same stream.
//!
//! Driven by `admin`, which asks, and by `node`, which hands over the answers of its own `admin`. It does not look into
//! either, and bounds both in size and time.

use std::{io, time::Duration};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Node;
use crate::{
    protocol::{Ask, Code, DecodeError, Flow, NodeId, Refusal},
    transport::{self, FlowError, OpenError, Stream},
};

/// How long a node has for all of its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer, in bytes: some 20,000 links.
const MAX_ANSWER: usize = 8 << 20;

/// What a node has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status, as HTTP has them.
    pub status: u16,
    /// JSON.
    pub body: Bytes,
}

/// Why another node gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It is older than this.
    #[error(
        "the node {0} is of a version that cannot be asked by other nodes: ask its own admin port, or bring it up to date"
    )]
    Unsupported(NodeId),
    /// It does not want to.
    #[error("the node {0} refuses to answer: {1}")]
    Refused(NodeId, Refusal),
    /// It takes too long.
    #[error("the node {0} has not answered within {PATIENCE:?}: it hangs, or the way to it is cut")]
    Silent(NodeId),
    /// The link broke.
    #[error("the node {0} cannot be asked, since the link to it is lost: {1}")]
    Lost(NodeId, String),
    /// It says something that makes no sense.
    #[error("the node {0} has answered with something that is no answer: {1}")]
    Garbled(NodeId, String),
    /// It says too much.
    #[error("the answer of the node {0} has over {MAX_ANSWER} bytes: ask its own admin port")]
    TooLong(NodeId),
}

impl AskError {
    /// The name that the API has for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unsupported(_) => "unsupported",
            Self::Refused(..) => "node_refuses",
            Self::Silent(_) => "node_silent",
            Self::Lost(..) => "node_lost",
            Self::Garbled(..) => "answer_garbled",
            Self::TooLong(_) => "answer_too_long",
        }
    }
}

impl Node {
    /// Asks the node at the other end.
    ///
    /// # Errors
    /// See [`AskError`]. Cancel safe.
    pub async fn ask(&self, ask: Ask) -> Result<Answer, AskError> {
        let _held = self.flows.hold();
        let asked = tokio::time::timeout(PATIENCE, self.asked(ask)).await;
        asked.unwrap_or_else(|_| Err(AskError::Silent(self.member.node.clone())))
    }

    async fn asked(&self, ask: Ask) -> Result<Answer, AskError> {
        let node = || self.member.node.clone();
        let lost = |error: io::Error| {
            let why = self.link.lost().map_or_else(|| error.to_string(), |lost| lost.to_string());
            AskError::Lost(node(), why)
        };
        let mut stream = self.link.open(PATIENCE).await.map_err(|error| match error {
            OpenError::Busy => AskError::Refused(node(), Refusal::new(Code::Busy, "it takes no more flows")),
            OpenError::Lost(lost) => AskError::Lost(node(), lost.to_string()),
        })?;
        transport::write_flow(&mut stream, &Flow::Ask(ask)).await.map_err(lost)?;
        let status = match transport::read_flow(&mut stream.recv).await {
            Ok(Flow::Answer(status)) => status,
            Ok(Flow::Refused(refusal)) if refusal.code == Code::Unsupported => {
                return Err(AskError::Unsupported(node()));
            }
            Ok(Flow::Refused(refusal)) => return Err(AskError::Refused(node(), refusal)),
            Ok(_) => return Err(AskError::Garbled(node(), "a frame of another kind".into())),
            Err(FlowError::Io(error)) => return Err(lost(error)),
            Err(FlowError::Decode(error)) => return Err(garbled(node(), &error)),
        };
        let mut body = Vec::new();
        let limit = u64::try_from(MAX_ANSWER).unwrap_or(u64::MAX).saturating_add(1);
        (&mut stream.recv).take(limit).read_to_end(&mut body).await.map_err(lost)?;
        if body.len() > MAX_ANSWER {
            return Err(AskError::TooLong(node()));
        }
        // All has come: whether the peer still takes the end of the question does not matter.
        drop(stream.send.shutdown().await);
        Ok(Answer { status, body: body.into() })
    }
}

fn garbled(node: NodeId, error: &DecodeError) -> AskError {
    AskError::Garbled(node, error.to_string())
}

/// Answers a node that has asked on this stream.
pub async fn answer(mut stream: Stream, answer: Answer) {
    let said = async {
        transport::write_flow(&mut stream, &Flow::Answer(answer.status)).await?;
        stream.send.write_all(&answer.body).await?;
        stream.send.shutdown().await
    };
    match tokio::time::timeout(PATIENCE, said).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a node that has asked does not take its answer"),
        Err(_) => tracing::debug!("a node that has asked does not take its answer in time"),
    }
}
