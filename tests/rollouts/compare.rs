//! Whole rollouts that compare the canary with stable.

use jiff::Timestamp;
use serde_json::{Value, json};
use sluice::sim::drive::Answers;

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
    assert!(message.starts_with("compared: canary fails 4 times as often as stable ("), "{message}");
    assert!(message.contains("the odds against that being chance passed 1 in 20 after"), "{message}");
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

#[test]
fn no_request_counts_twice_whenever_the_controller_crashes_or_looks_again() {
    let mut shop = comparing(&[metric(json!({}))], json!([{"setWeight": 10}, {"pause": {}}]));
    shop.drive.failing.insert("app:v2".into(), 0.01);
    shop.deploy("app:v2");
    shop.until("compared", |s| accounted(s).is_some());
    let all = |shop: &Shop| accounted(shop).unwrap();
    assert!((all(&shop).0 as f64 - all(&shop).1).abs() < 2.0, "{:?}", all(&shop));
    for write in 1..12 {
        let mut shop = shop.clone();
        shop.drive.crash_after = Some(shop.drive.writes + write);
        for _ in 0..6 {
            shop.wait(13);
            shop.drive.crash();
        }
        shop.wait(30);
        let (counted, there_were) = all(&shop);
        assert!(counted > 5000 && counted as f64 <= there_were + 20.0, "{counted} of {there_were}, crash after write {write}");
    }
}
