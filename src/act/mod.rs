//! The only place that writes. It decides nothing: a plan's actions are carried out one after the other, each fenced by the lease
//! (checked here before each write) and by the epoch (tested in the write itself), then the status, if it has changed.

use std::{sync::Arc, time::Duration};

use gateway_api::backendtlspolicies::BackendTlsPolicy;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, EvictParams, GroupVersionKind, ListParams, Patch, PatchParams, PostParams, Preconditions,
        TypeMeta,
    },
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{
    core::{
        observed::{DryRun, Meta},
        patch::{Action, Kind, MANAGER, Write},
    },
    lease::Claim,
    world::{Watched, World},
};

/// Time for one request.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error("another replica leads")]
    NotLeader,
    /// What the write was computed from has changed: look again.
    #[error("{what}: it has changed meanwhile")]
    Stale { what: String },
    #[error("{what}: refused by the API server: {message}")]
    Refused { what: String, message: String },
    /// A pod's PodDisruptionBudgets do not allow its eviction now.
    #[error("{what}: its PodDisruptionBudgets do not allow it yet")]
    NotYet { what: String },
    #[error("{what}: no answer in {} s", TIMEOUT.as_secs())]
    TimedOut { what: String },
    #[error("{what}: {source}")]
    Request { what: String, source: Box<kube::Error> },
}

impl ActError {
    /// The variant, as a metric's label.
    pub fn class(&self) -> &'static str {
        match self {
            Self::NotLeader => "not_leader",
            Self::Stale { .. } => "stale",
            Self::Refused { .. } => "refused",
            Self::NotYet { .. } => "not_yet",
            Self::TimedOut { .. } => "timed_out",
            Self::Request { .. } => "request",
        }
    }
}

impl Kind {
    /// The kind among those that are watched, if it is.
    pub(crate) fn watched(self) -> Option<Watched> {
        Some(match self {
            Self::Rollout => Watched::Rollout,
            Self::RolloutAction => Watched::RolloutAction,
            Self::AnalysisRun => Watched::AnalysisRun,
            Self::Deployment => Watched::Deployment,
            Self::ReplicaSet => Watched::ReplicaSet,
            Self::ControllerRevision => Watched::ControllerRevision,
            Self::Service => Watched::Service,
            Self::Route(kind) => Watched::of_route(kind),
            Self::BackendTlsPolicy => return None,
        })
    }

    pub(crate) fn resource(self) -> ApiResource {
        self.watched().map_or_else(|| ApiResource::erase::<BackendTlsPolicy>(&()), Watched::resource)
    }
}

/// Requests that are in flight at the same time, by what waits for them, so that where hundreds of rollouts begin at once what is urgent is
/// not held up by what is not. Writes to routes wait for nothing: they move traffic.
struct Lanes {
    /// What brings pods: questions about templates, pins, ReplicaSets.
    pods: Semaphore,
    /// New Services. Kubernetes makes about six a second, however many it is asked for at once.
    services: Semaphore,
    other: Semaphore,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { pods: Semaphore::new(32), services: Semaphore::new(8), other: Semaphore::new(16) }
    }
}

impl Lanes {
    fn of(&self, write: &Write) -> Option<&Semaphore> {
        match write {
            Write::Patch { kind: Kind::Route(_), .. } => None,
            Write::Create { kind: Kind::Service, .. } => Some(&self.services),
            Write::Create { kind: Kind::ReplicaSet, .. } | Write::Patch { kind: Kind::ReplicaSet | Kind::Service, .. } => Some(&self.pods),
            _ => Some(&self.other),
        }
    }
}

#[derive(Clone)]
pub struct Actor {
    client: Client,
    world: World,
    claim: Claim,
    lanes: Arc<Lanes>,
}

impl Actor {
    pub fn new(client: Client, world: World, claim: Claim) -> Self {
        Self { client, world, claim, lanes: Arc::default() }
    }

