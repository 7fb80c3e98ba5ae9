//! The agents that are linked to this node: their sessions, what they serve, the choice among them, and retry.
//!
//! Driven by `node` (which accepts links), `relay` and `edge` (which open flows). It never listens on a port and never
//! answers a client.

mod choice;
mod flow;
mod hosts;
mod http;
mod metrics;
mod pool;
mod registry;
mod routes;
mod session;

pub use flow::{InUse, OpenFlow, OpenFlowError};
pub use http::{Body, BoxError, ResponseBody, SendError, Upgrade};
pub use registry::{EndpointStatus, LinkStatus, Name, Upstreams};
pub use session::{Identity, Session, State};
