//! Back to an earlier version after the promotion: at rest, right after it, while the old pods are still warm, and to one by name. What
//! was undone stays rejected until the template changes.

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::json;
use sluice::api::{Phase, RolloutStatus};

use crate::{
    app::App,
    plugin::sluice,
    space::in_words,
    test::Test,
    wait::{Seen, holds_for, seconds, wait_for, when},
};

pub async fn run(test: &Test) -> Result<()> {
    futures::try_join!(at_rest(test), at_once(test), warm(test)).map(drop)
}

/// An app with v1 taken over, whose rollouts take a few seconds.
async fn taken_over(test: &Test, name: &str, drain: u32, delay: u32) -> Result<App> {
    let mut app = test.app(name)?;
    app.pace(2, drain, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 50}, {"pause": {"duration": "1s"}}]));
    app.rollout["spec"]["strategy"]["canary"]["scaleDownDelaySeconds"] = json!(delay);
    app.deploy(2).await?;
    app.roll().await?;
    Ok(app)
}

async fn at_rest(test: &Test) -> Result<()> {
    let mut app = taken_over(test, "api", 3, 0).await?;
    let before = test.space.in_git("api").await?;
    let v1 = test.space.status("api").await?.stable_revision.context("no revision")?;
    let load = app.load(40)?;
    app.release("v2", &[]).await?;
    let v2 = app.space.until_healthy("api", "sluice.dev/app:v2", seconds(90)).await?.stable_revision.context("no revision")?;

    let said = sluice(&test.space, &["undo", "api", "--reason", "orders are lost"]).await?.expect(0, "done")?;
    ensure!(said.err.contains("v1") || said.out.contains("v1"), "it does not say where it goes back to: {said:?}");
    let status = serves_again(test, "api", &v1).await?;
    let rejected = status.rejected.first().context("nothing is rejected")?;
    ensure!(rejected.revision == v2 && rejected.reason.contains("orders are lost"), "rejected is {rejected:?}");
    stays_undone(test, &app, &v1).await?;
    sluice(&test.space, &["why", "api"]).await?.expect(0, "orders are lost")?;
    // What served before v1 is not known, and v2 is no way back.
    sluice(&test.space, &["undo", "api"]).await?.expect(1, "refused")?;
    test.say("v2 is undone: v1 serves, and stays so when the same is applied again");

    app.release("v3", &[]).await?;
    let status = app.space.until_healthy("api", "sluice.dev/app:v3", seconds(90)).await?;
    let v3 = status.stable_revision.context("no revision")?;
    ensure!(status.rejected.is_empty(), "v2 is still rejected: {:?}", status.rejected);
    sluice(&test.space, &["undo", "api", "--to-revision", &v3]).await?.expect(1, "present one already")?;
    // v1 served before v3, v2 did not: it is named.
    sluice(&test.space, &["undo", "api", "--to-revision", &v2]).await?.expect(0, "done")?;
    serves_again(test, "api", &v2).await?;
    test.say("v3 went live, and --to-revision brought v2 back");

    app.release("v4", &[]).await?;
    app.space.until_healthy("api", "sluice.dev/app:v4", seconds(90)).await?;
    test.stop(load).await?.ensure_no_failures()?;
    test.space.ensure_as_in_git("api", &before).await?;
    test.say("v4 went live after it");
    Ok(())
}

/// Waits until this revision serves alone, and the present template is rejected.
async fn serves_again(test: &Test, name: &str, hash: &str) -> Result<RolloutStatus> {
    wait_for(&format!("{name}: revision {hash} serves again, alone"), seconds(60), async || {
        let status = test.space.status(name).await?;
        let pods = test.space.pods(&format!("app={name}")).await?;
        let back = status.phase == Some(Phase::Aborted) && status.stable_revision.as_deref() == Some(hash);
        let alone = pods.len() == 2 && pods.values().all(|pod| pod.ready && pod.hash == hash);
        let settled = status.weights.as_ref().is_some_and(|weights| weights.observed == Some(0.0));
        Ok(if back && alone && settled { Seen::Done(status) } else { Seen::NotYet(format!("{}; {pods:?}", in_words(&status))) })
    })
    .await
}

/// Neither applying the same template again nor a label revives what was undone.
async fn stays_undone(test: &Test, app: &App, hash: &str) -> Result<()> {
    app.apply().await?;
    test.space.patch("Deployment", &app.name, json!({"metadata": {"labels": {"touched": "yes"}}})).await?;
    holds_for("what was undone stays so", seconds(3), async || {
        let status = test.space.status(&app.name).await?;
        let pods = test.space.pods(&format!("app={}", app.name)).await?;
        let so = status.phase == Some(Phase::Aborted) && pods.values().all(|pod| pod.hash == hash);
        Ok(when(so, || format!("{}; {pods:?}", in_words(&status))))
    })
    .await
}

/// An abort right after the promotion, while the new version carries all traffic from the canary Service and drains out of the other.
async fn at_once(test: &Test) -> Result<()> {
    let mut app = taken_over(test, "prompt", 10, 0).await?;
    let v1 = test.space.status("prompt").await?.stable_revision.context("no revision")?;
    let load = app.load(40)?;
    app.release("v2", &[]).await?;
    let promoted = |status: &RolloutStatus| {
        let all = status.weights.as_ref().is_some_and(|weights| weights.canary == 100.0);
        status.stable_revision == status.canary_revision && status.stable_revision.as_deref() != Some(&v1) && all
    };
    app.space.until("prompt", "v2 is promoted, and its traffic is not home yet", seconds(60), promoted).await?;
    let asked = Timestamp::now();
    sluice(&test.space, &["abort", "prompt", "--reason", "not after all"]).await?.expect(0, "done")?;
    serves_again(test, "prompt", &v1).await?;
    let records = test.stop(load).await?;
    records.ensure_no_failures()?;
    let last = records.last_of("v2").context("v2 has never answered")?;
    let took = last.at.duration_since(asked).as_secs_f64();
    test.say(format!("an abort right after the promotion: v2's last answer came {took:.1} s after it was asked for"));
    // The service selects v1 for the drain time, so no pod has to start and nothing to drain first.
    ensure!(took < 5.0, "v2 has answered until {took:.1} s after the abort");
    Ok(())
}

/// The old pods are kept for a while: they serve again, the same ones.
async fn warm(test: &Test) -> Result<()> {
    let mut app = taken_over(test, "warm", 3, 600).await?;
    let before = test.space.pods("app=warm").await?;
    let v1 = test.space.status("warm").await?.stable_revision.context("no revision")?;
    let load = app.load(40)?;
    app.release("v2", &[]).await?;
    let status = app.space.until_healthy("warm", "sluice.dev/app:v2", seconds(90)).await?;
    ensure!(status.message.contains("keeps its pods until"), "the message does not tell of the old pods: {}", status.message);
    let kept = test.space.pods(&format!("pod-template-hash={v1}")).await?;
    ensure!(kept == before, "the old pods were {before:?}, and are {kept:?}");

    sluice(&test.space, &["undo", "warm"]).await?.expect(0, "done")?;
    serves_again(test, "warm", &v1).await?;
    let back = test.space.pods("app=warm").await?;
    ensure!(back == before, "the pods that serve again are {back:?}, they were {before:?}");
    test.say("the old version, still warm, serves again with the same pods");

    app.release("v3", &[]).await?;
    app.space.until_healthy("warm", "sluice.dev/app:v3", seconds(90)).await?;
    test.stop(load).await?.ensure_no_failures()
}
