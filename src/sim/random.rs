//! Chance from a seed: the same seed, the same numbers.

/// A sum of small draws is drawn part by part, each of this mean at most.
const PART: f64 = 32.0;
/// Beyond this mean nobody can tell the draw from a rounded normal one, which takes the same time whatever the mean is.
const LARGE: f64 = 4096.0;

/// Random numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64, run: u64) -> Self {
        let mut random = Self(seed ^ run.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// At least 0, below 1.
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// How many of many rare events happen, when `mean` are expected.
    pub fn poisson(&mut self, mean: f64) -> f64 {
        if mean > LARGE {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0);
        }
        let parts = (mean / PART).ceil();
        (0..parts as usize).map(|_| self.small_poisson(mean / parts)).sum()
    }

    /// By inversion.
    fn small_poisson(&mut self, mean: f64) -> f64 {
        let (mut left, mut term, mut count) = (self.uniform(), (-mean).exp(), 0.0);
        while left >= term && count < 1000.0 {
            left -= term;
            count += 1.0;
            term *= mean / count;
        }
        count
    }

    /// How many of so many do what each does with this chance.
    pub fn binomial(&mut self, of: u64, chance: f64) -> u64 {
        if chance > 0.5 {
            return of - self.binomial(of, 1.0 - chance);
        }
        let mean = of as f64 * chance;
        if mean <= 0.0 {
            return 0;
        }
        if mean > LARGE {
            let drawn = mean + (mean * (1.0 - chance)).sqrt() * self.normal();
            return (drawn.round().max(0.0) as u64).min(of);
        }
        let parts = (mean / PART).ceil() as u64;
        (0..parts).map(|part| self.small_binomial(of / parts + u64::from(part < of % parts), chance)).sum()
    }

    /// By inversion.
    fn small_binomial(&mut self, of: u64, chance: f64) -> u64 {
        let odds = chance / (1.0 - chance);
        let (mut left, mut term, mut count) = (self.uniform(), (of as f64 * (-chance).ln_1p()).exp(), 0);
        while left >= term && count < of {
            left -= term;
            count += 1;
            term *= odds * (of - count + 1) as f64 / count as f64;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and variance of many draws.
    fn moments(mut draw: impl FnMut() -> f64) -> (f64, f64) {
        const DRAWS: usize = 20_000;
        let all: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
        let mean = all.iter().sum::<f64>() / DRAWS as f64;
        (mean, all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / DRAWS as f64)
    }

    #[test]
    fn draws_have_the_mean_and_the_variance_that_they_must() {
        let mut random = Random::new(1, 1);
        for mean in [0.3, 20.0, 500.0, 10_000.0] {
            let (found, variance) = moments(|| random.poisson(mean));
            assert!((found / mean - 1.0).abs() < 0.03 && (variance / mean - 1.0).abs() < 0.06, "{mean}: {found}, {variance}");
        }
        for (of, chance) in [(10, 0.02), (1000, 0.3), (1000, 0.98), (100_000, 0.2)] {
            let (mean, spread) = (of as f64 * chance, of as f64 * chance * (1.0 - chance));
            let (found, variance) = moments(|| random.binomial(of, chance) as f64);
            assert!((found / mean - 1.0).abs() < 0.03 && (variance / spread - 1.0).abs() < 0.06, "{of} {chance}: {found}, {variance}");
        }
        assert_eq!((random.binomial(7, 0.0), random.binomial(7, 1.0), random.poisson(0.0)), (0, 7, 0.0));
    }
}
