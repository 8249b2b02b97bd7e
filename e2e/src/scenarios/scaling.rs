//! How many pods there are: scaled in mid-rollout, by a step of its own, restarted one after the other as PodDisruptionBudgets allow,
//! and a canary by the number of pods alone.

use std::{collections::BTreeMap, ops::RangeInclusive};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use kube::api::PropagationPolicy;
use serde_json::{Value, json};
use sluice::api::{Phase, RolloutStatus, status::RolloutOutcome};

use crate::{
    app::App,
    cluster::run as command,
    plugin::sluice,
    space::{PodFacts, in_words},
    test::Test,
    timeline::Timeline,
    wait::{Seen, holds_for, seconds, wait_for, when},
};

pub async fn run(test: &Test) -> Result<()> {
    futures::try_join!(scaled(test), restarted(test), by_count(test)).map(drop)
}

/// Waits for the pause at this step, with so many ready pods of stable and canary.
pub async fn paused(test: &Test, name: &str, index: i32, stable: usize, canary: usize) -> Result<()> {
    paused_within(test, name, index, stable, canary..=canary).await
}

/// As [`paused`], where the canary may have more pods than its weight takes: those that it was given once.
pub async fn paused_within(test: &Test, name: &str, index: i32, stable: usize, canary: RangeInclusive<usize>) -> Result<()> {
    wait_for(&format!("{name} pauses at step {index} with {stable} + {canary:?} pods"), seconds(60), async || {
        let status = test.space.status(name).await?;
        let pods = test.space.pods(&format!("app={name}")).await?;
        let of = |hash: &Option<String>| pods.values().filter(|pod| pod.ready && !pod.deleting && Some(&pod.hash) == hash.as_ref()).count();
        let (stable_has, canary_has) = (of(&status.stable_revision), of(&status.canary_revision));
        let step = status.current_step.as_ref().map(|step| step.index);
        let so = status.phase == Some(Phase::Paused) && step == Some(index) && stable_has == stable && canary.contains(&canary_has);
        Ok(when(so, || format!("{stable_has} + {canary_has} pods; {}", in_words(&status))))
    })
    .await
}

/// Scaled by `kubectl scale` and by a step, up and down, under load.
async fn scaled(test: &Test) -> Result<()> {
    let mut app = test.app("scaled")?;
    app.pace(2, 3, 5, 100);
    app.without_analysis()?;
    app.steps(json!([
        {"setWeight": 20}, {"pause": {}}, {"setCanaryScale": {"replicas": 2}}, {"pause": {}}, {"setWeight": 50}, {"pause": {"duration": "1s"}}
    ]));
    app.deploy(2).await?;
    app.roll().await?;
    let load = app.load(40)?;
    app.release("v2", &[]).await?;
    paused(test, "scaled", 1, 2, 1).await?;
    scale(test, "scaled", 4).await?;
    paused(test, "scaled", 1, 4, 1).await?;
    test.say("scaled from 2 to 4 in mid-rollout");
    sluice(&test.space, &["promote", "scaled"]).await?.expect(0, "done")?;
    paused(test, "scaled", 3, 4, 2).await?;
    test.say("setCanaryScale has given the canary a pod more than its weight needs");
    // Stable could take everything back at any moment: it keeps what it had when the rollout began.
    scale(test, "scaled", 1).await?;
    paused(test, "scaled", 3, 2, 2).await?;
    scale(test, "scaled", 3).await?;
    paused(test, "scaled", 3, 3, 2).await?;
    sluice(&test.space, &["promote", "scaled"]).await?.expect(0, "done")?;
    app.space.until_healthy("scaled", "sluice.dev/app:v2", seconds(90)).await?;
    test.stop(load).await?.ensure_no_failures()?;
    let pods = test.space.pods("app=scaled").await?;
    let serving = pods.values().filter(|pod| pod.ready && !pod.deleting).count();
    ensure!(serving == 3, "3 pods are wanted, there are {pods:?}");
    test.say("promoted with the 3 pods that are wanted now");
    Ok(())
}

