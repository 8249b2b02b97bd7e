//! Restarts: pods that are older than someone asks for go one after the other, with one pod more than is wanted meanwhile, so that the
//! version that serves never has fewer.

use jiff::Timestamp;

use super::{
    draft::{Draft, Flow, Waiting, wait},
    observed::PodView,
    patch::{Action, Write},
};

impl Draft<'_> {
    /// Pods that were made before this moment are to be restarted.
    fn restart_before(&self) -> Option<Timestamp> {
        let by_spec = self.spec.restart_at.filter(|at| *at <= self.now);
        let by_action = self.status.restart_requested_at.as_ref().map(|at| at.0);
        let at = by_spec.max(by_action)?;
        // The API server tells when a pod was made to the second.
        Timestamp::from_second(at.as_second()).ok()
    }

    fn pods_to_restart(&self, stable: &str) -> Vec<&PodView> {
        let Some(before) = self.restart_before() else { return vec![] };
        let mut old: Vec<&PodView> =
            self.obs.pods.iter().filter(|pod| pod.hash == stable && !pod.stopping && pod.created_at < before).collect();
        old.sort_by(|a, b| (a.ready, a.created_at, &a.name).cmp(&(b.ready, b.created_at, &b.name)));
        old
    }

    /// Pods of the version that serves: one more while they are restarted.
    pub fn stable_replicas(&self, stable: &str) -> i32 {
        let surge = self.replicas > 0 && !self.pods_to_restart(stable).is_empty();
        self.replicas + i32::from(surge)
    }

    /// No pod of the version that serves is older than what was asked for.
    pub fn ensure_restarted(&mut self, stable: &str) -> Flow {
        if let Some(at) = self.spec.restart_at.filter(|at| *at > self.now) {
            self.wake(at);
        }
        let old = self.pods_to_restart(stable);
        let Some(next) = old.first().map(|pod| (*pod).clone()) else {
            self.status.restart_requested_at = None;
            return Ok(());
        };
        let left = old.len();
        // The ReplicaSet tells of a pod that goes later than the pod itself does.
        let ready = i32::try_from(self.obs.ready_pods(stable).count()).unwrap_or(i32::MAX);
        let available = self.obs.replica_set(stable).map_or(0, |rs| rs.available).min(ready);
        if next.ready && available <= self.replicas {
            return wait(Waiting::Settling, format!("restarts the pods, {left} are left: waits until {} are available", self.replicas + 1));
        }
        self.act(Action {
            what: format!("evict pod {}, which is to be restarted", next.name),
            write: Write::Evict { name: next.name.clone(), uid: next.uid.clone() },
        });
        let message = format!("restarts the pods, {left} are left: {} goes next, as soon as its PodDisruptionBudgets allow it", next.name);
        wait(Waiting::Settling, message)
    }
}
