//! The `Rollout`: a workload and how a new version of it goes live.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::{CustomResource, KubeSchema, core::Rule};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{
    analysis::{Argument, Metric, TemplateRef},
    quantity::Span,
    status::RolloutStatus,
};

/// A workload and how a new version of it goes live: step by step, judged at each step, promoted or taken back by itself.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "Rollout",
    plural = "rollouts",
    shortname = "slr",
    category = "sluice",
    namespaced,
    derive = "PartialEq",
    doc = "Rollout is a workload and how a new version of it goes live: step by step, judged at each step, promoted or taken back by itself.",
    status = "RolloutStatus",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.stepLabel"),
    printcolumn(name = "Weight", type_ = "number", json_path = ".status.weights.canary", description = "Share of the traffic that the canary gets, in percent"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Stable", type_ = "string", json_path = ".status.stableRevision", priority = "1"),
    printcolumn(name = "Canary", type_ = "string", json_path = ".status.canaryRevision", priority = "1"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = "1"),
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must have at most 52 characters, because the names of its pods and Services are made from it: choose a shorter name")
)]
#[x_kube(
    validation = Rule::new("has(self.template) != has(self.workloadRef)").message("set exactly one of spec.workloadRef (an existing Deployment) and spec.template (with spec.selector)"),
    validation = Rule::new("has(self.template) == has(self.selector)").message("spec.selector belongs to spec.template: set both, or neither with spec.workloadRef"),
    validation = Rule::new("has(self.workloadRef) == has(oldSelf.workloadRef)").message("spec.workloadRef and spec.template cannot be exchanged: delete this Rollout (it gives its workload back) and create a new one"),
    validation = Rule::new("has(self.traffic) == has(oldSelf.traffic)").message("spec.traffic cannot be added or taken away: delete this Rollout (it gives everything back) and create a new one"),
    validation = Rule::new("has(self.selector) == has(oldSelf.selector) && (!has(self.selector) || self.selector == oldSelf.selector)").message("spec.selector is immutable: delete this Rollout and create a new one")
)]
#[serde(rename_all = "camelCase")]
pub struct RolloutSpec {
    /// Number of pods that serve. Left out: what the Deployment had when it was taken over (or 1); from then on it is set
    /// through the scale subresource, so that a HorizontalPodAutoscaler may target this Rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub replicas: Option<i32>,

    /// The Deployment whose pod template is rolled out. It is taken over without restarting a pod, and given back when this Rollout
    /// is deleted. Exactly one of `workloadRef` and `template` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("spec.workloadRef is immutable: delete this Rollout (it gives its workload back) and create a new one"))]
    pub workload_ref: Option<WorkloadRef>,

    /// Label selector for the pods of `template`. Must match the template's labels. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("(has(self.matchLabels) && self.matchLabels.size() > 0) || (has(self.matchExpressions) && self.matchExpressions.size() > 0)").message("spec.selector must name at least one label of the template, such as matchLabels: {app: api}"))]
    pub selector: Option<LabelSelector>,

    /// The pod template, as in a Deployment. Exactly one of `workloadRef` and `template` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "open_object")]
    pub template: Option<serde_json::Value>,

    /// Seconds that a new pod must be ready, without any of its containers crashing, to count as available. Default: as the Deployment has it;
    /// with `template` 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub min_ready_seconds: Option<i32>,

    /// Seconds that a rollout may wait for pods, endpoints or routes before it is aborted. Pauses and analysis do not count.
    /// Default 600.
    #[serde(default = "default_progress_deadline")]
    #[schemars(range(min = 1, max = 86_400))]
    pub progress_deadline_seconds: i32,

    /// Number of old revisions whose ReplicaSets are kept (at 0 replicas). Default 10.
    #[serde(default = "default_history_limit")]
    #[schemars(range(min = 0, max = 100))]
    pub revision_history_limit: i32,

    /// Holds the rollout at the step it is at until this is false again. An abort still works. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,

    /// Pods of the version that serves which are older than this are restarted, one after the other, while no rollout is running; a
    /// PodDisruptionBudget is respected. A time in RFC 3339, such as `2026-01-31T12:00:00Z`; one in the future is waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_at: Option<Time>,

    /// The Services and routes through which the weights take effect. Left out: the canary's share is that of its pods alone, as far
    /// as the Service in front of both versions spreads requests evenly; stable keeps all its pods, so that share is at most half until
    /// the promotion.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.service == oldSelf.service && has(self.canaryService) == has(oldSelf.canaryService) && (!has(self.canaryService) || self.canaryService == oldSelf.canaryService)").message("spec.traffic.service and canaryService are immutable: delete this Rollout (it gives everything back) and create a new one"))]
    pub traffic: Option<Traffic>,

    /// How a new version goes live. Exactly one strategy is set.
    pub strategy: Strategy,
}

/// The workload that a Rollout takes over.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadRef {
    /// Kind of the workload: `Deployment`.
    pub kind: WorkloadKind,
    /// Name of the workload, in the Rollout's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkloadKind {
    Deployment,
}

