//! How many pods there are: scaled in the middle of a rollout, by a step, without routes; and restarted without a gap.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sluice::api::{Phase, RolloutStatus};

use crate::{
    app::App,
    plugin::sluice,
    test::Test,
    wait::{seconds, wait_for, when},
};

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("api")?;
    app.pace(2, 3, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setCanaryScale": {"replicas": 2}}, {"setWeight": 20}, {"pause": {}}]));
    app.deploy(2).await?;
    app.roll().await?;
    let load = app.load(50)?;
    in_the_middle(test, &mut app).await?;
    restarted(test, &app).await?;
    test.stop(load).await?.ensure_no_failures()?;
    by_count(test).await
}

async fn in_the_middle(test: &Test, app: &mut App) -> Result<()> {
    app.release("v2", &[]).await?;
    let paused = |status: &RolloutStatus| status.phase == Some(Phase::Paused);
    let status = test.space.until("api", "it pauses", seconds(60), paused).await?;
    ensure!(status.updated_replicas == 2, "setCanaryScale gave it {} pods", status.updated_replicas);
    test.space.scale("Rollout", "api", 4).await?;
    let four = |status: &RolloutStatus| status.available_replicas == 6 && status.phase == Some(Phase::Paused);
    test.space.until("api", "stable has 4 pods, the canary 2", seconds(60), four).await?;
    sluice(&test.space, &["promote", "api"]).await?.expect(0, "done")?;
    let status = app.space.until_healthy("api", "sluice.dev/app:v2", seconds(90)).await?;
    ensure!(status.replicas == 4, "{} pods serve", status.replicas);
    test.say("scaled from 2 to 4 in the middle of a rollout");
    Ok(())
}

/// Every pod is another one, there were never fewer ready than the budget asks for, and no request failed.
async fn restarted(test: &Test, app: &App) -> Result<()> {
    let budget = |spec: Value| {
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "api"}});
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "api", "namespace": app.space.name}, "spec": spec})
    };
    test.space.apply(&budget(json!({"maxUnavailable": 0}))).await?;
    let before = test.space.pods("app=api").await?;
    sluice(&test.space, &["restart", "api"]).await?.expect(0, "done")?;
    let waits = |status: &RolloutStatus| status.message.contains("as soon as its PodDisruptionBudgets allow it");
    test.space.until("api", "it says that a budget holds the restart", seconds(60), waits).await?;
    let held = test.space.pods("app=api").await?;
    ensure!(before.keys().all(|pod| held.contains_key(pod)), "a pod was restarted although the budget allows none");
    test.space.apply(&budget(json!({"minAvailable": 4}))).await?;
    wait_for("every pod is restarted", seconds(120), async || {
        let now = test.space.pods("app=api").await?;
        let status = test.space.status("api").await?;
        ensure!(status.ready_replicas >= 4 || status.phase != Some(Phase::Healthy), "fewer pods than are wanted are ready");
        let now: Vec<_> = now.iter().filter(|(_, pod)| !pod.deleting).map(|(uid, _)| uid).collect();
        let all = now.len() == 4 && now.iter().all(|pod| !before.contains_key(*pod)) && status.phase == Some(Phase::Healthy);
        Ok(when(all, || status.message.clone()))
    })
    .await?;
    test.say("every pod was restarted, as the budget allows");
    Ok(())
}

/// Without `traffic`, the number of pods is the share.
async fn by_count(test: &Test) -> Result<()> {
    let mut app = test.app("plain")?;
    app.without_analysis()?;
    app.rollout["spec"].as_object_mut().map(|spec| spec.remove("traffic"));
    app.steps(json!([{"setWeight": 34}, {"pause": {}}]));
    app.deploy(2).await?;
    app.roll().await?;
    app.release("v2", &[]).await?;
    let paused = |status: &RolloutStatus| status.phase == Some(Phase::Paused);
    let status = app.space.until("plain", "it pauses", seconds(60), paused).await?;
    ensure!((status.replicas, status.updated_replicas) == (3, 1), "{} of {} pods are v2's", status.updated_replicas, status.replicas);
    sluice(&test.space, &["promote", "plain"]).await?.expect(0, "done")?;
    app.space.until_healthy("plain", "sluice.dev/app:v2", seconds(60)).await?;
    app.release("v3", &[]).await?;
    app.space.until("plain", "it pauses", seconds(60), paused).await?;
    sluice(&test.space, &["abort", "plain"]).await?.expect(0, "done")?;
    let back = |status: &RolloutStatus| status.phase == Some(Phase::Aborted) && status.replicas == 2 && status.ready_replicas == 2;
    app.space.until("plain", "v3 is taken back", seconds(60), back).await?;
    test.say("a canary by the number of pods alone: promoted, and taken back");
    Ok(())
}
