//! Labels, annotations and finalizers that Sluice writes. They are part of the API: tools may read them.

/// Finalizer on a Rollout: gives the workload, the Services and the routes back before the Rollout goes.
pub const FINALIZER: &str = "sluice.dev/give-back";

/// Label on everything that Sluice makes or takes over: the name of its Rollout.
pub const ROLLOUT: &str = "sluice.dev/rollout";

/// Annotation on the anchor, a Rollout's ControllerRevision: what it is there for.
pub const ABOUT: &str = "sluice.dev/about";

/// Kubernetes' own label that tells the pods of one revision from those of another.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// Annotation that fences leaders: the term of the leader that wrote last. Present only while a rollout runs.
pub const EPOCH: &str = "sluice.dev/epoch";

/// Annotation on a ReplicaSet: SHA-256 of the pod template as its author wrote it.
pub const TEMPLATE: &str = "sluice.dev/template";

/// Annotation on a ReplicaSet: it was promoted; the value is a number that rises with each promotion.
pub const STABLE: &str = "sluice.dev/stable";

/// Annotation on a ReplicaSet: the revision was rejected, and why.
pub const REJECTED: &str = "sluice.dev/rejected";

/// Annotation on a ReplicaSet: until when it keeps its pods after another revision took its place.
pub const SCALE_DOWN_AT: &str = "sluice.dev/scale-down-at";

/// Prefix of annotations on a route, one for each Rollout that splits it: the backends as their author wrote them.
pub const ROUTE_RECORD_PREFIX: &str = "routes.sluice.dev/";

/// Annotation on a Service that a rollout has pinned: what its selector was, and what carried our marks before.
pub const SERVICE_RECORD: &str = "sluice.dev/service-record";

/// Annotation on a canary Service that Sluice made: which policies of the Service of the stable role were copied for it, and which not.
pub const POLICIES: &str = "sluice.dev/policies";

/// Annotation on a Deployment that is taken over: its `replicas` and `paused` from before.
pub const WORKLOAD_RECORD: &str = "sluice.dev/workload-record";

/// Annotation on a ReplicaSet that was taken over: the metadata labels by which its Deployment would adopt it again.
pub const MOVED_LABELS: &str = "sluice.dev/moved-labels";

/// Flux's own annotation: while it stands on a live object, Flux leaves that object alone.
pub const FLUX_RECONCILE: &str = "kustomize.toolkit.fluxcd.io/reconcile";
/// Its value that switches Flux off for the object.
pub const FLUX_DISABLED: &str = "disabled";

/// Label that a Secret must carry (with the value `true`) before an analysis may send it anywhere.
pub const ANALYSIS_SECRET: &str = "sluice.dev/analysis";
