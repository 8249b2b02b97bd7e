//! Uids and generated names, decided by a seed.

/// A small splittable generator: good enough for names and for the choices of random runs, the same on every machine.
#[derive(Debug, Clone)]
pub struct Ids(u64);

impl Ids {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (SplitMix64).
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A version 4 UUID.
    pub fn uid(&mut self) -> String {
        let (a, b) = (self.number(), self.number());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xfff,
            ((b >> 48) & 0x3fff) | 0x8000,
            b & 0xffff_ffff_ffff
        )
    }

    /// Five characters for `generateName`, of the alphabet without vowels that the API server uses.
    pub fn suffix(&mut self) -> String {
        let alphabet = b"bcdfghjklmnpqrstvwxz2456789";
        let mut bits = self.number();
        let mut out = String::new();
        for _ in 0..5 {
            out.push(alphabet[(bits % alphabet.len() as u64) as usize].into());
            bits /= alphabet.len() as u64;
        }
        out
    }
}
