//! A HorizontalPodAutoscaler with a real metrics-server, on the CPU that requests take: of the Deployment, it holds the take-over; of the
//! Rollout, it scales it up and down in mid-rollout, by the pods of both revisions.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sluice::api::RolloutStatus;

use super::{
    scaling::{paused, paused_within},
    take_over::same_pods,
};
use crate::{
    plugin::sluice,
    test::Test,
    wait::{holds_for, seconds, wait_for, when},
};

/// Each request takes 5 ms of a CPU, and a pod is to take 40 ms of it a second: a pod for every 8 requests a second.
const CPU_MS: &str = "5";
const REQUEST: &str = "50m";
const UTILIZATION: i32 = 80;
/// Well between two numbers of pods: half a pod's work (2 pods by `minReplicas`), two and a half, four and a half.
const QUIET: u32 = 4;
const BUSY: u32 = 20 - QUIET;
const RUSH_HOUR: u32 = 35 - BUSY - QUIET;

pub async fn run(test: &Test) -> Result<()> {
    test.cluster.with_addon("metrics-server", scaled(test)).await
}

fn autoscaler(kind: &str, version: &str) -> Value {
    let target = json!({"apiVersion": version, "kind": kind, "name": "api"});
    let cpu = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": UTILIZATION}});
    let spec = json!({
        "minReplicas": 2, "maxReplicas": 12, "scaleTargetRef": target, "metrics": [{"type": "Resource", "resource": cpu}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
    });
    json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "rush-hour"}, "spec": spec})
}

async fn wanted(test: &Test) -> Result<i32> {
    test.space.rollouts().get("api").await?.spec.replicas.context("the Rollout has replicas")
}

async fn until_wanted(test: &Test, replicas: i32) -> Result<()> {
    wait_for(&format!("the autoscaler wants {replicas} replicas"), seconds(90), async || {
        let wanted = wanted(test).await?;
        Ok(when(wanted == replicas, || format!("{wanted} replicas are wanted")))
    })
    .await
}

async fn scaled(test: &Test) -> Result<()> {
    let mut app = test.app("api")?;
    app.pace(2, 3, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 20}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]));
    let container = &mut app.deployment["spec"]["template"]["spec"]["containers"][0];
    container["resources"]["requests"]["cpu"] = json!(REQUEST);
    container["env"] = json!([{"name": "CPU_MS", "value": CPU_MS}]);
    app.deploy(2).await?;
    let quiet = app.load(QUIET)?;
    let busy = app.load(BUSY)?;
    test.space.apply(&autoscaler("Deployment", "apps/v1")).await?;
    // The first measurement of a pod is the difference of two, 10 s apart, that metrics-server has read.
    wait_for("the autoscaler has scaled the Deployment to 3", seconds(120), async || {
        let deployment = test.space.get("Deployment", "api").await?;
        Ok(when(deployment["spec"]["replicas"] == 3, || deployment["spec"]["replicas"].to_string()))
    })
    .await?;
    app.available(3).await?;
    let before = test.space.pods("app=api").await?;
    test.say("the autoscaler has scaled the Deployment from 2 to 3");

    app.space.apply(&app.rollout).await?;
    let waits = |status: &RolloutStatus| {
        status.message.starts_with("waits until HorizontalPodAutoscaler rush-hour no longer scales Deployment api")
    };
    let status = test.space.until("api", "it names the autoscaler", seconds(30), waits).await?;
    let deployment = test.space.get("Deployment", "api").await?;
    ensure!(deployment["spec"]["paused"].is_null() && deployment["spec"]["replicas"] == 3, "it is touched: {}", deployment["spec"]);
    test.say(&status.message);

    test.space.apply(&autoscaler("Rollout", "sluice.dev/v1alpha1")).await?;
    app.space.until_healthy("api", "sluice.dev/app:v1", seconds(60)).await?;
    same_pods(&before, &test.space.pods("app=api").await?)?;

    app.release("v2", &[("CPU_MS", CPU_MS)]).await?;
    paused(test, "api", 1, 3, 1).await?;
    let rush_hour = app.load(RUSH_HOUR)?;
    paused(test, "api", 1, 5, 1).await?;
    test.say("scaled from 3 to 5 in mid-rollout; stable serves 80 %");
    sluice(&test.space, &["promote", "api"]).await?.expect(0, "done")?;
    // For a while the pods' measurements are of different times, some before the traffic moved and some after: what has moved counts twice,
    // and two more are wanted. If each pod more made it want more, it would run away to 12; if it saw one revision alone, it would see
    // half of the work and want 3.
    holds_for("about 5 replicas are wanted while the measurements follow the traffic", seconds(45), async || {
        let wanted = wanted(test).await?;
        Ok(when((4..=9).contains(&wanted), || format!("{wanted} replicas are wanted")))
    })
    .await?;
    until_wanted(test, 5).await?;
    paused_within(test, "api", 3, 5, 3..=5).await?;
    wait_for("the scale subresource counts the pods of both revisions", seconds(30), async || {
        let counted = test.space.api("Rollout").get_scale("api").await?.status.map(|status| status.replicas);
        let pods = test.space.pods("app=api").await?.len();
        Ok(when(counted.is_some_and(|counted| usize::try_from(counted) == Ok(pods)), || format!("{counted:?} of {pods}")))
    })
    .await?;
    test.say("the pods of both revisions are counted, and 5 stay wanted");

    let mut loads = vec![test.stop(rush_hour).await?, test.stop(busy).await?];
    until_wanted(test, 2).await?;
    // Stable could take everything back at any moment: it keeps what it had when the rollout began.
    paused(test, "api", 3, 3, 2).await?;
    test.say("scaled down to 2; stable keeps the 3 that it had when the rollout began");
    sluice(&test.space, &["promote", "api"]).await?.expect(0, "done")?;
    app.space.until_healthy("api", "sluice.dev/app:v2", seconds(90)).await?;
    wait_for("2 pods serve", seconds(30), async || {
        let pods = test.space.pods("app=api").await?;
        Ok(when(pods.len() == 2, || format!("{pods:?}")))
    })
    .await?;
    loads.push(test.stop(quiet).await?);
    loads.iter().try_for_each(|load| load.ensure_no_failures())
}
