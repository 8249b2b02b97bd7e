//! Header and mirror routes: requests that reach the canary whatever its weight, or copies of them.

use serde_json::{Value, json};
use sluice::{
    sim::{Behaviour, drive::path},
    world::Watched,
};

use super::{
    at_every_moment_in, promote_if_it_waits,
    shop::{NS, Shop},
    stride, v2_serves_alone,
};

fn testers() -> Value {
    json!({"setHeaderRoute": {"name": "testers", "match": [{"headerName": "X-Canary", "headerValue": {"exact": "yes"}}]}})
}

fn copy(percentage: i32) -> Value {
    json!({"setMirrorRoute": {"name": "copy", "percentage": percentage, "match": [{"method": {"exact": "GET"}}]}})
}

fn with_steps(shop: &mut Shop, steps: &Value) {
    let metric = json!({"name": "success", "prometheus": {"query": "up"}, "min": 99, "interval": "10s"});
    shop.rollout("api", json!({"strategy": {"canary": {"analysis": {"metrics": [metric]}, "steps": steps}}}));
}

fn shop_with(steps: &Value) -> Shop {
    let mut shop = Shop::open();
    with_steps(&mut shop, steps);
    shop
}

/// Both kinds, with a weight, a pause at 50 % and an end of each.
fn both() -> Shop {
    shop_with(&json!([
        testers(), copy(20), {"setWeight": 50}, {"pause": {}}, copy(60), {"setHeaderRoute": {"name": "testers"}}, {"setWeight": 75}
    ]))
}

fn rules(shop: &Shop) -> Vec<Value> {
    shop.get(Watched::HttpRoute, "shop")["spec"]["rules"].as_array().cloned().unwrap_or_default()
}

fn backends(rule: &Value) -> Vec<(String, i64)> {
    let all = rule["backendRefs"].as_array().into_iter().flatten();
    all.map(|b| (b["name"].as_str().unwrap().to_owned(), b["weight"].as_i64().unwrap())).collect()
}

/// The rules behind the author's two.
fn ours(shop: &Shop) -> Vec<Value> {
    rules(shop).split_off(2)
}

/// Of our rules those that send requests, and those that copy them.
fn counts(shop: &Shop) -> (usize, usize) {
    let mirrors = ours(shop).iter().filter(|rule| rule["filters"][0]["type"] == "RequestMirror").count();
    (ours(shop).len() - mirrors, mirrors)
}

fn at_step(shop: &mut Shop, index: i64) {
    shop.until(&format!("waits at step {index}"), |s| s.phase() == "Paused" && s.status("api")["currentStep"]["index"] == index);
}

fn delete(shop: &mut Shop, kind: Watched, name: &str) {
    shop.send("DELETE", &path(kind, NS, name), "person", "application/json", json!({}));
}

fn ready_pods_go(shop: &mut Shop, image: &str) {
    shop.drive.cluster.kubelet.set_behaviour(image, Behaviour::never_ready());
    for pod in shop.pods(image) {
        let name = shop.drive.api.list("pods").find(|p| p["metadata"]["uid"] == *pod).unwrap()["metadata"]["name"].clone();
        delete(shop, Watched::Pod, name.as_str().unwrap());
    }
}

fn is_back(shop: &Shop) -> bool {
    shop.is_healthy("api") && shop.image_that_serves() == "app:v2"
}