/// The Services and routes through which weights take effect.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.canaryService) || self.canaryService != self.service").message("canaryService must be another Service than service: leave it out for the default (<service>-canary)"),
    validation = Rule::new("has(self.canaryService) || self.service.size() <= 56").message("the canary Service would be called <service>-canary, which is longer than the 63 characters that a Service's name may have: set canaryService to a shorter name")
)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// The application's Service as it stands in Git. It is always the stable role.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = service_name())]
    pub service: String,

    /// The Service of the canary role. Default `<service>-canary`: used as it stands if it exists, else made while a rollout runs
    /// and removed after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = service_name())]
    pub canary_service: Option<String>,

    /// The routes whose weights are moved: every rule that points at `service` is split. At least one, at most 16.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into(), "name".into()]))]
    pub routes: Vec<RouteRef>,

    /// Seconds after a backend has got weight 0 (observed) until its pods may stop or its Service may change. Requests in flight and
    /// keep-alive connections end in this time. Default 30.
    #[serde(default = "default_drain")]
    #[schemars(range(min = 0, max = 3600))]
    pub drain_seconds: i32,

    /// Seconds between the moment a change of a route or Service is observed and the next change: the time that the gateway needs to
    /// act on it. Default 2.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 0, max = 300))]
    pub step_grace_seconds: i32,
}

impl Traffic {
    /// The name of the Service of the canary role.
    pub fn canary_service(&self) -> String {
        self.canary_service.clone().unwrap_or_else(|| format!("{}-canary", self.service))
    }
}

/// A route whose weights are moved.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRef {
    /// Kind of the route: `HTTPRoute`, `GRPCRoute`, `TLSRoute` or `TCPRoute`.
    pub kind: RouteKind,
    /// Name of the route, in the Rollout's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Only the rules with these names are split. Left out: every rule that points at the Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub rule_names: Vec<String>,
}

#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RouteKind {
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    #[serde(rename = "TLSRoute")]
    TlsRoute,
    #[serde(rename = "TCPRoute")]
    TcpRoute,
}

impl RouteKind {
    pub const ALL: [Self; 4] = [Self::HttpRoute, Self::GrpcRoute, Self::TlsRoute, Self::TcpRoute];
}

impl std::fmt::Display for RouteKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
        })
    }
}

/// How a new version goes live.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.canary)").message("set spec.strategy.canary"))]
#[serde(rename_all = "camelCase")]
pub struct Strategy {
    /// Traffic moves to the new version step by step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// Traffic moves to the new version step by step. After the last step the new version gets all of it and is promoted.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// The steps, done one after the other. At most 64. An empty list: all traffic at once, as soon as the new version is ready.
    #[schemars(length(max = 64))]
    pub steps: Vec<Step>,

    /// Seconds that the old version keeps its pods after a promotion, for a quick way back (`kubectl sluice undo`). The Rollout is
    /// Ready meanwhile. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 604_800))]
    pub scale_down_delay_seconds: i32,

    /// Analysis that runs in the background from `startingStep` until the rollout ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub analysis: Option<BackgroundAnalysis>,
}

/// One step; exactly one of its fields is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("[has(self.setWeight), has(self.pause), has(self.setCanaryScale), has(self.analysis), has(self.setHeaderRoute), has(self.setMirrorRoute)].filter(x, x).size() == 1").message("a step has exactly one of setWeight, setCanaryScale, setHeaderRoute, setMirrorRoute, pause and analysis: give each a list item of its own"))]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Share of the traffic for the new version, in percent: 0 to 100, with at most 3 decimals (0.5).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub set_weight: Option<f64>,

    /// Number of the new version's pods from here on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_canary_scale: Option<CanaryScale>,

    /// Sends requests with certain headers to the new version from here on, whatever its weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_header_route: Option<HeaderRoute>,

    /// Sends copies of certain requests to the new version from here on, and drops its answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_mirror_route: Option<MirrorRoute>,

    /// Waits for a time, or until someone resumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,

    /// Analysis that must pass before the next step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub analysis: Option<StepAnalysis>,
}

/// Number of the new version's pods; exactly one of its fields is set. It never has fewer than its share of the traffic needs.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("[has(self.replicas), has(self.percent), has(self.matchTrafficWeight)].filter(x, x).size() == 1").message("setCanaryScale has exactly one of replicas, percent and matchTrafficWeight"))]
#[serde(rename_all = "camelCase")]
pub struct CanaryScale {
    /// So many pods, or what the share of the traffic needs, if that is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub replicas: Option<i32>,
    /// So many percent of `spec.replicas`, rounded up, or what the share of the traffic needs, if that is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
    /// `true`: what the share of the traffic needs, as before any setCanaryScale.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self").message("matchTrafficWeight can only be true: to have another number of pods set replicas or percent instead"))]
    pub match_traffic_weight: Option<bool>,
}

/// Sends requests with certain headers to the new version. It holds until the last step is done, or until a step with the same name and
/// no `match` ends it. HTTPRoutes and GRPCRoutes can tell requests by headers, others cannot.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderRoute {
    /// Name by which a later step replaces or ends it.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Headers that a request must have, all of them. Left out: ends the header route of this name. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub r#match: Vec<HeaderMatch>,
}

