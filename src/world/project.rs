//! From an object as the API server sends it to what Sluice keeps of it. Everything else is dropped before it is stored: managed
//! fields alone would cost a hundred times what is kept here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::packed::Packed;
use crate::{
    api::{
        AnalysisRunSpec, AnalysisRunStatus, AnalysisTemplateSpec, RolloutActionSpec, RolloutSpec, RolloutStatus,
        action::RolloutActionStatus, keys, rollout::RouteKind, status::Propagation,
    },
    core::{
        observed::{Meta, ParentView, PodView, Report, RouteView, RuleView, RunView, Unreadable, WorkloadView},
        revision,
        route::records,
        spec::{Invalid, invalid},
    },
};

/// An object as the API server sends it: its metadata, and all else by field.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    pub metadata: &'a ObjectMeta,
    pub data: &'a Value,
}

impl<'a> From<&'a DynamicObject> for Seen<'a> {
    fn from(object: &'a DynamicObject) -> Self {
        Self { metadata: &object.metadata, data: &object.data }
    }
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[derive(Clone, Debug)]
pub struct RolloutEntry {
    pub meta: Meta,
    pub finalizers: Vec<String>,
    /// The policy with which it is deleted, as far as a finalizer tells.
    pub propagation: Option<Propagation>,
    pub created_at: Timestamp,
    /// As far as it can be read.
    pub spec: RolloutSpec,
    pub unreadable: Option<Unreadable>,
    pub status: RolloutStatus,
}

#[derive(Clone, Debug)]
pub struct ActionEntry {
    pub meta: Meta,
    pub created_at: Timestamp,
    /// The Rollout that it is for.
    pub rollout: String,
    pub spec: Result<RolloutActionSpec, Invalid>,
    pub status: RolloutActionStatus,
}

#[derive(Clone, Debug)]
pub struct ReplicaSetEntry {
    pub meta: Meta,
    /// The controller: its kind and uid.
    pub controller: Option<(String, String, String)>,
    pub owner_uids: Vec<String>,
    pub hash: String,
    pub digest: String,
    pub images: Vec<String>,
    pub created_at: Timestamp,
    pub replicas: i32,
    pub status_replicas: i32,
    pub ready: i32,
    pub available: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEntry {
    pub view: PodView,
    /// Name and uid of the ReplicaSet that it belongs to.
    pub replica_set: (String, String),
    pub address: Option<String>,
    /// The annotations that say where its metrics are.
    pub scrape: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub struct ServiceEntry {
    pub meta: Meta,
    pub owner_uids: Vec<String>,
    pub selector: BTreeMap<String, String>,
    pub spec: Packed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEntry {
    pub service: String,
    /// Pod (or address, where there is none) and whether it is ready.
    pub endpoints: Vec<(String, bool)>,
}

fn meta(object: &ObjectMeta, keep: impl Fn(&str) -> bool) -> Meta {
    let annotations = object.annotations.clone().unwrap_or_default();
    Meta {
        name: object.name.clone().unwrap_or_default(),
        uid: object.uid.clone().unwrap_or_default(),
        resource_version: object.resource_version.clone().unwrap_or_default(),
        generation: object.generation.unwrap_or(0),
        deleting: object.deletion_timestamp.is_some(),
        labels: object.labels.clone().unwrap_or_default(),
        has_annotations: !annotations.is_empty(),
        annotations: annotations.into_iter().filter(|(key, _)| keep(key)).collect(),
        managed_by_us: (0..)
            .zip(object.managed_fields.iter().flatten())
            .filter(|(_, entry)| entry.manager.as_deref() == Some(crate::core::patch::MANAGER))
            .map(|(at, _)| at)
            .collect(),
        last_writer: None,
    }
}

/// Who wrote `spec` last, ourselves aside.
fn last_writer(object: &ObjectMeta) -> Option<String> {
    let writes_spec = |entry: &&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().is_some_and(|f| f.0.get("f:spec").is_some());
        fields && entry.manager.as_deref() != Some(crate::core::patch::MANAGER)
    };
    let entries = object.managed_fields.iter().flatten().filter(writes_spec);
    entries.max_by_key(|entry| entry.time.as_ref().map(|t| t.0))?.manager.clone()
}

fn ours(key: &str) -> bool {
    key.starts_with("sluice.dev/") || key.starts_with(keys::ROUTE_RECORD_PREFIX) || key == keys::FLUX_RECONCILE
}

fn created(object: &ObjectMeta) -> Timestamp {
    object.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0)
}

fn int(data: &Value, path: &str) -> i32 {
    data.pointer(path).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok()).unwrap_or(0)
}

