//! The choice of an upstream, as a pure function: the better of two random candidates by flows in flight ("power of two
//! choices": nearly as even as asking all, with no herd behind the one that looks idle).

use crate::protocol::AgentId;

/// What the choice knows of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Who it is: an agent that was tried is not tried again through another of its links.
    pub(super) agent: AgentId,
    /// Flows and requests in flight on it from here.
    pub(super) in_flight: usize,
    /// It takes no new flow at all.
    pub(super) leaving: bool,
    /// It has not answered lately: chosen only when nothing else is left.
    pub(super) suspect: bool,
}

/// The index of the candidate to use; `dice` are two random numbers from 0 to 1.
pub(super) fn choose(
    candidates: impl Iterator<Item = Candidate> + Clone,
    tried: &[AgentId],
    dice: (f64, f64),
) -> Option<usize> {
    let usable = candidates
        .enumerate()
        .filter(|(_, candidate)| !candidate.leaving && !tried.contains(&candidate.agent));
    let sound = usable.clone().filter(|(_, candidate)| !candidate.suspect);
    better_of_two(sound, dice).or_else(|| better_of_two(usable, dice))
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

    fn candidate(agent: u128, in_flight: usize) -> Candidate {
        Candidate { agent: AgentId::from_bits(agent), in_flight, leaving: false, suspect: false }
    }

    fn choose_from(candidates: &[Candidate], tried: &[u128], dice: (f64, f64)) -> Option<usize> {
        let tried: Vec<_> = tried.iter().copied().map(AgentId::from_bits).collect();
        choose(candidates.iter().copied(), &tried, dice)
    }

    #[test]
    fn the_less_busy_of_the_two_that_were_drawn_is_taken() {
        let three = [candidate(0, 9), candidate(1, 5), candidate(2, 1)];
        assert_eq!(choose_from(&three, &[], (0.0, 0.0)), Some(1));
        assert_eq!(choose_from(&three, &[], (0.0, 0.9)), Some(2));
        assert_eq!(choose_from(&three, &[], (0.9, 0.0)), Some(2));
        assert_eq!(choose_from(&[], &[], (0.5, 0.5)), None);
    }

    #[test]
    fn the_leaving_and_the_tried_are_never_taken_and_the_suspect_last() {
        let mut all = [candidate(0, 0), candidate(1, 0), candidate(2, 7)];
        all[0].suspect = true;
        all[1].leaving = true;
        for dice in [(0.0, 0.0), (0.99, 0.99), (0.5, 0.1)] {
            assert_eq!(choose_from(&all, &[], dice), Some(2));
            assert_eq!(choose_from(&all, &[2], dice), Some(0));
            assert_eq!(choose_from(&all, &[2, 0], dice), None);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_drawn_the_busiest_of_three_is_never_taken(first in 0.0..1.0, second in 0.0..1.0) {
            let all = [candidate(0, 3), candidate(1, 9), candidate(2, 3)];
            prop_assert_ne!(choose_from(&all, &[], (first, second)), Some(1));
        }
    }
}
