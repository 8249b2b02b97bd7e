//! Taking over a running Deployment, and giving it back, without restarting a pod. Each state in between can be read off the
//! objects, so a crash at any point goes on from there.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    draft::{Draft, Flow, Waiting, wait},
    observed::{Meta, Observed, ReplicaSetView, WorkloadView},
    patch::{self, Action, Guarded, Kind, Write, label},
    revision,
};
use crate::api::{conditions::reason, keys};

/// What we keep on a Deployment that is taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    rollout: String,
    replicas: i32,
    paused: bool,
    /// Every ReplicaSet is ours: from here on the Deployment is empty or parked.
    #[serde(default)]
    taken: bool,
    /// When we set a parked Deployment of Helm 3 to 0 replicas: what Helm writes after that tells whether Git sets them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zeroed_at: Option<Timestamp>,
}

impl Record {
    /// Git sets the replicas of the Deployment, or may do so.
    fn is_in_git(&self, workload: &WorkloadView) -> bool {
        let untold = |at: Timestamp| self.zeroed_at.is_none_or(|zeroed| at <= zeroed);
        workload.replicas_in_git || workload.helm_wrote_at.is_some_and(untold)
    }
}

fn record(workload: &WorkloadView) -> Option<Record> {
    serde_json::from_str(workload.meta.annotations.get(keys::WORKLOAD_RECORD)?).ok()
}

/// What the Deployment had when it was taken over: for a Rollout whose own `replicas` somebody has dropped since.
pub fn replicas(obs: &Observed) -> Option<i32> {
    obs.workload.as_ref().and_then(record).map(|record| record.replicas)
}

/// A Deployment that stays paused because Git owns its `replicas`; why, and what to do.
pub fn parked(workload: &WorkloadView) -> Option<String> {
    let parked = workload.paused && record(workload).is_some_and(|r| r.taken && r.is_in_git(workload));
    let helm = match workload.helm_wrote_at {
        Some(_) => {
            ", if it is there, and change something else in it by `helm upgrade` (Helm 3 does not tell which fields it sets: one upgrade must be seen to leave the replicas alone)"
        }
        None => "",
    };
    parked.then(|| {
        format!(
            "Deployment {} stays paused because Git sets its replicas: remove spec.replicas from its manifest{helm}, then the Deployment is set to 0 and unpaused; until then Argo CD shows it as Suspended and Flux' wait does not end",
            workload.meta.name
        )
    })
}

