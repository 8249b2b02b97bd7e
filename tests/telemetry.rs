//! What `/metrics` says, after the whole controller has rolled on the simulated cluster; and what it costs with ten thousand Rollouts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc,
};

use axum::body::Body;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice::{
    api,
    controller::Controller,
    core::{Settings, analysis::Measured, judge::Sample},
    lease::{Claim, Elector},
    metrics::{Measure, MeasureRequest},
    sim::{Options, SimCluster},
    telemetry::{self, Telemetry, traces::Exporter},
    world::{Watched, World},
};
use tower::ServiceExt;

/// Finds every version good.
struct Content;

#[async_trait::async_trait]
impl Measure for Content {
    fn has_prometheus(&self) -> bool {
        true
    }

    async fn measure(&self, _: &MeasureRequest<'_>) -> Measured {
        Measured { queries: vec!["q".to_owned()], result: Ok(Some(Sample::of(100.0))), since: None, reading: None, look: None }
    }
}

/// The samples of `/metrics`: name with labels -> value.
async fn scrape(router: &axum::Router) -> BTreeMap<String, f64> {
    let request = http::Request::get("/metrics").body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1, "one end");
    let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap());
    let samples: Vec<(String, f64)> = samples.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect();
    let count = samples.len();
    let samples: BTreeMap<_, _> = samples.into_iter().collect();
    assert_eq!(samples.len(), count, "no series twice");
    samples
}

fn of_rollouts(samples: &BTreeMap<String, f64>) -> BTreeSet<&str> {
    samples.keys().map(String::as_str).filter(|series| series.contains("rollout=\"")).collect()
}

struct Shop {
    cluster: SimCluster,
    client: Client,
    metrics: axum::Router,
}

impl Shop {
    async fn open() -> Self {
        Self::open_with(Telemetry::default()).await
    }

