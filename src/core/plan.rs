//! What to do: one pure function of what is observed and the time.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;

use super::{
    analysis::Defaults,
    draft::{Draft, Flow, Pending, Waiting, wait},
    observed::{Observed, Owner, WorkloadView},
    patch::{self, Action, Guarded, Kind, Write, label},
    report, revision,
    revision::Resolved,
    spec::{self, Invalid, Spec, invalid},
    verdict, workload,
};
use crate::api::{
    RolloutStatus, Verb, keys,
    status::{CanaryState, Propagation, Rejected, RolloutOutcome},
};

/// What to do now: the actions one after the other, until one fails (after that only those of the same kind that stand alone, such as other
/// routes); then the status, if it has changed; then look again at `wake_at`, or when anything that was observed changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub status: RolloutStatus,
    pub wake_at: Option<Timestamp>,
    pub events: Vec<report::Event>,
}

/// What the installation brings.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where metrics without an address are asked.
    pub prometheus_address: Option<String>,
}

/// Deterministic and total: it takes the time, returns data, never fails.
pub fn plan(obs: &Observed, settings: &Settings, now: Timestamp) -> Plan {
    let now = Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now);
    let unreadable = obs.rollout.unreadable.as_ref();
    let spec = unreadable.map_or_else(|| spec::parse(&obs.rollout.spec), |unreadable| Err(unreadable.why.clone()));
    let checked = spec.as_ref().map_err(Clone::clone).and_then(|spec| {
        spec::check(obs, spec)?;
        let defaults = Defaults { prometheus_address: settings.prometheus_address.is_some(), without_traffic: !spec.has_traffic };
        verdict::check(spec, &obs.analysis_templates, &defaults)
    });
    let remains = Spec::remains(&obs.rollout.spec);
    let mut draft = Draft::new(obs, spec.as_ref().unwrap_or(&remains), now);
    let checked =
        checked.and_then(|()| draft.routes().iter().try_for_each(|route| route.check().and_then(|()| route.check_rules(draft.spec))));
    let outcome = match checked {
        // Nothing is known of what must be taken back or given back.
        Err(invalid) if unreadable.is_some_and(|unreadable| !unreadable.essentials) => Outcome::Invalid(invalid),
        Err(invalid) if !obs.rollout.meta.deleting => match draft.guard() {
            // What that waits for is nothing to say beside what is wrong.
            Ok(()) => match draft.keep_what_runs() {
                Ok(()) | Err(_) => Outcome::Invalid(invalid),
            },
            Err(pending) => Outcome::Waiting(pending),
        },
        _ => draft.go(),
    };
    draft.refuse_unreadable_actions();
    report::write(&mut draft, &outcome);
    draft.remove_old_runs();
    draft.remove_old_actions();
    let events = report::events(&obs.rollout.status, &draft.status, obs, now);
    Plan { actions: draft.actions, status: draft.status, wake_at: draft.wake_at, events }
}

/// How far the line was walked.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// At rest: the present template serves.
    Healthy,
    /// At rest after an abort.
    Aborted,
    Waiting(Pending),
    /// What the spec names has not come within the progress deadline. What runs goes on as it is.
    Stalled(String),
    Invalid(Invalid),
    /// Deleted, and everything given back.
    Gone,
}

impl<'a> Draft<'a> {
    fn new(obs: &'a Observed, spec: &'a Spec, now: Timestamp) -> Self {
        Self {
            obs,
            spec,
            now,
            status: obs.rollout.status.clone(),
            actions: vec![],
            wake_at: None,
            canary_service: spec.traffic.canary_service(),
            replicas: obs.rollout.spec.replicas.or_else(|| workload::replicas(obs)).unwrap_or(1),
            warm: None,
            template: String::new(),
        }
    }

    fn go(&mut self) -> Outcome {
        if self.obs.rollout.meta.deleting {
            return match self.leave() {
                Ok(()) => Outcome::Gone,
                Err(pending) => Outcome::Waiting(pending),
            };
        }
        let walked = self.walk();
        match walked.or_else(|pending| self.keep_deadline(pending)) {
            Ok(outcome) => outcome,
            Err(pending) => match pending.message.strip_prefix(REFUSED) {
                Some(why) => Outcome::Invalid(invalid("spec.template", format!("the API server refuses it: {why}"))),
                None => Outcome::Waiting(pending),
            },
        }
    }

