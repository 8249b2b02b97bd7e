//! Types and reasons of `Rollout.status.conditions`: a closed list. Tools may rely on these words.
//!
//! `Ready`, `Reconciling` and `Stalled` follow kstatus, so that `flux`'s wait, `helm --wait`, `kubectl wait` and Argo CD's health work:
//! a pause is Reconciling; an abort, an invalid spec and something that never comes are Stalled, so that a failed rollout fails a sync fast.

/// True: the present template serves, and everything is at rest. Reasons: [`reason::HEALTHY`] when true, else those of the
/// condition that explains it (Reconciling, Stalled, Available).
pub const READY: &str = "Ready";
/// True: something is in progress. Reasons: any of [`reason::PROGRESSING`], [`reason::PAUSED`], [`reason::WAITING`]. False: [`reason::AT_REST`].
pub const RECONCILING: &str = "Reconciling";
/// True: nothing will move until a person acts. Reasons: [`reason::ABORTED`], [`reason::INVALID_SPEC`],
/// [`reason::PROGRESS_DEADLINE_EXCEEDED`]. False: [`reason::NOT_STALLED`].
pub const STALLED: &str = "Stalled";
/// True: the stable revision has the pods that are wanted. Reasons: [`reason::AVAILABLE`], [`reason::UNAVAILABLE`].
pub const AVAILABLE: &str = "Available";
/// True: a rollout is running. Reasons: [`reason::PROGRESSING`], [`reason::PAUSED`]; False: [`reason::AT_REST`], [`reason::ABORTED`].
pub const PROGRESSING: &str = "Progressing";
/// True: the rollout waits for a person or a pause. Reasons: [`reason::PAUSE_STEP`], [`reason::PAUSED_BY_ACTION`],
/// [`reason::PAUSED_BY_SPEC`], [`reason::INCONCLUSIVE_ANALYSIS`]; False: [`reason::NOT_PAUSED`].
pub const PAUSED: &str = "Paused";
/// True: every route has taken up what was written, as far as its parents report. Reasons: [`reason::ACCEPTED`];
/// False: [`reason::NOT_ACCEPTED`], [`reason::PENDING`]. Present only while a rollout runs.
pub const TRAFFIC_ACCEPTED: &str = "TrafficAccepted";
/// True: somebody keeps putting routes or Services back. Reasons: [`reason::REVERTED`].
pub const TRAFFIC_CONTESTED: &str = "TrafficContested";
/// True: a policy that is attached to the Service by name does not hold for the canary. Reasons: [`reason::ATTACHED_BY_NAME`].
/// Present only while a rollout runs.
pub const POLICY_NOT_COPIED: &str = "PolicyNotCopied";
/// True: the Deployment stays paused because Git owns its `replicas`. Reasons: [`reason::REPLICAS_IN_GIT`].
pub const WORKLOAD_PARKED: &str = "WorkloadParked";
/// True: the spec cannot be carried out as it is; the message names the field and the mend. Reasons: [`reason::INVALID_SPEC`].
pub const INVALID_SPEC: &str = "InvalidSpec";

/// Reasons of conditions.
pub mod reason {
    pub const HEALTHY: &str = "Healthy";
    pub const AT_REST: &str = "AtRest";
    pub const PROGRESSING: &str = "Progressing";
    pub const PAUSED: &str = "Paused";
    /// Something that is named by the spec is not there yet.
    pub const WAITING: &str = "Waiting";
    pub const ABORTED: &str = "Aborted";
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// Something that is named by the spec has not come within `progressDeadlineSeconds`. (A rollout that runs is aborted then.)
    pub const PROGRESS_DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
    pub const NOT_STALLED: &str = "NotStalled";
    pub const AVAILABLE: &str = "MinimumReplicasAvailable";
    pub const UNAVAILABLE: &str = "MinimumReplicasUnavailable";
    pub const PAUSE_STEP: &str = "PauseStep";
    pub const PAUSED_BY_ACTION: &str = "PausedByAction";
    pub const PAUSED_BY_SPEC: &str = "PausedBySpec";
    pub const INCONCLUSIVE_ANALYSIS: &str = "InconclusiveAnalysis";
    pub const NOT_PAUSED: &str = "NotPaused";
    pub const ACCEPTED: &str = "Accepted";
    pub const NOT_ACCEPTED: &str = "NotAccepted";
    pub const PENDING: &str = "Pending";
    pub const ATTACHED_BY_NAME: &str = "AttachedByName";
    pub const REVERTED: &str = "Reverted";
    pub const REPLICAS_IN_GIT: &str = "ReplicasInGit";
}
