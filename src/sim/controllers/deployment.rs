//! The Deployment controller: which ReplicaSets are its own, which is the new one, and what its status says.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::objects::{
    DEPLOYMENTS, REPLICA_SETS, Writer, all, condition, controlled_by, controller, is_deleting, key, name, namespace, number, owners,
    set_condition, text, uid,
};
use super::{after, rolling, sooner};
use crate::sim::api::{ApiServer, DeleteOptions, LabelSelector, seconds};

pub const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// A Deployment's ReplicaSets: the one of its present template, and all others, oldest first.
pub struct Sets {
    pub new: Option<Arc<Value>>,
    pub old: Vec<Arc<Value>>,
}

impl Sets {
    pub fn all(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.old.iter().chain(&self.new)
    }
}

pub fn step(api: &mut ApiServer, now: Timestamp) -> Option<Timestamp> {
    let mut due = None;
    let mut writer = Writer::new(api, "deployment-controller", now);
    for deployment in all(writer.api, DEPLOYMENTS) {
        due = sooner(due, sync(&mut writer, &deployment));
    }
    due
}

fn sync(writer: &mut Writer<'_>, deployment: &Value) -> Option<Timestamp> {
    let owned = claim(writer, deployment);
    let mut sets = sort_out(deployment, owned);
    if is_deleting(deployment) {
        return report(writer, deployment, &sets);
    }
    annotate_new(writer, deployment, &mut sets);
    if is_paused(deployment) {
        rolling::scale(writer, deployment, &sets);
        prune_history(writer, deployment, &sets);
    } else if was_resized(deployment, &sets) {
        rolling::scale(writer, deployment, &sets);
    } else {
        if sets.new.is_none() {
            let recreating = deployment["spec"]["strategy"]["type"] == "Recreate";
            if recreating && rolling::scale_down_all(writer, &sets.old) {
                return report(writer, deployment, &sets);
            }
            sets.new = create_new(writer, deployment, &sets);
            sets.new.as_ref()?;
        }
        rolling::roll(writer, deployment, &sets);
        if is_complete(deployment, &sets) {
            prune_history(writer, deployment, &sets);
        }
    }
    report(writer, deployment, &sets)
}

pub fn is_paused(deployment: &Value) -> bool {
    deployment["spec"]["paused"] == true
}

/// The ReplicaSets that it controls. It adopts those without a controller whose metadata labels match its selector,
/// and lets go of those that match no more.
fn claim(writer: &mut Writer<'_>, deployment: &Value) -> Vec<Arc<Value>> {
    let selector = LabelSelector::from_object(&deployment["spec"]["selector"]);
    let mut mine = Vec::new();
    for set in all(writer.api, REPLICA_SETS).iter().filter(|s| namespace(s) == namespace(deployment)) {
        let matches = selector.matches(&set["metadata"]["labels"]);
        match controller(set) {
            Some(owner) if owner == uid(deployment) && !matches => {
                writer.change(REPLICA_SETS, &key(set), |s| {
                    let left: Vec<Value> = owners(s).filter(|o| o["uid"] != uid(deployment)).cloned().collect();
                    s["metadata"]["ownerReferences"] = left.into();
                });
            }
            Some(owner) if owner == uid(deployment) => mine.push(set.clone()),
            None if matches && !is_deleting(set) && !is_deleting(deployment) => {
                let adopted = writer.change(REPLICA_SETS, &key(set), |s| {
                    let mut list: Vec<Value> = owners(s).cloned().collect();
                    list.push(controlled_by(deployment));
                    s["metadata"]["ownerReferences"] = list.into();
                });
                mine.extend(adopted);
            }
            _ => {}
        }
    }
    mine
}

fn sort_out(deployment: &Value, mut owned: Vec<Arc<Value>>) -> Sets {
    owned.sort_by_key(|s| (text(&s["metadata"]["creationTimestamp"]).to_owned(), name(s).to_owned()));
    let new = owned.iter().position(|s| is_same_template(&s["spec"]["template"], &deployment["spec"]["template"]));
    let new = new.map(|i| owned.remove(i));
    Sets { new, old: owned }
}

/// The same but for the label of the hash.
fn is_same_template(one: &Value, other: &Value) -> bool {
    fn others<'a>(map: &'a Value, left_out: &'static str) -> impl Iterator<Item = (&'a String, &'a Value)> {
        map.as_object().into_iter().flatten().filter(move |(key, _)| *key != left_out)
    }
    let (metadata, labels) = ([&one["metadata"], &other["metadata"]], [&one["metadata"]["labels"], &other["metadata"]["labels"]]);
    others(one, "metadata").eq(others(other, "metadata"))
        && others(metadata[0], "labels").eq(others(metadata[1], "labels"))
        && others(labels[0], HASH).eq(others(labels[1], HASH))
}

fn revision(object: &Value) -> i64 {
    text(&object["metadata"]["annotations"][REVISION]).parse().unwrap_or(0)
}

