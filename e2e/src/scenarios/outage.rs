//! Prometheus is gone for a minute: that is never a pass. With `onProviderError: Wait` the rollout holds and goes on by itself; by the
//! default it pauses for a person.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sluice::api::{
    AnalysisRun, Phase, RunPhase,
    run::MetricResult,
    status::{HoldReason, RolloutStatus},
};

use crate::{
    app::App,
    plugin::sluice,
    space::in_words,
    test::Test,
    wait::{holds_for, seconds, when},
};

pub async fn run(test: &Test) -> Result<()> {
    let (mut patient, mut strict) = (test.app("patient")?, test.app("strict")?);
    for app in [&mut patient, &mut strict] {
        app.pace(8, 3, 5, 10);
        app.steps(json!([{"setWeight": 20}, {"pause": {"duration": "8s"}}, {"setWeight": 50}, {"pause": {"duration": "8s"}}]));
    }
    patient.rollout["spec"]["strategy"]["canary"]["analysis"]["metrics"][0]["onProviderError"] = json!("Wait");
    futures::try_join!(patient.deploy(2), strict.deploy(2))?;
    futures::try_join!(patient.roll(), strict.roll())?;

    let loads = [patient.load(30)?, strict.load(30)?];
    futures::try_join!(patient.release("v2", &[]), strict.release("v2", &[]))?;
    let at_20 = |status: &RolloutStatus| status.weights.as_ref().is_some_and(|weights| weights.observed == Some(20.0));
    futures::try_join!(test.space.until("patient", "20 %", seconds(60), at_20), test.space.until("strict", "20 %", seconds(60), at_20))?;
    test.cluster.part("stop", "prometheus").await?;
    test.say("both are at 20 %; Prometheus is stopped");
    let without = without_prometheus(test).await;
    test.cluster.part("start", "prometheus").await?;
    without?;
    test.say("Prometheus is back");

    patient.space.until_healthy("patient", "sluice.dev/app:v2", seconds(90)).await?;
    test.say("patient: went on by itself, and is promoted");
    sluice(&test.space, &["resume", "strict", "--reason", "Prometheus is back"]).await?.expect(0, "done")?;
    promoted(&strict).await?;
    for load in loads {
        test.stop(load).await?.ensure_no_failures()?;
    }
    Ok(())
}

async fn promoted(strict: &App) -> Result<()> {
    strict.space.until_healthy("strict", "sluice.dev/app:v2", seconds(90)).await.map(drop)
}

/// A minute in which nothing can be measured.
async fn without_prometheus(test: &Test) -> Result<()> {
    let before = measured(test, "patient").await?;
    holds_for("neither rollout gets more traffic without Prometheus", seconds(60), async || {
        for name in ["patient", "strict"] {
            let status = test.space.status(name).await?;
            let ended = matches!(status.phase, Some(Phase::Aborted | Phase::Healthy | Phase::Degraded));
            let weight = status.weights.as_ref().map_or(0.0, |weights| weights.canary);
            if ended || weight != 20.0 {
                return Ok(when(false, || format!("{name}: {}", in_words(&status))));
            }
        }
        Ok(when(true, String::new))
    })
    .await?;
    let after = measured(test, "patient").await?;
    // A measurement that was on its way when Prometheus stopped may still have passed.
    ensure!(
        after.passed <= before.passed + 1,
        "{} measurements passed, and {} after a minute without Prometheus",
        before.passed,
        after.passed
    );
    ensure!(after.errors > before.errors + 4, "only {} errors are recorded", after.errors);
    let last = after.measurements.last().context("no measurement")?;
    ensure!(format!("{:?}", last.verdict) == "ProviderError", "the last verdict is {:?}: {}", last.verdict, last.message);
    test.say(format!("patient: {} ProviderErrors, the last: {}", after.errors, last.message));
    let status = test.space.status("strict").await?;
    ensure!(status.phase == Some(Phase::Paused), "strict is {}", in_words(&status));
    let hold = status.hold.context("strict has no hold")?;
    ensure!(hold.reason == HoldReason::InconclusiveAnalysis, "strict is held by {hold:?}");
    test.say(format!("strict: paused for a person: {}", hold.message));
    Ok(())
}

/// What the running analysis of a Rollout has measured.
async fn measured(test: &Test, rollout: &str) -> Result<MetricResult> {
    let runs: kube::Api<AnalysisRun> = kube::Api::namespaced(test.space.client.clone(), &test.space.name);
    let runs = runs.list(&Default::default()).await?.items;
    let running =
        runs.into_iter().find(|run| run.spec.rollout == rollout && run.status.as_ref().is_none_or(|s| s.phase == RunPhase::Running));
    let status = running.with_context(|| format!("{rollout} has no running AnalysisRun"))?.status.unwrap_or_default();
    Ok(status.metric_results.into_iter().next().unwrap_or_default())
}
