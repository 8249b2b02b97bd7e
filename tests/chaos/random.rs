//! Random choices that a seed decides.

use sluice::sim::api::Ids;

/// Choices from the simulator's own generator: the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(Ids);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(Ids::new(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0.number()
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True this often, in percent.
    pub fn is(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize].clone()
    }

    /// One of several, each as often as its number says.
    pub fn weighted<T: Clone>(&mut self, all: &[(u64, T)]) -> T {
        let mut at = self.below(all.iter().map(|(often, _)| often).sum());
        for (often, one) in all {
            if at < *often {
                return one.clone();
            }
            at -= often;
        }
        unreachable!("at is below the sum")
    }
}