/// Keeps the revision number and the sizes on the new set, and the revision on the Deployment.
fn annotate_new(writer: &mut Writer<'_>, deployment: &Value, sets: &mut Sets) {
    let Some(new) = &sets.new else { return };
    let latest_old = sets.old.iter().map(|s| revision(s)).max().unwrap_or(0);
    let number = if revision(new) > latest_old { revision(new) } else { latest_old + 1 };
    let copied = || deployment["metadata"]["annotations"].as_object().into_iter().flatten().filter(|(key, _)| is_copied(key));
    let (annotations, wait) = (&new["metadata"]["annotations"], &deployment["spec"]["minReadySeconds"]);
    let is_annotated = revision(new) == number && copied().all(|(key, value)| annotations.get(key) == Some(value));
    if !is_annotated || new["spec"]["minReadySeconds"] != *wait {
        let changed = writer.change(REPLICA_SETS, &key(new), |s| {
            if !s["metadata"]["annotations"].is_object() {
                s["metadata"]["annotations"] = json!({});
            }
            for (key, value) in copied() {
                s["metadata"]["annotations"][key] = value.clone();
            }
            s["metadata"]["annotations"][REVISION] = number.to_string().into();
            if let Some(spec) = s["spec"].as_object_mut() {
                if wait.is_null() {
                    spec.remove("minReadySeconds");
                } else {
                    spec.insert("minReadySeconds".into(), wait.clone());
                }
            }
        });
        sets.new = changed.or(sets.new.take());
    }
    note_revision(writer, deployment, number);
}

/// Whether a Deployment's annotation goes to its ReplicaSet, too: all but those that mean something else there.
fn is_copied(key: &str) -> bool {
    !key.starts_with("deployment.kubernetes.io/") && key != "kubectl.kubernetes.io/last-applied-configuration"
}

fn note_revision(writer: &mut Writer<'_>, deployment: &Value, number: i64) {
    if revision(deployment) == number {
        return;
    }
    writer.change_status(DEPLOYMENTS, &key(deployment), |d| {
        if !d["metadata"]["annotations"].is_object() {
            d["metadata"]["annotations"] = json!({});
        }
        d["metadata"]["annotations"][REVISION] = number.to_string().into();
    });
}

/// The sizes that a set was last scaled for; the next sync sees by them that `replicas` has changed.
pub fn set_sizes(set: &mut Value, deployment: &Value) {
    if !set["metadata"]["annotations"].is_object() {
        set["metadata"]["annotations"] = json!({});
    }
    let wanted = number(&deployment["spec"]["replicas"]);
    set["metadata"]["annotations"][DESIRED] = wanted.to_string().into();
    set["metadata"]["annotations"][MAX] = (wanted + rolling::max_surge(deployment)).to_string().into();
}

fn was_resized(deployment: &Value, sets: &Sets) -> bool {
    let wanted = number(&deployment["spec"]["replicas"]).to_string();
    sets.all().filter(|s| number(&s["spec"]["replicas"]) > 0).any(|s| {
        let noted = &s["metadata"]["annotations"][DESIRED];
        noted.is_string() && *noted != *wanted
    })
}

/// Creates the ReplicaSet of the present template. A name that is taken by another's set counts as a hash collision.
fn create_new(writer: &mut Writer<'_>, deployment: &Value, sets: &Sets) -> Option<Arc<Value>> {
    let collisions = number(&deployment["status"]["collisionCount"]);
    let hash = template_hash(&deployment["spec"]["template"], collisions);
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][HASH] = hash.clone().into();
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH] = hash.clone().into();
    let number = sets.old.iter().map(|s| revision(s)).max().unwrap_or(0) + 1;
    let mut set = json!({
        "metadata": {
            "name": format!("{}-{hash}", name(deployment)),
            "labels": template["metadata"]["labels"],
            "annotations": {REVISION: number.to_string()},
            "ownerReferences": [controlled_by(deployment)],
        },
        "spec": {
            "replicas": rolling::size_of_new(deployment, sets, 0), "selector": selector, "template": template,
            "minReadySeconds": deployment["spec"]["minReadySeconds"],
        },
    });
    set_sizes(&mut set, deployment);
    match writer.create(REPLICA_SETS, namespace(deployment), set) {
        Ok(set) => {
            note_revision(writer, deployment, number);
            Some(set)
        }
        Err(error) if error.reason == "AlreadyExists" => {
            writer.change_status(DEPLOYMENTS, &key(deployment), |d| d["status"]["collisionCount"] = (collisions + 1).into());
            None
        }
        Err(error) => {
            tracing::warn!(deployment = name(deployment), message = error.message, "ReplicaSet refused");
            None
        }
    }
}

/// Ten characters or fewer that differ for different templates and collision counts.
fn template_hash(template: &Value, collisions: i64) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    let salt = if collisions > 0 { collisions.to_string() } else { String::new() };
    for byte in template.to_string().bytes().chain(salt.bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    let alphabet = b"bcdfghjklmnpqrstvwxz2456789";
    hash.to_string().bytes().map(|b| char::from(alphabet[usize::from(b) % alphabet.len()])).collect()
}

