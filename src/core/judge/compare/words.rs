//! What a comparison has found, in one sentence.

use std::fmt;

use jiff::SignedDuration;

use super::{Arm, Claim, Ratio, Threshold};
use crate::core::{
    judge::{count, words::number},
    source::Unit,
};

/// All that is said about a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What counts as a failure, as in "the canary fails": `fails`, `is slower than 250 ms`.
    pub fails: &'a str,
    pub claim: Claim,
    pub canary: Arm,
    pub stable: Arm,
    pub log_e: f64,
    pub threshold: Threshold,
    /// Time from the first interval's beginning to the last one's end.
    pub after: SignedDuration,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.canary.requests == 0 || self.stable.requests == 0 {
            return f.write_str("there is no interval yet in which both versions had requests");
        }
        let (found, after) = (self.found(), time(self.after));
        let limit = |ratio: Ratio| number(ratio.get(), Unit::None, &[]);
        let (doubted, sought) = match self.claim {
            Claim::Worse { tolerate, .. } => ("that being chance".to_owned(), format!("more than {} times", limit(tolerate))),
            Claim::NotWorse { at_most } => {
                (format!("it being {} times or more", limit(at_most)), format!("less than {} times", limit(at_most)))
            }
        };
        if self.log_e >= self.threshold.ln() {
            return write!(f, "{found}; the odds against {doubted} passed {} after {after}", odds(self.threshold.ln()));
        }
        let needed = odds(self.threshold.ln());
        match self.log_e >= 2.0_f64.ln() {
            true => write!(f, "{found}; the odds against {doubted} are {} after {after}, and {needed} is needed", odds(self.log_e)),
            false => write!(f, "{found}; after {after} there is no evidence that it is {sought}"),
        }
    }
}

impl Report<'_> {
    fn found(&self) -> String {
        let Self { fails, canary, stable, .. } = self;
        let [bad, of, stable_bad, stable_of] =
            [canary.failures, canary.requests, stable.failures, stable.requests].map(|number| count(number as f64));
        if canary.failures == 0 || stable.failures == 0 {
            return format!("canary {fails} in {bad} of {of} requests, stable in {stable_bad} of {stable_of}");
        }
        let times = canary.failures as f64 / canary.requests as f64 / (stable.failures as f64 / stable.requests as f64);
        format!("canary {fails} {} times as often as stable ({bad} of {of} against {stable_bad} of {stable_of})", ratio(times))
    }
}

/// Two digits are as many as it is known to.
fn ratio(times: f64) -> String {
    let digits = if times >= 10.0 {
        0
    } else if times >= 2.0 {
        1
    } else {
        2
    };
    number(format!("{times:.digits$}").parse().unwrap_or(times), Unit::None, &[])
}

/// `1 in 20`. Beyond a billion the number says no more.
fn odds(log: f64) -> String {
    format!("1 in {}", count(log.min(1e9_f64.ln()).exp()))
}

fn time(span: SignedDuration) -> String {
    let seconds = span.as_secs();
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, 0) => format!("{minutes} min"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}
