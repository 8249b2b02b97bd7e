//! Counters: what was counted between two edges, by the canary and by stable.
//!
//! Only differences of counters say how many requests there were. So numbers that no counter can have (fractions, NaN, below zero) are an
//! error here, and what is not known at both edges is left out.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    analysis::{ErrorKind, ProviderError},
    histogram::quantile,
    judge::{
        Sample,
        compare::{Arm, latency::Latencies},
    },
    source::{Numerator, What},
};

/// What one source, or one version, counts: by the names of what a metric uses (or the bounds of its histogram).
pub type Counters = BTreeMap<String, f64>;

pub const NUMERATOR: &str = "numerator";
pub const DENOMINATOR: &str = "denominator";

/// Beyond this, neighbouring whole numbers are the same number.
const MOST: f64 = 9_007_199_254_740_992.0;

/// What one version did between two edges.
#[derive(Clone, Debug, PartialEq)]
pub enum Counted {
    Requests(Arm),
    Latencies(Latencies),
}

impl Counted {
    pub fn requests(&self) -> u64 {
        match self {
            Self::Requests(arm) => arm.requests,
            Self::Latencies(latencies) => latencies.requests(),
        }
    }
}

/// What a look at both versions has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Begin of the interval. `None`: nothing was read before, so the first interval begins now.
    pub since: Option<Timestamp>,
    pub until: Timestamp,
    /// What the canary did. `None`: it had no counters at the begin or at the end.
    pub canary: Option<Counted>,
    /// The same of stable.
    pub stable: Option<Counted>,
    /// Why the numbers may look better than the truth.
    pub caveat: Option<String>,
}

impl Look {
    /// From what the counters of each version have grown by.
    pub fn new(
        (since, until): (Option<Timestamp>, Timestamp),
        (what, numerator): (&What, Numerator),
        [canary, stable]: [Option<Counters>; 2],
    ) -> Result<Self, ProviderError> {
        let lacks_numerator = |counters: &Option<Counters>| counters.as_ref().is_none_or(|counters| !counters.contains_key(NUMERATOR));
        let ratio = matches!(what, What::Ratio { .. });
        let caveat = (ratio && since.is_some() && lacks_numerator(&canary) && lacks_numerator(&stable)).then(|| {
            "the numerator has no series, of neither version: is its name right? A counter that begins with the first failure must be exposed as 0 before".to_owned()
        });
        let counted = |counters: Option<Counters>| counters.map_or(Ok(None), |counters| counted(what, numerator, &counters));
        Ok(Self { since, until, canary: counted(canary)?, stable: counted(stable)?, caveat })
    }

    /// The canary's number, for limits that stand beside the comparison.
    pub fn sample(&self, what: &What, numerator: Numerator) -> Result<Sample, ProviderError> {
        let sample = match (&self.canary, what) {
            (Some(Counted::Requests(arm)), _) => {
                let wanted = if numerator == Numerator::Successes { arm.requests - arm.failures } else { arm.failures };
                ratio(Some(wanted as f64), Some(arm.requests as f64), "")
            }
            (Some(Counted::Latencies(latencies)), What::Quantile { quantile, scale, .. }) => {
                quantile_sample(*quantile, *scale, &latencies.buckets())?
            }
            _ => Sample::default(),
        };
        Ok(Sample { caveat: self.caveat.clone().or(sample.caveat), ..sample })
    }
}

fn counted(what: &What, numerator: Numerator, counters: &Counters) -> Result<Option<Counted>, ProviderError> {
    let malformed = |why: String| ErrorKind::Malformed.error(why);
    if let What::Quantile { .. } = what {
        let bucket = |(le, count): (&String, &f64)| Ok((le.parse().unwrap_or(f64::NAN), whole(*count)?));
        let buckets = counters.iter().map(bucket).collect::<Result<Vec<(f64, u64)>, ProviderError>>()?;
        let latencies = || Latencies::new(&buckets).map_err(|error| malformed(error.to_string()));
        return if buckets.is_empty() { Ok(None) } else { Ok(Some(Counted::Latencies(latencies()?))) };
    }
    let Some(requests) = counters.get(DENOMINATOR) else { return Ok(None) };
    let (requests, selected) = (whole(*requests)?, whole(counters.get(NUMERATOR).copied().unwrap_or(0.0))?);
    if selected > requests {
        return Err(malformed(format!(
            "the numerator counts {selected} of {requests} requests: it must count some of those of the denominator"
        )));
    }
    let failures = if numerator == Numerator::Successes { requests - selected } else { selected };
    Ok(Some(Counted::Requests(Arm { requests, failures })))
}

