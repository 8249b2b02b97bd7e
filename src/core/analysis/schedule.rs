//! When a metric is measured: at begin + first + k * interval, where begin is the first whole second that is not before `startedAt`. So
//! windows end at whole seconds, and runs that ask the same at the same time can share the answer.

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
    let begin = whole_second(status.started_at.as_ref()?.0);
    let known = result(status, metric);
    if status.phase.is_final() || known.is_some_and(|known| known.phase != RunPhase::Running) {
        return None;
    }
    let first = begin + first(metric);
    Some(match known.and_then(last_look) {
        Some(last) if last >= first => first + whole(last.duration_since(first), interval(metric)) + interval(metric),
        _ => first,
    })
}

/// The first whole second that is not before a time.
fn whole_second(time: Timestamp) -> Timestamp {
    let rest = time.as_nanosecond().rem_euclid(1_000_000_000);
    let missing = if rest == 0 { 0 } else { 1_000_000_000 - rest };
    time.saturating_add(SignedDuration::from_nanos(i64::try_from(missing).unwrap_or(0))).unwrap_or(time)
}

/// Time from the begin to the first look: the initial delay; where two readings of counters are needed, one interval earlier, so that the
/// first window ends at the initial delay.
fn first(metric: &Metric) -> SignedDuration {
    let delay = metric.initial_delay.as_ref().map_or(interval(metric), |delay| delay.get());
    match needs_two_readings(metric) {
        true => (delay - interval(metric)).max(SignedDuration::ZERO),
        false => delay,
    }
}

fn needs_two_readings(metric: &Metric) -> bool {
    metric.compare.is_some() || metric.scrape.as_ref().is_some_and(|scrape| scrape.value.is_none())
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
