//! `adit bench udp`.

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
};
use crate::{
    cli::failure::Failure,
    load::{Figure, Pace, Packets, Plan, Recorder, Run, Speaks, Turns, Unit},
};

/// Packets in all and a second, unless it is said otherwise.
const PACKETS: u64 = 50_000;
const RATE: f64 = 10_000.0;

/// Those that are missing at the end have so long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Measure packets.
#[derive(Debug, Args)]
pub(in crate::cli) struct UdpArgs {
    #[command(flatten)]
    pace: PaceArgs,
    /// Send from so many clients.
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=10_000))]
    clients: u16,
    /// Send so many bytes in each packet.
    #[arg(long, value_name = "BYTES", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u16).range(Packets::LEAST as i64..=65_000))]
    size: u16,
    /// Come in through a port of the node, or over a link, which is the default.
    #[arg(long, value_enum, value_name = "port|link", hide_possible_values = true)]
    via: Option<Via>,
    #[command(flatten)]
    fabric: FabricArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &UdpArgs) -> Result<(), Failure> {
    args.fabric.check(1, 1).map_err(Failure::Usage)?;
    let via = Via::or(args.via, Via::Link, &args.fabric)?;
    let rate = args.pace.rate.unwrap_or(RATE);
    let (fabric, via_word, size, clients) = (args.fabric.describe(), via.word(), args.size, args.clients);
    let subject =
        format!("{fabric}; {clients} clients {via_word}, {rate} packets a second of {size} bytes, echoed");
    measure("udp", &subject, &args.output, async |progress| once(args, via, progress).await)
}

async fn once(args: &UdpArgs, via: Via, progress: &Progress) -> anyhow::Result<Run> {
    progress.says("starting");
    let Path { mut fabric, ways, services: _services } =
        Path::start(&args.fabric, "udp", Speaks::Udp, via, progress).await?;
    let packets = Arc::new(Packets {
        ways,
        clients: usize::from(args.clients),
        size: usize::from(args.size),
        patience: PATIENCE,
    });
    let plan = Plan { rate: Some(args.pace.rate.unwrap_or(RATE)), ..args.pace.plan(PACKETS) };
    let meter = Meter::start(fabric.children());
    let start = Instant::now();
    let recorder = Arc::new(Recorder::new(start));
    let turns = Arc::new(Turns::new(Pace::new(plan, start), packets.clients)?);
    let running = packets.run(turns, &recorder);
    let arrived = progress.during(running, |elapsed| progress.of("packets", &recorder, &plan, elapsed)).await;
    let (spent, tally) = (meter.end(), recorder.tally());
    fabric.runs()?;
    fabric.leave(&packets.ways).await;
    let seconds = tally.elapsed.as_secs_f64();
    let lost = arrived.sent.saturating_sub(arrived.came) as f64 / arrived.sent.max(1) as f64;
    let mut figures = vec![
        Figure::plain("packets sent", arrived.sent as f64, Unit::Count),
        Figure::more("rate that came back", arrived.came as f64 / seconds.max(1e-9), Unit::PerSecond),
        Figure::less("lost", lost, Unit::Share),
        Figure::less("out of order", arrived.late as f64, Unit::Count),
        Figure::less("came twice", arrived.twice as f64, Unit::Count),
        Figure::less("jitter", arrived.jitter * 1e3, Unit::Milliseconds),
    ];
    figures.extend(tally.latency.iter().flat_map(|latency| latency.figures("round trip, ")));
    figures.extend(cpu_figures(&spent, arrived.sent.max(1) as f64 / 1000.0, "per 1,000 packets"));
    let note = "A packet may be lost, also in the clients' and the service's own sockets.";
    Ok(spent.into_run(tally, "packets/s", figures, vec![note.into()]))
}
