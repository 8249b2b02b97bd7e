//! What the simulated cluster does by itself, seen by a real client.
#![cfg(feature = "sim")]

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use serde_json::{Value, json};
use sluice::sim::{Behaviour, Options, SimCluster};
use tokio::time::timeout;

const NS: &str = "default";

struct World {
    cluster: SimCluster,
    client: Client,
}

impl World {
    fn start() -> Self {
        let cluster = SimCluster::start(Options::default());
        let client = cluster.client("test");
        Self { cluster, client }
    }

    fn deployments(&self) -> Api<Deployment> {
        Api::default_namespaced(self.client.clone())
    }

    fn sets(&self) -> Api<ReplicaSet> {
        Api::default_namespaced(self.client.clone())
    }

    async fn deploy(&self, image: &str, replicas: i32) {
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api"}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "api"}},
            "template": {"metadata": {"labels": {"app": "api"}}, "spec": {"containers": [
                {"name": "api", "image": image, "ports": [{"containerPort": 8080, "name": "http"}]}]}}}});
        self.deployments().patch("api", &PatchParams::apply("git"), &Patch::Apply(deployment)).await.unwrap();
    }

    async fn serve(&self) {
        let service = json!({"metadata": {"name": "api"},
            "spec": {"selector": {"app": "api"}, "ports": [{"port": 80, "targetPort": "http"}]}});
        let services = Api::<Service>::default_namespaced(self.client.clone());
        services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    }

    async fn patch_deployment(&self, patch: Value) {
        self.deployments().patch("api", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn patch_set(&self, name: &str, patch: Value) {
        self.sets().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Waits until `holds`, for an hour of virtual time at most.
    async fn until(&self, what: &str, holds: impl Fn(&SimCluster) -> bool) {
        let waited = timeout(Duration::from_secs(3600), self.cluster.until(holds)).await;
        assert!(waited.is_ok(), "never happened: {what}; pods {:#?}", ready_pods(&self.cluster));
    }

    /// Lets everything that is going to happen within `seconds` happen.
    async fn settle(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    fn status(&self) -> Value {
        self.cluster.get("deployments.apps", NS, "api").unwrap()["status"].clone()
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn uids<'a>(objects: impl IntoIterator<Item = &'a Value>) -> BTreeSet<String> {
    objects.into_iter().map(|o| o["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
}

fn ready_pods(cluster: &SimCluster) -> BTreeSet<String> {
    uids(cluster.list("pods", NS).iter().filter(|p| is_ready(p) && p["metadata"]["deletionTimestamp"].is_null()))
}

fn set_names(cluster: &SimCluster) -> Vec<String> {
    let sets = cluster.list("replicasets.apps", NS);
    sets.iter().map(|s| s["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn ready_endpoints(cluster: &SimCluster) -> BTreeSet<String> {
    let slices = cluster.list("endpointslices.discovery.k8s.io", NS);
    let endpoints = slices.iter().flat_map(|s| s["endpoints"].as_array().into_iter().flatten());
    let ready = endpoints.filter(|e| e["conditions"]["ready"] == true);
    ready.map(|e| e["targetRef"]["uid"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_deployment_of_three_gets_three_ready_pods_and_endpoints() {
    let w = World::start();
    w.serve().await;
    w.deploy("app:v1", 3).await;
    w.until("three endpoints", |c| ready_endpoints(c).len() == 3).await;
    assert_eq!(ready_endpoints(&w.cluster), ready_pods(&w.cluster));
    let slice = &w.cluster.list("endpointslices.discovery.k8s.io", NS)[0];
    assert_eq!(slice["ports"][0]["port"], 8080, "the named port is looked up in the pods");
    w.until("complete", |c| {
        let d = c.get("deployments.apps", NS, "api").unwrap();
        d["status"]["availableReplicas"] == 3 && d["status"]["observedGeneration"] == d["metadata"]["generation"]
    })
    .await;
    assert_eq!(w.status()["updatedReplicas"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_rolling_update_keeps_enough_pods_and_ends_with_the_new_ones() {
    let w = World::start();
    w.deploy("app:v1", 4).await;
    w.until("v1", |c| ready_pods(c).len() == 4).await;
    let old = ready_pods(&w.cluster);
    w.deploy("app:v2", 4).await;
    w.until("v2", |c| {
        assert!(ready_pods(c).len() >= 3, "a quarter of four may be unavailable");
        ready_pods(c).len() == 4 && ready_pods(c).is_disjoint(&old)
    })
    .await;
    assert_eq!(set_names(&w.cluster).len(), 2, "the old set is kept as history");
}

#[tokio::test(start_paused = true)]
async fn pods_that_never_become_ready_hold_a_rolling_update() {
    let w = World::start();
    w.cluster.set_behaviour("app:v2", Behaviour::never_ready());
    w.deploy("app:v1", 4).await;
    w.until("v1", |c| ready_pods(c).len() == 4).await;
    w.deploy("app:v2", 4).await;
    w.until("deadline", |c| {
        let conditions = c.get("deployments.apps", NS, "api").unwrap()["status"]["conditions"].clone();
        conditions.as_array().unwrap().iter().any(|c| c["reason"] == "ProgressDeadlineExceeded")
    })
    .await;
    assert_eq!(ready_pods(&w.cluster).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_crashing_pod_is_restarted_and_counts_as_unready_meanwhile() {
    let w = World::start();
    w.cluster.set_behaviour("app:v1", Behaviour::crashing_after(Duration::from_secs(20)));
    w.deploy("app:v1", 1).await;
    w.until("ready", |c| ready_pods(c).len() == 1).await;
    w.until("crashed", |c| ready_pods(c).is_empty()).await;
    w.until("ready again", |c| ready_pods(c).len() == 1).await;
    let pod = &w.cluster.list("pods", NS)[0];
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_paused_deployment_scales_but_makes_no_new_set() {
    let w = World::start();
    w.deploy("app:v1", 2).await;
    w.until("v1", |c| ready_pods(c).len() == 2).await;
    let sets = set_names(&w.cluster);
    w.patch_deployment(json!({"spec": {"paused": true, "replicas": 3}})).await;
    w.deploy("app:v2", 3).await;
    w.until("three", |c| ready_pods(c).len() == 3).await;
    w.settle(60).await;
    assert_eq!(set_names(&w.cluster), sets);
}

/// Takes every set of the Deployment under an anchor, in the order given.
async fn take(w: &World, order: &[String]) -> String {
    let anchor = json!({"metadata": {"name": "api"}, "revision": 1, "data": {}});
    let anchors = Api::<ControllerRevision>::default_namespaced(w.client.clone());
    let anchor = anchors.create(&PostParams::default(), &serde_json::from_value(anchor).unwrap()).await.unwrap();
    let uid = anchor.metadata.uid.unwrap();
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ControllerRevision", "name": "api", "uid": uid, "controller": true}]);
    for name in order {
        let labels = json!({"app": null, "moved.sluice.dev/app": "api"});
        w.patch_set(name, json!({"metadata": {"ownerReferences": owner, "labels": labels}})).await;
        w.settle(1).await;
    }
    uid
}

/// A Deployment that has been updated once: an empty set of v1 and the active one of v2, in this order.
async fn updated_once(w: &World) -> Vec<String> {
    w.deploy("app:v1", 2).await;
    w.until("v1", |c| ready_pods(c).len() == 2).await;
    let empty = set_names(&w.cluster).remove(0);
    let old = ready_pods(&w.cluster);
    w.deploy("app:v2", 2).await;
    w.until("v2", |c| ready_pods(c).len() == 2 && ready_pods(c).is_disjoint(&old) && c.list("pods", NS).len() == 2).await;
    let active = set_names(&w.cluster).into_iter().find(|n| *n != empty).unwrap();
    vec![empty, active]
}

#[tokio::test(start_paused = true)]
async fn take_over_and_give_back_keep_the_same_pods() {
    let w = World::start();
    let sets = updated_once(&w).await;
    let pods = ready_pods(&w.cluster);

    w.patch_deployment(json!({"spec": {"paused": true}})).await;
    w.settle(1).await;
    take(&w, &sets).await;
    w.patch_deployment(json!({"spec": {"paused": false, "replicas": 0}})).await;
    w.settle(60).await;
    assert_eq!(ready_pods(&w.cluster), pods);
    let status = w.status();
    assert!(status["replicas"].is_null() && status["collisionCount"] == 1, "{status}");
    let names = set_names(&w.cluster);
    let empty: Vec<&String> = names.iter().filter(|n| !sets.contains(n)).collect();
    assert_eq!(empty.len(), 1, "the Deployment made itself an empty set under a new hash");

    w.patch_deployment(json!({"spec": {"paused": true}})).await;
    w.settle(1).await;
    w.sets().delete(empty[0], &DeleteParams::default()).await.unwrap();
    w.settle(1).await;
    w.patch_deployment(json!({"spec": {"replicas": 2}})).await;
    w.settle(1).await;
    assert_eq!(ready_pods(&w.cluster), pods, "paused and without sets of its own, it makes none");
    for name in sets.iter().rev() {
        let labels = json!({"app": "api", "moved.sluice.dev/app": null});
        w.patch_set(name, json!({"metadata": {"ownerReferences": null, "labels": labels}})).await;
        w.settle(1).await;
    }
    w.patch_deployment(json!({"spec": {"paused": false}})).await;
    w.settle(60).await;
    assert_eq!(ready_pods(&w.cluster), pods);
    assert_eq!((&w.status()["readyReplicas"], w.cluster.list("pods", NS).len()), (&json!(2), 2));
}

#[tokio::test(start_paused = true)]
async fn taking_only_the_active_set_wakes_the_newest_of_the_history() {
    let w = World::start();
    let sets = updated_once(&w).await;
    w.patch_deployment(json!({"spec": {"paused": true}})).await;
    w.settle(1).await;
    take(&w, &sets[1..]).await;
    w.until("unwanted pods", |c| ready_pods(c).len() == 4).await;
}

#[tokio::test(start_paused = true)]
async fn the_three_propagations_of_a_deletion() {
    for (policy, pods_left, sets_left) in
        [(PropagationPolicy::Background, 0, 0), (PropagationPolicy::Foreground, 0, 0), (PropagationPolicy::Orphan, 2, 1)]
    {
        let w = World::start();
        w.deploy("app:v1", 2).await;
        w.until("v1", |c| ready_pods(c).len() == 2).await;
        let params = DeleteParams { propagation_policy: Some(policy.clone()), ..DeleteParams::default() };
        w.deployments().delete("api", &params).await.unwrap();
        w.until("gone", |c| c.get("deployments.apps", NS, "api").is_none()).await;
        if policy == PropagationPolicy::Foreground {
            assert!(set_names(&w.cluster).is_empty(), "foreground: the owner goes last");
        }
        w.settle(60).await;
        assert_eq!((w.cluster.list("pods", NS).len(), set_names(&w.cluster).len()), (pods_left, sets_left), "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_plain_owner_that_goes_leaves_what_another_controls() {
    let w = World::start();
    w.deploy("app:v1", 2).await;
    w.until("v1", |c| ready_pods(c).len() == 2).await;
    let set = set_names(&w.cluster).remove(0);
    let pods = ready_pods(&w.cluster);
    w.patch_deployment(json!({"spec": {"paused": true}})).await;
    w.settle(1).await;
    let anchor = take(&w, std::slice::from_ref(&set)).await;
    let plain = json!({"metadata": {"name": "plain"}, "revision": 1, "data": {}});
    let revisions = Api::<ControllerRevision>::default_namespaced(w.client.clone());
    let plain = revisions.create(&PostParams::default(), &serde_json::from_value(plain).unwrap()).await.unwrap();
    let owners = json!([
        {"apiVersion": "apps/v1", "kind": "ControllerRevision", "name": "api", "uid": anchor, "controller": true},
        {"apiVersion": "apps/v1", "kind": "ControllerRevision", "name": "plain", "uid": plain.metadata.uid}]);
    w.patch_set(&set, json!({"metadata": {"ownerReferences": owners}})).await;
    let foreground = DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    revisions.delete("plain", &foreground).await.unwrap();
    w.settle(60).await;
    assert_eq!(ready_pods(&w.cluster), pods);
    revisions.delete("api", &DeleteParams::default()).await.unwrap();
    w.until("all gone with the anchor", |c| c.list("pods", NS).is_empty() && set_names(c).is_empty()).await;
}

async fn route(w: &World, backends: Value) {
    let dynamic = |kind: &str, plural: &str| kube::core::ApiResource {
        group: "gateway.networking.k8s.io".into(),
        version: "v1".into(),
        api_version: "gateway.networking.k8s.io/v1".into(),
        kind: kind.into(),
        plural: plural.into(),
    };
    let apply = |resource: kube::core::ApiResource, name: &'static str, spec: Value| {
        let api = Api::<kube::api::DynamicObject>::default_namespaced_with(w.client.clone(), &resource);
        let object = json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, "spec": spec});
        async move { api.patch(name, &PatchParams::apply("git"), &Patch::Apply(object)).await.unwrap() }
    };
    apply(dynamic("Gateway", "gateways"), "gw", json!({"gatewayClassName": "sim", "listeners": []})).await;
    let spec = json!({"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": backends}]});
    apply(dynamic("HTTPRoute", "httproutes"), "api", spec).await;
}

#[tokio::test(start_paused = true)]
async fn the_gateway_accepts_a_route_and_programs_it_later() {
    let w = World::start();
    w.serve().await;
    w.deploy("app:v1", 1).await;
    route(&w, json!([{"name": "api", "port": 80}])).await;
    let stored = w.cluster.get("httproutes.gateway.networking.k8s.io", NS, "api").unwrap();
    assert_eq!(stored["spec"]["rules"][0]["backendRefs"][0]["weight"], 1);
    assert_eq!(stored["spec"]["rules"][0]["matches"][0]["path"]["value"], "/");
    assert!(w.cluster.programmed().routes.is_empty(), "the data plane lags");
    w.until("accepted", |c| {
        let route = c.get("httproutes.gateway.networking.k8s.io", NS, "api").unwrap();
        let conditions = &route["status"]["parents"][0]["conditions"];
        conditions[0]["type"] == "Accepted" && conditions[0]["observedGeneration"] == 1 && conditions[1]["status"] == "True"
    })
    .await;
    w.until("programmed", |c| c.programmed().shares(NS, "api", 0).get("api") == Some(&100.0)).await;
    let cluster = (NS.to_owned(), "api".to_owned(), 80);
    w.until("endpoints", |c| c.programmed().clusters.get(&cluster).is_some_and(|e| e.len() == 1)).await;
    route(&w, json!([{"name": "api", "port": 80, "weight": 3}, {"name": "other", "port": 80, "weight": 1}])).await;
    w.until("split", |c| c.programmed().shares(NS, "api", 0).get("other") == Some(&25.0)).await;
    assert!(!w.cluster.programmed().clusters.contains_key(&(NS.to_owned(), "other".to_owned(), 80)));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_serves_until_it_has_ended() {
    let w = World::start();
    w.serve().await;
    w.cluster.set_behaviour("app:v1", Behaviour { stop: Duration::from_secs(5), ..Behaviour::default() });
    w.deploy("app:v1", 1).await;
    w.until("ready", |c| ready_endpoints(c).len() == 1).await;
    w.patch_deployment(json!({"spec": {"replicas": 0}})).await;
    w.until("terminating", |c| {
        let slice = &c.list("endpointslices.discovery.k8s.io", NS)[0];
        slice["endpoints"][0]["conditions"] == json!({"ready": false, "serving": true, "terminating": true})
    })
    .await;
    let marked = w.cluster.now();
    w.until("gone", |c| c.list("pods", NS).is_empty()).await;
    let took = w.cluster.now().duration_since(marked).as_secs_f64();
    assert!((4.0..6.0).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_namespace_is_emptied_first() {
    let w = World::start();
    w.cluster.handle().with(|server, now| server.create_namespace("shop", now)).unwrap();
    let maps = Api::<k8s_openapi::api::core::v1::ConfigMap>::namespaced(w.client.clone(), "shop");
    let map = json!({"metadata": {"name": "a", "finalizers": ["test.dev/hold"]}});
    maps.create(&PostParams::default(), &serde_json::from_value(map.clone()).unwrap()).await.unwrap();
    let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(w.client.clone());
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    w.until("marked", |c| !c.list("configmaps", "shop")[0]["metadata"]["deletionTimestamp"].is_null()).await;
    assert!(maps.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "b"}})).unwrap()).await.is_err());
    maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await.unwrap();
    w.until("gone", |c| c.get("namespaces", "", "shop").is_none()).await;
}
