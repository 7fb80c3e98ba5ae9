//! `adit bench`: measures a cluster of its own, a real one, or anything else that answers HTTP.
//!
//! The generator is `load`. Here is what it is pointed at, in processes of this same program that end with it, and how what
//! came of it is told: a table, JSON, a page.

mod child;
mod cluster;
mod compare;
mod connect;
mod fabric;
mod failover;
mod http;
mod idle;
mod meter;
mod page;
mod path;
mod plot;
mod progress;
mod tcp;
mod text;
mod udp;

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};

use super::{
    failure::Failure,
    process::{self, Signals},
    say,
};
use crate::{
    config::LogArgs,
    load::{FORMAT, Machine, Plan, Report, Run},
};
use progress::Progress;

/// What is measured.
#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Requests: how many a second, and how long they take
    #[command(after_help = HTTP)]
    Http(Box<http::HttpArgs>),
    /// Bytes: how many a second over one connection, or several
    #[command(after_help = OWN)]
    Tcp(Box<tcp::TcpArgs>),
    /// New flows: how many a second, and how long until the first byte
    #[command(after_help = OWN)]
    Connect(Box<connect::ConnectArgs>),
    /// Packets: how many come back, how late, and how evenly
    #[command(after_help = OWN)]
    Udp(Box<udp::UdpArgs>),
    /// Agents that do nothing: what their links cost a node
    Idle(idle::IdleArgs),
    /// Nodes that are killed and drained under load: what fails, and for how long
    Failover(failover::FailoverArgs),
    /// Nodes and endpoints: how fast all know of each other, and what that costs
    Cluster(cluster::ClusterArgs),
    /// Compare two results: what changed, by how much, and whether that is more than noise
    Compare(compare::CompareArgs),
}

const HTTP: &str = "\
With no address, `adit bench` starts a cluster of its own, on ports of 127.0.0.1 that the system chooses, and ends it in \
any case. With --edge and --link it measures a real one, through agents that it starts beside its own services; what \
else those need is taken from the environment (ADIT_TOKEN, ADIT_SERVER_NAME). With --url alone it measures whatever \
answers there.

A failed request, or a wrong answer, makes the exit code 1.";

const OWN: &str = "\
With no address, `adit bench` starts a cluster of its own and ends it in any case; with --link it measures a real one, \
through agents that it starts beside its own services. Whatever fails makes the exit code 1.";

pub(super) fn run(command: BenchCommand) -> Result<(), Failure> {
    match command {
        BenchCommand::Http(args) => http::run(&args),
        BenchCommand::Tcp(args) => tcp::run(&args),
        BenchCommand::Connect(args) => connect::run(&args),
        BenchCommand::Udp(args) => udp::run(&args),
        BenchCommand::Idle(args) => idle::run(&args),
        BenchCommand::Failover(args) => failover::run(&args),
        BenchCommand::Cluster(args) => cluster::run(&args),
        BenchCommand::Compare(args) => compare::run(&args),
    }
}

/// How often, and how it is told.
#[derive(Debug, Args)]
#[command(mut_arg("level", |level| level.default_value("error")))]
struct OutputArgs {
    /// Measure so many times, each with a cluster of its own. Three at least are needed to tell a difference from noise.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Output")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Print the result for programs, and for `adit bench compare`.
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Write the result as a page with plots, which needs nothing but itself.
    #[arg(long, value_name = "FILE.html", help_heading = "Output")]
    report: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
}

/// How much is asked, and how fast.
#[derive(Debug, Args)]
struct PaceArgs {
    /// Send so many in all.
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    requests: Option<u64>,
    /// Send for so long instead.
    #[arg(long, value_name = "DURATION", value_parser = some_time)]
    duration: Option<Duration>,
    /// Send so many a second, whether or not answers come, and count latency from when each was due. By default, each client
    /// sends when it has its answer.
    #[arg(long, value_name = "PER SECOND", value_parser = rate)]
    rate: Option<f64>,
}

impl PaceArgs {
    fn plan(&self, requests: u64) -> Plan {
        let requests = match (self.requests, self.duration) {
            (None, None) => Some(requests),
            (given, _) => given,
        };
        Plan { requests, duration: self.duration, rate: self.rate }
    }
}

fn some_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("expected more than nothing".into()),
        read => read.map_err(|error| error.to_string()),
    }
}

fn rate(text: &str) -> Result<f64, &'static str> {
    let rate = text.parse().ok().filter(|rate: &f64| *rate >= 0.001 && *rate <= 1e7);
    rate.ok_or("expected a number a second, such as 1000")
}

/// Measures as often as it is asked to, tells what came of it, and fails if anything failed.
fn measure(
    bench: &str,
    subject: &str,
    output: &OutputArgs,
    mut once: impl AsyncFnMut(&Progress) -> anyhow::Result<Run>,
) -> Result<(), Failure> {
    process::log(&output.log)?;
    process::raise_file_limit();
    process::block_on(async {
        let mut signals = Signals::new()?;
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut runs = Vec::new();
        for number in 1..=output.runs {
            let progress = Progress::new(number, output.runs);
            // What is dropped ends its processes.
            runs.push(tokio::select! {
                run = once(&progress) => run?,
                () = signals.next() => return Err(anyhow!("interrupted").into()),
            });
        }
        let report = Report {
            format: FORMAT,
            adit: env!("CARGO_PKG_VERSION").into(),
            bench: bench.into(),
            subject: subject.into(),
            command: command_line(),
            started: started.as_secs(),
            machine: Machine::here(),
            runs,
        };
        tell(&report, output)?;
        failures(&report)
    })
}

/// As it was given, but for the way to the program.
fn command_line() -> String {
    let words = std::env::args().skip(1);
    std::iter::once("adit".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

fn tell(report: &Report, output: &OutputArgs) -> anyhow::Result<()> {
    if output.json {
        say(serde_json::to_string_pretty(report)?);
    } else {
        say(text::report(report).trim_end());
    }
    if let Some(path) = &output.report {
        std::fs::write(path, page::render(report))
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}

fn failures(report: &Report) -> Result<(), Failure> {
    let errors = report.errors();
    if errors.is_empty() {
        return Ok(());
    }
    let kinds: Vec<_> = errors.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    Err(anyhow!("not everything was answered as it should be: {}", kinds.join(", ")).into())
}
