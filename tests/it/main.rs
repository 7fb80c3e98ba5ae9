//! The integration tests: real nodes, agents and forwarders in this process, real services and clients on loopback.
//!
//! One file a promise. Ports are always 0, and tests wait for what must become true, never for time to pass.

mod across;
mod admin;
mod agent_http;
mod bench;
mod cli;
mod cluster;
mod elsewhere;
mod errors;
mod failover;
mod grpc;
mod floods;
mod half_close;
mod downgrade;
mod drain;
mod health;
mod hosts;
mod hostile;
mod hostile_peers;
mod http;
mod joining;
mod jwks;
mod http3;
mod lasting;
mod http2;
mod layers;
mod limits;
mod links;
#[cfg(target_os = "linux")]
mod partition;
mod piko_edge;
mod ports;
mod proxy_protocol;
mod reuse;
mod rebalance;
mod reconnect;
mod retire;
mod sdk;
mod sni;
mod slow;
mod smuggling;
mod streaming;
mod support;
mod tcp;
mod timeouts;
mod trust;
mod transports;
mod udp;
mod unchanged;
mod upgrade;
mod versions;
