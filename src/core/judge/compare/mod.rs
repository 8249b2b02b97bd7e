//! `compare`: the canary against stable, looked at as often as one likes.
//!
//! An ordinary test that is looked at again and again aborts good versions in the end. This one keeps a *wealth* that starts at 1 and bets
//! on each interval that the canary is worse. While it is not, no bet gains on average, so the chance that the wealth *ever* reaches 20 is at
//! most 1 in 20 (Ville's inequality), however often it is looked at, and whatever common errors, drift and changes of weight there are.
//!
//! [`Claim`] is what evidence is sought for, [`Interval`] what was counted between two edges, [`Evidence`] the state, which is persisted,
//! [`latency`] the same for histograms, and [`ErrorBudget`] turns the accepted risk into the evidence that is needed. `docs/judge.md` says
//! what the guarantee is and is not, and what was measured.

mod evidence;
mod independent;
pub mod latency;
mod words;

pub use crate::api::{
    analysis::Method,
    run::{Arm, Evidence},
};
pub use words::Report;

use std::num::NonZeroU32;

impl Arm {
    /// Both together; at the end of `u64` it stays there.
    fn plus(self, other: Self) -> Self {
        Self { requests: self.requests.saturating_add(other.requests), failures: self.failures.saturating_add(other.failures) }
    }

    fn succeeded(self) -> u64 {
        self.requests - self.failures
    }
}

/// What both versions did between the same two edges. Neither has more failures than requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    canary: Arm,
    stable: Arm,
}

/// Numbers that cannot have been counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{version} has {} failures of {} requests: read both counters at the same moment", counted.failures, counted.requests)]
pub struct Miscounted {
    version: &'static str,
    counted: Arm,
}

impl Interval {
    pub fn new(canary: Arm, stable: Arm) -> Result<Self, Miscounted> {
        let versions = [("the canary", canary), ("stable", stable)];
        match versions.into_iter().find(|(_, arm)| arm.failures > arm.requests) {
            Some((version, counted)) => Err(Miscounted { version, counted }),
            None => Ok(Self { canary, stable }),
        }
    }

    pub fn canary(&self) -> Arm {
        self.canary
    }

    pub fn stable(&self) -> Arm {
        self.stable
    }

    /// Both versions had requests: without that there is nothing to compare.
    fn compares(&self) -> bool {
        self.canary.requests > 0 && self.stable.requests > 0
    }

    fn failures(&self) -> f64 {
        self.canary.failures as f64 + self.stable.failures as f64
    }
}

/// How many times as often as stable the canary may fail.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Ratio(f64);

/// The accepted risk: the chance that a canary that is within the tolerance is aborted all the same, by any of the streams that share it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorBudget(f64);

/// A parameter that has no meaning, and what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum BadParameter {
    #[error("{0} is not a number from 1 to {max}: write 1.25 for a canary that may fail a quarter more often than stable", max = Ratio::MAX)]
    Ratio(f64),
    #[error("{0} is not a share above 0 and below 1: write 0.05 for at most one good version in twenty")]
    ErrorBudget(f64),
}

impl Ratio {
    /// A canary that is worse by more is beyond every tolerance.
    const MAX: f64 = 1000.0;

    pub fn parse(value: f64) -> Result<Self, BadParameter> {
        if (1.0..=Self::MAX).contains(&value) { Ok(Self(value)) } else { Err(BadParameter::Ratio(value)) }
    }

    pub fn get(self) -> f64 {
        self.0
    }
}

impl ErrorBudget {
    pub fn parse(value: f64) -> Result<Self, BadParameter> {
        if value > 0.0 && value < 1.0 { Ok(Self(value)) } else { Err(BadParameter::ErrorBudget(value)) }
    }

    /// What the evidence of each of so many streams must reach. Sharing holds however the streams depend on each other.
    pub fn threshold(self, streams: NonZeroU32) -> Threshold {
        Threshold(f64::from(streams.get()).ln() - self.0.ln())
    }
}

/// Evidence that decides, as a logarithm: ln 20 for odds of 1 in 20.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Threshold(f64);

impl Threshold {
    pub fn ln(self) -> f64 {
        self.0
    }
}

/// What evidence is sought for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Claim {
    /// The canary fails more than `tolerate` times as often as stable: evidence aborts.
    Worse { tolerate: Ratio, method: Method },
    /// The canary fails less than `at_most` times as often as stable: evidence ends a step early.
    NotWorse { at_most: Ratio },
}

/// Bets that run beside each other. Which of them gains depends on how much worse the canary is, so each gets the same part of the wealth.
const BETS: usize = 6;

impl Claim {
    /// By what an interval multiplies the wealth of each bet, as logarithms. `None`: it says nothing, since one version had no requests or
    /// neither had a failure.
    fn log_factors(&self, interval: &Interval) -> Option<[f64; BETS]> {
        if !interval.compares() || interval.failures() == 0.0 {
            return None;
        }
        let Interval { canary, stable } = *interval;
        Some(match *self {
            Self::Worse { tolerate, method: Method::SharedBetting } => share_betting(canary, stable, tolerate.0),
            Self::Worse { tolerate, method: Method::IndependentFailures } => independent::log_factors(canary, stable, tolerate.0),
            // That the canary has `at_most` times stable's failures says of stable that it has 1/at_most times the canary's.
            Self::NotWorse { at_most } => share_betting(stable, canary, 1.0 / at_most.0),
        })
    }
}

/// How boldly each bet is placed. Small ones gain from a small difference in many intervals, large ones from a large difference at once.
const STAKES: [f64; BETS] = [5.0, 10.0, 20.0, 40.0, 80.0, 160.0];

/// Bets that `one` has more than `ratio` times the failures of `other` for its requests.
///
/// With `share` = one's share of the failures and `fair` = its expected share if the ratio is just `ratio`, the factor is
/// `(1 + stake * share) / (1 + stake * fair)`. Its expectation is at most 1 exactly when that of `share` is at most `fair`; nothing else is
/// assumed. It is the bet `1 + c * (share / fair - 1)` that puts in `c = stake * fair / (1 + stake * fair)` of the wealth: less where `one` has a
/// small part of the traffic, and its share depends more on chance.
fn share_betting(one: Arm, other: Arm, ratio: f64) -> [f64; BETS] {
    let expected = ratio * one.requests as f64;
    let fair = expected / (expected + other.requests as f64);
    let failures = one.failures as f64;
    let share = failures / (failures + other.failures as f64);
    STAKES.map(|stake| (stake * share).ln_1p() - (stake * fair).ln_1p())
}

#[cfg(test)]
mod tests;
