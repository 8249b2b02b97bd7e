//! The way back to an earlier revision, after a promotion. Before it, that is an abort.

use super::{
    draft::{Draft, Flow, Stage, Waiting, wait},
    spec::Weight,
};
use crate::api::status::{Rejected, RolloutOutcome, Undo};

impl Draft<'_> {
    /// The revision that is to serve: that of the template, or an earlier one that someone asked for while the template was this one.
    pub fn wanted(&mut self, template: &str, stable: Option<&str>) -> String {
        let Some(undo) = &self.status.undo else { return template.to_owned() };
        let stands = undo.template == template && Some(undo.from.as_str()) == stable;
        if stands && self.obs.replica_set(&undo.to).is_some() && !self.is_rejected(&undo.to) {
            return undo.to.clone();
        }
        self.status.undo = None;
        template.to_owned()
    }

    /// The patch that takes a promotion back also says so on the route: whatever was lost after it, the version before serves.
    pub fn believe_undone(&mut self) {
        let Some(undo) = self.status.undo.clone() else { return };
        let on_route = self.routes().iter().filter_map(|r| r.record()).any(|r| r.rejected.as_ref() == Some(&undo.from));
        if on_route && self.status.stable_revision.as_ref() == Some(&undo.from) {
            self.status.undo = None;
            self.status.stable_revision = Some(undo.to);
            self.remember(RolloutOutcome::Aborted, undo.reason.clone());
            self.status.rejected = vec![Rejected { revision: undo.from, reason: undo.reason, at: self.time() }];
            self.status.transition = None;
        }
    }

    /// Promoted, but the traffic has not come home yet: the version before it has all its pods.
    pub fn is_just_promoted(&self, stable: &str) -> bool {
        let carries = self.obs.canary_service.as_ref().and_then(|s| s.pinned()) == Some(stable);
        carries && self.is_recorded() && self.routes().iter().all(|r| r.has(&Weight::FULL.into(), self.spec.denominator()))
    }

    /// What has just been promoted is taken back. Where the Service still selects the version before it, that is one write, as with an
    /// abort. Else the Service is made to select that version again first, while it gets no traffic.
    pub fn take_promotion_back(&mut self, undo: &Undo) -> Flow {
        let Some(service) = &self.obs.service else { return Ok(()) };
        let before = undo.to.as_str();
        let pods = self.obs.ready_pods(before).count();
        let moves = self.is_past(before, Stage::ServiceDrained) || service.pinned() != Some(before);
        if moves {
            let wanted = usize::try_from(self.replicas.max(1)).unwrap_or(1);
            self.scale(before, self.replicas);
            if pods < wanted {
                return wait(Waiting::Progress, format!("waits for the pods of revision {before}: {pods} of {wanted} ready"));
            }
            self.portion_observed(&Weight::FULL.into()).or_else(|why| wait(Waiting::Progress, why))?;
            self.settle(before, Stage::ServiceDrained, Ok(()), 0)?;
            if service.pinned() != Some(before) {
                self.pin(service, before);
                return self.settle(
                    before,
                    Stage::Repinned,
                    Err(format!("makes Service {} select revision {before}", service.meta.name)),
                    0,
                );
            }
            let observed = match service.serves_only(before, wanted) {
                true => Ok(()),
                false => Err(format!("waits for the endpoints of Service {}", service.meta.name)),
            };
            self.settle(before, Stage::Repinned, observed, self.spec.traffic.step_grace_seconds)?;
        }
        self.status.undo = None;
        self.status.stable_revision = Some(before.to_owned());
        self.abort(before, &undo.from, &undo.reason)
    }

    /// An earlier revision serves: the one that it took the place of is rejected, as long as the template stays at it. The marks go first,
    /// then status.
    pub fn reject_what_was_undone(&mut self) -> Flow {
        let Some(undo) = self.status.undo.clone() else { return Ok(()) };
        if undo.from == undo.template {
            let marks = self.actions.len();
            self.mark_rejected(&undo.from, &undo.reason);
            if self.actions.len() > marks {
                return wait(Waiting::Progress, format!("writes down that revision {} is rejected", undo.from));
            }
            self.status.rejected = vec![Rejected { revision: undo.from, reason: undo.reason, at: self.time() }];
        }
        self.status.undo = None;
        Ok(())
    }

    /// Revisions to which one can go back, for people.
    pub fn earlier_revisions(&self, stable: &str) -> String {
        let earlier = self.obs.revisions().filter(|rs| rs.hash != stable && !self.is_rejected(&rs.hash));
        let named: Vec<String> = earlier.map(|rs| format!("{} ({})", rs.hash, rs.images.join(", "))).collect();
        if named.is_empty() { "none is left".to_owned() } else { named.join("; ") }
    }

    /// Whether a revision may be gone back to; the error says why not.
    pub fn can_serve_again(&self, to: &str, stable: &str) -> Result<(), String> {
        if to == stable {
            return Err(format!("revision {to} serves already"));
        }
        if self.is_rejected(to) {
            return Err(format!("revision {to} was taken back: only a retry starts it again"));
        }
        match self.obs.replica_set(to) {
            Some(_) => Ok(()),
            None => Err(format!(
                "there is no ReplicaSet of revision {to} any more; those that can be gone back to: {}",
                self.earlier_revisions(stable)
            )),
        }
    }
}
