//! What the judge says of what was counted: the analysis itself is asked, look by look, as the controller does.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde::Serialize;
use serde_json::json;

use crate::{
    api::{
        AnalysisRunSpec, AnalysisRunStatus, Metric, RunPhase, Verdict,
        run::{Arm, Reading},
    },
    cli::error::Error,
    core::{
        analysis::{self, Measured},
        counters::{Counted, Look},
        source::Numerator,
    },
};

/// What it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Finding {
    /// There is evidence that the canary is worse: a rollout is taken back.
    Worse,
    /// It is above the ceiling: a rollout is taken back.
    AboveCeiling,
    /// It is as good as proven that it is no worse than asked.
    NoWorse,
    /// There is no evidence that it is worse.
    NoEvidence,
    /// There is too little to compare.
    NoData,
    /// The judge cannot tell: a rollout is held for a person.
    Inconclusive,
}

impl Finding {
    pub fn takes_back(self) -> bool {
        matches!(self, Finding::Worse | Finding::AboveCeiling)
    }
}

/// One interval, and what is known after it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    pub since: Timestamp,
    pub until: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Seen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable: Option<Seen>,
    /// The evidence that the canary is worse, as odds against chance: 20 for 1 in 20. Below 1 it speaks against it.
    pub odds: f64,
}

/// What one version did in an interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Seen {
    pub requests: u64,
    /// Absent for latencies: at each bound there is another number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u64>,
}

/// What a rule with a threshold says of the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// In percent.
    pub max: f64,
    pub window_seconds: f64,
    pub failures: i32,
    /// Windows that were above.
    pub above: usize,
    pub windows: usize,
    /// When it takes the canary back, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub takes_back_at: Option<Timestamp>,
}

/// The report as an object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub finding: Finding,
    pub message: String,
    /// When it was found; where nothing was, the end.
    pub at: Timestamp,
    /// Odds that are needed.
    pub needed: f64,
    pub tolerate: f64,
    pub intervals: Vec<Step>,
    /// Intervals in all; after a finding that takes the canary back no more are looked at.
    pub recorded: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    pub notes: Vec<String>,
}

/// The judge's word on what was counted.
pub fn judge(spec: &AnalysisRunSpec, looks: &[Look], needed: f64, tolerate: f64) -> Result<Report, Error> {
    let metric = &spec.metrics[0];
    let begin = looks.first().map_or(Timestamp::UNIX_EPOCH, |look| look.until);
    let mut status = analysis::start(spec, true, begin);
    if status.phase.is_final() {
        return Err(Error::Pointless(status.message));
    }
    let (mut steps, mut at, mut proven) = (Vec::new(), begin, None);
    for look in looks {
        let reading = Some(Reading { at: MicroTime(look.until), counters: Default::default(), stable: Default::default() });
        let measured = Measured { queries: vec![], result: Ok(None), since: look.since, reading, look: Some(look.clone()) };
        status = analysis::record(spec, status, vec![(0, measured)], look.until);
        at = look.until;
        proven = proven.or_else(|| Some((at, proof(&status, metric)?)));
        steps.extend(look.since.map(|since| step(since, look, odds(&status, metric))));
        if status.phase.is_final() {
            break;
        }
    }
    let (finding, at, message) = match proven {
        Some((at, message)) if !status.phase.is_final() => (Finding::NoWorse, at, message),
        _ => {
            let (finding, message) = conclude(&status, metric);
            (finding, at, message)
        }
    };
    let recorded = looks.iter().filter(|look| look.since.is_some()).count();
    Ok(Report { finding, message, at, needed, tolerate, intervals: steps, recorded, rule: None, notes: vec![] })
}

fn step(since: Timestamp, look: &Look, odds: f64) -> Step {
    let seen = |counted: &Option<Counted>| {
        counted.as_ref().map(|counted| match counted {
            Counted::Requests(Arm { requests, failures }) => Seen { requests: *requests, failures: Some(*failures) },
            Counted::Latencies(latencies) => Seen { requests: latencies.requests(), failures: None },
        })
    };
    Step { since, until: look.until, canary: seen(&look.canary), stable: seen(&look.stable), odds }
}

