//! What many rollouts of one version come to.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde::Serialize;

use super::course::{Course, End};
use super::metrics::Answer;

/// The report as an object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub rollout: String,
    pub runs: usize,
    pub seed: u64,
    pub requests_per_second: f64,
    pub pods: i32,
    pub pods_ready_after_seconds: f64,
    pub limit_seconds: f64,
    pub metrics: Vec<Answer>,
    pub notes: Vec<String>,
    pub versions: Vec<Version>,
}

/// One version, and how its rollouts came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    pub name: String,
    /// It answers as stable does: an abort is a false one.
    pub as_good_as_stable: bool,
    /// 0 to 1.
    pub error_rate: f64,
    pub latency_milliseconds: f64,
    pub promoted: Outcome,
    pub aborted: Outcome,
    pub waiting: Outcome,
    pub going: Outcome,
    /// What it did to users before all traffic was stable's again, where it was aborted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub harm: Option<Harm>,
}

/// The rollouts that came out in one way.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub runs: usize,
    /// 0 to 1.
    pub share: f64,
    /// Where the true share lies at most, at 95 %.
    pub at_most: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<Spread>,
    /// The most frequent reason first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    /// The steps that it happened at, the most frequent one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<AtStep>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AtStep {
    /// Such as `2/6`.
    pub step: String,
    pub runs: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub p90: f64,
}

/// Why rollouts came out so, in the words of one of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reason {
    pub runs: usize,
    pub example: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Harm {
    pub canary_requests: Spread,
    pub failed_requests: Spread,
    /// Minutes, each as much as its share of the traffic went to the new version.
    pub traffic_minutes: Spread,
}

impl Version {
    pub fn new(name: &str, as_good_as_stable: bool, (error_rate, latency): (f64, f64), courses: &[Course]) -> Self {
        let outcome = |end| Outcome::new(courses, end);
        let aborted: Vec<&Course> = courses.iter().filter(|course| course.end == End::Aborted).collect();
        let spread = |value: fn(&Course) -> f64| Spread::of(aborted.iter().map(|course| value(course)).collect());
        let harm = spread(|course| course.canary.requests as f64).and_then(|canary_requests| {
            Some(Harm {
                canary_requests,
                failed_requests: spread(|course| course.canary.failures as f64)?,
                traffic_minutes: spread(|course| course.exposure.as_secs_f64() / 60.0)?,
            })
        });
        Self {
            name: name.to_owned(),
            as_good_as_stable,
            error_rate,
            latency_milliseconds: latency,
            promoted: outcome(End::Promoted),
            aborted: outcome(End::Aborted),
            waiting: outcome(End::Waiting),
            going: outcome(End::Going),
            harm,
        }
    }
}

impl Outcome {
    fn new(courses: &[Course], end: End) -> Self {
        let of_it: Vec<&Course> = courses.iter().filter(|course| course.end == end).collect();
        let (runs, all) = (of_it.len(), courses.len().max(1) as f64);
        let share = runs as f64 / all;
        let seconds = Spread::of(of_it.iter().map(|course| course.after.as_secs_f64()).collect());
        let (reasons, steps) = if end == End::Promoted { (vec![], vec![]) } else { (reasons(&of_it), steps(&of_it)) };
        Self { runs, share, at_most: upper_end(share, all), seconds, reasons, steps }
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| values.get(((values.len() as f64 * share).ceil() as usize).saturating_sub(1)).copied();
        Some(Self { median: at(0.5)?, p90: at(0.9)? })
    }
}

/// The upper end of Wilson's interval at 95 %.
fn upper_end(share: f64, runs: f64) -> f64 {
    let z2 = 1.96_f64.powi(2);
    (share + z2 / (2.0 * runs) + (z2 * (share * (1.0 - share) + z2 / (4.0 * runs)) / runs).sqrt()) / (1.0 + z2 / runs)
}

/// Reasons that differ in their numbers alone are one.
fn reasons(courses: &[&Course]) -> Vec<Reason> {
    let mut grouped: BTreeMap<String, Reason> = BTreeMap::new();
    for course in courses {
        let key = kind(&course.why);
        grouped.entry(key).or_insert_with(|| Reason { runs: 0, example: course.why.clone() }).runs += 1;
    }
    let mut reasons: Vec<Reason> = grouped.into_values().collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.runs));
    reasons
}

fn steps(courses: &[&Course]) -> Vec<AtStep> {
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    for step in courses.iter().filter_map(|course| course.step.as_deref()) {
        *counted.entry(step).or_default() += 1;
    }
    let mut steps: Vec<AtStep> = counted.into_iter().map(|(step, runs)| AtStep { step: step.to_owned(), runs }).collect();
    steps.sort_by_key(|step| std::cmp::Reverse(step.runs));
    steps
}

/// The metric, if it is one, and what follows up to the first number.
fn kind(why: &str) -> String {
    let (metric, words) = why.split_once(": ").unwrap_or(("", why));
    let words: String = words.chars().take_while(|c| !c.is_ascii_digit()).collect();
    format!("{metric}: {words}")
}

/// A time in seconds, for people.
pub fn seconds(seconds: f64) -> SignedDuration {
    SignedDuration::try_from_secs_f64(seconds).unwrap_or_default()
}
