//! What the plugin knows of one Rollout, and what follows from it. Pure: no client, no clock.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Container, ContainerStatus, Pod},
};
use kube::ResourceExt;

use super::printer::Tone;
use crate::api::{
    AnalysisRun, Phase, Rollout, RolloutAction, RolloutStatus, keys,
    rollout::{Canary, Step},
};

/// A Rollout and what belongs to it.
#[derive(Clone, Debug)]
pub struct View {
    pub rollout: Rollout,
    pub replica_sets: Vec<ReplicaSet>,
    /// Pods of any kind: those of other workloads are passed over.
    pub pods: Vec<Pod>,
    pub runs: Vec<AnalysisRun>,
    pub actions: Vec<RolloutAction>,
}

/// What a revision is to its Rollout. The order is that in which revisions are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Canary,
    Rejected,
    Stable,
    Old,
}

impl Role {
    pub fn word(self) -> &'static str {
        match self {
            Role::Canary => "canary",
            Role::Rejected => "rejected",
            Role::Stable => "stable",
            Role::Old => "old",
        }
    }
}

/// A revision: its ReplicaSet and its pods.
#[derive(Clone, Debug)]
pub struct Revision<'a> {
    pub hash: String,
    pub role: Role,
    pub replica_set: &'a ReplicaSet,
    /// Those that are not ready first, then by name.
    pub pods: Vec<PodView>,
}

/// A pod in a few words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    pub name: String,
    pub ready: bool,
    pub restarts: i32,
    pub created: Option<Timestamp>,
    /// As `kubectl get pods` says it: Running, Pending, CrashLoopBackOff, Terminating.
    pub state: String,
    /// Why it is not ready, where the kubelet or the scheduler says so.
    pub trouble: Option<String>,
}

impl View {
    pub fn status(&self) -> RolloutStatus {
        self.rollout.status.clone().unwrap_or_default()
    }

    /// The controller has not looked at the newest spec yet.
    pub fn is_behind(&self) -> bool {
        is_behind(&self.rollout)
    }

    pub fn canary(&self) -> Option<&Canary> {
        self.rollout.spec.strategy.canary.as_ref()
    }

    /// The steps that the spec asks for.
    pub fn steps(&self) -> &[Step] {
        self.canary().map(|canary| canary.steps.as_slice()).unwrap_or_default()
    }

    /// All revisions, in the order of [`Role`], the newest first among the old.
    pub fn revisions(&self) -> Vec<Revision<'_>> {
        let status = self.status();
        let mut revisions: Vec<Revision<'_>> = self
            .replica_sets
            .iter()
            .map(|rs| {
                let hash = hash_of(rs);
                Revision { role: role(&status, rs, &hash), pods: self.pods_of(rs), hash, replica_set: rs }
            })
            .collect();
        revisions.sort_by(|a, b| {
            let created = |r: &Revision<'_>| r.replica_set.creation_timestamp().map(|time| time.0);
            a.role.cmp(&b.role).then(created(b).cmp(&created(a))).then(a.hash.cmp(&b.hash))
        });
        revisions
    }

    fn pods_of(&self, rs: &ReplicaSet) -> Vec<PodView> {
        let (uid, name) = (rs.uid(), rs.name_any());
        let owned = |pod: &&Pod| pod.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref() && owner.name == name);
        let mut pods: Vec<PodView> = self.pods.iter().filter(owned).map(PodView::new).collect();
        pods.sort_by(|a, b| a.ready.cmp(&b.ready).then(a.name.cmp(&b.name)));
        pods
    }

    /// Images of each revision that has a ReplicaSet.
    pub fn images(&self) -> BTreeMap<String, Vec<String>> {
        self.replica_sets.iter().map(|rs| (hash_of(rs), images_of(rs))).collect()
    }

    /// The AnalysisRuns of the current rollout: background first, then in the order of steps, attempts by age.
    pub fn current_runs(&self) -> Vec<&AnalysisRun> {
        let status = self.status();
        let named = |run: &&AnalysisRun| status.analysis.iter().any(|summary| summary.name == run.name_any());
        let mut runs: Vec<&AnalysisRun> = self.runs.iter().filter(named).collect();
        runs.sort_by_key(|run| (run.spec.step, run.creation_timestamp().map(|time| time.0), run.name_any()));
        runs
    }

    /// The share of the present pause that is over, and what is left of it; `None` where no timed pause is running.
    pub fn pause(&self, now: Timestamp) -> Option<(SignedDuration, SignedDuration)> {
        let current = self.status().current_step?;
        let step = self.steps().get(usize::try_from(current.index).ok()?)?;
        let total = step.pause.as_ref()?.duration.as_ref()?.get();
        let over = now.duration_since(current.started_at.0);
        Some((over, (total - over).max(SignedDuration::ZERO)))
    }

    /// When the rollout is taken back if what it waits for does not come: the progress deadline. `None` where none is running out.
    pub fn deadline(&self) -> Option<Timestamp> {
        let status = self.status();
        status.current_step.as_ref()?;
        let short = status.canary.as_ref().and_then(|canary| canary.shortfall.as_ref()).filter(|short| short.recovered_at.is_none());
        let waiting = status.transition.as_ref().filter(|transition| transition.observed_at.is_none());
        let since = short.map(|short| &short.since).or(waiting.map(|transition| &transition.since))?;
        Some(since.0 + SignedDuration::from_secs(i64::from(self.rollout.spec.progress_deadline_seconds)))
    }

    /// The mark and colour of the phase.
    pub fn tone(&self) -> Tone {
        phase_tone(self.status().phase)
    }
}