fn prune_history(writer: &mut Writer<'_>, deployment: &Value, sets: &Sets) {
    let limit = usize::try_from(number(&deployment["spec"]["revisionHistoryLimit"])).unwrap_or(0);
    let idle = |s: &&Arc<Value>| {
        number(&s["spec"]["replicas"]) == 0
            && number(&s["status"]["replicas"]) == 0
            && s["status"]["observedGeneration"] == s["metadata"]["generation"]
            && !is_deleting(s)
    };
    let idle: Vec<&Arc<Value>> = sets.old.iter().filter(idle).collect();
    for set in idle.iter().take(idle.len().saturating_sub(limit)) {
        writer.delete(REPLICA_SETS, &key(set), &DeleteOptions::default());
    }
}

struct Counts {
    total: i64,
    updated: i64,
    ready: i64,
    available: i64,
}

fn counts(sets: &Sets) -> Counts {
    let sum = |field: &str| sets.all().map(|s| number(&s["status"][field])).sum();
    let updated = sets.new.as_ref().map_or(0, |s| number(&s["status"]["replicas"]));
    Counts { total: sum("replicas"), updated, ready: sum("readyReplicas"), available: sum("availableReplicas") }
}

fn is_complete(deployment: &Value, sets: &Sets) -> bool {
    let wanted = number(&deployment["spec"]["replicas"]);
    let c = counts(sets);
    c.updated == wanted && c.total == wanted && c.available == wanted
}

fn report(writer: &mut Writer<'_>, deployment: &Value, sets: &Sets) -> Option<Timestamp> {
    let (now, c) = (writer.now(), counts(sets));
    let wanted = number(&deployment["spec"]["replicas"]);
    let complete = is_complete(deployment, sets);
    let live = writer.api.get(DEPLOYMENTS, namespace(deployment), name(deployment))?.clone();
    let before = &live["status"];
    let mut next = json!({});
    next["status"] = before.clone();
    let fields = [
        ("observedGeneration", number(&deployment["metadata"]["generation"])),
        ("replicas", c.total),
        ("updatedReplicas", c.updated),
        ("readyReplicas", c.ready),
        ("availableReplicas", c.available),
        ("unavailableReplicas", (wanted.max(c.total) - c.available).max(0)),
    ];
    if !before.is_object() {
        next["status"] = json!({});
    }
    if let Some(status) = next["status"].as_object_mut() {
        for (field, value) in fields {
            if value == 0 {
                status.remove(field);
            } else {
                status.insert(field.into(), value.into());
            }
        }
    }
    let at = seconds(now);
    let enough = c.available >= wanted - rolling::max_unavailable(deployment);
    let (status, reason, message) = match enough {
        true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
    };
    set_condition(&mut next, "Available", status, reason, message, &at);
    let due = progress(&mut next, before, deployment, complete, now);
    if next["status"] != *before {
        writer.change_status(DEPLOYMENTS, &key(deployment), |d| d["status"] = next["status"].take());
    }
    due
}

/// Sets the `Progressing` condition; returns when its deadline passes.
fn progress(d: &mut Value, before: &Value, deployment: &Value, complete: bool, now: Timestamp) -> Option<Timestamp> {
    let at = seconds(now);
    let live = condition(d, "Progressing").cloned().unwrap_or_default();
    let set = |d: &mut Value, status: &str, reason: &str, updated: &Value| {
        set_condition(d, "Progressing", status, reason, "", &at);
        if let Some(list) = d["status"]["conditions"].as_array_mut()
            && let Some(c) = list.iter_mut().find(|c| c["type"] == "Progressing")
        {
            c["lastUpdateTime"] = updated.clone();
        }
    };
    if is_paused(deployment) {
        if live["reason"] != "DeploymentPaused" {
            set(d, "Unknown", "DeploymentPaused", &json!(at));
        }
        return None;
    }
    if complete {
        if live["reason"] != "NewReplicaSetAvailable" {
            set(d, "True", "NewReplicaSetAvailable", &json!(at));
        }
        return None;
    }
    let moved = ["updatedReplicas", "readyReplicas", "availableReplicas", "replicas"].iter().any(|f| before[f] != d["status"][f]);
    let resumed = matches!(live["reason"].as_str(), None | Some("DeploymentPaused" | "NewReplicaSetAvailable"));
    if moved || resumed {
        set(d, "True", "ReplicaSetUpdated", &json!(at));
        return Some(after(now, deadline(deployment)));
    }
    let since: Timestamp = text(&live["lastUpdateTime"]).parse().unwrap_or(now);
    let end = after(since, deadline(deployment));
    if end > now {
        return Some(end);
    }
    if live["reason"] != "ProgressDeadlineExceeded" {
        set(d, "False", "ProgressDeadlineExceeded", &json!(at));
    }
    None
}

fn deadline(deployment: &Value) -> Duration {
    Duration::from_secs(number(&deployment["spec"]["progressDeadlineSeconds"]).max(1).unsigned_abs())
}
