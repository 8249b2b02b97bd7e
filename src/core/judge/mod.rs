//! Verdicts from numbers.
//!
//! A verdict needs evidence (promise S8): what is empty, NaN, infinite or made from too few requests is `NoData`; what the judge cannot
//! decide is `Inconclusive`. Only finite numbers from enough requests can pass.

pub mod compare;
mod expression;
mod limits;
mod words;

pub use words::{count, list};

use super::source::{Fault, Source, Surroundings, Unit};
use crate::api::{Metric, Verdict};

/// Ratios and quantiles need this many requests, unless the metric says otherwise.
pub const DEFAULT_MIN_SAMPLES: i32 = 100;

/// What a provider has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// One number, or one for each series. Empty: there was no data.
    pub values: Vec<f64>,
    /// Number of requests that the values are made from, where it is known.
    pub samples: Option<f64>,
    /// Why the values may look better than the truth: a sample with a caveat can fail, but it cannot pass.
    pub caveat: Option<String>,
}

impl Sample {
    /// A single number.
    pub fn of(value: f64) -> Self {
        Self { values: vec![value], ..Self::default() }
    }
}

/// A verdict, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    pub verdict: Verdict,
    /// The value in words, with its unit.
    pub value: Option<String>,
    /// What was expected, in words.
    pub limit: String,
    /// The verdict in words.
    pub message: String,
}

/// What is expected of a metric's number.
///
/// A later variant compares the canary with stable (`compare`): it will take samples of both, and the state of its sequential test.
#[derive(Clone, Debug, PartialEq)]
enum Expectation {
    Limits(limits::Limits),
    Expression(expression::Conditions),
}

/// A metric's judge.
#[derive(Clone, Debug, PartialEq)]
pub struct Judge {
    expectation: Expectation,
    unit: Unit,
    /// At least this many requests, where their number is known.
    min_samples: f64,
}

impl Judge {
    /// The judge of a metric whose number comes from `source`. All faults are found, not only the first.
    pub fn parse(metric: &Metric, source: &Source) -> Result<Self, Vec<Fault>> {
        let limits = metric.min.is_some() || metric.max.is_some();
        let conditions = metric.success_condition.is_some() || metric.failure_condition.is_some();
        let expectation = match (limits, conditions) {
            (true, false) => Expectation::Limits(limits::Limits::parse(metric)?),
            (false, true) => Expectation::Expression(expression::Conditions::parse(metric)?),
            _ => {
                let message = "a metric needs one judge: min and/or max, or successCondition and/or failureCondition";
                return Err(vec![("min".to_owned(), message.to_owned())]);
            }
        };
        let min_samples = f64::from(metric.min_samples.unwrap_or(DEFAULT_MIN_SAMPLES));
        Ok(Self { expectation, unit: source.unit, min_samples })
    }

    /// What is expected, in words.
    pub fn limit(&self) -> String {
        match &self.expectation {
            Expectation::Limits(limits) => limits.words(self.unit),
            Expectation::Expression(conditions) => conditions.words(),
        }
    }

    /// The verdict on a sample.
    pub fn judge(&self, sample: &Sample) -> Judged {
        let requests = sample.samples.map(|samples| format!(" ({} requests)", count(samples))).unwrap_or_default();
        let (verdict, message) = self.verdict(sample, &requests);
        let (verdict, message) = match &sample.caveat {
            Some(caveat) if verdict == Verdict::Pass => (Verdict::NoData, caveat.clone()),
            _ => (verdict, message),
        };
        let value = (!sample.values.is_empty()).then(|| list(&sample.values, self.unit));
        Judged { verdict, value, limit: self.limit(), message }
    }

    fn verdict(&self, sample: &Sample, requests: &str) -> (Verdict, String) {
        match sample.samples {
            Some(samples) if !samples.is_finite() || samples < 0.0 => {
                return (Verdict::NoData, format!("the number of requests is {samples}: that is no number of requests"));
            }
            // Rounded, because Prometheus extrapolates: 99.6 are the 100 that they are shown as.
            Some(samples) if samples.round() < self.min_samples.max(1.0) => {
                let least = count(self.min_samples.max(1.0));
                return (
                    Verdict::NoData,
                    format!("only {} requests in the window, at least {least} are needed (minSamples)", count(samples)),
                );
            }
            _ => {}
        }
        if sample.values.is_empty() {
            return (Verdict::NoData, "the answer is empty: no series matches".to_owned());
        }
        match &self.expectation {
            Expectation::Limits(limits) => limits.judge(&sample.values, self.unit, requests),
            Expectation::Expression(conditions) => conditions.judge(&sample.values, self.unit, requests),
        }
    }
}

/// The verdict on a sample of a metric. A metric that is not valid cannot be judged: `Inconclusive`, with the reason.
pub fn judge(metric: &Metric, surroundings: &Surroundings, sample: &Sample) -> Judged {
    match Source::parse(metric, surroundings).and_then(|source| Judge::parse(metric, &source)) {
        Ok(judge) => judge.judge(sample),
        Err(faults) => {
            let message = faults.iter().map(|(field, message)| format!("{field}: {message}")).collect::<Vec<_>>().join("; ");
            Judged { verdict: Verdict::Inconclusive, value: None, limit: "not known".to_owned(), message }
        }
    }
}

/// The first number that is none, in words.
fn not_a_number(values: &[f64]) -> Option<String> {
    let bad = values.iter().filter(|value| !value.is_finite()).count();
    let first = values.iter().find(|value| !value.is_finite())?;
    let name = if first.is_nan() { "NaN (no data)" } else { "infinite" };
    Some(if values.len() == 1 { format!("the value is {name}") } else { format!("{bad} of {} values are {name}", values.len()) })
}

#[cfg(test)]
mod tests;
