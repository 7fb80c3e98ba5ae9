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
    client::{Address, LinkedTo, State},
    config::{EndpointKind, RunAgentArgs, ServeArgs, ServeHttpArgs, ServeUdpArgs},
    net::HostPort,
    protocol::Kind,
};

/// `adit agent http`.
pub(super) fn http(args: ServeHttpArgs) -> Result<(), Failure> {
    process::log(&args.serve.agent.log)?;
    let grace = args.serve.agent.grace_period;
    start(args.into_config()?, grace)
}

/// `adit agent tcp`.
pub(super) fn tcp(args: ServeArgs) -> Result<(), Failure> {
    process::log(&args.agent.log)?;
    let grace = args.agent.grace_period;
    start(args.into_config(EndpointKind::Tcp)?, grace)
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
    let (endpoints, connect) = (config.endpoints.clone(), config.client.connect.clone());
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
            say(format_args!("        {}", way(endpoint, &connect)));
        }
        loop {
            tokio::select! {
                () = signals.next() => return signals.leave(agent.drain(grace)).await,
                Ok(()) = state.changed() => {
                    let new = state.borrow_and_update().clone();
                    if through(&new) != through(&shown) {
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
    let links = if let State::Connected { links } = state { links.as_slice() } else { &[] };
    let named = |link: &LinkedTo| match link.transport {
        "quic" => link.node.to_string(),
        other => format!("{} (over {other})", link.node),
    };
    let names: Vec<String> = links.iter().map(named).collect();
    match (state, names.as_slice()) {
        (State::Connecting { error: Some(error) }, _) => format!("through no node: {error}"),
        (_, []) => "through no node".into(),
        (_, [one]) => format!("through node {one}"),
        (_, many) => format!("through {} nodes: {}", many.len(), many.join(", ")),
    }
}

/// How a client comes to an endpoint through the node that the agent was told of. The agent does not know that node's edge,
/// which is taken to be at the usual port.
fn way(endpoint: &Endpoint, connect: &Address) -> String {
    let name = &endpoint.name;
    match endpoint.kind {
        Kind::Http | Kind::Http2 | Kind::Http2Tls => {
            let edge = HostPort { host: connect.at.host.clone(), port: 8000 };
            format!("curl -H 'x-adit-endpoint: {name}' http://{edge}/")
        }
        Kind::Udp => format!("adit forward udp PORT {name} --connect {connect}"),
        Kind::Tcp | Kind::Other(_) => format!("adit forward tcp PORT {name} --connect {connect}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_words;

    #[test]
    fn clients_are_shown_to_the_node_that_the_agent_was_told_of() {
        let told = |connect: &str| {
            let words = ["it", "3000", "--insecure", "--connect", connect];
            let http = from_words::<ServeHttpArgs>(&words).unwrap().into_config().unwrap();
            let tcp = from_words::<ServeArgs>(&words).unwrap().into_config(EndpointKind::Tcp).unwrap();
            [http, tcp].map(|config| way(&config.endpoints[0], &config.client.connect))
        };
        assert_eq!(
            told("node.example.com:9001"),
            [
                "curl -H 'x-adit-endpoint: it' http://node.example.com:8000/",
                "adit forward tcp PORT it --connect node.example.com:9001",
            ]
        );
        assert!(told("[::1]:8001")[0].ends_with(" http://[::1]:8000/"));
    }
}
