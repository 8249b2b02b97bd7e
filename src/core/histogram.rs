//! Quantiles of classic (bucketed) histograms.

/// A quantile and what it was made from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantile {
    /// Where the quantile lies, in the unit of the bounds. Interpolated within its bucket, as `histogram_quantile` does.
    pub value: f64,
    /// Number of observations.
    pub samples: f64,
    /// The quantile lies above the largest finite bound, which is then the value: nobody knows by how much.
    pub beyond: bool,
}

/// Why buckets have no quantile.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum HistogramError {
    #[error("the histogram has no bucket +Inf")]
    NoInfinity,
    #[error("the histogram has no bucket but +Inf")]
    NoBounds,
    #[error("a bucket is NaN or below zero")]
    NotANumber,
}

/// The quantile `q` (above 0, below 1) of cumulative buckets: pairs of upper bound and count, in any order.
///
/// Counts that fall from one bucket to the next (because the buckets were not read at the same moment) are raised to their predecessor.
/// With no observation at all `samples` is 0 and the value is NaN.
pub fn quantile(q: f64, buckets: &[(f64, f64)]) -> Result<Quantile, HistogramError> {
    if buckets.iter().any(|(bound, count)| bound.is_nan() || !count.is_finite() || *count < 0.0) {
        return Err(HistogramError::NotANumber);
    }
    let mut buckets = buckets.to_vec();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut most = 0.0_f64;
    for (_, count) in &mut buckets {
        most = most.max(*count);
        *count = most;
    }
    if buckets.last().is_none_or(|(bound, _)| *bound != f64::INFINITY) {
        return Err(HistogramError::NoInfinity);
    }
    let finite = buckets.len() - 1;
    let largest = finite.checked_sub(1).map(|last| buckets[last].0).ok_or(HistogramError::NoBounds)?;
    if most == 0.0 {
        return Ok(Quantile { value: f64::NAN, samples: 0.0, beyond: false });
    }
    let rank = q * most;
    let at = buckets.iter().position(|(_, count)| *count >= rank).unwrap_or(finite);
    if at == finite {
        return Ok(Quantile { value: largest, samples: most, beyond: true });
    }
    let (upper, count) = buckets[at];
    let (lower, below) = match at.checked_sub(1) {
        Some(previous) => buckets[previous],
        None if upper <= 0.0 => return Ok(Quantile { value: upper, samples: most, beyond: false }),
        None => (0.0, 0.0),
    };
    let value = if count > below { lower + (upper - lower) * ((rank - below) / (count - below)) } else { upper };
    Ok(Quantile { value, samples: most, beyond: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INF: f64 = f64::INFINITY;

    #[test]
    fn interpolates_within_the_bucket() {
        let buckets = [(10.0, 50.0), (20.0, 100.0), (INF, 100.0)];
        assert_eq!(quantile(0.5, &buckets), Ok(Quantile { value: 10.0, samples: 100.0, beyond: false }));
        assert_eq!(quantile(0.75, &buckets), Ok(Quantile { value: 15.0, samples: 100.0, beyond: false }));
        assert_eq!(quantile(0.25, &buckets), Ok(Quantile { value: 5.0, samples: 100.0, beyond: false }));
    }

    #[test]
    fn beyond_the_largest_bound_nothing_is_known() {
        assert_eq!(quantile(0.99, &[(10.0, 50.0), (INF, 100.0)]), Ok(Quantile { value: 10.0, samples: 100.0, beyond: true }));
    }

    #[test]
    fn without_observations_there_is_no_quantile() {
        let none = quantile(0.99, &[(10.0, 0.0), (INF, 0.0)]).unwrap();
        assert!(none.value.is_nan() && none.samples == 0.0);
        assert_eq!(quantile(0.5, &[(10.0, 50.0)]), Err(HistogramError::NoInfinity));
        assert_eq!(quantile(0.5, &[]), Err(HistogramError::NoInfinity));
        assert_eq!(quantile(0.5, &[(INF, 50.0)]), Err(HistogramError::NoBounds));
        assert_eq!(quantile(0.5, &[(1.0, f64::NAN), (INF, 50.0)]), Err(HistogramError::NotANumber));
    }

    proptest! {
        /// The quantile of the buckets lies in the bucket that holds the quantile of what was observed.
        #[test]
        fn lies_in_the_right_bucket(mut observed in prop::collection::vec(0.0..200.0_f64, 1..200), q in 0.01..0.99_f64) {
            let bounds = [1.0, 10.0, 50.0, 100.0, INF];
            let buckets = bounds.map(|bound| (bound, observed.iter().filter(|value| **value <= bound).count() as f64));
            observed.sort_by(f64::total_cmp);
            let exact = observed[((q * observed.len() as f64).ceil() as usize - 1).min(observed.len() - 1)];
            let found = quantile(q, &buckets).unwrap();
            prop_assert_eq!(found.samples, observed.len() as f64);
            prop_assert_eq!(found.beyond, exact > 100.0);
            if !found.beyond {
                let at = bounds.iter().position(|bound| exact <= *bound).unwrap();
                let lower = if at == 0 { 0.0 } else { bounds[at - 1] };
                prop_assert!(found.value >= lower && found.value <= bounds[at], "{} not in {lower}..{}", found.value, bounds[at]);
            }
        }
    }
}
