//! `adit bench idle`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    OutputArgs,
    fabric::{Fabric, Setup, Wanted},
    measure,
    meter::Meter,
    progress::Progress,
    some_time,
};
use crate::{
    cli::failure::Failure,
    client::{self, Client, Listener, Transport},
    load::{Figure, Run, Unit, Usage},
    protocol::{EndpointId, Kind},
    tls::Trust,
    transport::Settings,
};

/// Links that are made at once.
const AT_ONCE: usize = 50;

/// Flows that each agent is ready for.
const FLOWS: u32 = 8;

/// For the node, which has just begun, to come to rest.
const SETTLE: Duration = Duration::from_secs(3);

/// How long all links have.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measure what agents cost that do nothing.
#[derive(Debug, Args)]
pub(in crate::cli) struct IdleArgs {
    /// Link so many agents to the node, all from this process.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    agents: u32,
    /// Let them serve so many endpoints in all, at least one each. By default, one each.
    #[arg(long, value_name = "M")]
    endpoints: Option<u32>,
    /// Watch the node only so long after the last link was made. New links try for a minute what packets their path
    /// takes, and agents look for a second node.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = some_time)]
    settle: Duration,
    /// Watch the node for so long.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time)]
    duration: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &IdleArgs) -> Result<(), Failure> {
    let (agents, endpoints) = (args.agents, args.endpoints.unwrap_or(args.agents));
    if endpoints < agents {
        let text = "fewer --endpoints than --agents: each agent serves one at least";
        return Err(Failure::Usage(anyhow::anyhow!(text)));
    }
    let subject = format!("1 node, {agents} agents with {endpoints} endpoints that nobody asks for");
    measure("idle", &subject, &args.output, async |progress| once(args, endpoints, progress).await)
}

async fn once(args: &IdleArgs, endpoints: u32, progress: &Progress) -> anyhow::Result<Run> {
    progress.says("starting");
    let wanted = Wanted { kind: "http", endpoints: 0, services: &[], tls: false, port: false };
    let mut fabric = Fabric::start(&Setup::own(1, 0), &wanted, progress).await?;
    let trust = Trust::Roots(Trust::roots_from_file(&fabric.ca())?);
    let config = client::Config::new(fabric.link.clone(), &trust)?;
    // What an agent has ready for flows is its own memory, of which there is to be enough for all of them.
    let settings = Settings { max_flows: FLOWS, ..config.settings };
    let config = client::Config { settings, transport: Transport::Quic, ..config };
    let node = fabric.nodes[0].child.id().context("the node runs")?;
    let usage = || Usage::of(node).context("memory and processor time are told by Linux alone");
    tokio::time::sleep(SETTLE).await;
    let (before, started) = (usage()?, Instant::now());
    let linking = stream::iter(0..args.agents)
        .map(|agent| link(&config, agent, args.agents, endpoints))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>();
    let linking = tokio::time::timeout(PATIENCE, linking);
    let share = |elapsed: Duration| (elapsed.as_secs_f64() / 60.0, "linking".to_owned());
    let agents = progress.during(linking, share).await;
    let agents = agents.with_context(|| format!("not all are linked within {PATIENCE:?}"))??;
    let (linked, took) = (usage()?, started.elapsed().as_secs_f64());
    progress.wait(args.settle, "letting it settle").await;
    let meter = Meter::start(fabric.children());
    let quiet = usage()?;
    progress.wait(args.duration, "watching").await;
    let (after, spent) = (usage()?, meter.end());
    fabric.runs()?;
    let links = agents.iter().filter(|(client, _)| !client.agent_state().borrow().nodes().is_empty()).count();
    ensure!(links == agents.len(), "{} of {} links were lost meanwhile", agents.len() - links, agents.len());
    let seconds = args.duration.as_secs_f64();
    let count = f64::from(args.agents);
    let memory = after.memory.now_kib as f64 - before.memory.now_kib as f64;
    let mut figures = vec![
        Figure::plain("links", count, Unit::Count),
        Figure::less("memory of the node per link", memory / count, Unit::Kibibytes),
        Figure::plain("memory of the node without links", before.memory.now_kib as f64, Unit::Kibibytes),
        Figure::less("memory of the node", after.memory.now_kib as f64, Unit::Kibibytes),
        Figure::less("CPU of the node when idle", (after.cpu_s - quiet.cpu_s) / seconds, Unit::Share),
        Figure::more("links made a second", count / took, Unit::PerSecond),
        Figure::less(
            "CPU per 1,000 links made",
            (linked.cpu_s - before.cpu_s) / count * 1000.0,
            Unit::CpuSeconds,
        ),
    ];
    let wire = spent.wire.map(|wire| wire as f64 / seconds / count);
    figures.extend(wire.map(|wire| Figure::less("bytes a second per idle link", wire, Unit::Bytes)));
    Ok(Run {
        seconds,
        figures,
        processes: spent.processes,
        other_cpu: spent.other_cpu,
        notes: vec![
            "CPU when idle is of one processor. This process is all agents. Bytes are those of the loopback interface, what \
             others send over it among them."
                .into(),
        ],
        ..Run::default()
    })
}

/// One agent with its part of the endpoints. Nobody asks for them, so nobody takes what its listeners have.
async fn link(
    config: &client::Config,
    agent: u32,
    agents: u32,
    endpoints: u32,
) -> anyhow::Result<(Client, Vec<Listener>)> {
    let client = Client::new(config.clone())?;
    let mut listeners = Vec::new();
    for endpoint in (agent..endpoints).step_by(agents as usize) {
        listeners.push(client.listen(EndpointId::new(&format!("idle-{endpoint}"))?, Kind::Http).await?);
    }
    Ok((client, listeners))
}