fn text<'a>(data: &'a Value, key: &str) -> Option<&'a str> {
    data.get(key).and_then(Value::as_str)
}

fn list<'a>(data: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    data.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

fn strings(data: &Value, path: &str) -> BTreeMap<String, String> {
    let map = data.pointer(path).and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

fn status<T: Default + serde::de::DeserializeOwned>(data: &Value) -> T {
    data.get("status").and_then(|status| T::deserialize(status).ok()).unwrap_or_default()
}

/// A spec as this version of Sluice knows it, or which field it cannot read. The API server has let that through by a CRD of another version.
fn spec<T: serde::de::DeserializeOwned>(data: &Value) -> Result<T, Invalid> {
    let spec = data.get("spec").unwrap_or(&Value::Null);
    let with_path = |_| serde_path_to_error::deserialize(spec); // which field it is, where one is wrong
    T::deserialize(spec).or_else(with_path).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "spec".to_owned() } else { format!("spec.{path}") };
        let why = error.inner();
        let mend = "correct it, or let the installed CRDs and the controller be of the same version";
        invalid(field, format!("this version of Sluice cannot read it ({why}): {mend}"))
    })
}

/// What a spec says in these fields, each as far as it can be read, and whether all of them can. `rest` stands for the fields that
/// every spec has.
fn fields<T: serde::de::DeserializeOwned>(data: &Value, names: &[&str], rest: Value) -> (Option<T>, bool) {
    let (mut known, mut all) = (json!({"spec": rest}), true);
    for name in names {
        let Some(value) = data.get("spec").and_then(|spec| spec.get(name)) else { continue };
        let mut with = known.clone();
        with["spec"][name] = value.clone();
        match spec::<T>(&with) {
            Ok(_) => known = with,
            Err(_) => all = false,
        }
    }
    (spec(&known).ok(), all)
}

fn propagation(object: &ObjectMeta) -> Option<Propagation> {
    let has = |name: &str| object.finalizers.iter().flatten().any(|finalizer| finalizer == name);
    match object.deletion_timestamp {
        Some(_) if has("orphan") => Some(Propagation::Orphan),
        Some(_) if has("foregroundDeletion") => Some(Propagation::Foreground),
        _ => None,
    }
}

/// A Rollout. Of one that cannot be read, what it says of its workload and its traffic.
pub fn rollout(object: Seen<'_>) -> Option<RolloutEntry> {
    let (spec, unreadable) = match spec(object.data) {
        Ok(spec) => (spec, None),
        Err(why) => {
            let names = ["replicas", "workloadRef", "selector", "template", "traffic"];
            let (spec, essentials) = fields(object.data, &names, json!({"strategy": {}}));
            (spec?, Some(Unreadable { why, essentials }))
        }
    };
    Some(RolloutEntry {
        meta: meta(object.metadata, ours),
        propagation: propagation(object.metadata),
        finalizers: object.metadata.finalizers.clone().unwrap_or_default(),
        created_at: created(object.metadata),
        spec,
        unreadable,
        status: status(object.data),
    })
}

pub fn workload(object: Seen<'_>) -> WorkloadView {
    let data = object.data;
    let number = |path: &str| data.pointer(path).and_then(Value::as_i64).map(|n| i32::try_from(n).unwrap_or(i32::MAX));
    WorkloadView {
        meta: meta(object.metadata, ours),
        replicas: number("/spec/replicas").unwrap_or(1),
        min_ready_seconds: number("/spec/minReadySeconds").unwrap_or(0),
        paused: data.pointer("/spec/paused").and_then(Value::as_bool).unwrap_or(false),
        observed_generation: data.pointer("/status/observedGeneration").and_then(Value::as_i64).unwrap_or(0),
        selector: data.pointer("/spec/selector").cloned().unwrap_or_default(),
        template: data.pointer("/spec/template").cloned().unwrap_or_default(),
        replicas_in_git: replicas_in_git(object.metadata),
        helm_wrote_at: helm_wrote_at(object.metadata),
    }
}

