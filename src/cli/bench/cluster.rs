//! `adit bench cluster`.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    OutputArgs,
    fabric::{Fabric, Setup, Wanted, host_port},
    measure,
    meter::Meter,
    progress::Progress,
    some_time,
};
use crate::{
    cli::failure::Failure,
    client::{self, Client, Transport},
    load::{Figure, Run, Unit, Usage},
    protocol::{EndpointId, Kind},
    tls::Trust,
};

/// Listens that an agent asks for at once.
const AT_ONCE: usize = 100;

/// How long everything has.
const PATIENCE: Duration = Duration::from_secs(120);

/// Before what is at rest is looked at.
const SETTLE: Duration = Duration::from_secs(2);

/// Measure what nodes tell each other.
#[derive(Debug, Args)]
pub(in crate::cli) struct ClusterArgs {
    /// Start so many nodes.
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u8).range(2..=100))]
    nodes: u8,
    /// Serve so many endpoints, spread over the nodes.
    #[arg(long, value_name = "M", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    endpoints: u32,
    /// Watch the cluster at rest for so long.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = some_time)]
    duration: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &ClusterArgs) -> Result<(), Failure> {
    let subject = format!("{} nodes, {} endpoints", args.nodes, args.endpoints);
    measure("cluster", &subject, &args.output, async |progress| once(args, progress).await)
}

async fn once(args: &ClusterArgs, progress: &Progress) -> anyhow::Result<Run> {
    let count = usize::from(args.nodes);
    progress.says("starting the nodes");
    let wanted = Wanted { kind: "http", endpoints: 0, services: &[], tls: false, port: false };
    let started = Instant::now();
    let mut fabric = Fabric::start(&Setup::own(count, 0), &wanted, progress).await?;
    let formed = started.elapsed().as_secs_f64();
    let trust = Trust::Roots(Trust::roots_from_file(&fabric.ca())?);
    let agents = fabric.nodes.iter().map(|node| {
        let config = client::Config::new(host_port(node.link).into(), &trust)?;
        Ok(Client::new(client::Config { links: 1, transport: Transport::Quic, ..config })?)
    });
    let agents = agents.collect::<anyhow::Result<Vec<_>>>()?;
    tokio::time::sleep(SETTLE).await;

    let told = fabric.bytes_between_nodes().await?;
    let meter = Meter::start(fabric.children());
    let began = Instant::now();
    let listening = stream::iter(0..args.endpoints)
        .map(|number| {
            let agent = agents[number as usize % count].clone();
            async move {
                anyhow::Ok(agent.listen(EndpointId::new(&format!("bench-{number}"))?, Kind::Http).await?)
            }
        })
        .buffer_unordered(AT_ONCE * count)
        .try_collect::<Vec<_>>();
    let known = async {
        let listeners = listening.await?;
        let listened = began.elapsed().as_secs_f64();
        fabric.know(args.endpoints as usize).await?;
        anyhow::Ok((listeners, listened))
    };
    let share = |elapsed: Duration| (elapsed.as_secs_f64() / 10.0, "serving endpoints".to_owned());
    let known = progress.during(tokio::time::timeout(PATIENCE, known), share).await;
    let (listeners, listened) = known.context("the endpoints are not known everywhere in time")??;
    let (spent, known) = (meter.end(), began.elapsed().as_secs_f64());
    let told = fabric.bytes_between_nodes().await?.saturating_sub(told);

    tokio::time::sleep(SETTLE).await;
    let usage = || fabric.nodes.iter().filter_map(|node| Usage::of(node.child.id()?)).collect::<Vec<_>>();
    // Nodes are asked outside of what their processor time is taken for.
    let resting = fabric.bytes_between_nodes().await?;
    let before = usage();
    progress.wait(args.duration, "at rest").await;
    let after = usage();
    let rest = fabric.bytes_between_nodes().await?.saturating_sub(resting);
    fabric.runs()?;
    drop(listeners);

    let (nodes, endpoints, seconds) = (count as f64, f64::from(args.endpoints), args.duration.as_secs_f64());
    let mut figures = vec![
        Figure::less("time until the nodes knew each other", formed, Unit::Seconds),
        Figure::less("time until the agents were answered", listened, Unit::Seconds),
        Figure::less("time until every node knew every endpoint", known, Unit::Seconds),
    ];
    let told = told as f64 / endpoints / (nodes - 1.0);
    figures.push(Figure::less("bytes between nodes per endpoint and other node", told, Unit::Bytes));
    figures.extend(spent.cpu("node").map(|cpu| {
        Figure::less("CPU of all nodes per 1,000 endpoints", cpu / endpoints * 1000.0, Unit::CpuSeconds)
    }));
    if after.len() == count && before.len() == count {
        let cpu: f64 = after.iter().zip(&before).map(|(after, before)| after.cpu_s - before.cpu_s).sum();
        let memory: u64 = after.iter().map(|usage| usage.memory.now_kib).sum();
        figures.push(Figure::less("CPU of a node at rest", cpu / seconds / nodes, Unit::Share));
        figures.push(Figure::less("memory of a node", memory as f64 / nodes, Unit::Kibibytes));
    }
    let rest = rest as f64 / seconds / (nodes * (nodes - 1.0) / 2.0);
    figures.push(Figure::less("bytes a second of a peer link at rest", rest, Unit::Bytes));
    Ok(Run {
        seconds: known,
        figures,
        processes: spent.processes,
        other_cpu: spent.other_cpu,
        notes: vec![
            "Bytes are what nodes have sent each other, by their own counts (adit_link_bytes_total): everything on links \
             between nodes, headers of QUIC among it, those of UDP and IP not."
                .into(),
        ],
        ..Run::default()
    })
}
