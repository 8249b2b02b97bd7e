//! A running Deployment is taken over and given back without restarting a pod, whoever owns what of it, and whatever is deleted how.

use serde_json::{Value, json};
use sluice::{sim::drive::path, world::Watched};

use super::{
    at_every_moment, promote_if_it_waits,
    shop::{NS, Shop, template},
};

fn delete(shop: &mut Shop, kind: Watched, name: &str, policy: &str) {
    shop.send("DELETE", &path(kind, NS, name), "person", "application/json", json!({"propagationPolicy": policy}));
}

fn gone(shop: &mut Shop) {
    shop.until("gone", |s| s.get(Watched::Rollout, "api").is_null());
    shop.wait(60);
}

#[test]
fn a_deployment_is_taken_over_and_given_back_with_its_pods() {
    let mut shop = Shop::without_rollout();
    let pods = shop.pods("app:v1");
    shop.rollout("api", json!({}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.comes_to_rest();
    assert_eq!(shop.pods("app:v1"), pods, "no pod is restarted");
    assert_eq!(shop.get(Watched::Deployment, "api")["spec"]["replicas"], 0);
    let path = path(Watched::Rollout, NS, "api");
    shop.send("DELETE", &path, "person", "application/json", json!({}));
    shop.until("gone", |s| s.get(Watched::Rollout, "api").is_null());
    shop.comes_to_rest();
    shop.is_as_in_git();
    let deployment = shop.get(Watched::Deployment, "api");
    assert_eq!(shop.pods("app:v1"), pods, "no pod is restarted");
    assert_eq!((&deployment["spec"]["replicas"], &deployment["status"]["readyReplicas"]), (&json!(3), &json!(3)));
    assert!(deployment["spec"]["paused"].is_null() || deployment["spec"]["paused"] == false, "{deployment:#}");
    let marked = |object: &serde_json::Value| {
        let keys = |of: &str| object["metadata"][of].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        keys("annotations").into_iter().chain(keys("labels")).any(|key| key.contains("sluice"))
    };
    assert!(!marked(&deployment), "no marks are left: {deployment:#}");
    let sets = shop.drive.api.list("replicasets.apps").filter(|set| set["metadata"]["labels"]["app"] == "api");
    sets.for_each(|set| assert!(!marked(set), "no marks are left: {set:#}"));
}

/// The Deployment runs these pods by itself, three of three.
fn runs_by_itself(shop: &Shop, pods: &[String]) {
    let deployment = shop.get(Watched::Deployment, "api");
    assert_eq!(shop.pods("app:v1"), pods, "no pod is restarted");
    assert_eq!((&deployment["spec"]["replicas"], &deployment["status"]["readyReplicas"]), (&json!(3), &json!(3)));
}

#[test]
fn each_propagation_policy_gives_the_deployment_back() {
    for policy in ["Background", "Foreground", "Orphan"] {
        let mut shop = Shop::open();
        let pods = shop.pods("app:v1");
        delete(&mut shop, Watched::Rollout, "api", policy);
        gone(&mut shop);
        runs_by_itself(&shop, &pods);
        shop.comes_to_rest();
        shop.is_as_in_git();
    }
}

/// v2 was taken back, and the Rollout is being deleted; with it the pods that serve.
fn deleted_after_an_abort() -> (Shop, Vec<String>) {
    let mut shop = Shop::open();
    let pods = shop.pods("app:v1");
    shop.drive.bad.insert("app:v2".into());
    shop.deploy("app:v2");
    shop.until("taken back", Shop::is_aborted);
    delete(&mut shop, Watched::Rollout, "api", "Background");
    (shop, pods)
}

#[test]
fn deleted_after_an_abort_the_deployment_stays_paused_with_the_pods_that_serve() {
    let (mut shop, pods) = deleted_after_an_abort();
    gone(&mut shop);
    runs_by_itself(&shop, &pods);
    assert_eq!(shop.get(Watched::Deployment, "api")["spec"]["paused"], true, "unpausing it releases the rejected template");
    assert!(shop.pods("app:v2").is_empty());
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_deployment_that_somebody_scales_up_while_its_rollout_is_deleted_brings_no_unjudged_pods_behind_the_service() {
    let mut rolling = Shop::open();
    rolling.deploy("app:v2");
    rolling.until("the canary has traffic", |s| s.weight() > 0.0);
    for seconds in 0..60 {
        let mut shop = rolling.clone();
        delete(&mut shop, Watched::Rollout, "api", "Background");
        shop.wait(seconds);
        if shop.get(Watched::Rollout, "api").is_null() {
            assert!(seconds > 5, "it is scaled up before everything is given back");
            return;
        }
        shop.scale("api", 5);
        gone(&mut shop);
        shop.comes_to_rest();
        assert!(shop.pods("app:v1").len() >= 3 && shop.pods("app:v2").is_empty(), "scaled up {seconds} s after the deletion");
    }
}

#[test]
fn deleted_together_with_its_deployment_the_pods_go_too_at_any_moment_unless_it_was_an_orphan() {
    for policy in ["Background", "Foreground", "Orphan"] {
        println!("{policy}");
        let act = |shop: &mut Shop| {
            delete(shop, Watched::Deployment, "api", policy);
            delete(shop, Watched::Rollout, "api", policy);
        };
        at_every_moment(1, act, |shop| {
            shop.drive.promises.lenient_about_requests = true; // no pods are left for the route
            gone(shop);
            let left = shop.pods("app:v1").len() + shop.pods("app:v2").len();
            assert_eq!(left, if policy == "Orphan" { 3 } else { 0 });
            shop.is_as_in_git();
        });
    }
}

#[test]
fn a_rollout_with_its_own_template_takes_its_pods_with_it_unless_it_was_an_orphan() {
    for (policy, left) in [("Background", 0), ("Foreground", 0), ("Orphan", 2)] {
        let mut shop = Shop::without_rollout();
        shop.drive.promises.lenient_about_requests = true;
        let over = json!({"workloadRef": null, "template": template("own", "app:v1"), "selector": {"matchLabels": {"app": "own"}},
            "replicas": 2, "traffic": null});
        shop.rollout("own", over);
        let count = |s: &Shop| s.drive.api.list("pods").filter(|pod| pod["metadata"]["labels"]["app"] == "own").count();
        shop.until("serves", |s| s.status("own")["phase"] == "Healthy" && count(s) == 2);
        delete(&mut shop, Watched::Rollout, "own", policy);
        shop.until("gone", |s| s.get(Watched::Rollout, "own").is_null());
        shop.wait(60);
        assert_eq!(count(&shop), left, "{policy}");
        assert!(shop.get(Watched::ControllerRevision, "own").is_null(), "the anchor goes");
        shop.comes_to_rest();
    }
}

#[test]
fn a_backup_restored_without_owners_and_status_goes_on_with_what_serves_and_rejects_what_was_rejected() {
    let mut shop = Shop::open();
    let pods = shop.pods("app:v1");
    shop.drive.bad.insert("app:v2".into());
    shop.deploy("app:v2");
    shop.until("taken back", Shop::is_aborted);
    shop.drive.bad.clear();
    // As a tool restores it: the anchor is another one, nobody owns the ReplicaSets, and the Rollout knows nothing.
    let sets: Vec<Value> = shop
        .drive
        .api
        .list("replicasets.apps")
        .filter(|set| set["metadata"]["labels"]["sluice.dev/rollout"] == "api")
        .map(|o| (**o).clone())
        .collect();
    for set in sets {
        let name = set["metadata"]["name"].as_str().unwrap();
        shop.send(
            "PATCH",
            &path(Watched::ReplicaSet, NS, name),
            "velero",
            "application/merge-patch+json",
            json!({"metadata": {"ownerReferences": null}}),
        );
    }
    delete(&mut shop, Watched::ControllerRevision, "api", "Orphan");
    let status = path(Watched::Rollout, NS, "api") + "/status";
    shop.send("PATCH", &status, "velero", "application/json-patch+json", json!([{"op": "replace", "path": "/status", "value": {}}]));
    shop.until("known again", |s| s.phase() == "Aborted");
    shop.wait(60);
    assert_eq!(shop.pods("app:v1"), pods, "the same pods serve");
    assert!(shop.pods("app:v2").is_empty(), "S3: what was rejected stays so");
    shop.comes_to_rest();
    shop.deploy("app:v3");
    promote_if_it_waits(&mut shop, "app:v3");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_deployment_that_somebody_scales_up_is_emptied_at_once() {
    let mut shop = Shop::open();
    let pods = shop.pods("app:v1");
    shop.drive.promises.lenient_about_requests = true;
    shop.scale("api", 2);
    shop.until("emptied", |s| s.get(Watched::Deployment, "api")["spec"]["replicas"] == 0);
    shop.wait(30);
    assert_eq!(shop.pods("app:v1"), pods);
    shop.comes_to_rest();
}

/// Writes as Helm 3 does: a strategic merge patch of what differs, under its own name.
fn helm(shop: &mut Shop, body: Value) {
    let to = path(Watched::Deployment, NS, "api") + "?fieldManager=helm";
    shop.send("PATCH", &to, "helm", "application/strategic-merge-patch+json", body);
}

#[test]
fn a_deployment_of_helm_3_is_parked_until_an_upgrade_leaves_its_replicas_alone() {
    let mut shop = Shop::without_rollout();
    helm(&mut shop, json!({"metadata": {"annotations": {"meta.helm.sh/release-name": "shop"}}}));
    let pods = shop.pods("app:v1");
    shop.rollout("api", json!({}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.comes_to_rest();
    let parked = |shop: &Shop| {
        let conditions = shop.status("api")["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "WorkloadParked" && c["message"].as_str().unwrap().contains("helm upgrade"))
    };
    assert!(parked(&shop) && shop.get(Watched::Deployment, "api")["spec"]["paused"] == true);
    assert_eq!(shop.pods("app:v1"), pods, "no pod is restarted");

    // An upgrade that sets them: nothing of it serves unjudged.
    helm(&mut shop, json!({"spec": {"replicas": 2, "template": {"metadata": {"annotations": {"a": "1"}}}}}));
    shop.wait(5);
    assert!(parked(&shop));
    assert_eq!(shop.get(Watched::Deployment, "api")["status"]["replicas"].as_i64().unwrap_or(0), 0, "the Deployment starts nothing");
    shop.until("the new template waits for a person", |s| s.phase() == "Paused" && s.weight() == 50.0);
    shop.command("Promote");
    shop.until("promoted", |s| s.is_healthy("api"));
    assert!(parked(&shop));

    // One that leaves them alone.
    helm(&mut shop, json!({"metadata": {"labels": {"chart": "2"}}}));
    shop.until("unpaused", |s| s.get(Watched::Deployment, "api")["spec"]["paused"] != true);
    shop.comes_to_rest();
    assert!(!parked(&shop));
    assert_eq!(shop.get(Watched::Deployment, "api")["spec"]["replicas"], 0);
}

#[test]
fn an_autoscaler_on_the_deployment_holds_the_take_over_until_it_scales_the_rollout() {
    let mut shop = Shop::without_rollout();
    let pods = shop.pods("app:v1");
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let target = |kind: &str, version: &str| json!({"spec": {"maxReplicas": 5, "scaleTargetRef": {"apiVersion": version, "kind": kind, "name": "api"}}});
    let mut autoscaler = target("Deployment", "apps/v1");
    autoscaler["metadata"] = json!({"name": "busy"});
    shop.send("POST", path, "ann", "application/json", autoscaler);
    shop.rollout("api", json!({}));
    shop.wait(60);
    let message = shop.status("api")["message"].clone();
    assert!(message.as_str().unwrap().starts_with("waits until HorizontalPodAutoscaler busy no longer scales Deployment api"), "{message}");
    assert!(shop.get(Watched::Deployment, "api")["spec"]["paused"].is_null(), "the Deployment is left alone");
    shop.send("PATCH", &format!("{path}/busy"), "ann", "application/merge-patch+json", target("Rollout", "sluice.dev/v1alpha1"));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.comes_to_rest();
    assert_eq!(shop.pods("app:v1"), pods, "no pod is restarted");
}

/// KEDA scales by a HorizontalPodAutoscaler of its own, which nobody has written and nobody should edit.
#[test]
fn a_scaled_object_of_keda_on_the_deployment_is_what_is_named() {
    let mut shop = Shop::without_rollout();
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let target =
        |kind: &str, version: &str| json!({"maxReplicas": 5, "scaleTargetRef": {"apiVersion": version, "kind": kind, "name": "api"}});
    let labels = json!({"scaledobject.keda.sh/name": "orders", "app.kubernetes.io/managed-by": "keda-operator"});
    let autoscaler = json!({"metadata": {"name": "keda-hpa-orders", "labels": labels}, "spec": target("Deployment", "apps/v1")});
    shop.send("POST", path, "keda", "application/json", autoscaler);
    shop.rollout("api", json!({}));
    shop.wait(60);
    assert_eq!(
        shop.status("api")["message"],
        "waits until ScaledObject orders no longer scales Deployment api: let it scale this Rollout (apiVersion sluice.dev/v1alpha1, kind Rollout, name api) instead, before the Deployment is taken over"
    );
    assert!(shop.get(Watched::Deployment, "api")["spec"]["paused"].is_null(), "the Deployment is left alone");
    // Its author has the ScaledObject scale the Rollout, and KEDA follows.
    let body = json!({"spec": target("Rollout", "sluice.dev/v1alpha1")});
    shop.send("PATCH", &format!("{path}/keda-hpa-orders"), "keda", "application/merge-patch+json", body);
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.comes_to_rest();
}

#[test]
fn a_deployment_whose_replicas_are_in_git_is_parked_until_they_are_not() {
    let mut shop = Shop::without_rollout();
    let pods = shop.pods("app:v1");
    let deployment = |replicas: serde_json::Value| {
        let mut spec = json!({"selector": {"matchLabels": {"app": "api"}}, "template": template("api", "app:v1")});
        if !replicas.is_null() {
            spec["replicas"] = replicas;
        }
        json!({"metadata": {"name": "api"}, "spec": spec})
    };
    shop.apply(Watched::Deployment, deployment(json!(3)));
    shop.rollout("api", json!({}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.comes_to_rest();
    let live = shop.get(Watched::Deployment, "api");
    assert_eq!((&live["spec"]["paused"], &live["spec"]["replicas"]), (&json!(true), &json!(3)));
    assert_eq!(shop.pods("app:v1"), pods, "no pod is restarted");
    let parked = |shop: &Shop| shop.status("api")["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "WorkloadParked");
    assert!(parked(&shop));
    shop.apply(Watched::Deployment, deployment(json!(null)));
    shop.until("emptied", |s| s.get(Watched::Deployment, "api")["spec"]["replicas"] == 0);
    shop.comes_to_rest();
    assert!(!parked(&shop));
    assert_eq!(shop.pods("app:v1"), pods, "no pod is restarted");
}

#[test]
fn what_a_deployment_starts_by_itself_when_git_begins_to_set_its_replicas_is_stopped() {
    let mut shop = Shop::open();
    let pods = shop.pods("app:v1");
    let spec = json!({"replicas": 4, "selector": {"matchLabels": {"app": "api"}}, "template": template("api", "app:v1")});
    shop.apply(Watched::Deployment, json!({"metadata": {"name": "api"}, "spec": spec}));
    shop.until("it has started some", |s| s.pods("app:v1").len() > pods.len());
    shop.comes_to_rest();
    let live = shop.get(Watched::Deployment, "api");
    assert_eq!((&live["spec"]["paused"], &live["spec"]["replicas"]), (&json!(true), &json!(4)), "parked");
    assert_eq!(shop.pods("app:v1"), pods);
}

#[test]
fn what_a_deployment_starts_by_itself_while_it_is_given_back_is_stopped() {
    let (mut shop, pods) = deleted_after_an_abort();
    shop.until("unpinned", |s| s.get(Watched::Service, "api")["spec"]["selector"]["pod-template-hash"].is_null());
    shop.scale("api", 1);
    gone(&mut shop);
    runs_by_itself(&shop, &pods);
    assert!(shop.pods("app:v2").is_empty(), "nobody has judged it");
}

#[test]
fn in_a_namespace_that_is_being_deleted_nothing_is_given_back_and_nothing_holds_it_up() {
    let mut shop = Shop::open();
    shop.drive.promises.lenient_about_requests = true;
    shop.deploy("app:v2");
    shop.until("in the middle", |s| s.weight() == 5.0);
    shop.drive.cluster.kubelet.set_behaviour("app:v1", sluice::sim::Behaviour::never_ready());
    shop.send("DELETE", "/api/v1/namespaces/default", "person", "application/json", json!({}));
    shop.until("gone", |s| s.get(Watched::Rollout, "api").is_null());
    shop.wait(60);
    assert!(shop.drive.api.list("pods").next().is_none(), "everything is gone");
}

#[test]
fn new_pods_must_be_ready_as_long_as_the_deployment_asks() {
    let mut shop = Shop::open();
    let spec = json!({"minReadySeconds": 20, "selector": {"matchLabels": {"app": "api"}}, "template": template("api", "app:v2")});
    shop.apply(Watched::Deployment, json!({"metadata": {"name": "api"}, "spec": spec}));
    shop.until("its first pod is there", |s| !s.pods("app:v2").is_empty());
    shop.wait(15);
    assert_eq!(shop.weight(), 0.0);
    shop.until("it has traffic", |s| s.weight() == 5.0);
}
