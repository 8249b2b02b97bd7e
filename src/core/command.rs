//! Commands: addressed, done once, recorded. An action's uid goes into the Rollout's status in the same write as its effect; its
//! own status is written from there.

use serde_json::json;

use super::{
    draft::Draft,
    observed::{ActionView, Meta},
    patch::{self, Action, Guarded, Kind, Write, annotation},
    route::{Record, record_key},
    spec::StepKind,
};
use crate::api::{
    Outcome, Verb, keys,
    status::{CurrentStep, Hold, HoldReason, LastAction, Undo},
};

/// Records of commands that are kept for each Rollout.
const KEPT_ACTIONS: usize = 20;

/// What an action comes to.
struct Done {
    outcome: Outcome,
    message: String,
}

fn done(message: impl Into<String>) -> Done {
    Done { outcome: Outcome::Done, message: message.into() }
}

fn refused(message: impl Into<String>) -> Done {
    Done { outcome: Outcome::Refused, message: message.into() }
}

fn write_outcome(action: &Meta, status: &serde_json::Value, what: String) -> Action {
    let ops =
        vec![json!({"op": "test", "path": "/metadata/uid", "value": action.uid}), json!({"op": "add", "path": "/status", "value": status})];
    Action { what, write: Write::Patch { kind: Kind::RolloutAction, name: action.name.clone(), subresource: Some("status"), ops } }
}

