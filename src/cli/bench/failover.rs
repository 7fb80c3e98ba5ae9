//! `adit bench failover`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use http::{HeaderMap, HeaderValue, Method, header};

use super::{
    OutputArgs,
    fabric::{Fabric, Setup, Wanted, host_port},
    measure,
    meter::Meter,
    progress::Progress,
    rate, some_time,
};
use crate::{
    cli::failure::Failure,
    load::{
        Figure, Pace, Plan, Recorder, Run, Services, Speaks, Turns, Unit,
        http::{Body, Load, Target, Template, Version},
    },
};

/// Names that are served, by both agents each.
const ENDPOINTS: usize = 10;

/// How long a request may take: longer than any wait for a route.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a node has to leave: longer than its own patience with what is open.
const LEAVE: Duration = Duration::from_secs(30);

/// The parts of a run: quiet, killed, back, drained, back.
const PARTS: u32 = 5;

/// Measure what the loss of nodes costs.
#[derive(Debug, Args)]
pub(in crate::cli) struct FailoverArgs {
    /// Send so many requests a second.
    #[arg(long, value_name = "PER SECOND", default_value = "200", value_parser = rate)]
    rate: f64,
    /// From so many clients.
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=10_000))]
    clients: u16,
    /// For so long in all: a fifth before anything happens, and a fifth for each thing that does.
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = some_time)]
    duration: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &FailoverArgs) -> Result<(), Failure> {
    let (rate, clients) = (args.rate, args.clients);
    let subject = format!("3 nodes, 2 agents; {rate} GET a second from {clients} clients of n1");
    measure("failover", &subject, &args.output, async |progress| once(args, progress).await)
}

async fn once(args: &FailoverArgs, progress: &Progress) -> anyhow::Result<Run> {
    progress.says("starting");
    let services = Services::start(ENDPOINTS * 2, Speaks::Http).await?;
    let wanted =
        Wanted { kind: "http", endpoints: ENDPOINTS, services: &services.addresses, tls: false, port: false };
    // Clients go to the one that stays, agents first to those that do not.
    let setup = Setup { entries: vec![0], homes: vec![1, 2], ..Setup::own(3, 2) };
    let mut fabric = Fabric::start(&setup, &wanted, progress).await?;
    let address = host_port(fabric.nodes[0].edge);
    let template = |name: &String| {
        let headers = HeaderMap::from_iter([
            (header::HOST, HeaderValue::from_str(&address.to_string())?),
            (header::HeaderName::from_static("x-adit-endpoint"), HeaderValue::from_str(name)?),
        ]);
        anyhow::Ok(Template { method: Method::GET, uri: "/".parse()?, headers })
    };
    let load = Arc::new(Load {
        targets: vec![Target { address: address.clone(), tls: None }],
        templates: fabric.endpoints.iter().map(template).collect::<Result<_, _>>()?,
        body: Body::None,
        version: Version::Http1,
        clients: usize::from(args.clients),
        patience: PATIENCE,
    });
    let plan = Plan { requests: None, duration: Some(args.duration), rate: Some(args.rate) };
    let meter = Meter::start(fabric.children());
    let start = Instant::now();
    let recorder = Arc::new(Recorder::new(start));
    let turns = Arc::new(Turns::new(Pace::new(plan, start), load.clients)?);
    let mut figures = Vec::new();
    let events = events(&mut fabric, &recorder, start, args.duration / PARTS, &mut figures);
    let both = async { tokio::join!(load.run(turns, &recorder), events).1 };
    progress.during(both, |elapsed| progress.of("requests", &recorder, &plan, elapsed)).await?;
    let (spent, tally) = (meter.end(), recorder.tally());
    fabric.runs()?;
    let asked = (tally.good + tally.failed) as f64;
    figures.splice(
        0..0,
        [
            Figure::plain("requests", asked, Unit::Count),
            Figure::less("failed", tally.failed as f64, Unit::Count),
        ],
    );
    figures.extend(tally.latency.iter().flat_map(|latency| latency.figures("")));
    let note = "What an event costs are failures, or answers that come late. It failed for the time from the event to the last \
                failure of its part, 0 where nothing failed; the slowest answer is from when it was due.";
    Ok(spent.into_run(tally, "requests/s", figures, vec![note.into()]))
}

/// What happens, one after the other, each followed by a part of the run.
#[derive(Debug, Clone, Copy)]
enum Event {
    Nothing,
    Kill(usize),
    Drain(usize),
    Start(usize),
}

async fn events(
    fabric: &mut Fabric,
    recorder: &Recorder,
    start: Instant,
    part: Duration,
    figures: &mut Vec<Figure>,
) -> anyhow::Result<()> {
    let events = [
        ("before", Event::Nothing),
        ("n2 killed", Event::Kill(1)),
        ("n2 back", Event::Start(1)),
        ("n3 drained", Event::Drain(2)),
        ("n3 back", Event::Start(2)),
    ];
    for (number, (name, event)) in (1..).zip(events) {
        let happens = Instant::now();
        match event {
            Event::Nothing => {}
            Event::Kill(node) => fabric.nodes[node].child.kill().await.context("n2 cannot be killed")?,
            Event::Drain(node) => fabric.nodes[node].child.leave(LEAVE).await?,
            Event::Start(node) => fabric.restart(node).await?,
        }
        tokio::time::sleep_until((start + part * number).into()).await;
        let window = recorder.window();
        if !matches!(event, Event::Nothing) {
            let failing = window.last_failed.map_or(0.0, |last| (last - happens).as_secs_f64());
            figures.push(Figure::less(&format!("{name}: failed"), window.failed as f64, Unit::Count));
            figures.push(Figure::less(&format!("{name}: failed for"), failing, Unit::Seconds));
        }
        let slowest = window.slowest.as_secs_f64() * 1e3;
        let after = if matches!(event, Event::Nothing) { "" } else { " after that" };
        figures.push(Figure::less(&format!("{name}: slowest answer{after}"), slowest, Unit::Milliseconds));
    }
    Ok(())
}
