//! Helm 4 has the app as a chart: it waits for whole rollouts, fails with one that is taken back, and is refused in mid-rollout unless it
//! forces conflicts.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::json;
use sluice::api::{Phase, RolloutStatus};

use super::{
    flux::app,
    git::{given_up, paused_at, until_observed},
};
use crate::{
    app::App,
    cluster::{run as command, state},
    plugin::sluice,
    test::Test,
    wait::seconds,
};

pub async fn run(test: &Test) -> Result<()> {
    let pause = json!({"pause": {}});
    let mut app = app(test, "api", json!([{"setWeight": 20}, {"pause": {"duration": "4s"}}]))?;
    let chart = Chart { directory: state().join(&test.space.name), namespace: test.space.name.clone() };
    chart.upgrade(&app, &["--wait"]).await?;
    healthy(test, "v1").await?;
    test.space.scale("Rollout", "api", 2).await?;
    let ready = |status: &RolloutStatus| status.phase == Some(Phase::Healthy) && status.ready_replicas == 2;
    test.space.until("api", "2 pods are ready", seconds(30), ready).await?;
    app.answers().await?;
    let load = app.load(40)?;

    app.image_is("v2");
    chart.upgrade(&app, &["--wait", "--timeout", "2m"]).await?;
    healthy(test, "v2").await?;
    given_up(test, "api").await?;
    test.say("helm upgrade --wait has ended with the rollout");

    app.image_is("v3");
    app.steps(json!([{"setWeight": 20}, pause]));
    chart.upgrade(&app, &[]).await?;
    paused_at(test, "api", 20.0).await?;
    let refused = chart.upgrade(&app, &[]).await.err().context("an upgrade in mid-rollout is refused, but it was not")?;
    let refused = format!("{refused:#}");
    ensure!(refused.contains("conflict with \"sluice\""), "{refused}");
    test.say(refused.lines().filter(|line| line.contains("conflict")).collect::<Vec<_>>().join("; "));
    let status = test.space.status("api").await?;
    ensure!(status.phase == Some(Phase::Paused), "it was disturbed: {}", crate::space::in_words(&status));
    chart.upgrade(&app, &["--force-conflicts"]).await?;
    paused_at(test, "api", 20.0).await?;
    chart.upgrade(&app, &["--server-side=false"]).await?;
    paused_at(test, "api", 20.0).await?;
    test.say("with --force-conflicts, and with --server-side=false, an upgrade in mid-rollout does no harm");
    sluice(&test.space, &["promote", "api"]).await?.expect(0, "done")?;
    app.space.until_healthy("api", "sluice.dev/app:v3", seconds(60)).await?;

    app.image_is("v4");
    let bad = chart.upgrade(&app, &["--wait", "--timeout", "2m"]);
    let abort = async {
        until_observed(test, "api", 20.0).await?;
        sluice(&test.space, &["abort", "api", "--reason", "a bad version"]).await?.expect(0, "done")?;
        Ok::<_, anyhow::Error>(Timestamp::now())
    };
    let (failed, at) = futures::join!(bad, abort);
    let failed = format!("{:#}", failed.err().context("the upgrade to a version that was taken back has succeeded")?);
    test.say(format!("helm fails {} ms after the abort: {}", Timestamp::now().duration_since(at?).as_millis(), failed.lines().last().unwrap_or_default()));
    app.image_is("v5");
    app.steps(json!([{"setWeight": 20}]));
    chart.upgrade(&app, &["--wait", "--timeout", "2m", "--force-conflicts"]).await?;
    healthy(test, "v5").await?;
    test.stop(load).await?.ensure_no_failures()
}

async fn healthy(test: &Test, version: &str) -> Result<()> {
    let status = test.space.status("api").await?;
    let images = test.space.images(status.stable_revision.as_deref().unwrap_or_default()).await?;
    let so = status.phase == Some(Phase::Healthy) && images == [format!("sluice.dev/app:{version}")];
    ensure!(so, "Helm has ended while the Rollout is {} with {images:?}", crate::space::in_words(&status));
    Ok(())
}

struct Chart {
    directory: PathBuf,
    namespace: String,
}

impl Chart {
    /// Writes the app's manifests as a chart, and upgrades to it.
    async fn upgrade(&self, app: &App, flags: &[&str]) -> Result<()> {
        std::fs::create_dir_all(self.directory.join("templates"))?;
        std::fs::write(self.directory.join("Chart.yaml"), "apiVersion: v2\nname: shop\nversion: 1.0.0\n")?;
        for manifest in app.manifests() {
            let file = self.directory.join(format!("templates/{}.yaml", manifest["kind"].as_str().unwrap_or_default()));
            std::fs::write(file, serde_yaml_ng::to_string(manifest)?)?;
        }
        let directory = self.directory.display().to_string();
        let words = ["upgrade", "--install", "shop", &directory, "--namespace", &self.namespace];
        command("helm", words.iter().chain(flags)).await.map(drop)
    }
}