impl Draft<'_> {
    /// Does the oldest action that has not been done. The next one waits until this one's outcome is on record.
    pub fn obey(&mut self, stable: Option<&str>, canary: Option<&str>) {
        let obs = self.obs;
        let Some(action) = obs.actions.iter().find(|a| a.status.outcome.is_none()) else { return };
        if self.status.last_action.as_ref().is_some_and(|last| last.uid == action.meta.uid) {
            return;
        }
        let result = match (stable, canary) {
            (Some(stable), Some(canary)) => self.carry_out(action, stable, canary),
            _ => refused("there is nothing to act on yet: the Rollout has no stable revision"),
        };
        self.status.last_action = Some(LastAction {
            uid: action.meta.uid.clone(),
            verb: action.spec.verb,
            outcome: result.outcome,
            message: result.message,
            at: self.time(),
        });
        self.wake(self.now);
    }

    /// Commands that cannot be read change nothing, and say so themselves.
    pub fn refuse_unreadable_actions(&mut self) {
        let obs = self.obs;
        for (meta, why) in &obs.unreadable_actions {
            let status = json!({"outcome": Outcome::Refused, "message": why.to_string(), "at": self.time()});
            self.act(write_outcome(meta, &status, format!("refuse RolloutAction {}, which cannot be read", meta.name)));
        }
    }

    /// Removes the records of commands beyond the newest. Housekeeping: it waits for a moment in which there is nothing else to write.
    pub fn remove_old_actions(&mut self) {
        if !self.actions.is_empty() || self.status != self.obs.rollout.status {
            return;
        }
        let obs = self.obs;
        let surplus = obs.done_actions.len().saturating_sub(KEPT_ACTIONS);
        for meta in obs.done_actions.iter().take(surplus).filter(|meta| !meta.deleting) {
            self.act(patch::delete(Kind::RolloutAction, meta, format!("remove RolloutAction {}: it is old", meta.name)));
        }
    }

    /// The action that was done last says so itself.
    pub fn record_last_action(&mut self) {
        let Some(last) = self.status.last_action.clone() else { return };
        let Some(action) = self.obs.actions.iter().find(|action| action.meta.uid == last.uid) else { return };
        let status = json!({"outcome": last.outcome, "message": last.message, "at": last.at});
        let what = format!("record the outcome of {} {}", action.spec.verb, action.meta.name);
        self.act(write_outcome(&action.meta, &status, what));
    }

    fn carry_out(&mut self, action: &ActionView, stable: &str, canary: &str) -> Done {
        let spec = &action.spec;
        if spec.revision != canary {
            return refused(format!(
                "{} was meant for revision {}, but the Rollout is at {canary} now: look again (`kubectl sluice get {}`)",
                spec.verb, spec.revision, spec.rollout
            ));
        }
        let running = stable != canary && self.status.canary.as_ref().is_some_and(|c| c.revision == canary);
        let rejected = self.is_rejected(canary);
        match spec.verb {
            Verb::Retry if rejected => self.retry(canary),
            Verb::Retry => refused("there is nothing to retry: the present revision was not taken back"),
            Verb::Restart => self.restart(stable),
            Verb::Undo if running && !rejected => refused(format!(
                "revision {canary} is not promoted yet, and {stable} still serves: `kubectl sluice abort {}` takes it back",
                spec.rollout
            )),
            Verb::Undo => self.undo(action, stable),
            Verb::Abort if !running && self.is_just_promoted(stable) => self.undo(action, stable),
            Verb::Abort if rejected => done(format!("revision {canary} was taken back already")),
            _ if rejected => refused(format!("revision {canary} was taken back: `kubectl sluice retry {}` starts it again", spec.rollout)),
            _ if !running => refused(format!("no rollout is running: revision {canary} is stable")),
            Verb::Abort => self.abort_by_action(action, stable, canary),
            Verb::Pause => self.pause(action),
            Verb::PromoteFull => self.promote_fully(),
            Verb::Promote | Verb::Resume => self.go_on(action),
            Verb::SkipStep => self.skip_step(action),
        }
    }

    fn abort_by_action(&mut self, action: &ActionView, stable: &str, canary: &str) -> Done {
        let by = action.spec.requested_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let why = action.spec.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        match self.abort(stable, canary, &format!("aborted{by}{why}")) {
            Ok(()) | Err(_) => done(format!("all traffic goes back to revision {stable}; {canary} is rejected")),
        }
    }

    fn pause(&mut self, action: &ActionView) -> Done {
        let by = action.spec.requested_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        if self.status.hold.is_none() {
            self.status.hold = Some(Hold { reason: HoldReason::PausedByAction, since: self.time(), message: format!("paused{by}") });
        }
        done("the rollout is held where it is, until someone resumes it")
    }

    fn promote_fully(&mut self) -> Done {
        if let Some(state) = &mut self.status.canary {
            state.promote_full = true;
        }
        self.status.hold = None;
        self.status.current_step =
            Some(CurrentStep { index: i32::try_from(self.spec.steps.len()).unwrap_or(i32::MAX), started_at: self.time() });
        done("no more pauses and analysis: the new version gets all traffic as soon as it has the pods for it")
    }

    /// Back to an earlier revision, from the next look on.
    fn undo(&mut self, action: &ActionView, stable: &str) -> Done {
        let spec = &action.spec;
        if let Some(undo) = &self.status.undo {
            return refused(format!("revision {} is on its way back already: `kubectl sluice abort {}` ends that", undo.to, spec.rollout));
        }
        let Some(to) = spec.to_revision.clone().or_else(|| self.status.served_before(stable).map(str::to_owned)) else {
            let earlier = self.earlier_revisions(stable);
            return refused(format!("it is not known what served before revision {stable}: name it with --to-revision ({earlier})"));
        };
        if let Err(why) = self.can_serve_again(&to, stable) {
            return refused(why);
        }
        let by = spec.requested_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let why = spec.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let (template, from) = (self.template.clone(), stable.to_owned());
        let message = format!("all traffic goes to revision {to}, as soon as it has the pods for it; {from} is rejected");
        self.status.undo = Some(Undo { template, from, to, reason: format!("undone{by}{why}") });
        self.status.hold = None;
        done(message)
    }

    fn restart(&mut self, stable: &str) -> Done {
        self.status.restart_requested_at = Some(self.time());
        done(format!("the pods of revision {stable} are restarted one after the other, while no rollout is running"))
    }

    /// Refuses a command that was meant for another step than the one that the rollout is at.
    fn at_step(&self, action: &ActionView) -> Result<i32, Done> {
        let here = self.status.current_step.as_ref().map_or(0, |s| s.index);
        if action.spec.step == Some(here) {
            return Ok(here);
        }
        let seen = action.spec.step.map_or_else(|| "no step".to_owned(), |s| format!("step {}", s + 1));
        Err(refused(format!(
            "{} was meant for {seen}, but the rollout is at step {} now: look again (`kubectl sluice get {}`)",
            action.spec.verb,
            here + 1,
            action.spec.rollout
        )))
    }

    /// On to the next step, whatever the present one waits for. What the next one needs (pods, verdicts so far) is still waited for.
    fn skip_step(&mut self, action: &ActionView) -> Done {
        let here = match self.at_step(action) {
            Ok(here) => here,
            Err(refused) => return refused,
        };
        if usize::try_from(here).is_ok_and(|here| here >= self.spec.steps.len()) {
            return refused(format!("all steps are done: `kubectl sluice promote --full {}` ends the analysis", action.spec.rollout));
        }
        if self.status.hold.as_ref().is_some_and(|hold| hold.reason == HoldReason::InconclusiveAnalysis) {
            self.status.hold = None;
            self.measure_again();
        }
        self.status.current_step = Some(CurrentStep { index: here + 1, started_at: self.time() });
        done(format!("step {} is skipped", here + 1))
    }

    /// The analysis starts anew: a run that could not decide measures no more.
    fn measure_again(&mut self) {
        if self.analysis_inconclusive().is_none() {
            return; // it is a proof that was missing: what was found until now stands
        }
        if let Some(state) = &mut self.status.canary {
            state.analysis_attempt += 1;
        }
    }

    /// Promote and Resume: ends a hold, and the pause of the step that the person saw.
    fn go_on(&mut self, action: &ActionView) -> Done {
        let here = match self.at_step(action) {
            Ok(here) => here,
            Err(refused) => return refused,
        };
        let held = self.status.hold.take();
        if held.as_ref().is_some_and(|h| h.reason == HoldReason::InconclusiveAnalysis) {
            self.measure_again();
        }
        let index = usize::try_from(here).unwrap_or(0);
        let pause = match self.spec.steps.get(index) {
            Some(StepKind::Pause(duration)) => Some(*duration),
            Some(StepKind::Prove(_)) => Some(None),
            _ => None,
        };
        // Resume ends a hold; a timed pause beneath it goes on by its own clock.
        let ends_pause = match (action.spec.verb, pause) {
            (_, None) => false,
            (Verb::Resume, Some(Some(_))) => held.is_none(),
            _ => true,
        };
        if ends_pause {
            self.status.current_step = Some(CurrentStep { index: here + 1, started_at: self.time() });
            return done(format!("the pause of step {} is over", here + 1));
        }
        match held {
            Some(_) => done("the hold is over"),
            None => {
                self.status.hold = held;
                let name = &action.spec.rollout;
                refused(format!(
                    "step {} is not a pause: it goes on by itself; `kubectl sluice promote --full {name}` ends all pauses and analysis",
                    here + 1
                ))
            }
        }
    }

    /// The marks of the rejection go first, then status: while either stands, the revision stays rejected.
    fn retry(&mut self, canary: &str) -> Done {
        let obs = self.obs;
        let key = record_key(&obs.rollout.meta.name);
        let mut cleared = vec![];
        for route in self.routes() {
            if let Some(record) = route.record().filter(|r| r.rejected.is_some()) {
                let record = Record { rejected: None, ..record.clone() };
                let text = serde_json::to_string(&record).unwrap_or_default();
                let before = route.view.meta.annotations.get(&key).cloned().unwrap_or_default();
                let patch =
                    Guarded::new(Kind::Route(route.view.kind), &route.view.meta).test(annotation(&key), before).annotate(&key, text);
                cleared.push(patch.fenced(format!("take the rejection of {canary} off {}", route.view.meta.name), obs.epoch));
            }
        }
        self.actions.append(&mut cleared);
        if let Some(rs) = obs.replica_set(canary).filter(|rs| rs.meta.annotations.contains_key(keys::REJECTED)) {
            let patch = Guarded::new(Kind::ReplicaSet, &rs.meta).unannotate(keys::REJECTED);
            self.act(patch.fenced(format!("take the rejection off ReplicaSet {}", rs.meta.name), obs.epoch));
        }
        self.status.rejected.clear();
        self.status.canary = None; // it begins anew, from the first step
        self.status.transition = None;
        done(format!("revision {canary} starts again from the first step"))
    }
}
