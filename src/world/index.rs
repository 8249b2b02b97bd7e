//! What is known of the cluster, by namespace and name, and which Rollouts an object concerns.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::{
    Watched,
    packed::Packed,
    project::{self, ActionEntry, AutoscalerEntry, PodEntry, ReplicaSetEntry, RolloutEntry, Seen, ServiceEntry, SliceEntry},
};
use crate::{
    api::{
        AnalysisTemplateSpec,
        analysis::{TemplateKind, TemplateRef},
        keys,
        rollout::{RouteKind, Traffic},
    },
    core::{
        observed::{
            ActionView, EndpointView, Meta, Observed, Owner, ReplicaSetView, Rival, RolloutView, RouteView, RunView, ServiceView,
            WorkloadView,
        },
        spec::Invalid,
    },
};

/// Something to look at again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Rollout { namespace: String, name: String },
    Run { namespace: String, name: String },
}

/// Objects by namespace and name; in boxes, because the nodes of a map have room for more than they hold.
#[derive(Clone, Debug)]
struct Table<T>(HashMap<String, BTreeMap<String, Box<T>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Table<T> {
    fn get(&self, namespace: &str, name: &str) -> Option<&T> {
        self.0.get(namespace)?.get(name).map(Box::as_ref)
    }

    fn all<'a>(&'a self, namespace: &str) -> impl Iterator<Item = (&'a String, &'a T)> + use<'a, T> {
        self.0.get(namespace).into_iter().flatten().map(|(name, value)| (name, value.as_ref()))
    }

    /// All of them, with namespace and name.
    fn iter(&self) -> impl Iterator<Item = (&String, &String, &T)> {
        self.0.iter().flat_map(|(namespace, all)| all.iter().map(move |(name, value)| (namespace, name, value.as_ref())))
    }

    fn put(&mut self, namespace: &str, name: &str, value: Option<T>) {
        let objects = self.0.entry(namespace.to_owned()).or_default();
        match value {
            Some(value) => objects.insert(name.to_owned(), Box::new(value)),
            None => objects.remove(name),
        };
        if objects.is_empty() {
            self.0.remove(namespace);
        }
    }
}

/// A Deployment, its template apart.
#[derive(Clone, Debug)]
struct WorkloadEntry {
    rest: WorkloadView,
    template: Packed,
}

impl WorkloadEntry {
    fn new(object: Seen<'_>) -> Self {
        let mut rest = project::workload(object);
        Self { template: Packed::of(&std::mem::take(&mut rest.template)), rest }
    }

    fn view(&self) -> WorkloadView {
        WorkloadView { template: self.template.unpack(), ..self.rest.clone() }
    }
}

/// A route, its rules apart.
#[derive(Clone, Debug)]
struct RouteEntry {
    rest: RouteView,
    rules: Packed,
}

impl RouteEntry {
    fn new(kind: RouteKind, object: Seen<'_>) -> Self {
        Self { rules: Packed::of(object.data.pointer("/spec/rules").unwrap_or_default()), rest: project::route(kind, object) }
    }

    fn view(&self) -> RouteView {
        RouteView { rules: project::rules(&self.rules.unpack()), ..self.rest.clone() }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Index {
    rollouts: Table<RolloutEntry>,
    workloads: Table<WorkloadEntry>,
    replica_sets: Table<ReplicaSetEntry>,
    pods: Table<PodEntry>,
    services: Table<ServiceEntry>,
    slices: Table<SliceEntry>,
    routes: Table<RouteEntry>,
    runs: Table<RunView>,
    templates: Table<Result<AnalysisTemplateSpec, Invalid>>,
    /// Under no namespace.
    cluster_templates: Table<Result<AnalysisTemplateSpec, Invalid>>,
    actions: Table<ActionEntry>,
    anchors: Table<Meta>,
    autoscalers: Table<AutoscalerEntry>,
    /// Namespaces that are being deleted.
    terminating: BTreeSet<String>,
    /// The newest version that was seen of each object, deletions included while a watch may still bring an older one.
    versions: HashMap<(Watched, String), BTreeMap<String, u64>>,
    /// What was deleted last, with the version of the deletion: the oldest is forgotten for each new one.
    deleted: VecDeque<(Watched, String, String, u64)>,
}

/// Deleted objects whose versions are remembered. An answer that is older than the deletion comes within the time of one request.
const DELETED: usize = 1_024;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Applied,
    Deleted,
}

impl Index {
    /// Takes an object in, unless something newer of it is known: our own writes come back faster than the watch. Returns what is
    /// to be looked at again.
    pub fn take<'a>(&mut self, kind: Watched, object: impl Into<Seen<'a>>, change: Change) -> BTreeSet<Key> {
        let object = object.into();
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let version = object.metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
        if !self.is_news(kind, &namespace, &name, version, change) {
            return BTreeSet::new();
        }
        self.versions.entry((kind, namespace.clone())).or_default().insert(name.clone(), version);
        let mut keys = self.concerned(kind, &namespace, &name);
        self.store(kind, &namespace, &name, (change == Change::Applied).then_some(object));
        keys.append(&mut self.concerned(kind, &namespace, &name));
        // Where we write, an answer to us may still come, older than the deletion.
        let written = !matches!(kind, Watched::Pod | Watched::EndpointSlice);
        match change {
            Change::Deleted if written => self.remember_deleted(kind, namespace, name, version),
            Change::Deleted => self.forget_version(kind, &namespace, &name),
            Change::Applied => {}
        }
        keys
    }

