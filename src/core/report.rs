//! What the status says of a plan: phase, message, conditions, counts; and the events that follow from its changes.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::Value;

use super::{
    draft::{Draft, Waiting},
    observed::Observed,
    plan::Outcome,
    revision, workload,
};
use crate::api::{
    Outcome as ActionOutcome, Phase, RolloutStatus,
    conditions::{self as kind, reason},
    status::{HoldReason, RolloutOutcome},
};

/// An event about a Rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub reason: &'static str,
    pub warning: bool,
    pub note: String,
}

/// Reasons of events: a closed list.
pub mod event {
    /// A new template begins its rollout.
    pub const STARTED: &str = "RolloutStarted";
    /// The steps were edited in the middle of a rollout: it goes on from another one.
    pub const STEPS_EDITED: &str = "StepsEdited";
    /// The canary's weight was observed on all routes.
    pub const WEIGHT_OBSERVED: &str = "WeightObserved";
    /// A hold or a pause that a person ends.
    pub const PAUSED: &str = "RolloutPaused";
    /// The new version took the place of the old one.
    pub const PROMOTED: &str = "RolloutPromoted";
    /// The new version was taken back.
    pub const ABORTED: &str = "RolloutAborted";
    /// Another template came before the rollout had ended.
    pub const SUPERSEDED: &str = "RolloutSuperseded";
    /// The template was set back to stable.
    pub const WITHDRAWN: &str = "RolloutWithdrawn";
    /// An action took effect.
    pub const ACTION_DONE: &str = "ActionDone";
    /// An action did not take effect.
    pub const ACTION_REFUSED: &str = "ActionRefused";
    /// The spec cannot be carried out.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// Everything is at rest again.
    pub const HEALTHY: &str = "RolloutHealthy";
    /// The API server refused a write of ours.
    pub const WRITE_REFUSED: &str = "WriteRefused";
    /// Somebody keeps putting a route or Service back.
    pub const CONTESTED: &str = "TrafficContested";
    /// A policy that is attached to the Service by name does not hold for the canary.
    pub const POLICY_NOT_COPIED: &str = "PolicyNotCopied";
    /// The Deployment stays paused because Git owns its replicas.
    pub const PARKED: &str = "WorkloadParked";
}

pub fn write(draft: &mut Draft, outcome: &Outcome) {
    let (phase, message) = summary(draft, outcome);
    draft.summarise_runs();
    let obs = draft.obs;
    let status = &mut draft.status;
    status.observed_generation = obs.rollout.meta.generation;
    status.workload_observed_generation = obs.workload.as_ref().map(|w| w.meta.generation);
    status.phase = Some(phase);
    status.message = message;
    status.step_label = status.current_step.as_ref().map(|s| {
        let all = draft.spec.steps.len();
        format!("{}/{all}", usize::try_from(s.index + 1).unwrap_or(0).min(all.max(1)))
    });
    let sum = |of: fn(&super::observed::ReplicaSetView) -> i32| obs.revisions().map(of).sum::<i32>();
    status.replicas = sum(|rs| rs.status_replicas);
    status.ready_replicas = sum(|rs| rs.ready);
    status.available_replicas = sum(|rs| rs.available);
    let updated = status.canary_revision.as_ref().and_then(|hash| obs.replica_set(hash));
    status.updated_replicas = updated.map_or(0, |rs| rs.status_replicas);
    if let Some(selector) = revision::selector(obs) {
        status.selector = selector_text(&selector);
    }
    write_conditions(draft, outcome, phase);
}

fn summary(draft: &Draft, outcome: &Outcome) -> (Phase, String) {
    let status = &draft.status;
    match outcome {
        Outcome::Healthy => match draft.obs.workload.as_ref().and_then(workload::parked) {
            Some(parked) => (Phase::Healthy, parked),
            None => {
                let warm = draft.warm.as_ref();
                let warm = warm.map(|(hash, until)| format!("; {hash} keeps its pods until {}", until.strftime("%H:%M:%S UTC")));
                let serves = status.stable_revision.as_deref().unwrap_or("?");
                (Phase::Healthy, format!("revision {serves} serves{}", warm.unwrap_or_default()))
            }
        },
        Outcome::Aborted => (Phase::Aborted, aborted_message(status)),
        Outcome::Stalled(message) => (Phase::Degraded, message.clone()),
        Outcome::Invalid(invalid) => (Phase::Degraded, invalid.to_string()),
        Outcome::Gone => (Phase::Progressing, "everything was given back".to_owned()),
        Outcome::Waiting(pending) => {
            let taken_back = status.canary_revision.as_ref().is_some_and(|c| draft.is_rejected(c));
            let phase = match pending.kind {
                _ if taken_back => Phase::Aborted,
                Waiting::Person | Waiting::Pause => Phase::Paused,
                _ => Phase::Progressing,
            };
            match taken_back {
                true => (phase, format!("{}; {}", aborted_message(status), pending.message)),
                false => (phase, pending.message.clone()),
            }
        }
    }
}

