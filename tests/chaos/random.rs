//! Random choices that a seed decides.

/// SplitMix64: the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
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