impl Draft<'_> {
    /// The Deployment's ReplicaSets are ours, and it is empty (or parked). Costs nothing once it is so.
    pub fn take_over(&mut self) -> Flow {
        let Some(reference) = &self.obs.rollout.spec.workload_ref else { return Ok(()) };
        let obs = self.obs;
        let Some(workload) = &obs.workload else {
            return self.wait_for_workload(&reference.name);
        };
        match record(workload) {
            None => {
                if self.stable().is_none() {
                    self.ensure_all_there()?; // what is misspelt is mended more easily before anything has changed
                }
                self.begin_take_over(workload)
            }
            Some(record) if !record.taken => self.take_replica_sets(workload, record),
            Some(record) => self.keep_taken(workload, &record),
        }
    }

    fn wait_for_workload(&self, name: &str) -> Flow {
        let message = match self.stable() {
            None => format!("waits for Deployment {name}: it does not exist yet; create it, or correct spec.workloadRef"),
            Some(_) => format!(
                "waits for Deployment {name}, which is gone: its pods go on serving; create it again, and it is taken over again (to delete this Rollout without it would stop the pods)"
            ),
        };
        wait(Waiting::Missing, message)
    }

    fn begin_take_over(&mut self, workload: &WorkloadView) -> Flow {
        let name = &workload.meta.name;
        let active = revision::of_workload(self.obs).filter(|rs| rs.replicas > 0 || rs.status_replicas > 0).count();
        if workload.observed_generation < workload.meta.generation {
            return wait(Waiting::Progress, format!("waits for the Deployment controller to look at Deployment {name}"));
        }
        if let Some(autoscaler) = self.obs.autoscalers.first() {
            return wait(
                Waiting::Progress,
                format!(
                    "waits until {autoscaler} no longer scales Deployment {name}: let it scale this Rollout (apiVersion sluice.dev/v1alpha1, kind Rollout, name {}) instead, before the Deployment is taken over",
                    self.obs.rollout.meta.name
                ),
            );
        }
        if active > 1 {
            return wait(Waiting::Progress, format!("waits until Deployment {name} has ended its own rollout"));
        }
        if active == 0 && workload.replicas > 0 && !workload.paused {
            // Its controller has made one, but we have not seen it yet: zeroed now, the Deployment would stop its pods.
            return wait(Waiting::Progress, format!("waits to see the ReplicaSet of Deployment {name}"));
        }
        if self.obs.rollout.spec.replicas.is_none() {
            let rollout = &self.obs.rollout.meta;
            self.act(Action {
                what: format!("set replicas of the Rollout to {}, as Deployment {name} has it", workload.replicas),
                write: Write::Scale { kind: Kind::Rollout, name: rollout.name.clone(), replicas: workload.replicas },
            });
            return wait(Waiting::Progress, "takes the number of replicas over");
        }
        let rollout = self.obs.rollout.meta.name.clone();
        let record = Record { rollout, replicas: workload.replicas, paused: workload.paused, taken: false, zeroed_at: None };
        let patch = Guarded::new(Kind::Deployment, &workload.meta)
            .unchanged()
            .add("/spec/paused", true)
            .annotate(keys::WORKLOAD_RECORD, json!(record).to_string());
        self.act(patch.fenced(format!("pause Deployment {name} to take it over"), self.obs.epoch));
        wait(Waiting::Progress, format!("takes Deployment {name} over"))
    }

    fn take_replica_sets(&mut self, workload: &WorkloadView, record: Record) -> Flow {
        let name = workload.meta.name.clone();
        let message = format!("takes Deployment {name} over");
        if !workload.paused {
            let patch = Guarded::new(Kind::Deployment, &workload.meta).add("/spec/paused", true);
            self.act(patch.fenced(format!("pause Deployment {name} to take it over"), self.obs.epoch));
            return wait(Waiting::Progress, message);
        }
        if workload.observed_generation < workload.meta.generation {
            return wait(Waiting::Progress, format!("waits for the Deployment controller to see that Deployment {name} is paused"));
        }
        let obs = self.obs;
        let Some(anchor) = &obs.anchor else { return wait(Waiting::Progress, message) };
        // Empty ones first, the one that serves last: with none of its own left, the Deployment scales nothing up.
        let mut sets: Vec<&ReplicaSetView> = revision::of_workload(obs).collect();
        sets.sort_by_key(|rs| (rs.replicas, rs.status_replicas, rs.created_at));
        let first = self.stable().is_none();
        let serving = sets.last().filter(|rs| first && rs.replicas > 0).map(|rs| rs.hash.clone());
        for rs in &sets {
            self.act(match first {
                true => take(self, rs, anchor, workload, serving.as_deref() == Some(&rs.hash)),
                // The Deployment was deleted and made again, and has started pods beside those that serve.
                false => patch::delete(
                    Kind::ReplicaSet,
                    &rs.meta,
                    format!("remove ReplicaSet {}, which Deployment {name} made before it was paused", rs.meta.name),
                ),
            });
        }
        if !sets.is_empty() {
            return wait(Waiting::Progress, message);
        }
        let replicas = record.replicas;
        let record = Record { taken: true, ..record };
        let patch = Guarded::new(Kind::Deployment, &workload.meta).annotate(keys::WORKLOAD_RECORD, json!(record).to_string());
        self.act(match record.is_in_git(workload) {
            true => patch.unfenced(format!("leave Deployment {name} paused, as Git sets its replicas")),
            false => patch
                .add("/spec/replicas", 0)
                .add("/spec/paused", record.paused)
                .unfenced(format!("set Deployment {name} from {replicas} to 0 replicas: its pods are the Rollout's now")),
        });
        wait(Waiting::Progress, message)
    }

    /// On the way to being given back: nobody has judged what a Deployment that is scaled up meanwhile would start.
    pub fn keep_empty_while_pinned(&mut self) -> Flow {
        let obs = self.obs;
        let pinned = obs.service.as_ref().is_some_and(|service| service.pinned().is_some());
        match obs.workload.as_ref().filter(|workload| pinned && !workload.meta.deleting).and_then(|w| Some((w, record(w)?))) {
            Some((workload, record)) if record.taken => self.keep_taken(workload, &record),
            _ => Ok(()),
        }
    }

    /// Empty, or parked while Git sets its replicas; whoever scales it up is undone at once.
    fn keep_taken(&mut self, workload: &WorkloadView, record: &Record) -> Flow {
        let name = &workload.meta.name;
        let patch = || Guarded::new(Kind::Deployment, &workload.meta);
        if record.is_in_git(workload) {
            let asks_helm = workload.helm_wrote_at.is_some() && workload.replicas != 0;
            if asks_helm {
                let record = Record { zeroed_at: Some(self.now), ..record.clone() };
                let zeroed =
                    patch().add("/spec/paused", true).add("/spec/replicas", 0).annotate(keys::WORKLOAD_RECORD, json!(record).to_string());
                self.act(zeroed.unfenced(format!("set the paused Deployment {name} to 0 replicas, to see whether Helm sets them")));
            } else if !workload.paused && workload.replicas > 0 {
                self.act(patch().add("/spec/paused", true).unfenced(format!("pause Deployment {name}: Git sets its replicas")));
            } else if workload.paused && workload.observed_generation >= workload.meta.generation {
                // Paused, it makes none, but scales those that it has.
                for rs in revision::of_workload(self.obs).filter(|rs| !rs.meta.deleting) {
                    let what = format!("remove ReplicaSet {}, which Deployment {name} made before it was paused", rs.meta.name);
                    self.act(patch::delete(Kind::ReplicaSet, &rs.meta, what));
                }
            }
            return Ok(());
        }
        if workload.replicas != 0 || workload.paused != record.paused {
            let action = patch().add("/spec/replicas", 0).add("/spec/paused", record.paused);
            self.act(action.unfenced(format!("keep Deployment {name} at 0 replicas: its pods are the Rollout's")));
        }
        Ok(())
    }

    /// The Deployment has its pods back. Everything else is at rest by now.
    pub fn give_back(&mut self, stable: Option<&str>) -> Flow {
        let obs = self.obs;
        let (Some(workload), Some(stable)) = (obs.workload.as_ref().filter(|w| !w.meta.deleting), stable) else { return Ok(()) };
        let record = match record(workload) {
            Some(record) => record,
            None if obs.revisions().next().is_none() => {
                self.clean_copies();
                return Ok(());
            }
            // Somebody has removed the record, but its pods are still ours.
            None => Record { rollout: obs.rollout.meta.name.clone(), replicas: self.replicas, paused: false, taken: true, zeroed_at: None },
        };
        let name = &workload.meta.name;
        let message = format!("gives Deployment {name} back");
        let patch = || Guarded::new(Kind::Deployment, &workload.meta);
        let adopted = revision::of_workload(obs).any(|rs| rs.hash == stable);
        let all_released = adopted && obs.revisions().next().is_none();
        if !workload.paused && !all_released {
            self.act(patch().add("/spec/paused", true).fenced(format!("pause Deployment {name} to give it back"), obs.epoch));
            return wait(Waiting::Progress, message);
        }
        if workload.observed_generation < workload.meta.generation {
            return wait(Waiting::Progress, format!("waits for the Deployment controller to look at Deployment {name}"));
        }
        if !adopted {
            // Its own would be scaled up instead of the one that serves: they go first, empty.
            let own: Vec<_> = revision::of_workload(obs).filter(|rs| !rs.meta.deleting).collect();
            if own.iter().any(|rs| rs.replicas > 0 || rs.status_replicas > 0) {
                if workload.replicas != 0 {
                    let action = patch().add("/spec/replicas", 0);
                    self.act(action.fenced(format!("stop the pods that Deployment {name} has started by itself"), obs.epoch));
                }
                return wait(Waiting::Progress, message);
            }
            for rs in &own {
                self.act(patch::delete(Kind::ReplicaSet, &rs.meta, format!("remove the empty ReplicaSet {}", rs.meta.name)));
            }
            if !own.is_empty() {
                return wait(Waiting::Progress, message);
            }
            if workload.replicas != self.replicas {
                let action = patch().add("/spec/replicas", self.replicas);
                self.act(action.fenced(format!("set Deployment {name} to {} replicas", self.replicas), obs.epoch));
                return wait(Waiting::Progress, message);
            }
        }
        let mut sets: Vec<_> = obs.revisions().collect();
        sets.sort_by_key(|rs| rs.hash != stable);
        for rs in &sets {
            self.act(release(self, rs));
        }
        if !sets.is_empty() || !adopted {
            return wait(Waiting::Progress, message);
        }
        self.end_give_back(workload, &record, stable)
    }

    /// Nobody takes the ReplicaSets over, and they are to stay: without owners, they go on as they are.
    pub fn leave_orphans(&mut self) -> Flow {
        let obs = self.obs;
        let left: Vec<_> = obs.revisions().collect();
        for rs in &left {
            self.act(release(self, rs));
        }
        match left.is_empty() {
            true => Ok(()),
            false => wait(Waiting::Progress, "leaves the ReplicaSets to themselves"),
        }
    }

    /// A Deployment's controller copies its annotations to its ReplicaSets: ours go from there, too.
    fn clean_copies(&mut self) {
        let obs = self.obs;
        let copied = |rs: &&ReplicaSetView| [keys::WORKLOAD_RECORD, keys::EPOCH].iter().any(|key| rs.meta.annotations.contains_key(*key));
        for rs in revision::of_workload(obs).filter(copied) {
            let patch = Guarded::new(Kind::ReplicaSet, &rs.meta).unannotate(keys::WORKLOAD_RECORD);
            self.act(patch.unfenced(format!("take our marks off ReplicaSet {}", rs.meta.name)));
        }
    }

    /// Unpaused only with the template that is judged: another one would go live without anybody asking.
    fn end_give_back(&mut self, workload: &WorkloadView, record: &Record, stable: &str) -> Flow {
        let name = &workload.meta.name;
        let judged = self.obs.replica_sets.iter().any(|rs| rs.hash == stable && rs.digest == revision::digest(&workload.template));
        let patch = Guarded::new(Kind::Deployment, &workload.meta).unannotate(keys::WORKLOAD_RECORD);
        let action = match judged {
            true => patch.add("/spec/paused", record.paused).unfenced(format!("give Deployment {name} back")),
            false => patch.unfenced(format!("give Deployment {name} back paused, because its template is not the one that serves: unpausing it (`kubectl rollout resume deployment {name}`) releases that template")),
        };
        self.act(action);
        Ok(())
    }
}

