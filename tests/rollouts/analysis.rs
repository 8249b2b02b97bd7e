//! Analysis in whole rollouts: its runs, and what they are kept for.

use jiff::SignedDuration;
use serde_json::{Value, json};
use sluice::{
    api::{RunPhase, analysis::TemplateRef},
    core::{Settings, patch::Write, plan},
    sim::drive::{Drive, path},
    world::Watched,
};

use super::{
    plan::{planned, waiting},
    shop::Shop,
};

const RUNS: &str = "analysisruns.sluice.dev";

fn metric(more: Value) -> Value {
    let mut metric = json!({"name": "success", "prometheus": {"query": "up"}, "min": 99, "interval": "10s"});
    metric.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    metric
}

/// A shop whose Rollout goes to 50 %, is analysed as a step, and is promoted.
fn with_step(analysis: Value) -> Shop {
    let mut shop = Shop::without_rollout();
    let steps = json!([{"setWeight": 50}, {"analysis": analysis}]);
    shop.rollout("api", json!({"strategy": {"canary": {"steps": steps}}}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop
}

fn runs(drive: &Drive) -> Vec<Value> {
    drive.api.list(RUNS).map(|run| (**run).clone()).collect()
}

fn promoted(shop: &mut Shop, image: &str) {
    shop.deploy(image);
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == image);
}

#[test]
fn runs_are_kept_for_the_revisions_in_the_history() {
    let mut shop = with_step(json!({"metrics": [metric(json!({}))]}));
    for version in 2..15 {
        promoted(&mut shop, &format!("app:v{version}"));
    }
    shop.comes_to_rest();
    let history: Vec<Value> = shop.status("api")["history"].as_array().unwrap().iter().map(|entry| entry["revision"].clone()).collect();
    let mut kept: Vec<Value> = runs(&shop.drive).iter().map(|run| run["spec"]["canaryHash"].clone()).collect();
    kept.sort_by_key(|revision| history.iter().position(|known| known == revision));
    assert_eq!((kept.len(), &kept), (10, &history), "one for each revision, and none of those that are forgotten");
}

#[test]
fn a_step_is_judged_as_often_as_it_says() {
    let mut shop = with_step(json!({"metrics": [metric(json!({"count": 3}))]}));
    shop.deploy("app:v2");
    shop.until("the analysis runs", |s| !runs(&s.drive).is_empty());
    let begun = shop.drive.now;
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    let run = &runs(&shop.drive)[0];
    assert_eq!((&run["status"]["phase"], &run["status"]["metricResults"][0]["passed"]), (&json!("Passed"), &json!(3)));
    let completed: jiff::Timestamp = run["status"]["completedAt"].as_str().unwrap().parse().unwrap();
    let took = completed.duration_since(begun);
    assert!((SignedDuration::from_secs(29)..SignedDuration::from_secs(33)).contains(&took), "{took:?}");
}

#[test]
fn without_steps_the_promotion_still_waits_for_the_background_analysis() {
    let mut shop = Shop::without_rollout();
    let analysis = json!({"metrics": [metric(json!({}))]});
    shop.rollout("api", json!({"strategy": {"canary": {"steps": [], "analysis": analysis}}}));
    shop.until("taken over", |s| s.is_healthy("api"));
    promoted(&mut shop, "app:v2");
    shop.comes_to_rest();
    assert_eq!(runs(&shop.drive)[0]["status"]["metricResults"][0]["passed"], 1);
}

#[test]
fn a_step_that_is_skipped_over_an_inconclusive_analysis_still_needs_evidence_for_more_traffic() {
    let undecided = json!({"name": "success", "prometheus": {"query": "up"}, "interval": "10s",
        "successCondition": "result > 50.0", "failureCondition": "result < -1.0"});
    let steps = json!([{"setWeight": 5}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]);
    let mut shop = Shop::without_rollout();
    shop.rollout("api", json!({"strategy": {"canary": {"steps": steps, "analysis": {"metrics": [undecided]}}}}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.drive.bad.insert("app:v2".into());
    shop.deploy("app:v2");
    shop.until("held", |s| !s.status("api")["hold"].is_null());
    shop.command("SkipStep");
    shop.until("held again", |s| s.status("api")["currentStep"]["index"] == 2 && !s.status("api")["hold"].is_null());
    assert_eq!(shop.weight(), 5.0);
    shop.drive.bad.clear();
    shop.command("Resume");
    shop.until("goes on with evidence", |s| s.weight() == 50.0);
    assert!(shop.drive.promises.broken.is_empty(), "{:#?}", shop.drive.promises.broken);
}

#[test]
fn in_the_background_a_metric_is_measured_as_often_as_it_says_and_no_more() {
    let mut shop = Shop::without_rollout();
    let steps = json!([{"setWeight": 20}, {"pause": {"duration": "60s"}}, {"setWeight": 50}, {"pause": {"duration": "60s"}}]);
    let analysis = json!({"metrics": [metric(json!({"count": 2})), metric(json!({"name": "always"}))]});
    shop.rollout("api", json!({"strategy": {"canary": {"steps": steps, "analysis": analysis}}}));
    shop.until("taken over", |s| s.is_healthy("api"));
    promoted(&mut shop, "app:v2");
    let run = &runs(&shop.drive)[0]["status"];
    assert_eq!((&run["metricResults"][0]["passed"], &run["metricResults"][0]["phase"]), (&json!(2), &json!("Passed")));
    assert!(run["metricResults"][1]["passed"].as_i64().unwrap() >= 12, "{run:#}");
}

#[test]
fn a_dry_run_takes_nothing_back() {
    let dry = metric(json!({"dryRun": true}));
    let mut shop = Shop::without_rollout();
    let canary = json!({"steps": [{"setWeight": 50}, {"analysis": {"metrics": [dry]}}], "analysis": {"metrics": [dry]}});
    shop.rollout("api", json!({"strategy": {"canary": canary}}));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop.drive.bad.insert("app:v2".into());
    promoted(&mut shop, "app:v2");
    shop.comes_to_rest();
    shop.is_as_in_git();
    let would: Vec<Value> = runs(&shop.drive).iter().map(|run| run["status"]["metricResults"][0].clone()).collect();
    assert_eq!(would.len(), 2);
    for result in would {
        assert_eq!((&result["phase"], &result["dryRun"], &result["failed"]), (&json!("Failed"), &json!(true), &json!(1)));
    }
}

#[test]
fn a_cluster_template_may_come_later_and_is_recorded() {
    let template = json!({"name": "platform", "kind": "ClusterAnalysisTemplate"});
    let mut shop = Shop::open();
    let analysis = json!({"templates": [template], "metrics": [metric(json!({"name": "own"}))]});
    shop.rollout("api", json!({"strategy": {"canary": {"steps": [{"setWeight": 50}, {"analysis": analysis}]}}}));
    // One of this name in the namespace is another one.
    let spec = json!({"metrics": [metric(json!({"name": "of-the-namespace"}))]});
    shop.apply(Watched::AnalysisTemplate, json!({"metadata": {"name": "platform"}, "spec": spec}));
    shop.deploy("app:v2");
    let missing = "the analysis cannot start: there is no ClusterAnalysisTemplate \"platform\"";
    shop.until("it is missed", |s| s.status("api")["message"].as_str().unwrap_or_default().contains(missing));
    let body = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "ClusterAnalysisTemplate", "metadata": {"name": "platform"},
        "spec": {"metrics": [metric(json!({}))]}});
    let at = path(Watched::ClusterAnalysisTemplate, "", "").replace("namespaces//", "");
    shop.send("POST", &at, "platform", "application/json", body);
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    let run = &runs(&shop.drive)[0]["spec"];
    assert_eq!(run["clusterTemplates"], json!({"success": "platform"}));
    assert_eq!(run["metrics"].as_array().unwrap().iter().map(|m| &m["name"]).collect::<Vec<_>>(), ["success", "own"]);
}

#[test]
fn a_template_that_needs_a_prometheus_server_where_there_is_none_is_named() {
    let (mut obs, now) = waiting();
    let analysis = &mut obs.rollout.spec.strategy.canary.as_mut().unwrap().analysis.as_mut().unwrap().analysis;
    let template = TemplateRef { name: "web".into(), ..TemplateRef::default() };
    (analysis.metrics, analysis.templates) = (vec![], vec![template.clone()]);
    let none = Settings::default();
    assert_eq!(plan(&obs, &none, now).status.message, planned(&obs, now).status.message, "it may come later");
    let web = serde_json::from_value(json!({"metrics": [metric(json!({}))]})).unwrap();
    obs.analysis_templates.insert(template, Ok(web));
    let message = plan(&obs, &none, now).status.message;
    let start =
        "spec.strategy.canary.analysis.templates[0]: metric success of AnalysisTemplate \"web\": set the address of a Prometheus server";
    assert!(message.contains(start), "{message}");
    assert!(!planned(&obs, now).status.message.contains("templates[0]"));
}

/// What is removed, by the names of the runs.
fn removed(obs: &sluice::core::Observed, now: jiff::Timestamp) -> Vec<String> {
    let deletes = planned(obs, now).actions.into_iter().filter_map(|action| match action.write {
        Write::Delete { name, .. } => Some(name),
        _ => None,
    });
    deletes.collect()
}

#[test]
fn only_ended_runs_of_ours_are_removed_and_never_a_current_one() {
    let (mut obs, now) = waiting();
    // Quiet: nothing is to be written.
    assert_eq!(planned(&obs, now).actions, []);
    assert_eq!(planned(&obs, now).status, obs.rollout.status);
    // The current run has spoken, long ago.
    obs.runs[0].status.phase = RunPhase::Passed;
    obs.runs[0].status.started_at = Some((now - SignedDuration::from_hours(24)).into());
    obs.rollout.status = planned(&obs, now).status;
    let current = obs.runs[0].clone();
    let old = |name: &str, at: i64, change: &dyn Fn(&mut sluice::core::observed::RunView)| {
        let mut run = current.clone();
        run.meta.name = name.to_owned();
        run.status.phase = RunPhase::Passed;
        run.status.started_at = Some((now - SignedDuration::from_secs(at)).into());
        change(&mut run);
        run
    };
    for n in 0..14 {
        obs.runs.push(old(&format!("old-{n:02}"), 100 + n, &|_| {}));
    }
    obs.runs.push(old("forgotten", 1, &|run| run.spec.canary_hash = "gone".into()));
    obs.runs.push(old("by-hand", 9999, &|run| run.meta.labels.clear()));
    obs.runs.push(old("going", 9999, &|run| run.meta.deleting = true));
    assert_eq!(removed(&obs, now), ["forgotten", "old-10", "old-11", "old-12", "old-13"]);

    let mut running = obs.clone();
    running.runs.push(old("still-running", 9999, &|run| run.status.phase = RunPhase::Running));
    let plan = planned(&running, now);
    assert_eq!(plan.actions.iter().map(|a| a.what.as_str()).collect::<Vec<_>>(), ["end AnalysisRun still-running"], "one thing at a time");
    running.runs.last_mut().unwrap().meta.labels.clear();
    assert!(!planned(&running, now).actions.iter().any(|a| a.what.starts_with("end")), "a person's run is the person's to end");
}