    fn remember_deleted(&mut self, kind: Watched, namespace: String, name: String, version: u64) {
        self.deleted.push_back((kind, namespace, name, version));
        if self.deleted.len() > DELETED
            && let Some((kind, namespace, name, version)) = self.deleted.pop_front()
            && self.version(kind, &namespace, &name) == version
        {
            self.forget_version(kind, &namespace, &name);
        }
    }

    fn version(&self, kind: Watched, namespace: &str, name: &str) -> u64 {
        self.versions.get(&(kind, namespace.to_owned())).and_then(|of| of.get(name)).copied().unwrap_or(0)
    }

    fn forget_version(&mut self, kind: Watched, namespace: &str, name: &str) {
        let key = (kind, namespace.to_owned());
        if let Some(versions) = self.versions.get_mut(&key) {
            versions.remove(name);
            if versions.is_empty() {
                self.versions.remove(&key);
            }
        }
    }

    /// Whether a version of an object is newer than what is known of it.
    pub fn is_news(&self, kind: Watched, namespace: &str, name: &str, version: u64, change: Change) -> bool {
        let known = self.version(kind, namespace, name);
        version > known || (version == known && (change == Change::Deleted || version == 0))
    }

    /// After a new list of one namespace or of all: what is known of `kind` there but was not in it is gone.
    pub fn retain(&mut self, kind: Watched, scope: Option<&str>, listed: &BTreeSet<(String, String)>) -> BTreeSet<Key> {
        let there = |namespace: &str| scope.is_none_or(|scope| scope == namespace);
        let known = self.versions.iter().filter(|((k, namespace), _)| *k == kind && there(namespace));
        let known: Vec<(String, String)> =
            known.flat_map(|((_, namespace), of)| of.keys().map(|name| (namespace.clone(), name.clone()))).collect();
        let mut keys = BTreeSet::new();
        for (namespace, name) in known.into_iter().filter(|object| !listed.contains(object)) {
            keys.append(&mut self.concerned(kind, &namespace, &name));
            self.store(kind, &namespace, &name, None);
            self.forget_version(kind, &namespace, &name);
        }
        keys
    }

