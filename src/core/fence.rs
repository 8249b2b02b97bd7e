//! The fence: a new leader first raises the epoch on everything that is being changed, so that a leader that slept cannot write to any
//! of it. Objects at rest carry none: a first write tests that nothing about them has changed.

use super::{
    draft::{Draft, Flow, Waiting, wait},
    observed::Meta,
    patch::{Guarded, Kind},
};
use crate::api::keys;

impl Draft<'_> {
    pub fn ensure_fenced(&mut self) -> Flow {
        let obs = self.obs;
        let services = [&obs.service, &obs.canary_service].into_iter().flatten().map(|s| (Kind::Service, &s.meta));
        let routes = obs.routes.iter().map(|r| (Kind::Route(r.kind), &r.meta));
        let sets = obs.replica_sets.iter().map(|rs| (Kind::ReplicaSet, &rs.meta));
        let workload = obs.workload.iter().map(|w| (Kind::Deployment, &w.meta));
        let old = |meta: &Meta| meta.annotations.get(keys::EPOCH).is_some_and(|epoch| epoch.parse::<u64>().is_ok_and(|e| e < obs.epoch));
        let all = services.chain(routes).chain(sets).chain(workload);
        let mut outdated: Vec<(Kind, &Meta)> = all.filter(|(_, meta)| old(meta) && !meta.deleting).collect();
        if outdated.is_empty() {
            return Ok(());
        }
        // With it, a status that the old leader has worked out meets another version than the one that it was made from.
        outdated.push((Kind::Rollout, &obs.rollout.meta));
        for (kind, meta) in outdated {
            self.act(Guarded::new(kind, meta).fenced(format!("raise the epoch of {kind} {} to {}", meta.name, obs.epoch), obs.epoch));
        }
        wait(Waiting::Settling, "a new leader takes over")
    }
}
