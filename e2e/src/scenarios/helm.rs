//! Helm 4 has the app as a chart: it is refused in mid-rollout unless it forces conflicts; it waits for the rollouts of a Rollout with a
//! template of its own, and the plugin does for a Deployment's. Helm 3 has nothing to conflict with.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::json;
use sluice::api::{Phase, RolloutStatus};

use super::{
    flux::app,
    git::{given_up, paused_at, until_observed},
    take_over::is_parked,
};
use crate::{
    app::App,
    cluster::{run as command, state},
    plugin::sluice,
    space::in_words,
    test::Test,
    wait::seconds,
};

pub async fn run(test: &Test) -> Result<()> {
    futures::try_join!(refused(test), waited(test), merged(test)).map(drop)
}

/// A Deployment's rollout. Helm's own `--wait` may end before it begins: nothing in the Rollout has changed.
async fn refused(test: &Test) -> Result<()> {
    let mut app = app(test, "api", json!([{"setWeight": 20}, {"pause": {}}]))?;
    helm(&app, &["--wait"]).await?;
    app.space.until_healthy("api", "sluice.dev/app:v1", seconds(30)).await?;
    test.space.scale("Rollout", "api", 2).await?;
    let ready = |status: &RolloutStatus| status.phase == Some(Phase::Healthy) && status.ready_replicas == 2;
    test.space.until("api", "2 pods are ready", seconds(30), ready).await?;
    app.answers().await?;
    let load = app.load(40)?;

    app.image_is("v2");
    helm(&app, &[]).await?;
    paused_at(test, "api", 20.0).await?;
    let refused = helm(&app, &[]).await.err().context("an upgrade in mid-rollout is refused, but it was not")?;
    let refused = format!("{refused:#}");
    let conflict = refused.lines().find(|line| line.contains("conflict with \"sluice\"")).with_context(|| refused.clone())?;
    test.say(format!("in mid-rollout: {conflict}"));
    let status = test.space.status("api").await?;
    ensure!(status.phase == Some(Phase::Paused), "it was disturbed: {}", in_words(&status));
    for flag in ["--force-conflicts", "--server-side=false"] {
        helm(&app, &[flag]).await.with_context(|| format!("with {flag}"))?;
        paused_at(test, "api", 20.0).await?;
        test.say(format!("with {flag} an upgrade in mid-rollout does no harm"));
    }
    sluice(&test.space, &["promote", "api"]).await?.expect(0, "done")?;
    app.space.until_healthy("api", "sluice.dev/app:v2", seconds(60)).await?;
    given_up(test, "api").await?;

    app.image_is("v3");
    helm(&app, &[]).await?;
    let waits = sluice(&test.space, &["status", "api", "--for-image", "sluice.dev/app:v3", "--timeout", "60s"]);
    let abort = async {
        until_observed(test, "api", 20.0).await?;
        sluice(&test.space, &["abort", "api", "--reason", "a bad version"]).await?.expect(0, "done")
    };
    futures::try_join!(waits, abort)?.0.expect(2, "was taken back")?;
    app.image_is("v4");
    app.steps(json!([{"setWeight": 20}]));
    // A release that was written client-side once stays so, and then has no conflicts to force.
    helm(&app, &["--server-side=true", "--force-conflicts"]).await?;
    sluice(&test.space, &["status", "api", "--for-image", "sluice.dev/app:v4", "--timeout", "60s"]).await?.expect(0, "")?;
    test.say("an aborted version is mended by the next upgrade, and the plugin waits for it");
    test.stop(load).await?.ensure_no_failures()
}

