//! How many pods each version has, and for how long.

use serde_json::json;
use sluice::world::Watched;

use super::{at_every_moment_in, halfway, promote_if_it_waits, shop::Shop};

fn steps(steps: serde_json::Value) -> serde_json::Value {
    json!({"strategy": {"canary": {"steps": steps}}})
}

fn at_step(shop: &mut Shop, index: i64) {
    shop.until(&format!("waits at step {index}"), |s| s.phase() == "Paused" && s.status("api")["currentStep"]["index"] == index);
}

#[test]
fn set_canary_scale_gives_the_canary_more_pods_than_its_weight_needs_but_never_fewer() {
    let mut shop = Shop::open();
    shop.rollout(
        "api",
        steps(json!([
            {"setCanaryScale": {"replicas": 2}}, {"pause": {}}, {"setWeight": 5}, {"pause": {}},
            {"setCanaryScale": {"percent": 100}}, {"pause": {}}, {"setCanaryScale": {"replicas": 0}}, {"setWeight": 50}, {"pause": {}},
        ])),
    );
    shop.deploy("app:v2");
    for (step, weight, pods) in [(1, 0.0, 2), (3, 5.0, 2), (5, 5.0, 3), (8, 50.0, 3)] {
        at_step(&mut shop, step);
        assert_eq!((shop.weight(), shop.pods("app:v2").len(), shop.pods("app:v1").len()), (weight, pods, 3), "step {step}");
        shop.command("Promote");
    }
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_set_canary_scale_beyond_replicas_ends_with_the_promotion() {
    let mut shop = Shop::open();
    shop.rollout("api", steps(json!([{"setWeight": 5}, {"setCanaryScale": {"replicas": 5}}, {"pause": {}}])));
    shop.deploy("app:v2");
    at_step(&mut shop, 2);
    assert_eq!(shop.pods("app:v2").len(), 5);
    shop.command("Promote");
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2" && s.pods("app:v2").len() == 3);
    shop.comes_to_rest();
}

#[test]
fn a_version_that_comes_in_the_middle_leaves_stable_the_pods_that_the_first_began_with() {
    let mut shop = halfway();
    let scale = sluice::sim::drive::path(Watched::Rollout, super::shop::NS, "api") + "/scale";
    shop.send("PATCH", &scale, "autoscaler", "application/merge-patch+json", json!({"spec": {"replicas": 1}}));
    shop.wait(5);
    let pods = shop.pods("app:v1");
    shop.deploy("app:v3");
    shop.until("begins", |s| s.weight() == 5.0);
    assert_eq!((pods.len(), shop.pods("app:v1")), (3, pods), "they took back what the first had");
    promote_if_it_waits(&mut shop, "app:v3");
    shop.comes_to_rest();
    assert_eq!(shop.pods("app:v3").len(), 1);
}

#[test]
fn the_old_version_keeps_its_pods_for_the_scale_down_delay_and_is_back_at_once() {
    let mut shop = Shop::open();
    shop.rollout("api", json!({"strategy": {"canary": {"scaleDownDelaySeconds": 600, "steps": [{"setWeight": 50}]}}}));
    let warm = shop.pods("app:v1");
    shop.deploy("app:v2");
    promote_if_it_waits(&mut shop, "app:v2");
    shop.wait(60);
    assert_eq!((shop.phase().as_str(), shop.pods("app:v1")), ("Healthy", warm.clone()), "Ready meanwhile, with its pods");
    let message = shop.status("api")["message"].clone();
    assert!(message.as_str().unwrap().contains("keeps its pods until"), "{message}");

    let mut undone = shop.clone();
    undone.command("Undo");
    undone.until("back", |s| s.phase() == "Aborted" && s.image_that_serves() == "app:v1" && s.pods("app:v2").is_empty());
    undone.comes_to_rest();
    assert_eq!(undone.pods("app:v1"), warm, "the same pods serve again");

    let mut next = shop.clone();
    next.deploy("app:v3");
    promote_if_it_waits(&mut next, "app:v3");
    assert!(next.pods("app:v1").is_empty() && next.pods("app:v2").len() == 3, "only the version before stays");
    next.wait(900);
    next.comes_to_rest();
    next.is_as_in_git();

    let mut deleted = shop.clone();
    let path = sluice::sim::drive::path(Watched::Rollout, super::shop::NS, "api");
    deleted.send("DELETE", &path, "person", "application/json", json!({}));
    deleted.until("gone", |s| s.get(Watched::Rollout, "api").is_null());
    deleted.wait(60);
    deleted.is_as_in_git();

    shop.wait(600);
    shop.comes_to_rest();
    shop.is_as_in_git();
    assert!(shop.pods("app:v1").is_empty());
}

/// A Rollout without `traffic`, of 4 pods: 5 %, a pause of 20 s, 50 %, a pause for a person, 75 %.
fn by_count() -> Shop {
    let mut shop = Shop::without_rollout();
    shop.scale("api", 4);
    shop.wait(30);
    shop.rollout("api", json!({"traffic": null}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop
}

fn counts(shop: &Shop) -> (usize, usize) {
    (shop.pods("app:v1").len(), shop.pods("app:v2").len())
}

#[test]
fn without_traffic_the_share_is_that_of_the_pods_and_stable_keeps_all_of_its_own() {
    let mut shop = by_count();
    shop.deploy("app:v2");
    shop.until("the first step", |s| s.phase() == "Paused" && s.status("api")["currentStep"]["index"] == 1);
    assert_eq!(counts(&shop), (4, 1));
    assert_eq!(shop.status("api")["weights"], json!({"stable": 95, "canary": 5, "observed": 20}));
    at_step(&mut shop, 3);
    assert_eq!(counts(&shop), (4, 4));
    shop.command("Promote");
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
    assert_eq!(counts(&shop), (0, 4));

    shop.command("Undo");
    shop.until("undone", |s| s.phase() == "Aborted" && counts(s) == (4, 0));
    shop.comes_to_rest();
}

#[test]
fn without_traffic_a_bad_version_is_taken_back_by_one_write_to_its_replica_set() {
    let mut shop = by_count();
    shop.deploy("app:v2");
    at_step(&mut shop, 3);
    shop.drive.bad.insert("app:v2".into());
    let from = shop.drive.log.len();
    shop.until("taken back", |s| s.phase() == "Aborted" && counts(s) == (4, 0));
    let did: Vec<&String> = shop.drive.log[from..].iter().filter(|line| !line.contains("status:")).collect();
    assert!(did[0].contains("mark ReplicaSet") && did[0].contains("as rejected"), "{did:#?}");
    shop.drive.bad.clear();
    shop.comes_to_rest();
    assert_eq!(counts(&shop), (4, 0), "S3: abort is absorbing");
}

#[test]
fn without_traffic_another_template_supersedes_at_every_moment() {
    let act = |shop: &mut Shop| shop.deploy("app:v3");
    at_every_moment_in(by_count(), 3, act, |shop| {
        shop.until("promoted or waiting", |s| {
            s.is_healthy("api") && s.image_that_serves() == "app:v3"
                || s.phase() == "Paused" && s.status("api")["currentStep"]["index"] == 3 && s.pods("app:v3").len() == 4
        });
        if !shop.is_healthy("api") {
            shop.command("Promote");
        }
        shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v3");
        assert_eq!((counts(shop), shop.pods("app:v3").len()), ((0, 0), 4));
    });
}

#[test]
fn traffic_is_neither_added_nor_taken_away() {
    let mut shop = Shop::open();
    let path = sluice::sim::drive::path(Watched::Rollout, super::shop::NS, "api");
    let body = json!({"spec": {"traffic": null}});
    let request = sluice::sim::api::Request {
        method: "PATCH".into(),
        path,
        actor: "ann".into(),
        content_type: "application/merge-patch+json".into(),
        body,
        ..Default::default()
    };
    let answer = shop.drive.request(&request);
    assert_eq!(answer.status, 422);
    assert!(answer.body["message"].as_str().unwrap().contains("spec.traffic cannot be added or taken away"), "{}", answer.body);
}

/// More pods at each step are a short wait each time. What lies between them is no lack of progress.
#[test]
fn many_short_waits_are_not_taken_for_one_that_is_longer_than_the_deadline() {
    let mut shop = Shop::without_rollout();
    shop.scale("api", 8);
    shop.wait(10);
    let slow = (1..8).flat_map(|n| [json!({"setWeight": 12.5 * f64::from(n)}), json!({"pause": {"duration": "40s"}})]).collect();
    let mut over = steps(slow);
    over["progressDeadlineSeconds"] = json!(60);
    shop.rollout("api", over);
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.deploy("app:v2");
    shop.until("at an end", |s| s.is_aborted() || s.is_healthy("api"));
    assert_eq!((shop.phase(), shop.image_that_serves()), ("Healthy".into(), "app:v2".into()), "{}", shop.status("api")["message"]);
}

#[test]
fn without_routes_a_rollout_is_scaled_up_also_while_the_version_before_keeps_its_pods_and_those_stop_after_that() {
    let mut shop = Shop::without_rollout();
    let canary = json!({"scaleDownDelaySeconds": 120, "steps": [{"setWeight": 50}]});
    shop.rollout("api", json!({"traffic": null, "strategy": {"canary": canary}}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.deploy("app:v2");
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    let scale = sluice::sim::drive::path(Watched::Rollout, super::shop::NS, "api") + "/scale";
    shop.send("PATCH", &scale, "autoscaler", "application/merge-patch+json", json!({"spec": {"replicas": 5}}));
    shop.wait(10);
    assert_eq!((shop.pods("app:v2").len(), shop.pods("app:v1").len()), (5, 3), "at once, and the old ones stay warm");
    shop.until("the old ones stop", |s| s.pods("app:v1").is_empty());
    shop.comes_to_rest();
}
