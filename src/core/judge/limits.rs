//! `min` and `max`.

use super::{not_a_number, words::number};
use crate::{
    api::{Metric, Verdict},
    core::source::{Fault, Unit},
};

/// The value must lie between these, both included. At least one is set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Limits {
    min: Option<f64>,
    max: Option<f64>,
}

impl Limits {
    pub fn parse(metric: &Metric) -> Result<Self, Vec<Fault>> {
        let fault = |field: &str, message: &str| Err(vec![(field.to_owned(), message.to_owned())]);
        match (metric.min, metric.max) {
            (Some(min), _) if !min.is_finite() => fault("min", "min must be a number"),
            (_, Some(max)) if !max.is_finite() => fault("max", "max must be a number"),
            (Some(min), Some(max)) if min > max => fault("min", "min must not be greater than max"),
            (min, max) => Ok(Self { min, max }),
        }
    }

    pub fn words(&self, unit: Unit) -> String {
        match (self.min, self.max) {
            (Some(min), Some(max)) => format!("between {} and {}", number(min, unit, &[]), number(max, unit, &[])),
            (Some(min), None) => format!("at least {}", number(min, unit, &[])),
            (_, max) => format!("at most {}", number(max.unwrap_or(f64::INFINITY), unit, &[])),
        }
    }

    /// One number out of bounds is a Fail, whatever the others are; without one, one that is no number is NoData.
    pub fn judge(&self, values: &[f64], unit: Unit, requests: &str) -> (Verdict, String) {
        let out = values.iter().filter(|value| value.is_finite()).find_map(|value| {
            let words = |limit| (number(*value, unit, &[limit]), number(limit, unit, &[*value]));
            let low = self.min.filter(|min| value < min).map(words).map(|(value, min)| format!("{value} is below the minimum of {min}"));
            low.or_else(|| {
                self.max.filter(|max| value > max).map(words).map(|(value, max)| format!("{value} is above the maximum of {max}"))
            })
        });
        match (out, not_a_number(values)) {
            (Some(message), _) => (Verdict::Fail, format!("{message}{requests}")),
            (None, Some(message)) => (Verdict::NoData, message),
            (None, None) => (Verdict::Pass, format!("{} is {}{requests}", super::list(values, unit), self.words(unit))),
        }
    }
}
