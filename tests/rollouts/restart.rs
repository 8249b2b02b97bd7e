//! Restarts: one pod after the other, never fewer than are wanted, as PodDisruptionBudgets allow.

use serde_json::{Value, json};
use sluice::{core::patch::Write, world::Watched};

use super::{halfway, promote_if_it_waits, shop::Shop};

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

fn budget(shop: &mut Shop, spec: Value) {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "api"}});
    shop.send("POST", BUDGETS, "ann", "application/json", json!({"metadata": {"name": "api"}, "spec": spec}));
}

fn ready(shop: &Shop) -> usize {
    let is_ready = |pod: &Value| {
        let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        pod["metadata"]["labels"]["app"] == "api" && conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    shop.drive.api.list("pods").filter(|pod| pod["metadata"]["deletionTimestamp"].is_null() && is_ready(pod)).count()
}

/// Every pod is another one in the end, and there were never fewer than three.
fn all_restarted(shop: &mut Shop, before: &[String]) {
    shop.until("restarted", |s| {
        assert!(ready(s) >= 3, "never fewer than are wanted");
        s.is_healthy("api") && s.pods("app:v1").len() == 3 && s.pods("app:v1").iter().all(|pod| !before.contains(pod))
    });
    shop.comes_to_rest();
    shop.is_as_in_git();
}

#[test]
fn a_restart_replaces_every_pod_and_never_has_fewer_than_are_wanted() {
    let mut shop = Shop::open();
    shop.wait(10);
    let before = shop.pods("app:v1");
    budget(&mut shop, json!({"minAvailable": 3}));
    let action = shop.command("Restart");
    all_restarted(&mut shop, &before);
    assert_eq!(shop.outcome(&action), "Done");
}

#[test]
fn the_next_pod_waits_until_the_one_before_it_is_replaced_also_where_the_replica_set_does_not_tell_yet() {
    let mut shop = Shop::open();
    shop.wait(10);
    budget(&mut shop, json!({"maxUnavailable": 0}));
    shop.command("Restart");
    shop.until("one pod more", |s| ready(s) == 4);
    shop.wait(1);
    let evicted = |obs: &sluice::core::Observed| {
        let plan = super::plan::planned(obs, shop.drive.now);
        plan.actions.into_iter().find_map(|action| match action.write {
            Write::Evict { name, .. } => Some(name),
            _ => None,
        })
    };
    let mut obs = shop.drive.observed(super::shop::NS, "api").unwrap();
    let first = evicted(&obs).expect("one is evicted");
    let pod = obs.pods.iter_mut().find(|pod| pod.name == first).unwrap();
    (pod.ready, pod.stopping) = (false, true);
    assert_eq!(evicted(&obs), None);
}

#[test]
fn restart_at_in_the_spec_restarts_when_its_time_has_come() {
    let mut shop = Shop::open();
    let before = shop.pods("app:v1");
    let at = shop.drive.now + jiff::SignedDuration::from_mins(30);
    shop.rollout("api", json!({"restartAt": jiff::Timestamp::from_second(at.as_second()).unwrap().to_string()}));
    shop.wait(1500);
    assert_eq!(shop.pods("app:v1"), before, "not before its time");
    shop.wait(600);
    all_restarted(&mut shop, &before);
}

#[test]
fn a_restart_waits_for_a_disruption_budget_and_says_so() {
    let mut shop = Shop::open();
    shop.wait(10);
    let before = shop.pods("app:v1");
    budget(&mut shop, json!({"maxUnavailable": 0}));
    shop.command("Restart");
    shop.wait(120);
    assert!(before.iter().all(|pod| shop.pods("app:v1").contains(pod)), "none is evicted");
    let message = shop.status("api")["message"].clone();
    assert!(message.as_str().unwrap().contains("as soon as its PodDisruptionBudgets allow it"), "{message}");
    shop.send("DELETE", &format!("{BUDGETS}/api"), "ann", "application/json", json!({}));
    all_restarted(&mut shop, &before);
}

#[test]
fn a_rollout_goes_before_a_restart() {
    let mut shop = halfway();
    shop.command("Restart");
    let before = shop.pods("app:v1");
    shop.wait(60);
    assert_eq!(shop.pods("app:v1"), before, "none is evicted while a rollout runs");
    promote_if_it_waits(&mut shop, "app:v2");
    shop.comes_to_rest();
    assert!(shop.get(Watched::Rollout, "api")["status"]["restartRequestedAt"].is_null());
}
