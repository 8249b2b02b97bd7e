//! While no rollout runs: what the spec names is not there (any more). It is named and waited for; what runs goes on as it is.

use serde_json::{Value, json};
use sluice::{sim::drive::path, world::Watched};

use super::{
    promote_if_it_waits,
    shop::{NS, Shop, template},
};

fn delete(shop: &mut Shop, kind: Watched, name: &str) {
    shop.send("DELETE", &path(kind, NS, name), "person", "application/json", json!({"propagationPolicy": "Background"}));
}

fn create(shop: &mut Shop, kind: Watched, object: &Value) {
    let mut object = json!({"metadata": {"name": object["metadata"]["name"]}, "spec": object["spec"]});
    object["spec"].as_object_mut().unwrap().retain(|key, _| !key.starts_with("clusterIP"));
    shop.apply(kind, object);
}

fn condition(shop: &Shop, name: &str) -> String {
    let status = shop.status("api");
    let found = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == name).cloned().unwrap_or_default();
    format!("{} {}", found["status"].as_str().unwrap_or("absent"), found["reason"].as_str().unwrap_or_default())
}

/// Named at once, Stalled at the deadline (120 s) also where the controller was started again, with nothing changed and nothing written
/// after that.
#[track_caller]
fn is_missed(shop: &mut Shop, words: &str) {
    let pods = shop.pods("app:v1");
    shop.wait(1);
    let writes = shop.drive.writes;
    shop.wait(60);
    let message = shop.status("api")["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with(words), "{message}");
    let told = ["Ready", "Reconciling", "Stalled"].map(|name| condition(shop, name));
    assert_eq!(told, ["False Waiting", "True Waiting", "False NotStalled"]);
    shop.drive.crash();
    shop.wait(50);
    assert_eq!(shop.phase(), "Progressing");
    shop.wait(30);
    let told = ["Ready", "Reconciling", "Stalled"].map(|name| condition(shop, name));
    assert_eq!(told, ["False ProgressDeadlineExceeded", "False AtRest", "True ProgressDeadlineExceeded"]);
    assert!(shop.phase() == "Degraded" && shop.status("api")["message"].as_str().unwrap().starts_with(words));
    assert_eq!(shop.drive.writes, writes + 1, "one status: {:#?}", shop.drive.tail());
    shop.wait(900);
    assert_eq!(shop.drive.writes, writes + 1, "L2: {:#?}", shop.drive.tail());
    assert_eq!(shop.pods("app:v1"), pods, "what runs goes on");
}

#[track_caller]
fn is_healthy_by_itself(shop: &mut Shop) {
    shop.until("healthy by itself", |s| s.is_healthy("api"));
    shop.comes_to_rest();
}

#[test]
fn a_service_or_route_that_is_gone_is_named_until_it_is_back() {
    for (kind, name, words) in [
        (Watched::Service, "api", "waits for Service api: it does not exist yet"),
        (Watched::HttpRoute, "shop", "waits for HTTPRoute shop: it does not exist yet"),
    ] {
        let mut shop = Shop::open();
        shop.drive.promises.lenient_about_requests = true;
        let live = shop.get(kind, name);
        delete(&mut shop, kind, name);
        is_missed(&mut shop, words);
        create(&mut shop, kind, &live);
        is_healthy_by_itself(&mut shop);
    }
}

#[test]
fn a_route_that_leads_elsewhere_is_named_until_it_leads_here() {
    let route = |rule: &str, service: &str| json!([{"name": rule, "backendRefs": [{"name": service, "port": 80}]}]);
    let mut shop = Shop::without_rollout();
    shop.drive.promises.lenient_about_requests = true;
    shop.route(route("front", "api"));
    let routes = json!([{"kind": "HTTPRoute", "name": "shop", "ruleNames": ["front"]}]);
    shop.rollout("api", json!({"traffic": {"service": "api", "routes": routes}}));
    shop.until("taken over", |s| s.is_healthy("api"));
    for (rule, service, words) in [
        ("back", "api", "waits for a rule that is named front in HTTPRoute shop: none is"),
        ("front", "other", "waits for a rule of HTTPRoute shop that points at Service api: none does"),
    ] {
        shop.route(route(rule, service));
        is_missed(&mut shop, words);
        shop.route(route("front", "api"));
        is_healthy_by_itself(&mut shop);
    }
}

#[test]
fn a_template_that_is_gone_is_named_until_it_is_back() {
    let mut shop = Shop::without_rollout();
    let metrics = json!([{"name": "success", "prometheus": {"query": "up"}, "min": 99, "interval": "10s"}]);
    let checks = json!({"metadata": {"name": "checks"}, "spec": {"metrics": metrics}});
    let analysis = json!({"templates": [{"kind": "AnalysisTemplate", "name": "checks"}]});
    shop.rollout("api", json!({"strategy": {"canary": {"analysis": analysis, "steps": [{"setWeight": 50}, {"pause": {}}]}}}));
    shop.until("named", |s| s.status("api")["message"].as_str().is_some_and(|m| m.contains("AnalysisTemplate")));
    is_missed(&mut shop, "waits for AnalysisTemplate \"checks\": it does not exist yet");
    shop.apply(Watched::AnalysisTemplate, checks);
    is_healthy_by_itself(&mut shop);
}

#[test]
fn a_deployment_that_is_gone_is_named_and_one_that_comes_back_with_what_serves_starts_nothing() {
    let mut shop = Shop::open();
    let pods = shop.pods("app:v1");
    delete(&mut shop, Watched::Deployment, "api");
    is_missed(&mut shop, "waits for Deployment api, which is gone: its pods go on serving");
    // Its pods are ready, and get requests, before the controller hears of it.
    shop.drive.lag(Watched::Deployment, std::time::Duration::from_secs(20));
    shop.deployment("api", "app:v1");
    shop.scale("api", 3);
    shop.wait(15);
    assert_eq!(shop.pods("app:v1").len(), 6);
    is_healthy_by_itself(&mut shop);
    assert_eq!(shop.pods("app:v1"), pods, "the pods that served go on");
    assert!(shop.status("api")["history"].is_null(), "no rollout was started: {:#}", shop.status("api"));
    assert_eq!(shop.get(Watched::Deployment, "api")["spec"]["replicas"], 0);
    shop.is_as_in_git();
}

#[test]
fn a_deployment_that_comes_back_with_another_template_is_rolled_out() {
    let mut shop = Shop::open();
    let pods = shop.pods("app:v1");
    delete(&mut shop, Watched::Deployment, "api");
    shop.wait(300);
    shop.deployment("api", "app:v2");
    shop.scale("api", 3);
    shop.until("begins", |s| s.phase() == "Progressing" && s.weight() == 5.0);
    assert_eq!(shop.pods("app:v1"), pods, "stable keeps its pods");
    promote_if_it_waits(&mut shop, "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn in_whatever_order_git_tools_apply_the_end_is_the_same() {
    let mut shop = Shop::without_rollout();
    let (service, route) = (shop.get(Watched::Service, "api"), shop.get(Watched::HttpRoute, "shop"));
    shop.drive.promises.lenient_about_requests = true;
    for (kind, name) in [(Watched::Deployment, "api"), (Watched::Service, "api"), (Watched::HttpRoute, "shop")] {
        delete(&mut shop, kind, name);
    }
    shop.rollout("api", json!({}));
    shop.until("named", |s| s.status("api")["message"].as_str().is_some_and(|m| m.starts_with("waits for Deployment api: it does not")));
    create(&mut shop, Watched::HttpRoute, &route);
    shop.wait(30);
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "api"}}, "template": template("api", "app:v1")});
    shop.apply(Watched::Deployment, json!({"metadata": {"name": "api"}, "spec": spec}));
    shop.until("named", |s| s.status("api")["message"].as_str().unwrap().starts_with("waits for Service api: it does not"));
    create(&mut shop, Watched::Service, &service);
    is_healthy_by_itself(&mut shop);
    assert_eq!(shop.pods("app:v1").len(), 2);
}