fn is_helm(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref().is_some_and(|manager| manager.starts_with("helm"))
}

/// When Helm 3 wrote a Deployment last. Helm 4 applies server-side, which says by itself what is in Git.
fn helm_wrote_at(object: &ObjectMeta) -> Option<Timestamp> {
    let released = object.annotations.as_ref().is_some_and(|a| a.contains_key("meta.helm.sh/release-name"));
    let entries = || object.managed_fields.iter().flatten().filter(|entry| is_helm(entry));
    if !released || entries().any(|entry| entry.operation.as_deref() == Some("Apply")) {
        return None;
    }
    Some(entries().filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max().unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Whether Git sets `replicas`: a server-side apply of it, or `kubectl apply`'s record, says so. Helm 3 leaves only update entries,
/// so what Helm writes counts too.
fn replicas_in_git(object: &ObjectMeta) -> bool {
    let applied = object.annotations.as_ref().and_then(|a| a.get(LAST_APPLIED)).and_then(|text| serde_json::from_str::<Value>(text).ok());
    if applied.is_some_and(|manifest| manifest.pointer("/spec/replicas").is_some()) {
        return true;
    }
    object.managed_fields.iter().flatten().any(|entry| {
        let git = entry.operation.as_deref() == Some("Apply") || is_helm(entry);
        let fields = entry.fields_v1.as_ref().map(|f| &f.0);
        git && entry.manager.as_deref() != Some(crate::core::patch::MANAGER)
            && entry.subresource.as_deref().unwrap_or("").is_empty()
            && fields.is_some_and(|f| f.pointer("/f:spec/f:replicas").is_some())
    })
}

pub fn replica_set(object: Seen<'_>) -> ReplicaSetEntry {
    let data = object.data;
    let template = data.pointer("/spec/template").unwrap_or_default();
    let mut meta = meta(object.metadata, ours);
    meta.labels.retain(|_, value| value.len() <= 63);
    let controller = object.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
    ReplicaSetEntry {
        owner_uids: object.metadata.owner_references.iter().flatten().map(|o| o.uid.clone()).collect(),
        controller: controller.map(|o| (o.kind.clone(), o.name.clone(), o.uid.clone())),
        // Its selector never changes; the label in its metadata may be taken off.
        hash: strings(data, "/spec/selector/matchLabels").remove(keys::POD_TEMPLATE_HASH).unwrap_or_default(),
        digest: revision::digest(template),
        images: list(template, "/spec/containers").filter_map(|c| Some(text(c, "image")?.to_owned())).collect(),
        created_at: created(object.metadata),
        replicas: data.pointer("/spec/replicas").and_then(Value::as_i64).map_or(1, |n| i32::try_from(n).unwrap_or(i32::MAX)),
        status_replicas: int(data, "/status/replicas"),
        ready: int(data, "/status/readyReplicas"),
        available: int(data, "/status/availableReplicas"),
        meta,
    }
}

/// A pod that runs; one that has ended (evicted, completed) is none.
pub fn pod(object: Seen<'_>) -> Option<PodEntry> {
    let data = object.data;
    if matches!(data.pointer("/status/phase").and_then(Value::as_str), Some("Failed" | "Succeeded")) {
        return None;
    }
    let owner = object.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true) && o.kind == "ReplicaSet")?;
    let stopping = object.metadata.deletion_timestamp.is_some();
    let condition = list(data, "/status/conditions").find(|c| text(c, "type") == Some("Ready"));
    let ready = condition.and_then(|c| text(c, "status")) == Some("True") && !stopping;
    let waiting = list(data, "/status/containerStatuses")
        .chain(list(data, "/status/initContainerStatuses"))
        .filter_map(|c| text(c.pointer("/state/waiting")?, "reason"))
        .find(|reason| !matches!(*reason, "ContainerCreating" | "PodInitializing"));
    let unscheduled = list(data, "/status/conditions")
        .find(|c| text(c, "type") == Some("PodScheduled") && text(c, "status") == Some("False"))
        .and_then(|c| text(c, "message"));
    let annotations = object.metadata.annotations.clone().unwrap_or_default();
    Some(PodEntry {
        view: PodView {
            name: object.metadata.name.clone().unwrap_or_default(),
            uid: object.metadata.uid.clone().unwrap_or_default(),
            created_at: created(object.metadata),
            hash: object.metadata.labels.as_ref().and_then(|l| l.get(keys::POD_TEMPLATE_HASH)).cloned().unwrap_or_default(),
            ready,
            stopping,
            problem: waiting.or(unscheduled).filter(|_| !ready).map(str::to_owned),
        },
        replica_set: (owner.name.clone(), owner.uid.clone()),
        address: data.pointer("/status/podIP").and_then(Value::as_str).map(str::to_owned),
        scrape: annotations.into_iter().filter(|(key, _)| key.starts_with("prometheus.io/")).collect(),
    })
}