    fn store(&mut self, kind: Watched, namespace: &str, name: &str, object: Option<Seen<'_>>) {
        match kind {
            Watched::Rollout => {
                // What was seen once of a deletion stays known as long as the object does: its sign is gone within milliseconds.
                let seen = self.rollouts.get(namespace, name).map(|before| (before.meta.uid.clone(), before.propagation));
                let entry = object.and_then(project::rollout).map(|entry| {
                    let known = seen.filter(|(uid, _)| *uid == entry.meta.uid).and_then(|(_, propagation)| propagation);
                    RolloutEntry { propagation: entry.propagation.or(known), ..entry }
                });
                self.rollouts.put(namespace, name, entry);
            }
            Watched::Deployment => self.workloads.put(namespace, name, object.map(WorkloadEntry::new)),
            Watched::ReplicaSet => self.replica_sets.put(namespace, name, object.map(project::replica_set)),
            Watched::Pod => self.pods.put(namespace, name, object.and_then(project::pod)),
            Watched::Service => self.services.put(namespace, name, object.map(project::service)),
            Watched::EndpointSlice => self.slices.put(namespace, name, object.map(project::endpoint_slice)),
            Watched::HttpRoute | Watched::GrpcRoute | Watched::TlsRoute | Watched::TcpRoute => {
                if let Some(kind) = kind.route() {
                    self.routes.put(namespace, &route_key(kind, name), object.map(|o| RouteEntry::new(kind, o)));
                }
            }
            Watched::AnalysisRun => self.runs.put(namespace, name, object.and_then(project::analysis_run)),
            Watched::AnalysisTemplate => self.templates.put(namespace, name, object.map(project::analysis_template)),
            Watched::ClusterAnalysisTemplate => self.cluster_templates.put(namespace, name, object.map(project::analysis_template)),
            Watched::RolloutAction => self.actions.put(namespace, name, object.map(project::action)),
            Watched::ControllerRevision => self.anchors.put(namespace, name, object.map(project::anchor)),
            Watched::Namespace => {
                match object.is_some_and(|o| o.metadata.deletion_timestamp.is_some()) {
                    true => self.terminating.insert(name.to_owned()),
                    false => self.terminating.remove(name),
                };
            }
            Watched::Autoscaler => self.autoscalers.put(namespace, name, object.and_then(project::autoscaler)),
        }
    }

