//! Faults and oracles: every request passes a hook before and after it takes effect, and every write is shown to it.
#![cfg(feature = "sim")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use sluice::sim::api::{ApiError, ApiServer, Event, Request, Response};
use sluice::sim::service::{Hook, Verdict};
use sluice::sim::{Options, SimCluster};

/// Does one thing to the next write, and remembers all writes.
#[derive(Clone, Default)]
struct Fault {
    before: Arc<Mutex<Option<Verdict>>>,
    after: Arc<Mutex<Option<Verdict>>>,
    writes: Arc<Mutex<Vec<String>>>,
}

impl Hook for Fault {
    fn before(&mut self, request: &Request, _: &ApiServer, _: Timestamp) -> Verdict {
        if request.is_write() { self.before.lock().unwrap().take().unwrap_or_default() } else { Verdict::Pass }
    }

    fn after(&mut self, request: &Request, _: &Response, _: &ApiServer, _: Timestamp) -> Verdict {
        if request.is_write() { self.after.lock().unwrap().take().unwrap_or_default() } else { Verdict::Pass }
    }

    fn committed(&mut self, event: &Event, _: &ApiServer) {
        let write = format!("{} {:?} {}", event.actor, event.change, event.kind);
        self.writes.lock().unwrap().push(write);
    }
}

fn start() -> (SimCluster, Client, Fault) {
    let cluster = SimCluster::start(Options::default());
    let fault = Fault::default();
    cluster.set_hook(fault.clone());
    let client = cluster.client("test");
    (cluster, client, fault)
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_request_can_be_refused_lost_before_or_lost_after_it_took_effect() {
    let (_cluster, client, fault) = start();
    let maps = Api::<ConfigMap>::default_namespaced(client);
    let refusal = ApiError { code: 429, reason: "TooManyRequests", message: "later".into(), details: json!({}) };
    *fault.before.lock().unwrap() = Some(Verdict::Answer(refusal.into()));
    let refused = maps.create(&PostParams::default(), &map("a")).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(s) if s.code == 429), "{refused}");
    *fault.before.lock().unwrap() = Some(Verdict::Lose);
    assert!(maps.create(&PostParams::default(), &map("a")).await.is_err());
    assert!(maps.get_opt("a").await.unwrap().is_none(), "lost before it took effect");
    *fault.after.lock().unwrap() = Some(Verdict::Lose);
    assert!(maps.create(&PostParams::default(), &map("a")).await.is_err());
    assert!(maps.get_opt("a").await.unwrap().is_some(), "lost after it took effect");
}

#[tokio::test(start_paused = true)]
async fn an_answer_can_come_late_or_never() {
    let (cluster, client, fault) = start();
    let maps = Api::<ConfigMap>::default_namespaced(client);
    *fault.after.lock().unwrap() = Some(Verdict::Delay(Duration::from_secs(30)));
    let begin = cluster.now();
    maps.create(&PostParams::default(), &map("a")).await.unwrap();
    assert_eq!(cluster.now().duration_since(begin).as_secs(), 30);
    *fault.before.lock().unwrap() = Some(Verdict::Hang);
    let patch = Patch::Merge(json!({"data": {"k": "v"}}));
    let params = PatchParams::default();
    let hung = tokio::time::timeout(Duration::from_secs(3600), maps.patch("a", &params, &patch));
    assert!(hung.await.is_err());
    assert!(maps.get("a").await.unwrap().data.is_none());
}

fn deployment() -> Deployment {
    let template = json!({"metadata": {"labels": {"app": "api"}}, "spec": {"containers": [{"name": "api", "image": "app:v1"}]}});
    let spec = json!({"replicas": 1, "selector": {"matchLabels": {"app": "api"}}, "template": template});
    serde_json::from_value(json!({"metadata": {"name": "api"}, "spec": spec})).unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_write_is_shown_with_who_made_it() {
    let (cluster, client, fault) = start();
    Api::<Deployment>::default_namespaced(client).create(&PostParams::default(), &deployment()).await.unwrap();
    cluster.until(|c| c.get("deployments.apps", "default", "api").unwrap()["status"]["availableReplicas"] == 1).await;
    let writes = fault.writes.lock().unwrap().clone();
    for expected in [
        "test Added deployments.apps",
        "deployment-controller Added replicasets.apps",
        "replicaset-controller Added pods",
        "kubelet Modified pods",
        "deployment-controller Modified deployments.apps",
    ] {
        assert!(writes.iter().any(|w| w == expected), "{expected} in {writes:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_seed_decides_everything() {
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let cluster = SimCluster::start(Options { seed, ..Options::default() });
        let deployments = Api::<Deployment>::default_namespaced(cluster.client("test"));
        deployments.create(&PostParams::default(), &deployment()).await.unwrap();
        cluster.until(|c| c.get("deployments.apps", "default", "api").unwrap()["status"]["availableReplicas"] == 1).await;
        let log = cluster.handle().with(|server, _| server.since(0).map(|e| (*e.object).clone()).collect::<Vec<_>>());
        runs.push(log);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}
