//! Revisions: a pod template as its author wrote it, and the ReplicaSet that runs it.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::observed::{DryRun, Meta, Observed, Owner, ReplicaSetView};
use crate::api::keys;

/// The present template: the Rollout's own, or its Deployment's.
pub fn template(obs: &Observed) -> Option<&Value> {
    match &obs.rollout.spec.template {
        Some(template) => Some(template),
        None => obs.workload.as_ref().map(|w| &w.template),
    }
}

/// The selector of the workload's pods, without a revision's hash.
pub fn selector(obs: &Observed) -> Option<Value> {
    match &obs.rollout.spec.selector {
        Some(selector) => serde_json::to_value(selector).ok(),
        None => obs.workload.as_ref().map(|w| w.selector.clone()),
    }
}

/// SHA-256 of a template's canonical JSON (sorted keys), `pod-template-hash` aside. Raw JSON, no typed struct: fields that we
/// don't know count too, and an upgrade of ours changes nothing.
pub fn digest(template: &Value) -> String {
    let mut out = vec![];
    match template {
        Value::Object(fields) => canonical_map(fields, &mut out, |key, value, out| match (key, value) {
            ("metadata", Value::Object(metadata)) => canonical_map(&as_written(metadata), out, |_, value, out| canonical(value, out)),
            _ => canonical(value, out),
        }),
        other => canonical(other, &mut out),
    }
    format!("{:x}", Sha256::digest(&out))
}

/// A template's metadata without the revision's hash, and without what the API server writes into an object that was made from a typed
/// struct.
fn as_written(metadata: &Map<String, Value>) -> Map<String, Value> {
    let mut metadata = metadata.clone();
    if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
        labels.remove(keys::POD_TEMPLATE_HASH);
    }
    metadata.retain(|key, value| !(key == "creationTimestamp" && value.is_null()));
    metadata
}

fn canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => canonical_map(map, out, |_, value, out| canonical(value, out)),
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                canonical(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        scalar => write_json(scalar, out),
    }
}

fn canonical_map(map: &Map<String, Value>, out: &mut Vec<u8>, each: impl Fn(&str, &Value, &mut Vec<u8>)) {
    let mut fields: Vec<_> = map.iter().collect();
    fields.sort_unstable_by_key(|(key, _)| *key);
    out.push(b'{');
    for (key, value) in fields {
        write_json(key, out);
        out.push(b':');
        each(key, value, out);
        out.push(b',');
    }
    out.push(b'}');
}

fn write_json(scalar: impl serde::Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, &scalar).expect("scalars can be written to memory");
}

/// A name for a revision from its digest, of letters that make no words; `salt` tells revisions apart that would share it.
fn short_name(digest: &str, salt: u32) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let hash = Sha256::digest(format!("{digest}/{salt}"));
    hash.iter().take(10).map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}

/// Which revision the present template is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// There is no template yet.
    Missing,
    /// The API server must be asked what it makes of the template first.
    Ask,
    /// The API server refuses it.
    Refused(String),
    /// The revision of this name; its ReplicaSet may not exist yet.
    Revision(String),
}

/// The present template is a revision that exists if it is what its author wrote then, or the same once both are defaulted.
pub fn resolve(obs: &Observed) -> Resolved {
    let Some(template) = template(obs) else { return Resolved::Missing };
    let written = digest(template);
    let known = |rs: &&ReplicaSetView| rs.digest == written || rs.meta.annotations.get(keys::TEMPLATE) == Some(&written);
    if let Some(rs) = best(obs, known) {
        return Resolved::Revision(rs.hash.clone());
    }
    match &obs.dry_run {
        None => Resolved::Ask,
        Some(DryRun::Refused(why)) => Resolved::Refused(why.clone()),
        Some(DryRun::Defaulted(defaulted)) => match best(obs, |rs| rs.digest == *defaulted) {
            Some(rs) => Resolved::Revision(rs.hash.clone()),
            None => Resolved::Revision(free_name(obs, &written)),
        },
    }
}

/// Of several ReplicaSets with the same template (a Deployment that was deleted and made again brings another one) the one that serves,
/// else the newest.
fn best(obs: &Observed, is_it: impl Fn(&&ReplicaSetView) -> bool) -> Option<&ReplicaSetView> {
    let stable = stable(obs);
    obs.revisions().filter(is_it).max_by_key(|rs| (Some(&rs.hash) == stable.as_ref(), rs.created_at, &rs.meta.name))
}

/// The first name that no ReplicaSet with another template has.
fn free_name(obs: &Observed, digest: &str) -> String {
    (0..)
        .map(|salt| short_name(digest, salt))
        .find(|name| obs.replica_sets.iter().all(|rs| rs.hash != *name && rs.meta.name != set_name(obs, name)))
        .expect("names do not run out")
}

pub fn set_name(obs: &Observed, hash: &str) -> String {
    format!("{}-{hash}", obs.rollout.meta.name)
}

/// The owners of everything that we make or take: the anchor as controller, and the Rollout for people who look at the tree.
/// Never the Rollout as controller: deleting it in the foreground would take the pods away before our finalizer is asked.
pub fn owners(obs: &Observed, anchor: &Meta) -> Value {
    json!([
        {"apiVersion": "apps/v1", "kind": "ControllerRevision", "name": anchor.name, "uid": anchor.uid, "controller": true},
        {"apiVersion": "sluice.dev/v1alpha1", "kind": "Rollout", "name": obs.rollout.meta.name, "uid": obs.rollout.meta.uid},
    ])
}

