//! Routes with several parents: which of them a step waits for, and what they say that holds it.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};
use sluice::{sim::drive::path, world::Watched};

use super::{
    promote_if_it_waits,
    shop::{NS, Shop},
};

type Reported<'a> = &'a [(&'a str, bool, &'a str)];
const ACCEPTS: Reported = &[("Accepted", true, ""), ("ResolvedRefs", true, "")];
const REFUSES: Reported = &[("Accepted", false, "no listener takes its host name")];

fn apply_route(shop: &mut Shop, parents: Value, rules: Value) {
    let spec = json!({"parentRefs": parents, "hostnames": ["shop.example"], "rules": rules});
    shop.apply(Watched::HttpRoute, json!({"metadata": {"name": "shop"}, "spec": spec}));
}

/// A route with these parents besides the cluster's own gateway, which reports by itself; the Deployment is not taken over yet.
fn with_parents(others: &[&str]) -> Shop {
    let mut shop = Shop::without_rollout();
    let parents: Vec<Value> = ["gw"].iter().chain(others).map(|name| json!({"name": name})).collect();
    apply_route(&mut shop, json!(parents), json!([{"backendRefs": [{"name": "api", "port": 80}]}]));
    shop.wait(5);
    shop.remember();
    shop
}

fn generation(shop: &Shop) -> i64 {
    shop.get(Watched::HttpRoute, "shop")["metadata"]["generation"].as_i64().unwrap()
}

