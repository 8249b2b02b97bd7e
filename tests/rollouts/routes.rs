//! Each kind of route, and the policies that a Service has beside them: whole rollouts.

use serde_json::{Value, json};
use sluice::world::Watched;

use super::{promote_if_it_waits, shop::Shop};

/// The weights of the first rule, by name.
fn weights(shop: &Shop, kind: Watched) -> Vec<(String, u64)> {
    let refs = shop.get(kind, "shop")["spec"]["rules"][0]["backendRefs"].clone();
    let weight = |backend: &Value| (backend["name"].as_str().unwrap().to_owned(), backend["weight"].as_u64().unwrap());
    refs.as_array().unwrap().iter().map(weight).collect()
}

/// Only routes of this kind; no HTTPRoute points at the Service.
fn with_route_of(kind: Watched) -> Shop {
    let mut shop = Shop::without_rollout();
    shop.route(json!([{"backendRefs": [{"name": "other", "port": 80}]}]));
    let refs = json!([{"name": "api", "port": 80, "weight": 3}, {"name": "other", "port": 80, "weight": 1}]);
    let spec = json!({"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": refs}]});
    shop.apply(kind, json!({"metadata": {"name": "shop"}, "spec": spec}));
    shop.wait(5);
    shop.remember();
    let routes = json!([{"kind": kind.resource().kind, "name": "shop"}]);
    shop.rollout("api", json!({"traffic": {"service": "api", "routes": routes, "drainSeconds": 10, "stepGraceSeconds": 1}}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop
}

const KINDS: [Watched; 4] = [Watched::HttpRoute, Watched::GrpcRoute, Watched::TlsRoute, Watched::TcpRoute];

#[test]
fn routes_of_each_kind_are_split_step_by_step_and_put_back() {
    for kind in KINDS {
        let mut shop = with_route_of(kind);
        let before = shop.get(kind, "shop")["spec"].clone();
        shop.deploy("app:v2");
        let split = |service: u64, canary: u64| {
            let all = [("api", service), ("other", 1000), ("api-canary", canary)];
            all.map(|(name, weight)| (name.to_owned(), weight))
        };
        for (service, canary) in [(2850, 150), (1500, 1500)] {
            shop.until(&format!("{kind:?}: the canary has {canary} of 4000"), |s| weights(s, kind) == split(service, canary));
        }
        promote_if_it_waits_at_step_3(&mut shop);
        shop.comes_to_rest();
        shop.is_as_in_git();
        assert_eq!(shop.get(kind, "shop")["spec"], before);
        assert!(shop.pods("app:v1").is_empty() && shop.pods("app:v2").len() == 3);
    }
}

fn promote_if_it_waits_at_step_3(shop: &mut Shop) {
    shop.until("it waits for a person", |s| s.phase() == "Paused" && s.status("api")["currentStep"]["index"] == 3);
    shop.command("Promote");
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
}

#[test]
fn an_abort_takes_back_what_a_route_of_any_kind_gives_by_its_first_write() {
    for kind in KINDS {
        let mut shop = with_route_of(kind);
        shop.deploy("app:v2");
        shop.until("it waits for a person", |s| s.phase() == "Paused" && s.status("api")["currentStep"]["index"] == 3);
        let written = shop.drive.writes;
        shop.command("Abort");
        shop.until("the first write", |s| s.drive.writes > written);
        let given = weights(&shop, kind);
        assert!(given.contains(&("api".to_owned(), 3000)) && given.contains(&("api-canary".to_owned(), 0)), "{kind:?}: {given:?}");
        shop.until("taken back", Shop::is_aborted);
        shop.comes_to_rest();
    }
}

#[test]
fn the_gateways_own_success_rate_is_refused_for_calls_whose_failures_it_cannot_see() {
    let mut shop = Shop::without_rollout();
    let spec = json!({"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": "api", "port": 80}]}]});
    shop.apply(Watched::GrpcRoute, json!({"metadata": {"name": "calls"}, "spec": spec}));
    let blind = json!({"name": "success", "preset": "contour/success-rate", "min": 99, "prometheus": {"address": "http://prometheus"}});
    shop.apply(Watched::AnalysisTemplate, json!({"metadata": {"name": "web"}, "spec": {"metrics": [blind]}}));
    shop.wait(5);
    shop.remember();
    let with = |shop: &mut Shop, analysis: Value| {
        let routes = json!([{"kind": "HTTPRoute", "name": "shop"}, {"kind": "GRPCRoute", "name": "calls"}]);
        let traffic = json!({"service": "api", "routes": routes, "drainSeconds": 10, "stepGraceSeconds": 1});
        let canary = json!({"analysis": analysis, "steps": [{"setWeight": 50}]});
        shop.rollout("api", json!({"traffic": traffic, "strategy": {"canary": canary}}));
        shop.wait(30);
        shop.status("api")["message"].as_str().unwrap_or_default().to_owned()
    };
    let why = "contour/success-rate counts codes of HTTP, which are 200 for calls of gRPC that fail, too, as those of GRPCRoute calls may";
    let compared =
        json!({"name": "success", "preset": "contour/success-rate", "compare": {}, "prometheus": {"address": "http://prometheus"}});
    for (analysis, field) in [
        (json!({"metrics": [blind]}), "spec.strategy.canary.analysis.metrics[0].preset: "),
        (json!({"metrics": [compared]}), "spec.strategy.canary.analysis.metrics[0].preset: "),
        (
            json!({"templates": [{"name": "web"}]}),
            "spec.strategy.canary.analysis.templates[0]: metric success of AnalysisTemplate \"web\": ",
        ),
    ] {
        let message = with(&mut shop, analysis);
        assert!(message.contains(&format!("{field}{why}")) && message.contains("preset: pods/success-rate"), "{message}");
        shop.is_as_in_git();
    }
    let by_pods = json!({"counter": "grpc_server_handled_total", "codeLabel": "grpc_code", "failure": "Unknown|Internal|Unavailable"});
    let seen = json!({"name": "success", "preset": "pods/success-rate", "parameters": by_pods, "scrape": {}, "min": 99});
    with(&mut shop, json!({"metrics": [seen]}));
    shop.until("what the pods count is taken", |s| s.is_healthy("api"));
}

