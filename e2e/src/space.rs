//! A namespace of a scenario's own, and what can be done to the objects in it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PropagationPolicy},
};
use serde_json::{Value, json};
use sluice::api::{Phase, Rollout, RolloutStatus, keys};

use crate::{
    cluster::is_ready,
    wait::{Seen, seconds, wait_for, when},
};

/// What Git applies with.
pub const GIT: &str = "git";

#[derive(Clone)]
pub struct Space {
    pub client: Client,
    pub name: String,
}

/// What matters of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    pub name: String,
    pub hash: String,
    pub ready: bool,
    pub restarts: i32,
    pub deleting: bool,
}

/// Kinds by the name that manifests use.
fn resource(kind: &str) -> ApiResource {
    let (group, version) = match kind {
        "Deployment" | "ReplicaSet" | "ControllerRevision" => ("apps", "v1"),
        "HTTPRoute" | "GRPCRoute" | "ReferenceGrant" | "BackendTLSPolicy" | "Gateway" => ("gateway.networking.k8s.io", "v1"),
        "XBackendTrafficPolicy" => ("gateway.networking.x-k8s.io", "v1alpha1"),
        "Rollout" | "AnalysisTemplate" | "AnalysisRun" | "RolloutAction" => (sluice::api::GROUP, sluice::api::VERSION),
        "Role" | "RoleBinding" => ("rbac.authorization.k8s.io", "v1"),
        "PodDisruptionBudget" => ("policy", "v1"),
        "HorizontalPodAutoscaler" => ("autoscaling", "v2"),
        "Event" => ("events.k8s.io", "v1"),
        "Kustomization" => ("kustomize.toolkit.fluxcd.io", "v1"),
        "ExternalArtifact" => ("source.toolkit.fluxcd.io", "v1"),
        "Application" => ("argoproj.io", "v1alpha1"),
        _ => ("", "v1"),
    };
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

impl Space {
    /// Makes the namespace. One that an earlier run has left goes first.
    pub async fn create(client: &Client, name: &str) -> Result<Self> {
        let space = Self { client: client.clone(), name: name.to_owned() };
        space.delete().await?;
        space.gone().await?;
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted", "sluice.dev/e2e": "true"});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        Api::<Namespace>::all(client.clone()).create(&kube::api::PostParams::default(), &serde_json::from_value(namespace)?).await?;
        Ok(space)
    }

    pub async fn delete(&self) -> Result<()> {
        match Api::<Namespace>::all(self.client.clone()).delete(&self.name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            other => other.map(drop).context("delete the namespace"),
        }
    }

    /// Waits until the namespace is gone: nothing of ours holds it back.
    pub async fn gone(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        wait_for(&format!("the namespace {} is gone", self.name), seconds(90), async || {
            let left = namespaces.get_opt(&self.name).await?;
            let conditions = left.as_ref().and_then(|n| n.status.as_ref()?.conditions.clone()).unwrap_or_default();
            let told = conditions.iter().filter(|c| c.status == "True").filter_map(|c| c.message.clone()).collect::<Vec<_>>().join("; ");
            Ok(when(left.is_none(), || told))
        })
        .await
    }

    pub fn api(&self, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.name, &resource(kind))
    }

    pub fn rollouts(&self) -> Api<Rollout> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Applies a manifest as Git tools do: server-side, without force, so that a conflict with what we left in managedFields is an error.
    pub async fn apply(&self, manifest: &Value) -> Result<()> {
        let kind = manifest["kind"].as_str().context("a manifest without a kind")?;
        let name = manifest["metadata"]["name"].as_str().context("a manifest without a name")?;
        let params = PatchParams::apply(GIT);
        self.api(kind).patch(name, &params, &Patch::Apply(manifest)).await.with_context(|| format!("apply {kind} {name}"))?;
        Ok(())
    }

    /// A merge patch, as a person does with `kubectl patch`.
    pub async fn patch(&self, kind: &str, name: &str, change: Value) -> Result<()> {
        let params = PatchParams { field_manager: Some("someone".into()), ..PatchParams::default() };
        self.api(kind).patch(name, &params, &Patch::Merge(change)).await.with_context(|| format!("patch {kind} {name}"))?;
        Ok(())
    }

    /// Scales through the scale subresource, as `kubectl scale` and autoscalers do.
    pub async fn scale(&self, kind: &str, name: &str, replicas: i32) -> Result<()> {
        let change = json!({"spec": {"replicas": replicas}});
        let params = PatchParams { field_manager: Some("someone".into()), ..PatchParams::default() };
        let scaled = self.api(kind).patch_scale(name, &params, &Patch::Merge(change)).await;
        scaled.with_context(|| format!("scale {kind} {name} to {replicas}")).map(drop)
    }

    pub async fn remove(&self, kind: &str, name: &str, propagation: PropagationPolicy) -> Result<()> {
        let params = DeleteParams { propagation_policy: Some(propagation), ..DeleteParams::default() };
        self.api(kind).delete(name, &params).await.with_context(|| format!("delete {kind} {name}"))?;
        let what = format!("{kind} {name} is gone");
        wait_for(&what, seconds(90), async || {
            let left = self.api(kind).get_opt(name).await?;
            Ok(when(left.is_none(), || left.map(|object| object.data["status"]["message"].to_string()).unwrap_or_default()))
        })
        .await
    }

    pub async fn get(&self, kind: &str, name: &str) -> Result<Value> {
        let object = self.api(kind).get(name).await.with_context(|| format!("get {kind} {name}"))?;
        Ok(serde_json::to_value(object)?)
    }

    /// What the user applied: all but what every write changes and what others report.
    pub async fn snapshot(&self, kind: &str, name: &str) -> Result<Value> {
        let mut object = self.get(kind, name).await?;
        for field in ["resourceVersion", "generation", "managedFields"] {
            object["metadata"].as_object_mut().context("metadata")?.remove(field);
        }
        object.as_object_mut().context("an object")?.remove("status");
        Ok(object)
    }

    /// Route and Service of this name, as the user applied them.
    pub async fn in_git(&self, name: &str) -> Result<[Value; 2]> {
        Ok([self.snapshot("HTTPRoute", name).await?, self.snapshot("Service", name).await?])
    }

    /// They are what they were before.
    pub async fn ensure_as_in_git(&self, name: &str, before: &[Value; 2]) -> Result<()> {
        for (before, after) in before.iter().zip(self.in_git(name).await?) {
            let differences = differences(before, &after);
            ensure!(differences.is_empty(), "{} is not what was applied:\n{differences}", after["kind"]);
        }
        Ok(())
    }

    pub async fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let list = self.api(kind).list(&ListParams::default()).await.with_context(|| format!("list {kind}"))?;
        list.items.iter().map(|object| Ok(serde_json::to_value(object)?)).collect()
    }

    /// The pods with this label, by uid.
    pub async fn pods(&self, selector: &str) -> Result<BTreeMap<String, PodFacts>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.name);
        let list = pods.list(&ListParams::default().labels(selector)).await?;
        let facts = |pod: &Pod| PodFacts {
            name: pod.name_any(),
            hash: pod.labels().get(keys::POD_TEMPLATE_HASH).cloned().unwrap_or_default(),
            ready: is_ready(pod),
            restarts: pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).map(|c| c.restart_count).sum(),
            deleting: pod.metadata.deletion_timestamp.is_some(),
        };
        Ok(list.items.iter().map(|pod| (pod.uid().unwrap_or_default(), facts(pod))).collect())
    }

    pub async fn status(&self, rollout: &str) -> Result<RolloutStatus> {
        Ok(self.rollouts().get(rollout).await?.status.unwrap_or_default())
    }

    /// Waits until the Rollout's status is as wanted. It must be about the present spec.
    pub async fn until(&self, rollout: &str, what: &str, limit: Duration, is_so: impl Fn(&RolloutStatus) -> bool) -> Result<RolloutStatus> {
        wait_for(&format!("{rollout}: {what}"), limit, async || {
            let object = self.rollouts().get(rollout).await?;
            let generation = object.metadata.generation;
            let status = object.status.unwrap_or_default();
            if Some(status.observed_generation) == generation && is_so(&status) {
                return Ok(Seen::Done(status));
            }
            Ok(Seen::NotYet(in_words(&status)))
        })
        .await
    }

    /// Waits until this version serves and everything is at rest; an abort on the way ends the wait.
    pub async fn until_healthy(&self, rollout: &str, image: &str, limit: Duration) -> Result<RolloutStatus> {
        let deployment = |object: &Rollout| object.spec.workload_ref.as_ref().map(|workload| workload.name.clone());
        wait_for(&format!("{rollout} is Healthy with {image}"), limit, async || {
            let object = self.rollouts().get(rollout).await?;
            let status = object.status.clone().unwrap_or_default();
            let current = match deployment(&object) {
                Some(name) => {
                    let deployment = self.get("Deployment", &name).await?;
                    status.workload_observed_generation == deployment["metadata"]["generation"].as_i64()
                }
                None => Some(status.observed_generation) == object.metadata.generation,
            };
            if current && status.phase == Some(Phase::Aborted) {
                bail!("it was taken back: {}", status.message);
            }
            let healthy = current && status.phase == Some(Phase::Healthy) && status.canary_revision == status.stable_revision;
            let serves = match &status.stable_revision {
                Some(hash) if healthy => self.images(hash).await?.iter().any(|found| found == image),
                _ => false,
            };
            Ok(if serves { Seen::Done(status) } else { Seen::NotYet(in_words(&status)) })
        })
        .await
    }

    /// The images of a revision.
    pub async fn images(&self, hash: &str) -> Result<Vec<String>> {
        let sets = self.list("ReplicaSet").await?;
        let of = |set: &&Value| set["spec"]["selector"]["matchLabels"][keys::POD_TEMPLATE_HASH] == hash;
        let containers = sets.iter().find(of).map(|set| set["spec"]["template"]["spec"]["containers"].clone()).unwrap_or_default();
        let images = containers.as_array().into_iter().flatten().filter_map(|container| container["image"].as_str());
        Ok(images.map(str::to_owned).collect())
    }
}

/// A status in one line.
pub fn in_words(status: &RolloutStatus) -> String {
    let weight = status.weights.as_ref().map(|w| format!(", canary {} % (observed {:?})", w.canary, w.observed)).unwrap_or_default();
    format!(
        "{} at step {}{weight}, stable {}, canary {}: {}",
        status.phase.map_or("no phase".to_owned(), |phase| phase.to_string()),
        status.step_label.as_deref().unwrap_or("-"),
        status.stable_revision.as_deref().unwrap_or("-"),
        status.canary_revision.as_deref().unwrap_or("-"),
        status.message
    )
}

/// The paths at which two objects differ, with both values; empty if they are equal.
pub fn differences(before: &Value, after: &Value) -> String {
    json_patch::diff(before, after).iter().map(|operation| format!("  {operation}\n")).collect()
}
