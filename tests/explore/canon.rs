//! When two states of the world are the same: everything is compared that the controller, the cluster's own controllers or a person go by,
//! except what differs in each run (names of pods, uids, versions, the clock). Times that are over are all alike, those to come count from now.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use sluice::api::keys;

use super::world::World;

pub type Digest = [u8; 16];

/// What the world consists of; a kind's objects by which of their fields count.
const KINDS: [(&str, &[&str]); 9] = [
    ("rollouts.sluice.dev", &["spec", "status"]),
    ("deployments.apps", &["spec"]),
    ("replicasets.apps", &["spec", "status"]),
    ("controllerrevisions.apps", &[]),
    ("services", &["spec"]),
    ("endpointslices.discovery.k8s.io", &["endpoints"]),
    ("httproutes.gateway.networking.k8s.io", &["spec", "status"]),
    ("analysisruns.sluice.dev", &["spec", "status"]),
    ("rolloutactions.sluice.dev", &["spec"]),
];

/// Fields that differ without a difference: what was said, and counts and names that rise for ever.
const IGNORED: [&str; 22] = [
    "uid",
    "name",
    "resourceVersion",
    "generation",
    "observedGeneration",
    "workloadObservedGeneration",
    "managedFields",
    "creationTimestamp",
    "lastTransitionTime",
    "startedAt",
    "finishedAt",
    "message",
    "reason",
    "history",
    "measurements",
    "lastAction",
    "clusterIP",
    "clusterIPs",
    "ip",
    "addresses",
    "nodeName",
    "terminationGracePeriodSeconds",
];

pub fn digest(world: &World) -> Digest {
    let hash = Sha256::digest(describe(world).to_string());
    std::array::from_fn(|byte| hash[byte])
}

fn describe(world: &World) -> Value {
    let drive = &world.drive;
    let canon = Canon::new(world);
    let mut kinds = Map::new();
    for (kind, fields) in KINDS {
        let done = |object: &Value| kind == "rolloutactions.sluice.dev" && !object["status"]["outcome"].is_null();
        let mut objects: Vec<Value> =
            drive.api.list(kind).filter(|object| !done(object)).map(|object| canon.object(object, fields)).collect();
        objects.sort_by_key(Value::to_string);
        kinds.insert(kind.to_owned(), objects.into());
    }
    let mut pods: Vec<&String> = canon.pods.values().collect();
    pods.sort();
    let due: Vec<(String, String)> = drive.due().into_iter().map(|(what, at)| (canon.text(&what), canon.time(at))).collect();
    json!({
        "kinds": kinds, "pods": pods, "due": due.into_iter().collect::<BTreeSet<_>>(), "bad": drive.bad, "ready": world.is_ready(),
        "shares": drive.cluster.gateway.programmed().shares("default", "api", 0),
    })
}

struct Canon {
    now: Timestamp,
    epoch: String,
    /// What a pod is, by its name.
    pods: BTreeMap<String, String>,
    /// The stable marks that there are, in their order.
    marks: Vec<u64>,
}

impl Canon {
    fn new(world: &World) -> Self {
        let drive = &world.drive;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pods = drive.api.list("pods").map(|pod| {
            let conditions = pod["status"]["conditions"].as_array();
            let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
            let deleting = !pod["metadata"]["deletionTimestamp"].is_null();
            let (hash, phase) = (text(&pod["metadata"]["labels"]["pod-template-hash"]), text(&pod["status"]["phase"]));
            (text(&pod["metadata"]["name"]), format!("{hash} {phase} {ready} {deleting}"))
        });
        let mark = |set: &std::sync::Arc<Value>| set["metadata"]["annotations"][keys::STABLE].as_str()?.parse().ok();
        let mut marks: Vec<u64> = drive.api.list("replicasets.apps").filter_map(mark).collect();
        marks.sort_unstable();
        Self { now: drive.now, epoch: drive.epoch().to_string(), pods: pods.collect(), marks }
    }

    fn time(&self, at: Timestamp) -> String {
        match at.duration_since(self.now) {
            left if left.is_positive() => format!("in {} ms", left.as_millis()),
            _ => "before".to_owned(),
        }
    }

    fn object(&self, object: &Value, fields: &[&str]) -> Value {
        let metadata = &object["metadata"];
        let mut parts: Map<String, Value> = fields.iter().map(|field| ((*field).to_owned(), self.value(&object[*field]))).collect();
        let behind = |observed: &Value| observed.as_i64().is_some_and(|observed| Some(observed) != metadata["generation"].as_i64());
        let annotations = metadata["annotations"].as_object().into_iter().flatten();
        let annotations: Map<String, Value> = annotations
            .filter(|(key, _)| !key.starts_with("deployment.kubernetes.io/"))
            .map(|(key, value)| (key.clone(), self.mark(key, value)))
            .collect();
        parts.insert("annotations".into(), annotations.into());
        parts.insert("labels".into(), metadata["labels"].clone());
        parts.insert("deleting".into(), (!metadata["deletionTimestamp"].is_null()).into());
        parts.insert("behind".into(), behind(&object["status"]["observedGeneration"]).into());
        parts.insert("workload".into(), object["status"]["workloadObservedGeneration"].is_null().into());
        parts.into()
    }

    fn mark(&self, key: &str, value: &Value) -> Value {
        let text = value.as_str().unwrap_or_default();
        match key {
            keys::EPOCH => (text == self.epoch).into(),
            keys::STABLE => self.marks.iter().position(|mark| text.parse() == Ok(*mark)).into(),
            _ => self.value(value),
        }
    }

    fn value(&self, value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let fields = fields.iter().filter(|(field, _)| !IGNORED.contains(&field.as_str()));
                let mut fields: Map<String, Value> = fields.map(|(field, value)| (field.clone(), self.value(value))).collect();
                let pod = &value["targetRef"]["name"];
                if let Some(pod) = pod.as_str() {
                    fields.insert("targetRef".into(), self.text(pod).into());
                }
                fields.into()
            }
            Value::Array(values) => {
                let mut values: Vec<Value> = values.iter().map(|value| self.value(value)).collect();
                if values.iter().all(|value| value["targetRef"].is_string()) {
                    values.sort_by_key(Value::to_string); // endpoints
                }
                values.into()
            }
            Value::String(text) => match serde_json::from_str::<Value>(text) {
                Ok(inner @ (Value::Object(_) | Value::Array(_))) => self.value(&inner),
                _ => self.text(text).into(),
            },
            _ => value.clone(),
        }
    }

    fn text(&self, text: &str) -> String {
        match text.parse::<Timestamp>() {
            Ok(at) => self.time(at),
            Err(_) => self.pods.get(text).cloned().unwrap_or_else(|| text.to_owned()),
        }
    }
}
