//! How many agent links a node sheds so that all nodes carry about as many.
//!
//! A pure decision of one moment, made by each node for itself; `node` asks once a second and sends that many agents
//! elsewhere by make-before-break. It never picks the agents and never cuts a flow.

/// How many links to shed in the next second.
///
/// `own` and `others` are the counts of this node and of every other that takes agents; of its own, those that are `moving`
/// have been asked to go and have not yet. Nothing is shed by a node that is alone, keeps fewer than `minimum`, or keeps at
/// most `threshold` (a share: 0.2 is a fifth) more than the average; any other sheds `rate` of the average, at least one,
/// and never so many that it would fall below the average.
pub fn shed(own: usize, moving: usize, others: &[usize], threshold: f64, minimum: usize, rate: f64) -> usize {
    // Counts are far below 2^52, where the conversions are exact.
    let total = own as f64 + others.iter().map(|&count| count as f64).sum::<f64>();
    let own = own.saturating_sub(moving);
    if others.is_empty() || own < minimum {
        return 0;
    }
    let average = total / (others.len() + 1) as f64;
    if own as f64 <= average * (1.0 + threshold.max(0.0)) {
        return 0;
    }
    // With less than one link too many, moving it would only move the excess.
    let excess = (own as f64 - average) as usize;
    let step = (average * rate) as usize;
    step.max(1).min(excess)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_node_sheds_only_what_it_has_too_many() {
        for (own, others, threshold, minimum, rate, expected, why) in [
            (100, &[][..], 0.2, 0, 0.1, 0, "alone"),
            (120, &[80, 100], 0.2, 0, 0.1, 0, "at the threshold"),
            (121, &[80, 99], 0.2, 0, 0.1, 10, "just over it: a tenth of the average"),
            (300, &[0, 0], 0.2, 0, 0.1, 10, "a tenth of the average"),
            (300, &[0, 0], 0.2, 0, 5.0, 200, "never below the average"),
            (300, &[0, 0], 0.2, 301, 0.1, 0, "below the minimum"),
            (300, &[0, 0], 0.2, 300, 0.1, 10, "at the minimum"),
            (3, &[0, 0], 0.2, 0, 0.001, 1, "at least one"),
            (1, &[0], 0.2, 0, 1.0, 0, "one link cannot be shared"),
            (2, &[1, 1], 0.2, 0, 1.0, 0, "nor can one more"),
            (0, &[0, 0], 0.2, 0, 1.0, 0, "nothing at all"),
            (0, &[100], 0.2, 0, 1.0, 0, "below the average"),
            (10, &[0], f64::NAN, 0, f64::NAN, 1, "nonsense is harmless"),
            (10, &[0], -3.0, 0, -3.0, 1, "nonsense is harmless"),
            (10, &[0], f64::INFINITY, 0, f64::INFINITY, 0, "nonsense is harmless"),
        ] {
            assert_eq!(shed(own, 0, others, threshold, minimum, rate), expected, "{why}");
        }
    }

    #[test]
    fn who_has_been_asked_to_move_is_not_counted_twice() {
        for (own, moving, expected) in [(120, 0, 30), (120, 30, 30), (120, 58, 2), (120, 60, 0), (90, 30, 0)]
        {
            assert_eq!(shed(own, moving, &[120 - own, 60], 0.0, 0, 0.5), expected, "{moving} of {own}");
        }
    }

    fn others(counts: &[usize], own: usize) -> Vec<usize> {
        let others = counts.iter().enumerate().filter(|(node, _)| *node != own);
        others.map(|(_, count)| *count).collect()
    }

    /// One second: all nodes decide by the same counts, then each link that was shed goes where `place` says.
    fn second(
        counts: &mut [usize],
        threshold: f64,
        rate: f64,
        mut place: impl FnMut(&[usize], usize) -> usize,
    ) -> usize {
        let shed: Vec<_> = (0..counts.len())
            .map(|own| shed(counts[own], 0, &others(counts, own), threshold, 0, rate))
            .collect();
        for (own, &links) in shed.iter().enumerate() {
            counts[own] -= links;
            for _ in 0..links {
                counts[place(counts, own)] += 1;
            }
        }
        shed.iter().sum()
    }

    fn is_balanced(counts: &[usize], threshold: f64) -> bool {
        let average = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
        counts.iter().all(|&count| count as f64 <= (average * (1.0 + threshold)).max(average + 1.0))
    }

    proptest! {
        #[test]
        fn links_that_go_to_the_least_busy_settle_and_never_come_back(
            mut counts in prop::collection::vec(0_usize..2000, 2..12), threshold in 0.0..1.0, rate in 0.01..2.0,
        ) {
            let average = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
            let mut excess = f64::INFINITY;
            for _ in 0..5000 {
                let moved = second(&mut counts, threshold, rate, |counts, own| {
                    (0..counts.len()).filter(|node| *node != own).min_by_key(|node| counts[*node]).unwrap()
                });
                // What stands above the average only ever shrinks: a link never moves twice for nothing.
                let now = counts.iter().map(|&count| (count as f64 - average).max(0.0)).sum::<f64>();
                if moved == 0 { break; }
                prop_assert!(now < excess);
                excess = now;
            }
            prop_assert!(is_balanced(&counts, threshold));
        }

        #[test]
        fn links_that_go_anywhere_settle_too(
            mut counts in prop::collection::vec(0_usize..500, 2..8), threshold in 0.1..1.0, rate in 0.01..0.5, seed in 0_usize..1000,
        ) {
            let mut turn = seed;
            let mut settled = false;
            for _ in 0..5000 {
                let moved = second(&mut counts, threshold, rate, |counts, own| {
                    turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (own + 1 + (turn >> 33) % (counts.len() - 1)) % counts.len()
                });
                if moved == 0 { settled = true; break; }
            }
            prop_assert!(settled && is_balanced(&counts, threshold));
        }

        #[test]
        fn a_node_never_falls_below_the_average(
            own in 0_usize..10_000, moving in 0_usize..1000, others in prop::collection::vec(0_usize..10_000, 0..20),
            threshold in -1.0..3.0, minimum in 0_usize..5000, rate in 0.0..10.0,
        ) {
            let links = shed(own, moving, &others, threshold, minimum, rate);
            let total = own + others.iter().sum::<usize>();
            prop_assert!(links == 0 || (own - moving - links) * (others.len() + 1) >= total);
        }
    }
}
