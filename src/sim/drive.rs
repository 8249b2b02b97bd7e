//! The cluster and the controller in one synchronous loop, in virtual time: no runtime, no task, no wait. One seed, one way through.
//! It can be copied at any moment, so that a test goes on from there in many ways.
//!
//! The way is the controller's own: events -> [`Index`] -> [`core::plan`] -> requests to the [`ApiServer`] -> events. Every write passes
//! the [`Promises`].

mod audience;
mod measure;

pub use audience::Audience;
pub use measure::Answers;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, LazyLock},
    time::Duration,
};

use jiff::Timestamp;
use kube::api::{ApiResource, ObjectMeta};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    api::{ApiServer, Change as Committed, Event, Request, Response},
    controllers::{Controllers, Timing},
    promises::Promises,
};
use crate::{
    core::{
        self, Observed, Settings, analysis,
        observed::{DryRun, Meta},
        patch::{Kind, Write},
        policy, revision,
    },
    world::{Change, Index, Key, Watched, project::Seen},
};

/// From an event until the controller looks at what it concerns.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Wait before a write that met a change is planned again.
const AFTER_STALE: Duration = Duration::from_millis(150);
/// An eviction that was put off is asked for again after this time.
const NOT_YET_AGAIN: Duration = Duration::from_secs(5);
/// Writes of the controller at one moment in virtual time; beyond them it fights with itself.
const MAX_WRITES_AT_ONCE: usize = 200;

/// What goes wrong with a write of the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answered with this code, without effect.
    Refused(u16),
    /// It takes effect, but no answer comes.
    Unanswered,
    /// It takes effect, and the controller crashes before it has seen the answer.
    Crash,
    /// It is on its way for so long that another one leads when it arrives.
    Late(Duration),
}

/// A kind whose watch brings nothing until a moment.
#[derive(Clone)]
struct Lag {
    kind: Watched,
    until: Timestamp,
    held: Vec<Arc<Event>>,
}

/// What a crash of the controller loses.
#[derive(Clone, Default)]
struct Memory {
    index: Index,
    /// What is looked at again, and when.
    queue: BTreeMap<Key, Timestamp>,
}

#[derive(Clone)]
pub struct Drive {
    pub api: ApiServer,
    pub cluster: Controllers,
    pub now: Timestamp,
    pub promises: Promises,
    pub settings: Settings,
    /// Images whose metrics are bad.
    pub bad: BTreeSet<String>,
    /// The share of their answers that images fail, where it is not none.
    pub failing: BTreeMap<String, f64>,
    /// How metrics are answered.
    pub answers: Answers,
    /// Whose requests are drawn by chance and counted; without it 100 come each second, of which images fail exactly their share.
    pub audience: Option<Audience>,
    /// Policies of kinds that the server does not know.
    pub other_policies: Vec<Value>,
    /// Writes of the controller that took effect.
    pub writes: usize,
    /// The controller crashes after this many writes, before it has seen the answer.
    pub crash_after: Option<usize>,
    /// Writes of the controller that were tried.
    pub tries: usize,
    /// What goes wrong with the write that is tried as this one.
    pub faults: BTreeMap<usize, Fault>,
    /// What has gone wrong so.
    pub injected: Vec<Fault>,
    /// Plans that the controller has made.
    pub plans: usize,
    /// What the controller did, one line each.
    pub log: Vec<String>,
    memory: Memory,
    epoch: u64,
    /// Events up to here have been shown to the promises and to the controller.
    shown: u64,
    lag: Option<Lag>,
    /// Writes of leaders before this one, and when they arrive.
    late: Vec<(Timestamp, Request)>,
    cluster_due: Option<Timestamp>,
    at_once: (Timestamp, usize),
}

impl Drive {
    pub fn new(seed: u64, epoch: Timestamp) -> Self {
        Self::on(ApiServer::new(seed, epoch), epoch)
    }

