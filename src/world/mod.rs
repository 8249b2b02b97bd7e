//! Watches, pruned to what decisions need, and from there to an [`Observed`](crate::core::Observed).

pub mod index;
mod packed;
pub mod project;

use std::{
    collections::BTreeSet,
    sync::{Arc, RwLock},
    time::Duration,
};

use futures::{Stream, StreamExt};
use gateway_api::{experimental::tcproutes::TcpRoute, grpcroutes::GrpcRoute, httproutes::HttpRoute, tlsroutes::TlsRoute};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, Deployment, ReplicaSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::{broadcast, watch};

use crate::api::{AnalysisRun, AnalysisTemplate, ClusterAnalysisTemplate, Rollout, RolloutAction, rollout::RouteKind};

pub use index::{Change, Index, Key};

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Watched {
    Rollout,
    Deployment,
    ReplicaSet,
    Pod,
    Service,
    EndpointSlice,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    AnalysisRun,
    AnalysisTemplate,
    ClusterAnalysisTemplate,
    RolloutAction,
    ControllerRevision,
    Autoscaler,
    Namespace,
}

impl Watched {
    pub const ALL: [Self; 17] = [
        Self::Rollout,
        Self::Deployment,
        Self::ReplicaSet,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::AnalysisRun,
        Self::AnalysisTemplate,
        Self::ClusterAnalysisTemplate,
        Self::RolloutAction,
        Self::ControllerRevision,
        Self::Autoscaler,
        Self::Namespace,
    ];

    pub fn resource(self) -> ApiResource {
        match self {
            Self::Rollout => ApiResource::erase::<Rollout>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::ReplicaSet => ApiResource::erase::<ReplicaSet>(&()),
            Self::Pod => ApiResource::erase::<Pod>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::EndpointSlice => ApiResource::erase::<EndpointSlice>(&()),
            Self::HttpRoute => ApiResource::erase::<HttpRoute>(&()),
            Self::GrpcRoute => ApiResource::erase::<GrpcRoute>(&()),
            Self::TlsRoute => ApiResource::erase::<TlsRoute>(&()),
            Self::TcpRoute => ApiResource::erase::<TcpRoute>(&()),
            Self::AnalysisRun => ApiResource::erase::<AnalysisRun>(&()),
            Self::AnalysisTemplate => ApiResource::erase::<AnalysisTemplate>(&()),
            Self::ClusterAnalysisTemplate => ApiResource::erase::<ClusterAnalysisTemplate>(&()),
            Self::RolloutAction => ApiResource::erase::<RolloutAction>(&()),
            Self::ControllerRevision => ApiResource::erase::<ControllerRevision>(&()),
            Self::Autoscaler => ApiResource::erase::<HorizontalPodAutoscaler>(&()),
            Self::Namespace => ApiResource::erase::<Namespace>(&()),
        }
    }

    pub fn of_route(kind: RouteKind) -> Self {
        match kind {
            RouteKind::HttpRoute => Self::HttpRoute,
            RouteKind::GrpcRoute => Self::GrpcRoute,
            RouteKind::TlsRoute => Self::TlsRoute,
            RouteKind::TcpRoute => Self::TcpRoute,
        }
    }

    /// The kind of route that it is, if it is one.
    pub fn route(self) -> Option<RouteKind> {
        RouteKind::ALL.into_iter().find(|kind| Self::of_route(*kind) == self)
    }

    /// A cluster may do without it: it belongs to a version or channel of the Gateway API that not everyone has installed.
    fn is_optional(self) -> bool {
        self.route().is_some_and(|kind| kind != RouteKind::HttpRoute)
    }

    fn is_cluster_scoped(self) -> bool {
        matches!(self, Self::ClusterAnalysisTemplate | Self::Namespace)
    }

    /// Only what can concern us, where a label tells.
    fn selector(self) -> Option<&'static str> {
        match self {
            Self::Pod => Some("pod-template-hash"),
            Self::EndpointSlice => Some("kubernetes.io/service-name"),
            Self::ControllerRevision => Some("sluice.dev/rollout"),
            _ => None,
        }
    }
}

/// A kind of route that a Rollout names, and that the cluster does not have, is asked for again after this time.
const SERVED_AGAIN: Duration = Duration::from_secs(10);

/// Objects that come at once in a list. They are large as they come: hundreds of KiB each where many write into one.
const PAGE: u32 = 50;

/// Changes that may wait for whoever works on them; beyond, everything is looked at.
const CHANGES: usize = 2_048;

/// Where a kind is watched: in one namespace, or (`None`) in all.
type Scope = Option<String>;

/// What is known of the cluster.
#[derive(Clone)]
pub struct World {
    index: Arc<RwLock<Index>>,
    changed: broadcast::Sender<Key>,
    /// The namespaces that are watched; empty: all of them.
    namespaces: Arc<[String]>,
    listed: Arc<watch::Sender<BTreeSet<(Watched, Scope)>>>,
}

impl Default for World {
    fn default() -> Self {
        Self::of(vec![])
    }
}