/// A Rollout with a template of its own: `helm upgrade --wait` ends with the rollout, and fails with it.
async fn waited(test: &Test) -> Result<()> {
    let mut app = app(test, "waited", json!([{"setWeight": 50}, {"pause": {"duration": "4s"}}]))?;
    let spec = app.rollout["spec"].as_object_mut().context("spec")?;
    spec.remove("workloadRef");
    spec.insert("replicas".into(), json!(1));
    for field in ["template", "selector"] {
        spec.insert(field.into(), app.deployment["spec"][field].clone());
    }
    app.deployment = json!(null);
    helm(&app, &["--wait"]).await?;
    // What has no status yet is ready for Helm.
    test.space.until("waited", "v1 serves", seconds(30), |status| status.phase == Some(Phase::Healthy)).await?;
    for version in ["v1", "v2"] {
        app.rollout["spec"]["template"]["spec"]["containers"][0]["image"] = json!(format!("sluice.dev/app:{version}"));
        helm(&app, &["--wait", "--timeout", "2m"]).await?;
        let status = test.space.status("waited").await?;
        let images = test.space.images(status.stable_revision.as_deref().unwrap_or_default()).await?;
        let so = status.phase == Some(Phase::Healthy) && images == [format!("sluice.dev/app:{version}")];
        ensure!(so, "Helm has ended while the Rollout with {images:?} is {}", in_words(&status));
    }
    app.rollout["spec"]["template"]["spec"]["containers"][0]["image"] = json!("sluice.dev/app:v3");
    let upgrade = async { Ok((helm(&app, &["--wait", "--timeout", "2m"]).await, Timestamp::now())) };
    let abort = async {
        until_observed(test, "waited", 50.0).await?;
        let at = Timestamp::now();
        sluice(&test.space, &["abort", "waited", "--reason", "a bad version"]).await?.expect(0, "done")?;
        Ok::<_, anyhow::Error>(at)
    };
    let ((upgraded, ended), aborted) = futures::try_join!(upgrade, abort)?;
    let failed = format!("{:#}", upgraded.err().context("the upgrade to a version that was taken back has succeeded")?);
    let after = ended.duration_since(aborted);
    test.say(format!(
        "--wait ends with the rollout, and fails {} ms after an abort was asked for: {}",
        after.as_millis(),
        failed.replace('\n', " ")
    ));
    ensure!(after.as_secs() < 30, "Helm ran into its time limit");
    Ok(())
}

/// Helm 3 brings what has changed in the chart, and leaves alone what else has changed in the cluster. It parks the Deployment until one of
/// its upgrades has left `replicas` alone.
async fn merged(test: &Test) -> Result<()> {
    let mut app = app(test, "merged", json!([{"setWeight": 20}, {"pause": {}}]))?;
    upgrade("helm-3", &app, &[]).await?;
    test.space.until("merged", "the condition WorkloadParked", seconds(60), is_parked).await?;
    test.space.scale("Rollout", "merged", 2).await?;
    test.space.until("merged", "2 pods are ready", seconds(30), |status| status.ready_replicas == 2).await?;
    app.answers().await?;
    let load = app.load(40)?;
    app.image_is("v2");
    upgrade("helm-3", &app, &[]).await?;
    paused_at(test, "merged", 20.0).await?;
    // The chart as it is, and one with a change in both objects that the rollout has changed.
    upgrade("helm-3", &app, &[]).await?;
    for manifest in [&mut app.service, &mut app.route] {
        manifest["metadata"]["labels"] = json!({"team": "shop"});
    }
    upgrade("helm-3", &app, &[]).await?;
    paused_at(test, "merged", 20.0).await?;
    for kind in ["Service", "HTTPRoute"] {
        let labels = test.space.get(kind, "merged").await?["metadata"]["labels"].clone();
        ensure!(labels["team"] == "shop", "Helm 3's change of the {kind} has not arrived: {labels}");
    }
    let status = test.space.status("merged").await?;
    ensure!(!is_parked(&status), "an upgrade has left replicas alone, and it is still parked: {}", in_words(&status));
    sluice(&test.space, &["promote", "merged"]).await?.expect(0, "done")?;
    app.space.until_healthy("merged", "sluice.dev/app:v2", seconds(60)).await?;
    test.stop(load).await?.ensure_no_failures()?;
    test.say("Helm 3's upgrades in mid-rollout do no harm, and what they change arrives");
    Ok(())
}

/// Writes the app's manifests as a chart, and upgrades to it by Helm 4.
async fn helm(app: &App, flags: &[&str]) -> Result<()> {
    upgrade("helm", app, flags).await
}

async fn upgrade(helm: &str, app: &App, flags: &[&str]) -> Result<()> {
    let directory: PathBuf = state().join(format!("{}-{}", app.space.name, app.name));
    std::fs::create_dir_all(directory.join("templates"))?;
    std::fs::write(directory.join("Chart.yaml"), "apiVersion: v2\nname: shop\nversion: 1.0.0\n")?;
    for manifest in app.manifests().into_iter().filter(|manifest| !manifest.is_null()) {
        let kind = manifest["kind"].as_str().context("a kind")?;
        std::fs::write(directory.join(format!("templates/{kind}.yaml")), serde_yaml_ng::to_string(manifest)?)?;
    }
    let directory = directory.display().to_string();
    let words = ["upgrade", "--install", &app.name, &directory, "--namespace", &app.space.name];
    command(helm, words.iter().chain(flags)).await.map(drop)
}