pub fn is_behind(rollout: &Rollout) -> bool {
    let observed = rollout.status.as_ref().map_or(0, |status| status.observed_generation);
    rollout.metadata.generation.is_some_and(|generation| observed < generation)
}

pub fn phase_tone(phase: Option<Phase>) -> Tone {
    match phase {
        Some(Phase::Healthy) => Tone::Good,
        Some(Phase::Progressing) => Tone::Busy,
        Some(Phase::Paused) => Tone::Held,
        Some(Phase::Degraded | Phase::Aborted) => Tone::Bad,
        None => Tone::Plain,
    }
}

/// The revision of a ReplicaSet: its pod-template-hash.
pub fn hash_of(rs: &ReplicaSet) -> String {
    rs.labels().get(keys::POD_TEMPLATE_HASH).cloned().unwrap_or_else(|| rs.name_any())
}

/// Images of the containers of a ReplicaSet, in order.
pub fn images_of(rs: &ReplicaSet) -> Vec<String> {
    let containers =
        |rs: &ReplicaSet| -> Option<Vec<Container>> { Some(rs.spec.as_ref()?.template.as_ref()?.spec.as_ref()?.containers.clone()) };
    containers(rs).unwrap_or_default().into_iter().filter_map(|container| container.image).collect()
}

/// A revision that status does not name is classed by its own annotations: status may be behind, or lost.
fn role(status: &RolloutStatus, rs: &ReplicaSet, hash: &str) -> Role {
    if status.stable_revision.as_deref() == Some(hash) {
        Role::Stable
    } else if status.rejected.iter().any(|rejected| rejected.revision == hash) || rs.annotations().contains_key(keys::REJECTED) {
        Role::Rejected
    } else if status.canary_revision.as_deref() == Some(hash) || status.canary.as_ref().is_some_and(|canary| canary.revision == hash) {
        Role::Canary
    } else {
        Role::Old
    }
}

impl PodView {
    fn new(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let condition = |kind: &str| status?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind);
        let containers = || {
            let lists = status.map(|status| [status.init_container_statuses.as_ref(), status.container_statuses.as_ref()]);
            lists.into_iter().flatten().flatten().flatten()
        };
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let ready = !terminating && condition("Ready").is_some_and(|ready| ready.status == "True");
        let stuck = containers().find_map(container_trouble);
        let unscheduled = condition("PodScheduled").filter(|scheduled| scheduled.status == "False");
        let phase = status.and_then(|status| status.phase.clone()).unwrap_or_else(|| "Pending".into());
        let state = if terminating { "Terminating".into() } else { stuck.as_ref().map_or(phase, |(reason, _)| reason.clone()) };
        let trouble = match (&stuck, unscheduled) {
            _ if ready || terminating => None,
            (Some((_, message)), _) => message.clone(),
            (None, Some(unscheduled)) => unscheduled.message.clone(),
            (None, None) => condition("Ready").and_then(|ready| ready.message.clone()),
        };
        Self {
            name: pod.name_any(),
            ready,
            restarts: containers().map(|container| container.restart_count).sum(),
            created: pod.creation_timestamp().map(|time| time.0),
            state,
            trouble,
        }
    }
}

/// Why a container does not run: its reason in one word, and the words of the kubelet.
fn container_trouble(container: &ContainerStatus) -> Option<(String, Option<String>)> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.clone().filter(|reason| reason != "PodInitializing")?;
        return Some((reason, waiting.message.clone().or_else(|| last_exit(container))));
    }
    let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
    let reason = ended.reason.clone().unwrap_or_else(|| "Error".into());
    Some((reason, Some(format!("container {} exited with code {}", container.name, ended.exit_code))))
}

fn last_exit(container: &ContainerStatus) -> Option<String> {
    let code = container.last_state.as_ref()?.terminated.as_ref()?.exit_code;
    Some(format!("container {} exited with code {code}", container.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixtures;

    fn roles(view: &View) -> Vec<(String, Role)> {
        view.revisions().into_iter().map(|revision| (revision.hash, revision.role)).collect()
    }

    #[test]
    fn a_revision_is_what_status_says_or_else_what_its_marks_say() {
        let mut view = fixtures::aborted_by_analysis();
        let rejected = vec![("7f9b".to_owned(), Role::Rejected), ("5d7c".to_owned(), Role::Stable)];
        assert_eq!(roles(&view), rejected);
        view.rollout.status.as_mut().unwrap().rejected.clear();
        assert_eq!(roles(&view), rejected, "the mark on the ReplicaSet says the same");
        view.rollout.status = None;
        assert_eq!(roles(&view), [("7f9b".to_owned(), Role::Rejected), ("5d7c".to_owned(), Role::Old)]);
    }

    #[test]
    fn the_progress_deadline_counts_only_while_something_is_waited_for() {
        assert_eq!(fixtures::waiting_for_pods().deadline(), Some(fixtures::at("12:12:01")));
        assert_eq!(fixtures::progressing().deadline(), None, "observed: what is left is the grace time");
        assert_eq!(fixtures::aborted_by_deadline().deadline(), None);
    }
}
