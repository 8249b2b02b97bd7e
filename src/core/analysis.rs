//! The life of an AnalysisRun, as pure functions of its spec, its status and the time.
//!
//! [`start`], then again and again [`due`] (which metrics must be measured now), measure, [`record`]; [`next_wake`] says when to look
//! again. The times of measurements derive from `startedAt` alone, so a restart neither shifts nor forgets them; what was missed is not
//! made up for. [`evidence_since`] and [`closed`] are what a Rollout asks before it gives a canary more traffic, or promotes it.

mod gate;
mod origin;
mod record;
mod resolve;
mod schedule;

use std::{collections::BTreeMap, num::NonZeroU32};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use thiserror::Error;

use super::{
    counters::Look,
    judge::{Judge, Sample},
    query::{Scope, Values},
    source::{Fault, Source, Surroundings},
};
use crate::api::{
    AnalysisRunSpec, AnalysisRunStatus, Metric,
    run::{MetricResult, Reading},
};

pub use gate::{can_prove, closed, evidence_since, proven};
pub use origin::{SecretsOf, origin};
pub use record::{cancel, record, start, unreadable};
pub use resolve::{Resolved, inline_args, resolve};
pub use schedule::{due, next_wake};

/// Time between two measurements, where the metric does not say.
pub const DEFAULT_INTERVAL: SignedDuration = SignedDuration::from_secs(30);
/// Shortest time between two measurements.
pub const MIN_INTERVAL: SignedDuration = SignedDuration::from_secs(1);

/// What a metric may take for granted: of the installation, and of its Rollout.
#[derive(Debug, Default)]
pub struct Defaults {
    /// Sluice was installed with the address of a Prometheus server.
    pub prometheus_address: bool,
    /// The Rollout has no `traffic`, and so no Services to ask about.
    pub without_traffic: bool,
}

/// What a measurement has found, before it is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The queries as they were sent.
    pub queries: Vec<String>,
    /// The numbers. `None`: counters have been read, but there is no earlier reading to compare them with.
    pub result: Result<Option<Sample>, ProviderError>,
    /// Begin of the window, where it is not one interval.
    pub since: Option<Timestamp>,
    /// The counters as they are now: the begin of the next window.
    pub reading: Option<Reading>,
    /// What both versions did, where they are compared.
    pub look: Option<Look>,
}

/// Why a provider has no answer that is usable. The kind is a label of our own metrics, the words are for people.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{message}")]
pub struct ProviderError {
    pub kind: ErrorKind,
    pub message: String,
}

/// What went wrong with a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The metric cannot be asked as it is written.
    Invalid,
    /// No credentials: the Secret is missing, or may not be used.
    Secret,
    /// The address is one that may not be asked.
    Forbidden,
    /// Nobody answers.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The answer is an error.
    Refused,
    /// The answer is incomplete (`warnings`).
    Partial,
    /// The answer is too large.
    TooLarge,
    /// The answer is not understood.
    Malformed,
}

impl ErrorKind {
    pub fn label(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Secret => "secret",
            Self::Forbidden => "forbidden",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Partial => "partial",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
        }
    }

    pub fn error(self, message: impl Into<String>) -> ProviderError {
        ProviderError { kind: self, message: message.into() }
    }
}

/// Fields (below the metric) that are wrong, and how to mend them. `args`: `None` where they are not known yet.
pub fn validate_metric(metric: &Metric, defaults: &Defaults, args: Option<&BTreeMap<String, String>>) -> Result<(), Vec<Fault>> {
    let scope = Scope { traffic: !defaults.without_traffic, args: args.cloned() };
    check(metric, &Surroundings { prometheus: defaults.prometheus_address, scope }).map(drop)
}

/// A metric's source and judge; or everything that is wrong with it.
fn check(metric: &Metric, surroundings: &Surroundings) -> Result<(Source, Judge), Vec<Fault>> {
    let mut faults = Vec::new();
    if metric.interval.as_ref().is_some_and(|interval| interval.get() < MIN_INTERVAL) {
        faults.push(("interval".to_owned(), "the interval must be at least 1s".to_owned()));
    }
    let checked = Source::parse(metric, surroundings).and_then(|source| Judge::parse(metric, &source).map(|judge| (source, judge)));
    match checked {
        Ok(checked) if faults.is_empty() => Ok(checked),
        checked => {
            faults.extend(checked.err().into_iter().flatten());
            Err(faults)
        }
    }
}

/// The source of a run's metric; or what is wrong, in one line.
pub fn source(spec: &AnalysisRunSpec, metric: &Metric, prometheus: bool) -> Result<Source, String> {
    check(metric, &surroundings(spec, prometheus)).map(|(source, _)| source).map_err(|faults| words(&faults))
}

/// The values of the variables in a run's queries.
pub fn values(namespace: &str, spec: &AnalysisRunSpec, metric: &Metric) -> Values {
    Values {
        namespace: namespace.to_owned(),
        rollout: spec.rollout.clone(),
        service: spec.service.clone(),
        canary_service: spec.canary_service.clone(),
        stable_hash: spec.stable_hash.clone(),
        canary_hash: spec.canary_hash.clone(),
        interval: interval(metric),
        args: spec.args.clone(),
    }
}

/// What is known of a metric in a run's status.
pub fn result<'a>(status: &'a AnalysisRunStatus, metric: &Metric) -> Option<&'a MetricResult> {
    status.metric_results.iter().find(|result| result.name == metric.name)
}

/// The comparisons that share the accepted risk of a false abort.
fn streams(spec: &AnalysisRunSpec) -> NonZeroU32 {
    let of_run = || u32::try_from(spec.metrics.iter().filter(|metric| shares_risk(metric)).count()).unwrap_or(u32::MAX);
    let told = spec.comparisons.and_then(|told| u32::try_from(told).ok());
    NonZeroU32::new(told.unwrap_or_else(of_run)).unwrap_or(NonZeroU32::MIN)
}

/// Whether a metric can abort a version by comparison.
pub fn shares_risk(metric: &Metric) -> bool {
    metric.compare.is_some() && !metric.dry_run
}

fn surroundings(spec: &AnalysisRunSpec, prometheus: bool) -> Surroundings {
    Surroundings { prometheus, scope: Scope { traffic: spec.canary_service.is_some(), args: Some(spec.args.clone()) } }
}

fn interval(metric: &Metric) -> SignedDuration {
    metric.interval.as_ref().map_or(DEFAULT_INTERVAL, |interval| interval.get()).max(MIN_INTERVAL)
}

fn words(faults: &[Fault]) -> String {
    faults.iter().map(|(field, message)| format!("{field}: {message}")).collect::<Vec<_>>().join("; ")
}

/// As exact as the API keeps it, so that a time compares the same before and after it was written.
fn micro(time: Timestamp) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time))
}

#[cfg(test)]
mod tests;
