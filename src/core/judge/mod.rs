//! Verdicts from numbers.
//!
//! A verdict needs evidence (promise S8): what is empty, NaN, infinite or made from too few requests is `NoData`; what the judge cannot
//! decide is `Inconclusive`. Only finite numbers from enough requests can pass.

pub mod compare;
mod comparison;
mod expression;
mod limits;
mod words;

pub use comparison::Sought;
pub use words::{count, list};

use super::{
    counters::Look,
    source::{Fault, Source, Surroundings, Unit},
};
use crate::api::{Metric, Verdict, run::Compared};

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
#[derive(Clone, Debug, PartialEq)]
enum Expectation {
    Limits(limits::Limits),
    Expression(expression::Conditions),
}

/// A metric's judge. At least one of its two parts is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Judge {
    /// Of the canary's number by itself.
    expectation: Option<Expectation>,
    /// Of the canary beside stable.
    comparison: Option<comparison::Comparison>,
    unit: Unit,
    /// At least this many requests, where their number is known.
    min_samples: f64,
}

impl Judge {
    /// The judge of a metric whose number comes from `source`. All faults are found, not only the first.
    pub fn parse(metric: &Metric, source: &Source) -> Result<Self, Vec<Fault>> {
        let limits = metric.min.is_some() || metric.max.is_some();
        let conditions = metric.success_condition.is_some() || metric.failure_condition.is_some();
        let expectation = match (limits, conditions, &metric.compare) {
            (true, false, _) => Some(Expectation::Limits(limits::Limits::parse(metric)?)),
            (false, true, None) => Some(Expectation::Expression(expression::Conditions::parse(metric)?)),
            (false, false, Some(_)) => None,
            _ => {
                let message = "a metric needs one judge: compare (min and max may stand beside it), or min and/or max, or successCondition and/or failureCondition";
                return Err(vec![("min".to_owned(), message.to_owned())]);
            }
        };
        let comparison = metric.compare.as_ref().map(|written| comparison::Comparison::parse(written, source)).transpose()?;
        let min_samples = f64::from(metric.min_samples.unwrap_or(DEFAULT_MIN_SAMPLES));
        Ok(Self { expectation, comparison, unit: source.unit, min_samples })
    }

    /// What is expected, in words.
    pub fn limit(&self) -> String {
        let expected = self.expectation.as_ref().map(|expectation| match expectation {
            Expectation::Limits(limits) => limits.words(self.unit),
            Expectation::Expression(conditions) => conditions.words(),
        });
        self.comparison.iter().map(comparison::Comparison::words).chain(expected).collect::<Vec<_>>().join("; ")
    }

    /// The verdict on a look at both versions, by what was found so far; `sample` is the canary's number. The worst word counts, that of
    /// the comparison first. `None`: this look says nothing.
    pub fn compare(&self, known: &mut Option<Compared>, look: &Look, sample: &Sample, sought: Sought<'_>) -> Option<Judged> {
        let found = self.comparison.as_ref().and_then(|comparison| comparison.take_in(known, look, sought, self.unit));
        let found = found.map(|(verdict, message)| match (verdict, &sample.caveat, known.as_ref().map_or(0, comparison::compared)) {
            (Verdict::Pass, Some(caveat), _) => (Verdict::NoData, caveat.clone()),
            (Verdict::Pass, None, requests) if self.expectation.is_none() && (requests as f64) < self.min_samples => {
                let least = count(self.min_samples);
                let requests = count(requests as f64);
                let message = format!("only {requests} requests of the canary were compared, at least {least} are needed (minSamples)");
                (Verdict::NoData, message)
            }
            (verdict, ..) => (verdict, message),
        });
        // Without an interval there is no number of the canary's either.
        let absolute = (self.expectation.is_some() && look.since.is_some() && look.canary.is_some()).then(|| self.judge(sample));
        let value = (!sample.values.is_empty()).then(|| list(&sample.values, self.unit));
        let found = found.map(|(verdict, message)| Judged { verdict, value, limit: self.limit(), message });
        match (found, absolute) {
            (Some(found), Some(absolute)) if found.verdict == Verdict::Pass && absolute.verdict == Verdict::Pass => {
                Some(Judged { message: format!("{}; {}", found.message, absolute.message), ..absolute })
            }
            (Some(found), Some(absolute)) => Some(if gravity(absolute.verdict) > gravity(found.verdict) { absolute } else { found }),
            (one, other) => one.or(other),
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
            Some(Expectation::Limits(limits)) => limits.judge(&sample.values, self.unit, requests),
            Some(Expectation::Expression(conditions)) => conditions.judge(&sample.values, self.unit, requests),
            None => (Verdict::Inconclusive, "the metric compares two versions, and one number is of one of them".to_owned()),
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

/// Of two verdicts on the same look the graver one counts.
fn gravity(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Pass => 0,
        Verdict::NoData => 1,
        Verdict::ProviderError => 2,
        Verdict::Inconclusive => 3,
        Verdict::Fail => 4,
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
