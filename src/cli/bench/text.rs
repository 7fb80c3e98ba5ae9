//! Results as text: aligned columns, numbers to the right.

use crate::load::{Report, Unit, median};

/// Above this share of the machine, what others did is worth a warning.
const LOUD: f64 = 0.05;

/// A report for people.
pub(super) fn report(report: &Report) -> String {
    let runs = report.runs.len();
    let mut text = format!("adit bench {}: {}\n", report.bench, report.subject);
    let processor = report.machine.processor.as_deref().unwrap_or("processor not known");
    text += &format!("{} x {processor}, {}\n\n", report.machine.cpus, report.machine.system);
    let head = match runs {
        1 => vec!["", ""],
        _ => vec!["", "MEDIAN", "LEAST", "MOST"],
    };
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for figure in report.figures() {
        let values = report.values(&figure.name);
        let mut row = vec![figure.name.clone(), number(median(&values), figure.unit)];
        if runs > 1 {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.extend([number(least, figure.unit), number(most, figure.unit)]);
        }
        rows.push(row);
    }
    text += &columns(if runs == 1 { &rows[1..] } else { &rows });
    if let Some(run) = report.runs.last().filter(|run| !run.processes.is_empty()) {
        let mut rows = vec![["PROCESS", "CPU", "PEAK MEMORY"].map(str::to_owned).to_vec()];
        rows.extend(run.processes.iter().map(|process| {
            let (cpu, peak) = (process.cpu_s, process.peak_kib as f64);
            vec![process.name.clone(), number(cpu, Unit::CpuSeconds), number(peak, Unit::Kibibytes)]
        }));
        text += &format!("\n{}", columns(&rows));
        if runs > 1 {
            text += "(of the last run)\n";
        }
    }
    let errors = report.errors();
    if !errors.is_empty() {
        let mut rows = vec![["FAILED", "COUNT"].map(str::to_owned).to_vec()];
        rows.extend(
            errors.iter().map(|(kind, count)| vec![(*kind).to_owned(), thousands(&count.to_string())]),
        );
        text += &format!("\n{}", columns(&rows));
    }
    let other: Vec<f64> = report.runs.iter().filter_map(|run| run.other_cpu).collect();
    if let Some(most) = other.iter().copied().reduce(f64::max) {
        text += &format!("\nOther processes took up to {:.0} % of the machine", most * 100.0);
        text += if most > LOUD { ": these figures say little.\n" } else { ".\n" };
    }
    for note in report.runs.last().into_iter().flat_map(|run| &run.notes) {
        text += &format!("{note}\n");
    }
    text
}

/// Rows with columns as wide as their widest cell, the first to the left and the rest to the right.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cell = |(column, cell): (usize, &String)| match (column, widths[column]) {
            (0, width) => format!("{cell:<width$}"),
            (_, width) => format!("{cell:>width$}"),
        };
        let cells: Vec<String> = row.iter().enumerate().map(cell).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A figure with its unit, to three digits or whole.
pub(super) fn number(value: f64, unit: Unit) -> String {
    let digits = |value: f64| match value.abs() {
        large if large >= 100.0 => thousands(&format!("{value:.0}")),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 1.0 || value == 0.0 => format!("{value:.2}"),
        small if small >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    };
    match unit {
        _ if value.is_nan() => "-".into(),
        Unit::Count => thousands(&format!("{value:.0}")),
        Unit::PerSecond => format!("{}/s", digits(value)),
        Unit::Milliseconds => format!("{} ms", digits(value)),
        Unit::Seconds => format!("{} s", digits(value)),
        Unit::CpuSeconds => format!("{} s", digits(value)),
        Unit::Gigabits => format!("{} Gbit/s", digits(value)),
        Unit::Bytes => format!("{} B", digits(value)),
        Unit::Kibibytes if value >= 10_240.0 => format!("{} MiB", digits(value / 1024.0)),
        Unit::Kibibytes => format!("{} KiB", digits(value)),
        Unit::Share => format!("{} %", digits(value * 100.0)),
        Unit::Ratio => digits(value),
    }
}

/// Commas between thousands.
fn thousands(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let mut text = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        let shown = [
            number(1_234_567.4, Unit::Count),
            number(12_345.6, Unit::PerSecond),
            number(0.0471, Unit::CpuSeconds),
            number(1.234, Unit::Milliseconds),
            number(45.67, Unit::Milliseconds),
            number(20_480.0, Unit::Kibibytes),
            number(0.123, Unit::Share),
            number(f64::NAN, Unit::Ratio),
        ];
        let expected = ["1,234,567", "12,346/s", "0.0471 s", "1.23 ms", "45.7 ms", "20.0 MiB", "12.3 %", "-"];
        assert_eq!(shown, expected);
        assert_eq!((thousands("999"), thousands("-1000")), ("999".into(), "-1,000".into()));
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "1"], ["long", "100"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows), "a       1\nlong  100\n");
    }
}