    /// On a server that has kinds or objects of its own already.
    pub fn on(api: ApiServer, epoch: Timestamp) -> Self {
        Self {
            api,
            cluster: Controllers::new(Timing::default(), Some([10, 244])),
            now: epoch,
            promises: Promises::default(),
            settings: Settings { prometheus_address: Some("http://prometheus".to_owned()) },
            bad: BTreeSet::new(),
            failing: BTreeMap::new(),
            answers: Answers::default(),
            audience: None,
            other_policies: vec![],
            writes: 0,
            crash_after: None,
            tries: 0,
            faults: BTreeMap::new(),
            injected: vec![],
            plans: 0,
            log: vec![],
            memory: Memory::default(),
            epoch: 1,
            shown: 0,
            lag: None,
            late: vec![],
            cluster_due: Some(epoch),
            at_once: (epoch, 0),
        }
    }

    /// A request of somebody else's.
    pub fn request(&mut self, request: &Request) -> Response {
        let response = self.api.handle(request, self.now);
        self.show();
        response
    }

    /// The controller has crashed, and a new one leads: it knows only what it lists.
    pub fn crash(&mut self) {
        self.epoch += 1;
        self.lag = None;
        self.memory = Memory::default();
        for kind in Watched::ALL {
            let objects: Vec<Arc<Value>> = self.api.list(id(kind)).cloned().collect();
            for object in objects {
                self.memory.index.take(kind, Seen { metadata: &metadata(&object), data: &object }, Change::Applied);
            }
        }
        let again = self.now + Duration::from_secs(1);
        self.memory.queue = self.memory.index.all_keys().into_iter().map(|key| (key, again)).collect();
    }

    /// The controller's watch of a kind brings nothing for a while.
    pub fn lag(&mut self, kind: Watched, time: Duration) {
        self.catch_up();
        self.lag = Some(Lag { kind, until: self.now + time, held: vec![] });
    }

    /// Nothing goes wrong any more.
    pub fn end_faults(&mut self) {
        self.faults.clear();
        self.late.clear();
        self.catch_up();
    }

    /// The watch that lagged brings what it held back.
    fn catch_up(&mut self) {
        let Some(lag) = self.lag.take() else { return };
        for event in lag.held {
            self.learn(lag.kind, &event);
        }
    }

    /// What the controller knows of a Rollout.
    pub fn observed(&self, namespace: &str, name: &str) -> Option<Observed> {
        self.memory.index.observe(namespace, name, self.epoch)
    }

