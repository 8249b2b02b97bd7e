//! The canary: from the first write of a rollout to its promotion.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::{
    canary_rule::Portion,
    draft::{Draft, Flow, Pending, Stage, Waiting, wait},
    observed::{ReplicaSetView, ServiceView},
    patch::{self, Guarded, Kind},
    plan::Outcome,
    revision,
    spec::{StepKind, Weight},
};
use crate::api::{
    keys,
    rollout::RouteRef,
    status::{CanaryState, CurrentStep, Hold, HoldReason, RolloutOutcome, Shortfall},
};

/// A canary that has had enough ready pods for so long has recovered.
const RECOVERED_AFTER: SignedDuration = SignedDuration::from_secs(60);

impl Draft<'_> {
    /// One look at a rollout of `canary` over `stable`.
    pub fn roll(&mut self, stable: &str, canary: &str) -> Flow {
        self.begin(stable, canary);
        self.follow_edits();
        self.clear_rejections(&self.template.clone());
        self.end_runs(false);
        self.hold_if_inconclusive();
        self.keep_stable(stable);
        if !self.spec.has_traffic {
            return self.roll_by_count(stable, canary);
        }
        self.note_reverted_routes();
        self.clear_way(stable, canary)?;
        self.ensure_named(canary)?;
        self.ensure_pinned(stable, canary)?;
        self.ensure_canary_service(stable, canary)?;
        self.ensure_entered(canary)?;
        let index = self.index();
        self.ensure_weight(canary, index)?;
        self.ensure_background(index)?;
        self.ensure_step(index)?;
        self.ensure_not_held()?;
        self.advance(stable, canary, index)
    }

    /// A template that is not the one in progress begins a rollout of its own; also where it had just been promoted, and somebody has deleted
    /// its ReplicaSet.
    pub fn begin(&mut self, stable: &str, canary: &str) {
        let in_progress = self.status.current_step.is_some();
        if in_progress && self.status.canary.as_ref().is_some_and(|c| c.revision == canary) {
            return;
        }
        let superseded = self.status.canary.as_ref().filter(|c| in_progress && c.revision != stable && !self.is_rejected(&c.revision));
        let began_with = superseded.map(|c| c.stable_replicas); // what that has of the traffic comes back to stable first
        if began_with.is_some() {
            self.remember(RolloutOutcome::Superseded, format!("revision {canary} came before it had ended"));
        }
        self.status.rejected.retain(|rejected| rejected.revision == self.template);
        self.status.hold = None;
        self.status.transition = None;
        let mut state = CanaryState::new(canary, self.time(), self.replicas.max(began_with.unwrap_or(0)));
        state.promote_full = self.status.undo.is_some(); // it has served before: without steps
        self.status.canary = Some(state);
        self.status.current_step = Some(CurrentStep { index: 0, started_at: self.time() });
    }

    /// Steps that were edited in the middle: the rollout goes on from the first whose weight is not below the present one.
    fn follow_edits(&mut self) {
        let (present, all, weight) = (self.spec.steps_digest(), self.spec.steps.len(), self.present_weight());
        let Some(state) = &mut self.status.canary else { return };
        let before = std::mem::replace(&mut state.steps, present.clone());
        if before.is_empty() || before == present || state.promote_full {
            return;
        }
        let index = (0..all).find(|index| self.spec.weight_at(*index).0 >= weight).unwrap_or(all);
        self.status.current_step = Some(CurrentStep { index: i32::try_from(index).unwrap_or(i32::MAX), started_at: self.time() });
        self.status.transition = None;
    }

    /// The canary's weight now: in the routes, but no more than was given by us (Git may have put them back), or where there are none, as
    /// far as pods were started for it.
    fn present_weight(&self) -> Weight {
        let given = self.given_weight();
        if self.spec.has_traffic { self.live_weight().min(given) } else { given }
    }

    /// What the status says that the canary is to have.
    pub fn given_weight(&self) -> Weight {
        self.status.weights.as_ref().and_then(|w| Weight::from_percent(w.canary)).unwrap_or_default()
    }

    pub fn is_rejected(&self, revision: &str) -> bool {
        self.status.rejected.iter().any(|r| r.revision == revision)
    }

    /// Index of the present step; the number of steps once all are done.
    pub fn index(&self) -> usize {
        let all = self.spec.steps.len();
        if self.promote_full() {
            return all;
        }
        self.status.current_step.as_ref().map_or(0, |s| usize::try_from(s.index).unwrap_or(0)).min(all)
    }

    /// Stable keeps enough pods to take everything back.
    pub fn keep_stable(&mut self, stable: &str) {
        let began_with = self.status.canary.as_ref().map_or(0, |c| c.stable_replicas);
        self.scale(stable, self.replicas.max(began_with));
    }

    pub fn scale(&mut self, hash: &str, replicas: i32) {
        let obs = self.obs;
        if let Some(rs) = obs.replica_set(hash).filter(|rs| rs.replicas != replicas) {
            let patch = Guarded::new(Kind::ReplicaSet, &rs.meta).replace("/spec/replicas", replicas);
            self.act(patch.fenced(format!("scale ReplicaSet {} from {} to {replicas}", rs.meta.name, rs.replicas), obs.epoch));
        }
    }

    /// What an earlier canary left behind: its traffic goes to stable, drains, and its pods stop, before the new one begins.
    fn clear_way(&mut self, stable: &str, canary: &str) -> Flow {
        let obs = self.obs;
        let selected = obs.canary_service.as_ref().and_then(|s| s.pinned());
        if selected.is_some_and(|hash| hash != stable && hash != canary) {
            self.status.weights_wanted(Weight::ZERO);
            self.bring_traffic_home(stable)?;
        }
        let others: Vec<&ReplicaSetView> = obs.revisions().filter(|rs| rs.hash != stable && rs.hash != canary && rs.replicas > 0).collect();
        let pinned = obs.service.as_ref().and_then(|s| s.pinned()) == Some(stable);
        if others.is_empty() || !pinned || obs.canary_service.is_none() {
            return Ok(()); // if somebody has removed a Service: they stop once it is there again, and they have drained
        }
        if selected.is_none() {
            self.ensure_canary_released(stable)?;
        }
        self.ensure_leak_drained(stable)?;
        for rs in others {
            self.scale(&rs.hash, 0);
        }
        Ok(())
    }

    /// What the spec names is there. It may come later: Git tools apply in any order.
    fn ensure_named(&mut self, canary: &str) -> Flow {
        if let Err(message) = self.named() {
            self.settle(canary, Stage::Pinned, Err(message.clone()), 0)?;
            return wait(Waiting::Progress, message);
        }
        Ok(())
    }

    /// The Service and the routes that the spec names are there, and point at each other.
    pub fn named(&self) -> Result<(), String> {
        if self.obs.service.is_none() {
            let name = &self.spec.traffic.service;
            return Err(format!("waits for Service {name}: it does not exist yet; create it, or correct spec.traffic.service"));
        }
        for reference in &self.spec.traffic.routes {
            let Some(view) = self.obs.routes.iter().find(|r| r.kind == reference.kind && r.meta.name == reference.name) else {
                let RouteRef { kind, name, .. } = reference;
                return Err(format!("waits for {kind} {name}: it does not exist yet; create it, or correct spec.traffic.routes"));
            };
            if let Some(rule) = super::route::missing_rules(reference, view).first() {
                return Err(format!(
                    "waits for a rule that is named {rule} in {} {}: none is; name one so, or correct ruleNames in spec.traffic.routes",
                    reference.kind, reference.name
                ));
            }
        }
        for route in self.routes() {
            let wanted = self.spec.traffic.routes.iter().any(|r| r.kind == route.view.kind && r.name == route.view.meta.name);
            if wanted && !route.is_relevant() {
                let (kind, name, service) = (route.view.kind, &route.view.meta.name, route.pair.service);
                return Err(format!(
                    "waits for a rule of {kind} {name} that points at Service {service}: none does; add it to the backendRefs of one, or correct spec.traffic.routes"
                ));
            }
        }
        Ok(())
    }

    /// The canary's backend is in every rule. It enters at weight 0, also where somebody has put a route back in the middle: the
    /// gateway learns of a backend and of its weight in two messages.
    fn ensure_entered(&mut self, canary: &str) -> Flow {
        let denominator = self.spec.denominator();
        if !self.routes().iter().all(|r| r.has_entered(denominator)) {
            self.take_all();
            self.status.weights_wanted(Weight::ZERO);
            self.rewind(canary, Stage::Entered);
            return self.settle(canary, Stage::Entered, Err("puts the canary's backend into the routes".into()), 0);
        }
        let observed = self.routes().iter().try_for_each(|r| r.accepted()).map_err(|why| format!("waits for the gateway: {why}"));
        self.settle(canary, Stage::Entered, observed, self.spec.traffic.step_grace_seconds)
    }

    /// What the canary may have without anything further: what it gets at the step before the present one; where that is nothing (as in steps that
    /// were edited), what it has had.
    pub fn portion_before(&self, index: usize) -> (Portion, usize) {
        let (portion, set_by) = match index {
            0 => (Portion::default(), 0),
            _ if self.promote_full() => return (Portion::default(), 0),
            index => self.spec.portion_at(index - 1),
        };
        let largest = self.status.canary.as_ref().and_then(|canary| Weight::from_percent(canary.largest_weight)).unwrap_or_default();
        match largest.min(self.spec.portion_at(index).0.weight) {
            had if portion.is_nothing() && had > Weight::ZERO => (had.into(), set_by),
            _ => (portion, set_by),
        }
    }

    /// The present weight is observed: evidence counts from now on.
    pub fn note_weight(&mut self, weight: Weight) {
        let now = self.time();
        let Some(state) = &mut self.status.canary else { return };
        state.largest_weight = state.largest_weight.max(weight.percent());
        state.weight_observed_at.get_or_insert(now);
    }

    /// Whether the canary has less than a portion in any route. Of a Service that has no share in any rule, it has all that there is.
    fn lacks(&self, portion: &Portion) -> bool {
        let (routes, denominator) = (self.routes(), self.spec.denominator());
        let less = self.live_weight() < portion.weight || routes.iter().any(|route| route.lacks(portion, denominator));
        less && !routes.iter().all(|route| route.has(portion, denominator))
    }

    /// Whether the canary has anything that is not of a portion.
    fn exceeds(&self, portion: &Portion) -> bool {
        self.live_weight() > portion.weight || self.routes().iter().any(|route| route.exceeds(portion, self.spec.denominator()))
    }

    /// What the canary gets now, as far as the present step goes: the step's, or first that of the step before, which it may have lost in
    /// between (unready pods, a route put back) or which was not observed yet.
    fn portion_now(&self, index: usize) -> (Portion, usize) {
        let (before, present) = (self.portion_before(index), self.spec.portion_at(index));
        let observed = self.status.canary.as_ref().is_some_and(|c| c.weight_observed_at.is_some());
        let due = || self.lacks(&before.0) || !observed && !before.0.is_nothing();
        if present.0.gives_more_than(&before.0) && !self.exceeds(&before.0) && due() { before } else { present }
    }

    /// The pods of a full version, and those that the canary needs for a portion at a step.
    fn pods_for(&self, portion: &Portion, index: usize) -> (i32, i32) {
        let base = self.replicas.max(1);
        (base, portion.weight.pods(base).max(1).max(self.spec.scale_at(index, base)))
    }

    /// The canary has the pods that a portion needs, and those of what it has now.
    fn ensure_pods(&mut self, canary: &str, portion: &Portion, index: usize) {
        let (base, needed) = self.pods_for(portion, index);
        self.set_canary_pods(canary, needed.max(self.live_weight().pods(base)), base.max(needed));
    }

    /// The canary's pods begin to start as soon as `service` selects others only (in this very plan: its writes come one after the other, and
    /// end at one that fails), while the routes are made ready for them. A canary Service of the user's would select them: there they wait.
    pub fn start_pods(&mut self, canary: &str) {
        let selects_all = |service: &ServiceView| !service.ours || service.pinned().is_none();
        if self.obs.canary_service.as_ref().is_some_and(selects_all) {
            return;
        }
        let index = self.index();
        self.ensure_pods(canary, &self.portion_now(index).0, index);
    }

    /// The present step's weight and rules are applied and observed. More traffic only for a canary that has the ready pods for it, and
    /// whose verdicts so far are closed.
    fn ensure_weight(&mut self, canary: &str, index: usize) -> Flow {
        let (before, _) = self.portion_before(index);
        let (portion, set_by) = self.portion_now(index);
        let live = self.live_weight();
        let (_, needed) = self.pods_for(&portion, index);
        let selected = self.obs.canary_service.as_ref().and_then(|s| s.pinned()) == Some(canary);
        let more = self.lacks(&portion);
        if selected && self.is_on() && self.obs.ready_pods(canary).next().is_none() {
            // A Service without endpoints answers with errors.
            self.take_all();
            self.status.weights_wanted(Weight::ZERO);
        } else if self.exceeds(&portion) && !more {
            self.set_portion(&portion); // less is always allowed
        } else if live > portion.weight {
            self.set_portion(&portion.weight.into()); // its rules come back when what they need is there
            self.wake(self.now);
            return wait(Waiting::Settling, format!("gives the canary {} for now", portion.weight));
        }
        self.ensure_pods(canary, &portion, index);
        self.ensure_set(canary)?;
        self.ensure_ready(canary, needed, !selected, set_by)?;
        self.ensure_selected(canary, usize::try_from(needed).unwrap_or(1))?;
        if more {
            self.ensure_not_held()?;
            if portion.gives_more_than(&before) {
                self.ensure_uncontested()?;
                let taken = self.routes().iter().try_for_each(|route| route.accepted());
                taken.or_else(|why| wait(Waiting::Progress, format!("waits for the gateway: {why}")))?;
            }
            if !before.is_nothing() && portion.gives_more_than(&before) {
                self.ensure_evidence(index)?;
            }
            self.rewind(canary, Stage::Portion(set_by));
        }
        self.apply_portion(canary, &portion, set_by)?;
        if portion != self.spec.portion_at(index).0 {
            self.wake(self.now);
            return wait(Waiting::Settling, format!("the canary has its {portion} again"));
        }
        Ok(())
    }

    fn apply_portion(&mut self, canary: &str, portion: &Portion, set_by: usize) -> Flow {
        self.status.weights_wanted(portion.weight);
        // A crash may have come between the write of the routes and that of status.
        let is_new = self.set_portion(portion) || !self.has_reached(canary, Stage::Portion(set_by));
        if let Some(state) = self.status.canary.as_mut().filter(|_| is_new) {
            state.weight_observed_at = None;
        }
        let observed = self.portion_observed(portion);
        self.settle(canary, Stage::Portion(set_by), observed, self.spec.traffic.step_grace_seconds)?;
        self.portion_observed(portion).or_else(|why| wait(Waiting::Progress, why))?;
        self.status.weights_observed(portion.weight);
        if !portion.is_nothing() {
            self.note_weight(portion.weight);
        }
        Ok(())
    }

    /// The canary's ReplicaSet is there, as it was asked for.
    pub fn ensure_set(&mut self, canary: &str) -> Flow {
        match self.obs.replica_set(canary) {
            Some(_) => Ok(()),
            None => self.settle(canary, Stage::CanaryReady, Err("starts the canary's pods".into()), 0),
        }
    }

    /// The canary's ReplicaSet has so many replicas, or more that it has already: pods that have had traffic stay while the rollout runs.
    pub fn set_canary_pods(&mut self, canary: &str, replicas: i32, most: i32) {
        let obs = self.obs;
        if let Some(rs) = obs.replica_set(canary) {
            self.scale(canary, replicas.max(rs.replicas.min(most)));
        } else if let Some(anchor) = &obs.anchor
            && let Some(body) = revision::replica_set(obs, anchor, canary, replicas)
        {
            let name = revision::set_name(obs, canary);
            self.act(patch::create(Kind::ReplicaSet, body, format!("make ReplicaSet {name} with {replicas} replicas")));
        }
    }

    pub fn ensure_ready(&mut self, canary: &str, needed: i32, first: bool, set_by: usize) -> Flow {
        let available = self.obs.replica_set(canary).map_or(0, |rs| rs.available);
        let ready = i32::try_from(self.obs.ready_pods(canary).count()).unwrap_or(i32::MAX).min(available);
        let stage = if first { Stage::CanaryReady } else { Stage::Capacity(set_by) };
        let observed = match ready >= needed {
            true => Ok(()),
            false => Err(format!("waits for the canary's pods: {ready} of {needed} ready{}", self.pod_problem(canary))),
        };
        self.settle(canary, stage, observed.clone(), 0)?;
        observed.or_else(|message| wait(Waiting::Progress, message))
    }

    fn pod_problem(&self, hash: &str) -> String {
        let problem = self.obs.pods.iter().filter(|p| p.hash == hash).find_map(|p| p.problem.as_ref().map(|why| (p, why)));
        problem.map(|(pod, why)| format!(" ({}: {why})", pod.name)).unwrap_or_default()
    }

    /// Remembers since when the canary has been short of pods, over short recoveries: a pod that crashes again and again is not
    /// making progress.
    fn note_shortfall(&mut self, short: bool) {
        let (now, time) = (self.now, self.time());
        let Some(state) = &mut self.status.canary else { return };
        state.shortfall = match (state.shortfall.take(), short) {
            (None, false) => None,
            (None, true) => Some(Shortfall { since: time, recovered_at: None }),
            (Some(s), true) => match s.recovered_at.as_ref().is_some_and(|at| now.duration_since(at.0) >= RECOVERED_AFTER) {
                true => Some(Shortfall { since: time, recovered_at: None }),
                // The time in which it was not short does not count.
                false => {
                    let well = s.recovered_at.as_ref().map_or(SignedDuration::ZERO, |at| now.duration_since(at.0));
                    Some(Shortfall { since: MicroTime(s.since.0 + well), recovered_at: None })
                }
            },
            (Some(s), false) => match &s.recovered_at {
                None => Some(Shortfall { since: s.since, recovered_at: Some(time) }),
                Some(at) if now.duration_since(at.0) >= RECOVERED_AFTER => None,
                Some(_) => Some(s),
            },
        };
    }

    /// The step itself is done.
    pub fn ensure_step(&mut self, index: usize) -> Flow {
        match self.spec.steps.get(index).cloned() {
            None | Some(StepKind::SetWeight(_) | StepKind::SetScale(_) | StepKind::SetRule(_)) => Ok(()),
            Some(StepKind::Pause(None)) => wait(Waiting::Person, "paused: waits until someone promotes it (`kubectl sluice promote`)"),
            Some(StepKind::Pause(Some(duration))) => {
                let started = self.status.current_step.as_ref().map_or(self.now, |s| s.started_at.0);
                let end = started + duration;
                if self.now >= end {
                    return Ok(());
                }
                self.wake(end);
                wait(Waiting::Pause, format!("paused: goes on at {}", end.strftime("%H:%M:%S UTC")))
            }
            Some(StepKind::Prove(proof)) => self.ensure_proven(proof),
            Some(StepKind::Analysis(analysis)) => self.ensure_analysed(index, &analysis),
        }
    }

    fn hold_if_inconclusive(&mut self) {
        if self.status.hold.is_some() {
            return;
        }
        if let Some(message) = self.analysis_inconclusive() {
            self.status.hold = Some(Hold { reason: HoldReason::InconclusiveAnalysis, since: self.time(), message });
        }
    }

    pub fn ensure_not_held(&self) -> Flow {
        if self.spec.paused {
            return wait(Waiting::Person, "held by spec.paused: waits until it is false");
        }
        match &self.status.hold {
            None => Ok(()),
            Some(hold) => {
                wait(Waiting::Person, format!("{}: waits until someone resumes it (`kubectl sluice resume`) or aborts it", hold.message))
            }
        }
    }

    /// On to the next step; after the last, the promotion: one status write, after which the canary is stable.
    pub fn advance(&mut self, stable: &str, canary: &str, index: usize) -> Flow {
        self.ensure_uncontested()?;
        if index < self.spec.steps.len() {
            let next = i32::try_from(index + 1).unwrap_or(i32::MAX);
            self.status.current_step = Some(CurrentStep { index: next, started_at: self.time() });
            self.wake(self.now);
            return wait(Waiting::Settling, format!("goes on to step {} of {}", next + 1, self.spec.steps.len() + 1));
        }
        self.ensure_closed()?;
        self.mark_stable(canary)?;
        let why = self.status.undo.as_ref().map(|undo| format!(": {}", undo.reason)).unwrap_or_default();
        self.reject_what_was_undone()?;
        self.remember(RolloutOutcome::Promoted, format!("took the place of revision {stable}{why}"));
        self.status.stable_revision = Some(canary.to_owned());
        self.status.restart_requested_at = None; // it was about the version before
        self.status.current_step = None;
        self.status.transition = None;
        self.status.hold = None;
        self.wake(self.now);
        wait(Waiting::Settling, "promoted: brings the traffic back to the Service")
    }

    /// What is stable is written on the ReplicaSet before status says it: status can be lost.
    pub fn mark_stable(&mut self, hash: &str) -> Flow {
        let obs = self.obs;
        let Some(rs) = obs.replica_set(hash) else { return Ok(()) };
        let number = revision::next_stable_number(obs);
        if revision::stable_number(rs).is_some_and(|mine| mine + 1 == number) {
            return Ok(());
        }
        let patch = Guarded::new(Kind::ReplicaSet, &rs.meta).annotate(keys::STABLE, number.to_string());
        self.act(patch.fenced(format!("mark ReplicaSet {} as stable", rs.meta.name), obs.epoch));
        wait(Waiting::Progress, "writes down that the new version is stable")
    }

    /// Takes back a canary that has waited too long for something to become true. What it waits for is what was found just now: what
    /// it waited for before a downtime of ours may have come true meanwhile.
    pub fn keep_deadline(&mut self, pending: Pending) -> Flow<Outcome> {
        let running = self.status.canary.as_ref().map(|c| c.revision.clone()).filter(|c| !self.is_rejected(c));
        let (Some(stable), Some(canary)) = (self.stable(), running) else { return self.keep_waiting(pending) };
        if stable == canary {
            return self.keep_waiting(pending);
        }
        let waits = matches!(pending.kind, Waiting::Progress | Waiting::Missing);
        // Waits of the stage that it is at count from the stage's beginning; others are a step back, and count together.
        self.note_shortfall(waits && self.waiting_since().is_none());
        let short = self.status.canary.as_ref().and_then(|c| c.shortfall.as_ref()).filter(|s| s.recovered_at.is_none());
        let limit = self.spec.progress_deadline;
        let Some(end) = short.map(|s| s.since.0).or_else(|| self.waiting_since()).filter(|_| waits).map(|since| since + limit) else {
            return Err(pending);
        };
        if self.now < end {
            self.wake(end);
            return Err(pending);
        }
        self.status = self.obs.rollout.status.clone();
        let reason = format!("no progress for {} s (progressDeadlineSeconds): {}", limit.as_secs(), pending.message);
        self.abort(&stable, &canary, &reason).map(|()| Outcome::Aborted)
    }
}