fn whole(count: f64) -> Result<u64, ProviderError> {
    match (0.0..=MOST).contains(&count) && count.fract() == 0.0 {
        true => Ok(count as u64),
        false => Err(ErrorKind::Malformed.error(format!("{count} is no number of requests: compare needs counters of requests"))),
    }
}

/// A share in percent. Without a numerator it is 0, but nobody knows whether that is so, or whether its name is wrong.
pub fn ratio(numerator: Option<f64>, denominator: Option<f64>, hint: &str) -> Sample {
    let Some(denominator) = denominator else { return Sample::default() };
    let values = vec![100.0 * numerator.unwrap_or(0.0) / denominator];
    let caveat = numerator.is_none().then(|| format!("the numerator has no series: is its name right? {hint}"));
    Sample { values, samples: Some(denominator), caveat }
}

/// The quantile of buckets as a sample. No bucket, no data.
pub fn quantile_sample(q: f64, scale: f64, buckets: &[(f64, f64)]) -> Result<Sample, ProviderError> {
    if buckets.is_empty() {
        return Ok(Sample::default());
    }
    let mut sum: Vec<(f64, f64)> = Vec::new();
    for (bound, count) in buckets {
        match sum.iter_mut().find(|(known, _)| known == bound) {
            Some((_, total)) => *total += count,
            None => sum.push((*bound, *count)),
        }
    }
    let found = quantile(q, &sum).map_err(|error| ErrorKind::Malformed.error(error.to_string()))?;
    let value = found.value * scale;
    let caveat = found.beyond.then(|| format!("the quantile {q} lies above the histogram's largest bound, {value}: nobody knows how far"));
    Ok(Sample { values: vec![value], samples: Some(found.samples), caveat })
}

/// What was counted between two readings of several sources. A source that counts less than before has started again, so all its counters
/// count from 0, as do those of a source that is new. What a source counted before it vanished is lost.
pub fn increase(previous: &BTreeMap<String, Counters>, current: &BTreeMap<String, Counters>) -> Counters {
    let mut total = Counters::new();
    for (name, counters) in current {
        let before = |key: &str| previous.get(name).and_then(|counters| counters.get(key)).copied().unwrap_or(0.0);
        let restarted = counters.iter().any(|(key, count)| *count < before(key));
        for (key, count) in counters {
            *total.entry(key.clone()).or_default() += if restarted { *count } else { count - before(key) };
        }
    }
    total
}

/// The same, of those sources alone that were read before: when another one has begun to count, nobody knows. `None`: there is none.
pub fn known_increase(previous: &BTreeMap<String, Counters>, current: &BTreeMap<String, Counters>) -> Option<Counters> {
    let known: BTreeMap<String, Counters> =
        current.iter().filter(|(name, _)| previous.contains_key(*name)).map(|(name, counters)| (name.clone(), counters.clone())).collect();
    (!known.is_empty()).then(|| increase(previous, &known))
}

/// One series as Prometheus keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub labels: BTreeMap<String, String>,
    /// Seconds since 1970 and values, in their order.
    pub samples: Vec<(f64, f64)>,
}

/// The process whose counters they are, as Prometheus names it.
type Process = (String, String);

impl Series {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// The same with the samples after one moment, up to another. `None`: there are none.
    pub fn within(&self, after: f64, until: f64) -> Option<Self> {
        let begin = self.samples.partition_point(|(at, _)| *at <= after);
        let end = self.samples.partition_point(|(at, _)| *at <= until);
        (begin < end).then(|| Self { labels: self.labels.clone(), samples: self.samples[begin..end].to_vec() })
    }

    fn process(&self) -> Process {
        let label = |name| self.label(name).unwrap_or_default().to_owned();
        (label("job"), label("instance"))
    }

    /// What was counted between two edges, through restarts. A series that has no sample at the first edge counts from 0 if its process was
    /// known then, else from its first sample on. `None`: there is nothing at the last edge.
    pub fn increase(&self, since: f64, until: f64, known: &BTreeSet<Process>) -> Option<f64> {
        let at_begin = self.samples.iter().rev().find(|(at, _)| *at <= since).map(|(_, value)| *value);
        let mut within = self.samples.iter().filter(|(at, _)| *at > since && *at <= until).map(|(_, value)| *value);
        let mut last = match at_begin {
            Some(value) => value,
            None if known.contains(&self.process()) => 0.0,
            None => within.next()?,
        };
        let mut total = 0.0;
        for value in within {
            total += if value < last { value } else { value - last };
            last = value;
        }
        Some(total)
    }
}

/// The processes that are known at an edge.
pub fn processes(series: &[Series], at: f64) -> BTreeSet<Process> {
    series.iter().filter(|series| series.samples.iter().any(|(time, _)| *time <= at)).map(Series::process).collect()
}

#[cfg(test)]
mod tests;
