//! `init` and `lint --online`: against the simulated API server, and a Prometheus on the loopback.

use axum::Router;

use super::*;
use crate::cli::{init, lint};

const APP: &str = include_str!("../../../examples/app.yaml");

/// The example's app, changed by `change`.
async fn app(world: &World, change: impl Fn(&mut Value)) {
    for document in serde_yaml_ng::Deserializer::from_str(APP) {
        let mut object: Value = serde::Deserialize::deserialize(document).unwrap();
        change(&mut object);
        world.create(object).await;
    }
}

fn args(deployment: &str) -> init::Args {
    init::Args { deployment: deployment.into(), service: None, routes: vec![], name: None, prometheus: None }
}

async fn written(world: &World, args: &init::Args) -> Result<(String, String), String> {
    let mut printed = Printed::default();
    match init::run(&world.session, args, None, &mut printed.out()).await {
        Ok(_) => Ok((printed.text().to_owned(), printed.notes().to_owned())),
        Err(error) => Err(error.to_string()),
    }
}

/// A Prometheus whose answer depends on the query.
async fn prometheus(answer: impl Fn(&str) -> Option<&'static str> + Clone + Send + Sync + 'static) -> String {
    let handle = move |body: String| {
        let query: String =
            reqwest::Url::parse(&format!("http://x/?{body}")).unwrap().query_pairs().map(|(_, value)| value.into_owned() + "\n").collect();
        let series = answer(&query).map(|value| json!([{"metric": {}, "value": [0, value]}])).unwrap_or(json!([]));
        let body = match query.contains("syntax error") {
            true => json!({"status": "error", "errorType": "bad_data", "error": "parse error: unexpected identifier"}),
            false => json!({"status": "success", "data": {"resultType": "vector", "result": series}}),
        };
        async move { body.to_string() }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handle)).await.unwrap() });
    address
}

#[tokio::test(start_paused = true)]
async fn init_finds_the_service_and_the_route_and_what_it_writes_passes_lint() {
    let world = World::bare().await;
    app(&world, |_| {}).await;
    let (text, notes) = written(&world, &args("api")).await.unwrap();
    insta::assert_snapshot!("init_scrape", text);
    assert_eq!((notes.as_str(), lint::problems(&text)), ("", vec![]));
}

#[tokio::test(start_paused = true)]
async fn init_says_what_should_be_done_first() {
    let world = World::bare().await;
    app(&world, |object| {
        if let Some(metadata) = object.pointer_mut("/spec/template/metadata") {
            metadata["annotations"] = Value::Null;
        }
    })
    .await;
    world
        .create(json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "api", "namespace": "shop"},
            "spec": {"maxReplicas": 9, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "api"}}
        }))
        .await;
    let (text, notes) = written(&world, &args("api")).await.unwrap();
    insta::assert_snapshot!("init_contour", text);
    insta::assert_snapshot!("init_contour_notes", notes);
}

#[tokio::test]
async fn init_takes_the_preset_that_has_data() {
    let world = World::bare().await;
    app(&world, |_| {}).await;
    world.sim.until(|sim| sim.list("replicasets.apps", "shop").iter().any(|set| set["status"]["readyReplicas"] == 1)).await;
    for (series, expected) in [("envoy_cluster", "contour/success-rate"), ("http_requests_total", "pods/success-rate")] {
        let address = prometheus(move |query| query.contains(series).then_some("1234")).await;
        let (text, _) = written(&world, &init::Args { prometheus: Some(address), ..args("api") }).await.unwrap();
        assert!(text.contains(&format!("{{name: success-rate, preset: {expected}, min: 99}}")), "{text}");
        assert_eq!(lint::problems(&text), Vec::<String>::new());
    }
    for nobody in [prometheus(|_| None).await, "http://127.0.0.1:1".into()] {
        let (text, _) = written(&world, &init::Args { prometheus: Some(nobody), ..args("api") }).await.unwrap();
        assert!(text.contains("preset: pods/success-rate, scrape: {}"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn init_names_the_candidates_where_it_cannot_know() {
    let world = World::bare().await;
    app(&world, |_| {}).await;
    let error = written(&world, &args("web")).await.unwrap_err();
    assert!(error.contains("there is no Deployment \"web\" in the namespace \"shop\""), "{error}");

    let route = |name: &str, service: &str| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": service, "port": 80}]}]}})
    };
    world.create(route("admin", "api")).await;
    let error = written(&world, &args("api")).await.unwrap_err();
    assert!(
        error.contains("several HTTPRoutes point at Service api: admin, api") && error.contains("--route admin --route api"),
        "{error}"
    );
    let (text, _) = written(&world, &init::Args { routes: vec!["api".into(), "admin".into()], ..args("api") }).await.unwrap();
    assert!(text.contains("routes: [{kind: HTTPRoute, name: admin}, {kind: HTTPRoute, name: api}]"), "{text}");
    let error = written(&world, &init::Args { routes: vec!["other".into()], ..args("api") }).await.unwrap_err();
    assert!(error.contains("there is no HTTPRoute \"other\"") && error.contains("there are: admin, api"), "{error}");

    for name in ["api-canary", "internal"] {
        world
            .create(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"selector": {"app": "api"}, "ports": [{"port": 80}]}}))
            .await;
        world.create(route(name, name)).await;
    }
    let error = written(&world, &init::Args { routes: vec![], ..args("api") }).await.unwrap_err();
    assert!(error.contains("--service internal  (HTTPRoute internal)") && !error.contains("--service api-canary"), "{error}");
    let (text, _) = written(&world, &init::Args { service: Some("internal".into()), ..args("api") }).await.unwrap();
    assert!(text.contains("service: internal"), "{text}");
    let error = written(&world, &init::Args { service: Some("other".into()), ..args("api") }).await.unwrap_err();
    assert!(error.contains("\"other\" does not select the pods of Deployment api (app=api)"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn init_does_not_write_a_second_rollout_for_a_deployment() {
    let world = World::new().await;
    app(&world, |_| {}).await;
    let error = written(&world, &args("api")).await.unwrap_err();
    assert!(error.contains("Rollout api looks after Deployment api already"), "{error}");
}

async fn linted(world: &World, manifest: &str, prometheus: Option<String>) -> String {
    let args = lint::Args { files: vec!["-".into()], online: true, prometheus, output: None };
    let report = lint::examine(Some(&world.session), "shop", &args, &mut manifest.as_bytes(), world.sim.now()).await.unwrap();
    report.lines(&fixtures::plain()).join("\n")
}

const ROLLOUT: &str = include_str!("../../../examples/rollout.yaml");

/// Who may look, but not act.
struct Looker;

impl Hook for Looker {
    fn before(&mut self, request: &Request, _: &ApiServer, _: Timestamp) -> Verdict {
        if !request.path.ends_with("selfsubjectaccessreviews") {
            return Verdict::Pass;
        }
        let mut body = request.body.clone();
        let verb = body["spec"]["resourceAttributes"]["verb"].as_str().unwrap_or_default();
        body["status"] = json!({"allowed": matches!(verb, "get" | "list" | "watch")});
        Verdict::Answer(Response { status: 201, body: body.into() })
    }
}

#[tokio::test]
async fn online_what_is_missing_or_does_not_fit_is_told_with_its_mend() {
    let world = World::bare().await;
    for crd in crds() {
        world.sim.install_crd(serde_json::to_value(crd).unwrap()).unwrap();
    }
    world.sim.set_hook(Looker);
    insta::assert_snapshot!("lint_online_nothing", linted(&world, ROLLOUT, None).await);
    app(&world, |object| {
        match object["kind"].as_str() {
            Some("HTTPRoute") => object["spec"]["rules"][0]["backendRefs"][0]["name"] = json!("web"),
            Some("Deployment") => object["spec"]["replicas"] = json!(0), // nothing serves
            _ => {}
        }
    })
    .await;
    world
        .create(json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "api", "namespace": "shop"},
            "spec": {"maxReplicas": 9, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "api"}}
        }))
        .await;
    let with_rules = ROLLOUT.replace("[{kind: HTTPRoute, name: api}]", "[{kind: HTTPRoute, name: api, ruleNames: [main]}]");
    insta::assert_snapshot!("lint_online_misfits", linted(&world, &with_rules, None).await);
}

