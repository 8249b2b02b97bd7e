//! Back to an earlier revision after the promotion, at every moment of the way home and at rest.

use super::{
    Watched, moments, promote_if_it_waits,
    shop::{self, Shop},
    stride,
};
use serde_json::json;

/// v2 is promoted, and everything is at rest.
fn promoted() -> Shop {
    let mut shop = Shop::open();
    shop.deploy("app:v2");
    promote_if_it_waits(&mut shop, "app:v2");
    shop.wait(60);
    shop
}

fn with_v1_that_does_not_start() -> Shop {
    let mut shop = promoted();
    shop.drive.cluster.kubelet.set_behaviour("app:v1", sluice::sim::Behaviour::never_ready());
    shop.drive.promises.lenient_about_requests = true; // the other app runs v1, too
    shop
}

fn v1_serves_again(shop: &mut Shop) {
    shop.until("undone", |s| s.phase() == "Aborted" && s.image_that_serves() == "app:v1" && s.pods("app:v2").is_empty());
    shop.comes_to_rest();
    assert_eq!((shop.phase().as_str(), shop.weight(), shop.pods("app:v1").len()), ("Aborted", 0.0, 3), "it stays so");
}

#[test]
fn undo_brings_the_revision_back_that_served_before_and_rejects_the_present_one_until_the_template_changes() {
    let mut shop = promoted();
    let action = shop.command("Undo");
    v1_serves_again(&mut shop);
    assert_eq!(shop.outcome(&action), "Done");
    let reason = shop.status("api")["rejected"][0]["reason"].clone();
    assert_eq!(reason, "undone by ann");
    shop.deploy("app:v3");
    promote_if_it_waits(&mut shop, "app:v3");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn without_traffic_what_is_undone_keeps_its_pods_until_the_earlier_revision_is_stable() {
    let mut shop = Shop::without_rollout();
    shop.drive.promises.lenient_about_requests = true;
    shop.rollout("api", json!({"traffic": null, "strategy": {"canary": {"steps": [{"setWeight": 50}]}}}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.deploy("app:v2");
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    shop.command("Undo");
    shop.until("undone", |s| s.phase() == "Aborted" && s.image_that_serves() == "app:v1" && s.pods("app:v2").is_empty());
    shop.comes_to_rest();
}

#[test]
fn what_was_undone_starts_again_only_by_a_retry() {
    let mut shop = promoted();
    shop.command("Undo");
    v1_serves_again(&mut shop);
    shop.command("Retry");
    promote_if_it_waits(&mut shop, "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_promotion_is_taken_back_at_every_moment_of_the_way_home() {
    for verb in ["Abort", "Undo"] {
        let home = moments(Shop::open()).into_iter().filter(|s| s.image_that_serves() == "app:v2");
        for (n, mut shop) in home.enumerate().filter(|(n, _)| n % stride().min(2) == 0) {
            let action = shop.command(verb);
            println!("{verb} at moment {n} of the way home: {}", shop.status("api")["message"]);
            shop.until("answered", |s| !s.outcome(&action).is_empty());
            if verb == "Abort" && shop.outcome(&action) == "Refused" {
                // Its traffic is home: from there on it is no abort any more.
                shop.until("at rest", |s| s.is_healthy("api"));
                continue;
            }
            v1_serves_again(&mut shop);
        }
    }
}

#[test]
fn before_the_service_selects_the_new_version_a_promotion_is_taken_back_by_one_write() {
    let first = moments(Shop::open()).into_iter().find(|s| s.image_that_serves() == "app:v2");
    let mut shop = first.expect("a promotion");
    shop.command("Abort");
    let lines = shop.drive.log.len();
    shop.until("on v1", |s| s.weight() == 0.0);
    let did: Vec<&String> =
        shop.drive.log[lines..].iter().filter(|line| !line.contains("status:") && !line.contains("record the outcome")).collect();
    assert!(did[0].contains("take all traffic of shop back to stable"), "{did:#?}");
}

#[test]
fn a_crash_after_any_write_of_an_undo_ends_as_without_it() {
    let at_rest = promoted();
    let way_home = moments(Shop::open()).into_iter().find(|s| {
        let pinned = s.get(Watched::Service, "api")["spec"]["selector"]["pod-template-hash"].clone();
        s.image_that_serves() == "app:v2" && s.weight() == 100.0 && pinned == s.status("api")["stableRevision"]
    });
    for (what, from) in [("at rest", at_rest), ("after the Service was changed", way_home.expect("a re-pinned Service"))] {
        let mut whole = from.clone();
        whole.command("Undo");
        v1_serves_again(&mut whole);
        for crash in (from.drive.writes + 1..=whole.drive.writes).step_by(stride().min(3)) {
            println!("{what}: crash after write {crash}");
            let mut shop = from.clone();
            shop.command("Undo");
            shop.drive.crash_after = Some(crash);
            v1_serves_again(&mut shop);
        }
    }
}

#[test]
fn an_undo_is_aborted_like_any_rollout() {
    let mut shop = with_v1_that_does_not_start();
    shop.command("Undo");
    shop.until("it starts", |s| s.status("api")["canary"]["promoteFull"] == true);
    shop.command("Abort");
    shop.until("v2 serves on", |s| s.is_healthy("api") && s.pods("app:v1").is_empty());
    shop.comes_to_rest();
    shop.is_as_in_git();
    assert_eq!((shop.image_that_serves().as_str(), shop.pods("app:v2").len()), ("app:v2", 3));
}

#[test]
fn an_undo_whose_pods_do_not_start_is_taken_back_at_the_deadline() {
    let mut shop = with_v1_that_does_not_start();
    shop.command("Undo");
    shop.until("it starts", |s| s.status("api")["canary"]["promoteFull"] == true);
    shop.until("v2 serves on", |s| s.is_healthy("api") && s.pods("app:v1").is_empty());
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_new_template_ends_an_undo() {
    let mut shop = promoted();
    shop.command("Undo");
    shop.until("it has begun", |s| !s.pods("app:v1").is_empty());
    shop.deploy("app:v3");
    promote_if_it_waits(&mut shop, "app:v3");
    shop.comes_to_rest();
    shop.is_as_in_git();
    assert!(shop.pods("app:v1").is_empty() && shop.pods("app:v2").is_empty());
}

#[test]
fn an_undo_to_a_revision_that_is_unknown_or_rejected_is_refused_and_names_those_that_are_left() {
    let mut shop = promoted();
    let serves = shop.status("api")["stableRevision"].clone();
    let refused = |shop: &mut Shop, to: &serde_json::Value, says: &str| {
        let spec = json!({"rollout": "api", "verb": "Undo", "revision": serves, "toRevision": to, "requestedBy": "ann"});
        let name = format!("undo-{}", shop.drive.api.revision());
        let body = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "RolloutAction", "metadata": {"name": name}, "spec": spec});
        shop.send("POST", &sluice::sim::drive::path(Watched::RolloutAction, shop::NS, ""), "ann", "application/json", body);
        shop.until("answered", |s| !s.outcome(&name).is_empty());
        let status = shop.get(Watched::RolloutAction, &name)["status"].clone();
        assert_eq!(status["outcome"], "Refused");
        assert!(status["message"].as_str().unwrap().contains(says), "{status}");
    };
    refused(&mut shop, &json!("gone"), "(app:v1)");
    shop.drive.bad.insert("app:v3".into());
    shop.deploy("app:v3");
    shop.until("taken back", |s| s.phase() == "Aborted");
    let bad = shop.status("api")["canaryRevision"].clone();
    let spec = json!({"rollout": "api", "verb": "Undo", "revision": bad, "toRevision": bad});
    let body = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "RolloutAction", "metadata": {"name": "bad"}, "spec": spec});
    let path = sluice::sim::drive::path(Watched::RolloutAction, shop::NS, "");
    let request = sluice::sim::api::Request {
        method: "POST".into(),
        path,
        actor: "ann".into(),
        content_type: "application/json".into(),
        body,
        ..Default::default()
    };
    assert_eq!(shop.drive.request(&request).status, 422, "the API server refuses an undo to what it undoes");
}
