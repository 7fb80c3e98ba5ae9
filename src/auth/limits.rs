//! Limits on callers, whoever they are: how often, how many at once, how many bytes a second.
//!
//! They come before authentication, which is work that strangers can ask for too. Each is of a bounded size.

mod bytes;
mod count;
mod distinct;
mod limit;
mod callers;
mod pace;
mod rate;

pub use callers::{Limits, LinkPass, ListenPass, Pass, Served};
pub use limit::{Limit, Limited, Scope, UnknownLimit, What};
pub use pace::Pace;