/// Another gateway's controller says this of the route, of a generation (or of none that it names).
fn report_of(shop: &mut Shop, parent: &str, conditions: Reported, generation: Option<i64>) {
    let condition = |(kind, status, message): &(&str, bool, &str)| {
        let mut condition = json!({"type": kind, "status": if *status { "True" } else { "False" }, "reason": "Told", "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        if let Some(generation) = generation {
            condition["observedGeneration"] = json!(generation);
        }
        condition
    };
    let conditions: Vec<Value> = conditions.iter().map(condition).collect();
    let reported = json!({"parentRef": {"name": parent}, "controllerName": "example.com/another", "conditions": conditions});
    let live = shop.get(Watched::HttpRoute, "shop");
    let before = live["status"]["parents"].as_array().cloned().unwrap_or_default();
    let parents: Vec<Value> = before.into_iter().filter(|p| p["parentRef"]["name"] != parent).chain([reported]).collect();
    let path = path(Watched::HttpRoute, NS, "shop") + "/status";
    shop.send("PATCH", &path, "another-gateway", "application/merge-patch+json", json!({"status": {"parents": parents}}));
}

fn report(shop: &mut Shop, parent: &str, conditions: Reported) {
    let generation = generation(shop);
    report_of(shop, parent, conditions, Some(generation));
}

fn message(shop: &Shop) -> String {
    shop.status("api")["message"].as_str().unwrap_or_default().to_owned()
}

/// The reason of TrafficAccepted, present while a route is split.
fn accepted(shop: &Shop) -> String {
    let conditions = shop.status("api")["conditions"].clone();
    let found = conditions.as_array().into_iter().flatten().find(|c| c["type"] == "TrafficAccepted").cloned().unwrap_or_default();
    found["reason"].as_str().unwrap_or_default().to_owned()
}

fn waits_for_late(shop: &Shop) -> bool {
    message(shop) == "waits for the gateway: Gateway late has not taken up the last change of HTTPRoute shop yet"
}

/// Goes on until `holds`, with `late` reporting at once.
#[track_caller]
fn until_with_late(shop: &mut Shop, what: &str, holds: impl Fn(&Shop) -> bool) {
    let lags = |shop: &Shop| {
        let live = shop.get(Watched::HttpRoute, "shop");
        let late = live["status"]["parents"].as_array().into_iter().flatten().find(|p| p["parentRef"]["name"] == "late").cloned();
        late.is_some_and(|late| late["conditions"][0]["observedGeneration"] != live["metadata"]["generation"])
    };
    loop {
        shop.until(what, |s| holds(s) || lags(s));
        if holds(shop) {
            return;
        }
        report(shop, "late", ACCEPTS);
    }
}

/// A Rollout behind `gw` and `late`; v2 has 5 %, which both have taken up.
fn at_5_percent_with_late() -> Shop {
    let mut shop = with_parents(&["late"]);
    report(&mut shop, "late", ACCEPTS);
    shop.rollout("api", json!({}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.deploy("app:v2");
    until_with_late(&mut shop, "at 5 %", |s| s.phase() == "Paused" && s.weight() == 5.0);
    shop
}

#[test]
fn each_change_waits_for_a_parent_that_reports_late_and_not_for_one_that_never_does() {
    let mut shop = with_parents(&["late", "silent"]);
    report(&mut shop, "late", ACCEPTS);
    shop.rollout("api", json!({}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.deploy("app:v2");
    let waits_for_a_person = |s: &Shop| s.phase() == "Paused" && s.status("api")["currentStep"]["index"] == 3;
    let done = |s: &Shop| s.is_healthy("api") && s.image_that_serves() == "app:v2";
    let mut waited_at = vec![];
    loop {
        shop.until("it waits for something, or is promoted", |s| waits_for_late(s) || waits_for_a_person(s) || done(s));
        if done(&shop) {
            break;
        }
        if !waits_for_late(&shop) {
            shop.command("Promote");
            shop.until("goes on", |s| !waits_for_a_person(s));
            continue;
        }
        let told = accepted(&shop);
        let spec = shop.get(Watched::HttpRoute, "shop")["spec"].clone();
        let pods = (shop.pods("app:v1"), shop.pods("app:v2"));
        shop.wait(60);
        assert_eq!(shop.get(Watched::HttpRoute, "shop")["spec"], spec, "it waits");
        assert_eq!((shop.pods("app:v1"), shop.pods("app:v2")), pods);
        waited_at.push((shop.weight(), told));
        report(&mut shop, "late", ACCEPTS);
        shop.until("heard", |s| !waits_for_late(s));
    }
    let (weights, told): (Vec<f64>, Vec<String>) = waited_at.into_iter().unzip();
    assert_eq!(weights, [0.0, 5.0, 50.0, 75.0, 100.0, 0.0, 0.0], "entered, each weight, home, and as in Git");
    assert_eq!(told, ["Pending", "Pending", "Pending", "Pending", "Pending", "Pending", ""]);
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_parent_that_refuses_the_route_holds_the_step_in_its_own_words_until_it_accepts_it() {
    let mut shop = with_parents(&["late"]);
    report(&mut shop, "late", ACCEPTS);
    shop.rollout("api", json!({}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.deploy("app:v2");
    shop.until("it waits", waits_for_late);
    report(&mut shop, "late", REFUSES);
    shop.wait(60);
    assert_eq!(message(&shop), "waits for the gateway: Gateway late does not accept HTTPRoute shop: no listener takes its host name");
    assert_eq!((accepted(&shop).as_str(), shop.weight()), ("NotAccepted", 0.0));
    report(&mut shop, "late", ACCEPTS);
    until_with_late(&mut shop, "at 50 %", |s| s.phase() == "Paused" && s.weight() == 50.0);
    shop.command("Promote");
    until_with_late(&mut shop, "promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn an_abort_takes_the_traffic_back_at_once_although_a_parent_refuses_the_route_and_the_pods_stay_until_it_is_taken_up() {
    for by_hand in [true, false] {
        let mut shop = at_5_percent_with_late();
        report(&mut shop, "late", REFUSES);
        shop.wait(1);
        if by_hand {
            let (asked, written) = (shop.drive.now, shop.drive.writes);
            shop.command("Abort");
            shop.until("the first write", |s| s.drive.writes > written);
            assert_eq!(shop.weight(), 0.0, "S2: {:#?}", shop.drive.tail());
            assert!(shop.drive.now.duration_since(asked) < SignedDuration::from_secs(1), "S2");
        } else {
            shop.until("taken back at the deadline", |s| s.phase() == "Aborted");
            let reason = shop.status("api")["rejected"][0]["reason"].as_str().unwrap().to_owned();
            assert!(reason.starts_with("no progress for 120 s") && reason.contains("no listener takes its host name"), "{reason}");
            assert_eq!(shop.weight(), 0.0);
        }
        shop.wait(120);
        assert_eq!(shop.pods("app:v2").len(), 1, "S5: that gateway may still send to it");
        let told = message(&shop);
        assert!(told.ends_with("waits for the gateway: Gateway late has not taken up the last change of HTTPRoute shop yet"), "{told}");
        report(&mut shop, "late", ACCEPTS);
        shop.until("its pods stop", Shop::is_aborted);
        shop.comes_to_rest();
    }
}

/// A gateway that reports nothing, or no generations: `told` is what it says of a route once.
fn gets_the_grace_time(told: impl Fn(&mut Shop)) {
    const GRACE: i64 = 7;
    let mut shop = Shop::without_rollout();
    shop.drive.cluster.gateway.reports = false;
    let rules = shop.get(Watched::HttpRoute, "shop")["spec"]["rules"].clone();
    shop.drive.promises.lenient_about_requests = true;
    shop.send("DELETE", &path(Watched::HttpRoute, NS, "shop"), "git", "application/json", json!({}));
    apply_route(&mut shop, json!([{"name": "gw"}]), rules);
    shop.wait(5);
    shop.drive.promises.lenient_about_requests = false;
    told(&mut shop);
    shop.remember();
    let traffic =
        json!({"service": "api", "routes": [{"kind": "HTTPRoute", "name": "shop"}], "drainSeconds": 10, "stepGraceSeconds": GRACE});
    shop.rollout(
        "api",
        json!({"traffic": traffic, "strategy": {"canary": {"steps": [{"setWeight": 5}, {"setWeight": 20}, {"pause": {}}]}}}),
    );
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.deploy("app:v2");
    let mut at = vec![];
    for weight in [0.0, 5.0, 20.0] {
        shop.until("the next weight", |s| s.weight() == weight);
        at.push(shop.drive.now);
    }
    shop.until("it waits for a person", |s| s.phase() == "Paused");
    at.push(shop.drive.now);
    for pair in at.windows(2) {
        let took = pair[1].duration_since(pair[0]);
        assert!(took >= SignedDuration::from_secs(GRACE), "only {took:#} between two changes");
    }
    assert!(at[2].duration_since(at[1]) < SignedDuration::from_secs(GRACE + 1), "and no longer");
    promote(&mut shop);
}

fn promote(shop: &mut Shop) {
    shop.command("Promote");
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_route_whose_parents_report_nothing_gets_the_grace_time() {
    gets_the_grace_time(|_| {});
}

#[test]
fn a_parent_that_reports_no_generations_gets_the_grace_time() {
    gets_the_grace_time(|shop| report_of(shop, "gw", ACCEPTS, None));
}

/// As the shop stands, a Rollout takes it over and brings v2, and leaves it as in Git.
#[track_caller]
fn is_taken_over_and_rolls_out(shop: &mut Shop) {
    shop.remember();
    shop.rollout("api", json!({}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.deploy("app:v2");
    promote_if_it_waits(shop, "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn what_a_parent_that_the_route_has_no_more_once_said_holds_nothing() {
    let mut shop = with_parents(&["late"]);
    report(&mut shop, "late", ACCEPTS);
    let rules = shop.get(Watched::HttpRoute, "shop")["spec"]["rules"].clone();
    apply_route(&mut shop, json!([{"name": "gw"}]), rules);
    shop.wait(5);
    let left = shop.get(Watched::HttpRoute, "shop")["status"]["parents"].as_array().map(Vec::len);
    assert_eq!(left, Some(2), "its controller has not taken its report back");
    is_taken_over_and_rolls_out(&mut shop);
}

#[test]
fn a_backend_that_could_not_be_resolved_before_our_first_write_holds_nothing() {
    let mut shop = Shop::without_rollout();
    shop.drive.promises.lenient_about_requests = true; // those of that backend
    apply_route(
        &mut shop,
        json!([{"name": "gw"}]),
        json!([{"backendRefs": [{"name": "api", "port": 80}, {"name": "nowhere", "port": 80}]}]),
    );
    shop.wait(5);
    let resolved = shop.get(Watched::HttpRoute, "shop")["status"]["parents"][0]["conditions"].to_string();
    assert!(resolved.contains("Service nowhere not found"), "{resolved}");
    is_taken_over_and_rolls_out(&mut shop);
}

#[test]
fn a_backend_that_cannot_be_resolved_since_our_write_holds_the_step_and_is_named_until_it_can() {
    let mut shop = Shop::open();
    shop.drive.promises.lenient_about_requests = true; // those of the other team's Service
    shop.deploy("app:v2");
    shop.until("at 5 %", |s| s.phase() == "Paused" && s.weight() == 5.0);
    shop.send("DELETE", &path(Watched::Service, NS, "other"), "another team", "application/json", json!({}));
    shop.wait(60);
    assert_eq!(message(&shop), "waits for the gateway: Gateway gw cannot resolve the backends of HTTPRoute shop: Service other not found");
    assert_eq!((accepted(&shop).as_str(), shop.weight()), ("NotAccepted", 5.0));
    shop.service("other");
    promote_if_it_waits(&mut shop, "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn what_the_gateway_cannot_resolve_gets_no_more_traffic_although_a_person_ends_the_pause() {
    let mut shop = Shop::open();
    shop.drive.promises.lenient_about_requests = true; // those of the other team's Service
    shop.deploy("app:v2");
    shop.until("at 50 %", |s| s.phase() == "Paused" && s.weight() == 50.0);
    shop.send("DELETE", &path(Watched::Service, NS, "other"), "another team", "application/json", json!({}));
    shop.wait(10);
    shop.command("Promote");
    shop.wait(60);
    assert_eq!(message(&shop), "waits for the gateway: Gateway gw cannot resolve the backends of HTTPRoute shop: Service other not found");
    assert_eq!((shop.status("api")["currentStep"]["index"].as_i64(), shop.weight()), (Some(4), 50.0));
    shop.service("other");
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_gateway_of_another_namespace_is_waited_for_and_what_no_reference_grant_allows_is_told_in_its_words() {
    let mut shop = Shop::without_rollout();
    shop.send("POST", "/api/v1/namespaces", "platform", "application/json", json!({"metadata": {"name": "gateways"}}));
    let gateway = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "shared"},
        "spec": {"gatewayClassName": "any", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}});
    let gateways = "/apis/gateway.networking.k8s.io/v1/namespaces/gateways/gateways";
    shop.send("POST", gateways, "platform", "application/json", gateway);
    let parents = json!([{"namespace": "gateways", "name": "shared", "sectionName": "http"}, {"name": "late"}]);
    apply_route(&mut shop, parents, json!([{"backendRefs": [{"name": "api", "port": 80}]}]));
    shop.wait(5);
    shop.remember();
    shop.drive.cluster.timing.accept = Duration::from_secs(20);
    shop.rollout("api", json!({}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.deploy("app:v2");
    shop.until("it waits for that gateway", |s| {
        message(s) == "waits for the gateway: listener http of Gateway shared has not taken up the last change of HTTPRoute shop yet"
    });
    shop.until("at 5 %", |s| s.phase() == "Paused" && s.weight() == 5.0);
    let words = "Backend Service elsewhere/api-canary is not allowed by any ReferenceGrant";
    report(&mut shop, "late", &[("Accepted", true, ""), ("ResolvedRefs", false, words)]);
    shop.wait(30);
    let told = message(&shop);
    assert!(told.contains(&format!("Gateway late cannot resolve the backends of HTTPRoute shop: {words}")), "{told}");
    assert_eq!(accepted(&shop), "NotAccepted");
    until_with_late(&mut shop, "never", |s| s.phase() == "Aborted");
    shop.comes_to_rest();
}
