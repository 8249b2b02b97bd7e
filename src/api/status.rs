//! `Rollout.status`: what Sluice saw, decided, and waits for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

use super::{
    action::{Outcome, Verb},
    run::RunPhase,
};

#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// The generation of the Rollout that this status is about.
    #[serde(default)]
    pub observed_generation: i64,
    /// The generation of the Deployment that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_observed_generation: Option<i64>,
    /// The state in one word, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// What Sluice waits for, and what will end the wait.
    #[serde(default)]
    pub message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// The revision that serves (its pod-template-hash).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable_revision: Option<String>,
    /// The revision of the present template. The same as `stableRevision` when no rollout is running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary_revision: Option<String>,
    /// The step that the rollout is at; absent when none is running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_step: Option<CurrentStep>,
    /// The step for people, such as `2/6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_label: Option<String>,
    /// Shares of the traffic, in percent; absent when no rollout is running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// The rollout that is running, or is being cleaned up after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryState>,
    /// What is being brought about, and when it was first observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transition: Option<Transition>,
    /// Holds that only a person ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Somebody has put a route or Service back while a rollout ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["what".into()]))]
    pub reverted: Vec<Reverted>,
    /// Someone asked to go back to an earlier revision; absent once it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undo: Option<Undo>,
    /// Pods that are older than this are restarted, because someone asked for it (`kubectl sluice restart`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_requested_at: Option<MicroTime>,
    /// How the Rollout was deleted: with `Orphan`, pods that no Deployment takes over stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation: Option<Propagation>,
    /// Revisions that were taken back and stay so until the template changes or someone retries them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["revision".into()]))]
    pub rejected: Vec<Rejected>,
    /// The AnalysisRuns of the current rollout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub analysis: Vec<AnalysisSummary>,
    /// The last action that was done or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_action: Option<LastAction>,

    /// Pods of all revisions.
    #[serde(default)]
    pub replicas: i32,
    /// Ready pods of all revisions.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Available pods of all revisions.
    #[serde(default)]
    pub available_replicas: i32,
    /// Pods of the present template's revision.
    #[serde(default)]
    pub updated_replicas: i32,
    /// Label selector of the pods of all revisions, for the scale subresource.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,

    /// The newest rollouts that ended, oldest first; at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
}

impl RolloutStatus {
    /// The revision that served before this one, as the history has it: Undo goes back to it.
    pub fn served_before(&self, revision: &str) -> Option<&str> {
        let promoted = |entry: &&HistoryEntry| entry.revision == revision && entry.outcome == RolloutOutcome::Promoted;
        self.history.iter().rev().find(promoted)?.over.as_deref()
    }
}

/// The state in one word.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The present template serves; nothing is in progress.
    Healthy,
    /// Something is being brought about.
    Progressing,
    /// A pause, or a hold that a person ends.
    Paused,
    /// Something must be mended: an invalid spec, or stable pods that are not available.
    Degraded,
    /// The present template was taken back.
    Aborted,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CurrentStep {
    /// Index (from 0) in `spec.strategy.canary.steps`; the number of steps once all are done.
    pub index: i32,
    /// When the rollout reached the step. For a pause: when the pause began.
    pub started_at: MicroTime,
}

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Weights {
    /// What stable is to get.
    pub stable: f64,
    /// What the canary is to get.
    pub canary: f64,
    /// What the canary gets, as every route reports it; absent while the routes have not taken the last change up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed: Option<f64>,
}

/// The rollout that is running.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryState {
    /// The revision that is rolled out.
    pub revision: String,
    /// When the rollout began.
    pub started_at: MicroTime,
    /// Tells the steps that it follows from others: edited ones are noticed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub steps: String,
    /// Pods that were wanted when it began: stable keeps at least so many until it ends.
    pub stable_replicas: i32,
    /// When the present weight was first observed on all routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_observed_at: Option<MicroTime>,
    /// The largest weight, in percent, that it has had: more needs evidence, also where the steps were edited.
    #[serde(default)]
    pub largest_weight: f64,
    /// Someone asked for full promotion: no more pauses and analysis.
    #[serde(default)]
    pub promote_full: bool,
    /// Number of times the analysis was started again after a hold.
    #[serde(default)]
    pub analysis_attempt: i32,
    /// Since when the canary has too few ready pods for its weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortfall: Option<Shortfall>,
}

impl CanaryState {
    pub fn new(revision: &str, started_at: MicroTime, stable_replicas: i32) -> Self {
        Self {
            revision: revision.to_owned(),
            started_at,
            steps: String::new(),
            stable_replicas,
            weight_observed_at: None,
            largest_weight: 0.0,
            promote_full: false,
            analysis_attempt: 0,
            shortfall: None,
        }
    }
}

/// A time in which the canary had too few ready pods.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shortfall {
    pub since: MicroTime,
    /// When it had enough again. Ready for a minute closes the matter; unready again before that counts from `since`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered_at: Option<MicroTime>,
}

/// What is being brought about.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    pub what: String,
    /// When Sluice began to wait for it.
    pub since: MicroTime,
    /// When it was first observed. Grace and drain times count from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<MicroTime>,
}

/// A hold that only a person ends.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    pub reason: HoldReason,
    pub since: MicroTime,
    pub message: String,
}

#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HoldReason {
    /// Someone paused the rollout by an action.
    PausedByAction,
    /// An analysis could not decide.
    InconclusiveAnalysis,
}

/// The propagation policy of a deletion.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// Somebody puts back what a rollout changes.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reverted {
    /// What was put back, such as `HTTPRoute api`.
    pub what: String,
    /// Who did it: the manager in the object's managedFields.
    pub manager: String,
    /// How often in a row.
    pub count: i32,
    /// The version in which it was put back last.
    pub version: String,
    pub at: MicroTime,
}

/// The way back to an earlier revision.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Undo {
    /// The revision of the template when someone asked: another template is a new decision.
    pub template: String,
    /// The revision that served when someone asked.
    pub from: String,
    /// The revision that is to serve.
    pub to: String,
    /// Why, in words.
    pub reason: String,
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    pub revision: String,
    pub reason: String,
    pub at: MicroTime,
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnalysisSummary {
    /// Name of the AnalysisRun.
    pub name: String,
    /// Index of its step; absent for background analysis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<i32>,
    pub phase: RunPhase,
    #[serde(default)]
    pub message: String,
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastAction {
    pub uid: String,
    pub verb: Verb,
    pub outcome: Outcome,
    pub message: String,
    pub at: MicroTime,
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    pub revision: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    pub outcome: RolloutOutcome,
    /// The revision that served before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    /// Why it ended so, in words.
    #[serde(default)]
    pub message: String,
    pub started_at: MicroTime,
    pub finished_at: MicroTime,
}

#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutOutcome {
    Promoted,
    Aborted,
    /// Another template came before it had ended.
    Superseded,
    /// The template was set back to stable.
    Withdrawn,
}
