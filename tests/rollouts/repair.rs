//! What somebody puts back, deletes or makes again in the middle of a rollout, as random runs have found it.

use serde_json::json;
use sluice::{
    sim::drive::{Fault, path},
    world::Watched,
};

use super::{
    halfway, promote_if_it_waits,
    shop::{NS, Shop},
};

fn delete(shop: &mut Shop, kind: Watched, name: &str, policy: &str) {
    shop.send("DELETE", &path(kind, NS, name), "person", "application/json", json!({"propagationPolicy": policy}));
}

fn canary_service(shop: &mut Shop) {
    let spec = json!({"selector": {"app": "api"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
    shop.apply(Watched::Service, json!({"metadata": {"name": "api-canary"}, "spec": spec}));
}

/// A second route, and a Rollout that splits both.
fn with_two_routes() -> Shop {
    let mut shop = Shop::open();
    let rules = json!([{"backendRefs": [{"name": "api", "port": 80}]}]);
    second_route(&mut shop, &rules);
    let routes = json!([{"kind": "HTTPRoute", "name": "shop"}, {"kind": "HTTPRoute", "name": "second"}]);
    shop.rollout("api", json!({"traffic": {"service": "api", "routes": routes, "drainSeconds": 10, "stepGraceSeconds": 1}}));
    shop
}

fn second_route(shop: &mut Shop, rules: &serde_json::Value) {
    let spec = json!({"parentRefs": [{"name": "gw"}], "hostnames": ["second.example"], "rules": rules});
    shop.apply(Watched::HttpRoute, json!({"metadata": {"name": "second"}, "spec": spec}));
}

#[test]
fn two_routes_that_are_put_back_together_are_remembered_both() {
    let mut shop = with_two_routes();
    let rules = shop.get(Watched::HttpRoute, "second")["spec"]["rules"].clone();
    shop.deploy("app:v2");
    shop.until("at 5 %", |s| s.weight() == 5.0);
    for n in 1..=3 {
        shop.put_back(&[Watched::HttpRoute, Watched::Service]);
        second_route(&mut shop, &rules);
        let writes = shop.drive.writes;
        shop.until("both are seen", |s| {
            s.status("api")["reverted"].as_array().is_some_and(|all| all.iter().filter(|r| r["count"] == n).count() >= 2)
        });
        shop.wait(10);
        assert!(shop.drive.writes - writes < 40, "{} writes: {:#?}", shop.drive.writes - writes, shop.drive.tail());
    }
    let conditions = shop.status("api")["conditions"].to_string();
    assert!(conditions.contains("TrafficContested"), "{conditions}");
}

#[test]
fn a_canary_service_of_gits_that_is_deleted_in_the_middle_is_gits_again_in_the_end() {
    let mut shop = Shop::open_with_both_services();
    shop.drive.promises.lenient_about_requests = true;
    shop.deploy("app:v2");
    shop.until("at 50 %", |s| s.phase() == "Paused" && s.weight() == 50.0);
    delete(&mut shop, Watched::Service, "api-canary", "Background");
    shop.until("it is made again", |s| !s.get(Watched::Service, "api-canary").is_null());
    canary_service(&mut shop);
    promote_if_it_waits(&mut shop, "app:v2");
    shop.comes_to_rest();
    let service = shop.get(Watched::Service, "api-canary");
    assert_eq!(service["spec"]["selector"], json!({"app": "api"}), "{service:#}");
    assert!(
        service["metadata"]["ownerReferences"].is_null() && service["metadata"]["labels"]["sluice.dev/rollout"].is_null(),
        "{service:#}"
    );
}

#[test]
fn pods_that_a_service_selected_while_it_was_put_back_drain_before_the_next_version_stops_them() {
    let mut shop = Shop::open();
    shop.deploy("app:v2");
    let ready = |s: &Shop| s.drive.api.list("replicasets.apps").any(|rs| rs["status"]["readyReplicas"] == 1);
    shop.until("a pod of the canary is ready, and its Service still selects stable", ready);
    shop.put_back(&[Watched::Service]);
    shop.deploy("app:v3");
    shop.until("the way is clear", |s| s.pods("app:v2").is_empty());
    promote_if_it_waits(&mut shop, "app:v3");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_canary_service_that_is_deleted_when_the_next_version_comes_lets_the_pods_drain() {
    let mut shop = halfway();
    shop.drive.promises.lenient_about_requests = true;
    delete(&mut shop, Watched::Service, "api-canary", "Background");
    shop.deploy("app:v3");
    promote_if_it_waits(&mut shop, "app:v3");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_canary_service_that_git_makes_again_does_not_give_traffic_to_pods_that_are_kept_warm() {
    let mut shop = Shop::open_with_both_services();
    shop.drive.promises.lenient_about_requests = true;
    shop.rollout("api", json!({"strategy": {"canary": {"scaleDownDelaySeconds": 120, "steps": [{"setWeight": 50}]}}}));
    shop.deploy("app:v2");
    shop.until("the way home", |s| s.image_that_serves() == "app:v2");
    delete(&mut shop, Watched::Service, "api-canary", "Background");
    canary_service(&mut shop);
    shop.until("warm", |s| s.is_healthy("api") && !s.pods("app:v1").is_empty());
    let selector = shop.get(Watched::Service, "api-canary")["spec"]["selector"].clone();
    assert!(selector["pod-template-hash"].is_string(), "{selector}");
    shop.wait(150);
    shop.comes_to_rest();
}

#[test]
fn a_rollout_that_is_deleted_before_it_has_taken_its_deployment_over_goes() {
    let mut shop = Shop::without_rollout();
    shop.drive.cluster.kubelet.set_behaviour("app:v2", sluice::sim::Behaviour::never_ready());
    shop.deploy("app:v2");
    shop.wait(5);
    shop.rollout("api", json!({}));
    shop.until("it waits", |s| s.status("api")["message"].as_str().is_some_and(|text| text.contains("own rollout")));
    delete(&mut shop, Watched::Rollout, "api", "Background");
    shop.until("gone", |s| s.get(Watched::Rollout, "api").is_null());
    assert_eq!(shop.pods("app:v1").len(), 3);
    shop.comes_to_rest();
}

#[test]
fn a_service_that_is_made_again_when_the_next_version_comes_lets_the_pods_drain() {
    let mut shop = halfway();
    shop.drive.promises.lenient_about_requests = true;
    delete(&mut shop, Watched::Service, "api", "Background");
    shop.deploy("app:v3");
    shop.wait(3);
    shop.service("api");
    promote_if_it_waits(&mut shop, "app:v3");
    shop.comes_to_rest();
    assert!(shop.pods("app:v2").is_empty());
}

#[test]
fn a_canary_service_that_is_deleted_after_an_abort_does_not_hold_the_way_home() {
    let mut shop = halfway();
    shop.drive.promises.lenient_about_requests = true;
    shop.command("Abort");
    shop.until("taken back", Shop::is_aborted);
    delete(&mut shop, Watched::Service, "api-canary", "Background");
    shop.wait(10);
    delete(&mut shop, Watched::Rollout, "api", "Background");
    shop.until("gone", |s| s.get(Watched::Rollout, "api").is_null());
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_template_that_comes_when_one_of_two_routes_is_back_already_rolls_out() {
    let mut shop = Shop::open_with_both_services();
    let rules = json!([{"backendRefs": [{"name": "api", "port": 80}]}]);
    second_route(&mut shop, &rules);
    let routes = json!([{"kind": "HTTPRoute", "name": "shop"}, {"kind": "HTTPRoute", "name": "second"}]);
    shop.rollout("api", json!({"traffic": {"service": "api", "routes": routes, "drainSeconds": 10, "stepGraceSeconds": 1}}));
    shop.deploy("app:v2");
    shop.until("at 5 %", |s| s.weight() == 5.0);
    shop.deploy("app:v1");
    let split = |s: &Shop, route: &str| s.get(Watched::HttpRoute, route)["metadata"]["annotations"]["routes.sluice.dev/api"].is_string();
    shop.until("one is back", |s| split(s, "shop") != split(s, "second"));
    shop.deploy("app:v3");
    promote_if_it_waits(&mut shop, "app:v3");
    shop.comes_to_rest();
}

/// Where Git has a canary Service, such a route gives it a share, and looked like a promotion that is to be carried through.
#[test]
fn a_route_that_is_made_again_while_another_is_split_holds_nothing_up() {
    let mut shop = Shop::open_with_both_services();
    shop.drive.promises.lenient_about_requests = true;
    let live = shop.get(Watched::HttpRoute, "shop");
    second_route(&mut shop, &json!([{"backendRefs": [{"name": "api", "port": 80}]}]));
    let routes = json!([{"kind": "HTTPRoute", "name": "shop"}, {"kind": "HTTPRoute", "name": "second"}]);
    shop.rollout("api", json!({"traffic": {"service": "api", "routes": routes, "drainSeconds": 10, "stepGraceSeconds": 1}}));
    shop.deploy("app:v2");
    shop.until("in the middle", |s| s.weight() == 5.0);
    delete(&mut shop, Watched::HttpRoute, "shop", "Background");
    shop.wait(5);
    shop.deploy("app:v3");
    shop.wait(30);
    shop.apply(Watched::HttpRoute, json!({"metadata": {"name": "shop"}, "spec": live["spec"]}));
    promote_if_it_waits(&mut shop, "app:v3");
    shop.comes_to_rest();
}

#[test]
fn steps_edited_while_git_has_put_the_route_back_go_on_from_the_weight_that_the_rollout_gave() {
    let mut shop = Shop::open_with_both_services();
    shop.drive.promises.lenient_about_requests = true;
    shop.deploy("app:v2");
    shop.until("at 5 %", |s| s.phase() == "Paused" && s.weight() == 5.0);
    shop.put_back(&[Watched::HttpRoute]);
    assert_eq!(shop.weight(), 50.0, "both Services stand in Git without weights");
    let steps = json!([{"setWeight": 5}, {"pause": {"duration": "20s"}}, {"setWeight": 40}, {"pause": {}}]);
    shop.rollout("api", json!({"strategy": {"canary": {"steps": steps}}}));
    shop.until("the edit is followed", |s| {
        s.status("api")["observedGeneration"] == s.get(Watched::Rollout, "api")["metadata"]["generation"]
    });
    shop.until("it pauses", |s| s.phase() == "Paused");
    assert_eq!((shop.weight(), shop.status("api")["currentStep"]["index"].clone()), (5.0, json!(1)));
}

#[test]
fn pods_that_had_traffic_drain_also_where_their_route_is_deleted_meanwhile() {
    let mut shop = Shop::open();
    shop.drive.promises.lenient_about_requests = true;
    shop.deploy("app:v2");
    shop.until("at 5 %", |s| s.phase() == "Paused" && s.weight() == 5.0);
    let canaries = shop.pods("app:v2");
    shop.deploy("app:v3");
    shop.until("it has no traffic", |s| s.weight() == 0.0);
    delete(&mut shop, Watched::HttpRoute, "shop", "Background");
    shop.wait(8);
    assert_eq!(shop.pods("app:v2"), canaries, "the drain is 10 s");
    shop.until("they stop", |s| s.pods("app:v2").is_empty());
}

#[test]
fn a_route_that_is_made_again_gives_its_share_to_stable_before_the_canary_service_changes() {
    let mut shop = Shop::open_with_both_services();
    shop.drive.promises.lenient_about_requests = true;
    let live = shop.get(Watched::HttpRoute, "shop");
    shop.deploy("app:v2");
    shop.until("at 5 %", |s| s.phase() == "Paused" && s.weight() == 5.0);
    let canaries = shop.pods("app:v2");
    delete(&mut shop, Watched::HttpRoute, "shop", "Background");
    shop.wait(1);
    shop.deploy("app:v3");
    shop.apply(Watched::HttpRoute, json!({"metadata": {"name": "shop"}, "spec": live["spec"]}));
    assert_eq!(shop.weight(), 50.0, "both Services stand in Git without weights");
    shop.until("stable has it all", |s| s.weight() == 0.0);
    shop.wait(8);
    assert_eq!(shop.pods("app:v2"), canaries, "they drain for 10 s");
    promote_if_it_waits(&mut shop, "app:v3");
    shop.comes_to_rest();
}

fn stable_set(shop: &Shop) -> String {
    let revision = shop.status("api")["stableRevision"].as_str().unwrap().to_owned();
    let mut sets = shop.drive.api.list("replicasets.apps").filter(|set| set["metadata"]["labels"]["pod-template-hash"] == *revision);
    sets.next().unwrap()["metadata"]["name"].as_str().unwrap().to_owned()
}

#[test]
fn at_rest_the_replica_set_that_serves_is_made_again() {
    let mut shop = Shop::open();
    shop.drive.promises.lenient_about_requests = true;
    let set = stable_set(&shop);
    delete(&mut shop, Watched::ReplicaSet, &set, "Background");
    shop.until("its pods are gone", |s| s.pods("app:v1").is_empty());
    shop.until("it serves again", |s| s.is_healthy("api") && s.pods("app:v1").len() == 3);
}

#[test]
fn with_the_stable_replica_set_gone_nothing_unjudged_goes_live_until_a_person_says_so() {
    let mut shop = Shop::open();
    shop.drive.promises.lenient_about_requests = true;
    shop.deploy("app:v2");
    shop.until("at 5 %", |s| s.phase() == "Paused" && s.weight() == 5.0);
    let (set, stable) = (stable_set(&shop), shop.status("api")["stableRevision"].clone());
    delete(&mut shop, Watched::ReplicaSet, &set, "Background");
    shop.wait(60);
    assert_eq!((shop.weight(), &shop.status("api")["stableRevision"]), (5.0, &stable));
    assert!(shop.status("api")["message"].as_str().unwrap().contains("promote --full"), "{}", shop.status("api")["message"]);
    shop.command("PromoteFull");
    shop.until("it serves", |s| s.is_healthy("api"));
    assert_eq!(shop.image_that_serves(), "app:v2");
    shop.comes_to_rest();
}

#[test]
fn with_the_stable_replica_set_gone_a_rejected_version_stays_rejected() {
    let mut shop = Shop::open();
    shop.drive.promises.lenient_about_requests = true;
    shop.drive.bad.insert("app:v2".into());
    shop.deploy("app:v2");
    shop.until("taken back", Shop::is_aborted);
    let set = stable_set(&shop);
    delete(&mut shop, Watched::ReplicaSet, &set, "Background");
    shop.wait(60);
    assert!(shop.pods("app:v2").is_empty(), "{}", shop.status("api")["message"]);
}

/// A spec that cannot be carried out. The steps are what is wrong, so everything else stays as it was.
fn break_spec(shop: &mut Shop) {
    let analysis = json!({"metrics": [{"name": "success", "preset": "pods/latency", "parameters": {"nosuch": "1"}, "max": 1}]});
    let canary = json!({"steps": [{"setWeight": 5}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}], "analysis": analysis});
    shop.rollout("api", json!({"strategy": {"canary": canary}}));
    shop.until("it is invalid", |s| s.phase() == "Degraded");
}

#[test]
fn a_route_put_back_while_the_spec_is_invalid_gives_the_canary_no_more_than_it_was_given() {
    let mut shop = Shop::open_with_both_services();
    shop.deploy("app:v2");
    shop.until("at 5 %", |s| s.phase() == "Paused" && s.weight() == 5.0);
    break_spec(&mut shop);
    assert_eq!(shop.weight(), 5.0, "what runs goes on as it is");
    shop.put_back(&[Watched::HttpRoute, Watched::Service]);
    assert_eq!(shop.weight(), 50.0, "both Services stand in Git without weights");
    shop.until("stable has it", |s| s.weight() == 0.0);
    let pinned = |s: &Shop, service: &str| s.get(Watched::Service, service)["spec"]["selector"]["pod-template-hash"].is_string();
    shop.until("both are pinned", |s| pinned(s, "api") && pinned(s, "api-canary"));
    shop.rollout("api", json!({}));
    shop.until("it has its weight again", |s| s.phase() == "Paused" && s.weight() == 5.0);
}

#[test]
fn while_the_spec_is_invalid_the_rejected_version_still_stops_and_stable_is_still_resized() {
    let mut shop = Shop::open_with_both_services();
    shop.deploy("app:v2");
    shop.until("at 5 %", |s| s.phase() == "Paused" && s.weight() == 5.0);
    shop.command("Abort");
    break_spec(&mut shop);
    shop.until("its pods stop", |s| s.pods("app:v2").is_empty());
    let scale = format!("{}/scale", path(Watched::Rollout, NS, "api"));
    shop.send("PATCH", &scale, "autoscaler", "application/merge-patch+json", json!({"spec": {"replicas": 5}}));
    shop.until("five pods", |s| s.pods("app:v1").len() == 5);
}

#[test]
fn a_run_that_somebody_cancels_holds_the_rollout_until_someone_resumes_it() {
    let mut shop = Shop::open();
    shop.deploy("app:v2");
    shop.until("it is measured", |s| s.phase() == "Paused" && s.drive.api.list("analysisruns.sluice.dev").count() == 1);
    let run = shop.drive.api.list("analysisruns.sluice.dev").next().unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    let body = json!({"spec": {"terminate": true}});
    shop.send("PATCH", &path(Watched::AnalysisRun, NS, &run), "person", "application/merge-patch+json", body);
    shop.until("held", |s| s.status("api")["message"].as_str().unwrap().contains("cancelled"));
    shop.wait(120);
    assert_eq!(shop.weight(), 5.0);
    shop.command("Resume");
    promote_if_it_waits(&mut shop, "app:v2");
    shop.comes_to_rest();
}

#[test]
fn an_abort_takes_the_traffic_of_a_route_back_although_another_cannot_be_written() {
    let mut shop = with_two_routes();
    shop.deploy("app:v2");
    shop.until("at 5 %", |s| s.phase() == "Paused" && s.weight() == 5.0);
    shop.wait(1);
    let (next, written) = (shop.drive.tries + 1, shop.drive.writes);
    shop.drive.faults.insert(next, Fault::Refused(403));
    shop.command("Abort");
    shop.until("the first write after the refusal", |s| s.drive.writes > written);
    let gives = |s: &Shop, route: &str| s.get(Watched::HttpRoute, route)["spec"]["rules"][0]["backendRefs"][1]["weight"].clone();
    assert_eq!((gives(&shop, "shop"), gives(&shop, "second")), (json!(0), json!(50)), "{:#?}", shop.drive.tail());
    shop.until("taken back", Shop::is_aborted);
}

#[test]
fn the_canary_service_speaks_the_protocol_that_an_annotation_of_the_service_names() {
    let mut shop = Shop::open();
    let annotations =
        json!({"projectcontour.io/upstream-protocol.h2c": "http", "external-dns.alpha.kubernetes.io/hostname": "api.example.org"});
    let spec = shop.get(Watched::Service, "api")["spec"].clone();
    shop.apply(
        Watched::Service,
        json!({"metadata": {"name": "api", "annotations": annotations}, "spec": {"selector": spec["selector"], "ports": spec["ports"]}}),
    );
    shop.deploy("app:v2");
    shop.until("at 5 %", |s| s.weight() == 5.0);
    let copied = shop.get(Watched::Service, "api-canary")["metadata"]["annotations"].clone();
    assert_eq!(copied["projectcontour.io/upstream-protocol.h2c"], "http");
    assert!(copied["external-dns.alpha.kubernetes.io/hostname"].is_null(), "a name in DNS belongs to one Service");
}

#[test]
fn steps_edited_in_mid_rollout_give_no_more_without_evidence_of_what_the_canary_has() {
    for steps in [json!([{"pause": {"duration": "40s"}}]), json!([{"setWeight": 60}, {"pause": {}}])] {
        let mut shop = Shop::open();
        shop.drive.bad.insert("app:v2".into());
        shop.deploy("app:v2");
        shop.until("at 5 %", |s| s.phase() == "Paused" && s.weight() == 5.0);
        shop.rollout("api", json!({"strategy": {"canary": {"steps": steps, "analysis": shop.get(Watched::Rollout, "api")["spec"]["strategy"]["canary"]["analysis"]}}}));
        shop.until("taken back", |s| {
            assert!(s.weight() <= 5.0, "nothing has measured it at 5 % yet");
            s.is_aborted()
        });
    }
}
