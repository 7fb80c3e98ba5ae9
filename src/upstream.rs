//! The agents that are linked to this node: their sessions, what they serve, the choice among them, and retry.
//!
//! Driven by `node` (which accepts links), `relay` and `edge` (which open flows). It never listens on a port and never
//! answers a client.

mod agents;
mod bare;
mod body;
mod choice;
mod client;
mod flow;
mod hosts;
mod http;
mod http1;
mod http2;
mod idle;
mod metrics;
mod open;
mod part;
mod registry;
mod returns;
mod routes;
mod service;
mod session;
mod shared;
mod status;
mod trail;
mod upload;

pub use agents::AgentStatus;
pub use body::{Body, BoxError, ResponseBody};
pub use client::Client;
pub use flow::{InUse, OpenFlow, OpenFlowError};
pub use http::SendError;
pub use http1::Upgrade;
pub use open::OpenStatus;
pub use registry::{Name, Upstreams};
pub use session::{Identity, Session, State};
pub use status::{EndpointStatus, LinkStatus};
pub use trail::Trail;
