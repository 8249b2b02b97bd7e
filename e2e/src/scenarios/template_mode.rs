//! A Rollout with its own pod template, without a Deployment: the first version at once, the next judged by what its pods say of
//! themselves (no Prometheus server), with an AnalysisTemplate and its arguments as a step.

use anyhow::{Context, Result, ensure};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PropagationPolicy},
};
use serde_json::{Value, json};
use sluice::api::{
    AnalysisRun, ClusterAnalysisTemplate, Phase, RolloutStatus, RunPhase, Verdict,
    status::{HoldReason, RolloutOutcome},
};

use crate::{
    app::App,
    plugin::sluice,
    space::GIT,
    test::Test,
    wait::{seconds, wait_for, when},
};

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("api")?;
    template(&mut app)?;
    test.space.apply(&judge()).await?;
    let tried_out: ClusterAnalysisTemplate = serde_json::from_value(tried_out())?;
    let cluster_templates: Api<ClusterAnalysisTemplate> = Api::all(test.space.client.clone());
    cluster_templates.patch(TRIED_OUT, &PatchParams::apply(GIT).force(), &Patch::Apply(&tried_out)).await?;
    for manifest in [&app.service, &app.route, &app.rollout] {
        test.space.apply(manifest).await?;
    }
    let status = app.space.until_healthy("api", "sluice.dev/app:v1", seconds(60)).await?;
    ensure!(status.history.is_empty() && test.space.pods("app=api").await?.len() == 2, "not a first deployment: {status:?}");
    app.answers().await?;
    test.say("the first version serves, without steps");

    let load = app.load(50)?;
    release(&mut app, "v2", &[]).await?;
    app.space.until_healthy("api", "sluice.dev/app:v2", seconds(90)).await?;
    passed(test).await?;
    test.stop(load).await?.ensure_no_failures()?;
    test.say("v2 was judged by its own numbers, and promoted");

    let load = app.load(50)?;
    release(&mut app, "v3", &[("FAILURE_RATE", "0.3")]).await?;
    let status = test.space.until("api", "v3 is taken back", seconds(60), |status| status.phase == Some(Phase::Aborted)).await?;
    ensure!(status.message.contains("own-success-rate"), "the message does not name the metric: {}", status.message);
    let records = test.stop(load).await?;
    test.say(format!("v3 was taken back after {} failed requests: {}", records.failures().count(), status.message));

    undecided(test, &mut app).await?;
    removed(test).await?;
    cluster_templates.delete(TRIED_OUT, &DeleteParams::default()).await?;
    Ok(())
}

/// The Deployment's template and selector become the Rollout's own.
fn template(app: &mut App) -> Result<()> {
    app.pace(2, 3, 4, 20);
    app.without_analysis()?;
    let spec = app.rollout["spec"].as_object_mut().context("spec")?;
    spec.remove("workloadRef");
    spec.insert("replicas".into(), json!(2));
    for field in ["template", "selector"] {
        spec.insert(field.into(), app.deployment["spec"][field].clone());
    }
    let tried_out = json!({"kind": "ClusterAnalysisTemplate", "name": TRIED_OUT});
    let analysis = json!({"templates": [{"name": "own-numbers"}, tried_out], "args": [{"name": "bad", "value": "5.."}]});
    app.steps(json!([{"setWeight": 30}, {"analysis": analysis}, {"setWeight": 60}, {"pause": {"duration": "2s"}}]));
    Ok(())
}

fn judge() -> Value {
    let ratio = json!({
        "numerator": "http_requests_total{code!~\"{{args.bad}}\"}",
        "denominator": "http_requests_total",
    });
    json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": {"name": "own-numbers"},
        "spec": {
            "args": [{"name": "bad"}],
            "metrics": [{"name": "own-success-rate", "scrape": {"ratio": ratio}, "min": 99, "interval": "4s", "minSamples": 20}],
        },
    })
}

/// What the platform's people try out for everybody: nothing passes it, and nothing is taken back by it.
const TRIED_OUT: &str = "e2e-tried-out";