    fn walk(&mut self) -> Flow<Outcome> {
        self.guard()?;
        self.ensure_fenced()?;
        self.ensure_ours()?;
        self.ensure_pins_stand()?;
        self.take_over()?;
        self.template = self.present_revision()?;
        let stable = self.stable();
        self.believe_marks(&self.template.clone());
        let canary = self.wanted(&self.template.clone(), stable.as_deref());
        self.status.canary_revision = Some(canary.clone());
        let before = self.status.last_action.clone();
        let was_stable = stable.clone().or_else(|| self.status.stable_revision.clone());
        self.obey(was_stable.as_deref(), Some(&canary));
        if self.status.last_action != before {
            return wait(Waiting::Settling, "does what was asked");
        }
        let Some(stable) = stable else { return self.without_stable(&canary) };
        self.status.stable_revision = Some(stable.clone());
        if let Some(undo) = self.status.undo.clone().filter(|_| self.is_just_promoted(&stable)) {
            self.take_promotion_back(&undo)?;
        }
        if stable != canary && self.is_coming_home(&stable) {
            // A promotion that is written is carried through before anything else begins.
            self.bring_traffic_home(&stable)?;
        }
        if stable == canary {
            self.rest(&stable)?;
            self.ensure_restarted(&stable)?;
            self.ensure_stable_available(&stable)?;
            self.ensure_all_there()?;
            return Ok(Outcome::Healthy);
        }
        if self.is_rejected(&canary) {
            self.stay_aborted(&stable, &canary)?;
            self.ensure_restarted(&stable)?;
            return Ok(Outcome::Aborted);
        }
        self.roll(&stable, &canary)?;
        wait(Waiting::Settling, "rolls out")
    }

    /// Taking a canary back comes before everything else, whatever else is missing or wrong.
    fn guard(&mut self) -> Flow {
        self.believe_undone();
        self.record_last_action();
        let running = self.status.canary.as_ref().map(|c| c.revision.clone()).filter(|c| !self.is_rejected(c));
        let stable = self.stable().or_else(|| self.status.stable_revision.clone());
        let (Some(stable), Some(canary)) = (stable, running) else { return Ok(()) };
        if stable == canary {
            return Ok(());
        }
        if let Some(reason) = self.analysis_failure() {
            return self.abort(&stable, &canary, &reason);
        }
        let next = self.obs.actions.iter().find(|a| a.status.outcome.is_none());
        if next.is_some_and(|a| a.spec.verb == Verb::Abort && a.spec.revision == canary) {
            self.obey(Some(&stable), Some(&canary));
            return wait(Waiting::Settling, "does what was asked");
        }
        Ok(())
    }

    /// The spec cannot be carried out: what runs goes on as it is. So what was set for it is put back, what was rejected stays so, and stable
    /// has the pods that are wanted.
    fn keep_what_runs(&mut self) -> Flow {
        let obs = self.obs;
        let Some(stable) = self.stable().filter(|_| obs.rival.is_none()) else { return Ok(()) };
        self.ensure_fenced()?;
        self.ensure_pins_stand()?;
        let canary = self.status.canary.as_ref().map(|canary| canary.revision.clone());
        if let Some(rejected) = canary.filter(|canary| *canary != stable && self.is_rejected(canary)) {
            return self.stay_aborted(&stable, &rejected);
        }
        if obs.rollout.unreadable.is_none() {
            self.keep_stable(&stable);
        }
        self.take_surplus_off(&stable);
        Ok(())
    }

    /// Our finalizer and the anchor, before anything that must be given back.
    fn ensure_ours(&mut self) -> Flow {
        let rollout = &self.obs.rollout;
        if !rollout.finalizers.iter().any(|f| f == keys::FINALIZER) {
            let mut finalizers = rollout.finalizers.clone();
            finalizers.push(keys::FINALIZER.to_owned());
            let patch = Guarded::new(Kind::Rollout, &rollout.meta).unchanged().add("/metadata/finalizers", finalizers);
            self.act(patch.unfenced("add our finalizer"));
        }
        if rollout.spec.replicas.is_none() && rollout.spec.workload_ref.is_none() {
            let write = Write::Scale { kind: Kind::Rollout, name: rollout.meta.name.clone(), replicas: 1 };
            self.act(Action { what: "set replicas of the Rollout to 1, as none are given".to_owned(), write });
        }
        if self.obs.anchor.is_none() {
            self.act(patch::create(Kind::ControllerRevision, revision::anchor(self.obs), format!("make the anchor {}", rollout.meta.name)));
            return wait(Waiting::Progress, "begins to look after this Rollout");
        }
        self.adopt_orphans()?;
        self.put_labels_back();
        Ok(())
    }