/// The patch that makes a ReplicaSet ours: our owners instead of its Deployment, and its labels moved, so that no Deployment adopts it.
fn take(draft: &Draft, rs: &ReplicaSetView, anchor: &Meta, workload: &WorkloadView, serving: bool) -> Action {
    let moved: serde_json::Map<String, Value> = selector_keys(&workload.selector)
        .into_iter()
        .filter(|key| key != keys::POD_TEMPLATE_HASH)
        .filter_map(|key| Some((key.clone(), json!(rs.meta.labels.get(&key)?))))
        .collect();
    let mut patch = Guarded::new(Kind::ReplicaSet, &rs.meta)
        .unchanged()
        .add("/metadata/ownerReferences", revision::owners(draft.obs, anchor))
        .add(label(keys::ROLLOUT), draft.obs.rollout.meta.name.clone());
    for key in moved.keys() {
        patch = patch.remove(label(key));
    }
    patch = patch.annotate(keys::MOVED_LABELS, Value::Object(moved).to_string());
    if serving {
        patch = patch.annotate(keys::STABLE, revision::next_stable_number(draft.obs).to_string());
    }
    patch.unfenced(format!("take ReplicaSet {} over", rs.meta.name))
}

/// The patch that gives a ReplicaSet up: its Deployment adopts it.
fn release(draft: &Draft, rs: &ReplicaSetView) -> Action {
    let mut patch = Guarded::new(Kind::ReplicaSet, &rs.meta).unchanged().remove("/metadata/ownerReferences");
    let moved: Option<serde_json::Map<String, Value>> =
        rs.meta.annotations.get(keys::MOVED_LABELS).and_then(|text| serde_json::from_str(text).ok());
    // One that we made never had them; the Deployment finds it by the selector's labels all the same.
    let labels = moved.unwrap_or_else(|| {
        let selector = revision::selector(draft.obs).unwrap_or_default();
        selector.get("matchLabels").and_then(Value::as_object).cloned().unwrap_or_default()
    });
    for (key, value) in labels {
        patch = patch.add(label(&key), value);
    }
    if rs.meta.labels.contains_key(keys::ROLLOUT) {
        patch = patch.remove(label(keys::ROLLOUT));
    }
    for key in [keys::MOVED_LABELS, keys::TEMPLATE, keys::STABLE, keys::REJECTED, keys::SCALE_DOWN_AT] {
        patch = patch.unannotate(key);
    }
    patch.unfenced(format!("give ReplicaSet {} back", rs.meta.name))
}

/// The label keys that a selector asks for.
fn selector_keys(selector: &Value) -> Vec<String> {
    let labels = selector.get("matchLabels").and_then(Value::as_object).into_iter().flat_map(|map| map.keys().cloned());
    let expressions = selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten();
    labels.chain(expressions.filter_map(|e| Some(e.get("key")?.as_str()?.to_owned()))).collect()
}

/// Why the workload is parked, as the reason of its condition.
pub const PARKED: &str = reason::REPLICAS_IN_GIT;
