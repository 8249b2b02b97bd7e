//! What measurements make of a run: counting, limits and policies.

use jiff::Timestamp;

use super::{Measured, check, interval, micro, streams, surroundings, words};
use crate::{
    api::{
        AnalysisRunSpec, AnalysisRunStatus, Metric, RunPhase, Verdict,
        analysis::{NoDataPolicy, ProviderErrorPolicy},
        run::{Measurement, MetricResult},
    },
    core::{
        counters::Look,
        judge::{Judge, Judged, Sample, Sought},
        observed::RunView,
        source::Source,
    },
};

/// Measurements that are kept for each metric.
const KEPT: usize = 20;
/// Characters of a query, and of a message, that are kept: an object must not grow without bound.
const QUERY: usize = 4096;
const MESSAGE: usize = 1024;
const CONSECUTIVE_ERRORS: i32 = 4;

/// A run that begins. A metric that cannot be measured as it is written ends it at once, as Inconclusive. `prometheus`: Sluice was
/// installed with the address of a server.
pub fn start(spec: &AnalysisRunSpec, prometheus: bool, now: Timestamp) -> AnalysisRunStatus {
    let at = micro(now);
    let surroundings = surroundings(spec, prometheus);
    let fault = spec.metrics.iter().filter(|metric| !metric.dry_run).find_map(|metric| {
        check(metric, &surroundings).err().map(|faults| format!("metric {} cannot be measured: {}", metric.name, words(&faults)))
    });
    let results = spec.metrics.iter().map(unmeasured).collect();
    let mut status = AnalysisRunStatus { started_at: Some(at), metric_results: results, ..AnalysisRunStatus::default() };
    match fault {
        Some(message) => end(&mut status, RunPhase::Inconclusive, message, now),
        None => status.message = progress(spec, &status),
    }
    status
}

fn unmeasured(metric: &Metric) -> MetricResult {
    MetricResult { name: metric.name.clone(), dry_run: metric.dry_run, ..MetricResult::default() }
}

/// The end of a run that cannot be read: Inconclusive, so that whoever waits for it asks a person. `None`: it can be, or has ended.
pub fn unreadable(run: &RunView, now: Timestamp) -> Option<AnalysisRunStatus> {
    let why = run.unreadable.as_ref().filter(|_| !run.status.phase.is_final() && !run.spec.terminate)?;
    let mut status = run.status.clone();
    end(&mut status, RunPhase::Inconclusive, why.to_string(), now);
    Some(status)
}

/// A run that nobody needs any more ends without a verdict; one that has ended stays as it is.
pub fn cancel(mut status: AnalysisRunStatus, now: Timestamp) -> AnalysisRunStatus {
    if !status.phase.is_final() {
        end(&mut status, RunPhase::Cancelled, "cancelled: nobody needs its verdict any more".to_owned(), now);
    }
    status
}

/// Takes in what was measured at `now`: pairs of a metric's index and what was found. The first metric that fails (or, if none does, is
/// inconclusive) ends the run. A run that has ended stays as it is.
pub fn record(
    spec: &AnalysisRunSpec,
    mut status: AnalysisRunStatus,
    measured: Vec<(usize, Measured)>,
    now: Timestamp,
) -> AnalysisRunStatus {
    if status.phase.is_final() {
        return status;
    }
    for (index, measured) in measured {
        let Some(metric) = spec.metrics.get(index) else { continue };
        let at = match status.metric_results.iter().position(|result| result.name == metric.name) {
            Some(at) => at,
            None => {
                status.metric_results.push(unmeasured(metric));
                status.metric_results.len() - 1
            }
        };
        let result = &mut status.metric_results[at];
        // It has been measured, so an address there was.
        let checked = check(metric, &surroundings(spec, true)).map_err(|faults| words(&faults));
        take_in(spec, metric, checked, result, measured, now);
        result.phase = phase(spec, metric, result);
    }
    conclude(spec, &mut status, now);
    status
}

