//! The method for failures that are independent of each other.

use super::{Arm, BETS, evidence::log_add, share_betting};

/// How much worse than tolerated the canary is taken to be: one bet for each.
const EXCESSES: [f64; BETS] = [1.25, 1.5, 2.0, 3.0, 5.0, 10.0];

/// An interval with more failures takes the bets on the share instead, which hold for independent failures as well and do not need to go
/// through every split. So a look takes at most 7 sums of so many terms; and with so many failures speed is no concern.
const MAX_FAILURES: u64 = 1000;

/// For each excess the likelihood ratio of the split of an interval's failures, given their number: at odds `excess * ratio` over at odds
/// `ratio`. Given the number of failures, the rate that both versions share has no influence (Fisher's noncentral hypergeometric).
pub fn log_factors(canary: Arm, stable: Arm, ratio: f64) -> [f64; BETS] {
    if canary.failures.saturating_add(stable.failures) > MAX_FAILURES {
        return share_betting(canary, stable, ratio);
    }
    let tolerated = log_rarity(canary, stable, ratio);
    EXCESSES.map(|excess| tolerated - log_rarity(canary, stable, excess * ratio))
}

/// The logarithm of 1 / (probability of just this split of the failures), at these odds. The splits to both sides are weighed against this one, each by
/// its ratio to the one before it, so that no binomial coefficient is needed.
fn log_rarity(canary: Arm, stable: Arm, odds: f64) -> f64 {
    let more = |step: u64| {
        let (failed, succeeded) = (canary.failures as f64 + step as f64, canary.succeeded() as f64 - step as f64);
        let (left, right) = (stable.failures as f64 - step as f64, stable.succeeded() as f64 + step as f64);
        odds * succeeded * left / ((failed + 1.0) * (right + 1.0))
    };
    let fewer = |step: u64| {
        let (failed, succeeded) = (canary.failures as f64 - step as f64, canary.succeeded() as f64 + step as f64);
        let (left, right) = (stable.failures as f64 + step as f64, stable.succeeded() as f64 - step as f64);
        failed * right / (odds * (succeeded + 1.0) * (left + 1.0))
    };
    let up = log_sum(canary.succeeded().min(stable.failures), more);
    let down = log_sum(canary.failures.min(stable.succeeded()), fewer);
    log_add(0.0, log_add(up, down))
}

/// The logarithm of `r(0) + r(0) r(1) + r(0) r(1) r(2) + ...`, with so many terms. The ratios fall: once the terms no longer count, they never will.
fn log_sum(terms: u64, ratio: impl Fn(u64) -> f64) -> f64 {
    const LARGE: f64 = 1e200;
    let (mut term, mut sum, mut scale) = (1.0, 0.0, 0.0);
    for step in 0..terms {
        let ratio = ratio(step);
        term *= ratio;
        sum += term;
        if ratio < 1.0 && term < sum * 1e-18 {
            break;
        }
        if sum > LARGE {
            (term, sum, scale) = (term / LARGE, sum / LARGE, scale + LARGE.ln());
        }
    }
    // Without a term there is nothing to add: a logarithm that counts for nothing, and is still a number.
    if sum > 0.0 { sum.ln() + scale } else { f64::MIN }
}
