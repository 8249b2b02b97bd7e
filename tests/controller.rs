//! The whole controller, with its watches and its queue, on the simulated cluster under a paused clock, with the rights of the chart.

mod rights;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use sluice::{
    api,
    controller::Controller,
    core::{Settings, analysis::Measured, judge::Sample},
    lease::Claim,
    metrics::{Measure, MeasureRequest},
    sim::{Options, SimCluster},
    telemetry::Telemetry,
    world::World,
};

/// Answers every metric with 100, or with 0 once the canary is bad.
#[derive(Clone, Default)]
struct Judge {
    bad: Arc<AtomicBool>,
}

#[async_trait]
impl Measure for Judge {
    fn has_prometheus(&self) -> bool {
        true
    }

    async fn measure(&self, _: &MeasureRequest<'_>) -> Measured {
        let value = if self.bad.load(Ordering::Relaxed) { 0.0 } else { 100.0 };
        Measured { queries: vec!["q".to_owned()], result: Ok(Some(Sample::of(value))), since: None, reading: None, look: None }
    }
}

struct Shop {
    cluster: SimCluster,
    client: Client,
    judge: Judge,
    controller: tokio::task::JoinHandle<()>,
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.controller.abort();
    }
}

const NAMESPACE: &str = "shop";

impl Shop {
    /// A Deployment with three pods, a Service, a route, and the smallest Rollout of the examples.
    async fn open() -> Self {
        Self::open_watching(&[]).await
    }

    /// One whose controller watches only these namespaces, and has no rights elsewhere; none means all.
    async fn open_watching(namespaces: &[&str]) -> Self {
        let namespaces: Vec<String> = namespaces.iter().map(|namespace| (*namespace).to_owned()).collect();
        let cluster = SimCluster::start(Options::default());
        cluster.set_hook(rights::Rights { actor: "sluice", namespaces: namespaces.clone() });
        for crd in api::crds() {
            cluster.install_crd(serde_json::to_value(crd).unwrap()).unwrap();
        }
        let client = cluster.client("team");
        let judge = Judge::default();
        let controller = tokio::spawn(start(&cluster, World::of(namespaces), judge.clone()));
        let shop = Self { cluster, client, judge, controller };
        shop.create("v1", "Namespace", "namespaces", json!({"metadata": {"name": NAMESPACE}})).await;
        for document in ["examples/app.yaml", "examples/rollout.yaml"] {
            shop.apply(&std::fs::read_to_string(document).unwrap()).await;
        }
        shop
    }

    fn api(&self, api_version: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        match kind {
            "Namespace" => Api::all_with(self.client.clone(), &resource),
            _ => Api::namespaced_with(self.client.clone(), NAMESPACE, &resource),
        }
    }

    async fn create(&self, api_version: &str, kind: &str, plural: &str, mut body: Value) {
        body["apiVersion"] = json!(api_version);
        body["kind"] = json!(kind);
        let object = serde_json::from_value(body).unwrap();
        self.api(api_version, kind, plural).create(&PostParams::default(), &object).await.unwrap();
    }

    async fn apply(&self, yaml: &str) {
        use serde::Deserialize;
        for document in serde_yaml_ng::Deserializer::from_str(yaml) {
            let mut body = Value::deserialize(document).unwrap();
            let kind = body["kind"].as_str().unwrap().to_owned();
            body["metadata"]["namespace"] = json!(NAMESPACE);
            let version = body["apiVersion"].as_str().unwrap().to_owned();
            self.create(&version, &kind, &format!("{}s", kind.to_lowercase()), body).await;
        }
    }

    fn rollout(&self) -> Value {
        self.cluster.get("rollouts.sluice.dev", NAMESPACE, "api").unwrap_or_default()
    }

    fn route(&self) -> Value {
        self.cluster.get("httproutes.gateway.networking.k8s.io", NAMESPACE, "api").unwrap_or_default()
    }

    fn phase(&self) -> String {
        self.rollout()["status"]["phase"].as_str().unwrap_or_default().to_owned()
    }

    fn canary_weight(&self) -> f64 {
        self.rollout()["status"]["weights"]["observed"].as_f64().unwrap_or(0.0)
    }

    /// What the events of a reason say.
    fn events(&self, reason: &str) -> Vec<String> {
        let all = self.cluster.list("events.events.k8s.io", NAMESPACE);
        all.iter().filter(|e| e["reason"] == reason).filter_map(|e| Some(e["note"].as_str()?.to_owned())).collect()
    }

