//! The result of a benchmark, as it is kept: JSON with a version, the figures of every run, and how they came about.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the format. A reader takes this one alone; fields that it does not know are skipped, so that new ones need
/// no new version.
pub const FORMAT: u32 = 1;

/// All runs of one benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of adit that measured.
    pub adit: String,
    /// Which benchmark: `http`, `tcp` and so on.
    pub bench: String,
    /// What was measured, in a sentence.
    pub subject: String,
    /// The command line.
    pub command: String,
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// Where.
    pub machine: Machine,
    /// One after the other.
    pub runs: Vec<Run>,
}

/// Why a text is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Something else.
    #[error("this is not what `adit bench --json` prints")]
    Other(#[from] serde_json::Error),
    /// A report of a version that this one does not know.
    #[error("this is a report of format {0}, and this adit reads format {FORMAT}: use the one that wrote it")]
    Format(u32),
}

impl Report {
    /// Reads one.
    ///
    /// # Errors
    /// See [`ReportError`].
    pub fn read(text: &str) -> Result<Self, ReportError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        match serde_json::from_str::<Version>(text)?.format {
            FORMAT => Ok(serde_json::from_str(text)?),
            other => Err(ReportError::Format(other)),
        }
    }

    /// The names of all figures, in order, with one of each.
    pub fn figures(&self) -> Vec<&Figure> {
        let mut seen = Vec::<&Figure>::new();
        for figure in self.runs.iter().flat_map(|run| &run.figures) {
            if !seen.iter().any(|other| other.name == figure.name) {
                seen.push(figure);
            }
        }
        seen
    }

    /// What a figure was in each run that has it.
    pub fn values(&self, name: &str) -> Vec<f64> {
        let of = |run: &Run| run.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value);
        self.runs.iter().filter_map(of).collect()
    }

    /// How many failed in all runs, by kind.
    pub fn errors(&self) -> BTreeMap<&str, u64> {
        let mut all = BTreeMap::new();
        for (kind, count) in self.runs.iter().flat_map(|run| &run.errors) {
            *all.entry(kind.as_str()).or_default() += count;
        }
        all
    }
}

/// The machine that everything ran on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Operating system and architecture.
    pub system: String,
    /// The processor's name, where the system tells it.
    pub processor: Option<String>,
    /// How many processors this process may use.
    pub cpus: usize,
}

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What it came to; what two reports are compared by.
    pub figures: Vec<Figure>,
    /// Latencies, where there are any.
    pub latency: Option<Latency>,
    /// Rates over time.
    pub timeline: Vec<Slot>,
    /// Of what those are.
    pub rate_of: String,
    /// How many failed, by kind. Any fails the run.
    pub errors: BTreeMap<String, u64>,
    /// What each process used, where the system tells it.
    pub processes: Vec<Process>,
    /// The share of all processors, 0 to 1, that processes took which have no part in this; figures of a run with much of it
    /// say little.
    pub other_cpu: Option<f64>,
    /// What is to be known of it.
    pub notes: Vec<String>,
}

/// A number with a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is of; the same in every run.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: Unit,
    /// Which way is good.
    pub better: Better,
}

impl Figure {
    /// Where more is better.
    pub fn more(name: &str, value: f64, unit: Unit) -> Self {
        Self { name: name.into(), value, unit, better: Better::More }
    }

    /// Where less is better.
    pub fn less(name: &str, value: f64, unit: Unit) -> Self {
        Self { name: name.into(), value, unit, better: Better::Less }
    }

    /// Where it is no matter of better.
    pub fn plain(name: &str, value: f64, unit: Unit) -> Self {
        Self { name: name.into(), value, unit, better: Better::Neither }
    }
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A number of things.
    Count,
    /// Things in a second.
    PerSecond,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Seconds of one processor.
    CpuSeconds,
    /// 10⁹ bits a second.
    Gigabits,
    /// Bytes.
    Bytes,
    /// 1,024 bytes.
    Kibibytes,
    /// A share, 1 for all.
    Share,
    /// One thing for each other.
    Ratio,
}

/// Which way a figure is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// More.
    More,
    /// Less.
    Less,
    /// It only says what was measured.
    Neither,
}

/// Latencies of what went well, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The mean.
    pub mean_ms: f64,
    /// Half took at most so long.
    pub p50_ms: f64,
    /// Nine of ten did.
    pub p90_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// 999 of 1,000.
    pub p999_ms: f64,
    /// All.
    pub max_ms: f64,
    /// Shares from 0 to 1, rising, and how long those took at most.
    pub quantiles: Vec<(f64, f64)>,
}

impl Latency {
    /// The figures to compare by, each name behind a prefix.
    pub fn figures(&self, prefix: &str) -> Vec<Figure> {
        let named = [
            ("p50", self.p50_ms),
            ("p90", self.p90_ms),
            ("p99", self.p99_ms),
            ("p99.9", self.p999_ms),
            ("max", self.max_ms),
        ];
        let figure = |(name, value)| Figure::less(&format!("{prefix}{name}"), value, Unit::Milliseconds);
        named.map(figure).into()
    }
}

/// A part of a run's time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// When it began, in seconds from the run's start.
    pub from_s: f64,
    /// Answers a second, or what else [`Run::rate_of`] says.
    pub good_per_s: f64,
    /// Failures a second.
    pub failed_per_s: f64,
}

/// What one process used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Which.
    pub name: String,
    /// Seconds of one processor during the run.
    pub cpu_s: f64,
    /// The most memory that it has ever had resident, in KiB.
    pub peak_kib: u64,
}

/// The middle of some numbers, or the mean of the two in the middle; NaN when there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[upper],
        _ => f64::midpoint(sorted[upper - 1], sorted[upper]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let run = Run {
            seconds: 1.5,
            figures: vec![
                Figure::more("rate", 10.0, Unit::PerSecond),
                Figure::less("p50", 2.0, Unit::Milliseconds),
            ],
            errors: BTreeMap::from([("closed".into(), 2)]),
            processes: vec![Process { name: "n1".into(), cpu_s: 0.5, peak_kib: 7 }],
            ..Run::default()
        };
        let report = Report {
            format: FORMAT,
            adit: "0.1.0".into(),
            bench: "http".into(),
            subject: "one node".into(),
            command: "adit bench http".into(),
            started: 1,
            machine: Machine::default(),
            runs: vec![run.clone(), Run { figures: vec![run.figures[0].clone()], ..run }],
        };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(Report::read(&text).unwrap(), report);
        let newer = text.replacen('{', "{\"news\":[1],", 1);
        assert_eq!(Report::read(&newer).unwrap(), report, "what is new is skipped");
        assert_eq!((report.values("rate"), report.values("p50")), (vec![10.0, 10.0], vec![2.0]));
        assert_eq!(report.errors(), BTreeMap::from([("closed", 4)]));
        let other = text.replacen("\"format\":1", "\"format\":2", 1);
        assert!(matches!(Report::read(&other), Err(ReportError::Format(2))));
        assert!(matches!(Report::read("[]"), Err(ReportError::Other(_))));
    }

    #[test]
    fn medians_are_of_the_sorted() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