/// The anchor of a Rollout: it has no owner itself, so that nothing is garbage-collected before our finalizer has done its work.
pub fn anchor(obs: &Observed) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {
            "name": obs.rollout.meta.name, "namespace": obs.rollout.namespace,
            "labels": {keys::ROLLOUT: obs.rollout.meta.name},
            "annotations": {keys::ABOUT: "Owns the ReplicaSets and Services that Sluice made or took for this Rollout. Do not delete: they would go with it."},
        },
        "data": {"rollout": obs.rollout.meta.name},
        "revision": 1,
    })
}

/// The ReplicaSet of the present template.
pub fn replica_set(obs: &Observed, anchor: &Meta, hash: &str, replicas: i32) -> Option<Value> {
    let written = template(obs)?;
    let mut template = written.clone();
    let labels = template.as_object_mut()?.entry("metadata").or_insert_with(|| json!({}));
    let labels = labels.as_object_mut()?.entry("labels").or_insert_with(|| json!({}));
    labels.as_object_mut()?.insert(keys::POD_TEMPLATE_HASH.to_owned(), json!(hash));
    let mut selector = selector(obs)?;
    let match_labels = selector.as_object_mut()?.entry("matchLabels").or_insert_with(|| json!({}));
    match_labels.as_object_mut()?.insert(keys::POD_TEMPLATE_HASH.to_owned(), json!(hash));
    Some(json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": set_name(obs, hash), "namespace": obs.rollout.namespace,
            "labels": {keys::ROLLOUT: obs.rollout.meta.name, keys::POD_TEMPLATE_HASH: hash},
            "annotations": {keys::TEMPLATE: digest(written), keys::EPOCH: obs.epoch.to_string()},
            "ownerReferences": owners(obs, anchor),
        },
        "spec": {"replicas": replicas, "minReadySeconds": min_ready_seconds(obs), "selector": selector, "template": template},
    }))
}

fn min_ready_seconds(obs: &Observed) -> i32 {
    let of_workload = || obs.workload.as_ref().map(|workload| workload.min_ready_seconds);
    obs.rollout.spec.min_ready_seconds.or_else(of_workload).unwrap_or(0)
}

/// What to ask the API server, if it must be asked: a ReplicaSet to create as a dry run.
pub fn question(obs: &Observed) -> Option<Value> {
    if resolve(obs) != Resolved::Ask {
        return None;
    }
    let nobody = Meta { name: "nobody".to_owned(), uid: "nobody".to_owned(), ..Meta::default() };
    let written = digest(template(obs)?);
    let mut body = replica_set(obs, &nobody, &short_name(&written, 0), 0)?;
    // It must not meet one that exists, and owns nothing.
    let metadata = body.get_mut("metadata")?.as_object_mut()?;
    metadata.remove("ownerReferences");
    metadata.insert("name".to_owned(), json!(format!("{}-dry-run", obs.rollout.meta.name)));
    Some(body)
}

/// The revision that serves: what status says, else what the marks on the ReplicaSets say, else what has pods.
pub fn stable(obs: &Observed) -> Option<String> {
    let status = obs.rollout.status.stable_revision.as_ref();
    if let Some(hash) = status.filter(|hash| obs.replica_set(hash).is_some()) {
        return Some(hash.clone());
    }
    let marked = obs.revisions().filter_map(|rs| Some((stable_number(rs)?, rs))).max_by_key(|(number, _)| *number);
    // Of a Rollout that knew better, whatever else has pods was not judged: its stable ReplicaSet is gone.
    let unjudged = |rs: &&ReplicaSetView| status.is_some() || rs.meta.annotations.contains_key(keys::REJECTED);
    let serving = || obs.revisions().filter(|rs| rs.ready > 0 && !unjudged(rs)).max_by_key(|rs| rs.ready);
    marked.map(|(_, rs)| rs).or_else(serving).map(|rs| rs.hash.clone())
}

/// The number of a ReplicaSet's stable mark.
pub fn stable_number(rs: &ReplicaSetView) -> Option<u64> {
    rs.meta.annotations.get(keys::STABLE)?.parse().ok()
}

/// The number for the next stable mark.
pub fn next_stable_number(obs: &Observed) -> u64 {
    obs.revisions().filter_map(stable_number).max().unwrap_or(0) + 1
}

/// ReplicaSets of the Deployment itself.
pub fn of_workload(obs: &Observed) -> impl Iterator<Item = &ReplicaSetView> {
    obs.replica_sets.iter().filter(|rs| rs.owner == Owner::Workload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_about_what_was_written() {
        let one =
            json!({"metadata": {"labels": {"app": "api"}}, "spec": {"containers": [{"name": "a", "image": "a:1"}], "new": {"field": 1}}});
        let mut two = one.clone();
        two["metadata"]["labels"]["pod-template-hash"] = json!("abc");
        two["metadata"]["creationTimestamp"] = Value::Null;
        assert_eq!(digest(&one), digest(&two));
        two["spec"]["new"]["field"] = json!(2);
        assert_ne!(digest(&one), digest(&two), "fields that nobody knows count too");
    }
}
