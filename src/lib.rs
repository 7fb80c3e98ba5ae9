//! adit: a tunnel fabric.
//!
//! Services that nobody can reach run an *agent*, which opens outbound QUIC links to a *cluster of nodes*; clients reach the
//! services through any node, by HTTP, TCP or UDP. A program can also be an agent or a client itself: see [`client`].
//!
//! Modules stand in the order of their dependence: each uses only those above it (`tests/it/layers.rs` holds the table).

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod protocol;
pub mod drain;
pub mod net;
pub mod telemetry;
pub mod tls;
#[cfg(feature = "server")]
pub mod otlp;
pub mod splice;
#[cfg(feature = "server")]
pub mod auth;
pub mod transport;
pub mod client;
#[cfg(feature = "server")]
pub mod cluster;
#[cfg(feature = "server")]
pub mod upstream;
#[cfg(feature = "server")]
pub mod access_log;
#[cfg(feature = "server")]
pub mod relay;
#[cfg(feature = "server")]
pub mod edge;
#[cfg(feature = "server")]
pub mod admin;
#[cfg(feature = "server")]
pub mod node;
#[cfg(feature = "server")]
pub mod probes;
#[cfg(feature = "server")]
pub mod agent;
#[cfg(feature = "server")]
pub mod forward;
#[cfg(feature = "server")]
pub mod load;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod cli;
