//! Whole rollouts on the simulated cluster, step by step in virtual time; every write is held against the promises.
#![cfg(feature = "sim")]

mod analysis;
mod compare;
mod headers;
mod messages;
mod missing;
mod parents;
mod plan;
mod repair;
mod restart;
mod routes;
mod rules;
mod scale;
mod sets;
mod shop;
mod take_over;
mod undo;

use serde_json::json;
use shop::Shop;
use sluice::{sim::Behaviour, world::Watched};

/// A rollout of v2 that waits at 50 %.
fn halfway() -> Shop {
    let mut shop = Shop::open();
    shop.deploy("app:v2");
    shop.until("at 50 %", |s| s.phase() == "Paused" && s.weight() == 50.0);
    shop
}

#[test]
fn a_good_version_is_promoted_and_the_pods_that_were_judged_serve() {
    let mut shop = halfway();
    let judged = shop.pods("app:v2");
    assert!(!judged.is_empty());
    shop.command("Promote");
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
    let serve = shop.pods("app:v2");
    assert!(serve.len() == 3 && judged.iter().all(|pod| serve.contains(pod)), "S7: the pods that were judged serve");
    assert!(shop.pods("app:v1").is_empty());
}

#[test]
fn a_version_with_bad_metrics_is_taken_back_and_stays_so_until_the_next() {
    let mut shop = Shop::open();
    shop.drive.bad.insert("app:v2".into());
    shop.deploy("app:v2");
    shop.until("taken back", Shop::is_aborted);
    shop.drive.bad.clear();
    shop.comes_to_rest();
    assert_eq!(shop.phase(), "Aborted", "S3: abort is absorbing");
    assert_eq!((shop.image_that_serves(), shop.weight()), ("app:v1".into(), 0.0));
    for (kind, name) in [(Watched::HttpRoute, "shop"), (Watched::Service, "api"), (Watched::Deployment, "api")] {
        let fields = shop.get(kind, name)["metadata"]["managedFields"].clone();
        let held = fields.as_array().unwrap().iter().any(|entry| entry["manager"] == "sluice");
        assert!(!held, "the apply that mends it must not conflict with us: {kind:?} {fields:#}");
    }
    shop.deploy("app:v3");
    shop.until("paused at 50 %", |s| s.weight() == 50.0 && s.phase() == "Paused");
    shop.command("Promote");
    shop.until("the next one is promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v3");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn after_an_abort_the_next_version_can_be_applied_without_force() {
    let mut shop = Shop::open();
    shop.drive.bad.insert("app:v2".into());
    shop.deploy("app:v2");
    shop.until("taken back", Shop::is_aborted);
    shop.comes_to_rest();
    for (kind, name) in [(Watched::Service, "api"), (Watched::Deployment, "api"), (Watched::HttpRoute, "shop")] {
        let managers = shop.get(kind, name)["metadata"]["managedFields"].clone();
        let ours = |entry: &serde_json::Value| entry["manager"] == "sluice";
        assert!(!managers.as_array().unwrap().iter().any(ours), "{kind:?}: {managers:#}");
    }
    shop.put_back(&[Watched::Service, Watched::HttpRoute]);
    shop.comes_to_rest();
    assert_eq!((shop.phase().as_str(), shop.weight(), shop.pods("app:v2").len()), ("Aborted", 0.0, 0));
    shop.deploy("app:v3");
    promote_if_it_waits(&mut shop, "app:v3");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn the_canarys_pods_start_as_soon_as_the_service_selects_stables_only_while_the_routes_are_made_ready() {
    let mut shop = Shop::open();
    let selector = |s: &Shop, service: &str| s.get(Watched::Service, service)["spec"]["selector"]["pod-template-hash"].clone();
    shop.deploy("app:v2");
    shop.until("the canary's pods are there", |s| {
        let started = !s.pods("app:v2").is_empty();
        assert!(!started || selector(s, "api").is_string(), "S6: the Service would select them");
        started
    });
    assert_eq!(shop.get(Watched::HttpRoute, "shop")["spec"]["rules"][0]["backendRefs"].as_array().map(Vec::len), Some(1));

    let mut shop = Shop::open_with_both_services();
    shop.deploy("app:v2");
    shop.until("the canary's pods are there", |s| {
        let started = !s.pods("app:v2").is_empty();
        assert!(!started || ["api", "api-canary"].iter().all(|service| selector(s, service).is_string()), "the canary Service would");
        started
    });
}

#[test]
fn a_version_that_never_becomes_ready_gets_no_traffic_and_is_taken_back_at_the_deadline() {
    let mut shop = Shop::open();
    shop.drive.cluster.kubelet.set_behaviour("app:v2", Behaviour::never_ready());
    shop.deploy("app:v2");
    shop.until("taken back", |s| {
        assert_eq!(s.weight(), 0.0);
        s.is_aborted()
    });
    shop.comes_to_rest();
    let rejected = &shop.status("api")["rejected"][0]["reason"];
    assert!(rejected.as_str().unwrap().contains("waits for the canary's pods: 0 of 1 ready"), "{rejected}");
}

#[test]
fn a_version_that_crashes_again_and_again_is_taken_back() {
    let mut shop = Shop::open();
    shop.drive.promises.lenient_about_requests = true;
    let crashes = Behaviour::crashing_after(std::time::Duration::from_secs(15));
    shop.drive.cluster.kubelet.set_behaviour("app:v2", crashes);
    shop.deploy("app:v2");
    shop.until("taken back", Shop::is_aborted);
    shop.comes_to_rest();
}

/// Copies of a rollout of v2, from the change of the template until it is promoted: one after each look in which the controller wrote.
fn moments(mut shop: Shop) -> Vec<Shop> {
    shop.deploy("app:v2");
    let mut moments = vec![shop.clone()];
    let mut promoted = false;
    while !shop.is_healthy("api") || shop.image_that_serves() != "app:v2" {
        if !promoted && shop.phase() == "Paused" && shop.status("api")["currentStep"]["index"] == 3 {
            shop.command("Promote");
            promoted = true;
        }
        let writes = shop.drive.writes;
        let end = shop.drive.now + jiff::SignedDuration::from_hours(1);
        assert!(shop.drive.run(end, |d| d.writes > writes), "stuck: {:#?}", shop.drive.tail());
        moments.push(shop.clone());
    }
    moments
}

/// Every how many moments are tried: SLUICE_SWEEP=1 tries all, which takes minutes.
fn stride() -> usize {
    std::env::var("SLUICE_SWEEP").ok().and_then(|n| n.parse().ok()).unwrap_or(7)
}

/// Does something at every moment of a rollout; `end` says what must have come of it, whenever it was done. `first` tells tests apart, so
/// that together they try more of the moments.
fn at_every_moment(first: usize, act: impl Fn(&mut Shop), end: impl Fn(&mut Shop)) {
    at_every_moment_in(Shop::open(), first, act, end);
}

fn at_every_moment_in(shop: Shop, first: usize, act: impl Fn(&mut Shop), end: impl Fn(&mut Shop)) {
    for (n, moment) in moments(shop).into_iter().enumerate().skip(first % stride()).step_by(stride()) {
        println!("moment {n}: {}", moment.status("api")["message"]);
        let mut shop = moment;
        act(&mut shop);
        end(&mut shop);
        shop.comes_to_rest();
    }
}

fn promote_if_it_waits(shop: &mut Shop, image: &str) {
    shop.until("promoted or waiting for a person", |s| {
        let status = s.status("api");
        let waits = s.phase() == "Paused" && s.weight() == 50.0 && status["currentStep"]["index"] == 3;
        waits && s.image_of(&status["canaryRevision"]) == image || s.is_healthy("api") && s.image_that_serves() == image
    });
    if !shop.is_healthy("api") {
        shop.command("Promote");
    }
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == image);
}

#[test]
fn a_template_that_comes_in_the_middle_supersedes_at_every_moment() {
    at_every_moment(
        0,
        |shop| shop.deploy("app:v3"),
        |shop| {
            promote_if_it_waits(shop, "app:v3");
            shop.wait(60);
            shop.is_as_in_git();
            assert!(shop.pods("app:v1").is_empty() && shop.pods("app:v2").is_empty() && shop.pods("app:v3").len() == 3);
        },
    );
}

#[test]
fn a_template_set_back_to_stable_goes_home_at_every_moment() {
    at_every_moment(
        2,
        |shop| shop.deploy("app:v1"),
        |shop| {
            promote_if_it_waits(shop, "app:v1");
            shop.wait(60);
            shop.is_as_in_git();
            assert!(shop.pods("app:v2").is_empty() && shop.pods("app:v1").len() == 3);
        },
    );
}

#[test]
fn an_abort_takes_back_at_every_moment_before_the_promotion() {
    at_every_moment(
        4,
        |shop| {
            let action = shop.command("Abort");
            shop.until("answered", |s| !s.outcome(&action).is_empty());
        },
        |shop| {
            shop.until("at an end", |s| s.is_aborted() || s.is_healthy("api") || s.phase() == "Paused");
            if shop.phase() == "Paused" {
                promote_if_it_waits(shop, "app:v2"); // refused, as the rollout had not begun
            }
            let expected = if shop.phase() == "Aborted" { "app:v1" } else { "app:v2" };
            assert_eq!(shop.image_that_serves(), expected);
            if shop.phase() == "Aborted" {
                assert_eq!(shop.weight(), 0.0);
            }
        },
    );
}

#[test]
fn a_rollout_deleted_at_any_moment_gives_its_deployment_back() {
    at_every_moment(
        6,
        |shop| {
            let path = sluice::sim::drive::path(Watched::Rollout, shop::NS, "api");
            shop.send("DELETE", &path, "person", "application/json", json!({}));
        },
        |shop| {
            shop.until("gone", |s| s.get(Watched::Rollout, "api").is_null());
            shop.wait(60);
            shop.is_as_in_git();
            let deployment = shop.get(Watched::Deployment, "api");
            assert_eq!((&deployment["spec"]["replicas"], &deployment["status"]["readyReplicas"]), (&json!(3), &json!(3)));
            assert_eq!(shop.pods("app:v1").len() + shop.pods("app:v2").len(), 3);
        },
    );
}

/// What a GitOps tool with self-heal puts back, in its order.
type PutBack = (&'static str, fn(&mut Shop));
const PUT_BACK: [PutBack; 4] = [
    ("the route", |shop| shop.put_back(&[Watched::HttpRoute])),
    ("the Service", |shop| shop.put_back(&[Watched::Service])),
    ("the route, then the Service", |shop| shop.put_back(&[Watched::HttpRoute, Watched::Service])),
    ("the Service, then the route", |shop| shop.put_back(&[Watched::Service, Watched::HttpRoute])),
];

#[test]
fn what_git_puts_back_at_any_moment_is_repaired_and_the_rollout_ends_as_without_it() {
    for (n, (what, put_back)) in PUT_BACK.into_iter().enumerate() {
        println!("Git puts back {what}");
        at_every_moment(2 * n + 1, put_back, v2_serves_alone);
    }
}

#[test]
fn a_sync_at_any_moment_does_no_harm_where_git_lists_both_services_without_weights() {
    for (n, (what, put_back)) in PUT_BACK.into_iter().enumerate() {
        println!("Git syncs {what}");
        at_every_moment_in(Shop::open_with_both_services(), 2 * n + 2, put_back, v2_serves_alone);
    }
}

#[test]
fn who_keeps_putting_a_route_back_is_named_and_holds_the_step_until_it_is_quiet() {
    let mut shop = Shop::open();
    shop.drive.promises.lenient_about_requests = true;
    shop.deploy("app:v2");
    shop.until("the canary has 5 %", |s| s.weight() == 5.0);
    let contested = |shop: &Shop| {
        let conditions = shop.status("api")["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().find(|c| c["type"] == "TrafficContested").map(|c| c["message"].as_str().unwrap().to_owned())
    };
    for n in 1..=3 {
        assert_eq!(contested(&shop), None);
        shop.put_back(&[Watched::HttpRoute]);
        shop.until("repaired", |s| if n < 3 { s.weight() == 5.0 } else { contested(s).is_some() });
    }
    let message = contested(&shop).unwrap_or_default();
    assert!(
        message.starts_with("git has put HTTPRoute shop back 3 times while the rollout runs: list api and api-canary there in Git"),
        "{message}"
    );
    shop.wait(200);
    assert_eq!(shop.weight(), 0.0, "no traffic on ground that moves");
    shop.until("goes on", |s| s.phase() == "Paused" && s.weight() == 50.0);
    assert_eq!(contested(&shop), None);
    promote_if_it_waits(&mut shop, "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn who_puts_service_and_route_back_together_is_named_likewise() {
    let mut shop = Shop::open();
    shop.deploy("app:v2");
    shop.until("5 %", |s| s.weight() == 5.0);
    let contested = |shop: &Shop| shop.status("api")["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "TrafficContested");
    for n in 1..=3 {
        assert!(!contested(&shop), "{n}");
        shop.wait(6);
        shop.put_back(&[Watched::Service, Watched::HttpRoute]);
        shop.until("repaired", |s| if n < 3 { s.weight() == 5.0 } else { contested(s) });
    }
}

/// Whatever was done at a moment of the rollout: it ends as without it.
fn v2_serves_alone(shop: &mut Shop) {
    promote_if_it_waits(shop, "app:v2");
    shop.wait(60);
    shop.is_as_in_git();
    assert!(shop.pods("app:v1").is_empty() && shop.pods("app:v2").len() == 3);
}

#[test]
fn a_crash_after_any_write_ends_as_without_it() {
    let start = Shop::open().drive.writes;
    let mut whole = Shop::open();
    whole.deploy("app:v2");
    promote_if_it_waits(&mut whole, "app:v2");
    let mut opened = Shop::open();
    opened.deploy("app:v2");
    for crash in (start + 1..=whole.drive.writes).skip(3 % stride()).step_by(stride()) {
        println!("crash after write {crash}");
        let mut shop = opened.clone();
        shop.drive.crash_after = Some(crash);
        promote_if_it_waits(&mut shop, "app:v2");
        shop.wait(60);
        shop.is_as_in_git();
        assert!(shop.pods("app:v1").is_empty() && shop.pods("app:v2").len() == 3);
        shop.comes_to_rest();
    }
}

#[test]
fn two_rollouts_in_one_rule_roll_at_the_same_time_and_leave_it_as_it_was() {
    let mut shop = Shop::open();
    shop.rollout("other", json!({}));
    shop.until("both are taken over", |s| s.is_healthy("api") && s.is_healthy("other"));
    shop.deploy("app:v2");
    shop.deployment("other", "app:v2");
    shop.until("api waits at 50 %", |s| s.phase() == "Paused" && s.weight() == 50.0);
    shop.drive.bad.insert("app:v2".into());
    shop.until("both are taken back", |s| s.is_aborted() && s.status("other")["phase"] == "Aborted");
    shop.drive.bad.clear();
    shop.deploy("app:v3");
    shop.deployment("other", "app:v1");
    shop.until("other is at rest", |s| s.is_healthy("other"));
    promote_if_it_waits(&mut shop, "app:v3");
    shop.wait(60);
    shop.is_as_in_git();
    shop.comes_to_rest();
}

#[test]
fn a_backend_tls_policy_of_the_service_is_copied_for_the_canary_service_and_goes_with_it() {
    let mut shop = Shop::open();
    let policies = "/apis/gateway.networking.k8s.io/v1/namespaces/default/backendtlspolicies";
    for (name, target) in [("api", "api"), ("other", "other")] {
        let spec = json!({"targetRefs": [{"group": "", "kind": "Service", "name": target}], "validation": {"hostname": "api.example"}});
        shop.send("POST", policies, "ann", "application/json", json!({"metadata": {"name": name}, "spec": spec}));
    }
    let all = |shop: &Shop| {
        let name = |policy: &std::sync::Arc<serde_json::Value>| policy["metadata"]["name"].as_str().unwrap().to_owned();
        shop.drive.api.list("backendtlspolicies.gateway.networking.k8s.io").map(name).collect::<Vec<_>>()
    };
    shop.deploy("app:v2");
    shop.until("the canary's backend has entered", |s| s.get(Watched::HttpRoute, "shop")["spec"]["rules"][0]["backendRefs"][1].is_object());
    assert_eq!(all(&shop), ["api", "api-canary", "other"]);
    let copy = shop.drive.api.get("backendtlspolicies.gateway.networking.k8s.io", shop::NS, "api-canary").unwrap().clone();
    assert_eq!(copy["spec"]["targetRefs"], json!([{"group": "", "kind": "Service", "name": "api-canary"}]));
    assert_eq!(copy["spec"]["validation"], json!({"hostname": "api.example"}));
    promote_if_it_waits(&mut shop, "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
    assert_eq!(all(&shop), ["api", "other"], "the copy goes with the Service");
}

#[test]
fn routes_of_several_kinds_are_split_together_and_put_back() {
    let mut shop = Shop::without_rollout();
    let spec = json!({"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": "api", "port": 80}]}]});
    shop.apply(Watched::GrpcRoute, json!({"metadata": {"name": "shop"}, "spec": spec}));
    let rpc = |shop: &Shop| shop.get(Watched::GrpcRoute, "shop")["spec"].clone();
    let before = rpc(&shop);
    let routes = json!([{"kind": "HTTPRoute", "name": "shop"}, {"kind": "GRPCRoute", "name": "shop"}]);
    shop.rollout("api", json!({"traffic": {"service": "api", "routes": routes, "drainSeconds": 10, "stepGraceSeconds": 1}}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.deploy("app:v2");
    shop.until("at 50 %", |s| s.phase() == "Paused" && s.weight() == 50.0);
    let weights: Vec<_> = rpc(&shop)["rules"][0]["backendRefs"].as_array().unwrap().iter().map(|b| b["weight"].clone()).collect();
    assert_eq!(weights, [500, 500]);
    promote_if_it_waits(&mut shop, "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
    assert_eq!(rpc(&shop), before);
    assert!(shop.get(Watched::GrpcRoute, "shop")["metadata"]["annotations"].as_object().is_none_or(serde_json::Map::is_empty));
}

#[test]
fn the_newest_twenty_commands_are_kept_as_the_record() {
    let mut shop = halfway();
    let mut last = String::new();
    for n in 0..15 {
        for verb in ["Pause", "Resume"] {
            last = shop.command(verb);
            shop.until(&format!("answered {n}"), |s| !s.outcome(&last).is_empty());
        }
    }
    shop.wait(30);
    let left: Vec<String> =
        shop.drive.api.list("rolloutactions.sluice.dev").map(|a| a["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(left.len(), 20);
    assert!(left.contains(&last), "the newest are kept: {left:?}");
    promote_if_it_waits(&mut shop, "app:v2");
    shop.comes_to_rest();
}