/// A header and what its value must be.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// Name of the header; small and capital letters are the same.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^[-A-Za-z0-9_.!#$%&*+^|~]+$')").message("the name of a header has letters, digits and '-', without blanks: X-Canary"))]
    pub header_name: String,
    pub header_value: StringMatch,
}

/// What a text must be; exactly one of its fields is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("[has(self.exact), has(self.prefix), has(self.regex)].filter(x, x).size() == 1").message("set exactly one of exact, prefix and regex"))]
#[serde(rename_all = "camelCase")]
pub struct StringMatch {
    /// Just this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub exact: Option<String>,
    /// Begins with this. (Of a path: whole parts of it; of a header: written as a regular expression.)
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub prefix: Option<String>,
    /// A regular expression, in the dialect of the gateway, which must know them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub regex: Option<String>,
}

/// Sends copies of certain requests to the new version, and drops its answers. It holds until the last step is done, or until a step with
/// the same name and no `match`, or with `percentage` 0, ends it. For HTTPRoutes.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorRoute {
    /// Name by which a later step replaces or ends it.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Requests that are copied: those that fit any of these. Left out: ends the mirror route of this name. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub r#match: Vec<RequestMatch>,
    /// How many percent of them are copied. Default 100; less needs a gateway that can mirror a part: Contour 1.33 accepts it and
    /// copies all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percentage: Option<i32>,
}

/// What a request must be; all that is set must fit.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.method) || has(self.method.exact)").message("a method can only be exact, because the Gateway API knows nothing else: write one match for each method"),
    validation = Rule::new("!has(self.path) || [has(self.path.exact), has(self.path.prefix)].all(x, !x) || (has(self.path.exact) ? self.path.exact : self.path.prefix).startsWith('/')").message("a path begins with '/'"),
    validation = Rule::new("has(self.method) || has(self.path) || has(self.headers)").message("a match sets at least one of method, path and headers: for all requests write path: {prefix: /}")
)]
#[serde(rename_all = "camelCase")]
pub struct RequestMatch {
    /// The method, such as `exact: GET`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<StringMatch>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<StringMatch>,
    /// Headers by name, all of them. At most 8.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    pub headers: BTreeMap<String, StringMatch>,
}

/// Waits for a time, for a proof, or until someone resumes.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!(has(self.duration) && has(self.prove))").message("a pause waits for a duration or for a proof: set one of duration and prove (its maxDuration ends it, too)"))]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// How long to wait: `30s`, `5m`, `1h30m`. Left out: until someone resumes (`kubectl sluice promote`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
    /// Ends as soon as the background analysis has proven that the canary is no worse than stable, by each of its metrics that compare failures
    /// (`compare`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prove: Option<Proof>,
}

/// What is to be proven of the canary, and how long it may take.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// The canary fails less than so many times as often as stable. It is as good as proven at odds of 1 in 20 (or what `maxFalseAborts` of the
    /// metric says) against the contrary. Default 2. At 1.5 it takes about twice as long.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub at_most: Option<f64>,
    /// Without a proof by then the rollout is held for a person, as after an inconclusive analysis: `10m`.
    pub max_duration: Span,
}

/// Analysis as a step.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("(has(self.templates) && self.templates.size() > 0) || (has(self.metrics) && self.metrics.size() > 0)").message("an analysis needs templates or metrics"))]
#[serde(rename_all = "camelCase")]
pub struct StepAnalysis {
    /// AnalysisTemplates and ClusterAnalysisTemplates whose metrics are measured. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into(), "name".into()]))]
    pub templates: Vec<TemplateRef>,
    /// Values for the arguments of the templates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub args: Vec<Argument>,
    /// Metrics that are measured, written here. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub metrics: Vec<Metric>,
}

/// Analysis in the background.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("(has(self.templates) && self.templates.size() > 0) || (has(self.metrics) && self.metrics.size() > 0)").message("an analysis needs templates or metrics"))]
#[serde(rename_all = "camelCase")]
pub struct BackgroundAnalysis {
    /// Index (from 0) of the step at which the analysis starts. Default: the first setWeight above 0; without
    /// any, the first setHeaderRoute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 63))]
    pub starting_step: Option<i32>,
    #[serde(flatten)]
    pub analysis: StepAnalysis,
}

impl RolloutSpec {
    /// The templates that its analyses use.
    pub fn templates(&self) -> impl Iterator<Item = &TemplateRef> {
        let canary = self.strategy.canary.iter();
        canary.flat_map(|canary| {
            let steps = canary.steps.iter().filter_map(|step| step.analysis.as_ref());
            steps.chain(canary.analysis.iter().map(|background| &background.analysis)).flat_map(|analysis| &analysis.templates)
        })
    }
}

fn service_name() -> Rule {
    Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("no Service can have this name: write small letters, digits and '-', as in metadata.name of the Service")
}

fn default_progress_deadline() -> i32 {
    600
}

fn default_history_limit() -> i32 {
    10
}

fn default_drain() -> i32 {
    30
}

fn default_grace() -> i32 {
    2
}

/// An object of any shape: the API server keeps all its fields, and judges it where it is used.
fn open_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