    /// What an object concerns, as it is known now.
    fn concerned(&self, kind: Watched, namespace: &str, name: &str) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        let mut add = |rollout: &str| {
            keys.insert(Key::Rollout { namespace: namespace.to_owned(), name: rollout.to_owned() });
        };
        match kind {
            Watched::Rollout => {
                add(name);
                // Another one may have waited for this one to give its Service up.
                if let Some(rollout) = self.rollouts.get(namespace, name) {
                    self.rollouts_by(namespace, |other| claimed_by_both(rollout, other).is_some()).for_each(|other| add(other));
                }
            }
            Watched::Deployment => self.rollouts_by(namespace, |r| of_workload(r, name)).for_each(|r| add(r)),
            Watched::ReplicaSet => self.of_replica_set(namespace, name).into_iter().for_each(|r| add(&r)),
            Watched::Pod => {
                let owner = self.pods.get(namespace, name).map(|pod| pod.replica_set.0.clone());
                owner.into_iter().flat_map(|set| self.of_replica_set(namespace, &set)).for_each(|r| add(&r));
            }
            // One that is not being deleted concerns nobody.
            Watched::Namespace if self.terminating.contains(name) => {
                let within = self.rollouts.all(name).map(|(rollout, _)| rollout.clone());
                return within.map(|rollout| Key::Rollout { namespace: name.to_owned(), name: rollout }).collect();
            }
            Watched::Namespace => {}
            Watched::Autoscaler => {
                if let Some(autoscaler) = self.autoscalers.get(namespace, name) {
                    self.rollouts_by(namespace, |r| of_workload(r, &autoscaler.deployment)).for_each(|r| add(r));
                }
            }
            Watched::Service => self.rollouts_by(namespace, |r| of_service(r, name)).for_each(|r| add(r)),
            Watched::EndpointSlice => {
                let service = self.slices.get(namespace, name).map(|slice| slice.service.clone()).unwrap_or_default();
                self.rollouts_by(namespace, |r| of_service(r, &service)).for_each(|r| add(r));
            }
            Watched::HttpRoute | Watched::GrpcRoute | Watched::TlsRoute | Watched::TcpRoute => {
                if let Some(kind) = kind.route() {
                    let recorded =
                        self.routes.get(namespace, &route_key(kind, name)).map(|route| recorded_by(&route.rest)).unwrap_or_default();
                    self.rollouts_by(namespace, |r| of_route(r, kind, name)).for_each(|r| add(r));
                    recorded.iter().for_each(|r| add(r));
                }
            }
            Watched::AnalysisRun => {
                if let Some(run) = self.runs.get(namespace, name) {
                    add(&run.spec.rollout);
                }
                keys.insert(Key::Run { namespace: namespace.to_owned(), name: name.to_owned() });
            }
            Watched::AnalysisTemplate => {
                self.rollouts_by(namespace, |r| uses(r, TemplateKind::AnalysisTemplate, name)).for_each(|r| add(r));
            }
            Watched::ClusterAnalysisTemplate => return self.users_everywhere(name),
            Watched::RolloutAction => {
                if let Some(action) = self.actions.get(namespace, name) {
                    add(&action.rollout);
                }
            }
            Watched::ControllerRevision => {
                if let Some(rollout) = self.anchors.get(namespace, name).and_then(|a| a.labels.get(keys::ROLLOUT)) {
                    add(rollout);
                }
            }
        }
        keys
    }

    fn rollouts_by<'a>(&'a self, namespace: &str, test: impl Fn(&RolloutEntry) -> bool) -> impl Iterator<Item = &'a String> {
        self.rollouts.all(namespace).filter(move |(_, r)| test(r)).map(|(name, _)| name)
    }

    /// The Rollouts, of all namespaces, that use a ClusterAnalysisTemplate.
    fn users_everywhere(&self, template: &str) -> BTreeSet<Key> {
        let users = self.rollouts.iter();
        users
            .filter(|(_, _, rollout)| uses(rollout, TemplateKind::ClusterAnalysisTemplate, template))
            .map(|(namespace, name, _)| Key::Rollout { namespace: namespace.clone(), name: name.clone() })
            .collect()
    }

    fn of_replica_set(&self, namespace: &str, name: &str) -> Vec<String> {
        let Some(set) = self.replica_sets.get(namespace, name) else { return vec![] };
        if let Some(rollout) = set.meta.labels.get(keys::ROLLOUT) {
            return vec![rollout.clone()];
        }
        match &set.controller {
            Some((kind, owner, _)) if kind == "Deployment" => self.rollouts_by(namespace, |r| of_workload(r, owner)).cloned().collect(),
            // An anchor has the name of its Rollout; somebody has taken the label off.
            Some((kind, owner, _)) if kind == "ControllerRevision" => vec![owner.clone()],
            _ => vec![],
        }
    }

    /// Every Rollout, with its namespace and name.
    pub fn rollouts(&self) -> impl Iterator<Item = (&String, &String, &RolloutEntry)> {
        self.rollouts.iter()
    }

    pub fn rollout(&self, namespace: &str, name: &str) -> Option<&RolloutEntry> {
        self.rollouts.get(namespace, name)
    }

    /// Whether any Rollout names a route of this kind.
    pub fn is_named(&self, kind: RouteKind) -> bool {
        let names = |rollout: &RolloutEntry| {
            rollout.spec.traffic.as_ref().is_some_and(|traffic| traffic.routes.iter().any(|route| route.kind == kind))
        };
        self.rollouts.iter().any(|(_, _, rollout)| names(rollout))
    }

    pub fn rollout_keys(&self) -> BTreeSet<Key> {
        self.rollouts.iter().map(|(namespace, name, _)| Key::Rollout { namespace: namespace.clone(), name: name.clone() }).collect()
    }

    /// Everything that is worked on.
    pub fn all_keys(&self) -> BTreeSet<Key> {
        let runs = self.runs.iter().map(|(namespace, name, _)| Key::Run { namespace: namespace.clone(), name: name.clone() });
        self.rollout_keys().into_iter().chain(runs).collect()
    }

    pub fn cluster_template(&self, name: &str) -> Option<&Result<AnalysisTemplateSpec, Invalid>> {
        self.cluster_templates.get("", name)
    }

    fn template(&self, namespace: &str, template: &TemplateRef) -> Option<&Result<AnalysisTemplateSpec, Invalid>> {
        match template.kind {
            TemplateKind::AnalysisTemplate => self.templates.get(namespace, &template.name),
            TemplateKind::ClusterAnalysisTemplate => self.cluster_template(&template.name),
        }
    }

    pub fn run(&self, namespace: &str, name: &str) -> Option<&RunView> {
        self.runs.get(namespace, name)
    }

    /// Ready pods of a revision with the address and annotations that say where their metrics are.
    pub fn pods_of(&self, namespace: &str, hash: &str) -> Vec<&PodEntry> {
        self.pods.all(namespace).map(|(_, pod)| pod).filter(|pod| pod.view.hash == hash && pod.view.ready).collect()
    }

    /// All routes of a namespace.
    pub fn routes(&self, namespace: &str) -> impl Iterator<Item = RouteView> {
        self.routes.all(namespace).map(|(_, route)| route.view())
    }

    pub fn observe(&self, namespace: &str, name: &str, epoch: u64) -> Option<Observed> {
        let rollout = self.rollouts.get(namespace, name)?;
        let spec = &rollout.spec;
        let anchor = self.anchors.get(namespace, name).filter(|a| a.labels.get(keys::ROLLOUT).map(String::as_str) == Some(name)).cloned();
        let workload = spec.workload_ref.as_ref().and_then(|w| self.workloads.get(namespace, &w.name)).map(WorkloadEntry::view);
        let scales = |a: &&AutoscalerEntry| workload.as_ref().is_some_and(|w: &WorkloadView| w.meta.name == a.deployment);
        let autoscalers = self.autoscalers.all(namespace).map(|(_, a)| a).filter(scales).map(|a| a.words.clone()).collect();
        let replica_sets = self.replica_sets_of(namespace, &rollout.meta, anchor.as_ref(), workload.as_ref());
        let pods = self.pods.all(namespace).map(|(_, pod)| pod);
        let pods = pods.filter(|pod| replica_sets.iter().any(|rs| rs.meta.uid == pod.replica_set.1)).map(|pod| pod.view.clone()).collect();
        let service = |service: &str| self.service(namespace, service, name, anchor.as_ref());
        let traffic = spec.traffic.as_ref();
        let is_ours = |view: &RouteView| of_route(rollout, view.kind, &view.meta.name) || recorded_by(view).iter().any(|r| r == name);
        let routes = self.routes.all(namespace).filter(|(_, route)| is_ours(&route.rest));
        let mut actions: Vec<_> = self.actions.all(namespace).map(|(_, action)| action).filter(|a| a.rollout == name).collect();
        actions.sort_by(|a, b| (a.created_at, &a.meta.name).cmp(&(b.created_at, &b.meta.name)));
        let (done, open): (Vec<_>, Vec<_>) = actions.into_iter().partition(|a| a.status.outcome.is_some());
        let readable =
            |a: &&ActionEntry| Some(ActionView { meta: a.meta.clone(), spec: a.spec.as_ref().ok()?.clone(), status: a.status.clone() });
        Some(Observed {
            epoch,
            rollout: RolloutView {
                namespace: namespace.to_owned(),
                meta: rollout.meta.clone(),
                finalizers: rollout.finalizers.clone(),
                propagation: rollout.propagation,
                spec: spec.clone(),
                unreadable: rollout.unreadable.clone(),
                status: rollout.status.clone(),
            },
            service: traffic.and_then(|t| service(&t.service)),
            canary_service: traffic.and_then(|t| service(&t.canary_service())),
            routes: routes.map(|(_, route)| route.view()).collect(),
            runs: self.runs.all(namespace).filter(|(_, run)| run.spec.rollout == name).map(|(_, run)| run.clone()).collect(),
            analysis_templates: spec.templates().filter_map(|t| Some((t.clone(), self.template(namespace, t)?.clone()))).collect(),
            actions: open.iter().filter_map(readable).collect(),
            unreadable_actions: open.iter().filter_map(|a| Some((a.meta.clone(), a.spec.as_ref().err()?.clone()))).collect(),
            done_actions: done.into_iter().map(|action| action.meta.clone()).collect(),
            namespace_terminating: self.terminating.contains(namespace),
            dry_run: None,
            policies: None,
            rival: self.rival(namespace, name, rollout),
            anchor,
            workload,
            autoscalers,
            replica_sets,
            pods,
        })
    }

    fn replica_sets_of(
        &self,
        namespace: &str,
        rollout: &Meta,
        anchor: Option<&Meta>,
        workload: Option<&WorkloadView>,
    ) -> Vec<ReplicaSetView> {
        let labelled = |set: &ReplicaSetEntry| set.meta.labels.get(keys::ROLLOUT) == Some(&rollout.name);
        let owner = |set: &ReplicaSetEntry| match &set.controller {
            Some((_, _, uid)) if anchor.is_some_and(|a| a.uid == *uid) => Some(Owner::Anchor),
            Some((_, _, uid)) if workload.is_some_and(|w| w.meta.uid == *uid) => Some(Owner::Workload),
            // Restored from a backup: without its owners, or with those that were.
            None if labelled(set) => Some(Owner::Nobody),
            Some((kind, name, _)) if labelled(set) && kind == "ControllerRevision" && *name == rollout.name => Some(Owner::Nobody),
            _ => None,
        };
        let sets = self.replica_sets.all(namespace).filter_map(|(_, set)| Some((owner(set)?, set)));
        let view = |(owner, set): (Owner, &ReplicaSetEntry)| ReplicaSetView {
            meta: set.meta.clone(),
            owner,
            names_rollout: set.owner_uids.contains(&rollout.uid),
            hash: set.hash.clone(),
            digest: set.digest.clone(),
            images: set.images.clone(),
            created_at: set.created_at,
            replicas: set.replicas,
            status_replicas: set.status_replicas,
            ready: set.ready,
            available: set.available,
        };
        sets.map(view).collect()
    }

    fn service(&self, namespace: &str, name: &str, rollout: &str, anchor: Option<&Meta>) -> Option<ServiceView> {
        let service = self.services.get(namespace, name)?;
        let endpoints = self.slices.all(namespace).filter(|(_, slice)| slice.service == name).flat_map(|(_, slice)| &slice.endpoints);
        let endpoint = |(pod, ready): &(String, bool)| EndpointView {
            pod: pod.clone(),
            hash: self.pods.get(namespace, pod).map(|p| p.view.hash.clone()),
            ready: *ready,
        };
        let owned = anchor.is_some_and(|a| service.owner_uids.contains(&a.uid));
        Some(ServiceView {
            meta: service.meta.clone(),
            owned,
            ours: owned || service.meta.labels.get(keys::ROLLOUT).is_some_and(|name| name == rollout),
            selector: service.selector.clone(),
            spec: service.spec.unpack(),
            endpoints: endpoints.map(endpoint).collect(),
        })
    }

    /// A Rollout that is older and names the same workload or one of the same Services.
    fn rival(&self, namespace: &str, name: &str, rollout: &RolloutEntry) -> Option<Rival> {
        let older = |other_name: &String, other: &RolloutEntry| (other.created_at, other_name.as_str()) < (rollout.created_at, name);
        let mut others = self.rollouts.all(namespace).filter(|(n, other)| *n != name && older(n, other));
        others.find_map(|(n, other)| {
            let (field, what) = claimed_by_both(rollout, other)?;
            Some(Rival { rollout: n.clone(), field, what })
        })
    }
}