    async fn deploy(&self, image: &str) {
        let container =
            self.cluster.get("deployments.apps", NAMESPACE, "api").unwrap()["spec"]["template"]["spec"]["containers"][0]["name"].clone();
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": container, "image": image}]}}}});
        self.api("apps/v1", "Deployment", "deployments").patch("api", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let reached = tokio::time::timeout(Duration::from_secs(1800), self.cluster.until(|_| holds(self))).await;
        assert!(reached.is_ok(), "{what}: not reached; the Rollout says {:#}", self.rollout()["status"]);
    }

    fn image_that_serves(&self) -> Value {
        let stable = self.rollout()["status"]["stableRevision"].clone();
        let sets = self.cluster.list("replicasets.apps", NAMESPACE);
        let set = sets.iter().find(|rs| rs["metadata"]["labels"]["pod-template-hash"] == stable).expect("stable's ReplicaSet");
        set["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    }
}

async fn start_controller(client: Client, world: World, clock: sluice::controller::Clock, judge: Judge) {
    Controller::new(
        client,
        world,
        Claim::always(),
        Settings { prometheus_address: Some("http://prometheus".to_owned()) },
        Arc::new(judge),
        Telemetry::default(),
        clock,
    )
    .run()
    .await;
}

fn start(cluster: &SimCluster, world: World, judge: Judge) -> impl Future<Output = ()> + use<> {
    let handle = cluster.handle().clone();
    start_controller(cluster.client("sluice"), world, Arc::new(move || handle.now()), judge)
}

/// What a user applied: nothing of it may differ at rest.
fn as_applied(mut object: Value) -> Value {
    for key in ["resourceVersion", "generation", "managedFields"] {
        object["metadata"].as_object_mut().unwrap().remove(key);
    }
    object.as_object_mut().unwrap().remove("status");
    object
}

#[tokio::test(start_paused = true)]
async fn a_good_version_is_promoted_and_leaves_route_and_service_as_they_were() {
    let shop = Shop::open().await;
    shop.until("taken over", |s| s.phase() == "Healthy").await;
    let route = as_applied(shop.route());
    let service = as_applied(shop.cluster.get("services", NAMESPACE, "api").unwrap());
    shop.deploy("app:v2").await;
    let mut weights = vec![0.0];
    shop.until("promoted", |s| {
        if weights.last() != Some(&s.canary_weight()) {
            weights.push(s.canary_weight());
        }
        s.phase() == "Healthy" && s.image_that_serves() == "app:v2"
    })
    .await;
    weights.retain(|w| *w > 0.0);
    assert_eq!(weights, [5.0, 25.0, 50.0, 100.0]);
    for weight in weights {
        let note = format!("the canary gets {weight} % of the traffic");
        shop.until(&format!("an event says that {note}"), |s| s.events("WeightObserved").contains(&note)).await;
    }
    assert_eq!(as_applied(shop.route()), route);
    assert_eq!(as_applied(shop.cluster.get("services", NAMESPACE, "api").unwrap()), service);
    assert_eq!(shop.cluster.get("services", NAMESPACE, "api-canary"), None);
}

#[tokio::test(start_paused = true)]
async fn a_bad_version_is_taken_back_and_stays_so() {
    let shop = Shop::open().await;
    shop.until("taken over", |s| s.phase() == "Healthy").await;
    let serving = shop.image_that_serves();
    shop.deploy("app:v3").await;
    shop.until("at 25 %", |s| s.canary_weight() == 25.0).await;
    shop.judge.bad.store(true, Ordering::Relaxed);
    shop.until("taken back", |s| s.phase() == "Aborted").await;
    shop.judge.bad.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(shop.phase(), "Aborted");
    assert_eq!(shop.image_that_serves(), serving);
    assert_eq!(shop.route()["spec"]["rules"][0]["backendRefs"][1]["weight"], 0);
    shop.deploy("app:v4").await;
    shop.until("the next version is promoted", |s| s.phase() == "Healthy" && s.image_that_serves() == "app:v4").await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_rollout_gives_its_deployment_back_unpaused_with_the_same_pods() {
    let shop = Shop::open().await;
    shop.until("taken over", |s| s.phase() == "Healthy").await;
    let pods = |s: &Shop| s.cluster.list("pods", NAMESPACE).iter().map(|pod| pod["metadata"]["uid"].clone()).collect::<Vec<_>>();
    let before = pods(&shop);
    let replicas = shop.rollout()["spec"]["replicas"].clone();
    shop.api("sluice.dev/v1alpha1", "Rollout", "rollouts").delete("api", &Default::default()).await.unwrap();
    shop.until("the Rollout is gone", |s| s.rollout() == Value::default()).await;
    let deployment = shop.cluster.get("deployments.apps", NAMESPACE, "api").unwrap();
    assert_ne!(deployment["spec"]["paused"], true, "an ordinary Deployment again");
    assert_eq!(deployment["spec"]["replicas"], replicas);
    assert_eq!(deployment["metadata"]["annotations"]["sluice.dev/workload-record"], Value::Null);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(pods(&shop), before);
}

#[tokio::test(start_paused = true)]
async fn several_routes_come_home_one_after_the_other() {
    let shop = Shop::open().await;
    let mut second = shop.route();
    second["metadata"] = json!({"name": "more"});
    second["spec"]["hostnames"] = json!(["more.example"]);
    shop.create("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes", second).await;
    let routes = json!([{"kind": "HTTPRoute", "name": "api"}, {"kind": "HTTPRoute", "name": "more"}]);
    let patch = Patch::Merge(json!({"spec": {"traffic": {"routes": routes}}}));
    shop.api("sluice.dev/v1alpha1", "Rollout", "rollouts").patch("api", &PatchParams::default(), &patch).await.unwrap();
    shop.until("taken over", |s| s.phase() == "Healthy").await;
    let more = |s: &Shop| as_applied(s.cluster.get("httproutes.gateway.networking.k8s.io", NAMESPACE, "more").unwrap());
    let before = (as_applied(shop.route()), more(&shop));
    shop.deploy("app:v2").await;
    shop.until("promoted", |s| s.phase() == "Healthy" && s.image_that_serves() == "app:v2").await;
    assert_eq!((as_applied(shop.route()), more(&shop)), before);
}

#[tokio::test(start_paused = true)]
async fn an_analysis_step_that_cannot_decide_pauses_for_a_person() {
    let shop = Shop::open().await;
    let conditions = json!({"successCondition": "result > 200.0", "failureCondition": "result < 0.0"});
    let mut metric = json!({"name": "undecided", "prometheus": {"query": "q"}});
    metric.as_object_mut().unwrap().extend(conditions.as_object().unwrap().clone());
    let canary = json!({"steps": [{"setWeight": 20}, {"analysis": {"metrics": [metric]}}], "analysis": null});
    let patch = Patch::Merge(json!({"spec": {"strategy": {"canary": canary}}}));
    shop.api("sluice.dev/v1alpha1", "Rollout", "rollouts").patch("api", &PatchParams::default(), &patch).await.unwrap();
    shop.until("taken over", |s| s.phase() == "Healthy").await;
    shop.deploy("app:v2").await;
    shop.until("paused", |s| s.phase() == "Paused").await;
    assert_eq!(shop.rollout()["status"]["hold"]["reason"], "InconclusiveAnalysis");
    assert_eq!(shop.canary_weight(), 20.0);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_watches_some_namespaces_needs_no_rights_elsewhere_and_leaves_the_others_alone() {
    let shop = Shop::open_watching(&[NAMESPACE, "not-there-yet"]).await;
    shop.create("v1", "Namespace", "namespaces", json!({"metadata": {"name": "elsewhere"}})).await;
    let mut stray = shop.rollout();
    stray["metadata"] = json!({"name": "api"});
    let elsewhere: Api<api::Rollout> = Api::namespaced(shop.client.clone(), "elsewhere");
    let stray = elsewhere.create(&PostParams::default(), &serde_json::from_value(stray).unwrap()).await.unwrap();
    shop.until("taken over", |s| s.phase() == "Healthy").await;
    shop.deploy("app:v2").await;
    shop.until("promoted", |s| s.phase() == "Healthy" && s.image_that_serves() == "app:v2").await;
    assert_eq!(shop.events("WriteRefused"), Vec::<String>::new());
    assert_eq!(elsewhere.get("api").await.unwrap().metadata.resource_version, stray.metadata.resource_version);
}