#[test]
fn requests_with_the_header_go_to_the_canary_at_weight_0_and_everyone_else_to_stable() {
    let mut shop = shop_with(&json!([testers(), {"pause": {}}, {"setHeaderRoute": {"name": "testers"}}, {"pause": {}}]));
    let author = rules(&shop);
    shop.deploy("app:v2");
    at_step(&mut shop, 1);
    assert_eq!((shop.weight(), shop.pods("app:v2").len()), (0.0, 1));
    let [all, other] = ours(&shop).try_into().unwrap();
    let header = json!({"type": "Exact", "name": "X-Canary", "value": "yes"});
    let team = json!({"type": "Exact", "name": "x-team", "value": "other"});
    assert_eq!(all["matches"], json!([{"path": {"type": "PathPrefix", "value": "/"}, "headers": [header]}]));
    assert_eq!(other["matches"], json!([{"path": {"type": "PathPrefix", "value": "/"}, "headers": [team, header]}]));
    assert_eq!(other["timeouts"], author[1]["timeouts"], "what the author set for the rule holds for its copy");
    for rule in [&all, &other] {
        assert!(rule["backendRefs"].as_array().unwrap().iter().all(|b| b["name"] == "api-canary"), "{rule}");
    }
    shop.command("Promote");
    at_step(&mut shop, 3);
    assert_eq!((ours(&shop).len(), shop.weight()), (0, 0.0), "a step with the same name and no match ends it");
    shop.command("Promote");
    shop.until("promoted", is_back);
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_mirror_copies_a_part_of_the_requests_and_leaves_them_where_they_go() {
    let mut shop =
        shop_with(&json!([copy(20), {"pause": {}}, {"setWeight": 50}, {"pause": {}}, copy(60), {"pause": {}}, copy(0), {"pause": {}}]));
    shop.deploy("app:v2");
    at_step(&mut shop, 1);
    for (rule, own) in rules(&shop).iter().zip(ours(&shop)) {
        assert_eq!(own["matches"][0]["method"], "GET");
        assert_eq!(backends(&own), backends(rule), "the answers come from where they came before");
        let mirror = &own["filters"][0]["requestMirror"];
        assert_eq!(
            (&mirror["backendRef"]["name"], &mirror["backendRef"]["port"], &mirror["percent"]),
            (&json!("api-canary"), &json!(80), &json!(20))
        );
    }
    assert_eq!((counts(&shop), shop.weight()), ((0, 2), 0.0));
    shop.command("Promote");
    at_step(&mut shop, 3);
    for (rule, own) in rules(&shop).iter().zip(ours(&shop)) {
        assert_eq!(backends(&own), backends(rule), "the split follows the weight");
    }
    shop.command("Promote");
    at_step(&mut shop, 5);
    assert_eq!(ours(&shop)[0]["filters"][0]["requestMirror"]["percent"], 60);
    shop.command("Promote");
    at_step(&mut shop, 7);
    assert_eq!((ours(&shop).len(), shop.weight()), (0, 50.0));
    shop.command("Promote");
    shop.until("promoted", is_back);
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn header_values_may_be_prefixes_and_regular_expressions_and_later_steps_replace_earlier_ones() {
    let header =
        |name: &str, value: Value| json!({"setHeaderRoute": {"name": "testers", "match": [{"headerName": name, "headerValue": value}]}});
    let mut shop = Shop::open();
    with_steps(
        &mut shop,
        &json!([header("X-Who", json!({"prefix": "qa."})), {"pause": {}}, header("X-Who", json!({"regex": "[0-9]+"})), {"pause": {}}]),
    );
    shop.deploy("app:v2");
    for (step, value) in [(1, "^qa\\..*"), (3, "[0-9]+")] {
        at_step(&mut shop, step);
        let header = json!({"type": "RegularExpression", "name": "X-Who", "value": value});
        assert_eq!((ours(&shop).len(), &ours(&shop)[0]["matches"][0]["headers"]), (2, &json!([header])));
        shop.command("Promote");
    }
    shop.until("promoted", is_back);
    shop.comes_to_rest();
}

#[test]
fn an_abort_takes_weight_and_rules_away_in_one_write() {
    let mut shop = both();
    shop.deploy("app:v2");
    at_step(&mut shop, 3);
    assert_eq!(counts(&shop), (2, 2));
    shop.command("Abort");
    let mut writes = vec![];
    let mut seen = shop.get(Watched::HttpRoute, "shop")["metadata"]["generation"].clone();
    while !shop.is_aborted() {
        let revision = shop.drive.api.revision();
        assert!(shop.drive.run(shop.drive.now + jiff::SignedDuration::from_mins(5), |d| d.api.revision() != revision));
        let now = shop.get(Watched::HttpRoute, "shop")["metadata"]["generation"].clone();
        if now != seen {
            writes.push((shop.weight(), ours(&shop).len()));
            seen = now;
        }
    }
    assert_eq!(writes, [(0.0, 0)]);
    shop.comes_to_rest();
    assert_eq!(shop.pods("app:v1").len(), 3);
}

#[test]
fn a_canary_that_loses_its_pods_loses_its_rules_and_gets_them_again() {
    let mut shop = shop_with(&json!([testers(), copy(100), {"pause": {}}]));
    shop.drive.promises.lenient_about_requests = true;
    shop.deploy("app:v2");
    at_step(&mut shop, 2);
    assert_eq!((counts(&shop), shop.weight()), ((2, 2), 0.0));
    ready_pods_go(&mut shop, "app:v2");
    shop.until("no rules", |s| ours(s).is_empty());
    shop.drive.cluster.kubelet.set_behaviour("app:v2", Behaviour::default());
    for name in shop.drive.api.list("pods").map(|p| p["metadata"].clone()).collect::<Vec<_>>() {
        if shop.pods("app:v2").iter().any(|uid| name["uid"] == *uid) {
            delete(&mut shop, Watched::Pod, name["name"].as_str().unwrap());
        }
    }
    shop.until("rules again", |s| counts(s) == (2, 2));
    at_step(&mut shop, 2);
    shop.command("Promote");
    shop.until("promoted", is_back);
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_canary_with_a_header_route_drains_before_the_next_version_takes_its_place() {
    let mut shop = shop_with(&json!([testers(), {"pause": {}}]));
    shop.deploy("app:v2");
    at_step(&mut shop, 1);
    shop.deploy("app:v3");
    shop.until("the rules are out", |s| ours(s).is_empty());
    let out = shop.drive.now;
    shop.until("v2 stops", |s| s.pods("app:v2").is_empty());
    assert!(shop.drive.now.duration_since(out).as_secs() >= 10, "S5: it drains");
    at_step(&mut shop, 1);
    assert_eq!(counts(&shop), (2, 0));
    shop.command("Promote");
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v3");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_copy_follows_what_its_author_changes_in_the_rule() {
    let mut shop = shop_with(&json!([testers(), copy(50), {"setWeight": 20}, {"pause": {}}]));
    shop.deploy("app:v2");
    at_step(&mut shop, 3);
    let edit = json!([{"op": "add", "path": "/spec/rules/1/timeouts/request", "value": "9s"},
        {"op": "add", "path": "/spec/rules/0/matches/0/path/value", "value": "/shop"}]);
    shop.send("PATCH", &path(Watched::HttpRoute, NS, "shop"), "ann", "application/json-patch+json", edit);
    shop.until("followed", |s| {
        let of = |pointer: &str| ours(s).iter().filter_map(|rule| rule.pointer(pointer).cloned()).collect::<Vec<_>>();
        let timeouts = of("/timeouts/request");
        ours(s).len() == 4 && timeouts == ["9s", "9s"] && of("/matches/0/path/value").iter().filter(|path| **path == "/shop").count() == 2
    });
    at_step(&mut shop, 3);
    shop.command("Promote");
    shop.until("promoted", is_back);
    shop.comes_to_rest();
    assert_eq!(rules(&shop).len(), 2);
}

#[test]
fn rules_of_the_author_that_point_at_the_canary_service_stay() {
    let mut shop = Shop::open_with_both_services();
    let mut git = rules(&shop);
    git.push(json!({"matches": [{"headers": [{"name": "x-preview", "value": "1"}]}], "backendRefs": [{"name": "api-canary", "port": 80}]}));
    shop.route(Value::from(git.clone()));
    shop.wait(5);
    shop.remember();
    let before = rules(&shop);
    with_steps(&mut shop, &json!([testers(), {"setWeight": 50}, {"pause": {}}]));
    shop.deploy("app:v2");
    shop.drive.promises.lenient_about_requests = true;
    shop.until("our rules", |s| rules(s).len() == 5);
    assert_eq!(rules(&shop)[2], before[2], "the author's third rule stands");
    shop.until("waits", |s| s.phase() == "Paused");
    shop.command("Promote");
    shop.until("promoted", is_back);
    shop.wait(60);
    shop.is_as_in_git();
}

#[test]
fn a_rule_that_somebody_takes_out_comes_back_and_a_route_put_back_gets_its_rules_again() {
    let mut shop = both();
    shop.deploy("app:v2");
    at_step(&mut shop, 3);
    let out = json!([{"op": "remove", "path": "/spec/rules/3"}]);
    shop.send("PATCH", &path(Watched::HttpRoute, NS, "shop"), "ann", "application/json-patch+json", out);
    assert_eq!(ours(&shop).len(), 3);
    shop.until("it is back", |s| counts(s) == (2, 2));
    at_step(&mut shop, 3);
    shop.put_back(&[Watched::HttpRoute]);
    shop.until("all are back", |s| counts(s) == (2, 2) && s.weight() == 50.0);
}

#[test]
fn what_a_route_cannot_express_is_an_invalid_spec_with_its_mend() {
    let says = |steps: Value, rules: Option<Value>, routes: Option<Value>, expected: &str| {
        let mut shop = Shop::open();
        if let Some(rules) = rules {
            shop.route(rules);
        }
        let mut over = json!({"strategy": {"canary": {"steps": steps}}});
        if let Some(routes) = routes {
            over["traffic"] = json!({"service": "api", "routes": routes});
        }
        shop.rollout("api", over);
        shop.wait(10);
        let message = shop.status("api")["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains(expected) && shop.phase() == "Degraded", "{message}");
    };
    let api = |matches: Value| json!({"matches": [matches], "backendRefs": [{"name": "api", "port": 80}]});
    let other = |matches: Value| json!({"matches": [matches], "backendRefs": [{"name": "other", "port": 80}]});
    let header = |name: &str, value: &str| json!({"headers": [{"name": name, "value": value}]});
    let team = json!([{"setHeaderRoute": {"name": "t", "match": [{"headerName": "X-Team", "headerValue": {"prefix": "o"}}]}}]);
    says(team, None, None, "it tells requests by header X-Team already");
    let same = json!([api(json!({})), other(header("X-Canary", "yes"))]);
    says(json!([testers()]), Some(same), None, "spec.rules[1] is for the same requests, and comes first");
    let by_query = json!([api(json!({})), other(json!({"queryParams": [{"name": "q", "value": "1"}]}))]);
    says(json!([testers()]), Some(by_query), None, "would come before spec.rules[1]");
    let many: Vec<Value> = (0..9).map(|n| api(json!({"path": {"type": "PathPrefix", "value": format!("/{n}")}}))).collect();
    says(json!([testers()]), Some(Value::from(many)), None, "would have 18 rules, and 16 are the Gateway API's limit");
    let tcp = json!([{"kind": "HTTPRoute", "name": "shop"}, {"kind": "TCPRoute", "name": "shop"}]);
    says(json!([testers()]), None, Some(tcp), "TCPRoute shop cannot tell requests by their headers");
    let grpc = json!([{"kind": "GRPCRoute", "name": "shop"}]);
    says(json!([copy(50)]), None, Some(grpc), "GRPCRoute shop cannot have its requests mirrored");
}

#[test]
fn a_grpc_route_sends_by_headers_too() {
    let mut shop = Shop::without_rollout();
    shop.route(json!([{"backendRefs": [{"name": "other", "port": 80}]}]));
    let spec = json!({"parentRefs": [{"name": "gw"}], "rules": [
        {"matches": [{"method": {"service": "shop.Cart", "method": "Add"}}], "backendRefs": [{"name": "api", "port": 80}]},
        {"backendRefs": [{"name": "api", "port": 80}]}]});
    shop.apply(Watched::GrpcRoute, json!({"metadata": {"name": "rpc"}, "spec": spec}));
    let before = shop.get(Watched::GrpcRoute, "rpc")["spec"].clone();
    let routes = json!([{"kind": "GRPCRoute", "name": "rpc"}]);
    let traffic = json!({"service": "api", "routes": routes, "drainSeconds": 10, "stepGraceSeconds": 1});
    shop.rollout("api", json!({"traffic": traffic, "strategy": {"canary": {"steps": [testers(), {"pause": {}}]}}}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.deploy("app:v2");
    at_step(&mut shop, 1);
    let rules = shop.get(Watched::GrpcRoute, "rpc")["spec"]["rules"].clone();
    let header = json!([{"type": "Exact", "name": "X-Canary", "value": "yes"}]);
    assert_eq!(rules[2]["matches"], json!([{"method": {"service": "shop.Cart", "method": "Add"}, "headers": header}]));
    assert_eq!(rules[3]["matches"], json!([{"headers": header}]));
    assert_eq!((&rules[2]["backendRefs"][0]["name"], rules.as_array().unwrap().len()), (&json!("api-canary"), 4));
    shop.command("Promote");
    shop.until("promoted", is_back);
    shop.comes_to_rest();
    assert_eq!(shop.get(Watched::GrpcRoute, "rpc")["spec"], before);
}

#[test]
fn two_rollouts_with_header_and_mirror_routes_share_a_route() {
    let mut shop = both();
    let team = json!({"setHeaderRoute": {"name": "testers", "match": [{"headerName": "X-Other", "headerValue": {"exact": "yes"}}]}});
    shop.rollout("other", json!({"strategy": {"canary": {"steps": [team, copy(30), {"setWeight": 30}, {"pause": {}}]}}}));
    shop.until("both are taken over", |s| s.is_healthy("api") && s.is_healthy("other"));
    shop.deploy("app:v2");
    at_step(&mut shop, 3);
    assert_eq!(counts(&shop), (2, 2), "nothing of the other has begun");
    shop.deployment("other", "app:v2");
    shop.until("the other waits, too", |s| s.status("other")["phase"] == "Paused");
    assert_eq!(counts(&shop).0, 3, "each sends its testers");
    let shared = |rule: &&Value| backends(rule).iter().any(|(name, _)| name == "other") && backends(rule).len() > 1;
    assert!(!ours(&shop).iter().any(|rule| shared(&rule)), "a rule that both split is not copied with both parts");
    promote_if_it_waits(&mut shop, "app:v2");
    let action = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "RolloutAction", "metadata": {"name": "on"}, "spec": {"rollout": "other",
        "verb": "Promote", "revision": shop.status("other")["canaryRevision"], "step": 3, "requestedBy": "ann"}});
    shop.send("POST", &path(Watched::RolloutAction, NS, ""), "ann", "application/json", action);
    shop.until("promoted both", |s| s.is_healthy("other") && s.is_healthy("api"));
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn with_rules_an_abort_takes_back_at_every_moment() {
    let abort = |shop: &mut Shop| {
        let action = shop.command("Abort");
        shop.until("answered", |s| !s.outcome(&action).is_empty());
    };
    at_every_moment_in(both(), 1, abort, |shop| {
        shop.until("at an end", |s| s.is_aborted() || s.is_healthy("api") || s.phase() == "Paused");
        if shop.phase() == "Paused" {
            promote_if_it_waits(shop, "app:v2");
        }
        if shop.phase() == "Aborted" {
            assert_eq!((shop.weight(), ours(shop).len(), shop.image_that_serves().as_str()), (0.0, 0, "app:v1"));
        }
    });
}

#[test]
fn with_rules_git_puts_the_route_back_at_every_moment() {
    at_every_moment_in(both(), 2, |shop| shop.put_back(&[Watched::HttpRoute]), v2_serves_alone);
    at_every_moment_in(both(), 5, |shop| shop.put_back(&[Watched::Service, Watched::HttpRoute]), v2_serves_alone);
}

#[test]
fn with_rules_another_template_supersedes_at_every_moment() {
    let act = |shop: &mut Shop| shop.deploy("app:v3");
    at_every_moment_in(both(), 3, act, |shop| {
        promote_if_it_waits(shop, "app:v3");
        shop.wait(60);
        shop.is_as_in_git();
        assert!(shop.pods("app:v1").is_empty() && shop.pods("app:v2").is_empty() && shop.pods("app:v3").len() == 3);
    });
}

#[test]
fn with_rules_a_rollout_deleted_at_every_moment_gives_everything_back() {
    at_every_moment_in(
        both(),
        4,
        |shop| delete(shop, Watched::Rollout, "api"),
        |shop| {
            shop.until("gone", |s| s.get(Watched::Rollout, "api").is_null());
            shop.wait(60);
            shop.is_as_in_git();
            assert_eq!(shop.pods("app:v1").len() + shop.pods("app:v2").len(), 3);
        },
    );
}

#[test]
fn with_rules_a_crash_after_any_write_ends_as_without_it() {
    let mut opened = both();
    let start = opened.drive.writes;
    opened.deploy("app:v2");
    let mut whole = opened.clone();
    promote_if_it_waits(&mut whole, "app:v2");
    for crash in (start + 1..=whole.drive.writes).skip(1 % stride()).step_by(stride()) {
        println!("crash after write {crash}");
        let mut shop = opened.clone();
        shop.drive.crash_after = Some(crash);
        v2_serves_alone(&mut shop);
        shop.comes_to_rest();
    }
}