    fn api(&self, namespace: &str, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &kind.resource())
    }

    /// One request, when its lane has room, within its time, and only while we lead: it is given up before another one may lead. (One that
    /// has reached the API server may take effect all the same: the epoch in it says of which leader it is.)
    async fn send<T>(&self, lane: Option<&Semaphore>, what: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T, ActError> {
        let _place = match lane {
            Some(lane) => lane.acquire().await.ok(),
            None => None,
        };
        let time = self.claim.remaining().min(TIMEOUT);
        if time.is_zero() {
            return Err(ActError::NotLeader);
        }
        let what = || what.to_owned();
        match tokio::time::timeout(time, request).await {
            Err(_) if !self.claim.holds() => Err(ActError::NotLeader),
            Err(_) => Err(ActError::TimedOut { what: what() }),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => Err(match status.code {
                404 | 409 => ActError::Stale { what: what() },
                // A JSON Patch whose test failed.
                422 if status.reason != "Invalid" || is_failed_test(&status.message) => ActError::Stale { what: what() },
                400 | 403 | 405 | 413 | 422 => ActError::Refused { what: what(), message: status.message.clone() },
                _ => ActError::Request { what: what(), source: Box::new(kube::Error::Api(status)) },
            }),
            Ok(Err(error)) => Err(ActError::Request { what: what(), source: Box::new(error) }),
        }
    }

    /// Carries one action out; what comes back is known to the world at once.
    pub async fn carry_out(&self, namespace: &str, action: &Action) -> Result<(), ActError> {
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let what = action.what.as_str();
        let lane = self.lanes.of(&action.write);
        match &action.write {
            Write::Create { kind, body } => {
                let object: DynamicObject = serde_json::from_value(body.clone())
                    .map_err(|e| ActError::Refused { what: what.to_owned(), message: e.to_string() })?;
                let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
                match self.send(lane, what, self.api(namespace, *kind).create(&params, &object)).await {
                    Ok(made) => self.known(*kind, &made),
                    // It exists: an earlier create took effect, and the watch will bring it.
                    Err(ActError::Stale { .. }) => return Err(ActError::Stale { what: what.to_owned() }),
                    Err(error) => return Err(error),
                }
            }
            Write::Patch { kind, name, subresource, ops } => {
                let patch: Patch<Value> = json_patch(ops, what)?;
                let api = self.api(namespace, *kind);
                let patched = match subresource {
                    Some(subresource) => self.send(lane, what, api.patch_subresource(subresource, name, &params, &patch)).await?,
                    None => self.send(lane, what, api.patch(name, &params, &patch)).await?,
                };
                self.known(*kind, &patched);
            }
            Write::Evict { name, uid } => {
                let only = Preconditions { uid: Some(uid.clone()), resource_version: None };
                let delete_options = Some(DeleteParams { preconditions: Some(only), ..DeleteParams::default() });
                let params = EvictParams { delete_options, ..EvictParams::default() };
                let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
                match self.send(lane, what, api.evict(name, &params)).await {
                    Err(ActError::Request { source, .. }) if is_too_many(&source) => Err(ActError::NotYet { what: what.to_owned() })?,
                    other => other.map(drop)?,
                }
            }
            Write::Scale { kind, name, replicas } => {
                let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
                self.send(lane, what, self.api(namespace, *kind).patch_scale(name, &params, &patch)).await?;
            }
            Write::Delete { kind, name, uid, resource_version } => {
                let only = Preconditions { uid: Some(uid.clone()), resource_version: Some(resource_version.clone()) };
                let params = DeleteParams { preconditions: Some(only), ..DeleteParams::background() };
                match self.send(lane, what, self.api(namespace, *kind).delete(name, &params)).await {
                    Ok(_) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        tracing::debug!(namespace, action = what, "done");
        Ok(())
    }

    /// Writes a status, if nothing about its object has changed since it was looked at.
    pub async fn write_status(&self, namespace: &str, kind: Kind, meta: &Meta, status: &Value) -> Result<(), ActError> {
        let what = format!("write the status of {kind} {}", meta.name);
        let ops = [
            json!({"op": "test", "path": "/metadata/uid", "value": meta.uid}),
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version}),
            json!({"op": "add", "path": "/status", "value": status}),
        ];
        let patch: Patch<Value> = json_patch(&ops, &what)?;
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patched = self
            .send(Some(&self.lanes.other), &what, self.api(namespace, kind).patch_subresource("status", &meta.name, &params, &patch))
            .await?;
        self.known(kind, &patched);
        Ok(())
    }

    fn known(&self, kind: Kind, object: &DynamicObject) {
        if let Some(watched) = kind.watched() {
            self.world.written(watched, object);
        }
    }

    /// The policies of a namespace that may be attached to Services by name. A kind that the cluster does not have, has none.
    pub async fn policies(&self, namespace: &str) -> Result<Vec<Value>, ActError> {
        let mut found = vec![];
        for resource in policy_kinds() {
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
            let what = format!("list {}", resource.plural);
            let list = match self.send(Some(&self.lanes.other), &what, api.list(&ListParams::default())).await {
                Ok(list) => list,
                Err(ActError::Stale { .. }) => continue, // 404
                Err(ActError::Refused { message, .. }) => {
                    tracing::warn!(namespace, kind = resource.kind, message, "policies of this kind are not looked at");
                    continue;
                }
                Err(error) => return Err(error),
            };
            for mut policy in list.items {
                policy.types = Some(TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() });
                found.push(serde_json::to_value(&policy).unwrap_or_default());
            }
        }
        Ok(found)
    }

    /// Asks the API server what it makes of a ReplicaSet, without making one.
    pub async fn dry_run(&self, namespace: &str, body: &Value) -> Result<DryRun, ActError> {
        let what = "ask the API server about the new template";
        let refused = |message: String| ActError::Refused { what: what.to_owned(), message };
        let object: DynamicObject = serde_json::from_value(body.clone()).map_err(|e| refused(e.to_string()))?;
        let params = PostParams { dry_run: true, field_manager: Some(MANAGER.to_owned()) };
        match self.send(Some(&self.lanes.pods), what, self.api(namespace, Kind::ReplicaSet).create(&params, &object)).await {
            Ok(made) => Ok(DryRun::Defaulted(crate::core::revision::digest(made.data.pointer("/spec/template").unwrap_or(&Value::Null)))),
            Err(ActError::Refused { message, .. }) => Ok(DryRun::Refused(message)),
            Err(error) => Err(error),
        }
    }
}