    /// L1: what is desired is a function of what is observed, so where nothing changes, nothing is left to do. What a plan would do and
    /// say for a Rollout that is at rest, if that is anything.
    pub fn l1_the_plan_of_an_unchanged_world_is_empty(&self, namespace: &str, name: &str) -> Result<(), String> {
        let Some(observed) = self.observed(namespace, name) else { return Ok(()) };
        let plan = core::plan(&observed, &self.settings, self.now);
        let said = (plan.status != observed.rollout.status).then(|| format!("says {}", plan.status.message));
        let left: Vec<String> = plan.actions.into_iter().map(|action| action.what).chain(said).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("L1: {name} is at rest, but its plan is: {}", left.join(", "))) }
    }

    /// When something happens next.
    fn next(&self) -> Option<Timestamp> {
        let lag = self.lag.iter().map(|lag| lag.until);
        let late = self.late.iter().map(|(at, _)| *at);
        self.memory.queue.values().copied().chain(self.cluster_due).chain(lag).chain(late).min()
    }

    /// What happens next, as far as the controller and the watches know: who is looked at, and when.
    pub fn due(&self) -> Vec<(String, Timestamp)> {
        let queue = self.memory.queue.iter().map(|(key, at)| match key {
            Key::Rollout { name, .. } => (format!("Rollout {name}"), *at),
            Key::Run { .. } => ("an AnalysisRun".to_owned(), *at),
        });
        queue.chain(self.cluster_due.map(|at| ("the cluster".to_owned(), at))).collect()
    }

    /// The present leader's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The cluster's controllers look at everything again: something besides objects has changed.
    pub fn cluster_looks_again(&mut self) {
        self.cluster.look_again();
        self.cluster_due = Some(self.now);
    }

    /// What is due next happens; false if nothing is.
    pub fn go_on(&mut self) -> bool {
        let next = self.next();
        next.into_iter().for_each(|next| self.step(next));
        next.is_some()
    }

    /// Goes on until `holds`, `until` at the latest; says whether it held.
    pub fn run(&mut self, until: Timestamp, mut holds: impl FnMut(&Self) -> bool) -> bool {
        loop {
            if holds(self) {
                return true;
            }
            match self.next() {
                Some(next) if next <= until => self.step(next),
                _ => {
                    self.now = self.now.max(until);
                    return false;
                }
            }
        }
    }

    fn step(&mut self, next: Timestamp) {
        self.now = self.now.max(next);
        if self.cluster_due.is_some_and(|due| due <= self.now) {
            self.cluster_due = self.cluster.step(&mut self.api, self.now);
            let programmed = self.cluster.gateway.programmed();
            self.promises.data_plane(programmed, &self.api, self.now);
            if let Some(audience) = &mut self.audience {
                audience.flow(programmed, &self.api, self.now);
            }
            self.show();
            return;
        }
        if self.lag.as_ref().is_some_and(|lag| lag.until <= self.now) {
            return self.catch_up();
        }
        if let Some(at) = self.late.iter().position(|(due, _)| *due <= self.now) {
            let (_, request) = self.late.remove(at);
            let status = self.request(&request).status;
            self.log.push(format!("{} a write of a leader before arrives at {}: {status}", self.now, request.path));
            return;
        }
        let due = self.memory.queue.iter().find(|(_, due)| **due <= self.now).map(|(key, _)| key.clone());
        if let Some(key) = due {
            self.memory.queue.remove(&key);
            self.look(&key);
        }
    }

    fn again(&mut self, key: Key, at: Timestamp) {
        let due = self.memory.queue.entry(key).or_insert(at);
        *due = at.min(*due);
    }

    /// New events: to the promises, to the controller's memory; and the cluster reacts.
    fn show(&mut self) {
        let events: Vec<Arc<Event>> = self.api.since(self.shown).cloned().collect();
        for event in &events {
            self.shown = event.revision;
            self.promises.check(event, &self.api);
            let Some(kind) = watched(&event.kind) else { continue };
            match &mut self.lag {
                Some(lag) if lag.kind == kind => lag.held.push(event.clone()),
                _ => self.learn(kind, event),
            }
        }
        if !events.is_empty() {
            let reaction = self.now + self.cluster.timing.reaction;
            self.cluster_due = Some(self.cluster_due.map_or(reaction, |due| due.min(reaction)));
        }
    }

    fn learn(&mut self, kind: Watched, event: &Event) {
        let change = if event.change == Committed::Deleted { Change::Deleted } else { Change::Applied };
        self.take(kind, &event.object, change);
    }

    fn take(&mut self, kind: Watched, object: &Value, change: Change) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let version = text("resourceVersion").parse().unwrap_or(0);
        if self.memory.index.is_news(kind, text("namespace"), text("name"), version, change) {
            for key in self.memory.index.take(kind, Seen { metadata: &metadata(object), data: object }, change) {
                self.again(key, self.now + DEBOUNCE);
            }
        }
    }

    fn look(&mut self, key: &Key) {
        let done = match key {
            Key::Rollout { namespace, name } => self.look_at_rollout(namespace, name),
            Key::Run { namespace, name } => self.look_at_run(namespace, name),
        };
        match done {
            Ok(Some(wake)) => self.again(key.clone(), wake.max(self.now)),
            Ok(None) => {}
            Err(Stop::Crashed) => self.crash(),
            Err(Stop::Stale | Stop::NotYet) => self.again(key.clone(), self.now + AFTER_STALE),
        }
    }

    fn look_at_rollout(&mut self, namespace: &str, name: &str) -> Result<Option<Timestamp>, Stop> {
        let Some(mut obs) = self.memory.index.observe(namespace, name, self.epoch) else { return Ok(None) };
        self.ask(&mut obs);
        let plan = core::plan(&obs, &self.settings, self.now);
        self.plans += 1;
        let mut not_yet = None;
        let mut stale = false;
        for action in plan.actions {
            if stale && !action.stands_alone() {
                break;
            }
            self.log.push(format!("{} {name}: {}", self.now, action.what));
            let stands_alone = action.stands_alone();
            match self.write(namespace, action.write) {
                Err(Stop::NotYet) => {
                    not_yet = Some(self.now + NOT_YET_AGAIN);
                    break;
                }
                Err(Stop::Stale) => {
                    stale = true;
                    if !stands_alone {
                        break;
                    }
                }
                done => done?,
            }
        }
        if stale {
            return Err(Stop::Stale);
        }
        if plan.status != obs.rollout.status {
            self.log.push(format!("{} {name}: status: {}", self.now, plan.status.message));
            let events = plan.events.iter().map(|event| format!("{} {name}: status: event {}: {}", self.now, event.reason, event.note));
            self.log.extend(events);
            let status = serde_json::to_value(&plan.status).unwrap_or_default();
            self.write_status(namespace, Kind::Rollout, &obs.rollout.meta, status)?;
        }
        Ok([plan.wake_at, not_yet].into_iter().flatten().min())
    }

    fn ask(&mut self, obs: &mut Observed) {
        if policy::question(obs) {
            let here = |policy: &&Arc<Value>| policy["metadata"]["namespace"] == *obs.rollout.namespace;
            let policies = self.api.list("backendtlspolicies.gateway.networking.k8s.io").filter(here);
            obs.policies = Some(policies.map(|policy| (**policy).clone()).chain(self.other_policies.clone()).collect());
        }
        let Some(question) = revision::question(obs) else { return };
        let mut request = request(&obs.rollout.namespace, Write::Create { kind: Kind::ReplicaSet, body: question });
        request.query = "dryRun=All".to_owned();
        let answer = self.api.handle(&request, self.now);
        obs.dry_run = Some(match answer.status {
            201 => DryRun::Defaulted(revision::digest(&answer.body["spec"]["template"])),
            _ => DryRun::Refused(answer.body["message"].as_str().unwrap_or_default().to_owned()),
        });
    }

    fn look_at_run(&mut self, namespace: &str, name: &str) -> Result<Option<Timestamp>, Stop> {
        let Some(run) = self.memory.index.run(namespace, name).cloned() else { return Ok(None) };
        let status = match &run.status {
            status if status.phase.is_final() => return Ok(None),
            _ if run.unreadable.is_some() => analysis::unreadable(&run, self.now).unwrap_or_else(|| run.status.clone()),
            status if status.started_at.is_none() => analysis::start(&run.spec, true, self.now),
            status if run.spec.terminate => analysis::cancel(status.clone(), self.now),
            status => {
                let now = self.now;
                let measured = |index: usize| (index, self.measured(namespace, &run.spec, status, &run.spec.metrics[index]));
                let due = analysis::due(&run.spec, status, now).into_iter().map(measured).collect();
                analysis::record(&run.spec, status.clone(), due, now)
            }
        };
        if status != run.status {
            self.write_status(namespace, Kind::AnalysisRun, &run.meta, serde_json::to_value(&status).unwrap_or_default())?;
        }
        Ok(analysis::next_wake(&run.spec, &status, self.now))
    }

    fn write_status(&mut self, namespace: &str, kind: Kind, meta: &Meta, status: Value) -> Result<(), Stop> {
        let mut add = json!({"op": "add", "path": "/status"});
        add["value"] = status;
        let ops = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": meta.uid}),
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version}),
            add,
        ];
        self.write(namespace, Write::Patch { kind, name: meta.name.clone(), subresource: Some("status"), ops })
    }

    fn write(&mut self, namespace: &str, write: Write) -> Result<(), Stop> {
        self.at_once = if self.at_once.0 == self.now { (self.now, self.at_once.1 + 1) } else { (self.now, 1) };
        assert!(self.at_once.1 < MAX_WRITES_AT_ONCE, "the controller fights with itself in {namespace}: {:#?}", self.tail());
        self.tries += 1;
        let fault = self.faults.remove(&self.tries);
        if let Some(fault) = fault {
            self.log.push(format!("{} fault: {fault:?}", self.now));
            self.injected.push(fault);
        }
        match fault {
            Some(Fault::Refused(_)) => return Err(Stop::Stale),
            Some(Fault::Late(time)) => {
                self.late.push((self.now + time, request(namespace, write)));
                return Err(Stop::Crashed);
            }
            _ => {}
        }
        let answered = match &write {
            Write::Create { kind, .. } | Write::Patch { kind, .. } => kind.watched(),
            _ => None, // the answer is another object
        };
        let response = self.api.handle(&request(namespace, write), self.now);
        if response.status >= 400 {
            self.log.push(format!("{} refused: {}", self.now, response.body["message"].as_str().unwrap_or_default()));
            return Err(if response.status == 429 { Stop::NotYet } else { Stop::Stale });
        }
        self.writes += 1;
        if self.crash_after == Some(self.writes) || matches!(fault, Some(Fault::Crash | Fault::Unanswered)) {
            self.show();
            return Err(if fault == Some(Fault::Unanswered) { Stop::Stale } else { Stop::Crashed });
        }
        if let Some(kind) = answered {
            self.take(kind, &response.body, Change::Applied);
        }
        self.show();
        Ok(())
    }

    /// The newest lines of the log.
    pub fn tail(&self) -> &[String] {
        &self.log[self.log.len().saturating_sub(60)..]
    }
}

