//! What a process tells of itself: the registry of metrics, spans of what passes through it, what is secret in all that it
//! tells and, for the command line, how logs are written.
//!
//! Modules keep their own metrics and register them here; this module knows none of them.

#[cfg(feature = "server")]
mod log;
mod metrics;
mod outcomes;
mod process;
mod queues;
mod recent;
#[cfg(feature = "server")]
pub mod secret;
#[cfg(feature = "server")]
pub mod trace;
mod traffic;

#[cfg(feature = "server")]
pub use log::{Filter, InvalidFilter, Log, LogFormat, init};
pub use metrics::{Metrics, Registry, counter, gauge};
pub use outcomes::{Drains, Outcome, Reloads};
pub use process::{Memory, Usage};
pub use queues::Queue;
pub use recent::{Event, Recent, What};
pub use traffic::{Tally, Traffic};

/// An error and its sources in one sentence, for logs and for people.
pub fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
