//! Who keeps an object as it is in Git: whoever changes it on the cluster should know.

use kube::core::ObjectMeta;

/// The tool that keeps this object as it is in Git, and what it calls the place that the object comes from.
pub fn keeper(meta: &ObjectMeta) -> Option<String> {
    let label = |key: &str| meta.labels.as_ref()?.get(key).cloned();
    let annotation = |key: &str| meta.annotations.as_ref()?.get(key).cloned();
    let flux = |kind: &str, group: &str| label(&format!("{group}/name")).map(|name| format!("Flux ({kind} {name})"));
    // The label app.kubernetes.io/instance, by which an old Argo CD tracks, is everybody's: it proves nothing.
    let tracked = annotation("argocd.argoproj.io/tracking-id").and_then(|id| Some(id.split(':').next()?.to_owned()));
    let argo = tracked.or_else(|| label("argocd.argoproj.io/instance")).map(|app| format!("Argo CD (Application {app})"));
    let helm = || annotation("meta.helm.sh/release-name").map(|release| format!("Helm (release {release})"));
    argo.or_else(|| flux("Kustomization", "kustomize.toolkit.fluxcd.io"))
        .or_else(|| flux("HelmRelease", "helm.toolkit.fluxcd.io"))
        .or_else(helm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tools_are_known_by_their_marks() {
        for (meta, expected) in [
            (
                json!({"annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/api"}}),
                Some("Argo CD (Application shop)"),
            ),
            (json!({"labels": {"argocd.argoproj.io/instance": "shop"}}), Some("Argo CD (Application shop)")),
            (
                json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}}),
                Some("Flux (Kustomization apps)"),
            ),
            (
                json!({"labels": {"helm.toolkit.fluxcd.io/name": "api"}, "annotations": {"meta.helm.sh/release-name": "api"}}),
                Some("Flux (HelmRelease api)"),
            ),
            (json!({"annotations": {"meta.helm.sh/release-name": "api"}}), Some("Helm (release api)")),
            (json!({"labels": {"app.kubernetes.io/instance": "shop"}}), None),
            (json!({}), None),
        ] {
            let meta: ObjectMeta = serde_json::from_value(meta).unwrap();
            assert_eq!(keeper(&meta).as_deref(), expected);
        }
    }
}
