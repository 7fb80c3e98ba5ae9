//! `adit bench tcp`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};

use super::{
    OutputArgs,
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
    load::{Amount, Bulk, Direction, Figure, Recorder, Run, Speaks, Unit},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    Up,
    Down,
    Both,
}

/// Measure how much is carried.
#[derive(Debug, Args)]
pub(in crate::cli) struct TcpArgs {
    /// Which way, seen from the client.
    #[arg(
        long,
        value_enum,
        value_name = "up|down|both",
        default_value = "down",
        hide_possible_values = true
    )]
    direction: Way,
    /// Over so many connections at once.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=10_000))]
    streams: u16,
    /// Carry for so long.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = some_time)]
    duration: Duration,
    /// Carry so many bytes over each connection instead, each way.
    #[arg(long, value_name = "BYTES", conflicts_with = "duration")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 50))]
    size: Option<u64>,
    /// Come in through a port of the node (one hop over a link), or over a link (two). A real cluster is come to by its link.
    #[arg(long, value_enum, value_name = "port|link", hide_possible_values = true)]
    via: Option<Via>,
    #[command(flatten)]
    fabric: FabricArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &TcpArgs) -> Result<(), Failure> {
    args.fabric.check(1, 1).map_err(Failure::Usage)?;
    let via = Via::or(args.via, Via::Port, &args.fabric)?;
    let direction = match args.direction {
        Way::Up => "up",
        Way::Down => "down",
        Way::Both => "up and down at once",
    };
    let (fabric, via_word) = (args.fabric.describe(), via.word());
    let subject = format!("{fabric}; {} streams {direction}, {via_word}", args.streams);
    measure("tcp", &subject, &args.output, async |progress| once(args, via, progress).await)
}

async fn once(args: &TcpArgs, via: Via, progress: &Progress) -> anyhow::Result<Run> {
    progress.says("starting");
    let Path { mut fabric, ways, services: _services } =
        Path::start(&args.fabric, "tcp", Speaks::Tcp, via, progress).await?;
    let start = Instant::now();
    let bulk = Bulk {
        ways,
        streams: usize::from(args.streams),
        direction: match args.direction {
            Way::Up => Direction::Up,
            Way::Down => Direction::Down,
            Way::Both => Direction::Both,
        },
        amount: args.size.map_or(Amount::Until(start + args.duration), Amount::Bytes),
    };
    let (counted, recorder) = (Arc::new(AtomicU64::new(0)), Arc::new(Recorder::new(start)));
    let meter = Meter::start(fabric.children());
    let each_way = if args.direction == Way::Both { 2 } else { 1 };
    let planned = args.size.map(|size| size as f64 * f64::from(args.streams) * f64::from(each_way));
    let timeline = progress
        .during(bulk.run(&counted, &recorder), |elapsed| {
            let bytes = counted.load(Relaxed) as f64;
            let seconds = elapsed.as_secs_f64();
            let share = planned.map_or(seconds / args.duration.as_secs_f64(), |planned| bytes / planned);
            (share, format!("{:.2} Gbit/s", bytes * 8e-9 / seconds.max(0.001)))
        })
        .await;
    let seconds = recorder.tally().elapsed.as_secs_f64();
    let spent = meter.end();
    fabric.runs()?;
    fabric.leave(&bulk.ways).await;
    let bytes = counted.load(Relaxed) as f64;
    let mut figures = vec![
        Figure::plain("bytes carried", bytes, Unit::Bytes),
        Figure::more("rate", bytes * 8e-9 / seconds, Unit::Gigabits),
    ];
    let links = match (via, args.fabric.forwarded) {
        (Via::Port, false) => 1.0,
        (Via::Port, true) | (Via::Link, false) => 2.0,
        (Via::Link, true) => 3.0,
    };
    let mut notes = Vec::new();
    // Where locals come first and there are more nodes, it is not known which way was taken.
    if args.fabric.count() == 1 || args.fabric.forwarded {
        figures.push(Figure::plain("hops of links", links, Unit::Count));
        let plain = if via == Via::Port { 2.0 } else { 1.0 };
        figures.extend(spent.wire.filter(|_| bytes > 0.0).map(|wire| {
            Figure::less(
                "bytes on the wire per byte and hop",
                wire as f64 / bytes / (links + plain),
                Unit::Ratio,
            )
        }));
        notes.push(super::http::WIRE.into());
    }
    figures.extend(cpu_figures(&spent, (bytes / 1e9).max(1e-9), "per GB"));
    Ok(Run {
        seconds,
        figures,
        latency: None,
        timeline,
        rate_of: "Gbit/s".into(),
        errors: recorder.tally().errors,
        processes: spent.processes,
        other_cpu: spent.other_cpu,
        notes,
    })
}
