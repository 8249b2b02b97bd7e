//! ReplicaSets of ours that somebody scales, deletes or strips of what we wrote on them: put back at the next look, with no promise broken.

use serde_json::{Value, json};
use sluice::{sim::drive::path, world::Watched};

use super::{
    at_every_moment, halfway, promote_if_it_waits,
    shop::{NS, Shop},
    v2_serves_alone,
};

/// Our ReplicaSets; the Deployment, empty as it is, has some of its own.
fn sets(shop: &Shop) -> Vec<Value> {
    let ours = |set: &&std::sync::Arc<Value>| set["metadata"]["ownerReferences"][0]["kind"] == "ControllerRevision";
    shop.drive.api.list("replicasets.apps").filter(ours).map(|set| (**set).clone()).collect()
}

fn set_of(shop: &Shop, image: &str) -> Option<Value> {
    sets(shop).into_iter().find(|set| set["spec"]["template"]["spec"]["containers"][0]["image"] == image)
}

fn replicas(shop: &Shop, image: &str) -> i64 {
    set_of(shop, image).map_or(0, |set| set["spec"]["replicas"].as_i64().unwrap())
}

/// Somebody's merge patch of the ReplicaSet of an image, if there is one.
fn patch(shop: &mut Shop, image: &str, body: Value) {
    let Some(set) = set_of(shop, image) else { return };
    let path = path(Watched::ReplicaSet, NS, set["metadata"]["name"].as_str().unwrap());
    shop.send("PATCH", &path, "person", "application/merge-patch+json", body);
}

fn scale(shop: &mut Shop, image: &str, replicas: i32) {
    patch(shop, image, json!({"spec": {"replicas": replicas}}));
}

/// Our marks, as somebody takes them off: those of a kind, each set to nothing.
fn without(set: &Value, kind: &str) -> Value {
    let ours = |key: &&String| key.starts_with("sluice.dev/") || *key == "pod-template-hash";
    let marks = set["metadata"][kind].as_object().into_iter().flatten().map(|(key, _)| key).filter(ours);
    json!({"metadata": {kind: marks.map(|key| (key.clone(), Value::Null)).collect::<serde_json::Map<_, _>>()}})
}

fn strip(shop: &mut Shop, kind: &str) {
    for image in ["app:v1", "app:v2"] {
        if let Some(set) = set_of(shop, image) {
            patch(shop, image, without(&set, kind));
        }
    }
}

/// What that person did is that person's: only our own writes are held against the promises. (S7: pods that were judged are gone.)
fn forgive(shop: &mut Shop) {
    shop.drive.promises.broken.retain(|line| !line.contains(" by person:") && !line.contains(": S7: "));
}

#[test]
fn a_replica_set_that_somebody_scales_has_its_pods_back_at_the_next_look() {
    for (image, to, back) in [("app:v1", 0, 3), ("app:v1", 9, 3), ("app:v2", 0, 2), ("app:v2", 9, 3)] {
        let mut shop = halfway();
        shop.drive.promises.lenient_about_requests = true;
        scale(&mut shop, image, to);
        shop.wait(1);
        // A canary may keep more pods than it needs, up to those that all the traffic takes.
        assert_eq!(replicas(&shop, image), back, "{image} scaled to {to}: {:#?}", shop.drive.tail());
        forgive(&mut shop);
        promote_if_it_waits(&mut shop, "app:v2");
        shop.comes_to_rest();
        shop.is_as_in_git();
    }
}

#[test]
fn replica_sets_that_somebody_scales_at_any_moment_end_as_without_it() {
    for (n, (image, to)) in [("app:v1", 1), ("app:v1", 6), ("app:v2", 0), ("app:v2", 6)].into_iter().enumerate() {
        println!("{image} is scaled to {to}");
        let act = |shop: &mut Shop| {
            shop.drive.promises.lenient_about_requests = true;
            scale(shop, image, to);
        };
        at_every_moment(n, act, |shop| {
            v2_serves_alone(shop);
            forgive(shop);
        });
    }
}

#[test]
fn a_canary_whose_replica_set_is_deleted_at_any_moment_is_made_again() {
    let act = |shop: &mut Shop| {
        shop.drive.promises.lenient_about_requests = true;
        if let Some(set) = set_of(shop, "app:v2") {
            let path = path(Watched::ReplicaSet, NS, set["metadata"]["name"].as_str().unwrap());
            shop.send("DELETE", &path, "person", "application/json", json!({"propagationPolicy": "Background"}));
        }
    };
    at_every_moment(5, act, |shop| {
        v2_serves_alone(shop);
        forgive(shop);
    });
}

#[test]
fn marks_that_somebody_takes_off_the_replica_sets_at_any_moment_change_nothing() {
    for (n, kind) in ["annotations", "labels"].into_iter().enumerate() {
        println!("{kind} are taken off");
        at_every_moment(3 * n + 1, |shop| strip(shop, kind), v2_serves_alone);
    }
}

#[test]
fn labels_that_somebody_takes_off_a_replica_set_are_back_at_the_next_look() {
    let mut shop = halfway();
    let labels = |shop: &Shop| sets(shop).into_iter().map(|set| set["metadata"]["labels"].clone()).collect::<Vec<_>>();
    let before = labels(&shop);
    strip(&mut shop, "labels");
    assert_ne!(labels(&shop), before);
    shop.wait(1);
    assert_eq!(labels(&shop), before, "{:#?}", shop.drive.tail());
}

#[test]
fn pods_of_a_rejected_version_that_somebody_starts_get_nothing_and_stop() {
    let mut shop = Shop::open();
    shop.drive.bad.insert("app:v2".into());
    shop.deploy("app:v2");
    shop.until("taken back", Shop::is_aborted);
    shop.comes_to_rest();
    strip(&mut shop, "annotations");
    scale(&mut shop, "app:v2", 2);
    shop.wait(1);
    assert_eq!((replicas(&shop, "app:v2"), shop.weight()), (0, 0.0), "{:#?}", shop.drive.tail());
    shop.until("they stop", Shop::is_aborted);
    scale(&mut shop, "app:v1", 1);
    shop.wait(1);
    assert_eq!(replicas(&shop, "app:v1"), 3);
    let reason = set_of(&shop, "app:v2").unwrap()["metadata"]["annotations"]["sluice.dev/rejected"].clone();
    assert!(reason.is_string(), "S3: it is written on the ReplicaSet again, should status be lost");
    forgive(&mut shop);
    shop.comes_to_rest();
}

#[test]
fn pods_of_the_version_before_that_somebody_starts_at_rest_leave_the_service_drain_and_stop() {
    let mut shop = halfway();
    promote_if_it_waits(&mut shop, "app:v2");
    shop.comes_to_rest();
    shop.drive.lag(Watched::ReplicaSet, std::time::Duration::from_secs(3)); // we hear of it when they are ready
    scale(&mut shop, "app:v1", 2);
    let endpoints = |shop: &Shop| -> Vec<Value> {
        let slices = shop.drive.api.list("endpointslices.discovery.k8s.io");
        let of_api = slices.filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "api");
        of_api.flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default()).collect()
    };
    shop.until("the Service selects them, too", |s| endpoints(s).len() == 5);
    shop.until("they are out of the Service", |s| endpoints(s).len() == 3);
    let pods = shop.pods("app:v1");
    shop.wait(8);
    assert!(pods.len() == 2 && shop.pods("app:v1") == pods, "they drain for 10 s");
    shop.until("they stop", |s| s.pods("app:v1").is_empty());
    shop.comes_to_rest();
    shop.is_as_in_git();
}
