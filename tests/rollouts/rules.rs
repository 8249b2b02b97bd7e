//! Rules as authors may write them, up to the limits of the Gateway API: everyone else's share stays what it is at every write (the oracle
//! of S9 looks at each), and in the end the route is as in Git.

use serde_json::{Value, json};
use sluice::world::Watched;

use super::shop::Shop;

fn backend(name: &str, port: i32, weight: Option<u64>) -> Value {
    match weight {
        Some(weight) => json!({"name": name, "port": port, "weight": weight}),
        None => json!({"name": name, "port": port}),
    }
}

/// A shop with this one rule, and pods behind all its backends; taken over, if it can be.
fn shop_with(backends: Value) -> Shop {
    let mut shop = Shop::without_rollout();
    let names = backends.as_array().unwrap().iter().map(|b| b["name"].as_str().unwrap()).filter(|name| *name != "api");
    for name in names {
        let spec = json!({"selector": {"app": "other"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
        shop.apply(Watched::Service, json!({"metadata": {"name": name}, "spec": spec}));
    }
    roll_behind(&mut shop, backends);
    shop
}

/// Git's route has this one rule, and a Rollout comes.
fn roll_behind(shop: &mut Shop, backends: Value) {
    shop.route(json!([{"backendRefs": backends}]));
    shop.wait(5);
    shop.drive.promises.broken.clear(); // before there was a Rollout
    shop.remember();
    shop.rollout("api", json!({}));
    shop.wait(60);
}

/// The canary's share of what the Service has in the first rule, in percent.
fn part(shop: &Shop) -> f64 {
    let weight = shop.weight();
    if weight.is_nan() { 0.0 } else { weight }
}

/// v2 waits at the step with 50 %.
fn halfway(shop: &mut Shop) {
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.deploy("app:v2");
    shop.until("at 50 %", |s| s.phase() == "Paused" && s.status("api")["currentStep"]["index"] == 3);
}

/// The spec is invalid, and nothing was touched. Gives what it says.
fn refused(shop: &mut Shop) -> String {
    let conditions = shop.status("api")["conditions"].clone();
    let stalled = conditions.as_array().unwrap().iter().find(|c| c["type"] == "Stalled").cloned().unwrap_or_default();
    assert_eq!((&stalled["status"], &stalled["reason"]), (&json!("True"), &json!("InvalidSpec")), "{conditions:#}");
    let deployment = shop.get(Watched::Deployment, "api");
    assert!(deployment["spec"]["replicas"] == 3 && deployment["spec"]["paused"].is_null(), "it was taken over: {deployment:#}");
    shop.comes_to_rest();
    shop.is_as_in_git();
    stalled["message"].as_str().unwrap_or_default().to_owned()
}

fn promoted(shop: &mut Shop) {
    shop.command("Promote");
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
    assert!(shop.pods("app:v1").is_empty() && shop.pods("app:v2").len() == 3);
}

fn neighbours(count: usize, weight: u64) -> Vec<Value> {
    (0..count).map(|n| backend(&format!("partner-{n}"), 80, Some(weight))).collect()
}

#[test]
fn a_rule_with_fifteen_backends_takes_the_canary_as_its_sixteenth() {
    let mut backends = neighbours(14, 7);
    backends.insert(5, backend("api", 80, Some(3)));
    let mut shop = shop_with(json!(backends));
    halfway(&mut shop);
    promoted(&mut shop);
}

#[test]
fn a_rule_that_is_full_is_refused_before_anything_begins() {
    let mut backends = neighbours(15, 7);
    backends.push(backend("api", 80, Some(3)));
    let mut shop = shop_with(json!(backends));
    let message = refused(&mut shop);
    assert!(message.contains("spec.rules[0] of HTTPRoute shop has 16 backends") && message.contains("take one out"), "{message}");
}

#[test]
fn shares_near_the_largest_weight_that_there_is_are_kept() {
    for weights in [(999_999, 1_000_000), (1_000_000, 1), (1_000_000, 1_000_000), (333_333, 999_999)] {
        let mut shop = shop_with(json!([backend("partner", 80, Some(weights.1)), backend("api", 80, Some(weights.0))]));
        halfway(&mut shop);
        promoted(&mut shop);
    }
}

#[test]
fn a_part_that_is_too_small_to_be_split_is_refused_with_the_mend() {
    let mut shop = shop_with(json!([backend("partner", 80, Some(1_000_000)), backend("api", 80, Some(1))]));
    let message = refused(&mut shop);
    assert!(
        message.contains("no weight may be above 1,000,000: divide them all by the same number, or give api a larger part"),
        "{message}"
    );
}

#[test]
fn a_service_without_a_share_in_a_rule_gets_none_by_a_rollout() {
    let mut shop = shop_with(json!([backend("api", 80, Some(0)), backend("partner", 80, Some(1))]));
    halfway(&mut shop);
    assert_eq!(part(&shop), 0.0, "nothing of nothing");
    promoted(&mut shop);
}

#[test]
fn a_service_with_several_ports_is_split_on_each_and_its_canary_has_them_all() {
    let mut shop = Shop::without_rollout();
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": "http", "appProtocol": "kubernetes.io/h2c"},
        {"name": "admin", "port": 81, "targetPort": 9090, "protocol": "TCP"},
    ]);
    shop.apply(Watched::Service, json!({"metadata": {"name": "api"}, "spec": {"selector": {"app": "api"}, "ports": ports}}));
    roll_behind(&mut shop, json!([backend("api", 80, Some(4)), backend("other", 80, None), backend("api", 81, None)]));
    halfway(&mut shop);
    let fields = |name: &str| {
        let ports = shop.get(Watched::Service, name)["spec"]["ports"].clone();
        let of = |port: &Value| ["name", "port", "targetPort", "appProtocol", "protocol"].map(|field| port[field].clone());
        ports.as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(fields("api-canary"), fields("api"));
    let refs = shop.get(Watched::HttpRoute, "shop")["spec"]["rules"][0]["backendRefs"].clone();
    let canaries: Vec<_> = refs.as_array().unwrap().iter().filter(|b| b["name"] == "api-canary").map(|b| b["port"].clone()).collect();
    assert_eq!(canaries, [80, 81], "{refs:#}");
    promoted(&mut shop);
}

/// Where Git lists both Services, nothing enters: a rule may be as full as the Gateway API lets it be. `api` stands in it twice, and once
/// without a share.
#[test]
fn a_full_rule_that_lists_both_services_more_than_once_rolls_and_is_synced_on_the_way() {
    let mut shop = Shop::without_rollout();
    let pair = |weights: (Option<u64>, Option<u64>)| [backend("api", 80, weights.0), backend("api-canary", 80, weights.1)];
    let pairs = [pair((None, None)), pair((Some(4), Some(0))), pair((Some(0), Some(0)))];
    let backends: Vec<Value> = pairs.into_iter().flatten().chain(neighbours(10, 62_000)).collect();
    assert_eq!(backends.len(), 16);
    for name in backends.iter().map(|b| b["name"].as_str().unwrap()).filter(|name| *name != "api") {
        let app = if name == "api-canary" { "api" } else { "other" };
        let spec = json!({"selector": {"app": app}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
        shop.apply(Watched::Service, json!({"metadata": {"name": name}, "spec": spec}));
    }
    // Too coarse as it is: the part of `api` is 2 of 620,006.
    roll_behind(&mut shop, json!(backends));
    assert!(refused(&mut shop).contains("give api a larger part"));
    let mut finer = backends;
    finer.iter_mut().filter(|b| b["weight"] == 62_000).for_each(|b| b["weight"] = json!(62));
    roll_behind(&mut shop, json!(finer));
    halfway(&mut shop);
    assert_eq!(part(&shop), 50.0);
    shop.put_back(&[Watched::HttpRoute, Watched::Service]);
    shop.until("the canary has its part again", |s| s.phase() == "Paused" && part(s) == 50.0);
    promoted(&mut shop);
}
