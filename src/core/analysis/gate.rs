//! What a Rollout asks an analysis before it goes on. The answer is yes, or what it waits for, in words.

use jiff::Timestamp;

use super::{interval, record::goes_on, result, schedule::next_look};
use crate::api::{AnalysisRunSpec, AnalysisRunStatus, Metric, RunPhase, analysis::Preset, run::Measurement};

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

/// The canary is proven to fail less than `at_most` times as often as stable, by every metric that compares failures.
pub fn proven(spec: &AnalysisRunSpec, status: &AnalysisRunStatus, at_most: f64) -> Result<(), String> {
    if status.phase.is_final() && status.phase != RunPhase::Passed {
        return Err(format!("the analysis has ended ({:?}): {}", status.phase, status.message));
    }
    let mut proofs = 0;
    for metric in spec.metrics.iter().filter(|metric| can_prove(metric)) {
        let found = result(status, metric).and_then(|result| result.comparison.as_ref());
        match found.and_then(|comparison| comparison.proofs.iter().find(|proof| proof.at_most == at_most)) {
            Some(proof) if proof.proven => proofs += 1,
            Some(proof) => return Err(format!("{}: {}", metric.name, proof.message)),
            None => {
                let why = found.map_or("no measurement yet", |comparison| comparison.message.as_str());
                return Err(format!("{}: {why}", metric.name));
            }
        }
    }
    if proofs > 0 { Ok(()) } else { Err("no metric of the background analysis compares failures".to_owned()) }
}

/// Whether a metric compares failures. Latencies would have to be proven at each of their bounds.
pub fn can_prove(metric: &Metric) -> bool {
    let latencies = matches!(metric.preset, Some(Preset::ContourLatency | Preset::PodsLatency))
        || metric.scrape.as_ref().is_some_and(|scrape| scrape.quantile.is_some());
    super::shares_risk(metric) && !latencies
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
