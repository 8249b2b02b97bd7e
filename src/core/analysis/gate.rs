//! What a Rollout asks an analysis before it goes on. The answer is yes, or what it waits for, in words.

use jiff::Timestamp;

use super::{interval, record::goes_on, result, schedule::next_look};
use crate::api::{AnalysisRunSpec, AnalysisRunStatus, Metric, RunPhase, run::Measurement};

/// Every metric (dry runs never count) was measured with a window that lies after `since`, and its newest measurement lets the rollout go on. A metric that
/// has been measured as often as it wants has said what it has to say.
pub fn evidence_since(spec: &AnalysisRunSpec, status: &AnalysisRunStatus, since: Timestamp) -> Result<(), String> {
    each_goes_on(spec, status, |metric, newest| {
        if newest.since.0 >= since {
            return Ok(());
        }
        // The first look at which a whole window has passed.
        let mut next = next_look(metric, status).ok_or_else(|| "is not measured any more".to_owned())?;
        while next < since + interval(metric) {
            next += interval(metric);
        }
        Err(format!("next evidence at {}", next.strftime("%H:%M:%S UTC")))
    })
}

/// The newest measurement of every metric lets the rollout go on, and none is overdue by more than an interval.
pub fn closed(spec: &AnalysisRunSpec, status: &AnalysisRunStatus, now: Timestamp) -> Result<(), String> {
    each_goes_on(spec, status, |metric, newest| {
        let overdue = next_look(metric, status).is_some_and(|next| next + interval(metric) < now);
        if overdue { Err(format!("the newest measurement, of {}, is too old", newest.at.0.strftime("%H:%M:%S UTC"))) } else { Ok(()) }
    })
}

fn each_goes_on(
    spec: &AnalysisRunSpec,
    status: &AnalysisRunStatus,
    recent: impl Fn(&Metric, &Measurement) -> Result<(), String>,
) -> Result<(), String> {
    match status.phase {
        RunPhase::Passed => return Ok(()),
        RunPhase::Running => {}
        ended => return Err(format!("the analysis has ended ({ended:?}): {}", status.message)),
    }
    for metric in spec.metrics.iter().filter(|metric| !metric.dry_run) {
        let known = result(status, metric);
        if known.is_some_and(|known| known.phase == RunPhase::Passed) {
            continue;
        }
        let answer = match known.and_then(|known| known.measurements.last()) {
            None => Err("no measurement yet".to_owned()),
            Some(newest) if !goes_on(metric, newest.verdict) => Err(format!("{:?}: {}", newest.verdict, newest.message)),
            Some(newest) => recent(metric, newest),
        };
        answer.map_err(|why| format!("{}: {why}", metric.name))?;
    }
    Ok(())
}