/// `kubectl scale`, as people do.
async fn scale(test: &Test, name: &str, replicas: usize) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    command("kubectl", ["scale", &format!("rollouts.sluice.dev/{name}"), &replicas, "--namespace", &test.space.name]).await.map(drop)
}

fn budget(name: &str, mut spec: Value) -> Value {
    spec["selector"] = json!({"matchLabels": {"app": name}});
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec})
}

async fn restarted(test: &Test) -> Result<()> {
    const NAME: &str = "restarted";
    let mut app = test.app(NAME)?;
    app.pace(2, 3, 5, 100);
    app.without_analysis()?;
    app.deploy(3).await?;
    app.roll().await?;
    let load = app.load(40)?;
    let set = test
        .space
        .list("ReplicaSet")
        .await?
        .into_iter()
        .find(|set| set["spec"]["selector"]["matchLabels"]["app"] == NAME && set["status"]["readyReplicas"] == 3);
    let set = set.and_then(|set| set["metadata"]["name"].as_str().map(str::to_owned)).context("no ReplicaSet with 3 pods")?;
    let timeline = Timeline::start(&test.space, "ReplicaSet", &set);

    let before = test.space.pods("app=restarted").await?;
    test.space.apply(&budget(NAME, json!({"minAvailable": 3}))).await?;
    sluice(&test.space, &["restart", NAME]).await?.expect(0, "done")?;
    let after = all_replaced(test, &before).await?;
    test.say("restarted, with a PodDisruptionBudget that allows no pod fewer");

    test.space.remove("PodDisruptionBudget", NAME, PropagationPolicy::Background).await?;
    test.space.apply(&budget(NAME, json!({"maxUnavailable": 0}))).await?;
    sluice(&test.space, &["restart", NAME]).await?.expect(0, "done")?;
    let waits = |status: &RolloutStatus| status.message.contains("as soon as its PodDisruptionBudgets allow it");
    let status = test.space.until(NAME, "it waits for the PodDisruptionBudget", seconds(30), waits).await?;
    holds_for("no pod is evicted against the PodDisruptionBudget", seconds(8), async || {
        let pods = test.space.pods("app=restarted").await?;
        Ok(when(after.keys().all(|uid| pods.get(uid).is_some_and(|pod| !pod.deleting)), || format!("{pods:?}")))
    })
    .await?;
    test.say(format!("held by a PodDisruptionBudget: {}", status.message));
    test.space.remove("PodDisruptionBudget", NAME, PropagationPolicy::Background).await?;
    let before = all_replaced(test, &after).await?;

    // The API server tells the time of a pod to the second.
    let at = Timestamp::from_second((Timestamp::now() + SignedDuration::from_secs(5)).as_second())?;
    app.rollout["spec"]["restartAt"] = json!(at.to_string());
    app.space.apply(&app.rollout).await?;
    let early = wait_for("the first pod goes", seconds(30), async || {
        let pods = test.space.pods("app=restarted").await?;
        let going = before.keys().any(|uid| pods.get(uid).is_none_or(|pod| pod.deleting));
        Ok(if going { Seen::Done(Timestamp::now() < at) } else { Seen::NotYet(format!("{pods:?}")) })
    });
    ensure!(!early.await?, "a pod went before spec.restartAt");
    all_replaced(test, &before).await?;
    test.say("restarted by spec.restartAt");
    test.stop(load).await?.ensure_no_failures()?;

    let ready = |set: &Value| set["status"]["readyReplicas"].as_i64().unwrap_or(0);
    let versions = timeline.versions();
    let fewest = versions.iter().map(|(_, set)| ready(set)).min().context("no version of the ReplicaSet was seen")?;
    ensure!(fewest >= 3, "there were only {fewest} ready pods in between");
    test.say(format!("never fewer than 3 ready pods in {} versions of the ReplicaSet", versions.len()));
    Ok(())
}