    /// ReplicaSets of ours that have lost their owners (a restored backup) are taken back, with the marks that they carry.
    fn adopt_orphans(&mut self) -> Flow {
        let obs = self.obs;
        let Some(anchor) = &obs.anchor else { return Ok(()) };
        let orphans: Vec<_> = obs.replica_sets.iter().filter(|rs| rs.owner == Owner::Nobody && !rs.meta.deleting).collect();
        for rs in &orphans {
            let patch = Guarded::new(Kind::ReplicaSet, &rs.meta).unchanged();
            let patch = patch.add("/metadata/ownerReferences", revision::owners(obs, anchor));
            self.act(patch.kept_fenced(format!("take ReplicaSet {} back, which has lost its owners", rs.meta.name)));
        }
        match orphans.is_empty() {
            true => Ok(()),
            false => wait(Waiting::Progress, "takes back ReplicaSets that have lost their owners"),
        }
    }

    /// People and the plugin find the ReplicaSets by their labels.
    fn put_labels_back(&mut self) {
        let obs = self.obs;
        for rs in obs.revisions().filter(|rs| !rs.meta.deleting) {
            let wanted = [(keys::ROLLOUT, &obs.rollout.meta.name), (keys::POD_TEMPLATE_HASH, &rs.hash)];
            let lost = wanted.into_iter().filter(|(key, value)| rs.meta.labels.get(*key) != Some(value));
            let lost: BTreeMap<&str, &String> = lost.collect();
            let patch = Guarded::new(Kind::ReplicaSet, &rs.meta);
            let patch = match rs.meta.labels.is_empty() {
                _ if lost.is_empty() => continue,
                true => patch.unchanged().add("/metadata/labels", json!(lost)),
                false => lost.into_iter().fold(patch, |patch, (key, value)| patch.add(label(key), value.clone())),
            };
            self.act(patch.kept_fenced(format!("put the labels of ReplicaSet {} back", rs.meta.name)));
        }
    }

    fn present_revision(&self) -> Flow<String> {
        match revision::resolve(self.obs) {
            Resolved::Revision(hash) => Ok(hash),
            Resolved::Missing => wait(Waiting::Progress, "waits for the pod template"),
            Resolved::Ask => wait(Waiting::Progress, "asks the API server about the new template"),
            Resolved::Refused(why) => wait(Waiting::Progress, format!("{REFUSED}{why}")),
        }
    }

    /// Status can be lost; the rejection of the present template is also on its ReplicaSet and on the routes.
    fn believe_marks(&mut self, canary: &str) {
        if self.is_rejected(canary) || self.status.stable_revision.as_deref() == Some(canary) {
            return;
        }
        let on_set = self.obs.replica_set(canary).and_then(|rs| rs.meta.annotations.get(keys::REJECTED)).cloned();
        let on_route = self.routes().iter().filter_map(|r| r.record()).any(|r| r.rejected.as_deref() == Some(canary));
        if let Some(reason) = on_set.or_else(|| on_route.then(|| "taken back, as the route records".to_owned())) {
            if self.status.canary.as_ref().is_some_and(|c| c.revision == canary) {
                self.remember(RolloutOutcome::Aborted, reason.clone());
            }
            self.status.transition = None;
            self.status.rejected = vec![Rejected { revision: canary.to_owned(), reason, at: self.time() }];
        }
    }

    /// Promoted, but `service` still selects the version before.
    fn is_coming_home(&self, stable: &str) -> bool {
        let pinned = self.obs.service.as_ref().and_then(|s| s.pinned());
        let canary = self.obs.canary_service.as_ref().and_then(|s| s.pinned());
        // Only what we have split: a route that was made again from Git may give the canary Service a share of its own.
        let live = self.routes().iter().any(|route| route.record().is_some() && route.is_on());
        pinned.is_some_and(|hash| hash != stable) || (canary == Some(stable) && live)
    }

    /// The first template ever goes live. Where one was stable whose ReplicaSet somebody has deleted, the same again does; another one has not been
    /// judged, and nothing is there to judge it by: a person decides.
    fn without_stable(&mut self, canary: &str) -> Flow<Outcome> {
        let gone = self.status.stable_revision.clone().filter(|gone| gone != canary);
        if self.is_rejected(canary) {
            let of = gone.unwrap_or_default();
            return wait(
                Waiting::Missing,
                format!(
                    "waits for a version that may serve: the ReplicaSet of the stable revision {of} is gone, and revision {canary} was taken back; deploy another one, or let this one serve (`kubectl sluice retry`, then `promote --full`)"
                ),
            );
        }
        let Some(gone) = gone else { return self.first_deployment(canary) };
        if self.is_template_of(&gone) {
            self.status.stable_revision = None; // under another name, as it was its Deployment's
            return self.first_deployment(canary);
        }
        self.begin(&gone, canary);
        if self.promote_full() {
            return self.first_deployment(canary);
        }
        wait(
            Waiting::Missing,
            format!(
                "waits for a person: the ReplicaSet of the stable revision {gone} is gone, and revision {canary} has not been judged; deploy the version again that served, or let this one serve (`kubectl sluice promote --full`)"
            ),
        )
    }

