//! What stands around a Deployment: Services, routes, autoscalers, and the revision that serves.

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    autoscaling::v2::HorizontalPodAutoscaler,
};
use kube::{ResourceExt, api::ListParams};
use serde_json::Value;

use super::{session::Session, view::hash_of};

/// Whether a backend of a route is this Service of the route's own namespace.
pub fn points_at(backend: &Value, namespace: &str, service: &str) -> bool {
    let text = |key: &str| backend[key].as_str();
    text("name") == Some(service)
        && text("kind").unwrap_or("Service") == "Service"
        && text("group").unwrap_or_default().is_empty()
        && text("namespace").is_none_or(|at| at == namespace)
}

/// Autoscalers that scale the Deployment.
pub async fn autoscalers(session: &Session, deployment: &str) -> Result<Vec<String>, kube::Error> {
    let found = session.api::<HorizontalPodAutoscaler>().list(&ListParams::default()).await?;
    let targets = |scaler: &&HorizontalPodAutoscaler| {
        let target = &scaler.spec.scale_target_ref;
        target.kind == "Deployment" && target.name == deployment
    };
    Ok(found.items.iter().filter(targets).map(ResourceExt::name_any).collect())
}

/// How an autoscaler is told of the Rollout.
pub fn retarget(rollout: &str) -> String {
    format!("let its scaleTargetRef be {{apiVersion: sluice.dev/v1alpha1, kind: Rollout, name: {rollout}}}")
}

/// The revision of a Deployment that serves: that of its ReplicaSet with pods, if there is just one.
pub async fn serving(session: &Session, deployment: &Deployment) -> Option<String> {
    let found = session.api::<ReplicaSet>().list(&ListParams::default()).await.ok()?;
    let owned = |set: &&ReplicaSet| set.owner_references().iter().any(|owner| Some(&owner.uid) == deployment.metadata.uid.as_ref());
    let with_pods = |set: &&ReplicaSet| set.status.as_ref().is_some_and(|status| status.ready_replicas.unwrap_or(0) > 0);
    let mut serving = found.items.iter().filter(owned).filter(with_pods);
    serving.next().filter(|_| serving.next().is_none()).map(hash_of)
}
