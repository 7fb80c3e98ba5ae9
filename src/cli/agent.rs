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
    config::{EndpointKind, RunAgentArgs, ServeArgs, ServeUdpArgs},
    protocol::Kind,
};

/// `adit agent http|tcp`.
pub(super) fn serve(args: ServeArgs, kind: EndpointKind) -> Result<(), Failure> {
    process::log(&args.agent.log)?;
    let grace = args.agent.grace_period;
    start(args.into_config(kind)?, grace)
}

/// `adit agent udp`.
pub(super) fn udp(args: ServeUdpArgs) -> Result<(), Failure> {
    process::log(&args.agent.log)?;
    let grace = args.agent.grace_period;
    start(args.into_config()?, grace)
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
        let mut state = agent.client().agent_state();
        let mut shown = state.borrow_and_update().clone();
        for endpoint in &endpoints {
            say(format_args!("serving {} from {} {}", endpoint.name, endpoint.service, through(&shown)));
            say(format_args!("        {}", way(endpoint)));
        }
        loop {
            tokio::select! {
                () = signals.next() => return signals.leave(agent.drain(grace)).await,
                Ok(()) = state.changed() => {
                    let new = state.borrow_and_update().clone();
                    if new.nodes() != shown.nodes() {
                        say(format_args!("linked  {}", through(&new)));
                    }
                    shown = new;
                }
            }
        }
    })
}

/// How many links there are, and to which nodes.
fn through(state: &State) -> String {
    let names: Vec<String> = state.nodes().iter().map(ToString::to_string).collect();
    match (state, names.as_slice()) {
        (State::Connecting { error: Some(error) }, _) => format!("through no node: {error}"),
        (_, []) => "through no node".into(),
        (_, [one]) => format!("through node {one}"),
        (_, many) => format!("through {} nodes: {}", many.len(), many.join(", ")),
    }
}

/// How a client comes to an endpoint. The agent does not know where the node's edge is, so that is left to fill in.
fn way(endpoint: &Endpoint) -> String {
    let name = &endpoint.name;
    match endpoint.kind {
        Kind::Http => format!("curl -H 'x-adit-endpoint: {name}' http://NODE:8000/"),
        Kind::Udp => format!("adit forward udp PORT {name} --connect NODE:8001"),
        Kind::Tcp | Kind::Other(_) => format!("adit forward tcp PORT {name} --connect NODE:8001"),
    }
}