    /// The Deployment's template was this revision's at the last look, and nobody has written it since.
    fn is_template_of(&self, revision: &str) -> bool {
        let status = &self.obs.rollout.status;
        let unchanged = |workload: &WorkloadView| status.workload_observed_generation == Some(workload.meta.generation);
        status.canary_revision.as_deref() == Some(revision) && self.obs.workload.as_ref().is_some_and(unchanged)
    }

    /// The first template ever goes to full scale without steps: there is nothing to compare it with, and nothing to lose.
    fn first_deployment(&mut self, canary: &str) -> Flow<Outcome> {
        let obs = self.obs;
        let Some(anchor) = &obs.anchor else { return wait(Waiting::Progress, "begins") };
        let name = revision::set_name(obs, canary);
        if obs.replica_set(canary).is_none() {
            if let Some(body) = revision::replica_set(obs, anchor, canary, self.replicas) {
                self.act(patch::create(Kind::ReplicaSet, body, format!("make ReplicaSet {name} with {} replicas", self.replicas)));
            }
            return wait(Waiting::Progress, "starts the first version");
        }
        self.mark_stable(canary)?;
        self.status.stable_revision = Some(canary.to_owned());
        self.wake(self.now);
        wait(Waiting::Progress, "starts the first version")
    }

    fn ensure_stable_available(&mut self, stable: &str) -> Flow {
        let available = self.obs.replica_set(stable).map_or(0, |rs| rs.available);
        if available < self.replicas {
            return wait(
                Waiting::Progress,
                format!("waits for the pods of the stable revision: {available} of {} available", self.replicas),
            );
        }
        Ok(())
    }

    /// How the Rollout is deleted. Where its sign was not seen (nobody was looking), what the garbage collector has done tells; and where
    /// that may have been either, pods that serve stay.
    fn propagation(&self) -> Propagation {
        let told = self.status.propagation.or(self.obs.rollout.propagation);
        let untouched = self.obs.revisions().all(|rs| rs.names_rollout);
        told.unwrap_or(if untouched { Propagation::Background } else { Propagation::Orphan })
    }

    /// The Rollout is deleted: everything goes back to how it was, then our finalizer goes.
    fn leave(&mut self) -> Flow {
        let rollout = &self.obs.rollout;
        if !rollout.finalizers.iter().any(|f| f == keys::FINALIZER) {
            return Ok(());
        }
        if self.obs.namespace_terminating {
            self.drop_finalizer(); // everything goes: there is nothing to give back, and nobody to give it to
            return Ok(());
        }
        let propagation = self.propagation();
        if self.status.propagation.is_none() {
            self.status.propagation = Some(propagation); // before its signs are gone
            self.wake(self.now);
            return wait(Waiting::Settling, "gives everything back");
        }
        // Once it is given back, its ReplicaSet is no revision of ours any more, but still the one that serves.
        let stable = self.obs.rollout.status.stable_revision.clone().or_else(|| revision::stable(self.obs));
        let stable = stable.or_else(|| revision::of_workload(self.obs).find(|rs| rs.replicas > 0).map(|rs| rs.hash.clone()));
        self.ensure_fenced()?;
        if let Some(stable) = &stable {
            if self.status.canary.is_none() && !self.traffic_is_at_rest() {
                self.status.canary = Some(CanaryState::new(stable, self.time(), self.replicas));
            }
            self.ensure_pins_stand()?;
            self.keep_empty_while_pinned()?;
            self.rest(stable)?;
        }
        let workload = self.obs.rollout.spec.workload_ref.is_some();
        if workload {
            self.give_back(stable.as_deref())?;
        }
        if !self.actions.is_empty() {
            return wait(Waiting::Progress, "gives everything back");
        }
        if propagation == Propagation::Orphan {
            self.leave_orphans()?;
        }
        if let Some(anchor) = self.obs.anchor.as_ref().filter(|a| !a.deleting) {
            self.act(patch::delete(Kind::ControllerRevision, anchor, format!("remove the anchor {}", anchor.name)));
        }
        self.drop_finalizer();
        Ok(())
    }

    fn drop_finalizer(&mut self) {
        let rollout = &self.obs.rollout;
        let finalizers: Vec<&String> = rollout.finalizers.iter().filter(|f| *f != keys::FINALIZER).collect();
        let patch = Guarded::new(Kind::Rollout, &rollout.meta).unchanged().add("/metadata/finalizers", json!(finalizers));
        self.act(patch.unfenced("take our finalizer off"));
    }
}

/// How a refused template is passed up the line.
const REFUSED: &str = "refused: ";
