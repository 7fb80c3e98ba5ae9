//! A report as one page of HTML: figures, and plots of latency by percentile and of rate over time. It fetches nothing, and is
//! light or dark as its reader's screen is.

use std::{
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use super::{
    plot::{Plot, escape, plain, step},
    text,
};
use crate::load::{Report, median};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #6b7280; --grid: #e3e6ea; --paper: #fff; --bad: #c62828;
  --c0: #1565c0; --c1: #ef6c00; --c2: #2e7d32; --c3: #8e24aa; --c4: #00838f; --c5: #6d4c41 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --faint: #9aa3ad; --grid: #2c3238; --paper: #14171a;
  --bad: #ef9a9a; --c0: #64b5f6; --c1: #ffb74d; --c2: #81c784; --c3: #ce93d8; --c4: #4dd0e1; --c5: #bcaaa4 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--paper) }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p, td, th { overflow-wrap: anywhere } .faint { color: var(--faint) } .bad { color: var(--bad) }
table { border-collapse: collapse; width: 100% } th { text-align: left; font-weight: 600 }
td, th { padding: .2rem .5rem; border-bottom: 1px solid var(--grid) }
td + td, th + th { text-align: right; font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto } svg text { font-size: 12px; fill: var(--faint) }
.end { text-anchor: end } .middle { text-anchor: middle } .grid { stroke: var(--grid) }
polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round }
.line0 { stroke: var(--c0) } .line1 { stroke: var(--c1) } .line2 { stroke: var(--c2) } .line3 { stroke: var(--c3) }
.line4 { stroke: var(--c4) } .line5 { stroke: var(--c5) }
";

/// The page.
pub(super) fn render(report: &Report) -> String {
    let title = escape(&format!("adit bench {}", report.bench));
    let when = UNIX_EPOCH + Duration::from_secs(report.started);
    let when = humantime::format_rfc3339_seconds(when).to_string().replace('T', " ").replace('Z', " UTC");
    let processor = report.machine.processor.as_deref().unwrap_or("processor not known");
    let machine =
        format!("{} x {processor}, {}; adit {}", report.machine.cpus, report.machine.system, report.adit);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <p>{}</p>\n<p class=\"faint\">{when}, {}<br><code>{}</code></p>\n",
        escape(&report.subject),
        escape(&machine),
        escape(&report.command),
    );
    page += &figures(report);
    page += &failures(report);
    section(&mut page, "Latency by percentile", &latency(report));
    section(&mut page, "Rate over time", &rates(report));
    page += &processes(report);
    for note in report.runs.last().into_iter().flat_map(|run| &run.notes) {
        let _ = writeln!(page, "<p class=\"faint\">{}</p>", escape(note));
    }
    page + "</body>\n</html>\n"
}

fn section(page: &mut String, title: &str, content: &str) {
    if !content.is_empty() {
        let _ = writeln!(page, "<h2>{title}</h2>\n{content}");
    }
}

fn figures(report: &Report) -> String {
    let runs = report.runs.len();
    let mut table = String::from("<table>\n");
    if runs > 1 {
        table += &format!("<tr><th>{runs} runs</th><th>median</th><th>least</th><th>most</th></tr>\n");
    }
    for figure in report.figures() {
        let values = report.values(&figure.name);
        let cell = |value| format!("<td>{}</td>", text::number(value, figure.unit));
        let mut cells = cell(median(&values));
        if runs > 1 {
            cells += &cell(values.iter().copied().fold(f64::INFINITY, f64::min));
            cells += &cell(values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        }
        let _ = writeln!(table, "<tr><td>{}</td>{cells}</tr>", escape(&figure.name));
    }
    table + "</table>\n"
}

fn failures(report: &Report) -> String {
    let errors = report.errors();
    if errors.is_empty() {
        return String::new();
    }
    let row = |(kind, count): (&&str, &u64)| format!("<tr><td>{}</td><td>{count}</td></tr>\n", escape(kind));
    let rows: String = errors.iter().map(row).collect();
    format!("<h2 class=\"bad\">Failures</h2>\n<table>\n{rows}</table>\n")
}

/// Across is how many nines, so that the tail has room.
fn latency(report: &Report) -> String {
    let nines = |share: f64| -(1.0 - share).max(1e-7).log10();
    let lines = report.runs.iter().enumerate().filter_map(|(run, of)| {
        let quantiles = &of.latency.as_ref()?.quantiles;
        // All of them have no place there; the last of the others is the end.
        let points = quantiles.iter().filter(|(share, _)| *share < 1.0);
        Some((run, points.map(|(share, ms)| (nines(*share), *ms)).collect()))
    });
    let marks = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999];
    Plot {
        title: "Latency by percentile",
        across: "percentile",
        marks: marks.map(|share| (nines(share), format!("{} %", plain(share * 100.0)))).to_vec(),
        up: "ms",
        logarithmic: true,
        lines: lines.collect(),
    }
    .render()
}

fn rates(report: &Report) -> String {
    let longest = report.runs.iter().map(|run| run.seconds).fold(0.0, f64::max);
    let lines = report.runs.iter().enumerate().map(|(run, of)| {
        (run, of.timeline.iter().map(|slot| (slot.from_s, slot.good_per_s)).collect::<Vec<_>>())
    });
    let step = if longest > 0.0 { step(longest) } else { 1.0 };
    let marks = (0..=(longest / step) as usize).map(|index| index as f64 * step);
    Plot {
        title: "Rate over time",
        across: "seconds",
        marks: marks.map(|seconds| (seconds, plain(seconds))).collect(),
        up: report.runs.first().map_or("", |run| &run.rate_of),
        logarithmic: false,
        lines: lines.collect(),
    }
    .render()
}

fn processes(report: &Report) -> String {
    let Some(run) = report.runs.last().filter(|run| !run.processes.is_empty()) else {
        return String::new();
    };
    let mut table =
        String::from("<h2>Processes</h2>\n<table>\n<tr><th></th><th>CPU</th><th>peak memory</th></tr>\n");
    for process in &run.processes {
        let (cpu, peak) = (process.cpu_s, process.peak_kib / 1024);
        let _ = writeln!(
            table,
            "<tr><td>{}</td><td>{cpu:.2} s</td><td>{peak} MiB</td></tr>",
            escape(&process.name)
        );
    }
    table += "</table>\n";
    if let Some(other) = run.other_cpu {
        let _ = writeln!(
            table,
            "<p class=\"faint\">Other processes took {:.0} % of the machine.</p>",
            other * 100.0
        );
    }
    table
}
