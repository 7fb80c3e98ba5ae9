//! `adit bench compare`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::{super::say, text};
use crate::{
    cli::failure::Failure,
    load::{Comparison, Report, Verdict, compare},
};

/// Compare two results.
#[derive(Debug, Args)]
pub(in crate::cli) struct CompareArgs {
    /// What `adit bench --json` printed before.
    #[arg(value_name = "A.json")]
    before: PathBuf,
    /// What it printed after.
    #[arg(value_name = "B.json")]
    after: PathBuf,
}

pub(super) fn run(args: &CompareArgs) -> Result<(), Failure> {
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    // They may have figures of the same name that are not of the same thing.
    if before.bench != after.bench {
        let (a, b) = (args.before.display(), args.after.display());
        let error = anyhow!(
            "{a} is of `adit bench {}`, and {b} of `adit bench {}`: compare two results of the same",
            before.bench,
            after.bench
        );
        return Err(Failure::Usage(error));
    }
    say(render(&before, &after).trim_end());
    Ok(())
}

fn read(path: &Path) -> Result<Report, Failure> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()));
    let report = text.map_err(Failure::Usage)?;
    let report = Report::read(&report).with_context(|| format!("{} is no result", path.display()));
    report.map_err(Failure::Usage)
}

fn render(before: &Report, after: &Report) -> String {
    let mut text = String::new();
    for (name, report) in [("A", before), ("B", after)] {
        let failed: u64 = report.errors().values().sum();
        let failed = if failed > 0 { format!(", {failed} FAILED") } else { String::new() };
        let (bench, subject, runs) = (&report.bench, &report.subject, report.runs.len());
        text += &format!("{name}: {bench}, {subject}; runs: {runs}{failed}\n");
    }
    if before.subject != after.subject {
        text += "These are not of the same thing.\n";
    }
    if before.machine != after.machine {
        text += "These are not of the same machine.\n";
    }
    let mut rows = vec![["", "A", "B", "B/A", ""].map(str::to_owned).to_vec()];
    rows.extend(compare(before, after).iter().map(row));
    text += &format!("\n{}\n", text::columns(&rows));
    text += "A and B are medians. A difference is told where no run of the one is among those of the other; p is the chance of \
             that if nothing had changed, which has to be 0.1 at most (three runs each).\n";
    text
}

fn row(one: &Comparison) -> Vec<String> {
    let verdict = match one.verdict {
        Verdict::Better(chance) => format!("better (p = {chance:.3})"),
        Verdict::Worse(chance) => format!("worse (p = {chance:.3})"),
        Verdict::Differs(chance) => format!("differs (p = {chance:.3})"),
        Verdict::Noise => "within the noise".into(),
        Verdict::Unknown => "too few runs to tell".into(),
    };
    let ratio = if one.ratio.is_nan() { "-".into() } else { format!("{:.3}", one.ratio) };
    let (before, after) = (text::number(one.before, one.unit), text::number(one.after, one.unit));
    vec![one.name.clone(), before, after, ratio, verdict]
}
