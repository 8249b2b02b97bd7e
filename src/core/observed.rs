//! Everything that a decision may depend on, as plain values. `world` fills it; nothing here knows where a value came from.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::spec::Invalid;
use crate::api::{
    AnalysisRunSpec, AnalysisRunStatus, AnalysisTemplateSpec, RolloutActionSpec, RolloutSpec, RolloutStatus, action::RolloutActionStatus,
    analysis::TemplateRef, status::Propagation,
};

/// One Rollout and what belongs to it, at one moment.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The term of the leader that observes: it fences writes ([`crate::api::keys::EPOCH`]).
    pub epoch: u64,
    pub rollout: RolloutView,
    /// The Deployment that `workloadRef` names.
    pub workload: Option<WorkloadView>,
    /// What scales that Deployment by itself, such as `HorizontalPodAutoscaler api`.
    pub autoscalers: Vec<String>,
    /// The ControllerRevision that owns what Sluice makes or takes.
    pub anchor: Option<Meta>,
    /// Owned by the anchor or by the Deployment.
    pub replica_sets: Vec<ReplicaSetView>,
    /// Pods of these ReplicaSets, those that are stopping included.
    pub pods: Vec<PodView>,
    pub service: Option<ServiceView>,
    pub canary_service: Option<ServiceView>,
    /// The routes that the spec names and those that carry our record.
    pub routes: Vec<RouteView>,
    pub runs: Vec<RunView>,
    /// Those that the spec names, of both kinds, as far as they exist.
    pub analysis_templates: Templates,
    /// Actions without an outcome, oldest first.
    pub actions: Vec<ActionView>,
    /// Actions without an outcome that cannot be read.
    pub unreadable_actions: Vec<(Meta, Invalid)>,
    /// Actions that have an outcome, oldest first.
    pub done_actions: Vec<Meta>,
    /// The namespace is being deleted with everything in it.
    pub namespace_terminating: bool,
    /// Policies of the namespace that are attached to Services by name, if it was asked for them (see `policy::question`).
    pub policies: Option<Vec<Value>>,
    /// What the API server makes of the present template, if it was asked (see `revision::question`).
    pub dry_run: Option<DryRun>,
    /// Another Rollout, older than this one, that names the same Service or Deployment.
    pub rival: Option<Rival>,
}

/// What decisions need of an object's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: i64,
    pub deleting: bool,
    pub labels: BTreeMap<String, String>,
    /// Only those that Sluice writes or reads.
    pub annotations: BTreeMap<String, String>,
    /// Whether the object has any annotations at all: a JSON Patch must know.
    pub has_annotations: bool,
    /// Where in `managedFields` our own entries stand.
    pub managed_by_us: Vec<usize>,
    /// Who wrote `spec` last, ourselves aside, as far as `managedFields` tells.
    pub last_writer: Option<String>,
}

#[derive(Clone, Debug)]
pub struct RolloutView {
    pub namespace: String,
    pub meta: Meta,
    pub finalizers: Vec<String>,
    /// The policy with which it is deleted, as far as a finalizer has told. The garbage collector takes that away within milliseconds.
    pub propagation: Option<Propagation>,
    /// As far as it can be read.
    pub spec: RolloutSpec,
    pub unreadable: Option<Unreadable>,
    pub status: RolloutStatus,
}

/// A spec that this version of Sluice cannot read as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub why: Invalid,
    /// What it says of the workload and of the traffic can be read: enough to take a canary back, and to give everything back.
    pub essentials: bool,
}

/// Templates, or why one cannot be read.
pub type Templates = BTreeMap<TemplateRef, Result<AnalysisTemplateSpec, Invalid>>;

#[derive(Clone, Debug)]
pub struct WorkloadView {
    pub meta: Meta,
    pub replicas: i32,
    pub paused: bool,
    pub min_ready_seconds: i32,
    pub observed_generation: i64,
    pub selector: Value,
    pub template: Value,
    /// Whether Git sets `replicas`, as far as the managed fields tell.
    pub replicas_in_git: bool,
    /// When Helm 3 wrote it last, if that manages it: it records defaults as its own, so only a later write that leaves `replicas` alone
    /// tells that Git does not set it.
    pub helm_wrote_at: Option<jiff::Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Anchor,
    Workload,
    Nobody,
}

