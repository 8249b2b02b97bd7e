//! When a metric is measured: at `startedAt` + first + k * interval.

use jiff::{SignedDuration, Timestamp};

use super::{interval, result};
use crate::api::{AnalysisRunSpec, AnalysisRunStatus, Metric, RunPhase, run::MetricResult};

/// The indexes of the metrics that must be measured now.
pub fn due(spec: &AnalysisRunSpec, status: &AnalysisRunStatus, now: Timestamp) -> Vec<usize> {
    let is_due = |metric: &&Metric| next_look(metric, status).is_some_and(|at| at <= now);
    (0..).zip(&spec.metrics).filter(|(_, metric)| is_due(metric)).map(|(index, _)| index).collect()
}

/// When to look again: at the next measurement; at once (a time that is not after `now`) if something is due. `None`: the run has ended.
pub fn next_wake(spec: &AnalysisRunSpec, status: &AnalysisRunStatus, now: Timestamp) -> Option<Timestamp> {
    if status.phase.is_final() {
        return None;
    }
    if spec.terminate || status.started_at.is_none() {
        return Some(now);
    }
    spec.metrics.iter().filter_map(|metric| next_look(metric, status)).min()
}

/// The first of the metric's times that nobody has looked at yet.
pub(super) fn next_look(metric: &Metric, status: &AnalysisRunStatus) -> Option<Timestamp> {
    let started = status.started_at.as_ref()?.0;
    let known = result(status, metric);
    if status.phase.is_final() || known.is_some_and(|known| known.phase != RunPhase::Running) {
        return None;
    }
    let first = started + first(metric);
    Some(match known.and_then(last_look) {
        Some(last) if last >= first => first + whole(last.duration_since(first), interval(metric)) + interval(metric),
        _ => first,
    })
}

/// Time from the start to the first look: the initial delay; where two readings of counters are needed, one interval earlier, so that the
/// first window ends at the initial delay.
fn first(metric: &Metric) -> SignedDuration {
    let delay = metric.initial_delay.as_ref().map_or(interval(metric), |delay| delay.get());
    match needs_two_readings(metric) {
        true => (delay - interval(metric)).max(SignedDuration::ZERO),
        false => delay,
    }
}

fn needs_two_readings(metric: &Metric) -> bool {
    metric.scrape.as_ref().is_some_and(|scrape| scrape.value.is_none())
}

fn last_look(result: &MetricResult) -> Option<Timestamp> {
    let measured = result.measurements.last().map(|newest| newest.at.0);
    measured.max(result.last_reading.as_ref().map(|reading| reading.at.0))
}

/// The greatest multiple of the interval within a time.
fn whole(time: SignedDuration, interval: SignedDuration) -> SignedDuration {
    let rest = time.as_micros() % interval.as_micros().max(1);
    time - SignedDuration::from_micros(i64::try_from(rest).unwrap_or(0))
}
