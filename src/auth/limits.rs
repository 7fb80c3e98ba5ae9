//! Limits on callers, whoever they are: how often, how many at once, how many bytes a second.
//!
//! They come before authentication, which is work that strangers can ask for too. Each is of a bounded size.

mod bytes;
mod count;
mod rate;

pub use bytes::ByteRate;
pub use count::{Count, Held, TooMany};
pub use rate::{MAX_KEYS, Rate, TooOften, client_key};
