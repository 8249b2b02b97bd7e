//! The state of one comparison.

use super::{Arm, BETS, Claim, Evidence, Interval, Threshold};

/// Part of the wealth that is kept back at first, for a canary that becomes worse only later: by then the rest may be lost.
const RESERVE: f64 = 0.3;
/// Part of the reserve that each interval brings into play.
const RELEASE: f64 = 0.03;
/// Logarithms are kept within this, so that nine decimals are exact in JSON.
const MAX_LOG: f64 = 999_999.0;

impl Default for Evidence {
    fn default() -> Self {
        Self { log_wealth: [round_down((1.0 - RESERVE).ln()); BETS], intervals: 0, canary: Arm::default(), stable: Arm::default() }
    }
}

impl Evidence {
    /// Takes in the next interval. One in which a version had no requests is left out; one without failures is counted, and says nothing.
    pub fn consume(&mut self, interval: &Interval, claim: &Claim) {
        if !interval.compares() {
            return;
        }
        self.canary = self.canary.plus(interval.canary);
        self.stable = self.stable.plus(interval.stable);
        let Some(factors) = claim.log_factors(interval) else { return };
        let released = self.log_reserve() + RELEASE.ln();
        for (log_wealth, factor) in self.log_wealth.iter_mut().zip(factors) {
            *log_wealth = round_down(log_add(*log_wealth, released) + factor);
        }
        self.intervals = self.intervals.saturating_add(1);
    }

    /// The evidence as a logarithm: the mean of the bets, and the reserve. Below 0 it speaks against the claim.
    pub fn log_e(&self) -> f64 {
        log_add(log_mean(&self.log_wealth), self.log_reserve())
    }

    /// The claim is as good as proven.
    pub fn reaches(&self, threshold: Threshold) -> bool {
        self.log_e() >= threshold.ln()
    }

    /// What the canary and stable did in the intervals that were compared.
    pub fn seen(&self) -> (Arm, Arm) {
        (self.canary, self.stable)
    }

    fn log_reserve(&self) -> f64 {
        RESERVE.ln() + self.intervals as f64 * (1.0 - RELEASE).ln()
    }
}

/// `ln(e^a + e^b)`, where neither power may fit into a number.
pub(super) fn log_add(a: f64, b: f64) -> f64 {
    let (more, less) = if a > b { (a, b) } else { (b, a) };
    more + (less - more).exp().ln_1p()
}

/// The logarithm of the mean of the powers. Of nothing it is that of 1: no evidence.
pub(super) fn log_mean(logs: &[f64]) -> f64 {
    let most = logs.iter().copied().fold(f64::MIN, f64::max);
    if logs.is_empty() { 0.0 } else { most + (logs.iter().map(|log| (log - most).exp()).sum::<f64>() / logs.len() as f64).ln() }
}

/// To nine decimals: what is read back from a status is then what was written, bit for bit. Down, so that rounding is no evidence.
fn round_down(log: f64) -> f64 {
    (log.clamp(-MAX_LOG, MAX_LOG) * 1e9).floor() / 1e9
}
