//! The choice of an upstream, as a pure function: the better of two random candidates by flows in flight ("power of two
//! choices": nearly as even as asking all, with no herd behind the one that looks idle).

/// How good a candidate is, before load is looked at. The best rank that has any is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Linked to this node.
    Local,
    /// Linked to another node.
    Remote,
    /// Linked to another node that is leaving.
    Draining,
    /// It has not answered lately.
    Suspect,
    /// It takes no new flow at all, or was tried.
    Never,
}

/// What the choice knows of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Flows and requests in flight on it.
    pub(super) in_flight: usize,
    /// How good it is.
    pub(super) rank: Rank,
}

/// The index of the candidate to use; `dice` are two random numbers from 0 to 1.
pub(super) fn choose(candidates: impl Iterator<Item = Candidate> + Clone, dice: (f64, f64)) -> Option<usize> {
    let usable = candidates.enumerate().filter(|(_, candidate)| candidate.rank < Rank::Never);
    let best = usable.clone().map(|(_, candidate)| candidate.rank).min()?;
    better_of_two(usable.filter(|(_, candidate)| candidate.rank == best), dice)
}

fn better_of_two(
    candidates: impl Iterator<Item = (usize, Candidate)> + Clone,
    (first, second): (f64, f64),
) -> Option<usize> {
    let count = candidates.clone().count();
    let nth = |dice: f64, of: usize| ((dice * of as f64) as usize).min(of.saturating_sub(1));
    let one = nth(first, count);
    // Drawn from the others, so that the two differ.
    let two = match nth(second, count.saturating_sub(1)) {
        other if other >= one => other + 1,
        other => other,
    };
    let (one, two) = (candidates.clone().nth(one)?, candidates.clone().nth(two));
    match two {
        Some(two) if two.1.in_flight < one.1.in_flight => Some(two.0),
        _ => Some(one.0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(in_flight: usize) -> Candidate {
        Candidate { in_flight, rank: Rank::Local }
    }

    fn choose_from(candidates: &[Candidate], dice: (f64, f64)) -> Option<usize> {
        choose(candidates.iter().copied(), dice)
    }

    #[test]
    fn the_less_busy_of_the_two_that_were_drawn_is_taken() {
        let three = [candidate(9), candidate(5), candidate(1)];
        assert_eq!(choose_from(&three, (0.0, 0.0)), Some(1));
        assert_eq!(choose_from(&three, (0.0, 0.9)), Some(2));
        assert_eq!(choose_from(&three, (0.9, 0.0)), Some(2));
        assert_eq!(choose_from(&[], (0.5, 0.5)), None);
    }

    #[test]
    fn the_better_rank_is_taken_whatever_its_load() {
        let ranks = [Rank::Suspect, Rank::Never, Rank::Remote, Rank::Draining, Rank::Local];
        let mut all: Vec<_> =
            (1..).zip(ranks).map(|(in_flight, rank)| Candidate { in_flight, rank }).collect();
        for expected in [Some(4), Some(2), Some(3), Some(0), None] {
            for dice in [(0.0, 0.0), (0.99, 0.99), (0.5, 0.1)] {
                assert_eq!(choose_from(&all, dice), expected);
            }
            if let Some(taken) = expected {
                all[taken].rank = Rank::Never;
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_drawn_the_busiest_of_three_is_never_taken(first in 0.0..1.0, second in 0.0..1.0) {
            let all = [candidate(3), candidate(9), candidate(3)];
            prop_assert_ne!(choose_from(&all, (first, second)), Some(1));
        }
    }
}
