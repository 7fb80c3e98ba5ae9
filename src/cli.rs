//! The command line: which commands there are, what they print, and with which code they end.
//!
//! `main` calls [`run`]. Results go to standard output, logs and errors to standard error. A command starts parts and
//! waits; the work is in the parts.

mod agent;
mod bench;
mod certs;
mod check;
mod demo;
mod failure;
mod forward;
mod http;
mod node;
mod operator;
mod plain;
mod process;
mod reload;
mod status;
mod token;
mod top;

use std::{fmt, io::Write, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{
    self, ForwardTcpArgs, ForwardUdpArgs, Given, NodeArgs, ParseError, Read, RunAgentArgs, RunForwardArgs,
    ServeArgs, ServeHttpArgs, ServeUdpArgs,
};
use failure::Failure;

/// Reach services behind NAT: an agent beside the service links to a node over QUIC, and clients come in through the node.
#[derive(Debug, Parser)]
#[command(name = "adit", bin_name = "adit", version, propagate_version = true)]
#[command(max_term_width = 80, disable_help_subcommand = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

const ENVIRONMENT: &str = "\
Each flag can also be set in the environment, as ADIT_ and its name in capitals: ADIT_CERTS for --certs. \
Durations are written as 500ms, 30s, 1m, 2h.";

const FILE: &str = "\
The keys of the file are the names of flags: log-level = \"debug\". A flag that can be repeated has a list there, and \
commas in the environment. Flags beat the environment, which beats the file.";

const RELOAD: &str = "\
On SIGHUP, and when one of its files has changed, what can be is taken over while all goes on: certificates, keys, who may \
do what, --log-level, and an agent's endpoints. What cannot is named in the log; what is wrong is refused whole.";

const CHECK: &str = "\
It takes the same flags, opens no port and makes no file. The exit code is 0 or, with the error that starting would end \
with, 2. Whether a port is free shows only in starting.";

const AGENT_FILE: &str = "\
Example of a file:

  connect = \"node.example.com:8001\"

  [[endpoint]]
  name = \"web\"
  address = 3000
  header = [\"x-tenant=7\"]  # any flag for requests of `adit agent http`

  [[endpoint]]
  name = \"db\"
  kind = \"tcp\"             # http if it is left out
  address = \"tls://10.0.0.5:5432\"
  upstream-ca = \"db.pem\"   # or upstream-insecure = true

  [[endpoint]]
  name = \"dns\"
  kind = \"udp\"
  address = 53
  udp-idle = \"5s\"          # 1m if it is left out
";

const FORWARD_FILE: &str = "\
Example of a file:

  connect = \"node.example.com:8001\"

  [[port]]
  listen = 5432              # or \"host:port\"
  endpoint = \"db\"

  [[port]]
  listen = 5353
  kind = \"udp\"             # tcp if it is left out
  endpoint = \"dns\"
  udp-idle = \"5s\"          # 1m if it is left out
";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a tunnel at work on this machine, then stay up for trying it
    #[command(after_help = ENVIRONMENT)]
    Demo(demo::DemoArgs),
    /// Run a node: clients come in here, agents link to it
    #[command(after_help = format!("{ENVIRONMENT}\n\n{FILE}\n\n{RELOAD}"))]
    Node(Box<NodeLine>),
    /// Serve endpoints from services that this machine can reach
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Make a remote endpoint a port of this machine
    #[command(subcommand)]
    Forward(ForwardCommand),
    /// Measure: a cluster of its own, a real one, or anything that answers HTTP
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Show what nodes see: each other, agents, links, endpoints, flows
    #[command(after_help = ENVIRONMENT)]
    Status(Box<status::StatusArgs>),
    /// Watch the cluster on the terminal, live: nodes, endpoints by rate, agents, links
    #[command(after_help = format!("{}\n\n{ENVIRONMENT}", top::KEYS))]
    Top(Box<top::TopArgs>),
    /// Make certificates, and show what is in them
    Certs(certs::CertsArgs),
    /// Make a token, or the keys for tokens
    Token(Box<token::TokenArgs>),
    /// Print completions for a shell
    Completions {
        /// The shell to write them for.
        shell: Shell,
    },
}

/// `adit node`, and what else is done with its flags.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
struct NodeLine {
    #[command(subcommand)]
    instead: Option<NodeCommand>,
    #[command(flatten)]
    args: NodeArgs,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// Say what a node would run with, or why it would not start, without starting it
    #[command(after_help = format!("{CHECK}\n\n{ENVIRONMENT}\n\n{FILE}"))]
    Check(Box<NodeArgs>),
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Serve a local web service
    #[command(after_help = ENVIRONMENT)]
    Http(Box<ServeHttpArgs>),
    /// Serve a local TCP service
    #[command(after_help = ENVIRONMENT)]
    Tcp(Box<ServeArgs>),
    /// Serve a local UDP service
    #[command(after_help = ENVIRONMENT)]
    Udp(Box<ServeUdpArgs>),
    /// Serve all endpoints of a file
    #[command(after_help = format!("{AGENT_FILE}\n{ENVIRONMENT}\n\n{FILE}\n\n{RELOAD}"))]
    Run(Box<RunAgentArgs>),
    /// Say what `run` would serve, or why it would not start, without starting it
    #[command(after_help = format!("{CHECK}\n\n{ENVIRONMENT}\n\n{FILE}"))]
    Check(Box<RunAgentArgs>),
}

#[derive(Debug, Subcommand)]
enum ForwardCommand {
    /// Forward one TCP port
    #[command(after_help = ENVIRONMENT)]
    Tcp(Box<ForwardTcpArgs>),
    /// Forward one UDP port
    #[command(after_help = ENVIRONMENT)]
    Udp(Box<ForwardUdpArgs>),
    /// Forward all ports of a file
    #[command(after_help = format!("{FORWARD_FILE}\n{ENVIRONMENT}\n\n{FILE}"))]
    Run(Box<RunForwardArgs>),
    /// Say what `run` would forward, or why it would not start, without starting it
    #[command(after_help = format!("{CHECK}\n\n{ENVIRONMENT}\n\n{FILE}"))]
    Check(Box<RunForwardArgs>),
}

/// Runs the command that this process was started with.
pub fn run() -> ExitCode {
    let Read { line, given } = match read() {
        Ok(read) => read,
        Err(ParseError::Line(error)) => {
            // Help goes to standard output, the rest to standard error; nobody is left to tell when that is closed.
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
        Err(ParseError::Config(error)) => return Failure::from(error).tell(),
    };
    match execute(line.command, &given) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

/// Reads the command line of this process, its environment and its file.
fn read() -> Result<Read<Line>, ParseError> {
    config::read(std::env::args_os(), |name| std::env::var_os(name), &["certs", "completions", "token"])
}

fn execute(command: Command, given: &Given) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => demo::run(args),
        Command::Node(line) => match line.instead {
            None => node::run(&line.args, given),
            Some(NodeCommand::Check(args)) => check::node(*args),
        },
        Command::Agent(AgentCommand::Check(args)) => check::agent(*args),
        Command::Agent(command) => agent::run(&command, given),
        Command::Forward(ForwardCommand::Tcp(args)) => forward::tcp(*args),
        Command::Forward(ForwardCommand::Udp(args)) => forward::udp(*args),
        Command::Forward(ForwardCommand::Run(args)) => forward::run(*args),
        Command::Forward(ForwardCommand::Check(args)) => check::forward(*args),
        Command::Bench(command) => bench::run(command),
        Command::Status(args) => status::run(*args),
        Command::Top(args) => top::run(&args),
        // All that goes wrong there is a file or a name that the user gave.
        Command::Certs(args) => certs::run(args, &mut std::io::stdout().lock()).map_err(Failure::Usage),
        Command::Token(args) => token::run(*args, &mut std::io::stdout().lock()).map_err(Failure::Usage),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Line::command(), "adit", &mut script);
            say(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    }
}

/// Prints a line. Whoever closes standard output does not want to know, and what runs goes on.
fn say(line: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Line::command().debug_assert();
    }
}