    async fn open_with(telemetry: Telemetry) -> Self {
        let cluster = SimCluster::start(Options::default());
        for crd in api::crds() {
            cluster.install_crd(serde_json::to_value(crd).unwrap()).unwrap();
        }
        let (world, handle) = (World::default(), cluster.handle().clone());
        let metrics = telemetry::router(telemetry.clone(), world.clone(), Claim::always());
        let clock: sluice::controller::Clock = std::sync::Arc::new(move || handle.now());
        let settings = Settings { prometheus_address: Some("http://prometheus".to_owned()) };
        let client = cluster.client("sluice");
        let controller = Controller::new(client, world, Claim::always(), settings, std::sync::Arc::new(Content), telemetry, clock);
        tokio::spawn(controller.run());
        let shop = Self { client: cluster.client("team"), cluster, metrics };
        let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}";
        for yaml in [namespace, include_str!("../examples/app.yaml"), include_str!("../examples/rollout.yaml")] {
            for document in serde_yaml_ng::Deserializer::from_str(yaml) {
                shop.create(serde_json::from_value(Value::deserialize(document).unwrap()).unwrap()).await;
            }
        }
        shop
    }

    async fn create(&self, object: DynamicObject) {
        let types = object.types.clone().unwrap();
        let kind = kube::core::ApiResource::from_gvk(&(&types).try_into().unwrap());
        let api: Api<DynamicObject> = match types.kind.as_str() {
            "Namespace" => Api::all_with(self.client.clone(), &kind),
            _ => Api::namespaced_with(self.client.clone(), "shop", &kind),
        };
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        let rollout = || self.cluster.get("rollouts.sluice.dev", "shop", "api").unwrap_or_default()["status"].clone();
        let reached = tokio::time::timeout(std::time::Duration::from_secs(3600), self.cluster.until(|_| is_so(&rollout()))).await;
        assert!(reached.is_ok(), "{what}: {}", rollout());
    }

    /// The samples, as soon as they are as wanted: what the watches bring comes a moment later than it is in the cluster.
    async fn seen(&self, what: &str, is_so: impl Fn(&BTreeMap<String, f64>) -> bool) -> BTreeMap<String, f64> {
        for _ in 0..600 {
            let samples = scrape(&self.metrics).await;
            if is_so(&samples) {
                return samples;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("{what}: {:#?}", scrape(&self.metrics).await);
    }

    async fn release(&self, image: &str) {
        let api: Api<k8s_openapi::api::apps::v1::Deployment> = Api::namespaced(self.client.clone(), "shop");
        let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}});
        api.patch("api", &PatchParams::default(), &Patch::Strategic(change)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollout_is_seen_while_it_runs_and_leaves_one_series_at_rest_and_none_when_it_goes() {
    let shop = Shop::open().await;
    let series = |name: &str, more: &str| format!("sluice_{name}{{namespace=\"shop\",rollout=\"api\"{more}}}");
    let healthy = series("rollout_phase", ",phase=\"Healthy\"");
    shop.until("taken over", |status| status["phase"] == "Healthy").await;
    let samples = shop.seen("nothing waits to be looked at", |samples| samples["sluice_queue_depth"] == 0.0).await;
    assert_eq!(of_rollouts(&samples), BTreeSet::from([healthy.as_str()]));
    assert_eq!(samples["sluice_leader"], 1.0);
    assert_eq!(samples[&format!("sluice_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))], 1.0);

    shop.release("app:v2").await;
    let pauses_at_25 = |status: &Value| status["weights"]["observed"] == 25.0 && status["phase"] == "Paused";
    shop.until("it pauses at 25 %", pauses_at_25).await;
    let samples = scrape(&shop.metrics).await;
    assert_eq!(samples[&series("rollout_phase", ",phase=\"Paused\"")], 1.0);
    assert_eq!(samples.get(&healthy), None);
    assert_eq!(samples[&series("rollout_weight_ratio", ",role=\"canary\"")], 0.25);
    assert_eq!(samples[&series("rollout_weight_ratio", ",role=\"stable\"")], 0.75);
    assert_eq!(samples[&series("rollout_observed_weight_ratio", "")], 0.25);
    assert_eq!(samples[&series("rollout_step", "")], 3.0);
    let now = shop.cluster.now().as_second() as f64;
    let began = samples[&series("rollout_start_timestamp_seconds", "")];
    let step = samples[&series("rollout_step_start_timestamp_seconds", "")];
    let paused = samples[&series("rollout_condition_timestamp_seconds", ",condition=\"Paused\",reason=\"PauseStep\"")];
    assert!(began < step && step <= paused + 1.0 && paused <= now, "{began} {step} {paused} {now}");
    let verdicts = samples.keys().filter(|series| series.starts_with("sluice_rollout_verdict{") && series.contains("verdict=\"Pass\""));
    assert!(verdicts.count() == 1, "{samples:#?}");

    shop.until("promoted", |status| status["phase"] == "Healthy").await;
    let samples = scrape(&shop.metrics).await;
    assert_eq!(of_rollouts(&samples), BTreeSet::from([healthy.as_str()]));
    assert_eq!(samples["sluice_rollout_duration_seconds_count{outcome=\"Promoted\"}"], 1.0);
    assert_eq!(samples["sluice_step_duration_seconds_count{step=\"setWeight\"}"], 3.0);
    assert_eq!(samples["sluice_step_duration_seconds_count{step=\"pause\"}"], 3.0);
    let pauses = samples["sluice_step_duration_seconds_sum{step=\"pause\"}"];
    assert!((180.0..240.0).contains(&pauses), "{pauses}");
    assert!(samples["sluice_write_duration_seconds_count"] > 10.0);

    Api::<api::Rollout>::namespaced(shop.client.clone(), "shop").delete("api", &Default::default()).await.unwrap();
    shop.until("it is gone", |status| status.is_null()).await;
    shop.seen("no series is left", |samples| of_rollouts(samples).is_empty()).await;
}

fn rollout(namespace: &str, name: &str) -> DynamicObject {
    let mut object: Value = serde_yaml_ng::from_str(include_str!("../examples/rollout.yaml")).unwrap();
    object["metadata"] = json!({"name": name, "namespace": namespace, "uid": name, "resourceVersion": "1"});
    object["status"] = json!({"observedGeneration": 1, "phase": "Healthy", "message": "", "stableRevision": "abc"});
    serde_json::from_value(object).unwrap()
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_shows_rollouts_and_ten_thousand_at_rest_are_ten_thousand_short_lines() {
    let world = World::default();
    for n in 0..10_000 {
        world.written(Watched::Rollout, &rollout(&format!("team-{}", n / 20), &format!("r{n}")));
    }
    let leader = telemetry::router(Telemetry::default(), world.clone(), Claim::always());
    let samples = scrape(&leader).await;
    assert_eq!(of_rollouts(&samples).len(), 10_000);
    assert!(samples.keys().map(String::len).sum::<usize>() < 1_000_000);

    let (_elector, waits) = Elector::new(SimCluster::start(Options::default()).client("sluice"), "sluice-system", "sluice", "me");
    let standby = telemetry::router(Telemetry::default(), world.clone(), waits);
    let samples = scrape(&standby).await;
    assert_eq!((samples["sluice_leader"], of_rollouts(&samples).len()), (0.0, 0));
}

/// A collector of traces, and what sends to it. Both live in a runtime of their own, in real time, as their sockets do.
fn collector() -> (Exporter, mpsc::Receiver<Value>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (sink, spans) = mpsc::channel();
    let take = async move |axum::Json(body): axum::Json<Value>| {
        let sent = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().cloned().unwrap_or_default();
        sent.into_iter().for_each(|span| sink.send(span).unwrap());
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}/", listener.local_addr().unwrap());
    let entered = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/v1/traces", axum::routing::post(take))).await });
    let exporter = Exporter::start(&endpoint);
    drop(entered);
    // It runs to the end of the process.
    std::mem::forget(runtime);
    (exporter, spans)
}

#[tokio::test(start_paused = true)]
async fn a_rollout_is_one_trace_with_a_span_for_each_step_and_measurement() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let (exporter, sent) = collector();
    let shop = Shop::open_with(Telemetry::with_traces(exporter)).await;
    shop.until("taken over", |status| status["phase"] == "Healthy").await;
    shop.release("app:v2").await;
    shop.until("it runs", |status| status["phase"] == "Progressing").await;
    shop.until("promoted", |status| status["phase"] == "Healthy").await;
    let mut spans: Vec<Value> = vec![];
    // The span of the whole is the last to end, and so to be sent.
    while !spans.iter().any(|span| span["name"] == "rollout api") {
        spans.push(sent.recv_timeout(std::time::Duration::from_secs(30)).unwrap_or_else(|_| panic!("the rollout has no span: {spans:#?}")));
    }
    let root = spans.iter().find(|span| span["name"] == "rollout api").cloned();
    let root = root.unwrap();
    assert_eq!(root["parentSpanId"], Value::Null);
    assert!(root["attributes"].as_array().unwrap().contains(&json!({"key": "sluice.outcome", "value": {"stringValue": "Promoted"}})));
    let (traces, ids): (BTreeSet<&str>, BTreeSet<&str>) =
        spans.iter().map(|span| (span["traceId"].as_str().unwrap(), span["spanId"].as_str().unwrap())).unzip();
    assert_eq!((traces.len(), ids.len()), (1, spans.len()), "one trace, and no span twice");
    assert!(traces.iter().all(|id| id.len() == 32) && ids.iter().all(|id| id.len() == 16));
    let nanos = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<i128>().unwrap();
    for span in spans.iter().filter(|span| **span != root) {
        assert_eq!(span["parentSpanId"], root["spanId"], "{span}");
        assert!(nanos(span, "startTimeUnixNano") <= nanos(span, "endTimeUnixNano"), "{span}");
    }
    let mut steps: Vec<&Value> = spans.iter().filter(|span| span["name"].as_str().unwrap().starts_with("step ")).collect();
    steps.sort_by_key(|span| nanos(span, "startTimeUnixNano"));
    let names: Vec<&str> = steps.iter().map(|span| span["name"].as_str().unwrap()).collect();
    let wanted =
        ["step 1 setWeight", "step 2 pause", "step 3 setWeight", "step 4 pause", "step 5 setWeight", "step 6 pause", "step 7 promotion"];
    assert_eq!(names, wanted);
    assert!(steps.windows(2).all(|two| nanos(two[0], "endTimeUnixNano") == nanos(two[1], "startTimeUnixNano")), "without gaps");
    assert!(spans.iter().filter(|span| span["name"] == "measure success-rate").count() > 3);
}
