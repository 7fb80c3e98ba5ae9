//! `adit bench connect`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;

use super::{
    OutputArgs, PaceArgs,
    fabric::FabricArgs,
    http::cpu_figures,
    measure,
    meter::Meter,
    path::{Path, Via},
    progress::Progress,
    some_time,
};
use crate::{
    cli::failure::Failure,
    load::{Figure, Flows, Pace, Recorder, Run, Speaks, Turns, Unit},
};

/// Flows in all, unless it is said otherwise.
const FLOWS: u64 = 10_000;

/// Measure new flows.
#[derive(Debug, Args)]
pub(in crate::cli) struct ConnectArgs {
    #[command(flatten)]
    pace: PaceArgs,
    /// Open so many at once.
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4000))]
    clients: u16,
    /// Come in through a port of the node, or over a link, which is the default.
    #[arg(long, value_enum, value_name = "port|link", hide_possible_values = true)]
    via: Option<Via>,
    /// Give up a flow that has not ended within so long.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = some_time)]
    timeout: Duration,
    #[command(flatten)]
    fabric: FabricArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &ConnectArgs) -> Result<(), Failure> {
    args.fabric.check(1, 1).map_err(Failure::Usage)?;
    let via = Via::or(args.via, Via::Link, &args.fabric)?;
    let rate = args.pace.rate.map_or_else(String::new, |rate| format!(", {rate} a second"));
    let (fabric, via_word) = (args.fabric.describe(), via.word());
    let subject = format!("{fabric}; new flows {via_word}, {} at once{rate}", args.clients);
    measure("connect", &subject, &args.output, async |progress| once(args, via, progress).await)
}

async fn once(args: &ConnectArgs, via: Via, progress: &Progress) -> anyhow::Result<Run> {
    progress.says("starting");
    let Path { mut fabric, ways, services: _services } =
        Path::start(&args.fabric, "tcp", Speaks::Tcp, via, progress).await?;
    let flows = Arc::new(Flows { ways, clients: usize::from(args.clients), patience: args.timeout });
    let plan = args.pace.plan(FLOWS);
    let meter = Meter::start(fabric.children());
    let start = Instant::now();
    let recorder = Arc::new(Recorder::new(start));
    let turns = Arc::new(Turns::new(Pace::new(plan, start), flows.clients)?);
    let running = flows.run(turns, &recorder);
    progress.during(running, |elapsed| progress.of("flows", &recorder, &plan, elapsed)).await;
    let (spent, tally) = (meter.end(), recorder.tally());
    fabric.runs()?;
    fabric.leave(&flows.ways).await;
    let seconds = tally.elapsed.as_secs_f64();
    let mut figures = vec![
        Figure::plain("flows", tally.good as f64, Unit::Count),
        Figure::more("rate", tally.good as f64 / seconds.max(1e-9), Unit::PerSecond),
    ];
    figures.extend(tally.latency.iter().flat_map(|latency| latency.figures("time to first byte, ")));
    figures.extend(cpu_figures(
        &spent,
        (tally.good + tally.failed).max(1) as f64 / 1000.0,
        "per 1,000 flows",
    ));
    Ok(spent.into_run(tally, "flows/s", figures, Vec::new()))
}
