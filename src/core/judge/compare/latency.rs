//! Latencies: at each bound of a histogram, "slower than the bound" is a failure.
//!
//! Nothing is interpolated. The evidence is the mean over the bounds, which holds however they depend on each other.

use super::{Arm, Claim, Evidence, Interval, Threshold, evidence::log_mean};
pub use crate::api::run::{AtBound, LatencyEvidence};
use crate::core::histogram::HistogramError;

/// Most bounds that are compared, evenly chosen from those that there are: the state lives in a status.
const MAX_BOUNDS: usize = 32;

/// What one version's histogram counted between two edges.
#[derive(Clone, Debug, PartialEq)]
pub struct Latencies {
    requests: u64,
    /// Finite upper bounds, ascending, and the number of requests that were not slower.
    within: Vec<(f64, u64)>,
}

impl Latencies {
    /// From cumulative buckets, in any order. Counts that fall from one bucket to the next (because the buckets were not read at the same
    /// moment) are raised to their predecessor.
    pub fn new(buckets: &[(f64, u64)]) -> Result<Self, HistogramError> {
        if buckets.iter().any(|(bound, _)| bound.is_nan()) {
            return Err(HistogramError::NotANumber);
        }
        let mut within = buckets.to_vec();
        within.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut most = 0;
        for (_, count) in &mut within {
            most = most.max(*count);
            *count = most;
        }
        match within.pop() {
            Some((f64::INFINITY, _)) if within.is_empty() => Err(HistogramError::NoBounds),
            Some((f64::INFINITY, requests)) => Ok(Self { requests, within }),
            _ => Err(HistogramError::NoInfinity),
        }
    }

    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// The cumulative buckets: upper bound and count.
    pub fn buckets(&self) -> Vec<(f64, f64)> {
        self.within.iter().copied().chain([(f64::INFINITY, self.requests)]).map(|(le, count)| (le, count as f64)).collect()
    }

    /// Requests that were slower than the bound. `None`: the histogram has no such bound.
    fn slower_than(&self, bound: f64) -> Option<Arm> {
        let (_, within) = self.within.iter().find(|(le, _)| *le == bound)?;
        Some(Arm { requests: self.requests, failures: self.requests - within })
    }
}

/// The histograms of both versions have no bound in common that evidence is gathered at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the histograms of canary and stable have no bound in common: compare them again when both versions have the same buckets")]
pub struct NoCommonBounds;

impl LatencyEvidence {
    /// Takes in the next interval.
    pub fn consume(&mut self, canary: &Latencies, stable: &Latencies, claim: &Claim) -> Result<(), NoCommonBounds> {
        if self.bounds.is_empty() {
            let common: Vec<f64> = canary.within.iter().map(|(le, _)| *le).filter(|le| stable.slower_than(*le).is_some()).collect();
            let every = common.len().div_ceil(MAX_BOUNDS).max(1);
            self.bounds = common.into_iter().step_by(every).map(|le| AtBound { le, evidence: Evidence::default() }).collect();
        }
        let mut compared = false;
        for AtBound { le, evidence } in &mut self.bounds {
            if let (Some(canary), Some(stable)) = (canary.slower_than(*le), stable.slower_than(*le)) {
                evidence.consume(&Interval { canary, stable }, claim);
                compared = true;
            }
        }
        if compared { Ok(()) } else { Err(NoCommonBounds) }
    }

    /// The evidence as a logarithm.
    pub fn log_e(&self) -> f64 {
        log_mean(&self.bounds.iter().map(|bound| bound.evidence.log_e()).collect::<Vec<_>>())
    }

    /// The claim is as good as proven.
    pub fn reaches(&self, threshold: Threshold) -> bool {
        self.log_e() >= threshold.ln()
    }

    /// The bound that says most.
    pub fn strongest(&self) -> Option<&AtBound> {
        self.bounds.iter().max_by(|a, b| a.evidence.log_e().total_cmp(&b.evidence.log_e()))
    }
}
