//! `adit agent`.

use anyhow::Context as _;

use super::{
    AgentCommand, Command,
    failure::Failure,
    process::{self, Signals},
    reload::{Reload, Reloader},
    say,
};
use crate::{
    agent::{self, Agent, Endpoint, Reloaded},
    client::{Address, LinkedTo, State},
    config::{AgentArgs, EndpointKind, Given, LogArgs},
    net::HostPort,
    protocol::Kind,
    telemetry::Outcome,
};

/// The flags that an agent takes over while it runs.
const TAKES: [&str; 7] = ["[[endpoint]]", "--certs", "--ca", "--pin", "--insecure", "--cert", "--key"];

impl Reload for Agent {
    type Args = AgentCommand;
    type Config = agent::Config;

    fn args(command: Command) -> Option<AgentCommand> {
        if let Command::Agent(command) = command { Some(command) } else { None }
    }

    fn log(command: &AgentCommand) -> &LogArgs {
        &args(command).log
    }

    fn config(command: AgentCommand) -> Result<agent::Config, Failure> {
        Ok(match command {
            AgentCommand::Http(args) => args.into_config()?,
            AgentCommand::Tcp(args) => args.into_config(EndpointKind::Tcp)?,
            AgentCommand::Udp(args) => args.into_config()?,
            AgentCommand::Run(args) | AgentCommand::Check(args) => args.into_config()?,
        })
    }

    fn takes(flag: &str) -> bool {
        TAKES.contains(&flag)
    }

    fn reload(&self, config: agent::Config) -> Result<(), Failure> {
        let Reloaded { added, removed } = Self::reload(self, config)?;
        for endpoint in added {
            say(format_args!("serving {endpoint}"));
        }
        for endpoint in removed {
            say(format_args!("ending  {endpoint}"));
        }
        Ok(())
    }

    fn count(&self, outcome: Outcome) {
        self.count_reload(outcome);
    }
}

/// What all agents have.
fn args(command: &AgentCommand) -> &AgentArgs {
    match command {
        AgentCommand::Http(args) => &args.serve.agent,
        AgentCommand::Tcp(args) => &args.agent,
        AgentCommand::Udp(args) => &args.agent,
        AgentCommand::Run(args) | AgentCommand::Check(args) => &args.agent,
    }
}

/// `adit agent http`, `tcp`, `udp` and `run`.
pub(super) fn run(command: &AgentCommand, given: &Given) -> Result<(), Failure> {
    let log = process::log(&args(command).log)?;
    let (reloader, command) = Reloader::new::<Agent>(given, log)?;
    let grace = args(&command).grace_period;
    let config = <Agent as Reload>::config(command)?;
    process::raise_file_limit();
    let (endpoints, connect) = (config.endpoints.clone(), config.client.connect.clone());
    process::block_on(async {
        let (mut signals, hangups) = Signals::with_hangups()?;
        let agent = Agent::start(config)?;
        let ended = tokio::select! {
            ended = tell(&agent, &endpoints, &connect) => ended,
            never = reloader.run(&agent, hangups) => match never {},
            () = signals.next() => return signals.leave(agent.drain(grace)).await,
        };
        Ok(ended?)
    })
}

/// Says what is served, and through which nodes, as that changes.
async fn tell(agent: &Agent, endpoints: &[Endpoint], connect: &Address) -> Result<(), anyhow::Error> {
    if let Some(address) = agent.inspector() {
        say(format_args!("inspect http://{address}/"));
    }
    if let Some(address) = agent.admin() {
        say(format_args!("admin   http://{address}/metrics"));
    }
    agent.serve().await.context("the agent cannot serve")?;
    let mut state = agent.client().agent_state();
    let mut shown = state.borrow_and_update().clone();
    for endpoint in endpoints {
        say(format_args!("serving {} from {} {}", endpoint.name, endpoint.service, through(&shown)));
        say(format_args!("        {}", way(endpoint, connect)));
    }
    while state.changed().await.is_ok() {
        let new = state.borrow_and_update().clone();
        if through(&new) != through(&shown) {
            say(format_args!("linked  {}", through(&new)));
        }
        shown = new;
    }
    Ok(())
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

/// How a client comes to an endpoint through the node that the agent was told of. The agent does not know that node's edge, so
/// the usual port is named as no more than a guess.
fn way(endpoint: &Endpoint, connect: &Address) -> String {
    let name = &endpoint.name;
    match endpoint.kind {
        Kind::Http | Kind::Http2 | Kind::Http2Tls => {
            let edge = HostPort { host: connect.at.host.clone(), port: 8000 };
            format!(
                "if the node's edge is at port {}: curl -H 'x-adit-endpoint: {name}' http://{edge}/",
                edge.port
            )
        }
        Kind::Udp => format!("adit forward udp PORT {name} --connect {connect}"),
        Kind::Tcp | Kind::Other(_) => format!("adit forward tcp PORT {name} --connect {connect}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ServeArgs, ServeHttpArgs, from_words};

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
                "if the node's edge is at port 8000: curl -H 'x-adit-endpoint: it' http://node.example.com:8000/",
                "adit forward tcp PORT it --connect node.example.com:9001",
            ]
        );
        assert!(told("[::1]:8001")[0].ends_with(" http://[::1]:8000/"));
    }
}
