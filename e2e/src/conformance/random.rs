//! Choices, all of them decided by one seed.

use sluice::sim::api::Ids;

pub struct Random(Ids);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(Ids::new(seed))
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.0.number() % limit.max(1) as u64) as usize
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }

    /// One of several, each as likely as its weight says.
    pub fn weighted<T: Copy>(&mut self, among: &[(usize, T)]) -> T {
        let mut left = self.below(among.iter().map(|(weight, _)| weight).sum());
        for (weight, choice) in among {
            if left < *weight {
                return *choice;
            }
            left -= weight;
        }
        among[0].1
    }
}