pub fn service(object: Seen<'_>) -> ServiceEntry {
    ServiceEntry {
        meta: Meta { last_writer: last_writer(object.metadata), ..meta(object.metadata, |key| key != LAST_APPLIED) },
        owner_uids: object.metadata.owner_references.iter().flatten().map(|o| o.uid.clone()).collect(),
        selector: strings(object.data, "/spec/selector"),
        spec: Packed::of(object.data.get("spec").unwrap_or(&Value::Null)),
    }
}

pub fn endpoint_slice(object: Seen<'_>) -> SliceEntry {
    let labels = object.metadata.labels.as_ref();
    let endpoints = list(object.data, "/endpoints").map(|endpoint| {
        let condition = |name: &str| endpoint.pointer("/conditions").and_then(|c| c.get(name)).and_then(Value::as_bool);
        let pod = endpoint.pointer("/targetRef/name").and_then(Value::as_str);
        let address = endpoint.pointer("/addresses/0").and_then(Value::as_str).unwrap_or_default();
        (pod.unwrap_or(address).to_owned(), condition("ready") != Some(false) && condition("terminating") != Some(true))
    });
    SliceEntry {
        service: labels.and_then(|l| l.get("kubernetes.io/service-name")).cloned().unwrap_or_default(),
        endpoints: endpoints.collect(),
    }
}

/// A route without its rules.
pub fn route(kind: RouteKind, object: Seen<'_>) -> RouteView {
    let meta = Meta { last_writer: last_writer(object.metadata), ..meta(object.metadata, ours) };
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    // The controller of a parent that the route has left may not have taken its report back.
    let has = |reported: &&Value| list(object.data, "/spec/parentRefs").any(|parent| names_same(parent, &reported["parentRef"], namespace));
    RouteView {
        kind,
        rules: vec![],
        parents: list(object.data, "/status/parents").filter(has).map(parent).collect(),
        records: records(&meta),
        meta,
    }
}

