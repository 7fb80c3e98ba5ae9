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
    load::{Figure, Run, Unit, Usage, interface_bytes},
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
    let mut fabric = Fabric::start(&Setup::own(count, 0), &wanted).await?;
    let formed = started.elapsed().as_secs_f64();
    let trust = Trust::Roots(Trust::roots_from_file(&fabric.ca())?);
    let agents = fabric.nodes.iter().map(|node| {
        let config = client::Config::new(host_port(node.link).into(), &trust)?;
        Ok(Client::new(client::Config { links: 1, transport: Transport::Quic, ..config })?)
    });
    let agents = agents.collect::<anyhow::Result<Vec<_>>>()?;
    tokio::time::sleep(SETTLE).await;

    let meter = Meter::start(fabric.children());
    let (began, polled) = (Instant::now(), std::sync::atomic::AtomicU64::new(0));
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
        fabric.know_counted(args.endpoints as usize, &polled).await?;
        anyhow::Ok((listeners, listened))
    };
    let share = |elapsed: Duration| (elapsed.as_secs_f64() / 10.0, "serving endpoints".to_owned());
    let known = progress.during(tokio::time::timeout(PATIENCE, known), share).await;
    let (listeners, listened) = known.context("the endpoints are not known everywhere in time")??;
    let (spent, known) = (meter.end(), began.elapsed().as_secs_f64());

    tokio::time::sleep(SETTLE).await;
    let usage = || fabric.nodes.iter().filter_map(|node| Usage::of(node.child.id()?)).collect::<Vec<_>>();
    let (before, wire) = (usage(), interface_bytes("lo"));
    progress.wait(args.duration, "at rest").await;
    let (after, wire) = (usage(), wire.zip(interface_bytes("lo")).map(|(before, after)| after - before));
    fabric.runs()?;
    drop(listeners);

    let (nodes, endpoints, seconds) = (count as f64, f64::from(args.endpoints), args.duration.as_secs_f64());
    let mut figures = vec![
        Figure::less("time until the nodes knew each other", formed, Unit::Seconds),
        Figure::less("time until the agents were answered", listened, Unit::Seconds),
        Figure::less("time until every node knew every endpoint", known, Unit::Seconds),
    ];
    let moved =
        spent.wire.map(|wire| wire.saturating_sub(polled.into_inner()) as f64 / endpoints / (nodes - 1.0));
    figures.extend(moved.map(|moved| Figure::less("bytes per endpoint and other node", moved, Unit::Bytes)));
    figures.extend(spent.cpu("node").map(|cpu| {
        Figure::less("CPU of all nodes per 1,000 endpoints", cpu / endpoints * 1000.0, Unit::CpuSeconds)
    }));
    if after.len() == count && before.len() == count {
        let cpu: f64 = after.iter().zip(&before).map(|(after, before)| after.cpu_s - before.cpu_s).sum();
        let memory: u64 = after.iter().map(|usage| usage.memory.now_kib).sum();
        figures.push(Figure::less("CPU of a node at rest", cpu / seconds / nodes, Unit::Share));
        figures.push(Figure::less("memory of a node", memory as f64 / nodes, Unit::Kibibytes));
    }
    let rest = wire.map(|wire| wire as f64 / seconds / (nodes * (nodes - 1.0) / 2.0));
    figures.extend(rest.map(|rest| Figure::less("bytes a second of a peer link at rest", rest, Unit::Bytes)));
    Ok(Run {
        seconds: known,
        figures,
        processes: spent.processes,
        other_cpu: spent.other_cpu,
        notes: vec![
            "Bytes are those of the loopback interface, the agents' links among them; what this program asked of the nodes' \
             admin ports is taken off, but for its packets' headers."
                .into(),
        ],
        ..Run::default()
    })
}
