//! A canary without `traffic`: its share is that of its pods, as far as the Service in front of both versions spreads requests evenly.
//! Stable keeps all its pods, so that taking the canary back is one write; the canary's share is at most half until the promotion.

use super::{
    draft::{Draft, Flow, Stage},
    spec::Weight,
};

impl Weight {
    /// Pods that get this share beside `stable` others: to the nearest, at least one for any share, and never more than those.
    fn pods_beside(self, stable: i32) -> i32 {
        if self == Self::ZERO {
            return 0;
        }
        let (share, rest) = (self.percent(), 100.0 - self.percent());
        let pods = if rest <= 0.0 { f64::from(stable) } else { f64::from(stable) * share / rest };
        (pods.round() as i32).clamp(1, stable.max(1))
    }
}

impl Draft<'_> {
    /// One look at a rollout of `canary` over `stable` by the number of pods alone.
    pub fn roll_by_count(&mut self, stable: &str, canary: &str) -> Flow {
        self.stop_third(stable, canary);
        let index = self.index();
        self.ensure_count(stable, canary, index)?;
        self.ensure_background(index)?;
        self.ensure_step(index)?;
        self.ensure_not_held()?;
        self.advance(stable, canary, index)
    }

    /// The present step's share of pods is ready. More pods only for a canary whose verdicts so far are closed.
    fn ensure_count(&mut self, stable: &str, canary: &str, index: usize) -> Flow {
        let before = self.portion_before(index).0.weight;
        let (weight, set_by) = self.spec.weight_at(index);
        let needed = weight.pods_beside(self.replicas).max(self.spec.scale_at(index, self.replicas.max(1)));
        let has = self.obs.replica_set(canary).map_or(0, |rs| rs.replicas);
        self.status.weights_wanted(weight);
        if needed > has {
            self.ensure_not_held()?;
            if before > Weight::ZERO && weight > before {
                self.ensure_evidence(index)?;
            }
            self.rewind(canary, Stage::Capacity(set_by));
        }
        // A crash may have come between the write of the ReplicaSet and that of status.
        let is_new = needed > has || !self.has_reached(canary, Stage::Capacity(set_by));
        if let Some(state) = self.status.canary.as_mut().filter(|_| is_new) {
            state.weight_observed_at = None;
        }
        if needed > 0 || has > 0 {
            self.set_canary_pods(canary, needed, needed.max(has));
            self.ensure_set(canary)?;
        }
        let (ready, serving) = (self.obs.ready_pods(canary).count(), self.obs.ready_pods(stable).count());
        self.ensure_ready(canary, needed, false, set_by)?;
        if needed > 0 {
            self.note_weight(weight);
        }
        let share = Weight::of(ready as u64, (ready + serving) as u64);
        if let Some(weights) = &mut self.status.weights {
            weights.observed = Some(share.percent());
        }
        Ok(())
    }

    /// There is no weight to take from the pods of a third revision first: those that serve stop when stable has the pods for everything.
    fn stop_third(&mut self, stable: &str, canary: &str) {
        let obs = self.obs;
        let takes_everything = obs.replica_set(stable).is_some_and(|rs| rs.ready >= self.replicas);
        let third = obs.revisions().filter(|rs| rs.hash != stable && rs.hash != canary && rs.replicas > 0);
        for rs in third.filter(|rs| takes_everything || rs.ready == 0) {
            self.scale(&rs.hash, 0);
        }
    }

    /// How long pods keep serving after their weight is 0: without weights nothing tells that from their end.
    pub fn drain_seconds(&self) -> i32 {
        if self.spec.has_traffic { self.spec.traffic.drain_seconds } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_pods_is_rounded_and_at_most_half() {
        for (percent, stable, pods) in
            [(0.0, 4, 0), (1.0, 4, 1), (20.0, 4, 1), (33.3, 4, 2), (50.0, 4, 4), (75.0, 4, 4), (100.0, 4, 4), (5.0, 100, 5), (50.0, 0, 1)]
        {
            assert_eq!(Weight::from_percent(percent).unwrap().pods_beside(stable), pods, "{percent} % beside {stable}");
        }
    }
}
