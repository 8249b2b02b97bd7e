//! A version that never becomes ready gets no traffic and is aborted by its deadline; one that crashes after a while is taken back.
//! Stable serves on, its pods untouched.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sluice::api::Phase;

use crate::{
    test::Test,
    wait::{seconds, wait_for, when},
};

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("api")?;
    app.pace(90, 3, 5, 100);
    app.without_analysis()?;
    app.rollout["spec"]["progressDeadlineSeconds"] = json!(12);
    app.deploy(3).await?;
    app.roll().await?;
    let stable = test.space.pods("app=api").await?;

    let load = app.load(60)?;
    app.release("v5", &[("READY_AFTER_S", "never")]).await?;
    let status = test.space.until("api", "v5 is aborted", seconds(60), |s| s.phase == Some(Phase::Aborted)).await?;
    ensure!(status.message.contains("progressDeadlineSeconds"), "the message does not name the deadline: {}", status.message);
    pods_are(test, "v5's pods are gone", &stable).await?;
    let records = test.stop(load).await?;
    records.ensure_no_failures()?;
    ensure!(records.of("v5") == 0, "v5 has answered {} requests", records.of("v5"));
    test.say(format!("v5 got no request and was aborted: {}", status.message));

    let load = app.load(60)?;
    app.release("v6", &[("CRASH_AFTER_S", "20")]).await?;
    test.space.until("api", "v6 gets traffic", seconds(40), |s| s.weights.as_ref().is_some_and(|w| w.observed == Some(5.0))).await?;
    let status = test.space.until("api", "v6 is aborted", seconds(120), |s| s.phase == Some(Phase::Aborted)).await?;
    let rejected = status.rejected.first().context("nothing is rejected")?;
    ensure!(Some(&rejected.revision) == status.canary_revision.as_ref(), "another revision is rejected: {rejected:?}");
    pods_are(test, "v6's pods are gone", &stable).await?;
    let records = test.stop(load).await?;
    let (seen, failed) = (records.of("v6"), records.failures().count());
    ensure!(seen > 0, "v6 was never tried");
    // What was on its way to the pod when it crashed, and until the weight is 0: of 3 requests a second.
    ensure!(failed <= 30, "{failed} requests failed");
    let wrong = records.failures().find(|record| record.version == "v1");
    ensure!(wrong.is_none(), "stable has failed: {}", wrong.map(ToString::to_string).unwrap_or_default());
    test.say(format!("v6 answered {seen} requests, {failed} failed, then it was taken back: {}", status.message));
    Ok(())
}

/// Waits until exactly these pods are there: same uids, same restarts.
async fn pods_are(test: &Test, what: &str, stable: &std::collections::BTreeMap<String, crate::space::PodFacts>) -> Result<()> {
    wait_for(&format!("{what}, and stable's are as they were"), seconds(60), async || {
        let pods = test.space.pods("app=api").await?;
        Ok(when(pods == *stable, || format!("{pods:?}, not {stable:?}")))
    })
    .await
}