#[derive(Clone, Debug)]
pub struct ReplicaSetView {
    pub meta: Meta,
    pub owner: Owner,
    /// The Rollout is among its owners: the garbage collector takes that away where dependents are orphaned, or are to go first.
    pub names_rollout: bool,
    /// The value of its `pod-template-hash`: the name of the revision.
    pub hash: String,
    /// Digest of its template without `pod-template-hash` (see `revision::digest`).
    pub digest: String,
    pub images: Vec<String>,
    pub created_at: jiff::Timestamp,
    pub replicas: i32,
    pub status_replicas: i32,
    pub ready: i32,
    pub available: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    pub name: String,
    pub uid: String,
    pub created_at: jiff::Timestamp,
    pub hash: String,
    /// Its own Ready condition, and not stopping.
    pub ready: bool,
    pub stopping: bool,
    /// Why it is not ready, where Kubernetes says so (`CrashLoopBackOff`, `ImagePullBackOff`, ...).
    pub problem: Option<String>,
}

#[derive(Clone, Debug)]
pub struct ServiceView {
    pub meta: Meta,
    /// Made by us for this Rollout.
    pub ours: bool,
    /// The Rollout's anchor owns it.
    pub owned: bool,
    pub selector: BTreeMap<String, String>,
    /// `spec` as it stands: the canary Service is made after it.
    pub spec: Value,
    pub endpoints: Vec<EndpointView>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    pub pod: String,
    /// The pod's `pod-template-hash`, if it is a pod of one of our ReplicaSets.
    pub hash: Option<String>,
    pub ready: bool,
}

#[derive(Clone, Debug)]
pub struct RouteView {
    pub kind: crate::api::rollout::RouteKind,
    pub meta: Meta,
    pub rules: Vec<RuleView>,
    pub parents: Vec<ParentView>,
    /// What Rollouts keep on it, by their names.
    pub records: BTreeMap<String, super::route::Record>,
}

#[derive(Clone, Debug)]
pub struct RuleView {
    pub name: Option<String>,
    /// `backendRefs` as they stand.
    pub refs: Vec<Value>,
    /// All but `backendRefs`, as it stands: fields that we do not know, too.
    pub rest: Map<String, Value>,
}

impl RuleView {
    /// The rule as it stands.
    pub fn whole(&self) -> Value {
        let mut whole = self.rest.clone();
        whole.insert("backendRefs".to_owned(), Value::from(self.refs.clone()));
        Value::Object(whole)
    }
}

/// What one parent (a Gateway) reports about a route.
#[derive(Clone, Debug)]
pub struct ParentView {
    pub name: String,
    /// Condition Accepted: its status, message and observedGeneration; absent if the parent does not report it.
    pub accepted: Option<Report>,
    /// Condition ResolvedRefs, likewise.
    pub resolved: Option<Report>,
}

#[derive(Clone, Debug)]
pub struct Report {
    pub status: bool,
    pub message: String,
    pub observed_generation: i64,
}

#[derive(Clone, Debug)]
pub struct RunView {
    pub meta: Meta,
    /// As far as it can be read.
    pub spec: AnalysisRunSpec,
    pub unreadable: Option<Invalid>,
    pub status: AnalysisRunStatus,
}

#[derive(Clone, Debug)]
pub struct ActionView {
    pub meta: Meta,
    pub spec: RolloutActionSpec,
    pub status: RolloutActionStatus,
}

/// The API server's answer to a dry-run create of a ReplicaSet with the present template.
#[derive(Clone, Debug)]
pub enum DryRun {
    /// The template with the API server's defaults: its digest.
    Defaulted(String),
    /// It refuses the template, in these words.
    Refused(String),
}

impl Observed {
    pub fn replica_set(&self, hash: &str) -> Option<&ReplicaSetView> {
        self.revisions().find(|rs| rs.hash == hash)
    }

    /// The ReplicaSets that are revisions of this Rollout.
    pub fn revisions(&self) -> impl Iterator<Item = &ReplicaSetView> {
        self.replica_sets.iter().filter(|rs| rs.owner == Owner::Anchor)
    }

    /// Pods of a revision that can take requests.
    pub fn ready_pods<'a>(&'a self, hash: &'a str) -> impl Iterator<Item = &'a PodView> {
        self.pods.iter().filter(move |pod| pod.hash == hash && pod.ready)
    }
}

impl ServiceView {
    /// The one revision that the Service selects, if it is pinned to one.
    pub fn pinned(&self) -> Option<&str> {
        self.selector.get(crate::api::keys::POD_TEMPLATE_HASH).map(String::as_str)
    }

    pub fn ready_endpoints(&self) -> impl Iterator<Item = &EndpointView> {
        self.endpoints.iter().filter(|e| e.ready)
    }

    /// Every ready endpoint belongs to `hash`, and there are at least `at_least` of them.
    pub fn serves_only(&self, hash: &str, at_least: usize) -> bool {
        self.ready_endpoints().all(|e| e.hash.as_deref() == Some(hash)) && self.ready_endpoints().count() >= at_least
    }
}

/// An older Rollout that names the same workload or Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    pub rollout: String,
    /// The field that names what both want.
    pub field: &'static str,
    pub what: String,
}