fn take_in(
    spec: &AnalysisRunSpec,
    metric: &Metric,
    checked: Result<(Source, Judge), String>,
    result: &mut MetricResult,
    measured: Measured,
    now: Timestamp,
) {
    result.last_reading = measured.reading.or(result.last_reading.take());
    let found = match (measured.look, checked) {
        (Some(look), Ok((source, judge))) => compare(spec, (&source, &judge), result, &look),
        (_, checked) => verdict(checked.map(|(_, judge)| judge), measured.result),
    };
    let Some((sample, judged)) = found else {
        result.consecutive_errors = 0; // there was an answer
        return;
    };
    result.consecutive_errors = if judged.verdict == Verdict::ProviderError { result.consecutive_errors.saturating_add(1) } else { 0 };
    let counter = match judged.verdict {
        Verdict::Pass => &mut result.passed,
        Verdict::Fail => &mut result.failed,
        Verdict::Inconclusive => &mut result.inconclusive,
        Verdict::NoData => &mut result.no_data,
        Verdict::ProviderError => &mut result.errors,
    };
    *counter = counter.saturating_add(1);
    let queries: Vec<_> = measured.queries.into_iter().map(|query| cut(query, QUERY)).collect();
    if let Some(newest) = result.measurements.last_mut().filter(|newest| newest.queries == queries) {
        newest.queries.clear();
    }
    result.measurements.push(Measurement {
        at: micro(now),
        since: micro(measured.since.unwrap_or(now - interval(metric))),
        queries,
        value: judged.value,
        samples: sample.and_then(|sample| sample.samples).filter(|samples| samples.is_finite()),
        limit: cut(judged.limit, MESSAGE),
        verdict: judged.verdict,
        message: cut(judged.message, MESSAGE),
    });
    let surplus = result.measurements.len().saturating_sub(KEPT);
    result.measurements.drain(..surplus);
}

/// The verdict on a look at both versions. `None`: it says nothing.
fn compare(
    spec: &AnalysisRunSpec,
    (source, judge): (&Source, &Judge),
    result: &mut MetricResult,
    look: &Look,
) -> Option<(Option<Sample>, Judged)> {
    let sought = Sought { streams: streams(spec), prove: &spec.prove };
    let sample = source.compares.map_or_else(|| Ok(Sample::default()), |numerator| look.sample(&source.what, numerator));
    match sample {
        Ok(sample) => judge.compare(&mut result.comparison, look, &sample, sought).map(|judged| (Some(sample), judged)),
        Err(error) => Some((None, Judged { verdict: Verdict::ProviderError, value: None, limit: judge.limit(), message: error.message })),
    }
}

fn verdict(judge: Result<Judge, String>, result: Result<Option<Sample>, super::ProviderError>) -> Option<(Option<Sample>, Judged)> {
    let limit = judge.as_ref().map_or_else(|_| "not known".to_owned(), Judge::limit);
    let without = |verdict, message| Judged { verdict, value: None, limit, message };
    match (result, judge) {
        (Ok(None), _) => None,
        (Err(error), _) => Some((None, without(Verdict::ProviderError, error.message))),
        (Ok(Some(sample)), Ok(judge)) => {
            let judged = judge.judge(&sample);
            Some((Some(sample), judged))
        }
        (Ok(Some(_)), Err(fault)) => Some((None, without(Verdict::Inconclusive, fault))),
    }
}

/// How often a metric has counted as what, after its policy for missing data.
struct Tally {
    passed: i32,
    failed: i32,
    inconclusive: i32,
}

fn tally(metric: &Metric, result: &MetricResult) -> Tally {
    let policy = metric.on_no_data.unwrap_or_default();
    let no_data = |wanted| if policy == wanted { result.no_data } else { 0 };
    Tally {
        passed: result.passed.saturating_add(no_data(NoDataPolicy::Pass)),
        failed: result.failed.saturating_add(no_data(NoDataPolicy::Fail)),
        inconclusive: result.inconclusive.saturating_add(no_data(NoDataPolicy::Inconclusive)),
    }
}

/// Whether a verdict lets a rollout go on: Pass, or missing data that the metric's author lets pass.
pub(super) fn goes_on(metric: &Metric, verdict: Verdict) -> bool {
    verdict == Verdict::Pass || (verdict == Verdict::NoData && metric.on_no_data == Some(NoDataPolicy::Pass))
}

fn phase(spec: &AnalysisRunSpec, metric: &Metric, result: &MetricResult) -> RunPhase {
    let Tally { passed, failed, inconclusive } = tally(metric, result);
    // Evidence that suffices is no single slip that could be tolerated.
    if failed > metric.failure_limit.unwrap_or(0) || is_worse(result) {
        return RunPhase::Failed;
    }
    if result.consecutive_errors > error_limit(metric) {
        match metric.on_provider_error.unwrap_or_default() {
            ProviderErrorPolicy::Wait => {}
            ProviderErrorPolicy::Inconclusive => return RunPhase::Inconclusive,
            ProviderErrorPolicy::Fail => return RunPhase::Failed,
        }
    }
    if inconclusive > metric.inconclusive_limit.unwrap_or(0) {
        return RunPhase::Inconclusive;
    }
    // Whatever was tolerated on the way, the last word must be good.
    let count = count(spec, metric);
    let verdicts = passed.saturating_add(failed).saturating_add(inconclusive);
    let good = result.measurements.last().is_some_and(|newest| goes_on(metric, newest.verdict));
    if good && count.is_some_and(|count| verdicts >= count) { RunPhase::Passed } else { RunPhase::Running }
}

fn is_worse(result: &MetricResult) -> bool {
    result.comparison.as_ref().is_some_and(|comparison| comparison.worse)
}