fn policy_not_copied(shop: &Shop) -> Option<Value> {
    let conditions = shop.status("api")["conditions"].clone();
    conditions.as_array().unwrap().iter().find(|c| c["type"] == "PolicyNotCopied").cloned()
}

#[test]
fn another_policy_that_names_the_service_is_told_while_a_rollout_runs() {
    let mut shop = Shop::open();
    let targets = json!([{"group": "", "kind": "Service", "name": "api"}]);
    let other = json!([{"group": "", "kind": "Service", "name": "other"}]);
    let policy =
        |kind: &str, name: &str, spec: Value| json!({"kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec});
    shop.drive.other_policies = vec![
        policy("XBackendTrafficPolicy", "retries", json!({"targetRefs": targets})),
        policy("XBackendTrafficPolicy", "of-another", json!({"targetRefs": other})),
        policy("GCPBackendPolicy", "timeouts", json!({"targetRef": targets[0]})),
        policy("DestinationRule", "pools", json!({"host": "api.default.svc.cluster.local"})),
    ];
    shop.deploy("app:v2");
    shop.until("at 5 %", |s| s.weight() == 5.0);
    let told = policy_not_copied(&shop).unwrap_or_default();
    assert_eq!((&told["status"], &told["reason"]), (&json!("True"), &json!("AttachedByName")));
    assert_eq!(
        told["message"],
        "XBackendTrafficPolicy retries, GCPBackendPolicy timeouts, DestinationRule pools is attached to Service api by name and does not hold for api-canary: attach it to api-canary, too (put that Service into Git), if the canary needs it"
    );
    let events = shop.drive.log.iter().filter(|line| line.contains("event PolicyNotCopied")).count();
    assert_eq!(events, 1, "told once: {:#?}", shop.drive.tail());
    promote_if_it_waits(&mut shop, "app:v2");
    shop.comes_to_rest();
    assert_eq!(policy_not_copied(&shop), None);
    shop.is_as_in_git();
}

#[test]
fn a_canary_service_that_is_in_git_is_left_to_its_author_with_its_policies() {
    let mut shop = Shop::open_with_both_services();
    let policies = "/apis/gateway.networking.k8s.io/v1/namespaces/default/backendtlspolicies";
    let spec = json!({"targetRefs": [{"group": "", "kind": "Service", "name": "api"}], "validation": {"hostname": "api.example"}});
    shop.send("POST", policies, "ann", "application/json", json!({"metadata": {"name": "api"}, "spec": spec}));
    shop.deploy("app:v2");
    promote_if_it_waits(&mut shop, "app:v2");
    assert_eq!(shop.drive.api.list("backendtlspolicies.gateway.networking.k8s.io").count(), 1, "none is copied");
    shop.comes_to_rest();
    shop.is_as_in_git();
}