fn odds(status: &AnalysisRunStatus, metric: &Metric) -> f64 {
    let known = analysis::result(status, metric).and_then(|result| result.comparison.as_ref());
    let log = known.and_then(|known| {
        let of_failures = known.failures.as_ref().map(|evidence| evidence.log_e());
        of_failures.or_else(|| known.latencies.as_ref().map(|evidence| evidence.log_e()))
    });
    // Beyond this, more says nothing more to anybody.
    log.unwrap_or(0.0).clamp(-27.0, 27.0).exp()
}

/// What is proven, in words.
fn proof(status: &AnalysisRunStatus, metric: &Metric) -> Option<String> {
    let known = analysis::result(status, metric)?.comparison.as_ref()?;
    known.proofs.iter().find(|proof| proof.proven).map(|proof| proof.message.clone())
}

fn conclude(status: &AnalysisRunStatus, metric: &Metric) -> (Finding, String) {
    let result = analysis::result(status, metric);
    let known = result.and_then(|result| result.comparison.as_ref());
    let newest = result.and_then(|result| result.measurements.last());
    let message = newest.map(|newest| newest.message.clone()).or_else(|| known.map(|known| known.message.clone())).unwrap_or_default();
    let finding = match (status.phase, newest.map(|newest| newest.verdict)) {
        (RunPhase::Failed, _) if known.is_some_and(|known| known.worse) => Finding::Worse,
        (RunPhase::Failed, _) => Finding::AboveCeiling,
        (RunPhase::Inconclusive, _) => Finding::Inconclusive,
        (_, Some(Verdict::Pass)) => Finding::NoEvidence,
        _ => Finding::NoData,
    };
    (finding, message)
}

/// What is held against a threshold.
#[derive(Clone, Copy, Debug)]
pub struct Threshold {
    /// In percent.
    pub max: f64,
    pub window: SignedDuration,
    /// So many windows above it take the canary back.
    pub failures: i32,
}

/// What a rule says that looks at the canary's share of failures alone. `None`: latencies have no such share.
pub fn rule(threshold: Threshold, looks: &[Look]) -> Option<Rule> {
    let Threshold { max, window, failures } = threshold;
    let ratio = json!({"numerator": "failures", "denominator": "requests"});
    let metric = json!({"name": "rule", "scrape": {"ratio": ratio}, "max": max, "failureLimit": failures - 1, "minSamples": 1});
    let metric: Metric = serde_json::from_value(metric).ok()?;
    let spec: AnalysisRunSpec = serde_json::from_value(json!({"rollout": "", "canaryHash": "", "metrics": [metric]})).ok()?;
    let what = analysis::source(&spec, &spec.metrics[0], true).ok()?.what;
    let mut status = analysis::start(&spec, true, looks.first()?.until);
    let (mut sum, mut begin, mut windows, mut takes_back_at) = (Arm::default(), None, 0, None);
    for look in looks {
        let Some(since) = look.since else { continue };
        match look.canary {
            Some(Counted::Latencies(_)) => return None,
            Some(Counted::Requests(arm)) => {
                sum = Arm { requests: sum.requests.saturating_add(arm.requests), failures: sum.failures.saturating_add(arm.failures) };
            }
            None => {}
        }
        let from = *begin.get_or_insert(since);
        if look.until.duration_since(from) < window {
            continue;
        }
        let whole = Look { since: Some(from), canary: Some(Counted::Requests(sum)), ..look.clone() };
        let sample = whole.sample(&what, Numerator::Failures).ok()?;
        let measured = Measured { queries: vec![], result: Ok(Some(sample)), since: Some(from), reading: None, look: None };
        status = analysis::record(&spec, status, vec![(0, measured)], look.until);
        (sum, begin, windows) = (Arm::default(), None, windows + 1);
        if status.phase == RunPhase::Failed {
            takes_back_at = Some(look.until);
            break;
        }
    }
    let above = status.metric_results.first().map_or(0, |result| usize::try_from(result.failed).unwrap_or(0));
    Some(Rule { max, window_seconds: window.as_secs_f64(), failures, above, windows, takes_back_at })
}