/// The workload or Service that two Rollouts name, and the field in which the first does.
fn claimed_by_both(one: &RolloutEntry, other: &RolloutEntry) -> Option<(&'static str, String)> {
    let spec = &one.spec;
    let workload = spec.workload_ref.as_ref().filter(|w| of_workload(other, &w.name));
    if let Some(workload) = workload {
        return Some(("spec.workloadRef", format!("Deployment {}", workload.name)));
    }
    let traffic = spec.traffic.as_ref()?;
    let roles = [("spec.traffic.service", traffic.service.clone()), ("spec.traffic.canaryService", traffic.canary_service())];
    roles.into_iter().find(|(_, name)| of_service(other, name)).map(|(field, name)| (field, format!("Service {name}")))
}

fn of_workload(rollout: &RolloutEntry, name: &str) -> bool {
    rollout.spec.workload_ref.as_ref().is_some_and(|w| w.name == name)
}

fn of_service(rollout: &RolloutEntry, name: &str) -> bool {
    rollout.spec.traffic.as_ref().is_some_and(|t| t.service == name || t.canary_service() == name)
}

fn of_route(rollout: &RolloutEntry, kind: RouteKind, name: &str) -> bool {
    let names = |t: &Traffic| t.routes.iter().any(|r| r.kind == kind && r.name == name);
    rollout.spec.traffic.as_ref().is_some_and(names)
}

/// Routes of different kinds may have the same name.
fn route_key(kind: RouteKind, name: &str) -> String {
    format!("{kind}/{name}")
}

fn uses(rollout: &RolloutEntry, kind: TemplateKind, name: &str) -> bool {
    rollout.spec.templates().any(|t| t.kind == kind && t.name == name)
}

fn recorded_by(route: &RouteView) -> Vec<String> {
    route.meta.annotations.keys().filter_map(|key| key.strip_prefix(keys::ROUTE_RECORD_PREFIX)).map(str::to_owned).collect()
}
