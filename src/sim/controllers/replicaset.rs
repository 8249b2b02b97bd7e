//! The ReplicaSet controller: as many pods as wanted, and a status that counts them.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::availability::available_from;
use super::objects::{
    PODS, REPLICA_SETS, Writer, all, controlled_by, controller, is_deleting, is_ready, key, name, namespace, number, owners, text, uid,
};
use super::sooner;
use crate::sim::api::{ApiServer, DeleteOptions, LabelSelector};

pub fn step(api: &mut ApiServer, now: Timestamp) -> Option<Timestamp> {
    let mut due = None;
    let pods = all(api, PODS);
    let mut writer = Writer::new(api, "replicaset-controller", now);
    for set in all(writer.api, REPLICA_SETS) {
        let mine = claim(&mut writer, &set, &pods);
        if !is_deleting(&set) {
            scale(&mut writer, &set, &mine);
        }
        due = sooner(due, report(&mut writer, &set, &mine));
    }
    due
}

/// The set's live pods: adopts matching ones that nobody controls, lets go of those that match no more.
fn claim(writer: &mut Writer<'_>, set: &Value, pods: &[Arc<Value>]) -> Vec<Arc<Value>> {
    let selector = LabelSelector::from_object(&set["spec"]["selector"]);
    let mut mine = Vec::new();
    for pod in pods.iter().filter(|p| namespace(p) == namespace(set)) {
        let matches = selector.matches(&pod["metadata"]["labels"]);
        let active = !is_deleting(pod) && !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        match controller(pod) {
            Some(owner) if owner == uid(set) && !matches => {
                writer.change(PODS, &key(pod), |p| {
                    let left: Vec<Value> = owners(p).filter(|o| o["uid"] != uid(set)).cloned().collect();
                    p["metadata"]["ownerReferences"] = left.into();
                });
            }
            Some(owner) if owner == uid(set) && active => mine.push(pod.clone()),
            None if matches && active && !is_deleting(set) => {
                let adopted = writer.change(PODS, &key(pod), |p| {
                    let mut list: Vec<Value> = owners(p).cloned().collect();
                    list.push(controlled_by(set));
                    p["metadata"]["ownerReferences"] = list.into();
                });
                mine.extend(adopted);
            }
            _ => {}
        }
    }
    mine
}

fn scale(writer: &mut Writer<'_>, set: &Value, mine: &[Arc<Value>]) {
    let wanted = usize::try_from(number(&set["spec"]["replicas"])).unwrap_or(0);
    for _ in mine.len()..wanted {
        let template = &set["spec"]["template"];
        let mut pod = json!({"metadata": template["metadata"], "spec": template["spec"]});
        if !pod["metadata"].is_object() {
            pod["metadata"] = json!({});
        }
        pod["metadata"]["generateName"] = format!("{}-", name(set)).into();
        pod["metadata"]["ownerReferences"] = json!([controlled_by(set)]);
        if let Err(error) = writer.create(PODS, namespace(set), pod) {
            tracing::warn!(set = name(set), message = error.message, "pod refused");
            return;
        }
    }
    // The ones that are least worth go first: not running, then not ready, then the youngest.
    let mut by_worth: Vec<&Arc<Value>> = mine.iter().collect();
    by_worth.sort_by_key(|p| {
        let age = text(&p["metadata"]["creationTimestamp"]);
        (p["status"]["phase"] == "Running", is_ready(p), std::cmp::Reverse(age.to_owned()), name(p).to_owned())
    });
    for pod in by_worth.into_iter().take(mine.len().saturating_sub(wanted)) {
        let options = DeleteOptions { uid: Some(uid(pod).to_owned()), ..DeleteOptions::default() };
        writer.delete(PODS, &key(pod), &options);
    }
}

fn report(writer: &mut Writer<'_>, set: &Value, mine: &[Arc<Value>]) -> Option<Timestamp> {
    let now = writer.now();
    let wait = number(&set["spec"]["minReadySeconds"]);
    let labels = LabelSelector::from_map(&set["spec"]["template"]["metadata"]["labels"]);
    let (mut labelled, mut ready, mut available, mut due) = (0, 0, 0, None);
    for pod in mine {
        labelled += i64::from(labels.matches(&pod["metadata"]["labels"]));
        ready += i64::from(is_ready(pod));
        match available_from(pod, wait) {
            Some(at) if at <= now => available += 1,
            Some(at) => due = sooner(due, Some(at)),
            None => {}
        }
    }
    let mut status = json!({
        "replicas": mine.len(), "fullyLabeledReplicas": labelled, "readyReplicas": ready,
        "availableReplicas": available, "observedGeneration": set["metadata"]["generation"],
    });
    // Zero is stored as nothing.
    if let Some(status) = status.as_object_mut() {
        status.retain(|k, v| k == "replicas" || v != &json!(0));
    }
    if set["status"] != status {
        writer.change_status(REPLICA_SETS, &key(set), |s| s["status"] = status);
    }
    due
}
