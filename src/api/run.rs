//! `AnalysisRun`: one judgement, with its measurements, its verdict, and why.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::analysis::Metric;

/// One judgement of one revision.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "AnalysisRun",
    plural = "analysisruns",
    shortname = "slar",
    category = "sluice",
    namespaced,
    derive = "PartialEq",
    doc = "AnalysisRun is one judgement: its measurements, its verdict, and why.",
    status = "AnalysisRunStatus",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Rollout", type_ = "string", json_path = ".spec.rollout"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".spec.canaryHash"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = "1"),
    validation = Rule::new("self.spec == oldSelf.spec || (self.spec.terminate && self.spec.metrics == oldSelf.spec.metrics)").message("the spec of an AnalysisRun is immutable, but for terminate: create a new one")
)]
#[serde(rename_all = "camelCase")]
pub struct AnalysisRunSpec {
    /// The Rollout that is judged.
    #[schemars(length(min = 1, max = 253))]
    pub rollout: String,
    /// The revision that is judged (its pod-template-hash).
    #[schemars(length(min = 1, max = 63))]
    pub canary_hash: String,
    /// The revision that served before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub stable_hash: Option<String>,
    /// The Service of the stable role.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub service: Option<String>,
    /// The Service of the canary role.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub canary_service: Option<String>,
    /// Index of the step that this run belongs to; absent for background analysis.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 63))]
    pub step: Option<i32>,
    /// Values of `{{args.<name>}}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub args: BTreeMap<String, String>,
    /// The metrics that are measured.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub metrics: Vec<Metric>,
    /// Number of comparisons that share the accepted risk of a false abort: those of all analyses of the Rollout. Default: those of this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub comparisons: Option<i32>,
    /// What steps wait for: the canary is to be proven to fail less than so many times as often as stable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub prove: Vec<f64>,
    /// Which of the metrics are those of a ClusterAnalysisTemplate: the metric's name, and the template's. Where such a metric uses
    /// Secrets, they are those of the namespace that Sluice runs in, and whom it asks, and what, is as the template says now: this
    /// run cannot change it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub cluster_templates: BTreeMap<String, String>,
    /// Ends the run: nothing is measured any more.
    #[serde(default)]
    pub terminate: bool,
}

/// How far a run is.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunPhase {
    /// Measuring.
    #[default]
    Running,
    /// Every metric has passed as often as it must.
    Passed,
    /// A metric has failed more often than it may.
    Failed,
    /// A metric could not be judged.
    Inconclusive,
    /// Ended before it had a verdict, because nobody needs one any more.
    Cancelled,
}

impl RunPhase {
    pub fn is_final(self) -> bool {
        self != Self::Running
    }
}

/// What one measurement says. Five different things; only `Pass` lets a rollout go on.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// There was data, and it is as expected.
    Pass,
    /// There was data, and it is not as expected.
    Fail,
    /// There was data, and the judge could not decide.
    Inconclusive,
    /// There was no data: an empty answer, NaN, or fewer samples than the metric asks for.
    NoData,
    /// The provider could not be asked, or its answer was not usable (an error, a time-out, `warnings`, too large).
    ProviderError,
}

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnalysisRunStatus {
    #[serde(default)]
    pub phase: RunPhase,
    /// Why the phase is what it is, in words.
    #[serde(default)]
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<MicroTime>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metric_results: Vec<MetricResult>,
}

/// What is known of one metric.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricResult {
    pub name: String,
    /// How far this metric is; of a dry run: what it would have made of the analysis.
    #[serde(default)]
    pub phase: RunPhase,
    /// It is measured and shown, but decides nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Number of measurements with this verdict.
    #[serde(default)]
    pub passed: i32,
    #[serde(default)]
    pub failed: i32,
    #[serde(default)]
    pub inconclusive: i32,
    #[serde(default)]
    pub no_data: i32,
    #[serde(default)]
    pub errors: i32,
    /// Number of ProviderErrors in a row, up to now.
    #[serde(default)]
    pub consecutive_errors: i32,
    /// The newest measurements, oldest first; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measurements: Vec<Measurement>,
    /// Counter values at the end of the last window: the start of the next. Of Prometheus, which remembers them itself, the time alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reading: Option<Reading>,
    /// What the comparison of canary and stable has found so far (`compare` only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Compared>,
}

/// One measurement and its verdict.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measurement {
    pub at: MicroTime,
    /// Begin of the window that the value comes from; its end is `at`.
    pub since: MicroTime,
    /// The queries as they were sent. Only on the newest measurement that sent them: the one before it loses them, if they are the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queries: Vec<String>,
    /// The value: a number, or numbers separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Number of requests that the value is made from, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<f64>,
    /// What was expected, in words.
    pub limit: String,
    pub verdict: Verdict,
    /// The verdict in words.
    pub message: String,
}

/// What a comparison has found so far. Evidence and the edge up to which it was gathered are written together, so that no interval ever
/// counts twice.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    /// Begin of the first interval that was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<MicroTime>,
    /// End of the last interval: the begin of the next.
    pub until: MicroTime,
    /// The evidence suffices: the canary is worse. It stays so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub worse: bool,
    /// What is found, in words.
    pub message: String,
    /// Evidence from failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<Evidence>,
    /// Evidence from latencies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latencies: Option<LatencyEvidence>,
    /// Evidence that the canary is no worse, where steps wait for it. At most 4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proofs: Vec<NoWorse>,
}

/// Evidence that the canary fails less than so many times as often as stable.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NoWorse {
    pub at_most: f64,
    /// The evidence suffices. It stays so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proven: bool,
    /// What is found, in words.
    pub message: String,
    pub evidence: Evidence,
}

/// What one version did between two edges: differences of its counters.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arm {
    #[schemars(with = "i64", range(min = 0))]
    pub requests: u64,
    #[schemars(with = "i64", range(min = 0))]
    pub failures: u64,
}

/// Evidence for a claim, from all intervals so far. It is kept together with the edge up to which intervals were consumed, in one write:
/// an interval that counts twice breaks the guarantee.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// The wealth of each bet, as logarithms.
    pub log_wealth: [f64; 6],
    /// Number of intervals that said something.
    #[schemars(with = "i64", range(min = 0))]
    pub intervals: u64,
    pub canary: Arm,
    pub stable: Arm,
}

/// Evidence about latencies: at each bound of the histogram, "slower than the bound" is a failure.
///
/// The bounds are those that both versions have in the first interval, and stay so. One that appears later is left out: it would bring in fresh
/// wealth, which no bet has gained. One that vanishes keeps what it has gained or lost.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyEvidence {
    pub bounds: Vec<AtBound>,
}

/// Evidence at one bound.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtBound {
    pub le: f64,
    pub evidence: Evidence,
}

/// Counter values at one moment.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reading {
    pub at: MicroTime,
    /// For each source (a pod, or an address of the URL) the counters that the metric uses: `numerator` and `denominator`, or the upper
    /// bounds of a histogram's buckets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, BTreeMap<String, f64>>,
    /// The same of stable, where the canary is compared with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stable: BTreeMap<String, BTreeMap<String, f64>>,
}
