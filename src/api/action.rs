//! `RolloutAction`: one command to a Rollout.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One command to a Rollout. It is done once, and stays as a record of who did what, when and why.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "RolloutAction",
    plural = "rolloutactions",
    shortname = "slact",
    category = "sluice",
    namespaced,
    derive = "PartialEq",
    doc = "RolloutAction is one command to a Rollout. It is done once, and stays as a record of who did what, when and why.",
    status = "RolloutActionStatus",
    printcolumn(name = "Rollout", type_ = "string", json_path = ".spec.rollout"),
    printcolumn(name = "Verb", type_ = "string", json_path = ".spec.verb"),
    printcolumn(name = "By", type_ = "string", json_path = ".spec.requestedBy"),
    printcolumn(name = "Outcome", type_ = "string", json_path = ".status.outcome"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = "1"),
    validation = Rule::new("self.spec == oldSelf.spec").message("a RolloutAction is immutable: create a new one")
)]
#[x_kube(
    validation = Rule::new("!(self.verb in ['Promote', 'Resume', 'SkipStep']) || has(self.step)").message("Promote, Resume and SkipStep are addressed to the step that you saw: set spec.step"),
    validation = Rule::new("!has(self.toRevision) || self.verb == 'Undo'").message("spec.toRevision belongs to the verb Undo: leave it out, or set spec.verb to Undo"),
    validation = Rule::new("!has(self.toRevision) || self.toRevision != self.revision").message("spec.toRevision is the revision to go back to, so it must be another one than spec.revision, which serves now"),
)]
#[serde(rename_all = "camelCase")]
pub struct RolloutActionSpec {
    /// Name of the Rollout, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub rollout: String,
    /// What to do.
    pub verb: Verb,
    /// The revision that you saw (`status.canaryRevision`). Refused if the Rollout is at another one.
    #[schemars(length(min = 1, max = 63))]
    pub revision: String,
    /// Index (from 0) of the step that you saw (`status.currentStep.index`). Promote, Resume and SkipStep need it; they are refused
    /// if the rollout is at another step.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 64))]
    pub step: Option<i32>,
    /// The revision that Undo goes back to. Default: the one that served before the present one. Its ReplicaSet must still be there
    /// (`spec.revisionHistoryLimit`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub to_revision: Option<String>,
    /// Why, for the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
    /// Who, for the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub requested_by: Option<String>,
}

/// What to do.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// Ends the pause that the rollout is at.
    Promote,
    /// Ends all pauses and analysis, goes to 100 % as soon as the new version has the pods for it, and promotes it.
    PromoteFull,
    /// Holds the rollout where it is.
    Pause,
    /// Ends a Pause by action, or a hold after an inconclusive analysis.
    Resume,
    /// Sends all traffic back to stable and rejects the new version.
    Abort,
    /// Starts the rejected version again, from the first step.
    Retry,
    /// Goes on to the next step without what the present one waits for: its pause, its analysis, or evidence at the weight before. A weight
    /// that the present step sets is given all the same.
    SkipStep,
    /// Sends all traffic to the revision that served before, as soon as that has the pods for it, and rejects the present one.
    Undo,
    /// Restarts every pod of the version that serves, one after the other, as their PodDisruptionBudgets allow.
    Restart,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How an action ended.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It took effect.
    Done,
    /// It did not take effect; the message says why, and what to do instead.
    Refused,
}

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutActionStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    #[serde(default)]
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<MicroTime>,
}
