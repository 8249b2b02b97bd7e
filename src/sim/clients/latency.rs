//! How long answers take: half of them less than the median, one in ten more than 2.0 times, one in a hundred more than 4.4 times the median.

/// Upper bounds of the histograms in milliseconds: what Envoy comes with, and among them what the Prometheus clients come with.
pub const BOUNDS: [f64; 15] = [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 30_000.0, 60_000.0];
/// Buckets, with that of what is slower than the last bound.
pub const BUCKETS: usize = BOUNDS.len() + 1;

/// Spread of the logarithm.
const SPREAD: f64 = 0.324;

/// Share of answers that take at most `bound` (a logarithmic logistic distribution).
fn within(bound: f64, median: f64) -> f64 {
    1.0 / (1.0 + (median / bound).powf(1.0 / SPREAD))
}

/// The chance of each bucket, given that none before it was hit.
pub fn chances(median: f64) -> [f64; BUCKETS] {
    let (mut before, mut chances) = (0.0, [1.0; BUCKETS]);
    for (chance, bound) in chances.iter_mut().zip(BOUNDS) {
        let now = within(bound, median);
        *chance = ((now - before) / (1.0 - before)).clamp(0.0, 1.0);
        before = now;
    }
    chances
}

/// The time that this share of the answers stays below.
pub fn quantile(share: f64, median: f64) -> f64 {
    median * (share / (1.0 - share)).powf(SPREAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_as_it_is_told() {
        assert!((quantile(0.5, 80.0) - 80.0).abs() < 1e-9);
        for (share, times) in [(0.9, 2.0), (0.99, 4.4)] {
            assert!((quantile(share, 1.0) - times).abs() < 0.05, "{share}: {}", quantile(share, 1.0));
            assert!((within(quantile(share, 80.0), 80.0) - share).abs() < 1e-9);
        }
    }

    #[test]
    fn the_chances_make_up_the_distribution() {
        let (mut left, mut sum) = (1.0, 0.0);
        for (chance, bound) in chances(80.0).into_iter().zip(BOUNDS) {
            sum += left * chance;
            left *= 1.0 - chance;
            assert!((sum - within(bound, 80.0)).abs() < 1e-9, "{bound}");
        }
        assert_eq!(chances(80.0)[BUCKETS - 1], 1.0);
    }
}
