//! The way home: after a promotion, an abort, or when the template was set back. It ends with routes and Services as in Git.

use jiff::Timestamp;

use super::{
    canary_rule::Portion,
    draft::{Draft, Flow, Stage, Waiting, wait},
    observed::{Meta, ReplicaSetView, ServiceView},
    patch::{self, Guarded, Kind, MANAGER},
    revision::{self, Resolved},
    route::{Route, record_key},
    spec::Weight,
};
use crate::api::{
    RolloutStatus, keys,
    status::{Rejected, RolloutOutcome, Weights},
};

impl RolloutStatus {
    /// What the routes are to give.
    pub(super) fn weights_wanted(&mut self, canary: Weight) {
        let observed = self.weights.as_ref().and_then(|w| w.observed).filter(|o| *o == canary.percent());
        self.weights = Some(Weights { stable: 100.0 - canary.percent(), canary: canary.percent(), observed });
    }

    pub(super) fn weights_observed(&mut self, canary: Weight) {
        self.weights = Some(Weights { stable: 100.0 - canary.percent(), canary: canary.percent(), observed: Some(canary.percent()) });
    }
}

impl Draft<'_> {
    /// Takes the canary back. The traffic moves first, in one write for each route, which also records the rejection; nothing is
    /// waited for before it.
    pub fn abort(&mut self, stable: &str, canary: &str, reason: &str) -> Flow {
        self.actions.clear(); // a write that is refused must not hold this one up; the others are planned again
        self.write_portion(&Portion::default(), Some(canary));
        self.mark_rejected(canary, reason);
        let step = self.status.current_step.as_ref().map(|s| format!(" (at step {} of {})", s.index + 1, self.spec.steps.len() + 1));
        self.remember(RolloutOutcome::Aborted, format!("{reason}{}", step.unwrap_or_default()));
        self.status.rejected = vec![Rejected { revision: canary.to_owned(), reason: reason.to_owned(), at: self.time() }];
        self.status.current_step = None;
        self.status.hold = None;
        self.status.transition = None;
        self.status.weights_wanted(Weight::ZERO);
        self.end_runs(true);
        self.wake(self.now);
        wait(Waiting::Settling, format!("takes revision {canary} back to stable {stable}: {reason}"))
    }

    pub fn mark_rejected(&mut self, canary: &str, reason: &str) {
        let obs = self.obs;
        let reason: String = reason.chars().take(256).collect();
        let Some(rs) = obs.replica_set(canary) else { return self.make_rejected(canary, &reason) };
        if rs.meta.annotations.contains_key(keys::REJECTED) {
            return;
        }
        let mut patch = Guarded::new(Kind::ReplicaSet, &rs.meta).annotate(keys::REJECTED, reason).unannotate(keys::STABLE);
        if !self.spec.has_traffic && self.status.stable_revision.as_deref() != Some(canary) {
            patch = patch.replace("/spec/replicas", 0); // that is what takes its traffic away: one write
        }
        self.act(patch.fenced(format!("mark ReplicaSet {} as rejected", rs.meta.name), obs.epoch));
    }

    /// Taken back before it had a ReplicaSet: an empty one carries the mark, should status be lost.
    fn make_rejected(&mut self, canary: &str, reason: &str) {
        let obs = self.obs;
        let Some(anchor) = obs.anchor.as_ref().filter(|_| revision::resolve(obs) == Resolved::Revision(canary.to_owned())) else { return };
        if let Some(mut body) = revision::replica_set(obs, anchor, canary, 0) {
            body["metadata"]["annotations"][keys::REJECTED] = reason.into();
            self.act(patch::create(Kind::ReplicaSet, body, format!("write down that revision {canary} is rejected")));
        }
    }

    /// A rejected template: all traffic stays on stable, the canary's pods stop, and that is where it stays.
    pub fn stay_aborted(&mut self, stable: &str, canary: &str) -> Flow {
        let reason = self.status.rejected.first().map(|r| r.reason.clone()).unwrap_or_default();
        self.status.weights_wanted(Weight::ZERO);
        self.status.current_step = None;
        self.status.hold = None;
        let planned = std::mem::take(&mut self.actions);
        self.write_portion(&Portion::default(), Some(canary)); // before anything that could be refused
        self.actions.extend(planned);
        self.mark_rejected(canary, &reason);
        self.end_runs(true);
        if !self.is_home(stable) {
            self.keep_stable(stable);
        }
        self.bring_traffic_home(stable)?;
        self.status.weights_observed(Weight::ZERO);
        if self.status.canary.as_ref().is_some_and(|c| c.revision == stable) {
            // It is the way home of an undo: what was undone has left the Service by now, and drains.
            self.settle(stable, Stage::Left, Ok(()), self.drain_seconds())?;
        }
        self.stop_others(stable)?;
        self.scale(stable, self.stable_replicas(stable));
        if self.actions.is_empty() {
            self.give_up_fields(); // the next version is applied without force, and with it Service and route as they stand in Git
        }
        Ok(())
    }

    /// The template that is stable: everything goes back to how Git has it.
    pub fn rest(&mut self, stable: &str) -> Flow {
        self.end_runs(true);
        self.withdraw(stable);
        self.clear_rejections(stable);
        if !self.traffic_is_at_rest() {
            self.keep_stable(stable);
        }
        self.bring_traffic_home(stable)?;
        if let Some(action) = self.first_restore() {
            self.act(action);
            return self.settle(stable, Stage::Left, Err("puts the routes back as they were".into()), 0);
        }
        if self.status.canary.is_some() || !self.traffic_is_at_rest() {
            let observed = self.routes().iter().try_for_each(|r| r.accepted()).map_err(|why| format!("waits for the gateway: {why}"));
            self.settle(stable, Stage::Left, observed, self.drain_seconds())?;
        }
        self.ensure_stable_takes_everything(stable)?;
        self.keep_warm(stable)?;
        self.stop_others(stable)?;
        if self.warm.is_some() {
            self.status.weights = None;
            return Ok(()); // the Service stays pinned: it must not select these pods
        }
        self.ensure_only_judged_pods_would_serve(stable)?;
        self.restore_services();
        self.scale(stable, self.stable_replicas(stable));
        self.forget_fences();
        if self.actions.is_empty() {
            self.give_up_fields();
        }
        match self.actions.is_empty() {
            true => self.at_rest(),
            false => return wait(Waiting::Progress, "puts Services and ReplicaSets back as they were"),
        }
        Ok(())
    }

    /// A template that went to another revision leaves its rejection behind: if it comes back, that is a new decision.
    pub fn clear_rejections(&mut self, present: &str) {
        let obs = self.obs;
        let outdated = |rs: &&ReplicaSetView| rs.hash != present && rs.meta.annotations.contains_key(keys::REJECTED);
        for rs in obs.revisions().filter(outdated) {
            let patch = Guarded::new(Kind::ReplicaSet, &rs.meta).unannotate(keys::REJECTED);
            self.act(patch.fenced(format!("take the rejection off ReplicaSet {}", rs.meta.name), obs.epoch));
        }
        let outdated = |r: &Route| r.record().and_then(|r| r.rejected.as_ref()).is_some_and(|hash| hash != present);
        let (denominator, epoch) = (self.spec.denominator(), obs.epoch);
        let rewritten: Vec<_> =
            self.routes().iter().filter(|r| outdated(r)).map(|r| r.set(&Portion::default(), denominator, None, epoch)).collect();
        for action in rewritten {
            self.act(action);
        }
    }

    /// The template was set back to stable before its rollout had ended.
    fn withdraw(&mut self, stable: &str) {
        let other = self.status.canary.as_ref().is_some_and(|c| c.revision != stable);
        if other {
            let revision = self.status.canary.as_ref().map(|c| c.revision.clone()).unwrap_or_default();
            if !self.is_rejected(&revision) {
                self.remember(RolloutOutcome::Withdrawn, "the template was set back to stable");
            }
            if let Some(state) = &mut self.status.canary {
                state.revision = stable.to_owned();
            }
            self.status.transition = None;
        }
        self.status.rejected.clear();
        self.status.current_step = None;
        self.status.hold = None;
    }

    fn at_rest(&mut self) {
        self.status.canary = None;
        self.status.transition = None;
        self.status.weights = None;
        self.status.reverted.clear();
        self.status.analysis.clear();
    }

    /// All traffic on `service`, which selects stable; the canary Service selects stable too. Ends at once if it is so.
    pub fn bring_traffic_home(&mut self, stable: &str) -> Flow {
        if self.traffic_is_at_rest() && !self.others_serve(stable) {
            return Ok(());
        }
        self.ensure_repinned(stable)?;
        let selected = self.obs.canary_service.as_ref().and_then(|s| s.pinned());
        let others = self.obs.pods.iter().any(|pod| pod.hash != stable);
        let drains = selected != Some(stable) && (self.obs.canary_service.is_some() || others);
        if self.is_recorded() || self.selects_others(stable) {
            let observed = match self.take_weight_off(stable) {
                true => Err("brings all traffic back to the Service".to_owned()),
                false => self.is_off_observed(stable),
            };
            let seconds = if drains { self.spec.traffic.drain_seconds } else { self.spec.traffic.step_grace_seconds };
            self.settle(stable, Stage::BackHome, observed, seconds)?;
        }
        self.ensure_canary_released(stable)
    }

    /// The canary Service selects the pods of another revision than stable.
    pub fn selects_others(&self, stable: &str) -> bool {
        self.obs.canary_service.as_ref().and_then(|s| s.pinned()).is_some_and(|hash| hash != stable)
    }

    /// Every route that is split gives the canary nothing. One that was put back already stays so: splitting it again, to put it back
    /// again, would never end. Unless the canary Service still selects other pods, and Git gives it a share.
    fn take_weight_off(&mut self, stable: &str) -> bool {
        let denominator = self.spec.denominator();
        let rejected = self.status.rejected.first().map(|rejected| rejected.revision.clone());
        self.take_off(stable, rejected.as_deref(), |route| !route.is_off(denominator))
    }

    /// A route that somebody has put back gives the canary no more than it was given: nothing, until it may have that again.
    pub fn take_surplus_off(&mut self, stable: &str) {
        let given = self.given_weight();
        self.take_off(stable, None, |route| route.canary_weight() > given);
    }

    /// Those of the split routes that are so give the canary nothing. Whether there are any.
    fn take_off(&mut self, stable: &str, rejected: Option<&str>, is_so: impl Fn(&Route) -> bool) -> bool {
        let (denominator, epoch) = (self.spec.denominator(), self.obs.epoch);
        let routes = self.split_routes(stable);
        let actions: Vec<_> =
            routes.iter().filter(|route| is_so(route)).map(|r| r.set(&Portion::default(), denominator, rejected, epoch)).collect();
        let changed = !actions.is_empty();
        for action in actions {
            self.act(action);
        }
        changed
    }

    /// The routes that we have split, and those that were made again from Git and give other pods than stable's a share.
    fn split_routes(&self, stable: &str) -> Vec<Route<'_>> {
        let leaks = self.selects_others(stable);
        self.routes().into_iter().filter(|route| route.record().is_some() || leaks && route.is_on()).collect()
    }

    /// Every route that is split gives the canary nothing, and that is taken up. A canary Service that somebody has removed cannot be
    /// resolved, which does not matter at weight 0.
    pub fn is_off_observed(&self, stable: &str) -> Result<(), String> {
        let split = self.split_routes(stable);
        if let Some(route) = split.iter().find(|route| !route.is_off(self.spec.denominator())) {
            return Err(format!("waits for {} to give the canary 0 %", route.view.meta.name));
        }
        let observed = |route: &Route| if self.obs.canary_service.is_some() { route.accepted() } else { route.taken_up() };
        self.routes().iter().try_for_each(observed).map_err(|why| format!("waits for the gateway: {why}"))
    }

    fn first_restore(&self) -> Option<patch::Action> {
        self.routes().iter().find_map(|r| r.restore(self.spec.denominator()))
    }

    /// Without routes each pod has its part of the traffic: stable has the pods for all of it before others stop.
    fn ensure_stable_takes_everything(&mut self, stable: &str) -> Flow {
        let obs = self.obs;
        let serves = |rs: &ReplicaSetView| rs.hash != stable && rs.replicas > 0 && rs.ready > 0;
        let Some(rs) = obs.replica_set(stable).filter(|_| !self.spec.has_traffic && obs.revisions().any(serves)) else { return Ok(()) };
        if rs.ready >= self.replicas {
            return Ok(());
        }
        self.scale(stable, self.replicas.max(rs.replicas));
        wait(
            Waiting::Progress,
            format!("waits for the pods of the stable revision before others stop: {} of {} ready", rs.ready, self.replicas),
        )
    }

    /// The version before keeps its pods for a while after a promotion. Until when is written on its ReplicaSet.
    fn keep_warm(&mut self, stable: &str) -> Flow {
        let promoted = self.status.canary.as_ref().is_some_and(|c| c.revision == stable);
        if !promoted || self.obs.rollout.meta.deleting || self.spec.scale_down_delay.is_zero() {
            return Ok(());
        }
        let obs = self.obs;
        let Some(rs) = self.status.served_before(stable).and_then(|hash| obs.replica_set(hash)).filter(|rs| rs.replicas > 0) else {
            return Ok(());
        };
        let until = rs.meta.annotations.get(keys::SCALE_DOWN_AT).and_then(|at| at.parse::<Timestamp>().ok());
        match until {
            None => {
                let until = self.now + self.spec.scale_down_delay;
                let patch = Guarded::new(Kind::ReplicaSet, &rs.meta).annotate(keys::SCALE_DOWN_AT, until.to_string());
                self.act(patch.fenced(format!("keep the pods of ReplicaSet {} until {until}", rs.meta.name), obs.epoch));
                wait(Waiting::Settling, format!("keeps the pods of revision {} for a while", rs.hash))
            }
            Some(until) if self.now < until => {
                self.wake(until);
                self.warm = Some((rs.hash.clone(), until));
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    /// Pods of other revisions stop; they have had no traffic for the drain time.
    fn stop_others(&mut self, stable: &str) -> Flow {
        let obs = self.obs;
        let warm = self.warm.as_ref().map(|(hash, _)| hash.clone());
        let stays = |hash: &String| hash == stable || Some(hash) == warm.as_ref();
        let others: Vec<&ReplicaSetView> = obs.revisions().filter(|rs| !stays(&rs.hash) && rs.replicas > 0).collect();
        if !others.is_empty() {
            self.ensure_leak_drained(stable)?;
        }
        for rs in &others {
            self.scale(&rs.hash, 0);
        }
        // Those of the Deployment itself are not ours to stop.
        let own = |hash: &String| revision::of_workload(obs).any(|rs| rs.hash == *hash);
        let left = obs.pods.iter().filter(|pod| !stays(&pod.hash) && !own(&pod.hash)).count();
        if left > 0 || !others.is_empty() {
            return wait(Waiting::Settling, format!("waits for {left} old pods to stop"));
        }
        Ok(())
    }

    /// As in Git, the Service selects all pods of the workload: also those that its Deployment has started by itself, which nobody has judged.
    fn ensure_only_judged_pods_would_serve(&self, stable: &str) -> Flow {
        let obs = self.obs;
        let Some(service) = obs.service.as_ref().filter(|service| service.pinned().is_some()) else { return Ok(()) };
        let own = |hash: &String| hash != stable && revision::of_workload(obs).any(|rs| rs.hash == *hash);
        match obs.pods.iter().filter(|pod| own(&pod.hash)).count() {
            0 => Ok(()),
            left => wait(
                Waiting::Progress,
                format!(
                    "waits for {left} pods to stop that the Deployment has started by itself, as Service {} would select them",
                    service.meta.name
                ),
            ),
        }
    }

    /// At rest and after an abort nothing of the user's objects is recorded as managed by us, so that no later apply of theirs conflicts. A
    /// write of its own: one that changes anything else would be recorded again.
    fn give_up_fields(&mut self) {
        let obs = self.obs;
        let ours = |s: &Option<ServiceView>| s.as_ref().filter(|s| !s.ours).map(|s| s.meta.clone());
        let services = [ours(&obs.service), ours(&obs.canary_service)].into_iter().flatten().map(|meta| (Kind::Service, meta));
        let workload = obs.workload.iter().map(|w| (Kind::Deployment, w.meta.clone()));
        let own = record_key(&obs.rollout.meta.name);
        let recorded = |meta: &Meta| meta.annotations.keys().any(|key| key.starts_with(keys::ROUTE_RECORD_PREFIX) && *key != own);
        let routes = obs.routes.iter().filter(|r| !recorded(&r.meta)).map(|r| (Kind::Route(r.kind), r.meta.clone()));
        for (kind, meta) in services.chain(workload).chain(routes).filter(|(_, meta)| !meta.managed_by_us.is_empty()) {
            let patch = meta.managed_by_us.iter().rev().fold(Guarded::new(kind, &meta).unchanged(), |patch, at| {
                let entry = format!("/metadata/managedFields/{at}");
                patch.test(format!("{entry}/manager"), MANAGER).remove(entry)
            });
            self.act(patch.kept_fenced(format!("give up the fields of {kind} {}", meta.name)));
        }
    }

    /// At rest nothing carries a fence, and no ReplicaSet a mark that means nothing any more.
    fn forget_fences(&mut self) {
        let obs = self.obs;
        let stable = self.status.stable_revision.clone().unwrap_or_default();
        for rs in obs.revisions() {
            let has = |key: &str| rs.meta.annotations.contains_key(key);
            let outdated = rs.hash != stable && (has(keys::STABLE) || has(keys::REJECTED)) || has(keys::SCALE_DOWN_AT);
            if rs.meta.annotations.contains_key(keys::EPOCH) || outdated {
                let mut patch = Guarded::new(Kind::ReplicaSet, &rs.meta).unannotate(keys::SCALE_DOWN_AT);
                if rs.hash != stable {
                    patch = patch.unannotate(keys::STABLE).unannotate(keys::REJECTED);
                }
                self.act(patch.unfenced(format!("take the marks of the rollout off ReplicaSet {}", rs.meta.name)));
            }
        }
        if obs.rollout.meta.annotations.contains_key(keys::EPOCH) {
            self.act(Guarded::new(Kind::Rollout, &obs.rollout.meta).unfenced("take our fence off the Rollout"));
        }
        let mut old: Vec<&ReplicaSetView> =
            obs.revisions().filter(|rs| rs.hash != stable && rs.replicas == 0 && rs.status_replicas == 0).collect();
        old.sort_by(|a, b| (a.created_at, &a.meta.name).cmp(&(b.created_at, &b.meta.name)));
        let surplus = old.len().saturating_sub(self.spec.history_limit);
        for rs in old.into_iter().take(surplus).filter(|rs| !rs.meta.deleting && !rs.meta.annotations.contains_key(keys::EPOCH)) {
            self.act(patch::delete(
                Kind::ReplicaSet,
                &rs.meta,
                format!("remove ReplicaSet {}: the history limit is {}", rs.meta.name, self.spec.history_limit),
            ));
        }
    }
}
