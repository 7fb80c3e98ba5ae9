//! What an edge allows its clients.

use std::time::Duration;

use clap::Args;

use super::{bytes, duration};
use crate::edge::Limits;

/// How long, how large and how many.
#[derive(Debug, Clone, Args)]
pub struct LimitArgs {
    /// Close a client's connection when a request's head takes longer, from its first byte to its last.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = time)]
    head_timeout: Duration,
    /// Close a client's connection on which nothing was asked for so long.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = time)]
    edge_idle_timeout: Duration,
    /// Wait so long for a service's response headers, from the end of the request on. Nothing limits what follows.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    request_timeout: Duration,
    /// Give up a request when no byte of its body or its response's body has moved for so long. By default, never.
    #[arg(long, value_name = "DURATION", value_parser = time)]
    stall_timeout: Option<Duration>,
    /// Refuse requests whose header fields have more bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 65536)]
    #[arg(value_parser = clap::value_parser!(u32).range(8192..))]
    max_header_bytes: u32,
    /// Refuse requests with more header fields.
    #[arg(long, value_name = "FIELDS", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_headers: u32,
    /// Refuse requests whose target is longer.
    #[arg(long, value_name = "BYTES", default_value_t = 16384)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_534))]
    max_uri_bytes: u32,
    /// Refuse requests whose body is longer. By default, there is no limit.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_body_bytes: Option<u64>,
    /// Close further connections of clients as soon as they are accepted. By default, the limit on open files is the only one.
    #[arg(long, value_name = "CONNECTIONS")]
    max_connections: Option<usize>,
    /// Let a client have so many requests open at once in one connection of HTTP/2.
    #[arg(long, value_name = "STREAMS", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    max_streams: u32,
}

impl LimitArgs {
    pub(super) fn limits(&self) -> Limits {
        Limits {
            head_timeout: self.head_timeout,
            idle_timeout: self.edge_idle_timeout,
            request_timeout: self.request_timeout,
            stall_timeout: self.stall_timeout,
            max_header_bytes: self.max_header_bytes as usize,
            max_headers: self.max_headers as usize,
            max_uri_bytes: self.max_uri_bytes as usize,
            max_body_bytes: self.max_body_bytes,
            max_connections: self.max_connections,
            max_streams: self.max_streams,
        }
    }
}

/// A duration in which something can happen.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let duration = duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() { Err("it must be longer than nothing".into()) } else { Ok(duration) }
}