/// How often a metric is judged. A step is judged once, unless it says otherwise.
fn count(spec: &AnalysisRunSpec, metric: &Metric) -> Option<i32> {
    metric.count.or(spec.step.map(|_| 1))
}

/// A dry run has shown what it was to show: it has come to an end, or was measured as often as a verdict takes, whatever came of it. So
/// it never holds a run for longer.
fn has_shown(spec: &AnalysisRunSpec, metric: &Metric, result: &MetricResult) -> bool {
    let MetricResult { passed, failed, inconclusive, no_data, errors, .. } = result;
    let measured = [passed, failed, inconclusive, no_data, errors].into_iter().fold(0_i32, |sum, n| sum.saturating_add(*n));
    result.phase != RunPhase::Running || count(spec, metric).is_some_and(|count| measured >= count)
}

fn error_limit(metric: &Metric) -> i32 {
    metric.consecutive_error_limit.unwrap_or(CONSECUTIVE_ERRORS)
}

fn conclude(spec: &AnalysisRunSpec, status: &mut AnalysisRunStatus, now: Timestamp) {
    let ended = [RunPhase::Failed, RunPhase::Inconclusive].into_iter().find_map(|phase| {
        let with = |metric: &&Metric| !metric.dry_run && super::result(status, metric).is_some_and(|result| result.phase == phase);
        spec.metrics.iter().find(with).map(|metric| (phase, metric))
    });
    if let Some((phase, metric)) = ended {
        let message = super::result(status, metric).map(|result| why(metric, result)).unwrap_or_default();
        return end(status, phase, message, now);
    }
    let is_done = |metric: &Metric| {
        super::result(status, metric).is_some_and(|result| match metric.dry_run {
            true => has_shown(spec, metric, result),
            false => result.phase == RunPhase::Passed,
        })
    };
    if spec.metrics.iter().all(is_done) {
        let message = latest(spec, status);
        return end(status, RunPhase::Passed, message, now);
    }
    status.message = progress(spec, status);
}

/// Why a metric has ended a run.
fn why(metric: &Metric, result: &MetricResult) -> String {
    let newest = result.measurements.last().map_or("", |newest| newest.message.as_str());
    let Tally { failed, inconclusive, .. } = tally(metric, result);
    let times = match result.phase {
        _ if result.consecutive_errors > error_limit(metric) => format!("no answer {} times in a row: ", result.consecutive_errors),
        RunPhase::Failed if failed > 1 && !is_worse(result) => format!("failed {failed} times, {} are tolerated: ", failed - 1),
        RunPhase::Inconclusive if inconclusive > 1 => format!("inconclusive {inconclusive} times, {} are tolerated: ", inconclusive - 1),
        _ => String::new(),
    };
    format!("{}: {times}{newest}", metric.name)
}

/// What a running run waits for.
fn progress(spec: &AnalysisRunSpec, status: &AnalysisRunStatus) -> String {
    let next = spec.metrics.iter().filter_map(|metric| super::schedule::next_look(metric, status)).min();
    let next = next.map(|at| format!("next look at {}", at.strftime("%H:%M:%S UTC"))).unwrap_or_default();
    match latest(spec, status) {
        latest if latest.is_empty() => format!("no measurement yet, {next}"),
        latest => format!("{latest}; {next}"),
    }
}

/// The newest measurement of each metric, in words.
fn latest(spec: &AnalysisRunSpec, status: &AnalysisRunStatus) -> String {
    let newest = |metric: &Metric| {
        let dry = if metric.dry_run { " (dry run)" } else { "" };
        let result = super::result(status, metric)?;
        let newest = result.measurements.last();
        let silent = result.last_reading.as_ref().is_some_and(|reading| newest.is_none_or(|newest| newest.at < reading.at));
        if let Some(comparison) = result.comparison.as_ref().filter(|_| silent) {
            return Some(format!("{}{dry}: {}", metric.name, comparison.message));
        }
        newest.map(|newest| match newest.verdict {
            Verdict::Pass | Verdict::Fail => format!("{}{dry}: {}", metric.name, newest.message),
            other => format!("{}{dry}: {other:?}: {}", metric.name, newest.message),
        })
    };
    spec.metrics.iter().filter_map(newest).collect::<Vec<_>>().join("; ")
}

fn end(status: &mut AnalysisRunStatus, phase: RunPhase, message: String, now: Timestamp) {
    status.phase = phase;
    status.message = cut(message, MESSAGE);
    status.completed_at = Some(micro(now));
    for result in status.metric_results.iter_mut().filter(|result| result.phase == RunPhase::Running) {
        result.phase = RunPhase::Cancelled;
    }
}

fn cut(text: String, most: usize) -> String {
    if text.chars().count() <= most { text } else { text.chars().take(most - 1).chain(['…']).collect() }
}