fn tried_out() -> Value {
    let mut template = judge();
    template["kind"] = json!("ClusterAnalysisTemplate");
    template["metadata"]["name"] = json!(TRIED_OUT);
    let metric = &mut template["spec"]["metrics"][0];
    metric["name"] = json!("stricter");
    metric["min"] = json!(101);
    metric["dryRun"] = json!(true);
    template
}

async fn release(app: &mut App, version: &str, environment: &[(&str, &str)]) -> Result<()> {
    let container = &mut app.rollout["spec"]["template"]["spec"]["containers"][0];
    container["image"] = json!(format!("sluice.dev/app:{version}"));
    container["env"] = environment.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    app.space.apply(&app.rollout).await
}

/// The step's AnalysisRun has passed, with numbers.
async fn passed(test: &Test) -> Result<()> {
    let runs: Api<AnalysisRun> = Api::namespaced(test.space.client.clone(), &test.space.name);
    let runs = runs.list(&Default::default()).await?.items;
    let run = runs.first().context("there is no AnalysisRun")?;
    let status = run.status.clone().unwrap_or_default();
    ensure!(run.spec.step == Some(1) && status.phase == RunPhase::Passed, "the run of step {:?} is {:?}", run.spec.step, status.phase);
    let result = |name: &str| status.metric_results.iter().find(|result| result.name == name).context("no such metric was measured");
    let measured = result("own-success-rate")?.measurements.last().context("no measurement")?;
    let stricter = result("stricter")?;
    ensure!(stricter.dry_run && stricter.phase == RunPhase::Failed, "what is tried out says {stricter:?}");
    let from = run.spec.cluster_templates.get("stricter").map(String::as_str);
    ensure!(from == Some(TRIED_OUT), "it is of the template {from:?}");
    let good = measured.verdict == Verdict::Pass && measured.value.as_deref().is_some_and(|value| value.starts_with("100"));
    ensure!(good && measured.samples.is_some_and(|samples| samples >= 20.0), "the measurement is {measured:?}");
    Ok(())
}

/// A judge that can't decide pauses; a person decides.
async fn undecided(test: &Test, app: &mut App) -> Result<()> {
    let metric = json!({
        "name": "requests",
        "scrape": {"value": "http_requests_total"},
        "successCondition": "result < 0.0",
        "failureCondition": "result > 1000000.0",
        "interval": "2s",
    });
    app.steps(json!([{"setWeight": 30}, {"analysis": {"metrics": [metric]}}, {"setWeight": 60}]));
    release(app, "v4", &[]).await?;
    let held = |status: &RolloutStatus| status.hold.as_ref().is_some_and(|hold| hold.reason == HoldReason::InconclusiveAnalysis);
    let status = test.space.until("api", "an inconclusive analysis pauses v4", seconds(60), held).await?;
    ensure!(status.phase == Some(Phase::Paused), "it is {:?}", status.phase);
    test.say(format!("v4 is paused: {}", status.message));
    sluice(&test.space, &["promote", "api", "--full", "--reason", "we know better"]).await?.expect(0, "done")?;
    let status = app.space.until_healthy("api", "sluice.dev/app:v4", seconds(60)).await?;
    let ended: Vec<RolloutOutcome> = status.history.iter().map(|entry| entry.outcome).collect();
    ensure!(
        ended == [RolloutOutcome::Promoted, RolloutOutcome::Aborted, RolloutOutcome::Promoted],
        "the history says {:?}",
        status.history
    );
    Ok(())
}

/// With the Rollout go its pods; the Service is as it was applied.
async fn removed(test: &Test) -> Result<()> {
    test.space.remove("Rollout", "api", PropagationPolicy::Background).await?;
    wait_for("the pods and ReplicaSets are gone", seconds(60), async || {
        let (pods, sets) = (test.space.pods("app=api").await?, test.space.list("ReplicaSet").await?);
        Ok(when(pods.is_empty() && sets.is_empty(), || format!("{} ReplicaSets, {pods:?}", sets.len())))
    })
    .await?;
    let selector = test.space.get("Service", "api").await?["spec"]["selector"].clone();
    ensure!(selector == json!({"app": "api"}), "the Service selects {selector}");
    test.say("the Rollout is deleted, and its pods are gone");
    Ok(())
}