/// Why a look ended early.
enum Stop {
    Stale,
    NotYet,
    Crashed,
}

impl Write {
    fn resource(&self) -> ApiResource {
        match self {
            Self::Create { kind, .. } | Self::Patch { kind, .. } | Self::Delete { kind, .. } | Self::Scale { kind, .. } => kind.resource(),
            Self::Evict { .. } => Watched::Pod.resource(),
        }
    }
}

/// The API server's name of a kind.
pub fn id(kind: Watched) -> &'static str {
    static IDS: LazyLock<BTreeMap<Watched, String>> = LazyLock::new(|| {
        let id = |resource: ApiResource| match resource.group.as_str() {
            "" => resource.plural,
            group => format!("{}.{group}", resource.plural),
        };
        Watched::ALL.map(|kind| (kind, id(kind.resource()))).into()
    });
    &IDS[&kind]
}

/// The kind that is watched under an API server's name.
fn watched(id_of_kind: &str) -> Option<Watched> {
    static WATCHED: LazyLock<HashMap<&str, Watched>> = LazyLock::new(|| Watched::ALL.map(|kind| (id(kind), kind)).into());
    WATCHED.get(id_of_kind).copied()
}

fn metadata(object: &Value) -> ObjectMeta {
    ObjectMeta::deserialize(&object["metadata"]).expect("the server's objects have metadata")
}

