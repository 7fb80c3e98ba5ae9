//! Whether two results differ by more than their runs do among themselves.
//!
//! The statistic is the plainest that needs no assumption on how figures scatter: two sets of runs differ when they do not
//! overlap, so that each run of the one is above each run of the other. If nothing had changed, all orders of the `n + m`
//! runs would be as likely, and 2 of the `n + m` over `n` are of that kind: 1 in 10 for three runs each, 1 in 126 for five.
//! Where that chance is above 1 in 10 there are too few runs to tell.

use super::report::{Better, Report, Unit, median};

/// Above this chance no difference is told.
const CHANCE: f64 = 0.1;

/// One figure of two reports.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The figure.
    pub name: String,
    /// Of what it is.
    pub unit: Unit,
    /// The median of the first report's runs.
    pub before: f64,
    /// The median of the second's.
    pub after: f64,
    /// The second for each of the first; NaN when the first is 0.
    pub ratio: f64,
    /// What is to be thought of it.
    pub verdict: Verdict,
}

/// What is to be thought of a difference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// Outside the noise, the way that is good, by a chance of so much.
    Better(f64),
    /// Outside the noise, the other way.
    Worse(f64),
    /// Outside the noise, where no way is good.
    Differs(f64),
    /// The runs overlap.
    Noise,
    /// Too few runs.
    Unknown,
}

/// Compares the figures that both reports have, in the first one's order.
pub fn compare(before: &Report, after: &Report) -> Vec<Comparison> {
    let in_both =
        |name: &str| Some((before.values(name), after.values(name))).filter(|both| !both.1.is_empty());
    let figures = before.figures().into_iter().filter_map(|figure| Some((figure, in_both(&figure.name)?)));
    figures
        .map(|(figure, (a, b))| {
            let (before, after) = (median(&a), median(&b));
            let ratio = if before == 0.0 { f64::NAN } else { after / before };
            let verdict = verdict(&a, &b, figure.better);
            Comparison { name: figure.name.clone(), unit: figure.unit, before, after, ratio, verdict }
        })
        .collect()
}

fn verdict(a: &[f64], b: &[f64], better: Better) -> Verdict {
    let chance = chance(a.len(), b.len());
    if chance > CHANCE {
        return Verdict::Unknown;
    }
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = |values: &[f64]| values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (rose, fell) = (least(b) > most(a), most(b) < least(a));
    match better {
        _ if !rose && !fell => Verdict::Noise,
        Better::Neither => Verdict::Differs(chance),
        Better::More if rose => Verdict::Better(chance),
        Better::Less if fell => Verdict::Better(chance),
        Better::More | Better::Less => Verdict::Worse(chance),
    }
}

/// How likely it is that `n` and `m` runs of the same thing do not overlap.
fn chance(n: usize, m: usize) -> f64 {
    // The binomial coefficient of n + m over n, as a product that stays small.
    let orders = (1..=n).fold(1.0, |product, step| product * (m + step) as f64 / step as f64);
    (2.0 / orders).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chance_of_no_overlap_is_that_of_the_orders() {
        assert_eq!(chance(1, 1), 1.0);
        assert!((chance(3, 3) - 0.1).abs() < 1e-12);
        assert!((chance(5, 5) - 1.0 / 126.0).abs() < 1e-12);
        assert!((chance(1, 19) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn a_difference_is_told_only_where_runs_do_not_overlap() {
        let (low, high, mixed) = ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [3.0, 5.0, 6.0]);
        assert!(matches!(verdict(&low, &high, Better::More), Verdict::Better(_)));
        assert!(matches!(verdict(&low, &high, Better::Less), Verdict::Worse(_)));
        assert!(matches!(verdict(&high, &low, Better::Less), Verdict::Better(_)));
        assert!(matches!(verdict(&high, &low, Better::Neither), Verdict::Differs(_)));
        assert_eq!(verdict(&low, &mixed, Better::More), Verdict::Noise, "equal is no difference");
        assert_eq!(verdict(&low[..1], &high, Better::More), Verdict::Unknown, "one run tells nothing");
        assert_eq!(verdict(&low[..2], &high[..2], Better::More), Verdict::Unknown);
    }
}