/// Waits until none of these pods is there any more, three others are, and the Rollout is at rest; never fewer than three are ready.
async fn all_replaced(test: &Test, before: &BTreeMap<String, PodFacts>) -> Result<BTreeMap<String, PodFacts>> {
    wait_for("every pod is another one", seconds(90), async || {
        let pods = test.space.pods("app=restarted").await?;
        let ready = pods.values().filter(|pod| pod.ready && !pod.deleting).count();
        ensure!(ready >= 3, "only {ready} pods are ready: {pods:?}");
        let status = test.space.status("restarted").await?;
        let replaced = pods.len() == 3 && pods.keys().all(|uid| !before.contains_key(uid));
        let so = replaced && status.phase == Some(Phase::Healthy) && status.restart_requested_at.is_none();
        Ok(if so { Seen::Done(pods) } else { Seen::NotYet(format!("{}; {pods:?}", in_words(&status))) })
    })
    .await
}

/// Without `traffic`, the share of the requests is that of the pods. The route points at the Service that selects all of them.
async fn by_count(test: &Test) -> Result<()> {
    let mut app: App = test.app("counted")?;
    app.pace(2, 3, 4, 20);
    let spec = app.rollout["spec"].as_object_mut().context("spec")?;
    spec.remove("traffic");
    spec["strategy"]["canary"]["analysis"]["metrics"] =
        json!([{"name": "success-rate", "preset": "pods/success-rate", "scrape": {}, "min": 99, "interval": "4s", "minSamples": 20}]);
    app.steps(json!([{"setWeight": 25}, {"pause": {}}, {"setWeight": 50}, {"pause": {"duration": "1s"}}]));
    app.deploy(3).await?;
    app.roll().await?;
    let v1 = test.space.status("counted").await?.stable_revision;
    let load = app.load(60)?;
    app.release("v2", &[]).await?;
    paused(test, "counted", 1, 3, 1).await?;
    sluice(&test.space, &["promote", "counted"]).await?.expect(0, "done")?;
    let status = app.space.until_healthy("counted", "sluice.dev/app:v2", seconds(90)).await?;
    let pods = test.space.pods("app=counted").await?;
    let serving = pods.values().filter(|pod| pod.ready && !pod.deleting && Some(&pod.hash) == status.stable_revision.as_ref()).count();
    ensure!(serving == 3 && status.stable_revision != v1, "3 pods of v2 are wanted, there are {pods:?}");
    test.stop(load).await?.ensure_no_failures()?;
    test.say("a canary without traffic is promoted");

    let load = app.load(60)?;
    app.release("v3", &[("FAILURE_RATE", "0.3")]).await?;
    let aborted = |status: &RolloutStatus| status.phase == Some(Phase::Aborted);
    let taken_back = test.space.until("counted", "v3 is taken back", seconds(60), aborted).await?;
    wait_for("v3 has no pods", seconds(30), async || {
        let pods = test.space.pods("app=counted").await?;
        Ok(when(pods.len() == 3 && pods.values().all(|pod| Some(&pod.hash) == status.stable_revision.as_ref()), || format!("{pods:?}")))
    })
    .await?;
    let records = test.stop(load).await?;
    let other = records.failures().find(|record| record.version != "v3");
    ensure!(other.is_none(), "a request failed that v3 has not answered: {}", other.map(ToString::to_string).unwrap_or_default());
    let outcomes: Vec<RolloutOutcome> = taken_back.history.iter().map(|entry| entry.outcome).collect();
    ensure!(outcomes == [RolloutOutcome::Promoted, RolloutOutcome::Aborted], "the history says {:?}", taken_back.history);
    test.say(format!("a bad one is taken back after {} failed requests: {}", records.failures().count(), taken_back.message));
    Ok(())
}
