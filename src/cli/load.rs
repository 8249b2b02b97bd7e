//! Gets a Rollout and what belongs to it: once, or as a stream of changes.

use std::{collections::BTreeMap, fmt::Debug};

use futures::{Stream, StreamExt, future, stream};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use kube::{
    Api, Resource, ResourceExt,
    api::ListParams,
    core::NamespaceResourceScope,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

use super::{
    error::{Asked, Error},
    session::Session,
    view::View,
};
use crate::api::{AnalysisRun, Rollout, RolloutAction, keys};

pub const ROLLOUTS: &str = "rollouts.sluice.dev";
pub const RUNS: &str = "analysisruns.sluice.dev";
pub const ACTIONS: &str = "rolloutactions.sluice.dev";
pub const REPLICA_SETS: &str = "replicasets.apps";
pub const PODS: &str = "pods";

/// Everything that `get` shows, as it is now.
pub async fn view(session: &Session, name: &str) -> Result<View, Error> {
    let rollout = session.rollout(name).await?;
    let (replica_sets, pods, runs) = future::try_join3(
        list(session, REPLICA_SETS, &owned_by(name)),
        list(session, PODS, &pods_of(&rollout)),
        list(session, RUNS, &owned_by(name)),
    )
    .await?;
    Ok(View { rollout, replica_sets, pods, runs, actions: Vec::new() })
}

/// The actions for a Rollout, the newest first.
pub async fn actions(session: &Session, name: &str) -> Result<Vec<RolloutAction>, Error> {
    let mut actions: Vec<RolloutAction> = list(session, ACTIONS, "").await?;
    actions.retain(|action| action.spec.rollout == name);
    actions.sort_by_key(|action| std::cmp::Reverse((action.creation_timestamp().map(|time| time.0), action.name_any())));
    Ok(actions)
}

/// The ReplicaSets of a Rollout's revisions.
pub async fn replica_sets(session: &Session, name: &str) -> Result<Vec<ReplicaSet>, Error> {
    list(session, REPLICA_SETS, &owned_by(name)).await
}

async fn list<K>(session: &Session, resource: &'static str, labels: &str) -> Result<Vec<K>, Error>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    K::DynamicType: Default,
{
    let found = session.api::<K>().list(&ListParams::default().labels(labels)).await;
    Ok(found.map_err(session.explain("list", resource))?.items)
}

fn owned_by(name: &str) -> String {
    format!("{}={name}", keys::ROLLOUT)
}

/// A label selector that covers the pods of all revisions.
fn pods_of(rollout: &Rollout) -> String {
    let known = rollout.status.as_ref().map(|status| status.selector.clone()).filter(|selector| !selector.is_empty());
    known.unwrap_or_else(|| keys::POD_TEMPLATE_HASH.into())
}

/// Something that happened to an object of one kind.
pub enum Change {
    Rollout(Event<Rollout>),
    ReplicaSet(Event<ReplicaSet>),
    Pod(Event<Pod>),
    Run(Event<AnalysisRun>),
}

/// Changes of a Rollout and of all that belongs to it. An error is followed by another try, later and later.
pub fn watch(session: &Session, rollout: &Rollout) -> impl Stream<Item = Result<Change, Error>> + Send + use<> {
    let name = rollout.name_any();
    stream::select_all([
        events::<Rollout>(session, ROLLOUTS, watcher::Config::default().fields(&format!("metadata.name={name}")))
            .map(|event| event.map(Change::Rollout))
            .boxed(),
        events(session, REPLICA_SETS, watcher::Config::default().labels(&owned_by(&name)))
            .map(|event| event.map(Change::ReplicaSet))
            .boxed(),
        events(session, PODS, watcher::Config::default().labels(&pods_of(rollout))).map(|event| event.map(Change::Pod)).boxed(),
        events(session, RUNS, watcher::Config::default().labels(&owned_by(&name))).map(|event| event.map(Change::Run)).boxed(),
    ])
}

/// Changes of the objects of one kind that `config` selects.
pub fn events<K>(
    session: &Session,
    resource: &'static str,
    config: watcher::Config,
) -> impl Stream<Item = Result<Event<K>, Error>> + Send + use<K>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    let api: Api<K> = session.api();
    let (asked, url) = (Asked::new("watch", resource, &session.namespace), session.url.clone());
    watcher(api, config).default_backoff().map(move |event| {
        event.map_err(|error| match error {
            watcher::Error::InitialListFailed(error) => Asked { verb: "list", ..asked.clone() }.explain(error, &url),
            watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => asked.explain(error, &url),
            watcher::Error::WatchError(status) => asked.explain(kube::Error::Api(status), &url),
            watcher::Error::NoResourceVersion => Error::Answer(watcher::Error::NoResourceVersion.to_string()),
        })
    })
}

/// The objects of one kind, as their events leave them.
#[derive(Debug)]
pub struct Objects<K> {
    known: BTreeMap<String, K>,
    /// A new list that is coming in; it replaces what is known when it is complete.
    incoming: BTreeMap<String, K>,
    complete: bool,
}

impl<K> Default for Objects<K> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), incoming: BTreeMap::new(), complete: false }
    }
}

impl<K: ResourceExt> Objects<K> {
    pub fn apply(&mut self, event: Event<K>) {
        match event {
            Event::Init => self.incoming.clear(),
            Event::InitApply(object) => {
                self.incoming.insert(object.name_any(), object);
            }
            Event::InitDone => {
                self.known = std::mem::take(&mut self.incoming);
                self.complete = true;
            }
            Event::Apply(object) => {
                self.known.insert(object.name_any(), object);
            }
            Event::Delete(object) => {
                self.known.remove(&object.name_any());
            }
        }
    }

    /// All of them are known.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    pub fn iter(&self) -> impl Iterator<Item = &K> {
        self.known.values()
    }
}

/// A Rollout and what belongs to it, as the changes leave it.
#[derive(Debug, Default)]
pub struct Watched {
    rollouts: Objects<Rollout>,
    replica_sets: Objects<ReplicaSet>,
    pods: Objects<Pod>,
    runs: Objects<AnalysisRun>,
}

impl Watched {
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Rollout(event) => self.rollouts.apply(event),
            Change::ReplicaSet(event) => self.replica_sets.apply(event),
            Change::Pod(event) => self.pods.apply(event),
            Change::Run(event) => self.runs.apply(event),
        }
    }

    /// Every kind has been listed once.
    pub fn is_complete(&self) -> bool {
        self.rollouts.is_complete() && self.replica_sets.is_complete() && self.pods.is_complete() && self.runs.is_complete()
    }

    /// `None`: the Rollout is gone.
    pub fn view(&self) -> Option<View> {
        Some(View {
            rollout: self.rollouts.iter().next()?.clone(),
            replica_sets: self.replica_sets.iter().cloned().collect(),
            pods: self.pods.iter().cloned().collect(),
            runs: self.runs.iter().cloned().collect(),
            actions: Vec::new(),
        })
    }
}
