//! The integration tests: real nodes, agents and forwarders in this process, real services and clients on loopback.
//!
//! One file a promise. Ports are always 0, and tests wait for what must become true, never for time to pass.

mod admin;
mod cli;
mod cluster;
mod errors;
mod failover;
mod half_close;
mod drain;
mod health;
mod hostile;
mod http;
mod layers;
mod links;
mod reuse;
mod reconnect;
mod sdk;
mod streaming;
mod support;
mod tcp;
mod timeouts;
mod trust;
mod udp;
mod upgrade;