impl World {
    /// A world that sees nothing but these namespaces; without any, the whole cluster.
    pub fn of(namespaces: Vec<String>) -> Self {
        Self {
            index: Arc::default(),
            changed: broadcast::channel(CHANGES).0,
            namespaces: namespaces.into(),
            listed: Arc::new(watch::channel(BTreeSet::new()).0),
        }
    }

    /// Where a kind is watched.
    fn scopes(&self, kind: Watched) -> Vec<Scope> {
        match self.namespaces.is_empty() || kind.is_cluster_scoped() {
            true => vec![None],
            false => self.namespaces.iter().cloned().map(Some).collect(),
        }
    }

    pub fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.index.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn write(&self, change: impl FnOnce(&mut Index) -> BTreeSet<Key>) {
        let keys = change(&mut self.index.write().unwrap_or_else(std::sync::PoisonError::into_inner));
        for key in keys {
            // Nobody listening is fine: whoever comes later looks at everything.
            drop(self.changed.send(key));
        }
    }

    /// What one of our own writes came back as: decisions after it never rest on what was before it.
    pub fn written(&self, kind: Watched, object: &DynamicObject) {
        self.write(|index| index.take(kind, object, Change::Applied));
    }

    /// Everything that has to be looked at again, from now on. A listener that fell behind is told of everything.
    pub fn changes(&self) -> impl Stream<Item = Key> + use<> {
        let world = self.clone();
        futures::stream::unfold(self.changed.subscribe(), |mut receiver| async move {
            match receiver.recv().await {
                Ok(key) => Some((Ok(key), receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Err(()), receiver)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
        .flat_map(move |key| match key {
            Ok(key) => futures::stream::iter(vec![key]),
            Err(()) => futures::stream::iter(world.read(Index::all_keys).into_iter().collect::<Vec<_>>()),
        })
    }

    /// Kinds that have not been listed yet, everywhere where they are watched.
    pub fn missing(&self) -> Vec<Watched> {
        let listed = self.listed.borrow();
        Watched::ALL.into_iter().filter(|kind| !self.scopes(*kind).into_iter().all(|scope| listed.contains(&(*kind, scope)))).collect()
    }

    /// Whether every kind has been listed once: before that, nothing may be decided.
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }

    pub async fn ready(&self) {
        let mut listed = self.listed.subscribe();
        // Not `wait_for`: it would hold the lock that `is_ready` takes. The sender lives as long as this world.
        while !self.is_ready() && listed.changed().await.is_ok() {}
    }

    /// Watches one kind for ever.
    pub async fn follow(&self, client: Client, kind: Watched) {
        let scopes = self.scopes(kind).into_iter().map(|scope| self.follow_in(client.clone(), kind, scope));
        futures::future::join_all(scopes).await;
    }

    async fn follow_in(&self, client: Client, kind: Watched, scope: Scope) {
        let api: Api<DynamicObject> = match &scope {
            Some(namespace) => Api::namespaced_with(client, namespace, &kind.resource()),
            None => Api::all_with(client, &kind.resource()),
        };
        let config = match kind.selector() {
            Some(selector) => watcher::Config::default().labels(selector),
            None => watcher::Config::default(),
        };
        if kind.is_optional() {
            self.until_served(&api, kind, &scope).await;
        }
        let mut seen = BTreeSet::new();
        let mut events = std::pin::pin!(watcher(api, config.page_size(PAGE)).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.event(kind, &scope, event, &mut seen),
                Err(error) => tracing::warn!(?kind, namespace = scope, %error, "a watch failed and is started again"),
            }
        }
    }

    /// Waits until the cluster has a kind. Nobody is asked again until a Rollout names it.
    async fn until_served(&self, api: &Api<DynamicObject>, kind: Watched, scope: &Scope) {
        let mut changes = self.changed.subscribe();
        loop {
            match api.list(&ListParams::default().limit(1)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                _ => return, // the watch copes with anything else
            }
            self.listed.send_modify(|listed| {
                listed.insert((kind, scope.clone()));
            });
            while !kind.route().is_some_and(|route| self.read(|index| index.is_named(route))) {
                if let Err(broadcast::error::RecvError::Closed) = changes.recv().await {
                    return;
                }
            }
            tokio::time::sleep(SERVED_AGAIN).await;
        }
    }

    fn event(&self, kind: Watched, scope: &Scope, event: watcher::Event<DynamicObject>, seen: &mut BTreeSet<(String, String)>) {
        match event {
            watcher::Event::Apply(object) => self.write(|index| index.take(kind, &object, Change::Applied)),
            watcher::Event::Delete(object) => self.write(|index| index.take(kind, &object, Change::Deleted)),
            watcher::Event::Init => seen.clear(), // of a list that was not finished
            watcher::Event::InitApply(object) => {
                seen.insert((object.metadata.namespace.clone().unwrap_or_default(), object.metadata.name.clone().unwrap_or_default()));
                self.write(|index| index.take(kind, &object, Change::Applied));
            }
            watcher::Event::InitDone => {
                self.write(|index| index.retain(kind, scope.as_deref(), &std::mem::take(seen)));
                self.listed.send_modify(|listed| {
                    listed.insert((kind, scope.clone()));
                });
            }
        }
    }
}
