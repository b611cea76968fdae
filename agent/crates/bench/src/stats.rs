//! Medians, spreads and turns. Pure.

/// Middle value; of an even number the mean of both. `NaN` of none, which JSON shows as null.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().wrapping_sub(1) / 2), sorted.get(sorted.len() / 2));
    low.zip(high).map_or(f64::NAN, |(low, high)| f64::midpoint(*low, *high))
}

/// (greatest − least) / median.
#[must_use]
pub fn spread(values: &[f64]) -> f64 {
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    (greatest - least) / median(values)
}

/// The least value that `share` of all do not exceed (nearest rank); `None` of none.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
pub fn percentile<T: Copy + Ord>(values: &mut [T], share: f64) -> Option<T> {
    values.sort_unstable();
    let rank = (values.len() as f64 * share.clamp(0.0, 1.0)).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}

/// All sides in turns, and who begins changes too: what drifts (heat, caches, neighbours) meets all alike. `run` is told whose turn
/// it is; answers by side. The first round warms up (caches, the kernel's memory) and does not count.
///
/// # Errors
/// The first of any side.
pub fn turns<T, E>(rounds: usize, sides: usize, mut run: impl FnMut(usize) -> Result<T, E>) -> Result<Vec<Vec<T>>, E> {
    let mut answers: Vec<Vec<T>> = (0..sides).map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..=rounds {
        for place in 0..sides {
            let side = (round + place) % sides;
            let answer = run(side)?;
            if round > 0 {
                answers[side].push(answer);
            }
        }
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_spread() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
        assert!((spread(&[8.0, 10.0, 11.0]) - 0.3).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let mut values: Vec<u32> = (1..=100).rev().collect();
        assert_eq!((percentile(&mut values, 0.5), percentile(&mut values, 0.99)), (Some(50), Some(99)));
        assert_eq!(percentile(&mut [7], 0.99), Some(7));
        assert_eq!(percentile::<u32>(&mut [], 0.5), None);
    }

    #[test]
    fn sides_take_turns_in_beginning_and_the_first_error_ends_it() {
        let mut order = Vec::new();
        let done = turns(2, 2, |side| {
            order.push(side);
            Ok::<_, ()>(order.len())
        });
        assert_eq!(done, Ok(vec![vec![4, 5], vec![3, 6]]), "without the first round");
        assert_eq!(order, [0, 1, 1, 0, 0, 1]);
        let mut left = 3;
        let failing = |_| {
            if left == 0 {
                Err("enough")
            } else {
                left -= 1;
                Ok(())
            }
        };
        assert_eq!((turns(3, 2, failing), left), (Err("enough"), 0));
    }
}