/// The path of a namespaced resource.
pub fn path(kind: Watched, namespace: &str, name: &str) -> String {
    path_of(&kind.resource(), namespace, name)
}

fn path_of(resource: &ApiResource, namespace: &str, name: &str) -> String {
    let prefix = if resource.group.is_empty() { "/api" } else { "/apis" };
    let slash = if name.is_empty() { "" } else { "/" };
    format!("{prefix}/{}/namespaces/{namespace}/{}{slash}{name}", resource.api_version, resource.plural)
}

fn request(namespace: &str, write: Write) -> Request {
    let resource = write.resource();
    let path = |name: &str| path_of(&resource, namespace, name);
    let ours = |method: &str, path: String, content_type: &str, body: Value| Request {
        method: method.to_owned(),
        path,
        content_type: content_type.to_owned(),
        body,
        actor: crate::core::patch::MANAGER.to_owned(),
        ..Request::default()
    };
    match write {
        Write::Create { body, .. } => ours("POST", path(""), "application/json", body),
        Write::Patch { name, subresource, ops, .. } => {
            let sub = subresource.map(|sub| format!("/{sub}")).unwrap_or_default();
            ours("PATCH", path(&name) + &sub, "application/json-patch+json", Value::from(ops))
        }
        Write::Evict { name, uid } => {
            let body = json!({"metadata": {"name": name}, "deleteOptions": {"preconditions": {"uid": uid}}});
            ours("POST", path(&name) + "/eviction", "application/json", body)
        }
        Write::Scale { name, replicas, .. } => {
            let body = json!({"spec": {"replicas": replicas}});
            ours("PATCH", path(&name) + "/scale", "application/merge-patch+json", body)
        }
        Write::Delete { name, uid, resource_version, .. } => {
            let only = json!({"uid": uid, "resourceVersion": resource_version});
            let body = json!({"propagationPolicy": "Background", "preconditions": only});
            ours("DELETE", path(&name), "application/json", body)
        }
    }
}
