//! `adit agent`.

use std::time::Duration;

use anyhow::Context as _;

use super::{
    failure::Failure,
    process::{self, Signals},
    say,
};
use crate::{
    agent::{self, Agent, Endpoint},
    client::State,
    config::{EndpointKind, RunAgentArgs, ServeArgs},
    protocol::Kind,
};

/// `adit agent http|tcp`.
pub(super) fn serve(args: ServeArgs, kind: EndpointKind) -> Result<(), Failure> {
    process::log(&args.agent.log)?;
    let grace = args.agent.grace_period;
    start(args.into_config(kind)?, grace)
}

/// `adit agent run`.
pub(super) fn run(args: RunAgentArgs) -> Result<(), Failure> {
    process::log(&args.agent.log)?;
    let grace = args.agent.grace_period;
    start(args.into_config()?, grace)
}

fn start(config: agent::Config, grace: Duration) -> Result<(), Failure> {
    process::raise_file_limit();
    let endpoints = config.endpoints.clone();
    process::block_on(async {
        let mut signals = Signals::new()?;
        let agent = Agent::start(config)?;
        tokio::select! {
            served = agent.serve() => served.context("the agent cannot serve")?,
            () = signals.next() => return signals.leave(agent.drain(grace)).await,
        }
        let node = match &*agent.client().agent_state().borrow() {
            State::Connected { node, .. } => format!("node {node}"),
            _ => "a node".into(),
        };
        for endpoint in &endpoints {
            say(format_args!("serving {} from {} through {node}", endpoint.name, endpoint.service));
            say(format_args!("        {}", way(endpoint)));
        }
        signals.next().await;
        signals.leave(agent.drain(grace)).await
    })
}

/// How a client comes to an endpoint. The agent does not know where the node's edge is, so that is left to fill in.
fn way(endpoint: &Endpoint) -> String {
    let name = &endpoint.name;
    match endpoint.kind {
        Kind::Http => format!("curl -H 'x-adit-endpoint: {name}' http://NODE:8000/"),
        Kind::Tcp | Kind::Other(_) => format!("adit forward tcp PORT {name} --connect NODE:8001"),
    }
}