/// Kinds of policies that are attached to Services by name.
pub fn policy_kinds() -> Vec<ApiResource> {
    let others = [
        ("gateway.networking.x-k8s.io", "v1alpha1", "XBackendTrafficPolicy", "xbackendtrafficpolicies"),
        ("networking.gke.io", "v1", "GCPBackendPolicy", "gcpbackendpolicies"),
        ("networking.gke.io", "v1", "HealthCheckPolicy", "healthcheckpolicies"),
        ("networking.istio.io", "v1", "DestinationRule", "destinationrules"),
        ("gateway.nginx.org", "v1alpha1", "UpstreamSettingsPolicy", "upstreamsettingspolicies"),
        ("application-networking.k8s.aws", "v1alpha1", "TargetGroupPolicy", "targetgrouppolicies"),
    ];
    let others = others
        .map(|(group, version, kind, plural)| ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural));
    std::iter::once(Kind::BackendTlsPolicy.resource()).chain(others).collect()
}

fn is_too_many(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 429)
}

fn is_failed_test(message: &str) -> bool {
    message.contains("test operation") || message.contains("testing") || message.contains("the server rejected our request")
}

fn json_patch(ops: &[Value], what: &str) -> Result<Patch<Value>, ActError> {
    let patch = serde_json::from_value(Value::from(ops.to_vec()))
        .map_err(|e| ActError::Refused { what: what.to_owned(), message: e.to_string() })?;
    Ok(Patch::Json(patch))
}
