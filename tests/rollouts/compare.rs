//! Whole rollouts that compare the canary with stable.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use sluice::{
    sim::drive::{Answers, Fault},
    world::Watched,
};

use super::shop::Shop;

const RUNS: &str = "analysisruns.sluice.dev";

fn metric(more: Value) -> Value {
    let mut metric = json!({"name": "compared", "preset": "contour/success-rate", "compare": {}, "interval": "10s"});
    metric.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    metric
}

/// A shop whose stable version fails one answer in a hundred, and whose Rollout compares in the background.
fn comparing(metrics: &[Value], steps: Value) -> Shop {
    let mut shop = Shop::without_rollout();
    shop.rollout("api", json!({"strategy": {"canary": {"steps": steps, "analysis": {"metrics": metrics}}}}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.drive.failing.insert("app:v1".into(), 0.01);
    shop
}

fn steps() -> Value {
    json!([{"setWeight": 10}, {"pause": {"duration": "60s"}}, {"setWeight": 50}, {"pause": {"duration": "60s"}}])
}

fn run(shop: &Shop) -> Value {
    shop.drive.api.list(RUNS).next().map(|run| (**run).clone()).unwrap_or_default()
}

fn result(shop: &Shop) -> Value {
    run(shop)["status"]["metricResults"][0].clone()
}

fn keeps_promises(shop: &Shop) {
    assert!(shop.drive.promises.broken.is_empty(), "{:#?}", shop.drive.promises.broken);
}

#[test]
fn a_version_that_fails_four_times_as_often_is_taken_back_and_told_why() {
    let mut shop = comparing(&[metric(json!({"failureLimit": 100}))], steps());
    shop.drive.failing.insert("app:v2".into(), 0.04);
    shop.deploy("app:v2");
    shop.until("taken back", Shop::is_aborted);
    let message = run(&shop)["status"]["message"].as_str().unwrap().to_owned();
    let told = "compared: canary fails 4 times as often as stable (20 of 500 against 45 of 4,500); the odds against that being chance passed 1 in 20 after 50 s";
    assert_eq!(message, told);
    assert!(shop.status("api")["message"].as_str().unwrap().contains(&message));
    keeps_promises(&shop);
}

#[test]
fn a_version_as_good_as_stable_is_promoted_also_where_stable_gets_nothing_at_last() {
    let mut all = steps();
    all.as_array_mut().unwrap().extend([json!({"setWeight": 100}), json!({"pause": {"duration": "90s"}})]);
    for steps in [steps(), all] {
        let mut shop = comparing(&[metric(json!({}))], steps);
        shop.drive.failing.insert("app:v2".into(), 0.01);
        shop.deploy("app:v2");
        shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
        assert_eq!((result(&shop)["failed"].clone(), result(&shop)["noData"].clone()), (json!(0), json!(0)));
        keeps_promises(&shop);
    }
}

#[test]
fn where_both_are_broken_the_limit_beside_the_comparison_takes_it_back() {
    for (limit, aborted) in [(json!({"min": 90}), true), (json!({}), false)] {
        let mut shop = comparing(&[metric(limit)], steps());
        shop.drive.failing.extend([("app:v1".to_owned(), 0.5), ("app:v2".to_owned(), 0.5)]);
        shop.deploy("app:v2");
        if aborted {
            shop.until("taken back", Shop::is_aborted);
            assert_eq!(run(&shop)["status"]["message"], "compared: 50 % is below the minimum of 90 % (100 requests)");
        } else {
            shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
        }
        keeps_promises(&shop);
    }
}

#[test]
fn without_counters_it_waits_and_with_warnings_it_pauses() {
    let mut shop = comparing(&[metric(json!({}))], steps());
    shop.drive.answers = Answers::Empty;
    shop.deploy("app:v2");
    shop.wait(600);
    assert_eq!((shop.weight(), result(&shop)["passed"].clone()), (10.0, json!(0)));
    let message = shop.status("api")["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("the canary had no counters at"), "{message}");
    shop.drive.answers = Answers::Partial;
    shop.until("held", |s| !s.status("api")["hold"].is_null());
    assert!(result(&shop)["comparison"]["failures"].is_null());
    shop.drive.answers = Answers::Whole;
    shop.command("Resume");
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    keeps_promises(&shop);
}

#[test]
fn all_comparisons_of_a_rollout_share_the_accepted_risk() {
    let more = json!([{"setWeight": 10}, {"analysis": {"metrics": [metric(json!({"name": "step"})), metric(json!({"name": "dry", "dryRun": true}))]}}]);
    let mut shop = comparing(&[metric(json!({})), metric(json!({"name": "other", "compare": {"tolerate": 2}}))], more);
    shop.deploy("app:v2");
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    let told: Vec<Value> = shop.drive.api.list(RUNS).map(|run| run["spec"]["comparisons"].clone()).collect();
    assert_eq!(told, [json!(3), json!(3)]);
    let mut plain = Shop::open();
    plain.deploy("app:v2");
    plain.until("the analysis runs", |s| s.drive.api.list(RUNS).next().is_some());
    assert_eq!(run(&plain)["spec"]["comparisons"], Value::Null, "where nothing is compared, nothing is shared");
}

/// Requests that the evidence is made from, and those that there were.
fn accounted(shop: &Shop) -> Option<(u64, f64)> {
    let comparison = result(shop)["comparison"].clone();
    let time = |field: &str| comparison[field].as_str()?.parse::<Timestamp>().ok();
    let arm = |arm: &str| comparison["failures"][arm]["requests"].as_u64();
    let there_were = 100.0 * time("until")?.duration_since(time("since")?).as_secs_f64();
    Some((arm("canary")? + arm("stable")?, there_were))
}

/// Waits at 10 %, and has compared.
fn compared() -> Shop {
    let mut shop = comparing(&[metric(json!({}))], json!([{"setWeight": 10}, {"pause": {}}]));
    shop.drive.failing.insert("app:v2".into(), 0.01);
    shop.deploy("app:v2");
    shop.until("compared", |s| accounted(s).is_some());
    let (counted, there_were) = accounted(&shop).unwrap();
    assert!((counted as f64 - there_were).abs() < 2.0, "{counted} of {there_were}");
    shop
}

/// Most requests are counted, and none twice.
fn counts_once(shop: &Shop, what: &str) {
    let (counted, there_were) = accounted(shop).unwrap();
    assert!(counted > 5000 && counted as f64 <= there_were + 20.0, "{what}: {counted} of {there_were}");
}

#[test]
fn no_request_counts_twice_whenever_the_controller_crashes() {
    let start = compared();
    for write in 1..12 {
        let mut shop = start.clone();
        shop.drive.crash_after = Some(shop.drive.writes + write);
        for _ in 0..6 {
            shop.wait(13);
            shop.drive.crash();
        }
        shop.wait(30);
        counts_once(&shop, &format!("crash after write {write}"));
    }
}

#[test]
fn no_request_counts_twice_where_writes_go_wrong_or_the_cache_is_stale() {
    let start = compared();
    let late = Duration::from_secs(25);
    for fault in [Fault::Refused(409), Fault::Unanswered, Fault::Crash, Fault::Late(late)] {
        let mut shop = start.clone();
        for nth in [1, 3, 4, 8, 11] {
            shop.drive.faults.insert(shop.drive.tries + nth, fault);
        }
        for _ in 0..8 {
            shop.wait(15);
        }
        assert!(!shop.drive.injected.is_empty());
        counts_once(&shop, &format!("{fault:?}"));
    }
    let mut stale = start;
    for _ in 0..4 {
        stale.drive.lag(Watched::AnalysisRun, Duration::from_secs(17));
        stale.wait(25);
    }
    counts_once(&stale, "a stale cache");
}

/// A shop whose Rollout waits at 50 % for a proof.
fn proving(prove: Value) -> Shop {
    let steps = json!([{"setWeight": 50}, {"pause": {"prove": prove}}]);
    let latency = metric(json!({"name": "latency", "preset": "contour/latency", "dryRun": true}));
    let mut shop = comparing(&[metric(json!({})), latency], steps);
    shop.drive.failing.insert("app:v2".into(), 0.01);
    shop.deploy("app:v2");
    shop.until("it waits for a proof", |s| message(s).starts_with("waits for a proof"));
    shop
}

fn message(shop: &Shop) -> String {
    shop.status("api")["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_step_ends_as_soon_as_the_version_is_proven_to_be_no_worse() {
    let mut shop = proving(json!({"maxDuration": "10m"}));
    let begun = shop.drive.now;
    assert!(
        message(&shop).starts_with("waits for a proof that the canary fails less than 2 times as often as stable, until"),
        "{}",
        message(&shop)
    );
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    let took = shop.drive.now.duration_since(begun).as_secs();
    assert!((60..240).contains(&took), "{took} s");
    let proof = result(&shop)["comparison"]["proofs"][0].clone();
    assert_eq!((proof["atMost"].as_f64(), proof["proven"].as_bool()), (Some(2.0), Some(true)));
    keeps_promises(&shop);
}

#[test]
fn without_a_proof_in_time_a_person_decides() {
    let mut shop = proving(json!({"atMost": 1.05, "maxDuration": "1m"}));
    shop.until("held", |s| !s.status("api")["hold"].is_null());
    let held = shop.status("api")["hold"]["message"].as_str().unwrap().to_owned();
    assert!(
        held.starts_with("it is not proven within 1m that the canary fails less than 1.05 times as often as stable: compared: "),
        "{held}"
    );
    shop.wait(300);
    assert_eq!((shop.phase().as_str(), shop.weight()), ("Paused", 50.0));
    assert_eq!(shop.drive.api.list(RUNS).count(), 1);
    for (verb, image) in [("Resume", "app:v2"), ("Promote", "app:v2"), ("SkipStep", "app:v2"), ("Abort", "app:v1")] {
        let mut shop = shop.clone();
        shop.command(verb);
        shop.until("it ends", |s| s.is_healthy("api") || s.is_aborted());
        assert_eq!(shop.image_that_serves(), image, "{verb}");
        assert_eq!(shop.drive.api.list(RUNS).count(), 1, "what was found until then stands");
        keeps_promises(&shop);
    }
}

#[test]
fn a_proof_without_requests_never_comes() {
    let mut shop = proving(json!({"maxDuration": "2m"}));
    shop.drive.answers = Answers::Empty;
    shop.until("held", |s| !s.status("api")["hold"].is_null());
    assert_eq!(shop.weight(), 50.0);
    keeps_promises(&shop);
}
