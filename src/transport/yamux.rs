//! yamux: many streams on one connection that has none of its own, for links over WebSocket and for Piko's agents.
//!
//! The format has four frames (`frame`); what they mean, and the bounds that both sides keep, is `session`, which does no I/O
//! and is driven by the task of the connection that it is on; `stream` is what its users hold. docs/multiplexing.md says why
//! this is not one of the crates.

mod frame;
mod session;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod users;

pub(super) use session::{Limits, NoStream, Output, Session, Side, Violation};
pub(super) use stream::{Receiver, Sender, Shared, lock};
