//! Routes and their neighbours as the Gateway API lets people write them, on a real gateway: gRPC, other namespaces, several parents, rules
//! at their limits, and policies of a Service. All under load, at the same time.

mod grpc;
mod limits;
mod namespaces;
mod parents;
mod policies;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{
    app::App,
    space::{differences, in_words},
    test::Test,
    wait::{holds_for, seconds, wait_for, when},
};

pub async fn run(test: &Test) -> Result<()> {
    futures::try_join!(grpc::run(test), namespaces::run(test), parents::run(test), limits::run(test), policies::run(test)).map(drop)
}

/// It says this, and for a while neither its route nor its pods move.
async fn holds(test: &Test, app: &App, words: &str) -> Result<()> {
    test.space.until(&app.name, words, seconds(30), |status| status.message.contains(words)).await?;
    let selector = format!("app={}", app.name);
    let pods = async || test.space.pods(&selector).await.map(|pods| pods.into_keys().collect::<Vec<_>>());
    let before = (test.space.snapshot("HTTPRoute", &app.name).await?, pods().await?);
    holds_for(&format!("{} does not move", app.name), seconds(4), async || {
        let status = test.space.status(&app.name).await?;
        let now = (test.space.snapshot("HTTPRoute", &app.name).await?, pods().await?);
        Ok(when(status.message.contains(words) && now == before, || {
            format!("{}; {:?}\n{}", in_words(&status), now.1, differences(&before.0, &now.0))
        }))
    })
    .await
}

/// Waits until the route's spec is as in Git, however many moments that takes after the Rollout is healthy.
async fn route_is(test: &Test, kind: &str, name: &str, in_git: &Value) -> Result<()> {
    wait_for(&format!("{kind} {name} is as in Git"), seconds(30), async || {
        let differs = differences(in_git, &test.space.snapshot(kind, name).await?);
        Ok(when(differs.is_empty(), || differs))
    })
    .await
}

/// This version serves, nothing of the other one does, and nobody's request has failed.
fn ensure_ended_with(records: &crate::load::Records, version: &str) -> Result<()> {
    records.ensure_no_failures()?;
    let last = records.0.last().map(|record| record.version.clone()).unwrap_or_default();
    ensure!(last == version, "the last answer is of {last:?} instead of {version}");
    Ok(())
}