#[tokio::test]
async fn online_a_route_that_points_at_the_service_and_is_not_named_is_told() {
    let world = World::new().await;
    app(&world, |_| {}).await;
    let others = [("HTTPRoute", "admin", "api"), ("GRPCRoute", "calls", "api"), ("HTTPRoute", "web", "web")];
    for (kind, name, service) in others {
        world
            .create(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": name, "namespace": "shop"},
                "spec": {"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": service, "port": 80}]}]}}))
            .await;
    }
    let text = linted(&world, ROLLOUT, None).await;
    let told: Vec<&str> = text.lines().filter(|line| line.contains("points at Service \"api\", too")).collect();
    assert!(matches!(told[..], [calls, admin] if calls.contains("GRPCRoute calls") && admin.contains("HTTPRoute admin")), "{text}");
    assert!(text.ends_with("no problems"), "it is no fault of the manifest: {text}");

    let both = "[{kind: HTTPRoute, name: api}, {kind: HTTPRoute, name: admin}, {kind: GRPCRoute, name: calls}]";
    let text = linted(&world, &ROLLOUT.replace("[{kind: HTTPRoute, name: api}]", both), None).await;
    assert!(!text.contains("too: its requests"), "{text}");
}

#[tokio::test]
async fn online_the_metrics_are_asked_once_about_what_serves() {
    let world = World::new().await;
    app(&world, |_| {}).await;
    world.healthy("5d7c").await;
    let custom = "        - {name: broken, prometheus: {query: 'syntax error'}, max: 1}\n        - {name: empty, prometheus: {query: 'nothing{pod=~\"{{canary.hash}}.*\"}'}, max: 1}\n";
    let manifest = format!("{ROLLOUT}{custom}");
    let address = prometheus(|query| {
        if query.contains("nothing") {
            None
        } else if query.contains("!=") {
            Some("1990")
        } else {
            Some("2000")
        }
    })
    .await;
    insta::assert_snapshot!("lint_online_metrics", linted(&world, &manifest, Some(address)).await);
    let text = linted(&world, ROLLOUT, Some("http://127.0.0.1:1".into())).await;
    assert!(
        text.contains("could not be asked from here: 127.0.0.1:1") && text.ends_with("✔ 1 document of sluice.dev checked, no problems"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn online_a_controller_without_a_prometheus_is_a_problem_for_metrics_that_name_none() {
    for (arguments, problem) in [(json!(["run"]), true), (json!(["run", "--prometheus-address=http://127.0.0.1:1"]), false)] {
        let world = World::new().await;
        app(&world, |_| {}).await;
        let labels = json!({"app.kubernetes.io/name": "sluice"});
        world
            .create(json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "sluice", "namespace": "shop", "labels": labels},
                "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
                    "containers": [{"name": "sluice", "image": "sluice:1", "args": arguments}]}}}
            }))
            .await;
        let text = linted(&world, ROLLOUT, None).await;
        assert_eq!(text.contains("✖ spec.strategy.canary.analysis.metrics[0].prometheus.address: set the address"), problem, "{text}");
    }
}