fn aborted_message(status: &RolloutStatus) -> String {
    let why = status.rejected.first();
    let (revision, reason) = why.map_or(("?", "?"), |r| (&r.revision, &r.reason));
    format!(
        "revision {revision} was taken back: {reason}; it stays so until the template changes or someone retries it (`kubectl sluice retry`)"
    )
}

fn selector_text(selector: &Value) -> String {
    let mut parts: Vec<String> = vec![];
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        parts.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let key = expression.get("key").and_then(Value::as_str).unwrap_or_default();
        let values: Vec<&str> =
            expression.get("values").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        parts.push(match expression.get("operator").and_then(Value::as_str) {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

fn write_conditions(draft: &mut Draft, outcome: &Outcome, phase: Phase) {
    let obs = draft.obs;
    let message = draft.status.message.clone();
    let invalid = matches!(outcome, Outcome::Invalid(_));
    let aborted = phase == Phase::Aborted;
    let healthy = matches!(outcome, Outcome::Healthy);
    let why = match outcome {
        Outcome::Healthy => reason::HEALTHY,
        Outcome::Stalled(_) => reason::PROGRESS_DEADLINE_EXCEEDED,
        _ if invalid => reason::INVALID_SPEC,
        _ if aborted => reason::ABORTED,
        _ if phase == Phase::Paused => reason::PAUSED,
        _ if draft.status.current_step.is_some() => reason::PROGRESSING,
        _ => reason::WAITING,
    };
    let moving = !matches!(outcome, Outcome::Healthy | Outcome::Invalid(_) | Outcome::Stalled(_) | Outcome::Aborted);
    let stalled = invalid || aborted || matches!(outcome, Outcome::Stalled(_));
    let stable = draft.status.stable_revision.as_ref().and_then(|hash| obs.replica_set(hash));
    let available = stable.is_some_and(|rs| rs.available >= draft.replicas);
    let available_text = format!("{} of {} pods of the stable revision are available", stable.map_or(0, |rs| rs.available), draft.replicas);
    let running = draft.status.current_step.is_some();
    let paused = pause_reason(draft, phase);
    let parked = obs.workload.as_ref().and_then(workload::parked);
    let accepted = draft.routes().iter().try_for_each(|r| r.accepted());
    let split = draft.routes().iter().any(|r| r.record().is_some());

    let contested = draft.contested();
    let not_copied = draft.policies_not_copied();

    let mut set = Conditions { draft };
    set.put(kind::READY, healthy, why, &message);
    set.put(kind::RECONCILING, moving && !aborted, if moving { why } else { reason::AT_REST }, &message);
    set.put(kind::STALLED, stalled, if stalled { why } else { reason::NOT_STALLED }, if stalled { &message } else { "" });
    set.put(kind::AVAILABLE, available, if available { reason::AVAILABLE } else { reason::UNAVAILABLE }, &available_text);
    let progressing = running && !aborted;
    let progress_reason = if progressing {
        why
    } else if aborted {
        reason::ABORTED
    } else {
        reason::AT_REST
    };
    set.put(kind::PROGRESSING, progressing, progress_reason, &message);
    set.put(kind::PAUSED, paused.is_some(), paused.unwrap_or(reason::NOT_PAUSED), if paused.is_some() { &message } else { "" });
    match (split, accepted) {
        (false, _) => set.drop(kind::TRAFFIC_ACCEPTED),
        (true, Ok(())) => set.put(kind::TRAFFIC_ACCEPTED, true, reason::ACCEPTED, "every parent that reports has taken the routes up"),
        (true, Err(why)) => {
            let pending = why.contains("has not taken up");
            set.put(kind::TRAFFIC_ACCEPTED, false, if pending { reason::PENDING } else { reason::NOT_ACCEPTED }, &why);
        }
    }
    match contested {
        Some(text) => set.put(kind::TRAFFIC_CONTESTED, true, reason::REVERTED, &text),
        None => set.drop(kind::TRAFFIC_CONTESTED),
    }
    match not_copied {
        Some(text) => set.put(kind::POLICY_NOT_COPIED, true, reason::ATTACHED_BY_NAME, &text),
        None => set.drop(kind::POLICY_NOT_COPIED),
    }
    match parked {
        Some(text) => set.put(kind::WORKLOAD_PARKED, true, workload::PARKED, &text),
        None => set.drop(kind::WORKLOAD_PARKED),
    }
    match invalid {
        true => set.put(kind::INVALID_SPEC, true, reason::INVALID_SPEC, &message),
        false => set.drop(kind::INVALID_SPEC),
    }
}

fn pause_reason(draft: &Draft, phase: Phase) -> Option<&'static str> {
    if phase != Phase::Paused {
        return None;
    }
    Some(match draft.status.hold.as_ref().map(|h| h.reason) {
        Some(HoldReason::PausedByAction) => reason::PAUSED_BY_ACTION,
        Some(HoldReason::InconclusiveAnalysis) => reason::INCONCLUSIVE_ANALYSIS,
        None if draft.spec.paused => reason::PAUSED_BY_SPEC,
        None => reason::PAUSE_STEP,
    })
}

struct Conditions<'a, 'b> {
    draft: &'a mut Draft<'b>,
}

impl Conditions<'_, '_> {
    fn put(&mut self, name: &str, value: bool, reason: &str, message: &str) {
        let status = if value { "True" } else { "False" };
        let generation = self.draft.obs.rollout.meta.generation;
        let now = Timestamp::from_second(self.draft.now.as_second()).unwrap_or(self.draft.now);
        let list = &mut self.draft.status.conditions;
        let before = list.iter().find(|c| c.type_ == name).filter(|c| c.status == status).map(|c| c.last_transition_time.clone());
        let condition = Condition {
            type_: name.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: before.unwrap_or(Time(now)),
            observed_generation: Some(generation),
        };
        match list.iter_mut().find(|c| c.type_ == name) {
            Some(slot) => *slot = condition,
            None => list.push(condition),
        }
    }

    fn drop(&mut self, name: &str) {
        self.draft.status.conditions.retain(|c| c.type_ != name);
    }
}

/// Events follow from what a status says that the one before did not: none depends on a moment that could be missed.
pub fn events(before: &RolloutStatus, after: &RolloutStatus, obs: &Observed, now: Timestamp) -> Vec<Event> {
    let mut events = vec![];
    let mut add = |reason, warning, note: String| events.push(Event { reason, warning, note });
    let began = after.canary.as_ref().filter(|c| c.started_at.0 == now && before.canary.as_ref().is_none_or(|b| b.revision != c.revision));
    if let Some(canary) = began.filter(|c| Some(&c.revision) != after.stable_revision.as_ref()) {
        add(
            event::STARTED,
            false,
            format!("rolls out revision {} over {}", canary.revision, after.stable_revision.as_deref().unwrap_or("nothing")),
        );
    }
    if let (Some(canary), Some(step)) = (&after.canary, &after.current_step) {
        let edited =
            before.canary.as_ref().is_some_and(|b| b.revision == canary.revision && !b.steps.is_empty() && b.steps != canary.steps);
        if edited {
            add(event::STEPS_EDITED, false, format!("the steps were edited: goes on from step {}", step.index + 1));
        }
    }
    let observed = |s: &RolloutStatus| s.weights.as_ref().and_then(|w| w.observed);
    if let Some(weight) = observed(after).filter(|w| observed(before) != Some(*w)) {
        add(event::WEIGHT_OBSERVED, false, format!("the canary gets {weight} % of the traffic"));
    }
    let paused = |s: &RolloutStatus| s.conditions.iter().find(|c| c.type_ == kind::PAUSED && c.status == "True").map(|c| c.reason.clone());
    if let Some(reason) = paused(after).filter(|reason| paused(before).as_ref() != Some(reason)) {
        add(event::PAUSED, reason == reason::INCONCLUSIVE_ANALYSIS, after.message.clone());
    }
    for entry in after.history.iter().filter(|e| e.finished_at.0 == now && !before.history.contains(e)) {
        let (reason, warning, did) = match entry.outcome {
            RolloutOutcome::Promoted => (event::PROMOTED, false, "was promoted"),
            RolloutOutcome::Aborted => (event::ABORTED, true, "was taken back"),
            RolloutOutcome::Superseded => (event::SUPERSEDED, false, "was superseded"),
            RolloutOutcome::Withdrawn => (event::WITHDRAWN, false, "was withdrawn"),
        };
        add(reason, warning, format!("revision {} {did}: {}", entry.revision, entry.message));
    }
    if let Some(action) = after.last_action.as_ref().filter(|a| before.last_action.as_ref().map(|b| &b.uid) != Some(&a.uid)) {
        match action.outcome {
            ActionOutcome::Done => add(event::ACTION_DONE, false, format!("{}: {}", action.verb, action.message)),
            ActionOutcome::Refused => add(event::ACTION_REFUSED, true, format!("{} refused: {}", action.verb, action.message)),
        }
    }
    let invalid = |s: &RolloutStatus| s.conditions.iter().find(|c| c.type_ == kind::INVALID_SPEC).map(|c| c.message.clone());
    if let Some(message) = invalid(after).filter(|m| invalid(before).as_ref() != Some(m)) {
        add(event::INVALID_SPEC, true, message);
    }
    let told = |s: &RolloutStatus, name| s.conditions.iter().find(|c| c.type_ == name).map(|c| c.message.clone());
    for (name, reason) in [
        (kind::TRAFFIC_CONTESTED, event::CONTESTED),
        (kind::POLICY_NOT_COPIED, event::POLICY_NOT_COPIED),
        (kind::WORKLOAD_PARKED, event::PARKED),
    ] {
        if let Some(message) = told(after, name).filter(|_| told(before, name).is_none()) {
            add(reason, true, message);
        }
    }
    if after.phase == Some(Phase::Healthy) && before.phase != Some(Phase::Healthy) && !obs.rollout.meta.deleting {
        add(event::HEALTHY, false, after.message.clone());
    }
    events
}
