//! Back to an earlier version, under load: after everything is at rest, and right after a promotion.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::json;
use sluice::api::{Phase, RolloutStatus, status::RolloutOutcome};

use crate::{
    app::App,
    plugin::sluice,
    test::Test,
    wait::{seconds, wait_for, when},
};

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("api")?;
    app.pace(2, 5, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 50}, {"pause": {"duration": "2s"}}]));
    app.deploy(2).await?;
    app.roll().await?;
    let load = app.load(50)?;
    at_rest(test, &mut app).await?;
    right_after_the_promotion(test, &mut app).await?;
    warm(test, &mut app).await?;
    test.stop(load).await?.ensure_no_failures()
}

/// v2 is promoted and at rest; v1 comes back, and v2 stays rejected until the template changes.
async fn at_rest(test: &Test, app: &mut App) -> Result<()> {
    app.release("v2", &[]).await?;
    app.space.until_healthy("api", "sluice.dev/app:v2", seconds(90)).await?;
    let arguments = ["undo", "api", "--reason", "customers report errors"];
    sluice(&test.space, &arguments).await?.expect(0, "done")?;
    v1_serves(test).await?;
    sluice(&test.space, &["why", "api"]).await?.expect(0, "customers report errors")?;
    sluice(&test.space, &["undo", "api"]).await?.expect(1, "refused")?;
    test.say("undone at rest: v1 serves again, and what it goes back to is not v2");
    Ok(())
}

/// v3 has just been promoted, and its traffic is not home yet: an abort takes it back at once.
async fn right_after_the_promotion(test: &Test, app: &mut App) -> Result<()> {
    app.release("v3", &[]).await?;
    let promoted = |status: &RolloutStatus| {
        let last = status.history.last().is_some_and(|entry| entry.outcome == RolloutOutcome::Promoted);
        last && status.stable_revision == status.canary_revision && status.phase == Some(Phase::Progressing)
    };
    test.space.until("api", "v3 is promoted", seconds(90), promoted).await?;
    sluice(&test.space, &["abort", "api"]).await?.expect(0, "done")?;
    v1_serves(test).await?;
    test.say("a promotion was taken back before its traffic was home");
    Ok(())
}

/// The old version keeps its pods after a promotion, and the same pods serve again.
async fn warm(test: &Test, app: &mut App) -> Result<()> {
    app.rollout["spec"]["strategy"]["canary"]["scaleDownDelaySeconds"] = json!(600);
    app.space.apply(&app.rollout).await?;
    let before = pods(test).await?;
    app.release("v4", &[]).await?;
    let status = app.space.until_healthy("api", "sluice.dev/app:v4", seconds(90)).await?;
    ensure!(status.message.contains("keeps its pods until"), "{}", status.message);
    let kept = pods(test).await?;
    ensure!(before.is_subset(&kept), "the old pods {before:?} are not all among {kept:?}");
    sluice(&test.space, &["undo", "api"]).await?.expect(0, "done")?;
    v1_serves(test).await?;
    let serve = pods(test).await?;
    ensure!(serve == before, "other pods serve: {serve:?} instead of {before:?}");
    test.say("v4 was undone: the same pods of v1 serve again");
    Ok(())
}

/// The pods that are not stopping.
async fn pods(test: &Test) -> Result<BTreeSet<String>> {
    let all = test.space.pods("app=api").await?;
    Ok(all.into_iter().filter(|(_, pod)| !pod.deleting).map(|(uid, _)| uid).collect())
}

/// Everything is where an undo ends: v1 has all traffic and all pods, the present template is rejected.
async fn v1_serves(test: &Test) -> Result<()> {
    let undone = |status: &RolloutStatus| status.phase == Some(Phase::Aborted) && status.undo.is_none();
    let status = test.space.until("api", "it is undone", seconds(90), undone).await?;
    let serves = test.space.images(status.stable_revision.as_deref().unwrap_or_default()).await?;
    ensure!(serves == ["sluice.dev/app:v1"], "{serves:?} serve");
    wait_for("only v1's pods are left", seconds(60), async || {
        let status = test.space.status("api").await?;
        Ok(when(status.replicas == 2 && status.ready_replicas == 2, || format!("{} pods", status.replicas)))
    })
    .await
}
