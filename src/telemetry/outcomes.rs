//! How often a process has read its configuration again, and how often it has left, by what became of that.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use super::{Metrics, counter};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

/// Counts by outcome, each there from the start, so that the first is seen to be one more.
fn family<const N: usize>(
    metrics: &Metrics,
    name: &str,
    help: &str,
    all: [&'static str; N],
) -> Family<Labels, Counter> {
    let family = Family::default();
    metrics.register(|registry| registry.register(name, help, family.clone()));
    for outcome in all {
        drop(family.get_or_create(&Labels { outcome }));
    }
    family
}

/// What became of a configuration that was read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What has changed holds from now on.
    Applied,
    /// It is wrong, and what was before holds.
    Refused,
    /// Nothing in it has changed that can be exchanged.
    Unchanged,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Applied, Self::Refused, Self::Unchanged];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::Unchanged => "unchanged",
        }
    }
}

/// How often the configuration was read again.
#[derive(Debug, Clone)]
pub struct Reloads(Family<Labels, Counter>);

impl Reloads {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let help = "How often the configuration was read again, by what became of it";
        Self(family(metrics, "reloads", help, Outcome::ALL.map(Outcome::name)))
    }

    /// Counts one.
    pub fn count(&self, outcome: Outcome) {
        self.0.get_or_create(&Labels { outcome: outcome.name() }).inc();
    }
}

/// How often the process has begun to leave, which it does once, and how that has ended.
#[derive(Debug, Clone)]
pub struct Drains {
    outcomes: Family<Labels, Counter>,
    cut: Counter,
}

impl Drains {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let help = "How often the process has begun to leave, and how that has ended";
        let outcomes = family(metrics, "drains", help, ["begun", "complete", "cut"]);
        let help = "Flows that had not ended when the time to leave was over";
        Self { outcomes, cut: metrics.register(|registry| counter(registry, "drain_flows_cut", help)) }
    }

    fn count(&self, outcome: &'static str) {
        self.outcomes.get_or_create(&Labels { outcome }).inc();
    }

    /// It begins to leave.
    pub fn begin(&self) {
        self.count("begun");
    }

    /// It has left, but for so many flows that are cut.
    pub fn end(&self, cut: usize) {
        self.count(if cut == 0 { "complete" } else { "cut" });
        self.cut.inc_by(cut as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_counted_as_it_begins_and_by_how_it_ends() {
        let metrics = Metrics::default();
        let drains = Drains::new(&metrics);
        let counts = || {
            let scrape = metrics.encode();
            let of = |name: &str| {
                let line = scrape.lines().find_map(|line| line.strip_prefix(name));
                line.map(ToOwned::to_owned).unwrap_or_default()
            };
            let outcome = |outcome| of(&format!("adit_drains_total{{outcome=\"{outcome}\"}} "));
            [outcome("begun"), outcome("complete"), outcome("cut"), of("adit_drain_flows_cut_total ")]
        };
        assert_eq!(counts(), ["0", "0", "0", "0"]);
        drains.begin();
        assert_eq!(counts(), ["1", "0", "0", "0"]);
        drains.end(7);
        assert_eq!(counts(), ["1", "0", "1", "7"]);
        drains.end(0);
        assert_eq!(counts(), ["1", "1", "1", "7"]);
    }
}