/// The rules of a route, as its spec has them.
pub fn rules(rules: &Value) -> Vec<RuleView> {
    let rule = |rule: &Value| {
        let parts = rule.as_object().into_iter().flatten();
        RuleView {
            name: text(rule, "name").map(str::to_owned),
            refs: list(rule, "/backendRefs").cloned().collect(),
            rest: parts.filter(|(key, _)| *key != "backendRefs").map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    };
    rules.as_array().into_iter().flatten().map(rule).collect()
}

/// Whether two references of a route in this namespace mean the same parent, whichever of their defaults are written.
fn names_same(one: &Value, other: &Value, namespace: &str) -> bool {
    let defaults =
        [("group", "gateway.networking.k8s.io"), ("kind", "Gateway"), ("namespace", namespace), ("name", ""), ("sectionName", "")];
    let same = |(key, default): (&str, &'_ str)| text(one, key).unwrap_or(default) == text(other, key).unwrap_or(default);
    defaults.into_iter().all(same) && one.get("port") == other.get("port")
}

fn parent(parent: &Value) -> ParentView {
    let report = |name: &str| {
        let condition = list(parent, "/conditions").find(|c| text(c, "type") == Some(name))?;
        Some(Report {
            status: text(condition, "status") == Some("True"),
            message: text(condition, "message").unwrap_or_default().to_owned(),
            observed_generation: condition.get("observedGeneration").and_then(Value::as_i64).unwrap_or(0),
        })
    };
    let named = |key: &str| parent.pointer("/parentRef").and_then(|parent| text(parent, key));
    let (kind, name) = (named("kind").unwrap_or("Gateway"), named("name").unwrap_or_default());
    let name = match named("sectionName").filter(|_| kind == "Gateway") {
        Some(listener) => format!("listener {listener} of {kind} {name}"),
        None => format!("{kind} {name}"),
    };
    ParentView { name, accepted: report("Accepted"), resolved: report("ResolvedRefs") }
}

/// An AnalysisRun. Of one that cannot be read, what it says of its Rollout.
pub fn analysis_run(object: Seen<'_>) -> Option<RunView> {
    let (spec, unreadable) = match spec::<AnalysisRunSpec>(object.data) {
        Ok(spec) => (spec, None),
        Err(why) => {
            let names = ["rollout", "canaryHash", "step", "terminate"];
            let (spec, _) = fields(object.data, &names, json!({"rollout": "", "canaryHash": "", "metrics": []}));
            (spec?, Some(why))
        }
    };
    let status: AnalysisRunStatus = status(object.data);
    Some(RunView { meta: meta(object.metadata, ours), spec, unreadable, status })
}

pub fn analysis_template(object: Seen<'_>) -> Result<AnalysisTemplateSpec, Invalid> {
    spec(object.data)
}

pub fn action(object: Seen<'_>) -> ActionEntry {
    ActionEntry {
        meta: meta(object.metadata, ours),
        created_at: created(object.metadata),
        rollout: object.data.pointer("/spec/rollout").and_then(Value::as_str).unwrap_or_default().to_owned(),
        spec: spec(object.data),
        status: status(object.data),
    }
}

/// The Deployment that an autoscaler scales, if it is one, and the autoscaler in words. A KEDA ScaledObject works through one that is
/// labelled with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoscalerEntry {
    pub deployment: String,
    pub words: String,
}

pub fn autoscaler(object: Seen<'_>) -> Option<AutoscalerEntry> {
    let target = object.data.pointer("/spec/scaleTargetRef")?;
    let deployment = text(target, "name").filter(|_| text(target, "kind") == Some("Deployment"))?.to_owned();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let scaled_object = object.metadata.labels.as_ref().and_then(|labels| labels.get("scaledobject.keda.sh/name"));
    let words = scaled_object.map_or_else(|| format!("HorizontalPodAutoscaler {name}"), |scaled| format!("ScaledObject {scaled}"));
    Some(AutoscalerEntry { deployment, words })
}

pub fn anchor(object: Seen<'_>) -> Meta {
    meta(object.metadata, ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_told_by_its_kind_which_is_gateway_where_none_is_written_and_by_its_listener() {
        let references = json!([
            {"name": "gw"}, {"name": "shared", "sectionName": "https"}, {"group": "", "kind": "Service", "name": "api", "sectionName": "http"},
        ]);
        let parents: Vec<Value> = references.as_array().unwrap().iter().map(|parent| json!({"parentRef": parent})).collect();
        let object = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "shop"},
            "spec": {"parentRefs": references}, "status": {"parents": parents}});
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let view = route(RouteKind::HttpRoute, Seen::from(&object));
        assert_eq!(
            view.parents.iter().map(|parent| parent.name.as_str()).collect::<Vec<_>>(),
            ["Gateway gw", "listener https of Gateway shared", "Service api"]
        );
    }

    #[test]
    fn references_mean_the_same_parent_whichever_defaults_are_written() {
        let full = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop", "name": "gw"});
        assert!(names_same(&json!({"name": "gw"}), &full, "shop"));
        assert!(!names_same(&json!({"name": "gw"}), &full, "elsewhere"));
        let others = [json!({"name": "other"}), json!({"name": "gw", "sectionName": "https"}), json!({"name": "gw", "port": 443})];
        assert!(others.iter().all(|other| !names_same(other, &full, "shop")));
    }
}
